// A reply while it is being written. Finished blocks are rendered once; the open block is plain
// text that only grows.

import { el, setChildren, throttleToFrame } from "../dom.js";
import { BlockSplitter } from "./block-splitter.js";
import { render, renderNow } from "./markdown.js";
import { applyToolFrame, createReasoning, renderToolCall } from "./parts.js";

/** Matches a link reference definition. */
const REFERENCE = /^ {0,3}\[[^\]]+\]:/m;

/** Silence after which the waiting dots appear again. */
const SILENCE_MS = 2000;

export class LiveReply {
  element = el("li.message.assistant", { "aria-busy": "true" });
  /** @type {string | null} Unknown until the first frame. */
  id = null;
  /** @type {string | null | undefined} Unknown until the first frame. */
  turnId = null;
  text = "";
  #splitter = new BlockSplitter();
  #body = el("div.body.prose");
  /** Reasoning and tool calls, which precede the text. */
  #preamble = el("div");
  #waitingDots = el("div.waiting-dots", { role: "img", "aria-label": "Waiting for the reply" }, el("i"), el("i"), el("i"));
  #connectionNote = el("div.status-box", { hidden: true });
  /** @type {{ element: HTMLElement, text: Text, isCode: boolean } | null} */
  #openBlock = null;
  /** @type {ReturnType<typeof createReasoning> | null} */
  #reasoning = null;
  /** Text that arrived since the last frame was drawn. */
  #pendingText = "";
  /** @type {Map<string, { part: ToolPart, element: HTMLDetailsElement }>} */
  #toolCalls = new Map();
  /** @type {Promise<unknown>[]} */
  #rendering = [];
  #isFinished = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #silenceTimer;
  #scheduleFlush;

  /** @param {ChatView} chat */
  constructor(chat) {
    this.chat = chat;
    this.element.append(el("span.sr-only", {}, "Assistant:"), this.#preamble, this.#body, this.#waitingDots, this.#connectionNote);
    this.#scheduleFlush = throttleToFrame(() => chat.keepPosition(() => this.#flush()));
  }

  /** @param {TurnFrame} frame */
  handleFrame(frame) {
    switch (frame.type) {
      case "start":
        this.id = frame.messageId;
        this.turnId = frame.messageMetadata?.turnId;
        this.element.dataset.id = this.id;
        break;
      case "text-delta":
        this.#resetSilenceTimer();
        this.text += frame.delta;
        this.#pendingText += frame.delta;
        this.#scheduleFlush();
        break;
      case "reasoning-start":
        this.#reasoning = createReasoning("", true);
        this.#preamble.append(this.#reasoning.element);
        break;
      case "reasoning-delta":
        this.#reasoning?.text.append(frame.delta);
        break;
      case "reasoning-end":
        this.#reasoning?.finish();
        break;
      case "tool-input-start":
      case "tool-input-delta":
      case "tool-input-available":
      case "tool-input-error":
      case "tool-output-available":
      case "tool-output-error":
      case "tool-output-denied":
        this.#showToolCall(frame);
        break;
    }
  }

  /** @param {boolean} isConnected */
  setConnected(isConnected) {
    this.#connectionNote.hidden = isConnected;
    if (!isConnected) setChildren(this.#connectionNote, el("span.spinner"), "Connection lost. Reconnecting…");
  }

  /**
   * Returns the text received so far as a message, or `null` if there is none.
   *
   * @returns {Message | null}
   */
  get message() {
    if (!this.text) return null;
    return { id: this.id ?? "", role: "assistant", content: this.text, createdAt: new Date().toISOString(), isPending: true };
  }

  /** @returns {Promise<FinishedReply>} */
  async finish() {
    this.chat.keepPosition(() => {
      this.#flush();
      this.#isFinished = true;
      clearTimeout(this.#silenceTimer);
      this.#waitingDots.remove();
      this.#connectionNote.hidden = true;
      if (this.#splitter.openBlock.trim() !== "") this.#finishBlock(this.#splitter.openBlock);
      this.#openBlock?.element.remove();
    });
    await Promise.all(this.#rendering);
    // A reference at the end may define links of earlier blocks, which were rendered without it.
    const elements = REFERENCE.test(this.text) ? await render(this.text) : null;
    if (elements) this.chat.keepPosition(() => setChildren(this.#body, elements));
    this.element.removeAttribute("aria-busy");
    return { text: this.text, body: this.#body, preamble: this.#preamble };
  }

  /** Hides the waiting dots until the reply has been silent for a while. */
  #resetSilenceTimer() {
    this.#waitingDots.hidden = true;
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => this.chat.keepPosition(() => (this.#waitingDots.hidden = false)), SILENCE_MS);
  }

  #flush() {
    if (this.#isFinished) return;
    const text = this.#pendingText;
    this.#pendingText = "";
    const finished = this.#splitter.push(text);
    finished.forEach((block) => this.#finishBlock(block));
    this.#showOpenBlock(finished.length > 0 ? null : text);
  }

  /**
   * Replaces the open block with the rendered block. It stays plain text until the server has
   * rendered it.
   *
   * @param {string} block
   */
  #finishBlock(block) {
    const openBlock = this.#openBlock ?? this.#createOpenBlock(block);
    this.#openBlock = null;
    const show = (/** @type {Node[]} */ elements) => openBlock.element.replaceWith(el("div.block", {}, elements));
    const elements = renderNow(block);
    if (elements) return show(elements);
    showText(openBlock, block);
    this.#rendering.push(render(block).then((rendered) => rendered && this.chat.keepPosition(() => show(rendered))));
  }

  /**
   * Shows the open block. `added` is its new text, or `null` to show all of it.
   *
   * @param {string | null} added
   */
  #showOpenBlock(added) {
    const text = this.#splitter.openBlock.replace(/^\n+/, "");
    if (text === "") return;
    const current = this.#openBlock;
    if (current && current.isCode === isCode(text)) {
      if (added === null || current.isCode) showText(current, text);
      else current.text.appendData(added);
      return;
    }
    current?.element.remove();
    showText(this.#createOpenBlock(text), text);
  }

  /** @param {string} text */
  #createOpenBlock(text) {
    const node = document.createTextNode("");
    const openBlock = { element: el(isCode(text) ? "pre.open" : "p.plain.open", {}, node), text: node, isCode: isCode(text) };
    this.#body.append(openBlock.element);
    this.#openBlock = openBlock;
    return openBlock;
  }

  /** @param {ToolFrame} frame */
  #showToolCall(frame) {
    const previous = this.#toolCalls.get(frame.toolCallId);
    const part = applyToolFrame(previous?.part, frame);
    const element = renderToolCall(part);
    element.open = previous?.element.open ?? false;
    if (previous) previous.element.replaceWith(element);
    else this.#preamble.append(element);
    this.#toolCalls.set(frame.toolCallId, { part, element });
  }
}

const isCode = (/** @type {string} */ text) => /^\s*(```|~~~)/.test(text);

/**
 * Shows the text of an open block, for code without the fences and the language.
 *
 * @param {{ text: Text, isCode: boolean }} openBlock
 * @param {string} text
 */
function showText(openBlock, text) {
  const code = () => text.replace(/^\s*(`{3,}|~{3,})[^\n]*\n?/, "").replace(/\n(`{3,}|~{3,})\s*$/, "\n");
  openBlock.text.data = openBlock.isCode ? code() : text.replace(/^\n+/, "");
}

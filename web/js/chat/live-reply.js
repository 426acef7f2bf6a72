// A reply while it is being written. Blocks that are finished are rendered once each; the open one is
// text, to which is only ever added.

import { el, fill, oncePerFrame } from "../dom.js";
import { Blocks } from "./block-splitter.js";
import { rendered, shownAtOnce } from "./markdown.js";
import { reasoning, toolCall, toolPart } from "./parts.js";

const REFERENCES = /^ {0,3}\[[^\]]+\]:/m;

/** Silence after which it is shown that more will come. */
const SILENCE = 2000;

export class LiveReply {
  element = el("li.message.assistant", { "aria-busy": "true" });
  /** The reply's id, once it is known. */
  id = null;
  turnId = null;
  text = "";
  #blocks = new Blocks();
  #body = el("div.body.prose");
  #thoughts = el("div");
  #dots = el("div.waiting-dots", { role: "img", "aria-label": "Waiting for the reply" }, el("i"), el("i"), el("i"));
  #note = el("div.state", { hidden: true });
  #open = null;
  #reasoning = null;
  #arrived = "";
  #tools = new Map();
  #rendering = [];
  #isWritten = false;
  #silence;
  #show;

  constructor(chat) {
    this.chat = chat;
    this.element.append(el("span.sr", {}, "Assistant:"), this.#thoughts, this.#body, this.#dots, this.#note);
    this.#show = oncePerFrame(() => chat.keep(() => this.#flush()));
  }

  frame(frame) {
    switch (frame.type) {
      case "start":
        this.id = frame.messageId;
        this.turnId = frame.messageMetadata?.turnId;
        this.element.dataset.id = this.id;
        break;
      case "text-delta":
        this.#heard();
        this.text += frame.delta;
        this.#arrived += frame.delta;
        this.#show();
        break;
      case "reasoning-start":
        this.#reasoning = reasoning("", true);
        this.#thoughts.append(this.#reasoning.element);
        break;
      case "reasoning-delta":
        this.#reasoning?.words.append(frame.delta);
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
        this.#tool(frame);
        break;
    }
  }

  /** Whether it goes on being heard. */
  link(isUp) {
    this.#note.hidden = isUp;
    if (!isUp) fill(this.#note, el("span.spinner"), "Connection lost. The reply goes on at the server; reconnecting…");
  }

  /** What was read of it, as a message; `null` if that is nothing. */
  get message() {
    if (!this.text) return null;
    return { id: this.id, role: "assistant", content: this.text, createdAt: new Date().toISOString(), isPending: true };
  }

  /** Writes the rest, and gives back what the message that it became goes on with. */
  async finish() {
    this.chat.keep(() => {
      this.#flush();
      this.#isWritten = true;
      clearTimeout(this.#silence);
      this.#dots.remove();
      this.#note.hidden = true;
      if (this.#blocks.open.trim() !== "") this.#close(this.#blocks.open);
      this.#open?.remove();
    });
    await Promise.all(this.#rendering);
    // A definition at the end changes links before it.
    const whole = REFERENCES.test(this.text) ? await rendered(this.text) : null;
    if (whole) this.chat.keep(() => fill(this.#body, whole));
    this.element.removeAttribute("aria-busy");
    return { text: this.text, body: this.#body, before: this.#thoughts };
  }

  /** The dots go, until it is silent again. */
  #heard() {
    this.#dots.hidden = true;
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.chat.keep(() => (this.#dots.hidden = false)), SILENCE);
  }

  #flush() {
    if (this.#isWritten) return;
    const arrived = this.#arrived;
    this.#arrived = "";
    const finished = this.#blocks.push(arrived);
    finished.forEach((block) => this.#close(block));
    this.#write(finished.length > 0 ? null : arrived);
  }

  /** A block that is finished stands as text until it is rendered. */
  #close(block) {
    const place = this.#open ?? this.#newOpen(block);
    this.#open = null;
    const show = (elements) => place.replaceWith(el("div.block", {}, elements));
    const known = shownAtOnce(block);
    if (known) return show(known);
    setText(place, block);
    this.#rendering.push(rendered(block).then((elements) => elements && this.chat.keep(() => show(elements))));
  }

  /** Shows the open block: `added` is what is new of it, `null` all. */
  #write(added) {
    const text = this.#blocks.open;
    const visible = text.replace(/^\n+/, "");
    if (visible === "") return;
    if (!this.#open || this.#open.isCode !== isCode(visible)) {
      this.#open?.remove();
      this.#newOpen(visible);
      added = null;
    }
    if (added === null || this.#open.isCode) setText(this.#open, visible);
    else this.#open.lastChild.appendData(added);
  }

  #newOpen(text) {
    this.#open = el(isCode(text) ? "pre.open" : "p.plain.open", {}, document.createTextNode(""));
    this.#open.isCode = isCode(text);
    this.#body.append(this.#open);
    return this.#open;
  }

  #tool(frame) {
    const before = this.#tools.get(frame.toolCallId);
    const part = toolPart(before?.part, frame);
    const element = toolCall(part);
    element.open = before?.element.open ?? false;
    if (before) before.element.replaceWith(element);
    else this.#thoughts.append(element);
    this.#tools.set(frame.toolCallId, { part, element });
  }
}

const isCode = (text) => /^\s*(```|~~~)/.test(text);

/** The fence and the language are no code. */
function setText(element, text) {
  const shown = element.isCode ? text.replace(/^\s*(`{3,}|~{3,})[^\n]*\n?/, "").replace(/\n(`{3,}|~{3,})\s*$/, "\n") : text.replace(/^\n+/, "");
  if (element.firstChild) element.firstChild.data = shown;
  else element.append(shown);
}

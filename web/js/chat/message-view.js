// A message in the thread: sender, text, attachments, status, and the actions on it.

import { createIconButton, el, setChildren } from "../dom.js";
import { capitalize, formatCost, formatDuration, formatFullTime, formatNumber, formatTime } from "../format.js";
import { showToast } from "../toast.js";
import { copyText, render, renderNow } from "./markdown.js";
import { createReasoning, isToolCall, renderAttachments, renderToolCall } from "./parts.js";

/** @type {Record<string, string>} */
const STATUS_TEXTS = {
  interrupted: "The reply was interrupted. The text so far is kept.",
  failed: "The reply failed.",
};

/** Selectors of the parts that the reader can expand. */
const EXPANDABLE = [".reasoning", ".tool-call"];

export class MessageView {
  element = el("li.message");
  body = el("div.body.prose");
  /** Reasoning, tool calls and attachments, which precede the text. */
  #preamble;
  #status = el("div");
  #tools = el("div.tools");
  #sender = el("div.sender");
  /** @type {string | null} */
  #shownText = null;

  /**
   * @param {Message} message
   * @param {ChatView} chat
   * @param {FinishedReply} [reply] the message as it was shown while it was being written
   */
  constructor(message, chat, reply) {
    this.chat = chat;
    this.message = message;
    this.#preamble = reply?.preamble ?? el("div");
    if (reply?.text === message.content) {
      this.#shownText = reply.text;
      this.body.append(...reply.body.childNodes);
    }
    this.element.append(this.#sender, this.#preamble, this.body, this.#status, this.#tools);
    this.#render();
  }

  get id() {
    return this.message.id;
  }

  /** @param {Message} message */
  update(message) {
    const isUnchanged = JSON.stringify(this.message) === JSON.stringify(message);
    this.message = message;
    if (!isUnchanged) this.#render();
  }


  flash() {
    this.element.classList.add("flash");
    setTimeout(() => this.element.classList.remove("flash"), 2000);
  }

  /**
   * @param {string} text
   * @param {() => void} retry
   * @param {() => void} edit
   */
  showUnsent(text, retry, edit) {
    this.#status.hidden = false;
    this.#status.className = "status-box failed";
    const retryButton = el("button.button.small", { type: "button", onclick: retry }, "Send again");
    const editButton = el("button.button.small", { type: "button", onclick: edit }, "Edit");
    setChildren(this.#status, el("span", {}, text), retryButton, editButton);
  }

  #render() {
    const { message } = this;
    const isFromOther = message.role === "user" && message.senderId && message.senderId !== this.chat.userId;
    this.element.className = `message ${message.role}${message.isPending ? " pending" : ""}${isFromOther ? " from-other" : ""}`;
    this.element.dataset.id = message.id;
    this.#renderSender();
    this.#renderText();
    this.#renderPreamble();
    this.#renderStatus();
    this.#renderTools();
  }

  #renderSender() {
    const { role, senderId } = this.message;
    const isMine = role === "user" && (!senderId || senderId === this.chat.userId);
    const isModel = role === "assistant" && (!senderId || senderId === "assistant");
    const label = isMine ? "You" : isModel ? "Assistant" : this.#getSenderName();
    setChildren(this.#sender, isMine || isModel ? el("span.sr-only", {}, `${label}:`) : label);
    this.#sender.classList.toggle("sr-only", isMine || isModel);
  }


  #getSenderName() {
    const { role, senderId } = this.message;
    if (role === "assistant" && senderId === this.chat.userId) return "You, as the assistant";
    return { user: senderId, assistant: senderId, system: "System", tool: "Tool" }[role];
  }

  #renderText() {
    const text = this.message.content;
    if (text === this.#shownText) return;
    this.#shownText = text;
    this.body.hidden = text === "";
    const elements = renderNow(text);
    if (elements) {
      setChildren(this.body, elements);
      return;
    }
    setChildren(this.body, el("p.plain", {}, text));
    render(text).then((rendered) => {
      if (rendered && this.#shownText === text) this.chat.keepPosition(() => setChildren(this.body, rendered));
    });
  }

  #renderPreamble() {
    const { parts = [], role } = this.message;
    const reasoning = parts.filter(({ type }) => type === "reasoning").map(({ text = "" }) => createReasoning(text).element);
    const find = (/** @type {string} */ selector) => [.../** @type {NodeListOf<HTMLDetailsElement>} */ (this.#preamble.querySelectorAll(selector))];
    const wasOpen = EXPANDABLE.map((selector) => find(selector).map(({ open }) => open));
    setChildren(this.#preamble, role === "assistant" ? reasoning : [], parts.filter(isToolCall).map(renderToolCall), renderAttachments(parts));
    // Details that the reader has expanded stay expanded.
    EXPANDABLE.forEach((selector, kind) => find(selector).forEach((details, index) => (details.open = Boolean(wasOpen[kind][index]))));
    this.#preamble.hidden = !this.#preamble.firstChild;
  }

  #renderStatus() {
    const { status, error, role } = this.message;
    const isComplete = role !== "assistant" || !status || status === "complete";
    this.#status.hidden = isComplete;
    if (isComplete) return;
    this.#status.className = status === "failed" ? "status-box failed" : "status-box";
    const retry = el("button.button.small", { type: "button", onclick: () => this.chat.regenerate(this.id) }, "Try again");
    setChildren(this.#status, el("span", {}, capitalize(error?.message ?? STATUS_TEXTS[status] ?? status)), retry);
  }

  #renderTools() {
    const { role, isPending, content, createdAt } = this.message;
    this.#tools.hidden = Boolean(isPending);
    if (isPending) return;
    const small = { small: true };
    const { canEdit } = this.chat;
    setChildren(
      this.#tools,
      this.#renderVersions(),
      content && createIconButton("copy", "Copy", () => this.#copy(), small),
      canEdit && role === "user" && createIconButton("pencil", "Edit", () => this.chat.edit(this.message), small),
      canEdit && role === "assistant" && createIconButton("redo", "Regenerate", () => this.chat.regenerate(this.id), small),
      canEdit && createIconButton("fork", "Branch into a new chat", () => this.chat.fork(this.id), small),
      el("time.time", { dateTime: createdAt, title: formatFullTime(createdAt) }, formatTime(createdAt)),
      this.#renderUsage(),
      this.#renderSeen(),
    );
  }


  #renderVersions() {
    const { siblingIds = [], siblingCount = 0, siblingIndex = 0, id } = this.message;
    if (siblingCount < 2) return null;
    // Of many siblings only the nearest ones are listed. They include the ones before and after.
    const current = siblingIds.indexOf(id);
    const createStep = (/** @type {string} */ icon, /** @type {string} */ label, /** @type {number} */ target) =>
      createIconButton(icon, label, () => this.chat.switchTo(siblingIds[target]), { small: true, disabled: target < 0 || target >= siblingIds.length });
    const position = el("span", { "aria-label": `Version ${siblingIndex + 1} of ${siblingCount}`, role: "img" }, `${siblingIndex + 1}/${siblingCount}`);
    return el("span.branches", {}, createStep("left", "Earlier version", current - 1), position, createStep("right", "Later version", current + 1));
  }

  #renderUsage() {
    const { usage, model } = this.message;
    const facts = [];
    if (model) facts.push(model);
    if (usage?.completionTokens) facts.push(`${usage.estimated ? "≈ " : ""}${formatNumber(usage.completionTokens)} tokens`);
    if (usage?.cost !== undefined) facts.push(`cost ${formatCost(usage.cost)}`);
    if (usage?.firstTokenMs !== undefined) facts.push(`first token after ${formatDuration(usage.firstTokenMs)}`);
    if (facts.length === 0) return null;
    const title = usage ? `Prompt: ${formatNumber(usage.promptTokens)} tokens, ${formatNumber(usage.cachedTokens)} of them cached` : "";
    return el("span.usage", { title }, facts.join(" · "));
  }

  #renderSeen() {
    const { seen, role, senderId } = this.message;
    const isMine = role === "user" && senderId === this.chat.userId;
    return seen && isMine && el("span.usage", { title: "Read by another participant" }, "Seen");
  }

  async #copy() {
    showToast((await copyText(this.message.content)) ? "Copied" : "Couldn’t copy", null, 1500);
  }
}

// One message as it is shown: text, attachments, how it ended, and what can be done with it.

import { el, fill, iconButton } from "../dom.js";
import { duration, exactly, money, number, sentence, when } from "../format.js";
import { toast } from "../toast.js";
import { copyText, rendered, shownAtOnce } from "./markdown.js";
import { attachments, isToolCall, reasoning, toolCall } from "./parts.js";

const ENDED = {
  interrupted: "The reply was cut short. What was said is kept.",
  failed: "The reply failed.",
};

const OPENED = [".reasoning", ".tool-call"];

export class MessageView {
  element = el("li.message");
  body = el("div.body.prose");
  #before;
  #state = el("div");
  #tools = el("div.tools");
  #speaker = el("div.speaker");
  #shown = null;

  /** `chat` does what the buttons ask for; `written` is a reply as it was shown till now. */
  constructor(message, chat, written) {
    this.chat = chat;
    this.#before = written?.before ?? el("div");
    if (written?.text === message.content) {
      this.#shown = written.text;
      this.body.append(...written.body.childNodes);
    }
    this.element.append(this.#speaker, this.#before, this.body, this.#state, this.#tools);
    this.update(message);
  }

  get id() {
    return this.message.id;
  }

  update(message) {
    const old = this.message;
    this.message = message;
    if (old && JSON.stringify(old) === JSON.stringify(message)) return;
    const isOthers = message.role === "user" && message.senderId && message.senderId !== this.chat.me;
    this.element.className = `message ${message.role}${message.isPending ? " pending" : ""}${isOthers ? " others" : ""}`;
    this.element.dataset.id = message.id;
    this.#showSpeaker();
    this.#showText();
    this.#showParts();
    this.#showState();
    this.#showTools();
  }

  /** The message that was searched for. */
  flash() {
    this.element.classList.add("flash");
    setTimeout(() => this.element.classList.remove("flash"), 2000);
  }

  #showSpeaker() {
    const { role, senderId } = this.message;
    const isMe = role === "user" && (!senderId || senderId === this.chat.me);
    const isModel = role === "assistant" && (!senderId || senderId === "assistant");
    const name = role === "user" || (role === "assistant" && !isModel) ? senderId : { system: "System", tool: "Tool" }[role];
    const isInItsPlace = role === "assistant" && senderId === this.chat.me;
    const label = isMe ? "You" : isModel ? "Assistant" : isInItsPlace ? "You, in the model’s place" : name;
    fill(this.#speaker, isMe || isModel ? el("span.sr", {}, `${label}:`) : label);
    this.#speaker.classList.toggle("sr", isMe || isModel);
  }

  #showText() {
    const text = this.message.content;
    if (text === this.#shown) return;
    this.#shown = text;
    this.body.hidden = text === "";
    const known = shownAtOnce(text);
    if (known) return void fill(this.body, known);
    fill(this.body, el("p.plain", {}, text));
    rendered(text).then((elements) => {
      if (elements && this.#shown === text) this.chat.keep(() => fill(this.body, elements));
    });
  }

  #showParts() {
    const { parts = [], role } = this.message;
    const thoughts = parts.filter(({ type }) => type === "reasoning").map(({ text }) => reasoning(text).element);
    const opened = OPENED.map((kind) => [...this.#before.querySelectorAll(kind)].map(({ open }) => open));
    fill(this.#before, role === "assistant" ? thoughts : [], parts.filter(isToolCall).map(toolCall), attachments(parts));
    // What the reader has opened stays open.
    OPENED.forEach((kind, i) => this.#before.querySelectorAll(kind).forEach((each, j) => (each.open = Boolean(opened[i][j]))));
    this.#before.hidden = !this.#before.firstChild;
  }

  #showState() {
    const { status, error, role } = this.message;
    const ended = role === "assistant" && status && status !== "complete";
    this.#state.hidden = !ended;
    if (!ended) return;
    this.#state.className = status === "failed" ? "state failed" : "state";
    const again = el("button.button.small", { type: "button", onclick: () => this.chat.regenerate(this.id) }, "Try again");
    fill(this.#state, el("span", {}, sentence(error?.message ?? ENDED[status] ?? status)), again);
  }

  /** Says that it could not be sent: `retry` sends it again, `edit` gives it back. */
  showUnsent(text, retry, edit) {
    this.#state.hidden = false;
    this.#state.className = "state failed";
    fill(this.#state, el("span", {}, text), el("button.button.small", { type: "button", onclick: retry }, "Send again"), el("button.button.small", { type: "button", onclick: edit }, "Edit"));
  }

  #showTools() {
    const { role, isPending, content } = this.message;
    this.#tools.hidden = Boolean(isPending);
    if (isPending) return;
    const small = { small: true };
    const canChange = this.chat.canChange;
    fill(
      this.#tools,
      this.#branches(),
      content && iconButton("copy", "Copy", () => this.#copy(), small),
      canChange && role === "user" && iconButton("pencil", "Edit", () => this.chat.edit(this.message), small),
      canChange && role === "assistant" && iconButton("redo", "Another reply", () => this.chat.regenerate(this.id), small),
      canChange && iconButton("fork", "Go on from here in a new chat", () => this.chat.fork(this.id), small),
      el("time.when", { dateTime: this.message.createdAt, title: exactly(this.message.createdAt) }, when(this.message.createdAt)),
      this.#figures(),
      this.#seen(),
    );
  }

  /** ‹ 2/3 › where there are other versions. */
  #branches() {
    const { siblingIds = [], id } = this.message;
    if (siblingIds.length < 2) return null;
    const at = siblingIds.indexOf(id);
    const step = (name, label, to) =>
      iconButton(name, label, () => this.chat.switchTo(siblingIds[to]), { small: true, disabled: to < 0 || to >= siblingIds.length });
    const place = el("span", { "aria-label": `Version ${at + 1} of ${siblingIds.length}` , role: "img" }, `${at + 1}/${siblingIds.length}`);
    return el("span.branches", {}, step("left", "Earlier version", at - 1), place, step("right", "Later version", at + 1));
  }

  #figures() {
    const { usage, model } = this.message;
    const told = [];
    if (model) told.push(model);
    if (usage?.completionTokens) told.push(`${usage.estimated ? "≈ " : ""}${number(usage.completionTokens)} tokens`);
    if (usage?.cost !== undefined) told.push(`cost ${money(usage.cost)}`);
    if (usage?.firstTokenMs !== undefined) told.push(`first after ${duration(usage.firstTokenMs)}`);
    if (told.length === 0) return null;
    const prompt = usage ? `Prompt: ${number(usage.promptTokens)} tokens, ${number(usage.cachedTokens)} of them cached` : "";
    return el("span.figures", { title: prompt }, told.join(" · "));
  }

  #seen() {
    const { seen, role, senderId } = this.message;
    const isMine = role === "user" && senderId === this.chat.me;
    return seen && isMine && el("span.figures", { title: "Read by somebody else" }, "Seen");
  }

  async #copy() {
    toast((await copyText(this.message.content)) ? "Copied" : "This page may not use the clipboard", null, 1500);
  }
}

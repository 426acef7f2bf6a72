// The message field: text, images and the model. It sends messages and stops replies.

import { createId } from "../api.js";
import { createIcon, createIconButton, el, setChildren } from "../dom.js";
import { showToast } from "../toast.js";
import { Draft } from "./drafts.js";

const MAX_IMAGE_BYTES = 5 << 20;
const IMAGE_TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

export class Composer {
  element = el("form.composer");
  /** The draft of the open chat. */
  draft = Draft.forChat("new.");
  #text = el("textarea", { id: "composer-text", rows: 1, "aria-label": "Message", placeholder: "Write a message", enterKeyHint: "enter" });
  #previews = el("div.attachments", { hidden: true });
  #banner = el("div.composer-banner", { hidden: true });
  #send = el("button.send", { type: "submit" });
  #model = el("select.input.model", { "aria-label": "Model", title: "Model" });
  #isRunning = false;
  /** @type {Child[]} */
  #bannerContent = [];
  /** @type {string | null} */
  #modelNames = null;

  /** @param {ComposerHandlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    const onchange = () => this.addFiles([...(input.files ?? [])]).then(() => (input.value = ""));
    /** @type {HTMLInputElement} */
    const input = el("input", { type: "file", accept: IMAGE_TYPES.join(","), multiple: true, hidden: true, tabIndex: -1, "aria-label": "Images", onchange });
    const attach = createIconButton("clip", "Attach images", () => input.click());
    const footer = el("div.composer-footer", {}, attach, input, this.#model, el("span.spacer"), this.#send);
    this.element.append(this.#banner, this.#previews, this.#text, footer);
    this.element.addEventListener("submit", (event) => this.#submit(event));
    this.#text.addEventListener("keydown", (event) => this.#handleKey(event));
    this.#text.addEventListener("input", () => this.#handleInput());
    this.#text.addEventListener("paste", (event) => this.#handlePaste(event));
    this.#model.addEventListener("change", () => handlers.chooseModel(this.#model.value));
    // By the second click of a double click, "Send" has become "Stop".
    this.#send.addEventListener("click", (event) => event.detail > 1 && event.preventDefault());
    this.#updateSendButton();
  }

  focus() {
    // On a phone the focus would open the keyboard over the chat.
    if (matchMedia("(hover: hover)").matches) this.#text.focus();
  }

  /** @param {string} chat */
  open(chat) {
    this.draft = Draft.forChat(chat);
    this.restoreUnsent(this.draft);
  }

  /**
   * Puts unsent messages back into a draft, and shows it if it is the open one.
   *
   * @param {Draft} draft
   * @param {UnsentMessage[]} [messages]
   */
  restoreUnsent(draft, messages) {
    draft.restoreUnsent(messages);
    if (draft === this.draft) this.#render();
  }

  /** @param {string} text */
  suggest(text) {
    if (this.draft.text === "") this.draft.text = text;
    this.#render();
    this.#text.focus();
  }

  /** @param {boolean} isRunning while a reply is running, an empty field offers "Stop" */
  set isRunning(isRunning) {
    this.#isRunning = isRunning;
    this.#updateSendButton();
  }

  /**
   * @param {Model[]} models
   * @param {string | null | undefined} chosen
   * @param {string | undefined} defaultId
   * @param {boolean | undefined} canChoose
   */
  setModels(models, chosen, defaultId, canChoose) {
    const isKnown = !chosen || models.some(({ id }) => id === chosen);
    const options = isKnown ? models : [{ id: chosen }, ...models];
    const names = options.map(({ id }) => id);
    // Replacing the options would close an open list.
    if (names.join("\n") !== this.#modelNames) setChildren(this.#model, names.map((id) => el("option", { value: id }, id)));
    this.#modelNames = names.join("\n");
    this.#model.value = chosen || defaultId || "";
    this.#model.hidden = options.length === 0;
    this.#model.disabled = !canChoose;
  }

  /** @param {...Child} children */
  showBanner(...children) {
    this.#bannerContent = children;
    this.#renderBanner();
  }

  /** @param {Message} message */
  edit({ id, parentId, content, parts = [] }) {
    const images = /** @type {ImagePart[]} */ (parts.filter(({ type }) => type === "file"));
    if (this.draft.edit?.id !== id) this.draft.edit = { id, parentId, text: content, images };
    this.#render();
    this.#text.focus();
  }

  /** @param {File[]} files */
  async addFiles(files) {
    // The user may open another chat before the files are read.
    const target = this.#target;
    for (const file of files) {
      if (!IMAGE_TYPES.includes(file.type)) showToast(`${file.name} isn’t a supported image (PNG, JPEG, GIF, WebP)`);
      else if (file.size > MAX_IMAGE_BYTES) showToast(`${file.name} is larger than 5 MiB`);
      else target.images = [...target.images, { type: "file", mediaType: file.type, filename: file.name, url: await readDataUrl(file) }];
    }
    this.#renderImages();
  }

  /** The shown text: the edit or, without one, the draft itself. */
  get #target() {
    return this.draft.edit ?? this.draft;
  }

  get #isEmpty() {
    return this.#text.value.trim() === "" && this.#target.images.length === 0;
  }

  /** @param {SubmitEvent} event */
  #submit(event) {
    event.preventDefault();
    if (this.#isEmpty) {
      if (this.#isRunning) this.handlers.stop();
      return;
    }
    const { edit } = this.draft;
    const message = {
      clientMessageId: createId(),
      text: this.#text.value.trim(),
      images: this.#target.images,
      edit: edit && { id: edit.id, parentId: edit.parentId },
    };
    if (edit) this.draft.edit = null;
    else Object.assign(this.draft, { text: "", images: [] });
    this.#render();
    this.handlers.send(message);
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    if (event.isComposing) return;
    if (event.key === "Escape" && this.draft.edit) this.#cancelEdit();
    else if (event.key === "Escape" && this.#isRunning) this.handlers.stop();
    const isPhone = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || isPhone) return;
    event.preventDefault();
    // Enter sends. It never stops a reply.
    if (!event.repeat && !this.#isEmpty) this.element.requestSubmit();
  }

  #cancelEdit() {
    this.draft.edit = null;
    this.draft.save();
    this.#render();
  }

  /** @param {ClipboardEvent} event */
  #handlePaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    this.addFiles(files);
  }

  #handleInput() {
    this.#target.text = this.#text.value;
    this.draft.save();
    this.#updateSendButton();
  }

  #render() {
    this.#text.value = this.#target.text;
    this.draft.save();
    this.#renderBanner();
    this.#renderImages();
  }

  #renderBanner() {
    const cancel = el("button.button.small", { type: "button", onclick: () => this.#cancelEdit() }, "Cancel");
    const note = el("span", {}, "Editing. Sending creates a new version; the old one is kept.");
    const content = this.draft.edit ? [note, cancel] : this.#bannerContent;
    this.#banner.hidden = content.length === 0;
    setChildren(this.#banner, ...content);
  }

  #renderImages() {
    const target = this.#target;
    const remove = (/** @type {ImagePart} */ image) => {
      target.images = target.images.filter((each) => each !== image);
      this.#renderImages();
    };
    const figures = target.images.map((image) =>
      el("figure", {}, el("img", { src: image.url, alt: image.filename ?? "Image" }), createIconButton("close", `Remove ${image.filename ?? "image"}`, () => remove(image))));
    setChildren(this.#previews, figures);
    this.#previews.hidden = figures.length === 0;
    this.#updateSendButton();
  }

  #updateSendButton() {
    const isEmpty = this.#isEmpty;
    const isStop = this.#isRunning && isEmpty;
    setChildren(this.#send, createIcon(isStop ? "stop" : "up"));
    this.#send.classList.toggle("stop", isStop);
    this.#send.disabled = isEmpty && !isStop;
    this.#send.title = isStop ? "Stop" : this.#isRunning ? "Queue message" : "Send";
    this.#send.setAttribute("aria-label", this.#send.title);
    if (!CSS.supports("field-sizing", "content")) {
      this.#text.style.height = "auto";
      this.#text.style.height = `${this.#text.scrollHeight}px`;
    }
  }
}

/**
 * @param {File} file
 * @returns {Promise<string>}
 */
function readDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

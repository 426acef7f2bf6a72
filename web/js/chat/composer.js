// The field to write in: text, pictures, who answers; sends, or stops what is being written.

import { newId } from "../api.js";
import { el, fill, icon, iconButton } from "../dom.js";
import { toast } from "../toast.js";
import { Draft } from "./drafts.js";

const MOST_BYTES = 5 << 20;
const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

export class Composer {
  element = el("form.composer");
  /** What is written here, of the chat that is open. */
  draft = Draft.of("new.");
  #text = el("textarea", { id: "composer-text", rows: 1, "aria-label": "Message", placeholder: "Write a message", enterKeyHint: "enter" });
  #previews = el("div.attachments", { hidden: true });
  #banner = el("div.composer-banner", { hidden: true });
  #send = el("button.send", { type: "submit" });
  #model = el("select.input.model", { "aria-label": "Model", title: "Model" });
  #isRunning = false;
  #note = [];
  #names = null;

  /** `on` has `send({key, text, pictures, edit})`, `stop()`, `model(id)`. */
  constructor(on) {
    this.on = on;
    const input = el("input", { type: "file", accept: PICTURES.join(","), multiple: true, hidden: true, tabIndex: -1, "aria-label": "Pictures", onchange: () => this.addFiles(input.files).then(() => (input.value = "")) });
    const attach = iconButton("clip", "Attach pictures", () => input.click());
    const foot = el("div.composer-foot", {}, attach, input, this.#model, el("span.spacer"), this.#send);
    this.element.append(this.#banner, this.#previews, this.#text, foot);
    this.element.addEventListener("submit", (event) => this.#submit(event));
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("paste", (event) => this.#paste(event));
    this.#model.addEventListener("change", () => on.model(this.#model.value));
    // The second click of two on "Send" is not meant for "Stop", which is there by then.
    this.#send.addEventListener("click", (event) => event.detail > 1 && event.preventDefault());
    this.#changed();
  }

  focus() {
    if (matchMedia("(hover: hover)").matches) this.#text.focus();
  }

  /** Which chat it writes into; each has its own draft. */
  open(chat) {
    this.draft = Draft.of(chat);
    this.takeBack(this.draft);
  }

  /** Gives back what could not be sent, into the field if the draft is the one that is open. */
  takeBack(draft, messages) {
    draft.takeBack(messages);
    if (draft === this.draft) this.#show();
  }

  /** Puts a suggestion into the field, where nothing is. */
  suggest(text) {
    if (this.draft.text === "") this.draft.text = text;
    this.#show();
    this.#text.focus();
  }

  set isRunning(isRunning) {
    this.#isRunning = isRunning;
    this.#changed();
  }

  setModels(models, chosen, standard, mayChoose) {
    const known = models.some(({ id }) => id === chosen) || !chosen ? models : [{ id: chosen }, ...models];
    const names = known.map(({ id }) => id);
    // A list that is open is not made anew.
    if (names.join("\n") !== this.#names) fill(this.#model, names.map((id) => el("option", { value: id }, id)));
    this.#names = names.join("\n");
    this.#model.value = chosen || standard;
    this.#model.hidden = known.length === 0;
    this.#model.disabled = !mayChoose;
  }

  /** A line above the text, with elements of its caller. */
  showBanner(...children) {
    this.#note = children;
    this.#showBanner();
  }

  /** Writes a message anew, as another version of it. */
  edit({ id, parentId, content, parts = [] }) {
    const pictures = parts.filter(({ type }) => type === "file");
    if (this.draft.edit?.id !== id) this.draft.edit = { id, parentId, text: content, pictures };
    this.#show();
    this.#text.focus();
  }

  async addFiles(files) {
    // The chat may be left before they are read.
    const at = this.#at;
    for (const file of files) {
      if (!PICTURES.includes(file.type)) toast(`${file.name} is no picture that models read`);
      else if (file.size > MOST_BYTES) toast(`${file.name} is larger than 5 MiB`);
      else at.pictures = [...at.pictures, { type: "file", mediaType: file.type, filename: file.name, url: await dataUrl(file) }];
    }
    this.#showPictures();
  }

  /** What the field shows: the message that is written anew, or the next one. */
  get #at() {
    return this.draft.edit ?? this.draft;
  }

  get #isEmpty() {
    return this.#text.value.trim() === "" && this.#at.pictures.length === 0;
  }

  #submit(event) {
    event.preventDefault();
    if (this.#isEmpty) return this.#isRunning && this.on.stop();
    const { edit } = this.draft;
    const of = edit && { id: edit.id, parentId: edit.parentId };
    const message = { key: newId(), text: this.#text.value.trim(), pictures: this.#at.pictures, edit: of };
    if (edit) this.draft.edit = null;
    else Object.assign(this.draft, { text: "", pictures: [] });
    this.#show();
    this.on.send(message);
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Escape" && this.draft.edit) this.#cancelEdit();
    else if (event.key === "Escape" && this.#isRunning) this.on.stop();
    const isPhone = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || isPhone) return;
    event.preventDefault();
    // Enter sends; it never stops.
    if (!event.repeat && !this.#isEmpty) this.element.requestSubmit();
  }

  #cancelEdit() {
    this.draft.edit = null;
    this.draft.keep();
    this.#show();
  }

  #paste(event) {
    const files = [...event.clipboardData.files];
    if (files.length === 0) return;
    event.preventDefault();
    this.addFiles(files);
  }

  #typed() {
    this.#at.text = this.#text.value;
    this.draft.keep();
    this.#changed();
  }

  #show() {
    this.#text.value = this.#at.text;
    this.draft.keep();
    this.#showBanner();
    this.#showPictures();
  }

  #showBanner() {
    const cancel = el("button.button.small", { type: "button", onclick: () => this.#cancelEdit() }, "Cancel");
    const shown = this.draft.edit ? [el("span", {}, "Editing: the chat goes on from here, what was said before is kept."), cancel] : this.#note;
    this.#banner.hidden = shown.length === 0;
    fill(this.#banner, ...shown);
  }

  #showPictures() {
    const at = this.#at;
    const without = (picture) => () => {
      at.pictures = at.pictures.filter((each) => each !== picture);
      this.#showPictures();
    };
    const figures = at.pictures.map((picture) => el("figure", {}, el("img", { src: picture.url, alt: picture.filename ?? "Picture" }), iconButton("close", `Remove ${picture.filename ?? "picture"}`, without(picture))));
    fill(this.#previews, figures);
    this.#previews.hidden = figures.length === 0;
    this.#changed();
  }

  #changed() {
    const isEmpty = this.#isEmpty;
    const isStop = this.#isRunning && isEmpty;
    fill(this.#send, icon(isStop ? "stop" : "up"));
    this.#send.classList.toggle("stop", isStop);
    this.#send.disabled = isEmpty && !isStop;
    this.#send.title = isStop ? "Stop" : this.#isRunning ? "Send when the reply is done" : "Send";
    this.#send.setAttribute("aria-label", this.#send.title);
    if (!CSS.supports("field-sizing", "content")) {
      this.#text.style.height = "auto";
      this.#text.style.height = `${this.#text.scrollHeight}px`;
    }
  }
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

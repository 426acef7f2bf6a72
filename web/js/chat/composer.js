// The field to write in: text, pictures, who answers; sends, or stops what is being written.

import { el, fill, icon, iconButton } from "../dom.js";
import { toast } from "../toast.js";

const MOST_BYTES = 5 << 20;
const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

export class Composer {
  element = el("form.composer");
  #text = el("textarea", { id: "composer-text", rows: 1, "aria-label": "Message", placeholder: "Write a message", enterKeyHint: "send" });
  #pictures = [];
  #previews = el("div.attachments", { hidden: true });
  #banner = el("div.composer-banner", { hidden: true });
  #send = el("button.send", { type: "submit" });
  #model = el("select.input.model", { "aria-label": "Model", title: "Model" });
  #isRunning = false;
  #draft = "";
  #editing = null;
  #names = null;

  /** `on` has `send({text, parts, editing})`, `stop()`, `model(id)`. */
  constructor(on) {
    this.on = on;
    const input = el("input", { type: "file", accept: PICTURES.join(","), multiple: true, hidden: true, tabIndex: -1, "aria-label": "Pictures", onchange: () => this.addFiles(input.files).then(() => (input.value = "")) });
    const attach = iconButton("clip", "Attach pictures", () => input.click());
    const foot = el("div.composer-foot", {}, attach, input, this.#model, el("span.spacer"), this.#send);
    this.element.append(this.#banner, this.#previews, this.#text, foot);
    this.element.addEventListener("submit", (event) => this.#submit(event));
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    this.#text.addEventListener("input", () => this.#changed());
    this.#text.addEventListener("paste", (event) => this.#paste(event));
    this.#model.addEventListener("change", () => on.model(this.#model.value));
    this.#changed();
  }

  focus() {
    if (matchMedia("(hover: hover)").matches) this.#text.focus();
  }

  /** Which chat it writes into; each has its own draft. */
  open(draftOf) {
    this.cancelEdit();
    this.#draft = `echoic.draft.${draftOf}`;
    this.#text.value = sessionStorage.getItem(this.#draft) ?? "";
    this.#setPictures([]);
    this.#changed();
  }

  /** The chat that was new has its id now; what is being written stays. */
  belongsTo(draftOf) {
    sessionStorage.removeItem(this.#draft);
    this.#draft = `echoic.draft.${draftOf}`;
    this.#changed();
  }

  /** Gives back what could not be sent. */
  restore(text, pictures = []) {
    if (this.#text.value === "") this.#text.value = text;
    if (this.#pictures.length === 0) this.#setPictures(pictures);
    this.#changed();
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
    this.#banner.hidden = children.length === 0;
    fill(this.#banner, ...children);
  }

  /** Writes a message anew, as another version of it. */
  edit(message) {
    this.#editing = message;
    this.#text.value = message.content;
    this.#setPictures(message.parts?.filter(({ type }) => type === "file") ?? []);
    this.showBanner(el("span", {}, "Editing: the chat goes on from here, what was said before is kept."), el("button.button.small", { type: "button", onclick: () => this.cancelEdit() }, "Cancel"));
    this.#text.focus();
    this.#changed();
  }

  cancelEdit() {
    if (!this.#editing) return;
    this.#editing = null;
    this.showBanner();
    this.#text.value = "";
    this.#setPictures([]);
    this.#changed();
  }

  async addFiles(files) {
    for (const file of files) {
      if (!PICTURES.includes(file.type)) toast(`${file.name} is no picture that models read`);
      else if (file.size > MOST_BYTES) toast(`${file.name} is larger than 5 MiB`);
      else this.#setPictures([...this.#pictures, { type: "file", mediaType: file.type, filename: file.name, url: await dataUrl(file) }]);
    }
    this.#changed();
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#text.value.trim();
    if (text === "" && this.#pictures.length === 0) {
      if (this.#isRunning) this.on.stop();
      return;
    }
    const editing = this.#editing;
    const parts = this.#pictures;
    this.#text.value = "";
    this.#setPictures([]);
    this.#editing = null;
    if (editing) this.showBanner();
    this.#changed();
    this.on.send({ text, parts, editing });
  }

  #key(event) {
    if (event.key === "Escape" && this.#editing) this.cancelEdit();
    const isPhone = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || isPhone) return;
    event.preventDefault();
    this.element.requestSubmit();
  }

  #paste(event) {
    const files = [...event.clipboardData.files];
    if (files.length === 0) return;
    event.preventDefault();
    this.addFiles(files);
  }

  #changed() {
    const isEmpty = this.#text.value.trim() === "" && this.#pictures.length === 0;
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
    if (this.#draft && !this.#editing) sessionStorage.setItem(this.#draft, this.#text.value);
  }

  #setPictures(pictures) {
    this.#pictures = pictures;
    const without = (picture) => () => {
      this.#setPictures(this.#pictures.filter((each) => each !== picture));
      this.#changed();
    };
    const figures = pictures.map((picture) => el("figure", {}, el("img", { src: picture.url, alt: picture.filename ?? "Picture" }), iconButton("close", `Remove ${picture.filename ?? "picture"}`, without(picture))));
    fill(this.#previews, figures);
    this.#previews.hidden = pictures.length === 0;
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

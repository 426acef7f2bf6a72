// One chat in the list.

import { el, fill, icon, iconButton } from "../dom.js";
import { openMenu } from "../menu.js";
import { toChat } from "../route.js";
import { dragOut } from "../transfer.js";
import { chatActions } from "./actions.js";

export class Row {
  element = el("li.chat-row");
  #title = el("span.title");
  #marks = el("span");
  #link;
  #more;

  constructor(app, session) {
    this.app = app;
    this.#link = el("a", { href: toChat(session.sessionId), ondblclick: () => this.rename(), ondragstart: (event) => this.#drag(event) }, this.#title, this.#marks);
    this.#more = iconButton("more", "More", () => this.#menu(), { small: true, "aria-haspopup": "menu", "aria-expanded": "false" });
    this.#more.classList.add("more");
    this.element.append(this.#link, this.#more);
    this.update(session);
  }

  update(session) {
    this.session = session;
    const { title, pinned, activeTurn, status } = session;
    this.#title.textContent = title;
    this.#link.title = title;
    this.#more.setAttribute("aria-label", `More about ${title}`);
    fill(
      this.#marks,
      status === "agent_assigned" && el("span.status", {}, "by hand"),
      status === "closed" && el("span.status", {}, "closed"),
    );
    this.#link.querySelectorAll(".spinner, .pin").forEach((mark) => mark.remove());
    if (activeTurn) this.#link.append(el("span.spinner", { role: "img", "aria-label": "A reply is running" }));
    else if (pinned) {
      const pin = icon("pin");
      pin.classList.add("pin");
      this.#link.append(pin);
    }
  }

  set isCurrent(isCurrent) {
    this.element.classList.toggle("current", isCurrent);
    if (isCurrent) this.#link.setAttribute("aria-current", "page");
    else this.#link.removeAttribute("aria-current");
  }

  focus() {
    this.#link.focus();
  }

  /** Writes the title in its place. */
  rename() {
    if (!this.app.owns(this.session)) return;
    const input = el("input.input.rename", { value: this.session.title, maxLength: 200, "aria-label": "Title" });
    let isDone = false;
    const end = (isKept) => {
      if (isDone) return;
      isDone = true;
      input.replaceWith(this.#link);
      this.#more.hidden = false;
      if (isKept && input.value.trim() !== this.session.title) this.app.sessions.setTitle(this.session.sessionId, input.value);
    };
    input.addEventListener("keydown", (event) => {
      // Enter may also choose a word of Chinese or Japanese.
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      end(event.key === "Enter");
      this.focus();
    });
    input.addEventListener("blur", () => end(true));
    this.#link.replaceWith(input);
    this.#more.hidden = true;
    input.focus();
    input.select();
  }

  #drag(event) {
    const { sessionId, title } = this.session;
    dragOut(event, { sessionId, format: "json" }, `${title}.json`);
  }

  #menu() {
    openMenu(this.#more, chatActions(this.app, this.session, { rename: () => this.rename() }));
  }
}

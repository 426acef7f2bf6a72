// A chat in the sidebar.

import { createIcon, createIconButton, el, setChildren } from "../dom.js";
import { openMenu } from "../menu.js";
import { chatHref } from "../route.js";
import { setDragData } from "../transfer.js";
import { getChatActions } from "./actions.js";

export class SessionRow {
  element = el("li.chat-row");
  #title = el("span.title");
  #marks = el("span");
  #link;
  #menuButton;

  /**
   * @param {App} app
   * @param {Session} session
   */
  constructor(app, session) {
    this.app = app;
    this.session = session;
    const href = chatHref(session.sessionId);
    this.#link = el("a", { href, ondblclick: () => this.rename(), ondragstart: (event) => this.#setDragData(event) }, this.#title, this.#marks);
    this.#menuButton = createIconButton("more", "More", () => this.#openMenu(), { small: true, "aria-haspopup": "menu", "aria-expanded": "false" });
    this.#menuButton.classList.add("more");
    this.element.append(this.#link, this.#menuButton);
    this.update(session);
  }

  /** @param {Session} session */
  update(session) {
    this.session = session;
    const { title, pinned, activeTurn, status } = session;
    this.#title.textContent = title;
    this.#link.title = title;
    this.#menuButton.setAttribute("aria-label", `More options for ${title}`);
    setChildren(
      this.#marks,
      status === "agent_assigned" && el("span.status", {}, "Human"),
      status === "closed" && el("span.status", {}, "Closed"),
    );
    this.#link.querySelectorAll(".spinner, .pin").forEach((mark) => mark.remove());
    if (activeTurn) this.#link.append(el("span.spinner", { role: "img", "aria-label": "A reply is running" }));
    else if (pinned) {
      const pin = createIcon("pin");
      pin.classList.add("pin");
      this.#link.append(pin);
    }
  }

  /** @param {boolean} isCurrent */
  set isCurrent(isCurrent) {
    this.element.classList.toggle("current", isCurrent);
    if (isCurrent) this.#link.setAttribute("aria-current", "page");
    else this.#link.removeAttribute("aria-current");
  }

  focus() {
    this.#link.focus();
  }


  rename() {
    if (!this.app.canManage(this.session)) return;
    const input = el("input.input.rename", { value: this.session.title, maxLength: 200, "aria-label": "Title" });
    let isDone = false;
    const end = (/** @type {boolean} */ isConfirmed) => {
      // Removing the input blurs it, which ends the renaming again.
      if (isDone) return;
      isDone = true;
      input.replaceWith(this.#link);
      this.#menuButton.hidden = false;
      if (isConfirmed && input.value.trim() !== this.session.title) this.app.sessions.saveTitle(this.session.sessionId, input.value);
    };
    input.addEventListener("keydown", (event) => {
      // While composing, Enter confirms a word of an input method.
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      end(event.key === "Enter");
      this.focus();
    });
    input.addEventListener("blur", () => end(true));
    this.#link.replaceWith(input);
    this.#menuButton.hidden = true;
    input.focus();
    input.select();
  }

  /** @param {DragEvent} event */
  #setDragData(event) {
    const { sessionId, title } = this.session;
    setDragData(event, { sessionId, format: "json" }, `${title}.json`);
  }

  #openMenu() {
    openMenu(this.#menuButton, getChatActions(this.app, this.session, { rename: () => this.rename() }));
  }
}

// The panel beside the conversation, with its tabs.

import { el, fill, iconButton } from "../dom.js";
import { attempt } from "../toast.js";

/** Each tab's name and what it is, loaded when it is first looked at. */
const TABS = {
  memory: ["Memory", async () => (await import("./memory.js")).MemoryTab],
  settings: ["Settings", async () => (await import("./settings.js")).SettingsTab],
  people: ["People", async () => (await import("./people.js")).PeopleTab],
};

export class Panel {
  button = iconButton("memory", "Memory, settings, people", () => this.toggle(), { "aria-expanded": "false", "aria-controls": "panel" });
  #body = el("div.panel-body", { id: "panel-body", role: "tabpanel", tabIndex: 0 });
  #tabs = {};
  #buttons = {};
  #chosen = "memory";
  #view = null;
  #shown = "";

  constructor(app, element) {
    this.app = app;
    this.element = element;
    const list = el("div.tabs", { role: "tablist", onkeydown: (event) => this.#key(event) });
    for (const [name, [label]] of Object.entries(TABS)) {
      this.#buttons[name] = el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel-body", onclick: () => this.choose(name) }, label);
      list.append(this.#buttons[name]);
    }
    const close = iconButton("close", "Close the panel", () => this.toggle(false));
    fill(element, el("div.bar", {}, list, close), this.#body);
    this.choose("memory");
  }

  toggle(isOpen = this.element.hidden) {
    this.element.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    this.app.cover();
    if (!isOpen) return this.button.focus();
    if (this.app.isPanelOver) this.#buttons[this.#chosen].focus();
    this.#render();
  }

  choose(name) {
    this.#chosen = name;
    for (const [each, button] of Object.entries(this.#buttons)) {
      button.setAttribute("aria-selected", String(each === name));
      button.tabIndex = each === name ? 0 : -1;
    }
    this.#body.setAttribute("aria-labelledby", `tab-${name}`);
    this.#body.scrollTop = 0;
    this.#render();
  }

  /** Another chat, or the same changed. */
  show(view) {
    const shown = [view.sessionId, view.session?.version, view.app.models.list.length, view.me].join();
    const isOther = shown !== this.#shown;
    this.#shown = shown;
    this.#view = view;
    if (isOther) this.#render();
  }

  /** Something was said. */
  refresh() {
    if (this.#chosen !== "settings") this.#render();
  }

  async #render() {
    const name = this.#chosen;
    if (this.element.hidden || !this.#view) return;
    if (!this.#tabs[name]) fill(this.#body);
    const Tab = await attempt(TABS[name][1]);
    if (!Tab || name !== this.#chosen) return;
    this.#tabs[name] ??= new Tab();
    this.#tabs[name].show(this.#body, this.#view);
  }

  #key({ key }) {
    const names = Object.keys(this.#buttons);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = names.at((names.indexOf(this.#chosen) + step) % names.length);
    this.choose(next);
    this.#buttons[next].focus();
  }
}

// The side panel of a chat, with its tabs.

import { createIconButton, el, setChildren } from "../dom.js";
import { attempt } from "../toast.js";

/**
 * Each module loads when its tab is first opened.
 *
 * @type {Record<TabName, { label: string, load: () => Promise<new () => Tab> }>}
 */
const TABS = {
  memory: { label: "Memory", load: async () => (await import("./memory.js")).MemoryTab },
  settings: { label: "Settings", load: async () => (await import("./settings.js")).SettingsTab },
  people: { label: "People", load: async () => (await import("./people.js")).PeopleTab },
};

const TAB_NAMES = /** @type {TabName[]} */ (Object.keys(TABS));

export class SidePanel {
  button = createIconButton("memory", "Memory, settings, people", () => this.toggle(), { "aria-expanded": "false", "aria-controls": "panel" });
  #body = el("div.panel-body", { id: "panel-body", role: "tabpanel", tabIndex: 0 });
  /** @type {Partial<Record<TabName, Tab>>} */
  #tabs = {};
  #buttons;
  /** @type {TabName} */
  #selected = "memory";
  /** @type {ChatView | null} */
  #chat = null;
  /** The state that the shown content depends on, to render only after a change. */
  #shownState = "";

  /**
   * @param {App} app
   * @param {HTMLElement} element
   */
  constructor(app, element) {
    this.app = app;
    this.element = element;
    const createButton = (/** @type {TabName} */ name) =>
      el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel-body", onclick: () => this.select(name) }, TABS[name].label);
    this.#buttons = { memory: createButton("memory"), settings: createButton("settings"), people: createButton("people") };
    const list = el("div.tabs", { role: "tablist", onkeydown: (event) => this.#handleKey(event) }, TAB_NAMES.map((name) => this.#buttons[name]));
    const close = createIconButton("close", "Close panel", () => this.toggle(false));
    setChildren(element, el("div.bar", {}, list, close), this.#body);
    this.select("memory");
  }

  toggle(isOpen = this.element.hidden) {
    this.element.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    this.app.updateOverlays();
    if (!isOpen) return this.button.focus();
    if (this.app.isPanelOverlay) this.#buttons[this.#selected].focus();
    this.#render();
  }

  /** @param {TabName} name */
  select(name) {
    this.#selected = name;
    for (const each of TAB_NAMES) {
      this.#buttons[each].setAttribute("aria-selected", String(each === name));
      this.#buttons[each].tabIndex = each === name ? 0 : -1;
    }
    this.#body.setAttribute("aria-labelledby", `tab-${name}`);
    this.#body.scrollTop = 0;
    this.#render();
  }

  /** @param {ChatView} chat */
  show(chat) {
    const state = [chat.sessionId, chat.session?.version, chat.app.models.list.length, chat.userId].join();
    const hasChanged = state !== this.#shownState;
    this.#shownState = state;
    this.#chat = chat;
    if (hasChanged) this.#render();
  }

  /** Shows new messages of the chat. The settings do not depend on them. */
  refresh() {
    if (this.#selected !== "settings") this.#render();
  }

  async #render() {
    const name = this.#selected;
    if (this.element.hidden || !this.#chat) return;
    if (!this.#tabs[name]) setChildren(this.#body);
    const Tab = await attempt(TABS[name].load);
    // Another tab may have been selected while the module was loading.
    if (!Tab || name !== this.#selected) return;
    const tab = this.#tabs[name] ?? new Tab();
    this.#tabs[name] = tab;
    tab.show(this.#body, this.#chat);
  }

  /** @param {KeyboardEvent} event */
  #handleKey({ key }) {
    const step = key === "ArrowRight" ? 1 : key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    const next = TAB_NAMES[(TAB_NAMES.indexOf(this.#selected) + step + TAB_NAMES.length) % TAB_NAMES.length];
    this.select(next);
    this.#buttons[next].focus();
  }
}

// Popup menus with keyboard navigation.

import { createIcon, el } from "./dom.js";

/**
 * @param {HTMLElement} button
 * @param {(MenuItem | null)[]} items `null` draws a line
 */
export function openMenu(button, items) {
  const entries = items.map((item) => (item ? createItem(item, () => menu.hidePopover()) : el("hr")));
  /** @type {HTMLElement} */
  const menu = el("div.menu", { role: "menu", popover: "auto", onkeydown: (event) => handleKey(menu, event) }, entries);
  menu.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") return;
    button.setAttribute("aria-expanded", "false");
    if (menu.contains(document.activeElement) || document.activeElement === document.body) button.focus();
    menu.remove();
  });
  document.body.append(menu);
  button.setAttribute("aria-expanded", "true");
  menu.showPopover();
  positionMenu(menu, button.getBoundingClientRect());
  menu.querySelector("button")?.focus();
}

/**
 * @param {MenuItem} item
 * @param {() => void} close
 */
function createItem({ label, icon, run, danger }, close) {
  const onclick = () => {
    close();
    run();
  };
  return el(danger ? "button.danger" : "button", { type: "button", role: "menuitem", tabIndex: -1, onclick }, createIcon(icon), label);
}

/**
 * @param {HTMLElement} menu
 * @param {DOMRect} button
 */
function positionMenu(menu, button) {
  const { width, height } = menu.getBoundingClientRect();
  const fitsBelow = button.bottom + 4 + height < innerHeight;
  menu.style.left = `${Math.max(8, Math.min(button.left, innerWidth - width - 8))}px`;
  menu.style.top = `${fitsBelow ? button.bottom + 4 : Math.max(8, button.top - height - 4)}px`;
}

/**
 * @param {HTMLElement} menu
 * @param {KeyboardEvent} event
 */
function handleKey(menu, event) {
  const entries = [...menu.querySelectorAll("button")];
  const current = entries.findIndex((entry) => entry === document.activeElement);
  /** @type {Record<string, number>} */
  const targets = { ArrowDown: current + 1, ArrowUp: current - 1, Home: 0, End: -1 };
  const target = targets[event.key];
  if (event.key === "Tab") menu.hidePopover();
  if (target === undefined) return;
  event.preventDefault();
  entries.at(target % entries.length)?.focus();
}

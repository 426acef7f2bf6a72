// Menus at a button, moved through with the arrow keys.

import { el, icon } from "./dom.js";

/** Opens a menu of `{label, icon, run, danger}`; `null` is a line between. */
export function openMenu(button, items) {
  const entries = items.map((item) => (item ? entry(item, () => menu.hidePopover()) : el("hr")));
  const menu = el("div.menu", { role: "menu", popover: "auto", onkeydown: (event) => move(menu, event) }, entries);
  menu.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") return;
    button.setAttribute("aria-expanded", "false");
    if (menu.contains(document.activeElement) || document.activeElement === document.body) button.focus();
    menu.remove();
  });
  document.body.append(menu);
  button.setAttribute("aria-expanded", "true");
  menu.showPopover();
  place(menu, button.getBoundingClientRect());
  menu.querySelector("button").focus();
}

function entry({ label, icon: name, run, danger }, close) {
  const onclick = () => {
    close();
    run();
  };
  return el(danger ? "button.danger" : "button", { type: "button", role: "menuitem", tabIndex: -1, onclick }, icon(name), label);
}

function place(menu, at) {
  const { width, height } = menu.getBoundingClientRect();
  const below = at.bottom + 4 + height < innerHeight;
  menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  menu.style.top = `${below ? at.bottom + 4 : Math.max(8, at.top - height - 4)}px`;
}

function move(menu, event) {
  const entries = [...menu.querySelectorAll("button")];
  const at = entries.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === "Tab") menu.hidePopover();
  if (to === undefined) return;
  event.preventDefault();
  entries.at(to % entries.length).focus();
}

// Questions that must be answered before anything else.

import { el } from "./dom.js";

/**
 * Shows a form; `fields` are elements. Resolves to its `FormData` when it is sent, else to `null`.
 * `check` gives what is wrong with an answer: then the form stays, and says so.
 */
export function ask(title, fields, { submit = "Save", danger = false, cancel = "Cancel", check = async () => null } = {}) {
  return new Promise((resolve) => {
    let answer = null;
    const wrong = el("p.wrong", { role: "alert", hidden: true });
    const onsubmit = async (event) => {
      event.preventDefault();
      const given = new FormData(form);
      yes.disabled = true;
      const told = await check(given);
      yes.disabled = false;
      wrong.textContent = told ?? "";
      wrong.hidden = !told;
      if (told || !dialog.open) return;
      answer = given;
      dialog.close();
    };
    const no = el("button.button", { type: "button", onclick: () => dialog.close() }, cancel);
    const yes = el(danger ? "button.button.danger" : "button.button.primary", { type: "submit" }, submit);
    const name = el("h2", { id: "dialog-title" }, title);
    const form = el("form", { onsubmit }, name, fields, wrong, el("div.dialog-actions", {}, no, yes));
    const onclose = () => {
      dialog.remove();
      resolve(answer);
    };
    const dialog = el("dialog", { "aria-labelledby": "dialog-title", onclose }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

export const confirm = async (title, text, submit) =>
  (await ask(title, [el("p", {}, text)], { submit, danger: true })) !== null;

export function field(label, control, hint) {
  control.classList.add("input");
  return el("label.field", {}, el("span", {}, label), control, hint && el("small", {}, hint));
}

// Modal dialogs with a form.

import { el } from "./dom.js";

/**
 * Shows a form. Resolves to its data, or to `null` if it is closed.
 *
 * @param {string} title
 * @param {Child[]} fields
 * @param {FormOptions} [options]
 * @returns {Promise<FormData | null>}
 */
export function openForm(title, fields, { submit = "Save", danger = false, cancel = "Cancel", check = async () => null } = {}) {
  return new Promise((resolve) => {
    /** @type {FormData | null} */
    let answer = null;
    const errorText = el("p.error", { role: "alert", hidden: true });
    const onsubmit = async (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const data = new FormData(form);
      submitButton.disabled = true;
      const error = await check(data);
      submitButton.disabled = false;
      errorText.textContent = error ?? "";
      errorText.hidden = !error;
      if (error || !dialog.open) return;
      answer = data;
      dialog.close();
    };
    const cancelButton = el("button.button", { type: "button", onclick: () => dialog.close() }, cancel);
    const submitButton = el(danger ? "button.button.danger" : "button.button.primary", { type: "submit" }, submit);
    const heading = el("h2", { id: "dialog-title" }, title);
    /** @type {HTMLFormElement} */
    const form = el("form", { onsubmit }, heading, fields, errorText, el("div.dialog-actions", {}, cancelButton, submitButton));
    const onclose = () => {
      dialog.remove();
      resolve(answer);
    };
    /** @type {HTMLDialogElement} */
    const dialog = el("dialog", { "aria-labelledby": "dialog-title", onclose }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * @param {string} title
 * @param {string} text
 * @param {string} submit
 */
export const confirmAction = async (title, text, submit) =>
  (await openForm(title, [el("p", {}, text)], { submit, danger: true })) !== null;

/**
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [hint]
 */
export function createField(label, control, hint) {
  control.classList.add("input");
  return el("label.field", {}, el("span", {}, label), control, hint && el("small", {}, hint));
}

/**
 * @param {FormData} data
 * @param {string} name
 */
export function getText(data, name) {
  const value = data.get(name);
  return typeof value === "string" ? value : "";
}

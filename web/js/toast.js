// Toasts: short notes that disappear by themselves.

import { ApiError, getErrorMessage } from "./api.js";
import { el } from "./dom.js";

const DURATION_MS = 5000;

/**
 * Shows a toast, longer while it has the pointer or the focus. Returns a function that removes it.
 *
 * @param {string} text
 * @param {ToastAction | null} [action]
 */
export function showToast(text, action, durationMs = DURATION_MS) {
  const dismiss = () => {
    clearTimeout(timer);
    element.remove();
  };
  const expire = () => {
    if (element.matches(":hover") || element.querySelector(":focus-visible")) {
      timer = setTimeout(expire, durationMs);
      return;
    }
    dismiss();
    action?.onExpire?.();
  };
  const button = action && createButton(action, dismiss);
  const element = el("div.toast", {}, el("span", {}, text), button);
  let timer = setTimeout(expire, durationMs);
  document.getElementById("toasts")?.append(element);
  if (action?.takesFocus) button?.focus();
  return dismiss;
}

/**
 * @param {ToastAction} action
 * @param {() => void} dismiss
 */
function createButton({ label, run }, dismiss) {
  const onclick = () => {
    dismiss();
    run();
  };
  return el("button", { type: "button", onclick }, label);
}

/**
 * Runs `action` and shows a toast if it fails. Resolves to `undefined` then.
 *
 * @template T
 * @param {() => T | Promise<T>} action
 * @returns {Promise<T | undefined>}
 */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    const isAbort = error instanceof DOMException && error.name === "AbortError";
    // The notice below the header already asks for a key.
    const needsKey = error instanceof ApiError && error.status === 401;
    if (!isAbort && !needsKey) showToast(getErrorMessage(error));
    return undefined;
  }
}

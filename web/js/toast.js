// Short words at the edge of the page: what was done, what failed, what can be undone.

import { el } from "./dom.js";

const SHOWN = 5000;

/**
 * Shows a text; `action` is `{label, run, otherwise, takesFocus}`: what its button does, what is done
 * when it was not pressed in time, and whether it is what the keyboard goes on with. The time is
 * longer for who points at it or stands on it with the keyboard. Gives back what takes it away.
 */
export function toast(text, action, shown = SHOWN) {
  const away = () => {
    clearTimeout(timer);
    element.remove();
  };
  const run = () => {
    away();
    action.run();
  };
  const end = () => {
    if (element.matches(":hover") || element.querySelector(":focus-visible")) return void (timer = setTimeout(end, shown));
    away();
    action?.otherwise?.();
  };
  const button = action && el("button", { type: "button", onclick: run }, action.label);
  const element = el("div.toast", {}, el("span", {}, text), button);
  let timer = setTimeout(end, shown);
  document.getElementById("toasts").append(element);
  if (action?.takesFocus) button.focus();
  return away;
}

/** Runs something, and says what went wrong with it. Gives `undefined` then. */
export async function attempt(work) {
  try {
    return await work();
  } catch (failure) {
    // The page says by itself that it wants a key.
    if (failure.name !== "AbortError" && failure.status !== 401) toast(failure.message ?? String(failure));
    return undefined;
  }
}

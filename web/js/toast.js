// Short words at the edge of the page: what was done, what failed, what can be undone.

import { el } from "./dom.js";

const SHOWN = 5000;

/** Shows a text; `action` is `{label, run}`. Gives back what takes it away. */
export function toast(text, action, shown = SHOWN) {
  const away = () => element.remove();
  const run = () => {
    away();
    action.run();
  };
  const button = action && el("button", { type: "button", onclick: run }, action.label);
  const element = el("div.toast", {}, el("span", {}, text), button);
  document.getElementById("toasts").append(element);
  setTimeout(away, shown);
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

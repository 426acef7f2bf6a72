// The field for an API key, shown when the server wants one.

import { key, onUnauthenticated, setKey } from "./api.js";
import { ask, field } from "./dialog.js";
import { el } from "./dom.js";

let asking = null;
let wasDeclined = false;

/**
 * Resolves to whether a key was entered. However many requests wait, one field is shown; who closed
 * it is asked again only by hand.
 */
export function askForKey(isByHand = false) {
  if (wasDeclined && !isByHand) return Promise.resolve(false);
  asking ??= show().finally(() => (asking = null));
  return asking;
}

async function show() {
  const input = el("input", { name: "key", type: "password", autocomplete: "off", required: true, placeholder: "ek_…", value: key() ?? "" });
  const stay = el("input", { type: "checkbox", name: "stay" });
  const fields = [
    el("p.quiet-text", {}, "This server asks who you are. Whoever runs it makes keys with “echoic keys create”."),
    field("API key", input),
    el("label", {}, stay, " Remember it in this browser"),
  ];
  const answer = await ask("Your key, please", fields, { submit: "Continue" });
  wasDeclined = !answer;
  if (!answer) return false;
  setKey(answer.get("key").trim(), answer.get("stay") !== null);
  return true;
}

onUnauthenticated(() => askForKey());

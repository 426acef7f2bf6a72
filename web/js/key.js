// The field for an API key, shown when the server wants one.

import { key, onUnauthenticated, setKey } from "./api.js";
import { ask, field } from "./dialog.js";
import { el } from "./dom.js";

let asking = null;
let wasDeclined = false;

/**
 * Resolves to whether a good key was entered. However many requests wait, one field is shown; who
 * closed it is asked again only by hand.
 */
export function askForKey(isByHand = false) {
  if (wasDeclined && !isByHand) return Promise.resolve(false);
  asking ??= show(isByHand).finally(() => (asking = null));
  return asking;
}

async function show(isByHand) {
  const had = key();
  const wanted = had ? "The key that this page has used is not valid, or not any more." : "This server asks who you are.";
  const why = isByHand ? "A key tells the server who you are." : wanted;
  const input = el("input", { name: "key", type: "password", autocomplete: "off", required: true, placeholder: "ek_…" });
  const stay = el("input", { type: "checkbox", name: "stay" });
  const fields = [
    el("p.quiet-text", {}, `${why} Whoever runs the server makes keys with “echoic keys create”.`),
    field("API key", input),
    el("label.check", {}, stay, "Remember it in this browser"),
  ];
  let owner = null;
  const check = async (answer) => {
    const found = await whose(answer.get("key").trim());
    owner = found.userId;
    return found.wrong;
  };
  const answer = await ask("Your key, please", fields, { submit: "Continue", check });
  wasDeclined = !answer;
  if (!answer && !isByHand) dispatchEvent(new Event("locked"));
  if (!answer) return false;
  setKey(answer.get("key").trim(), answer.get("stay") !== null);
  dispatchEvent(new CustomEvent("identified", { detail: owner }));
  return true;
}

/** Whose key it is, or what is `wrong` with it. */
async function whose(given) {
  try {
    const response = await fetch("/api/me", { headers: { authorization: `Bearer ${given}` }, cache: "no-store" });
    const { data, message } = await response.json();
    if (response.ok) return data;
    return { wrong: response.status === 401 ? "The server does not know this key, or it is not valid any more." : message };
  } catch {
    // Some letters cannot be sent at all, so no key has them.
    return { wrong: isSendable(given) ? "The server cannot be reached." : "No key looks like this." };
  }
}

const isSendable = (text) => /^[\x21-\x7e]+$/.test(text);

onUnauthenticated(() => askForKey());

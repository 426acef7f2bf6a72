// The field for an API key, shown when the server wants one.

import { getKeyOwner, key, onUnauthenticated, setKey } from "./api.js";
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

/** Returns the owner of a key, or what is `wrong` with the key. */
async function whose(given) {
  try {
    return await getKeyOwner(given);
  } catch ({ status, message }) {
    if (status === 401) return { wrong: "The server does not know this key, or it is not valid any more." };
    // A header cannot carry every character, and then the request fails before it is sent.
    return { wrong: status === 0 && !isSendable(given) ? "No key looks like this." : message };
  }
}

const isSendable = (text) => /^[\x21-\x7e]+$/.test(text);

onUnauthenticated(() => askForKey());

// The dialog that asks for an API key.

import { ApiError, getKey, getKeyOwner, onUnauthenticated, setKey } from "./api.js";
import { createField, getText, openForm } from "./dialog.js";
import { el } from "./dom.js";

/** @type {Promise<boolean> | null} */
let pendingDialog = null;
let wasDeclined = false;

/**
 * Resolves to whether the user entered a valid key. Concurrent requests share one dialog. Once the
 * user has closed it, it opens again only if `isRequested`.
 */
export function askForKey(isRequested = false) {
  if (wasDeclined && !isRequested) return Promise.resolve(false);
  pendingDialog ??= showKeyDialog(isRequested).finally(() => (pendingDialog = null));
  return pendingDialog;
}

/** @param {boolean} isRequested */
async function showKeyDialog(isRequested) {
  const problem = getKey() ? "Your key is invalid or has expired." : "This server needs an API key.";
  const reason = isRequested ? "A key identifies you to the server." : problem;
  const input = el("input", { name: "key", type: "password", autocomplete: "off", required: true, placeholder: "ek_…" });
  const remember = el("input", { type: "checkbox", name: "remember" });
  const fields = [
    el("p.muted", {}, `${reason} Ask your administrator for a key (echoic keys create).`),
    createField("API key", input),
    el("label.checkbox", {}, remember, "Remember it in this browser"),
  ];
  /** @type {string | null} */
  let owner = null;
  const check = async (/** @type {FormData} */ data) => {
    const result = await checkKey(getText(data, "key").trim());
    owner = result.owner ?? null;
    return result.error;
  };
  const answer = await openForm("Sign in", fields, { submit: "Continue", check });
  wasDeclined = !answer;
  if (!answer && !isRequested) dispatchEvent(new Event("unauthenticated"));
  if (!answer) return false;
  setKey(getText(answer, "key").trim(), answer.get("remember") !== null);
  dispatchEvent(new CustomEvent("authenticated", { detail: owner }));
  return true;
}

/**
 * @param {string} key
 * @returns {Promise<{ owner?: string, error?: string }>}
 */
async function checkKey(key) {
  try {
    return { owner: (await getKeyOwner(key)).userId };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return { error: "That key is invalid or has expired." };
    // A header cannot carry every character, and then the request fails before it is sent.
    const isMalformed = error.status === 0 && !isSendable(key);
    return { error: isMalformed ? "That doesn’t look like a key." : error.message };
  }
}

const isSendable = (/** @type {string} */ text) => /^[\x21-\x7e]+$/.test(text);

onUnauthenticated(() => askForKey());

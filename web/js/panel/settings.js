// The "Settings" tab of a chat. Empty fields use the server's defaults.

import { call, getErrorMessage, sessionPath } from "../api.js";
import { createField, getText } from "../dialog.js";
import { el, setChildren } from "../dom.js";
import { attempt } from "../toast.js";

/** @type {Record<string, string>} */
const STRATEGIES = {
  auto: "Automatic",
  buffer: "Everything",
  window: "Last N messages",
  token: "As many as fit",
  summary: "Summary and recent messages",
  recall: "Recent messages and search",
};

export class SettingsTab {
  /** @type {string | null} */
  #sessionId = null;

  /**
   * @param {HTMLElement} body
   * @param {ChatView} chat
   */
  show(body, chat) {
    const { sessionId, session } = chat;
    const { activeElement } = document;
    if (activeElement instanceof HTMLElement && body.querySelector("form.settings")?.contains(activeElement)) {
      // Rendering would take away what the user is typing. If another chat was opened meanwhile,
      // the blur saves it in the chat that it was written for.
      if (sessionId === this.#sessionId) return;
      activeElement.blur();
    }
    this.#sessionId = sessionId;
    const isKnown = !sessionId || session;
    setChildren(body, isKnown && this.#createForm(chat));
  }

  /** @param {ChatView} chat */
  #createForm(chat) {
    const { settings, sessionId } = chat;
    const memory = settings.memory ?? {};
    const { list, defaultId } = chat.app.models;
    const models = [el("option", { value: "" }, `Default (${defaultId ?? "…"})`), list.map(({ id }) => el("option", { value: id }, id))];
    const model = el("select", { name: "model" }, models);
    model.value = settings.model ?? "";
    const strategies = Object.entries(STRATEGIES).map(([value, label]) => el("option", { value }, `${label} (${value})`));
    const strategy = el("select", { name: "strategy" }, el("option", { value: "" }, "Default"), strategies);
    strategy.value = memory.strategy ?? "";
    const systemPrompt = el("textarea", { name: "systemPrompt", rows: 5, value: settings.systemPrompt ?? "", placeholder: "Instructions: role, tone, what to know about you" });
    const createNumber = (/** @type {string} */ name, /** @type {number | null | undefined} */ value, /** @type {ElementProperties} */ limits) =>
      el("input", { name, type: "number", value: value ?? "", placeholder: "Default", ...limits });
    const status = el("p.save-status", { role: "status" });
    const onchange = () => this.#save(chat, sessionId, form, status);
    /** @type {HTMLFormElement} */
    const form = el(
      "form.settings.stack",
      { onchange, onsubmit: (event) => event.preventDefault() },
      createField("Model", model),
      createField("System prompt", systemPrompt),
      el(
        "div.two-columns",
        {},
        createField("Temperature", createNumber("temperature", settings.temperature, { min: 0, max: 2, step: "any" })),
        createField("Top P", createNumber("topP", settings.topP, { min: 0, max: 1, step: "any" })),
      ),
      createField("Max. reply length (tokens)", createNumber("maxOutputTokens", settings.maxOutputTokens, { min: 1, step: 1 })),
      createField("Memory", strategy, "How earlier messages are selected"),
      el(
        "div.two-columns",
        {},
        createField("Memory budget (tokens)", createNumber("maxTokens", memory.maxTokens, { min: 0, step: 1 })),
        createField("Recall budget (tokens)", createNumber("recallTokens", memory.recallTokens, { min: 0, step: 1 })),
      ),
      createField("Messages to keep", createNumber("lastMessages", memory.lastMessages, { min: 1, step: 1 }), "Used by “Last N messages”"),
      status,
    );
    if (!chat.app.canManage(chat.session)) {
      for (const input of form.querySelectorAll("input, select, textarea")) input.toggleAttribute("disabled", true);
    }
    return form;
  }

  /**
   * Saves the form in the chat that it was shown for, which may no longer be the open one.
   *
   * @param {ChatView} chat
   * @param {string | null} sessionId
   * @param {HTMLFormElement} form
   * @param {HTMLElement} status
   */
  async #save(chat, sessionId, form, status) {
    if (!form.reportValidity()) return;
    try {
      if (sessionId === chat.sessionId) await chat.change({ settings: readSettings(new FormData(form), chat.settings) });
      else if (sessionId) await attempt(() => saveElsewhere(chat.app, sessionId, new FormData(form)));
      status.textContent = sessionId ? "Saved. Applies from your next message." : "Will apply when the chat starts.";
    } catch (error) {
      status.textContent = getErrorMessage(error);
    }
  }
}

/**
 * Saves the form in a chat that is no longer open.
 *
 * @param {App} app
 * @param {string} sessionId
 * @param {FormData} form
 */
async function saveElsewhere(app, sessionId, form) {
  const { settings } = await call("GET", sessionPath(sessionId));
  app.sessions.upsert(await call("PATCH", sessionPath(sessionId), { settings: readSettings(form, settings) }));
}

/**
 * Returns the settings with the fields of the form. Settings without a field are kept.
 *
 * @param {FormData} form
 * @param {Settings} previous
 */
function readSettings(form, previous) {
  /** @type {Record<string, unknown>} */
  const settings = { ...previous };
  /** @type {Record<string, unknown>} */
  const memory = { ...previous.memory };
  const set = (/** @type {Record<string, unknown>} */ target, /** @type {string} */ name, isNumber = false) => {
    const value = getText(form, name);
    if (value === "") delete target[name];
    else target[name] = isNumber ? Number(value) : value;
  };
  set(settings, "model");
  set(settings, "systemPrompt");
  for (const name of ["temperature", "topP", "maxOutputTokens"]) set(settings, name, true);
  set(memory, "strategy");
  for (const name of ["maxTokens", "recallTokens", "lastMessages"]) set(memory, name, true);
  if (Object.keys(memory).length > 0) settings.memory = memory;
  else delete settings.memory;
  return settings;
}

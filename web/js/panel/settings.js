// The settings of one chat. What is left empty is as the server has it.

import { call, session as sessionPath } from "../api.js";
import { field } from "../dialog.js";
import { el, fill } from "../dom.js";
import { attempt } from "../toast.js";

const STRATEGIES = ["auto", "buffer", "window", "token", "summary", "recall"];

export class SettingsTab {
  #sessionId = null;

  show(body, view) {
    const { sessionId, session } = view;
    if (body.querySelector("form.settings")?.contains(document.activeElement)) {
      // What somebody is writing is not taken from under their hands; where another chat was opened
      // meanwhile, it is saved in the one that it was written for.
      if (sessionId === this.#sessionId) return;
      document.activeElement.blur();
    }
    this.#sessionId = sessionId;
    const isKnown = !sessionId || session;
    fill(body, isKnown && this.#form(view));
  }

  #form(view) {
    const { settings, sessionId } = view;
    const memory = settings.memory ?? {};
    const models = [el("option", { value: "" }, `Default (${view.app.models.standard ?? "…"})`), view.app.models.list.map(({ id }) => el("option", { value: id }, id))];
    const model = el("select", { name: "model" }, models);
    model.value = settings.model ?? "";
    const strategy = el("select", { name: "strategy" }, el("option", { value: "" }, "Default"), STRATEGIES.map((name) => el("option", { value: name }, name)));
    strategy.value = memory.strategy ?? "";
    const numeric = (name, value, more) => el("input", { name, type: "number", value: value ?? "", placeholder: "Default", ...more });
    const saved = el("p.saved", { role: "status" });
    const onchange = () => this.#save(view, sessionId, form, saved);
    const form = el(
      "form.settings.stack",
      { onchange, onsubmit: (event) => event.preventDefault() },
      field("Model", model),
      field("System prompt", el("textarea", { name: "systemPrompt", rows: 5, value: settings.systemPrompt ?? "", placeholder: "What the model should know about its task, its tone, and you" })),
      el("div.two", {}, field("Temperature", numeric("temperature", settings.temperature, { min: 0, max: 2, step: "any" })), field("Top P", numeric("topP", settings.topP, { min: 0, max: 1, step: "any" }))),
      field("Longest reply, in tokens", numeric("maxOutputTokens", settings.maxOutputTokens, { min: 1, step: 1 })),
      field("Memory", strategy, "How what was said before is chosen for the prompt"),
      el("div.two", {}, field("Memory tokens", numeric("maxTokens", memory.maxTokens, { min: 0, step: 1 })), field("… for recalled ones", numeric("recallTokens", memory.recallTokens, { min: 0, step: 1 }))),
      field("Last messages", numeric("lastMessages", memory.lastMessages, { min: 1, step: 1 }), "How many the strategy “window” takes"),
      saved,
    );
    if (!view.app.owns(view.session)) form.querySelectorAll(".input").forEach((input) => (input.disabled = true));
    return form;
  }

  async #save(view, sessionId, form, saved) {
    if (!form.reportValidity()) return;
    try {
      if (sessionId === view.sessionId) await view.change({ settings: read(new FormData(form), view.settings) });
      else if (sessionId) await attempt(() => saveElsewhere(view.app, sessionId, new FormData(form)));
      saved.textContent = sessionId ? "Saved. It counts from the next message on." : "It counts once the chat begins.";
    } catch ({ message }) {
      saved.textContent = message;
    }
  }
}

/** The chat is not the open one any more. */
async function saveElsewhere(app, sessionId, form) {
  const { settings } = await call("GET", sessionPath(sessionId));
  app.sessions.put(await call("PATCH", sessionPath(sessionId), { settings: read(form, settings) }));
}

/** The settings that the form says; those that it does not know stay. */
function read(form, before) {
  const settings = { ...before };
  const memory = { ...before.memory };
  const put = (of, name, value) => {
    if (value === "") delete of[name];
    else of[name] = value;
  };
  const numberOf = (name) => (form.get(name) === "" ? "" : Number(form.get(name)));
  put(settings, "model", form.get("model"));
  put(settings, "systemPrompt", form.get("systemPrompt"));
  for (const name of ["temperature", "topP", "maxOutputTokens"]) put(settings, name, numberOf(name));
  put(memory, "strategy", form.get("strategy"));
  for (const name of ["maxTokens", "recallTokens", "lastMessages"]) put(memory, name, numberOf(name));
  if (Object.keys(memory).length > 0) settings.memory = memory;
  else delete settings.memory;
  return settings;
}

// What the next prompt would hold, piece by piece: how much of the window each takes, and why it is
// there.

import { get, query, session as sessionPath } from "../api.js";
import { el, fill } from "../dom.js";
import { duration, many, money, number, tokens, when } from "../format.js";

const MOST_REPLIES = 12;

const KINDS = {
  system: ["System prompt", "Told to the model in every turn."],
  project: ["Project", "Instructions and files of the chat's project, as they are now."],
  summary: ["Summary", "What was said earlier and no longer fits word for word."],
  recent: ["Recent messages", "Word for word, in their order: the newest part of this branch that fits."],
  recalled: ["Recalled", "Earlier messages that have to do with the new one."],
  new: ["New message", "What is about to be sent."],
  framing: ["Framing"],
};

export class MemoryTab {
  #view = null;
  #sessionId = null;
  #call = 0;
  #field = el("textarea.input", { rows: 2, placeholder: "What would be sent with …?", "aria-label": "A message to try", onkeydown: (event) => this.#key(event) });
  #told = el("div.panel-part");
  // Made once: whoever writes into it is not disturbed by what happens in the chat.
  #form = el("form.stack", { onsubmit: (event) => this.#preview(event) }, this.#field, el("button.button.small", { type: "submit" }, "Preview the prompt"));

  show(body, view) {
    this.#view = view;
    if (view.sessionId !== this.#sessionId) {
      this.#sessionId = view.sessionId;
      this.#field.value = "";
      fill(this.#told);
    }
    if (!view.sessionId) {
      return fill(body, el("p.quiet-text", {}, "Once something was said, this shows exactly what the model gets to read with the next message: which pieces, how large, and why."));
    }
    if (!body.contains(this.#form)) fill(body, this.#form, this.#told);
    return this.#load();
  }

  async #load() {
    const call = ++this.#call;
    const { sessionId } = this.#view;
    let parts;
    try {
      parts = told(await get(sessionPath(sessionId, `/memory${query({ message: this.#field.value.trim() })}`)));
    } catch ({ message, status }) {
      parts = el("p", { role: "alert" }, status === 403 ? "What the model gets to read is shown to the chat’s owner only." : message);
    }
    if (call === this.#call) fill(this.#told, parts, replies(this.#view.thread.messages));
  }

  #preview(event) {
    event.preventDefault();
    this.#load();
  }

  #key(event) {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    this.#form.requestSubmit();
  }
}

function told(preview) {
  const { contextWindow, promptTokens, replyReserve, cacheablePrefixTokens, pieces, model, strategy, tokenCorrection, project } = preview;
  const counted = pieces.reduce((sum, { tokens }) => sum + tokens, 0);
  const parts = promptTokens > counted ? [...pieces, { kind: "framing", tokens: promptTokens - counted }] : pieces;
  const sums = new Map();
  for (const { kind, tokens } of parts) sums.set(kind, (sums.get(kind) ?? 0) + tokens);
  const share = promptTokens > 0 ? Math.round((100 * Math.min(cacheablePrefixTokens, promptTokens)) / promptTokens) : 0;
  const facts = [
    ["Model", model],
    ["Strategy", strategy],
    ["Prompt", many(promptTokens, "token")],
    ["Cacheable", `${number(cacheablePrefixTokens)} tokens, ${share} %`],
    ["Window", `${number(contextWindow)} tokens`],
    ["Kept for the reply", number(replyReserve)],
    ...(tokenCorrection ? [["Counted × learned", tokenCorrection.toFixed(2)]] : []),
  ];
  const missing = [...(project?.omittedFields ?? []), ...(project?.omittedFiles ?? [])];
  return [
    el("section.stack", {}, el("h3", {}, "The next prompt"), bar(parts, promptTokens), cached(share), legend(sums), missing.length > 0 && el("p.quiet-text", {}, `Of the project, this did not fit: ${missing.join(", ")}.`)),
    el("section.stack", {}, el("h3", {}, "Of the context window"), windowBar(promptTokens, replyReserve, contextWindow), el("dl.facts", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))),
    el("section.stack", {}, el("h3", {}, many(pieces.length, "piece"), el("span.sr", {}, " in the order sent")), el("ol.pieces", {}, pieces.map(piece))),
  ];
}

function bar(pieces, all) {
  const label = `Prompt of ${number(all)} tokens: ${pieces.map(({ kind, tokens }) => `${kind} ${tokens}`).slice(0, 12).join(", ")}`;
  return el("div.budget", { role: "img", "aria-label": label }, pieces.map(({ kind, tokens }) => slice(`k-${kind}`, tokens, `${KINDS[kind]?.[0] ?? kind}: ${many(tokens, "token")}`)));
}

function slice(kind, weight, title) {
  const element = el(`span.${kind}`, { title });
  element.style.flex = `${weight} 1 0`;
  return element;
}

/** How far the provider's cache can know the prompt from the turn before. */
function cached(share) {
  const span = el("span");
  span.style.width = `${share}%`;
  return el("div", {}, el("div.cached", {}, span), el("p.quiet-text", {}, `${share} % of it begins as before: a provider’s prompt cache need not read that again.`));
}

function legend(sums) {
  const rows = [...sums].map(([kind, sum]) => [el(`i.k-${kind}`), el("span", {}, KINDS[kind]?.[0] ?? kind), el("b", {}, tokens(sum))]);
  return el("div.legend", {}, rows);
}

function windowBar(prompt, reserve, contextWindow) {
  const free = Math.max(0, contextWindow - prompt - reserve);
  const title = `${number(prompt)} tokens of prompt, ${number(reserve)} kept for the reply, ${number(free)} free`;
  const spans = [slice("k-recent", prompt, "Prompt"), slice("k-reserve", reserve, "Kept for the reply"), slice("free", free, "Free")];
  return el("div.budget", { role: "img", "aria-label": title, title }, spans);
}

function piece({ kind, role, tokens, score, text, images, messageIds = [] }) {
  const [name, why] = KINDS[kind] ?? [kind, ""];
  const reasons = [why, score !== undefined && `Score ${score.toFixed(2)}.`, messageIds.length > 1 && many(messageIds.length, "message"), images && many(images, "picture")];
  return el(
    "li",
    {},
    el(
      "details.piece",
      {},
      el("summary", {}, el(`i.k-${kind}`), el("span.what", {}, el("b", {}, kind === "recent" || kind === "recalled" ? role : name), ` ${text.slice(0, 80)}`), score !== undefined && el("span.score", { title: "How well it answers the new message" }, score.toFixed(1)), el("span.tokens", {}, number(tokens))),
      el("p.why", {}, reasons.filter(Boolean).join(" ")),
      el("pre", { tabIndex: 0 }, text),
    ),
  );
}

/** What the newest replies took, the latest first. */
function replies(messages) {
  const known = messages.filter(({ usage }) => usage).slice(-MOST_REPLIES).reverse();
  if (known.length === 0) return null;
  const hasCost = known.some(({ usage }) => usage.cost !== undefined);
  const names = ["Prompt", "Cached", "Reply", hasCost && "Cost", "First token"].filter(Boolean);
  const row = ({ usage, model, createdAt }) => {
    const { promptTokens, cachedTokens, completionTokens, estimated, cost, firstTokenMs } = usage;
    const about = estimated ? "≈ " : "";
    const values = [`${about}${number(promptTokens)}`, number(cachedTokens), `${about}${number(completionTokens)}`, hasCost && (cost === undefined ? "–" : money(cost)), firstTokenMs === undefined ? "–" : duration(firstTokenMs)];
    return el("tr", { title: [model, when(createdAt)].filter(Boolean).join(", ") }, values.filter((value) => value !== false).map((value) => el("td", {}, value)));
  };
  const head = el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
  const table = el("table.replies", {}, head, el("tbody", {}, known.map(row)));
  return el("section.stack", {}, el("h3", {}, "What replies took"), table);
}

// The "Memory" tab: the parts of the next prompt, their size, and why they are in it.

import { ApiError, buildQuery, get, getErrorMessage, sessionPath } from "../api.js";
import { el, setChildren } from "../dom.js";
import { formatCost, formatCount, formatDuration, formatNumber, formatTime, formatTokens } from "../format.js";

const MAX_REPLIES = 12;

/** @type {Record<string, { label: string, reason?: string }>} */
const KINDS = {
  system: { label: "System prompt", reason: "Sent with every message." },
  project: { label: "Project", reason: "The current instructions and files of the chat’s project." },
  summary: { label: "Summary", reason: "Earlier messages that no longer fit word for word." },
  recent: { label: "Recent messages", reason: "Word for word and in order: the newest part of this branch that fits." },
  recalled: { label: "Recalled", reason: "Earlier messages relevant to the new one." },
  new: { label: "New message", reason: "The message about to be sent." },
  framing: { label: "Message overhead" },
};

export class MemoryTab {
  /** @type {ChatView | null} */
  #chat = null;
  /** @type {string | null} */
  #sessionId = null;
  /** Number of the latest request. Responses to older ones are dropped. */
  #requestNumber = 0;
  #field = el("textarea.input", { rows: 2, placeholder: "Try a message…", "aria-label": "Message to try", onkeydown: (event) => this.#handleKey(event) });
  #result = el("div.panel-section");
  // Created once: new messages in the chat must not disturb what the user is typing.
  #form = el("form.stack", { onsubmit: (event) => this.#preview(event) }, this.#field, el("button.button.small", { type: "submit" }, "Preview the prompt"));

  /**
   * @param {HTMLElement} body
   * @param {ChatView} chat
   */
  show(body, chat) {
    this.#chat = chat;
    if (chat.sessionId !== this.#sessionId) {
      this.#sessionId = chat.sessionId;
      this.#field.value = "";
      setChildren(this.#result);
    }
    if (!chat.sessionId) {
      setChildren(body, el("p.muted", {}, "After the first message, this shows exactly what the model will see next: which parts, how large, and why."));
      return;
    }
    if (!body.contains(this.#form)) setChildren(body, this.#form, this.#result);
    this.#load();
  }

  async #load() {
    const chat = this.#chat;
    if (!chat?.sessionId) return;
    this.#requestNumber += 1;
    const requestNumber = this.#requestNumber;
    /** @type {Child} */
    let content;
    try {
      content = renderPreview(await get(sessionPath(chat.sessionId, `/memory${buildQuery({ message: this.#field.value.trim() })}`)));
    } catch (error) {
      const isForbidden = error instanceof ApiError && error.status === 403;
      content = el("p", { role: "alert" }, isForbidden ? "Only the owner of this chat can see this." : getErrorMessage(error));
    }
    if (requestNumber === this.#requestNumber) setChildren(this.#result, content, renderUsage(chat.thread.messages));
  }

  /** @param {SubmitEvent} event */
  #preview(event) {
    event.preventDefault();
    this.#load();
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    this.#form.requestSubmit();
  }
}

/** @param {PromptPreview} preview */
function renderPreview({ contextWindow, promptTokens, replyReserve, cacheablePrefixTokens, pieces, model, strategy, tokenCorrection, project }) {
  const counted = pieces.reduce((sum, { tokens }) => sum + tokens, 0);
  const parts = promptTokens > counted ? [...pieces, { kind: "framing", tokens: promptTokens - counted }] : pieces;
  const share = promptTokens > 0 ? Math.round((100 * Math.min(cacheablePrefixTokens, promptTokens)) / promptTokens) : 0;
  const details = [
    ["Model", model],
    ["Strategy", strategy],
    ["Prompt", formatCount(promptTokens, "token")],
    ["Cacheable", `${formatNumber(cacheablePrefixTokens)} tokens, ${share}%`],
    ["Window", `${formatNumber(contextWindow)} tokens`],
    ["Reserved for the reply", formatNumber(replyReserve)],
    ...(tokenCorrection ? [["Token-count correction", tokenCorrection.toFixed(2)]] : []),
  ];
  const rows = details.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  const omitted = [...(project?.omittedFields ?? []), ...(project?.omittedFiles ?? [])];
  const omittedNote = omitted.length > 0 && el("p.muted", {}, `Not included from the project: ${omitted.join(", ")}.`);
  const heading = el("h3", {}, formatCount(pieces.length, "part of the prompt", "parts of the prompt"), el("span.sr-only", {}, " in the order sent"));
  return [
    el("section.stack", {}, el("h3", {}, "Next prompt"), renderBudget(parts, promptTokens), renderCacheShare(share), renderLegend(parts), omittedNote),
    el("section.stack", {}, el("h3", {}, "Context window"), renderWindow(promptTokens, replyReserve, contextWindow), el("dl.details", {}, rows)),
    el("section.stack", {}, heading, el("ol.pieces", {}, pieces.map(renderPiece))),
  ];
}

/** @param {string} kind */
const getLabel = (kind) => KINDS[kind]?.label ?? kind;

/**
 * @param {BudgetPart[]} parts
 * @param {number} total
 */
function renderBudget(parts, total) {
  const label = `Prompt of ${formatNumber(total)} tokens: ${parts.map(({ kind, tokens }) => `${kind} ${tokens}`).slice(0, 12).join(", ")}`;
  const slices = parts.map(({ kind, tokens }) => createSlice(`kind-${kind}`, tokens, `${getLabel(kind)}: ${formatCount(tokens, "token")}`));
  return el("div.budget", { role: "img", "aria-label": label }, slices);
}

/**
 * @param {string} className
 * @param {number} weight
 * @param {string} title
 */
function createSlice(className, weight, title) {
  const slice = el(`span.${className}`, { title });
  slice.style.flex = `${weight} 1 0`;
  return slice;
}

/**
 * Shows how much of the prompt the provider can read from its cache.
 *
 * @param {number} share in percent
 */
function renderCacheShare(share) {
  const span = el("span");
  span.style.width = `${share}%`;
  const text = `${share}% is unchanged since the last message and can be read from the provider’s prompt cache.`;
  return el("div", {}, el("div.cache-share", {}, span), el("p.muted", {}, text));
}

/** @param {BudgetPart[]} parts */
function renderLegend(parts) {
  /** @type {Map<string, number>} */
  const sums = new Map();
  for (const { kind, tokens } of parts) sums.set(kind, (sums.get(kind) ?? 0) + tokens);
  const rows = [...sums].map(([kind, sum]) => [el(`i.kind-${kind}`), el("span", {}, getLabel(kind)), el("b", {}, formatTokens(sum))]);
  return el("div.legend", {}, rows);
}

/**
 * @param {number} prompt
 * @param {number} reserve
 * @param {number} contextWindow
 */
function renderWindow(prompt, reserve, contextWindow) {
  const free = Math.max(0, contextWindow - prompt - reserve);
  const title = `Prompt ${formatNumber(prompt)} tokens, reserved for the reply ${formatNumber(reserve)}, free ${formatNumber(free)}`;
  const slices = [createSlice("kind-recent", prompt, "Prompt"), createSlice("kind-reserve", reserve, "Reserved for the reply"), createSlice("free", free, "Free")];
  return el("div.budget", { role: "img", "aria-label": title, title }, slices);
}

/** @param {PromptPiece} piece */
function renderPiece({ kind, role, tokens, score, text, images, messageIds = [] }) {
  const isMessage = kind === "recent" || kind === "recalled";
  const notes = [
    KINDS[kind]?.reason,
    score !== undefined && `Relevance ${score.toFixed(2)}.`,
    messageIds.length > 1 && formatCount(messageIds.length, "message"),
    images && formatCount(images, "image"),
  ];
  const summary = el(
    "summary",
    {},
    el(`i.kind-${kind}`),
    el("span.excerpt", {}, el("b", {}, isMessage ? role : getLabel(kind)), ` ${text.slice(0, 80)}`),
    score !== undefined && el("span.score", { title: "Relevance to the new message" }, score.toFixed(1)),
    el("span.tokens", {}, formatNumber(tokens)),
  );
  return el("li", {}, el("details.piece", {}, summary, el("p.notes", {}, notes.filter(Boolean).join(" ")), el("pre", { tabIndex: 0 }, text)));
}

/**
 * Shows the token usage of the latest replies, newest first.
 *
 * @param {Message[]} messages
 */
function renderUsage(messages) {
  const replies = messages.filter(({ usage }) => usage).slice(-MAX_REPLIES).reverse();
  if (replies.length === 0) return null;
  const hasCost = replies.some(({ usage }) => usage?.cost !== undefined);
  const names = ["Prompt", "Cached", "Reply", ...(hasCost ? ["Cost"] : []), "First token"];
  const head = el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
  const rows = replies.map((reply) => renderUsageRow(reply, hasCost));
  return el("section.stack", {}, el("h3", {}, "Token usage"), el("table.usage-table", {}, head, el("tbody", {}, rows)));
}

/**
 * @param {Message} reply
 * @param {boolean} hasCost
 */
function renderUsageRow({ usage, model, createdAt }, hasCost) {
  if (!usage) return null;
  const { promptTokens, cachedTokens, completionTokens, estimated, cost, firstTokenMs } = usage;
  const mark = estimated ? "≈ " : "";
  const costs = hasCost ? [cost === undefined ? "–" : formatCost(cost)] : [];
  const firstToken = firstTokenMs === undefined ? "–" : formatDuration(firstTokenMs);
  const values = [`${mark}${formatNumber(promptTokens)}`, formatNumber(cachedTokens), `${mark}${formatNumber(completionTokens)}`, ...costs, firstToken];
  return el("tr", { title: [model, formatTime(createdAt)].filter(Boolean).join(", ") }, values.map((value) => el("td", {}, value)));
}

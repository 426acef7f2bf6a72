// Markdown rendering. Plain text is rendered here, everything else by the server. This is the only
// module that turns HTML into elements, and only HTML that the server has sanitized.

import { call } from "../api.js";
import { appendChildren, createIcon, el } from "../dom.js";

const MAX_CONCURRENT = 6;
const MAX_CACHED = 600;
/** Matches a line without anything that Markdown would interpret. */
const PLAIN_LINE = /^(?!\s*(\d+[.)]|[-+])\s)[^*_`#<>[\]|~\\&@]*$/;

// The page's Content-Security-Policy accepts HTML from this policy only.
const policy = window.trustedTypes?.createPolicy("echoic", { createHTML: (html) => html });
/** @type {Map<string, string>} HTML by text, oldest first. */
const cache = new Map();
/** @type {(() => void)[]} */
const queue = [];
let running = 0;

/**
 * Returns the elements for a text, or `null` if only the server can render it.
 *
 * @param {string} text
 * @returns {Node[] | null}
 */
export function renderNow(text) {
  if (isPlain(text)) return toParagraphs(text);
  const html = cache.get(text);
  return html === undefined ? null : toElements(html);
}

/**
 * Has the server render a text, so that `renderNow` can show it. Throws if the request fails.
 *
 * @param {string} text
 */
export async function prefetch(text) {
  if (isPlain(text) || cache.has(text)) return;
  await acquireSlot();
  try {
    if (cache.has(text)) return;
    const { html } = await call("POST", "/api/render", { markdown: text });
    cache.set(text, html);
    const [oldest] = cache.keys();
    if (cache.size > MAX_CACHED) cache.delete(oldest);
  } finally {
    running -= 1;
    queue.shift()?.();
  }
}

/**
 * Returns the elements for a text, or `null` if the server cannot render it.
 *
 * @param {string} text
 */
export async function render(text) {
  await prefetch(text).catch(() => {});
  return renderNow(text);
}

async function acquireSlot() {
  if (running >= MAX_CONCURRENT) await new Promise((/** @type {(value?: unknown) => void} */ resolve) => queue.push(resolve));
  running += 1;
}

/** @param {string} text */
function isPlain(text) {
  return text.length < 20_000 && !text.includes("://") && text.split("\n").every((line) => PLAIN_LINE.test(line) && !/^( {4}|\t|\s*(=+|-+)\s*$)/.test(line));
}

/** @param {string} text */
function toParagraphs(text) {
  const parts = text.split(/\n\s*\n/).filter((part) => part.trim() !== "");
  return parts.map((part) => el("p.plain", {}, part.replace(/^\n+|\n+$/g, "")));
}

/** @param {string} html */
function toElements(html) {
  const template = document.createElement("template");
  template.innerHTML = policy ? policy.createHTML(html) : html;
  template.content.querySelectorAll("pre").forEach(frameCode);
  // Bullets and bars belong on the side where the text starts.
  for (const block of template.content.querySelectorAll("ul, ol, blockquote, table")) block.setAttribute("dir", "auto");
  for (const table of template.content.querySelectorAll("table")) {
    const frame = el("div.scroll-x", { tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return [...template.content.childNodes];
}

/** @param {HTMLElement} pre */
function frameCode(pre) {
  const language = pre.dataset.language ?? "";
  const label = el("span", {}, "Copy");
  const copy = el("button", { type: "button", onclick: () => copyCode(pre, label) }, createIcon("copy"), label);
  const frame = el("div.code", {}, el("div.code-head", {}, el("span", {}, language || "code"), copy));
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  pre.replaceWith(frame);
  appendChildren(frame, [pre]);
}

/**
 * @param {HTMLElement} pre
 * @param {HTMLElement} label
 */
async function copyCode(pre, label) {
  const isCopied = await copyText((pre.textContent ?? "").replace(/\n$/, ""));
  label.textContent = isCopied ? "Copied" : "Press Ctrl+C";
  if (!isCopied) getSelection()?.selectAllChildren(pre);
  setTimeout(() => (label.textContent = "Copy"), 1600);
}

/**
 * Returns whether the text was copied. Pages without TLS have no clipboard.
 *
 * @param {string} text
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

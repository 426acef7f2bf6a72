// Text as it is shown: what is plain is made here, the rest is rendered by the server. This is the
// only place where HTML becomes elements, and only HTML that the server has cleaned.

import { call } from "../api.js";
import { append, el, icon } from "../dom.js";

const MOST_AT_ONCE = 6;
const MOST_KEPT = 600;
/** Nothing in it that Markdown would read. */
const PLAIN = /^(?!\s*(\d+[.)]|[-+])\s)[^*_`#<>[\]|~\\&@]*$/;

const policy = window.trustedTypes?.createPolicy("echoic", { createHTML: (html) => html });
const kept = new Map();
const waiting = [];
let running = 0;

/** Elements for a text, if they are known without asking anybody. */
export function shownAtOnce(text) {
  if (isPlain(text)) return paragraphs(text);
  const html = kept.get(text);
  return html === undefined ? null : elements(html);
}

/** Asks the server for what `shownAtOnce` does not know. It may fail; then the text stays text. */
export async function prepare(text) {
  if (isPlain(text) || kept.has(text)) return;
  await turn();
  try {
    if (kept.has(text)) return;
    const { html } = await call("POST", "/api/render", { markdown: text });
    kept.set(text, html);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

/** Elements for a text, from the server if need be; `null` if it cannot be asked. */
export async function rendered(text) {
  await prepare(text).catch(() => {});
  return shownAtOnce(text);
}

async function turn() {
  if (running >= MOST_AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  running += 1;
}

function isPlain(text) {
  return text.length < 20_000 && !text.includes("://") && text.split("\n").every((line) => PLAIN.test(line) && !/^( {4}|\t|\s*(=+|-+)\s*$)/.test(line));
}

function paragraphs(text) {
  const parts = text.split(/\n\s*\n/).filter((part) => part.trim() !== "");
  return parts.map((part) => el("p.plain", {}, part.replace(/^\n+|\n+$/g, "")));
}

function elements(html) {
  const template = document.createElement("template");
  template.innerHTML = policy ? policy.createHTML(html) : html;
  template.content.querySelectorAll("pre").forEach(framed);
  // Bullets and lines stand at the side where the words begin.
  template.content.querySelectorAll("ul, ol, blockquote, table").forEach((each) => (each.dir = "auto"));
  template.content.querySelectorAll("table").forEach((table) => {
    const frame = el("div.scroll-x", { tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  });
  return [...template.content.childNodes];
}

/** A code block with its language and a button that copies it. */
function framed(pre) {
  const language = pre.dataset.language ?? "";
  const label = el("span", {}, "Copy");
  const copy = el("button", { type: "button", onclick: () => copyCode(pre, label) }, icon("copy"), label);
  const frame = el("div.code", {}, el("div.code-head", {}, el("span", {}, language || "code"), copy));
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  pre.replaceWith(frame);
  append(frame, [pre]);
}

async function copyCode(pre, label) {
  const isCopied = await copyText(pre.textContent.replace(/\n$/, ""));
  label.textContent = isCopied ? "Copied" : "Press Ctrl+C";
  if (!isCopied) getSelection().selectAllChildren(pre);
  setTimeout(() => (label.textContent = "Copy"), 1600);
}

/** Whether the text went to the clipboard; pages without TLS may not have one. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

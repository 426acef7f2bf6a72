// What a message holds beside its text: pictures, files, thoughts, tool calls, sources.

import { el, icon } from "../dom.js";

/** Pictures and files. Pictures from elsewhere are links: showing them would tell who reads. */
export function attachments(parts) {
  const files = parts.filter(({ type }) => type === "file" || type === "image_url");
  const shown = files.map((part) => attachment(part.url ?? part.image_url?.url ?? "", part.mediaType ?? "", part.filename));
  const sources = parts.filter(({ type }) => type === "source-url").map((part) => link(part.url, part.title ?? part.url));
  const all = [...shown, ...sources].filter(Boolean);
  return all.length > 0 ? el("div.attachments", {}, all) : null;
}

function attachment(url, mediaType, name) {
  if (/^data:image\/(png|jpeg|gif|webp|avif);/i.test(url)) return el("img", { src: url, alt: name ?? "Attached picture" });
  if (/^data:/i.test(url)) return el("span.file", {}, icon("file"), name ?? (mediaType || "File"));
  return link(url, name ?? url);
}

function link(url, text) {
  if (!/^https?:\/\//i.test(url)) return el("span.file", {}, icon("file"), text);
  return el("a.file", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, icon("file"), text);
}

/** What the model thought, folded; `text` goes on while it thinks. */
export function reasoning(text, isOpen = false) {
  const label = el("span", {}, isOpen ? "Thinking…" : "Thoughts");
  const words = el("p", {}, text);
  const element = el("details.reasoning", {}, el("summary", {}, icon("right"), label), words);
  return { element, words, finish: () => (label.textContent = "Thoughts") };
}

/** A tool's call and what it gave back. */
export function toolCall({ toolName, type, input, output, errorText }) {
  const name = toolName ?? type?.replace(/^tool-/, "") ?? "tool";
  const told = [input === undefined ? "" : json(input), errorText ?? (output === undefined ? "" : `→ ${json(output)}`)];
  const pre = el("pre", { tabIndex: 0 }, told.filter(Boolean).join("\n"));
  return el("details.tool-call", {}, el("summary", {}, `Tool: ${name}`), pre);
}

function json(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

export const isToolCall = ({ type }) => type === "dynamic-tool" || type?.startsWith("tool-");

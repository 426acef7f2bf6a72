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

const TOOL_STATES = {
  "input-streaming": "being asked…",
  "input-available": "running…",
  called: "called",
  "approval-requested": "waits for a yes",
  "output-available": "done",
  "output-error": "failed",
  "output-denied": "not allowed",
};

const FRAME_STATES = {
  "tool-input-start": "input-streaming",
  "tool-input-delta": "input-streaming",
  "tool-input-available": "input-available",
  "tool-input-error": "output-error",
  "tool-output-available": "output-available",
  "tool-output-error": "output-error",
  "tool-output-denied": "output-denied",
};

/** What a frame makes of a tool's call: the part that will be stored of it. */
export function toolPart(before = { type: "dynamic-tool", input: "" }, { type, inputTextDelta = "", ...told }) {
  const part = { ...before, ...told, state: FRAME_STATES[type] };
  if (type === "tool-input-delta") part.input = `${before.input}${inputTextDelta}`;
  return part;
}

/** A stored call, or a stored result, as a part of the AI SDK; those of others as they are. */
function asShown(part) {
  if (part.type === "tool-call") return { state: "called", ...part };
  if (part.type !== "tool-result") return part;
  const { output, isError, ...rest } = part;
  const told = isError ? { state: "output-error", errorText: json(output) } : { state: "output-available", output };
  return { ...rest, ...told };
}

/** A tool's call and what it gave back. */
export function toolCall(part) {
  const { toolName, type, state, input, output, errorText } = asShown(part);
  const name = toolName || type?.replace(/^tool-/, "") || "tool";
  const told = (label, value) => [el("h4", {}, label), el("pre", { tabIndex: 0 }, json(value))];
  const summary = el("summary", {}, icon("tool"), el("b", {}, name), el("span", {}, TOOL_STATES[state] ?? ""));
  return el(
    errorText ? "details.tool-call.failed" : "details.tool-call",
    {},
    summary,
    input !== undefined && input !== "" && told("Asked", input),
    errorText ? told("Error", errorText) : output !== undefined && told("Answer", output),
  );
}

function json(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

export const isToolCall = ({ type }) => type === "dynamic-tool" || type?.startsWith("tool-");

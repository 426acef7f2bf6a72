// The parts of a message besides its text: images, files, reasoning, tool calls and sources.

import { createIcon, el } from "../dom.js";

/**
 * Remote images become links: loading them would tell their server who reads the message.
 *
 * @param {MessagePart[]} parts
 */
export function renderAttachments(parts) {
  const files = parts.filter(({ type }) => type === "file" || type === "image_url");
  const attachments = files.map((part) => renderAttachment(part.url ?? part.image_url?.url ?? "", part.mediaType ?? "", part.filename));
  const sources = parts.filter(({ type }) => type === "source-url").map(({ url = "", title }) => renderLink(url, title ?? url));
  const all = [...attachments, ...sources];
  return all.length > 0 ? el("div.attachments", {}, all) : null;
}

/**
 * @param {string} url
 * @param {string} mediaType
 * @param {string} [name]
 */
function renderAttachment(url, mediaType, name) {
  if (/^data:image\/(png|jpeg|gif|webp|avif);/i.test(url)) return el("img", { src: url, alt: name ?? "Attached image" });
  if (/^data:/i.test(url)) return el("span.file", {}, createIcon("file"), name ?? (mediaType || "File"));
  return renderLink(url, name ?? url);
}

/**
 * @param {string} url
 * @param {string} text
 */
function renderLink(url, text) {
  if (!/^https?:\/\//i.test(url)) return el("span.file", {}, createIcon("file"), text);
  return el("a.file", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, createIcon("file"), text);
}

/**
 * Returns a collapsed view of the model's reasoning. Append to `text` while the model is thinking,
 * then call `finish`.
 *
 * @param {string} reasoning
 */
export function createReasoning(reasoning, isThinking = false) {
  const label = el("span", {}, isThinking ? "Thinking…" : "Thought process");
  const text = el("p", {}, reasoning);
  const element = el("details.reasoning", {}, el("summary", {}, createIcon("right"), label), text);
  return { element, text, finish: () => (label.textContent = "Thought process") };
}

/** @type {Record<string, string>} */
const TOOL_STATES = {
  "input-streaming": "preparing…",
  "input-available": "running…",
  called: "called",
  "approval-requested": "needs approval",
  "output-available": "done",
  "output-error": "failed",
  "output-denied": "denied",
};

/** @type {Record<ToolFrame["type"], string>} */
const FRAME_STATES = {
  "tool-input-start": "input-streaming",
  "tool-input-delta": "input-streaming",
  "tool-input-available": "input-available",
  "tool-input-error": "output-error",
  "tool-output-available": "output-available",
  "tool-output-error": "output-error",
  "tool-output-denied": "output-denied",
};

/**
 * Returns a tool part with a frame applied. The result equals the part that the server will store.
 *
 * @param {ToolPart | undefined} part
 * @param {ToolFrame} frame
 * @returns {ToolPart}
 */
export function applyToolFrame(part = { type: "dynamic-tool", input: "" }, { type, inputTextDelta = "", ...fields }) {
  const next = { ...part, ...fields, state: FRAME_STATES[type] };
  if (type === "tool-input-delta") next.input = `${part.input}${inputTextDelta}`;
  return next;
}

/**
 * Converts a stored tool call or tool result to an AI SDK tool part.
 *
 * @param {ToolPart} part
 * @returns {ToolPart}
 */
function toToolPart(part) {
  if (part.type === "tool-call") return { state: "called", ...part };
  if (part.type !== "tool-result") return part;
  const { output, isError, ...rest } = part;
  const result = isError ? { state: "output-error", errorText: formatJson(output) } : { state: "output-available", output };
  return { ...rest, ...result };
}

/** @param {ToolPart} part */
export function renderToolCall(part) {
  const { toolName, type, state = "", input, output, errorText } = toToolPart(part);
  const name = toolName || type?.replace(/^tool-/, "") || "tool";
  const section = (/** @type {string} */ label, /** @type {unknown} */ value) => [el("h4", {}, label), el("pre", { tabIndex: 0 }, formatJson(value))];
  const summary = el("summary", {}, createIcon("tool"), el("b", {}, name), el("span", {}, TOOL_STATES[state] ?? ""));
  return el(
    errorText ? "details.tool-call.failed" : "details.tool-call",
    {},
    summary,
    input !== undefined && input !== "" && section("Input", input),
    errorText ? section("Error", errorText) : output !== undefined && section("Output", output),
  );
}

/** @param {unknown} value */
function formatJson(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

/** @param {MessagePart} part */
export const isToolCall = ({ type }) => type === "dynamic-tool" || type?.startsWith("tool-");

// Every call to the server. It knows the envelope, the errors and the key, and nothing of the page.

import { sentence } from "./format.js";

const KEY = "echoic.key";

/** What the server, or the way to it, refused. `status` 0: it was not reached. */
export class ApiError extends Error {
  constructor(status, code, message, details) {
    super(message);
    Object.assign(this, { status, code, details });
  }
}

let askForKey = async () => false;

/** `ask` shows the field for a key, and gives whether one was entered. */
export function onUnauthenticated(ask) {
  askForKey = ask;
}

export function key() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
}

export function setKey(value, isToStay) {
  localStorage.removeItem(KEY);
  sessionStorage.removeItem(KEY);
  if (value) (isToStay ? localStorage : sessionStorage).setItem(KEY, value);
}

/**
 * Returns the response to a request. Throws an `ApiError` for every status but 2xx. `options.key`
 * replaces the stored key; the user is then not asked for another one.
 */
export async function request(method, path, { body, headers = {}, signal, keepalive, key: given } = {}) {
  const isJson = body !== undefined && !(body instanceof Blob);
  const sent = { ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  for (;;) {
    const used = given ?? key();
    if (used) sent.authorization = `Bearer ${used}`;
    let response;
    try {
      const content = isJson ? JSON.stringify(body) : body;
      response = await fetch(path, { method, headers: sent, body: content, signal, keepalive, cache: "no-store" });
    } catch (failure) {
      if (signal?.aborted) throw failure;
      throw new ApiError(0, "unreachable", "The server cannot be reached.");
    }
    if (response.ok) return response;
    const mayRetry = response.status === 401 && given === undefined;
    if (mayRetry && (key() !== used || (await askForKey()))) continue;
    throw await refusal(response);
  }
}

async function refusal(response) {
  const envelope = await response.json().catch(() => null);
  const message = sentence(envelope?.message ?? `the server answered ${response.status}`);
  return new ApiError(response.status, envelope?.error?.code ?? "unknown", message, envelope?.error?.details);
}

/** The data of the envelope. */
export async function call(method, path, body, options = {}) {
  const response = await request(method, path, { body, ...options });
  return (await response.json()).data;
}

export const get = (path, options) => call("GET", path, undefined, options);

/** Returns the user that a key belongs to, without storing the key. */
export const getKeyOwner = (key) => get("/api/me", { key });

/** `?a=1&b=2` of what is set. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(set).toString();
  return text && `?${text}`;
}

const id = encodeURIComponent;
export const session = (sessionId, rest = "") => `/api/chat-sessions/${id(sessionId)}${rest}`;
export const message = (sessionId, messageId) => session(sessionId, `/messages/${id(messageId)}`);
export const chat = (sessionId, rest) => `/api/chat/${id(sessionId)}/${rest}`;
export const project = (projectId, rest = "") => `/api/projects/${id(projectId)}${rest}`;
export const file = (projectId, path) => project(projectId, `/files/${path.split("/").map(id).join("/")}`);

export const newId = () => crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

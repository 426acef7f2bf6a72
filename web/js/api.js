// The HTTP client. Every request goes through this module. It does not touch the page.

import { capitalize } from "./format.js";

const KEY_STORAGE = "echoic.key";

/** A failed request. `status` is 0 if the server could not be reached. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   * @param {any} [details]
   */
  constructor(status, code, message, details) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/** @param {unknown} error */
export const getErrorMessage = (error) => (error instanceof Error ? error.message : String(error));

/** @type {() => Promise<boolean>} */
let askForKey = async () => false;

/** @param {() => Promise<boolean>} ask resolves to whether the user entered a key */
export function onUnauthenticated(ask) {
  askForKey = ask;
}

export function getKey() {
  return sessionStorage.getItem(KEY_STORAGE) ?? localStorage.getItem(KEY_STORAGE);
}

/**
 * @param {string} key empty to sign out
 * @param {boolean} isPersistent keeps the key when the tab is closed
 */
export function setKey(key, isPersistent) {
  localStorage.removeItem(KEY_STORAGE);
  sessionStorage.removeItem(KEY_STORAGE);
  if (key) (isPersistent ? localStorage : sessionStorage).setItem(KEY_STORAGE, key);
}

/**
 * Sends a request. Throws an `ApiError` unless the status is 2xx.
 *
 * @param {string} method
 * @param {string} path
 * @param {RequestOptions} [options]
 */
export async function request(method, path, { body, headers = {}, signal, keepalive, key } = {}) {
  /** @type {Record<string, string>} */
  const requestHeaders = { ...headers };
  if (body !== undefined) requestHeaders["content-type"] = "application/json";
  for (;;) {
    const sentKey = key ?? getKey();
    if (sentKey) requestHeaders.authorization = `Bearer ${sentKey}`;
    let response;
    try {
      const content = body === undefined || body instanceof Blob ? body : JSON.stringify(body);
      response = await fetch(path, { method, headers: requestHeaders, body: content, signal, keepalive, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "unreachable", "Can’t reach the server.");
    }
    if (response.ok) return response;
    const mayRetry = response.status === 401 && key === undefined;
    // Another request may have led to a new key while this one was in flight.
    if (mayRetry && (getKey() !== sentKey || (await askForKey()))) continue;
    throw await readError(response);
  }
}

/** @param {Response} response */
async function readError(response) {
  const envelope = await response.json().catch(() => null);
  const message = capitalize(envelope?.message ?? `the server responded with status ${response.status}`);
  return new ApiError(response.status, envelope?.error?.code ?? "unknown", message, envelope?.error?.details);
}

/**
 * Returns the `data` of the response envelope.
 *
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @param {RequestOptions} [options]
 * @returns {Promise<any>}
 */
export async function call(method, path, body, options = {}) {
  const response = await request(method, path, { body, ...options });
  return (await response.json()).data;
}

/**
 * @param {string} path
 * @param {RequestOptions} [options]
 */
export const get = (path, options) => call("GET", path, undefined, options);

/**
 * @param {string} key
 * @returns {Promise<User>}
 */
export const getKeyOwner = (key) => get("/api/me", { key });

/** @param {Record<string, string | number | null | undefined>} values empty ones are left out */
export function buildQuery(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, String(value));
  }
  const text = query.toString();
  return text && `?${text}`;
}

const encode = encodeURIComponent;

/** @param {string} sessionId */
export const sessionPath = (sessionId, rest = "") => `/api/chat-sessions/${encode(sessionId)}${rest}`;

/**
 * @param {string} sessionId
 * @param {string} messageId
 */
export const messagePath = (sessionId, messageId) => sessionPath(sessionId, `/messages/${encode(messageId)}`);

/**
 * @param {string} sessionId
 * @param {string} action
 */
export const chatPath = (sessionId, action) => `/api/chat/${encode(sessionId)}/${action}`;

/** @param {string} projectId */
export const projectPath = (projectId, rest = "") => `/api/projects/${encode(projectId)}${rest}`;

/**
 * @param {string} projectId
 * @param {string} path
 */
export const filePath = (projectId, path) => projectPath(projectId, `/files/${path.split("/").map(encode).join("/")}`);

/** Returns a random id. `randomUUID` is missing on pages that are served without TLS. */
export function createId() {
  const toHex = (/** @type {number} */ byte) => byte.toString(16).padStart(2, "0");
  return crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), toHex).join("");
}

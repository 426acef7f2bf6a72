// The environment of the console's tests: the real server, a scripted provider, and Chromium.

import assert from "node:assert/strict";
import { createTab, getErrors, launchBrowser, TIMEOUT_MS } from "./browser.mjs";
import { startServer } from "./server.mjs";
import { startUpstream } from "./upstream.mjs";

/**
 * @typedef {import("playwright-core").BrowserContextOptions & { width?: number, height?: number, allow?: RegExp }} PageOptions
 */

/**
 * Starts the environment for one test file. Its pages may log errors that match `expected`.
 *
 * @param {Record<string, string>} [settings] environment variables of the server
 */
export async function start(settings, expected = /^$/) {
  const upstream = await startUpstream();
  const server = await startServer(upstream.url, settings);
  const browser = await launchBrowser();
  /** @type {BrowserContext[]} */
  const contexts = [];
  /** @type {Set<string>} */
  const requests = new Set();

  const openTab = async (/** @type {BrowserContext} */ context, /** @type {string} */ path, allow = expected) => {
    const page = await createTab(context);
    page.on("request", (request) => {
      const { origin, pathname } = new URL(request.url());
      if (origin === server.url) requests.add(`${request.method()} ${pathname}`);
    });
    page.on("console", (message) => {
      if (message.type() === "error" && !allow.test(message.text())) getErrors(page).push(`${message.text()} ${message.location().url}`);
    });
    await page.goto(`${server.url}/${path}`);
    return page;
  };

  /** Opens a page in a new browser profile. */
  const openPage = async (path = "", /** @type {PageOptions} */ { width = 1280, height = 800, allow = expected, ...options } = {}) => {
    const context = await browser.newContext({ viewport: { width, height }, reducedMotion: "reduce", locale: "en-GB", permissions: ["clipboard-read", "clipboard-write"], ...options });
    contexts.push(context);
    return openTab(context, path, allow);
  };

  const stop = async () => {
    const document = await (await fetch(`${server.url}/api/openapi.json`)).json();
    const errors = contexts.flatMap((context) => context.pages()).flatMap(getErrors);
    await browser.close();
    await server.stop();
    upstream.stop();
    assert.deepEqual(errors, [], "no page logged an error");
    assert.deepEqual(findUndocumented(requests, document), [], "the console uses documented routes only");
  };

  return { url: server.url, server, upstream, api: createApi(server.url), openPage, openTab, stop };
}

/**
 * Returns the requests that the OpenAPI document does not describe, apart from the console's files.
 *
 * @param {Set<string>} requests each a method and a path
 * @param {{ paths: Record<string, object> }} document
 */
function findUndocumented(requests, { paths }) {
  const routes = Object.entries(paths).flatMap(([path, methods]) => {
    const pattern = new RegExp(`^${path.replace(/[.]/g, "\\.").replace(/\{path\}/g, ".+").replace(/\{[^}]+\}/g, "[^/]+")}$`);
    return Object.keys(methods).map((method) => ({ method: method.toUpperCase(), pattern }));
  });
  return [...requests].filter((request) => {
    const [method, path] = request.split(" ");
    const isFile = method === "GET" && (path === "/" || path.startsWith("/assets/"));
    return !isFile && !routes.some((route) => route.method === method && route.pattern.test(path));
  });
}

/**
 * Returns a client of the API, to prepare and to check what a test does.
 *
 * @param {string} url
 * @param {string} [key]
 */
export function createApi(url, key) {
  const call = async (/** @type {string} */ method, /** @type {string} */ path, /** @type {unknown} */ body = undefined) => {
    const headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(url + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    const envelope = await response.json();
    assert.ok(envelope.success, `${method} ${path}: ${JSON.stringify(envelope)}`);
    return envelope.data;
  };
  return {
    call,
    /** @type {(fields?: object) => Promise<Session>} */
    createSession: (fields = {}) => call("POST", "/api/chat-sessions", fields),
    /** @type {(chatSessionId: string, role: Role, content: string, fields?: object) => Promise<void>} */
    addMessage: (chatSessionId, role, content, fields = {}) => call("POST", "/api/chat-messages", { chatSessionId, role, content, ...fields }),
    /** @type {(sessionId: string) => Promise<Message[]>} */
    listMessages: async (sessionId) => (await call("GET", `/api/chat-sessions/${sessionId}/messages`)).messages,
    /** @type {(query?: string) => Promise<Session[]>} */
    listSessions: async (query = "") => (await call("GET", `/api/chat-sessions?${query}`)).sessions,
  };
}

/**
 * Types a message and sends it.
 *
 * @param {Page} page
 * @param {string} text
 */
export async function sendMessage(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send", exact: true }).click();
}

/**
 * Returns the texts of the messages on the page.
 *
 * @param {Page} page
 */
export const getTexts = (page) => page.locator(".message .body").allInnerTexts();

/**
 * Returns the id of the chat in the address of a page.
 *
 * @param {Page} page
 */
export const getSessionId = (page) => new URL(page.url()).hash.split("/")[2];

/**
 * Waits until the last message is a finished reply.
 *
 * @param {Page} page
 */
export async function waitForReply(page) {
  await page.locator(".message.assistant:last-child:not([aria-busy]) > .tools").waitFor();
}

/**
 * Waits until `check` returns a truthy value.
 *
 * @param {() => unknown} check
 * @param {string} what names the condition in the error
 */
export async function waitUntil(check, what) {
  const end = Date.now() + TIMEOUT_MS;
  while (!(await check())) {
    assert.ok(Date.now() < end, `timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// What the browser tests stand on: the real server, a provider moved by hand, and Chromium.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { startServer } from "./server.mjs";
import { startUpstream } from "./upstream.mjs";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const PATIENCE_MS = 15_000;

/** Starts all of it for one test file; its pages may log what `expected` names. */
export async function start(settings, expected = /^$/) {
  const upstream = await startUpstream();
  const server = await startServer(upstream.url, settings);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  const contexts = [];
  const asked = new Set();
  const echoic = { url: server.url, server, upstream, browser, api: api(server.url) };

  /** A page of a fresh browser; it fails the test when it logs an error. */
  echoic.page = async (path = "", options = {}) => {
    const { width = 1280, height = 800, allow = expected, ...more } = options;
    const context = await browser.newContext({ viewport: { width, height }, reducedMotion: "reduce", locale: "en-GB", permissions: ["clipboard-read", "clipboard-write"], ...more });
    contexts.push(context);
    return echoic.tab(context, path, allow);
  };
  echoic.tab = async (context, path, allow) => {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    page.problems = [];
    page.on("request", (request) => {
      const { origin, pathname } = new URL(request.url());
      if (origin === server.url) asked.add(`${request.method()} ${pathname}`);
    });
    page.on("pageerror", (error) => page.problems.push(`${error.stack ?? error}`));
    page.on("console", (message) => {
      if (message.type() === "error" && !allow.test(message.text())) page.problems.push(`${message.text()} ${message.location().url}`);
    });
    await page.goto(`${server.url}/${path}`);
    return page;
  };
  echoic.stop = async () => {
    const document = await (await fetch(`${server.url}/api/openapi.json`)).json();
    const pages = contexts.flatMap((context) => context.pages());
    const problems = pages.flatMap((page) => page.problems);
    await browser.close();
    await server.stop();
    upstream.stop();
    assert.deepEqual(problems, [], "no page logged an error");
    assert.deepEqual(undocumented(asked, document), [], "the console uses documented routes only");
  };
  return echoic;
}

/** What was asked for that the OpenAPI document does not describe, beside the console's own files. */
function undocumented(asked, { paths }) {
  const described = Object.entries(paths).flatMap(([path, methods]) => {
    const shape = new RegExp(`^${path.replace(/[.]/g, "\\.").replace(/\{path\}/g, ".+").replace(/\{[^}]+\}/g, "[^/]+")}$`);
    return Object.keys(methods).map((method) => [method.toUpperCase(), shape]);
  });
  const isDescribed = (method, path) => described.some(([known, shape]) => known === method && shape.test(path));
  const isOwnFile = (method, path) => method === "GET" && (path === "/" || path.startsWith("/assets/"));
  return [...asked].filter((request) => !isDescribed(...request.split(" ")) && !isOwnFile(...request.split(" ")));
}

/** The API, for setting the stage and for looking behind it; `key` says who asks. */
export function api(url, key) {
  const call = async (method, path, body) => {
    const headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
    const envelope = await response.json();
    assert.ok(envelope.success, `${method} ${path}: ${JSON.stringify(envelope)}`);
    return envelope.data;
  };
  return {
    call,
    session: (fields = {}) => call("POST", "/api/chat-sessions", fields),
    say: (chatSessionId, role, content, more = {}) => call("POST", "/api/chat-messages", { chatSessionId, role, content, ...more }),
    messages: async (id, query = "") => (await call("GET", `/api/chat-sessions/${id}/messages?${query}`)).messages,
    sessions: async (query = "") => (await call("GET", `/api/chat-sessions?${query}`)).sessions,
  };
}

/** Writes a message and sends it. */
export async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send", exact: true }).click();
}

/** What the conversation shows, without the tools around each message. */
export const shown = (page) => page.locator(".message .body").allInnerTexts();

/** Waits until a reply is the last message and is done. */
export async function replied(page) {
  await page.locator(".message.assistant:last-child:not([aria-busy]) > .tools").waitFor();
}

/** Waits until something in the test's own process is so. */
export async function until(check, what) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await check();
    if (value) return value;
    assert.ok(Date.now() < end, `in vain waited for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

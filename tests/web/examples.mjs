// The environment of the tests of `examples/web`: the built pages, the real server, a scripted
// provider, and Chromium.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { createTab, launchBrowser, TIMEOUT_MS } from "./browser.mjs";
import { startServer } from "./server.mjs";
import { startUpstream } from "./upstream.mjs";

const FOLDER = fileURLToPath(new URL("../../examples/web", import.meta.url));
const VITE = join(FOLDER, "node_modules/vite/bin/vite.js");

/** Builds the pages and starts the environment for one test file. */
export async function startExamples() {
  /** @type {(() => unknown)[]} */
  const cleanups = [];
  const stop = async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  };
  try {
    const upstream = await startUpstream();
    cleanups.push(upstream.stop);
    const server = await startServer(upstream.url);
    cleanups.push(server.stop);
    const build = await mkdtemp(join(tmpdir(), "echoic-pages-"));
    cleanups.push(() => rm(build, { recursive: true, force: true }));
    await promisify(execFile)(process.execPath, [VITE, "build", "--outDir", build], { cwd: FOLDER });
    const preview = await startVite(["preview", "--outDir", build], server.url);
    cleanups.push(preview.stop);
    const browser = await launchBrowser();
    cleanups.push(() => browser.close());

    const openPage = async (/** @type {string} */ path, site = preview.url) => {
      const context = await browser.newContext({ locale: "en-GB" });
      return openTab(context, site + path);
    };
    const listMessages = (/** @type {string} */ session) => fetchMessages(server.url, session);
    return { url: preview.url, upstream, openPage, listMessages, server, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/**
 * Opens a tab in the browser profile of another page.
 *
 * @param {BrowserContext} context
 * @param {string} url
 */
export async function openTab(context, url) {
  const page = await createTab(context);
  await page.goto(url);
  return page;
}

/**
 * Starts Vite on a free port in front of a server, like `npm run dev` and `npm run preview`.
 *
 * @param {string[]} args
 * @param {string} serverUrl
 */
export async function startVite(args, serverUrl) {
  const env = { PATH: process.env.PATH, ECHOIC_URL: serverUrl, NO_COLOR: "1" };
  const child = spawn(process.execPath, [VITE, ...args, "--host", "127.0.0.1", "--port", "0"], { cwd: FOLDER, env, stdio: ["ignore", "pipe", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  /** @type {string} */
  const url = await new Promise((resolve, reject) => {
    let log = "";
    const timer = setTimeout(() => reject(new Error(`Vite did not start in time:\n${log}`)), TIMEOUT_MS);
    const read = (/** @type {string} */ text) => {
      log = (log + text).slice(-20_000);
      const found = /Local: +(http:\S+[^\s/])/.exec(log)?.[1];
      if (!found) return;
      clearTimeout(timer);
      resolve(found);
    };
    child.stdout.setEncoding("utf8").on("data", read);
    child.stderr.setEncoding("utf8").on("data", read);
    child.once("exit", (code) => reject(new Error(`Vite exited with ${code}:\n${log}`)));
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, "exit", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    child.kill("SIGTERM");
    await exit.finally(() => child.kill("SIGKILL"));
  };
  return { url, stop };
}

/**
 * Returns the stored messages of the current branch of a session.
 *
 * @param {string} url
 * @param {string} session
 * @returns {Promise<Message[]>}
 */
async function fetchMessages(url, session) {
  const envelope = await (await fetch(`${url}/api/chat-sessions/${session}/messages`)).json();
  assert.ok(envelope.success, JSON.stringify(envelope));
  return envelope.data.messages;
}

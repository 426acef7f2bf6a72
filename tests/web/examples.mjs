// The pages of `examples/web`, as they are built for use, between a real browser and the real
// server, whose provider moves only when a test lets it.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import { startServer } from "./server.mjs";
import { startUpstream } from "./upstream.mjs";

const FOLDER = fileURLToPath(new URL("../../examples/web", import.meta.url));
const VITE = join(FOLDER, "node_modules/vite/bin/vite.js");
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const PATIENCE_MS = 15_000;

/** Builds the pages and starts all that they need, for one test file. */
export async function startExamples() {
  const ends = [];
  const stop = async () => {
    for (const end of ends.splice(0).reverse()) await end();
  };
  try {
    const upstream = await startUpstream();
    ends.push(upstream.stop);
    const server = await startServer(upstream.url);
    ends.push(server.stop);
    const built = await mkdtemp(join(tmpdir(), "echoic-pages-"));
    ends.push(() => rm(built, { recursive: true, force: true }));
    await promisify(execFile)(process.execPath, [VITE, "build", "--outDir", built], { cwd: FOLDER });
    const preview = await startVite(["preview", "--outDir", built], server.url);
    ends.push(preview.stop);
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
    ends.push(() => browser.close());

    const open = async (path, site = preview.url) => {
      const context = await browser.newContext({ locale: "en-GB" });
      return openTab(context, site + path);
    };
    return { url: preview.url, upstream, open, messages: (session) => messages(server.url, session), server, stop };
  } catch (failure) {
    await stop();
    throw failure;
  }
}

/** One more tab of a browser that has a page open. */
export async function openTab(context, url) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(`${error.stack ?? error}`));
  await page.goto(url);
  return page;
}

/** Starts Vite on a free port, as `npm run …` does, in front of a server. */
export async function startVite(args, serverUrl) {
  const env = { PATH: process.env.PATH, ECHOIC_URL: serverUrl, NO_COLOR: "1" };
  const stdio = ["ignore", "pipe", "pipe"];
  const child = spawn(process.execPath, [VITE, ...args, "--host", "127.0.0.1", "--port", "0"], { cwd: FOLDER, env, stdio });
  process.once("exit", () => child.kill("SIGKILL"));
  const url = await new Promise((ready, fail) => {
    let log = "";
    const late = setTimeout(() => fail(new Error(`Vite was not ready:\n${log}`)), PATIENCE_MS);
    const read = (text) => {
      log = (log + text).slice(-20_000);
      const found = /Local: +(http:\S+[^\s/])/.exec(log)?.[1];
      if (!found) return;
      clearTimeout(late);
      ready(found);
    };
    child.stdout.setEncoding("utf8").on("data", read);
    child.stderr.setEncoding("utf8").on("data", read);
    child.once("exit", (code) => fail(new Error(`Vite ended with ${code}:\n${log}`)));
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, "exit", { signal: AbortSignal.timeout(PATIENCE_MS) });
    child.kill("SIGTERM");
    await exit.finally(() => child.kill("SIGKILL"));
  };
  return { url, stop };
}

/** What the server has stored of a session's shown path. */
async function messages(url, session) {
  const envelope = await (await fetch(`${url}/api/chat-sessions/${session}/messages`)).json();
  assert.ok(envelope.success, JSON.stringify(envelope));
  return envelope.data.messages;
}

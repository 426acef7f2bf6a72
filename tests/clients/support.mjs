// What the client tests stand on: the real server, with aimock as its provider.
// It knows nothing of what is tested. Every wait has a deadline; `stop` ends whatever was started.

import { LLMock } from "@copilotkit/aimock";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const MODEL = "gpt-4o-mini";
export const CLAUDE = "claude-sonnet-5-5";

const READY_MS = 20_000;
const ANSWER_MS = 10_000;
const EXIT_MS = 10_000;

/**
 * Starts a server of its own for a test file. `script` writes the provider's answers into the
 * LLMock it is given, which streams them a few characters at a time, in the words of the vendor
 * that `speaks` names.
 */
export async function start(script, { speaks = "openai" } = {}) {
  const ends = [];
  const stop = () => endAll(ends);
  try {
    const provider = new LLMock({ host: "127.0.0.1", port: 0, chunkSize: 8, latency: 2 });
    script(provider);
    await provider.start();
    ends.push(() => provider.stop());

    const folder = await mkdtemp(join(tmpdir(), "echoic-clients-"));
    ends.push(() => rm(folder, { recursive: true, force: true }));

    const server = spawnServer(folder, PROVIDERS[speaks](provider.url));
    ends.push(() => endServer(server));
    const url = await readyUrl(server);

    return { url, provider, api: api(url), prompts: () => prompts(provider), stop };
  } catch (failure) {
    await stop();
    throw failure;
  }
}

/** `fetch` with a deadline for the whole answer, its body included. */
export function fetchInTime(input, init) {
  // Not `AbortSignal.any`: Node 20 forgets the deadline in it at the next garbage collection.
  const end = new AbortController();
  for (const signal of [AbortSignal.timeout(ANSWER_MS), init?.signal]) {
    signal?.addEventListener("abort", () => end.abort(signal.reason));
  }
  return fetch(input, { ...init, signal: end.signal });
}

export function postJson(url, body) {
  const headers = { "content-type": "application/json" };
  return fetchInTime(url, { method: "POST", headers, body: JSON.stringify(body) });
}

/** The frames of a stream that must have ended with `[DONE]`, which is left out. */
export async function framesOf(response) {
  const lines = (await response.text()).split("\n");
  const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
  assert.equal(data.pop(), "[DONE]");
  return data.map((json) => JSON.parse(json));
}

/** The routes the tests read and poke besides the chat itself; each gives the envelope's `data`. */
function api(url) {
  const data = async (response) => {
    const envelope = await response.json();
    assert.ok(envelope.success, `${response.status}: ${JSON.stringify(envelope)}`);
    return envelope.data;
  };
  return {
    session: async (session) => data(await fetchInTime(`${url}/api/chat-sessions/${session}`)),
    messages: async (session, query = "") => {
      const path = `/api/chat-sessions/${session}/messages?${query}`;
      return (await data(await fetchInTime(url + path))).messages;
    },
    stop: async (session) => data(await postJson(`${url}/api/chat/${session}/stop`, {})),
  };
}

/** What the provider was asked, a list of messages for each request, without the system prompt. */
function prompts(provider) {
  const asked = provider.getRequests().map(({ body }) => body.messages);
  return asked.map((messages) => messages.filter(({ role }) => role !== "system"));
}

/** What tells the server where its provider is, by the words it speaks. */
const PROVIDERS = {
  openai: (url) => ({
    ECHOIC_PROVIDER: "openai",
    OPENAI_BASE_URL: `${url}/v1`,
    OPENAI_API_KEY: "mock",
    ECHOIC_MODEL: MODEL,
  }),
  // Found by its key alone.
  anthropic: (url) => ({
    ANTHROPIC_BASE_URL: url,
    ANTHROPIC_API_KEY: "mock",
    ECHOIC_MODEL: CLAUDE,
  }),
};

function spawnServer(folder, provider) {
  const binary = process.env.ECHOIC_BIN;
  if (!binary) throw new Error("set ECHOIC_BIN to the echoic binary to be tested");

  // Nothing is inherited: neither the environment nor a `.env` file decides what is tested.
  const env = {
    HOST: "127.0.0.1",
    PORT: "0",
    DATABASE_URL: `sqlite://${join(folder, "echoic.db")}`,
    ...provider,
  };
  const stdio = ["ignore", "ignore", "pipe"];
  const server = spawn(resolve(binary), ["serve"], { cwd: folder, env, stdio });
  process.once("exit", () => server.kill("SIGKILL"));
  return server;
}

/** The URL in the line by which the server says that it is ready. */
function readyUrl(server) {
  let deadline;
  const ready = new Promise((resolve, reject) => {
    let log = "";
    const fail = (why) => reject(new Error(`the server ${why}; its log:\n${log}`));
    deadline = setTimeout(fail, READY_MS, `was not ready within ${READY_MS} ms`);
    server.once("error", (error) => fail(`could not be started: ${error.message}`));
    server.once("exit", (code, signal) => fail(`ended with ${code ?? signal}`));
    // The listener stays for good, so that the pipe never fills up.
    server.stderr.setEncoding("utf8").on("data", (text) => {
      log += text;
      const url = /Echoic is ready: (http:[^\s,]+)/.exec(log)?.[1];
      if (url) resolve(url);
    });
  });
  return ready.finally(() => clearTimeout(deadline));
}

async function endServer(server) {
  const wasStarted = server.pid !== undefined;
  const hasEnded = server.exitCode !== null || server.signalCode !== null;
  if (!wasStarted || hasEnded) return;

  const exit = once(server, "exit", { signal: AbortSignal.timeout(EXIT_MS) });
  server.kill("SIGTERM");
  try {
    const [code] = await exit;
    assert.equal(code, 0, "the server ends cleanly");
  } finally {
    server.kill("SIGKILL");
  }
}

/** Ends the last started first, and all of them even if one fails. */
async function endAll(ends) {
  const failures = [];
  for (const end of ends.splice(0).reverse()) {
    await end().catch((failure) => failures.push(failure));
  }
  if (failures.length > 0) throw failures[0];
}

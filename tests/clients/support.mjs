// The environment of the client tests: the real server with aimock as its provider. Every wait has
// a time limit.

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
 * Starts a server and a provider for one test file. The provider streams its replies in chunks of a
 * few characters.
 *
 * @param {(provider: LLMock) => void} script defines the replies
 * @param {{ vendor?: string }} [options] the vendor whose API the provider has
 */
export async function start(script, { vendor = "openai" } = {}) {
  const cleanups = [];
  const stop = () => runCleanups(cleanups);
  try {
    const provider = new LLMock({ host: "127.0.0.1", port: 0, chunkSize: 8, latency: 2 });
    script(provider);
    await provider.start();
    cleanups.push(() => provider.stop());

    const folder = await mkdtemp(join(tmpdir(), "echoic-clients-"));
    cleanups.push(() => rm(folder, { recursive: true, force: true }));

    const server = spawnServer(folder, PROVIDERS[vendor](provider.url));
    cleanups.push(() => stopServer(server));
    const url = await waitUntilReady(server);

    return { url, provider, api: createApi(url), getPrompts: () => getPrompts(provider), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** `fetch` with a time limit for the whole response, including its body. */
export function fetchWithTimeout(input, init) {
  // Not `AbortSignal.any`: Node 20 loses its timeout at the next garbage collection.
  const controller = new AbortController();
  for (const signal of [AbortSignal.timeout(ANSWER_MS), init?.signal]) {
    signal?.addEventListener("abort", () => controller.abort(signal.reason));
  }
  return fetch(input, { ...init, signal: controller.signal });
}

export function postJson(url, body) {
  const headers = { "content-type": "application/json" };
  return fetchWithTimeout(url, { method: "POST", headers, body: JSON.stringify(body) });
}

/** Returns the frames of a stream. It must end with `[DONE]`, which is left out. */
export async function readFrames(response) {
  const lines = (await response.text()).split("\n");
  const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
  assert.equal(data.pop(), "[DONE]");
  return data.map((json) => JSON.parse(json));
}

/** Returns a client of the API, to check what a test did. */
function createApi(url) {
  const readData = async (response) => {
    const envelope = await response.json();
    assert.ok(envelope.success, `${response.status}: ${JSON.stringify(envelope)}`);
    return envelope.data;
  };
  return {
    getSession: async (session) => readData(await fetchWithTimeout(`${url}/api/chat-sessions/${session}`)),
    listMessages: async (session, query = "") => {
      const path = `/api/chat-sessions/${session}/messages?${query}`;
      return (await readData(await fetchWithTimeout(url + path))).messages;
    },
    stopTurn: async (session) => readData(await postJson(`${url}/api/chat/${session}/stop`, {})),
  };
}

/**
 * Returns the text of a message item of OpenAI's library.
 *
 * @param {any} item
 * @returns {string}
 */
export const getItemText = (item) => item.content[0].text;

/**
 * Returns a stream of values. TypeScript's DOM library lacks `ReadableStream.from`.
 *
 * @template T
 * @param {Iterable<T> | AsyncIterable<T>} values
 * @returns {ReadableStream<T>}
 */
export const toStream = (values) => /** @type {any} */ (ReadableStream).from(values);

/** Returns the messages of each request to the provider, without the system prompt. */
function getPrompts(provider) {
  const prompts = provider.getRequests().map(({ body }) => body.messages);
  return prompts.map((messages) => messages.filter(({ role }) => role !== "system"));
}

/** The settings that point the server to its provider, by vendor. */
const PROVIDERS = {
  openai: (url) => ({
    ECHOIC_PROVIDER: "openai",
    OPENAI_BASE_URL: `${url}/v1`,
    OPENAI_API_KEY: "mock",
    ECHOIC_MODEL: MODEL,
  }),
  // The server selects this provider by its key.
  anthropic: (url) => ({
    ANTHROPIC_BASE_URL: url,
    ANTHROPIC_API_KEY: "mock",
    ECHOIC_MODEL: CLAUDE,
  }),
};

function spawnServer(folder, provider) {
  const binary = process.env.ECHOIC_BIN;
  if (!binary) throw new Error("ECHOIC_BIN must name the echoic binary to test");

  // Neither the environment nor a `.env` file may change what is tested.
  const env = {
    HOST: "127.0.0.1",
    PORT: "0",
    DATABASE_URL: `sqlite://${join(folder, "echoic.db")}`,
    ...provider,
  };
  const server = spawn(resolve(binary), ["serve"], { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });
  process.once("exit", () => server.kill("SIGKILL"));
  return server;
}

/** Resolves to the URL in the server's log line that says it is ready. */
function waitUntilReady(server) {
  let timer;
  const ready = new Promise((resolve, reject) => {
    let log = "";
    const fail = (reason) => reject(new Error(`the server ${reason}; its log:\n${log}`));
    timer = setTimeout(fail, READY_MS, `was not ready within ${READY_MS} ms`);
    server.once("error", (error) => fail(`could not be started: ${error.message}`));
    server.once("exit", (code, signal) => fail(`exited with ${code ?? signal}`));
    // The listener stays, so that the pipe never fills up.
    server.stderr.setEncoding("utf8").on("data", (text) => {
      log += text;
      const url = /Echoic is ready: (http:[^\s,]+)/.exec(log)?.[1];
      if (url) resolve(url);
    });
  });
  return ready.finally(() => clearTimeout(timer));
}

async function stopServer(server) {
  const wasStarted = server.pid !== undefined;
  const hasEnded = server.exitCode !== null || server.signalCode !== null;
  if (!wasStarted || hasEnded) return;

  const exit = once(server, "exit", { signal: AbortSignal.timeout(EXIT_MS) });
  server.kill("SIGTERM");
  try {
    const [code] = await exit;
    assert.equal(code, 0, "the server exits cleanly");
  } finally {
    server.kill("SIGKILL");
  }
}

/** Runs the last one first, and all of them even if one fails. */
async function runCleanups(cleanups) {
  const errors = [];
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup().catch((error) => errors.push(error));
  }
  if (errors.length > 0) throw errors[0];
}

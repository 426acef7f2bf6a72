// The server under test, with a database of its own.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

const READY_MS = 30_000;
const EXIT_MS = 15_000;

/** @typedef {import("node:child_process").ChildProcessByStdio<null, null, import("node:stream").Readable>} ServerProcess */

/**
 * Starts a server on a free port.
 *
 * @param {string} upstreamUrl
 * @param {Record<string, string>} [settings] more environment variables
 */
export async function startServer(upstreamUrl, settings = {}) {
  const folder = await mkdtemp(join(tmpdir(), "echoic-web-"));
  const env = {
    HOST: "127.0.0.1",
    PORT: "0",
    DATABASE_URL: `sqlite://${join(folder, "echoic.db")}`,
    ECHOIC_PROVIDER: "openai",
    OPENAI_BASE_URL: upstreamUrl,
    OPENAI_API_KEY: "mock",
    ECHOIC_MODEL: "gated-1",
    ECHOIC_SHUTDOWN_GRACE: "1s",
    ...settings,
  };
  const { child: first, url } = await launch(folder, env);
  let child = first;
  const shutDown = () => endProcess(child);
  return {
    url,
    shutDown,
    /** Starts the server again on the same port. */
    async restart() {
      ({ child } = await launch(folder, { ...env, PORT: new URL(url).port }));
    },
    /**
     * Runs a command of the binary on the same database and returns its output.
     *
     * @param {...string} args
     */
    async run(...args) {
      const { stdout } = await promisify(execFile)(getBinary(), args, { cwd: folder, env: { DATABASE_URL: env.DATABASE_URL } });
      return stdout.trim();
    },
    async stop() {
      await shutDown();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function getBinary() {
  if (!process.env.ECHOIC_BIN) throw new Error("ECHOIC_BIN must name the echoic binary to test");
  return resolve(process.env.ECHOIC_BIN);
}

/**
 * @param {string} folder
 * @param {Record<string, string>} env
 */
async function launch(folder, env) {
  const child = spawn(getBinary(), ["serve"], { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  /** @type {string} */
  const url = await new Promise((resolve, reject) => {
    let log = "";
    const timer = setTimeout(() => reject(new Error(`the server did not start in time:\n${log}`)), READY_MS);
    child.once("exit", (code) => reject(new Error(`the server exited with ${code}:\n${log}`)));
    child.stderr.setEncoding("utf8").on("data", (text) => {
      log = (log + text).slice(-20_000);
      const found = /Echoic is ready: (http:[^\s,]+)/.exec(log)?.[1];
      if (!found) return;
      clearTimeout(timer);
      resolve(found);
    });
  });
  return { child, url };
}

/** @param {ServerProcess} child */
async function endProcess(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit", { signal: AbortSignal.timeout(EXIT_MS) });
  child.kill("SIGTERM");
  await exit.finally(() => child.kill("SIGKILL"));
}

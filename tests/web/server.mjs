// The real server with a store of its own, for one test file.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

const READY_MS = 30_000;
const EXIT_MS = 15_000;

/** Starts a server on a port, or a free one; `end()` stops it, and `again()` starts it once more there. */
export async function startServer(upstreamUrl, more = {}) {
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
    ...more,
  };
  let running = await launch(folder, env);
  const server = { url: running.url };
  server.end = () => endProcess(running.process);
  server.again = async () => {
    running = await launch(folder, { ...env, PORT: new URL(server.url).port });
  };
  /** What a command of the program prints, told beside the running server. */
  server.run = async (...args) => {
    const { stdout } = await promisify(execFile)(binary(), args, { cwd: folder, env: { DATABASE_URL: env.DATABASE_URL } });
    return stdout.trim();
  };
  server.stop = async () => {
    await server.end();
    await rm(folder, { recursive: true, force: true });
  };
  return server;
}

function binary() {
  if (!process.env.ECHOIC_BIN) throw new Error("set ECHOIC_BIN to the echoic binary to be tested");
  return resolve(process.env.ECHOIC_BIN);
}

async function launch(folder, env) {
  const child = spawn(binary(), ["serve"], { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  const url = await new Promise((ready, fail) => {
    let log = "";
    const late = setTimeout(() => fail(new Error(`the server was not ready:\n${log}`)), READY_MS);
    child.once("exit", (code) => fail(new Error(`the server ended with ${code}:\n${log}`)));
    child.stderr.setEncoding("utf8").on("data", (text) => {
      log = (log + text).slice(-20_000);
      const found = /Echoic is ready: (http:[^\s,]+)/.exec(log)?.[1];
      if (!found) return;
      clearTimeout(late);
      ready(found);
    });
  });
  return { process: child, url };
}

async function endProcess(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit", { signal: AbortSignal.timeout(EXIT_MS) });
  child.kill("SIGTERM");
  await exit.finally(() => child.kill("SIGKILL"));
}

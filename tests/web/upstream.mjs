// A provider over real sockets that speaks Chat Completions and moves only when a test tells it.

import { once } from "node:events";
import { createServer } from "node:http";

const PATIENCE_MS = 15_000;

/** One request that waits for its answer. */
class Call {
  #response;

  constructor(request, response) {
    this.request = request;
    this.#response = response;
  }

  /** What was said in the newest message of the prompt. */
  get asked() {
    const content = this.request.messages.at(-1).content;
    return typeof content === "string" ? content : content.map(({ text }) => text ?? "").join("");
  }

  text(content) {
    this.#chunk({ choices: [{ index: 0, delta: { content }, finish_reason: null }] });
    return this;
  }

  reasoning(text) {
    this.#chunk({ choices: [{ index: 0, delta: { reasoning_content: text }, finish_reason: null }] });
    return this;
  }

  /** Begins a function call; `arguments` are what follows of it. */
  toolCall(id, name) {
    return this.#toolCalls({ index: 0, id, type: "function", function: { name, arguments: "" } });
  }

  arguments(more) {
    return this.#toolCalls({ index: 0, function: { arguments: more } });
  }

  #toolCalls(call) {
    this.#chunk({ choices: [{ index: 0, delta: { tool_calls: [call] }, finish_reason: null }] });
    return this;
  }

  finish(usage = { prompt_tokens: 812, completion_tokens: 95, prompt_tokens_details: { cached_tokens: 640 } }) {
    this.#chunk({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    this.#chunk({ choices: [], usage });
    this.#response.end("data: [DONE]\n\n");
  }

  reply(content) {
    this.text(content).finish();
  }

  refuse(status, message) {
    this.#response.writeHead(status, { "content-type": "application/json" });
    this.#response.end(JSON.stringify({ error: { message } }));
  }

  /** Breaks the connection. */
  cut() {
    this.#response.destroy();
  }

  #chunk(chunk) {
    if (!this.#response.headersSent) this.#response.writeHead(200, { "content-type": "text/event-stream" });
    this.#response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", ...chunk })}\n\n`);
  }
}

/** Starts the provider. Without `script`, tests take the calls by `call()` and answer them. */
export async function startUpstream() {
  const calls = [];
  const waiting = [];
  const upstream = { script: null };
  const server = createServer(async (request, response) => {
    if (request.url.endsWith("/models")) {
      response.setHeader("content-type", "application/json");
      return response.end(JSON.stringify({ object: "list", data: ["gated-1", "gpt-4o-mini"].map((id) => ({ id, object: "model", owned_by: "tests" })) }));
    }
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    const call = new Call(JSON.parse(body), response);
    if (upstream.script) return upstream.script(call);
    const taker = waiting.shift();
    if (taker) taker(call);
    else calls.push(call);
  });
  // Node closes what was idle for five seconds, just when it may be used again.
  server.keepAliveTimeout = 0;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");

  upstream.url = `http://127.0.0.1:${server.address().port}/v1`;
  /** The next request; waits for it. */
  upstream.call = () => {
    if (calls.length > 0) return Promise.resolve(calls.shift());
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("the provider was not asked")), PATIENCE_MS);
      waiting.push((call) => {
        clearTimeout(late);
        resolve(call);
      });
    });
  };
  upstream.stop = () => {
    server.closeAllConnections();
    server.close();
  };
  return upstream;
}

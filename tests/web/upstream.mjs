// A provider with the Chat Completions API whose replies are controlled by the test.

import { once } from "node:events";
import { createServer } from "node:http";
import { TIMEOUT_MS } from "./browser.mjs";

/** @typedef {{ role: string, content: string | { type: string, text?: string, image_url?: { url: string } }[] }} ProviderMessage */
/** @typedef {{ model: string, temperature?: number, messages: ProviderMessage[] }} ProviderRequest */

/** A request that the test has to answer. */
class Call {
  #response;

  /**
   * @param {ProviderRequest} request
   * @param {import("node:http").ServerResponse} response
   */
  constructor(request, response) {
    this.request = request;
    this.#response = response;
  }

  /** The text of the last message of the prompt. */
  get lastText() {
    const content = this.request.messages.at(-1)?.content ?? "";
    return typeof content === "string" ? content : content.map(({ text }) => text ?? "").join("");
  }

  /** @param {string} content */
  text(content) {
    this.#sendDelta({ content });
    return this;
  }

  /** @param {string} text */
  reasoning(text) {
    this.#sendDelta({ reasoning_content: text });
    return this;
  }

  /**
   * Starts a tool call. Its arguments follow with `toolArguments`.
   *
   * @param {string} id
   * @param {string} name
   */
  toolCall(id, name) {
    this.#sendDelta({ tool_calls: [{ index: 0, id, type: "function", function: { name, arguments: "" } }] });
    return this;
  }

  /** @param {string} json a part of the arguments */
  toolArguments(json) {
    this.#sendDelta({ tool_calls: [{ index: 0, function: { arguments: json } }] });
    return this;
  }

  finish(usage = { prompt_tokens: 812, completion_tokens: 95, prompt_tokens_details: { cached_tokens: 640 } }) {
    this.#sendChunk({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    this.#sendChunk({ choices: [], usage });
    this.#response.end("data: [DONE]\n\n");
  }

  /** @param {string} content */
  reply(content) {
    this.text(content).finish();
  }

  /**
   * @param {number} status
   * @param {string} message
   */
  refuse(status, message) {
    this.#response.writeHead(status, { "content-type": "application/json" });
    this.#response.end(JSON.stringify({ error: { message } }));
  }

  /** @param {object} delta */
  #sendDelta(delta) {
    this.#sendChunk({ choices: [{ index: 0, delta, finish_reason: null }] });
  }

  /** @param {object} chunk */
  #sendChunk(chunk) {
    if (!this.#response.headersSent) this.#response.writeHead(200, { "content-type": "text/event-stream" });
    this.#response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", ...chunk })}\n\n`);
  }
}

export async function startUpstream() {
  /** @type {Call[]} */
  const calls = [];
  /** @type {((call: Call) => void)[]} */
  const waiting = [];
  const server = createServer(async (request, response) => {
    if (request.url?.endsWith("/models")) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ object: "list", data: ["gated-1", "gpt-4o-mini"].map((id) => ({ id, object: "model", owned_by: "tests" })) }));
      return;
    }
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const call = new Call(JSON.parse(body), response);
    const resolve = waiting.shift();
    if (resolve) resolve(call);
    else calls.push(call);
  });
  // By default Node closes idle connections after five seconds, perhaps while a request is on its
  // way.
  server.keepAliveTimeout = 0;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}/v1`,
    /**
     * Resolves to the next request.
     *
     * @returns {Promise<Call>}
     */
    nextCall() {
      const call = calls.shift();
      if (call) return Promise.resolve(call);
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error("the provider received no request")), TIMEOUT_MS);
        waiting.push((next) => {
          clearTimeout(timer);
          resolve(next);
        });
      });
    },
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}

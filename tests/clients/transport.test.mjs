// The AI SDK's own transport and stream parser: replies, chunk sizes, regenerate, errors and stop.

import { DefaultChatTransport, readUIMessageStream } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { fetchWithTimeout, MODEL, postJson, start, toStream } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";
const USAGE = {
  promptTokens: 21,
  cachedTokens: 0,
  completionTokens: 13,
  reasoningTokens: 0,
  estimated: false,
};

/** Lets the provider send the reply that it holds back. */
let release;
const released = new Promise((resolve) => (release = resolve));

const echoic = await start((provider) => {
  const usage = { prompt_tokens: USAGE.promptTokens, completion_tokens: USAGE.completionTokens };
  provider.onMessage("greet", { content: ANSWER, usage });
  provider.on({ userMessage: "dice", sequenceIndex: 0 }, { content: "A two." });
  provider.on({ userMessage: "dice", sequenceIndex: 1 }, { content: "A five." });
  provider.onMessage("refuse", { error: { message: "overloaded" }, status: 500 });
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 4 });
  provider.onMessage("wait", () => released.then(() => ({ content: "too late" })));
});
after(echoic.stop);

const transport = new DefaultChatTransport({ api: `${echoic.url}/api/chat`, fetch: fetchWithTimeout });

test("streamed message equals the stored message", async () => {
  const message = await readMessage(await send("whole", "greet me"));

  const stored = (await echoic.api.listMessages("whole")).at(-1);
  assert.equal(message.id, stored.id);
  assert.equal(message.role, "assistant");
  assert.equal(getText(message), ANSWER);
  assert.equal(stored.content, ANSWER);
  assert.equal(message.metadata.sessionId, "whole");
  assert.equal(message.metadata.model, MODEL);
  assert.deepEqual(message.metadata.usage, stored.usage);
  const { firstTokenMs, ...usage } = stored.usage;
  assert.deepEqual(usage, USAGE);
  assert.ok(Number.isInteger(firstTokenMs), `${firstTokenMs}`);
});

test("chunk size does not change the parsed message", async () => {
  const response = await postJson(`${echoic.url}/api/chat`, { message: "greet me" });
  const bytes = new Uint8Array(await response.arrayBuffer());
  const expected = await readMessage(await replay(bytes, bytes.length));
  assert.equal(getText(expected), ANSWER);

  for (const size of [1, 2, 7, 64]) {
    assert.deepEqual(await readMessage(await replay(bytes, size)), expected, `chunks of ${size}`);
  }
});

test("regenerated reply replaces the first as its sibling", async () => {
  const first = await readMessage(await send("again", "roll the dice"));
  const second = await readMessage(await send("again", "roll the dice", { regenerate: first.id }));

  assert.deepEqual([first, second].map(getText), ["A two.", "A five."]);
  const path = await echoic.api.listMessages("again");
  assert.deepEqual(path.map(({ content }) => content), ["roll the dice", "A five."]);
  assert.equal(path[1].id, second.id);
  assert.deepEqual(path[1].siblingIds, [first.id, second.id]);
  assert.deepEqual(echoic.getPrompts().at(-1), [{ role: "user", content: "roll the dice" }]);
});

test("refused request sends an error and fails the message", async () => {
  const chunks = await readChunks(await send("refused", "refuse this"));

  const types = chunks.map(({ type }) => type);
  assert.deepEqual(types, ["start", "data-session", "start-step", "error"]);
  const stored = (await echoic.api.listMessages("refused")).at(-1);
  assert.equal(stored.id, chunks[0].messageId);
  assert.equal(stored.status, "failed");
  assert.deepEqual(stored.error, { code: "provider_error", message: chunks.at(-1).errorText });
});

test("broken stream sends an error and keeps the text", async () => {
  const chunks = await readChunks(await send("broken", "break off"));

  assert.equal(chunks.at(-1).type, "error");
  const stored = (await echoic.api.listMessages("broken")).at(-1);
  assert.equal(stored.status, "failed");
  assert.equal(stored.content, chunks.map(({ delta }) => delta ?? "").join(""));
  assert.ok(ANSWER.startsWith(stored.content) && stored.content !== ANSWER, stored.content);
});

test("stopped reply ends with an abort chunk", async () => {
  const stream = (await send("stopped", "wait for it")).values();
  const { value: opening } = await stream.next();
  assert.equal(opening.type, "start");

  assert.deepEqual(await echoic.api.stopTurn("stopped"), { stopped: true });
  release();

  const rest = await readChunks(stream);
  assert.equal(rest.at(-1).type, "abort");
  const stored = (await echoic.api.listMessages("stopped")).at(-1);
  assert.equal(stored.id, opening.messageId);
  assert.equal(stored.status, "interrupted");
});

/**
 * Sends the first message of a session or, with the id of a reply, regenerates that.
 *
 * @param {string} chatId
 * @param {string} text
 * @param {{ regenerate?: string, through?: DefaultChatTransport<import("ai").UIMessage> }} [options]
 */
function send(chatId, text, { regenerate, through = transport } = {}) {
  /** @type {import("ai").UIMessage} */
  const message = { id: `${chatId}-1`, role: "user", parts: [{ type: "text", text }] };
  const trigger = regenerate ? "regenerate-message" : "submit-message";
  return through.sendMessages({ chatId, messages: [message], trigger, messageId: regenerate, abortSignal: undefined });
}

/** Returns the stream that the SDK reads when `bytes` arrive in chunks of `size`. */
function replay(bytes, size) {
  const chunks = async function* () {
    for (let i = 0; i < bytes.length; i += size) yield bytes.subarray(i, i + size);
  };
  const fetchRecorded = async () => new Response(toStream(chunks()));
  const through = new DefaultChatTransport({ api: echoic.url, fetch: fetchRecorded });
  return send("replayed", "greet me", { through });
}

/** Returns the message when its stream has ended without an error. */
async function readMessage(stream) {
  let last;
  for await (const state of readUIMessageStream({ stream, terminateOnError: true })) last = state;
  return last;
}

async function readChunks(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function getText(message) {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

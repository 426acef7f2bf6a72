// The AI SDK's own transport and stream parser against the server: what they make of a reply, of
// the same bytes cut anywhere, of a reply made again, of one that fails and of one that is stopped.

import { DefaultChatTransport, readUIMessageStream } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { fetchInTime, MODEL, postJson, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";
const USAGE = {
  promptTokens: 21,
  cachedTokens: 0,
  completionTokens: 13,
  reasoningTokens: 0,
  estimated: false,
};

/** Lets the provider answer the question it holds back. */
let release;
const held = new Promise((resolve) => (release = resolve));

const echoic = await start((provider) => {
  const usage = { prompt_tokens: USAGE.promptTokens, completion_tokens: USAGE.completionTokens };
  provider.onMessage("greet", { content: ANSWER, usage });
  provider.on({ userMessage: "dice", sequenceIndex: 0 }, { content: "A two." });
  provider.on({ userMessage: "dice", sequenceIndex: 1 }, { content: "A five." });
  provider.onMessage("refuse", { error: { message: "overloaded" }, status: 500 });
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 4 });
  provider.onMessage("wait", () => held.then(() => ({ content: "too late" })));
});
after(echoic.stop);

const transport = new DefaultChatTransport({ api: `${echoic.url}/api/chat`, fetch: fetchInTime });

test("a reply becomes the message that the server stored", async () => {
  const message = await lastStateOf(await send("whole", "greet me"));

  const stored = (await echoic.api.messages("whole")).at(-1);
  assert.equal(message.id, stored.id);
  assert.equal(message.role, "assistant");
  assert.equal(textOf(message), ANSWER);
  assert.equal(stored.content, ANSWER);
  assert.equal(message.metadata.sessionId, "whole");
  assert.equal(message.metadata.model, MODEL);
  assert.deepEqual(message.metadata.usage, stored.usage);
  const { firstTokenMs, ...usage } = stored.usage;
  assert.deepEqual(usage, USAGE);
  assert.ok(Number.isInteger(firstTokenMs), `${firstTokenMs}`);
});

test("recorded bytes give the same message, however the network cuts them", async () => {
  const response = await postJson(`${echoic.url}/api/chat`, { message: "greet me" });
  const bytes = new Uint8Array(await response.arrayBuffer());
  const inOnePiece = await lastStateOf(await replay(bytes, bytes.length));
  assert.equal(textOf(inOnePiece), ANSWER);

  for (const size of [1, 2, 7, 64]) {
    assert.deepEqual(await lastStateOf(await replay(bytes, size)), inOnePiece, `pieces of ${size}`);
  }
});

test("a regenerated reply is a sibling and takes the place of the first", async () => {
  const first = await lastStateOf(await send("again", "roll the dice"));
  const second = await lastStateOf(await send("again", "roll the dice", { again: first.id }));

  assert.deepEqual([first, second].map(textOf), ["A two.", "A five."]);
  const path = await echoic.api.messages("again");
  assert.deepEqual(path.map(({ content }) => content), ["roll the dice", "A five."]);
  assert.equal(path[1].id, second.id);
  assert.deepEqual(path[1].siblingIds, [first.id, second.id]);
  assert.deepEqual(echoic.prompts().at(-1), [{ role: "user", content: "roll the dice" }]);
});

test("a provider that refuses is an error chunk and a failed message", async () => {
  const chunks = await chunksOf(await send("refused", "refuse this"));

  const types = chunks.map(({ type }) => type);
  assert.deepEqual(types, ["start", "data-session", "start-step", "error"]);
  const stored = (await echoic.api.messages("refused")).at(-1);
  assert.equal(stored.id, chunks[0].messageId);
  assert.equal(stored.status, "failed");
  assert.deepEqual(stored.error, { code: "provider_error", message: chunks.at(-1).errorText });
});

test("a provider that breaks off is an error chunk, and what it said is kept", async () => {
  const chunks = await chunksOf(await send("broken", "break off"));

  assert.equal(chunks.at(-1).type, "error");
  const stored = (await echoic.api.messages("broken")).at(-1);
  assert.equal(stored.status, "failed");
  assert.equal(stored.content, chunks.map(({ delta }) => delta ?? "").join(""));
  assert.ok(ANSWER.startsWith(stored.content) && stored.content !== ANSWER, stored.content);
});

test("a reply stopped while the provider is silent ends with an abort chunk", async () => {
  const stream = (await send("stopped", "wait for it")).values();
  const { value: opening } = await stream.next();
  assert.equal(opening.type, "start");

  assert.deepEqual(await echoic.api.stop("stopped"), { stopped: true });
  release();

  const rest = await chunksOf(stream);
  assert.equal(rest.at(-1).type, "abort");
  const stored = (await echoic.api.messages("stopped")).at(-1);
  assert.equal(stored.id, opening.messageId);
  assert.equal(stored.status, "interrupted");
});

/** Says `text` as the first message of a session or, given a reply, asks for it `again`. */
function send(chatId, text, { again, through = transport } = {}) {
  const message = { id: `${chatId}-1`, role: "user", parts: [{ type: "text", text }] };
  const trigger = again ? "regenerate-message" : "submit-message";
  return through.sendMessages({ chatId, messages: [message], trigger, messageId: again });
}

/** The stream that the SDK reads when the network brings `bytes` in pieces of `size`. */
function replay(bytes, size) {
  const pieces = async function* () {
    for (let i = 0; i < bytes.length; i += size) yield bytes.subarray(i, i + size);
  };
  const recorded = async () => new Response(ReadableStream.from(pieces()));
  const through = new DefaultChatTransport({ api: echoic.url, fetch: recorded });
  return send("replayed", "greet me", { through });
}

/** The message as it stands when its stream has ended without an error. */
async function lastStateOf(stream) {
  let last;
  for await (const state of readUIMessageStream({ stream, terminateOnError: true })) last = state;
  return last;
}

async function chunksOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function textOf(message) {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

// Resuming a reply with the AI SDK after a lost connection: through its transport, and as a page.

import { DefaultChatTransport, generateId, readUIMessageStream } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getTexts, openPage } from "./page.mjs";
import { fetchWithTimeout, postJson, start, toStream } from "./support.mjs";

const HALVES = ["Es war einmal 你好, ", "und alles wurde gut."];
const TALE = HALVES.join("");

/** Lets the provider send the second half of the reply. */
let release;

const echoic = await start((provider) => {
  provider.mount("/v1/chat/completions", { handleRequest: replyInHalves });
});
after(echoic.stop);

const transport = new DefaultChatTransport({ api: `${echoic.url}/api/chat`, fetch: fetchWithTimeout });

test("resumed stream equals the unbroken stream", async () => {
  const question = createMessage("Tell me a tale.");
  const connection = new AbortController();
  const stream = (await send("resumed", question, connection.signal)).values();
  const before = await readUntilText(stream);
  // A repeated message joins the turn that it started.
  const unbroken = await send("resumed", question);

  connection.abort();
  await assert.rejects(stream.next(), { name: "AbortError" });
  const resumed = await transport.reconnectToStream({ chatId: "resumed" });
  release();

  const [chunks, expected] = await Promise.all([resumed, unbroken].map(readChunks));
  assert.deepEqual(chunks.slice(0, before.length), before);
  assert.deepEqual(chunks, expected);
  const message = await readMessage(chunks);
  const history = await echoic.api.listMessages("resumed");
  assert.deepEqual(history.map(({ content }) => content), ["Tell me a tale.", TALE]);
  assert.equal(history[1].status, "complete");
  assert.equal(message.id, history[1].id);
  assert.equal(getText(message), TALE);
});

test("idle session has nothing to resume", async () => {
  await postJson(`${echoic.url}/api/chat-sessions`, { sessionId: "ended" });
  assert.equal(await transport.reconnectToStream({ chatId: "ended" }), null);

  const chunks = await completeTurn("ended", "Tell me a tale.");

  assert.equal(chunks.at(-1).type, "finish");
  assert.equal(await transport.reconnectToStream({ chatId: "ended" }), null);
});

test("page opened during a reply shows it whole and once", async () => {
  await completeTurn("reopened", "Tell me a tale.");
  await startAndLeave("reopened", "Once more!");
  const before = await echoic.api.listMessages("reopened", "format=ui");
  const page = openPage(echoic.url, "reopened", before, fetchThenRelease);
  assert.deepEqual(getTexts(page), ["Tell me a tale.", TALE, "Once more!"]);

  await page.resumeStream();

  assert.equal(page.status, "ready");
  assert.deepEqual(getTexts(page), ["Tell me a tale.", TALE, "Once more!", TALE]);
  const history = await echoic.api.listMessages("reopened");
  assert.deepEqual(page.messages.map(({ id }) => id), history.map(({ id }) => id));
});

test("page with nothing to resume stays unchanged", async () => {
  await completeTurn("settled", "Tell me a tale.");
  const page = openPage(echoic.url, "settled", await echoic.api.listMessages("settled", "format=ui"));

  await page.resumeStream();

  assert.equal(page.status, "ready");
  assert.deepEqual(getTexts(page), ["Tell me a tale.", TALE]);
});

/** Replies like OpenAI. The second half waits for `release`. */
async function replyInHalves(_request, response) {
  const sendChoice = (choice) => {
    const chunk = { object: "chat.completion.chunk", choices: [{ index: 0, ...choice }] };
    response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  };
  response.setHeader("content-type", "text/event-stream");
  sendChoice({ delta: { role: "assistant", content: HALVES[0] }, finish_reason: null });
  await new Promise((resolve) => (release = resolve));
  sendChoice({ delta: { content: HALVES[1] }, finish_reason: null });
  sendChoice({ delta: {}, finish_reason: "stop" });
  response.end("data: [DONE]\n\n");
  return true;
}

/** Sends a message and reads the reply to its end. */
async function completeTurn(chatId, text) {
  const stream = (await send(chatId, createMessage(text))).values();
  const first = await readUntilText(stream);
  release();
  return [...first, ...(await readChunks(stream))];
}

/** Sends a message and disconnects in the middle of the reply. */
async function startAndLeave(chatId, text) {
  const connection = new AbortController();
  await readUntilText((await send(chatId, createMessage(text), connection.signal)).values());
  connection.abort();
}

/** `fetch` that calls `release` after the response headers. */
async function fetchThenRelease(input, init) {
  const response = await fetchWithTimeout(input, init);
  release();
  return response;
}

function send(chatId, message, abortSignal = undefined) {
  const request = { chatId, messages: [message], messageId: undefined, abortSignal };
  return transport.sendMessages({ ...request, trigger: "submit-message" });
}

/** @returns {import("ai").UIMessage} */
function createMessage(text) {
  return { id: generateId(), role: "user", parts: [{ type: "text", text }] };
}

/** Returns the chunks up to the first text of the reply. */
async function readUntilText(stream) {
  const chunks = [];
  while (chunks.at(-1)?.type !== "text-delta") {
    const { done, value } = await stream.next();
    assert.ok(!done, "the stream has text");
    chunks.push(value);
  }
  return chunks;
}

async function readChunks(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/** Returns the message that the SDK assembles from chunks. */
async function readMessage(chunks) {
  const stream = toStream(chunks);
  let last;
  for await (const state of readUIMessageStream({ stream, terminateOnError: true })) last = state;
  return last;
}

function getText(message) {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

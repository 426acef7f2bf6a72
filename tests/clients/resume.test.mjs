// A connection that drops in the middle of a reply, and the AI SDK coming back for it: through its
// transport, and as a chat page that is opened anew.

import { DefaultChatTransport, generateId, readUIMessageStream } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { openPage, shown } from "./page.mjs";
import { fetchInTime, postJson, start } from "./support.mjs";

const HALVES = ["Es war einmal 你好, ", "und alles wurde gut."];
const TALE = HALVES.join("");

/** Lets the provider tell the second half of the tale. */
let goOn;

const echoic = await start((provider) => {
  provider.mount("/v1/chat/completions", { handleRequest: tellInHalves });
});
after(echoic.stop);

const transport = new DefaultChatTransport({ api: `${echoic.url}/api/chat`, fetch: fetchInTime });

test("a reply is resumed whole, as a reader without a break gets it", async () => {
  const question = asked("Tell me a tale.");
  const connection = new AbortController();
  const stream = (await send("resumed", question, connection.signal)).values();
  const before = await untilText(stream);
  // The same message again joins the turn that it began.
  const unbroken = await send("resumed", question);

  connection.abort();
  await assert.rejects(stream.next(), { name: "AbortError" });
  const resumed = await transport.reconnectToStream({ chatId: "resumed" });
  goOn();

  const [chunks, expected] = await Promise.all([resumed, unbroken].map(chunksOf));
  assert.deepEqual(chunks.slice(0, before.length), before);
  assert.deepEqual(chunks, expected);
  const message = await lastStateOf(chunks);
  const history = await echoic.api.messages("resumed");
  assert.deepEqual(history.map(({ content }) => content), ["Tell me a tale.", TALE]);
  assert.equal(history[1].status, "complete");
  assert.equal(message.id, history[1].id);
  assert.equal(textOf(message), TALE);
});

test("there is nothing to resume where nothing runs", async () => {
  await postJson(`${echoic.url}/api/chat-sessions`, { sessionId: "ended" });
  assert.equal(await transport.reconnectToStream({ chatId: "ended" }), null);

  const chunks = await wholeTurn("ended", "Tell me a tale.");

  assert.equal(chunks.at(-1).type, "finish");
  assert.equal(await transport.reconnectToStream({ chatId: "ended" }), null);
});

test("a page opened in the middle of a reply shows it whole, and once", async () => {
  await wholeTurn("reopened", "Tell me a tale.");
  await brokenOff("reopened", "Once more!");
  const before = await echoic.api.messages("reopened", "format=ui");
  const page = openPage(echoic.url, "reopened", before, fetchThenGoOn);
  assert.deepEqual(shown(page), ["Tell me a tale.", TALE, "Once more!"]);

  await page.resumeStream();

  assert.equal(page.status, "ready");
  assert.deepEqual(shown(page), ["Tell me a tale.", TALE, "Once more!", TALE]);
  const history = await echoic.api.messages("reopened");
  assert.deepEqual(page.messages.map(({ id }) => id), history.map(({ id }) => id));
});

test("a page that finds nothing to resume stays as it was", async () => {
  await wholeTurn("settled", "Tell me a tale.");
  const page = openPage(echoic.url, "settled", await echoic.api.messages("settled", "format=ui"));

  await page.resumeStream();

  assert.equal(page.status, "ready");
  assert.deepEqual(shown(page), ["Tell me a tale.", TALE]);
});

/** Answers as OpenAI does, but the second half only when it is let. */
async function tellInHalves(_request, response) {
  const say = (choice) => {
    const chunk = { object: "chat.completion.chunk", choices: [{ index: 0, ...choice }] };
    response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  };
  response.setHeader("content-type", "text/event-stream");
  say({ delta: { role: "assistant", content: HALVES[0] }, finish_reason: null });
  await new Promise((resolve) => (goOn = resolve));
  say({ delta: { content: HALVES[1] }, finish_reason: null });
  say({ delta: {}, finish_reason: "stop" });
  response.end("data: [DONE]\n\n");
  return true;
}

/** Says something and reads the reply to its end. */
async function wholeTurn(chatId, text) {
  const stream = (await send(chatId, asked(text))).values();
  const first = await untilText(stream);
  goOn();
  return [...first, ...(await chunksOf(stream))];
}

/** Says something, and leaves while the reply is being told. */
async function brokenOff(chatId, text) {
  const connection = new AbortController();
  await untilText((await send(chatId, asked(text), connection.signal)).values());
  connection.abort();
}

/** `fetch` that lets the provider go on as soon as the server has answered. */
async function fetchThenGoOn(input, init) {
  const response = await fetchInTime(input, init);
  goOn();
  return response;
}

function send(chatId, message, abortSignal) {
  const trigger = "submit-message";
  return transport.sendMessages({ chatId, messages: [message], trigger, abortSignal });
}

function asked(text) {
  return { id: generateId(), role: "user", parts: [{ type: "text", text }] };
}

/** The chunks up to the first words of the reply. */
async function untilText(stream) {
  const chunks = [];
  while (chunks.at(-1)?.type !== "text-delta") {
    const { done, value } = await stream.next();
    assert.ok(!done, "the stream has text");
    chunks.push(value);
  }
  return chunks;
}

async function chunksOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/** The message that the SDK makes of these chunks. */
async function lastStateOf(chunks) {
  const stream = ReadableStream.from(chunks);
  let last;
  for await (const state of readUIMessageStream({ stream, terminateOnError: true })) last = state;
  return last;
}

function textOf(message) {
  return message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

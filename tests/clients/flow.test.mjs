// The chat API over plain HTTP, without a client library.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { readFrames, postJson, start } from "./support.mjs";

const GREETING = "Hello, Ada. Schön, dich zu sehen: 你好!";
const NAME = "Your name is Ada.";

const echoic = await start((provider) => {
  provider.onMessage("my name is Ada", { content: GREETING });
  provider.onMessage("what is my name", { content: NAME });
});
after(echoic.stop);

test("plain message streams the reply", async () => {
  const response = await postMessage({ message: "Hello, my name is Ada." });

  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^text\/event-stream\b/);
  assert.equal(response.headers.get("x-vercel-ai-ui-message-stream"), "v1");

  const frames = await readFrames(response);
  assert.deepEqual(getTypes(frames), [
    "start",
    "data-session",
    "start-step",
    "text-start",
    "text-delta",
    "text-end",
    "finish-step",
    "finish",
  ]);
  assert.equal(getText(frames), GREETING);
});

test("second turn sends the first one to the provider", async () => {
  await runTwoTurns();

  assert.deepEqual(echoic.getPrompts().at(-1), [
    { role: "user", content: "Hello, my name is Ada." },
    { role: "assistant", content: GREETING },
    { role: "user", content: "And what is my name?" },
  ]);
});

test("history contains both turns as UI messages", async () => {
  const { sessionId, replyIds } = await runTwoTurns();

  const history = await echoic.api.listMessages(sessionId, "format=ui");

  const messages = history.map(({ role, parts }) => ({ role, parts }));
  assert.deepEqual(messages, [
    { role: "user", parts: [{ type: "text", text: "Hello, my name is Ada." }] },
    { role: "assistant", parts: [{ type: "text", text: GREETING }] },
    { role: "user", parts: [{ type: "text", text: "And what is my name?" }] },
    { role: "assistant", parts: [{ type: "text", text: NAME }] },
  ]);
  assert.deepEqual([history[1].id, history[3].id], replyIds);
});

/** Creates a session with two turns. */
async function runTwoTurns() {
  const first = await readFrames(await postMessage({ message: "Hello, my name is Ada." }));
  const { sessionId } = first[0].messageMetadata;
  const second = await readFrames(await postMessage({ sessionId, message: "And what is my name?" }));
  assert.equal(getText(second), NAME);
  return { sessionId, replyIds: [first[0].messageId, second[0].messageId] };
}

function postMessage(body) {
  return postJson(`${echoic.url}/api/chat`, body);
}

/** Returns the types of the frames. Consecutive text deltas count once. */
function getTypes(frames) {
  const types = frames.map(({ type }) => type);
  return types.filter((type, i) => type !== "text-delta" || types[i - 1] !== type);
}

function getText(frames) {
  return frames.map(({ delta }) => delta ?? "").join("");
}

// The plain chat body over bare HTTP: what a client without any library sends, reads and gets back
// later, and what the provider is asked for it.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { framesOf, postJson, start } from "./support.mjs";

const GREETING = "Hello, Ada. Schön, dich zu sehen: 你好!";
const NAME = "Your name is Ada.";

const echoic = await start((provider) => {
  provider.onMessage("my name is Ada", { content: GREETING });
  provider.onMessage("what is my name", { content: NAME });
});
after(echoic.stop);

test("a plain message streams the provider's answer", async () => {
  const response = await chat({ message: "Hello, my name is Ada." });

  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^text\/event-stream\b/);
  assert.equal(response.headers.get("x-vercel-ai-ui-message-stream"), "v1");

  const frames = await framesOf(response);
  assert.deepEqual(typesOf(frames), [
    "start",
    "data-session",
    "start-step",
    "text-start",
    "text-delta",
    "text-end",
    "finish-step",
    "finish",
  ]);
  assert.equal(textOf(frames), GREETING);
});

test("a second turn carries the first one to the provider", async () => {
  await twoTurns();

  assert.deepEqual(echoic.prompts().at(-1), [
    { role: "user", content: "Hello, my name is Ada." },
    { role: "assistant", content: GREETING },
    { role: "user", content: "And what is my name?" },
  ]);
});

test("both turns are in the history, in the format of the AI SDK", async () => {
  const { sessionId, replyIds } = await twoTurns();

  const history = await echoic.api.messages(sessionId, "format=ui");

  const shown = history.map(({ role, parts }) => ({ role, parts }));
  assert.deepEqual(shown, [
    { role: "user", parts: [{ type: "text", text: "Hello, my name is Ada." }] },
    { role: "assistant", parts: [{ type: "text", text: GREETING }] },
    { role: "user", parts: [{ type: "text", text: "And what is my name?" }] },
    { role: "assistant", parts: [{ type: "text", text: NAME }] },
  ]);
  assert.deepEqual([history[1].id, history[3].id], replyIds);
});

/** A new session with two turns, each read to its end. */
async function twoTurns() {
  const first = await framesOf(await chat({ message: "Hello, my name is Ada." }));
  const { sessionId } = first[0].messageMetadata;
  const second = await framesOf(await chat({ sessionId, message: "And what is my name?" }));
  assert.equal(textOf(second), NAME);
  return { sessionId, replyIds: [first[0].messageId, second[0].messageId] };
}

function chat(body) {
  return postJson(`${echoic.url}/api/chat`, body);
}

/** The order of the frames; deltas that follow one another count once, however the text was cut. */
function typesOf(frames) {
  const types = frames.map(({ type }) => type);
  return types.filter((type, i) => type !== "text-delta" || types[i - 1] !== type);
}

function textOf(frames) {
  return frames.map(({ delta }) => delta ?? "").join("");
}

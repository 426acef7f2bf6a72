// A provider that misbehaves: every turn comes to an end that the contract knows, nothing stays
// behind, and the session goes on as soon as the provider does.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { framesOf, postJson, start } from "./support.mjs";

const ANSWER = "All is well, and was worth the wait.";
const TROUBLES = {
  "500s": { dropRate: 1 },
  "malformed JSON": { malformedRate: 1 },
  "hang-ups": { disconnectRate: 1 },
  "rate limits": { rateLimitRate: 1 },
};
/** Each is rolled in turn until one hits, which is so for about half of the calls. */
const DICE = { dropRate: 0.15, malformedRate: 0.15, rateLimitRate: 0.15, disconnectRate: 0.15 };

const echoic = await start((provider) => {
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 3 });
  provider.onMessage("how are you", { content: ANSWER });
});
after(echoic.stop);

for (const [name, rates] of Object.entries(TROUBLES)) {
  test(`a turn that meets nothing but ${name} has failed, and the session goes on`, async () => {
    const { sessionId, status, content } = await during(rates, () => turn("how are you?"));
    assert.equal(status, "failed");
    assert.equal(content, "");

    await goesOn(sessionId);
  });
}

test("a turn cut off amid its words has failed, and the session goes on", async () => {
  const { sessionId, status, content } = await turn("break off");
  assert.equal(status, "failed");
  assert.ok(content !== "" && ANSWER.startsWith(content) && content !== ANSWER, content);

  await goesOn(sessionId);
});

test("whatever the dice bring, each of many sessions ends its turn and goes on", async () => {
  const sessions = Array.from({ length: 12 });
  const replies = await during(DICE, () => Promise.all(sessions.map(() => turn("how are you?"))));
  for (const { status, content } of replies) {
    assert.equal(content, status === "complete" ? ANSWER : "");
  }

  await Promise.all(replies.map(({ sessionId }) => goesOn(sessionId)));
});

/** What comes of `action` while the provider's calls go wrong at these rates. */
async function during(rates, action) {
  echoic.provider.setChaos(rates);
  try {
    return await action();
  } finally {
    echoic.provider.clearChaos();
  }
}

/** Another turn of the session is answered as if nothing had happened. */
async function goesOn(sessionId) {
  const { status, content } = await turn("and now, how are you?", sessionId);
  assert.equal(status, "complete");
  assert.equal(content, ANSWER);
}

/** One turn, whose stream, reply and session must agree about its end; gives the stored reply. */
async function turn(message, sessionId) {
  const frames = await framesOf(await postJson(`${echoic.url}/api/chat`, { sessionId, message }));
  const [opening, end] = [frames[0], frames.at(-1)];
  const session = await echoic.api.session(opening.messageMetadata.sessionId);
  const reply = (await echoic.api.messages(session.sessionId)).at(-1);

  const failure = { code: "provider_error", message: end.errorText };
  const ends = {
    finish: { status: "complete", error: null },
    error: { status: "failed", error: failure },
  };
  assert.deepEqual(frames.filter(({ type }) => type in ends), [end]);
  assert.deepEqual({ status: reply.status, error: reply.error }, ends[end.type]);
  assert.equal(reply.id, opening.messageId);
  assert.equal(reply.content, frames.map(({ delta }) => delta ?? "").join(""));
  assert.equal(session.activeTurn, null);
  return reply;
}

// A failing provider: every turn ends in a documented state, and the session accepts the next one.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { readFrames, postJson, start } from "./support.mjs";

const ANSWER = "All is well, and was worth the wait.";
const FAILURES = {
  "500s": { dropRate: 1 },
  "malformed JSON": { malformedRate: 1 },
  "hang-ups": { disconnectRate: 1 },
  "rate limits": { rateLimitRate: 1 },
};
/** Applied in order until one hits, which about half of the calls do. */
const RANDOM = { dropRate: 0.15, malformedRate: 0.15, rateLimitRate: 0.15, disconnectRate: 0.15 };

const echoic = await start((provider) => {
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 3 });
  provider.onMessage("how are you", { content: ANSWER });
});
after(echoic.stop);

for (const [name, rates] of Object.entries(FAILURES)) {
  test(`turn fails on ${name} and the session continues`, async () => {
    const { sessionId, status, content } = await withChaos(rates, () => runTurn("how are you?"));
    assert.equal(status, "failed");
    assert.equal(content, "");

    await expectNextTurn(sessionId);
  });
}

test("broken-off turn fails and the session continues", async () => {
  const { sessionId, status, content } = await runTurn("break off");
  assert.equal(status, "failed");
  assert.ok(content !== "" && ANSWER.startsWith(content) && content !== ANSWER, content);

  await expectNextTurn(sessionId);
});

test("random failures end every turn and free every session", async () => {
  const sessions = Array.from({ length: 12 });
  const replies = await withChaos(RANDOM, () => Promise.all(sessions.map(() => runTurn("how are you?"))));
  for (const { status, content } of replies) {
    assert.equal(content, status === "complete" ? ANSWER : "");
  }

  await Promise.all(replies.map(({ sessionId }) => expectNextTurn(sessionId)));
});

/** Runs `action` while the provider's calls fail at these rates. */
async function withChaos(rates, action) {
  echoic.provider.setChaos(rates);
  try {
    return await action();
  } finally {
    echoic.provider.clearChaos();
  }
}

/** Checks that the next turn of a session succeeds. */
async function expectNextTurn(sessionId) {
  const { status, content } = await runTurn("and now, how are you?", sessionId);
  assert.equal(status, "complete");
  assert.equal(content, ANSWER);
}

/**
 * Runs a turn and returns the stored reply. Stream, reply and session must agree on how it ended.
 *
 * @param {string} message
 * @param {string} [sessionId]
 */
async function runTurn(message, sessionId) {
  const frames = await readFrames(await postJson(`${echoic.url}/api/chat`, { sessionId, message }));
  const opening = frames[0];
  const end = frames.at(-1);
  const session = await echoic.api.getSession(opening.messageMetadata.sessionId);
  const reply = (await echoic.api.listMessages(session.sessionId)).at(-1);

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

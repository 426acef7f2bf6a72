// A server whose provider speaks Anthropic's Messages API, as another implementation of that API
// than our own tests' understands it.

import { DefaultChatTransport, readUIMessageStream } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { CLAUDE, fetchInTime, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";

const echoic = await start(
  (provider) => {
    const usage = { input_tokens: 21, output_tokens: 13 };
    provider.onMessage("greet", { content: ANSWER, reasoning: "A greeting, then.", usage });
    provider.onMessage("remember", { content: "You were greeted." });
    provider.onMessage("overload", { error: { message: "Overloaded" }, status: 529 });
    provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 6 });
  },
  { speaks: "anthropic" },
);
after(echoic.stop);

const transport = new DefaultChatTransport({ api: `${echoic.url}/api/chat`, fetch: fetchInTime });

test("a reply comes with its thoughts, its model and its cost", async () => {
  const message = await say("whole", "greet me");

  const kinds = message.parts.map(({ type }) => type);
  assert.deepEqual(kinds, ["step-start", "reasoning", "text"]);
  assert.equal(message.parts[1].text, "A greeting, then.");
  assert.equal(message.parts[2].text, ANSWER);
  const { model, usage } = message.metadata;
  assert.equal(model, CLAUDE);
  assert.deepEqual([usage.promptTokens, usage.completionTokens], [21, 13]);
  const stored = (await echoic.api.messages("whole")).at(-1);
  assert.equal(stored.content, ANSWER);
});

test("what was said before goes along, without the thoughts", async () => {
  await say("two", "greet me");
  await say("two", "remember?");

  assert.deepEqual(echoic.prompts().at(-1).map(({ role, content }) => [role, content]), [
    ["user", "greet me"],
    ["assistant", ANSWER],
    ["user", "remember?"],
  ]);
});

test("an overloaded provider and one that breaks off are failed replies", async () => {
  await assert.rejects(say("overloaded", "overload"), /529/);
  await assert.rejects(say("broken", "break off"));
  for (const session of ["overloaded", "broken"]) {
    const stored = (await echoic.api.messages(session)).at(-1);
    assert.equal(stored.status, "failed");
    assert.ok(ANSWER.startsWith(stored.content) && stored.content !== ANSWER, stored.content);
  }
});

/** Says `text` in a session; the message that the SDK makes of the reply. */
async function say(chatId, text) {
  const message = { id: `${chatId}-${text}`.replace(/\W/g, "-"), role: "user", parts: [{ type: "text", text }] };
  const trigger = "submit-message";
  const stream = await transport.sendMessages({ chatId, messages: [message], trigger });
  let last;
  for await (const state of readUIMessageStream({ stream, terminateOnError: true })) last = state;
  return last;
}

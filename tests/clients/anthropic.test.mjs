// A provider with Anthropic's Messages API, as aimock implements it.

import { DefaultChatTransport, readUIMessageStream } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { CLAUDE, fetchWithTimeout, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";

const echoic = await start(
  (provider) => {
    const usage = { input_tokens: 21, output_tokens: 13 };
    provider.onMessage("greet", { content: ANSWER, reasoning: "A greeting, then.", usage });
    provider.onMessage("remember", { content: "You were greeted." });
    provider.onMessage("overload", { error: { message: "Overloaded" }, status: 529 });
    provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 6 });
  },
  { vendor: "anthropic" },
);
after(echoic.stop);

const transport = new DefaultChatTransport({ api: `${echoic.url}/api/chat`, fetch: fetchWithTimeout });

test("reply has its reasoning, model and usage", async () => {
  const message = await sendMessage("whole", "greet me");

  const kinds = message.parts.map(({ type }) => type);
  assert.deepEqual(kinds, ["step-start", "reasoning", "text"]);
  assert.equal(message.parts[1].text, "A greeting, then.");
  assert.equal(message.parts[2].text, ANSWER);
  const { model, usage } = message.metadata;
  assert.equal(model, CLAUDE);
  assert.deepEqual([usage.promptTokens, usage.completionTokens], [21, 13]);
  const stored = (await echoic.api.listMessages("whole")).at(-1);
  assert.equal(stored.content, ANSWER);
});

test("history is sent without reasoning", async () => {
  await sendMessage("two", "greet me");
  await sendMessage("two", "remember?");

  assert.deepEqual(echoic.getPrompts().at(-1).map(({ role, content }) => [role, content]), [
    ["user", "greet me"],
    ["assistant", ANSWER],
    ["user", "remember?"],
  ]);
});

test("overload and broken stream produce failed replies", async () => {
  await assert.rejects(sendMessage("overloaded", "overload"), /529/);
  await assert.rejects(sendMessage("broken", "break off"));
  for (const session of ["overloaded", "broken"]) {
    const stored = (await echoic.api.listMessages(session)).at(-1);
    assert.equal(stored.status, "failed");
    assert.ok(ANSWER.startsWith(stored.content) && stored.content !== ANSWER, stored.content);
  }
});

/** Sends a message and returns the reply as the SDK assembles it. */
async function sendMessage(chatId, text) {
  /** @type {import("ai").UIMessage} */
  const message = { id: `${chatId}-${text}`.replace(/\W/g, "-"), role: "user", parts: [{ type: "text", text }] };
  const request = { chatId, messages: [message], messageId: undefined, abortSignal: undefined };
  const stream = await transport.sendMessages({ ...request, trigger: "submit-message" });
  let last;
  for await (const state of readUIMessageStream({ stream, terminateOnError: true })) last = state;
  return last;
}

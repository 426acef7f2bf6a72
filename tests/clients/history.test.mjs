// The stored history in the AI SDK's format, judged by the AI SDK's own validator: a page that
// opens a session hands it to `useChat({ messages })`, a server to `validateUIMessages`.

import { validateUIMessages } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { postJson, start } from "./support.mjs";

const PIXEL = {
  type: "file",
  mediaType: "image/png",
  filename: "pixel.png",
  url: "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==",
};

const echoic = await start((provider) => {
  provider.onMessage("plainly", { content: "A plain answer." });
  provider.onMessage("ponder", { content: "Forty-two.", reasoning: "Six by nine, or so." });
  provider.onMessage("look at", { content: "One pixel." });
  provider.onMessage("fail", { error: { message: "overloaded" }, status: 500 });
});
after(echoic.stop);

test("two turns of text are valid UI messages", async () => {
  const history = await historyOf(["answer plainly", "answer plainly once more"]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(rolesOf(history), ["user", "assistant", "user", "assistant"]);
});

test("a reply with its reasoning is a valid UI message", async () => {
  const history = await historyOf(["ponder this"]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(history[1].parts, [
    { type: "reasoning", text: "Six by nine, or so." },
    { type: "text", text: "Forty-two." },
  ]);
});

test("a message with an attachment is a valid UI message", async () => {
  const history = await historyOf([{ message: "look at this", parts: [PIXEL] }]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(history[0].parts.find(({ type }) => type === "file"), PIXEL);
});

test("a failed reply leaves a history of valid UI messages", async () => {
  const history = await historyOf(["fail at this", "answer plainly"]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(rolesOf(history), ["user", "assistant", "user", "assistant"]);
  assert.equal(history[1].metadata.status, "failed");
});

/** The history of a new session in which these messages were said, each a text or a plain body. */
async function historyOf(messages) {
  let sessionId;
  for (const message of messages) {
    const body = typeof message === "string" ? { message } : message;
    const response = await postJson(`${echoic.url}/api/chat`, { sessionId, ...body });
    assert.equal(response.status, 200);
    sessionId = (await response.text()).match(/"sessionId":"([^"]+)"/)[1];
  }
  return echoic.api.messages(sessionId, "format=ui");
}

function rolesOf(messages) {
  return messages.map(({ role }) => role);
}

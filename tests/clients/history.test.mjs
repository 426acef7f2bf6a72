// The stored history in the AI SDK's format, checked by the AI SDK's own validator.

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

test("text turns are valid UI messages", async () => {
  const history = await createHistory(["answer plainly", "answer plainly once more"]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(getRoles(history), ["user", "assistant", "user", "assistant"]);
});

test("reply with reasoning is a valid UI message", async () => {
  const history = await createHistory(["ponder this"]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(history[1].parts, [
    { type: "reasoning", text: "Six by nine, or so." },
    { type: "text", text: "Forty-two." },
  ]);
});

test("message with an attachment is a valid UI message", async () => {
  const history = await createHistory([{ message: "look at this", parts: [PIXEL] }]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(history[0].parts.find(({ type }) => type === "file"), PIXEL);
});

test("history with a failed reply is valid UI messages", async () => {
  const history = await createHistory(["fail at this", "answer plainly"]);

  assert.deepEqual(await validateUIMessages({ messages: history }), history);
  assert.deepEqual(getRoles(history), ["user", "assistant", "user", "assistant"]);
  assert.equal(history[1].metadata.status, "failed");
});

/** Returns the history of a new session with these messages, each a text or a request body. */
async function createHistory(messages) {
  let sessionId;
  for (const message of messages) {
    const body = typeof message === "string" ? { message } : message;
    const response = await postJson(`${echoic.url}/api/chat`, { sessionId, ...body });
    assert.equal(response.status, 200);
    sessionId = (await response.text()).match(/"sessionId":"([^"]+)"/)[1];
  }
  return echoic.api.listMessages(sessionId, "format=ui");
}

function getRoles(messages) {
  return messages.map(({ role }) => role);
}

// The class behind `useChat()`, without a browser: conversations as a chat page has them, whose
// state lives in the page and whose memory lives in the server.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { openPage, shown } from "./page.mjs";
import { start } from "./support.mjs";

const echoic = await start((provider) => {
  provider.onMessage("plant a tree", { content: "An oak, in the garden." });
  provider.onMessage("which tree", { content: "It was an oak." });
  provider.onMessage("how tall", { content: "Some thirty metres." });
  provider.on({ userMessage: "toss", sequenceIndex: 0 }, { content: "Heads." });
  provider.on({ userMessage: "toss", sequenceIndex: 1 }, { content: "Tails." });
  const failure = { error: { message: "out of order" }, status: 400 };
  provider.on({ userMessage: "stumble", sequenceIndex: 0 }, failure);
  provider.on({ userMessage: "stumble", sequenceIndex: 1 }, { content: "Up again." });
});
after(echoic.stop);

test("a conversation streams through useChat's own parser and is remembered", async () => {
  const page = chat("remembered");
  await page.sendMessage({ text: "plant a tree" });
  await page.sendMessage({ text: "which tree was it?" });
  assert.deepEqual(shown(page), [
    "plant a tree",
    "An oak, in the garden.",
    "which tree was it?",
    "It was an oak.",
  ]);

  const reopened = chat("remembered", await echoic.api.messages("remembered", "format=ui"));
  assert.deepEqual(shown(reopened), shown(page));
  await reopened.sendMessage({ text: "how tall does it get?" });

  assert.equal(shown(reopened).at(-1), "Some thirty metres.");
  const remembered = echoic.prompts().at(-1).map(({ content }) => content);
  assert.deepEqual(remembered, [...shown(page), "how tall does it get?"]);
});

test("regenerate() shows the new reply in place of the old one", async () => {
  const page = chat("tossed");
  await page.sendMessage({ text: "toss a coin" });
  await page.regenerate();

  assert.deepEqual(shown(page), ["toss a coin", "Tails."]);
  const history = await echoic.api.messages("tossed");
  assert.equal(page.lastMessage.id, history.at(-1).id);
  assert.equal(history.at(-1).siblingIds.length, 2);
});

test("a failed reply puts the page into its error state, and regenerate() out of it", async () => {
  const page = chat("stumbled");
  await page.sendMessage({ text: "stumble" });
  assert.equal(page.status, "error");
  assert.match(page.error.message, /out of order/);

  await page.regenerate();

  assert.equal(page.status, "ready");
  assert.deepEqual(shown(page), ["stumble", "Up again."]);
});

function chat(id, messages) {
  return openPage(echoic.url, id, messages);
}

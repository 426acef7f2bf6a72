// Conversations through the class behind `useChat()`, without a browser.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getTexts, openPage } from "./page.mjs";
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

test("conversation streams through useChat and is remembered", async () => {
  const page = open("remembered");
  await page.sendMessage({ text: "plant a tree" });
  await page.sendMessage({ text: "which tree was it?" });
  assert.deepEqual(getTexts(page), [
    "plant a tree",
    "An oak, in the garden.",
    "which tree was it?",
    "It was an oak.",
  ]);

  const reopened = open("remembered", await echoic.api.listMessages("remembered", "format=ui"));
  assert.deepEqual(getTexts(reopened), getTexts(page));
  await reopened.sendMessage({ text: "how tall does it get?" });

  assert.equal(getTexts(reopened).at(-1), "Some thirty metres.");
  const prompt = echoic.getPrompts().at(-1).map(({ content }) => content);
  assert.deepEqual(prompt, [...getTexts(page), "how tall does it get?"]);
});

test("regenerate() replaces the reply", async () => {
  const page = open("tossed");
  await page.sendMessage({ text: "toss a coin" });
  await page.regenerate();

  assert.deepEqual(getTexts(page), ["toss a coin", "Tails."]);
  const history = await echoic.api.listMessages("tossed");
  assert.equal(page.lastMessage.id, history.at(-1).id);
  assert.equal(history.at(-1).siblingIds.length, 2);
});

test("regenerate() recovers from a failed reply", async () => {
  const page = open("stumbled");
  await page.sendMessage({ text: "stumble" });
  assert.equal(page.status, "error");
  assert.match(page.error.message, /out of order/);

  await page.regenerate();

  assert.equal(page.status, "ready");
  assert.deepEqual(getTexts(page), ["stumble", "Up again."]);
});

function open(id, messages = undefined) {
  return openPage(echoic.url, id, messages);
}

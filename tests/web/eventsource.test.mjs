// The EventSource page of `examples/web`: streaming in several tabs, and after a lost connection.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getErrors } from "./browser.mjs";
import { openTab, startExamples } from "./examples.mjs";
import { startProxy } from "./proxy.mjs";

const examples = await startExamples();
after(examples.stop);
const { openPage, upstream, listMessages } = examples;

test("every tab streams the reply, even one opened midway", async () => {
  const page = await openPage("/events.html#tabs");
  await waitForConnection(page);
  await sendMessage(page, "Count");
  const call = await upstream.nextCall();
  call.text("one, ");
  await expectTexts(page, ["Count", "one, "]);
  const late = await openTab(page.context(), page.url());
  await expectTexts(late, ["Count", "one, "]);
  call.text("two, ");
  for (const tab of [page, late]) await expectTexts(tab, ["Count", "one, two, "]);
  call.reply("three");
  for (const tab of [page, late]) {
    await expectTexts(tab, ["Count", "one, two, three"]);
    await waitForEvent(tab, '"action":"ended"');
  }

  await sendMessage(late, "Once more");
  (await upstream.nextCall()).text("four, ").reply("five");
  for (const tab of [page, late]) await expectTexts(tab, ["Count", "one, two, three", "Once more", "four, five"]);
  assert.deepEqual((await listMessages("tabs")).map(({ content }) => content), ["Count", "one, two, three", "Once more", "four, five"]);
});

test("lost connection resumes without losing text", async () => {
  const proxy = await startProxy(examples.url);
  after(proxy.stop);
  const page = await openPage("/events.html#lost", proxy.url);
  /** @type {(string | null)[]} */
  const cursors = [];
  page.on("request", async (request) => {
    if (request.url().endsWith("/stream")) cursors.push(await request.headerValue("last-event-id"));
  });
  await waitForConnection(page);
  await sendMessage(page, "Slowly");
  const call = await upstream.nextCall();
  call.text("alpha ");
  await expectTexts(page, ["Slowly", "alpha "]);

  proxy.cut();
  call.text("beta ");
  proxy.restore();
  await expectTexts(page, ["Slowly", "alpha beta "]);
  call.reply("gamma");
  await expectTexts(page, ["Slowly", "alpha beta gamma"]);
  assert.match(cursors.at(-1) ?? "", /^[0-9a-f-]{36}:\d+$/, "it resumes at the last frame");
});

test("reply that ended while offline appears afterwards", async () => {
  const proxy = await startProxy(examples.url);
  after(proxy.stop);
  const page = await openPage("/events.html#missed", proxy.url);
  await waitForConnection(page);
  await sendMessage(page, "Quick");
  const call = await upstream.nextCall();
  call.text("half ");
  await expectTexts(page, ["Quick", "half "]);
  const online = await openPage("/events.html#missed");
  await expectTexts(online, ["Quick", "half "]);
  proxy.cut();
  call.reply("and whole");
  await waitForEvent(online, '"action":"ended"');
  proxy.restore();
  await expectTexts(page, ["Quick", "half and whole"]);
});

/**
 * Waits until the page receives events.
 *
 * @param {Page} page
 */
async function waitForConnection(page) {
  await waitForEvent(page, '"type":"sync"');
}

/**
 * Waits for an event that contains a text.
 *
 * @param {Page} page
 * @param {string} text
 */
async function waitForEvent(page, text) {
  await page.locator("#events li", { hasText: text }).first().waitFor();
}

/**
 * @param {Page} page
 * @param {string} text
 */
async function sendMessage(page, text) {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/**
 * Waits until a page shows exactly these texts.
 *
 * @param {Page} page
 * @param {string[]} texts
 */
async function expectTexts(page, texts) {
  const expected = JSON.stringify(texts);
  const isShown = (/** @type {string} */ json) => JSON.stringify([...document.querySelectorAll("#messages p")].map((p) => p.textContent)) === json;
  await page.waitForFunction(isShown, expected).catch(async (error) => {
    throw new Error(`the page does not show ${expected}:\n${await page.locator("body").innerHTML()}`, { cause: error });
  });
  assert.deepEqual(getErrors(page), []);
}

// The page of `examples/web` that uses the browser's own EventSource: what it shows while a reply is
// being written, in every tab, and after the network was away.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { openTab, startExamples } from "./examples.mjs";
import { startProxy } from "./proxy.mjs";

const examples = await startExamples();
after(examples.stop);
const { open, upstream, messages } = examples;

test("every tab shows a reply word by word, also one that is opened in the middle", async () => {
  const page = await open("/events.html#tabs");
  await connected(page);
  await say(page, "Count");
  const call = await upstream.call();
  call.text("one, ");
  await shows(page, ["Count", "one, "]);
  const late = await openTab(page.context(), page.url());
  await shows(late, ["Count", "one, "]);
  call.text("two, ");
  for (const tab of [page, late]) await shows(tab, ["Count", "one, two, "]);
  call.reply("three");
  for (const tab of [page, late]) {
    await shows(tab, ["Count", "one, two, three"]);
    await hears(tab, '"action":"ended"');
  }

  await say(late, "Once more");
  (await upstream.call()).text("four, ").reply("five");
  for (const tab of [page, late]) await shows(tab, ["Count", "one, two, three", "Once more", "four, five"]);
  assert.deepEqual((await messages("tabs")).map(({ content }) => content), ["Count", "one, two, three", "Once more", "four, five"]);
});

test("a browser that loses the network comes back by itself, and misses nothing", async () => {
  const network = await startProxy(examples.url);
  after(network.stop);
  const page = await open("/events.html#lost", network.url);
  const cursors = [];
  page.on("request", async (request) => {
    if (request.url().endsWith("/stream")) cursors.push(await request.headerValue("last-event-id"));
  });
  await connected(page);
  await say(page, "Slowly");
  const call = await upstream.call();
  call.text("alpha ");
  await shows(page, ["Slowly", "alpha "]);

  network.cut();
  call.text("beta ");
  network.mend();
  await shows(page, ["Slowly", "alpha beta "]);
  call.reply("gamma");
  await shows(page, ["Slowly", "alpha beta gamma"]);
  assert.match(cursors.at(-1), /^[0-9a-f-]{36}:\d+$/, "it says where it was");
});

test("a reply that ended while the network was away is there afterwards", async () => {
  const network = await startProxy(examples.url);
  after(network.stop);
  const page = await open("/events.html#missed", network.url);
  await connected(page);
  await say(page, "Quick");
  const call = await upstream.call();
  call.text("half ");
  await shows(page, ["Quick", "half "]);
  const near = await open("/events.html#missed");
  await shows(near, ["Quick", "half "]);
  network.cut();
  call.reply("and whole");
  await hears(near, '"action":"ended"');
  network.mend();
  await shows(page, ["Quick", "half and whole"]);
});

/** Waits until the page is told what happens. */
async function connected(page) {
  await hears(page, '"type":"sync"');
}

/** Waits for an event that says so. */
async function hears(page, text) {
  await page.locator("#events li", { hasText: text }).first().waitFor();
}

async function say(page, text) {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** Waits until a page shows these texts, and nothing else. */
async function shows(page, texts) {
  const wanted = JSON.stringify(texts);
  const read = (wanted) => JSON.stringify([...document.querySelectorAll("#messages p")].map((p) => p.textContent)) === wanted;
  await page.waitForFunction(read, wanted).catch(async (error) => {
    throw new Error(`the page does not show ${wanted}:\n${await page.locator("body").innerHTML()}`, { cause: error });
  });
  assert.deepEqual(page.problems, []);
}

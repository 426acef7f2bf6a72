// The `useChat` page of `examples/web` in a real browser: streaming, branches and reloads.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getErrors } from "./browser.mjs";
import { openTab, startExamples, startVite } from "./examples.mjs";

const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==", "base64");

const examples = await startExamples();
after(examples.stop);
const { openPage, upstream, listMessages } = examples;

test("reply is shown word by word", async () => {
  const page = await openPage("/#words");
  await sendMessage(page, "Count");
  const call = await upstream.nextCall();
  let counted = "";
  for (const word of ["one, ", "two, ", "three"]) {
    call.text(word);
    counted += word;
    await expectTexts(page, ["Count", counted]);
  }
  await button(page, "Stop").waitFor();
  call.text(".").finish();
  await waitUntilIdle(page);
  await expectTexts(page, ["Count", "one, two, three."]);
  await page.locator("article.assistant footer", { hasText: "gated-1" }).waitFor();
  await expectStored("words", ["Count", "one, two, three."]);
});

test("page opened during a reply shows it whole and once", async () => {
  const page = await openPage("/#reloaded");
  await exchange(page, "Who is there?", "An old friend.");
  await sendMessage(page, "Tell me a tale");
  const call = await upstream.nextCall();
  call.text("Es war einmal 你好, ");
  await expectTexts(page, ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, "]);

  await page.reload();
  await expectTexts(page, ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, "]);
  const second = await openTab(page.context(), page.url());
  call.text("und alles ");
  for (const tab of [page, second]) await expectTexts(tab, ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, und alles "]);
  call.reply("wurde gut.");

  const whole = ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, und alles wurde gut."];
  for (const tab of [page, second]) {
    await waitUntilIdle(tab);
    await expectTexts(tab, whole);
    await tab.reload();
    await expectTexts(tab, whole);
  }
  await expectStored("reloaded", whole);
  await exchange(page, "And then?", "They slept.");
  assert.deepEqual(call.request.messages.filter(({ role }) => role !== "system").map(({ content }) => content), whole.slice(0, 3));
});

test("stopped reply keeps its text after a reload", async () => {
  const page = await openPage("/#stopped");
  await sendMessage(page, "Go on and on");
  const call = await upstream.nextCall();
  call.text("And on and ");
  await expectTexts(page, ["Go on and on", "And on and "]);
  await page.reload();
  await expectTexts(page, ["Go on and on", "And on and "]);

  await button(page, "Stop").click();
  await waitUntilIdle(page);
  await expectTexts(page, ["Go on and on", "And on and "]);
  assert.equal((await listMessages("stopped")).at(-1)?.status, "interrupted");
  await page.reload();
  await waitUntilIdle(page);
  await expectTexts(page, ["Go on and on", "And on and "]);
  await exchange(page, "Enough", "Quite.");
});

test("regenerated reply replaces the first and resumes", async () => {
  const page = await openPage("/#again");
  await exchange(page, "Toss a coin", "Heads.");
  await button(page, "Regenerate").click();
  const call = await upstream.nextCall();
  assert.equal(call.lastText, "Toss a coin");
  call.text("Tai");
  await expectTexts(page, ["Toss a coin", "Tai"]);
  await page.reload();
  await expectTexts(page, ["Toss a coin", "Tai"]);
  call.reply("ls.");
  await waitUntilIdle(page);
  await expectTexts(page, ["Toss a coin", "Tails."]);
  await expectStored("again", ["Toss a coin", "Tails."]);
  assert.equal((await listMessages("again")).at(-1)?.siblingIds?.length, 2);
});

test("edited message starts a branch without what followed", async () => {
  const page = await openPage("/#edited");
  await exchange(page, "I am Ada", "Hello, Ada.");
  await exchange(page, "Who am I?", "Ada.");
  for (const name of ["Bob", "Eve"]) {
    await page.locator("article.user").first().getByRole("button", { name: "Edit" }).click();
    await page.getByPlaceholder("Edit the message").waitFor();
    await exchange(page, `I am ${name}`, `Hello, ${name}.`);
    await expectTexts(page, [`I am ${name}`, `Hello, ${name}.`]);
  }
  await exchange(page, "Who am I?", "Eve.");
  await page.reload();
  await expectTexts(page, ["I am Eve", "Hello, Eve.", "Who am I?", "Eve."]);
  assert.equal((await listMessages("edited"))[0].siblingIds?.length, 3);
});

test("images reach the model and survive a reload", async () => {
  const page = await openPage("/#pictures");
  await page.getByLabel("Images").setInputFiles({ name: "pixel.png", mimeType: "image/png", buffer: PIXEL });
  await sendMessage(page, "What is it?");
  const call = await upstream.nextCall();
  const url = `data:image/png;base64,${PIXEL.toString("base64")}`;
  const content = call.request.messages.at(-1)?.content;
  assert.ok(Array.isArray(content));
  assert.equal(content.find(({ type }) => type === "image_url")?.image_url?.url, url);
  call.reply("One pixel.");
  await waitUntilIdle(page);
  await page.reload();
  await page.locator(`img[src="${url}"]`).waitFor();
  await expectTexts(page, ["What is it?", "One pixel."]);
});

test("provider error is shown and a retry succeeds", async () => {
  const page = await openPage("/#failed");
  await sendMessage(page, "Stumble");
  (await upstream.nextCall()).refuse(400, "out of order");
  await page.getByRole("alert").filter({ hasText: "out of order" }).waitFor();
  await button(page, "Try again").click();
  (await upstream.nextCall()).reply("Up again.");
  await waitUntilIdle(page);
  await expectTexts(page, ["Stumble", "Up again."]);
  await page.reload();
  await expectTexts(page, ["Stumble", "Up again."]);
});

test("dev server gives a new page its own session", async () => {
  const vite = await startVite([], examples.server.url);
  after(vite.stop);
  const page = await openPage("/", vite.url);
  await exchange(page, "Hello", "Hello to you.");
  await page.reload();
  await expectTexts(page, ["Hello", "Hello to you."]);
  await expectStored(new URL(page.url()).hash.slice(1), ["Hello", "Hello to you."]);
});

/**
 * @param {Page} page
 * @param {string} name
 */
function button(page, name) {
  return page.getByRole("button", { name, exact: true });
}

/**
 * @param {Page} page
 * @param {string} text
 */
async function sendMessage(page, text) {
  await page.getByLabel("Message").fill(text);
  await button(page, "Send").click();
}

/**
 * Sends a message and has the provider reply.
 *
 * @param {Page} page
 * @param {string} text
 * @param {string} answer
 */
async function exchange(page, text, answer) {
  await sendMessage(page, text);
  (await upstream.nextCall()).reply(answer);
  await page.locator("article.assistant").last().filter({ hasText: answer }).waitFor();
  await waitUntilIdle(page);
}

/**
 * Waits until a page shows exactly these texts.
 *
 * @param {Page} page
 * @param {string[]} texts
 */
async function expectTexts(page, texts) {
  const expected = JSON.stringify(texts);
  const isShown = (/** @type {string} */ json) => {
    const texts = [...document.querySelectorAll("article")].map((article) => {
      const nodes = [...article.childNodes].filter((node) => node instanceof Text);
      return nodes.map(({ data }) => data).join("");
    });
    return JSON.stringify(texts) === json;
  };
  await page.waitForFunction(isShown, expected).catch(async (error) => {
    const html = await page.locator("#page").innerHTML();
    throw new Error(`${page.url()} does not show ${expected}:\n${html}`, { cause: error });
  });
  assert.deepEqual(getErrors(page), []);
}

/**
 * Waits until no reply is being written.
 *
 * @param {Page} page
 */
async function waitUntilIdle(page) {
  await button(page, "Send").waitFor();
}

/**
 * Checks the stored messages of a session.
 *
 * @param {string} session
 * @param {string[]} texts
 */
async function expectStored(session, texts) {
  assert.deepEqual((await listMessages(session)).map(({ content }) => content), texts);
}

// The composer: a message is sent exactly once, or stays in the field.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getTexts, sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start({}, /ERR_|Failed to load resource/);
after(echoic.stop);
const { api, upstream } = echoic;

const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
const field = (/** @type {Page} */ page) => page.getByLabel("Message", { exact: true });
const button = (/** @type {Page | Locator} */ parent, /** @type {string} */ name) => parent.getByRole("button", { name, exact: true });
const waitForText = (/** @type {Page} */ page, /** @type {string} */ text) => waitUntil(async () => (await field(page).inputValue()) === text, `the field to contain ${JSON.stringify(text)}`);
const openChat = (/** @type {Page} */ page, /** @type {string} */ title) => page.locator(`.chat-row a[title="${title}"]`).click();

/**
 * Creates two chats and opens the first.
 *
 * @param {string} title
 * @param {...string} texts the messages of the first chat
 */
async function openFirstOfTwo(title, ...texts) {
  const { sessionId } = await api.createSession({ title });
  for (const [i, content] of texts.entries()) await api.addMessage(sessionId, i % 2 ? "assistant" : "user", content);
  await api.createSession({ title: `Not ${title}` });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  if (texts.length > 0) await page.getByText(texts[texts.length - 1], { exact: true }).waitFor();
  return { page, sessionId };
}

/**
 * Holds the messages that a page sends until `release()` passes them on or `fail()` fails them.
 *
 * @param {Page} page
 */
async function holdMessages(page) {
  /** @type {import("playwright-core").Route[]} */
  const routes = [];
  let isHolding = true;
  await page.route("**/api/chat", (route) => (isHolding ? void routes.push(route) : route.continue()));
  const end = (/** @type {(route: import("playwright-core").Route) => Promise<void>} */ action) => {
    isHolding = false;
    return Promise.all(routes.map(action));
  };
  return {
    waitFor: (/** @type {number} */ count) => waitUntil(() => routes.length === count, `${count} requests in flight`),
    release: () => end((route) => route.continue()),
    fail: () => end((route) => route.abort()),
  };
}

test("Enter sends but never stops, Escape stops", async () => {
  const page = await echoic.openPage();
  await field(page).fill("Twice");
  await field(page).press("Enter");
  await field(page).press("Enter");
  const call = await upstream.nextCall();
  await field(page).press("Enter");
  call.text("Not cut short");
  await page.getByText("Not cut short").waitFor();
  await field(page).press("Escape");
  await page.getByText("The reply was interrupted.").waitFor();
  assert.deepEqual(await getTexts(page), ["Twice", "Not cut short"]);
});

test("message in flight survives opening another chat", async () => {
  const { page, sessionId } = await openFirstOfTwo("Left", "before");
  const requests = await holdMessages(page);
  await sendMessage(page, "on its way");
  await requests.waitFor(1);
  await openChat(page, "Not Left");
  await page.getByRole("heading", { name: "Not Left" }).waitFor();
  await requests.release();
  (await upstream.nextCall()).reply("arrived");
  await waitUntil(async () => (await api.listMessages(sessionId)).length === 3, "the reply to be stored");
  await openChat(page, "Left");
  await waitForReply(page);
  assert.deepEqual(await getTexts(page), ["before", "on its way", "arrived"]);
  assert.equal(await field(page).inputValue(), "");
});

test("lost message returns to its chat's field with its images", async () => {
  const { page } = await openFirstOfTwo("Lost", "before");
  const requests = await holdMessages(page);
  await page.locator('.composer input[type="file"]').setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: PIXEL });
  await page.locator(".composer figure").waitFor();
  await sendMessage(page, "on its way");
  await requests.waitFor(1);
  await openChat(page, "Not Lost");
  await page.getByRole("heading", { name: "Not Lost" }).waitFor();
  await requests.fail();
  await page.locator(".toast", { hasText: "back in the field of its chat" }).waitFor();
  assert.equal(await field(page).inputValue(), "");
  await openChat(page, "Lost");
  await waitForText(page, "on its way");
  assert.equal(await page.locator(".composer figure").count(), 1);
});

test("two quick messages create one chat", async () => {
  const page = await echoic.openPage();
  const requests = await holdMessages(page);
  await sendMessage(page, "quick one");
  await field(page).fill("quick two");
  await button(page, "Queue message").click();
  await page.getByText("Queued: quick two").waitFor();
  await requests.waitFor(1);
  await requests.release();
  (await upstream.nextCall()).reply("answer one");
  (await upstream.nextCall()).reply("answer two");
  await waitUntil(async () => (await getTexts(page)).join() === "quick one,answer one,quick two,answer two", "both turns");
  assert.equal((await api.listSessions("search=quick")).length, 1);
});

test("failed new chat restores both of its messages", async () => {
  const page = await echoic.openPage();
  const requests = await holdMessages(page);
  await sendMessage(page, "lost one");
  await field(page).fill("lost two");
  await button(page, "Queue message").click();
  await requests.waitFor(1);
  await requests.fail();
  await page.getByText("Not sent.").waitFor();
  await waitForText(page, "lost two");
  await button(page, "Send again").click();
  (await upstream.nextCall()).reply("found");
  await waitForReply(page);
  assert.deepEqual(await getTexts(page), ["lost one", "found"]);
  assert.equal(await field(page).inputValue(), "lost two");
});

test("stop restores all queued messages in order", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "one");
  const call = await upstream.nextCall();
  call.text("answer");
  await page.getByText("answer").waitFor();
  for (const text of ["two", "three", "four"]) {
    const queued = page.waitForResponse("**/api/chat");
    await field(page).fill(text);
    await field(page).press("Enter");
    await queued;
  }
  await field(page).fill("");
  await button(page, "Stop").click();
  await waitForText(page, "two\n\nthree\n\nfour");
  assert.equal(await page.locator(".queue li").count(), 0);
});

test("edit keeps the draft and survives chat switch and reload", async () => {
  const { page } = await openFirstOfTwo("Edited", "original", "answer");
  await field(page).fill("a draft");
  await button(page, "Edit").click();
  await waitForText(page, "original");
  await field(page).fill("rewritten");
  await openChat(page, "Not Edited");
  await waitForText(page, "");
  assert.equal(await page.locator(".composer-banner").isVisible(), false);
  await openChat(page, "Edited");
  await waitForText(page, "rewritten");
  await page.reload();
  await waitForText(page, "rewritten");
  await page.getByText("Editing.").waitFor();
  await button(page, "Cancel").click();
  await waitForText(page, "a draft");
});

test("edit that fails to send hides nothing and stays an edit", async () => {
  const { page, sessionId } = await openFirstOfTwo("Edited in vain", "q0", "a0", "q1", "a1");
  const requests = await holdMessages(page);
  await page.locator(".message.user").first().hover();
  await button(page.locator(".message.user").first(), "Edit").click();
  await sendMessage(page, "q0, better");
  await requests.waitFor(1);
  await requests.fail();
  await page.getByText("Not sent.").waitFor();
  assert.deepEqual(await getTexts(page), ["q0", "a0", "q1", "a1", "q0, better"]);
  await button(page.locator(".status-box"), "Edit").click();
  await waitForText(page, "q0, better");
  await page.getByText("Editing.").waitFor();
  await button(page, "Send").click();
  (await upstream.nextCall()).reply("a0, better");
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).join("|") === "q0, better|a0, better", "the new branch");
  assert.deepEqual((await api.listMessages(sessionId)).map(({ content }) => content), ["q0, better", "a0, better"]);
});

test("edit far up a long chat replaces what followed", async () => {
  const messages = Array.from({ length: 120 }, (_, i) => ({ id: `far${i}`, role: i % 2 ? "assistant" : "user", content: `far ${i}.`, parentId: i ? `far${i - 1}` : null }));
  await api.call("POST", "/api/import", { sessions: [{ sessionId: "far", title: "Far", messages }] });
  const page = await echoic.openPage("#/c/far/far20");
  const old = page.locator(".message", { hasText: "far 20." });
  await old.hover();
  await button(old, "Edit").click();
  await waitForText(page, "far 20.");
  await sendMessage(page, "far 20, better");
  const call = await upstream.nextCall();
  call.text("a new");
  await page.getByText("a new").waitFor();
  assert.deepEqual((await getTexts(page)).slice(-3), ["far 19.", "far 20, better", "a new"]);
  call.reply(" answer");
  await waitForReply(page);
  assert.deepEqual((await getTexts(page)).slice(-3), ["far 19.", "far 20, better", "a new answer"]);
});

test("failed regenerate keeps the existing reply", async () => {
  const { page } = await openFirstOfTwo("Asked in vain", "question", "answer");
  await page.route("**/regenerate", (route) => route.abort());
  await page.locator(".message.assistant").hover();
  await button(page, "Regenerate").click();
  await page.locator(".toast", { hasText: "Can’t reach the server" }).waitFor();
  assert.deepEqual(await getTexts(page), ["question", "answer"]);
  await page.unroute("**/regenerate");
  await button(page, "Try again").click();
  (await upstream.nextCall()).reply("another");
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).join() === "question,another", "the new reply");
});

test("edit replaces the running reply at once", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "first question");
  (await upstream.nextCall()).text("Half an ans");
  await page.getByText("Half an ans").waitFor();
  await page.locator(".message.user .tools").waitFor();
  await page.locator(".message.user").hover();
  await button(page, "Edit").click();
  await field(page).fill("better question");
  await field(page).press("Enter");
  const call = await upstream.nextCall();
  call.text("New answer");
  await page.getByText("New answer").waitFor();
  assert.deepEqual(await getTexts(page), ["better question", "New answer"]);
  call.finish();
  await waitForReply(page);
  assert.deepEqual(await getTexts(page), ["better question", "New answer"]);
});

test("unsent messages survive chat switch and reload", async () => {
  const { page } = await openFirstOfTwo("Unsent", "before");
  await page.route("**/api/chat", (route) => route.abort());
  await sendMessage(page, "precious");
  await page.locator(".status-box.failed").waitFor();
  await openChat(page, "Not Unsent");
  await waitForText(page, "");
  await openChat(page, "Unsent");
  await waitForText(page, "precious");
  await button(page, "Send").click();
  await page.locator(".status-box.failed").waitFor();
  await sendMessage(page, "and more");
  await page.locator(".status-box.failed").nth(1).waitFor();
  await page.reload();
  await waitForText(page, "precious\n\nand more");
});

test("draft keeps its images while another chat is open", async () => {
  const { page } = await openFirstOfTwo("Pictures", "before");
  await page.locator('.composer input[type="file"]').setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: PIXEL });
  await page.locator(".composer figure").waitFor();
  await openChat(page, "Not Pictures");
  await page.locator(".composer figure").waitFor({ state: "detached" });
  await openChat(page, "Pictures");
  await page.locator('.composer img[alt="dot.png"]').waitFor();
});

test("draft over the storage quota is kept in memory", async () => {
  const { page } = await openFirstOfTwo("Long", "before");
  const long = "x".repeat(6 << 20);
  await field(page).evaluate((/** @type {HTMLTextAreaElement} */ element, text) => {
    element.value = text;
    element.dispatchEvent(new Event("input"));
  }, long);
  await openChat(page, "Not Long");
  await waitForText(page, "");
  await openChat(page, "Long");
  await waitUntil(async () => (await field(page).inputValue()).length === long.length, "the long draft");
});

test("suggestion fills the field and takes the focus", async () => {
  const page = await echoic.openPage();
  await button(page, "Plan a weekend in Lisbon").click();
  await page.keyboard.type(" in May");
  assert.equal(await field(page).inputValue(), "Plan a weekend in Lisbon in May");
});

for (const [width, height] of [[390, 480], [844, 390], [640, 400], [320, 256]]) {
  test(`composer fits a screen of ${width} by ${height}`, async () => {
    const page = await echoic.openPage("", { width, height });
    await button(page, "Send").waitFor();
    const bottom = await page.locator(".composer").evaluate((element) => element.getBoundingClientRect().bottom);
    assert.ok(bottom <= height, `the field ends at ${bottom}`);
  });
}

// The provider may or may not receive these requests, so no test can follow.
test("stop before the first frame takes effect", async () => {
  const { sessionId } = await api.createSession({ title: "Stopped early" });
  for (const path of ["", `#/c/${sessionId}`]) {
    const page = await echoic.openPage(path);
    await page.getByText("Connected").waitFor();
    const requests = await holdMessages(page);
    await sendMessage(page, "Never mind");
    await button(page, "Stop").click();
    await requests.release();
    await page.getByText("The reply was interrupted.").waitFor();
    assert.deepEqual(await page.locator(".toast").allInnerTexts(), []);
  }
});

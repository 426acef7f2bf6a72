// The conversation: streaming, branches, stopping, failures and scrolling.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getSessionId, getTexts, sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const lastMessage = (/** @type {Page} */ page) => page.locator(".message").last();
const button = (/** @type {Page | Locator} */ parent, /** @type {string} */ name) => parent.getByRole("button", { name });

test("streaming renders each block once", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Teach me");
  const call = await upstream.nextCall();
  /** @type {string[]} */
  const rendered = [];
  page.on("request", (request) => request.url().endsWith("/api/render") && rendered.push(request.postDataJSON().markdown));

  call.text("# Sorting\n\nFirst **para");
  await page.locator(".prose h1", { hasText: "Sorting" }).waitFor();
  await page.locator(".open", { hasText: "First **para" }).waitFor();
  const heading = await page.locator(".prose h1").last().elementHandle();
  call.text("graph**.\n\n```js\nconst a = [3, 1];\n");
  await page.locator(".prose strong", { hasText: "paragraph" }).waitFor();
  await page.locator("pre.open", { hasText: "const a" }).waitFor();
  call.text("a.sort();\n```\n\n1. one\n\n2. two\n\nThe end.");
  await page.locator(".code .c-key", { hasText: "const" }).waitFor();
  call.finish();
  await waitForReply(page);

  assert.ok(await heading.evaluate((element) => element.isConnected), "the heading is not replaced");
  assert.equal(new Set(rendered).size, rendered.length, "each block is rendered once");
  assert.equal(rendered.length, 4);
  const items = page.locator(".prose ol li");
  assert.equal(await items.count(), 2, "one list despite its blank lines");
  await page.getByRole("button", { name: "Copy", exact: true }).first().waitFor();
  await page.locator(".code-head button").click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "const a = [3, 1];\na.sort();");
  await lastMessage(page).getByText("95 tokens").waitFor();
  const [, reply] = await api.listMessages(getSessionId(page));
  assert.equal(reply.status, "complete");
});

test("paused reply shows waiting dots", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Take your time");
  const call = await upstream.nextCall();
  const dots = page.locator(".waiting-dots");
  await dots.waitFor();
  call.text("Well");
  await dots.waitFor({ state: "hidden" });
  await dots.waitFor();
  call.reply(", done.");
  await waitForReply(page);
  assert.equal(await dots.count(), 0);
});

test("reasoning is folded above the answer", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Think first");
  const call = await upstream.nextCall();
  call.reasoning("Let me see… ").reasoning("2 and 2");
  await page.getByText("Thinking…").waitFor();
  call.reply("4");
  await waitForReply(page);
  const thoughts = page.locator(".reasoning");
  assert.equal(await thoughts.locator("p").isVisible(), false);
  await thoughts.locator("summary").click();
  assert.equal(await thoughts.locator("p").innerText(), "Let me see… 2 and 2");
});

test("opened reasoning stays open when the reply ends", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Think aloud");
  const call = await upstream.nextCall();
  call.reasoning("Let me see").text("It is ");
  await page.locator(".reasoning summary").click();
  call.text("four.").finish();
  await waitForReply(page);
  assert.ok(await page.getByText("Let me see").isVisible());
  await button(page.locator(".message.assistant"), "Regenerate").click();
  (await upstream.nextCall()).reply("Five.");
  await lastMessage(page).getByText("2/2", { exact: true }).waitFor();
  await button(lastMessage(page), "Earlier version").click();
  await page.getByText("It is four.").waitFor();
});

test("screen readers hear how a reply ended", async () => {
  const page = await echoic.openPage();
  const waitForAnnouncement = (/** @type {string} */ text) => page.locator(".sr-only[role=status]", { hasText: text }).waitFor({ state: "attached" });
  await sendMessage(page, "Fail");
  (await upstream.nextCall()).refuse(400, "the model is asleep");
  await waitForAnnouncement("Reply failed");
  await button(page, "Try again").click();
  const call = await upstream.nextCall();
  call.text("Half");
  await page.getByText("Half").waitFor();
  await button(page, "Stop").click();
  await waitForAnnouncement("Reply interrupted");
  await button(page, "Try again").click();
  (await upstream.nextCall()).reply("Whole.");
  await waitForAnnouncement("Reply complete");
});

test("switching branches keeps the scroll position", async () => {
  const branch = (/** @type {string} */ name) => Array.from({ length: 80 }, (_, i) => ({ id: `${name}${i}`, role: i % 2 ? "assistant" : "user", content: `${name} says ${i}`, parentId: i ? `${name}${i - 1}` : "root" }));
  const messages = [{ id: "root", role: "assistant", content: "root", parentId: null }, ...branch("A"), ...branch("B")];
  await api.call("POST", "/api/import", { sessions: [{ sessionId: "long-branches", title: "Long branches", messages }] });
  const page = await echoic.openPage("#/c/long-branches/B0");
  const first = (/** @type {string} */ name) => page.locator(".message", { hasText: `${name} says 0` }).first();
  const top = async (/** @type {string} */ name) => (await first(name).boundingBox())?.y ?? NaN;
  await first("B").waitFor();
  const before = await top("B");
  await first("B").hover();
  await button(first("B"), "Earlier version").click();
  await first("A").waitFor();
  await waitUntil(async () => Math.abs((await top("A")) - before) < 2, "the other version at the same place");
  await page.getByText("A says 1", { exact: true }).waitFor();
  assert.equal(await page.getByText("B says 1", { exact: true }).count(), 0);
});

test("list bullets follow the text direction", async () => {
  const { sessionId } = await api.createSession({ title: "Both sides" });
  await api.addMessage(sessionId, "assistant", "- واحد **اثنان**\n- ثلاثة");
  await api.addMessage(sessionId, "assistant", "- one **two**\n- three");
  const page = await echoic.openPage(`#/c/${sessionId}`);
  await page.locator(".prose li").nth(3).waitFor();
  const sides = await page.locator(".prose ul").evaluateAll((lists) => lists.map((list) => getComputedStyle(list)).map(({ direction, paddingLeft, paddingRight }) => [direction, paddingLeft !== "0px", paddingRight !== "0px"]));
  assert.deepEqual(sides, [["rtl", false, true], ["ltr", true, false]]);
});

test("images are attached, sent and shown", async () => {
  const page = await echoic.openPage();
  await page.locator('.composer input[type="file"]').setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: Buffer.from(PIXEL, "base64") });
  await page.locator('.composer img[alt="dot.png"]').waitFor();
  await sendMessage(page, "What is this?");
  const call = await upstream.nextCall();
  const content = call.request.messages.at(-1)?.content;
  assert.ok(Array.isArray(content));
  assert.equal(content.find(({ type }) => type === "image_url")?.image_url?.url, `data:image/png;base64,${PIXEL}`);
  call.reply("A dot.");
  await waitForReply(page);
  const image = page.locator('.message.user img[alt="dot.png"]');
  assert.equal(await image.evaluate((/** @type {HTMLImageElement} */ { naturalWidth }) => naturalWidth), 1);
});

test("edit and regenerate create branches to switch between", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "one plus one");
  (await upstream.nextCall()).reply("two");
  await waitForReply(page);

  await page.locator(".message.assistant").hover();
  await button(lastMessage(page), "Regenerate").click();
  (await upstream.nextCall()).reply("2");
  await lastMessage(page).getByText("2/2", { exact: true }).waitFor();
  assert.deepEqual(await getTexts(page), ["one plus one", "2"]);

  await button(page.locator(".message.user"), "Edit").click();
  const field = page.getByLabel("Message", { exact: true });
  assert.equal(await field.inputValue(), "one plus one");
  await sendMessage(page, "one plus two");
  const call = await upstream.nextCall();
  assert.equal(call.lastText, "one plus two");
  assert.equal(call.request.messages.filter(({ role }) => role === "user").length, 1, "the prompt contains this branch only");
  call.reply("three");
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).join() === "one plus two,three", "the new branch");

  await button(page.locator(".message.user"), "Earlier version").click();
  await waitUntil(async () => (await getTexts(page)).join() === "one plus one,2", "the earlier branch");
  await button(page.locator(".message.assistant"), "Earlier version").click();
  await waitUntil(async () => (await getTexts(page)).join() === "one plus one,two", "the first reply");
});

test("stopped reply keeps its text and says so", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "A long story");
  const call = await upstream.nextCall();
  call.text("Once upon a time");
  await page.getByText("Once upon a time").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("The reply was interrupted.").waitFor();
  assert.deepEqual(await getTexts(page), ["A long story", "Once upon a time"]);
  await page.getByRole("button", { name: "Try again" }).click();
  (await upstream.nextCall()).reply("Once, and to the end.");
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).at(-1) === "Once, and to the end.", "the new reply");
});

test("failed reply says why and can be retried", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Fail, please");
  (await upstream.nextCall()).refuse(400, "the model is asleep");
  await page.locator(".status-box.failed").waitFor();
  await page.getByRole("button", { name: "Try again" }).click();
  (await upstream.nextCall()).reply("Awake again.");
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).at(-1) === "Awake again.", "the new reply");
});

test("message sent during a reply is queued", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "first");
  const first = await upstream.nextCall();
  first.text("answer one");
  await page.getByText("answer one").waitFor();
  await page.getByLabel("Message", { exact: true }).fill("second");
  await page.getByRole("button", { name: "Queue message" }).click();
  await page.getByText("Queued: second").waitFor();
  first.finish();
  (await upstream.nextCall()).reply("answer two");
  await waitUntil(async () => (await getTexts(page)).join() === "first,answer one,second,answer two", "both turns");
  await waitForReply(page);
  await page.getByText("Queued: second").waitFor({ state: "detached" });
});

test("scrolling up stops following until the jump button", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Count");
  const call = await upstream.nextCall();
  call.text(Array.from({ length: 80 }, (_, i) => `line ${i}\n\n`).join(""));
  await page.getByText("line 78").waitFor();
  const scroller = page.locator(".scroller");
  const rest = () => scroller.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight);
  await waitUntil(async () => (await rest()) < 5, "the newest text to be visible");

  await scroller.hover();
  await page.mouse.wheel(0, -800);
  await page.getByRole("button", { name: "Jump to latest" }).waitFor();
  await waitUntil(async () => (await rest()) > 300, "the wheel event");
  const top = () => scroller.evaluate((element) => element.scrollTop);
  const before = await top();
  call.text(Array.from({ length: 40 }, (_, i) => `further ${i}\n\n`).join(""));
  await waitUntil(() => page.getByText("further 38").count(), "more text");
  assert.ok(Math.abs((await top()) - before) < 2, "the scroll position is kept");

  await page.getByRole("button", { name: "Jump to latest" }).click();
  await waitUntil(async () => (await rest()) < 5, "the newest text to be visible");
  call.text("the very last");
  await page.getByText("the very last").waitFor();
  await waitUntil(async () => (await rest()) < 5, "the newest text to stay visible");
  call.finish();
  await waitForReply(page);
});

test("touch scrolling stops and resumes following", async () => {
  const page = await echoic.openPage("", { width: 390, height: 844, hasTouch: true, isMobile: true });
  await sendMessage(page, "Count on a phone");
  const call = await upstream.nextCall();
  call.text(Array.from({ length: 60 }, (_, i) => `line ${i}\n\n`).join(""));
  await page.getByText("line 58").waitFor();
  const scroller = page.locator(".scroller");
  const rest = () => scroller.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight);
  await waitUntil(async () => (await rest()) < 5, "the newest text to be visible");

  const finger = await page.context().newCDPSession(page);
  let words = 0;
  const drag = async (/** @type {number} */ from, /** @type {number} */ step, /** @type {number} */ steps) => {
    const at = (/** @type {number} */ y) => [{ x: 200, y }];
    await finger.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: at(from) });
    for (let i = 1; i <= steps; i++) {
      call.text(`word ${++words} `);
      await page.getByText(`word ${words} `).waitFor();
      await finger.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: at(from + i * step) });
    }
    await finger.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
  };
  await drag(200, 9, 30);
  await page.getByRole("button", { name: "Jump to latest" }).waitFor();
  assert.ok((await rest()) > 150, "new text did not scroll it back");
  await drag(600, -30, 18);
  await page.getByRole("button", { name: "Jump to latest" }).waitFor({ state: "hidden" });
  call.reply("the very last");
  await waitForReply(page);
  await waitUntil(async () => (await rest()) < 5, "the newest text to stay visible");
});

test("any message can be branched into a new chat", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "root");
  (await upstream.nextCall()).reply("trunk");
  await waitForReply(page);
  const before = page.url();
  await page.locator(".message.user").hover();
  await button(page.locator(".message.user"), "Branch into a new chat").click();
  await waitUntil(() => page.url() !== before, "the new chat");
  await waitUntil(async () => (await getTexts(page)).join() === "root", "the messages up to the branch");
});

test("draft survives navigation and Shift+Enter adds a line", async () => {
  const { sessionId } = await api.createSession({ title: "Drafts" });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  const field = page.getByLabel("Message", { exact: true });
  await field.fill("half a thought");
  await page.getByRole("button", { name: "New chat" }).click();
  assert.equal(await field.inputValue(), "");
  await page.goBack();
  await waitUntil(async () => (await field.inputValue()) === "half a thought", "the draft");
  await field.press("End");
  await field.press("Shift+Enter");
  await field.pressSequentially("and its end");
  await field.press("Enter");
  const call = await upstream.nextCall();
  assert.equal(call.lastText, "half a thought\nand its end");
  call.reply("A whole one.");
  await waitForReply(page);
});

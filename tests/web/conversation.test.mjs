// A conversation as it is read and written: streaming, branches, stopping, failing, scrolling.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { replied, say, shown, start, until } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const last = (page) => page.locator(".message").last();
const tool = (message, name) => message.getByRole("button", { name });

test("blocks are rendered once each while the reply streams, and the open one is text", async () => {
  const page = await echoic.page();
  await say(page, "Teach me");
  const call = await upstream.call();
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
  await replied(page);

  assert.ok(await heading.evaluate((element) => element.isConnected), "what was shown stays as it is");
  assert.equal(new Set(rendered).size, rendered.length, "no block is rendered twice");
  assert.equal(rendered.length, 4);
  const items = page.locator(".prose ol li");
  assert.equal(await items.count(), 2, "one list, though there are blank lines in it");
  await page.getByRole("button", { name: "Copy", exact: true }).first().waitFor();
  await page.locator(".code-head button").click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "const a = [3, 1];\na.sort();");
  await last(page).getByText("95 tokens").waitFor();
  const [, reply] = await api.messages(new URL(page.url()).hash.split("/")[2]);
  assert.equal(reply.status, "complete");
});

test("a reply that pauses shows that more will come", async () => {
  const page = await echoic.page();
  await say(page, "Take your time");
  const call = await upstream.call();
  const dots = page.locator(".waiting-dots");
  await dots.waitFor();
  call.text("Well");
  await dots.waitFor({ state: "hidden" });
  await dots.waitFor();
  call.reply(", done.");
  await replied(page);
  assert.equal(await dots.count(), 0);
});

test("thoughts are folded beside the answer", async () => {
  const page = await echoic.page();
  await say(page, "Think first");
  const call = await upstream.call();
  call.reasoning("Let me see… ").reasoning("2 and 2");
  await page.getByText("Thinking…").waitFor();
  call.reply("4");
  await replied(page);
  const thoughts = page.locator(".reasoning");
  assert.equal(await thoughts.locator("p").isVisible(), false);
  await thoughts.locator("summary").click();
  assert.equal(await thoughts.locator("p").innerText(), "Let me see… 2 and 2");
});

test("thoughts and calls that the reader has opened stay open when the reply has ended", async () => {
  const page = await echoic.page();
  await say(page, "Think aloud");
  const call = await upstream.call();
  call.reasoning("Let me see").text("It is ");
  await page.locator(".reasoning summary").click();
  call.text("four.").finish();
  await replied(page);
  assert.ok(await page.getByText("Let me see").isVisible());
  await tool(page.locator(".message.assistant"), "Another reply").click();
  (await upstream.call()).reply("Five.");
  await last(page).getByText("2/2", { exact: true }).waitFor();
  await tool(last(page), "Earlier version").click();
  await page.getByText("It is four.").waitFor();
});

test("what is said of a reply's end is how it ended", async () => {
  const page = await echoic.page();
  const said = (text) => page.locator(".sr[role=status]", { hasText: text }).waitFor({ state: "attached" });
  await say(page, "Fail for those who listen");
  (await upstream.call()).refuse(400, "the model is asleep");
  await said("The reply has failed.");
  await tool(page, "Try again").click();
  const call = await upstream.call();
  call.text("Half");
  await page.getByText("Half").waitFor();
  await tool(page, "Stop").click();
  await said("The reply ended early.");
  await tool(page, "Try again").click();
  (await upstream.call()).reply("Whole.");
  await said("The reply is complete.");
});

test("another branch of a long chat is shown where the reader was", async () => {
  const branch = (name) => Array.from({ length: 80 }, (_, i) => ({ id: `${name}${i}`, role: i % 2 ? "assistant" : "user", content: `${name} says ${i}`, parentId: i ? `${name}${i - 1}` : "root" }));
  const messages = [{ id: "root", role: "assistant", content: "root", parentId: null }, ...branch("A"), ...branch("B")];
  await api.call("POST", "/api/import", { sessions: [{ sessionId: "long-branches", title: "Long branches", messages }] });
  const page = await echoic.page("#/c/long-branches/B0");
  const begin = (name) => page.locator(".message", { hasText: `${name} says 0` }).first();
  const top = async (name) => (await begin(name).boundingBox()).y;
  await begin("B").waitFor();
  const before = await top("B");
  await begin("B").hover();
  await tool(begin("B"), "Earlier version").click();
  await begin("A").waitFor();
  await until(async () => Math.abs((await top("A")) - before) < 2, "the other version to stand in the same place");
  await page.getByText("A says 1", { exact: true }).waitFor();
  assert.equal(await page.getByText("B says 1", { exact: true }).count(), 0);
});

test("bullets stand at the side where the words begin", async () => {
  const { sessionId } = await api.session({ title: "Both sides" });
  await api.say(sessionId, "assistant", "- واحد **اثنان**\n- ثلاثة");
  await api.say(sessionId, "assistant", "- one **two**\n- three");
  const page = await echoic.page(`#/c/${sessionId}`);
  await page.locator(".prose li").nth(3).waitFor();
  const sides = await page.locator(".prose ul").evaluateAll((lists) => lists.map((list) => getComputedStyle(list)).map(({ direction, paddingLeft, paddingRight }) => [direction, paddingLeft !== "0px", paddingRight !== "0px"]));
  assert.deepEqual(sides, [["rtl", false, true], ["ltr", true, false]]);
});

test("pictures are attached, sent and shown", async () => {
  const page = await echoic.page();
  await page.locator('.composer input[type="file"]').setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: Buffer.from(PIXEL, "base64") });
  await page.locator('.composer img[alt="dot.png"]').waitFor();
  await say(page, "What is this?");
  const call = await upstream.call();
  assert.equal(call.request.messages.at(-1).content.find(({ type }) => type === "image_url").image_url.url, `data:image/png;base64,${PIXEL}`);
  call.reply("A dot.");
  await replied(page);
  const picture = page.locator('.message.user img[alt="dot.png"]');
  assert.equal(await picture.evaluate((image) => image.naturalWidth), 1);
});

test("editing and answering anew make branches, between which one goes back and forth", async () => {
  const page = await echoic.page();
  await say(page, "one plus one");
  (await upstream.call()).reply("two");
  await replied(page);

  await page.locator(".message.assistant").hover();
  await tool(last(page), "Another reply").click();
  (await upstream.call()).reply("2");
  await last(page).getByText("2/2", { exact: true }).waitFor();
  assert.deepEqual(await shown(page), ["one plus one", "2"]);

  await tool(page.locator(".message.user"), "Edit").click();
  const field = page.getByLabel("Message", { exact: true });
  assert.equal(await field.inputValue(), "one plus one");
  await say(page, "one plus two");
  const call = await upstream.call();
  assert.equal(call.asked, "one plus two");
  assert.equal(call.request.messages.filter(({ role }) => role === "user").length, 1, "the model reads this branch only");
  call.reply("three");
  await replied(page);
  await until(async () => (await shown(page)).join() === "one plus two,three", "the new branch");

  await tool(page.locator(".message.user"), "Earlier version").click();
  await until(async () => (await shown(page)).join() === "one plus one,2", "the earlier branch");
  await tool(page.locator(".message.assistant"), "Earlier version").click();
  await until(async () => (await shown(page)).join() === "one plus one,two", "the first reply");
});

test("a stopped reply keeps what was said, and says so", async () => {
  const page = await echoic.page();
  await say(page, "A long story");
  const call = await upstream.call();
  call.text("Once upon a time");
  await page.getByText("Once upon a time").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("The reply was cut short.").waitFor();
  assert.deepEqual(await shown(page), ["A long story", "Once upon a time"]);
  await page.getByRole("button", { name: "Try again" }).click();
  (await upstream.call()).reply("Once, and to the end.");
  await replied(page);
  await until(async () => (await shown(page)).at(-1) === "Once, and to the end.", "the other reply");
});

test("a reply that fails says why and can be tried again", async () => {
  const page = await echoic.page();
  await say(page, "Fail, please");
  (await upstream.call()).refuse(400, "the model is asleep");
  await page.locator(".state.failed").waitFor();
  await page.getByRole("button", { name: "Try again" }).click();
  (await upstream.call()).reply("Awake again.");
  await replied(page);
  await until(async () => (await shown(page)).at(-1) === "Awake again.", "the other reply");
});

test("what is sent while a reply runs waits for its turn", async () => {
  const page = await echoic.page();
  await say(page, "first");
  const first = await upstream.call();
  first.text("answer one");
  await page.getByText("answer one").waitFor();
  await page.getByLabel("Message", { exact: true }).fill("second");
  await page.getByRole("button", { name: "Send when the reply is done" }).click();
  await page.getByText("Waiting: second").waitFor();
  first.finish();
  (await upstream.call()).reply("answer two");
  await until(async () => (await shown(page)).join() === "first,answer one,second,answer two", "both turns");
  await replied(page);
  await page.getByText("Waiting: second").waitFor({ state: "detached" });
});

test("who reads further up is left alone, and gets back to the latest words with a click", async () => {
  const page = await echoic.page();
  await say(page, "Count");
  const call = await upstream.call();
  call.text(Array.from({ length: 80 }, (_, i) => `line ${i}\n\n`).join(""));
  await page.getByText("line 78").waitFor();
  const scroller = page.locator(".scroller");
  const rest = () => scroller.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight);
  await until(async () => (await rest()) < 5, "the newest words to be in sight");

  await scroller.hover();
  await page.mouse.wheel(0, -800);
  await page.getByRole("button", { name: "Jump to latest" }).waitFor();
  await until(async () => (await rest()) > 300, "the wheel to have turned");
  const top = () => scroller.evaluate((element) => element.scrollTop);
  const before = await top();
  call.text(Array.from({ length: 40 }, (_, i) => `further ${i}\n\n`).join(""));
  await until(() => page.getByText("further 38").count(), "more words");
  assert.ok(Math.abs((await top()) - before) < 2, "the page stays where the reader is");

  await page.getByRole("button", { name: "Jump to latest" }).click();
  await until(async () => (await rest()) < 5, "the newest words to be in sight");
  call.text("the very last");
  await page.getByText("the very last").waitFor();
  await until(async () => (await rest()) < 5, "the newest words to stay in sight");
  call.finish();
  await replied(page);
});

test("a finger drags a reply that is being written away from its end, and back to it", async () => {
  const page = await echoic.page("", { width: 390, height: 844, hasTouch: true, isMobile: true });
  await say(page, "Count on a phone");
  const call = await upstream.call();
  call.text(Array.from({ length: 60 }, (_, i) => `line ${i}\n\n`).join(""));
  await page.getByText("line 58").waitFor();
  const scroller = page.locator(".scroller");
  const rest = () => scroller.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight);
  await until(async () => (await rest()) < 5, "the newest words to be in sight");

  const finger = await page.context().newCDPSession(page);
  let words = 0;
  const drag = async (from, step, steps) => {
    const at = (y) => [{ x: 200, y }];
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
  assert.ok((await rest()) > 150, "the words that came did not pull it back");
  await drag(600, -30, 18);
  await page.getByRole("button", { name: "Jump to latest" }).waitFor({ state: "hidden" });
  call.reply("the very last");
  await replied(page);
  await until(async () => (await rest()) < 5, "the newest words to stay in sight");
});

test("a chat goes on elsewhere from any message", async () => {
  const page = await echoic.page();
  await say(page, "root");
  (await upstream.call()).reply("trunk");
  await replied(page);
  const before = page.url();
  await page.locator(".message.user").hover();
  await tool(page.locator(".message.user"), "Go on from here in a new chat").click();
  await until(() => page.url() !== before, "the new chat");
  await until(async () => (await shown(page)).join() === "root", "the path up to the message");
});

test("a draft survives going elsewhere, and enter sends where shift and enter begins a line", async () => {
  const { sessionId } = await api.session({ title: "Drafts" });
  const page = await echoic.page(`#/c/${sessionId}`);
  const field = page.getByLabel("Message", { exact: true });
  await field.fill("half a thought");
  await page.getByRole("button", { name: "New chat" }).click();
  assert.equal(await field.inputValue(), "");
  await page.goBack();
  await until(async () => (await field.inputValue()) === "half a thought", "the draft");
  await field.press("End");
  await field.press("Shift+Enter");
  await field.pressSequentially("and its end");
  await field.press("Enter");
  const call = await upstream.call();
  assert.equal(call.asked, "half a thought\nand its end");
  call.reply("A whole one.");
  await replied(page);
});

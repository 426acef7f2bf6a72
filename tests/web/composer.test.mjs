// The field to write in: what is typed is sent once, or is still there, whatever happens between.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { replied, say, shown, start, until } from "./support.mjs";

const echoic = await start({}, /ERR_|Failed to load resource/);
after(echoic.stop);
const { api, upstream } = echoic;

const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
const field = (page) => page.getByLabel("Message", { exact: true });
const button = (page, name) => page.getByRole("button", { name, exact: true });
const holds = (page, text) => until(async () => (await field(page).inputValue()) === text, `the field to hold ${JSON.stringify(text)}`);
const openChat = (page, title) => page.locator(`.chat-row a[title="${title}"]`).click();

/** A chat with messages, and one to go to. */
async function twoChats(title, ...said) {
  const { sessionId } = await api.session({ title });
  for (const [i, content] of said.entries()) await api.say(sessionId, i % 2 ? "assistant" : "user", content);
  await api.session({ title: `Not ${title}` });
  const page = await echoic.page(`#/c/${sessionId}`);
  if (said.length > 0) await page.getByText(said.at(-1), { exact: true }).waitFor();
  return { page, sessionId };
}

/** Holds up what the page sends until `send()`, or until `lose()` lets it fail. */
async function holdUp(page) {
  const held = [];
  let isOpen = false;
  await page.route("**/api/chat", (route) => (isOpen ? route.continue() : held.push(route)));
  const open = (pass) => {
    isOpen = true;
    return Promise.all(held.map(pass));
  };
  return {
    held: (count) => until(() => held.length === count, `${count} requests on their way`),
    send: () => open((route) => route.continue()),
    lose: () => open((route) => route.abort()),
  };
}

test("enter sends and never stops, escape does", async () => {
  const page = await echoic.page();
  await field(page).fill("Twice");
  await field(page).press("Enter");
  await field(page).press("Enter");
  const call = await upstream.call();
  await field(page).press("Enter");
  call.text("Not cut short");
  await page.getByText("Not cut short").waitFor();
  await field(page).press("Escape");
  await page.getByText("The reply was cut short.").waitFor();
  assert.deepEqual(await shown(page), ["Twice", "Not cut short"]);
});

test("a message reaches its chat though another one is opened while it is sent", async () => {
  const { page, sessionId } = await twoChats("Left", "before");
  const way = await holdUp(page);
  await say(page, "on its way");
  await way.held(1);
  await openChat(page, "Not Left");
  await page.getByRole("heading", { name: "Not Left" }).waitFor();
  await way.send();
  (await upstream.call()).reply("arrived");
  await until(async () => (await api.messages(sessionId)).length === 3, "the reply to be stored");
  await openChat(page, "Left");
  await replied(page);
  assert.deepEqual(await shown(page), ["before", "on its way", "arrived"]);
  assert.equal(await field(page).inputValue(), "");
});

test("a message that is lost on its way is in its chat's field again, with its pictures", async () => {
  const { page } = await twoChats("Lost", "before");
  const way = await holdUp(page);
  await page.locator('.composer input[type="file"]').setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: PIXEL });
  await page.locator(".composer figure").waitFor();
  await say(page, "on its way");
  await way.held(1);
  await openChat(page, "Not Lost");
  await page.getByRole("heading", { name: "Not Lost" }).waitFor();
  await way.lose();
  await page.locator(".toast", { hasText: "in its chat’s field again" }).waitFor();
  assert.equal(await field(page).inputValue(), "");
  await openChat(page, "Lost");
  await holds(page, "on its way");
  assert.equal(await page.locator(".composer figure").count(), 1);
});

test("two quick messages in a new chat are said in one", async () => {
  const page = await echoic.page();
  const way = await holdUp(page);
  await say(page, "quick one");
  await field(page).fill("quick two");
  await button(page, "Send when the reply is done").click();
  await page.getByText("Waiting: quick two").waitFor();
  await way.held(1);
  await way.send();
  (await upstream.call()).reply("answer one");
  (await upstream.call()).reply("answer two");
  await until(async () => (await shown(page)).join() === "quick one,answer one,quick two,answer two", "both turns");
  assert.equal((await api.sessions("search=quick")).length, 1);
});

test("of two messages in a new chat that is lost, one can be sent again and the other is in the field", async () => {
  const page = await echoic.page();
  const way = await holdUp(page);
  await say(page, "lost one");
  await field(page).fill("lost two");
  await button(page, "Send when the reply is done").click();
  await way.held(1);
  await way.lose();
  await page.getByText("It could not be sent.").waitFor();
  await holds(page, "lost two");
  await button(page, "Send again").click();
  (await upstream.call()).reply("found");
  await replied(page);
  assert.deepEqual(await shown(page), ["lost one", "found"]);
  assert.equal(await field(page).inputValue(), "lost two");
});

test("a stop gives back all messages that waited, in their order", async () => {
  const page = await echoic.page();
  await say(page, "one");
  const call = await upstream.call();
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
  await holds(page, "two\n\nthree\n\nfour");
  assert.equal(await page.locator(".queue li").count(), 0);
});

test("an edit leaves the draft alone, and is there again after another chat and a new page", async () => {
  const { page } = await twoChats("Edited", "original", "answer");
  await field(page).fill("a draft");
  await button(page, "Edit").click();
  await holds(page, "original");
  await field(page).fill("rewritten");
  await openChat(page, "Not Edited");
  await holds(page, "");
  assert.equal(await page.locator(".composer-banner").isVisible(), false);
  await openChat(page, "Edited");
  await holds(page, "rewritten");
  await page.reload();
  await holds(page, "rewritten");
  await page.getByText("Editing:").waitFor();
  await button(page, "Cancel").click();
  await holds(page, "a draft");
});

test("an edit that cannot be sent hides nothing, and stays an edit", async () => {
  const { page, sessionId } = await twoChats("Edited in vain", "q0", "a0", "q1", "a1");
  const way = await holdUp(page);
  await page.locator(".message.user").first().hover();
  await button(page.locator(".message.user").first(), "Edit").click();
  await say(page, "q0, better");
  await way.held(1);
  await way.lose();
  await page.getByText("It could not be sent.").waitFor();
  assert.deepEqual(await shown(page), ["q0", "a0", "q1", "a1", "q0, better"]);
  await button(page.locator(".state"), "Edit").click();
  await holds(page, "q0, better");
  await page.getByText("Editing:").waitFor();
  await button(page, "Send").click();
  (await upstream.call()).reply("a0, better");
  await replied(page);
  await until(async () => (await shown(page)).join("|") === "q0, better|a0, better", "the new branch");
  assert.deepEqual((await api.messages(sessionId)).map(({ content }) => content), ["q0, better", "a0, better"]);
});

test("an edit far up in a long chat is shown with its answer, and without what followed", async () => {
  const messages = Array.from({ length: 120 }, (_, i) => ({ id: `far${i}`, role: i % 2 ? "assistant" : "user", content: `far ${i}.`, parentId: i ? `far${i - 1}` : null }));
  await api.call("POST", "/api/import", { sessions: [{ sessionId: "far", title: "Far", messages }] });
  const page = await echoic.page("#/c/far/far20");
  const old = page.locator(".message", { hasText: "far 20." });
  await old.hover();
  await button(old, "Edit").click();
  await holds(page, "far 20.");
  await say(page, "far 20, better");
  const call = await upstream.call();
  call.text("a new");
  await page.getByText("a new").waitFor();
  assert.deepEqual((await shown(page)).slice(-3), ["far 19.", "far 20, better", "a new"]);
  call.reply(" answer");
  await replied(page);
  assert.deepEqual((await shown(page)).slice(-3), ["far 19.", "far 20, better", "a new answer"]);
});

test("another reply that cannot be asked for leaves the one that is there", async () => {
  const { page } = await twoChats("Asked in vain", "question", "answer");
  await page.route("**/regenerate", (route) => route.abort());
  await page.locator(".message.assistant").hover();
  await button(page, "Another reply").click();
  await page.locator(".toast", { hasText: "cannot be reached" }).waitFor();
  assert.deepEqual(await shown(page), ["question", "answer"]);
  await page.unroute("**/regenerate");
  await button(page, "Try again").click();
  (await upstream.call()).reply("another");
  await replied(page);
  await until(async () => (await shown(page)).join() === "question,another", "the other reply");
});

test("an edit takes the place of what is being written at once", async () => {
  const page = await echoic.page();
  await say(page, "first question");
  (await upstream.call()).text("Half an ans");
  await page.getByText("Half an ans").waitFor();
  await page.locator(".message.user .tools").waitFor();
  await page.locator(".message.user").hover();
  await button(page, "Edit").click();
  await field(page).fill("better question");
  await field(page).press("Enter");
  const call = await upstream.call();
  call.text("New answer");
  await page.getByText("New answer").waitFor();
  assert.deepEqual(await shown(page), ["better question", "New answer"]);
  call.finish();
  await replied(page);
  assert.deepEqual(await shown(page), ["better question", "New answer"]);
});

test("messages that could not be sent are in the field after another chat, and in a new page", async () => {
  const { page } = await twoChats("Unsent", "before");
  await page.route("**/api/chat", (route) => route.abort());
  await say(page, "precious");
  await page.locator(".state.failed").waitFor();
  await openChat(page, "Not Unsent");
  await holds(page, "");
  await openChat(page, "Unsent");
  await holds(page, "precious");
  await button(page, "Send").click();
  await page.locator(".state.failed").waitFor();
  await say(page, "and more");
  await page.locator(".state.failed").nth(1).waitFor();
  await page.reload();
  await holds(page, "precious\n\nand more");
});

test("pictures stay with the draft while another chat is open", async () => {
  const { page } = await twoChats("Pictures", "before");
  await page.locator('.composer input[type="file"]').setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: PIXEL });
  await page.locator(".composer figure").waitFor();
  await openChat(page, "Not Pictures");
  await page.locator(".composer figure").waitFor({ state: "detached" });
  await openChat(page, "Pictures");
  await page.locator('.composer img[alt="dot.png"]').waitFor();
});

test("a draft that is longer than a tab may keep is held by the page", async () => {
  const { page } = await twoChats("Long", "before");
  const long = "x".repeat(6 << 20);
  await field(page).evaluate((element, text) => {
    element.value = text;
    element.dispatchEvent(new Event("input"));
  }, long);
  await openChat(page, "Not Long");
  await holds(page, "");
  await openChat(page, "Long");
  await until(async () => (await field(page).evaluate(({ value }) => value.length)) === long.length, "the long draft");
});

test("a suggestion is in the field, ready to be gone on with", async () => {
  const page = await echoic.page();
  await button(page, "Plan a weekend in Lisbon").click();
  await page.keyboard.type(" in May");
  assert.equal(await field(page).inputValue(), "Plan a weekend in Lisbon in May");
});

for (const [width, height] of [[390, 480], [844, 390], [640, 400], [320, 256]]) {
  test(`the field is whole on a screen of ${width} by ${height}`, async () => {
    const page = await echoic.page("", { width, height });
    await button(page, "Send").waitFor();
    const bottom = await page.locator(".composer").evaluate((element) => element.getBoundingClientRect().bottom);
    assert.ok(bottom <= height, `the field ends at ${bottom}`);
  });
}

// Whether the provider was asked by then is open, so this is the last.
test("who stops before anything was heard is heeded, in a new chat and in an old one", async () => {
  const { sessionId } = await api.session({ title: "Stopped early" });
  for (const path of ["", `#/c/${sessionId}`]) {
    const page = await echoic.page(path);
    await page.getByText("Connected").waitFor();
    const way = await holdUp(page);
    await say(page, "Never mind");
    await button(page, "Stop").click();
    await way.send();
    await page.getByText("The reply was cut short.").waitFor();
    assert.deepEqual(await page.locator(".toast").allInnerTexts(), []);
  }
});

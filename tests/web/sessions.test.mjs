// The list of chats: creating, searching, renaming, archiving, deleting and live updates.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getErrors } from "./browser.mjs";
import { sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

const row = (/** @type {Page} */ page, /** @type {string} */ title) => page.locator(".chat-row").filter({ hasText: title });
const getTitles = (/** @type {Page} */ page) => page.locator(".chat-row .title").allInnerTexts();

/**
 * Returns the name of the focused element.
 *
 * @param {Page} page
 */
const getFocusedName = (page) => page.evaluate(() => {
  const { ariaLabel, title, textContent } = /** @type {HTMLElement} */ (document.activeElement);
  return ariaLabel || title || textContent;
});

const waitForFrame = (/** @type {Page} */ page) => page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));

/**
 * Opens the menu of a chat and runs an action.
 *
 * @param {Page} page
 * @param {string} title
 * @param {string} action
 */
async function runAction(page, title, action) {
  await row(page, title).hover();
  await row(page, title).getByRole("button").click();
  await page.getByRole("menuitem", { name: action, exact: true }).click();
}

test("chat is created and titled by its first message", async () => {
  const page = await echoic.openPage();
  await page.getByRole("heading", { name: "What can I help with?" }).waitFor();
  await page.getByText("No chats yet").waitFor();
  await page.getByRole("button", { name: "New chat" }).click();
  assert.deepEqual(await api.listSessions(), []);

  await sendMessage(page, "Why is the sky blue?");
  (await upstream.nextCall()).reply("Because of **Rayleigh** scattering.");
  await waitForReply(page);

  await row(page, "Why is the sky blue?").waitFor();
  assert.equal(await page.locator("h1").innerText(), "Why is the sky blue?");
  const [session, ...others] = await api.listSessions();
  assert.deepEqual(others, []);
  assert.match(page.url(), new RegExp(`#/c/${session.sessionId}$`));
  assert.deepEqual(getErrors(page), []);
  await api.call("DELETE", `/api/chat-sessions/${session.sessionId}`);
});

test("chat is renamed, pinned and archived", async () => {
  for (const title of ["Alpha", "Beta", "Gamma"]) await api.createSession({ title });
  const page = await echoic.openPage();
  await row(page, "Gamma").waitFor();

  await runAction(page, "Alpha", "Rename");
  const field = page.getByLabel("Title", { exact: true });
  assert.equal(await field.inputValue(), "Alpha");
  await field.fill("Aleph");
  await field.press("Enter");
  await row(page, "Aleph").waitFor();

  await runAction(page, "Aleph", "Pin");
  await page.getByRole("heading", { name: "Pinned" }).waitFor();
  assert.equal((await getTitles(page))[0], "Aleph");

  await runAction(page, "Beta", "Archive");
  await row(page, "Beta").waitFor({ state: "detached" });
  await page.getByLabel("Project").selectOption("archive");
  await row(page, "Beta").waitFor();
  assert.deepEqual(await getTitles(page), ["Beta"]);
  const [stored] = await api.listSessions("search=aleph");
  assert.deepEqual([stored.title, stored.titleSource, stored.pinned], ["Aleph", "user", true]);
});

test("Escape cancels a rename", async () => {
  await api.createSession({ title: "Unchanged" });
  const page = await echoic.openPage();
  await runAction(page, "Unchanged", "Rename");
  await page.getByLabel("Title", { exact: true }).fill("Something else");
  await page.getByLabel("Title").press("Escape");
  await row(page, "Unchanged").waitFor();
  assert.equal((await api.listSessions("search=unchanged")).length, 1);
});

test("list updates keep a rename and the focus", async () => {
  const { sessionId } = await api.createSession({ title: "Restless" });
  await api.createSession({ title: "Half" });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  const rename = (/** @type {string} */ title) => api.call("PUT", `/api/chat-sessions/${sessionId}/title`, { title });
  await runAction(page, "Half", "Rename");
  await page.keyboard.type("Half of");
  await rename("Restless now");
  await page.locator("h1", { hasText: "Restless now" }).waitFor();
  await waitForFrame(page);
  await page.keyboard.type(" a title");
  await page.keyboard.press("Enter");
  await row(page, "Half of a title").waitFor();
  await row(page, "Restless now").waitFor();
  assert.equal(await getFocusedName(page), "Half of a title");

  await api.addMessage(sessionId, "user", "moves to the top");
  const isAbove = (/** @type {string[]} */ titles) => titles.indexOf("Restless now") < titles.indexOf("Half of a title");
  await waitUntil(async () => isAbove(await getTitles(page)), "the order to change");
  assert.equal(await getFocusedName(page), "Half of a title");
});

test("double click renames, composing Enter does not end it", async () => {
  const { sessionId } = await api.createSession({ title: "Twice" });
  await api.addMessage(sessionId, "user", "hello");
  const page = await echoic.openPage();
  const field = page.getByLabel("Title", { exact: true });
  for (const [before, title] of [["Twice", "Once"], ["Once", "Thrice"]]) {
    await row(page, before).getByRole("link").dblclick();
    await page.locator(".message").waitFor();
    await field.fill(title);
    await field.dispatchEvent("keydown", { key: "Enter", isComposing: true });
    assert.equal(await getFocusedName(page), "Title");
    await field.press("Enter");
    await row(page, title).waitFor();
  }
});

test("chat that is not listed is renamed in a dialog", async () => {
  const { sessionId } = await api.createSession({ title: "Shelved" });
  await api.call("PATCH", `/api/chat-sessions/${sessionId}`, { archived: true });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  await page.locator("h1", { hasText: "Shelved" }).waitFor();
  await page.getByRole("button", { name: "More", exact: true }).click();
  await page.getByRole("menuitem", { name: "Rename" }).click();
  await page.locator("dialog").getByLabel("Title").fill("Found");
  await page.keyboard.press("Enter");
  await page.locator("h1", { hasText: "Found" }).waitFor();
});

test("archiving can be undone", async () => {
  await api.createSession({ title: "Put away" });
  const page = await echoic.openPage();
  await runAction(page, "Put away", "Archive");
  await row(page, "Put away").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Undo" }).click();
  await row(page, "Put away").waitFor();
});

test("keyboard deletion can be undone at any time", async () => {
  const { sessionId } = await api.createSession({ title: "Slipped" });
  await api.addMessage(sessionId, "user", "hello");
  const page = await echoic.openPage();
  await row(page, "Slipped").getByRole("button").focus();
  for (const key of ["Enter", "ArrowUp", "Enter"]) await page.keyboard.press(key);
  await row(page, "Slipped").waitFor({ state: "detached" });
  assert.equal(await getFocusedName(page), "Undo");
  await page.clock.install();
  await page.clock.fastForward(60_000);
  await page.keyboard.press("Enter");
  await row(page, "Slipped").waitFor();
  assert.equal(await getFocusedName(page), "Slipped");

  await page.keyboard.press("Enter");
  await page.locator(".message").waitFor();
  await runAction(page, "Slipped", "Delete");
  await page.getByRole("heading", { name: "What can I help with?" }).waitFor();
  await page.getByRole("button", { name: "Undo" }).click();
  await page.locator(".message").waitFor();
  assert.match(page.url(), new RegExp(`#/c/${sessionId}$`));
});

test("deletion can be undone until the page is left", async () => {
  const { sessionId } = await api.createSession({ title: "Doomed" });
  const page = await echoic.openPage();
  await runAction(page, "Doomed", "Delete");
  await row(page, "Doomed").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Undo" }).click();
  await row(page, "Doomed").waitFor();
  assert.equal((await api.listSessions("search=doomed")).length, 1);

  await runAction(page, "Doomed", "Delete");
  await row(page, "Doomed").waitFor({ state: "detached" });
  await page.goto("about:blank");
  await waitUntil(async () => (await api.listSessions("search=doomed")).length === 0, `${sessionId} to be deleted`);
});

test("chats are filtered by project", async () => {
  const project = await api.call("POST", "/api/projects", { name: "Garden" });
  await api.createSession({ title: "Roses", projectId: project.projectId });
  await api.createSession({ title: "Taxes" });
  const page = await echoic.openPage();
  await row(page, "Taxes").waitFor();
  await page.getByLabel("Project").selectOption({ label: "Garden" });
  await row(page, "Taxes").waitFor({ state: "detached" });
  assert.deepEqual(await getTitles(page), ["Roses"]);
  await page.getByRole("button", { name: "New chat" }).click();
  await sendMessage(page, "How do I prune?");
  (await upstream.nextCall()).reply("Carefully.");
  await waitForReply(page);
  const [session] = await api.listSessions("search=prune");
  assert.equal(session.projectId, project.projectId);
});

test("running reply is marked in the list of every tab", async () => {
  const { sessionId } = await api.createSession({ title: "Busy one" });
  const page = await echoic.openPage();
  await row(page, "Busy one").waitFor();
  const other = await echoic.openPage(`#/c/${sessionId}`);
  await sendMessage(other, "Take your time");
  const call = await upstream.nextCall();
  await row(page, "Busy one").getByRole("img", { name: "A reply is running" }).waitFor();
  call.reply("Done.");
  await row(page, "Busy one").getByRole("img", { name: "A reply is running" }).waitFor({ state: "detached" });
});

test("search finds and highlights chats and messages", async () => {
  const { sessionId } = await api.createSession({ title: "Cooking" });
  for (let i = 0; i < 70; i += 1) await api.addMessage(sessionId, i % 2 ? "assistant" : "user", `line ${i}`);
  await api.addMessage(sessionId, "assistant", "Saffron is the most expensive spice 🌶 of all");
  for (let i = 0; i < 70; i += 1) await api.addMessage(sessionId, i % 2 ? "assistant" : "user", `more ${i}`);
  const page = await echoic.openPage();
  await waitUntil(async () => (await api.call("GET", "/api/search?q=saffron")).results.length > 0, "the search index");
  await page.keyboard.press("Control+k");
  await page.keyboard.type("saffr");
  const hit = page.locator(".hit");
  await hit.waitFor();
  assert.deepEqual(await hit.locator("mark").allInnerTexts(), ["Saffron"]);
  await page.getByText("No matching chats").waitFor();
  await hit.click();
  const message = page.locator(".message").filter({ hasText: "Saffron" });
  await message.waitFor();
  await waitUntil(() => message.evaluate((element) => {
    const { top, bottom } = element.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  }), "the message to be visible");
  await page.getByLabel("Search chats").fill("cook");
  await row(page, "Cooking").waitFor();
});

test("project filter limits the message search", async () => {
  const { projectId } = await api.call("POST", "/api/projects", { name: "Greenhouse" });
  const { sessionId } = await api.createSession({ title: "Inside", projectId });
  await api.addMessage(sessionId, "user", "tulips under glass");
  await api.addMessage((await api.createSession({ title: "Outside" })).sessionId, "user", "tulips in the rain");
  await waitUntil(async () => (await api.call("GET", "/api/search?q=tulips")).results.length === 2, "the search index");
  const page = await echoic.openPage();
  await page.getByLabel("Search chats").fill("tulips");
  const hits = page.locator(".hit b");
  await waitUntil(async () => (await hits.count()) === 2, "both messages");
  await page.getByLabel("Project", { exact: true }).selectOption({ label: "Greenhouse" });
  await waitUntil(async () => (await hits.allInnerTexts()).join() === "Inside", "only the project's message");
  await page.getByLabel("Project", { exact: true }).selectOption({ label: "All chats" });
  await waitUntil(async () => (await hits.count()) === 2, "both messages again");
});

test("scrolling loads more chats, each once", async () => {
  for (let i = 0; i < 75; i += 1) await api.createSession({ title: `Numbered ${String(i).padStart(2, "0")}` });
  const page = await echoic.openPage();
  await row(page, "Numbered 74").waitFor();
  assert.ok((await getTitles(page)).length < 75);
  await waitUntil(async () => {
    await page.locator(".chats").evaluate((list) => list.scrollTo(0, list.scrollHeight));
    return (await getTitles(page)).includes("Numbered 00");
  }, "the oldest chat to be listed");
  const numbered = (await getTitles(page)).filter((title) => title.startsWith("Numbered"));
  assert.equal(new Set(numbered).size, 75);
  assert.equal(numbered.length, 75);
});

test("tall window is filled with chats", async () => {
  const page = await echoic.openPage("", { height: 1440 });
  await waitUntil(async () => (await getTitles(page)).length > 30, "more than one page of chats");
  await waitUntil(async () => {
    await page.locator(".chats").evaluate((list) => list.scrollTo(0, list.scrollHeight));
    return (await getTitles(page)).includes("Numbered 00");
  }, "the oldest chat to be listed");
});

test("scrolling loads more search results", async () => {
  const { sessionId } = await api.createSession({ title: "Garden diary" });
  for (let i = 0; i < 45; i += 1) await api.addMessage(sessionId, "user", `blossom number ${i}`);
  await waitUntil(async () => (await api.call("GET", "/api/search?q=blossom&limit=100")).results.length === 45, "the search index");
  const page = await echoic.openPage();
  await page.getByLabel("Search chats").fill("blossom");
  await page.locator(".hit").first().waitFor();
  await waitUntil(async () => {
    await page.locator(".chats").evaluate((list) => list.scrollTo(0, list.scrollHeight));
    return (await page.locator(".hit").count()) === 45;
  }, "all results");
});

// The list of chats: what is made when, found, renamed, put away, and what it shows as it happens.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { replied, say, start, until } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

const row = (page, title) => page.locator(".chat-row").filter({ hasText: title });
const titles = (page) => page.locator(".chat-row .title").allInnerTexts();

/** What the focused element is called. */
const focused = (page) => page.evaluate(() => {
  const { ariaLabel, title, textContent } = document.activeElement;
  return ariaLabel || title || textContent;
});

const drawn = (page) => page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));

/** Opens the menu of a chat and chooses from it. */
async function choose(page, title, action) {
  await row(page, title).hover();
  await row(page, title).getByRole("button").click();
  await page.getByRole("menuitem", { name: action, exact: true }).click();
}

test("nothing is created before something is said, and then the chat has its title", async () => {
  const page = await echoic.page();
  await page.getByRole("heading", { name: "What is on your mind?" }).waitFor();
  await page.getByText("No chats yet").waitFor();
  await page.getByRole("button", { name: "New chat" }).click();
  assert.deepEqual(await api.sessions(), []);

  await say(page, "Why is the sky blue?");
  (await upstream.call()).reply("Because of **Rayleigh** scattering.");
  await replied(page);

  await row(page, "Why is the sky blue?").waitFor();
  assert.equal(await page.locator("h1").innerText(), "Why is the sky blue?");
  const [session, ...others] = await api.sessions();
  assert.deepEqual(others, []);
  assert.match(page.url(), new RegExp(`#/c/${session.sessionId}$`));
  assert.deepEqual(page.problems, []);
  await api.call("DELETE", `/api/chat-sessions/${session.sessionId}`);
});

test("a chat is renamed in place, pinned, archived and found in the archive", async () => {
  for (const title of ["Alpha", "Beta", "Gamma"]) await api.session({ title });
  const page = await echoic.page();
  await row(page, "Gamma").waitFor();

  await choose(page, "Alpha", "Rename");
  const field = page.getByLabel("Title", { exact: true });
  assert.equal(await field.inputValue(), "Alpha");
  await field.fill("Aleph");
  await field.press("Enter");
  await row(page, "Aleph").waitFor();

  await choose(page, "Aleph", "Pin");
  await page.getByRole("heading", { name: "Pinned" }).waitFor();
  assert.equal((await titles(page))[0], "Aleph");

  await choose(page, "Beta", "Archive");
  await row(page, "Beta").waitFor({ state: "detached" });
  await page.getByLabel("Project").selectOption("archive");
  await row(page, "Beta").waitFor();
  assert.deepEqual(await titles(page), ["Beta"]);
  const [stored] = await api.sessions("search=aleph");
  assert.deepEqual([stored.title, stored.titleSource, stored.pinned], ["Aleph", "user", true]);
});

test("escape leaves the title as it was", async () => {
  await api.session({ title: "Unchanged" });
  const page = await echoic.page();
  await choose(page, "Unchanged", "Rename");
  await page.getByLabel("Title", { exact: true }).fill("Something else");
  await page.getByLabel("Title").press("Escape");
  await row(page, "Unchanged").waitFor();
  assert.equal((await api.sessions("search=unchanged")).length, 1);
});

test("a title is written to its end while other chats change, and who moves through the list stays there", async () => {
  const { sessionId } = await api.session({ title: "Restless" });
  await api.session({ title: "Half" });
  const page = await echoic.page(`#/c/${sessionId}`);
  const rename = (title) => api.call("PUT", `/api/chat-sessions/${sessionId}/title`, { title });
  await choose(page, "Half", "Rename");
  await page.keyboard.type("Half of");
  await rename("Restless now");
  await page.locator("h1", { hasText: "Restless now" }).waitFor();
  await drawn(page);
  await page.keyboard.type(" a title");
  await page.keyboard.press("Enter");
  await row(page, "Half of a title").waitFor();
  await row(page, "Restless now").waitFor();
  assert.equal(await focused(page), "Half of a title");

  await api.say(sessionId, "user", "moves to the top");
  const isAbove = (listed) => listed.indexOf("Restless now") < listed.indexOf("Half of a title");
  await until(async () => isAbove(await titles(page)), "the order to change");
  assert.equal(await focused(page), "Half of a title");
});

test("a double click renames a chat, and Enter that chooses a word does not end it", async () => {
  const { sessionId } = await api.session({ title: "Twice" });
  await api.say(sessionId, "user", "hello");
  const page = await echoic.page();
  const field = page.getByLabel("Title", { exact: true });
  for (const [before, title] of [["Twice", "Once"], ["Once", "Thrice"]]) {
    await row(page, before).getByRole("link").dblclick();
    await page.locator(".message").waitFor();
    await field.fill(title);
    await field.dispatchEvent("keydown", { key: "Enter", isComposing: true });
    assert.equal(await focused(page), "Title");
    await field.press("Enter");
    await row(page, title).waitFor();
  }
});

test("a chat that is not listed is renamed in a dialog", async () => {
  const { sessionId } = await api.session({ title: "Shelved" });
  await api.call("PATCH", `/api/chat-sessions/${sessionId}`, { archived: true });
  const page = await echoic.page(`#/c/${sessionId}`);
  await page.locator("h1", { hasText: "Shelved" }).waitFor();
  await page.getByRole("button", { name: "More", exact: true }).click();
  await page.getByRole("menuitem", { name: "Rename" }).click();
  await page.locator("dialog").getByLabel("Title").fill("Found");
  await page.keyboard.press("Enter");
  await page.locator("h1", { hasText: "Found" }).waitFor();
});

test("archiving can be taken back", async () => {
  await api.session({ title: "Put away" });
  const page = await echoic.page();
  await choose(page, "Put away", "Archive");
  await row(page, "Put away").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Undo" }).click();
  await row(page, "Put away").waitFor();
});

test("what the keyboard deleted it has back with the next key, however late, and is where it was", async () => {
  const { sessionId } = await api.session({ title: "Slipped" });
  await api.say(sessionId, "user", "hello");
  const page = await echoic.page();
  await row(page, "Slipped").getByRole("button").focus();
  for (const key of ["Enter", "ArrowUp", "Enter"]) await page.keyboard.press(key);
  await row(page, "Slipped").waitFor({ state: "detached" });
  assert.equal(await focused(page), "Undo");
  await page.clock.install();
  await page.clock.fastForward(60_000);
  await page.keyboard.press("Enter");
  await row(page, "Slipped").waitFor();
  assert.equal(await focused(page), "Slipped");

  await page.keyboard.press("Enter");
  await page.locator(".message").waitFor();
  await choose(page, "Slipped", "Delete");
  await page.getByRole("heading", { name: "What is on your mind?" }).waitFor();
  await page.getByRole("button", { name: "Undo" }).click();
  await page.locator(".message").waitFor();
  assert.match(page.url(), new RegExp(`#/c/${sessionId}$`));
});

test("a deleted chat can be had back for a few seconds, and is gone when the page is left", async () => {
  const { sessionId } = await api.session({ title: "Doomed" });
  const page = await echoic.page();
  await choose(page, "Doomed", "Delete");
  await row(page, "Doomed").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Undo" }).click();
  await row(page, "Doomed").waitFor();
  assert.equal((await api.sessions("search=doomed")).length, 1);

  await choose(page, "Doomed", "Delete");
  await row(page, "Doomed").waitFor({ state: "detached" });
  await page.goto("about:blank");
  await until(async () => (await api.sessions("search=doomed")).length === 0, `${sessionId} to be deleted`);
});

test("chats are filtered by their project", async () => {
  const project = await api.call("POST", "/api/projects", { name: "Garden" });
  await api.session({ title: "Roses", projectId: project.projectId });
  await api.session({ title: "Taxes" });
  const page = await echoic.page();
  await row(page, "Taxes").waitFor();
  await page.getByLabel("Project").selectOption({ label: "Garden" });
  await row(page, "Taxes").waitFor({ state: "detached" });
  assert.deepEqual(await titles(page), ["Roses"]);
  await page.getByRole("button", { name: "New chat" }).click();
  await say(page, "How do I prune?");
  (await upstream.call()).reply("Carefully.");
  await replied(page);
  const [session] = await api.sessions("search=prune");
  assert.equal(session.projectId, project.projectId);
});

test("a running reply is seen in the list, in whichever tab it was begun", async () => {
  const { sessionId } = await api.session({ title: "Busy one" });
  const page = await echoic.page();
  await row(page, "Busy one").waitFor();
  const other = await echoic.page(`#/c/${sessionId}`);
  await say(other, "Take your time");
  const call = await upstream.call();
  await row(page, "Busy one").getByRole("img", { name: "A reply is running" }).waitFor();
  call.reply("Done.");
  await row(page, "Busy one").getByRole("img", { name: "A reply is running" }).waitFor({ state: "detached" });
});

test("chats and messages are found by their words, which are marked", async () => {
  const { sessionId } = await api.session({ title: "Cooking" });
  for (let i = 0; i < 70; i += 1) await api.say(sessionId, i % 2 ? "assistant" : "user", `line ${i}`);
  await api.say(sessionId, "assistant", "Saffron is the most expensive spice 🌶 of all");
  for (let i = 0; i < 70; i += 1) await api.say(sessionId, i % 2 ? "assistant" : "user", `more ${i}`);
  const page = await echoic.page();
  await until(async () => (await api.call("GET", "/api/search?q=saffron")).results.length > 0, "the words to be kept");
  await page.keyboard.press("Control+k");
  await page.keyboard.type("saffr");
  const hit = page.locator(".hit");
  await hit.waitFor();
  assert.deepEqual(await hit.locator("mark").allInnerTexts(), ["Saffron"]);
  await page.getByText("No chat has such a title.").waitFor();
  await hit.click();
  const found = page.locator(".message").filter({ hasText: "Saffron" });
  await found.waitFor();
  await until(() => found.evaluate((element) => {
    const { top, bottom } = element.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  }), "the message to be in sight");
  await page.getByLabel("Search chats").fill("cook");
  await row(page, "Cooking").waitFor();
});

test("in a project only its messages are found", async () => {
  const { projectId } = await api.call("POST", "/api/projects", { name: "Greenhouse" });
  const { sessionId } = await api.session({ title: "Inside", projectId });
  await api.say(sessionId, "user", "tulips under glass");
  await api.say((await api.session({ title: "Outside" })).sessionId, "user", "tulips in the rain");
  await until(async () => (await api.call("GET", "/api/search?q=tulips")).results.length === 2, "the words to be kept");
  const page = await echoic.page();
  await page.getByLabel("Search chats").fill("tulips");
  const found = page.locator(".hit b");
  await until(async () => (await found.count()) === 2, "both messages");
  await page.getByLabel("Project", { exact: true }).selectOption({ label: "Greenhouse" });
  await until(async () => (await found.allInnerTexts()).join() === "Inside", "the project's alone");
  await page.getByLabel("Project", { exact: true }).selectOption({ label: "All chats" });
  await until(async () => (await found.count()) === 2, "both messages again");
});

test("more chats come while the list is scrolled, each once", async () => {
  for (let i = 0; i < 75; i += 1) await api.session({ title: `Numbered ${String(i).padStart(2, "0")}` });
  const page = await echoic.page();
  await row(page, "Numbered 74").waitFor();
  assert.ok((await titles(page)).length < 75);
  await until(async () => {
    await page.locator(".chats").evaluate((list) => list.scrollTo(0, list.scrollHeight));
    return (await titles(page)).includes("Numbered 00");
  }, "the oldest chat to be listed");
  const numbered = (await titles(page)).filter((title) => title.startsWith("Numbered"));
  assert.equal(new Set(numbered).size, 75);
  assert.equal(numbered.length, 75);
});

test("a tall window is filled with chats and goes on from there", async () => {
  const page = await echoic.page("", { height: 1440 });
  await until(async () => (await titles(page)).length > 30, "more than one page of chats");
  await until(async () => {
    await page.locator(".chats").evaluate((list) => list.scrollTo(0, list.scrollHeight));
    return (await titles(page)).includes("Numbered 00");
  }, "the oldest chat to be listed");
});

test("more findings come while they are scrolled", async () => {
  const { sessionId } = await api.session({ title: "Garden diary" });
  for (let i = 0; i < 45; i += 1) await api.say(sessionId, "user", `blossom number ${i}`);
  await until(async () => (await api.call("GET", "/api/search?q=blossom&limit=100")).results.length === 45, "the words to be kept");
  const page = await echoic.page();
  await page.getByLabel("Search chats").fill("blossom");
  await page.locator(".hit").first().waitFor();
  await until(async () => {
    await page.locator(".chats").evaluate((list) => list.scrollTo(0, list.scrollHeight));
    return (await page.locator(".hit").count()) === 45;
  }, "all findings");
});

// What lies over what, on wide screens and on phones, and where the keyboard is meanwhile.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { start, until } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api } = echoic;

const PHONE = { width: 390, height: 844 };
const focused = (page) => page.evaluate(() => document.activeElement.ariaLabel || document.activeElement.textContent.trim());
const whereFocusIs = (page) => page.evaluate(() => document.activeElement.closest("main, aside")?.id);
const isDimmed = (page) => page.locator("#scrim").isVisible();

async function chat(title, fields = {}) {
  const { sessionId } = await api.session({ title, ...fields });
  await api.say(sessionId, "user", "hello");
  return sessionId;
}

test("the first link skips the list of chats and stays in the chat", async () => {
  const page = await echoic.page(`#/c/${await chat("Kept")}`);
  await page.locator(".message").waitFor();
  await page.locator(".skip").focus();
  await page.keyboard.press("Enter");
  assert.equal(await focused(page), "Message");
  assert.equal(await page.locator("h1").innerText(), "Kept");
  await page.goto(`${echoic.url}/#/p`);
  await page.locator("h1", { hasText: "Projects" }).waitFor();
  await page.locator(".skip").focus();
  await page.keyboard.press("Enter");
  assert.equal(await whereFocusIs(page), "main");
});

test("on a phone the keyboard is in what lies over the page, and comes back from it", async () => {
  const page = await echoic.page(`#/c/${await chat("Small")}`, PHONE);
  await page.locator(".message").waitFor();
  const menu = page.locator("main").getByRole("button", { name: "Show the chats" });
  await menu.focus();
  await page.keyboard.press("Enter");
  assert.equal(await focused(page), "Close the list of chats");
  assert.equal(await page.locator("main .only-narrow").getAttribute("aria-expanded"), "true");
  for (let i = 0; i < 20; i += 1) {
    await page.keyboard.press("Tab");
    assert.notEqual(await whereFocusIs(page), "main");
  }
  await page.keyboard.press("Escape");
  assert.equal(await menu.getAttribute("aria-expanded"), "false");

  await page.getByRole("button", { name: "Memory, settings, people" }).focus();
  await page.keyboard.press("Enter");
  assert.equal(await focused(page), "Memory");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await whereFocusIs(page), undefined);
  await page.getByRole("button", { name: "Close the panel" }).press("Enter");
  assert.equal(await focused(page), "Memory, settings, people");
});

test("Escape leaves a title as it is and the list open, then closes the list", async () => {
  await chat("Pocket");
  const page = await echoic.page("", PHONE);
  await page.getByRole("button", { name: "Show the chats" }).click();
  const row = page.locator(".chat-row", { hasText: "Pocket" });
  await row.getByRole("button").focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem", { name: "Rename" }).press("Enter");
  await page.getByLabel("Title").press("Escape");
  await row.waitFor();
  assert.ok(await isDimmed(page));
  await page.keyboard.press("Escape");
  assert.equal(await isDimmed(page), false);
  assert.equal(await focused(page), "Show the chats");
});

test("a window that becomes wide is not dimmed any more", async () => {
  const page = await echoic.page("", PHONE);
  await page.getByRole("button", { name: "Show the chats" }).click();
  assert.ok(await isDimmed(page));
  await page.setViewportSize({ width: 1280, height: 800 });
  await until(async () => !(await isDimmed(page)), "the page to be lit");
  await page.locator("main").getByLabel("Message", { exact: true }).click();
  assert.equal(await focused(page), "Message");
});

test("a long name of a project leaves room for the title", async () => {
  const { projectId } = await api.call("POST", "/api/projects", { name: "A project of which the name goes on and on, ".repeat(4) });
  const sessionId = await chat("The title of this chat", { projectId });
  for (const size of [{}, PHONE]) {
    const page = await echoic.page(`#/c/${sessionId}`, size);
    await page.locator(".bar-title", { hasText: "goes on" }).waitFor();
    const title = await page.locator("main h1").boundingBox();
    const button = await page.getByRole("button", { name: "Memory, settings, people" }).boundingBox();
    const head = await page.locator(".bar-title").evaluate(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth);
    assert.ok(title.width > 120, `the title is ${title.width} px wide`);
    assert.ok(head <= 0 && title.x + title.width <= button.x, "nothing lies over the buttons");
  }
});

test("the entry of a menu on which the keyboard stands is framed", async () => {
  await chat("Framed");
  const page = await echoic.page();
  await page.locator(".chat-row", { hasText: "Framed" }).getByRole("button").focus();
  await page.keyboard.press("Enter");
  const entry = page.getByRole("menuitem", { name: "Rename" });
  assert.equal(await entry.evaluate((element) => getComputedStyle(element).outlineStyle), "solid");
});

test("a browser that thinks it is offline is asked to look again", async () => {
  const page = await echoic.page();
  const live = page.locator('[data-state="live"]');
  await live.waitFor();
  await page.evaluate(() => {
    window.states = [];
    new MutationObserver(() => window.states.push(document.querySelector(".connection").dataset.state)).observe(document.querySelector(".connection"), { attributes: true });
    dispatchEvent(new Event("offline"));
  });
  await page.waitForFunction(() => window.states.includes("offline") && window.states.at(-1) === "live");
  await api.session({ title: "Heard again" });
  await page.locator(".chat-row", { hasText: "Heard again" }).waitFor();
});

// Overlays and the keyboard focus, on wide screens and on phones.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { start, waitUntil } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api } = echoic;

const PHONE = { width: 390, height: 844 };
const getFocusedName = (/** @type {Page} */ page) => page.evaluate(() => document.activeElement?.ariaLabel || document.activeElement?.textContent?.trim());
const getFocusedArea = (/** @type {Page} */ page) => page.evaluate(() => document.activeElement?.closest("main, aside")?.id);
const isDimmed = (/** @type {Page} */ page) => page.locator("#scrim").isVisible();

/** @param {string} title */
async function createChat(title, fields = {}) {
  const { sessionId } = await api.createSession({ title, ...fields });
  await api.addMessage(sessionId, "user", "hello");
  return sessionId;
}

/** @param {Locator} locator */
async function getBox(locator) {
  const box = await locator.boundingBox();
  assert.ok(box, "the element is visible");
  return box;
}

test("skip link focuses the composer or the page", async () => {
  const page = await echoic.openPage(`#/c/${await createChat("Kept")}`);
  await page.locator(".message").waitFor();
  await page.locator(".skip-link").focus();
  await page.keyboard.press("Enter");
  assert.equal(await getFocusedName(page), "Message");
  assert.equal(await page.locator("h1").innerText(), "Kept");
  await page.goto(`${echoic.url}/#/p`);
  await page.locator("h1", { hasText: "Projects" }).waitFor();
  await page.locator(".skip-link").focus();
  await page.keyboard.press("Enter");
  assert.equal(await getFocusedArea(page), "main");
});

test("overlays trap and return the focus on a phone", async () => {
  const page = await echoic.openPage(`#/c/${await createChat("Small")}`, PHONE);
  await page.locator(".message").waitFor();
  const menu = page.locator("main").getByRole("button", { name: "Show chats" });
  await menu.focus();
  await page.keyboard.press("Enter");
  assert.equal(await getFocusedName(page), "Close chat list");
  assert.equal(await page.locator("main .only-narrow").getAttribute("aria-expanded"), "true");
  for (let i = 0; i < 20; i += 1) {
    await page.keyboard.press("Tab");
    assert.notEqual(await getFocusedArea(page), "main");
  }
  await page.keyboard.press("Escape");
  assert.equal(await menu.getAttribute("aria-expanded"), "false");

  await page.getByRole("button", { name: "Memory, settings, people" }).focus();
  await page.keyboard.press("Enter");
  assert.equal(await getFocusedName(page), "Memory");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await getFocusedArea(page), undefined);
  await page.getByRole("button", { name: "Close panel" }).press("Enter");
  assert.equal(await getFocusedName(page), "Memory, settings, people");
});

test("Escape cancels a rename, then closes the chat list", async () => {
  await createChat("Pocket");
  const page = await echoic.openPage("", PHONE);
  await page.getByRole("button", { name: "Show chats" }).click();
  const row = page.locator(".chat-row", { hasText: "Pocket" });
  await row.getByRole("button").focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem", { name: "Rename" }).press("Enter");
  await page.getByLabel("Title").press("Escape");
  await row.waitFor();
  assert.ok(await isDimmed(page));
  await page.keyboard.press("Escape");
  assert.equal(await isDimmed(page), false);
  assert.equal(await getFocusedName(page), "Show chats");
});

test("widening the window removes the dimming", async () => {
  const page = await echoic.openPage("", PHONE);
  await page.getByRole("button", { name: "Show chats" }).click();
  assert.ok(await isDimmed(page));
  await page.setViewportSize({ width: 1280, height: 800 });
  await waitUntil(async () => !(await isDimmed(page)), "the dimming to end");
  await page.locator("main").getByLabel("Message", { exact: true }).click();
  assert.equal(await getFocusedName(page), "Message");
});

test("long project name leaves room for the title", async () => {
  const { projectId } = await api.call("POST", "/api/projects", { name: "A project with a name that goes on and on, ".repeat(4) });
  const sessionId = await createChat("The title of this chat", { projectId });
  for (const size of [{}, PHONE]) {
    const page = await echoic.openPage(`#/c/${sessionId}`, size);
    await page.locator(".bar-title", { hasText: "goes on" }).waitFor();
    const title = await getBox(page.locator("main h1"));
    const button = await getBox(page.getByRole("button", { name: "Memory, settings, people" }));
    const overflow = await page.locator(".bar-title").evaluate(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth);
    assert.ok(title.width > 120, `the title is ${title.width} px wide`);
    assert.ok(overflow <= 0 && title.x + title.width <= button.x, "the title ends before the buttons");
  }
});

test("focused menu item has an outline", async () => {
  await createChat("Framed");
  const page = await echoic.openPage();
  await page.locator(".chat-row", { hasText: "Framed" }).getByRole("button").focus();
  await page.keyboard.press("Enter");
  const item = page.getByRole("menuitem", { name: "Rename" });
  assert.equal(await item.evaluate((element) => getComputedStyle(element).outlineStyle), "solid");
});

test("offline event triggers a reconnect", async () => {
  const page = await echoic.openPage();
  const live = page.locator('[data-state="live"]');
  await live.waitFor();
  await page.evaluate(() => {
    window.states = [];
    const connection = /** @type {HTMLElement} */ (document.querySelector(".connection"));
    new MutationObserver(() => window.states.push(connection.dataset.state)).observe(connection, { attributes: true });
    dispatchEvent(new Event("offline"));
  });
  await page.waitForFunction(() => window.states.includes("offline") && window.states.at(-1) === "live");
  await api.createSession({ title: "Heard again" });
  await page.locator(".chat-row", { hasText: "Heard again" }).waitFor();
});

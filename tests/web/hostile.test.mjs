// Hostile and odd texts in every place where the page shows user content.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ODD, PAYLOADS } from "./payloads.mjs";
import { sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

/**
 * Opens a page and records every dialog, remote request and policy violation.
 *
 * @param {string} path
 */
async function openWatchedPage(path) {
  const page = await echoic.openPage("", { allow: /./ });
  /** @type {string[]} */
  const violations = [];
  page.on("dialog", (dialog) => {
    violations.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => new URL(request.url()).origin !== echoic.url && !request.url().startsWith("data:") && violations.push(request.url()));
  page.on("console", (message) => /Content Security Policy|Trusted/.test(message.text()) && violations.push(message.text()));
  await page.goto("about:blank");
  await page.goto(`${echoic.url}/${path}`);
  return { page, violations };
}

/**
 * @param {Page} page
 * @param {string[]} violations
 */
async function expectUntouched(page, violations) {
  const state = await page.evaluate(() => {
    const count = (/** @type {string} */ selector) => document.querySelectorAll(selector).length;
    return {
      hacked: window.hacked,
      foreign: count("#main script, #main iframe, #main object, #main embed, #main style, #main link, #main meta, #main base, #main svg:not(.icon), #main video, #main math, #main form:not(.composer)"),
      handlers: [...document.querySelectorAll("#app *")].flatMap((element) => [...element.attributes]).filter(({ name }) => name.startsWith("on")).length,
      links: [.../** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll("#app a[href]"))].map(({ protocol }) => protocol).filter((protocol) => !["http:", "https:", "mailto:", "tel:"].includes(protocol)),
      overflow: document.documentElement.scrollWidth - innerWidth,
      origin: location.origin,
    };
  });
  assert.deepEqual(state, { hacked: undefined, foreign: 0, handlers: 0, links: [], overflow: 0, origin: echoic.url });
  assert.deepEqual(violations, []);
}

test(`${PAYLOADS.length} stored payloads do nothing`, async () => {
  assert.ok(PAYLOADS.length >= 60);
  const { sessionId } = await api.createSession({ title: "Hostile" });
  for (const text of PAYLOADS) {
    await api.addMessage(sessionId, "user", text);
    await api.addMessage(sessionId, "assistant", text, { parts: [{ type: "reasoning", text }] });
  }
  const { page, violations } = await openWatchedPage(`#/c/${sessionId}`);
  const seenIds = new Set();
  // Scrolling moves the window over all messages.
  await waitUntil(async () => {
    const messages = await page.locator(".message").evaluateAll((all) => all.map((message) => message.getAttribute("data-id")));
    messages.forEach((id) => seenIds.add(id));
    await expectUntouched(page, violations);
    await page.locator(".scroller").evaluate((element) => element.scrollBy(0, -4000));
    return seenIds.size === 2 * PAYLOADS.length;
  }, "every message to be shown");
  await page.locator(".reasoning summary").first().click();
  for (const link of await page.locator(".message a").all()) await link.hover({ force: true }).catch(() => {});
  await expectUntouched(page, violations);
});

test("streamed payloads do nothing", async () => {
  const { page, violations } = await openWatchedPage("");
  await sendMessage(page, "Attack");
  const call = await upstream.nextCall();
  for (const payload of PAYLOADS) {
    const text = `${payload}\n\n`;
    for (let at = 0; at < text.length; at += 7) call.text(text.slice(at, at + 7));
  }
  call.finish();
  await waitForReply(page);
  await expectUntouched(page, violations);
});

test("payloads in titles, projects and search stay text", async () => {
  const attack = `<img src=x onerror=top.hacked=1><script>top.hacked=1</script>`;
  const project = await api.call("POST", "/api/projects", { name: attack, description: attack, systemPrompt: attack, files: [{ path: "a<img src=x onerror=top.hacked=1>.md", content: attack }] });
  const { sessionId } = await api.createSession({ title: attack, projectId: project.projectId, participants: ["<svg onload=top.hacked=1>"], settings: { systemPrompt: attack, model: "<b>model" } });
  await api.addMessage(sessionId, "user", `findable ${attack}`);
  await waitUntil(async () => (await api.call("GET", "/api/search?q=findable")).results.length > 0, "the search index");
  const { page, violations } = await openWatchedPage(`#/c/${sessionId}`);
  await page.locator(".message").waitFor();
  await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.locator(".piece").first().waitFor();
  for (const tab of ["Settings", "People", "Memory"]) {
    await page.getByRole("tab", { name: tab }).click();
    await page.locator("#panel-body > *").first().waitFor();
    assert.equal(await page.evaluate(() => window.hacked), undefined);
  }
  await page.getByLabel("Search chats").fill("findable");
  await page.locator(".hit mark").waitFor();
  await page.goto(`${echoic.url}/#/p/${project.projectId}`);
  await page.locator(".row-button").waitFor();
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.deepEqual(violations, []);
});

test("attachments load nothing remote and run nothing", async () => {
  const { sessionId } = await api.createSession({ title: "Attached" });
  const svg = `data:image/svg+xml,${encodeURIComponent("<svg xmlns='http://www.w3.org/2000/svg' onload='top.hacked=1'/>")}`;
  const urls = ["https://evil.example/pixel.png", "javascript:top.hacked=1", "data:text/html,<script>top.hacked=1</script>", svg];
  const parts = urls.map((url) => ({ type: "file", mediaType: "image/png", url, filename: "<b>x</b>" }));
  await api.addMessage(sessionId, "user", "look", { parts: [...parts, { type: "source-url", url: "javascript:top.hacked=1", title: "x" }, { type: "tool-x", toolName: "<b>t</b>", input: { a: "<script>top.hacked=1</script>" } }] });
  const { page, violations } = await openWatchedPage(`#/c/${sessionId}`);
  await page.locator(".message .file").first().waitFor();
  assert.equal(await page.locator(".message img").count(), 0);
  await expectUntouched(page, violations);
});

for (const width of [1280, 390]) {
  test(`odd texts keep the layout at ${width} pixels`, async () => {
    const { sessionId } = await api.createSession({ title: `Odd \u202e${"x".repeat(150)}` });
    for (const text of ODD) {
      await api.addMessage(sessionId, "user", text);
      await api.addMessage(sessionId, "assistant", text);
    }
    const page = await echoic.openPage(`#/c/${sessionId}`, { width, height: 844 });
    await waitUntil(async () => (await page.locator(".message").count()) === 2 * ODD.length, "every message");
    await waitUntil(async () => (await page.locator(".message .prose > .plain").count()) < ODD.length * 2, "rendered text");
    const wide = await page.evaluate(() => {
      const right = document.querySelector(".scroller")?.getBoundingClientRect().right ?? 0;
      const isOver = (/** @type {Element} */ element) => element.getBoundingClientRect().right > right + 1;
      return [...document.querySelectorAll(".message, .message > *, .message .prose > *")].filter(isOver).map((element) => element.outerHTML.slice(0, 80));
    });
    assert.deepEqual(wide, []);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
    assert.equal(await page.locator(".scroller").evaluate((element) => element.scrollWidth - element.clientWidth), 0);
  });
}

// Hostile and odd texts in every place where the page shows what somebody wrote.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ODD, PAYLOADS } from "./payloads.mjs";
import { replied, say, start, until } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

/** A page that notes whatever a script, a frame or a request from elsewhere would do. */
async function watched(path) {
  const page = await echoic.page("", { allow: /./ });
  const wrong = [];
  page.on("dialog", (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => new URL(request.url()).origin !== echoic.url && !request.url().startsWith("data:") && wrong.push(request.url()));
  page.on("console", (message) => /Content Security Policy|Trusted/.test(message.text()) && wrong.push(message.text()));
  await page.goto("about:blank");
  await page.goto(`${echoic.url}/${path}`);
  return { page, wrong };
}

async function isUntouched(page, wrong) {
  const state = await page.evaluate(() => {
    const within = (selector) => document.querySelectorAll(selector).length;
    return {
      hacked: window.hacked,
      foreign: within("#main script, #main iframe, #main object, #main embed, #main style, #main link, #main meta, #main base, #main svg:not(.icon), #main video, #main math, #main form:not(.composer)"),
      handlers: [...document.querySelectorAll("#app *")].flatMap((element) => [...element.attributes]).filter(({ name }) => name.startsWith("on")).length,
      links: [...document.querySelectorAll("#app a[href]")].map(({ protocol }) => protocol).filter((protocol) => !["http:", "https:", "mailto:", "tel:"].includes(protocol)),
      overflow: document.documentElement.scrollWidth - innerWidth,
      where: location.origin,
    };
  });
  assert.deepEqual(state, { hacked: undefined, foreign: 0, handlers: 0, links: [], overflow: 0, where: echoic.url });
  assert.deepEqual(wrong, []);
}

test(`none of ${PAYLOADS.length} payloads does anything in a message, a reply or thoughts`, async () => {
  assert.ok(PAYLOADS.length >= 60);
  const { sessionId } = await api.session({ title: "Hostile" });
  for (const text of PAYLOADS) {
    await api.say(sessionId, "user", text);
    await api.say(sessionId, "assistant", text, { parts: [{ type: "reasoning", text }] });
  }
  const { page, wrong } = await watched(`#/c/${sessionId}`);
  const seen = new Set();
  // The window moves over all of them.
  await until(async () => {
    const messages = await page.locator(".message").evaluateAll((all) => all.map((message) => message.dataset.id));
    messages.forEach((id) => seen.add(id));
    await isUntouched(page, wrong);
    await page.locator(".scroller").evaluate((element) => element.scrollBy(0, -4000));
    return seen.size === 2 * PAYLOADS.length;
  }, "every message to have been shown");
  await page.locator(".reasoning summary").first().click();
  for (const link of await page.locator(".message a").all()) await link.hover({ force: true }).catch(() => {});
  await isUntouched(page, wrong);
});

test("payloads that stream in, cut anywhere, do nothing", async () => {
  const { page, wrong } = await watched("");
  await say(page, "Attack");
  const call = await upstream.call();
  for (const payload of PAYLOADS) {
    const text = `${payload}\n\n`;
    for (let at = 0; at < text.length; at += 7) call.text(text.slice(at, at + 7));
  }
  call.finish();
  await replied(page);
  await isUntouched(page, wrong);
});

test("titles, projects, files, names and findings are text", async () => {
  const attack = `<img src=x onerror=top.hacked=1><script>top.hacked=1</script>`;
  const project = await api.call("POST", "/api/projects", { name: attack, description: attack, systemPrompt: attack, files: [{ path: "a<img src=x onerror=top.hacked=1>.md", content: attack }] });
  const { sessionId } = await api.session({ title: attack, projectId: project.projectId, participants: ["<svg onload=top.hacked=1>"], settings: { systemPrompt: attack, model: "<b>model" } });
  await api.say(sessionId, "user", `findable ${attack}`);
  await until(async () => (await api.call("GET", "/api/search?q=findable")).results.length > 0, "the words to be kept");
  const { page, wrong } = await watched(`#/c/${sessionId}`);
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
  await page.locator(".row-open").waitFor();
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.deepEqual(wrong, []);
});

test("attachments load nothing from elsewhere and run nothing", async () => {
  const { sessionId } = await api.session({ title: "Attached" });
  const svg = `data:image/svg+xml,${encodeURIComponent("<svg xmlns='http://www.w3.org/2000/svg' onload='top.hacked=1'/>")}`;
  const urls = ["https://evil.example/pixel.png", "javascript:top.hacked=1", "data:text/html,<script>top.hacked=1</script>", svg];
  const parts = urls.map((url) => ({ type: "file", mediaType: "image/png", url, filename: "<b>x</b>" }));
  await api.say(sessionId, "user", "look", { parts: [...parts, { type: "source-url", url: "javascript:top.hacked=1", title: "x" }, { type: "tool-x", toolName: "<b>t</b>", input: { a: "<script>top.hacked=1</script>" } }] });
  const { page, wrong } = await watched(`#/c/${sessionId}`);
  await page.locator(".message .file").first().waitFor();
  assert.equal(await page.locator(".message img").count(), 0);
  await isUntouched(page, wrong);
});

for (const width of [1280, 390]) {
  test(`odd texts leave the layout as it is, ${width} pixels wide`, async () => {
    const { sessionId } = await api.session({ title: `Odd \u202e${"x".repeat(150)}` });
    for (const text of ODD) {
      await api.say(sessionId, "user", text);
      await api.say(sessionId, "assistant", text);
    }
    const page = await echoic.page(`#/c/${sessionId}`, { width, height: 844 });
    await until(async () => (await page.locator(".message").count()) === 2 * ODD.length, "every message");
    await until(async () => (await page.locator(".message .prose > .plain").count()) < ODD.length * 2, "rendered text");
    const wide = await page.evaluate(() => {
      const { right } = document.querySelector(".scroller").getBoundingClientRect();
      const isOver = (element) => element.getBoundingClientRect().right > right + 1;
      return [...document.querySelectorAll(".message, .message > *, .message .prose > *")].filter(isOver).map((element) => element.outerHTML.slice(0, 80));
    });
    assert.deepEqual(wide, []);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
    assert.equal(await page.locator(".scroller").evaluate((element) => element.scrollWidth - element.clientWidth), 0);
  });
}

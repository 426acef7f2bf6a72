// Pages that are loaded anew, lose the network, or share a chat: the reply goes on in all of them.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { startProxy } from "./proxy.mjs";
import { replied, say, shown, start, until } from "./support.mjs";

const echoic = await start({}, /ERR_|Failed to load resource/);
after(echoic.stop);
const { api, upstream } = echoic;

test("a page that is loaded in the middle of a reply shows it whole, and once", async () => {
  const page = await echoic.page();
  await say(page, "Tell me a tale");
  const call = await upstream.call();
  call.text("Es war einmal 你好, ");
  await page.getByText("Es war einmal").waitFor();
  await page.reload();
  await page.getByText("Es war einmal").waitFor();
  await page.getByRole("button", { name: "Stop" }).waitFor();
  call.reply("und alles wurde gut.");
  await replied(page);
  assert.deepEqual(await shown(page), ["Tell me a tale", "Es war einmal 你好, und alles wurde gut."]);
});

test("a page that loses the network says so, comes back and misses nothing", async () => {
  const proxy = await startProxy(echoic.url);
  after(proxy.stop);
  const page = await echoic.page();
  await page.goto(`${proxy.url}/`);
  await page.getByText("Connected").waitFor();
  await say(page, "Slowly");
  const call = await upstream.call();
  call.text("alpha ");
  await page.getByText("alpha").waitFor();

  proxy.cut();
  await page.getByText("Connection lost.").waitFor();
  await page.locator(".notice", { hasText: "cannot be reached" }).waitFor();
  call.text("beta ");
  proxy.mend();
  await page.getByText("alpha beta").waitFor();
  call.reply("gamma");
  await replied(page);
  assert.deepEqual(await shown(page), ["Slowly", "alpha beta gamma"]);
  await page.getByText("Connected").waitFor();
  assert.equal(await page.locator(".notice").isVisible(), false);
});

test("a reply that ended while the network was away is there afterwards", async () => {
  const proxy = await startProxy(echoic.url);
  after(proxy.stop);
  const page = await echoic.page();
  await page.goto(`${proxy.url}/`);
  await say(page, "Quick");
  const call = await upstream.call();
  call.text("half ");
  await page.getByText("half").waitFor();
  proxy.cut();
  await page.getByText("Connection lost.").waitFor();
  call.reply("and whole");
  const { sessionId } = (await api.sessions())[0];
  await until(async () => (await api.messages(sessionId)).length === 2, "the reply to be stored");
  proxy.mend();
  await replied(page);
  await until(async () => (await shown(page)).join() === "Quick,half and whole", "the whole reply");
});

test("a message that could not be sent is kept, and sent once", async () => {
  const proxy = await startProxy(echoic.url);
  after(proxy.stop);
  const { sessionId } = await api.session({ title: "Unsent" });
  const page = await echoic.page();
  await page.goto(`${proxy.url}/#/c/${sessionId}`);
  await page.getByText("Connected").waitFor();
  proxy.cut();
  await page.locator(".notice").waitFor();
  await say(page, "Into the void");
  await page.getByText("It could not be sent.").waitFor();
  await page.locator(".state").getByRole("button", { name: "Edit" }).click();
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "Into the void");
  assert.equal(await page.locator(".message").count(), 0);
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await page.getByText("It could not be sent.").waitFor();
  proxy.mend();
  await page.getByText("Connected").waitFor();
  await page.getByRole("button", { name: "Send again" }).click();
  (await upstream.call()).reply("Heard.");
  await replied(page);
  assert.deepEqual((await api.messages(sessionId)).map(({ content }) => content), ["Into the void", "Heard."]);
  assert.deepEqual(await shown(page), ["Into the void", "Heard."]);
});

test("two tabs of a chat stay in step", async () => {
  const { sessionId } = await api.session({ title: "Shared" });
  const one = await echoic.page(`#/c/${sessionId}`);
  const two = await echoic.page(`#/c/${sessionId}`);
  await Promise.all([one, two].map((page) => page.getByText("Connected").waitFor()));
  await say(one, "Said in the first");
  const call = await upstream.call();
  call.text("Being ");
  await two.getByText("Being").waitFor();
  await two.getByRole("button", { name: "Stop" }).waitFor();
  call.reply("written.");
  for (const page of [one, two]) {
    await replied(page);
    await until(async () => (await shown(page)).join() === "Said in the first,Being written.", "both messages");
  }
  await say(two, "Said in the second");
  (await upstream.call()).reply("Also seen.");
  await until(async () => (await shown(one)).at(-1) === "Also seen.", "the first tab to see it");

  await two.locator(".message.assistant").last().hover();
  await two.locator(".message.assistant").last().getByRole("button", { name: "Another reply" }).click();
  (await upstream.call()).reply("Another one.");
  await until(async () => (await shown(one)).at(-1) === "Another one.", "the first tab to follow the branch");
  await two.getByRole("button", { name: "Earlier version" }).click();
  await until(async () => (await shown(one)).at(-1) === "Also seen.", "the first tab to follow back");
});

test("what was read of a reply stays in sight though its end cannot be fetched", async () => {
  const page = await echoic.page();
  await say(page, "Before the lights go out");
  (await upstream.call()).text("This was read");
  await page.getByText("This was read").waitFor();
  await page.locator(".message.user:not(.pending)").waitFor();
  await page.route("**/messages/*", (route) => route.abort());
  await echoic.server.end();
  await page.locator(".notice", { hasText: "cannot be reached" }).waitFor();
  await page.getByRole("button", { name: "Stop" }).waitFor({ state: "detached" });
  assert.deepEqual(await shown(page), ["Before the lights go out", "This was read"]);
  await page.unroute("**/messages/*");
  await echoic.server.again();
  await page.getByText("Connected").waitFor();
  await page.getByText("What was said is kept.").waitFor();
  assert.deepEqual(await shown(page), ["Before the lights go out", "This was read"]);
});

test("a server that is restarted is found again", async () => {
  const page = await echoic.page();
  await page.getByText("Connected").waitFor();
  await echoic.server.end();
  await page.locator(".notice", { hasText: "cannot be reached" }).waitFor();
  await echoic.server.again();
  await page.getByText("Connected").waitFor();
  await say(page, "Are you back?");
  (await upstream.call()).reply("Yes.");
  await replied(page);
});

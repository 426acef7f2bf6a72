// Reloads, lost connections and shared chats: the reply continues in every case.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { startProxy } from "./proxy.mjs";
import { getTexts, sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start({}, /ERR_|Failed to load resource/);
after(echoic.stop);
const { api, upstream } = echoic;

test("reload during a reply shows it whole and once", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Tell me a tale");
  const call = await upstream.nextCall();
  call.text("Es war einmal 你好, ");
  await page.getByText("Es war einmal").waitFor();
  await page.reload();
  await page.getByText("Es war einmal").waitFor();
  await page.getByRole("button", { name: "Stop" }).waitFor();
  call.reply("und alles wurde gut.");
  await waitForReply(page);
  assert.deepEqual(await getTexts(page), ["Tell me a tale", "Es war einmal 你好, und alles wurde gut."]);
});

test("lost connection is reported and resumed", async () => {
  const proxy = await startProxy(echoic.url);
  after(proxy.stop);
  const page = await echoic.openPage();
  await page.goto(`${proxy.url}/`);
  await page.getByText("Connected").waitFor();
  await sendMessage(page, "Slowly");
  const call = await upstream.nextCall();
  call.text("alpha ");
  await page.getByText("alpha").waitFor();

  proxy.cut();
  await page.getByText("Connection lost.").waitFor();
  await page.locator(".notice", { hasText: "Can’t reach the server" }).waitFor();
  call.text("beta ");
  proxy.restore();
  await page.getByText("alpha beta").waitFor();
  call.reply("gamma");
  await waitForReply(page);
  assert.deepEqual(await getTexts(page), ["Slowly", "alpha beta gamma"]);
  await page.getByText("Connected").waitFor();
  assert.equal(await page.locator(".notice").isVisible(), false);
});

test("reply that ended while offline appears afterwards", async () => {
  const proxy = await startProxy(echoic.url);
  after(proxy.stop);
  const page = await echoic.openPage();
  await page.goto(`${proxy.url}/`);
  await sendMessage(page, "Quick");
  const call = await upstream.nextCall();
  call.text("half ");
  await page.getByText("half").waitFor();
  proxy.cut();
  await page.getByText("Connection lost.").waitFor();
  call.reply("and whole");
  const { sessionId } = (await api.listSessions())[0];
  await waitUntil(async () => (await api.listMessages(sessionId)).length === 2, "the reply to be stored");
  proxy.restore();
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).join() === "Quick,half and whole", "the whole reply");
});

test("unsent message is kept and sent once", async () => {
  const proxy = await startProxy(echoic.url);
  after(proxy.stop);
  const { sessionId } = await api.createSession({ title: "Unsent" });
  const page = await echoic.openPage();
  await page.goto(`${proxy.url}/#/c/${sessionId}`);
  await page.getByText("Connected").waitFor();
  proxy.cut();
  await page.locator(".notice").waitFor();
  await sendMessage(page, "Into the void");
  await page.getByText("Not sent.").waitFor();
  await page.locator(".status-box").getByRole("button", { name: "Edit" }).click();
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "Into the void");
  assert.equal(await page.locator(".message").count(), 0);
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await page.getByText("Not sent.").waitFor();
  proxy.restore();
  await page.getByText("Connected").waitFor();
  await page.getByRole("button", { name: "Send again" }).click();
  (await upstream.nextCall()).reply("Heard.");
  await waitForReply(page);
  assert.deepEqual((await api.listMessages(sessionId)).map(({ content }) => content), ["Into the void", "Heard."]);
  assert.deepEqual(await getTexts(page), ["Into the void", "Heard."]);
});

test("two tabs of a chat stay in sync", async () => {
  const { sessionId } = await api.createSession({ title: "Shared" });
  const first = await echoic.openPage(`#/c/${sessionId}`);
  const second = await echoic.openPage(`#/c/${sessionId}`);
  await Promise.all([first, second].map((page) => page.getByText("Connected").waitFor()));
  await sendMessage(first, "Said in the first");
  const call = await upstream.nextCall();
  call.text("Being ");
  await second.getByText("Being").waitFor();
  await second.getByRole("button", { name: "Stop" }).waitFor();
  call.reply("written.");
  for (const page of [first, second]) {
    await waitForReply(page);
    await waitUntil(async () => (await getTexts(page)).join() === "Said in the first,Being written.", "both messages");
  }
  await sendMessage(second, "Said in the second");
  (await upstream.nextCall()).reply("Also seen.");
  await waitUntil(async () => (await getTexts(first)).at(-1) === "Also seen.", "the first tab to show it");

  await second.locator(".message.assistant").last().hover();
  await second.locator(".message.assistant").last().getByRole("button", { name: "Regenerate" }).click();
  (await upstream.nextCall()).reply("Another one.");
  await waitUntil(async () => (await getTexts(first)).at(-1) === "Another one.", "the first tab to follow the branch");
  await second.getByRole("button", { name: "Earlier version" }).click();
  await waitUntil(async () => (await getTexts(first)).at(-1) === "Also seen.", "the first tab to switch back");
});

test("received text stays when the end cannot be fetched", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Before the lights go out");
  (await upstream.nextCall()).text("This was read");
  await page.getByText("This was read").waitFor();
  await page.locator(".message.user:not(.pending)").waitFor();
  await page.route("**/messages/*", (route) => route.abort());
  await echoic.server.shutDown();
  await page.locator(".notice", { hasText: "Can’t reach the server" }).waitFor();
  await page.getByRole("button", { name: "Stop" }).waitFor({ state: "detached" });
  assert.deepEqual(await getTexts(page), ["Before the lights go out", "This was read"]);
  await page.unroute("**/messages/*");
  await echoic.server.restart();
  await page.getByText("Connected").waitFor();
  await page.getByText("The text so far is kept.").waitFor();
  assert.deepEqual(await getTexts(page), ["Before the lights go out", "This was read"]);
});

test("page reconnects after a server restart", async () => {
  const page = await echoic.openPage();
  await page.getByText("Connected").waitFor();
  await echoic.server.shutDown();
  await page.locator(".notice", { hasText: "Can’t reach the server" }).waitFor();
  await echoic.server.restart();
  await page.getByText("Connected").waitFor();
  await sendMessage(page, "Are you back?");
  (await upstream.nextCall()).reply("Yes.");
  await waitForReply(page);
});

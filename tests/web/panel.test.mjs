// What stands beside the conversation: memory, settings, people, projects, files in and out, the key.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, test } from "node:test";
import { replied, say, shown, start, until } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

async function openTab(page, name) {
  if (await page.locator("#panel").isHidden()) await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.getByRole("tab", { name }).click();
}

async function drop(page, name, content, type = "application/json") {
  const data = await page.evaluateHandle(([name, content, type]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([content], name, { type }));
    return transfer;
  }, [name, content, type]);
  await page.dispatchEvent("body", "dragenter", { dataTransfer: data });
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

test("the memory inspector shows the prompt that is sent", async () => {
  const page = await echoic.page();
  await say(page, "My name is Ada");
  (await upstream.call()).reply("Hello Ada.");
  await replied(page);
  await openTab(page, "Memory");
  await page.getByLabel("A message to try").fill("Who am I?");
  await page.getByRole("button", { name: "Preview the prompt" }).click();
  await page.locator(".piece", { hasText: "Who am I?" }).waitFor();
  const pieces = await page.locator(".piece pre").evaluateAll((elements) => elements.map((element) => element.textContent));
  const counts = await page.locator(".legend b").allInnerTexts();
  const prompt = await page.locator(".facts dt", { hasText: "Prompt" }).locator("xpath=following-sibling::dd[1]").innerText();
  assert.equal(`${counts.reduce((sum, count) => sum + Number(count), 0)} tokens`, prompt);
  await say(page, "Who am I?");
  const call = await upstream.call();
  assert.deepEqual(pieces, call.request.messages.map(({ content }) => content));
  assert.ok((await page.locator(".budget").first().getAttribute("aria-label")).includes("tokens"));
  call.reply("Ada.");
  await replied(page);
  const taken = page.locator(".replies tbody tr");
  await until(async () => (await taken.count()) === 2, "a line for each reply");
  assert.deepEqual((await taken.first().locator("td").allInnerTexts()).slice(0, 3), ["812", "640", "95"]);
});

test("settings of a chat count from its next message", async () => {
  const { sessionId } = await api.session({ title: "Tuned" });
  const page = await echoic.page(`#/c/${sessionId}`);
  await openTab(page, "Settings");
  const form = page.locator("form.settings");
  await form.getByLabel("System prompt").fill("Answer in verse.");
  await form.getByLabel("Temperature").fill("0.3");
  await form.getByLabel("Model").selectOption("gpt-4o-mini");
  await form.getByLabel("Last messages").fill("4");
  await form.getByLabel("Last messages").press("Tab");
  await until(async () => (await api.call("GET", `/api/chat-sessions/${sessionId}`)).settings.memory?.lastMessages === 4, "the settings to be saved");
  await say(page, "Hello");
  const call = await upstream.call();
  assert.deepEqual([call.request.model, call.request.temperature], ["gpt-4o-mini", 0.3]);
  assert.ok(call.request.messages[0].content.includes("Answer in verse."));
  call.reply("Oh hello, / my fellow.");
  await replied(page);
});

test("what is being written about one chat is saved there, though another was opened meanwhile", async () => {
  const first = await api.session({ title: "First", settings: { systemPrompt: "one" } });
  const second = await api.session({ title: "Second", settings: { systemPrompt: "two", temperature: 0.3 } });
  const page = await echoic.page(`#/c/${second.sessionId}`);
  await page.locator(".chat-row", { hasText: "First" }).getByRole("link").click();
  await page.locator("h1", { hasText: "First" }).waitFor();
  await openTab(page, "Settings");
  const prompt = page.getByLabel("System prompt");
  await prompt.fill("one, and more");
  await page.goBack();
  await page.locator("h1", { hasText: "Second" }).waitFor();
  await page.waitForFunction(() => document.querySelector("[name=systemPrompt]")?.value === "two");
  const settings = async ({ sessionId }) => (await api.call("GET", `/api/chat-sessions/${sessionId}`)).settings;
  await until(async () => (await settings(first)).systemPrompt === "one, and more", "it to be saved");
  assert.deepEqual(await settings(second), { systemPrompt: "two", temperature: 0.3 });

  await page.getByLabel("Temperature").fill("0.75");
  await page.getByLabel("Temperature").press("Tab");
  await until(async () => (await settings(second)).temperature === 0.75, "any temperature to be taken");
});

test("a tab that is still being loaded does not show another one's content", async () => {
  const { sessionId } = await api.session({ title: "Slow" });
  const page = await echoic.page(`#/c/${sessionId}`);
  await openTab(page, "Settings");
  await page.locator("form.settings").waitFor();
  let answer;
  await page.route("**/panel/people.js", (route) => (answer = () => route.continue()));
  await openTab(page, "People");
  await page.locator("form.settings").waitFor({ state: "detached" });
  await until(() => answer, "the tab to be asked for");
  answer();
  await page.getByRole("heading", { name: "Participants" }).waitFor();
});

test("a person takes over, answers, hands back; a closed chat takes nothing", async () => {
  const { sessionId } = await api.session({ title: "Support" });
  const page = await echoic.page(`#/c/${sessionId}`);
  await openTab(page, "People");
  await page.getByRole("button", { name: "Take over" }).click();
  await page.getByText("A person answers; the model is silent.").waitFor();
  await say(page, "Is anybody there?");
  await until(async () => (await shown(page)).join() === "Is anybody there?", "the message");
  await page.getByLabel("Write as").selectOption("assistant");
  await say(page, "Yes, how can I help?");
  await until(async () => (await shown(page)).length === 2, "the answer");
  assert.deepEqual((await api.messages(sessionId)).map(({ role }) => role), ["user", "assistant"]);

  await page.getByLabel("User to add").fill("bob");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await page.locator(".people .name", { hasText: "bob" }).waitFor();
  await page.getByRole("button", { name: "Hand back to the model" }).click();
  await page.getByText("A person answers; the model is silent.").waitFor({ state: "hidden" });
  await page.getByRole("button", { name: "Close", exact: true }).click();
  await page.getByText("This chat is closed.").waitFor();
  await page.locator(".closed-note").getByRole("button", { name: "Reopen" }).click();
  await page.getByLabel("Message", { exact: true }).waitFor();
  assert.deepEqual((await api.call("GET", `/api/chat-sessions/${sessionId}`)).participants.sort(), ["bob", "local"]);
});

test("projects are made, filled with files, and read by the model", async () => {
  const page = await echoic.page("#/p");
  await page.getByRole("button", { name: "New project" }).click();
  await page.getByLabel("Name", { exact: true }).fill("Lighthouse");
  await page.getByRole("button", { name: "Create" }).click();
  await page.locator("h1", { hasText: "Lighthouse" }).waitFor();
  await drop(page, "facts.md", "The lamp was lit in 1831.", "text/markdown");
  await page.getByRole("button", { name: "facts.md", exact: true }).waitFor();
  await page.getByLabel("Instructions").fill("Speak like a keeper.");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved", { exact: true }).waitFor();
  await page.getByRole("link", { name: "New chat in this project" }).click();
  await say(page, "When was the lamp lit?");
  const call = await upstream.call();
  const prompt = JSON.stringify(call.request.messages);
  assert.ok(prompt.includes("1831") && prompt.includes("Speak like a keeper."));
  call.reply("In 1831.");
  await replied(page);
  await page.locator(".bar-title", { hasText: "Lighthouse" }).waitFor();

  await page.getByLabel("Project").selectOption({ label: "Lighthouse" });
  await page.getByRole("button", { name: "facts.md", exact: true }).click();
  assert.equal(await page.getByLabel("Content").inputValue(), "The lamp was lit in 1831.");
  await page.getByLabel("Content").fill("The lamp was lit in 1832.");
  await page.locator("dialog").getByRole("button", { name: "Save" }).click();
  await page.locator("dialog").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Delete facts.md" }).click();
  await page.getByText("No files yet.").waitFor();
  await page.getByRole("button", { name: "Undo" }).click();
  await page.getByRole("button", { name: "facts.md", exact: true }).waitFor();
  await page.getByRole("button", { name: "Delete the project" }).click();
  await page.getByRole("button", { name: "Delete everything in it" }).click();
  await page.getByText("No projects yet.").waitFor();
  assert.deepEqual(await api.sessions("search=lamp"), []);
});

test("adding files keeps what is being written, and no file is replaced unasked", async () => {
  const { projectId } = await api.call("POST", "/api/projects", { name: "Draft", files: [{ path: "a.md", content: "old" }] });
  const page = await echoic.page(`#/p/${projectId}`);
  const dialog = page.locator("dialog");
  const save = dialog.getByRole("button", { name: "Save" });
  const content = async (path) => (await api.call("GET", `/api/projects/${projectId}/files/${path}`)).content;
  await page.getByLabel("Instructions").fill("Careful instructions");
  await page.getByRole("button", { name: "Write one" }).click();
  await dialog.getByLabel("Path").fill("../a.md");
  await dialog.getByLabel("Content").fill("new");
  await save.click();
  await dialog.getByText("A path names one place in the project").waitFor();
  await dialog.getByLabel("Path").fill("a.md");
  await save.click();
  await dialog.getByText("There is a file “a.md” already.").waitFor();
  assert.equal(await content("a.md"), "old");
  await dialog.getByLabel("Path").fill("b.md");
  await save.click();
  await page.getByRole("button", { name: "b.md", exact: true }).waitFor();
  assert.deepEqual([await content("a.md"), await content("b.md")], ["old", "new"]);

  assert.equal(await page.getByLabel("Instructions").inputValue(), "Careful instructions");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved", { exact: true }).waitFor();
  assert.equal((await api.call("GET", `/api/projects/${projectId}`)).systemPrompt, "Careful instructions");
});

test("chats leave as files and come in by being dropped", async () => {
  const { sessionId } = await api.session({ title: "Traveller" });
  await api.say(sessionId, "user", "Safe travels");
  const page = await echoic.page(`#/c/${sessionId}`, { allow: /400/ });
  await page.locator(".message").waitFor();
  await page.getByRole("button", { name: "More", exact: true }).click();
  const download = page.waitForEvent("download");
  await page.getByRole("menuitem", { name: "Export as JSON" }).click();
  const file = await download;
  assert.match(file.suggestedFilename(), /\.json$/);
  const text = await readFile(await file.path(), "utf8");
  const dragged = await page.evaluate(() => {
    const event = new DragEvent("dragstart", { dataTransfer: new DataTransfer(), bubbles: true });
    document.querySelector(".chat-row a").dispatchEvent(event);
    return event.dataTransfer.getData("DownloadURL");
  });
  assert.match(dragged, /^application\/json:.+\.json:http:.+\/api\/export\?/);
  await api.call("DELETE", `/api/chat-sessions/${sessionId}`);
  await page.goto(`${echoic.url}/`);
  await drop(page, "Traveller.json", text);
  await page.getByText("Traveller.json: 1 chat imported").waitFor();
  await page.locator(".chat-row", { hasText: "Traveller" }).waitFor();
  await drop(page, "broken.json", "{not json");
  await page.getByText("broken.json is no export of chats").waitFor();
  await drop(page, "dot.png", "x", "image/png");
  await page.locator('.composer img[alt="dot.png"]').waitFor();
});

test("tool calls show what was asked and answered, while they run and afterwards", async () => {
  const { sessionId } = await api.session({ title: "Tools" });
  await api.say(sessionId, "user", "Is it raining in Porto?");
  const call = { type: "tool-weather", toolCallId: "w1", state: "output-available", input: { city: "Porto" }, output: { rain: true } };
  const failed = { type: "dynamic-tool", toolName: "radar", toolCallId: "r1", state: "output-error", input: {}, errorText: "out of order" };
  await api.say(sessionId, "assistant", "It is.", { parts: [call, failed] });
  const page = await echoic.page(`#/c/${sessionId}`);
  const tools = page.locator(".tool-call");
  await tools.first().waitFor();
  assert.deepEqual(await tools.locator("summary").allInnerTexts(), ["weather\ndone", "radar\nfailed"]);
  await tools.first().locator("summary").click();
  assert.deepEqual(await tools.first().locator("pre").allInnerTexts(), ['{\n  "city": "Porto"\n}', '{\n  "rain": true\n}']);
  await tools.last().locator("summary").click();
  await tools.last().getByText("out of order").waitFor();
});

test("a call of the model's is shown while it is written, and with what came of it", async () => {
  const { sessionId } = await api.session({ title: "Rain" });
  const page = await echoic.page(`#/c/${sessionId}`);
  const tools = [{ type: "function", function: { name: "weather" } }];
  // Whoever carries calls out is another client of the same chat.
  const ask = async (body) => {
    const headers = { "content-type": "application/json" };
    const response = await fetch(`${echoic.url}/api/chat`, { method: "POST", headers, body: JSON.stringify({ ...body, tools }) });
    return response.text();
  };
  const asking = ask({ sessionId, message: "Is it raining in Porto?" });
  const call = await upstream.call();
  call.toolCall("w1", "weather").arguments('{"city":');
  const shownTools = page.locator(".tool-call");
  await page.locator(".tool-call summary", { hasText: "being asked…" }).waitFor();
  await shownTools.first().locator("summary").click();
  await page.locator(".tool-call pre", { hasText: '{"city":' }).waitFor();
  call.arguments('"Porto"}').finish();
  const reply = /"messageId":"([^"]+)"/.exec(await asking)[1];

  const part = { type: "tool-weather", toolCallId: "w1", state: "output-available", input: { city: "Porto" }, output: { rain: true } };
  const answering = ask({ id: sessionId, messages: [{ id: reply, role: "assistant", parts: [part] }] });
  (await upstream.call()).reply("Take a coat.");
  await answering;
  await page.getByText("Take a coat.").waitFor();
  await until(async () => (await shownTools.count()) === 2, "the call and what came of it");
  assert.deepEqual(await shownTools.locator("summary").allInnerTexts(), ["weather\ncalled", "weather\ndone"]);
  await shownTools.last().locator("summary").click();
  await shownTools.last().locator("pre", { hasText: '"rain": true' }).waitFor();
});

// The side panel, projects, import and export, and tool calls.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { getTexts, sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start();
after(echoic.stop);
const { api, upstream } = echoic;

/**
 * @param {Page} page
 * @param {string} name
 */
async function openTab(page, name) {
  if (await page.locator("#panel").isHidden()) await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.getByRole("tab", { name }).click();
}

/**
 * @param {Page} page
 * @param {string} name
 * @param {string} content
 */
async function dropFile(page, name, content, type = "application/json") {
  const data = await page.evaluateHandle(([name, content, type]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([content], name, { type }));
    return transfer;
  }, [name, content, type]);
  await page.dispatchEvent("body", "dragenter", { dataTransfer: data });
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

test("memory preview equals the prompt that is sent", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "My name is Ada");
  (await upstream.nextCall()).reply("Hello Ada.");
  await waitForReply(page);
  await openTab(page, "Memory");
  await page.getByLabel("Message to try").fill("Who am I?");
  await page.getByRole("button", { name: "Preview the prompt" }).click();
  await page.locator(".piece", { hasText: "Who am I?" }).waitFor();
  const pieces = await page.locator(".piece pre").evaluateAll((elements) => elements.map((element) => element.textContent));
  const counts = await page.locator(".legend b").allInnerTexts();
  const prompt = await page.locator(".details dt", { hasText: "Prompt" }).locator("xpath=following-sibling::dd[1]").innerText();
  assert.equal(`${counts.reduce((sum, count) => sum + Number(count), 0)} tokens`, prompt);
  await sendMessage(page, "Who am I?");
  const call = await upstream.nextCall();
  assert.deepEqual(pieces, call.request.messages.map(({ content }) => content));
  assert.match((await page.locator(".budget").first().getAttribute("aria-label")) ?? "", /tokens/);
  call.reply("Ada.");
  await waitForReply(page);
  const rows = page.locator(".usage-table tbody tr");
  await waitUntil(async () => (await rows.count()) === 2, "a row for each reply");
  assert.deepEqual((await rows.first().locator("td").allInnerTexts()).slice(0, 3), ["812", "640", "95"]);
});

test("chat settings apply from the next message", async () => {
  const { sessionId } = await api.createSession({ title: "Tuned" });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  await openTab(page, "Settings");
  const form = page.locator("form.settings");
  await form.getByLabel("System prompt").fill("Answer in verse.");
  await form.getByLabel("Temperature").fill("0.3");
  await form.getByLabel("Model").selectOption("gpt-4o-mini");
  await form.getByLabel("Messages to keep").fill("4");
  await form.getByLabel("Messages to keep").press("Tab");
  await waitUntil(async () => (await api.call("GET", `/api/chat-sessions/${sessionId}`)).settings.memory?.lastMessages === 4, "the settings to be saved");
  await sendMessage(page, "Hello");
  const call = await upstream.nextCall();
  assert.deepEqual([call.request.model, call.request.temperature], ["gpt-4o-mini", 0.3]);
  assert.match(String(call.request.messages[0].content), /Answer in verse\./);
  call.reply("Oh hello, / my fellow.");
  await waitForReply(page);
});

test("unsaved settings are saved in the chat they belong to", async () => {
  const first = await api.createSession({ title: "First", settings: { systemPrompt: "one" } });
  const second = await api.createSession({ title: "Second", settings: { systemPrompt: "two", temperature: 0.3 } });
  const page = await echoic.openPage(`#/c/${second.sessionId}`);
  await page.locator(".chat-row", { hasText: "First" }).getByRole("link").click();
  await page.locator("h1", { hasText: "First" }).waitFor();
  await openTab(page, "Settings");
  const prompt = page.getByLabel("System prompt");
  await prompt.fill("one, and more");
  await page.goBack();
  await page.locator("h1", { hasText: "Second" }).waitFor();
  await page.waitForFunction(() => /** @type {HTMLTextAreaElement | null} */ (document.querySelector("[name=systemPrompt]"))?.value === "two");
  const getSettings = async (/** @type {Session} */ { sessionId }) => (await api.call("GET", `/api/chat-sessions/${sessionId}`)).settings;
  await waitUntil(async () => (await getSettings(first)).systemPrompt === "one, and more", "the first chat's settings to be saved");
  assert.deepEqual(await getSettings(second), { systemPrompt: "two", temperature: 0.3 });

  await page.getByLabel("Temperature").fill("0.75");
  await page.getByLabel("Temperature").press("Tab");
  await waitUntil(async () => (await getSettings(second)).temperature === 0.75, "the temperature to be saved");
});

test("loading tab does not show the previous tab", async () => {
  const { sessionId } = await api.createSession({ title: "Slow" });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  await openTab(page, "Settings");
  await page.locator("form.settings").waitFor();
  /** @type {(() => Promise<void>) | undefined} */
  let release;
  await page.route("**/panel/people.js", (route) => void (release = () => route.continue()));
  await openTab(page, "People");
  await page.locator("form.settings").waitFor({ state: "detached" });
  await waitUntil(() => release, "the request for the module");
  await release?.();
  await page.getByRole("heading", { name: "Participants" }).waitFor();
});

test("person takes over, replies, returns and closes the chat", async () => {
  const { sessionId } = await api.createSession({ title: "Support" });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  await openTab(page, "People");
  await page.getByRole("button", { name: "Take over" }).click();
  await page.getByText("A person is replying; the model is paused.").waitFor();
  await sendMessage(page, "Is anybody there?");
  await waitUntil(async () => (await getTexts(page)).join() === "Is anybody there?", "the message");
  await page.getByLabel("Write as").selectOption("assistant");
  await sendMessage(page, "Yes, how can I help?");
  await waitUntil(async () => (await getTexts(page)).length === 2, "the answer");
  assert.deepEqual((await api.listMessages(sessionId)).map(({ role }) => role), ["user", "assistant"]);

  await page.getByLabel("User to add").fill("bob");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await page.locator(".people .name", { hasText: "bob" }).waitFor();
  await page.getByRole("button", { name: "Return to model" }).click();
  await page.getByText("A person is replying; the model is paused.").waitFor({ state: "hidden" });
  await page.getByRole("button", { name: "Close chat", exact: true }).click();
  await page.getByText("This chat is closed.").waitFor();
  await page.locator(".closed-note").getByRole("button", { name: "Reopen" }).click();
  await page.getByLabel("Message", { exact: true }).waitFor();
  assert.deepEqual((await api.call("GET", `/api/chat-sessions/${sessionId}`)).participants.sort(), ["bob", "local"]);
});

test("model reads the files and instructions of a project", async () => {
  const page = await echoic.openPage("#/p");
  await page.getByRole("button", { name: "New project" }).click();
  await page.getByLabel("Name", { exact: true }).fill("Lighthouse");
  await page.getByRole("button", { name: "Create" }).click();
  await page.locator("h1", { hasText: "Lighthouse" }).waitFor();
  await dropFile(page, "facts.md", "The lamp was lit in 1831.", "text/markdown");
  await page.getByRole("button", { name: "facts.md", exact: true }).waitFor();
  await page.getByLabel("Instructions").fill("Speak like a keeper.");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved", { exact: true }).waitFor();
  await page.getByRole("link", { name: "New chat in this project" }).click();
  await sendMessage(page, "When was the lamp lit?");
  const call = await upstream.nextCall();
  const prompt = JSON.stringify(call.request.messages);
  assert.ok(prompt.includes("1831") && prompt.includes("Speak like a keeper."));
  call.reply("In 1831.");
  await waitForReply(page);
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
  await page.getByRole("button", { name: "Delete project…" }).click();
  await page.locator("dialog").getByRole("button", { name: "Delete project" }).click();
  await page.getByText("No projects yet.").waitFor();
  assert.deepEqual(await api.listSessions("search=lamp"), []);
});

test("adding files keeps edits and never overwrites silently", async () => {
  const { projectId } = await api.call("POST", "/api/projects", { name: "Draft", files: [{ path: "a.md", content: "old" }] });
  const page = await echoic.openPage(`#/p/${projectId}`);
  const dialog = page.locator("dialog");
  const save = dialog.getByRole("button", { name: "Save" });
  const getContent = async (/** @type {string} */ path) => (await api.call("GET", `/api/projects/${projectId}/files/${path}`)).content;
  await page.getByLabel("Instructions").fill("Careful instructions");
  await page.getByRole("button", { name: "New file" }).click();
  await dialog.getByLabel("Path").fill("../a.md");
  await dialog.getByLabel("Content").fill("new");
  await save.click();
  await dialog.getByText("Enter a path such as").waitFor();
  await dialog.getByLabel("Path").fill("a.md");
  await save.click();
  await dialog.getByText("“a.md” already exists.").waitFor();
  assert.equal(await getContent("a.md"), "old");
  await dialog.getByLabel("Path").fill("b.md");
  await save.click();
  await page.getByRole("button", { name: "b.md", exact: true }).waitFor();
  assert.deepEqual([await getContent("a.md"), await getContent("b.md")], ["old", "new"]);

  assert.equal(await page.getByLabel("Instructions").inputValue(), "Careful instructions");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved", { exact: true }).waitFor();
  assert.equal((await api.call("GET", `/api/projects/${projectId}`)).systemPrompt, "Careful instructions");
});

test("chats export as files and import by drop", async () => {
  const { sessionId } = await api.createSession({ title: "Traveller" });
  await api.addMessage(sessionId, "user", "Safe travels");
  const page = await echoic.openPage(`#/c/${sessionId}`, { allow: /400/ });
  await page.locator(".message").waitFor();
  await page.getByRole("button", { name: "More", exact: true }).click();
  const download = page.waitForEvent("download");
  await page.getByRole("menuitem", { name: "Export as JSON" }).click();
  const file = await download;
  assert.match(file.suggestedFilename(), /\.json$/);
  const text = await readFile(await file.path(), "utf8");
  const dragged = await page.evaluate(() => {
    const dataTransfer = new DataTransfer();
    document.querySelector(".chat-row a")?.dispatchEvent(new DragEvent("dragstart", { dataTransfer, bubbles: true }));
    return dataTransfer.getData("DownloadURL");
  });
  assert.match(dragged, /^application\/json:.+\.json:http:.+\/api\/export\?/);
  await api.call("DELETE", `/api/chat-sessions/${sessionId}`);
  await page.goto(`${echoic.url}/`);
  await dropFile(page, "Traveller.json", text);
  await page.getByText("Traveller.json: 1 chat imported").waitFor();
  await page.locator(".chat-row", { hasText: "Traveller" }).waitFor();
  await dropFile(page, "broken.json", "{not json");
  await page.getByText("broken.json isn’t a chat export").waitFor();
  await dropFile(page, "dot.png", "x", "image/png");
  await page.locator('.composer img[alt="dot.png"]').waitFor();
});

test("dropped folder is imported with its subfolders", async () => {
  const folder = await mkdtemp(join(tmpdir(), "echoic-drop-"));
  after(() => rm(folder, { recursive: true }));
  const toFile = (/** @type {string} */ sessionId) => JSON.stringify({ sessionId, title: sessionId, messages: [{ role: "user", content: "hi" }] });
  await mkdir(join(folder, "older"));
  await writeFile(join(folder, "new.json"), toFile("From a folder"));
  await writeFile(join(folder, "older", "old.json"), toFile("From a subfolder"));
  await writeFile(join(folder, "picture.png"), "not a picture");
  const page = await echoic.openPage();
  await page.getByText("Connected").waitFor();
  const client = await page.context().newCDPSession(page);
  const data = { items: [], files: [folder], dragOperationsMask: 1 };
  for (const type of /** @type {const} */ (["dragEnter", "dragOver", "drop"])) {
    await client.send("Input.dispatchDragEvent", { type, x: 600, y: 300, data });
  }
  for (const title of ["From a folder", "From a subfolder"]) await page.locator(".chat-row", { hasText: title }).waitFor();
});

test("tool calls show input, output and errors", async () => {
  const { sessionId } = await api.createSession({ title: "Tools" });
  await api.addMessage(sessionId, "user", "Is it raining in Porto?");
  const call = { type: "tool-weather", toolCallId: "w1", state: "output-available", input: { city: "Porto" }, output: { rain: true } };
  const failed = { type: "dynamic-tool", toolName: "radar", toolCallId: "r1", state: "output-error", input: {}, errorText: "out of order" };
  await api.addMessage(sessionId, "assistant", "It is.", { parts: [call, failed] });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  const tools = page.locator(".tool-call");
  await tools.first().waitFor();
  assert.deepEqual(await tools.locator("summary").allInnerTexts(), ["weather\ndone", "radar\nfailed"]);
  await tools.first().locator("summary").click();
  assert.deepEqual(await tools.first().locator("pre").allInnerTexts(), ['{\n  "city": "Porto"\n}', '{\n  "rain": true\n}']);
  await tools.last().locator("summary").click();
  await tools.last().getByText("out of order").waitFor();
});

test("tool call streams and then shows its output", async () => {
  const { sessionId } = await api.createSession({ title: "Rain" });
  const page = await echoic.openPage(`#/c/${sessionId}`);
  const tools = [{ type: "function", function: { name: "weather" } }];
  // Another client of the same chat defines and runs the tools.
  const post = async (/** @type {object} */ body) => {
    const headers = { "content-type": "application/json" };
    const response = await fetch(`${echoic.url}/api/chat`, { method: "POST", headers, body: JSON.stringify({ ...body, tools }) });
    return response.text();
  };
  const asking = post({ sessionId, message: "Is it raining in Porto?" });
  const call = await upstream.nextCall();
  call.toolCall("w1", "weather").toolArguments('{"city":');
  const shownTools = page.locator(".tool-call");
  await page.locator(".tool-call summary", { hasText: "preparing…" }).waitFor();
  await shownTools.first().locator("summary").click();
  await page.locator(".tool-call pre", { hasText: '{"city":' }).waitFor();
  call.toolArguments('"Porto"}').finish();
  const reply = /"messageId":"([^"]+)"/.exec(await asking)?.[1];

  const part = { type: "tool-weather", toolCallId: "w1", state: "output-available", input: { city: "Porto" }, output: { rain: true } };
  const answering = post({ id: sessionId, messages: [{ id: reply, role: "assistant", parts: [part] }] });
  (await upstream.nextCall()).reply("Take a coat.");
  await answering;
  await page.getByText("Take a coat.").waitFor();
  await waitUntil(async () => (await shownTools.count()) === 2, "the call and its result");
  assert.deepEqual(await shownTools.locator("summary").allInnerTexts(), ["weather\ncalled", "weather\ndone"]);
  await shownTools.last().locator("summary").click();
  await shownTools.last().locator("pre", { hasText: '"rain": true' }).waitFor();
});

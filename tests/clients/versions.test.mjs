// The supported versions of the AI SDK, from the oldest to the newest. The oldest reject frames
// with unknown fields.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getTexts, openPage } from "./page.mjs";
import { fetchWithTimeout, MODEL, start } from "./support.mjs";

const PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";
const WEATHER = { type: "function", function: { name: "weather", parameters: { type: "object" } } };
const BEGINNING = "Es war einmal 你好, ";

/** Lets the provider send the rest of its reply. */
let release;
let calls = 0;

const echoic = await start((provider) => {
  provider.mount("/v1/chat/completions", { handleRequest });
});
after(echoic.stop);

const versions = ["ai5-first", "ai5", "ai6-first", "ai", "ai7-first", "ai7"];
const sdks = await Promise.all(versions.map((version) => import(version)));

// No `await` between tests: Node would end the run, and stop the server, after those known by then.
for (const [i, version] of versions.entries()) {
  const sdk = sdks[i];
  const open = (id, messages = undefined, fetch = fetchWithTimeout, options = undefined) =>
    openPage(echoic.url, `${version}-${id}`, messages, fetch, { sdk, ...options });
  const listMessages = (id) => echoic.api.listMessages(`${version}-${id}`, "format=ui");

  test(`${version}: reasoning, regenerate and edit work`, async () => {
    const page = open("turns");
    await page.sendMessage({ text: "ponder" });
    assert.equal(page.status, "ready", page.error?.message);
    assert.deepEqual(page.lastMessage.parts.filter(({ type }) => type === "reasoning").map(({ text }) => text), ["So, so."]);
    assert.equal(page.lastMessage.metadata.model, MODEL);
    await page.regenerate();
    await page.sendMessage({ text: "hello" });
    assert.deepEqual(getTexts(page), ["ponder", "You said ponder.", "hello", "You said hello."]);

    await page.sendMessage({ text: "good day", messageId: page.messages[2].id });
    assert.deepEqual(getTexts(page), ["ponder", "You said ponder.", "good day", "You said good day."]);
    const stored = await listMessages("turns");
    assert.deepEqual(await sdk.validateUIMessages({ messages: stored }), stored);
    assert.deepEqual(getTexts({ messages: stored }), getTexts(page));
    assert.equal(stored.at(-1).id, page.lastMessage.id);
  });

  test(`${version}: page opened during a reply shows it whole`, async () => {
    const first = open("resumed");
    const reading = first.sendMessage({ text: "tale" });
    await waitUntil(() => getTexts(first)[1] === BEGINNING);
    const second = open("resumed", await listMessages("resumed"), fetchThenRelease);
    await second.resumeStream();
    await reading;
    for (const page of [first, second]) assert.deepEqual(getTexts(page), ["tale", `${BEGINNING}und alles wurde gut.`]);
    const third = open("resumed", await listMessages("resumed"));
    await third.resumeStream();
    assert.deepEqual([third.status, getTexts(third)], ["ready", getTexts(second)]);
  });

  test(`${version}: stopped reply keeps its text`, async () => {
    const page = open("stopped");
    const reading = page.sendMessage({ text: "tale" });
    await waitUntil(() => getTexts(page)[1] === BEGINNING);
    await echoic.api.stopTurn(`${version}-stopped`);
    await reading;
    assert.equal(page.status, "ready", page.error?.message);
    assert.deepEqual(getTexts(page), ["tale", BEGINNING]);
    assert.deepEqual(getTexts({ messages: await listMessages("stopped") }), ["tale", BEGINNING]);
  });

  test(`${version}: tool runs on the page and the reply continues`, async () => {
    const page = open("tool", [], fetchWithTimeout, {
      body: { tools: [WEATHER] },
      sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall({ toolCall: { toolCallId, input } }) {
        page.addToolOutput({ tool: "weather", toolCallId, output: `rain in ${input.city}` });
      },
    });
    await page.sendMessage({ text: "weather" });
    await waitUntil(() => page.status === "error" || (page.status === "ready" && getTexts(page)[1] !== ""));
    assert.deepEqual([getTexts(page), page.error], [["weather", "So it is rain in Oslo."], undefined]);
    const stored = await listMessages("tool");
    assert.deepEqual(await sdk.validateUIMessages({ messages: stored }), stored);
    const getOutputs = ({ parts }) => parts.filter(({ state }) => state === "output-available").map(({ output }) => output);
    assert.deepEqual(stored.map(getOutputs), [[], ["rain in Oslo"]]);
    assert.deepEqual(page.messages.map(getOutputs), [[], ["rain in Oslo"]]);
  });

  test(`${version}: images are kept and provider errors are shown`, async () => {
    const page = open("failed");
    const image = { type: "file", mediaType: "image/png", url: PIXEL };
    await page.sendMessage({ text: "refuse", files: [image] });
    assert.equal(page.status, "error");
    assert.match(page.error.message, /out of order/);
    const [question] = await listMessages("failed");
    assert.deepEqual(question.parts.find(({ type }) => type === "file"), image);
  });
}

/** Replies like OpenAI. */
async function handleRequest(request, response) {
  const { role, content } = (await readBody(request)).messages.at(-1);
  const text = typeof content === "string" ? content : content.map(({ text }) => text ?? "").join("");
  if (text === "refuse") {
    response.statusCode = 400;
    response.end(JSON.stringify({ error: { message: "out of order" } }));
    return true;
  }
  const sendChoice = (choice) => {
    const chunk = { object: "chat.completion.chunk", choices: [{ index: 0, finish_reason: null, ...choice }] };
    response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  };
  response.setHeader("content-type", "text/event-stream");
  if (text === "weather") {
    sendChoice({ delta: { tool_calls: [{ index: 0, id: `call_${calls++}`, type: "function", function: { name: "weather", arguments: '{"city":"Oslo"}' } }] } });
    sendChoice({ delta: {}, finish_reason: "tool_calls" });
    response.end("data: [DONE]\n\n");
    return true;
  }
  if (text === "ponder") sendChoice({ delta: { reasoning_content: "So, so." } });
  if (text === "tale") {
    sendChoice({ delta: { content: BEGINNING } });
    await new Promise((resolve) => (release = resolve));
    sendChoice({ delta: { content: "und alles wurde gut." } });
  } else {
    sendChoice({ delta: { content: role === "tool" ? `So it is ${text}.` : `You said ${text}.` } });
  }
  sendChoice({ delta: {}, finish_reason: "stop" });
  response.end("data: [DONE]\n\n");
  return true;
}

async function readBody(request) {
  let body = "";
  for await (const chunk of request) body += chunk;
  return JSON.parse(body);
}

/** `fetch` that calls `release` after the response headers. */
async function fetchThenRelease(input, init) {
  const response = await fetchWithTimeout(input, init);
  release();
  return response;
}

/** Waits until `check` returns a truthy value. */
async function waitUntil(check) {
  const end = Date.now() + 10_000;
  while (!check()) {
    assert.ok(Date.now() < end, `timed out waiting for ${check}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

// The versions of the AI SDK that are in use, from the oldest that the protocol promises to the
// newest: each has the same conversation. The oldest refuse a frame that has a field too many.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { openPage, shown } from "./page.mjs";
import { fetchInTime, MODEL, start } from "./support.mjs";

const PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";
const WEATHER = { type: "function", function: { name: "weather", parameters: { type: "object" } } };
const BEGINNING = "Es war einmal 你好, ";

/** Lets the provider tell the rest of its reply. */
let goOn;
let calls = 0;

const echoic = await start((provider) => {
  provider.mount("/v1/chat/completions", { handleRequest: answer });
});
after(echoic.stop);

const versions = ["ai5-first", "ai5", "ai6-first", "ai", "ai7-first", "ai7"];
const sdks = await Promise.all(versions.map((version) => import(version)));

// Nothing is awaited between tests: Node would take those it knows by then for all, and stop the server.
for (const [i, version] of versions.entries()) {
  const sdk = sdks[i];
  const open = (id, messages, fetch = fetchInTime, more) =>
    openPage(echoic.url, `${version}-${id}`, messages, fetch, { sdk, ...more });
  const history = (id) => echoic.api.messages(`${version}-${id}`, "format=ui");

  test(`${version}: a reply with its thoughts, one that is made again, and a message put anew`, async () => {
    const page = open("turns");
    await page.sendMessage({ text: "ponder" });
    assert.equal(page.status, "ready", page.error?.message);
    assert.deepEqual(page.lastMessage.parts.filter(({ type }) => type === "reasoning").map(({ text }) => text), ["So, so."]);
    assert.equal(page.lastMessage.metadata.model, MODEL);
    await page.regenerate();
    await page.sendMessage({ text: "hello" });
    assert.deepEqual(shown(page), ["ponder", "You said ponder.", "hello", "You said hello."]);

    await page.sendMessage({ text: "good day", messageId: page.messages[2].id });
    assert.deepEqual(shown(page), ["ponder", "You said ponder.", "good day", "You said good day."]);
    const stored = await history("turns");
    assert.deepEqual(await sdk.validateUIMessages({ messages: stored }), stored);
    assert.deepEqual(shown({ messages: stored }), shown(page));
    assert.equal(stored.at(-1).id, page.lastMessage.id);
  });

  test(`${version}: a page opened in the middle of a reply shows it whole, and once`, async () => {
    const first = open("resumed");
    const reading = first.sendMessage({ text: "tale" });
    await until(() => shown(first)[1] === BEGINNING);
    const second = open("resumed", await history("resumed"), fetchThenGoOn);
    await second.resumeStream();
    await reading;
    for (const page of [first, second]) assert.deepEqual(shown(page), ["tale", `${BEGINNING}und alles wurde gut.`]);
    const third = open("resumed", await history("resumed"));
    await third.resumeStream();
    assert.deepEqual([third.status, shown(third)], ["ready", shown(second)]);
  });

  test(`${version}: a reply that is stopped keeps what was said of it`, async () => {
    const page = open("stopped");
    const reading = page.sendMessage({ text: "tale" });
    await until(() => shown(page)[1] === BEGINNING);
    await echoic.api.stop(`${version}-stopped`);
    await reading;
    assert.equal(page.status, "ready", page.error?.message);
    assert.deepEqual(shown(page), ["tale", BEGINNING]);
    assert.deepEqual(shown({ messages: await history("stopped") }), ["tale", BEGINNING]);
  });

  test(`${version}: a tool is carried out on the page, and the reply goes on with its output`, async () => {
    const page = open("tool", [], fetchInTime, {
      body: { tools: [WEATHER] },
      sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall({ toolCall: { toolCallId, input } }) {
        page.addToolOutput({ tool: "weather", toolCallId, output: `rain in ${input.city}` });
      },
    });
    await page.sendMessage({ text: "weather" });
    await until(() => page.status === "error" || (page.status === "ready" && shown(page)[1] !== ""));
    assert.deepEqual([shown(page), page.error], [["weather", "So it is rain in Oslo."], undefined]);
    const stored = await history("tool");
    assert.deepEqual(await sdk.validateUIMessages({ messages: stored }), stored);
    const outputs = ({ parts }) => parts.filter(({ state }) => state === "output-available").map(({ output }) => output);
    assert.deepEqual(stored.map(outputs), [[], ["rain in Oslo"]]);
    assert.deepEqual(page.messages.map(outputs), [[], ["rain in Oslo"]]);
  });

  test(`${version}: pictures are kept, and a provider that fails is told`, async () => {
    const page = open("failed");
    const picture = { type: "file", mediaType: "image/png", url: PIXEL };
    await page.sendMessage({ text: "refuse", files: [picture] });
    assert.equal(page.status, "error");
    assert.match(page.error.message, /out of order/);
    const [asked] = await history("failed");
    assert.deepEqual(asked.parts.find(({ type }) => type === "file"), picture);
  });
}

/** Answers as OpenAI does. */
async function answer(request, response) {
  const { role, content: asked } = (await bodyOf(request)).messages.at(-1);
  const text = typeof asked === "string" ? asked : asked.map(({ text }) => text ?? "").join("");
  if (text === "refuse") {
    response.statusCode = 400;
    response.end(JSON.stringify({ error: { message: "out of order" } }));
    return true;
  }
  const say = (choice) => {
    const chunk = { object: "chat.completion.chunk", choices: [{ index: 0, finish_reason: null, ...choice }] };
    response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  };
  response.setHeader("content-type", "text/event-stream");
  if (text === "weather") {
    say({ delta: { tool_calls: [{ index: 0, id: `call_${calls++}`, type: "function", function: { name: "weather", arguments: '{"city":"Oslo"}' } }] } });
    say({ delta: {}, finish_reason: "tool_calls" });
    response.end("data: [DONE]\n\n");
    return true;
  }
  if (text === "ponder") say({ delta: { reasoning_content: "So, so." } });
  if (text === "tale") {
    say({ delta: { content: BEGINNING } });
    await new Promise((resolve) => (goOn = resolve));
    say({ delta: { content: "und alles wurde gut." } });
  } else {
    say({ delta: { content: role === "tool" ? `So it is ${text}.` : `You said ${text}.` } });
  }
  say({ delta: {}, finish_reason: "stop" });
  response.end("data: [DONE]\n\n");
  return true;
}

async function bodyOf(request) {
  let body = "";
  for await (const piece of request) body += piece;
  return JSON.parse(body);
}

/** `fetch` that lets the provider go on as soon as the server has answered. */
async function fetchThenGoOn(input, init) {
  const response = await fetchInTime(input, init);
  goOn();
  return response;
}

/** Waits until something on a page is so. */
async function until(check) {
  const end = Date.now() + 10_000;
  while (!check()) {
    assert.ok(Date.now() < end, "it did not come about");
    await new Promise((resolve) => setImmediate(resolve));
  }
}

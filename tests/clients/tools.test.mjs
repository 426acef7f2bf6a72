// Function calls that the client libraries run themselves: the class behind `useChat()`, and the
// tool runner of OpenAI's library.

import { lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI from "openai";
import { getTexts, openPage } from "./page.mjs";
import { fetchWithTimeout, MODEL, start } from "./support.mjs";

const parameters = { type: /** @type {const} */ ("object"), properties: { city: { type: "string" } }, required: ["city"] };
const WEATHER = { type: /** @type {const} */ ("function"), function: { name: "weather", parameters } };
const SKY = { Oslo: "rain", Rome: "sun", Nice: "wind" };

/** Calls the tool for two cities at once, then for a third, then replies. */
const script = (provider) => {
  const call = (city) => ({ name: "weather", id: `call_${city}`, arguments: JSON.stringify({ city }) });
  provider.onToolResult("call_Nice", { content: "Rome it is." });
  provider.onToolResult("call_Rome", { toolCalls: [call("Nice")] });
  provider.onMessage("where", { content: "Let me see.", toolCalls: [call("Oslo"), call("Rome")] });
};

const servers = [];
for (const vendor of ["openai", "anthropic"]) {
  const echoic = await start(script, { vendor });
  after(echoic.stop);
  servers.push([vendor, echoic]);
}

// No `await` between tests: Node would end the run, and stop the servers, after the tests
// registered by then.
for (const [vendor, echoic] of servers) {
  test(`useChat runs calls in order as one message: ${vendor}`, async () => {
    const page = openToolPage(echoic.url, "trip");
    await page.sendMessage({ text: "where to?" });
    await page.settled();

    assert.deepEqual(page.executed, ["Oslo", "Rome", "Nice"]);
    assert.equal(page.messages.length, 2);
    assert.equal(getTexts(page)[1], "Let me see.Rome it is.");
    const stored = await echoic.api.listMessages("trip");
    const roles = stored.map(({ role }) => role);
    assert.deepEqual(roles, ["user", "assistant", "tool", "assistant", "tool", "assistant"]);

    // A reopened page shows the same messages.
    const getContents = ({ parts }) => parts.filter(({ type }) => type !== "step-start")
      .map(({ text, toolCallId, output }) => text ?? [toolCallId, output]);
    const reopened = await echoic.api.listMessages("trip", "format=ui");
    assert.deepEqual(reopened.map(getContents), page.messages.map(getContents));
    assert.equal(reopened[1].id, page.messages[1].id);
    const reopenedPage = openToolPage(echoic.url, "trip", reopened);
    assert.equal(lastAssistantMessageIsCompleteWithToolCalls({ messages: reopenedPage.messages }), false);
  });

  test(`OpenAI's tool runner runs within a session: ${vendor}`, async () => {
    const client = new OpenAI({ apiKey: "any", baseURL: `${echoic.url}/v1`, fetch: fetchWithTimeout, maxRetries: 0 });
    const executed = [];
    const getWeather = ({ city }) => {
      executed.push(city);
      return SKY[city];
    };
    const runner = client.chat.completions.runTools({
      model: MODEL,
      stream: true,
      messages: [{ role: "user", content: "where to?" }],
      tools: [{ type: "function", function: { ...WEATHER.function, description: "The weather in a city", parse: (text) => JSON.parse(text), function: getWeather } }],
    }, { headers: { "x-echoic-session": "run" } });

    assert.equal(await runner.finalContent(), "Rome it is.");
    assert.deepEqual(executed, ["Oslo", "Rome", "Nice"]);
    const [user, reply] = await echoic.api.listMessages("run", "format=ui");
    assert.equal(user.parts[0].text, "where to?");
    const outputs = reply.parts.filter(({ state }) => state === "output-available");
    assert.deepEqual(outputs.map(({ output }) => output), ["rain", "sun", "wind"]);
  });
}

/** Opens a page that runs calls as they arrive and sends their outputs. */
function openToolPage(url, id, messages = undefined) {
  const executed = [];
  let settle;
  const settled = new Promise((resolve) => (settle = resolve));
  const page = openPage(url, id, messages, fetchWithTimeout, {
    body: { tools: [WEATHER] },
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall: ({ toolCall: { toolName: tool, toolCallId, input } }) => {
      executed.push(input.city);
      page.addToolOutput({ tool, toolCallId, output: SKY[input.city] });
    },
    onFinish: ({ finishReason }) => finishReason === "stop" && settle(),
    onError: (error) => { throw error; },
  });
  return Object.assign(page, { executed, settled: () => settled });
}

// Function calls through the libraries that carry them out: the class behind `useChat()`, which goes
// on by itself once it has all outputs, and the tool runner of OpenAI's library.

import { lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI from "openai";
import { openPage, shown } from "./page.mjs";
import { fetchInTime, MODEL, start } from "./support.mjs";

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const WEATHER = { type: "function", function: { name: "weather", parameters } };
const SKY = { Oslo: "rain", Rome: "sun", Nice: "wind" };

/** Asks for two cities at once, then for a third, then answers. */
const script = (provider) => {
  const call = (city) => ({ name: "weather", id: `call_${city}`, arguments: JSON.stringify({ city }) });
  provider.onToolResult("call_Nice", { content: "Rome it is." });
  provider.onToolResult("call_Rome", { toolCalls: [call("Nice")] });
  provider.onMessage("where", { content: "Let me see.", toolCalls: [call("Oslo"), call("Rome")] });
};

const servers = [];
for (const speaks of ["openai", "anthropic"]) {
  const echoic = await start(script, { speaks });
  after(echoic.stop);
  servers.push([speaks, echoic]);
}

// Nothing is awaited between tests: Node would take those it knows by then for all, and stop the servers.
for (const [speaks, echoic] of servers) {
  test(`useChat carries calls out one after another, and the page is one message: ${speaks}`, async () => {
    const page = openCalling(echoic.url, "trip");
    await page.sendMessage({ text: "where to?" });
    await page.settled();

    assert.deepEqual(page.carriedOut, ["Oslo", "Rome", "Nice"]);
    assert.equal(page.messages.length, 2);
    assert.equal(shown(page)[1], "Let me see.Rome it is.");
    const stored = await echoic.api.messages("trip");
    const roles = stored.map(({ role }) => role);
    assert.deepEqual(roles, ["user", "assistant", "tool", "assistant", "tool", "assistant"]);

    // Reopened, it is the same page.
    const told = ({ parts }) => parts.filter(({ type }) => type !== "step-start")
      .map(({ text, toolCallId, output }) => text ?? [toolCallId, output]);
    const reopened = await echoic.api.messages("trip", "format=ui");
    assert.deepEqual(reopened.map(told), page.messages.map(told));
    assert.equal(reopened[1].id, page.messages[1].id);
    const again = openCalling(echoic.url, "trip", reopened);
    assert.equal(lastAssistantMessageIsCompleteWithToolCalls({ messages: again.messages }), false);
  });

  test(`the tool runner of OpenAI's library calls within a session: ${speaks}`, async () => {
    const client = new OpenAI({ apiKey: "any", baseURL: `${echoic.url}/v1`, fetch: fetchInTime, maxRetries: 0 });
    const carriedOut = [];
    const weather = ({ city }) => (carriedOut.push(city), SKY[city]);
    const runner = client.chat.completions.runTools({
      model: MODEL,
      stream: true,
      messages: [{ role: "user", content: "where to?" }],
      tools: [{ type: "function", function: { ...WEATHER.function, parse: JSON.parse, function: weather } }],
    }, { headers: { "x-echoic-session": "run" } });

    assert.equal(await runner.finalContent(), "Rome it is.");
    assert.deepEqual(carriedOut, ["Oslo", "Rome", "Nice"]);
    const [user, reply] = await echoic.api.messages("run", "format=ui");
    assert.equal(user.parts[0].text, "where to?");
    const outputs = reply.parts.filter(({ state }) => state === "output-available");
    assert.deepEqual(outputs.map(({ output }) => output), ["rain", "sun", "wind"]);
  });
}

/** A page that carries out calls as they come, and sends what came of them. */
function openCalling(url, id, messages) {
  const carriedOut = [];
  let settle;
  const settled = new Promise((resolve) => (settle = resolve));
  const page = openPage(url, id, messages, fetchInTime, {
    body: { tools: [WEATHER] },
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall: ({ toolCall: { toolName: tool, toolCallId, input } }) => {
      carriedOut.push(input.city);
      page.addToolOutput({ tool, toolCallId, output: SKY[input.city] });
    },
    onFinish: ({ finishReason }) => finishReason === "stop" && settle(),
    onError: (error) => { throw error; },
  });
  return Object.assign(page, { carriedOut, settled: () => settled });
}

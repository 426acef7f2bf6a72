// The AI SDK's OpenAI provider: `openai(model)` uses the Responses API, `openai.chat(model)` uses
// Chat Completions.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { fetchWithTimeout, MODEL, start } from "./support.mjs";

const HELLO = "Hello there, Ada.";
const SKY = { Oslo: "rain", Rome: "sun" };

const echoic = await start((provider) => {
  const call = (city) => ({ name: "weather", id: `call_${city}`, arguments: JSON.stringify({ city }) });
  // Not by the ids of the calls: a client that sends the whole history only knows the server's ids.
  provider.on({ toolResultContains: SKY.Rome }, { content: "Rome it is." });
  provider.on({ toolResultContains: SKY.Oslo }, { toolCalls: [call("Rome")] });
  provider.onMessage("where", { toolCalls: [call("Oslo")] });
  provider.onMessage("ponder", { content: HELLO, reasoning: "Hm, who is that?" });
  provider.onMessage("more", { content: "As you like." });
});
after(echoic.stop);

const versions = [["ai5", "openai5"], ["ai", "openai6"], ["ai7", "openai7"]];
const imported = await Promise.all(versions.flat().map((name) => import(name)));

for (const [i, [version]] of versions.entries()) {
  const [sdk, { createOpenAI }] = imported.slice(2 * i, 2 * i + 2);
  const openai = createOpenAI({ baseURL: `${echoic.url}/v1`, apiKey: "any", fetch: fetchWithTimeout });
  const { generateText, jsonSchema, stepCountIs, streamText, tool } = sdk;
  const executed = [];
  const weather = tool({
    description: "The weather in a city",
    inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
    execute: ({ city }) => (executed.push(city), SKY[city]),
  });

  for (const [dialect, model] of [["responses", openai(MODEL)], ["chat", openai.chat(MODEL)]]) {
    const ask = (options) => generateText({ model, maxRetries: 0, ...options });

    test(`${version}, ${dialect}: history is sent with the next question`, async () => {
      const { text, response } = await ask({ prompt: "ponder" });
      assert.equal(text, HELLO);
      const messages = [{ role: "user", content: "ponder" }, ...response.messages, { role: "user", content: "more" }];
      assert.equal((await ask({ messages })).text, "As you like.");
      const prompt = echoic.getPrompts().at(-1).map(({ role, content }) => [role, content]);
      assert.deepEqual(prompt, [["user", "ponder"], ["assistant", HELLO], ["user", "more"]]);
    });

    test(`${version}, ${dialect}: functions run one after another`, async () => {
      executed.length = 0;
      const options = { prompt: "where", tools: { weather }, stopWhen: stepCountIs(4) };
      assert.equal((await ask(options)).text, "Rome it is.");
      assert.equal(await streamText({ model, maxRetries: 0, ...options }).text, "Rome it is.");
      assert.deepEqual(executed, ["Oslo", "Rome", "Oslo", "Rome"]);
    });
  }

  test(`${version}: functions run within a conversation`, async () => {
    const created = await fetchWithTimeout(`${echoic.url}/v1/conversations`, { method: "POST" });
    const { id: conversation } = await created.json();
    const providerOptions = { openai: { conversation } };
    const model = openai(MODEL);
    const { text } = await generateText({
      model, maxRetries: 0, providerOptions, prompt: "where", tools: { weather }, stopWhen: stepCountIs(4),
    });
    assert.equal(text, "Rome it is.");
    const stored = await echoic.api.listMessages(conversation.slice("conv_".length));
    const roles = stored.map(({ role }) => role);
    assert.deepEqual(roles, ["user", "assistant", "tool", "assistant", "tool", "assistant"]);
  });
}

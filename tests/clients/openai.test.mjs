// OpenAI's own library and Chat Completions: with and without a session, streams, schemas, tools,
// conversations, errors and retries.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI, { APIError, BadRequestError, ConflictError, InternalServerError, NotFoundError } from "openai";
import { fetchWithTimeout, getItemText, MODEL, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";
const WEATHER = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};

/** Lets the provider send the reply that it holds back. */
let release;
const released = new Promise((resolve) => (release = resolve));

const echoic = await start((provider) => {
  const usage = { prompt_tokens: 21, completion_tokens: 13 };
  provider.onMessage("greet", { content: ANSWER, usage });
  provider.onMessage("remember", { content: "You were greeted." });
  provider.onMessage("weather", { toolCalls: [{ name: "weather", arguments: '{"city":"Bonn"}' }] });
  provider.onMessage("as json", { content: '{"city":"Bonn"}' });
  provider.onMessage("refuse", { error: { message: "overloaded" }, status: 500 });
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 4 });
  provider.onMessage("twice", { content: "Once." });
  provider.onMessage("wait", () => released.then(() => ({ content: "late" })));
});
after(echoic.stop);

const client = new OpenAI({ apiKey: "any", baseURL: `${echoic.url}/v1`, fetch: fetchWithTimeout, maxRetries: 0 });
const completions = client.chat.completions;

/** Returns the body of a request with one message, optionally for a session. */
function createRequest(text, session = undefined, more = undefined) {
  const messages = [{ role: "user", content: text }];
  return { model: MODEL, messages, ...(session && { session_id: session }), ...more };
}

test("models are listed and retrieved by name", async () => {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.ok(models.length > 0);
  assert.equal((await client.models.retrieve(models[0])).object, "model");
});

test("tools pass through without a session", async () => {
  const completion = await completions.create(createRequest("weather?", null, { tools: [WEATHER] }));
  const [call] = completion.choices[0].message.tool_calls;
  assert.ok(call.type === "function");
  assert.deepEqual([call.function.name, call.function.arguments], ["weather", '{"city":"Bonn"}']);
  assert.equal(completion.choices[0].finish_reason, "tool_calls");

  const streamed = completions.stream(createRequest("weather?", null, { tools: [WEATHER] }));
  const message = await streamed.finalMessage();
  const [streamedCall] = message.tool_calls;
  assert.ok(streamedCall.type === "function");
  assert.equal(streamedCall.function.arguments, '{"city":"Bonn"}');
});

test("session is stored and visible in other routes", async () => {
  const greeting = await completions.create(createRequest("greet me", "mine"));
  assert.equal(greeting.choices[0].message.content, ANSWER);
  assert.deepEqual([greeting.usage.prompt_tokens, greeting.usage.total_tokens], [21, 34]);
  const headers = { "x-echoic-session": "mine" };
  await completions.create(createRequest("remember?"), { headers });

  const texts = (await echoic.api.listMessages("mine")).map(({ content }) => content);
  assert.deepEqual(texts, ["greet me", ANSWER, "remember?", "You were greeted."]);
  assert.deepEqual(echoic.getPrompts().at(-1).map(({ content }) => content), texts.slice(0, 3));
});

test("accumulated stream equals the stored reply", async () => {
  const options = { stream_options: { include_usage: true } };
  const stream = completions.stream(createRequest("greet me", "streamed", options));
  let deltas = "";
  stream.on("content", (delta) => (deltas += delta));
  const completion = await stream.finalChatCompletion();

  assert.equal(completion.choices[0].message.content, ANSWER);
  assert.equal(deltas, ANSWER);
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.equal(completion.usage.completion_tokens, 13);
  assert.equal((await echoic.api.listMessages("streamed")).at(-1).content, ANSWER);
});

test("JSON schema reaches the provider and output is parsed", async () => {
  const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const response_format = { type: "json_schema", json_schema: { name: "place", schema, strict: true } };
  const completion = await completions.parse(createRequest("as json", "schema", { response_format }));

  assert.deepEqual(JSON.parse(completion.choices[0].message.content), { city: "Bonn" });
  assert.deepEqual(echoic.provider.getRequests().at(-1).body.response_format, response_format);
});

test("conversation items are created, paged and deleted", async () => {
  /** @type {OpenAI.Responses.ResponseInputItem[]} */
  const items = [{ type: "message", role: "user", content: "I am Ada." }];
  const created = await client.conversations.create({ metadata: { topic: "names" }, items });
  const session = created.id.slice("conv_".length);
  await completions.create(createRequest("greet me", session));
  await client.conversations.items.create(created.id, {
    items: [{ type: "message", role: "user", content: [{ type: "input_text", text: "Bye." }] }],
  });

  const expected = ["I am Ada.", "greet me", ANSWER, "Bye."];
  assert.deepEqual((await echoic.api.listMessages(session)).map(({ content }) => content), expected);
  for (const order of /** @type {const} */ (["asc", "desc"])) {
    const texts = [];
    const list = client.conversations.items.list(created.id, { order, limit: 3 });
    for await (const item of list) texts.push(getItemText(item));
    assert.deepEqual(texts, order === "asc" ? expected : expected.toReversed(), order);
  }
  const changed = await client.conversations.update(created.id, { metadata: { topic: "greetings" } });
  assert.deepEqual(changed.metadata, { topic: "greetings" });
  assert.deepEqual(await client.conversations.retrieve(created.id), changed);
  assert.equal((await client.conversations.delete(created.id)).deleted, true);
  await assert.rejects(client.conversations.retrieve(created.id), NotFoundError);
});

test("errors have the documented classes", async () => {
  const expectError = (promise, kind, code, param) =>
    assert.rejects(promise, (/** @type {any} */ error) => {
      assert.ok(error instanceof kind, `${error}`);
      assert.deepEqual([error.code, error.param], [code, param]);
      return true;
    });
  const provider = [InternalServerError, "provider_error", null];
  await expectError(completions.create(createRequest("refuse", "refused")), ...provider);
  await expectError(completions.create(createRequest("refuse", "refused", { stream: true })), ...provider);
  await expectError(completions.create(createRequest("refuse")), ...provider);
  await expectError(completions.create(createRequest("greet", "s", { n: 2 })), BadRequestError, null, "n");
  await expectError(completions.create(createRequest("greet", "s", { tools: [{ type: "web_search" }] })), BadRequestError, null, "tools");

  const broken = completions.stream(createRequest("break off", "broken")).finalContent();
  await assert.rejects(broken, APIError);
  assert.equal((await echoic.api.listMessages("broken")).at(-1).status, "failed");
});

test("busy session is a conflict without a retry", async () => {
  const waiting = completions.create(createRequest("wait for it", "busy"));
  while (!(await echoic.api.getSession("busy").catch(() => null))?.activeTurn);
  const count = echoic.provider.getRequests().length;
  await assert.rejects(completions.create(createRequest("and?", "busy"), { maxRetries: 2 }), ConflictError);
  release();
  assert.equal((await waiting).choices[0].message.content, "late");
  assert.ok(echoic.provider.getRequests().length <= count + 1);
});

test("retry after a lost response duplicates nothing", async () => {
  let lost = 2;
  const lossyFetch = async (input, init) => {
    const response = await fetchWithTimeout(input, init);
    if (lost-- <= 0) return response;
    await response.text();
    throw new TypeError("the response was lost");
  };
  const lossyClient = client.withOptions({ fetch: lossyFetch, maxRetries: 2 });
  const completion = await lossyClient.chat.completions.create(createRequest("say it twice", "lost"));

  assert.equal(completion.choices[0].message.content, "Once.");
  const texts = (await echoic.api.listMessages("lost")).map(({ content }) => content);
  assert.deepEqual(texts, ["say it twice", "Once."]);
});

// OpenAI's own library against `/v1`: without a session, where the server hands everything on, and
// with one, where it remembers; streams, schemas, tools, errors and the library's own repeats.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI, { APIError, BadRequestError, ConflictError, InternalServerError, NotFoundError } from "openai";
import { fetchInTime, MODEL, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";
const WEATHER = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};

/** Lets the provider answer the question it holds back. */
let release;
const held = new Promise((resolve) => (release = resolve));

const echoic = await start((provider) => {
  const usage = { prompt_tokens: 21, completion_tokens: 13 };
  provider.onMessage("greet", { content: ANSWER, usage });
  provider.onMessage("remember", { content: "You were greeted." });
  provider.onMessage("weather", { toolCalls: [{ name: "weather", arguments: '{"city":"Bonn"}' }] });
  provider.onMessage("as json", { content: '{"city":"Bonn"}' });
  provider.onMessage("refuse", { error: { message: "overloaded" }, status: 500 });
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 4 });
  provider.onMessage("twice", { content: "Once." });
  provider.onMessage("wait", () => held.then(() => ({ content: "late" })));
});
after(echoic.stop);

const client = new OpenAI({ apiKey: "any", baseURL: `${echoic.url}/v1`, fetch: fetchInTime, maxRetries: 0 });
const completions = client.chat.completions;

/** What a request says, of a session if one is named. */
function saying(text, session, more) {
  const messages = [{ role: "user", content: text }];
  return { model: MODEL, messages, ...(session && { session_id: session }), ...more };
}

test("models are listed, and one is found by its name", async () => {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.ok(models.length > 0);
  assert.equal((await client.models.retrieve(models[0])).object, "model");
});

test("without a session tools and their calls go through, streamed and whole", async () => {
  const whole = await completions.create(saying("weather?", null, { tools: [WEATHER] }));
  const [call] = whole.choices[0].message.tool_calls;
  assert.deepEqual([call.function.name, call.function.arguments], ["weather", '{"city":"Bonn"}']);
  assert.equal(whole.choices[0].finish_reason, "tool_calls");

  const streamed = completions.stream(saying("weather?", null, { tools: [WEATHER] }));
  const message = await streamed.finalMessage();
  assert.equal(message.tool_calls[0].function.arguments, '{"city":"Bonn"}');
});

test("a session is stored and remembered, and seen from the other routes", async () => {
  const greeting = await completions.create(saying("greet me", "mine"));
  assert.equal(greeting.choices[0].message.content, ANSWER);
  assert.deepEqual([greeting.usage.prompt_tokens, greeting.usage.total_tokens], [21, 34]);
  const headers = { "x-echoic-session": "mine" };
  await completions.create(saying("remember?"), { headers });

  const said = (await echoic.api.messages("mine")).map(({ content }) => content);
  assert.deepEqual(said, ["greet me", ANSWER, "remember?", "You were greeted."]);
  assert.deepEqual(echoic.prompts().at(-1).map(({ content }) => content), said.slice(0, 3));
});

test("the library's accumulator makes the stored reply of a stream", async () => {
  const options = { stream_options: { include_usage: true } };
  const stream = completions.stream(saying("greet me", "streamed", options));
  let deltas = "";
  stream.on("content", (delta) => (deltas += delta));
  const completion = await stream.finalChatCompletion();

  assert.equal(completion.choices[0].message.content, ANSWER);
  assert.equal(deltas, ANSWER);
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.equal(completion.usage.completion_tokens, 13);
  assert.equal((await echoic.api.messages("streamed")).at(-1).content, ANSWER);
});

test("a JSON schema goes to the provider, and its answer is parsed", async () => {
  const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const response_format = { type: "json_schema", json_schema: { name: "place", schema, strict: true } };
  const completion = await completions.parse(saying("as json", "schema", { response_format }));

  assert.deepEqual(JSON.parse(completion.choices[0].message.content), { city: "Bonn" });
  assert.deepEqual(echoic.provider.getRequests().at(-1).body.response_format, response_format);
});

test("a conversation is a session: its items are listed, paged and read by the library", async () => {
  const items = [{ type: "message", role: "user", content: "I am Ada." }];
  const made = await client.conversations.create({ metadata: { topic: "names" }, items });
  const session = made.id.slice("conv_".length);
  await completions.create(saying("greet me", session));
  await client.conversations.items.create(made.id, {
    items: [{ type: "message", role: "user", content: [{ type: "input_text", text: "Bye." }] }],
  });

  const said = ["I am Ada.", "greet me", ANSWER, "Bye."];
  assert.deepEqual((await echoic.api.messages(session)).map(({ content }) => content), said);
  for (const [order, expected] of [["asc", said], ["desc", said.toReversed()]]) {
    const texts = [];
    const list = client.conversations.items.list(made.id, { order, limit: 3 });
    for await (const item of list) texts.push(item.content[0].text);
    assert.deepEqual(texts, expected, order);
  }
  const changed = await client.conversations.update(made.id, { metadata: { topic: "greetings" } });
  assert.deepEqual(changed.metadata, { topic: "greetings" });
  assert.deepEqual(await client.conversations.retrieve(made.id), changed);
  assert.equal((await client.conversations.delete(made.id)).deleted, true);
  await assert.rejects(client.conversations.retrieve(made.id), NotFoundError);
});

test("errors are of the classes that the library documents", async () => {
  const failed = (promise, kind, code, param) =>
    assert.rejects(promise, (error) => {
      assert.ok(error instanceof kind, `${error}`);
      assert.deepEqual([error.code, error.param], [code, param]);
      return true;
    });
  const provider = [InternalServerError, "provider_error", null];
  await failed(completions.create(saying("refuse", "refused")), ...provider);
  await failed(completions.create(saying("refuse", "refused", { stream: true })), ...provider);
  await failed(completions.create(saying("refuse")), ...provider);
  await failed(completions.create(saying("greet", "s", { n: 2 })), BadRequestError, null, "n");
  await failed(completions.create(saying("greet", "s", { tools: [{ type: "web_search" }] })), BadRequestError, null, "tools");

  const broken = completions.stream(saying("break off", "broken")).finalContent();
  await assert.rejects(broken, APIError);
  assert.equal((await echoic.api.messages("broken")).at(-1).status, "failed");
});

test("a busy session is a conflict that the library does not repeat", async () => {
  const waiting = completions.create(saying("wait for it", "busy"));
  while ((await echoic.api.session("busy").catch(() => null))?.activeTurn == null);
  const asked = echoic.provider.getRequests().length;
  await assert.rejects(completions.create(saying("and?", "busy"), { maxRetries: 2 }), ConflictError);
  release();
  assert.equal((await waiting).choices[0].message.content, "late");
  assert.ok(echoic.provider.getRequests().length <= asked + 1);
});

test("an answer that is lost on its way doubles nothing when the library asks again", async () => {
  let losses = 2;
  const losing = async (input, init) => {
    const response = await fetchInTime(input, init);
    if (losses-- <= 0) return response;
    await response.text();
    throw new TypeError("the answer was lost");
  };
  const unlucky = client.withOptions({ fetch: losing, maxRetries: 2 });
  const completion = await unlucky.chat.completions.create(saying("say it twice", "lost"));

  assert.equal(completion.choices[0].message.content, "Once.");
  const said = (await echoic.api.messages("lost")).map(({ content }) => content);
  assert.deepEqual(said, ["say it twice", "Once."]);
});

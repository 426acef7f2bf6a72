// OpenAI's own library against `/v1/responses`: its accumulators and typed events, chains and
// conversations, the background, functions, and the classes of its errors.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI, { BadRequestError, InternalServerError, NotFoundError } from "openai";
import { fetchInTime, MODEL, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const WEATHER = { type: "function", name: "weather", parameters, strict: true };

/** Lets the provider answer the question it holds back. */
let release;
const held = new Promise((resolve) => (release = resolve));

const echoic = await start((provider) => {
  const call = (city) => ({ name: "weather", id: `call_${city}`, arguments: JSON.stringify({ city }) });
  const usage = { prompt_tokens: 21, completion_tokens: 13 };
  provider.onToolResult("call_Rome", { content: "Rain and sun." });
  provider.onMessage("greet", { content: ANSWER, usage });
  provider.onMessage("remember", { content: "You were greeted." });
  provider.onMessage("weather", { toolCalls: [call("Oslo"), call("Rome")] });
  provider.onMessage("as json", { content: '{"city":"Bonn"}' });
  provider.onMessage("refuse", { error: { message: "overloaded" }, status: 500 });
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 4 });
  provider.onMessage("twice", { content: "Once." });
  provider.onMessage("wait", () => held.then(() => ({ content: "late" })));
});
after(echoic.stop);

const client = new OpenAI({ apiKey: "any", baseURL: `${echoic.url}/v1`, fetch: fetchInTime, maxRetries: 0 });
const responses = client.responses;
const asking = (input, more) => ({ model: MODEL, input, ...more });

async function read(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const numbers = (events) => events.map(({ sequence_number }) => sequence_number);

test("a chain of responses is remembered, read again, listed and deleted", async () => {
  const first = await responses.create(asking("greet me", { instructions: "Be kind.", metadata: { a: "b" } }));
  assert.deepEqual([first.status, first.output_text, first.metadata], ["completed", ANSWER, { a: "b" }]);
  assert.deepEqual([first.usage.input_tokens, first.usage.total_tokens], [21, 34]);
  const second = await responses.create(asking("remember?", { previous_response_id: first.id }));
  assert.equal(second.output_text, "You were greeted.");
  const said = echoic.prompts().at(-1).map(({ content }) => content);
  assert.deepEqual(said, ["greet me", ANSWER, "remember?"]);

  assert.deepEqual(await responses.retrieve(second.id), second);
  const inputs = [];
  for await (const item of responses.inputItems.list(second.id)) inputs.push(item.content[0].text);
  assert.deepEqual(inputs, ["remember?"]);
  await responses.delete(first.id);
  await assert.rejects(responses.retrieve(first.id), NotFoundError);
});

test("the library's accumulator makes the stored response of a stream", async () => {
  const stream = responses.stream(asking("greet me"));
  let deltas = "";
  const kinds = [];
  stream.on("response.output_text.delta", ({ delta, snapshot }) => {
    deltas += delta;
    assert.equal(snapshot, deltas);
  });
  stream.on("event", ({ type }) => kinds.push(type));
  const final = await stream.finalResponse();

  assert.deepEqual([final.output_text, deltas], [ANSWER, ANSWER]);
  assert.equal(final.usage.output_tokens, 13);
  assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);
  assert.deepEqual((await responses.retrieve(final.id)).output, JSON.parse(JSON.stringify(final.output, dropParsed)));
});

/** The library adds what it parsed itself. */
function dropParsed(name, value) {
  return name === "parsed" ? undefined : value;
}

test("a conversation is gone on with, and seen as a session", async () => {
  const { id: conversation } = await client.conversations.create();
  await responses.create(asking("greet me", { conversation }));
  await responses.create(asking("remember?", { conversation: { id: conversation } }));
  const session = conversation.slice("conv_".length);
  const said = ["greet me", ANSWER, "remember?", "You were greeted."];
  assert.deepEqual((await echoic.api.messages(session)).map(({ content }) => content), said);
  const items = [];
  for await (const item of client.conversations.items.list(conversation, { order: "asc" })) {
    items.push(item.content[0].text);
  }
  assert.deepEqual(items, said);
});

test("a stream in the background is resumed behind any event, also when it is over", async () => {
  const all = await read(await responses.create(asking("greet me", { background: true, stream: true })));
  assert.deepEqual(numbers(all), all.map((_, index) => index));
  const { id } = all[0].response;
  for (const after of [0, 5, all.length - 2]) {
    const rest = await read(await responses.retrieve(id, { stream: true, starting_after: after }));
    assert.deepEqual(rest, all.slice(after + 1));
  }
  const resumed = responses.stream({ response_id: id, starting_after: 5 });
  assert.deepEqual(numbers(await read(resumed)), numbers(all).slice(6));
  assert.equal((await resumed.finalResponse()).output_text, ANSWER);
});

test("a response in the background is polled, and cancelled", async () => {
  let response = await responses.create(asking("greet me", { background: true }));
  assert.ok(["queued", "in_progress"].includes(response.status));
  while (["queued", "in_progress"].includes(response.status)) {
    response = await responses.retrieve(response.id);
  }
  assert.deepEqual([response.status, response.output_text], ["completed", ANSWER]);

  const waiting = await responses.create(asking("wait for it", { background: true }));
  const cancelled = await responses.cancel(waiting.id);
  assert.equal(cancelled.status, "cancelled");
  release();
  assert.deepEqual(await responses.cancel(waiting.id), cancelled);
});

test("functions are called, streamed, and their outputs continue the response", async () => {
  const stream = responses.stream(asking("weather?", { tools: [WEATHER] }));
  const calling = await stream.finalResponse();
  const calls = calling.output.filter(({ type }) => type === "function_call");
  assert.deepEqual(calls.map((call) => call.parsed_arguments), [{ city: "Oslo" }, { city: "Rome" }]);
  const outputs = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "rain" }));
  const chained = { previous_response_id: calling.id, tools: [WEATHER] };
  assert.equal((await responses.create(asking(outputs, chained))).output_text, "Rain and sun.");

  // The client that keeps all of it itself.
  const input = [{ role: "user", content: "weather?" }, ...calls, ...outputs];
  const alone = await responses.create(asking(input, { store: false, tools: [WEATHER] }));
  assert.equal(alone.output_text, "Rain and sun.");
});

test("a JSON schema goes to the provider, and its answer is parsed", async () => {
  const format = { type: "json_schema", name: "place", schema: parameters, strict: true };
  const response = await responses.parse(asking("as json", { text: { format } }));
  assert.deepEqual(JSON.parse(response.output_text), { city: "Bonn" });
  const { type, ...json_schema } = format;
  assert.deepEqual(echoic.provider.getRequests().at(-1).body.response_format, { type, json_schema });
});

test("errors are of the classes that the library documents", async () => {
  const failed = (promise, kind, code, param) =>
    assert.rejects(promise, (error) => {
      assert.ok(error instanceof kind, `${error}`);
      assert.deepEqual([error.code, error.param], [code, param]);
      return true;
    });
  const refused = [InternalServerError, "provider_error", null];
  await failed(responses.create(asking("refuse")), ...refused);
  await failed(responses.create(asking("refuse", { stream: true })), ...refused);
  const search = { tools: [{ type: "web_search" }] };
  await failed(responses.create(asking("greet", search)), BadRequestError, null, "tools");
  await failed(responses.create(asking("greet", { odd: 1 })), BadRequestError, "unknown_parameter", "odd");
  const unknown = { previous_response_id: "resp_none" };
  const notFound = [BadRequestError, "previous_response_not_found", "previous_response_id"];
  await failed(responses.create(asking("greet", unknown)), ...notFound);
  const both = { conversation: "conv_a", previous_response_id: "resp_b" };
  await failed(responses.create(asking("greet", both)), BadRequestError, "mutually_exclusive_parameters", null);

  await assert.rejects(responses.stream(asking("break off")).finalResponse(), OpenAI.APIError);
});

test("an answer that is lost on its way doubles nothing when the library asks again", async () => {
  let losses = 2;
  const losing = async (input, init) => {
    const response = await fetchInTime(input, init);
    if (losses-- <= 0) return response;
    await response.text();
    throw new TypeError("the answer was lost");
  };
  const { id: conversation } = await client.conversations.create();
  const unlucky = client.withOptions({ fetch: losing, maxRetries: 2 });
  const response = await unlucky.responses.create(asking("say it twice", { conversation }));
  assert.equal(response.output_text, "Once.");
  const said = (await echoic.api.messages(conversation.slice(5))).map(({ content }) => content);
  assert.deepEqual(said, ["say it twice", "Once."]);
});

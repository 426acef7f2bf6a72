// OpenAI's own library and the Responses API: streams, chains, conversations, background responses,
// functions, schemas, errors and retries.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI, { BadRequestError, InternalServerError, NotFoundError } from "openai";
import { fetchWithTimeout, getItemText, MODEL, start } from "./support.mjs";

const ANSWER = "Grüße! Ein Strom aus Wörtern, 你好, in mehreren Stücken.";
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const WEATHER = { type: "function", name: "weather", parameters, strict: true };

/** Lets the provider send the reply that it holds back. */
let release;
const released = new Promise((resolve) => (release = resolve));

const echoic = await start((provider) => {
  const call = (city) => ({ name: "weather", id: `call_${city}`, arguments: JSON.stringify({ city }) });
  const usage = { prompt_tokens: 21, completion_tokens: 13 };
  // Not by the id of a call: a client that sends the whole history only knows the server's ids.
  provider.on({ hasToolResult: true }, { content: "Rain and sun." });
  provider.onMessage("greet", { content: ANSWER, usage });
  provider.onMessage("remember", { content: "You were greeted." });
  provider.onMessage("weather", { toolCalls: [call("Oslo"), call("Rome")] });
  provider.onMessage("as json", { content: '{"city":"Bonn"}' });
  provider.onMessage("refuse", { error: { message: "overloaded" }, status: 500 });
  provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 4 });
  provider.onMessage("twice", { content: "Once." });
  provider.onMessage("wait", () => released.then(() => ({ content: "late" })));
});
after(echoic.stop);

const client = new OpenAI({ apiKey: "any", baseURL: `${echoic.url}/v1`, fetch: fetchWithTimeout, maxRetries: 0 });
const responses = client.responses;
const createRequest = (input, more = undefined) => ({ model: MODEL, input, ...more });

async function readEvents(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const getNumbers = (events) => events.map(({ sequence_number }) => sequence_number);

test("chained responses are stored, listed and deleted", async () => {
  const first = await responses.create(createRequest("greet me", { instructions: "Be kind.", metadata: { a: "b" } }));
  assert.deepEqual([first.status, first.output_text, first.metadata], ["completed", ANSWER, { a: "b" }]);
  assert.deepEqual([first.usage.input_tokens, first.usage.total_tokens], [21, 34]);
  const second = await responses.create(createRequest("remember?", { previous_response_id: first.id }));
  assert.equal(second.output_text, "You were greeted.");
  const texts = echoic.getPrompts().at(-1).map(({ content }) => content);
  assert.deepEqual(texts, ["greet me", ANSWER, "remember?"]);

  assert.deepEqual(await responses.retrieve(second.id), second);
  const inputs = [];
  for await (const item of responses.inputItems.list(second.id)) inputs.push(getItemText(item));
  assert.deepEqual(inputs, ["remember?"]);
  await responses.delete(first.id);
  await assert.rejects(responses.retrieve(first.id), NotFoundError);
});

test("accumulated stream equals the stored response", async () => {
  const stream = responses.stream(createRequest("greet me"));
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
  assert.deepEqual((await responses.retrieve(final.id)).output, JSON.parse(JSON.stringify(final.output, omitParsed)));
});

/** Omits the fields that the library itself adds. */
function omitParsed(name, value) {
  return name === "parsed" ? undefined : value;
}

test("conversation continues and is visible as a session", async () => {
  const { id: conversation } = await client.conversations.create();
  await responses.create(createRequest("greet me", { conversation }));
  await responses.create(createRequest("remember?", { conversation: { id: conversation } }));
  const session = conversation.slice("conv_".length);
  const texts = ["greet me", ANSWER, "remember?", "You were greeted."];
  assert.deepEqual((await echoic.api.listMessages(session)).map(({ content }) => content), texts);
  const items = [];
  for await (const item of client.conversations.items.list(conversation, { order: "asc" })) {
    items.push(getItemText(item));
  }
  assert.deepEqual(items, texts);
});

test("background stream resumes after any event", async () => {
  const all = await readEvents(await responses.create(createRequest("greet me", { background: true, stream: true })));
  assert.deepEqual(getNumbers(all), all.map((_, index) => index));
  const { id } = all[0].response;
  for (const after of [0, 5, all.length - 2]) {
    const rest = await readEvents(await responses.retrieve(id, { stream: true, starting_after: after }));
    assert.deepEqual(rest, all.slice(after + 1));
  }
  const resumed = responses.stream({ response_id: id, starting_after: 5 });
  assert.deepEqual(getNumbers(await readEvents(resumed)), getNumbers(all).slice(6));
  assert.equal((await resumed.finalResponse()).output_text, ANSWER);
});

test("background response is polled and cancelled", async () => {
  let response = await responses.create(createRequest("greet me", { background: true }));
  assert.ok(["queued", "in_progress"].includes(response.status));
  while (["queued", "in_progress"].includes(response.status)) {
    response = await responses.retrieve(response.id);
  }
  assert.deepEqual([response.status, response.output_text], ["completed", ANSWER]);

  const waiting = await responses.create(createRequest("wait for it", { background: true }));
  const cancelled = await responses.cancel(waiting.id);
  assert.equal(cancelled.status, "cancelled");
  release();
  assert.deepEqual(await responses.cancel(waiting.id), cancelled);
});

test("function outputs continue the response", async () => {
  const stream = responses.stream(createRequest("weather?", { tools: [WEATHER] }));
  const first = await stream.finalResponse();
  const calls = first.output.filter((item) => item.type === "function_call");
  assert.deepEqual(calls.map(({ parsed_arguments }) => parsed_arguments), [{ city: "Oslo" }, { city: "Rome" }]);
  const outputs = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "rain" }));
  const chained = { previous_response_id: first.id, tools: [WEATHER] };
  assert.equal((await responses.create(createRequest(outputs, chained))).output_text, "Rain and sun.");

  // The same without the stored response: the client sends the whole history.
  const input = [{ role: "user", content: "weather?" }, ...calls, ...outputs];
  const stateless = await responses.create(createRequest(input, { store: false, tools: [WEATHER] }));
  assert.equal(stateless.output_text, "Rain and sun.");
});

test("JSON schema reaches the provider and output is parsed", async () => {
  const format = { type: "json_schema", name: "place", schema: parameters, strict: true };
  const response = await responses.parse(createRequest("as json", { text: { format } }));
  assert.deepEqual(JSON.parse(response.output_text), { city: "Bonn" });
  const { type, ...json_schema } = format;
  assert.deepEqual(echoic.provider.getRequests().at(-1).body.response_format, { type, json_schema });
});

test("errors have the documented classes", async () => {
  const expectError = (promise, kind, code, param) =>
    assert.rejects(promise, (/** @type {any} */ error) => {
      assert.ok(error instanceof kind, `${error}`);
      assert.deepEqual([error.code, error.param], [code, param]);
      return true;
    });
  const refused = [InternalServerError, "provider_error", null];
  await expectError(responses.create(createRequest("refuse")), ...refused);
  await expectError(responses.create(createRequest("refuse", { stream: true })), ...refused);
  const search = { tools: [{ type: "web_search" }] };
  await expectError(responses.create(createRequest("greet", search)), BadRequestError, null, "tools");
  await expectError(responses.create(createRequest("greet", { odd: 1 })), BadRequestError, "unknown_parameter", "odd");
  const unknown = { previous_response_id: "resp_none" };
  const notFound = [BadRequestError, "previous_response_not_found", "previous_response_id"];
  await expectError(responses.create(createRequest("greet", unknown)), ...notFound);
  const both = { conversation: "conv_a", previous_response_id: "resp_b" };
  await expectError(responses.create(createRequest("greet", both)), BadRequestError, "mutually_exclusive_parameters", null);

  await assert.rejects(responses.stream(createRequest("break off")).finalResponse(), OpenAI.APIError);
});

test("retry after a lost response duplicates nothing", async () => {
  let lost = 2;
  const lossyFetch = async (input, init) => {
    const response = await fetchWithTimeout(input, init);
    if (lost-- <= 0) return response;
    await response.text();
    throw new TypeError("the response was lost");
  };
  const { id: conversation } = await client.conversations.create();
  const lossyClient = client.withOptions({ fetch: lossyFetch, maxRetries: 2 });
  const response = await lossyClient.responses.create(createRequest("say it twice", { conversation }));
  assert.equal(response.output_text, "Once.");
  const texts = (await echoic.api.listMessages(conversation.slice(5))).map(({ content }) => content);
  assert.deepEqual(texts, ["say it twice", "Once."]);
});

"""Responses with OpenAI's own library: chains, conversations, streams, background responses,
functions, schemas and errors."""

import json

import openai
import pytest
from pydantic import BaseModel
from upstream import Gate

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
    "strict": True,
}


class Place(BaseModel):
    city: str


def test_chained_responses_are_stored_and_deleted(client, upstream):
    upstream.script("Hello Ada.", "Ada.")
    first = client.responses.create(model="m", input="I am Ada", instructions="Be kind.", metadata={"a": "b"})
    assert (first.status, first.output_text, first.metadata) == ("completed", "Hello Ada.", {"a": "b"})
    assert (first.usage.input_tokens, first.usage.input_tokens_details.cached_tokens) == (21, 8)
    second = client.responses.create(model="m", input="Who am I?", previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("Ada.", first.id)
    assert upstream.calls[-1].texts == ["I am Ada", "Hello Ada.", "Who am I?"]
    assert client.responses.retrieve(second.id) == second
    assert [item.content[0].text for item in client.responses.input_items.list(second.id)] == ["Who am I?"]
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_conversation_continues_and_is_a_session(client, upstream, stored):
    upstream.script("Hello.", "Again.")
    conversation = client.conversations.create(items=[{"role": "user", "content": "before"}])
    for text in ["one", "two"]:
        answer = client.responses.create(model="m", input=text, conversation=conversation.id)
        assert answer.conversation.id == conversation.id
    texts = ["before", "one", "Hello.", "two", "Again."]
    assert [text for _, text in stored(conversation.id.removeprefix("conv_"))] == texts
    items = client.conversations.items.list(conversation.id, order="asc")
    assert [item.content[0].text for item in items] == texts


def test_stream_is_accumulated_by_library(client, upstream):
    gate = Gate()

    def script(call):
        call.text("one, ")
        gate.wait()
        call.reply("two")

    upstream.script(script)
    with client.responses.stream(model="m", input="count") as stream:
        events = []
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                gate.open()
        final = stream.get_final_response()
    assert final.output_text == "one, two"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_background_response_resumes_after_any_event(client, upstream):
    gate = Gate()

    def script(call):
        call.text("one, ")
        gate.wait()
        call.reply("two")

    upstream.script(script)
    seen = []
    with client.responses.create(model="m", input="count", background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    gate.open()
    response = seen[0].response.id
    rest = list(client.responses.retrieve(response, stream=True, starting_after=seen[-1].sequence_number))
    numbers = [event.sequence_number for event in seen + rest]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].response.output_text == "one, two"
    assert client.responses.retrieve(response).status == "completed"
    everything = client.responses.retrieve(response, stream=True)
    assert [event.sequence_number for event in everything] == numbers


def test_background_response_is_cancelled(client, upstream):
    gate = Gate()

    def script(call):
        call.text("one, ")
        gate.wait()

    upstream.script(script)
    with client.responses.create(model="m", input="count", background=True, stream=True) as stream:
        response = next(stream).response
        next(event for event in stream if event.type == "response.output_text.delta")
        client.responses.cancel(response.id)
        list(stream)
    gate.open()
    stored = client.responses.retrieve(response.id)
    assert (stored.status, stored.output_text) == ("cancelled", "one, ")


def test_function_outputs_continue_the_chain(client, upstream):
    calls = [("a", "weather", {"city": "Oslo"}), ("b", "weather", {"city": "Rome"})]
    upstream.script(lambda call: call.tool_calls(*calls), "Rome.")
    first = client.responses.create(model="m", input="Where to?", tools=[WEATHER])
    calls_made = [(item.call_id, json.loads(item.arguments)["city"]) for item in first.output if item.type == "function_call"]
    # The ids are the server's own; the provider gets back those that it gave.
    assert [city for _, city in calls_made] == ["Oslo", "Rome"]
    assert len({id for id, _ in calls_made} - {"a", "b"}) == 2
    outputs = [{"type": "function_call_output", "call_id": id, "output": f"rain in {city}"} for id, city in calls_made]
    second = client.responses.create(model="m", input=outputs, previous_response_id=first.id, tools=[WEATHER])
    assert second.output_text == "Rome."
    results = [message for message in upstream.calls[-1].request["messages"] if message["role"] == "tool"]
    assert [(message["tool_call_id"], message["content"]) for message in results] == [("a", "rain in Oslo"), ("b", "rain in Rome")]


def test_schema_reaches_provider_and_output_is_parsed(client, upstream):
    upstream.script('{"city": "Bonn"}')
    answer = client.responses.parse(model="m", input="Where?", text_format=Place)
    assert answer.output_parsed == Place(city="Bonn")
    assert upstream.calls[-1].request["response_format"]["json_schema"]["schema"]["required"] == ["city"]


def test_errors_have_documented_classes(client, upstream):
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")
    with pytest.raises(openai.BadRequestError) as both:
        client.responses.create(model="m", input="x", conversation="conv_x", previous_response_id="resp_x")
    assert both.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as tools:
        client.responses.create(model="m", input="x", tools=[{"type": "web_search"}])
    assert tools.value.param == "tools"
    gate = Gate()

    def script(call):
        call.text("one")
        gate.wait()
        call.reply("two")

    upstream.script(script)
    conversation = client.conversations.create()
    with client.responses.create(model="m", input="x", conversation=conversation.id, stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
        with pytest.raises(openai.BadRequestError) as locked:
            client.responses.create(model="m", input="y", conversation=conversation.id)
        gate.open()
        list(stream)
    assert (locked.value.code, locked.value.param) == ("conversation_locked", "conversation")

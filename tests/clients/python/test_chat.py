"""Chat completions and models with OpenAI's own library, with and without a session."""

import asyncio
import json

import openai
import pytest
from conftest import create_request
from pydantic import BaseModel
from upstream import USAGE, Gate


class Place(BaseModel):
    city: str
    inhabitants: int


def test_models_are_listed_and_retrieved_by_name(client):
    assert [model.id for model in client.models.list()] == ["m", "team/large"]
    assert client.models.retrieve("team/large").object == "model"
    with pytest.raises(openai.NotFoundError) as absent:
        client.models.retrieve("none")
    assert absent.value.code == "model_not_found"


def test_request_without_session_is_forwarded_unchanged(client, upstream):
    upstream.script("Hello.")
    more = {"seed": 7, "stop": ["x"], "logprobs": True, "logit_bias": {"50256": -100}, "user": "u"}
    completion = client.chat.completions.create(**create_request("hi", n=1, **more))
    assert completion.choices[0].message.content == "Hello."
    assert completion.usage.total_tokens == 34
    assert upstream.calls[0].request == {**create_request("hi", n=1), **more}


def test_stream_without_session_arrives_word_by_word(client, upstream):
    gate = Gate()

    def script(call):
        call.text("one, ")
        gate.wait()
        call.reply("two")

    upstream.script(script)
    options = {"stream_options": {"include_usage": True}}
    with client.chat.completions.create(**create_request("count", stream=True, **options)) as stream:
        assert next(stream).choices[0].delta.content == "one, "
        gate.open()
        assert next(stream).choices[0].delta.content == "two"
        rest = list(stream)
    assert rest[0].choices[0].finish_reason == "stop"
    assert (rest[-1].choices, rest[-1].usage.completion_tokens) == ([], 13)


@pytest.mark.parametrize("is_stream", [False, True])
def test_session_is_stored_and_remembered(client, upstream, session, stored, is_stream):
    def ask(**body):
        answer = client.chat.completions.create(**body, stream=is_stream)
        if not is_stream:
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    upstream.script("Hello, Ada. 你好!", "You are Ada.", "Still Ada.")
    assert ask(**create_request("I am Ada.", session)) == "Hello, Ada. 你好!"
    # The session is in a header, and the history in the body is ignored.
    body = create_request("Who am I?", extra_headers={"x-echoic-session": session})
    body["messages"].insert(0, {"role": "assistant", "content": "You are Bob."})
    assert ask(**body) == "You are Ada."
    with client.with_options(default_headers={"x-echoic-session": session}) as own:
        answer = own.chat.completions.with_raw_response.create(**create_request("Sure?"))
        assert answer.headers["x-echoic-session"] == session
        assert answer.parse().choices[0].message.content == "Still Ada."

    texts = ["I am Ada.", "Hello, Ada. 你好!", "Who am I?", "You are Ada.", "Sure?", "Still Ada."]
    assert stored(session) == list(zip(["user", "assistant"] * 3, texts, strict=True))
    assert [call.texts for call in upstream.calls] == [texts[:1], texts[:3], texts[:5]]


def test_session_streams_word_by_word_and_ends_with_usage(client, upstream, session):
    gates = [Gate(), Gate()]

    def script(call):
        call.text("one, ")
        gates[0].wait()
        call.text("two, ")
        gates[1].wait()
        call.reply("three")

    upstream.script(script)
    options = {"stream_options": {"include_usage": True}}
    with client.chat.completions.create(**create_request("count", session, stream=True, **options)) as stream:
        assert next(stream).choices[0].delta.role == "assistant"
        assert next(stream).choices[0].delta.content == "one, "
        gates[0].open()
        assert next(stream).choices[0].delta.content == "two, "
        gates[1].open()
        assert next(stream).choices[0].delta.content == "three"
        end, final = list(stream)
    assert (end.choices[0].finish_reason, end.usage) == ("stop", None)
    assert (final.choices, final.usage.total_tokens) == ([], USAGE["total_tokens"])
    assert final.usage.prompt_tokens_details.cached_tokens == 8
    assert (end.id, end.object) == (final.id, "chat.completion.chunk")


def test_accumulated_stream_equals_stored_reply(client, upstream, session, stored):
    def script(call):
        for word in ["Grüße ", "an ", "alle"]:
            call.text(word)
        call.finish()

    upstream.script(script)
    with client.chat.completions.stream(**create_request("greet", session)) as stream:
        kinds = [event.type for event in stream]
        completion = stream.get_final_completion()
    assert kinds.count("content.done") == 1
    assert completion.choices[0].message.content == "Grüße an alle"
    assert stored(session)[-1] == ("assistant", "Grüße an alle")


@pytest.mark.parametrize("is_in_session", [False, True])
@pytest.mark.parametrize("is_stream", [False, True])
def test_schema_reaches_provider_and_output_is_parsed(client, upstream, session, is_in_session, is_stream):
    bonn = Place(city="Bonn", inhabitants=330_000)
    upstream.script(bonn.model_dump_json())
    body = create_request("Bonn, as JSON", session if is_in_session else None)
    if is_stream:
        with client.chat.completions.stream(**body, response_format=Place) as stream:
            completion = stream.get_final_completion()
    else:
        completion = client.chat.completions.parse(**body, response_format=Place)
    assert completion.choices[0].message.parsed == bonn
    sent = upstream.calls[0].request["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["strict"] is True
    assert sorted(sent["json_schema"]["schema"]["properties"]) == ["city", "inhabitants"]


def test_tool_call_without_session_passes_through(client, upstream):
    place = json.dumps({"city": "Bonn"})
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": place}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    response = {"id": "own", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    upstream.script(lambda call: call.answer(200, response), "Rain.")
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    body = create_request("weather?", tools=tools)
    answer = client.chat.completions.create(**body).choices[0].message
    assert json.loads(answer.tool_calls[0].function.arguments) == {"city": "Bonn"}

    result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "rain"}
    body["messages"] += [answer, result]
    assert client.chat.completions.create(**body).choices[0].message.content == "Rain."
    assert upstream.calls[1].request["messages"][-1] == result


@pytest.mark.parametrize("is_stream", [False, True])
def test_tool_calls_and_results_are_stored_in_session(client, upstream, session, stored, is_stream):
    upstream.script(lambda call: call.tool_calls(("a", "weather", {"city": "Oslo"}), ("b", "weather", {"city": "Rome"})), "Rome.")
    weather = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": {"type": "object"}}}
    body = create_request("Where to?", session, tools=[weather])
    if is_stream:
        with client.chat.completions.stream(**body) as stream:
            answer = stream.get_final_completion().choices[0]
    else:
        answer = client.chat.completions.create(**body).choices[0]
    assert answer.finish_reason == "tool_calls"
    calls_made = [(call.id, json.loads(call.function.arguments)["city"]) for call in answer.message.tool_calls]
    # The ids are the server's own; the provider gets back those that it gave.
    assert [city for _, city in calls_made] == ["Oslo", "Rome"]
    assert len({id for id, _ in calls_made} - {"a", "b"}) == 2

    results = [{"role": "tool", "tool_call_id": id, "content": f"it rains in {city}"} for id, city in calls_made]
    calls = [call.model_dump(include={"id", "type", "function"}) for call in answer.message.tool_calls]
    body["messages"] += [{"role": "assistant", "content": None, "tool_calls": calls}, *results]
    assert client.chat.completions.create(**body).choices[0].message.content == "Rome."
    assert [role for role, _ in stored(session)] == ["user", "assistant", "tool", "assistant"]
    sent = upstream.calls[1].request["messages"][-2:]
    assert [(result["tool_call_id"], result["content"]) for result in sent] == [
        ("a", "it rains in Oslo"),
        ("b", "it rains in Rome"),
    ]


def test_async_client_uses_several_sessions_at_once(server, upstream, session, stored):
    def echo(call):
        call.reply(f"You said {call.texts[-1]}")

    upstream.script(*[echo] * 5)

    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=15) as client:
            async def say(number):
                stream = await client.chat.completions.create(**create_request(f"{number}", f"{session}-{number}"), stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*map(say, range(5)))

    assert asyncio.run(talk()) == [f"You said {number}" for number in range(5)]
    for number in range(5):
        assert stored(f"{session}-{number}")[1] == ("assistant", f"You said {number}")

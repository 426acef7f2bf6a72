"""Errors have the classes that OpenAI's library documents, with type, code and parameter."""

import openai
import pytest
from conftest import create_request
from server import Server
from upstream import Gate


def describe(error):
    """Returns the type, code and parameter of an error."""
    assert error.value.body["message"]
    return (error.value.type, error.value.code, error.value.param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "no"}]}, "messages"),
        ({"extra_body": {"session_id": "not one"}}, "session_id"),
    ],
)
def test_invalid_parameter_is_named_in_bad_request(client, session, change, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{**create_request("hi", session), **change})
    assert describe(error) == ("invalid_request_error", None, param)


def test_too_long_message_has_openai_error_code(provider):
    server = Server({"ECHOIC_PROVIDER": "demo"}, ECHOIC_CONTEXT_WINDOW="2000")
    try:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=15)
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(**create_request("word " * 4000, "long"))
        assert describe(error) == ("invalid_request_error", "context_length_exceeded", "messages")
    finally:
        server.stop()


@pytest.mark.parametrize("is_stream", [False, True])
def test_provider_refusal_in_session_is_server_error(client, upstream, session, is_stream):
    upstream.script(lambda call: call.refuse(400))
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(**create_request("hi", session, stream=is_stream))
    assert describe(error) == ("server_error", "provider_error", None)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"), [(400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)]
)
def test_provider_refusal_without_session_is_forwarded(client, upstream, status, kind, is_stream):
    upstream.script(lambda call: call.refuse(status, "not like this"))
    with pytest.raises(kind) as error:
        client.chat.completions.create(**create_request("hi", stream=is_stream))
    assert "not like this" in error.value.message


@pytest.mark.parametrize("is_in_session", [False, True])
def test_broken_stream_raises_and_keeps_text(client, upstream, session, stored, is_in_session):
    upstream.script(lambda call: call.text("half"))
    texts = []
    with pytest.raises(openai.APIError) as error:
        for chunk in client.chat.completions.create(**create_request("hi", session if is_in_session else None, stream=True)):
            texts.append(chunk.choices[0].delta.content or "")
    assert "".join(texts) == "half"
    assert not isinstance(error.value, openai.APIStatusError)
    assert error.value.code == "provider_error"
    if is_in_session:
        assert stored(session) == [("user", "hi"), ("assistant", "half")]


def test_busy_session_is_conflict_without_retry(client, upstream, session, stored):
    gate = Gate()

    def script(call):
        call.text("wait")
        gate.wait()
        call.reply(" for it")

    upstream.script(script)
    with client.chat.completions.create(**create_request("hi", session, stream=True)) as stream:
        next(stream)
        retrying_client = client.with_options(max_retries=5)
        with pytest.raises(openai.ConflictError) as error:
            retrying_client.chat.completions.create(**create_request("and?", session))
        assert describe(error) == ("invalid_request_error", "session_busy", None)
        with pytest.raises(openai.BadRequestError) as error:
            retrying_client.conversations.items.create(f"conv_{session}", items=[{"role": "user", "content": "and?"}])
        assert describe(error) == ("invalid_request_error", "conversation_locked", "conversation")
        gate.open()
        for _ in stream:
            pass
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "hi"), ("assistant", "wait for it")]


def test_idempotency_key_is_bound_to_one_request(client, upstream, session, stored):
    upstream.script("Once.")
    header = {"extra_headers": {"Idempotency-Key": session}}
    for _ in range(2):
        answer = client.chat.completions.create(**create_request("hi", session), **header)
        assert answer.choices[0].message.content == "Once."
    with pytest.raises(openai.UnprocessableEntityError) as error:
        client.chat.completions.create(**create_request("something else", session), **header)
    assert describe(error) == ("invalid_request_error", "idempotency_key_reused", None)
    assert stored(session) == [("user", "hi"), ("assistant", "Once.")]


def test_api_key_authenticates_and_isolates_users():
    server = Server(ECHOIC_AUTH="keys")
    try:
        def client(key):
            return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=15)

        with pytest.raises(openai.AuthenticationError) as error:
            client("ek_wrong").models.list()
        assert describe(error) == ("invalid_request_error", "invalid_api_key", None)
        ada, bob = (client(server.run("keys", "create", "--user", user).split()[-1]) for user in ("ada", "bob"))
        conversation = ada.conversations.create().id
        assert ada.conversations.retrieve(conversation).id == conversation
        for ask in (bob.conversations.retrieve, bob.conversations.delete, bob.conversations.items.list):
            with pytest.raises(openai.NotFoundError):
                ask(conversation)
    finally:
        server.stop()

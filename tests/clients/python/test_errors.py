"""Errors are of the classes that OpenAI's library documents, with type, code and parameter."""

import openai
import pytest
from conftest import saying
from server import Server
from upstream import Gate


def told(error):
    """What an error says beside its sentence."""
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
def test_what_cannot_be_is_a_bad_request_that_names_the_parameter(client, session, change, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{**saying("hi", session), **change})
    assert told(error) == ("invalid_request_error", None, param)


def test_a_message_that_is_too_long_for_the_model_says_so_in_openais_words(provider):
    server = Server({"ECHOIC_PROVIDER": "demo"}, ECHOIC_CONTEXT_WINDOW="2000")
    try:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=15)
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(**saying("word " * 4000, "long"))
        assert told(error) == ("invalid_request_error", "context_length_exceeded", "messages")
    finally:
        server.stop()


@pytest.mark.parametrize("is_stream", [False, True])
def test_in_a_session_a_provider_that_refuses_is_a_server_error(client, upstream, session, is_stream):
    upstream.will(lambda call: call.refuse(400))
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(**saying("hi", session, stream=is_stream))
    assert told(error) == ("server_error", "provider_error", None)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"), [(400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)]
)
def test_without_a_session_a_provider_refuses_in_its_own_words(client, upstream, status, kind, is_stream):
    upstream.will(lambda call: call.refuse(status, "not like this"))
    with pytest.raises(kind) as error:
        client.chat.completions.create(**saying("hi", stream=is_stream))
    assert "not like this" in error.value.message


@pytest.mark.parametrize("is_in_session", [False, True])
def test_a_stream_that_breaks_off_raises_and_keeps_what_was_said(client, upstream, session, stored, is_in_session):
    upstream.will(lambda call: call.text("half"))
    said = []
    with pytest.raises(openai.APIError) as error:
        for chunk in client.chat.completions.create(**saying("hi", session if is_in_session else None, stream=True)):
            said.append(chunk.choices[0].delta.content or "")
    assert "".join(said) == "half"
    assert not isinstance(error.value, openai.APIStatusError)
    assert error.value.code == "provider_error"
    if is_in_session:
        assert stored(session) == [("user", "hi"), ("assistant", "half")]


def test_a_busy_session_is_a_conflict_that_the_library_does_not_repeat(client, upstream, session, stored):
    gate = Gate()

    def script(call):
        call.text("wait")
        gate.wait()
        call.reply(" for it")

    upstream.will(script)
    with client.chat.completions.create(**saying("hi", session, stream=True)) as stream:
        next(stream)
        eager = client.with_options(max_retries=5)
        with pytest.raises(openai.ConflictError) as error:
            eager.chat.completions.create(**saying("and?", session))
        assert told(error) == ("invalid_request_error", "session_busy", None)
        with pytest.raises(openai.BadRequestError) as error:
            eager.conversations.items.create(f"conv_{session}", items=[{"role": "user", "content": "and?"}])
        assert told(error) == ("invalid_request_error", "conversation_locked", "conversation")
        gate.open()
        for _ in stream:
            pass
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "hi"), ("assistant", "wait for it")]


def test_an_idempotency_key_is_for_one_request(client, upstream, session, stored):
    upstream.will("Once.")
    header = {"extra_headers": {"Idempotency-Key": session}}
    for _ in range(2):
        answer = client.chat.completions.create(**saying("hi", session), **header)
        assert answer.choices[0].message.content == "Once."
    with pytest.raises(openai.UnprocessableEntityError) as error:
        client.chat.completions.create(**saying("something else", session), **header)
    assert told(error) == ("invalid_request_error", "idempotency_key_reused", None)
    assert stored(session) == [("user", "hi"), ("assistant", "Once.")]


def test_credentials_are_the_librarys_key_and_what_is_anothers_is_not_found():
    server = Server(ECHOIC_AUTH="keys")
    try:
        def client(key):
            return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=15)

        with pytest.raises(openai.AuthenticationError) as error:
            client("ek_wrong").models.list()
        assert told(error) == ("invalid_request_error", "invalid_api_key", None)
        ada, bob = (client(server.run("keys", "create", "--user", user).split()[-1]) for user in ("ada", "bob"))
        conversation = ada.conversations.create().id
        assert ada.conversations.retrieve(conversation).id == conversation
        for ask in (bob.conversations.retrieve, bob.conversations.delete, bob.conversations.items.list):
            with pytest.raises(openai.NotFoundError):
                ask(conversation)
    finally:
        server.stop()

"""OpenAI's library retries requests whose response is lost. That duplicates nothing."""

import openai
import pytest
from conftest import create_request


def ask(client, is_stream, **body):
    answer = client.chat.completions.create(**body, stream=is_stream)
    if not is_stream:
        return answer.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


@pytest.fixture
def retrying_client(proxy):
    """The library with its default retries, behind a proxy that loses responses."""
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="any", timeout=15) as client:
        yield client


@pytest.mark.parametrize("is_stream", [False, True])
def test_lost_response_is_replayed(retrying_client, proxy, upstream, session, stored, is_stream):
    upstream.script("Once.")
    proxy.lose(2)
    assert ask(retrying_client, is_stream, **create_request("say it", session)) == "Once."
    assert proxy.connections == 3
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "say it"), ("assistant", "Once.")]


@pytest.mark.parametrize("is_stream", [False, True])
def test_retry_joins_running_reply(retrying_client, proxy, upstream, session, stored, is_stream):
    def script(call):
        proxy.cut()
        proxy.wait_for(connections=2)
        call.reply("Late.")

    upstream.script(script)
    assert ask(retrying_client, is_stream, **create_request("take your time", session)) == "Late."
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "take your time"), ("assistant", "Late.")]


def test_same_text_sent_twice_creates_two_messages(retrying_client, upstream, session, stored):
    upstream.script("Yes?", "Yes!")
    assert [ask(retrying_client, False, **create_request("hello", session)) for _ in range(2)] == ["Yes?", "Yes!"]
    assert stored(session) == [("user", "hello"), ("assistant", "Yes?"), ("user", "hello"), ("assistant", "Yes!")]


def test_failed_reply_in_session_is_not_retried_by_client(retrying_client, upstream, session, stored):
    upstream.script(lambda call: call.refuse(400))
    with pytest.raises(openai.InternalServerError):
        retrying_client.chat.completions.create(**create_request("hi", session))
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "hi"), ("assistant", "")]


def test_server_retries_provider_in_session(retrying_client, proxy, upstream, session, stored):
    upstream.script(lambda call: call.refuse(503), "Here I am.")
    assert ask(retrying_client, False, **create_request("hi", session)) == "Here I am."
    assert proxy.connections == 1
    assert stored(session) == [("user", "hi"), ("assistant", "Here I am.")]


def test_client_retries_provider_without_session(retrying_client, upstream):
    upstream.script(lambda call: call.refuse(503), "Here I am.")
    assert ask(retrying_client, False, **create_request("hi")) == "Here I am."
    assert len(upstream.calls) == 2


def test_retried_items_are_added_once(retrying_client, proxy):
    conversation = retrying_client.conversations.create().id
    proxy.cut()
    proxy.lose(2)
    items = [{"role": "user", "content": "one"}, {"role": "user", "content": "one"}]
    added = retrying_client.conversations.items.create(conversation, items=items)
    listed = list(retrying_client.conversations.items.list(conversation, order="asc"))
    assert [item.id for item in listed] == [item.id for item in added.data]
    assert len(listed) == 2

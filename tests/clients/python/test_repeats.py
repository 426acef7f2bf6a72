"""OpenAI's library asks again when an answer does not arrive. That doubles nothing."""

import openai
import pytest
from conftest import saying


def said(client, is_stream, **body):
    answer = client.chat.completions.create(**body, stream=is_stream)
    if not is_stream:
        return answer.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


@pytest.fixture
def eager(network):
    """The library, as it comes, with a network that loses what it is told to."""
    with openai.OpenAI(base_url=f"{network.url}/v1", api_key="any", timeout=15) as client:
        yield client


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_that_is_lost_is_given_again(eager, network, upstream, session, stored, is_stream):
    upstream.will("Once.")
    network.lose(2)
    assert said(eager, is_stream, **saying("say it", session)) == "Once."
    assert network.connections == 3
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "say it"), ("assistant", "Once.")]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_reply_whose_reader_was_cut_off_before_its_first_word_is_joined(eager, network, upstream, session, stored, is_stream):
    def script(call):
        network.cut()
        network.wait_for(connections=2)
        call.reply("Late.")

    upstream.will(script)
    assert said(eager, is_stream, **saying("take your time", session)) == "Late."
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "take your time"), ("assistant", "Late.")]


def test_the_same_words_said_twice_are_two_messages(eager, upstream, session, stored):
    upstream.will("Yes?", "Yes!")
    assert [said(eager, False, **saying("hello", session)) for _ in range(2)] == ["Yes?", "Yes!"]
    assert stored(session) == [("user", "hello"), ("assistant", "Yes?"), ("user", "hello"), ("assistant", "Yes!")]


def test_a_failed_reply_is_not_asked_for_again_in_a_session(eager, upstream, session, stored):
    upstream.will(lambda call: call.refuse(400))
    with pytest.raises(openai.InternalServerError):
        eager.chat.completions.create(**saying("hi", session))
    assert len(upstream.calls) == 1
    assert stored(session) == [("user", "hi"), ("assistant", "")]


def test_in_a_session_it_is_the_server_that_asks_a_provider_again(eager, network, upstream, session, stored):
    upstream.will(lambda call: call.refuse(503), "Here I am.")
    assert said(eager, False, **saying("hi", session)) == "Here I am."
    assert network.connections == 1
    assert stored(session) == [("user", "hi"), ("assistant", "Here I am.")]


def test_without_a_session_a_provider_that_fails_once_is_asked_again(eager, upstream):
    upstream.will(lambda call: call.refuse(503), "Here I am.")
    assert said(eager, False, **saying("hi")) == "Here I am."
    assert len(upstream.calls) == 2


def test_items_that_were_added_are_not_added_again(eager, network):
    conversation = eager.conversations.create().id
    network.cut()
    network.lose(2)
    items = [{"role": "user", "content": "one"}, {"role": "user", "content": "one"}]
    added = eager.conversations.items.create(conversation, items=items)
    listed = list(eager.conversations.items.list(conversation, order="asc"))
    assert [item.id for item in listed] == [item.id for item in added.data]
    assert len(listed) == 2

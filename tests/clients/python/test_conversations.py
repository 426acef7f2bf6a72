"""Conversations and their items by OpenAI's own library: they are sessions and messages."""

import httpx2
import openai
import pytest
from conftest import saying


def texts(items):
    return [item.content[0].text for item in items]


def message(text, role="user"):
    return {"type": "message", "role": role, "content": text}


def test_a_conversation_is_created_read_changed_and_deleted(client):
    made = client.conversations.create(metadata={"topic": "names"}, items=[message("I am Ada.")])
    assert (made.object, made.metadata) == ("conversation", {"topic": "names"})
    assert client.conversations.retrieve(made.id) == made
    changed = client.conversations.update(made.id, metadata={"topic": "greetings"})
    assert changed.metadata == {"topic": "greetings"}
    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_a_conversation_is_a_session_and_the_other_way_round(client, server, upstream, session, stored):
    upstream.will("Hello, Ada.", "You are Ada.")
    client.chat.completions.create(**saying("I am Ada.", session))
    conversation = f"conv_{session}"
    assert texts(client.conversations.items.list(conversation, order="asc")) == ["I am Ada.", "Hello, Ada."]
    client.conversations.items.create(conversation, items=[message("Be brief.", "developer")])
    answer = httpx2.post(f"{server.url}/api/chat", json={"sessionId": session, "message": "Who am I?"}, timeout=15)
    assert "[DONE]" in answer.text
    said = ["I am Ada.", "Hello, Ada.", "Be brief.", "Who am I?", "You are Ada."]
    assert [text for _, text in stored(session)] == said
    items = list(client.conversations.items.list(conversation, order="asc"))
    assert texts(items) == said
    assert [item.role for item in items][-2:] == ["user", "assistant"]
    assert client.conversations.items.retrieve(items[-1].id, conversation_id=conversation) == items[-1]

    # As the Agents SDK takes back what it has added: the last item, and what a model thought goes along.
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    client.conversations.items.create(conversation, items=[thought, message("Oops.")])
    last = client.conversations.items.list(conversation, limit=1).data[0]
    assert client.conversations.items.delete(last.id, conversation_id=conversation).id == conversation
    assert list(client.conversations.items.list(conversation, order="asc")) == items


@pytest.mark.parametrize("limit", [1, 3, 20, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_librarys_pages_hold_every_item_once_in_order(client, limit, order):
    said = [f"number {number}" for number in range(25)]
    conversation = client.conversations.create(items=[message(text) for text in said[:20]]).id
    client.conversations.items.create(conversation, items=[message(text) for text in said[20:]])
    expected = said if order == "asc" else said[::-1]
    page = client.conversations.items.list(conversation, order=order, limit=limit)
    assert texts(page.data) == expected[:limit]
    assert page.has_next_page() == (limit < 25)
    assert texts(page) == expected
    behind = client.conversations.items.list(conversation, order=order, limit=limit, after=page.data[0].id)
    assert texts(behind) == expected[1:]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [message("x")] * 21}, "items"),
        ({"items": [message("x", "robot")]}, "items[0].role"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {f"{number}": "v" for number in range(17)}}, "metadata"),
    ],
)
def test_more_than_a_conversation_may_hold_is_a_bad_request(client, body, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.conversations.create(**body)
    assert (error.value.type, error.value.param) == ("invalid_request_error", param)


def test_what_is_not_there_and_cursors_that_are_none_are_told_apart(client):
    conversation = client.conversations.create(items=[message("hi")]).id
    with pytest.raises(openai.BadRequestError) as error:
        client.conversations.items.list(conversation, after="nonsense")
    assert error.value.param == "after"
    with pytest.raises(openai.BadRequestError) as error:
        client.conversations.items.list(conversation, limit=101)
    assert error.value.param == "limit"
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve("msg_none", conversation_id=conversation)
    with pytest.raises(openai.NotFoundError) as error:
        client.conversations.retrieve("conv_none")
    assert error.value.code == "session_not_found"

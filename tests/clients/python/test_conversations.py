"""Conversations and items with OpenAI's own library. They are sessions and messages."""

import httpx2
import openai
import pytest
from conftest import create_request


def get_texts(items):
    return [item.content[0].text for item in items]


def create_message(text, role="user"):
    return {"type": "message", "role": role, "content": text}


def test_conversation_is_created_read_updated_and_deleted(client):
    created = client.conversations.create(metadata={"topic": "names"}, items=[create_message("I am Ada.")])
    assert (created.object, created.metadata) == ("conversation", {"topic": "names"})
    assert client.conversations.retrieve(created.id) == created
    changed = client.conversations.update(created.id, metadata={"topic": "greetings"})
    assert changed.metadata == {"topic": "greetings"}
    deleted = client.conversations.delete(created.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (created.id, True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(created.id)


def test_conversation_and_session_are_the_same(client, server, upstream, session, stored):
    upstream.script("Hello, Ada.", "You are Ada.")
    client.chat.completions.create(**create_request("I am Ada.", session))
    conversation = f"conv_{session}"
    assert get_texts(client.conversations.items.list(conversation, order="asc")) == ["I am Ada.", "Hello, Ada."]
    client.conversations.items.create(conversation, items=[create_message("Be brief.", "developer")])
    answer = httpx2.post(f"{server.url}/api/chat", json={"sessionId": session, "message": "Who am I?"}, timeout=15)
    assert "[DONE]" in answer.text
    texts = ["I am Ada.", "Hello, Ada.", "Be brief.", "Who am I?", "You are Ada."]
    assert [text for _, text in stored(session)] == texts
    items = list(client.conversations.items.list(conversation, order="asc"))
    assert get_texts(items) == texts
    assert [item.role for item in items][-2:] == ["user", "assistant"]
    assert client.conversations.items.retrieve(items[-1].id, conversation_id=conversation) == items[-1]

    # Like the Agents SDK undoing a turn: deleting the last item also deletes its reasoning.
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    client.conversations.items.create(conversation, items=[reasoning, create_message("Oops.")])
    last = client.conversations.items.list(conversation, limit=1).data[0]
    assert client.conversations.items.delete(last.id, conversation_id=conversation).id == conversation
    assert list(client.conversations.items.list(conversation, order="asc")) == items


@pytest.mark.parametrize("limit", [1, 3, 20, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_contain_every_item_once_in_order(client, limit, order):
    texts = [f"number {number}" for number in range(25)]
    conversation = client.conversations.create(items=[create_message(text) for text in texts[:20]]).id
    client.conversations.items.create(conversation, items=[create_message(text) for text in texts[20:]])
    expected = texts if order == "asc" else texts[::-1]
    page = client.conversations.items.list(conversation, order=order, limit=limit)
    assert get_texts(page.data) == expected[:limit]
    assert page.has_next_page() == (limit < 25)
    assert get_texts(page) == expected
    rest = client.conversations.items.list(conversation, order=order, limit=limit, after=page.data[0].id)
    assert get_texts(rest) == expected[1:]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [create_message("x")] * 21}, "items"),
        ({"items": [create_message("x", "robot")]}, "items[0].role"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {f"{number}": "v" for number in range(17)}}, "metadata"),
    ],
)
def test_exceeded_conversation_limit_is_bad_request(client, body, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.conversations.create(**body)
    assert (error.value.type, error.value.param) == ("invalid_request_error", param)


def test_missing_items_and_invalid_cursors_differ(client):
    conversation = client.conversations.create(items=[create_message("hi")]).id
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

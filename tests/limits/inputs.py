"""Large inputs, as bytes of request bodies."""

import json
import os
import random

MIB = 1 << 20
# Seconds that an attack takes.
SECONDS = float(os.environ.get("ECHOIC_LIMITS_SECONDS", "1.5"))
# Whether sessions and inputs have their full size, and no attack is left out.
IS_LONG = SECONDS >= 60 or os.environ.get("ECHOIC_LIMITS_FULL") == "1"
# Seconds that a neighbor may wait longer than without the attack, besides the factor. A debug build
# does the attacker's work many times slower than a release build, and gets a larger allowance.
ALLOWANCE = float(os.environ.get("ECHOIC_LIMITS_ALLOWANCE", "0.05"))


def scaled(count):
    return count if IS_LONG else count // 5


def fill(start, item, end, size):
    """`item` again and again between `start` and `end`, about `size` bytes in all."""
    count = (size - len(start) - len(end)) // (len(item) + 1)
    return (start + ",".join([item] * count) + end).encode()


def own_format(count, session="large", roots=False, text="x"):
    if roots:
        messages = (f'{{"id":"{n:05x}{"a" * 115}","role":"user","content":"x","parentId":null}}' for n in range(count))
    else:
        messages = [f'{{"role":"user","content":"{text}"}}'] * count
    return f'{{"sessions":[{{"sessionId":"{session}","messages":[{",".join(messages)}]}}]}}'.encode()


def many_sessions(first, count):
    sessions = [
        {"sessionId": f"many-{n}", "messages": [{"role": "user", "content": "x"}]} for n in range(first, first + count)
    ]
    return json.dumps({"sessions": sessions}).encode()


def chatgpt_thoughts(size, children, conversation="tree"):
    thoughts = {"content_type": "thoughts", "thoughts": [{"summary": "", "content": "x" * size}]}
    nodes = {
        "root": {"id": "root", "message": None, "parent": None, "children": ["t"]},
        "t": {"id": "t", "parent": "root", "message": {"author": {"role": "assistant"}, "content": thoughts}},
    }
    nodes |= {f"c{n}": {"parent": "t", "message": None} for n in range(children)}
    return json.dumps([{"conversation_id": conversation, "title": "t", "mapping": nodes}]).encode()


def libre_chat(size):
    """A conversation of short messages, each after the one before."""
    def message(n):
        text = "some words of a short message " * 10
        return {"messageId": f"m{n}", "parentMessageId": f"m{n - 1}" if n else None, "isCreatedByUser": n % 2 == 0, "text": text}

    count = size // len(json.dumps(message(100_000)))
    return json.dumps({"conversationId": "large", "title": "t", "messages": [message(n) for n in range(count)]}).encode()


def cjk_session(size):
    random.seed(5)
    messages = [
        {"role": "user" if n % 2 == 0 else "assistant", "content": "".join(map(chr, random.choices(range(0x4E00, 0x9FFF), k=2000)))}
        for n in range(size // 6000)
    ]
    return json.dumps({"sessions": [{"sessionId": "cjk", "messages": messages}]}, ensure_ascii=False).encode()


def tiny_parts(size):
    """Bodies of many tiny parts in each dialect: name to path and body."""
    message = '{"id":"a","messages":[{"id":"m","role":"user","parts":['
    return {
        "parts": ("/api/chat", fill('{"message":"x","parts":[', '{"type":"x"}', "]}", size)),
        "numbers": ("/api/chat", fill('{"message":"x","parts":[', "0", "]}", size)),
        "fields": ("/api/chat", fill('{"message":"x","unknown":[', "1", "]}", size)),
        "UI parts": ("/api/chat", fill(message, '{"type":"text","text":"a"}', "]}]}", size)),
        "UI history": ("/api/chat", fill('{"id":"a","messages":[', "{}", "]}", size)),
        "tools": ("/api/chat", fill('{"message":"x","tools":[', '{"type":"function"}', "]}", size)),
        "/v1 messages": (
            "/v1/chat/completions",
            fill('{"model":"short","messages":[', '{"role":"user","content":"x"}', "]}", size),
        ),
        "/v1 content": (
            "/v1/chat/completions",
            fill('{"model":"short","messages":[{"role":"user","content":[', '{"type":"text","text":"x"}', "]}]}", size),
        ),
        "/v1 items": (
            "/v1/responses",
            fill('{"model":"short","input":[', '{"role":"user","content":"x"}', "]}", size),
        ),
        "/v1 tools": (
            "/v1/responses",
            fill('{"model":"short","input":"x","tools":[', '{"type":"function","name":"f","parameters":{}}', "]}", size),
        ),
        "/v1 metadata": (
            "/v1/responses",
            fill('{"model":"short","input":"x","metadata":{"a":[', "1", "]}}", size),
        ),
        "/v1 conversation": (
            "/v1/conversations",
            fill('{"items":[', '{"type":"message","role":"user","content":"x"}', "]}", size),
        ),
    }

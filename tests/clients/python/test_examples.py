"""The examples for the terminal."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from server import Server

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def demo():
    """A server with the demo provider, as `cargo run` starts it without a model."""
    server = Server()
    yield server
    server.stop()


def run(url, *command):
    env = {"PATH": os.environ["PATH"], "ECHOIC_URL": url}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_python_example_remembers_the_conversation(demo):
    done = run(demo.url, sys.executable, EXAMPLES / "python/chat.py")
    assert done.returncode == 0, done.stderr
    talk, stored = done.stdout.split("\nMessages in conv_")
    first, second = talk.split("\nYou: ")[1:]
    assert first.startswith("My name is Ada.\nModel: I am Echoic's demo")
    assert "\n1. My name is Ada." in second
    assert [line.split(":")[0] for line in stored.splitlines()[1:]] == ["- user", "- assistant"] * 2


def test_python_example_reports_a_missing_server():
    done = run("http://127.0.0.1:9", sys.executable, EXAMPLES / "python/chat.py")
    assert done.returncode == 1
    assert "cargo run --release" in done.stderr and "Traceback" not in done.stderr


def test_tour_succeeds_with_demo_provider(demo):
    done = run(demo.url, EXAMPLES / "tour.sh")
    assert done.returncode == 0, done.stdout + done.stderr


def test_tour_steps_show_what_they_announce(server, upstream):
    def reply_endlessly(call):
        # Until the server closes the connection. The pauses make it a stream.
        pace = threading.Event()
        for _ in range(300):
            call.text("on ")
            pace.wait(0.05)

    upstream.script("Hello, Ada.", "You are Ada.", "For a language.", reply_endlessly, "Once upon a time.", "Hello, Eve.", "You are Eve.")
    done = run(server.url, EXAMPLES / "tour.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [Step(text) for text in done.stdout.split("\n\n# ")[1:]]
    send, second, _, rest, stop, regenerate, edit, read, memory, openai, items, export, find = steps

    assert (send.reply, send.types[0], send.types[-1]) == ("Hello, Ada.", "start", "finish")
    assert second.reply == "You are Ada."
    assert (rest.reply, rest.types[0]) == ("For a language.", "data-session")
    assert stop.json["data"] == {"stopped": True}
    assert regenerate.reply == "Once upon a time."
    assert edit.reply == "Hello, Eve."
    shown = read.json["data"]["messages"]
    assert [message["content"] for message in shown] == ["My name is Eve.", "Hello, Eve."]
    assert len(shown[0]["siblingIds"]) == 2
    pieces = memory.json["data"]["pieces"]
    assert [(piece["kind"], piece["text"]) for piece in pieces if piece["kind"] != "system"] == [
        ("recent", "My name is Eve."),
        ("recent", "Hello, Eve."),
        ("new", "And who am I now?"),
    ]
    assert openai.json["choices"][0]["message"]["content"] == "You are Eve."
    assert [item["role"] for item in items.json["data"]] == ["user", "assistant"]
    assert "Hello, Eve." in export.text and "And who am I now?" in export.text
    found, deleted = find.all_json
    assert found["data"]["pagination"]["total"] == 1
    assert deleted["data"]["deletedMessages"] == 13


class Step:
    """A step of the tour and the responses to its requests."""

    def __init__(self, text):
        self.text = text
        lines = text.splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ") and line != "data: [DONE]"]
        self.frames = [json.loads(line) for line in data]
        self.all_json = [json.loads(line.split("$ curl")[0]) for line in lines if line.startswith("{")]

    @property
    def types(self):
        return [frame["type"] for frame in self.frames]

    @property
    def reply(self):
        return "".join(frame.get("delta", "") for frame in self.frames)

    @property
    def json(self):
        (only,) = self.all_json
        return only

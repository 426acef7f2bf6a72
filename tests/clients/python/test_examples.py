"""The examples that run in a terminal, as a newcomer runs them."""

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
    """A server as `cargo run` starts it where there is no model."""
    server = Server()
    yield server
    server.stop()


def run(url, *command):
    env = {"PATH": os.environ["PATH"], "ECHOIC_URL": url}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_the_python_example_has_a_conversation_that_is_remembered(demo):
    done = run(demo.url, sys.executable, EXAMPLES / "python/chat.py")
    assert done.returncode == 0, done.stderr
    talk, kept = done.stdout.split("\nWhat conv_")
    first, second = talk.split("\nYou: ")[1:]
    assert first.startswith("My name is Ada.\nModel: I am Echoic's demo")
    assert "\n1. My name is Ada." in second
    assert [line.split(":")[0] for line in kept.splitlines()[1:]] == ["- user", "- assistant"] * 2


def test_the_python_example_says_so_where_there_is_no_server():
    done = run("http://127.0.0.1:9", sys.executable, EXAMPLES / "python/chat.py")
    assert done.returncode == 1
    assert "cargo run --release" in done.stderr and "Traceback" not in done.stderr


def test_the_tour_ends_well_with_the_demo(demo):
    done = run(demo.url, EXAMPLES / "tour.sh")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tour_shows_what_it_says(server, upstream):
    def goes_on_and_on(call):
        # Until the connection is broken; a provider has a pace.
        pace = threading.Event()
        for _ in range(300):
            call.text("on ")
            pace.wait(0.05)

    upstream.will("Hello, Ada.", "You are Ada.", "For a language.", goes_on_and_on, "Once upon a time.", "Hello, Eve.", "You are Eve.")
    done = run(server.url, EXAMPLES / "tour.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [Step(text) for text in done.stdout.split("\n\n# ")[1:]]
    say, again, _, rest, stop, regenerate, edit, read, memory, openai, items, export, find = steps

    assert (say.reply, say.types[0], say.types[-1]) == ("Hello, Ada.", "start", "finish")
    assert again.reply == "You are Ada."
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
    """One step of the tour: what its requests answered."""

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

"""A chat with memory, by OpenAI's own library. Echoic is behind another base URL; that is all.

    pip install -r requirements.txt
    python chat.py "My name is Ada." "Who am I?"
"""

import os
import sys

from openai import OpenAI, OpenAIError

client = OpenAI(
    base_url=os.environ.get("ECHOIC_URL", "http://127.0.0.1:8080") + "/v1",
    # Whatever you like, unless the server runs with ECHOIC_AUTH; then a key of `echoic keys create`.
    api_key=os.environ.get("ECHOIC_KEY", "any"),
)


def main(messages):
    # A conversation is a session. You may as well choose an id of your own; the first message makes it.
    conversation = client.conversations.create(metadata={"topic": "a first chat"})
    session = conversation.id.removeprefix("conv_")

    for message in messages:
        say(session, message)

    # The conversation is kept by the server: this could be another program, next week.
    print(f"\nWhat {conversation.id} holds:")
    for item in client.conversations.items.list(conversation.id, order="asc"):
        print(f"- {item.role}: {item.content[0].text.splitlines()[0]}")


def say(session, message):
    print(f"\nYou: {message}\nModel: ", end="")
    stream = client.chat.completions.create(
        model="default",  # the server's; or name one of client.models.list()
        # Only what is new. What was said before, the session remembers.
        messages=[{"role": "user", "content": message}],
        stream=True,
        # Without this the request goes to the provider as it is, and nothing is kept.
        extra_body={"session_id": session},
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or ["My name is Ada.", "Who am I?"])
    except OpenAIError as error:
        sys.exit(f"{error}\nIs Echoic running? Start it with: cargo run --release")

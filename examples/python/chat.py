"""A chat with memory, with OpenAI's own library. Only the base URL differs.

    pip install -r requirements.txt
    python chat.py "My name is Ada." "Who am I?"
"""

import os
import sys

from openai import OpenAI, OpenAIError

client = OpenAI(
    base_url=os.environ.get("ECHOIC_URL", "http://127.0.0.1:8080") + "/v1",
    # Any value, unless the server requires keys (ECHOIC_AUTH): then one from `echoic keys create`.
    api_key=os.environ.get("ECHOIC_KEY", "any"),
)


def main(messages):
    # A conversation is a session. You can also choose an id yourself; the first message creates it.
    conversation = client.conversations.create(metadata={"topic": "a first chat"})
    session = conversation.id.removeprefix("conv_")

    for message in messages:
        send(session, message)

    # The server stores the conversation, so another program can read it at any time.
    print(f"\nMessages in {conversation.id}:")
    for item in client.conversations.items.list(conversation.id, order="asc"):
        print(f"- {item.role}: {item.content[0].text.splitlines()[0]}")


def send(session, message):
    print(f"\nYou: {message}\nModel: ", end="")
    stream = client.chat.completions.create(
        model="default",  # the server's default, or one of client.models.list()
        # Only the new message. The session remembers the earlier ones.
        messages=[{"role": "user", "content": message}],
        stream=True,
        # Without a session the request is forwarded to the provider and nothing is stored.
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

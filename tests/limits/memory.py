"""Memory by input: each large input on a fresh server, and the factor that its peak may grow by."""

import asyncio
from dataclasses import dataclass
from typing import Callable

import inputs
from client import Client
from inputs import IS_LONG, MIB
from server import Server

# The server's memory under any input.
MAX_PEAK_MIB = 512
USER = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}


@dataclass
class Input:
    # Sends the input, and returns its size in bytes. At full size, the scale is 1.
    send: Callable
    # Growth of the peak: so many times the size, and so many MiB.
    factor: float
    extra_mib: int
    scale: float = 0.2


async def import_chain(client, scale):
    return await post_import(client, inputs.own_format(int(2_000_000 * scale)))


async def import_large_messages(client, scale):
    return await post_import(client, inputs.own_format(60, text="x" * int(MIB * scale)))


async def import_thoughts(client, scale):
    return await post_import(client, inputs.chatgpt_thoughts(2_000_000, int(5_000 * scale)))


async def import_conversation(client, scale):
    return await post_import(client, inputs.libre_chat(int(60 * MIB * scale)))


async def import_fields(client, scale):
    return await post_import(client, inputs.fill("{", '"a":1', "}", int(32 * MIB * scale)))


async def import_numbers(client, scale):
    start = '{"sessions":[{"sessionId":"numbers","messages":['
    return await post_import(client, inputs.fill(start, "1", "]}]}", int(32 * MIB * scale)))


async def import_empty_sessions(client, scale):
    return await post_import(client, inputs.fill('{"sessions":[', "{}", "]}", int(4 * MIB * scale)))


async def import_read_marks(client, scale):
    marks = ",".join(f'"{n}":"x"' for n in range(int(1_000_000 * scale)))
    body = f'{{"sessions":[{{"sessionId":"marks","readMarks":{{{marks}}},"messages":[]}}]}}'.encode()
    return await post_import(client, body)


async def post_import(client, body):
    await client.try_request("POST", "/api/import", body)
    return len(body)


async def page_of_siblings(client, scale):
    body = inputs.own_format(int(50_000 * scale), session="siblings", roots=True)
    await client.try_request("POST", "/api/import", body)
    answer = await client.request("GET", "/api/chat-sessions/siblings/messages?view=all&limit=100")
    if len(answer.body) > 200_000:
        client.tally.fault(f"a page of 100 messages has {len(answer.body)} bytes or more")
    return len(body)


async def recall_of_ideographs(client, scale):
    body = inputs.cjk_session(int(24_000_000 * scale))
    await client.try_request("POST", "/api/import", body)
    for _ in range(2):
        await client.try_request("GET", "/api/chat-sessions/cjk/memory?strategy=recall&message=burn")
    return len(body)


def parts(name):
    async def send(client, scale):
        path, body = inputs.tiny_parts(int(32 * MIB * scale))[name]
        await client.try_request("POST", path, body)
        return len(body)

    return send


def reply(model, size):
    async def send(client, scale):
        kind, number = model.split("-")
        name = f"{kind}-{max(1, int(int(number) * scale))}"
        await client.try_request("POST", "/api/chat", {"id": "reply", "message": USER, "model": name})
        return size * scale

    return send


INPUTS = {
    # Spooled and read twice; messages are handed to the store in chunks.
    "import of many messages": Input(import_chain, 1, 140, 0.05),
    "import of large messages": Input(import_large_messages, 2, 150),
    # The text of a conversation is held once, and its nodes borrow from it.
    "import of ChatGPT thoughts": Input(import_thoughts, 3, 100, 1),
    "import of another product's conversation": Input(import_conversation, 3, 100),
    "import of many fields": Input(import_fields, 3, 100, 0.1),
    "import of numbers": Input(import_numbers, 3, 100, 0.1),
    "import of empty sessions": Input(import_empty_sessions, 10, 100),
    "import of read marks": Input(import_read_marks, 3, 100),
    # Counted while they are parsed, and refused before they are kept.
    **{f"parts: {name}": Input(parts(name), 3, 60, 0.25) for name in inputs.tiny_parts(1000)},
    "page of siblings": Input(page_of_siblings, 5, 120),
    # All indexes together take 256 MiB.
    "recall of ideographs": Input(recall_of_ideographs, 3, 300),
    # A reply ends at its cap.
    "reply of 100 MiB": Input(reply("text-100", 100 * MIB), 0.2, 100, 0.3),
    "reply of 10,000 calls": Input(reply("tools-10000", MIB), 10, 100, 1),
    "line of 40 MiB": Input(reply("line-40", 40 * MIB), 1, 100, 1),
}


async def send_once(client, item, scale):
    # The first request of a process loads what all of them need.
    await client.request("GET", "/api/me")
    return await item.send(client, scale)


def run_inputs(names, binary, provider_port):
    chosen = {name: item for name, item in INPUTS.items() if name in names}
    if chosen:
        print(f"\n{'input':32}    MiB   full  allowed  MiB+   peak", flush=True)
    return sum(run_input(name, item, binary, provider_port) for name, item in chosen.items())


def run_input(name, item, binary, provider_port):
    """Prints a line, and returns whether the row failed."""
    with Server(binary, "sqlite", provider_port) as server:
        client = Client(server.port, server.create_key("user"))
        before, faults = server.resident_mib(), []
        scale = 1 if IS_LONG else item.scale
        size = asyncio.run(send_once(client, item, scale)) / MIB
        allowed = item.factor * size + item.extra_mib
        if server.is_alive():
            peak = server.peak_mib()
        else:
            peak = 0.0
            faults.append(f"the server ended: {server.log()[-300:]}")
        if peak - before > allowed or peak > MAX_PEAK_MIB:
            faults.append(f"memory grew by {peak - before:.0f} MiB, {allowed:.0f} are allowed")
        faults += client.tally.faults[:3]
    verdict = "FAILS" if faults else "holds"
    answers = " ".join(f"{status}:{count}" for status, count in sorted(client.tally.statuses.items()))
    print(f"{name:32}{size:7.1f}{size / scale:7.1f}{allowed:9.0f}{peak - before:6.0f}{peak:7.0f}  {verdict}  {answers}", flush=True)
    for fault in faults:
        print(f"    {fault}", flush=True)
    return bool(faults)

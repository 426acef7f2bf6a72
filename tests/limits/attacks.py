"""Attacks of one user, by name. `attack.py` runs one of them next to the neighbor."""

import asyncio
import io
import json
import time
import zipfile
from dataclasses import dataclass, field
from typing import Callable

import inputs
from inputs import MIB, scaled
from neighbor import MEASURES


@dataclass
class Attack:
    name: str
    # Runs until the deadline, an instant of `time.monotonic()`.
    run: Callable
    # Prepares data before anything is measured.
    prepare: Callable | None = None
    settings: dict = field(default_factory=dict)
    # Growth of the server's peak memory that is accepted.
    growth_mib: int = 200
    on_mongo: bool = False
    # Left out of the brief form.
    only_long: bool = False
    # Of the attacker's key.
    key_options: tuple = ()
    # Requests of the neighbor.
    measures: tuple = MEASURES


ATTACKS: dict[str, Attack] = {}


def attack(prepare=None, **options):
    def register(run):
        ATTACKS[run.__name__] = Attack(run.__name__, run, prepare, **options)
        return run

    return register


async def repeat(deadline, workers, action):
    """Calls `action(number)` again and again, in as many tasks as there are workers."""
    numbers = iter(range(10**9))

    async def work():
        while time.monotonic() < deadline:
            await action(next(numbers))

    await asyncio.gather(*(work() for _ in range(workers)))


async def hold(deadline, connections, trickle=None, pause=1.0):
    """Keeps connections open, and sends `trickle` on each now and then."""
    loop = asyncio.get_running_loop()
    try:
        while time.monotonic() < deadline:
            await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            for connection in list(connections) if trickle else ():
                try:
                    await asyncio.wait_for(loop.sock_sendall(connection, trickle), 1)
                except (OSError, TimeoutError):
                    connections.remove(connection)
                    connection.close()
    finally:
        for connection in connections:
            connection.close()


async def open_many(client, deadline, count, request, receive_buffer=None):
    """Connections that have sent `request` and read nothing."""
    loop, connections = asyncio.get_running_loop(), []
    while len(connections) < count and time.monotonic() < deadline:
        try:
            connection = await client.connect(receive_buffer)
            client.tally.statuses["opened"] += 1
        except OSError as error:
            client.tally.note_failure(error)
            await asyncio.sleep(0.05)
            continue
        connections.append(connection)
        try:
            await asyncio.wait_for(loop.sock_sendall(connection, request), 5)
        except (OSError, TimeoutError) as error:
            client.tally.note_failure(error)
    return connections


async def import_session(client, session, count, roots=False):
    await client.try_request("POST", "/api/import", inputs.own_format(count, session, roots))


# Bodies


@attack(on_mongo=True)
async def endless_imports(client, deadline):
    """More imports than a pool of 512 threads, of one byte a second each."""
    head = client.head("POST", "/api/import", ["Content-Type: application/json", "Transfer-Encoding: chunked"])
    connections = await open_many(client, deadline, 600, head + b"1\r\n{\r\n")
    await hold(deadline, connections, b"1\r\n \r\n")


# The neighbor keeps to the default rate as well.
@attack(settings={"ECHOIC_RATE_LIMIT": "60/m"}, measures=("me", "page"))
async def endless_imports_at_the_default_rate(client, deadline):
    head = client.head("POST", "/api/import", ["Content-Type: application/json", "Transfer-Encoding: chunked"])
    connections = await open_many(client, deadline, 60, head + b"1\r\n{\r\n")
    await hold(deadline, connections, b"1\r\n \r\n")


@attack()
async def half_sent_chats(client, deadline):
    """Chat bodies of 31 MiB that never end."""
    head = client.head("POST", "/api/chat", ["Content-Type: application/json", f"Content-Length: {32 * MIB}"])
    connections = await open_many(client, deadline, 20, head + b'{"message":"' + b"x" * (31 * MIB))
    await hold(deadline, connections, b"x")


@attack(only_long=True)
async def endless_chunks(client, deadline):
    """Bodies in chunks of a byte, as fast as they are taken."""
    head = client.head("POST", "/api/chat", ["Content-Type: application/json", "Transfer-Encoding: chunked"])
    connections = await open_many(client, deadline, 30, head)
    await hold(deadline, connections, b"1\r\n \r\n" * 200, pause=0.1)


@attack()
async def half_heads(client, deadline):
    """Thousands of connections, half of them without a byte, half with a piece of a head."""
    silent = await open_many(client, deadline, 1500, b"")
    connections = await open_many(client, deadline, 1500, b"GET /api/me HTTP/1.1\r\nX-A: ")
    await hold(deadline, silent + connections, pause=2)


@attack()
async def tiny_parts(client, deadline):
    bodies = list(inputs.tiny_parts(32 * MIB).values())

    async def send(number):
        path, body = bodies[number % len(bodies)]
        await client.try_request("POST", path, body)

    await repeat(deadline, 2, send)


@attack(only_long=True)
async def odd_requests(client, deadline):
    """Pipelined requests, many fields, HEAD and OPTIONS, wrong types and methods."""
    pipelined = client.head("GET", "/api/me") * 200 + client.head("GET", "/api/me", ["Connection: close"])
    fields = client.head("GET", "/api/me", [*(f"X-Field-{n}: {n}" for n in range(90)), "Connection: close"])

    async def send(number):
        kind = number % 5
        if kind == 0:
            await exchange(client, pipelined)
        elif kind == 1:
            await exchange(client, fields)
        elif kind == 2:
            options = client.head("OPTIONS", "/api/chat", ["Connection: close", "Origin: http://localhost"])
            await exchange(client, options)
        elif kind == 3:
            await client.try_request("POST", "/api/chat", b"a=b", "application/x-www-form-urlencoded")
        else:
            await client.try_request("POST", "/api/chat", b"[" * 100_000)

    await repeat(deadline, 8, send)


async def exchange(client, request):
    try:
        await client.exchange("raw request", request)
    except (OSError, TimeoutError) as error:
        client.tally.note_failure(error)


# Large imports


@attack(on_mongo=True, growth_mib=250)
async def large_imports(client, deadline):
    """Sessions of up to 300,000 messages of one letter."""

    async def send(number):
        await import_session(client, f"large-{number}", scaled(300_000))

    await repeat(deadline, 2, send)


@attack(growth_mib=250)
async def chatgpt_trees(client, deadline):
    """2 MB of thoughts above 5,000 children."""

    async def send(number):
        body = inputs.chatgpt_thoughts(2_000_000, 5_000, conversation=f"tree-{number}")
        await client.try_request("POST", "/api/import", body)

    await repeat(deadline, 2, send)


@attack(growth_mib=250, only_long=True)
async def inflated_archives(client, deadline):
    """A ZIP archive of 100 KB that holds 100 MB of blanks, in a form and alone."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as entries:
        entries.writestr("conversations.json", b"[" + b" " * (100 * MIB) + b"]")
    packed = archive.getvalue()
    form = (
        b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
        + packed
        + b"\r\n--edge--\r\n"
    )

    async def send(number):
        if number % 2:
            await client.try_request("POST", "/api/import", packed, "application/zip")
        else:
            await client.try_request("POST", "/api/import", form, "multipart/form-data; boundary=edge")

    await repeat(deadline, 2, send)


# Large sessions


async def prepare_large(client):
    await import_session(client, "large", scaled(200_000))
    session = await client.request("GET", "/api/chat-sessions/large")
    return session.data()["headId"]


@attack(prepare=prepare_large, on_mongo=True)
async def forks(client, deadline, head):
    async def fork(_):
        await client.try_request("POST", "/api/chat-sessions/large/fork", {"messageId": head})

    await repeat(deadline, 3, fork)


async def prepare_deletions(client):
    for number in range(6):
        await import_session(client, f"doomed-{number}", scaled(100_000))


@attack(prepare=prepare_deletions, on_mongo=True)
async def deletions(client, deadline, _):
    async def delete(number):
        if number < 6:
            await client.try_request("DELETE", f"/api/chat-sessions/doomed-{number}")
        else:
            await client.try_request("DELETE", "/api/me/data")
            await asyncio.sleep(0.2)

    await repeat(deadline, 2, delete)


async def prepare_many_sessions(client):
    for first in range(0, scaled(10_000), 1_000):
        await client.request("POST", "/api/import", inputs.many_sessions(first, 1_000))


@attack(prepare=prepare_many_sessions, only_long=True)
async def bulk_deletions(client, deadline, _):
    """Thousands of sessions in one request, while their list is read."""

    async def act(number):
        if number == 3:
            await client.try_request("DELETE", "/api/chat-sessions?before=2100-01-01T00:00:00Z")
        else:
            await client.try_request("GET", "/api/chat-sessions?limit=100&page=15")

    await repeat(deadline, 2, act)


async def prepare_siblings(client):
    await import_session(client, "siblings", scaled(50_000), roots=True)


@attack(prepare=prepare_siblings, on_mongo=True)
async def sibling_pages(client, deadline, _):
    paths = ["messages?view=all&limit=100", "messages?view=all&limit=100&format=ui", "nodes", "messages?view=path"]

    async def read(number):
        await client.try_request("GET", f"/api/chat-sessions/siblings/{paths[number % len(paths)]}")

    await repeat(deadline, 10, read)


@attack(prepare=prepare_large, on_mongo=True)
async def ten_readers(client, deadline, head):
    """Everything that reads a large session, ten at a time."""
    paths = [
        "/api/chat-sessions/large/nodes",
        "/api/chat-sessions/large/messages?view=all&limit=100",
        f"/api/chat-sessions/large/messages/{head}",
        "/api/search?q=x",
        "/api/chat-sessions/large/memory?message=x",
        "/api/export?sessionId=large",
    ]

    async def read(number):
        await client.try_request("GET", paths[number % len(paths)])

    await repeat(deadline, 10, read)


@attack(prepare=prepare_large)
async def unread_exports(client, deadline, _):
    """Exports of a large session whose readers take nothing."""
    request = client.head("GET", "/api/export?sessionId=large")
    await hold(deadline, await open_many(client, deadline, 40, request, receive_buffer=4096))


async def prepare_recall(client):
    await client.request("POST", "/api/import", inputs.cjk_session(scaled(24_000_000)))


@attack(prepare=prepare_recall, growth_mib=300)
async def recall(client, deadline, _):
    """Previews and searches over random ideographs."""
    preview = "/api/chat-sessions/cjk/memory?strategy=recall&message=burn&maxTokens=4294967295"

    async def ask(number):
        await client.try_request("GET", preview if number % 2 else "/api/search?q=" + "a+" * 1_000)

    await repeat(deadline, 4, ask)


# CPU


@attack(key_options=("--scope", "read"))
async def hard_renderings(client, deadline):
    lines = [("systemverilog", "\t"), ("hcl", "a-b-"), ("sass", "\t"), ("markdown", "~"), ("python", "(")]

    async def render(number):
        language, unit = lines[number % len(lines)]
        line = unit * (1_990 // len(unit))
        await client.try_request("POST", "/api/render", {"markdown": f"```{language}\n{line}\n```"})

    await repeat(deadline, 8, render)


@attack()
async def long_texts(client, deadline):
    """Texts that are hard to count: one letter, blanks, ideographs, marks."""
    units = ["x", " ", "\u4e00", "\ufdfa", "a\u0301", "\n", "👩‍👩‍👧"]

    async def post(number):
        unit = units[number % len(units)]
        text = "a" + unit * (250_000 // len(unit.encode()))
        if number % 2:
            body = {"markdown": text}
            await client.try_request("POST", "/api/render", body)
        else:
            await client.try_request("POST", "/api/chat", {"message": text, "sessionId": "absent"})
            await client.try_request("POST", "/api/chat-sessions", {"title": text})

    await repeat(deadline, 4, post)


# Providers


def chat_with(model):
    async def run(client, deadline):
        async def ask(number):
            body = {"id": f"{model}-{number}", "message": {"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}}
            await client.try_request("POST", "/api/chat", body | {"model": model})

        await repeat(deadline, 2, ask)

    return run


for attack_name, attack_model in [
    ("large_replies", "text-100"),
    ("many_calls", "tools-10000"),
    ("endless_lines", "line-40"),
    ("absurd_usage", "usage"),
]:
    ATTACKS[attack_name] = Attack(
        attack_name,
        chat_with(attack_model),
        on_mongo=attack_name == "large_replies",
        only_long=attack_name in ("endless_lines", "absurd_usage"),
    )


# Many of a kind


@attack()
async def event_readers(client, deadline):
    """A thousand event streams that are not read, and large messages for them."""
    await client.request("POST", "/api/chat-sessions", {"sessionId": "events"})
    readers = await open_many(client, deadline, 1_000, client.head("GET", "/api/events"), receive_buffer=4096)

    async def post(_):
        message = {"chatSessionId": "events", "role": "user", "content": "z" * 200_000}
        await client.try_request("POST", "/api/chat-messages", message)
        await asyncio.sleep(0.2)

    await asyncio.gather(hold(deadline, readers), repeat(deadline, 1, post))


@attack(on_mongo=True)
async def queued_messages(client, deadline):
    """Large messages to a session whose reply is slow."""
    await client.request("POST", "/api/chat-sessions", {"sessionId": "queue"})
    body = json.dumps({"sessionId": "queue", "message": "x" * 200_000, "onBusy": "queue", "model": "slow"}).encode()
    request = client.head("POST", "/api/chat", ["Content-Type: application/json", f"Content-Length: {len(body)}"])

    async def send(_):
        for connection in await open_many(client, deadline, 20, request + body):
            connection.close()
        await asyncio.sleep(0.1)

    await repeat(deadline, 1, send)


@attack(only_long=True)
async def tickets_and_keys(client, deadline):
    """Tickets that are not redeemed, idempotency keys that are not repeated, sessions without end."""

    async def create(number):
        kind = number % 3
        if kind == 0:
            await client.try_request("POST", "/api/tickets", {})
        elif kind == 1:
            await client.try_request("POST", "/api/chat-sessions", {"title": "x"}, headers=[f"Idempotency-Key: k{number}"])
        else:
            await client.try_request("GET", f"/api/events?ticket=unknown-{number}")

    await repeat(deadline, 8, create)


async def prepare_project(client):
    created = await client.request("POST", "/api/projects", {"name": "files"})
    return created.data()["projectId"]


@attack(prepare=prepare_project, only_long=True)
async def project_files(client, deadline, project):
    """Files of a megabyte, written with each byte as an escape, and read again."""
    body = b'{"content":"' + b"\\u0061" * 1_000_000 + b'"}'

    async def put(number):
        path = f"/api/projects/{project}/files/f{number % 8}.txt"
        await client.try_request("PUT", path, body)
        await client.try_request("GET", path)

    await repeat(deadline, 3, put)

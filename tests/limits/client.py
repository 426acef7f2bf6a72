"""Plain HTTP over sockets: requests can be cut, slowed, or left unread."""

import asyncio
import json
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

from inputs import ALLOWANCE, IS_LONG

ANSWER_TIMEOUT = 600 if IS_LONG else 120
# Longer answers are read and dropped.
MAX_KEPT = 1 << 20
# A refusal that comes later than this is a fault: a second, or more in a debug build.
REFUSAL_SECONDS = 20 * ALLOWANCE


@dataclass
class Answer:
    status: int
    body: bytes
    # Seconds between the last byte of the request and the first one of the answer.
    waited: float

    def data(self):
        return json.loads(self.body)["data"]


@dataclass
class Tally:
    """The answers that an attack got."""

    statuses: Counter = field(default_factory=Counter)
    faults: list = field(default_factory=list)

    def note(self, what, answer):
        self.statuses[str(answer.status)] += 1
        if answer.status >= 400:
            self._check_refusal(what, answer)

    def note_failure(self, error):
        self.statuses[type(error).__name__] += 1

    def _check_refusal(self, what, answer):
        try:
            body = json.loads(answer.body)
            error = body["error"]
            # /v1 answers in OpenAI's form, where the code may be null.
            well_formed = bool(error["message"] if "message" in error else error["code"] and body["message"])
        except (ValueError, KeyError, TypeError):
            well_formed = False
        if not well_formed:
            self.fault(f"{what}: {answer.status} without a documented body: {answer.body[:80]!r}")
        elif answer.waited > REFUSAL_SECONDS:
            self.fault(f"{what}: {answer.status} after {answer.waited:.1f} s")

    def fault(self, sentence):
        if len(self.faults) < 20:
            self.faults.append(sentence)


class Client:
    def __init__(self, port, key, tally=None, address="127.0.0.1"):
        self.port, self.key, self.address = port, key, address
        self.tally = tally if tally is not None else Tally()

    def head(self, method, path, headers=()):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.key}", *headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def connect(self, receive_buffer=None):
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.bind((self.address, 0))
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        except BaseException:
            connection.close()
            raise
        return connection

    async def request(self, method, path, body=b"", media_type="application/json", headers=()):
        """Sends a request on a connection of its own and reads the whole answer."""
        if not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
        fields = [f"Content-Type: {media_type}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        if not body and method == "GET":
            fields = ["Connection: close", *headers]
        return await self.exchange(f"{method} {path}", self.head(method, path, fields) + bytes(body))

    async def exchange(self, what, request):
        """Sends bytes and reads until the connection ends."""
        try:
            answer = await self._exchange(request)
        except asyncio.CancelledError:
            self.tally.statuses["unanswered"] += 1
            raise
        self.tally.note(what, answer)
        return answer

    async def _exchange(self, request):
        loop, sent_at = asyncio.get_running_loop(), None

        async def send():
            nonlocal sent_at
            # A refusal may arrive, and the connection end, before everything is sent.
            try:
                await loop.sock_sendall(connection, request)
            except OSError:
                pass
            sent_at = time.monotonic()

        connection = await self.connect()
        sending = asyncio.create_task(send())
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                received, first_at = bytearray(), None
                while piece := await loop.sock_recv(connection, 1 << 18):
                    first_at = first_at or time.monotonic()
                    if len(received) < MAX_KEPT:
                        received += piece
        finally:
            sending.cancel()
            connection.close()
        if first_at is None:
            raise ConnectionError("closed without an answer")
        head, _, content = bytes(received).partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]), undo_chunks(head, content), first_at - (sent_at or first_at))

    async def try_request(self, *request, **options):
        """As `request`, but a lost connection is only counted."""
        try:
            return await self.request(*request, **options)
        except (OSError, TimeoutError) as error:
            self.tally.note_failure(error)
            await asyncio.sleep(0.01)
            return None


def undo_chunks(head, content):
    if b"transfer-encoding: chunked" not in head.lower():
        return content
    joined = bytearray()
    while content:
        size, _, content = content.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            break
        if not length:
            break
        joined += content[:length]
        content = content[length + 2 :]
    return bytes(joined)

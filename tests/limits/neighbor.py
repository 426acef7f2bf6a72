"""A well-behaved user during an attack: three requests in turn, each timed."""

import http.client
import json
import time

# Another address than the attack's: limits per address are not the neighbor's.
ADDRESS = ("127.0.0.2", 0)
TIMEOUT = 30
PAUSE = 0.05
MEASURES = ("me", "page", "token")


class Neighbor:
    def __init__(self, port, key, measures=MEASURES):
        self.port, self.key, self.measures = port, key, measures
        self.session = "neighbor"
        self._json("POST", "/api/chat-sessions", {"sessionId": self.session})
        for index in range(20):
            message = {"chatSessionId": self.session, "role": "user", "content": f"message {index}"}
            self._json("POST", "/api/chat-messages", message)

    def _open(self, method, path, body=None):
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=TIMEOUT, source_address=ADDRESS
        )
        headers = {"Authorization": f"Bearer {self.key}", "Host": "localhost"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection, connection.getresponse()

    def _json(self, method, path, body=None):
        connection, answer = self._open(method, path, body)
        content = answer.read()
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")

    def me(self):
        self._json("GET", "/api/me")

    def page(self):
        self._json("GET", f"/api/chat-sessions/{self.session}/messages")

    def token(self):
        """Returns the time of the first token, and then reads the rest."""
        connection, answer = self._open("POST", "/api/chat", {"sessionId": self.session, "message": "hello"})
        if answer.status != 200:
            raise RuntimeError(f"POST /api/chat: {answer.status} {answer.read()[:200]!r}")
        first_at = None
        while line := answer.readline():
            if b'"text-delta"' in line and first_at is None:
                first_at = time.monotonic()
            if line.startswith(b"data: [DONE]"):
                break
        connection.close()
        if first_at is None:
            raise RuntimeError("POST /api/chat: no token")
        return first_at

    def measure(self, seconds, samples, failures):
        """Adds times in seconds to `samples`, by measure, until the time is over."""
        stop_at = time.monotonic() + seconds
        while time.monotonic() < stop_at:
            for name in self.measures:
                started_at = time.monotonic()
                try:
                    ended_at = getattr(self, name)() or time.monotonic()
                except (OSError, RuntimeError, http.client.HTTPException) as error:
                    failures.append(f"{name}: {error}"[:200])
                    ended_at = time.monotonic()
                samples[name].append(ended_at - started_at)
            time.sleep(PAUSE)


def percentile(samples, share):
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

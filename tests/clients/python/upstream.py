"""A provider with the Chat Completions API whose replies are scripted by the tests."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMEOUT = 15
USAGE = {"prompt_tokens": 21, "completion_tokens": 13, "total_tokens": 34, "prompt_tokens_details": {"cached_tokens": 8}}


class Call:
    """A request that a script has to answer."""

    def __init__(self, request, handler):
        self.request = request
        self._handler = handler
        self._has_started = False

    @property
    def texts(self):
        """The texts of the prompt, without the system prompt."""
        return [message["content"] for message in self.request["messages"] if message["role"] != "system"]

    def text(self, content):
        self._send_chunk({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]})

    def tool_calls(self, *calls):
        """Replies with function calls, each a tuple of id, name and arguments."""
        tool_calls = [
            {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for index, (id, name, arguments) in enumerate(calls)
        ]
        self._send_chunk({"choices": [{"index": 0, "delta": {"tool_calls": tool_calls}, "finish_reason": None}]})
        self.finish("tool_calls")

    def finish(self, reason="stop"):
        self._send_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        self._send_chunk({"choices": [], "usage": USAGE})
        self._send(b"data: [DONE]\n\n")
        self._handler.wfile.write(b"0\r\n\r\n")

    def reply(self, content):
        if self.request.get("stream"):
            self.text(content)
            return self.finish()
        message = {"role": "assistant", "content": content}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        self.answer(200, {"id": "own", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": USAGE})

    def refuse(self, status, message="out of order"):
        self.answer(status, {"error": {"message": message, "type": "theirs", "param": None, "code": None}})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self._start(status, "application/json", {"content-length": str(len(body))})
        self._handler.wfile.write(body)

    def _send_chunk(self, chunk):
        if not self._has_started:
            self._start(200, "text/event-stream", {"transfer-encoding": "chunked"})
        head = {"id": "own", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self._send(f"data: {json.dumps({**head, **chunk})}\n\n".encode())

    def _start(self, status, content_type, more):
        self._has_started = True
        self._handler.send_response(status)
        for name, value in {"content-type": content_type, "connection": "close", **more}.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def _send(self, data):
        # A chunked body without a final empty chunk is broken.
        self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


class Upstream:
    """Answers each request with the next script."""

    def __init__(self):
        self.calls = []
        self.unexpected = 0
        self._scripts = deque()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def script(self, *scripts):
        """Adds scripts for the next requests: a text, or a function that takes the call."""
        with self._lock:
            self._scripts.extend(scripts)

    def reset(self):
        """Forgets earlier requests and scripts."""
        with self._lock:
            self._scripts.clear()
            self.calls.clear()
            self.unexpected = 0

    def check_done(self):
        """Checks that each script was used and no other request arrived."""
        assert (len(self._scripts), self.unexpected) == (0, 0)

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def _take(self, call):
        with self._lock:
            self.calls.append(call)
            if self._scripts:
                return self._scripts.popleft()
            self.unexpected += 1
            return lambda call: call.refuse(400, "the test has no script for this request")

    def _handler(upstream):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                models = [{"id": name, "object": "model", "created": 1, "owned_by": "tests"} for name in ("m", "team/large")]
                Call({}, self).answer(200, {"object": "list", "data": models})

            def do_POST(self):
                length = int(self.headers["content-length"])
                call = Call(json.loads(self.rfile.read(length)), self)
                script = upstream._take(call)
                self.close_connection = True
                try:
                    if callable(script):
                        script(call)
                    else:
                        call.reply(script)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # The client has disconnected.

            def log_message(self, *_):
                pass

        return Handler


class Gate:
    """Blocks a script until the test opens it."""

    def __init__(self):
        self._event = threading.Event()

    def open(self):
        self._event.set()

    def wait(self):
        assert self._event.wait(TIMEOUT), "the gate was not opened"

"""A provider over real sockets that speaks Chat Completions and answers as the tests say."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 15
USAGE = {"prompt_tokens": 21, "completion_tokens": 13, "total_tokens": 34, "prompt_tokens_details": {"cached_tokens": 8}}


class Call:
    """One request that waits for its answer."""

    def __init__(self, request, handler):
        self.request = request
        self._handler = handler
        self._is_begun = False

    @property
    def texts(self):
        """What the prompt says, without the system prompt."""
        return [message["content"] for message in self.request["messages"] if message["role"] != "system"]

    def text(self, content):
        self._chunk({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]})

    def tool_calls(self, *calls):
        """Asks for calls of functions: pairs of an id, a name and arguments."""
        told = [
            {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for index, (id, name, arguments) in enumerate(calls)
        ]
        self._chunk({"choices": [{"index": 0, "delta": {"tool_calls": told}, "finish_reason": None}]})
        self.finish("tool_calls")

    def finish(self, reason="stop"):
        self._chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        self._chunk({"choices": [], "usage": USAGE})
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
        self._begin(status, "application/json", {"content-length": str(len(body))})
        self._handler.wfile.write(body)

    def _chunk(self, chunk):
        if not self._is_begun:
            self._begin(200, "text/event-stream", {"transfer-encoding": "chunked"})
        head = {"id": "own", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self._send(f"data: {json.dumps({**head, **chunk})}\n\n".encode())

    def _begin(self, status, content_type, more):
        self._is_begun = True
        self._handler.send_response(status)
        for name, value in {"content-type": content_type, "connection": "close", **more}.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def _send(self, data):
        # A stream that ends without a last piece of no length has broken off.
        self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


class Upstream:
    """Answers each request by the next of the scripts it was given."""

    def __init__(self):
        self.calls = []
        self.unexpected = 0
        self._scripts = deque()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def will(self, *scripts):
        """The next requests are answered so: by a text, or by a function that is given the call."""
        with self._lock:
            self._scripts.extend(scripts)

    def begin(self):
        """Forgets what was asked before."""
        with self._lock:
            self._scripts.clear()
            self.calls.clear()
            self.unexpected = 0

    def check(self):
        """The provider was asked as often as was expected."""
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
            return lambda call: call.refuse(400, "no answer was agreed on")

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
                    pass  # whoever asked has gone

            def log_message(self, *_):
                pass

        return Handler


class Gate:
    """Holds somebody back until it is opened."""

    def __init__(self):
        self._event = threading.Event()

    def open(self):
        self._event.set()

    def wait(self):
        assert self._event.wait(PATIENCE), "the gate was not opened"

"""The real server with a store of its own."""

import os
import re
import subprocess
import tempfile
import threading
from queue import Empty, Queue

READY = 20
EXIT = 15


class Server:
    def __init__(self, provider=None, **more):
        self._folder = tempfile.TemporaryDirectory(prefix="echoic-python-")
        # Nothing is inherited: neither the environment nor a `.env` file decides what is tested.
        self._env = {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "DATABASE_URL": f"sqlite://{self._folder.name}/echoic.db",
            "ECHOIC_SHUTDOWN_GRACE": "1s",
            **(provider or {"ECHOIC_PROVIDER": "demo"}),
            **more,
        }
        self._process = subprocess.Popen([binary(), "serve"], cwd=self._folder.name, env=self._env, stderr=subprocess.PIPE, text=True)
        self.url = self._ready()

    def run(self, *command):
        """What a command of the program prints, told beside the running server."""
        done = subprocess.run([binary(), *command], cwd=self._folder.name, env=self._env, capture_output=True, text=True, timeout=READY)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self):
        self._process.terminate()
        try:
            assert self._process.wait(EXIT) == 0, "the server ends cleanly"
        finally:
            self._process.kill()
            self._folder.cleanup()

    def _ready(self):
        """The URL in the line by which the server says that it is ready."""
        lines = Queue()

        def read():
            # To the end, so that the pipe never fills up.
            for line in self._process.stderr:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        log = []
        try:
            while (line := lines.get(timeout=READY)) is not None:
                log.append(line)
                if found := re.search(r"Echoic is ready: (http:[^\s,]+)", line):
                    return found[1]
        except Empty:
            pass
        self._process.kill()
        raise AssertionError(f"the server was not ready; its log:\n{''.join(log)}")


def binary():
    assert "ECHOIC_BIN" in os.environ, "set ECHOIC_BIN to the echoic binary to be tested"
    return os.path.abspath(os.environ["ECHOIC_BIN"])


def speaking_to(upstream):
    """What tells the server where its provider is."""
    return {"ECHOIC_PROVIDER": "openai", "OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "mock", "ECHOIC_MODEL": "m"}

"""The server under test, with a database of its own."""

import os
import re
import subprocess
import tempfile
import threading
from queue import Empty, Queue

READY_TIMEOUT = 20
EXIT_TIMEOUT = 15


class Server:
    def __init__(self, provider=None, **settings):
        self._folder = tempfile.TemporaryDirectory(prefix="echoic-python-")
        # Neither the environment nor a `.env` file may change what is tested.
        self._env = {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "DATABASE_URL": f"sqlite://{self._folder.name}/echoic.db",
            "ECHOIC_SHUTDOWN_GRACE": "1s",
            **(provider or {"ECHOIC_PROVIDER": "demo"}),
            **settings,
        }
        self._process = subprocess.Popen([binary(), "serve"], cwd=self._folder.name, env=self._env, stderr=subprocess.PIPE, text=True)
        self.url = self._wait_until_ready()

    def run(self, *command):
        """Runs a command of the binary on the same database and returns its output."""
        done = subprocess.run([binary(), *command], cwd=self._folder.name, env=self._env, capture_output=True, text=True, timeout=READY_TIMEOUT)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self):
        self._process.terminate()
        try:
            assert self._process.wait(EXIT_TIMEOUT) == 0, "the server exits cleanly"
        finally:
            self._process.kill()
            self._folder.cleanup()

    def _wait_until_ready(self):
        """Returns the URL in the server's log line that says it is ready."""
        lines = Queue()

        def read():
            # Read to the end, so that the pipe never fills up.
            for line in self._process.stderr:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        log = []
        try:
            while (line := lines.get(timeout=READY_TIMEOUT)) is not None:
                log.append(line)
                if found := re.search(r"Echoic is ready: (http:[^\s,]+)", line):
                    return found[1]
        except Empty:
            pass
        self._process.kill()
        raise AssertionError(f"the server did not start in time; its log:\n{''.join(log)}")


def binary():
    assert "ECHOIC_BIN" in os.environ, "ECHOIC_BIN must name the echoic binary to test"
    return os.path.abspath(os.environ["ECHOIC_BIN"])


def provider_settings(upstream):
    """Returns the settings that point the server to its provider."""
    return {"ECHOIC_PROVIDER": "openai", "OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "mock", "ECHOIC_MODEL": "m"}

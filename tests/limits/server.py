"""A server under test: started on a fresh store, measured through /proc, ended by its own pid."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

START_TIMEOUT = 30
MIB = 1 << 20


class Server:
    """`store` is `sqlite`, or the address of a MongoDB on which the server gets a database."""

    def __init__(self, binary, store, provider_port, settings=None):
        self.directory = Path(tempfile.mkdtemp(prefix="echoic-limits-"))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "PORT": "0",
            "DATABASE_URL": self._database(store),
            "ECHOIC_AUTH": "keys",
            "ECHOIC_RATE_LIMIT": "60000/m",
            "ECHOIC_PROVIDER": "openai",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{provider_port}/v1",
            "OPENAI_API_KEY": "key-of-the-provider",
            "ECHOIC_MODEL": "short",
            **(settings or {}),
        }
        self.binary = binary
        self.log_path = self.directory / "log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [binary, "serve"], cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )
        self.port = self._wait_for_port()

    def _database(self, store):
        if store == "sqlite":
            return f"sqlite://{self.directory}/echoic.db"
        name = self.directory.name.replace("-", "_")
        return re.sub(r"/(\?|$)", rf"/{name}\1", store, count=1) if "/?" in store else f"{store}/{name}"

    def _wait_for_port(self):
        give_up = time.monotonic() + START_TIMEOUT
        while time.monotonic() < give_up:
            found = re.search(r"http://\S+?:(\d+)(?=[,\s])", self.log())
            if found:
                return int(found.group(1))
            if not self.is_alive():
                break
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start:\n{self.log()[-2000:]}")

    def log(self):
        return self.log_path.read_text(errors="replace")

    def is_alive(self):
        return self.process.poll() is None

    def create_key(self, user, *options):
        command = [self.binary, "keys", "create", "--user", user, *options]
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=30
        )
        found = re.search(r"ek_\w{12}_[\w-]{43}", done.stdout + done.stderr)
        if not found:
            raise RuntimeError(f"no key was created: {done.stdout}{done.stderr}")
        return found.group(0)

    def _memory(self, field):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        return 0.0

    def resident_mib(self):
        return self._memory("VmRSS")

    def peak_mib(self):
        return self._memory("VmHWM")

    def reset_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        # The store is thrown away, so nothing has to end well.
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

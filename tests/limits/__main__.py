#!/usr/bin/env python3
"""Attacks next to a neighbor, and memory by input: what one user can do to others and to the server.

    ECHOIC_BIN=target/debug/echoic python3 tests/limits              all, briefly
    ECHOIC_LIMITS_SECONDS=60 … python3 tests/limits                  each attack for a minute, at full size
    ECHOIC_LIMITS_FULL=1 … python3 tests/limits                      briefly, at full size
    ECHOIC_LIMITS_ALLOWANCE=0.3 … python3 tests/limits               for a debug build, which is slower
    … python3 tests/limits --only forks,siblings --store mongo       some of them

`ECHOIC_TEST_MONGODB` is the address of an empty MongoDB; without it only SQLite is tested. Loopback only.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import memory
from attacks import ATTACKS
from inputs import ALLOWANCE, IS_LONG, SECONDS
from neighbor import MEASURES, Neighbor, percentile
from server import Server

HERE = Path(__file__).parent
# A neighbor may wait this many times as long as without the attack, and ALLOWANCE.
FACTOR = 2
# The server's memory under any attack.
MAX_PEAK_MIB = 512
QUIET_TIMEOUT = 2


class Row:
    """One attack on one store: measured alone, during the attack, and alone again."""

    def __init__(self, attack, store, seconds):
        self.attack, self.store, self.seconds = attack, store, seconds
        self.alone, self.during = ({name: [] for name in MEASURES} for _ in range(2))
        self.faults, self.tally = [], {}
        self.growth = self.peak = self.took = 0.0

    def run(self, binary, address, provider_port):
        started_at = time.monotonic()
        settings = self.attack.settings
        with Server(binary, address, provider_port, settings) as server:
            neighbor = Neighbor(server.port, server.create_key("neighbor"), self.attack.measures)
            key = server.create_key("attacker", *self.attack.key_options)
            command = [sys.executable, str(HERE / "attack.py"), self.attack.name, str(server.port), key, str(self.seconds)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                self._measure(server, neighbor, process)
            finally:
                process.kill()
                process.wait()
            self._judge(server)
        self.took = time.monotonic() - started_at
        return self

    def _measure(self, server, neighbor, process):
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the attack could not be prepared")
        wait_until_quiet(server)
        failures = []
        neighbor.measure(self.seconds / 3, self.alone, failures)
        before = server.resident_mib()
        server.reset_peak()
        process.stdin.write("go\n")
        process.stdin.flush()
        neighbor.measure(self.seconds, self.during, failures)
        self.tally = json.loads(process.stdout.readline() or "{}")
        if server.is_alive():
            self.peak = server.peak_mib()
            self.growth = self.peak - before
            wait_until_quiet(server)
            neighbor.measure(self.seconds / 3, self.alone, failures)
        self.faults += failures[:3]

    def _judge(self, server):
        if not server.is_alive():
            self.faults.append(f"the server ended: {server.log()[-300:]}")
        for name in MEASURES:
            alone, during = percentile(self.alone[name], 0.99), percentile(self.during[name], 0.99)
            if during > FACTOR * alone + ALLOWANCE:
                self.faults.append(f"{name} took {during * 1000:.0f} ms, {alone * 1000:.0f} ms alone")
        if self.growth > self.attack.growth_mib:
            self.faults.append(f"memory grew by {self.growth:.0f} MiB, {self.attack.growth_mib} are allowed")
        if self.peak > MAX_PEAK_MIB:
            self.faults.append(f"{self.peak:.0f} MiB in use")
        if not self.tally:
            self.faults.append("the attack broke off")
        self.faults += self.tally.get("faults", [])[:3]
        if " panicked at " in server.log():
            self.faults.append("the server panicked: " + server.log().partition(" panicked at ")[2][:120])

    def line(self):
        times = "".join(
            f"{percentile(self.alone[name], 0.99) * 1000:7.0f} {percentile(self.during[name], 0.99) * 1000:6.0f}"
            for name in MEASURES
        )
        answers = " ".join(f"{status}:{count}" for status, count in sorted(self.tally.get("statuses", {}).items()))
        verdict = "FAILS" if self.faults else "holds"
        return f"{self.attack.name:36}{self.store:7}{times}{self.growth:7.0f}{self.peak:6.0f}{self.took:6.1f}  {verdict}  {answers}"


def wait_until_quiet(server):
    """Work of requests that have ended goes on for a while."""
    give_up = time.monotonic() + QUIET_TIMEOUT
    while time.monotonic() < give_up and server.is_alive():
        used = server.cpu_seconds()
        time.sleep(0.25)
        if server.cpu_seconds() - used < 0.03:
            return


def run_row(attack, store, *rest):
    row = Row(attack, store, SECONDS).run(*rest)
    if row.faults:
        # Once more: the machine may have been busy with something else.
        row = Row(attack, store, SECONDS).run(*rest)
    return row


def print_faults(faults):
    for fault in faults:
        print(f"    {fault}", flush=True)


def run_attacks(names, stores, binary, provider_port):
    if not any(name in ATTACKS for name in names):
        return 0
    print(f"\n{'attack, p99 in ms, alone and during':43}   GET /api/me   a page  first token  MiB+  peak  took", flush=True)
    failed = 0
    for store, address in stores.items():
        for attack in ATTACKS.values():
            if attack.name not in names or (store == "mongo" and not attack.on_mongo):
                continue
            row = run_row(attack, store, binary, address, provider_port)
            print(row.line(), flush=True)
            print_faults(row.faults)
            failed += bool(row.faults)
    return failed


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of attacks and inputs, separated by commas")
    parser.add_argument("--store", choices=["sqlite", "mongo"])
    parser.add_argument("--list", action="store_true", help="names of all attacks and inputs")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    names = [*ATTACKS, *memory.INPUTS]
    if arguments.list:
        return print("\n".join(names))
    if arguments.only:
        names = arguments.only.split(",")
    elif not IS_LONG:
        names = [name for name in names if name not in ATTACKS or not ATTACKS[name].only_long]
    binary = str(Path(os.environ.get("ECHOIC_BIN", "target/debug/echoic")).resolve())
    stores = {"sqlite": "sqlite"}
    if os.environ.get("ECHOIC_TEST_MONGODB"):
        stores["mongo"] = os.environ["ECHOIC_TEST_MONGODB"]
    if arguments.store:
        stores = {arguments.store: stores[arguments.store]}
    provider = subprocess.Popen(
        [sys.executable, str(HERE / "provider.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(provider.stdout.readline())
        failed = run_attacks(names, stores, binary, port)
        if "sqlite" in stores:
            failed += memory.run_inputs(names, binary, port)
    finally:
        provider.kill()
        provider.wait()
    if failed:
        sys.exit(f"{failed} rows failed")


if __name__ == "__main__":
    main()

"""Runs one attack in a process of its own: `attack.py NAME PORT KEY SECONDS`.

Prints `ready` when its data is prepared, starts with a line on its input, and prints its tally."""

import asyncio
import json
import os
import sys
import time

from attacks import ATTACKS
from client import Client

# The machine belongs to the server and the neighbor.
NICENESS = 10


async def main(name, port, key, seconds):
    attack, client = ATTACKS[name], Client(int(port), key)
    prepared = await attack.prepare(client) if attack.prepare else None
    client.tally.statuses.clear()
    client.tally.faults.clear()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    deadline = time.monotonic() + float(seconds)
    run = attack.run(client, deadline, prepared) if attack.prepare else attack.run(client, deadline)
    try:
        # An answer may take longer than the attack: what is still open at its end is dropped.
        async with asyncio.timeout(float(seconds) + 1):
            await run
    except TimeoutError:
        pass
    print(json.dumps({"statuses": client.tally.statuses, "faults": client.tally.faults}), flush=True)


if __name__ == "__main__":
    os.nice(NICENESS)
    asyncio.run(main(*sys.argv[1:]))

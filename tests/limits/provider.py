"""An OpenAI-compatible provider whose model names say how it behaves: `short`, `slow`, `text-100`,
`tools-10000`, `line-40`, `usage`. Numbers are MiB, or calls for `tools`. Loopback only."""

import asyncio
import json
import sys

MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
ABSURD_USAGE = {
    "prompt_tokens": 1e308,
    "completion_tokens": -5,
    "prompt_tokens_details": {"cached_tokens": 9e18},
    "completion_tokens_details": {"reasoning_tokens": 1e19},
}


def event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(**fields):
    return event({"choices": [{"index": 0, "delta": fields}]})


def call(index):
    return {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": "{}"}}


def end(reason="stop", usage=None):
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    if usage:
        last["usage"] = usage
    return event(last) + b"data: [DONE]\n\n"


async def send(writer, piece):
    writer.write(piece)
    await writer.drain()


async def reply(writer, model):
    kind, _, number = model.partition("-")
    number = int(number or 0)
    await send(writer, HEAD)
    if kind == "slow":
        for index in range(100):
            await send(writer, delta(content=f"w{index} "))
            await asyncio.sleep(0.1)
    elif kind == "text":
        for _ in range(number):
            await send(writer, delta(content="x" * MIB))
    elif kind == "tools":
        for first in range(0, number, 100):
            await send(writer, b"".join(delta(tool_calls=[call(index)]) for index in range(first, first + 100)))
        return await send(writer, end("tool_calls"))
    elif kind == "line":
        await send(writer, b'data: {"choices":[{"delta":{"content":"')
        for _ in range(number):
            await send(writer, b"x" * MIB)
    else:
        await send(writer, delta(content="one ") + delta(content="two"))
    await send(writer, end(usage=ABSURD_USAGE if kind == "usage" else None))


async def serve_one(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(
            (int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:")), 0
        )
        body = json.loads(await reader.readexactly(length) or b"{}")
        await reply(writer, str(body.get("model", "short")))
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, limit=64 * MIB)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with the process that started it.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

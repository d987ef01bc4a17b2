"""A language model's stand-in: an OpenAI-compatible server that writes the same words, so many a second, to each."""

from __future__ import annotations

import asyncio
import json
import sys

TOKENS_PER_SECOND = 50
TOKENS = 1_500
_WORDS = ("The ", "else ", "clause ", "is ", "executed ", "when ", "nothing ", "was ", "raised [1]. ")
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nConnection: close\r\n\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
        if head.startswith(b"get"):
            models = {"data": [{"id": "stand-in", "owned_by": "vllm", "max_model_len": 32_768}]}
            writer.write((_HEAD.format("application/json") + json.dumps(models)).encode())
        else:
            writer.write(_HEAD.format("text/event-stream").encode())
            for number in range(TOKENS):
                writer.write(_event(delta={"content": _WORDS[number % len(_WORDS)]}, finish_reason=None))
                await writer.drain()
                await asyncio.sleep(1 / TOKENS_PER_SECOND)
            writer.write(_event(delta={}, finish_reason="stop") + b"data: [DONE]\n\n")
        await writer.drain()
    except (OSError, EOFError):
        pass  # whoever asked has gone
    finally:
        writer.close()


def _event(**choice: object) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode()


async def _main() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
    sys.exit()

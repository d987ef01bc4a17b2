"""Many users of a server, in one process that takes little of the processor. Knows HTTP/1.1 over bare sockets.

As a part of a measurement (`bench/processes.py`): reads a plan as JSON, sends its requests, prints what came of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.processes import serve

_WORDS = (b"event: written", b"event: answered")
_AT_MOST = 1 << 24


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Seconds from the first byte sent: to the first byte, to the first words, to the end."""

    status: int
    body: bytes
    first_seconds: float
    words_seconds: float
    seconds: float

    def record(self) -> dict[str, Any]:
        """The object of a JSON body."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, record) of each event of a stream; events without a record are left out."""
        for block in self.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if fields.get("data", "[DONE]") != "[DONE]":
                yield fields.get("event", ""), json.loads(fields["data"])


class Client:
    """One connection that is kept and opened again when it was closed; one request at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()

    async def ask(self, method: str, path: str, record: Mapping[str, object] | None = None) -> Reply:
        """Send a request and read its whole answer. Raises OSError, EOFError."""
        started = time.perf_counter()
        reader = await self.send(method, path, record)
        head = await reader.readuntil(b"\r\n\r\n")
        first = time.perf_counter() - started
        status, headers = int(head[9:12]), head.lower()
        if b"transfer-encoding: chunked" in headers:
            body, words = await _chunks(reader, started)
        else:
            size = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(min(size, _AT_MOST))
            words = time.perf_counter() - started
        if b"connection: close" in headers:
            self.hang_up()
        return Reply(status, body, first, words, time.perf_counter() - started)

    async def send(
        self, method: str, path: str, record: Mapping[str, object] | None = None, *, share: float = 1.0
    ) -> asyncio.StreamReader:
        """Send a request, or the first share of it, and give what its answer is read from."""
        if self._reader is None or self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=_AT_MOST)
        body = b"" if record is None else json.dumps(record).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        data = head + body
        self._writer.write(data[: max(1, round(share * len(data)))])
        await self._writer.drain()
        return self._reader

    def hang_up(self) -> None:
        """Close the connection at once, whatever was promised on it."""
        if self._writer is not None:
            with suppress(OSError, RuntimeError):
                self._writer.transport.abort()
        self._reader = self._writer = None


async def _chunks(reader: asyncio.StreamReader, started: float) -> tuple[bytes, float]:
    """The body of a stream, and when its first words came."""
    parts: list[bytes] = []
    words = 0.0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        if not words and any(word in parts[-1] for word in _WORDS):
            words = time.perf_counter() - started
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts), words or time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Plan:
    """Who asks what: each of `clients` takes the next record as soon as it has its answer. Many at once from the start.

    limit_seconds: when to send no more.
    """

    port: int
    token: str
    clients: int
    path: str
    records: Sequence[Mapping[str, object]]
    limit_seconds: float = 600.0

    async def run(self) -> dict[str, Any]:
        """How many seconds it took, and of each request: status, and the seconds of its Reply."""
        left = iter(self.records)
        statuses: Counter[int] = Counter()
        times: list[tuple[float, float, float]] = []

        async def user() -> None:
            async with Client(self.port, self.token) as client:
                for record in left:
                    if time.perf_counter() - started > self.limit_seconds:
                        return
                    reply = await client.ask("POST", self.path, record)
                    statuses[reply.status] += 1
                    times.append((reply.first_seconds, reply.words_seconds, reply.seconds))

        started = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(self.clients)))
        return {"seconds": time.perf_counter() - started, "statuses": dict(statuses), "times": times}


if __name__ == "__main__":
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    serve(lambda: asyncio.run(plan.run()))

"""How many connections there may be, and how long and slow a head: uvicorn, with its fast parser, does not limit them.

Knows bytes and time; nothing of what a head says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

HEAD_BYTES = 32_768
"""Of the request line and the headers; a little more where they come in one piece with what follows."""
HEAD_SECONDS = 30.0


class _Deadline:
    """Ends something after a time, unless it is lifted before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, end: Callable[[], None]) -> None:
        self._loop, self._seconds, self._end = loop, seconds, end
        self._timer: asyncio.TimerHandle | None = None

    @property
    def holds(self) -> bool:
        """Whether it was set and not lifted."""
        return self._timer is not None

    def set(self) -> None:
        """From now on, whatever was before."""
        self.lift()
        self._timer = self._loop.call_later(self._seconds, self._end)

    def lift(self) -> None:
        """Let it pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded_protocol(seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """What uvicorn is to read connections with. One too many, a head too long or too slow: the connection ends."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Bounded(HttpToolsProtocol):
        """A connection; while nothing comes between requests, uvicorn's own limit of idle time holds."""

        _deadline: _Deadline
        _head_bytes: int | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = _Deadline(self.loop, seconds, transport.close)
            self._begin_head()
            if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
                transport.abort()  # uvicorn counts them at a request alone, and would refuse those who came first, too

        def connection_lost(self, exc: Exception | None) -> None:
            self._deadline.lift()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._head_bytes is not None:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self._end_head()
                    self.send_400_response(f"The head of a request may have {HEAD_BYTES:,} bytes.")
            elif not self._deadline.holds and self.cycle is not None and self.cycle.response_complete:
                # Blank lines, or more of a body that nobody reads: any byte has lifted uvicorn's limit of idle time.
                self._deadline.set()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin_head()

        def on_headers_complete(self) -> None:
            self._end_head()
            super().on_headers_complete()

        def _begin_head(self) -> None:
            self._head_bytes = 0
            self._deadline.set()

        def _end_head(self) -> None:
            self._head_bytes = None
            self._deadline.lift()

    return Bounded

"""How long and how slow the head of a request may be: uvicorn, with its fast parser, has no limit of its own.

Knows bytes and time; nothing of what a head says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

HEAD_BYTES = 32_768
"""Of the request line and the headers; a little more where they come in one piece with what follows."""
HEAD_SECONDS = 30.0


def bounded_protocol(seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """What uvicorn is to read connections with. A head that is too long or too slow ends its connection."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Bounded(HttpToolsProtocol):
        """A connection; between requests uvicorn's own limit of idle time holds."""

        _patience: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_over()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._patience is not None:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self._head_is_over()
                    self.send_400_response(f"The head of a request may have {HEAD_BYTES:,} bytes.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._await_head()

        def on_headers_complete(self) -> None:
            self._head_is_over()
            super().on_headers_complete()

        def _await_head(self) -> None:
            self._head_is_over()
            self._head_bytes = 0
            self._patience = self.loop.call_later(seconds, self.transport.close)

        def _head_is_over(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Bounded

"""What the server says: JSON, problems, and events as they happen. Knows records and HTTP; nothing of questions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.cli.wire import dumps
from app.server.engine import TookTooLongError
from app.server.lanes import BusyError
from retrieval.errors import (
    AnswerError,
    ChangedError,
    ConfigError,
    EmptyTextError,
    IndexBusyError,
    IndexCorruptError,
    IndexMismatchError,
    IndexMissingError,
    IngestError,
    MissingPackageError,
    ModelError,
    ParseError,
    PromptTooLongError,
    RagError,
    TextTooLongError,
)

T = TypeVar("T")

log = logging.getLogger("rag.server")

KEEP_ALIVE_SECONDS = 15.0
"""A stream that is silent for longer is cut off by proxies."""


class FaultError(RagError):
    """Something went wrong that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__("the server failed; its log has more under this request id")


_STATUS: tuple[tuple[type[RagError], int, str], ...] = (
    (BusyError, 429, "busy"),
    (TookTooLongError, 504, "timeout"),
    (EmptyTextError, 422, "empty"),
    (TextTooLongError, 422, "too-long"),
    (PromptTooLongError, 422, "too-long"),
    (ConfigError, 422, "invalid"),
    (ParseError, 422, "unreadable"),
    (IndexMissingError, 409, "no-index"),
    (IndexMismatchError, 409, "index-mismatch"),
    (IndexBusyError, 409, "index-busy"),
    (ChangedError, 409, "changed"),
    (AnswerError, 502, "model"),
    (ModelError, 502, "model"),
    (MissingPackageError, 501, "not-installed"),
    (IndexCorruptError, 500, "index-damaged"),
    (IngestError, 503, "no-worker"),
    (FaultError, 500, "internal"),
    (RagError, 400, "failed"),
)
"""The first kind that fits; the client can do something about all of 4xx."""


class ProblemDetail(BaseModel):
    """What went wrong, for people (`message`) and for programs (`code`)."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class Problem(BaseModel):
    """What every answer is that is an error, in the form that OpenAI's clients read."""

    error: ProblemDetail


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The request cannot be read or done",
        401: "Without the token",
        403: "From another page",
        404: "There is none",
        408: "The body came too slowly",
        409: "There is no index, or it is busy or has changed",
        413: "The body is too long",
        422: "Not as described here",
        429: "No place to wait in; see Retry-After",
        500: "The server failed",
        501: "A package is not installed",
        502: "The language model failed",
        504: "Given up after its time",
    }.items()
}
"""For OpenAPI: what any route may answer beside its own."""
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}
"""For OpenAPI: of a route that answers at once or as it comes."""


def json_response(
    record: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A record as JSON, without anything that JSON readers or terminals trip over."""
    return Response(dumps(record), status_code=status, media_type="application/json", headers=dict(headers or {}))


def problem(
    status: int, code: str, message: str, request_id: str, *, headers: Mapping[str, str] | None = None
) -> Response:
    """What went wrong, in the form that OpenAI's clients read."""
    return json_response(problem_record(status, code, message, request_id), status=status, headers=headers)


def problem_record(status: int, code: str, message: str, request_id: str) -> dict[str, object]:
    """The object of an error; `type` is OpenAI's coarse word, `code` ours."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code, "request_id": request_id}}


def status_of(error: RagError) -> tuple[int, str]:
    """HTTP status and code of one of our errors."""
    return next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))


def problem_of(error: RagError, request_id: str) -> Response:
    """One of our errors as an answer."""
    status, code = status_of(error)
    headers = {"retry-after": str(error.retry_seconds)} if isinstance(error, BusyError) else None
    return problem(status, code, str(error), request_id, headers=headers)


def request_id_of(request: Request) -> str:
    """The id under which the log knows this request."""
    return str(request.state.request_id)


async def unless_gone(request: Request, coming: Awaitable[T]) -> T:
    """The result, unless the client hangs up first: then it is given up. The body must have been read.

    Raises ClientGoneError when the client has gone.
    """
    return await _unless_gone(request.receive, coming)


class ClientGoneError(Exception):
    """The client hung up: there is nobody to answer."""


class EventStream(Response):
    """Server-sent events (WHATWG HTML, section 9.2). The source is closed when the client hangs up.

    `events` yields whole frames: `frame(name, record)`. `describe` makes the frames of an error met on the way.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes], *, describe: Callable[[RagError], bytes], status_code: int = 200
    ) -> None:
        super().__init__(None, status_code, {"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._describe = events, describe

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        """Send frames until there are no more, or until nobody listens."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(ClientGoneError):
            await _unless_gone(receive, self._send(send))

    async def _send(self, send: Any) -> None:
        async with aclosing(self._frames()) as frames:
            async for data in frames:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self) -> AsyncGenerator[bytes]:
        """Frames as they come, with a comment where none came for long; an error becomes the last one."""
        async with aclosing(self._events) as events:
            try:
                async for data in _kept_alive(events):
                    yield data
            except RagError as error:
                yield self._describe(error)
            except Exception as error:
                log.error("a stream failed: %s", type(error).__name__, exc_info=without_words(error))  # noqa: TRY400
                yield self._describe(FaultError())


def without_words(error: BaseException) -> tuple[type[BaseException], BaseException, Any]:
    """An error with its places and without its message, for the log: messages may quote a document."""
    return type(error), RuntimeError("(message left out)"), error.__traceback__


async def _kept_alive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({coming}, timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                data = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield data
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def _unless_gone(receive: Any, coming: Awaitable[T]) -> T:
    result = asyncio.ensure_future(coming)
    leaving = asyncio.ensure_future(_until_disconnect(receive))
    try:
        await asyncio.wait({result, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientGoneError
        return result.result()
    finally:
        for task in (result, leaving):
            task.cancel()
        await asyncio.gather(result, leaving, return_exceptions=True)


async def _until_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def frame(name: str | None, record: Mapping[str, object]) -> bytes:
    """One event: its name, where it has one, and a record on one line."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {dumps(record)}\n\n".encode()


async def prompt_start(events: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same events, the first of which has come: what goes wrong before it is raised here, and can be a status."""
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise

    async def rest() -> AsyncGenerator[T]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return rest()

"""What every request passes: a request id, the token, limits on body and time, safe headers, and one line of log.

Plain ASGI, so that it holds for every route and for files alike. Knows paths and headers; never what a body says.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser

from app.server.access import Gate
from app.server.answers import FaultError, problem, problem_of, without_words
from app.server.counters import Counters
from app.server.signin import sign_in_page

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/healthz", "/signin"})
MAX_BODY_BYTES = 1_000_000
BODY_SECONDS = 30.0
LEAST_BYTES_PER_SECOND = 10_000
"""A body may be waited for so long, and a second more for each so many bytes of it that have come."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Of every answer, where the route says nothing else."""

log = logging.getLogger("rag.server")


class Guard:
    """Wraps an application: nobody gets past it without the token but to OPEN_PATHS."""

    def __init__(
        self,
        app: App,
        *,
        gate: Gate,
        counters: Counters,
        cookie: str,
        max_upload_bytes: int,
        uploads: frozenset[str],
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """uploads: "METHOD path" of the routes that take files, whose bodies may be larger."""
        self._app, self._gate, self._counters, self._cookie = app, gate, counters, cookie
        self._max_upload_bytes, self._uploads, self._body_seconds = max_upload_bytes, uploads, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; websockets are refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, request_id = time.perf_counter(), secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message["headers"], request_id)
            await send(message)

        try:
            await self._admit(scope, receive, sending, request_id)
        except asyncio.CancelledError:
            status = status or 499
            raise
        except Exception as error:
            # Messages may hold what a document says: the log gets the kind of error and where it came from.
            log.exception("request %s failed: %s", request_id, type(error).__name__, exc_info=without_words(error))
            if not status:
                await problem_of(FaultError(), request_id)(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            seconds = time.perf_counter() - started
            self._counters.request(route, scope["method"], status or 499, seconds)
            log.info("%s %s %s %d %.1f ms", request_id, scope["method"], route, status or 499, 1000 * seconds)

    async def _admit(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] not in OPEN_PATHS and (refusal := self._refusal(scope, headers)):
            status, why = refusal
            wants_page = "text/html" in headers.get("accept", "") and scope["method"] == "GET"
            answer = sign_in_page(status) if wants_page else problem(status, "token", why, request_id)
            await answer(scope, receive, send)
            return
        limit = self._limit(scope)
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            await problem(413, "too-large", f"a body of {declared} bytes; at most {limit:,} are taken", request_id)(
                scope, receive, send
            )
            return
        body = _Body(receive, limit, self._body_seconds)
        try:
            await self._app(scope, body.receive, send)
        except BodyError as error:
            await problem(error.status_code, "body", error.detail, request_id, headers=error.headers)(
                scope, receive, send
            )

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and reason where a request may not come in."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if token:
            good = kind.lower() == "bearer" and self._gate.opens_for(token.strip())
            return None if good else (401, "this is not the token; rag serve --show-token prints it")
        # Programs on other ports of this machine set cookies too, and not all of them are well formed.
        if not self._gate.knows(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return 401, "a token is needed: Authorization: Bearer TOKEN; rag serve --show-token prints it"
        # A browser sends the cookie for whoever asks it to: another page on this machine counts as the same site.
        if scope["method"] not in _SAFE_METHODS and not _is_own_page(headers):
            return 403, "this request comes from another page"
        return None

    def _limit(self, scope: Scope) -> int:
        is_upload = f"{scope['method']} {scope['path']}" in self._uploads
        return self._max_upload_bytes if is_upload else MAX_BODY_BYTES


class BodyError(HTTPException):
    """A body is too long, or comes too slowly. Any other kind of error FastAPI would take for malformed JSON.

    The rest of the body is not waited for, so the connection can carry no other request.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message, headers={"connection": "close"})


class _Body:
    """A request's body, counted and timed. Once it is whole, waiting for the client to hang up may take any time."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive, self._limit, self._seconds = receive, limit, seconds
        self._size, self._waited, self._is_whole = 0, 0.0, False

    async def receive(self) -> Message:
        """The next message. Raises BodyError."""
        if self._is_whole:
            return await self._receive()
        started = time.perf_counter()
        left = self._seconds + self._size / LEAST_BYTES_PER_SECOND - self._waited
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except TimeoutError:
            raise BodyError(
                408, f"the body comes too slowly: {self._size:,} bytes were all that came in time"
            ) from None
        self._waited += time.perf_counter() - started
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise BodyError(413, f"the body is longer than {self._limit:,} bytes")
        self._is_whole = not message.get("more_body", False)
        return message


def _completed(headers: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those it must have; what the route set stays."""
    given = {bytes(name).lower() for name, _ in headers}
    added = {**HEADERS, "x-request-id": request_id}
    return [
        *headers,
        *((name.encode(), value.encode()) for name, value in added.items() if name.encode() not in given),
    ]


def _is_own_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that our own page asks; one too old to say names the origin, or is refused."""
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    scheme, _, host = headers.get("origin", "").partition("://")
    return scheme in {"http", "https"} and bool(host) and host == headers.get("host")

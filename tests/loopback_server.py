"""A server on the loopback device that says what a test tells it to, byte by byte, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

ONE_MODEL = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: Any


class Connection:
    """What a play writes to."""

    def __init__(self, sock: socket.socket, request: Request, stopping: threading.Event) -> None:
        self._sock, self.request, self._stopping = sock, request, stopping

    def send(self, content: bytes) -> None:
        self._sock.sendall(content)

    def hang(self, seconds: float = 30) -> None:
        """Until the server goes away, at most."""
        self._stopping.wait(seconds)

    def is_closed_by_peer(self, seconds: float = 5) -> bool:
        self._sock.settimeout(seconds)
        try:
            return self._sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def response(content: object, *, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """A whole response; what is neither bytes nor text is sent as JSON."""
    body = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    lines = [f"HTTP/1.1 {status} Because", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"


def delta(text: str | None = None, *, finish: str | None = None, **more: object) -> str:
    """A piece of an answer."""
    inner = {"role": "assistant"} if text is None else {"content": text}
    return json.dumps({"choices": [{"index": 0, "delta": inner | more, "finish_reason": finish}]})


def usage(prompt: int, answer: int, **more: object) -> str:
    return json.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": answer, **more}})


def events(*data: str) -> bytes:
    return "".join(f"data: {each}\n\n" for each in data).encode()


def answer(*texts: str, finish: str = "stop", prompt: int = 7) -> bytes:
    """A well-behaved stream."""
    pieces = [delta(), *map(delta, texts), delta(finish=finish), usage(prompt, len(texts)), "[DONE]"]
    return STREAM + events(*pieces)


class LoopbackServer:
    """Answers GET with `models` and each POST with the next play, the last one again and again.

    A play is the bytes to send, or a function of a Connection.
    """

    def __init__(self, *plays: Any, models: Any = ONE_MODEL) -> None:
        self._plays = plays
        self._models = models if isinstance(models, bytes) else response(models)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.asked: list[Request] = []
        self.looked_up: list[Request] = []
        self.busy = self.busiest = 0
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, ValueError):  # a client that went away is part of the play
                    server._handle(self)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.request_queue_size = 64  # more than come at once: one too many can be lost without a word
        self._server.block_on_close = False

    def __enter__(self) -> Self:
        self._server.server_bind()
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _handle(self, handler: socketserver.StreamRequestHandler) -> None:
        method, path, _ = handler.rfile.readline().decode().split(" ", 2)
        headers = {}
        while line := handler.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        request = Request(path, headers, json.loads(body) if body else None)
        if method == "GET":
            self.looked_up.append(request)
            handler.connection.sendall(self._models)
            return
        with self._lock:
            self.asked.append(request)
            play = self._plays[min(len(self.asked), len(self._plays)) - 1]
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            if isinstance(play, bytes):
                handler.connection.sendall(play)
            else:
                play(Connection(handler.connection, request, self._stopping))
        finally:
            with self._lock:
                self.busy -= 1

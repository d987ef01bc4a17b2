"""How `rag serve` begins and ends, in real processes: what it says and where, its token, its port, its signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback_server import STREAM, LoopbackServer, delta, events
from serving import FERRY_QUESTION, TOKEN

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60
SERVE = (sys.executable, "-m", "app", "serve")
CLOSED_STDIN = (sys.executable, "-c", "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])")


class Process:
    """`rag serve`, what it has said, and how to talk to it once it listens."""

    def __init__(self, command: tuple[str, ...], environ: dict[str, str], folder: Path) -> None:
        self._popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environ
        )
        self._said: list[str] = []
        self._news = threading.Condition()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        for line in self._popen.stderr:
            with self._news:
                self._said.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def said(self) -> str:
        return "".join(self._said)

    def line(self, start: str) -> str:
        """The first line on standard error that begins so, without its beginning; it may be still to come."""

        def found() -> str | None:
            return next((line.removeprefix(start).strip() for line in self._said if line.startswith(start)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._popen.poll() is not None, PATIENCE)
        line = found()
        assert line is not None, self.said
        return line

    @property
    def port(self) -> int:
        return int(self.line("http://127.0.0.1:").rstrip("/"))

    def client(self, token: str = TOKEN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=PATIENCE)

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status, standard output."""
        output = self._popen.stdout.read()
        status = self._popen.wait(PATIENCE)
        self._listening.join(PATIENCE)
        return status, output

    def dispose(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._listening.join(PATIENCE)
        self._popen.stdout.close()
        self._popen.stderr.close()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path, model_cache, encoder) -> Iterator[Start]:
    """Starts `rag serve` as a user with a home of their own; settings are RAG_ variables without their prefix."""
    del encoder  # converted by now, and found in the cache
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "RAG_CACHE": str(model_cache)}
    with ExitStack() as started:

        def run(*flags: object, before: tuple[str, ...] = (), **settings: str) -> Process:
            environ = home | {f"RAG_{name.upper()}": value for name, value in settings.items()}
            process = Process((*before, *SERVE, *map(str, flags)), environ, tmp_path)
            started.callback(process.dispose)
            return process

        yield run


def refuses(port: int) -> bool:
    """Whether nobody listens there any more, at last."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
    return False


def test_beginning(start, index_copy):
    """The token once, the port that was found, logs on standard error without a word of what was asked."""
    first = start("--index", index_copy, "--port", 0)
    token = first.line("token: ")
    second = start("--index", index_copy, "--port", 0, before=CLOSED_STDIN)  # over the same index
    assert second.line("the token is in ").startswith(str(index_copy.parent))
    assert "token: " not in second.said
    assert token not in second.said
    assert start("--show-token").end() == (0, f"{token}\n")

    taken = start("--index", index_copy, "--port", first.port)
    assert taken.end() == (1, "")
    assert f"port {first.port}" in taken.said
    assert "--port" in taken.said
    assert "Traceback" not in taken.said

    assert first.port != second.port
    for process, number in ((first, signal.SIGINT), (second, signal.SIGTERM)):
        with process.client(token) as client:
            answer = client.post("/api/ask", json={"question": FERRY_QUESTION})
            assert "pier seven" in answer.json()["answer"]
            assert client.get("/readyz").status_code == 200
        process.send(number)
        assert process.end() == (0, "")
        assert answer.headers["x-request-id"] in process.said
        assert "ferry" not in process.said.casefold()
        assert "Traceback" not in process.said


def test_without_an_index_until_there_is_one(start, small_index, tmp_path):
    server = start("--index", tmp_path / "later", "--port", 0, token=TOKEN)
    with server.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.post("/api/ask", json={"question": FERRY_QUESTION}).json()["error"]["code"] == "no-index"
        shutil.copytree(small_index, tmp_path / "later")
        assert client.post("/api/ask", json={"question": FERRY_QUESTION}).json()["citations"]
    server.send(signal.SIGINT)
    assert server.end() == (0, "")


class Slow:
    """A language model's server that begins an answer, and ends it when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, connection: Any) -> None:
        connection.send(STREAM + events(delta("The ferry leaves ")))
        assert self.go_on.wait(PATIENCE)
        connection.send(events(delta("from pier seven at dusk [1]."), delta(finish="stop"), "[DONE]"))


@contextmanager
def answering(start: Start, index: Path, model: Slow) -> Iterator[tuple[Process, Iterator[str]]]:
    """A server that has begun to answer, and the lines of its answer that are still to come."""
    with LoopbackServer(model) as backend:
        server = start("--index", index, "--port", 0, token=TOKEN, reader="server", server_url=backend.url)
        body = {"question": FERRY_QUESTION, "stream": True}
        try:
            with server.client() as client, client.stream("POST", "/api/ask", json=body) as answer:
                lines = answer.iter_lines()
                with closing(lines):
                    assert any(line == "event: written" for line in lines)  # takes those before it
                    yield server, lines
        finally:
            model.go_on.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_what_was_asked_be_answered(start, index_copy, number):
    model = Slow()
    with answering(start, index_copy, model) as (server, lines):
        server.send(number)
        assert refuses(server.port)
        model.go_on.set()
        rest = list(lines)
        assert rest[-3] == "event: answered"
        answer = json.loads(rest[-2].removeprefix("data: "))
        assert (answer["answer"], answer["abstained"]) == ("The ferry leaves from pier seven at dusk [1].", False)
        assert server.end() == (0, "")
        assert "Traceback" not in server.said


def test_a_second_signal_ends_it_at_once(start, index_copy):
    with answering(start, index_copy, Slow()) as (server, lines):
        server.send(signal.SIGTERM)
        assert refuses(server.port)
        server.send(signal.SIGTERM)
        assert server.end() == (128 + signal.SIGTERM, "")
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)

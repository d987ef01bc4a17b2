"""A real server that is killed in the middle of uploads has lost nothing it acknowledged; one that is ended says so."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import LIBRARY, TOKEN, events_of

ROUNDS = 30 if os.environ.get("RAG_STRESS") else 2
UPLOADERS = 4


class Process:
    """`rag serve` over an index, and a client of it."""

    def __init__(self, index: Path, cache: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app", "serve", "--index", str(index), "--device", "cpu", "--port", "0"],
            cwd=index.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(index.parent), "RAG_TOKEN": TOKEN, "RAG_CACHE": str(cache)},
            stderr=subprocess.PIPE,
            text=True,
        )
        url = next((found[0] for line in self._process.stderr if (found := re.search(r"http://[\d.:]+", line))), None)
        assert url, "the server does not start"
        self._log = threading.Thread(target=self._process.stderr.read)  # or it would fill up and stop the server
        self._log.start()
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        self.client.get("/healthz", timeout=60)  # listens already, answers once it has started

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def end(self, number: int) -> int:
        self._process.send_signal(number)
        status = self._process.wait(60)
        self._log.join()  # every process that writes to it has ended
        self._process.stderr.close()
        return status


def upload_until_killed(server: Process, uploader: int, chance: random.Random, enough: threading.Event):
    """name -> digest of what was acknowledged last, and of what was under way when the server died."""
    acknowledged: dict[str, str] = {}
    for number in range(10_000):
        name = f"{uploader}-{chance.randrange(12)}.txt"
        text = f"Uploader {uploader} wrote sentence {number} 号: {chance.random()}."
        data = text.encode() + b"\n" * chance.choice([1, 300_000])
        digest = hashlib.sha256(data).hexdigest()
        try:
            answer = server.client.post("/api/documents", params={"name": name}, content=data)
        except httpx.TransportError:
            return acknowledged, (name, digest)
        assert answer.status_code == 202
        assert answer.json()["sha256"] == digest
        acknowledged[name] = digest
        if number >= 3:
            enough.set()
    raise AssertionError("the server was not killed")


def require_kept(server: Process, expected: dict[str, set[str]]) -> None:
    """Every acknowledged file is in the index, once what was left over has been ingested."""
    for job in server.client.get("/api/ingest").json()["jobs"]:
        name, record = events_of(server.client.get(f"/api/ingest/{job['job']}/events"))[-1]
        assert name == "done", record
    found = server.client.get("/api/documents", params={"limit": 1000}).json()
    hashes = {row["source"]: row["content_hash"] for row in found["documents"] if row["uploaded"]}
    assert found["failures"] == []
    for name, digests in expected.items():
        assert hashes[name] in digests, name


@pytest.fixture
def start(index_copy, model_cache) -> Iterator[Callable[[], Process]]:
    """Starts the server over one index, again and again; whatever happens, none of them is left running."""
    started: list[Process] = []

    def start_one() -> Process:
        started.append(Process(index_copy, model_cache))
        return started[-1]

    yield start_one
    for each in started:
        each.client.close()
        if each.is_running:
            each.end(signal.SIGKILL)


@pytest.mark.timeout(150 * ROUNDS)
def test_a_kill_in_an_upload_loses_nothing_that_was_acknowledged(start, index_copy):
    uploads = index_copy.with_name("index-uploads")
    chance = random.Random(7)  # noqa: S311 - reproducible, as far as threads are
    expected: dict[str, set[str]] = {}
    server = start()
    for _ in range(ROUNDS):
        enough, seeds = threading.Event(), [chance.random() for _ in range(UPLOADERS)]
        with ThreadPoolExecutor(UPLOADERS) as threads:
            uploading = [
                threads.submit(upload_until_killed, server, number, random.Random(seed), enough)  # noqa: S311
                for number, seed in enumerate(seeds)
            ]
            assert enough.wait(60)
            threading.Event().wait(chance.uniform(0, 1))  # a random moment: in a write, in an ingest, at its end
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            ends = [each.result() for each in uploading]
        for acknowledged, (name, digest) in ends:
            expected |= {each: {kept} for each, kept in acknowledged.items()}
            if name in expected:
                expected[name] |= {digest}  # it may have taken its place, and not been acknowledged
        server = start()
        require_kept(server, expected)
        assert not [path for path in uploads.iterdir() if path.name.startswith(".")]
    assert server.end(signal.SIGTERM) in {0, -signal.SIGTERM}


def test_an_end_lets_go_of_those_who_follow_an_ingest(start, index_copy):
    """SIGTERM while documents are read: the events end, the ingest keeps what is complete, the next start goes on."""
    server = start()
    text = "\n\n".join(f"{number}. {LIBRARY['ferry.md']}" for number in range(1000)).encode()
    job = server.client.post("/api/documents", params={"name": "long.md"}, content=text).json()["job"]
    with server.client.stream("GET", f"/api/ingest/{job}/events") as events:
        lines = events.iter_lines()
        assert any(line == "event: progress" for line in lines)
        ending = threading.Thread(target=server.end, args=[signal.SIGTERM])
        ending.start()
        assert not any(line in {"event: done", "event: failed"} for line in lines)
    ending.join()
    server = start()
    (left,) = server.client.get("/api/ingest").json()["jobs"]
    assert left["paths"] == [str(index_copy.with_name("index-uploads"))]
    assert server.end(signal.SIGINT) in {0, -signal.SIGINT, 130}

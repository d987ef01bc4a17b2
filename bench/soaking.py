"""A server under everything at once: many users who also hang up, ingests and a deletion in between.

Every citation is compared with the versions of its document that may be seen; the server's memory is watched. Seeded;
which request meets which state is up to the machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.http_client import Client, Reply
from bench.serving import Running, questions, sample_index, server
from bench.table import Table

REQUESTS, CLIENTS = 20_000, 64
_WARM = 500
_WINDOW = 1_000
_HANG_UPS = 0.1
_PATIENCE = 0.3
"""Seconds, at most, after which somebody hangs up."""
_KINDS = {
    "ask": 40,
    "ask, streamed": 20,
    "search": 15,
    "chat": 8,
    "chat, streamed": 7,
    "index": 5,
    "page": 5,
}
"""Kind of request -> its weight."""

Texts = Mapping[str, str]


@dataclass(slots=True)
class States:
    """The library as it was and is: source -> text, one mapping a state. Readers see one that was not over yet."""

    texts: list[Texts]
    over: int = 0

    def since(self, first: int) -> Sequence[Texts]:
        """What may have been seen by a request during which `first` were over when it began."""
        return self.texts[first:]


@dataclass(slots=True)
class Found:
    """What came of the requests."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, int]] = field(default_factory=list)
    done: int = 0
    hung_up: int = 0
    citations: int = 0
    changes: list[str] = field(default_factory=list)

    def growth(self) -> tuple[float, float]:
        """Mean resident bytes during the first thousand requests after the warm-up, and during the last."""
        first = [size for done, size in self.memory if _WARM <= done < _WARM + _WINDOW]
        last = [size for done, size in self.memory if done >= self.done - _WINDOW]
        return sum(first) / max(1, len(first)), sum(last) / max(1, len(last))


def run(requests: int = REQUESTS, clients: int = CLIENTS, *, seed: int = 0) -> Table:
    """Soak a server over the sample index."""
    with TemporaryDirectory() as work:
        folder = Path(work)
        with sample_index(folder) as pipeline:
            english = questions(pipeline, 2_000, seed=seed)
        asked = [*english, *(f"“{' '.join(question.split()[5:8])}”是什么意思？" for question in english[::10])]
        files = sorted((folder / "documents").glob("*.txt"))
        states = States([{file.name: file.read_text(encoding="utf-8") for file in files}])
        started = time.perf_counter()
        with server(folder / "index", folder) as running, _progress(requests) as report:
            soak = _Soak(running, states, asked, random.Random(seed), report)  # noqa: S311 - not for secrets
            asyncio.run(soak.run(requests, clients))
        log = (folder / "server.log").read_text(encoding="utf-8").splitlines()
        soak.found.problems.update(line.split(" ", 2)[2] for line in log if " ERROR " in line)
        return _table(soak.found, clients, time.perf_counter() - started)


class _Soak:
    def __init__(
        self,
        running: Running,
        states: States,
        asked: Sequence[str],
        chance: random.Random,
        report: Callable[[int], None],
    ) -> None:
        self._running, self._states, self._asked, self._chance, self._report = running, states, asked, chance, report
        self.found = Found()

    async def run(self, requests: int, clients: int) -> None:
        """All requests, and what changes the library at 30, 50 and 70 per cent of them."""
        left = iter(range(requests))
        watching = asyncio.ensure_future(self._watch())
        changing = asyncio.ensure_future(self._change_all(requests))
        try:
            await asyncio.gather(*(self._user(left) for _ in range(clients)))
            await changing
        finally:
            for task in (watching, changing):
                task.cancel()
            await asyncio.gather(watching, changing, return_exceptions=True)

    async def _user(self, left: Iterator[int]) -> None:
        async with self._client() as client:
            for _ in left:
                kind = self._chance.choices(list(_KINDS), list(_KINDS.values()))[0]
                method, path, record = self._request(kind)
                try:
                    if self._chance.random() < _HANG_UPS:
                        await self._hang_up(client, method, path, record)
                    else:
                        await self._look(client, kind, method, path, record)
                except (OSError, EOFError, ValueError) as error:
                    client.hang_up()
                    self.found.problems[f"{kind}: {type(error).__name__} {error}"] += 1
                self.found.done += 1
                self._report(self.found.done)

    def _request(self, kind: str) -> tuple[str, str, dict[str, Any] | None]:
        question, streamed = self._chance.choice(self._asked), kind.endswith("streamed")
        messages = [{"role": "user", "content": question}]
        match kind.partition(",")[0]:
            case "ask":
                return "POST", "/api/ask", {"question": question, "stream": streamed}
            case "search":
                return "POST", "/api/search", {"question": question}
            case "chat":
                return "POST", "/v1/chat/completions", {"model": "rag", "messages": messages, "stream": streamed}
            case "index":
                return "GET", "/api/index", None
        return "GET", "/", None

    async def _hang_up(self, client: Client, method: str, path: str, record: Mapping[str, object] | None) -> None:
        """Send a part or all of it, wait for a moment, and go."""
        whole = self._chance.random() < 0.8
        await client.send(method, path, record, share=1.0 if whole else self._chance.random())
        await asyncio.sleep(self._chance.uniform(0, _PATIENCE))
        client.hang_up()
        self.found.hung_up += 1

    async def _look(
        self, client: Client, kind: str, method: str, path: str, record: Mapping[str, object] | None
    ) -> None:
        over = self._states.over
        reply = await client.ask(method, path, record)
        self.found.statuses[kind, reply.status] += 1
        self.found.seconds.append(reply.seconds)
        if reply.status != 200:
            self.found.problems[f"{kind}: status {reply.status}"] += 1
            return
        for citation in _citations(kind, reply):
            self.found.citations += 1
            if problem := _problem(citation, self._states.since(over)):
                self.found.problems[f"{kind}: {problem}"] += 1

    async def _change_all(self, requests: int) -> None:
        for share, change in ((0.3, self._revise), (0.5, self._remove), (0.7, self._revise)):
            while self.found.done < share * requests:
                await asyncio.sleep(0.05)
            began = self.found.done
            async with self._client() as client:
                try:
                    said = await change(client)
                except (OSError, EOFError, LookupError, ValueError) as error:
                    said = "a change that failed"
                    self.found.problems[f"{change.__name__}: {type(error).__name__} {error}"] += 1
            self._states.over = len(self._states.texts) - 1
            self.found.changes.append(f"{said} while {self.found.done - began} were answered")

    async def _revise(self, client: Client) -> str:
        """New first lines in twenty documents, so that all of their offsets change; read again."""
        texts = dict(self._states.texts[-1])
        for name in self._chance.sample(sorted(texts), 20):
            texts[name] = f"Revision {self._chance.randrange(10**9)} of this page, 第二版。\n\n{texts[name]}"
        self._states.texts.append(texts)  # it may be seen from now on
        for name, text in texts.items():
            await asyncio.to_thread((self._folder / name).write_text, text, encoding="utf-8")
        job = (await client.ask("POST", "/api/ingest", {})).record()["job"]
        events = list((await client.ask("GET", f"/api/ingest/{job}/events")).events())
        name, report = events[-1]
        if name != "done":
            self.found.problems[f"the ingest {name}: {report}"] += 1
        return "ingest of 20 changed documents"

    async def _remove(self, client: Client) -> str:
        """One of the documents that are cited, and its file: an ingest must not bring it back."""
        texts = dict(self._states.texts[-1])
        name = self._chance.choice(sorted(texts))
        del texts[name]
        self._states.texts.append(texts)
        (self._folder / name).unlink()
        listed = (await client.ask("GET", f"/api/documents?q={name}")).record()["documents"]
        doc_id = next(row["doc_id"] for row in listed if row["source"] == name)
        reply = await client.ask("DELETE", f"/api/documents/{doc_id}")
        if reply.status != 200:
            self.found.problems[f"the deletion: status {reply.status}"] += 1
        return "deletion of a document"

    async def _watch(self) -> None:
        statm = Path(f"/proc/{self._running.process}/statm")
        while True:
            pages = int(statm.read_text(encoding="ascii").split()[1])
            self.found.memory.append((self.found.done, pages * resource.getpagesize()))
            await asyncio.sleep(0.1)

    def _client(self) -> Client:
        return Client(self._running.port, self._running.token)

    @property
    def _folder(self) -> Path:
        return self._running.folder / "documents"


def _citations(kind: str, reply: Reply) -> list[dict[str, Any]]:
    """Of an answer in any of its forms. Raises ValueError where a stream ends without one."""
    match kind:
        case "ask":
            return list(reply.record()["citations"])
        case "chat":
            return list(reply.record()["choices"][0]["message"]["citations"])
        case "ask, streamed":
            name, record = list(reply.events())[-1]
            if name != "answered":
                raise ValueError(f"the stream ended with {name}: {json.dumps(record)[:300]}")
            return list(record["citations"])
        case "chat, streamed":
            deltas = [choice["delta"] for _, record in reply.events() for choice in record.get("choices", ())]
            return next(delta["citations"] for delta in reversed(deltas) if "citations" in delta)
    return []


def _problem(citation: Mapping[str, Any], states: Sequence[Texts]) -> str:
    """What is wrong with a citation; nothing where one of the states bears it out."""
    versions = [texts[citation["source"]] for texts in states if citation["source"] in texts]
    if not versions:
        return "cites a document that is not there"
    if not any(text[citation["start"] : citation["end"]] == citation["quote"] for text in versions):
        return "a quote is not what stands in its document"
    return ""


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console

    from app.cli.progress import Reporter
    from ingest.records import Progress

    with Reporter(Console(stderr=True)) as report:
        yield lambda done: report(Progress("soaking", done, total, "requests"))


def _table(found: Found, clients: int, seconds: float) -> Table:
    first, last = found.growth()
    times = sorted(found.seconds)
    p50, p99 = (f"{times[int(share * len(times))]:.2f} s" for share in (0.5, 0.99))
    by_status = Counter[int]()
    for (_, status), count in found.statuses.items():
        by_status[status] += count
    rows = [
        ("statuses", ", ".join(f"{count:,} with {status}" for status, count in sorted(by_status.items())), "no 5xx"),
        ("hang-ups", f"{found.hung_up:,}", ""),
        ("latency", f"p50 {p50}, p99 {p99}", ""),
        ("citations compared", f"{found.citations:,}", "all exact"),
        ("meanwhile", "; ".join(found.changes), "two ingests, one deletion"),
        (
            "memory, first and last thousand",
            f"{first / 1e6:.0f} MB, {last / 1e6:.0f} MB: {100 * (last / max(1.0, first) - 1):+.1f}%",
            "at most +5%",
        ),
        ("problems", "; ".join(f"{n}x {what}" for what, n in found.problems.most_common(10)) or "none", "none"),
    ]
    mix = ", ".join(f"{kind} {weight}%" for kind, weight in _KINDS.items())
    return Table(
        f"Soak: {found.done:,} requests of {clients} users in {seconds:,.0f} s",
        ("what", "found", "goal"),
        rows,
        f"{mix}. One in ten hangs up, after a part of its request or within {_PATIENCE:g} s of it. A citation must"
        " stand in a version of its document that was live at some time during the request.",
    )

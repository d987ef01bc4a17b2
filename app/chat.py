"""Conversations: what was asked and answered, kept on disk, and follow-up questions in their light.

A conversation is one JSON file, written whole and put in place at once. Knows files and the pipeline; prints nothing.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reader.records import Turn
from retrieval.errors import ConfigError, RagError

if TYPE_CHECKING:
    from app.pipeline import Pipeline
    from reader.records import Answer

MAX_BYTES = 20_000_000
VERSION = 1
_NAME = re.compile(r"[\w][\w.-]{0,63}")
_MARKER = re.compile(r"(?<!\s)\s*\[\d{1,3}\]")  # from the first space on: else every space of many would be a beginning


@dataclass(frozen=True, slots=True)
class Source:
    """What an answer cited: the place and the words."""

    marker: int
    source: str
    line: int
    page: int | None
    quote: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question as it was `asked`, as it was understood (`question`), and its answer."""

    asked: str
    question: str
    answer: str
    abstained: bool
    sources: tuple[Source, ...] = ()


class Conversation:
    """Exchanges in order, under a name. Every exchange is on disk before the next one begins."""

    def __init__(self, folder: Path, name: str, exchanges: list[Exchange]) -> None:
        self.folder, self.name, self.exchanges = folder, name, exchanges
        self._stamp = self._kept()

    @classmethod
    def open(cls, folder: Path, name: str) -> Conversation:
        """The conversation of a name, empty where there is none yet. Raises ConfigError, RagError."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot name a conversation; expected up to 64 letters, digits, '-', '_' and '.', the first"
                " one no '.'"
            )
        try:
            with (folder / f"{name}.json").open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return cls(folder, name, [])
        if len(data) > MAX_BYTES:
            raise RagError(f"the conversation '{name}' takes more than {MAX_BYTES:,} bytes; begin another one")
        return cls(folder, name, _read(name, data))

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return self.folder / f"{self.name}.json"

    @property
    def turns(self) -> list[Turn]:
        """What a reader is told of it."""
        return [Turn(each.question, without_markers(each.answer)) for each in self.exchanges]

    def add(self, exchange: Exchange) -> None:
        """Add an exchange and save. Raises RagError where another process has added to the file meanwhile."""
        if self._kept() != self._stamp:
            raise RagError(
                f"the conversation '{self.name}' goes on in another process; begin another one with --session"
            )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = {"version": VERSION, "exchanges": [asdict(each) for each in (*self.exchanges, exchange)]}
        beside = self.file.with_suffix(f".{os.getpid()}.part")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.file)
        self._stamp = self._kept()
        self.exchanges.append(exchange)

    def _kept(self) -> tuple[int, int] | None:
        """What tells one state of the file from another."""
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino

    def ask(
        self, pipeline: Pipeline, asked: str, *, note: Callable[[str], None] = lambda _: None
    ) -> Generator[str, None, Answer]:
        """Answer in the light of what was said, piece by piece, and keep the exchange.

        note: told how the question was understood, where it was changed.
        """
        question = pipeline.understand(asked, self.turns)
        if question != asked:
            note(question)
        answer = yield from pipeline.ask_stream(question, history=self.turns)
        sources = tuple(Source(each.marker, each.source, each.line, each.page, each.quote) for each in answer.citations)
        self.add(Exchange(asked, question, answer.text, answer.abstained, sources))
        return answer


def without_markers(answer: str) -> str:
    """An answer without its [n]: they point at the passages of its own prompt, not at those of the next one."""
    return _MARKER.sub("", answer)


def new_name() -> str:
    """A name that sorts by time and is nobody else's."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def conversations(folder: Path) -> list[str]:
    """Names of the conversations that are kept, the latest first."""
    files = [file for file in folder.glob("*.json") if file.is_file()] if folder.is_dir() else []
    return [file.stem for file in sorted(files, key=lambda file: -file.stat().st_mtime)]


def _read(name: str, data: bytes) -> list[Exchange]:
    try:
        record = json.loads(data)
        if record["version"] != VERSION:
            raise RagError(
                f"the conversation '{name}' has format {record['version']!r}, this release reads {VERSION}; begin"
                " another one"
            )
        return [_exchange(each) for each in record["exchanges"]]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RagError(
            f"the conversation '{name}' is damaged ({type(error).__name__}: {error}); begin another one"
        ) from error


def _exchange(record: dict[str, object]) -> Exchange:
    """Checked as far as it will be used: texts are texts, numbers are numbers."""
    fields = {**record, "sources": tuple(Source(**each) for each in record["sources"])}  # type: ignore[attr-defined]
    made = Exchange(**fields)  # type: ignore[arg-type]
    texts = [
        made.asked,
        made.question,
        made.answer,
        *(text for one in made.sources for text in (one.source, one.quote)),
    ]
    numbers = [number for one in made.sources for number in (one.marker, one.line, one.page or 0)]
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("a text or a number expected")
    return made

"""What an ingest run reports: counts, failures, what was skipped and why. No behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retrieval.records import Failure

Place = tuple[str, str]
"""(root, source) of a document, a file or a failure."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder left aside on purpose (ignored, hidden, a link out of the root), with the reason."""

    root: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long job is. `stage` is for people; `done` and `total` count `unit`s; total None = not known yet."""

    stage: str
    done: int
    total: int | None
    unit: str


Report = Callable[[Progress], None]
"""Called often during a long job; must be cheap."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest run did. `missing` are sources gone from disk and kept; `pruned` the ones removed."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: int
    missing: tuple[str, ...]
    pruned: tuple[str, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Skipped, ...]
    chunks: int
    embedded: int
    duplicates: int
    tokens: int
    seconds: float
    interrupted: bool = False

"""What a reader gives back: Answer with its Citations. Offsets are Unicode code points in the parsed document text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from retrieval.records import Hit


@dataclass(frozen=True, slots=True)
class Citation:
    """A quote from a source, `quote == document.text[start:end]`. `marker` is the n of [n] in the answer.

    `line` and `page` count from 1 (`page` is None in documents without pages); `heading` is outermost first.
    """

    marker: int
    chunk_id: str
    doc_id: str
    source: str
    start: int
    end: int
    quote: str
    line: int
    page: int | None
    heading: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """Which reader answered, with which model."""

    name: str
    model: str


@dataclass(frozen=True, slots=True)
class PromptInfo:
    """The prompt a language model was given: its name, fingerprint, length in tokens, and the hits left out."""

    name: str
    sha256: str
    tokens: int
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A word of the question and the word of a cited quote that matched it best.

    Offsets are into the question and the document; `weight` is the word's share of the score, `similarity` in [0, 1].
    """

    marker: int
    question_start: int
    question_end: int
    start: int
    end: int
    weight: float
    similarity: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or an abstention (`abstained`): `text` then says so, and there are no citations.

    `evidence` in [0, 1]: how sure the reader is that the hits hold an answer. `matches` explain the score by word.
    """

    question: str
    text: str
    abstained: bool
    citations: tuple[Citation, ...]
    hits: tuple[Hit, ...]
    reader: ReaderInfo
    prompt: PromptInfo | None = None
    evidence: float = 0.0
    matches: tuple[WordMatch, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

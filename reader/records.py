"""What a reader gives back: Answer with its Citations. Offsets are Unicode code points in the parsed document text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from retrieval.records import Hit

Label = Literal["supported", "unsupported", "contradicted-number", "uncited"]
"""What checking a sentence against its sources found; "uncited": it names none, and none supports it."""

AbstentionReason = Literal["evidence", "model", "verification"]
"""Too little evidence to ask a model; the model's own refusal; or nothing that the model wrote is supported."""


LEAST_SUPPORT = 0.2
"""Below it nothing speaks for a sentence: an answer of such sentences is withdrawn. From .5 on one is supported."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A quote from a source, `quote == document.text[start:end]`. `marker` is the n of [n] in the answer.

    `line`, `page` and `slide` count from 1; `page`, `slide`, `sheet` (a name) and `row` are None where a document has
    none. `heading` is outermost first.
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
    slide: int | None = None
    sheet: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a written answer, `answer.text[start:end]`, its markers included, and what checking it found.

    markers: the passages it cites. added: they were not the model's own but found to support the sentence. support:
    [0, 1], how well the cited passages bear it out together; None where there was nothing to check it against.
    alone: the same for each marker by itself. instead: a passage that bears it out where those it cites do not.
    without: the same by the other markers, for each; empty where it cites fewer than two. citations: for each marker,
    where its quote stands among the answer's citations, from 0.
    """

    start: int
    end: int
    markers: tuple[int, ...]
    label: Label
    support: float | None
    added: bool = False
    alone: tuple[float, ...] = ()
    instead: int | None = None
    without: tuple[float, ...] = ()
    citations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """Which reader answered, with which model."""

    name: str
    model: str


@dataclass(frozen=True, slots=True)
class PromptInfo:
    """The prompt a language model was given: its name, fingerprint, and length in the model's own tokens.

    dropped: chunk_ids of the hits that are not in it: those it had no room for, and where prompts are compressed those
    without a sentence that matters (`beside_the_point`). cut: of those that room ended in. saved_tokens: of the
    sentences that compression left out of the others.
    """

    name: str
    sha256: str
    tokens: int
    dropped: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    saved_tokens: int = 0
    beside_the_point: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What the language model itself wrote, before markers were resolved.

    complete: False where the answer was cut at its longest. removed_markers: numbers of passages it was never shown.
    reused_tokens: of the prompt, not read again because the prompt before began with them.
    """

    text: str
    tokens: int
    complete: bool = True
    removed_markers: tuple[int, ...] = ()
    reused_tokens: int = 0


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
    """An answer, or an abstention (`abstained`, and why): `text` then says so, and there are no citations.

    `evidence` in [0, 1]: how sure the reader is that the hits hold an answer. `matches` explain the score by word.
    A language model's answer has `sentences`, each checked, and its own words in `written`; a marker then is the number
    of a hit, and each sentence that cites one has a citation of its own.
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
    abstention: AbstentionReason | None = None
    sentences: tuple[Sentence, ...] = ()
    written: Written | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question of a conversation, as it can be understood alone, and the answer it was given."""

    question: str
    answer: str

"""The records of an evaluation: Example, Claim, Dataset, Outcome, Prediction, Judged, Score. No behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from reader.records import Answer, Citation, Sentence, Turn
from retrieval.records import Document, Hit

Section = Literal["retrieval", "answer", "abstention", "citations", "judge"]
SECTIONS: tuple[Section, ...] = get_args(Section)

Stage = Literal[
    "not in index",
    "not retrieved",
    "lost in fusion",
    "lost in re-ranking",
    "cut from the prompt",
    "wrongly abstained",
    "reader missed it",
    "citation wrong",
    "answered without an answer in the documents",
    "failed",
    "wrong",
]
"""Which part of the product a lost question was lost in, in the order that data flows; "failed": an error was met;
"wrong": nothing that was recorded says where.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers that a multiple-choice question offers."""

    text: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A question and what is known of its answer.

    answers: each of them alone is right. required: groups of spellings; an answer must hold one of every group. wrong:
    answers that are known to be wrong. relevant: source of a document -> grade, 1 or more; None where nobody judged the
    documents. evidence: stretches of documents that bear the answer out, word for word. answerable: whether the
    documents hold an answer; None where nobody knows. kind: what a set says of it, for tables by kind.
    """

    example_id: str
    question: str
    answers: tuple[str, ...] = ()
    required: tuple[tuple[str, ...], ...] = ()
    wrong: tuple[str, ...] = ()
    relevant: Mapping[str, int] | None = None
    evidence: tuple[str, ...] = ()
    answerable: bool | None = None
    choices: tuple[Choice, ...] = ()
    history: tuple[Turn, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement, the passages it is said to follow from, and whether people found that it does."""

    claim_id: str
    text: str
    passages: tuple[str, ...]
    supported: bool
    question: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is asked, in the order of its files, and the documents it brings along; none where it is asked of an index.

    sha256: of everything that was read, hexadecimal. notes: what a person should know of the reading, a line each.
    """

    name: str
    path: Path
    sha256: str
    examples: tuple[Example, ...] = ()
    claims: tuple[Claim, ...] = ()
    documents: tuple[Document, ...] = ()
    notes: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A passage that a search looked at; ranks count from 1, None where a stage did not list it, or only a part of the
    question found it.

    sources: of the document it was found in, then of others that hold the very same text; twins: chunk_ids in those. In
    JSON it is a list of these six, not an object: a question has up to two hundred of them.
    """

    chunk_id: str
    sources: tuple[str, ...]
    dense_rank: int | None
    lexical_rank: int | None
    fused_rank: int | None
    twins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system made of one question. `answer` is None where only retrieval was asked for.

    hits: what was shown, best first. candidates: everything that was looked at, hits included. read: chunk_ids of the
    passages that the reader was given, whole or in part. choice: which choice it takes, counted from 0. error: what
    went wrong in reading what was found.
    """

    hits: tuple[Hit, ...]
    candidates: tuple[Candidate, ...]
    evidence: float | None
    timings_ms: Mapping[str, float]
    answer: Answer | None = None
    read: tuple[str, ...] = ()
    choice: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A line of predictions.jsonl: what a system answered, or `error`, what went wrong. Fields as in Outcome, Answer.

    tokens: "prompt" and "answer", where a language model was asked.
    """

    example_id: str
    question: str
    answer: str | None = None
    abstained: bool | None = None
    abstention: str | None = None
    evidence: float | None = None
    choice: int | None = None
    citations: tuple[Citation, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    hits: tuple[Hit, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    read: tuple[str, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Where a question was lost, and a sentence that says what was seen there."""

    stage: Stage
    why: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A line of questions.jsonl: a question, its gold, the value of every measure that applies, and where it was lost.

    values: "section.measure" -> value, such as "retrieval.success@1": 1.0; a measure that does not apply is absent.
    gold_passages: chunk_ids of the indexed passages that hold the answer; missing: relevant sources the index has not.
    """

    example: Example
    values: Mapping[str, float]
    lost: Lost | None = None
    gold_passages: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A measure over n questions and its 95% interval; value, low and high are None where n is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int

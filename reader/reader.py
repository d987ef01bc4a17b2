"""The Reader protocol, and what every reader says alike. Knows the records on both sides; no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from reader.records import Answer, Citation, ReaderInfo, Turn, WordMatch
from retrieval.errors import RagError
from retrieval.interaction import Interaction, Passage, Question
from retrieval.records import Document, Hit
from retrieval.retriever import Retrieved

LookUp = Callable[[str], Document]
"""doc_id -> the document, for exact quotes, lines, pages and headings."""

REFUSAL = {
    "en": "The documents do not seem to hold an answer to this question.",
    "zh": "文档中似乎没有这个问题的答案。",
}
"""The one sentence of an abstention; prompts, parsers and tests share it."""


class Reader(Protocol):
    """Answers a question from what was retrieved for it, in the light of the turns before it."""

    def read(self, retrieved: Retrieved, history: Sequence[Turn] = (), /) -> Answer:
        """An answer whose every citation is exact, or an abstention. Never an answer without evidence."""

    def stream(self, retrieved: Retrieved, history: Sequence[Turn] = (), /) -> Generator[str, None, Answer]:
        """The same, yielded as it is written. What it returns counts: checking may withdraw what was yielded."""

    def read_many(
        self, retrieved: Sequence[Retrieved], histories: Sequence[Sequence[Turn]] = (), /
    ) -> Sequence[Answer | RagError]:
        """An answer, or what is wrong with the question, for each, in order; histories: none, or one for each."""


def abstention(retrieved: Retrieved, reader: ReaderInfo) -> Answer:
    """An answer that says there is none, for want of evidence; what a reader finds is put in its place."""
    return Answer(
        question=retrieved.question.text,
        text=REFUSAL[question_language(retrieved.question.text)],
        abstained=True,
        citations=(),
        hits=retrieved.hits,
        reader=reader,
        evidence=retrieved.evidence,
        timings_ms=retrieved.timings_ms,
        abstention="evidence",
    )


def has_evidence(retrieved: Retrieved, least: float | None) -> bool:
    """Whether there is enough to try an answer: as much as asked for, or as the index is calibrated for where None."""
    return retrieved.evidence >= (retrieved.evidence_needed if least is None else least)


def word_matches(
    interaction: Interaction, question: Question, hit: Hit, passage: Passage, *, cited: Citation
) -> list[WordMatch]:
    """Which words of the question a quote of a hit answers to."""
    return [
        WordMatch(
            marker=cited.marker,
            question_start=match.question_start,
            question_end=match.question_end,
            start=hit.start + match.start,
            end=hit.start + match.end,
            weight=match.weight,
            similarity=match.similarity,
        )
        for match in interaction.matches(question, passage, (cited.start - hit.start, cited.end - hit.start))
    ]


def is_refusal(text: str) -> bool:
    """Whether an answer is, or begins with, the sentence of an abstention, in any language and however dressed."""
    return _letters(text).startswith(tuple(map(_letters, REFUSAL.values())))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def question_language(text: str) -> str:
    """`zh` where most words of a question are Chinese (of about 1.5 characters each), `en` otherwise."""
    ideographs = len(re.findall("[\u4e00-\u9fff]", text))
    other_words = len(re.findall("[^\\W\u4e00-\u9fff]+", text))
    kana = re.search("[\u3040-\u30ff]", text)
    return "zh" if ideographs and not kana and ideographs / 1.5 >= other_words else "en"

"""The reader without a language model: quotes the sentences that answer, verbatim, or abstains.

Every sentence of the best passages is scored by late interaction with the question, the passage's own score added in
part. The best one is quoted, and a second one if it is nearly as good. Knows passages and sentences; never an index.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from reader.citations import cite
from reader.reader import LookUp, abstention, has_evidence, word_matches
from reader.records import Answer, Citation, ReaderInfo, Turn, WordMatch
from reader.sentences import BLANK_LINE, announced, scores, stretches
from retrieval.interaction import Interaction
from retrieval.records import Document, Hit
from retrieval.retriever import Retrieved

# Measured on squad1_dev, xquad_en, xquad_zh and cmrc2018_dev (docs/benchmarks.md).
PASSAGES_READ = 3
MAX_SENTENCES = 2
_PASSAGE_SHARE = 0.5  # how much of its passage's score a sentence is given
_NEARLY = 0.8  # of the best sentence's score is what a second must reach; .6 finds no more answers, .88 loses 1%


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence: `hit` is a position in the hits, the span counts from the start of the hit's text.

    `says` is False for what can point at an answer but is none: headings, questions, lines without words.
    """

    score: float
    hit: int
    start: int
    end: int
    says: bool = True


class ExtractiveReader:
    """Quotes one to three sentences from the retrieved passages."""

    def __init__(
        self,
        interaction: Interaction,
        look_up: LookUp,
        *,
        min_evidence: float | None = None,
        max_sentences: int = MAX_SENTENCES,
    ) -> None:
        self._interaction, self._look_up, self._max_sentences = interaction, look_up, max_sentences
        self._min_evidence = min_evidence

    def read(self, retrieved: Retrieved, _history: Sequence[Turn] = (), /) -> Answer:
        """The best sentences, quoted with [n] markers, or an abstention where there is too little evidence."""
        answer = abstention(retrieved, ReaderInfo("extractive", "none"))
        look_up = cache(self._look_up)  # a document is read once an answer, however many of its passages are looked at
        chosen = self._choose(retrieved, look_up) if has_evidence(retrieved, self._min_evidence) else []
        if not chosen:
            return answer
        citations = tuple(
            cite(marker, look_up(retrieved.hits[one.hit].doc_id), retrieved.hits[one.hit], (one.start, one.end))
            for marker, one in enumerate(chosen, start=1)
        )
        return replace(
            answer,
            text=" ".join(f"{citation.quote} [{citation.marker}]" for citation in citations),
            abstained=False,
            abstention=None,
            citations=citations,
            matches=tuple(self._explain(retrieved, chosen, citations)),
        )

    def stream(self, retrieved: Retrieved, _history: Sequence[Turn] = (), /) -> Generator[str, None, Answer]:
        """The answer, at once: nothing is written piece by piece."""
        yield from ()
        return self.read(retrieved)

    def read_many(self, retrieved: Sequence[Retrieved], _histories: Sequence[Sequence[Turn]] = (), /) -> list[Answer]:
        """One after the other."""
        return [self.read(one) for one in retrieved]

    def _choose(self, retrieved: Retrieved, look_up: LookUp) -> list[Candidate]:
        """The sentences to quote, best first; neighbours are joined into one quote."""
        found = self._candidates(retrieved, look_up)
        ranked = sorted([one for one in found if one.says] or found, key=lambda one: -one.score)
        good: list[Candidate] = []
        for one in ranked:
            if len(good) == self._max_sentences or one.score < _NEARLY * ranked[0].score:
                break
            if not any(_same(one, other, retrieved.hits) for other in good):
                good.append(one)
        texts = [hit.text for hit in retrieved.hits]
        return [replace(one, end=announced(texts[one.hit], one.start, one.end)) for one in _joined(good, texts)]

    def _candidates(self, retrieved: Retrieved, look_up: LookUp) -> list[Candidate]:
        found = []
        read = zip(retrieved.hits[:PASSAGES_READ], retrieved.passages[:PASSAGES_READ], strict=True)
        for index, (hit, passage) in enumerate(read):
            headings = _headings(look_up(hit.doc_id), hit)
            spans = stretches(hit.text, headings)
            found_scores = scores(
                self._interaction, retrieved.question, hit, passage, spans=spans, passage_share=_PASSAGE_SHARE
            )
            for score, (start, end) in zip(found_scores.tolist(), spans, strict=True):
                says = _says(hit.text[start:end]) and not any(a <= start and end <= b for a, b in headings)
                found.append(Candidate(score, index, start, end, says))
        return found

    def _explain(
        self, retrieved: Retrieved, chosen: Sequence[Candidate], citations: Sequence[Citation]
    ) -> Iterator[WordMatch]:
        for one, citation in zip(chosen, citations, strict=True):
            hit, passage = retrieved.hits[one.hit], retrieved.passages[one.hit]
            yield from word_matches(self._interaction, retrieved.question, hit, passage, cited=citation)


def _headings(document: Document, hit: Hit) -> list[tuple[int, int]]:
    """Where headings stand in a hit's text. In source code they are lines like others."""
    if document.media_type == "text/x-python":
        return []
    return [
        (max(0, span.start - hit.start), min(len(hit.text), span.end - hit.start))
        for span in document.spans
        if span.kind == "heading" and span.start < hit.end and span.end > hit.start
    ]


def _says(sentence: str) -> bool:
    """Whether a sentence can be an answer by itself: it has words and asks nothing."""
    return sum(map(str.isalnum, sentence)) > 1 and not sentence.rstrip("*_`\"'”’)）」』").endswith(("?", "？"))


def _same(one: Candidate, other: Candidate, hits: Sequence[Hit]) -> bool:
    """Whether two candidates quote the same: chunks overlap, and documents repeat one another."""
    left, right = hits[one.hit], hits[other.hit]
    if left.text[one.start : one.end] == right.text[other.start : other.end]:
        return True
    if left.doc_id != right.doc_id:
        return False
    return left.start + one.start < right.start + other.end and right.start + other.start < left.start + one.end


def _joined(chosen: Sequence[Candidate], texts: Sequence[str]) -> list[Candidate]:
    """Join sentences that stand side by side in the same paragraph; the order of the best stays."""
    joined: list[Candidate] = []
    for one in chosen:
        for index, other in enumerate(joined):
            left, right = sorted((one, other), key=lambda each: each.start)
            between = texts[one.hit][left.end : right.start]
            if one.hit == other.hit and not between.strip() and not BLANK_LINE.search(between):
                joined[index] = replace(other, start=left.start, end=right.end)
                break
        else:
            joined.append(one)
    return joined

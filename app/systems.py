"""The product as systems that an evaluation asks: questions through the pipeline, claims through the verifier."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from retrieval.errors import RagError

if TYPE_CHECKING:
    from app.pipeline import Pipeline
    from eval.records import Candidate, Claim, Dataset, Example, Outcome
    from reader.records import Answer
    from retrieval.records import Ranked
    from retrieval.retriever import Retrieved

_CHOSEN_BY = 5
"""Passages that bear a choice out."""


class PipelineSystem:
    """Answers examples as `rag ask` does, and keeps what was looked at on the way."""

    def __init__(self, pipeline: Pipeline, *, k: int, reads: bool) -> None:
        """k: how many hits to ask for. reads: whether questions are answered, or only searched for."""
        self._pipeline, self._k, self._reads = pipeline, k, reads

    @property
    def at_once(self) -> int:
        """How many questions the reader gains from being asked together."""
        return self._pipeline.at_once if self._reads else 1

    def outcomes(self, examples: Sequence[Example]) -> list[Outcome | RagError]:
        """What the product makes of each."""
        return self.read(examples, self.retrieve(examples))

    def retrieve(self, examples: Sequence[Example]) -> list[Retrieved | RagError]:
        """What is found for each."""
        return [self._pipeline.examine(one.question, one.history, k=self._k) for one in examples]

    def read(self, examples: Sequence[Example], retrieved: Sequence[Retrieved | RagError]) -> list[Outcome | RagError]:
        """What is made of what was found."""
        pairs = [
            (one, found) for one, found in zip(examples, retrieved, strict=True) if not isinstance(found, RagError)
        ]
        answers: Sequence[Answer | RagError | None] = [None] * len(pairs)
        if self._reads:
            histories = [one.history for one, _ in pairs]
            answers = self._pipeline.read([found for _, found in pairs], histories, k=self._k)
        read = iter([self._outcome(*pair, answer) for pair, answer in zip(pairs, answers, strict=True)])
        return [found if isinstance(found, RagError) else next(read) for found in retrieved]

    def _outcome(self, example: Example, found: Retrieved, answer: Answer | RagError | None) -> Outcome:
        from eval.records import Outcome

        error = str(answer) if isinstance(answer, RagError) else None
        answer = None if isinstance(answer, RagError) else answer
        hits = found.hits[: self._k] if answer is None else answer.hits
        timings = found.timings_ms if answer is None else answer.timings_ms
        return Outcome(
            hits=hits,
            candidates=tuple(map(_candidate, found.ranking)),
            evidence=found.evidence,
            timings_ms={name: round(value, 2) for name, value in timings.items()},
            answer=answer,
            error=error,
            read=() if answer is None else self._read_of(found, answer),
            choice=self._choice(example, found) if answer and example.choices else None,
        )

    def _read_of(self, found: Retrieved, answer: Answer) -> tuple[str, ...]:
        """chunk_ids of what the reader was given; none where there was too little evidence to ask it."""
        if answer.abstention == "evidence":
            return ()
        if self._pipeline.choice.reader == "extractive":
            from reader.backends.extractive import PASSAGES_READ

            return tuple(hit.chunk_id for hit in found.hits[:PASSAGES_READ])
        dropped = set(answer.prompt.dropped) if answer.prompt else set()
        return tuple(hit.chunk_id for hit in found.hits[: self._k] if hit.chunk_id not in dropped)

    def _choice(self, example: Example, found: Retrieved) -> int | None:
        from eval.metrics.choices import choose

        verifier, passages = self._pipeline.verifier, found.passages[:_CHOSEN_BY]
        return choose(
            example.question,
            [choice.text for choice in example.choices],
            lambda claim: verifier.check(claim, passages).support,
        )


class ClaimSystem:
    """Checks claims against the passages they cite, which are the documents of the index."""

    at_once = 1

    def __init__(self, pipeline: Pipeline, claims: Sequence[Claim]) -> None:
        self._pipeline, self._claims = pipeline, {claim.claim_id: claim for claim in claims}
        self._documents = {row.source: row.doc_id for row in pipeline.parts.store.documents()}

    def outcomes(self, examples: Sequence[Example]) -> list[Outcome | RagError]:
        """What the verifier finds of each."""
        return [self._outcome(self._claims[one.example_id]) for one in examples]

    def _outcome(self, claim: Claim) -> Outcome | RagError:
        from eval.claims import checked

        store, retriever = self._pipeline.parts.store, self._pipeline.parts.retriever
        cited = [self._documents[_source(text)] for text in claim.passages]
        chunks = [chunk for doc_id in cited for chunk in store.chunks_of(doc_id)]
        try:
            found = self._pipeline.verifier.check(claim.text, retriever.passages(chunks))
        except RagError as error:
            return error
        return checked(claim, label=found.label, support=found.support)


def with_passages(dataset: Dataset) -> Dataset:
    """A dataset of claims with the passages they cite as its documents, each text once."""
    from eval.datasets.questions import made_document

    texts = dict.fromkeys(text for claim in dataset.claims for text in claim.passages)
    return replace(dataset, documents=tuple(made_document(dataset.name, _source(text), "", text) for text in texts))


def _source(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _candidate(one: Ranked) -> Candidate:
    """What only a part of the question found has no rank among those of the whole."""
    from eval.records import Candidate

    ranks = (one.stages.dense_rank, one.stages.lexical_rank, one.stages.fused_rank)
    return Candidate(one.chunk_id, one.sources, *((None, None, None) if one.by_part else ranks), one.twins)

"""The run: every question through a system, each prediction kept as soon as it is made. Knows no product, no metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

from eval.folder import RunFolder
from eval.records import Example, Outcome, Prediction
from reader.records import Answer
from retrieval.errors import RagError

Report = Callable[[int, int], None]
"""Told how many questions are done, and how many there are."""


class System(Protocol):
    """What answers questions: the product, or the recorded output of another one."""

    @property
    def at_once(self) -> int:
        """How many questions it gains from being asked together."""

    def outcomes(self, examples: Sequence[Example]) -> Sequence[Outcome | RagError]:
        """What it makes of each, in order; a question it fails on is an error, not an exception."""


def run(
    examples: Sequence[Example],
    system: System,
    folder: RunFolder,
    *,
    report: Report = lambda _done, _total: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Ask what was not asked before. True when everything was, False when `stop` said so."""
    todo = (example for example in examples if example.example_id not in folder.done)
    done = len(folder.done)
    report(done, len(examples))
    while batch := tuple(islice(todo, max(1, system.at_once))):
        if stop():
            return False
        outcomes = system.outcomes(batch)
        folder.append([predicted(*pair) for pair in zip(batch, outcomes, strict=True)])
        done += len(batch)
        report(done, len(examples))
    return True


def predicted(example: Example, outcome: Outcome | RagError) -> Prediction:
    """What is written down of an outcome."""
    if isinstance(outcome, RagError):
        return Prediction(example.example_id, example.question, error=str(outcome))
    prediction = Prediction(
        example.example_id,
        example.question,
        evidence=outcome.evidence,
        choice=outcome.choice,
        hits=outcome.hits,
        candidates=outcome.candidates,
        read=outcome.read,
        timings_ms=outcome.timings_ms,
        error=outcome.error,
    )
    answer = outcome.answer
    if answer is None:
        return prediction
    return replace(
        prediction,
        answer=answer.text,
        abstained=answer.abstained,
        abstention=answer.abstention,
        citations=answer.citations,
        sentences=answer.sentences,
        tokens=dict(_tokens(answer)),
    )


def _tokens(answer: Answer) -> Iterator[tuple[str, int]]:
    if answer.prompt:
        yield "prompt", answer.prompt.tokens
    if answer.written:
        yield "answer", answer.written.tokens

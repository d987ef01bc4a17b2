"""Is there an answer in these passages at all: one calibrated number in [0, 1]. Knows features; never text or indexes.

A logistic regression over what re-ranking has measured anyway, fitted on questions whose answer is in the index against
questions whose answer is not (bench/calibrating.py; figures in docs/evaluation.md). Where the encoder can read only a
share of the question, the features of the words count for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexCorruptError

if TYPE_CHECKING:
    from retrieval.interaction import Question
    from retrieval.rerank import Candidates

PASSAGES = 3
"""Passages from the top that are looked at: those a reader reads."""

CROWD = 60
"""Candidates from which on "stands out from the others" says all it can."""

_OTHERS = slice(5, 25)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A calibration: the weight of each feature. `threshold`: readers abstain below it."""

    weights: Mapping[str, float]
    threshold: float

    def score(self, measured: Mapping[str, float]) -> float:
        """How likely the passages hold an answer, [0, 1], from their `features`; 0 where nothing was found."""
        if not measured:
            return 0.0
        logit = sum(weight * measured[name] for name, weight in self.weights.items())
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))

    def dump(self) -> bytes:
        """As JSON, to be kept with an index."""
        return json.dumps({"threshold": self.threshold, "weights": dict(self.weights)}).encode()

    @classmethod
    def load(cls, data: bytes | None) -> Evidence:
        """The calibration an index was saved with; this release's own where there is none, or one of other features.

        Raises IndexCorruptError on what dump never wrote.
        """
        if data is None:
            return CALIBRATED
        try:
            fields = json.loads(data)
            made = cls({str(name): float(each) for name, each in fields["weights"].items()}, float(fields["threshold"]))
            if not np.isfinite([made.threshold, *made.weights.values()]).all():
                raise ValueError("a number is not finite")  # noqa: TRY301 - one handler for all damage
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
            raise IndexCorruptError(f"the index's evidence calibration cannot be read: {error}") from error
        return made if made.weights.keys() == CALIBRATED.weights.keys() else CALIBRATED


def features(question: Question, found: Candidates, order: NDArray[np.int64], *, spread: float) -> dict[str, float]:
    """What speaks for an answer among the best passages; empty where nothing was found.

    "read ..." counts by the share the encoder knows, "words ..." by the rest. How far the first passage stands out from
    the others counts by how many others there are; "few ..." takes its place in an index of few passages. spread: what
    the passages have together and none has alone (retrieval/rerank.py).
    """
    if not len(order):
        return {}
    top, first, known = order[:PASSAGES], order[0], question.known
    crowd = min(1.0, (len(order) - 1) / (CROWD - 1))
    nearby = float(found.comparison.nearby[first, 1])
    overlap = float(found.overlap[top].max())
    others = found.comparison.nearby[order[_OTHERS], 0]
    return {
        "read": known,
        "read nearby": known * nearby,
        "read overlap": known * overlap,
        "read cosine": known * float(found.dense[top].max()),
        "read spread": known * spread,
        "read stands out": known
        * crowd
        * (float(found.comparison.nearby[first, 0] - np.median(others)) if len(others) else 0.0),
        "read length": known * float(np.log1p(np.count_nonzero(question.weights))),
        "read heaviest": known * float(question.weights.max(initial=0)),
        "few read nearby": known * (1 - crowd) * nearby,
        "words": 1 - known,
        "words overlap": (1 - known) * overlap,
        "words nearby": (1 - known) * nearby,
        "few words": (1 - known) * (1 - crowd),
        "few words overlap": (1 - known) * (1 - crowd) * overlap,
    }


# Fitted by bench/calibrating.py on twelve sets and on small folders. The threshold refuses about 4% of the answerable
# questions: docs/evaluation.md.
CALIBRATED = Evidence(
    weights={
        "read": -14.65,
        "read nearby": 3.34,
        "read overlap": 4.96,
        "read cosine": 9.19,
        "read spread": -2.44,
        "read stands out": 11.25,
        "read length": 2.15,
        "read heaviest": -2.11,
        "few read nearby": 7.65,
        "words": -9.01,
        "words overlap": 27.13,
        "words nearby": 3.91,
        "few words": -2.23,
        "few words overlap": 1.36,
    },
    threshold=0.35,
)

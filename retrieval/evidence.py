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

_HEAVY = 0.5  # a token counts as one the question turns on from this share of the heaviest one's weight
_VERSION = 1


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
        return json.dumps({"version": _VERSION, "threshold": self.threshold, "weights": dict(self.weights)}).encode()

    @classmethod
    def load(cls, data: bytes | None) -> Evidence:
        """The calibration an index was saved with; this release's own where there is none or it is of another version.

        Raises IndexCorruptError on what dump never wrote.
        """
        if data is None:
            return CALIBRATED
        try:
            fields = json.loads(data)
            if fields["version"] != _VERSION:
                return CALIBRATED
            made = cls({str(name): float(each) for name, each in fields["weights"].items()}, float(fields["threshold"]))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise IndexCorruptError(f"the index's evidence calibration cannot be read: {error}") from error
        if made.weights.keys() - CALIBRATED.weights.keys():
            raise IndexCorruptError("the index's evidence calibration names features that this program does not know")
        return made


def features(question: Question, found: Candidates, order: NDArray[np.int64]) -> dict[str, float]:
    """What speaks for an answer among the best passages. "read ..." counts by the share the encoder knows, "words ..."
    by the rest. Empty where nothing was found.
    """
    if not len(order):
        return {}
    top = order[:PASSAGES]
    compared, known = found.comparison, question.known
    best = compared.best[top]
    heavy = question.weights >= _HEAVY * question.weights.max(initial=0)
    turned_on = best[:, heavy].min(axis=1).max(initial=-1) if heavy.any() else 0.0
    overlap = float(found.overlap[top].max())
    tokens = np.log1p(np.count_nonzero(question.weights))
    terms = np.log1p(len(question.term_weights))
    return {
        "read": known,
        "read whole": known * float(compared.whole[top].max()),
        "read nearby": known * float(compared.nearby[top, 0].max()),
        "read phrases": known * float(compared.phrases[top, 1].max()),
        "read heavy": known * float(turned_on),
        "read cosine": known * float(found.dense[top].max()),
        "read overlap": known * overlap,
        "read length": known * float(tokens),
        "words": 1 - known,
        "words overlap": (1 - known) * overlap,
        "words whole": (1 - known) * float(compared.whole[top].max()),
        "words nearby": (1 - known) * float(compared.nearby[top, 0].max()),
        "words length": (1 - known) * float(terms),
    }


CALIBRATED = Evidence(
    weights={
        "read": -10.0,
        "read whole": 10.0,
        "read nearby": 6.0,
        "read phrases": 2.0,
        "read heavy": 1.0,
        "read cosine": 1.0,
        "read overlap": 2.0,
        "read length": 0.0,
        "words": -5.0,
        "words overlap": 10.0,
        "words whole": 0.0,
        "words nearby": 0.0,
        "words length": 0.0,
    },
    threshold=0.5,
)

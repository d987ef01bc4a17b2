"""Fit and measure the evidence score: which questions have their answer in the index, and which do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.sets import QuestionSet, opened, question_set
from bench.table import Table
from retrieval.evidence import CALIBRATED, Evidence

Floats = NDArray[np.float64]

# Index -> sets whose questions are asked of it although their answers are not in it.
FITTED_ON: Mapping[str, Sequence[str]] = {
    "squad2_dev_big": (),  # has questions of its own whose paragraphs are elsewhere
    "xquad_zh": ("cmrc2018_dev",),
    "cmrc2018_dev": ("drcd_dev",),
    "drcd_dev": ("cmrc2018_dev",),
}
REPORTED_ON = ("multihoprag_facts", "clapnq_dev", "mtrag_un", "squad2_dev_big")
_PER_SET = 1500
_PENALTY = 1e-3
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Examples:
    """Features of n questions, (n, features), and whether the index holds the answer, (n,)."""

    features: Floats
    answerable: NDArray[np.bool_]


def run(*, limit: int | None = None) -> Table:
    """Fit on even questions, measure on odd ones, and the other way round; then on sets that were never fitted on."""
    per_set = limit or _PER_SET
    sets = {name: _examples(name, elsewhere, per_set) for name, elsewhere in FITTED_ON.items()}
    halves = [_joined([_half(one, at) for one in sets.values()]) for at in (0, 1)]
    fitted = [_fit(half) for half in halves]
    whole = _fit(_joined(list(sets.values())))
    print(_as_code(whole, sets))
    lines = []
    for name, examples in sets.items():
        crossed = [_logits(_half(examples, 1 - at), fitted[at]) for at in (0, 1)]
        scores = np.concatenate(crossed)
        truth = np.concatenate([_half(examples, 1 - at).answerable for at in (0, 1)])
        lines.append((name, *_figures(scores, truth, threshold=_logit(CALIBRATED.threshold), shipped=examples)))
    for name in REPORTED_ON:
        examples = _unanswerable(name, per_set)
        lines.append((f"{name}, unanswerable", *_figures(None, examples.answerable, threshold=0.0, shipped=examples)))
    return Table(
        "Evidence: is there an answer in the index at all?",
        (
            "set",
            "answerable",
            "not",
            "AUC",
            "answered at 5% refused",
            "at 10%",
            "shipped: refused",
            "shipped: answered",
        ),
        lines,
        "Answered: share of the questions without an answer in the index that are answered, when 5% or 10% of the"
        " answerable ones are refused; fitted on the other half of the questions. Shipped: the calibration and the"
        " threshold that the product has. The sets below were not fitted on: questions that their own corpus speaks"
        " about and does not answer, which no score of relevance can tell apart.",
    )


def _figures(scores: Floats | None, truth: NDArray[np.bool_], *, threshold: float, shipped: Examples) -> list[str]:
    ours = _logits(shipped, np.array(list(CALIBRATED.weights.values()))) - _logit(CALIBRATED.threshold)
    refused = float((ours[shipped.answerable] < 0).mean())
    answered = float((ours[~shipped.answerable] >= 0).mean())
    scores = ours if scores is None else scores - threshold
    answerable, not_ = scores[truth], scores[~truth]
    at = [float((not_ >= np.quantile(answerable, share)).mean()) for share in (0.05, 0.10)]
    ranks = np.argsort(np.argsort(np.concatenate([answerable, not_])))
    auc = (ranks[: len(answerable)].mean() - (len(answerable) - 1) / 2) / len(not_)
    shares = (auc, *at, refused, answered)
    return [str(len(answerable)), str(len(not_)), *(f"{each:.3f}" for each in shares)]


def _examples(name: str, elsewhere: Sequence[str], per_set: int) -> Examples:
    asked = question_set(name)
    others = [one.text for other in elsewhere for one in question_set(other).questions]
    negatives = others or [one.text for one in asked.questions if one.kind == "elsewhere"]
    positives = [one.text for one in asked.questions if one.kind == "answerable"]
    return _measured(asked, positives, negatives, per_set)


def _unanswerable(name: str, per_set: int) -> Examples:
    asked = question_set(name)
    by_kind = {
        kind: [one.text for one in asked.questions if one.kind == kind] for kind in ("answerable", "unanswerable")
    }
    return _measured(asked, by_kind["answerable"], by_kind["unanswerable"], per_set)


def _measured(asked: QuestionSet, positives: Sequence[str], negatives: Sequence[str], per_set: int) -> Examples:
    with opened(asked) as pipeline:
        found = [
            (list(pipeline.search(text, k=3).evidence_features.values()), truth)
            for texts, truth in ((_spread(positives, per_set), True), (_spread(negatives, per_set), False))
            for text in texts
        ]
    return Examples(np.array([row for row, _ in found]), np.array([truth for _, truth in found]))


def _spread(texts: Sequence[str], most: int) -> Sequence[str]:
    return texts if len(texts) <= most else [texts[at * len(texts) // most] for at in range(most)]


def _half(examples: Examples, which: int) -> Examples:
    return Examples(examples.features[which::2], examples.answerable[which::2])


def _joined(examples: Sequence[Examples]) -> Examples:
    return Examples(
        np.concatenate([one.features for one in examples]), np.concatenate([one.answerable for one in examples])
    )


def _fit(examples: Examples) -> Floats:
    """Logistic regression by Newton's method; both answers weigh the same, however many there are of each."""
    x, y = examples.features, examples.answerable.astype(np.float64)
    balance = np.where(examples.answerable, 0.5 / y.mean(), 0.5 / (1 - y.mean())) / len(y)
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (balance * (p - y)) + _PENALTY * weights
        curvature = (x * (balance * p * (1 - p))[:, None]).T @ x + _PENALTY * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _logits(examples: Examples, weights: Floats) -> Floats:
    return examples.features @ weights


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _as_code(weights: Floats, sets: Mapping[str, Examples]) -> str:
    made = Evidence(dict(zip(CALIBRATED.weights, weights.round(3).tolist(), strict=True)), 0.5)
    refusals = {
        f"{share:.0%}": {
            name: round(float(1 / (1 + np.exp(-np.quantile(_logits(one, weights)[one.answerable], share)))), 3)
            for name, one in sets.items()
        }
        for share in (0.02, 0.05, 0.1)
    }
    return f"{made}\nthresholds by share of answerable questions refused: {refusals}"

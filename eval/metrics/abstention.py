"""Does a system answer where it can and abstain where it cannot. Knows decisions and evidence scores; no text.

*Answerable*: the documents hold an answer. *Answered*: an answer was given, not an abstention; None where the system
failed and gave neither, which is worse than either. *Correct*: the answer is right; looked at only where an answerable
question was answered, since an answer to any other one is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def abstention_values(answerable: bool, answered: bool | None, correct: bool) -> dict[str, float]:
    """What one question says of each measure that applies to it: 1.0 or 0.0, higher is better.

    answered_answerable: an answerable question was answered; 1 less the rate of false refusals.
    abstained_unanswerable: an unanswerable one was not; 1 less the rate of false answers.
    accuracy: the decision to answer or to abstain was right, whichever the question.
    useful: the best there is: a correct answer where there is one, an abstention where there is none.
    selective_accuracy: what was answered is correct; where it abstained this does not apply, so that the mean is 1 less
    the selective risk (El-Yaniv and Wiener, JMLR 2010). Systems that answer other questions are measured on other ones.

    Where the system failed, each of them is 0.
    """
    right = answered is not None and answered == answerable
    values = {
        "answered_answerable" if answerable else "abstained_unanswerable": float(right),
        "accuracy": float(right),
        "useful": float(right and (correct or not answerable)),
    }
    if answered or answered is None:
        values["selective_accuracy"] = float(right and correct)
    return values


@dataclass(frozen=True, slots=True)
class Decisions:
    """How many questions of a kind were answered, abstained from, and failed on."""

    answered: int
    abstained: int
    failed: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """The confusion matrix: what was decided, for questions of either kind."""

    answerable: Decisions
    unanswerable: Decisions


def confusion(answerable: Sequence[bool], answered: Sequence[bool | None]) -> Confusion:
    """Count decisions, a question an element in either sequence."""
    decisions = list(zip(answerable, answered, strict=True))
    kinds = ([given for kind, given in decisions if kind], [given for kind, given in decisions if not kind])
    return Confusion(*(Decisions(given.count(True), given.count(False), given.count(None)) for given in kinds))


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """If only the questions of the highest evidence were answered: how many, and how many of these wrongly.

    A point for each evidence score among the answers, highest first. evidence: the score, of this point's last answers;
    coverage: share of all questions whose answers have it or a higher one; risk: share of wrong ones among these
    answers. area: under the curve (AURC), lower is better; None without questions.
    """

    evidence: Floats
    coverage: Floats
    risk: Floats
    area: float | None


def risk_coverage(evidence: Floats, correct: Bools, answered: Bools) -> RiskCoverage:
    """The risk-coverage curve (El-Yaniv and Wiener, JMLR 2010) of n questions; all arrays (n,).

    evidence: higher is surer; not looked at where nothing was answered. correct: False for whatever is said to an
    unanswerable question. Answers of equal evidence make one point.

    The area is the mean of the risks at coverages 1/n, 2/n, ..., 1 (Geifman, Uziel and El-Yaniv, ICLR 2019); answers of
    equal evidence are taken in any order, by its expectation. The points end at the coverage that was reached, the area
    does not: beyond, the questions without an answer come in as if they were answered wrongly with the least evidence.
    So abstaining lowers the area where the answer would have been wrong and raises it where it would have been right,
    and systems that answer more and less can be compared.
    """
    scores = evidence[answered]
    if np.isnan(scores).any():
        raise ValueError("found an answer whose evidence is not a number, expected a score for every answer")
    levels, members = np.unique(-scores, return_inverse=True)
    taken = np.cumsum(np.bincount(members, minlength=len(levels)))
    wrong = np.cumsum(np.bincount(members, weights=~correct[answered], minlength=len(levels)))
    n = len(answered)
    ends = [0, *taken.tolist(), n]
    errors = [0.0, *wrong.tolist(), n - np.count_nonzero(correct & answered)]
    ranks = np.arange(1, n + 1)
    area = float(np.mean(np.interp(ranks, ends, errors) / ranks)) if n else None
    return RiskCoverage(-levels, taken / max(n, 1), wrong / taken, area)


def accuracy_coverage_area(evidence: Floats, correct: Bools, answered: Bools) -> float | None:
    """1 less the area under the risk-coverage curve, so that higher is better: mean accuracy over all coverages."""
    area = risk_coverage(evidence, correct, answered).area
    return None if area is None else 1.0 - area


def auroc(answerable: Bools, evidence: Floats) -> float | None:
    """The chance that an answerable question has more evidence than an unanswerable one; equal evidence counts half.

    The area under the ROC curve as Mann and Whitney's U (Annals of Mathematical Statistics 1947). answerable, evidence:
    (n,). None where all questions are of one kind.
    """
    if np.isnan(evidence).any():
        raise ValueError("found evidence that is not a number, expected a score for every question")
    _, members, counts = np.unique(evidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[members]  # counted from 1; equal scores share their mean rank
    positives = int(np.count_nonzero(answerable))
    pairs = positives * (len(answerable) - positives)
    return float(ranks[answerable].sum() - positives * (positives + 1) / 2) / pairs if pairs else None


@dataclass(frozen=True, slots=True)
class Bin:
    """n questions whose evidence is from low to below high (the last bin: to high): its mean, and what share of them
    is answerable."""

    low: float
    high: float
    n: int
    evidence: float
    answerable: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether evidence is the chance that a question is answerable. calibration_error and brier: lower is better.

    bins: those that hold a question, in order.
    """

    bins: tuple[Bin, ...]
    calibration_error: float
    brier: float


def reliability(answerable: Bools, evidence: Floats, *, bins: int = 10) -> Reliability | None:
    """Compare evidence, in [0, 1], with the share of answerable questions in bins of equal width; arrays (n,).

    The expected calibration error is the mean over questions of how far the two lie apart in their bin (Naeini, Cooper
    and Hauskrecht, AAAI 2015); the Brier score is the mean squared difference of evidence from 1 or 0 (Brier, Monthly
    Weather Review 1950). None without questions.
    """
    if not np.all((evidence >= 0) & (evidence <= 1)):
        raise ValueError("found evidence outside [0, 1], where a probability was expected")
    if not len(evidence):
        return None
    where = np.minimum((evidence * bins).astype(np.int64), bins - 1)
    found = tuple(
        Bin(
            b / bins,
            (b + 1) / bins,
            int(inside.sum()),
            float(evidence[inside].mean()),
            float(answerable[inside].mean()),
        )
        for b in np.unique(where).tolist()
        for inside in [where == b]
    )
    apart = sum(each.n * abs(each.evidence - each.answerable) for each in found) / len(evidence)
    return Reliability(found, apart, float(np.mean((evidence - answerable) ** 2)))

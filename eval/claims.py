"""Claims that people judged, as questions: is each borne out by what it cites. Knows no verifier and no index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.abstention import auroc
from eval.records import Claim, Example, Judged, Lost, Outcome, Prediction
from eval.score import SEED, scores
from eval.statistics import interval_of
from reader.records import Answer, Label, ReaderInfo, Sentence

SUPPORTED = "supported"


def as_examples(claims: Sequence[Claim]) -> tuple[Example, ...]:
    """Claims as what is asked: is it so?"""
    return tuple(Example(claim.claim_id, claim.text, kind=claim.kind) for claim in claims)


def checked(claim: Claim, *, label: Label, support: float) -> Outcome:
    """What a check of a claim found, as the outcome of asking it."""
    markers = tuple(range(1, len(claim.passages) + 1))
    sentence = Sentence(0, len(claim.text), markers, label, support)
    answer = Answer(claim.text, claim.text, False, (), (), ReaderInfo("verifier", ""), sentences=(sentence,))
    return Outcome((), (), support, {}, answer)


def judge_claims(claims: Sequence[Claim], predictions: Mapping[str, Prediction]) -> list[Judged]:
    """Every claim with what was found of it; one that was not checked is wrong.

    agreement: the check says what people say. supported_found, unsupported_found: the same, of the claims that people
    found supported, and of the others.
    """
    judged = []
    for claim, example in zip(claims, as_examples(claims), strict=True):
        said = _said(predictions.get(claim.claim_id))
        right = float(said == claim.supported)
        own = "supported_found" if claim.supported else "unsupported_found"
        people = "supported" if claim.supported else "not supported"
        why = Lost("wrong", f"people found it {people}, the check did not agree")
        judged.append(
            Judged(example, {"citations.agreement": right, f"citations.{own}": right}, None if right else why)
        )
    return judged


def claim_scores(
    claims: Sequence[Claim], judged: Sequence[Judged], predictions: Mapping[str, Prediction]
) -> dict[str, Any]:
    """What scores.json holds of claims: besides the means, balanced accuracy and the area under the ROC curve."""
    found = scores(judged, predictions)
    supported = np.array([claim.supported for claim in claims], dtype=np.bool_)
    said = np.array([bool(_said(predictions.get(claim.claim_id))) for claim in claims], dtype=np.bool_)
    support = np.array([_support(predictions.get(claim.claim_id)) for claim in claims])
    more = {
        "balanced_accuracy": interval_of(balanced_accuracy, [supported, said], seed=SEED),
        "auroc": interval_of(auroc, [supported, support], seed=SEED),
    }
    found["citations"] |= {name: asdict(score) for name, score in more.items() if score.n}
    return found


def balanced_accuracy(supported: NDArray[np.bool_], said: NDArray[np.bool_]) -> float | None:
    """The mean of the shares found of either kind; None where all claims are of one kind."""
    if supported.all() or not supported.any():
        return None
    return float((said[supported].mean() + (~said[~supported]).mean()) / 2)


def _said(prediction: Prediction | None) -> bool | None:
    """Whether the check found a claim supported; None where it failed."""
    if prediction is None or not prediction.sentences:
        return None
    return prediction.sentences[0].label == SUPPORTED


def _support(prediction: Prediction | None) -> float:
    return 0.0 if prediction is None or prediction.evidence is None else prediction.evidence

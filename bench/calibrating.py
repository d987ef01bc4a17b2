"""Fit and measure the evidence score: which questions have their answer in the index, and which do not."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.data import data_folder, rows
from bench.sets import QuestionSet, documents, opened, pipeline_over, question_set
from bench.table import Table
from retrieval.evidence import CALIBRATED, Evidence
from retrieval.records import Document

Floats = NDArray[np.float64]

# Index -> sets whose questions are asked of it although their answers are not in it.
_ENGLISH = ("squad1_dev", "scifact", "cranfield", "hotpot100", "hf_quiz_en", "clapnq_dev", "mtrag_un")
FITTED_ON: Mapping[str, Sequence[str]] = {
    "squad2_dev_big": (),  # has questions of its own whose paragraphs are elsewhere
    "squad1_dev": tuple(name for name in _ENGLISH if name != "squad1_dev"),
    "hotpot100": _ENGLISH,
    "musique100": _ENGLISH,
    "scifact": _ENGLISH,
    "cranfield": _ENGLISH,
    "hf_quiz_en": _ENGLISH,
    "hf_docs": tuple(name for name in _ENGLISH if name != "hf_quiz_en"),
    "xquad_zh": ("cmrc2018_dev", "hf_quiz_zh"),
    "cmrc2018_dev": ("drcd_dev", "hf_quiz_zh"),
    "drcd_dev": ("cmrc2018_dev", "hf_quiz_zh"),
    "hf_quiz_zh": ("cmrc2018_dev", "drcd_dev"),
}
_COUNTS = {"squad2_dev_big": 3}  # as many sets: the only one where others speak about the same things all the time
REPORTED_ON = ("multihoprag_facts", "clapnq_dev", "mtrag_un", "squad2_dev_big")
_PER_SET = 400
_PENALTY = 1e-5
_FOLDERS = 30
_RGB_CASES = 30
_FOLDER_SIZES = (1, 2, 5, 10, 20)
SMALL_FOLDERS = ("squad1_dev", "cmrc2018_dev")
_STEPS = 100


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Examples:
    """Features of n questions, (n, features), whether the index holds the answer, and what each counts, (n,)."""

    features: Floats
    answerable: NDArray[np.bool_]
    weights: Floats

    @classmethod
    def of(cls, features: Sequence[Sequence[float]], answerable: Sequence[bool]) -> Examples:
        """Those of one set: all that it answers count as much as all that it does not, and as much as other sets."""
        truth = np.array(answerable)
        weights = np.where(truth, 0.5 / max(truth.sum(), 1), 0.5 / max((~truth).sum(), 1))
        return cls(np.array(features), truth, weights)


def run(*, limit: int | None = None) -> Table:
    """Fit on even questions, measure on odd ones, and the other way round; then on sets that were never fitted on."""
    per_set = limit or _PER_SET
    sets = {name: _examples(name, elsewhere, per_set) for name, elsewhere in FITTED_ON.items()}
    sets |= {f"{name}, small folders": _small_folders(name) for name in SMALL_FOLDERS}
    halves = [_joined({name: _half(one, at) for name, one in sets.items()}) for at in (0, 1)]
    fitted = [_fit(half) for half in halves]
    whole = _fit(_joined(sets))
    print(_as_code(whole, sets))
    lines, curves = [], {}
    for name, examples in sets.items():
        crossed = [_logits(_half(examples, 1 - at), fitted[at]) for at in (0, 1)]
        scores = np.concatenate(crossed)
        truth = np.concatenate([_half(examples, 1 - at).answerable for at in (0, 1)])
        lines.append((name, *_figures(scores, truth, threshold=_logit(CALIBRATED.threshold), shipped=examples)))
        curves[name] = _curve(scores, truth)
    reported = {f"{name}, unanswerable": _unanswerable(name, per_set) for name in REPORTED_ON}
    reported |= {f"rgb {language}, negatives only": _rgb(language) for language in ("en", "zh")}
    for name, examples in reported.items():
        lines.append((name, *_figures(None, examples.answerable, threshold=0.0, shipped=examples)))
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
        " about and does not answer, which no score of relevance can tell apart; and the web passages of RGB that only"
        " look as if they answered, alone or with those that do.\n\nRisk and coverage, other half: "
        + "; ".join(f"{name} {curve}" for name, curve in curves.items())
        + ".",
    )


def _curve(scores: Floats, truth: NDArray[np.bool_]) -> str:
    """What is answered of the questions without an answer, by the share of the answerable ones that is answered."""
    answered = (
        (1 - share, float((scores[~truth] >= np.quantile(scores[truth], share)).mean()))
        for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
    )
    return ", ".join(f"{covered:.0%}: {risk:.1%}" for covered, risk in answered)


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
    others = [
        one.text
        for other in elsewhere
        if other != name
        for one in _spread(question_set(other).questions, per_set // len(elsewhere))
    ]
    negatives = others or [one.text for one in asked.questions if one.kind == "elsewhere"]
    positives = [one.text for one in asked.questions if one.kind == "answerable"]
    return _measured(asked, positives, negatives, per_set)


def _small_folders(name: str) -> Examples:
    """Folders of one to twenty documents; half the questions are those of their documents, half those of others."""
    generator = random.Random(0)  # noqa: S311 - the same folders every time, no secret
    questions = [one for one in question_set(name).questions if one.kind == "answerable"]
    corpus = documents(name)
    features, answerable = [], []
    for at in range(_FOLDERS):
        inside = generator.sample(corpus, _FOLDER_SIZES[at % len(_FOLDER_SIZES)])
        sources = {one.source for one in inside}
        own = [one.text for one in questions if sources & one.relevant.keys()]
        others = [one.text for one in generator.sample(questions, 40) if not sources & one.relevant.keys()]
        with TemporaryDirectory() as folder, pipeline_over(Path(folder)) as pipeline:
            pipeline.ingest_documents(inside, root=f"/{name}", report=lambda _: None)
            for texts, truth in ((own[:20], True), (others[:20], False)):
                features += [list(pipeline.search(text, k=3).evidence_features.values()) for text in texts]
                answerable += [truth] * len(texts)
    return Examples.of(features, answerable)


def _rgb(language: str) -> Examples:
    """Small folders of web passages: those that answer and those that do not together, and the latter alone."""
    cases = [
        case
        for case in rows(data_folder("eval", "rgb") / "cases.jsonl")
        if case["lang"] == language and case.get("positive") and case.get("negative")
    ]
    features, answerable = [], []
    for case in cases[:: max(1, len(cases) // _RGB_CASES)][:_RGB_CASES]:
        for texts, truth in (
            ([*_texts(case["positive"]), *_texts(case["negative"])], True),
            (_texts(case["negative"]), False),
        ):
            inside = [Document(f"{at}", "/rgb", f"{at}", "text/plain", "", text) for at, text in enumerate(texts)]
            with TemporaryDirectory() as folder, pipeline_over(Path(folder)) as pipeline:
                pipeline.ingest_documents(inside, root="/rgb", report=lambda _: None)
                features.append(list(pipeline.search(str(case["query"]), k=3).evidence_features.values()))
                answerable.append(truth)
    return Examples.of(features, answerable)


def _texts(found: object) -> list[str]:
    """Texts of a case; some cases hold lists of lists."""
    if isinstance(found, str):
        return [found] if found.strip() else []
    return [text for each in found for text in _texts(each)] if isinstance(found, list) else []


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
    return Examples.of([row for row, _ in found], [truth for _, truth in found])


def _spread(texts: Sequence[T], most: int) -> Sequence[T]:
    return texts if len(texts) <= most else [texts[at * len(texts) // most] for at in range(most)]


def _half(examples: Examples, which: int) -> Examples:
    return Examples(examples.features[which::2], examples.answerable[which::2], examples.weights[which::2])


def _joined(sets: Mapping[str, Examples]) -> Examples:
    counts = [_COUNTS.get(name, 1) for name in sets]
    return Examples(
        np.concatenate([one.features for one in sets.values()]),
        np.concatenate([one.answerable for one in sets.values()]),
        np.concatenate([count * one.weights for count, one in zip(counts, sets.values(), strict=True)]) / sum(counts),
    )


def _fit(examples: Examples) -> Floats:
    """Logistic regression by Newton's method."""
    x, y = examples.features, examples.answerable.astype(np.float64)
    balance = examples.weights
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

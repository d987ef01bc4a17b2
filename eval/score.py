"""Predictions against gold: the values of every question, where each was lost, and the scores of a run with intervals.

Calls the metrics; knows what each is called in scores.json. Knows neither the index nor the product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.gold import Gold
from eval.lost import lost, wrong
from eval.metrics.abstention import (
    abstention_values,
    accuracy_coverage_area,
    auroc,
    confusion,
    reliability,
    risk_coverage,
)
from eval.metrics.answers import answer_values
from eval.metrics.choices import choice_values
from eval.metrics.citations import citation_values
from eval.metrics.retrieval import ranked_values
from eval.records import SECTIONS, Candidate, Example, Judged, Prediction, Score
from eval.statistics import interval_of, intervals, paired
from retrieval.fusion import reciprocal

PASSAGE_MEASURES = ("success@1", "success@5", "recall@5", "mrr@10", "ndcg@10")
"""What is asked of passages; of documents more."""

BASELINES = ("dense", "bm25", "rrf")
"""Rankings that every search could have given: by meaning alone, by words alone, by reciprocal ranks of both."""

BASELINE_MEASURES = ("success@1", "success@5", "recall@5", "recall@10", "mrr@10", "ndcg@10")
SEED = 20_261_121
"""Of resampling: the same run always has the same intervals."""

_NEED_THE_ANSWER = frozenset({"useful", "selective_accuracy"})
_CURVE_POINTS = 200
_RECALL_DEPTHS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)

Recorded = Literal["ranking", "answers"]

Similarity = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[float | None]]
"""(answer, golds) each -> how near in meaning the answer is to the nearest of them; None where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What scoring depends on besides gold and predictions.

    k: how many hits were asked for. reranked: how many candidates were re-ranked. text_of: doc_id -> the text of a
    document, None where there is none. similarity: None leaves it out. recorded: of another system, all that is known
    is its "ranking" or its "answers": neither says where a question was lost.
    """

    k: int
    reranked: int
    text_of: Callable[[str], str | None]
    similarity: Similarity | None = None
    recorded: Recorded | None = None


def judge(golds: Sequence[Gold], predictions: Mapping[str, Prediction], scoring: Scoring) -> list[Judged]:
    """Every question with its values and the stage that lost it, in order. One that was not asked counts as failed."""
    made = [
        predictions.get(gold.example.example_id)
        or Prediction(gold.example.example_id, gold.example.question, error="it was not asked")
        for gold in golds
    ]
    ranked = _ranked(golds, made) if scoring.recorded != "answers" else {}
    alike = _similarities(golds, made, scoring.similarity)
    return [
        _judged(gold, one, {**ranked.get(gold.example.example_id, {}), **near}, scoring)
        for gold, one, near in zip(golds, made, alike, strict=True)
    ]


def _judged(gold: Gold, prediction: Prediction, values: Mapping[str, float], scoring: Scoring) -> Judged:
    example = gold.example
    found = dict(values)
    if not _is_search(prediction):
        found |= _named("answer", answer_values(prediction.answer, bool(prediction.abstained), example))
        if scoring.recorded is None:
            found |= _named("answer", choice_values(prediction.choice, example))
            found |= _named("citations", citation_values(prediction, example, scoring.text_of))
    correct = found.get("answer.choice", found.get("answer.correct"))
    if example.answerable is not None and not _is_search(prediction):
        answered = None if prediction.answer is None else not prediction.abstained
        decided = abstention_values(example.answerable, answered, bool(correct))
        if correct is None and example.answerable and answered:  # whether what was said is right, nobody knows
            decided = {name: value for name, value in decided.items() if name not in _NEED_THE_ANSWER}
        found |= _named("abstention", decided)
    where = (
        wrong(found, ranked=scoring.recorded == "ranking")
        if scoring.recorded and prediction.error is None
        else lost(
            example,
            prediction,
            gold_passages=gold.passages,
            missing=gold.missing,
            correct=None if correct is None else bool(correct),
            k=scoring.k,
            reranked=scoring.reranked,
        )
    )
    return Judged(example, found, where, gold.passages, gold.missing)


def _is_search(prediction: Prediction) -> bool:
    """Whether only a search was asked for."""
    return prediction.answer is None and prediction.error is None


def _similarities(
    golds: Sequence[Gold], predictions: Sequence[Prediction], similarity: Similarity | None
) -> list[dict[str, float]]:
    asked = [
        at
        for at, (gold, one) in enumerate(zip(golds, predictions, strict=True))
        if similarity and gold.example.answers and gold.example.answerable is not False and not _is_search(one)
    ]
    given = [at for at in asked if predictions[at].answer and not predictions[at].abstained]
    pairs = [(predictions[at].answer or "", golds[at].example.answers) for at in given]
    near = dict(zip(given, similarity(pairs), strict=True)) if similarity else {}
    values = {at: near.get(at, 0.0) for at in asked}
    return [{} if (value := values.get(at)) is None else {"answer.similarity": value} for at in range(len(predictions))]


# ---- rankings --------------------------------------------------------------------------------------------------------


def document_runs(judged: Iterable[Judged], predictions: Mapping[str, Prediction]) -> dict[str, list[str]]:
    """Sources, best first, of every question that was asked: documents ranked by their best passage."""
    return {
        one.example.example_id: _sources(predictions[one.example.example_id], one.example)
        for one in judged
        if one.example.example_id in predictions
    }


def _sources(prediction: Prediction, example: Example) -> list[str]:
    return _documents([one.sources for one in _order(prediction)], example)


def _documents(ranked: Iterable[Sequence[str]], example: Example) -> list[str]:
    """Documents of passages. Copies of a text have one rank, which a relevant one takes; the others are not listed."""
    relevant = example.relevant or {}
    found = ([each for each in sources if each in relevant] or sources[:1] for sources in ranked)
    return list(dict.fromkeys(source for sources in found for source in sources))


def _order(prediction: Prediction) -> list[Candidate]:
    """The hits, and then everything else that was looked at: with caps or for diversity, hits are picked among it."""
    first = {hit.chunk_id: at for at, hit in enumerate(prediction.hits)}
    return sorted(prediction.candidates, key=lambda one: first.get(one.chunk_id, len(first)))


def _passages(prediction: Prediction, gold: Sequence[str]) -> list[str]:
    """chunk_ids, best first; the same text in another document stands for the one that is looked for."""
    wanted = set(gold)
    return [
        next((each for each in (one.chunk_id, *one.twins) if each in wanted), one.chunk_id)
        for one in _order(prediction)
    ]


def _ranked(golds: Sequence[Gold], predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """Values of documents and of passages, by question."""
    relevant = {gold.example.example_id: gold.example.relevant or {} for gold in golds}
    passages = {gold.example.example_id: dict.fromkeys(gold.passages, 1) for gold in golds}
    by_passage = {one.example_id: _passages(one, gold.passages) for gold, one in zip(golds, predictions, strict=True)}
    asked = zip(golds, predictions, strict=True)
    documents = ranked_values({one.example_id: _sources(one, gold.example) for gold, one in asked}, relevant)
    texts = ranked_values(by_passage, passages)
    return {
        each: _named("retrieval", documents.get(each, {}))
        | _named("retrieval", {f"passage_{name}": texts[each][name] for name in PASSAGE_MEASURES if each in texts})
        for each in relevant
    }


def baseline_run(prediction: Prediction, example: Example, baseline: str) -> list[str]:
    """What one of BASELINES would have given, from the ranks of what was looked at; equal ones by their id."""

    lists = {"dense": ("dense_rank",), "bm25": ("lexical_rank",), "rrf": ("dense_rank", "lexical_rank")}[baseline]
    ranks = [[getattr(one, name) or np.inf for one in prediction.candidates] for name in lists]
    scored = zip(reciprocal(np.array(ranks)).tolist(), prediction.candidates, strict=True)
    best_first = sorted((-score, one.chunk_id, one.sources) for score, one in scored if score > 0)
    return _documents([sources for _, _, sources in best_first], example)


# ---- the scores of a run ---------------------------------------------------------------------------------------------


def scores(judged: Sequence[Judged], predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """What scores.json holds: a section a kind of measure, `lost`, `confusion`, `curves` and `baselines`.

    A section maps each measure to its value, low, high (95%) and n. `lost` counts questions by stage.
    """
    found: dict[str, Any] = {section: {} for section in SECTIONS if section != "judge"}
    for name, score in measured(judged).items():
        section, measure = name.split(".", 1)
        found.setdefault(section, {})[measure] = asdict(score)
    decided = _Decided.of(judged, predictions)
    found["abstention"] |= {name: asdict(score) for name, score in decided.areas().items()}
    return {
        **found,
        "questions": len(judged),
        "failed": sum(1 for one in predictions.values() if one.error is not None),
        "lost": dict(Counter(one.lost.stage for one in judged if one.lost).most_common()),
        "confusion": decided.confusion(),
        "curves": {**decided.curves(), "recall_by_k": _recall_by_k(judged, predictions)},
        "baselines": _baselines(judged, predictions),
        "kinds": _kinds(judged),
    }


def measured(judged: Sequence[Judged]) -> dict[str, Score]:
    """ "section.measure" -> its mean over the questions it applies to."""
    names = measure_names(judged)
    return dict(zip(names, intervals(matrix(judged, names), seed=SEED), strict=True))


def measure_names(judged: Iterable[Judged]) -> list[str]:
    """Names of all measures, by section, each section in the order of first appearance."""
    names = list(dict.fromkeys(name for one in judged for name in one.values))
    order: dict[str, int] = {section: at for at, section in enumerate(SECTIONS)}
    return sorted(names, key=lambda name: order.get(name.partition(".")[0], len(order)))


def matrix(judged: Sequence[Judged], names: Sequence[str]) -> NDArray[np.float64]:
    """(questions, measures), NaN where a measure does not apply."""
    found = np.full((len(judged), len(names)), np.nan)
    for row, one in enumerate(judged):
        found[row] = [one.values.get(name, np.nan) for name in names]
    return found


def _kinds(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Questions, lost ones and right answers by the kind that the dataset names."""
    kinds = Counter(one.example.kind for one in judged if one.example.kind)
    table = {}
    for kind, count in kinds.most_common():
        own = [one for one in judged if one.example.kind == kind]
        right = [one.values["answer.correct"] for one in own if "answer.correct" in one.values]
        table[kind] = {
            "questions": count,
            "lost": sum(one.lost is not None for one in own),
            "correct": float(np.mean(right)) if right else None,
        }
    return table


@dataclass(frozen=True, slots=True)
class _Decided:
    """Questions of which it is known whether they can be answered; arrays (n,). failed: no decision was made."""

    answerable: NDArray[np.bool_]
    answered: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    evidence: NDArray[np.float64]

    @classmethod
    def of(cls, judged: Sequence[Judged], predictions: Mapping[str, Prediction]) -> _Decided:
        known = [
            (one, prediction)
            for one in judged
            if one.example.answerable is not None
            for prediction in [predictions.get(one.example.example_id)]
            if prediction is None or not _is_search(prediction)
        ]
        answered = [bool(made and made.answer is not None and not made.abstained) for _, made in known]
        return cls(
            np.array([bool(one.example.answerable) for one, _ in known], dtype=np.bool_),
            np.array(answered, dtype=np.bool_),
            np.array([made is None or made.answer is None for _, made in known], dtype=np.bool_),
            np.array(
                [
                    gave and bool(one.example.answerable and one.values.get("answer.correct"))
                    for (one, _), gave in zip(known, answered, strict=True)
                ],
                dtype=np.bool_,
            ),
            np.array([np.nan if made is None or made.evidence is None else made.evidence for _, made in known]),
        )

    def _scored(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.evidence)

    def _risks(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """What risk and coverage are of: questions that were failed on are not covered."""
        own = self._scored() | ~self.answered
        return self.evidence[own], self.correct[own], self.answered[own]

    def areas(self) -> dict[str, Score]:
        """Of evidence as a judge of what can be answered, and of what is answered rightly."""
        own = self._scored()
        if not own.any():
            return {}
        samples = [self.answerable[own], self.evidence[own]]
        found = {"auroc": interval_of(auroc, samples, seed=SEED)}
        if self.correct.any():
            found["accuracy_coverage_area"] = interval_of(accuracy_coverage_area, self._risks(), seed=SEED)
        return {name: score for name, score in found.items() if score.n}

    def confusion(self) -> dict[str, dict[str, int]]:
        if not len(self.answerable):
            return {}
        decisions: list[bool | None] = [
            None if failed else bool(gave) for failed, gave in zip(self.failed, self.answered, strict=True)
        ]
        return asdict(confusion(self.answerable.tolist(), decisions))

    def curves(self) -> dict[str, Any]:
        own = self._scored()
        if not own.any():
            return {}
        curves: dict[str, Any] = {}
        if (own & self.answered).any():
            curve = risk_coverage(*self._risks())
            points = np.column_stack((curve.coverage, curve.risk))
            curves["risk_coverage"] = _thinned(points)
        if found := reliability(self.answerable[own], self.evidence[own]):
            curves["reliability"] = [[one.evidence, one.answerable, one.n] for one in found.bins]
            curves["calibration_error"], curves["brier"] = found.calibration_error, found.brier
        return curves


def _thinned(points: NDArray[np.float64]) -> list[list[float]]:
    """At most _CURVE_POINTS of them, the last one included."""
    at = np.unique(np.linspace(0, len(points) - 1, _CURVE_POINTS).astype(np.int64))
    return [[float(value) for value in point] for point in points[at]]


def _recall_by_k(judged: Sequence[Judged], predictions: Mapping[str, Prediction]) -> list[list[float]]:
    """[k, mean share of the relevant documents among the first k]."""
    own = [one for one in judged if one.example.relevant]
    runs = document_runs(own, predictions)
    pairs = [(set(one.example.relevant or ()), runs.get(one.example.example_id, [])) for one in own]
    return [
        [k, float(np.mean([len(relevant & set(run[:k])) / len(relevant) for relevant, run in pairs]))]
        for k in (_RECALL_DEPTHS if pairs else ())
    ]


def _baselines(judged: Sequence[Judged], predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """What dense, BM25 and RRF would have scored on the same questions, and by how much the run is above each."""
    own = [one for one in judged if any(one.example.relevant or ()) and one.example.example_id in predictions]
    asked = [predictions[one.example.example_id] for one in own]
    if not any(each.dense_rank or each.lexical_rank for one in asked for each in one.candidates):
        return {}
    relevant = {one.example.example_id: one.example.relevant or {} for one in own}
    ours = matrix(own, [f"retrieval.{name}" for name in BASELINE_MEASURES])
    table: dict[str, Any] = {}
    for baseline in BASELINES:
        runs = {
            each.example_id: baseline_run(each, one.example, baseline) for one, each in zip(own, asked, strict=True)
        }
        values = ranked_values(runs, relevant)
        theirs = np.array([[values[each][name] for name in BASELINE_MEASURES] for each in relevant])
        means, above = intervals(theirs, seed=SEED), paired(theirs, ours, seed=SEED)
        table[baseline] = {
            name: {**asdict(mean), "above": asdict(difference)}
            for name, mean, difference in zip(BASELINE_MEASURES, means, above, strict=True)
        }
    return table


def _named(section: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{section}.{name}": value for name, value in values.items()}

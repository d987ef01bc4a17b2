"""Ranked lists against judgements. The one door of ir_measures; knows ids, ranks and grades, never a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.errors import EvalError
from retrieval.errors import MissingPackageError

MAX_GRADE = 1_000
"""trec_eval, which ir_measures calls, allocates a table as long as the highest grade: 0.8 GB for 100,000,000."""

_NAMES = {
    **{f"success@{k}": f"Success@{k}" for k in (1, 3, 5, 10)},
    **{f"recall@{k}": f"R@{k}" for k in (1, 3, 5, 10, 20, 100)},
    "precision@5": "P@5",
    "mrr@10": "RR@10",
    "ndcg@10": "nDCG@10",
    "map@100": "AP@100",
}
"""Our names and ir_measures'; the order is that of the values. mrr and map: what their means over questions are."""

MEASURES = tuple(_NAMES)
_DEEPEST = 100


def ranked_values(
    runs: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """Every measure of MEASURES for each question that has a relevant document, in the order of `relevant`, in [0, 1].

    runs: question -> ids, best first; of an id that comes twice the first counts. relevant: question -> id -> grade;
    an id is relevant from grade 1 on. The ids may be any strings, of documents or of chunks. A question without a list
    scores 0. One without a relevant document is not in the result, for no measure is defined; neither is a list whose
    question is not in `relevant`.

    recall@k divides by all relevant documents, precision@5 by 5, map@100 (average precision within the first 100) by
    all relevant ones. ndcg@10 is trec_eval's: the grade itself is the gain, its discount log2(rank + 1) (Järvelin and
    Kekäläinen, TOIS 2002, with the discount starting at rank 2), over the same sum of the best order there is.

    Raises MissingPackageError without ir_measures, EvalError for a grade above MAX_GRADE.
    """
    questions = [question for question, graded in relevant.items() if _has_relevant(question, graded)]
    lists: dict[str, dict[str, float]] = {}
    grades: dict[str, dict[str, int]] = {}
    for number, question in enumerate(questions):
        lists[str(number)], grades[str(number)] = _renamed(runs.get(question, ()), relevant[question])
    found = _measured(lists, grades)
    return {question: found[str(number)] for number, question in enumerate(questions)}


def _has_relevant(question: str, graded: Mapping[str, int]) -> bool:
    highest = max(graded.values(), default=0)
    if highest > MAX_GRADE:
        raise EvalError(
            f"question {question[:60]!r} has a document of grade {highest:.6g}; expected at most {MAX_GRADE}: "
            "scale the grades down"
        )
    return highest >= 1


def _renamed(ranked: Sequence[str], graded: Mapping[str, int]) -> tuple[dict[str, float], dict[str, int]]:
    """One question's list with scores and its judgements, the ids replaced by numbers.

    Numbers, since trec_eval's ids are C strings: no zero byte, no lone surrogate. Scores fall strictly, for it breaks
    ties by id; they are whole and small, for it compares them as 32-bit floats.
    """
    names = {name: str(rank) for rank, name in enumerate(list(dict.fromkeys(ranked))[:_DEEPEST])}
    scores = {number: float(-rank) for rank, number in enumerate(names.values())}
    judged = {names.get(name, f"unlisted {n}"): grade for n, (name, grade) in enumerate(graded.items()) if grade >= 1}
    return scores, judged


def _measured(lists: dict[str, dict[str, float]], grades: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """What ir_measures says, by our names. Its providers are named: others would be asked if they were installed."""
    ir = _ir_measures()
    values: dict[str, dict[str, float]] = {question: dict.fromkeys(MEASURES, 0.0) for question in grades}
    if not grades:
        return values
    for provider, ours in ((ir.msmarco, ["mrr@10"]), (ir.pytrec_eval, [name for name in MEASURES if name != "mrr@10"])):
        measures = {ir.parse_measure(_NAMES[name]): name for name in ours}
        for metric in provider.evaluator(list(measures), grades).iter_calc(lists):
            values[metric.query_id][measures[metric.measure]] = float(metric.value)
    return values


def _ir_measures() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingPackageError(
            "retrieval is scored with ir_measures, which is not installed; run: pip install 'cited-rag[eval]'"
        ) from error
    return ir_measures

"""Abstention: counts by hand, the curve against every order of its ties, AUROC and Brier against scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from eval.metrics.abstention import (
    Bin,
    Confusion,
    Decisions,
    abstention_values,
    accuracy_coverage_area,
    auroc,
    confusion,
    reliability,
    risk_coverage,
)

levels = st.sampled_from([0.0, 0.25, 0.5, 1.0])
questions = st.lists(st.tuples(levels, st.booleans(), st.booleans()), min_size=1, max_size=6)
scored = st.lists(st.tuples(st.booleans(), st.floats(0, 1) | levels), min_size=1, max_size=30)


def _arrays(rows: list[tuple[float, bool, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    evidence, correct, answered = zip(*rows, strict=True)
    return np.array(evidence, dtype=float), np.array(correct, dtype=bool), np.array(answered, dtype=bool)


@pytest.mark.parametrize(
    ("answerable", "answered", "correct", "expected"),
    [
        (True, True, True, {"answered_answerable": 1, "accuracy": 1, "useful": 1, "selective_accuracy": 1}),
        (True, True, False, {"answered_answerable": 1, "accuracy": 1, "useful": 0, "selective_accuracy": 0}),
        (True, False, False, {"answered_answerable": 0, "accuracy": 0, "useful": 0}),
        (True, None, False, {"answered_answerable": 0, "accuracy": 0, "useful": 0, "selective_accuracy": 0}),
        (False, False, False, {"abstained_unanswerable": 1, "accuracy": 1, "useful": 1}),
        (False, True, False, {"abstained_unanswerable": 0, "accuracy": 0, "useful": 0, "selective_accuracy": 0}),
        (False, None, False, {"abstained_unanswerable": 0, "accuracy": 0, "useful": 0, "selective_accuracy": 0}),
    ],
)
def test_every_case_of_a_question(answerable, answered, correct, expected):
    assert abstention_values(answerable, answered, correct) == expected


def test_correct_counts_only_where_an_answer_can_be():
    for answerable, answered in ((True, False), (True, None), (False, True), (False, False), (False, None)):
        said = abstention_values(answerable, answered, correct=True)
        assert said == abstention_values(answerable, answered, correct=False)


def test_the_matrix_by_hand():
    matrix = confusion([True, True, True, True, False, False], [True, True, False, None, True, False])
    assert matrix == Confusion(Decisions(2, 1, 1), Decisions(1, 1, 0))
    assert confusion([], []) == Confusion(Decisions(0, 0, 0), Decisions(0, 0, 0))


def test_the_curve_by_hand():
    """One right at .9; at .8 one wrong, one right; one abstained, of the highest evidence, which does not matter.

    Wrong among the first 1, 2, 3, 4: 0, 1/2 (either of the two at .8), 1, 2 (the abstained one): the mean of 0/1,
    .5/2, 1/3, 2/4.
    """
    curve = risk_coverage(*_arrays([(0.8, False, True), (0.9, True, True), (1.0, False, False), (0.8, True, True)]))
    assert curve.evidence.tolist() == [0.9, 0.8]
    assert curve.coverage.tolist() == [1 / 4, 3 / 4]
    assert curve.risk.tolist() == [0, 1 / 3]
    assert curve.area == pytest.approx((0 + 0.25 + 1 / 3 + 0.5) / 4)


def test_the_best_the_worst_and_no_curve():
    sure = _arrays([(0.9, True, True), (0.1, True, True)])
    assert (risk_coverage(*sure).area, accuracy_coverage_area(*sure)) == (0, 1)
    silent = risk_coverage(*_arrays([(0.9, True, False), (math.nan, False, False)]))
    assert (silent.area, len(silent.coverage), len(silent.risk)) == (1, 0, 0)
    none = (np.empty(0), np.empty(0, dtype=bool), np.empty(0, dtype=bool))
    assert (risk_coverage(*none).area, accuracy_coverage_area(*none)) == (None, None)
    with pytest.raises(ValueError, match="expected a score for every answer"):
        risk_coverage(*_arrays([(math.nan, True, True)]))


@given(questions)
def test_the_area_is_the_mean_over_every_order_of_equal_evidence(rows):
    ranked = [(-evidence if answered else 1, not (correct and answered)) for evidence, correct, answered in rows]
    orders = [
        order for order in itertools.permutations(ranked) if [e for e, _ in order] == sorted(e for e, _ in ranked)
    ]
    areas = [
        np.mean([sum(wrong for _, wrong in order[:count]) / count for count in range(1, len(rows) + 1)])
        for order in orders
    ]
    assert risk_coverage(*_arrays(rows)).area == pytest.approx(np.mean(areas))


@given(questions)
def test_each_point_counts_the_answers_at_least_as_sure(rows):
    curve = risk_coverage(*_arrays(rows))
    for evidence, coverage, risk in zip(curve.evidence, curve.coverage, curve.risk, strict=True):
        right = [correct for score, correct, answered in rows if answered and score >= evidence]
        assert (coverage, risk) == pytest.approx((len(right) / len(rows), 1 - sum(right) / len(right)))
    assert curve.evidence.tolist() == sorted({score for score, _, answered in rows if answered}, reverse=True)


@given(questions, st.integers(0, 5))
def test_abstaining_pays_for_wrong_answers_alone(rows, which):
    evidence, correct, answered = rows[which % len(rows)]
    assume(answered)
    fewer = list(rows)
    fewer[which % len(rows)] = (evidence, correct, False)
    before, after = risk_coverage(*_arrays(rows)).area, risk_coverage(*_arrays(fewer)).area
    assert after >= before - 1e-12 if correct else after <= before + 1e-12


@given(scored)
def test_auroc_is_scikit_learns_and_the_share_of_pairs(rows):
    answerable, evidence = np.array([kind for kind, _ in rows]), np.array([score for _, score in rows])
    pairs = [(more > less) + (more == less) / 2 for more in evidence[answerable] for less in evidence[~answerable]]
    if not pairs:
        assert auroc(answerable, evidence) is None
        return
    assert auroc(answerable, evidence) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(answerable, evidence) == pytest.approx(roc_auc_score(answerable, evidence), abs=1e-12)


@given(scored)
def test_reliability_adds_up(rows):
    answerable, evidence = np.array([kind for kind, _ in rows]), np.array([score for _, score in rows])
    found = reliability(answerable, evidence)
    assert found.brier == pytest.approx(brier_score_loss(answerable, evidence, pos_label=True))
    assert sum(each.n for each in found.bins) == len(rows)
    assert sum(each.n * each.evidence for each in found.bins) == pytest.approx(evidence.sum())
    assert sum(each.n * each.answerable for each in found.bins) == pytest.approx(answerable.sum())
    assert 0 <= found.calibration_error <= 1
    assert reliability(answerable, evidence, bins=1).calibration_error == pytest.approx(
        abs(evidence.mean() - answerable.mean())
    )
    for each in found.bins:
        assert each.low - 1e-9 <= each.evidence <= each.high + 1e-9


def test_reliability_by_hand():
    """Two bins: of .2 and .4 one is answerable, off by .5 - .3; of .5 and 1, both: off by 1 - .75."""
    found = reliability(np.array([True, False, True, True]), np.array([0.2, 0.4, 1.0, 0.5]), bins=2)
    assert found.bins == (Bin(0, 0.5, 2, pytest.approx(0.3), 0.5), Bin(0.5, 1, 2, 0.75, 1))
    assert found.calibration_error == pytest.approx((2 * 0.2 + 2 * 0.25) / 4)
    assert found.brier == pytest.approx((0.8**2 + 0.4**2 + 0 + 0.5**2) / 4)
    assert reliability(np.empty(0, dtype=bool), np.empty(0)) is None


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_evidence_that_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match="where a probability was expected"):
        reliability(np.array([True]), np.array([wrong]))
    if math.isnan(wrong):
        with pytest.raises(ValueError, match="expected a score for every question"):
            auroc(np.array([True]), np.array([wrong]))

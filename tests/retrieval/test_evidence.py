"""One number from features: its bytes, its range, and that more of what speaks for an answer never makes it less."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import IndexCorruptError
from retrieval.evidence import CALIBRATED, Evidence, features
from retrieval.interaction import Comparison, Question
from retrieval.rerank import Candidates

NAMES = sorted(CALIBRATED.weights)
WEIGHT = st.floats(-100, 100)
CALIBRATIONS = st.builds(Evidence, st.fixed_dictionaries(dict.fromkeys(NAMES, WEIGHT)), st.floats(0, 1))
MEASURED = st.fixed_dictionaries({name: st.floats(-10, 10) for name in NAMES})
relaxed = settings(max_examples=60, deadline=None)


# ---- bytes -----------------------------------------------------------------------------------------------------------


@given(CALIBRATIONS)
@relaxed
def test_dump_and_load(calibration):
    assert Evidence.load(calibration.dump()) == calibration


def test_this_releases_own_where_there_is_none_or_one_of_other_features():
    assert Evidence.load(None) is CALIBRATED
    assert Evidence.load(CALIBRATED.dump()) == CALIBRATED
    for other in ({}, {"read": 1.0}, {**CALIBRATED.weights, "moon phase": 1.0}):
        assert Evidence.load(Evidence(other, 0.1).dump()) is CALIBRATED


GOOD = json.loads(CALIBRATED.dump())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"1", b"null", b"{}", b'{"threshold": 1}', b"[" * 100_000,
        *(json.dumps({**GOOD, **wrong}).encode() for wrong in (
            {"weights": []}, {"weights": None}, {"weights": {"read": "much"}}, {"weights": {"read": None}},
            {"weights": {"read": [1]}}, {"weights": {"read": 10**400}}, {"weights": {"read": float("nan")}},
            {"weights": {"read": float("inf")}}, {"threshold": float("nan")}, {"threshold": None}, {"threshold": {}},
        )),
    ],
)  # fmt: skip
def test_damaged_bytes_are_refused(data):
    with pytest.raises(IndexCorruptError, match="evidence calibration cannot be read"):
        Evidence.load(data)


# ---- the score -------------------------------------------------------------------------------------------------------


@given(CALIBRATIONS, MEASURED)
@relaxed
def test_a_score_is_a_share(calibration, measured):
    assert 0 <= calibration.score(measured) <= 1


@given(CALIBRATIONS)
@relaxed
def test_nothing_found_is_no_evidence(calibration):
    assert calibration.score({}) == 0


@given(CALIBRATIONS, MEASURED, st.sampled_from(NAMES), st.floats(0, 10))
@relaxed
def test_more_of_what_speaks_for_it_is_never_less_evidence(calibration, measured, name, more):
    raised = calibration.score({**measured, name: measured[name] + more})
    before = calibration.score(measured)
    weight = calibration.weights[name]
    assert raised >= before if weight > 0 else raised <= before if weight < 0 else raised == before


def test_a_score_by_hand():
    """1 / (1 + e^-(2 * 1 - 1 * 0.5)) with weights 2 and -1."""
    made = Evidence({"read whole": 2.0, "read": -1.0}, 0.5)
    assert made.score({**dict.fromkeys(NAMES, 9.0), "read whole": 1.0, "read": 0.5}) == pytest.approx(0.8175745)


# ---- features --------------------------------------------------------------------------------------------------------


def question_of(weights, *, known=1.0, terms=2):
    weights = np.array(weights, dtype=np.float64)
    shares = {f"term{number}": 1 / terms for number in range(terms)}
    return Question("?", np.zeros(2, np.float32), np.zeros((len(weights), 8), np.float32), weights,
                    np.zeros((len(weights), 2), np.int64), known, shares, readable=known)  # fmt: skip


def candidates_of(rng, n, m):
    compared = Comparison(*(rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((n, m), (n,), (n, 3), (n, 2))))
    return Candidates(rng.uniform(-1, 1, n), rng.uniform(0, 9, n), rng.uniform(0, 1, n), rng.uniform(0, 1, n), compared)


def is_of(name, what):
    return what in name.split()


@given(st.integers(1, 70), st.integers(1, 5), st.floats(0, 1), st.integers(0, 999))
@relaxed
def test_features_are_those_of_the_calibration_and_numbers(n, m, known, seed):
    rng = np.random.default_rng(seed)
    found, order = candidates_of(rng, n, m), rng.permutation(n)
    measured = features(question_of(np.full(m, 1 / m), known=known), found, order, spread=0.1)
    assert set(measured) == set(NAMES)
    assert all(isinstance(value, float) and np.isfinite(value) for value in measured.values())
    assert known > 0 or not any(value for name, value in measured.items() if is_of(name, "read"))
    assert known < 1 or not any(value for name, value in measured.items() if is_of(name, "words"))


@given(st.integers(0, 999))
@relaxed
def test_among_few_passages_none_stands_out_and_among_many_they_are_not_few(seed):
    rng = np.random.default_rng(seed)
    question = question_of([0.5, 0.5], known=0.5)
    alone = features(question, candidates_of(rng, 1, 2), np.array([0]), spread=0.0)
    assert not any(value for name, value in alone.items() if "margin" in name or "stands out" in name)
    many = features(question, candidates_of(rng, 60, 2), rng.permutation(60), spread=0.0)
    assert not any(value for name, value in many.items() if is_of(name, "few"))


def test_no_passages_no_features():
    found = candidates_of(np.random.default_rng(0), 0, 1)
    assert features(question_of([1.0]), found, np.zeros(0, np.int64), spread=0.0) == {}


@pytest.mark.parametrize(("weights", "known"), [([0.0, 0.0], 0.5), ([], 0.0)])
def test_a_question_without_a_word_has_features(weights, known):
    found = candidates_of(np.random.default_rng(0), 2, len(weights))
    measured = features(question_of(weights, known=known, terms=0), found, np.array([1, 0]), spread=0.0)
    assert all(np.isfinite(value) for value in measured.values())
    assert 0 <= CALIBRATED.score(measured) <= 1


def test_a_first_passage_that_matches_better_is_a_higher_feature():
    rng = np.random.default_rng(1)
    question, found = question_of([0.5, 0.5]), candidates_of(rng, 8, 2)
    order = np.argsort(found.comparison.nearby[:, 1])
    worst, best = (features(question, found, one, spread=0.0) for one in (order, order[::-1]))
    assert worst["read nearby"] < best["read nearby"]

"""Intervals and tests: against scipy, against sums by hand, and against what they promise on simulated data."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.records import Score
from eval.statistics import Paired, bootstrapped, familywise, interval_of, intervals, paired

NAN = float("nan")


def _column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def test_three_questions_by_hand():
    """Of 27 resamples of 0, 0, 1, eight have mean 0 and one has mean 1: more than 2.5% either way."""
    assert bootstrapped(_column(0, 0, 1), seed=1) == (Score(pytest.approx(1 / 3), 0, 1, 3),)


@pytest.mark.parametrize(("right", "n"), [(18, 18), (0, 1), (1, 1), (7, 9), (300, 4000)])
def test_a_share_has_wilsons_interval(right, n):
    """18 of 18 may still be 82%: no resample of them could show that."""
    values = np.full((n + 3, 2), NAN)
    values[:n, 0] = np.arange(n) < right
    values[:n, 1] = 0.5
    share, other = intervals(values, seed=1)
    theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (share.value, share.low, share.high, share.n) == pytest.approx((right / n, *theirs, n))
    assert other == Score(0.5, 0.5, 0.5, n)  # no share, so nothing is known of its spread


@pytest.mark.parametrize(("ones", "n", "low"), [(3, 10, 0), (3, 8, 1 / 8)])
def test_the_tails_are_two_and_a_half_percent(ones, n, low):
    """No 1 is among those drawn in (7/10) ** 10 = 2.8% of all resamples of ten, in (5/8) ** 8 = 2.3% of eight."""
    values = np.arange(n)[:, None] < ones
    (score, turned) = bootstrapped(np.hstack([values, ~values]).astype(np.float64), seed=1, draws=200_000)
    assert (score.low, turned.high) == pytest.approx((low, 1 - low))


def test_scipy_draws_the_same_interval():
    values = np.random.default_rng(1).gamma(2, size=(200, 1))
    ours = bootstrapped(values, seed=1)[0]
    theirs = stats.bootstrap((values[:, 0],), np.mean, method="percentile", n_resamples=10_000, rng=2)
    width = ours.high - ours.low
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=width * 0.04)


def test_where_a_measure_does_not_apply_is_no_part_of_it():
    """As if the mean over whatever questions of the measure were drawn had been bootstrapped; scipy does just that."""
    values = np.random.default_rng(3).random((300, 1))
    values[::3] = NAN
    ours = bootstrapped(values, seed=1)[0]
    theirs = stats.bootstrap((values[:, 0],), np.nanmean, method="percentile", n_resamples=5_000, rng=2)
    assert (ours.value, ours.n) == (pytest.approx(np.nanmean(values)), 200)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=(ours.high - ours.low) * 0.05)


def test_measures_share_their_resamples_whatever_stands_beside_them():
    values = np.random.default_rng(1).random((3_000, 2))  # several blocks of draws
    values[1, 1] = NAN
    first, _, opposite = bootstrapped(np.column_stack([values, 1 - values[:, 0]]), seed=4, draws=2_000)
    assert (1 - opposite.high, 1 - opposite.low) == pytest.approx((first.low, first.high))
    (alone,) = bootstrapped(values[:, :1], seed=4, draws=2_000)
    assert astuple(alone) == pytest.approx(astuple(first))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(1).random((50, 2))
    assert bootstrapped(values, seed=7) == bootstrapped(values.copy(), seed=7) != bootstrapped(values, seed=8)


def test_of_nothing_of_one_and_of_equal_values():
    assert bootstrapped(np.empty((0, 2)), seed=1) == (Score(None, None, None, 0),) * 2
    assert bootstrapped(np.empty((3, 0)), seed=1) == ()
    assert bootstrapped(_column(NAN, NAN), seed=1) == (Score(None, None, None, 0),)
    assert bootstrapped(_column(0.3), seed=1) == (Score(0.3, 0.3, 0.3, 1),)
    assert bootstrapped(_column(*[NAN] * 40, 0.3), seed=1) == (Score(0.3, 0.3, 0.3, 1),)
    assert bootstrapped(_column(*[0.1] * 30), seed=1) == (Score(0.1, 0.1, 0.1, 30),)


def test_what_is_no_such_matrix_is_refused():
    for values, draws in ((np.ones(3), 1000), (_column(np.inf), 1000), (_column(1), 99)):
        with pytest.raises(ValueError, match="expected"):
            bootstrapped(values, seed=1, draws=draws)
    with pytest.raises(ValueError, match="expected the same questions"):
        paired(_column(1), _column(1, 2), seed=1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """400 samples of 80 questions, a measure between 0 and 1 that is mostly 1; the true mean is .8."""
    samples = np.random.default_rng(5).beta(2, 0.5, size=(80, 400))
    held = [score.low <= 0.8 <= score.high for score in bootstrapped(samples, seed=1, draws=2_000)]
    assert 0.89 < np.mean(held) < 0.98


@given(st.lists(st.floats(-1, 1) | st.just(NAN), min_size=1, max_size=30), st.integers(0, 9))
def test_an_interval_lies_within_the_values(values, seed):
    (score,) = bootstrapped(_column(*values), seed=seed, draws=100)
    there = [value for value in values if not math.isnan(value)]
    assert score.n == len(there)
    if there:
        assert min(there) - 1e-12 <= score.low <= score.high <= max(there) + 1e-12
        assert score.value == pytest.approx(sum(there) / len(there), abs=1e-12)


def test_the_interval_of_any_statistic():
    values = np.random.default_rng(1).random(200)
    mean = interval_of(lambda drawn: float(drawn.mean()), (values,), seed=1)
    expected = bootstrapped(values[:, None], seed=2)[0]
    assert (mean.value, mean.n) == (pytest.approx(expected.value), 200)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high), abs=0.008)
    assert mean == interval_of(lambda drawn: float(drawn.mean()), (values,), seed=1)


def test_arrays_are_drawn_together_and_what_is_not_defined_is_left_out():
    def slope(x: np.ndarray, y: np.ndarray) -> float | None:
        return float(np.polyfit(x, y, 1)[0]) if np.ptp(x) else None

    line = np.array([0.0, 0.0, 1.0])
    score = interval_of(slope, (line, 2 * line + 1), seed=1, draws=200)  # a third of all resamples have no slope
    assert (score.value, score.low, score.high, score.n) == pytest.approx((2, 2, 2, 3))
    assert interval_of(slope, (np.zeros(3), line), seed=1) == Score(None, None, None, 0)


def test_three_pairs_by_hand():
    """Of the 8 ways to sign 1, 1, 2, the sum is as far from 0 as 4 in two; a pair without difference adds nothing."""
    (result,) = paired(_column(0, 0, 0, 5), _column(1, 1, 2, 5), seed=1)
    assert (result.difference, result.p, result.n) == (1, 2 / 8, 4)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_few_pairs_are_tested_exactly(differences):
    tenths = np.array(differences) / 10  # whose sums are rounded
    a = np.linspace(0, 1, len(tenths))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in
            itertools.product((-1, 1), repeat=len(differences))]  # fmt: skip
    (result,) = paired(a[:, None], (a + tenths)[:, None], seed=1, draws=100)
    assert result.p == pytest.approx(sum(total >= abs(sum(differences)) for total in sums) / len(sums))
    assert result.difference == pytest.approx(tenths.mean())


@pytest.mark.parametrize("n", [10, 60])
def test_scipy_finds_the_same_p_value(n):
    random = np.random.default_rng(n)
    a, b = random.random(n), random.random(n) + 0.08
    theirs = stats.permutation_test(
        (b, a), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=1
    )
    (result,) = paired(a[:, None], b[:, None], seed=1)
    assert result.p == pytest.approx(theirs.pvalue, abs=1e-12 if n == 10 else 0.015)


def test_the_better_system_has_the_higher_difference_and_p_is_never_zero():
    a = np.random.default_rng(1).random((100, 1))
    (result,) = paired(a, a + 1, seed=1, draws=500)
    assert result == Paired(pytest.approx(1), pytest.approx(1), pytest.approx(1), 1 / 501, 100)
    (turned,) = paired(a + 1, a, seed=1, draws=500)
    assert (turned.difference, turned.p) == (pytest.approx(-1), 1 / 501)


def test_a_pair_counts_where_the_measure_applies_to_both():
    a, b = _column(0, NAN, 0.5, NAN), _column(1, 1, NAN, NAN)
    assert paired(a, b, seed=1) == (Paired(1, 1, 1, 1, 1),)
    assert paired(a[1:], b[1:], seed=1) == (Paired(None, None, None, None, 0),)


def test_alike_systems_are_told_apart_no_more_often_than_p_says():
    random = np.random.default_rng(2)
    a, b = random.random((40, 500)), random.random((40, 500))
    p = np.array([result.p for result in paired(a, b, seed=1, draws=1_000)])
    assert paired(a, b, seed=1, draws=1_000)[3].p == p[3]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / 500))
    assert paired(a, a, seed=1)[0] == Paired(0, 0, 0, 1, 40)


def test_measures_are_tested_together_as_alone():
    random = np.random.default_rng(2)
    a, b = random.random((30, 3)), random.random((30, 3))
    b[5:, 1] = a[5:, 1]  # five that differ: tried exactly, beside others that are drawn
    together = paired(a, b, seed=1)
    for column in range(3):
        (alone,) = paired(a[:, [column]], b[:, [column]], seed=1)
        assert astuple(together[column]) == pytest.approx(astuple(alone))


def together(a, b, **options):
    return familywise(np.array(a, dtype=float), np.array(b, dtype=float), seed=1, **options)


def by_all_signs(a, b, *, falls):
    """The definition: over all ways to sign the questions, the largest statistic of this measure and later ones."""
    differences = np.nan_to_num(np.array(b, dtype=float) - np.array(a, dtype=float))
    roots = np.sqrt((differences**2).sum(axis=0))
    roots[roots == 0] = 1

    def statistics(signed):
        sums = signed.sum(axis=0) / roots
        return -sums if falls else np.abs(sums)

    observed = statistics(differences)
    order = sorted(range(len(observed)), key=lambda at: -observed[at])
    adjusted, least = {}, 0.0
    signs = list(itertools.product((-1, 1), repeat=len(differences)))
    for place, measure in enumerate(order):
        reached = [
            statistics(differences * np.array(one)[:, None])[order[place:]].max() >= observed[measure] - 1e-9
            for one in signs
        ]
        least = adjusted[measure] = max(least, sum(reached) / len(signs))
    return [adjusted[at] for at in range(len(observed))]


@given(
    st.integers(1, 4).flatmap(
        lambda measures: st.lists(
            st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=measures, max_size=measures),
            min_size=1,
            max_size=6,
        )
    ),
    st.booleans(),
)
@settings(max_examples=60)
def test_all_measures_together_by_the_definition(differences, falls):
    zero = np.zeros((len(differences), len(differences[0])))
    assert together(zero, differences, falls=falls) == pytest.approx(by_all_signs(zero, differences, falls=falls))


def test_one_measure_alone_has_its_own_p():
    random = np.random.default_rng(3)
    a, b = random.random((60, 1)), random.random((60, 1)) + 0.1
    assert together(a, b)[0] == pytest.approx(paired(a, b, seed=1)[0].p)


def test_copies_of_a_measure_change_nothing():
    random = np.random.default_rng(4)
    a, b = random.random((40, 1)), random.random((40, 1)) + 0.1
    assert set(together(np.repeat(a, 9, axis=1), np.repeat(b, 9, axis=1))) == set(together(a, b))


def test_only_falls_are_asked_for():
    """Four questions, all lower: one of 16 ways to sign them is as low, two are as far; a rise is never a fall."""
    high, low = np.ones((4, 1)), np.zeros((4, 1))
    assert together(high, low, falls=True) == (1 / 16,)
    assert together(high, low) == (2 / 16,)
    assert together(low, high, falls=True) == (1.0,)


def test_a_measure_without_a_question_has_none():
    assert together([[1.0, NAN]], [[1.0, NAN]]) == (1.0, None)
    assert together(np.zeros((0, 2)), np.zeros((0, 2))) == (None, None)


def test_false_alarms_among_twenty_measures_are_rare():
    """Of 100 comparisons of equal systems by twenty independent measures, about five give an alarm."""
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(100):
        a, b = random.random((30, 20)), random.random((30, 20))
        alarms += min(together(a, b, draws=400)) < 0.05
    assert alarms <= 12

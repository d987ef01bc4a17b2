"""Fusion by hand, and what must hold of it whatever the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.fusion import MARGIN_OVER, dense_share, fuse, reciprocal, scaled

SCORE = st.floats(-1, 50, width=32)
SCORES = st.lists(SCORE, min_size=1, max_size=12).map(np.array)
BEST_FIRST = SCORES.map(lambda scores: -np.sort(-scores))
SHARE = st.floats(0, 1)
relaxed = settings(max_examples=60, deadline=None)


def of(*scores):
    return np.array(scores, dtype=np.float64)


# ---- the share -------------------------------------------------------------------------------------------------------


def test_a_share_by_hand():
    """Margins of the first score in standard deviations over the list.

    (4, 0, 0, 0, 0): mean .8, deviation 1.6, margin 2. (2, 0): mean 1, deviation 1, margin 1.
    2 against 1 is 2/3, sharpened (4/9) / (4/9 + 1/9) = 4/5; by half of the question known, a quarter of that.
    """
    one, other = of(4, 0, 0, 0, 0), of(2, 0)
    assert dense_share(one, other, known=1) == pytest.approx(4 / 5)
    assert dense_share(other, one, known=1) == pytest.approx(1 / 5)
    assert dense_share(one, other, known=0.5) == pytest.approx(1 / 5)
    assert dense_share(one, one, known=1) == pytest.approx(1 / 2)


def test_two_lists_that_say_nothing_share_alike():
    assert dense_share(of(1, 1, 1), of(2, 2), known=1) == 0.5
    assert dense_share(of(1, 1, 1), of(2, 0), known=1) == 0
    assert dense_share(of(2, 0), of(1, 1), known=1) == 1


@given(BEST_FIRST, SHARE)
@relaxed
def test_without_lexical_hits_the_dense_list_decides(dense, known):
    for nothing in (of(), of(0, 0, 0)):
        assert dense_share(dense, nothing, known=known) == 1


@given(BEST_FIRST, BEST_FIRST.filter(lambda scores: scores[0] > 0))
@relaxed
def test_what_the_encoder_cannot_read_it_does_not_rank(dense, lexical):
    assert dense_share(dense, lexical, known=0) == 0


@given(BEST_FIRST, BEST_FIRST, SHARE, SHARE)
@relaxed
def test_a_share_grows_with_what_is_known(dense, lexical, one, other):
    less, more = (dense_share(dense, lexical, known=known) for known in sorted((one, other)))
    assert 0 <= less <= more <= 1


@given(BEST_FIRST, BEST_FIRST, st.lists(st.floats(-100, -50), max_size=5))
@relaxed
def test_what_comes_after_the_best_hundred_does_not_count(dense, lexical, tail):
    long = np.concatenate([dense, np.full(MARGIN_OVER - len(dense), -2.0)])
    longer = np.concatenate([long, -np.sort(-np.array(tail))])
    assert dense_share(longer, lexical, known=1) == dense_share(long, lexical, known=1)


# ---- the scores ------------------------------------------------------------------------------------------------------


def test_fusing_by_hand():
    """dense 1, 3, 2 -> 0, 1, .5; lexical 0, 0, 8 -> 0, 0, 1; a quarter dense: 0, .25, .875."""
    np.testing.assert_allclose(fuse(of(1, 3, 2), of(0, 0, 8), 0.25), [0, 0.25, 0.875])


@given(SCORES)
@relaxed
def test_scaling_keeps_the_order_and_fills_the_range(scores):
    found = scaled(scores)
    assert found.shape == scores.shape
    if scores.max() > scores.min():
        assert (found.min(), found.max()) == (0, 1)
    else:
        assert not found.any()
    assert (np.diff(found[np.argsort(scores, kind="stable")]) >= 0).all()


def test_nothing_to_scale():
    assert scaled(of()).shape == (0,)
    assert fuse(of(), of(), 0.5).shape == (0,)


PAIRS = st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=12)


@given(PAIRS, SHARE, st.randoms(use_true_random=False))
@relaxed
def test_fusing_does_not_depend_on_the_order_of_candidates(pairs, share, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    dense, lexical = np.array(pairs).T
    fused = fuse(dense, lexical, share)
    assert ((fused >= 0) & (fused <= 1)).all()
    np.testing.assert_array_equal(fuse(dense[order], lexical[order], share), fused[order])


@given(PAIRS)
@relaxed
def test_the_whole_share_is_the_order_of_one_list(pairs):
    dense, lexical = np.array(pairs).T
    np.testing.assert_array_equal(fuse(dense, lexical, 1.0), scaled(dense))
    np.testing.assert_array_equal(fuse(dense, lexical, 0.0), scaled(lexical))


@given(PAIRS, SHARE)
@relaxed
def test_who_is_better_in_both_lists_is_not_worse_fused(pairs, share):
    dense, lexical = np.array(pairs).T
    fused = fuse(dense, lexical, share)
    better = (dense[:, None] >= dense) & (lexical[:, None] >= lexical)
    assert (fused[:, None] >= fused)[better].all()


def test_reciprocal_ranks_by_hand():
    """1/61 + 1/62 where both have it, 1/61 where one does, nothing where none does."""
    ranks = np.array([[1, 2, np.inf, np.inf], [2, np.inf, 1, np.inf]])
    assert reciprocal(ranks) == pytest.approx([1 / 61 + 1 / 62, 1 / 62, 1 / 61, 0])

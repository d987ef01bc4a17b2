"""Diversity: the formula by hand and by a slow oracle, caps that hold, a reason for all that is left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.diversity import LeftOut, diversify

SCORES = np.array([0.9, 0.8, 0.5, 0.1])
VECTORS = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])  # 0 and 1 say the same, and so do 2 and 3


def test_by_hand():
    # scaled scores: 1, .875, .5, 0. After 0, with lambda .5: 1 is worth .4375 - .5, 2 is .25 - 0, 3 is 0 - 0
    found = diversify(SCORES, VECTORS, "abcd", k=2, mmr=0.5)
    assert found.kept == (0, 2)
    assert found.left_out == (LeftOut(1, "similar", 0), LeftOut(3, "rank"))


def test_a_cap_is_a_cap():
    found = diversify(SCORES, VECTORS, ["a", "a", "a", "b"], k=3, max_per_document=1)
    assert found.kept == (0, 3)
    assert found.left_out == (LeftOut(1, "document"), LeftOut(2, "document"))


def test_neither_changes_the_ranking():
    found = diversify(np.array([0.1, 0.9, 0.9]), VECTORS[:3], "aaa", k=2)
    assert (found.kept, found.left_out) == ((1, 2), (LeftOut(0, "rank"),))
    assert diversify(SCORES, VECTORS, "abcd", k=9, max_per_document=0).kept == (0, 1, 2, 3)


def test_nothing_to_order():
    found = diversify(np.zeros(0), np.zeros((0, 2)), [], k=3, mmr=0.5, max_per_document=1)
    assert (found.kept, found.left_out) == ((), ())


def test_equal_scores_and_blank_vectors():
    assert diversify(np.zeros(3), np.zeros((3, 2)), "abc", k=3, mmr=0.3).kept == (0, 1, 2)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"mmr": 1.1}, {"mmr": float("nan")}, {"documents": "abc"}])
def test_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="scores"):
        diversify(**{"scores": SCORES, "vectors": VECTORS, "documents": "abcd", "k": 1, **wrong})


def slow(scores, vectors, documents, *, k, mmr, cap):
    """The paper word for word: again and again the best of what is left."""
    span = max(scores) - min(scores) if len(scores) else 0
    relevance = [(score - min(scores)) / span if span else 1.0 for score in scores]

    def similarity(one, other):
        norm = np.linalg.norm(vectors[one]) * np.linalg.norm(vectors[other])
        return float(vectors[one] @ vectors[other] / norm) if norm else 0.0

    kept = []
    while len(kept) < k:
        counts = Counter(documents[one] for one in kept)
        left = [one for one in range(len(scores)) if one not in kept and not (cap and counts[documents[one]] >= cap)]
        if not left:
            break
        worth = {
            one: (1 - mmr) * relevance[one] - mmr * max((similarity(one, other) for other in kept), default=0.0)
            if kept
            else scores[one]
            for one in left
        }
        kept.append(min(left, key=lambda one: (-round(worth[one], 9), -scores[one], one)))
    return kept


@st.composite
def rankings(draw):
    count = draw(st.integers(1, 9))
    scores = draw(arrays(np.float64, count, elements=st.integers(0, 20).map(lambda n: n / 8)))
    seed = draw(st.integers(0, 1000))
    vectors = np.random.default_rng(seed).standard_normal((count, 4))
    return scores, vectors, draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))


@given(rankings(), st.integers(1, 10), st.sampled_from([0.0, 0.25, 0.7, 1.0]), st.sampled_from([None, 1, 2]))
def test_like_the_slow_oracle(ranking, k, mmr, cap):
    scores, vectors, documents = ranking
    found = diversify(scores, vectors, documents, k=k, mmr=mmr, max_per_document=cap)
    assert list(found.kept) == slow(scores, vectors, documents, k=k, mmr=mmr, cap=cap)
    places = [*found.kept, *(one.position for one in found.left_out)]
    assert sorted(places) == list(range(len(scores)))  # nothing is lost in silence
    assert found.kept[0] == int(np.argmax(scores))
    if cap:
        assert max(Counter(documents[one] for one in found.kept).values()) <= cap
    assert all((one.like in found.kept) == (one.reason == "similar") for one in found.left_out)

"""Success@1, recall@5, hit@5 and nDCG@10 of ranked documents, with a paired bootstrap. Knows ids and grades."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

NAMES = ("Success@1", "Recall@5", "nDCG@10", "hit@5")
_DRAWS = 10_000


def measures(ranked: Sequence[str], relevant: Mapping[str, int]) -> tuple[float, float, float, float]:
    """The four measures of one question, in the order of NAMES; recall is capped: five of ten relevant ones are all."""
    first = ranked[:5]
    gained = sum(relevant.get(each, 0) / math.log2(rank + 1) for rank, each in enumerate(ranked[:10], start=1))
    ideal = sorted(relevant.values(), reverse=True)[:10]
    most = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, start=1))
    found = len(relevant.keys() & set(first))
    return (
        float(bool(ranked) and ranked[0] in relevant),
        found / min(5, len(relevant)),
        gained / most,
        float(found > 0),
    )


def difference_interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% interval of the mean difference of paired values, (n,) each, by bootstrap with a fixed seed."""
    difference = ours - theirs
    generator = np.random.default_rng(0)
    means = [difference[generator.integers(0, len(difference), len(difference))].mean() for _ in range(_DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

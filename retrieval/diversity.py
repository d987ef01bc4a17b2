"""Re-order a ranking so that it says less twice. Knows scores, vectors and document ids; never sees text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from retrieval.fusion import scaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

Reason = Literal["rank", "document", "similar"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A position that was not taken.

    document: its document had its share. similar: it was among the k best, but nearer to what was taken than others.
    rank: it came after the k best anyway. `like` is the position taken that it resembles most ("similar" only).
    """

    position: int
    reason: Reason
    like: int | None = None


@dataclass(frozen=True, slots=True)
class Diversified:
    """`kept`: positions in their new order, at most k. `left_out`: all others, in their old order."""

    kept: tuple[int, ...]
    left_out: tuple[LeftOut, ...]


def diversify(
    scores: Floats,
    vectors: Floats,
    documents: Sequence[str],
    *,
    k: int,
    mmr: float = 0.0,
    max_per_document: int | None = None,
) -> Diversified:
    """Take k of n ranked passages by maximal marginal relevance (Carbonell & Goldstein 1998), best document caps kept.

    scores (n,) higher is better, in any order, ties by position; vectors (n, dim), compared by cosine. With `mmr` = 0
    the order is that of the scores; lambda of the paper is 1 - mmr, on scores scaled to [0, 1], so 1 looks at
    difference alone (but begins with the best). A cap is a cap: where it leaves fewer than k, fewer come back; None or
    0 is no cap. Raises ValueError on mmr outside [0, 1], k < 1 or lists of different lengths.
    """
    if not 0 <= mmr <= 1 or k < 1 or not len(scores) == len(vectors) == len(documents):
        raise ValueError(f"k {k}, mmr {mmr}, {len(scores)} scores, {len(vectors)} vectors, {len(documents)} documents")
    ranked = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist()
    relevance = (1 - mmr) * scaled(np.asarray(scores, dtype=np.float64))
    units = _unit_rows(np.asarray(vectors, dtype=np.float64)) if mmr else None
    nearest = np.full(len(scores), -np.inf)  # similarity to the nearest passage taken, and which one that is
    like = np.zeros(len(scores), dtype=np.int64)
    kept: list[int] = []
    taken: Counter[str] = Counter()
    capped: set[int] = set()
    waiting = ranked
    while waiting and len(kept) < k:
        if units is None or not kept:
            best = waiting[0]
        else:
            margins = relevance[waiting] - mmr * nearest[waiting]
            best = waiting[int(np.argmax(margins))]  # the first of equals, so the better ranked
        kept.append(best)
        taken[documents[best]] += 1
        if units is not None:
            similarity = units @ units[best]
            like[similarity > nearest] = best
            nearest = np.maximum(nearest, similarity)
        full = {one for one in waiting if max_per_document and taken[documents[one]] >= max_per_document} - {best}
        capped |= full
        waiting = [one for one in waiting if one != best and one not in full]
    chosen = set(kept)
    rank = {position: at for at, position in enumerate(ranked)}
    left_out = (_left_out(one, capped, rank[one] < k, int(like[one])) for one in ranked if one not in chosen)
    return Diversified(tuple(kept), tuple(left_out))


def _left_out(position: int, capped: set[int], was_shown: bool, like: int) -> LeftOut:
    if position in capped:
        return LeftOut(position, "document")
    return LeftOut(position, "similar", like) if was_shown else LeftOut(position, "rank")


def _unit_rows(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)

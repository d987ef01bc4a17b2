"""A corpus as points on a plane: passages that say similar things lie together. Knows vectors, never a question.

The one door to openTSNE. The plane is a t-SNE (van der Maaten and Hinton 2008) of the passages' vectors by cosine, with
the interpolation of FIt-SNE (Linderman et al. 2019) where there are many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.errors import EvalError
from retrieval.errors import MissingPackageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_POINTS = 20_000
"""More are a grey mass on a screen, and the file grows by 0.1 MB a thousand."""

_GROUPS = 8
"""Colours that people still tell apart."""

_PERPLEXITY = 30.0
_INTERPOLATE_FROM = 3_000
_FEWEST = 5
"""Of fewer, or of those that all are the same, there is nothing to arrange: they are laid on a circle."""

_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class CorpusMap:
    """Passages on a plane. All sequences have one item a point; coordinates are whole numbers from 0 to 10,000.

    groups: what the colours stand for, the largest first, `others` last where there are any. group: index into groups.
    passages: how many there are in all; more than points where a sample was taken.
    """

    chunk_ids: tuple[str, ...]
    sources: tuple[str, ...]
    titles: tuple[str, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    group: tuple[int, ...]
    groups: tuple[str, ...]
    passages: int
    others: bool


def corpus_map(
    vectors: NDArray[np.float32],
    chunk_ids: Sequence[str],
    *,
    sources: Sequence[str],
    titles: Sequence[str],
    seed: int,
    keep: Collection[str] = (),
    most: int = MOST_POINTS,
) -> CorpusMap:
    """Arrange passages by their vectors, float32 (n, d); chunk_ids, sources and titles have n items as well.

    At most `most` passages are drawn: those named by `keep` (the hits of the questions) first, then a random sample.
    The same vectors, seed and versions give the same map. Raises EvalError where the lengths differ or there is no
    passage, MissingPackageError without openTSNE.
    """
    import numpy as np

    if not len(vectors) == len(chunk_ids) == len(sources) == len(titles):
        found = f"{len(vectors)} vectors, {len(chunk_ids)} ids, {len(sources)} sources, {len(titles)} titles"
        raise EvalError(f"a map needs one id, source and title for each vector, but got {found}")
    if not len(vectors):
        raise EvalError("there are no passages to draw a map of; ingest documents first")
    rows = _sample(chunk_ids, keep, most, np.random.default_rng(seed))
    plane = _scaled(_arranged(np.ascontiguousarray(vectors[rows], dtype=np.float32), seed))
    names = [sources[row] for row in rows]
    groups, group, others = _grouped(names)
    return CorpusMap(
        chunk_ids=tuple(chunk_ids[row] for row in rows),
        sources=tuple(names),
        titles=tuple(titles[row] for row in rows),
        x=tuple(plane[:, 0].tolist()),
        y=tuple(plane[:, 1].tolist()),
        group=group,
        groups=groups,
        passages=len(vectors),
        others=others,
    )


def _sample(
    chunk_ids: Sequence[str], keep: Collection[str], most: int, random: np.random.Generator
) -> NDArray[np.int_]:
    """Rows to draw, ascending."""
    import numpy as np

    if len(chunk_ids) <= most:
        return np.arange(len(chunk_ids))
    kept = frozenset(keep)
    late = np.array([chunk_id not in kept for chunk_id in chunk_ids])
    order = random.permutation(len(chunk_ids))
    rows: NDArray[np.int_] = np.sort(order[np.argsort(late[order], kind="stable")][:most])
    return rows


def _arranged(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Coordinates, (n, 2). Between unit rows, distance orders as cosine does."""
    import numpy as np

    count = len(vectors)
    rows = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if count < _FEWEST or np.ptp(rows, axis=0).max() < _SAME:
        turn = 2 * np.pi * np.arange(count) / count
        return np.column_stack([np.cos(turn), np.sin(turn)])
    try:
        from openTSNE import TSNE  # type: ignore[import-untyped]  # it ships no types
    except ImportError as error:
        raise MissingPackageError("a map of the corpus needs openTSNE; run: pip install 'cited-rag[map]'") from error
    tsne = TSNE(
        perplexity=min(_PERPLEXITY, (count - 1) / 3),  # its neighbours are three times as many
        initialization="pca",
        negative_gradient_method="fft" if count >= _INTERPOLATE_FROM else "bh",
        random_state=seed,
        n_jobs=1,  # several threads add up in another order each time
    )
    return np.asarray(tsne.fit(rows), dtype=np.float64)


def _scaled(plane: NDArray[np.float64]) -> NDArray[np.int64]:
    """The same shape, in whole numbers from 0 to 10,000, in the middle of the square."""
    import numpy as np

    low, high = plane.min(axis=0), plane.max(axis=0)
    size = max(float((high - low).max()), 1e-9)
    scaled: NDArray[np.int64] = np.rint((plane - (low + high) / 2) / size * 10_000 + 5_000).astype(np.int64)
    return scaled


def _grouped(sources: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...], bool]:
    """Names of the groups, the group of each source, and whether the last group is of all others.

    A group is a folder, as deep as it takes for there to be several; in a flat corpus it is a document.
    """
    parts = [source.split("/") for source in sources]
    depth, deepest = 1, max(map(len, parts))
    while depth < deepest and len({tuple(one[:depth]) for one in parts}) == 1:
        depth += 1
    names = ["/".join(one[:depth]) for one in parts]
    ranked = [name for name, _ in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))]
    others = len(ranked) > _GROUPS
    groups = (*ranked[:_GROUPS], "all others") if others else tuple(ranked)
    place = {name: index for index, name in enumerate(groups[:_GROUPS])}
    return groups, tuple(place.get(name, _GROUPS) for name in names), others

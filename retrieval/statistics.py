"""In how many chunks each token and each term occurs. Knows counts and their inverse document frequency; no text.

Terms are counted in hash buckets: at a million buckets, collisions change the weight of a rare word by little, and the
whole table is one array that adds, subtracts and compresses well.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from retrieval.analyze import term_bucket
from retrieval.errors import IndexCorruptError

_BUCKETS = 1 << 20
_HEADER = np.dtype([("chunks", "<i8"), ("vocabulary", "<i8"), ("buckets", "<i8")])


class Statistics:
    """Document frequencies over the chunks of an index."""

    def __init__(self, vocabulary: int) -> None:
        self.chunks = 0
        self._tokens = np.zeros(vocabulary, dtype=np.int32)
        self._terms = np.zeros(_BUCKETS, dtype=np.int32)

    def add(self, token_ids: Iterable[int], terms: Iterable[str], *, sign: int = 1) -> None:
        """Count one chunk (sign=1), or take one away that was counted before (sign=-1)."""
        self.chunks += sign
        self._tokens[list(set(token_ids))] += sign
        buckets = {term_bucket(term, _BUCKETS) for term in terms}
        self._terms[list(buckets)] += sign

    def token_idf(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Inverse document frequency (BM25's, always positive) of each token."""
        return self._idf(self._tokens[token_ids])

    def term_idf(self, terms: Iterable[str]) -> NDArray[np.float64]:
        """Inverse document frequency of each term."""
        return self._idf(self._terms[[term_bucket(term, _BUCKETS) for term in terms]])

    def _idf(self, found: NDArray[np.int32]) -> NDArray[np.float64]:
        inside = np.clip(found, 0, self.chunks)
        return np.asarray(np.log1p((self.chunks - inside + 0.5) / (inside + 0.5)), dtype=np.float64)

    def dump(self) -> bytes:
        """The counts as compressed bytes."""
        header = np.array([(self.chunks, len(self._tokens), _BUCKETS)], dtype=_HEADER).tobytes()
        body = self._tokens.astype("<i4").tobytes() + self._terms.astype("<i4").tobytes()
        return header + zlib.compress(body, level=1)

    @classmethod
    def load(cls, data: bytes) -> Statistics:
        """Read what dump wrote. Raises IndexCorruptError on anything else."""
        try:
            chunks, vocabulary, buckets = np.frombuffer(data, dtype=_HEADER, count=1)[0].tolist()
            size = 4 * (vocabulary + buckets)
            if buckets != _BUCKETS or not 0 < vocabulary < 1 << 22:
                raise ValueError(f"{buckets} buckets, {vocabulary} tokens")  # noqa: TRY301 - one except for all damage
            body = zlib.decompressobj().decompress(data[_HEADER.itemsize :], size)
            counts = np.frombuffer(body, dtype="<i4", count=vocabulary + buckets).astype(np.int32)
        except (ValueError, zlib.error) as error:
            raise IndexCorruptError(
                f"the index's word statistics cannot be read ({error}); run: rag ingest --rebuild"
            ) from error
        made = cls(vocabulary)
        made.chunks = chunks
        made._tokens, made._terms = counts[:vocabulary].copy(), counts[vocabulary:].copy()
        return made

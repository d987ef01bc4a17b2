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
# As if twenty more chunks had been read, and each word in one of them: in a corpus of three chunks, "not in it" must
# not outweigh all that is. Measured on squad1_dev in an index of 1, 2 or 5 paragraphs, questions refused of those they
# answer: .19, .10, .02 without, .03, .03, .02 with it (AUC .999, .997, .999 either way); no difference from 100 on.
_PSEUDO_CHUNKS = 20
_MAX_VOCABULARY = 1 << 22
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
        inside = np.clip(found, 0, self.chunks) + 1
        chunks = self.chunks + _PSEUDO_CHUNKS
        return np.asarray(np.log1p((chunks - inside + 0.5) / (inside + 0.5)), dtype=np.float64)

    def dump(self) -> bytes:
        """The counts as compressed bytes."""
        header = np.array([(self.chunks, len(self._tokens), _BUCKETS)], dtype=_HEADER).tobytes()
        body = self._tokens.astype("<i4").tobytes() + self._terms.astype("<i4").tobytes()
        return zlib.compress(header + body, level=1)  # zlib's checksum covers all of it

    @classmethod
    def load(cls, data: bytes) -> Statistics:
        """Read what dump wrote. Raises IndexCorruptError on anything else."""
        try:
            table = _decompress(data)
            chunks, vocabulary, buckets = np.frombuffer(table, dtype=_HEADER, count=1)[0].tolist()
            counts = np.frombuffer(table, dtype="<i4", offset=_HEADER.itemsize).astype(np.int32)
            if buckets != _BUCKETS or len(counts) != vocabulary + buckets or vocabulary < 1 or chunks < 0:
                raise ValueError(f"{chunks} chunks, {vocabulary} tokens, {buckets} buckets")  # noqa: TRY301 - one except for all damage
        except (ValueError, zlib.error) as error:
            raise IndexCorruptError(
                f"the index's word statistics cannot be read ({error}); run: rag ingest --rebuild"
            ) from error
        made = cls(vocabulary)
        made.chunks = chunks
        made._tokens, made._terms = counts[:vocabulary].copy(), counts[vocabulary:].copy()
        return made


def _decompress(data: bytes) -> bytes:
    """All of what was compressed, its checksum compared; never more than the largest table there can be."""
    largest = _HEADER.itemsize + 4 * (_MAX_VOCABULARY + _BUCKETS)
    worker = zlib.decompressobj()
    table = worker.decompress(data, largest + 1)
    if len(table) > largest or not worker.eof or worker.unused_data:
        raise ValueError("wrong length")
    return table

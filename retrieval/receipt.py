"""Proof that a deleted document is gone: nothing finds it, and its bytes are in no file of the index.

Samples are taken before the deletion: stretches of its text, pieces of its vectors, and its words. Afterwards it is
searched for with its own passages, its words are looked up, and every file below the index folder is read for the rest.
What other documents say as well is no sample. Knows a store and what searches it; deletes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from retrieval.database import pack
from retrieval.errors import RagError
from retrieval.versions import open_regular

if TYPE_CHECKING:
    from retrieval.lexical import LexicalIndex, TermAnalyzer
    from retrieval.records import Document
    from retrieval.retriever import Retriever
    from retrieval.store import Store

_SAMPLES, _SAMPLE_CHARS = 64, 40  # of the text
_SEARCHES, _DEPTH = 5, 20
_TERMS = 2000
_PIECE_BYTES = 64  # of a vector, and of token codes
_BLOCK = 1 << 22

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was looked for after a deletion, and what was found.

    `found_by_search` of `searches` with its own passages show it. `terms_left` of `terms` that only it had are still in
    the word index. `samples` of text and vectors were looked for in `files` files of `bytes` bytes; `left_in`: file,
    below the index folder -> how many of them are still in it. `is_gone`: nothing was found anywhere.
    """

    chunks: int
    searches: int
    found_by_search: int
    terms: int
    terms_left: int
    samples: int
    files: int
    bytes: int
    left_in: Mapping[str, int]

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it was found."""
        return not (self.found_by_search or self.terms_left or self.left_in)


@dataclass(frozen=True, slots=True)
class Traces:
    """What is to be looked for. `texts` are passages; `pieces` bytes as they lie in a file."""

    doc_ids: frozenset[str]
    chunks: int
    texts: Sequence[str]
    terms: Sequence[str]
    pieces: Sequence[bytes]

    @classmethod
    def take(cls, store: Store, doc_ids: Sequence[str], analyzer: TermAnalyzer) -> Traces:
        """Samples of documents that are about to be deleted, evenly over each."""
        texts: list[str] = []
        terms: set[str] = set()
        stretches: set[bytes] = set()
        embeddings: set[int] = set()
        chunks = 0
        with store.snapshot():
            for doc_id in doc_ids:
                document = store.document(doc_id)
                if document is None:
                    continue
                found = store.chunks_of(doc_id)
                chunks += len(found)
                embeddings |= {one.embedding for one in found}
                texts += [one.chunk.text for one in _spread(found, _SEARCHES)]
                terms.update(analyzer.terms(document.text))
                stretches.update(_stretches(document))
            _drop_shared(stretches, store, frozenset(doc_ids))
            own = [
                each
                for each, places in store.chunks_of_embeddings(embeddings).items()
                if {one.chunk.doc_id for one in places} <= set(doc_ids)
            ]
            pieces = [*stretches, *_vector_pieces(store, own)]
        return cls(frozenset(doc_ids), chunks, _spread(texts, _SEARCHES), sorted(terms)[:_TERMS], pieces)

    def look(self, store: Store, retriever: Retriever, lexical: LexicalIndex) -> Receipt:
        """Search, look up words, read every file of the index."""
        found = 0
        for text in self.texts:
            try:
                hits = retriever.search(text[:1000], k=_DEPTH).hits
            except RagError:  # nothing in it to search for
                continue
            found += any(hit.doc_id in self.doc_ids for hit in hits)
        own = [term for term in self.terms if not len(lexical.search({term: 1.0}, 1)[1])]
        files, size, left_in = 0, 0, {}
        for path in _files(store.home):
            try:
                number, read = _pieces_in(path, self.pieces)
            except FileNotFoundError:  # another process has dropped it
                continue
            files, size = files + 1, size + read
            if number:
                left_in[path.relative_to(store.home).as_posix()] = number
        return Receipt(
            chunks=self.chunks,
            searches=len(self.texts),
            found_by_search=found,
            terms=len(own),
            terms_left=int(np.count_nonzero(lexical.document_frequencies(own))) if own else 0,
            samples=len(self.pieces),
            files=files,
            bytes=size,
            left_in=left_in,
        )


def _spread(items: Sequence[T], number: int) -> list[T]:
    """At most so many, evenly over all."""
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, min(number, len(items)))]


def _stretches(document: Document) -> Iterator[bytes]:
    """Stretches of the text as they are stored, each long enough to be nobody else's by chance."""
    text = document.text
    starts = range(0, max(1, len(text) - _SAMPLE_CHARS), max(_SAMPLE_CHARS, len(text) // _SAMPLES))
    for start in starts:
        stretch = text[start : start + _SAMPLE_CHARS]
        if len("".join(stretch.split())) >= _SAMPLE_CHARS // 2 or len(text) <= _SAMPLE_CHARS:
            yield pack(stretch)


def _drop_shared(stretches: set[bytes], store: Store, doc_ids: frozenset[str]) -> None:
    """Leave out what other documents say as well."""
    for row in store.documents():
        if row.doc_id not in doc_ids and stretches and (other := store.document(row.doc_id)):
            text = pack(other.text)
            stretches.difference_update([each for each in stretches if each in text])


def _vector_pieces(store: Store, embeddings: Sequence[int]) -> Iterator[bytes]:
    chosen = _spread(sorted(embeddings), _SAMPLES)
    for vector in store.vectors(np.array(chosen, dtype=np.int64))[1]:
        yield vector.astype("<f4").tobytes()[:_PIECE_BYTES]
    for codes in store.token_codes(chosen).values():
        if codes.size >= _PIECE_BYTES:
            yield codes.tobytes()[:_PIECE_BYTES]


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file() and not path.is_symlink())


def _pieces_in(path: Path, pieces: Sequence[bytes]) -> tuple[int, int]:
    """How many of the pieces a file holds, and how many bytes it has. One pass, a few megabytes at a time."""
    longest = max(map(len, pieces), default=1)
    missing, tail, size = set(pieces), b"", 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            size += len(block)
            data = tail + block
            missing = {each for each in missing if each not in data}
            tail = data[-longest:]
    return len(set(pieces)) - len(missing), size

"""What is still sound in a damaged store. Reads around what SQLite cannot read; changes nothing. Knows rows and sums.

A document is sound when its row has the checksum it was stored with (in an index of an early format: when every chunk
is the text its embedding was made from), an embedding when its vector and its token codes have.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from retrieval.database import (
    DOCUMENT_COLUMNS,
    Codes,
    Floats,
    blob_sum,
    check_format,
    connect_for_reading,
    digest,
    explained,
    first_blob,
    is_as_embedded,
    is_unit,
    load_manifest,
    load_setting,
    unpack,
)
from retrieval.errors import RagError
from retrieval.records import Document, Failure, IndexManifest
from retrieval.store import document_of

_PLACES = "SELECT id, root, source FROM documents INDEXED BY documents_places WHERE generation IS NOT NULL"
_PUBLISHED = "SELECT id, '', '' FROM documents INDEXED BY documents_published WHERE generation IS NOT NULL"
# From either end of either index: what lies behind a page that cannot be read is reached from the other side.
_LISTS = (
    *(f"{_PLACES} ORDER BY root, source", f"{_PLACES} ORDER BY root DESC, source DESC"),
    *(f"{_PUBLISHED} ORDER BY doc_id", f"{_PUBLISHED} ORDER BY doc_id DESC"),
    "SELECT id, '', '' FROM documents WHERE generation IS NOT NULL",
)
_UNREADABLE = (sqlite3.Error, RagError, ValueError, TypeError, AttributeError, LookupError, OverflowError)


@dataclass(frozen=True, slots=True)
class SoundEmbedding:
    """An embedding as it was stored: its key, its unit vector, float32 (dim,), and its token codes if it has any."""

    key: bytes
    vector: Floats
    codes: Codes | None


class Salvage:
    """A damaged store, opened to read. Raises RagError where not even its manifest can be read."""

    def __init__(self, folder: Path) -> None:
        self._connection, _ = connect_for_reading(folder)
        try:
            with explained(folder):
                self._has_sums = check_format(folder, self._connection) >= 4
                self.manifest: IndexManifest = load_manifest(self._connection)
        except BaseException:
            self._connection.close()
            raise
        self.lost: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def documents(self) -> Iterator[Document]:
        """The published documents that are sound. The others, once it is exhausted, are in `lost`: (root, source)."""
        places: dict[int, tuple[str, str]] = {}
        for sql in _LISTS:
            with suppress(*_UNREADABLE), closing(self._connection.execute(sql)) as rows:
                for row, root, source in rows:
                    if row not in places or root:
                        places[row] = (unpack(root), unpack(source)) if root else ("", "")
        for row, place in sorted(places.items(), key=lambda one: one[1]):
            try:
                document = self._document(row)
            except _UNREADABLE:
                document = None
            if document is None:
                self.lost.append(place)
            else:
                yield document

    def embeddings(self) -> Iterator[SoundEmbedding]:
        """The embeddings that are sound."""
        last = 0
        with suppress(*_UNREADABLE):
            last = int(self._one("SELECT max(id) FROM embeddings"))
        for each in range(1, last + 1):
            with suppress(*_UNREADABLE):
                found = self._embedding(each)
                if found:
                    yield found

    def blob(self, name: str) -> bytes | None:
        """Bytes saved under a name if they are sound, else None."""
        with suppress(*_UNREADABLE):
            data = first_blob(self._connection.execute("SELECT data FROM blobs WHERE name = ?", (name,)).fetchall())
            if data is not None and not self._has_sums:
                return data
            if data is not None and load_setting(self._connection, blob_sum(name)) == digest([data]).hex():
                return data
        return None

    def roots(self) -> list[str]:
        """The folders that were ingested, as far as they can be read."""
        roots = []
        for (root,) in self._some("SELECT root FROM roots ORDER BY root"):
            with suppress(*_UNREADABLE):
                roots.append(unpack(root))
        return roots

    def failures(self) -> list[Failure]:
        """The files that could not be ingested, as far as they can be read."""
        rows = self._some("SELECT root, source, reason, advice FROM failures ORDER BY root, source")
        failures = []
        for row in rows:
            with suppress(*_UNREADABLE):
                failures.append(Failure(*map(unpack, row)))
        return failures

    @property
    def generation(self) -> int:
        """0 where it cannot be read."""
        with suppress(*_UNREADABLE):
            return int(load_setting(self._connection, "generation"))
        return 0

    def _document(self, row: int) -> Document | None:
        found = self._connection.execute("SELECT * FROM documents WHERE id = ?", (row,)).fetchone()
        if self._has_sums:
            wanted = self._one("SELECT row FROM document_sums WHERE document = ?", row)
            sound = wanted == digest(found[column] for column in DOCUMENT_COLUMNS)
        else:
            sound = is_as_embedded(self._connection, row, self.manifest.encoder)
        return document_of(found) if sound else None

    def _embedding(self, each: int) -> SoundEmbedding | None:
        row = self._connection.execute("SELECT key, vector FROM embeddings WHERE id = ?", (each,)).fetchone()
        if row is None:
            return None
        key, packed = row
        codes, width = None, 0
        with suppress(sqlite3.Error, TypeError):
            sql = "SELECT codes, width FROM token_codes WHERE embedding = ?"
            codes, width = self._connection.execute(sql, (each,)).fetchone()
        if self._has_sums:
            sql = "SELECT vector, codes FROM embedding_sums WHERE embedding = ?"
            vector_sum, codes_sum = self._connection.execute(sql, (each,)).fetchone()
            if zlib.crc32(packed) != vector_sum:
                return None
            if codes is None or zlib.crc32(codes) != codes_sum:
                codes = None
        vector = np.frombuffer(packed, dtype="<f4").astype(np.float32)
        if len(key) != 32 or vector.shape != (self.manifest.encoder.dimension,) or not is_unit(vector[None, :])[0]:
            return None
        return SoundEmbedding(
            key, vector, None if codes is None else np.frombuffer(codes, dtype=np.uint8).reshape(-1, width)
        )

    def _some(self, sql: str) -> Sequence[sqlite3.Row]:
        found: list[sqlite3.Row] = []
        with suppress(*_UNREADABLE), closing(self._connection.execute(sql)) as rows:
            found.extend(rows)
        return found

    def _one(self, sql: str, *parameters: object) -> bytes | int:
        value: bytes | int = self._connection.execute(sql, parameters).fetchone()[0]
        return value

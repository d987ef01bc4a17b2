"""The one writer of a store: stages documents batch by batch, publishes them in one transaction.

Knows rows and the files derived from them; what it costs to publish follows from what changed, not from what is there.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.database import (
    BATCH_ROWS,
    BUSY_SECONDS,
    CHUNK_COLUMNS,
    DATABASE,
    DENSE,
    DOCUMENT_COLUMNS,
    LEXICAL,
    SWEPT,
    Artefact,
    Codes,
    Floats,
    Ints,
    PassageText,
    blob_sum,
    byte_offsets,
    changes_since,
    decoded,
    digest,
    document_sums,
    explained,
    first_blob,
    is_unit,
    live_embeddings,
    load_manifest,
    load_setting,
    pack,
    pack_json,
    read_artefact,
    read_passages,
    read_vectors,
    save_setting,
    unpack_json,
)
from retrieval.errors import IndexCorruptError, RagError
from retrieval.lexical import (
    Listing,
    Progress,
    TermAnalyzer,
    check_folder,
    drop_folders,
    folder_of,
    read_listing,
    write_folder,
)
from retrieval.records import Chunk, Document, Failure

REWRITE_ROWS = 1000
REWRITE_SHARE = 0.1
JOURNAL_BYTES = 32_000_000

_MARKS = ", ?" * len(CHUNK_COLUMNS)
# Each embedding is looked at once, though ten thousand staged chunks may share it.
_NEWLY_LIVE = """
WITH staged AS MATERIALIZED (
    SELECT DISTINCT embedding FROM chunks
    WHERE document IN (SELECT id FROM documents INDEXED BY documents_staged WHERE generation IS NULL)
)
SELECT embedding FROM staged WHERE NOT EXISTS (
    SELECT 1 FROM chunks JOIN documents ON documents.id = document
    WHERE chunks.embedding = staged.embedding AND generation IS NOT NULL
) ORDER BY embedding
"""
_EMBEDDINGS_OF = """
SELECT DISTINCT embedding FROM documents JOIN chunks ON document = documents.id
WHERE generation IS NOT NULL AND doc_id = ?
"""
_NO_LONGER_LIVE = """
SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE embedding = value) ORDER BY value
"""
_SHORTEN_JOURNAL = """
DELETE FROM changes WHERE generation <= (
    SELECT max(generation) FROM (
        SELECT generation, sum(4096 + length(added) + length(removed)) OVER (ORDER BY generation DESC) AS bytes
        FROM changes
    ) WHERE bytes > ?
)
"""


class Writer:
    """Stages, then publishes. Comes from `Store.writer`, and is for one thread."""

    def __init__(
        self,
        folder: Path,
        connection: sqlite3.Connection,
        analyzer: TermAnalyzer | None,
    ) -> None:
        self._folder = folder
        self._connection = connection
        self._analyzer = analyzer
        self._removed: set[str] = set()
        self._failures: list[Failure] = []
        self.discard()
        self.manifest = load_manifest(connection)

    def known(self, keys: Sequence[bytes], *, with_codes: bool = False) -> dict[bytes, int]:
        """Key -> id of the embeddings that are stored already; `with_codes` counts only those with token codes."""
        sql = "SELECT id FROM embeddings WHERE key = ?"
        if with_codes:
            sql += " AND EXISTS (SELECT 1 FROM token_codes WHERE embedding = id)"
        found: dict[bytes, int] = {}
        with explained(self._folder):
            for key in keys:
                for (each,) in self._connection.execute(sql, (key,)):
                    found[key] = each
        return found

    def add_embeddings(
        self, keys: Sequence[bytes], vectors: Floats, token_codes: Sequence[Codes | None] | None = None
    ) -> list[int]:
        """Store vectors, float32 (n, dim), unit rows, under `embedding_key`s; returns their ids in order.

        A key that is there keeps its vector, and gets the codes, uint8 (n_tokens, code_bytes), if it had none.
        Raises ValueError on another shape, a value that is not finite, or a length off 1 by more than 0.001.
        """
        expected = (len(keys), self.manifest.encoder.dimension)
        if vectors.shape != expected:
            raise ValueError(f"vectors have the shape {vectors.shape}, expected {expected}")
        if not is_unit(vectors).all():
            raise ValueError("vectors must be finite and of length 1; normalise them before they are stored")
        if any(len(key) != 32 for key in keys):
            raise ValueError("a key must have 32 bytes; use embedding_key()")
        codes = [None] * len(keys) if token_codes is None else token_codes
        if len(codes) != len(keys) or not all(code is None or _are_codes(code) for code in codes):
            raise ValueError("token codes must be uint8 (n_tokens, code_bytes) or None, one for each key")
        rows = (row.tobytes() for row in vectors.astype("<f4"))
        return [self._add_embedding(key, row, code) for key, row, code in zip(keys, rows, codes, strict=True)]

    def stage(
        self, document: Document, chunks: Sequence[Chunk], embedding_ids: Sequence[int], lines: Sequence[int]
    ) -> None:
        """Stage a document with its chunks, one embedding and one line number (from 1) each; replaces one of its id.

        Raises ValueError when a chunk is not the slice of the document it claims to be, or metadata is not JSON.
        """
        if not len(chunks) == len(embedding_ids) == len(lines):
            raise ValueError(
                f"{len(chunks)} chunks, {len(embedding_ids)} embeddings and {len(lines)} lines do not match"
            )
        for chunk in chunks:
            if chunk.doc_id != document.doc_id or document.text[chunk.start : chunk.end] != chunk.text:
                raise ValueError(f"chunk '{chunk.chunk_id}' is not document.text[{chunk.start}:{chunk.end}]")
        self._execute("DELETE FROM documents WHERE generation IS NULL AND doc_id = ?", (pack(document.doc_id),))
        packed = (
            *map(pack, (document.doc_id, document.root, document.source, document.media_type, document.title)),
            pack(document.content_hash),
            _pack_metadata(document.metadata),
            pack_json([[span.kind, span.start, span.end, span.number, span.label] for span in document.spans]),
            pack(document.text),
        )
        counts = len(document.text), len(chunks), sum(chunk.tokens for chunk in chunks)
        row = self._execute(
            f"INSERT INTO documents ({', '.join(DOCUMENT_COLUMNS)}, characters, chunks, tokens)"  # noqa: S608 - our own names
            f" VALUES ({', '.join('?' * (len(packed) + len(counts)))})",
            (*packed, *counts),
        ).lastrowid
        at = byte_offsets(document.text, (position for chunk in chunks for position in (chunk.start, chunk.end)))
        insert = f"INSERT INTO chunks (document, embedding, {', '.join(CHUNK_COLUMNS)}) VALUES (?, ?{_MARKS})"  # noqa: S608
        for chunk, embedding, line in zip(chunks, embedding_ids, lines, strict=True):
            values = (
                *(chunk.ordinal, pack(chunk.chunk_id), chunk.start, chunk.end, at[chunk.start], at[chunk.end]),
                *(line, chunk.page, chunk.tokens, pack_json(list(chunk.heading)), pack(chunk.context)),
            )
            self._execute(insert, (row, embedding, *values))
        with explained(self._folder):
            sums = document_sums(self._connection, row or 0)
        self._execute("INSERT INTO document_sums VALUES (?, ?, ?, ?)", (row, *sums))

    def commit_batch(self) -> None:
        """Make what was added and staged survive this process; readers still see the old state."""
        with explained(self._folder):
            self._connection.commit()

    def put_blob(self, name: str, data: bytes) -> None:
        """Save bytes with the next batch, before any publish: for what stored token codes cannot be read without."""
        self._execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (name, data))
        save_setting(self._connection, blob_sum(name), digest([data]).hex())

    def blob(self, name: str) -> bytes | None:
        """Bytes saved under a name, those of a run that never published included; None without any."""
        with explained(self._folder), decoded(self._folder / DATABASE):
            return first_blob(self._connection.execute("SELECT data FROM blobs WHERE name = ?", (name,)).fetchall())

    def remove(self, doc_ids: Iterable[str]) -> int:
        """Take documents out with the next publish, staged ones at once. Returns how many of them are published."""
        published = 0
        for doc_id in set(doc_ids):
            self._execute("DELETE FROM documents WHERE generation IS NULL AND doc_id = ?", (pack(doc_id),))
            sql = "SELECT count(*) FROM documents WHERE generation IS NOT NULL AND doc_id = ?"
            published += self._execute(sql, (pack(doc_id),)).fetchone()[0]
            self._removed.add(doc_id)
        return published

    def fail(self, failures: Iterable[Failure]) -> None:
        """Record files that could not be ingested, with the next publish."""
        self._failures.extend(failures)

    def publish(
        self,
        *,
        roots: Sequence[str],
        sources: Sequence[tuple[str, str]] = (),
        blobs: Mapping[str, bytes] | None = None,
        drop_unreferenced: bool = True,
        rewrite_dense: bool = False,
        rewrite_lexical: bool = False,
        after: int = 0,
        progress: Progress | None = None,
    ) -> int:
        """Make what is staged visible and what is removed vanish, in one transaction. Returns the new generation.

        Failures recorded earlier under the given `roots`, and of the given `sources` (root, source), are replaced; the
        roots are recorded as folders that were ingested whole.
        `drop_unreferenced=False` keeps what was encoded and has no document yet, for the next run; embeddings of
        replaced and removed documents go in any case. `rewrite_dense` and `rewrite_lexical` (which needs an analyzer)
        write the search files even if the change is small; `progress` hears (done, total) passages of the lexical one.
        `after`: a generation that readers of another version have seen; the new one is above it.
        """
        self.commit_batch()
        try:
            with explained(self._folder):
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("BEGIN IMMEDIATE")
                generation = 1 + max(after, int(load_setting(self._connection, "generation")))
                removed = self._publish_documents(generation)
                self._publish_failures(roots, sources)
                for name, data in (blobs or {}).items():
                    self.put_blob(name, data)
                self._drop_embeddings(removed, unreferenced=drop_unreferenced)
                self._publish_dense(generation, rewrite=rewrite_dense)
                self._publish_lexical(generation, rewrite=rewrite_lexical, progress=progress)
                save_setting(self._connection, "generation", generation)
                self._connection.commit()
        except BaseException as error:
            self._connection.rollback()
            if isinstance(error, OSError):
                raise RagError(
                    f"the index in '{self._folder}' cannot be written to: {error.strerror or error}; nothing was"
                    " changed: run it again when that is mended"
                ) from error
            raise
        self._removed.clear()
        self._failures.clear()
        self._tidy()
        return generation

    def sweep(self) -> None:
        """Drop every embedding that no document refers to, whoever left it behind."""
        with explained(self._folder):
            self._connection.execute(
                "DELETE FROM embeddings WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE chunks.embedding = embeddings.id)"
            )

    def discard(self) -> None:
        """Drop what is staged, removed or failed since the last publish; embeddings that were committed stay."""
        self._removed.clear()
        self._failures.clear()
        with explained(self._folder):
            self._connection.rollback()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("DELETE FROM documents WHERE generation IS NULL")
            self._drop_unrecorded_files()

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        with explained(self._folder):
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            return self._connection.execute(sql, parameters)

    def _add_embedding(self, key: bytes, vector: bytes, codes: Codes | None) -> int:
        self._execute("INSERT INTO embeddings (key, vector) VALUES (?, ?) ON CONFLICT DO NOTHING", (key, vector))
        (embedding,) = self._execute("SELECT id FROM embeddings WHERE key = ?", (key,)).fetchone()
        self._execute(
            "INSERT INTO embedding_sums (embedding, vector) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (embedding, zlib.crc32(vector)),
        )
        if codes is not None:
            packed = codes.tobytes()
            row = (embedding, codes.shape[1], packed)
            if self._execute("INSERT OR IGNORE INTO token_codes VALUES (?, ?, ?)", row).rowcount:
                sql = "UPDATE embedding_sums SET codes = ? WHERE embedding = ?"
                self._execute(sql, (zlib.crc32(packed), embedding))
        return int(embedding)

    def _publish_documents(self, generation: int) -> Ints:
        """Swap documents. Returns the embeddings that ceased to be live.

        All of this looks at the staged and the replaced documents and their embeddings, never at every row there is.
        """
        staged = [row for (row,) in self._execute("SELECT doc_id FROM documents WHERE generation IS NULL")]
        added = _ints(self._execute(_NEWLY_LIVE))
        touched: set[int] = set()
        for doc_id in {*staged, *map(pack, self._removed)}:
            touched.update(each for (each,) in self._execute(_EMBEDDINGS_OF, (doc_id,)))
            self._execute("DELETE FROM documents WHERE generation IS NOT NULL AND doc_id = ?", (doc_id,))
        self._execute("UPDATE documents SET generation = ? WHERE generation IS NULL", (generation,))
        removed = _ints(self._execute(_NO_LONGER_LIVE, (json.dumps(sorted(touched)),)))
        row = (generation, added.astype("<i8").tobytes(), removed.astype("<i8").tobytes())
        self._execute("INSERT INTO changes VALUES (?, ?, ?)", row)
        self._execute(_SHORTEN_JOURNAL, (JOURNAL_BYTES,))
        return removed

    def _drop_embeddings(self, removed: Ints, *, unreferenced: bool) -> None:
        """Drop what the replaced documents alone referred to; and what runs since the last sweep left behind."""
        self._execute(
            "DELETE FROM embeddings WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(removed.tolist()),)
        )
        if unreferenced:
            swept = int(load_setting(self._connection, SWEPT))
            self._execute(
                "DELETE FROM embeddings WHERE id > ?"
                " AND NOT EXISTS (SELECT 1 FROM chunks WHERE chunks.embedding = embeddings.id)",
                (swept,),
            )
            last = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'embeddings'").fetchone()
            save_setting(self._connection, SWEPT, last[0] if last else 0)

    def _publish_failures(self, roots: Sequence[str], sources: Sequence[tuple[str, str]]) -> None:
        for root in roots:
            self._execute("INSERT OR IGNORE INTO roots VALUES (?)", (pack(root),))
            self._execute("DELETE FROM failures WHERE root = ?", (pack(root),))
        for root, source in sources:
            self._execute("DELETE FROM failures WHERE root = ? AND source = ?", (pack(root), pack(source)))
        for failure in self._failures:
            row = (failure.root, failure.source, failure.reason, failure.advice)
            self._execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", tuple(map(pack, row)))

    def _publish_dense(self, generation: int, *, rewrite: bool) -> None:
        """Write the search file, if it is due, before the commit that records it, under a name never used before."""
        if not rewrite and not self._dense_is_due(generation):
            return
        from retrieval.dense import DenseIndex, load_dense

        record = read_artefact(self._connection, DENSE)
        previous = None if rewrite or record is None else load_dense(self._folder, record)
        self._execute("DELETE FROM artefacts WHERE kind = ?", (DENSE,))
        live = live_embeddings(self._connection)
        if not live.size:
            return
        dimension = self.manifest.encoder.dimension
        dense = DenseIndex.gather(
            live,
            self._vectors,
            dimension=dimension,
            start=previous,
        )
        path = self._folder / f"dense-{generation:06d}.faiss"
        sha256 = dense.save(path)
        self._record(DENSE, Artefact(path.name, sha256, path.stat().st_size, generation, live.astype("<i8").tobytes()))

    def _dense_is_due(self, generation: int) -> bool:
        """Is the recorded file missing, or further from the store than a reader should have to make up for?"""
        record = read_artefact(self._connection, DENSE)
        if record is None:
            return self._execute("SELECT 1 FROM chunks LIMIT 1").fetchone() is not None
        from retrieval.dense import has_header

        if not has_header(self._folder, record):
            return True
        inside = record.embedding_ids()
        changes = changes_since(self._connection, record.generation, generation)
        if changes is None:
            changed = np.setxor1d(inside, live_embeddings(self._connection), assume_unique=True).size
        else:
            changed = sum(each.size for each in changes)
        return bool(changed > max(REWRITE_ROWS, REWRITE_SHARE * inside.size))

    def _publish_lexical(self, generation: int, *, rewrite: bool, progress: Progress | None) -> None:
        """Bring the lexical folder up to date, or write it anew, before the commit that records it.

        Without an analyzer nothing can be added: then the record stays behind until a writer comes with one.
        """
        base = None if rewrite and self._analyzer else self._lexical_base(generation)
        if base is None:
            if self._analyzer is None:
                return
            added, removed = live_embeddings(self._connection), np.empty(0, dtype=np.int64)
        else:
            record, listing, (added, removed) = base
            if not added.size and not removed.size:
                self._record(LEXICAL, replace(record, generation=generation))
                return
            if added.size and self._analyzer is None:
                return
        folder = self._folder / f"{LEXICAL}-{generation:06d}"
        listing, sha256 = write_folder(
            folder,
            fingerprint=self._analyzer.fingerprint if self._analyzer else listing.analyzer,
            analyzer=self._analyzer,
            texts=self._passages(added, progress),
            base=(folder_of(self._folder, record), listing) if base else None,
            removed=removed.tolist(),
        )
        self._record(LEXICAL, Artefact(folder.name, sha256, listing.size, generation, b""))

    def _lexical_base(self, generation: int) -> tuple[Artefact, Listing, tuple[Ints, Ints]] | None:
        """The recorded folder, and what to change in it; None where it must, or had better, be written anew."""
        record = read_artefact(self._connection, LEXICAL)
        changes = changes_since(self._connection, record.generation, generation) if record else None
        if record is None or changes is None:
            return None
        try:
            folder = folder_of(self._folder, record)
            listing = read_listing(folder, record)
            check_folder(folder, listing)
        except (OSError, IndexCorruptError):
            return None
        stale = listing.deleted + changes[1].size
        limit = REWRITE_SHARE * listing.passages if listing.passages > REWRITE_ROWS else 0
        if self._analyzer and (listing.analyzer != self._analyzer.fingerprint or stale > limit):
            return None
        return record, listing, changes

    def _vectors(self, ids: Ints) -> tuple[Ints, Floats]:
        with decoded(self._folder / DATABASE):
            return read_vectors(self._connection, ids, self.manifest.encoder.dimension)

    def _passages(self, ids: Ints, progress: Progress | None) -> Iterator[PassageText]:
        for first in range(0, len(ids), BATCH_ROWS):
            with decoded(self._folder / DATABASE):
                passages = read_passages(self._connection, ids[first : first + BATCH_ROWS])
            yield from passages
            if progress:
                progress(min(first + BATCH_ROWS, len(ids)), len(ids))

    def _record(self, kind: str, artefact: Artefact) -> None:
        row = (kind, artefact.file, artefact.sha256, artefact.size, artefact.generation, artefact.packed_ids)
        self._execute("INSERT OR REPLACE INTO artefacts VALUES (?, ?, ?, ?, ?, ?)", row)

    def _tidy(self) -> None:
        """After a publish: drop replaced files, and move the log into the database as far as readers let us."""
        with explained(self._folder):
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA busy_timeout = 0").fetchall()  # a reader's old log may wait, we do not
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}").fetchall()
            self._drop_unrecorded_files()

    def _drop_unrecorded_files(self) -> None:
        lexical = read_artefact(self._connection, LEXICAL)
        drop_folders(self._folder, lexical.file if lexical else None)
        record = read_artefact(self._connection, DENSE)
        for path in [*self._folder.glob("dense-*.faiss"), *self._folder.glob("dense-*.faiss.tmp")]:
            if record is None or path.name != record.file:
                path.unlink(missing_ok=True)


def _ints(rows: Iterable[Sequence[int]]) -> Ints:
    return np.array([each for (each,) in rows], dtype=np.int64)


def _are_codes(codes: Codes) -> bool:
    return codes.dtype == np.uint8 and codes.ndim == 2 and codes.shape[1] > 0


def _pack_metadata(metadata: Mapping[str, object]) -> bytes:
    """Metadata as JSON. Raises ValueError where it would come back changed (tuples, dates, NaN, keys not strings)."""
    try:
        packed = pack_json(dict(metadata))
        unchanged = unpack_json(packed) == dict(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata must be JSON values: {error}") from error
    if not unchanged:
        raise ValueError("metadata must be JSON values that come back unchanged: lists, not tuples; keys are strings")
    return packed

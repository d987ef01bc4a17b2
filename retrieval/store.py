"""The store: one SQLite file is the truth. Knows documents, chunks, vectors and generations; never a model or a score.

Readers see published rows only: the old state or the new one, never half. A writer holds a lock, stages documents
batch by batch, and publishes them in one transaction together with the record of the derived FAISS file
(`retrieval/dense.py`). Embeddings are content-addressed, so what a killed run has encoded is there for the next one.

Texts are kept as UTF-8 bytes with lone surrogates let through, so that every string comes back as it was. A chunk's
text is not kept a second time: its byte range is, and SQLite's incremental blob reading takes just that slice.
Measured, 20 chunks: 0.3 ms out of documents of 15 kB, 1.9 ms out of documents of 1 MB (18 ms when whole documents are
decoded, 0.15 ms with a copy of the text in each chunk).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexBusyError, IndexCorruptError, IndexMismatchError, IndexMissingError, RagError
from retrieval.records import Chunk, ChunkingSpec, Document, EncoderSpec, Failure, IndexManifest, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]

DATABASE = "index.sqlite"
LOCK = "write.lock"
DENSE = "dense"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x52414721  # "RAG!", marks the file as ours
UNIT_TOLERANCE = 1e-3
BUSY_SECONDS = 30
BATCH_ROWS = 4096
REWRITE_ROWS = 1000
REWRITE_SHARE = 0.1

# Page size: measured with 20,000 chunks of 150 to 500 coded tokens, 16384 takes 201 MB, 8192 takes 219, 4096 takes 205
# and reads all vectors at .6 of the speed. Token codes have a table of their own, or reading vectors would walk past
# them; a document's text stands last in its row for the same reason.
_SCHEMA = f"""
PRAGMA page_size = 16384;
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE blobs (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE roots (root BLOB PRIMARY KEY);
CREATE TABLE failures (
    root BLOB NOT NULL, source BLOB NOT NULL, reason BLOB NOT NULL, advice BLOB NOT NULL, PRIMARY KEY (root, source)
);
CREATE TABLE artefacts (
    kind TEXT PRIMARY KEY, file TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    generation INTEGER NOT NULL, ids BLOB NOT NULL
);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, generation INTEGER, doc_id BLOB NOT NULL, root BLOB NOT NULL, source BLOB NOT NULL,
    media_type BLOB NOT NULL, title BLOB NOT NULL, content_hash BLOB NOT NULL, characters INTEGER NOT NULL,
    chunks INTEGER NOT NULL, tokens INTEGER NOT NULL, metadata BLOB NOT NULL, spans BLOB NOT NULL, text BLOB NOT NULL
);
CREATE UNIQUE INDEX documents_published ON documents (doc_id) WHERE generation IS NOT NULL;
CREATE UNIQUE INDEX documents_staged ON documents (doc_id) WHERE generation IS NULL;
CREATE TABLE embeddings (id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
CREATE TABLE token_codes (
    embedding INTEGER PRIMARY KEY REFERENCES embeddings (id) ON DELETE CASCADE,
    width INTEGER NOT NULL, codes BLOB NOT NULL
);
CREATE TABLE chunks (
    document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE, ordinal INTEGER NOT NULL,
    embedding INTEGER NOT NULL REFERENCES embeddings (id), chunk_id BLOB NOT NULL,
    start_char INTEGER NOT NULL, end_char INTEGER NOT NULL, start_byte INTEGER NOT NULL, end_byte INTEGER NOT NULL,
    line INTEGER NOT NULL, page INTEGER, tokens INTEGER NOT NULL, heading BLOB NOT NULL, context BLOB NOT NULL,
    PRIMARY KEY (document, ordinal)
) WITHOUT ROWID;
CREATE INDEX chunks_embedding ON chunks (embedding);
CREATE INDEX chunks_chunk_id ON chunks (chunk_id);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_LIVE = """
SELECT DISTINCT chunks.embedding FROM documents JOIN chunks ON chunks.document = documents.id
WHERE documents.generation IS NOT NULL ORDER BY chunks.embedding
"""

_CHUNKS = """
SELECT chunks.*, documents.doc_id, documents.root, documents.source, documents.metadata
FROM {wanted} JOIN documents ON documents.id = chunks.document WHERE documents.generation IS NOT NULL {condition}
ORDER BY documents.root, documents.source, documents.doc_id, chunks.ordinal
"""
_CHUNKS_BY_EMBEDDING = _CHUNKS.format(
    wanted="json_each(?) AS wanted CROSS JOIN chunks ON chunks.embedding = wanted.value", condition=""
)
_CHUNKS_BY_ID = _CHUNKS.format(wanted="chunks", condition="AND chunks.chunk_id = ?")


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """What a list of documents shows of one. `characters` are code points; `tokens` is the sum over its chunks."""

    doc_id: str
    root: str
    source: str
    media_type: str
    title: str
    characters: int
    chunks: int
    tokens: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A published chunk, where it stands, and the embedding it shares with every chunk that reads the same.

    `line` counts from 1; `metadata` is the document's.
    """

    chunk: Chunk
    root: str
    source: str
    line: int
    embedding: int
    metadata: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is published. `artefact_bytes`: bytes on disk by file name, staged and free pages included."""

    documents: int
    chunks: int
    embeddings: int
    characters: int
    tokens: int
    token_code_bytes: int
    artefact_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Artefact:
    """The record of a derived file: its name in the folder, its bytes, and the state it was made from.

    `size` in bytes; `packed_ids`: the embeddings inside, little-endian int64, ascending.
    """

    file: str
    sha256: str
    size: int
    generation: int
    packed_ids: bytes

    def embedding_ids(self) -> Ints:
        """The embeddings inside: int64 (n,), ascending."""
        return np.frombuffer(self.packed_ids, dtype="<i8").astype(np.int64)


def embedding_key(encoder: EncoderSpec, text: str) -> bytes:
    """The content address of an embedding, 32 bytes: a digest of the encoder and of the exact passage it is given."""
    return hashlib.sha256(_fingerprint(encoder) + _pack(text)).digest()


class Store:
    """An opened index folder. Reads may come from several threads; all of them see published state only.

    The connection is read-only. In a folder this process cannot write to, SQLite cannot set up the shared memory of its
    log: it uses that of another process, if one has the index open; otherwise the file is opened as immutable, which is
    safe as long as nobody writes to it meanwhile (`generation` notices a file that changed, and opens it again).
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, immutable: bool) -> None:
        self.folder = folder
        self._connection = connection
        self._immutable = (folder / DATABASE).stat().st_mtime_ns if immutable else None
        self._lock = threading.RLock()

    @classmethod
    def create(cls, folder: Path, manifest: IndexManifest) -> Store:
        """Make an empty index in a folder, which is made if need be. Raises IndexMismatchError where there is one."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RagError(f"the index folder '{folder}' cannot be made: {error.strerror}") from error
        with _write_lock(folder, wait_seconds=0.0):
            target, draft = folder / DATABASE, folder / f"{DATABASE}.new"
            if target.exists():
                raise IndexMismatchError(f"'{folder}' already holds an index; open it, or choose another folder")
            for leftover in folder.glob(f"{DATABASE}*"):  # a log without its database would be read into the new one
                leftover.unlink()
            with _explained(folder), closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.executescript(_SCHEMA)
                _save_manifest(connection, manifest)
                _save_setting(connection, "generation", 0)
            draft.replace(target)
            sync_folder(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open an index for reading.

        Raises IndexMissingError without one, IndexCorruptError on a file that is not ours, IndexMismatchError on
        another version of the format.
        """
        if not (folder / DATABASE).is_file():
            place = shlex.quote(str(folder))
            raise IndexMissingError(f"there is no index in '{folder}'; run: rag ingest PATH --index {place}")
        connection, immutable = _connect_for_reading(folder)
        try:
            _check_format(folder, connection)
            return cls(folder, connection, immutable=immutable)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the connection; the store is of no use afterwards."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- state -------------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """How often this index was published; read anew each time."""
        with self._lock, _explained(self.folder):
            self._reopen_if_changed()
            return int(_load_setting(self._connection, "generation"))

    @property
    def manifest(self) -> IndexManifest:
        """What the numbers of this index depend on; read anew each time."""
        with self.snapshot(), _explained(self.folder):
            return _load_manifest(self._connection)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one state, whatever is published meanwhile. Other threads wait."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._reopen_if_changed()
            self._rows("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()  # nothing was written; a rollback cannot fail half-way

    # ---- reading -----------------------------------------------------------------------------------------------------

    def documents(self) -> list[DocumentRow]:
        """All documents, ordered by root, source and id."""
        rows = self._rows(
            "SELECT doc_id, root, source, media_type, title, characters, chunks, tokens, content_hash FROM documents"
            " WHERE generation IS NOT NULL ORDER BY root, source, doc_id"
        )
        return [DocumentRow(**{name: _plain(row[name]) for name in row.keys()}) for row in rows]  # noqa: SIM118 - a Row

    def document(self, doc_id: str) -> Document | None:
        """One document with its whole text, or None."""
        rows = self._rows("SELECT * FROM documents WHERE generation IS NOT NULL AND doc_id = ?", (_pack(doc_id),))
        return _document(rows[0]) if rows else None

    def hashes(self, root: str) -> dict[str, tuple[str, str]]:
        """Source -> (doc_id, content_hash) of the documents of a root."""
        rows = self._rows(
            "SELECT source, doc_id, content_hash FROM documents WHERE generation IS NOT NULL AND root = ?",
            (_pack(root),),
        )
        return {_unpack(source): (_unpack(doc_id), _unpack(digest)) for source, doc_id, digest in rows}

    def chunks_of_embeddings(self, ids: Iterable[int]) -> dict[int, list[StoredChunk]]:
        """The chunks behind embeddings, ordered by root, source, document and ordinal. Unknown ids are left out."""
        found: dict[int, list[StoredChunk]] = defaultdict(list)
        with self.snapshot():
            for row in self._rows(_CHUNKS_BY_EMBEDDING, (json.dumps(sorted({int(each) for each in ids})),)):
                found[row["embedding"]].append(self._stored_chunk(row))
        return dict(found)

    def chunks_by_id(self, chunk_ids: Iterable[str]) -> dict[str, StoredChunk]:
        """The chunks with these ids; unknown ids are left out."""
        with self.snapshot():
            rows = {each: self._rows(_CHUNKS_BY_ID, (_pack(each),)) for each in chunk_ids}
            return {each: self._stored_chunk(found[0]) for each, found in rows.items() if found}

    def token_codes(self, embedding_ids: Iterable[int]) -> dict[int, Codes]:
        """The coded token vectors of embeddings: uint8 (n_tokens, code_bytes). Embeddings without any are left out."""
        rows = self._rows(
            "SELECT embedding, width, codes FROM json_each(?) AS wanted JOIN token_codes ON embedding = wanted.value",
            (json.dumps(sorted({int(each) for each in embedding_ids})),),
        )
        return {each: np.frombuffer(codes, dtype=np.uint8).reshape(-1, width) for each, width, codes in rows}

    def failures(self) -> list[Failure]:
        """Files that could not be ingested, ordered by root and source."""
        rows = self._rows("SELECT root, source, reason, advice FROM failures ORDER BY root, source")
        return [Failure(*map(_unpack, row)) for row in rows]

    def roots(self) -> list[str]:
        """The folders that were ingested, in order."""
        return [_unpack(root) for (root,) in self._rows("SELECT root FROM roots ORDER BY root")]

    def blob(self, name: str) -> bytes | None:
        """Bytes saved under a name, or None."""
        return _blob(self._rows("SELECT data FROM blobs WHERE name = ?", (name,)))

    def artefact(self, kind: str = DENSE) -> Artefact | None:
        """The record of the derived file of a kind, or None."""
        with self._lock, _explained(self.folder):
            return _artefact(self._connection, kind)

    def live_embeddings(self) -> Ints:
        """The embeddings of published chunks: int64 (n,), ascending."""
        with self._lock, _explained(self.folder):
            return _live(self._connection)

    def vector_batches(self, ids: Ints | None = None, *, rows: int = BATCH_ROWS) -> Iterator[tuple[Ints, Floats]]:
        """Unit vectors of embeddings (all published ones by default) in batches of at most `rows`, ids ascending.

        Each batch is a read of its own: use a snapshot where they must belong together. Unknown ids are left out.
        """
        wanted = self.live_embeddings() if ids is None else np.unique(ids)
        dimension = self.manifest.encoder.dimension
        for first in range(0, len(wanted), rows):
            with self._lock, _explained(self.folder):
                batch = _vectors(self._connection, wanted[first : first + rows], dimension)
            yield batch

    def vectors(self, ids: Ints | None = None) -> tuple[Ints, Floats]:
        """Ids, ascending, and their unit vectors, float32 (n, dim). Needs room for the result and one batch."""
        with self.snapshot():
            wanted = self.live_embeddings() if ids is None else np.unique(ids)
            found = np.empty(len(wanted), dtype=np.int64)
            vectors = np.empty((len(wanted), self.manifest.encoder.dimension), dtype=np.float32)
            size = 0
            for some_ids, some in self.vector_batches(wanted):
                found[size : size + len(some)], vectors[size : size + len(some)] = some_ids, some
                size += len(some)
        return found[:size], vectors[:size]

    def counts(self) -> Counts:
        """How much is published, and what it takes on disk."""
        with self.snapshot():
            ((documents, chunks, characters, tokens),) = self._rows(
                "SELECT count(*), total(chunks), total(characters), total(tokens) FROM documents"
                " WHERE generation IS NOT NULL"
            )
            live = self.live_embeddings()
            ((code_bytes,),) = self._rows(
                "SELECT total(length(codes)) FROM json_each(?) AS wanted JOIN token_codes ON embedding = wanted.value",
                (json.dumps(live.tolist()),),
            )
        sizes = {}
        for path in sorted([*self.folder.glob(f"{DATABASE}*"), *self.folder.glob("dense-*.faiss")]):
            with suppress(FileNotFoundError):  # replaced by another process meanwhile
                sizes[path.name] = path.stat().st_size
        return Counts(documents, int(chunks), len(live), int(characters), int(tokens), int(code_bytes), sizes)

    # ---- writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def writer(self, *, wait_seconds: float = 0.0, manifest: IndexManifest | None = None) -> Iterator[Writer]:
        """The one writer. What is staged and not published when the block ends is discarded; embeddings stay.

        `manifest`: what the run writes under, the store's own by default. Raises IndexBusyError when another writer
        holds the lock for longer than `wait_seconds`.
        """
        with _write_lock(self.folder, wait_seconds), closing(_connect_for_writing(self.folder)) as connection:
            writer = Writer(self.folder, connection, manifest)
            try:
                yield writer
            except BaseException:
                with suppress(RagError):  # the first failure is the one to report; the next writer discards as well
                    writer.discard()
                raise
            writer.discard()

    def delete(self, doc_ids: Iterable[str], *, wait_seconds: float = 0.0) -> int:
        """Remove documents and publish. Returns how many there were; unknown ids do no harm."""
        with self.writer(wait_seconds=wait_seconds) as writer:
            removed = writer.remove(doc_ids)
            if removed:
                writer.publish(roots=())
        return removed

    def verify(self) -> list[str]:
        """Everything that is wrong with this index, one sentence each; an empty list when all is well."""
        problems: list[str] = []
        with self.snapshot():
            for check in (self._verify_database, self._verify_vectors, self._verify_documents, self._verify_dense):
                try:
                    problems.extend(check())
                except (IndexCorruptError, ValueError) as error:  # ValueError: bytes that are no UTF-8 or JSON
                    problems.append(str(error))
        return problems

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock, _explained(self.folder):
            return self._connection.execute(sql, parameters).fetchall()

    def _reopen_if_changed(self) -> None:
        """An immutable connection never looks at the file again, so look for it."""
        if self._immutable is None or self._connection.in_transaction:
            return
        modified = (self.folder / DATABASE).stat().st_mtime_ns
        if modified != self._immutable:
            self._connection.close()
            self._connection, immutable = _connect_for_reading(self.folder)
            self._immutable = modified if immutable else None

    def _stored_chunk(self, row: sqlite3.Row) -> StoredChunk:
        chunk = Chunk(
            chunk_id=_unpack(row["chunk_id"]),
            doc_id=_unpack(row["doc_id"]),
            ordinal=row["ordinal"],
            start=row["start_char"],
            end=row["end_char"],
            text=_unpack(self._slice(row["document"], row["start_byte"], row["end_byte"])),
            tokens=row["tokens"],
            heading=tuple(_unpack_json(row["heading"])),
            page=row["page"],
            context=_unpack(row["context"]),
        )
        return StoredChunk(
            chunk,
            root=_unpack(row["root"]),
            source=_unpack(row["source"]),
            line=row["line"],
            embedding=row["embedding"],
            metadata=_unpack_json(row["metadata"]),
        )

    def _slice(self, document: int, start: int, end: int) -> bytes:
        """Bytes of a document's text, without reading all of it."""
        with (
            _explained(self.folder),
            closing(self._connection.blobopen("documents", "text", document, readonly=True)) as text,
        ):
            text.seek(start)
            return text.read(end - start)

    def _verify_database(self) -> Iterator[str]:
        for (line,) in self._rows("PRAGMA integrity_check(20)"):
            if line != "ok":
                yield f"SQLite: {line}"
        for table, row, parent, _ in self._rows("PRAGMA foreign_key_check"):
            yield f"SQLite: row {row} of '{table}' refers to a missing row of '{parent}'"

    def _verify_vectors(self) -> Iterator[str]:
        live = self.live_embeddings()
        known = self._rows("SELECT id FROM embeddings")
        for missing in np.setdiff1d(live, np.array(known, dtype=np.int64)):
            yield f"embedding {missing} is used by a chunk and is missing"
        for ids, vectors in self.vector_batches():
            for each in ids[~_is_unit(vectors)]:
                yield f"the vector of embedding {each} is not of length 1"
        for each, width, size in self._rows("SELECT embedding, width, length(codes) FROM token_codes"):
            if width < 1 or size % width:
                yield f"the token codes of embedding {each} are not rows of {width} bytes"

    def _verify_documents(self) -> Iterator[str]:
        for row in self.documents():
            document = self.document(row.doc_id)
            text = document.text if document else ""
            if len(text) != row.characters:
                yield f"document '{row.source}' has {len(text)} characters, not the recorded {row.characters}"
            chunks = self._rows(
                "SELECT start_char, end_char, start_byte, end_byte FROM chunks"
                " JOIN documents ON documents.id = document"
                " WHERE generation IS NOT NULL AND doc_id = ? ORDER BY ordinal",
                (_pack(row.doc_id),),
            )
            if len(chunks) != row.chunks:
                yield f"document '{row.source}' has {len(chunks)} chunks, not the recorded {row.chunks}"
            offsets = _byte_offsets(text, (position for start, end, *_ in chunks for position in (start, end)))
            for start, end, *stored in chunks:
                if not 0 <= start <= end <= len(text) or [offsets[start], offsets[end]] != stored:
                    yield f"a chunk of '{row.source}' is not the text [{start}:{end}] of its document"

    def _verify_dense(self) -> Iterator[str]:
        from retrieval.dense import DenseIndex

        record = self.artefact()
        if record is None:
            return
        try:
            dense = DenseIndex.load(self.folder / Path(record.file).name, record.sha256, size=record.size)
        except OSError as error:
            yield f"the search file {record.file} cannot be read: {error.strerror}"
            return
        if not np.array_equal(dense.ids, record.embedding_ids()):
            yield f"the search file {record.file} holds other embeddings than recorded"
        if record.generation == self.generation and not np.array_equal(dense.ids, self.live_embeddings()):
            yield f"the search file {record.file} holds other embeddings than the store"


class Writer:
    """Stages, then publishes. Comes from `Store.writer`, and is for one thread."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, manifest: IndexManifest | None) -> None:
        self._folder = folder
        self._connection = connection
        self._removed: set[str] = set()
        self._failures: list[Failure] = []
        self.discard()
        self.manifest = manifest or _load_manifest(connection)

    def known(self, keys: Sequence[bytes], *, with_codes: bool = False) -> dict[bytes, int]:
        """Key -> id of the embeddings that are stored already; `with_codes` counts only those with token codes."""
        sql = "SELECT id FROM embeddings WHERE key = ?"
        if with_codes:
            sql += " AND EXISTS (SELECT 1 FROM token_codes WHERE embedding = id)"
        found: dict[bytes, int] = {}
        with _explained(self._folder):
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
        if not _is_unit(vectors).all():
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
        self._execute("DELETE FROM documents WHERE generation IS NULL AND doc_id = ?", (_pack(document.doc_id),))
        row = self._execute(
            "INSERT INTO documents (doc_id, root, source, media_type, title, content_hash, characters, chunks, tokens,"
            " metadata, spans, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *map(_pack, (document.doc_id, document.root, document.source, document.media_type, document.title)),
                _pack(document.content_hash),
                len(document.text),
                len(chunks),
                sum(chunk.tokens for chunk in chunks),
                _pack_metadata(document.metadata),
                _pack_json([[span.kind, span.start, span.end, span.number, span.label] for span in document.spans]),
                _pack(document.text),
            ),
        ).lastrowid
        at = _byte_offsets(document.text, (position for chunk in chunks for position in (chunk.start, chunk.end)))
        for chunk, embedding, line in zip(chunks, embedding_ids, lines, strict=True):
            self._execute(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row, chunk.ordinal, embedding, _pack(chunk.chunk_id)),
                    *(chunk.start, chunk.end, at[chunk.start], at[chunk.end], line, chunk.page, chunk.tokens),
                    *(_pack_json(list(chunk.heading)), _pack(chunk.context)),
                ),
            )

    def commit_batch(self) -> None:
        """Make what was added and staged survive this process; readers still see the old state."""
        with _explained(self._folder):
            self._connection.commit()

    def put_blob(self, name: str, data: bytes) -> None:
        """Save bytes with the next batch, before any publish: for what stored token codes cannot be read without."""
        self._execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (name, data))

    def blob(self, name: str) -> bytes | None:
        """Bytes saved under a name, those of a run that never published included; None without any."""
        with _explained(self._folder):
            return _blob(self._connection.execute("SELECT data FROM blobs WHERE name = ?", (name,)).fetchall())

    def remove(self, doc_ids: Iterable[str]) -> int:
        """Take documents out with the next publish, staged ones at once. Returns how many of them are published."""
        published = 0
        for doc_id in set(doc_ids):
            self._execute("DELETE FROM documents WHERE generation IS NULL AND doc_id = ?", (_pack(doc_id),))
            sql = "SELECT count(*) FROM documents WHERE generation IS NOT NULL AND doc_id = ?"
            published += self._execute(sql, (_pack(doc_id),)).fetchone()[0]
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
        manifest: IndexManifest | None = None,
        blobs: Mapping[str, bytes] | None = None,
        drop_unreferenced: bool = True,
        rewrite_dense: bool = False,
    ) -> int:
        """Make what is staged visible and what is removed vanish, in one transaction. Returns the new generation.

        Failures recorded earlier under the given `roots`, and of the given `sources` (root, source), are replaced; the
        roots are recorded as folders that were ingested whole. A manifest with another encoder or chunking than
        the published one is accepted only if every document was staged anew (IndexMismatchError otherwise).
        `rewrite_dense` writes the search file even if the change is small.
        """
        manifest = manifest or self.manifest
        if manifest.encoder != self.manifest.encoder:
            raise IndexMismatchError("the writer was opened for another encoder; give the manifest to writer() as well")
        self.commit_batch()
        try:
            with _explained(self._folder):
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("BEGIN IMMEDIATE")
                generation = int(_load_setting(self._connection, "generation")) + 1
                replaced = self._publish_documents(generation, manifest)
                self._publish_failures(roots, sources)
                for name, data in (blobs or {}).items():
                    self.put_blob(name, data)
                if drop_unreferenced:
                    self._execute("DELETE FROM embeddings WHERE id NOT IN (SELECT embedding FROM chunks)")
                self._publish_dense(generation, rewrite=rewrite_dense or replaced)
                _save_manifest(self._connection, manifest)
                _save_setting(self._connection, "generation", generation)
                self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        self.manifest = manifest
        self._removed.clear()
        self._failures.clear()
        self._tidy()
        return generation

    def discard(self) -> None:
        """Drop what is staged, removed or failed since the last publish; embeddings that were committed stay."""
        self._removed.clear()
        self._failures.clear()
        with _explained(self._folder):
            self._connection.rollback()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("DELETE FROM documents WHERE generation IS NULL")
            self._drop_unrecorded_files()

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        with _explained(self._folder):
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            return self._connection.execute(sql, parameters)

    def _add_embedding(self, key: bytes, vector: bytes, codes: Codes | None) -> int:
        self._execute("INSERT INTO embeddings (key, vector) VALUES (?, ?) ON CONFLICT DO NOTHING", (key, vector))
        (embedding,) = self._execute("SELECT id FROM embeddings WHERE key = ?", (key,)).fetchone()
        if codes is not None:
            row = (embedding, codes.shape[1], codes.tobytes())
            self._execute("INSERT OR IGNORE INTO token_codes VALUES (?, ?, ?)", row)
        return int(embedding)

    def _publish_documents(self, generation: int, manifest: IndexManifest) -> bool:
        """Swap documents. True when the encoder changed, so that every vector is another."""
        before = _load_manifest(self._connection)
        staged = [row for (row,) in self._execute("SELECT doc_id FROM documents WHERE generation IS NULL")]
        for doc_id in {*staged, *map(_pack, self._removed)}:
            self._execute("DELETE FROM documents WHERE generation IS NOT NULL AND doc_id = ?", (doc_id,))
        self._execute("UPDATE documents SET generation = ? WHERE generation IS NULL", (generation,))
        (older,) = self._execute("SELECT count(*) FROM documents WHERE generation < ?", (generation,)).fetchone()
        if older and (manifest.encoder, manifest.chunking) != (before.encoder, before.chunking):
            raise IndexMismatchError(
                f"{older} documents were indexed with {_describe(before)}, the new ones with {_describe(manifest)};"
                " run: rag ingest --rebuild"
            )
        return manifest.encoder != before.encoder

    def _publish_failures(self, roots: Sequence[str], sources: Sequence[tuple[str, str]]) -> None:
        for root in roots:
            self._execute("INSERT OR IGNORE INTO roots VALUES (?)", (_pack(root),))
            self._execute("DELETE FROM failures WHERE root = ?", (_pack(root),))
        for root, source in sources:
            self._execute("DELETE FROM failures WHERE root = ? AND source = ?", (_pack(root), _pack(source)))
        for failure in self._failures:
            row = (failure.root, failure.source, failure.reason, failure.advice)
            self._execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", tuple(map(_pack, row)))

    def _publish_dense(self, generation: int, *, rewrite: bool) -> None:
        """Write the search file, if it is due, before the commit that records it, under a name never used before."""
        live = _live(self._connection)
        if not rewrite and not self._dense_is_due(live):
            return
        self._execute("DELETE FROM artefacts WHERE kind = ?", (DENSE,))
        if not live.size:
            return
        from retrieval.dense import DenseIndex

        dense = DenseIndex(self.manifest.encoder.dimension)
        for first in range(0, len(live), BATCH_ROWS):
            dense.add(*_vectors(self._connection, live[first : first + BATCH_ROWS], dense.dimension))
        path = self._folder / f"dense-{generation:06d}.faiss"
        sha256 = dense.save(path)
        self._execute(
            "INSERT INTO artefacts VALUES (?, ?, ?, ?, ?, ?)",
            (DENSE, path.name, sha256, path.stat().st_size, generation, live.astype("<i8").tobytes()),
        )

    def _dense_is_due(self, live: Ints) -> bool:
        """Is the recorded file missing, or further from the store than a reader should have to make up for?"""
        record = _artefact(self._connection, DENSE)
        if record is None:
            return bool(live.size)
        path = self._folder / Path(record.file).name
        if not path.is_file() or path.stat().st_size != record.size:
            return True
        inside = record.embedding_ids()
        changed = np.setxor1d(inside, live, assume_unique=True).size
        return bool(changed > max(REWRITE_ROWS, REWRITE_SHARE * inside.size))

    def _tidy(self) -> None:
        """After a publish: drop replaced files, and move the log into the database as far as readers let us."""
        with _explained(self._folder):
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA busy_timeout = 0").fetchall()  # a reader's old log may wait, we do not
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}").fetchall()
            self._drop_unrecorded_files()

    def _drop_unrecorded_files(self) -> None:
        record = _artefact(self._connection, DENSE)
        for path in [*self._folder.glob("dense-*.faiss"), *self._folder.glob("dense-*.faiss.tmp")]:
            if record is None or path.name != record.file:
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- connections and locks -------------------------------------------------------------------------------------------


def _connect_for_reading(folder: Path) -> tuple[sqlite3.Connection, bool]:
    """A read-only connection, and whether it takes the file for immutable."""
    path = (folder / DATABASE).absolute()
    with _explained(folder):
        try:
            return _connect(f"{path.as_uri()}?mode=ro"), False
        except sqlite3.OperationalError as error:
            refused = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
            log = path.with_name(f"{DATABASE}-wal")
            if not refused or os.access(folder, os.W_OK) or (log.exists() and log.stat().st_size):
                raise
            return _connect(f"{path.as_uri()}?mode=ro&immutable=1"), True


def _connect_for_writing(folder: Path) -> sqlite3.Connection:
    with _explained(folder):
        connection = _connect(f"{(folder / DATABASE).absolute().as_uri()}?mode=rw")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what a user deletes does not stay in free pages
    return connection


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA trusted_schema = OFF")  # an index may come from elsewhere
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # the first real access to the file
    except BaseException:
        connection.close()
        raise
    return connection


def _check_format(folder: Path, connection: sqlite3.Connection) -> None:
    with _explained(folder):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise IndexCorruptError(f"'{folder / DATABASE}' is not an index of this program; choose another folder")
    if version != SCHEMA_VERSION:
        raise IndexMismatchError(
            f"the index in '{folder}' has format {version}, this program reads format {SCHEMA_VERSION};"
            " ingest the documents into another folder"
        )


@contextmanager
def _write_lock(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the folder's writer lock. The system frees it when the process ends, however it ends."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RagError(f"the index in '{folder}' cannot be written to: {error.strerror}") from error
    try:
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise IndexBusyError(f"process {holder} is writing to the index in '{folder}'; wait until it is done")
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # misuse of the connection: a mistake in the calling code
            raise
        if code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise IndexBusyError(f"another process keeps the index in '{folder}' locked; try again") from error
        if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:
            raise IndexCorruptError(f"'{folder / DATABASE}' is damaged or is no index: {error}") from error
        raise RagError(f"SQLite could not work on the index in '{folder}': {error}") from error


# ---- rows ------------------------------------------------------------------------------------------------------------


def _live(connection: sqlite3.Connection) -> Ints:
    return np.array(connection.execute(_LIVE).fetchall(), dtype=np.int64).reshape(-1)


def _vectors(connection: sqlite3.Connection, ids: Ints, dimension: int) -> tuple[Ints, Floats]:
    """One batch; ids ascending, unknown ones left out."""
    sql = (
        "SELECT embeddings.id, vector FROM json_each(?) AS wanted JOIN embeddings ON embeddings.id = wanted.value"
        " ORDER BY embeddings.id"
    )
    rows = connection.execute(sql, (json.dumps(ids.tolist()),)).fetchall()
    if any(len(vector) != 4 * dimension for _, vector in rows):
        raise IndexCorruptError(f"the store holds a vector that has not {dimension} dimensions; run: rag index verify")
    joined = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f4")
    found = np.array([each for each, _ in rows], dtype=np.int64)
    return found, joined.reshape(-1, dimension).astype(np.float32, copy=False)


def _is_unit(vectors: Floats) -> NDArray[np.bool_]:
    """Which rows are finite and of length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        return cast("NDArray[np.bool_]", np.abs(np.linalg.norm(vectors, axis=1) - 1.0) <= UNIT_TOLERANCE)


def _are_codes(codes: Codes) -> bool:
    return codes.dtype == np.uint8 and codes.ndim == 2 and codes.shape[1] > 0


def _artefact(connection: sqlite3.Connection, kind: str) -> Artefact | None:
    sql = "SELECT file, sha256, bytes, generation, ids FROM artefacts WHERE kind = ?"
    row = connection.execute(sql, (kind,)).fetchone()
    return Artefact(*row) if row else None


def _blob(rows: list[sqlite3.Row]) -> bytes | None:
    return rows[0][0] if rows else None


def _document(row: sqlite3.Row) -> Document:
    return Document(
        doc_id=_unpack(row["doc_id"]),
        root=_unpack(row["root"]),
        source=_unpack(row["source"]),
        media_type=_unpack(row["media_type"]),
        title=_unpack(row["title"]),
        text=_unpack(row["text"]),
        spans=tuple(Span(*span) for span in _unpack_json(row["spans"])),
        content_hash=_unpack(row["content_hash"]),
        metadata=_unpack_json(row["metadata"]),
    )


def _save_setting(connection: sqlite3.Connection, key: str, value: object) -> None:
    connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))


def _load_setting(connection: sqlite3.Connection, key: str) -> Any:
    row = connection.execute("SELECT value FROM manifest WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise IndexCorruptError(f"the index has no record of its {key}; ingest the documents into another folder")
    return json.loads(row[0])


def _save_manifest(connection: sqlite3.Connection, manifest: IndexManifest) -> None:
    _save_setting(connection, "encoder", asdict(manifest.encoder))
    _save_setting(connection, "chunking", asdict(manifest.chunking))
    _save_setting(connection, "created_at", manifest.created_at)
    _save_setting(connection, "versions", dict(manifest.versions))


def _load_manifest(connection: sqlite3.Connection) -> IndexManifest:
    return IndexManifest(
        encoder=EncoderSpec(**_load_setting(connection, "encoder")),
        chunking=ChunkingSpec(**_load_setting(connection, "chunking")),
        schema_version=SCHEMA_VERSION,
        created_at=_load_setting(connection, "created_at"),
        versions=_load_setting(connection, "versions"),
    )


def _describe(manifest: IndexManifest) -> str:
    encoder, chunking = manifest.encoder, manifest.chunking
    return f"'{encoder.name}' ({encoder.dimension}-d, {encoder.pooling}) in chunks of {chunking.max_tokens} tokens"


# ---- values ----------------------------------------------------------------------------------------------------------


def _pack(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _unpack(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _plain(value: bytes | int) -> Any:
    return _unpack(value) if isinstance(value, bytes) else value


def _pack_json(value: object) -> bytes:
    # Not ASCII: an escaped pair of lone surrogates would come back as one character.
    return _pack(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _unpack_json(data: bytes) -> Any:
    return json.loads(_unpack(data))


def _pack_metadata(metadata: Mapping[str, object]) -> bytes:
    """Metadata as JSON. Raises ValueError where it would come back changed (tuples, dates, NaN, keys not strings)."""
    try:
        packed = _pack_json(dict(metadata))
        unchanged = _unpack_json(packed) == dict(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata must be JSON values: {error}") from error
    if not unchanged:
        raise ValueError("metadata must be JSON values that come back unchanged: lists, not tuples; keys are strings")
    return packed


def _byte_offsets(text: str, positions: Iterable[int]) -> dict[int, int]:
    """Where each of the given code points starts in the stored bytes; one pass over the text."""
    offsets: dict[int, int] = {}
    last = size = 0
    for position in sorted(set(positions)):
        size += len(_pack(text[last:position]))
        offsets[position] = size
        last = position
    return offsets


@lru_cache(maxsize=8)
def _fingerprint(encoder: EncoderSpec) -> bytes:
    """What a passage vector depends on: not the question's prefix, nor how much the encoder could read."""
    passage_side = replace(encoder, query_prefix="", max_tokens=0)
    return hashlib.sha256(json.dumps(asdict(passage_side), sort_keys=True).encode()).digest()

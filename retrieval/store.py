"""The store: one SQLite file is the truth. Knows documents, chunks, vectors and generations; never a model or a score.

Readers see published rows only: the old state or the new one, never half. A writer (`retrieval/writer.py`) holds a
lock, stages documents batch by batch, and publishes them in one transaction together with the records of the derived
files (`retrieval/dense.py`, `retrieval/lexical.py`). Embeddings are content-addressed, so what a killed run has encoded
is there for the next one. What became live or ceased to be with each generation is kept in a journal, so that whoever
holds an earlier state need not compare everything.

A chunk's text is not kept a second time: its byte range is, and SQLite's incremental blob reading takes just that
slice. Measured, 20 chunks: 0.3 ms out of documents of 15 kB, 1.9 ms out of documents of 1 MB (18 ms when whole
documents are decoded, 0.15 ms with a copy of the text in each chunk).
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np

from retrieval.database import (
    BATCH_ROWS,
    CREATE,
    DATABASE,
    DENSE,
    DOCUMENT_COLUMNS,
    HEAD_COLUMNS,
    LOCK,
    SWEPT,
    Artefact,
    Codes,
    Floats,
    Ints,
    PassageText,
    changes_since,
    check_format,
    connect_for_reading,
    connect_for_writing,
    decoded,
    digest,
    document_sums,
    embedding_key,
    explained,
    first_blob,
    live_embeddings,
    load_manifest,
    load_setting,
    migrate,
    pack,
    read_artefact,
    read_passages,
    read_vectors,
    save_manifest,
    save_setting,
    unpack,
    unpack_json,
    write_lock,
)
from retrieval.encoder import passage_input
from retrieval.errors import IndexCorruptError, IndexMismatchError, IndexMissingError, RagError
from retrieval.lexical import TermAnalyzer
from retrieval.records import Chunk, Document, EncoderSpec, Failure, IndexManifest, Span
from retrieval.versions import make_folder, stamp, sync_folder, versions
from retrieval.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "DATABASE",
    "LOCK",
    "Artefact",
    "Counts",
    "DocumentFacts",
    "DocumentRow",
    "Store",
    "StoredChunk",
    "Writer",
    "document_of",
    "embedding_key",
]

_CHUNKS = """
SELECT chunks.*, documents.doc_id, documents.root, documents.source, documents.metadata, embeddings.key, head
FROM {wanted} JOIN documents ON documents.id = chunks.document JOIN embeddings ON embeddings.id = chunks.embedding
LEFT JOIN document_sums ON document_sums.document = chunks.document WHERE documents.generation IS NOT NULL {condition}
ORDER BY documents.root, documents.source, documents.doc_id, chunks.ordinal
"""
_CHUNKS_BY_EMBEDDING = _CHUNKS.format(
    wanted="json_each(?) AS wanted CROSS JOIN chunks ON chunks.embedding = wanted.value", condition=""
)
_CHUNKS_BY_ID = _CHUNKS.format(wanted="chunks", condition="AND chunks.chunk_id = ?")
_CHUNKS_OF_DOCUMENT = _CHUNKS.format(wanted="chunks", condition="AND documents.doc_id = ?")
_NEIGHBOUR = _CHUNKS.format(
    wanted="chunks",
    condition="AND chunks.document = ?1 AND ordinal = (SELECT {} FROM chunks WHERE document = ?1 AND ordinal {} ?2)",
)
# From each root to the next: a look at every document takes a thousand times as long.
_ROOTS = """
WITH RECURSIVE found (root) AS (
    SELECT min(root) FROM documents WHERE generation IS NOT NULL UNION ALL
    SELECT (SELECT min(root) FROM documents WHERE generation IS NOT NULL AND root > found.root)
    FROM found WHERE root IS NOT NULL
) SELECT root FROM found WHERE root IS NOT NULL
"""
_SUMS = "LEFT JOIN document_sums ON document_sums.document = chunks.document", ""
_NO_SUM = -1
"""In place of the checksum in rows of an earlier format, which has none."""

_HEAD = ", head", f", {_NO_SUM} AS head"
P = ParamSpec("P")
R = TypeVar("R")
_BEFORE, _AFTER = _NEIGHBOUR.format("max(ordinal)", "<"), _NEIGHBOUR.format("min(ordinal)", ">")


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
class DocumentFacts:
    """What a filter looks at. `row` stands for the document within one state of the store."""

    row: int
    doc_id: str
    root: str
    source: str
    media_type: str
    title: str
    metadata: Mapping[str, object]


class _Metadata(Mapping[str, object]):
    """Metadata as stored, decoded at the first look."""

    __slots__ = ("_packed", "_plain")

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._plain: Mapping[str, object] | None = None

    def _decoded(self) -> Mapping[str, object]:
        if self._plain is None:
            self._plain = unpack_json(self._packed)
        return self._plain

    def __getitem__(self, key: str) -> object:
        return self._decoded()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())


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
    """How much is published. `artefact_bytes`: bytes on disk by file or folder name, free pages included."""

    documents: int
    chunks: int
    embeddings: int
    characters: int
    tokens: int
    token_code_bytes: int
    artefact_bytes: Mapping[str, int]


def _reads(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """What a method finds that cannot be decoded is damage, and is called so."""

    @wraps(method)
    def reading(self: Store, /, *arguments: P.args, **named: P.kwargs) -> R:
        with self.reading():
            return method(self, *arguments, **named)

    return reading


class Store:
    """An opened index folder. Reads may come from several threads; all of them see published state only.

    The connection is read-only. In a folder this process cannot write to, SQLite cannot set up the shared memory of its
    log: it uses that of another process, if one has the index open; otherwise the file is opened as immutable, which is
    safe as long as nobody writes to it meanwhile. `home` is the index folder, `folder` the version of it that is read;
    a file that changed so, and another version that took the place of this one, are noticed and opened (`generation`).
    """

    def __init__(self, home: Path, *, version: Path | None = None) -> None:
        """Open the live version, or always the given one."""
        self.home = home
        self._version = version
        self._lock = threading.RLock()
        self._open()

    def _open(self) -> None:
        """Nothing of the store changes where this fails."""
        seen = stamp(self.home)
        folder = self._version or versions(self.home).live
        try:
            connection, immutable = connect_for_reading(folder)
        except RagError:
            if stamp(self.home) == seen:
                raise
            self._open()  # the version was dropped just now, for there is another
            return
        try:
            self._format = check_format(folder, connection)
            self._immutable = (folder / DATABASE).stat().st_mtime_ns if immutable else None
        except BaseException:
            connection.close()
            raise
        self.folder, self._connection, self._stamp = folder, connection, seen
        self._encoder_spec: EncoderSpec | None = None

    @staticmethod
    def exists(home: Path) -> bool:
        """Whether there is an index in a folder. Raises IndexCorruptError where its live version is gone."""
        known = versions(home)
        is_there = (known.live / DATABASE).is_file()
        if not is_there and (known.live != home or known.previous):
            raise IndexCorruptError(
                f"the live version of the index in '{home}' is gone; run: rag index restore, for an earlier one, or rag"
                " index restore FILE"
            )
        return is_there

    @classmethod
    def create(cls, folder: Path, manifest: IndexManifest) -> Store:
        """Make an empty index in a folder, which is made if need be. Raises IndexMismatchError where there is one."""
        make_folder(folder)
        with write_lock(folder, wait_seconds=0.0):
            if cls.exists(folder):
                raise IndexMismatchError(f"'{folder}' already holds an index; open it, or choose another folder")
            cls.make(folder, manifest)
        return cls.open(folder)

    @classmethod
    def ensure(cls, folder: Path, manifest: IndexManifest, *, wait_seconds: float) -> Store:
        """Open the index in a folder, or make an empty one; somebody else may be about to do the same."""
        if not cls.exists(folder):
            make_folder(folder)
            with write_lock(folder, wait_seconds):
                if not cls.exists(folder):
                    cls.make(folder, manifest)
        return cls.open(folder)

    @staticmethod
    def make(folder: Path, manifest: IndexManifest) -> None:
        """Make an empty version in a folder. The caller holds the lock of the index."""
        make_folder(folder)
        for leftover in folder.glob(f"{DATABASE}*"):  # a log without its database would be read into the new one
            leftover.unlink()
        draft = folder / f"{DATABASE}.new"
        with explained(folder), closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.executescript(CREATE)
            save_manifest(connection, manifest)
            save_setting(connection, "generation", 0)
            save_setting(connection, SWEPT, 0)
        draft.replace(folder / DATABASE)
        sync_folder(folder)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open an index for reading.

        Raises IndexMissingError without one, IndexCorruptError on a file that is not ours, IndexMismatchError on
        another version of the format.
        """
        if not cls.exists(folder):
            place = shlex.quote(str(folder))
            raise IndexMissingError(f"there is no index in '{folder}'; run: rag ingest PATH --index {place}")
        return cls(folder)

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
        with self.reading():
            return int(load_setting(self._connection, "generation"))

    @property
    def manifest(self) -> IndexManifest:
        """What the numbers of this index depend on; read anew each time."""
        with self.reading(), self.snapshot():
            return load_manifest(self._connection)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one state, whatever is published meanwhile. Other threads wait."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._reopen_if_changed()
            self.rows("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()  # nothing was written; a rollback cannot fail half-way

    # ---- reading -----------------------------------------------------------------------------------------------------

    @_reads
    def documents(self) -> list[DocumentRow]:
        """All documents, ordered by root, source and id."""
        rows = self.rows(
            "SELECT doc_id, root, source, media_type, title, characters, chunks, tokens, content_hash FROM documents"
            " WHERE generation IS NOT NULL ORDER BY root, source, doc_id"
        )
        numbers = {"characters", "chunks", "tokens"}
        return [
            DocumentRow(**{name: _plain(row[name], int if name in numbers else bytes) for name in row.keys()})  # noqa: SIM118
            for row in rows
        ]

    @_reads
    def document(self, doc_id: str) -> Document | None:
        """One document with its whole text, or None. Raises IndexCorruptError where it is not as it was stored."""
        with self.snapshot():
            rows = self.rows("SELECT * FROM documents WHERE generation IS NOT NULL AND doc_id = ?", (pack(doc_id),))
            for row in rows:
                sums = self.sums(row["id"])
                if sums and sums[1] != digest(row[column] for column in DOCUMENT_COLUMNS):
                    raise IndexCorruptError(
                        f"the stored text of '{shown(row['source'])}' is damaged; run: rag index repair"
                    )
                return document_of(row)
        return None

    @_reads
    def document_roots(self) -> list[str]:
        """The roots that documents have, in order, those of files that were ingested one by one included."""
        return [unpack(root) for (root,) in self.rows(_ROOTS)]

    @_reads
    def hashes(self, root: str, source: str | None = None) -> dict[str, tuple[str, str]]:
        """Source -> (doc_id, content_hash) of the documents of a root, or of one source of it."""
        sql = "SELECT source, doc_id, content_hash FROM documents WHERE generation IS NOT NULL AND root = ?"
        if source is None:
            rows = self.rows(sql, (pack(root),))
        else:
            rows = self.rows(f"{sql} AND source = ?", (pack(root), pack(source)))
        return {unpack(source): (unpack(doc_id), unpack(digest)) for source, doc_id, digest in rows}

    @_reads
    def chunks_of_embeddings(self, ids: Iterable[int]) -> dict[int, list[StoredChunk]]:
        """The chunks behind embeddings, ordered by root, source, document and ordinal. Unknown ids are left out."""
        found: dict[int, list[StoredChunk]] = defaultdict(list)
        with self.snapshot():
            for row in self._chunk_rows(_CHUNKS_BY_EMBEDDING, (json.dumps(sorted({int(each) for each in ids})),)):
                found[row["embedding"]].append(self._stored_chunk(row))
        return dict(found)

    @_reads
    def places_of_embeddings(self, ids: Iterable[int]) -> dict[int, list[tuple[str, str]]]:
        """(chunk_id, source) of the chunks behind embeddings, in the order of `chunks_of_embeddings`; reads no text."""
        found: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for row in self._chunk_rows(_CHUNKS_BY_EMBEDDING, (json.dumps(sorted({int(each) for each in ids})),)):
            found[row["embedding"]].append((unpack(row["chunk_id"]), unpack(row["source"])))
        return dict(found)

    @_reads
    def chunks_by_id(self, chunk_ids: Iterable[str]) -> dict[str, StoredChunk]:
        """The chunks with these ids; unknown ids are left out."""
        with self.snapshot():
            rows = {each: self._chunk_rows(_CHUNKS_BY_ID, (pack(each),)) for each in chunk_ids}
            return {each: self._stored_chunk(found[0]) for each, found in rows.items() if found}

    @_reads
    def chunks_of(self, doc_id: str) -> list[StoredChunk]:
        """The chunks of a document, in order; none of one that is not there."""
        with self.snapshot():
            return [self._stored_chunk(row) for row in self._chunk_rows(_CHUNKS_OF_DOCUMENT, (pack(doc_id),))]

    @_reads
    def neighbours(self, chunk_ids: Iterable[str]) -> dict[str, tuple[StoredChunk | None, StoredChunk | None]]:
        """The chunks right before and after each chunk in its document; unknown ids are left out."""
        found = {}
        with self.snapshot():
            for each in chunk_ids:
                for row in self._chunk_rows(_CHUNKS_BY_ID, (pack(each),))[:1]:
                    place = row["document"], row["ordinal"]
                    found[each] = self._first_chunk(_BEFORE, place), self._first_chunk(_AFTER, place)
        return found

    @_reads
    def document_facts(self) -> list[DocumentFacts]:
        """What filters look at, of every document, ordered by row; metadata is decoded when somebody looks at it.

        Measured with 250,000 documents: 1.1 s, 1.9 with all of it decoded and kept.
        """
        rows = self.rows(
            "SELECT id AS row, doc_id, root, source, media_type, title, metadata FROM documents"
            " WHERE generation IS NOT NULL ORDER BY id"
        )
        return [
            DocumentFacts(
                row=row,
                doc_id=unpack(doc_id),
                root=unpack(root),
                source=unpack(source),
                media_type=unpack(media_type),
                title=unpack(title),
                metadata=_Metadata(metadata),
            )
            for row, doc_id, root, source, media_type, title, metadata in rows
        ]

    @_reads
    def embeddings_of_documents(self, rows: Sequence[int], *, pages: tuple[int, int] | None = None) -> Ints:
        """The embeddings of the chunks of documents (`DocumentFacts.row`): int64 (n,), ascending, each once.

        `pages`: only of chunks that start on a page from the first to the last given, counted from 1.
        """
        sql = (
            "SELECT embedding FROM json_each(?) AS wanted CROSS JOIN chunks ON document = wanted.value WHERE document"
            " NOT IN (SELECT id FROM documents INDEXED BY documents_staged WHERE generation IS NULL)"
        )
        if pages:
            sql += " AND page BETWEEN ? AND ?"
        found = self.rows(sql, (json.dumps([int(row) for row in rows]), *(pages or ())))
        return np.unique(np.fromiter((each for (each,) in found), dtype=np.int64, count=len(found)))

    @_reads
    def token_codes(self, embedding_ids: Iterable[int]) -> dict[int, Codes]:
        """The coded token vectors of embeddings: uint8 (n_tokens, code_bytes). Embeddings without any are left out."""
        rows = self.rows(
            "SELECT embedding, width, codes FROM json_each(?) AS wanted JOIN token_codes ON embedding = wanted.value",
            (json.dumps(sorted({int(each) for each in embedding_ids})),),
        )
        return {each: np.frombuffer(codes, dtype=np.uint8).reshape(-1, width) for each, width, codes in rows}

    @_reads
    def failures(self) -> list[Failure]:
        """Files that could not be ingested, ordered by root and source."""
        rows = self.rows("SELECT root, source, reason, advice FROM failures ORDER BY root, source")
        return [Failure(*map(unpack, row)) for row in rows]

    @_reads
    def roots(self) -> list[str]:
        """The folders that were ingested, in order."""
        return [unpack(root) for (root,) in self.rows("SELECT root FROM roots ORDER BY root")]

    @_reads
    def blob(self, name: str) -> bytes | None:
        """Bytes saved under a name, or None."""
        return first_blob(self.rows("SELECT data FROM blobs WHERE name = ?", (name,)))

    @_reads
    def artefact(self, kind: str = DENSE) -> Artefact | None:
        """The record of the derived file of a kind, or None."""
        return read_artefact(self._connection, kind)

    @_reads
    def live_embeddings(self) -> Ints:
        """The embeddings of published chunks: int64 (n,), ascending."""
        return live_embeddings(self._connection)

    @_reads
    def changes_since(self, generation: int) -> tuple[Ints, Ints] | None:
        """The embeddings that became live since a generation and those that ceased to be, both int64 (n,), ascending.

        None where the journal does not reach back so far: then compare with `live_embeddings`.
        """
        with self.snapshot():
            return changes_since(self._connection, generation, self.generation)

    def passages(self, ids: Ints | None = None, *, rows: int = BATCH_ROWS) -> Iterator[PassageText]:
        """The texts behind embeddings (all published ones by default), grouped by document.

        Every `rows` ids are a read of their own: use a snapshot where they must belong together. Unknown ids are left
        out.
        """
        wanted = self.live_embeddings() if ids is None else np.unique(ids)
        for first in range(0, len(wanted), rows):
            with self.reading():
                batch = read_passages(self._connection, wanted[first : first + rows])
            yield from batch

    def vector_batches(self, ids: Ints | None = None, *, rows: int = BATCH_ROWS) -> Iterator[tuple[Ints, Floats]]:
        """Unit vectors of embeddings (all published ones by default) in batches of at most `rows`, ids ascending.

        Each batch is a read of its own: use a snapshot where they must belong together. Unknown ids are left out.
        """
        wanted = self.live_embeddings() if ids is None else np.unique(ids)
        dimension = self._encoder().dimension
        for first in range(0, len(wanted), rows):
            with self.reading():
                batch = read_vectors(self._connection, wanted[first : first + rows], dimension)
            yield batch

    @_reads
    def vectors(self, ids: Ints | None = None) -> tuple[Ints, Floats]:
        """Ids, ascending, and their unit vectors, float32 (n, dim). Needs room for the result and one batch."""
        with self.snapshot():
            wanted = self.live_embeddings() if ids is None else np.unique(ids)
            found = np.empty(len(wanted), dtype=np.int64)
            vectors = np.empty((len(wanted), self._encoder().dimension), dtype=np.float32)
            size = 0
            for some_ids, some in self.vector_batches(wanted):
                found[size : size + len(some)], vectors[size : size + len(some)] = some_ids, some
                size += len(some)
        return found[:size], vectors[:size]

    @_reads
    def counts(self) -> Counts:
        """How much is published, and what it takes on disk."""
        with self.snapshot():
            ((documents, chunks, characters, tokens),) = self.rows(
                "SELECT count(*), total(chunks), total(characters), total(tokens) FROM documents"
                " WHERE generation IS NOT NULL"
            )
            live = self.live_embeddings()
            ((code_bytes,),) = self.rows(
                "SELECT total(length(codes)) FROM json_each(?) AS wanted JOIN token_codes ON embedding = wanted.value",
                (json.dumps(live.tolist()),),
            )
        sizes = {}
        derived = [*self.folder.glob("dense-*.faiss"), *self.folder.glob("lexical-*")]
        for path in sorted([*self.folder.glob(f"{DATABASE}*"), *derived]):
            with suppress(FileNotFoundError):  # replaced by another process meanwhile
                files = path.iterdir() if path.is_dir() else [path]
                sizes[path.name] = sum(each.stat().st_size for each in files)
        return Counts(documents, int(chunks), len(live), int(characters), int(tokens), int(code_bytes), sizes)

    # ---- writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def writer(
        self, *, wait_seconds: float = 0.0, analyzer: TermAnalyzer | None = None, locked: bool = False
    ) -> Iterator[Writer]:
        """The one writer. What is staged and not published when the block ends is discarded; embeddings stay.

        `analyzer`: how texts become terms; without one, what is added is missing from the lexical files until a later
        publish. Raises IndexBusyError when another writer holds the lock for longer than `wait_seconds`. `locked`: the
        caller holds it.
        """
        with nullcontext() if locked else write_lock(self.home, wait_seconds):
            with self._lock:
                self._reopen_if_changed()  # whoever held the lock may have switched to another version
            with closing(connect_for_writing(self.folder)) as connection:
                migrate(self.folder, connection)
                writer = Writer(self.folder, connection, analyzer)
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
        from retrieval.checks import derived_problems, stored_problems

        with self.snapshot():
            return [*stored_problems(self), *derived_problems(self)]

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy the database as it is at one moment, what is staged included."""
        with self.reading():
            self._connection.backup(target)

    # ---- inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What goes wrong inside is the index's: one of our errors, that says so."""
        with self._lock, explained(self.folder):
            self._reopen_if_changed()
            with decoded(self.folder / DATABASE):
                yield

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Rows of the database as they are, for the modules of this room that look below what is published."""
        with self.reading():
            return self._connection.execute(sql, parameters).fetchall()

    def _reopen_if_changed(self) -> None:
        """Follow to the version that is live now. An immutable connection never looks at the file, so look for it."""
        if self._connection.in_transaction:
            return
        modified = self._version is None and stamp(self.home) != self._stamp
        if self._immutable is not None:
            modified = modified or (self.folder / DATABASE).stat().st_mtime_ns != self._immutable
        if modified:
            before = self._connection
            self._open()
            before.close()

    def _encoder(self) -> EncoderSpec:
        """What the vectors were made with; the same as long as a version lasts. Asked for with every chunk."""
        if self._encoder_spec is None:
            self._encoder_spec = self.manifest.encoder
        return self._encoder_spec

    def sums_now(self, row: int) -> tuple[bytes, ...]:
        """What the checksums of a document would be if they were made now."""
        return document_sums(self._connection, row)

    @property
    def has_sums(self) -> bool:
        """Whether the rows have checksums; a reader leaves an earlier format as it is."""
        return self._format >= 4 or check_format(self.folder, self._connection) >= 4

    def sums(self, row: int) -> tuple[bytes, ...] | None:
        """The recorded checksums of a document's head, its whole row and its chunks."""
        if not self.has_sums:
            return None
        found = self.rows("SELECT head, row, chunks FROM document_sums WHERE document = ?", (row,))
        return tuple(found[0]) if found else (b"", b"", b"")

    def _chunk_rows(self, sql: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        """Rows of chunks; an index of an earlier format, which a reader leaves as it is, has no checksums."""
        return self.rows(sql if self.has_sums else sql.replace(*_SUMS).replace(*_HEAD), parameters)

    def setting(self, key: str) -> Any:
        """A value of the manifest's table, or None."""
        rows = self.rows("SELECT value FROM manifest WHERE key = ?", (key,))
        return json.loads(rows[0]["value"]) if rows else None

    def _first_chunk(self, sql: str, parameters: Sequence[object]) -> StoredChunk | None:
        rows = self._chunk_rows(sql, parameters)
        return self._stored_chunk(rows[0]) if rows else None

    def _stored_chunk(self, row: sqlite3.Row) -> StoredChunk:
        """The chunk of a row, whose text is the one that its embedding was made from."""
        text, context = unpack(self._slice(row["document"], row["start_byte"], row["end_byte"])), unpack(row["context"])
        if embedding_key(self._encoder(), passage_input(context, text)) != row["key"]:
            raise IndexCorruptError(f"the stored text of '{shown(row['source'])}' is damaged; run: rag index repair")
        if row["head"] != _NO_SUM and row["head"] != digest(row[column] for column in HEAD_COLUMNS):
            raise IndexCorruptError(f"what is stored about '{shown(row['source'])}' is damaged; run: rag index repair")
        chunk = Chunk(
            chunk_id=unpack(row["chunk_id"]),
            doc_id=unpack(row["doc_id"]),
            ordinal=row["ordinal"],
            start=row["start_char"],
            end=row["end_char"],
            text=text,
            tokens=row["tokens"],
            heading=tuple(unpack_json(row["heading"])),
            page=row["page"],
            context=context,
        )
        return StoredChunk(
            chunk,
            root=unpack(row["root"]),
            source=unpack(row["source"]),
            line=row["line"],
            embedding=row["embedding"],
            metadata=unpack_json(row["metadata"]),
        )

    def _slice(self, document: int, start: int, end: int) -> bytes:
        """Bytes of a document's text, without reading all of it."""
        with (
            explained(self.folder),
            closing(self._connection.blobopen("documents", "text", document, readonly=True)) as text,
        ):
            text.seek(start)
            return text.read(end - start)


def document_of(row: sqlite3.Row) -> Document:
    """The document in a row of its table."""
    return Document(
        doc_id=unpack(row["doc_id"]),
        root=unpack(row["root"]),
        source=unpack(row["source"]),
        media_type=unpack(row["media_type"]),
        title=unpack(row["title"]),
        text=unpack(row["text"]),
        spans=tuple(Span(*span) for span in unpack_json(row["spans"])),
        content_hash=unpack(row["content_hash"]),
        metadata=unpack_json(row["metadata"]),
    )


def shown(source: bytes) -> str:
    """A stored name, fit for a message."""
    return unpack(source).encode("utf-8", "replace").decode()


def _plain(value: object, kind: type) -> Any:
    """A value as it was before it was stored. Raises TypeError on one that was never stored so."""
    if not isinstance(value, kind):
        raise TypeError(f"found {type(value).__name__} in place of {kind.__name__}")
    return unpack(value) if isinstance(value, bytes) else value

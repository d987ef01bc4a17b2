"""The SQLite file below the store: its tables, connections, locks and values. Knows rows; never what is published when.

Texts are kept as UTF-8 bytes with lone surrogates let through, so that every string comes back as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import passage_input
from retrieval.errors import IndexBusyError, IndexCorruptError, IndexMismatchError, RagError
from retrieval.records import ChunkingSpec, EncoderSpec, IndexManifest

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]

DATABASE = "index.sqlite"
LOCK = "write.lock"
DENSE = "dense"
LEXICAL = "lexical"
SCHEMA_VERSION = 4
_MAX_DIMENSION, _MAX_SETTING = 65_536, 1000
_ANY_ENCODER = EncoderSpec("", "", 1, 1)
SWEPT = "swept_embeddings"  # the setting: every embedding up to this id has a chunk, or is gone
APPLICATION_ID = 0x52414721  # "RAG!", marks the file as ours
UNIT_TOLERANCE = 1e-3
BUSY_SECONDS = 30
BATCH_ROWS = 4096

# Page size: measured with 20,000 chunks of 150 to 500 coded tokens, 16384 takes 201 MB, 8192 takes 219, 4096 takes 205
# and reads all vectors at .6 of the speed. Token codes have a table of their own, or reading vectors would walk past
# them; a document's text stands last in its row for the same reason.
_CHANGES = "CREATE TABLE changes (generation INTEGER PRIMARY KEY, added BLOB NOT NULL, removed BLOB NOT NULL);"
# By place, so that one file is found among 250,000 without a look at the others' rows, which hold their texts.
_PLACES = (
    "CREATE INDEX documents_places ON documents (root, source, doc_id, content_hash) WHERE generation IS NOT NULL;"
)
# SQLite does not notice a flipped bit inside a value. Tables of their own: a column behind a text is slow to reach.
_SUMS = """
CREATE TABLE document_sums (
    document INTEGER PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    head BLOB NOT NULL, row BLOB NOT NULL, chunks BLOB NOT NULL
);
CREATE TABLE embedding_sums (
    embedding INTEGER PRIMARY KEY REFERENCES embeddings (id) ON DELETE CASCADE, vector INTEGER NOT NULL, codes INTEGER
);
"""
CREATE = f"""
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
{_CHANGES}
{_PLACES}
{_SUMS}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_MIGRATIONS = _CHANGES, _PLACES, _SUMS  # from format 1 to 2, from 2 to 3, from 3 to 4

# What the checksums of a document cover, in this order.
DOCUMENT_COLUMNS = (
    *("doc_id", "root", "source", "media_type", "title", "content_hash"),
    *("metadata", "spans", "text"),
)
HEAD_COLUMNS = ("doc_id", "root", "source", "metadata")  # what is shown with every hit
CHUNK_COLUMNS = (
    *("ordinal", "chunk_id", "start_char", "end_char", "start_byte", "end_byte"),
    *("line", "page", "tokens", "heading", "context"),
)

# Every chunk but those of staged documents: of few, or of none. The other way round, every document is looked at.
_LIVE = """
SELECT DISTINCT embedding FROM chunks
WHERE document NOT IN (SELECT id FROM documents INDEXED BY documents_staged WHERE generation IS NULL)
ORDER BY embedding
"""

_PASSAGES = """
SELECT chunks.embedding, document, start_byte, end_byte, context, heading, title FROM json_each(?) AS wanted
CROSS JOIN chunks ON chunks.embedding = wanted.value JOIN documents ON documents.id = document
WHERE documents.generation IS NOT NULL GROUP BY chunks.embedding ORDER BY document, start_byte
"""


@dataclass(frozen=True, slots=True)
class PassageText:
    """The text behind an embedding: `context` and `text` as the encoder read them, and what stands above it.

    outline: the document's title and the headings in force, outermost first, of the first place where it stands.
    """

    embedding: int
    context: str
    text: str
    outline: tuple[str, ...]

    @property
    def encoded(self) -> str:
        """What the encoder read."""
        return passage_input(self.context, self.text)


@dataclass(frozen=True, slots=True)
class Artefact:
    """The record of a derived file: its name in the folder, its bytes, and the state it was made from.

    `size` in bytes; `packed_ids`: the embeddings inside, little-endian int64, ascending (empty for the lexical index,
    which holds exactly those of its generation).
    """

    file: str
    sha256: str
    size: int
    generation: int
    packed_ids: bytes

    def embedding_ids(self) -> Ints:
        """The embeddings inside: int64 (n,), ascending."""
        return np.frombuffer(self.packed_ids, dtype="<i8").astype(np.int64)


# ---- connections and locks -------------------------------------------------------------------------------------------


def connect_for_reading(folder: Path) -> tuple[sqlite3.Connection, bool]:
    """A read-only connection, and whether it takes the file for immutable."""
    path = (folder / DATABASE).absolute()
    with explained(folder):
        try:
            return _connect(f"{path.as_uri()}?mode=ro"), False
        except sqlite3.OperationalError as error:
            refused = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
            log = path.with_name(f"{DATABASE}-wal")
            if not refused or os.access(folder, os.W_OK) or (log.exists() and log.stat().st_size):
                raise
            return _connect(f"{path.as_uri()}?mode=ro&immutable=1"), True


def connect_for_writing(folder: Path) -> sqlite3.Connection:
    """A connection that may write; what it deletes is overwritten."""
    with explained(folder):
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
        # At 1,000,000 chunks a question reads 460 rows from all over the file: 6.0 ms with SQLite's own 2 MB, 4.6 so.
        connection.execute("PRAGMA cache_size = -32768")  # kB
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # the first real access to the file
    except BaseException:
        connection.close()
        raise
    return connection


def check_format(folder: Path, connection: sqlite3.Connection) -> int:
    """The version of the format. Raises IndexCorruptError on a file that is not ours, IndexMismatchError on a version
    that we do not read.
    """
    with explained(folder):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise IndexCorruptError(f"'{folder / DATABASE}' is not an index of this program; choose another folder")
    if not 1 <= version <= SCHEMA_VERSION:
        raise IndexMismatchError(
            f"the index in '{folder}' has format {version}, this program reads up to format {SCHEMA_VERSION};"
            " ingest the documents into another folder"
        )
    found, ours = _schema(connection), _our_schema()
    if not found <= ours or (version == SCHEMA_VERSION and found != ours):
        raise IndexCorruptError(
            f"'{folder / DATABASE}' holds other tables than this program makes; run: rag index restore FILE, or ingest"
            " the documents into another folder"
        )
    return int(version)


def _schema(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """What is in a database: a view or a trigger of somebody else's would act in the name of ours."""
    sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
    return {tuple(row) for row in connection.execute(sql)}


@lru_cache(maxsize=1)
def _our_schema() -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(CREATE)
        return _schema(connection)


def migrate(folder: Path, connection: sqlite3.Connection) -> None:
    """Bring an index of an earlier format to the present one, in place: what it lacks is added, nothing else."""
    version = check_format(folder, connection)
    with explained(folder):
        if version == 1:
            connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, '0')", (SWEPT,))
        if version < SCHEMA_VERSION:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement in " ".join(_MIGRATIONS[version - 1 :]).split(";"):
                    connection.execute(statement)
                _sum_up(connection)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.commit()
            except BaseException:
                connection.rollback()
                raise


def _sum_up(connection: sqlite3.Connection) -> None:
    """Give every row of an earlier format its checksums."""
    connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
    connection.execute(
        "INSERT INTO embedding_sums SELECT id, crc32(vector),"
        " (SELECT crc32(codes) FROM token_codes WHERE embedding = id) FROM embeddings"
    )
    encoder = load_manifest(connection).encoder
    for (document,) in connection.execute("SELECT id FROM documents").fetchall():
        sums: tuple[bytes, ...] = b"", b"", b""  # of one that was damaged before there were any: never right
        if is_as_embedded(connection, document, encoder):
            sums = document_sums(connection, document)
        connection.execute("INSERT INTO document_sums VALUES (?, ?, ?, ?)", (document, *sums))
    for name, data in connection.execute("SELECT name, data FROM blobs").fetchall():
        save_setting(connection, blob_sum(name), digest([data]).hex())


@contextmanager
def write_lock(folder: Path, wait_seconds: float) -> Iterator[None]:
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
def explained(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # misuse of the connection: a mistake in the calling code
            raise
        if code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise IndexBusyError(f"another process keeps the index in '{folder}' locked; try again") from error
        said = " ".join(str(error).split())[:200]
        if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:
            raise IndexCorruptError(
                f"'{folder / DATABASE}' is damaged or is no index: {said}; run: rag index repair, and where that says"
                " the same: rag index restore FILE, or ingest the documents into another folder"
            ) from error
        room = code & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
        advice = "; nothing was changed: make room on the disk and run it again" if room else ""
        raise RagError(f"SQLite could not work on the index in '{folder}': {said}{advice}") from error
    except UnicodeDecodeError as error:  # SQLite's own message quotes what it has found
        raise IndexCorruptError(f"'{folder / DATABASE}' is damaged: its schema cannot be read") from error


@contextmanager
def decoded(what: object) -> Iterator[None]:
    """What is found in a row and cannot be decoded is damage, and is called so: SQLite keeps whatever it is given."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise IndexCorruptError(f"a row of '{what}' cannot be read ({said}); run: rag index repair") from error


# ---- rows ------------------------------------------------------------------------------------------------------------


def live_embeddings(connection: sqlite3.Connection) -> Ints:
    """The embeddings of published chunks: int64 (n,), ascending. Looks at every chunk."""
    return np.array(connection.execute(_LIVE).fetchall(), dtype=np.int64).reshape(-1)


def read_vectors(connection: sqlite3.Connection, ids: Ints, dimension: int) -> tuple[Ints, Floats]:
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


def is_unit(vectors: Floats) -> NDArray[np.bool_]:
    """Which rows are finite and of length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        return cast("NDArray[np.bool_]", np.abs(np.linalg.norm(vectors, axis=1) - 1.0) <= UNIT_TOLERANCE)


def read_artefact(connection: sqlite3.Connection, kind: str) -> Artefact | None:
    """The record of a kind, or None."""
    sql = "SELECT file, sha256, bytes, generation, ids FROM artefacts WHERE kind = ?"
    row = connection.execute(sql, (kind,)).fetchone()
    if row is None:
        return None
    for value, wanted in zip(row, (str, str, int, int, bytes), strict=True):
        if not isinstance(value, wanted):
            raise TypeError(f"found {type(value).__name__} in place of {wanted.__name__}")
    return Artefact(*row)


def changes_since(connection: sqlite3.Connection, generation: int, now: int) -> tuple[Ints, Ints] | None:
    """What became live and what ceased to be from one generation to another; None if the journal does not reach."""
    if connection.execute("PRAGMA user_version").fetchone()[0] < 2:
        return None
    sql = "SELECT added, removed FROM changes WHERE generation > ? AND generation <= ?"
    rows = connection.execute(sql, (generation, now)).fetchall()
    if len(rows) != now - generation:
        return None
    added = np.frombuffer(b"".join(row[0] for row in rows), dtype="<i8")
    removed = np.frombuffer(b"".join(row[1] for row in rows), dtype="<i8")
    ids, where = np.unique(np.concatenate([added, removed]), return_inverse=True)
    net = np.bincount(where, np.repeat([1.0, -1.0], [len(added), len(removed)]), minlength=len(ids))
    return ids[net > 0].astype(np.int64), ids[net < 0].astype(np.int64)


def read_passages(connection: sqlite3.Connection, ids: Ints) -> list[PassageText]:
    """The passage of each embedding, those of one document together; unpublished ones are left out."""
    passages = []
    rows = connection.execute(_PASSAGES, (json.dumps(ids.tolist()),)).fetchall()
    for document, group in groupby(rows, key=lambda row: int(row["document"])):
        with closing(connection.blobopen("documents", "text", document, readonly=True)) as text:
            for row in group:
                text.seek(row["start_byte"])
                chunk = unpack(text.read(row["end_byte"] - row["start_byte"]))
                outline = (unpack(row["title"]), *unpack_json(row["heading"]))
                passages.append(PassageText(int(row["embedding"]), unpack(row["context"]), chunk, outline))
    return passages


def document_sums(connection: sqlite3.Connection, document: int) -> tuple[bytes, bytes, bytes]:
    """The checksums of a document's head, its whole row and its chunks, as they are stored now."""
    sql = f"SELECT {', '.join(DOCUMENT_COLUMNS)} FROM documents WHERE id = ?"  # noqa: S608 - our own names
    row = connection.execute(sql, (document,)).fetchone()
    sql = f"SELECT {', '.join(CHUNK_COLUMNS)} FROM chunks WHERE document = ? ORDER BY ordinal"  # noqa: S608
    chunks = digest(chain.from_iterable(connection.execute(sql, (document,))))
    return digest(row[column] for column in HEAD_COLUMNS), digest(row), chunks


def is_as_embedded(connection: sqlite3.Connection, document: int, encoder: EncoderSpec) -> bool:
    """Whether every chunk of a document is the text that its embedding was made from."""
    (text,) = connection.execute("SELECT text FROM documents WHERE id = ?", (document,)).fetchone()
    chunks = connection.execute(
        "SELECT start_byte, end_byte, context, key FROM chunks JOIN embeddings ON embeddings.id = embedding"
        " WHERE document = ?",
        (document,),
    )
    try:
        return all(
            embedding_key(encoder, passage_input(unpack(context), unpack(text[start:end]))) == key
            for start, end, context, key in chunks
        )
    except (ValueError, TypeError, AttributeError):
        return False


def embedding_key(encoder: EncoderSpec, text: str) -> bytes:
    """The content address of an embedding, 32 bytes: a digest of the encoder and of the exact passage it is given."""
    return hashlib.sha256(_fingerprint(encoder) + pack(text)).digest()


@lru_cache(maxsize=8)
def _fingerprint(encoder: EncoderSpec) -> bytes:
    """What a passage vector depends on: not the question's prefix, nor how much the encoder could read."""
    passage_side = replace(encoder, query_prefix="", max_tokens=0)
    return hashlib.sha256(json.dumps(asdict(passage_side), sort_keys=True).encode()).digest()


def digest(values: Iterable[bytes | int | None]) -> bytes:
    """A checksum of values in their order, 16 bytes."""
    found = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, bytes):
            found.update(b"%d:" % len(value))
            found.update(value)
        else:
            found.update(b"%d;" % value if value is not None else b"-;")
    return found.digest()


def blob_sum(name: str) -> str:
    """The setting that keeps the checksum of a blob."""
    return f"sum of {name}"


def first_blob(rows: list[sqlite3.Row]) -> bytes | None:
    """The bytes in the first row, or None without one."""
    if rows and not isinstance(rows[0][0], bytes):
        raise TypeError(f"found {type(rows[0][0]).__name__} in place of bytes")
    return rows[0][0] if rows else None


def save_setting(connection: sqlite3.Connection, key: str, value: object) -> None:
    """Keep a JSON value under a key."""
    connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))


def load_setting(connection: sqlite3.Connection, key: str) -> Any:
    """The value under a key. Raises IndexCorruptError without one."""
    row = connection.execute("SELECT value FROM manifest WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise IndexCorruptError(f"the index has no record of its {key}; ingest the documents into another folder")
    try:
        return json.loads(row[0])
    except (TypeError, ValueError, RecursionError) as error:
        raise IndexCorruptError(f"the record that the index keeps of its {key} cannot be read") from error


def save_manifest(connection: sqlite3.Connection, manifest: IndexManifest) -> None:
    """Keep what the numbers of the index depend on."""
    save_setting(connection, "encoder", asdict(manifest.encoder))
    save_setting(connection, "chunking", asdict(manifest.chunking))
    save_setting(connection, "created_at", manifest.created_at)
    save_setting(connection, "versions", dict(manifest.versions))


def load_manifest(connection: sqlite3.Connection) -> IndexManifest:
    """What the numbers of the index depend on. Raises IndexCorruptError on what no version of this program wrote."""
    try:
        manifest = IndexManifest(
            encoder=EncoderSpec(**load_setting(connection, "encoder")),
            chunking=ChunkingSpec(**load_setting(connection, "chunking")),
            created_at=load_setting(connection, "created_at"),
            versions=load_setting(connection, "versions"),
        )
        _check_types(manifest.encoder, _ANY_ENCODER)
        _check_types(manifest.chunking, ChunkingSpec())
        _check_words(manifest)
    except (TypeError, ValueError, AttributeError) as error:
        raise IndexCorruptError(f"the manifest of the index cannot be read: {error}") from error
    return manifest


def _check_types(record: EncoderSpec | ChunkingSpec, default: EncoderSpec | ChunkingSpec) -> None:
    """Raise TypeError on a field that is not of the default's type, or ValueError on one out of bounds."""
    for name, value in asdict(default).items():
        found = getattr(record, name)
        fits = type(found) is type(value) or (type(value) is float and type(found) is int)
        if not fits or len(str(found)) > _MAX_SETTING:
            raise TypeError(f"its {name} is {str(found)[:80]!r}")
    if isinstance(record, EncoderSpec) and not 1 <= record.dimension <= _MAX_DIMENSION:
        raise ValueError(f"its dimension is {record.dimension}")


def _check_words(manifest: IndexManifest) -> None:
    """Raise TypeError on a date or versions that are no words."""
    versions = manifest.versions
    if not isinstance(versions, dict) or not all(
        isinstance(word, str) for word in (manifest.created_at, *versions.values())
    ):
        raise TypeError("its versions are no words")


# ---- values ----------------------------------------------------------------------------------------------------------


def pack(text: str) -> bytes:
    """A string as stored: lone surrogates are let through."""
    return text.encode("utf-8", "surrogatepass")


def unpack(data: bytes) -> str:
    """The string that was stored."""
    return data.decode("utf-8", "surrogatepass")


def pack_json(value: object) -> bytes:
    """A JSON value as stored."""
    # Not ASCII: an escaped pair of lone surrogates would come back as one character.
    return pack(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def unpack_json(data: bytes) -> Any:
    """The JSON value that was stored."""
    return json.loads(unpack(data))


def byte_offsets(text: str, positions: Iterable[int]) -> dict[int, int]:
    """Where each of the given code points starts in the stored bytes; one pass over the text."""
    offsets: dict[int, int] = {}
    last = size = 0
    for position in sorted(set(positions)):
        size += len(pack(text[last:position]))
        offsets[position] = size
        last = position
    return offsets

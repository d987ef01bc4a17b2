"""Everything in an index against everything else. Knows what a store holds and how it is derived; mends nothing.

Rows are compared with their checksums, chunks with the text of their document and with the embedding that was made from
it, vectors with each other, and the search files with the store.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrieval.database import BATCH_ROWS, LEXICAL, blob_sum, byte_offsets, digest, is_unit, unpack
from retrieval.encoder import passage_input
from retrieval.errors import IndexCorruptError
from retrieval.lexical import verify_folder
from retrieval.records import EncoderSpec
from retrieval.store import embedding_key, shown

if TYPE_CHECKING:
    from retrieval.store import Store

_WHAT = "vector", "token codes"


def stored_problems(store: Store) -> list[str]:
    """What is wrong with the store itself, one sentence each."""
    return _problems(store, _database, _vectors, _blobs, _lists, _documents)


def derived_problems(store: Store) -> list[str]:
    """What is wrong with the files that are made from the store."""
    return _problems(store, _dense, _lexical)


def _problems(store: Store, *checks: Callable[[Store], Iterator[str]]) -> list[str]:
    problems: list[str] = []
    with store.snapshot():
        for check in checks:
            try:
                with store.reading():
                    problems.extend(check(store))
            except IndexCorruptError as error:
                problems.append(str(error))
    return list(dict.fromkeys(problems))


def _damaged_embeddings(store: Store) -> Iterator[tuple[int, str]]:
    """Embeddings whose vector or token codes differ from what was stored: (id, "vector" or "token codes")."""
    if not store.has_sums:
        return
    sql = (
        "SELECT id, embedding_sums.vector, embedding_sums.codes, embeddings.vector, token_codes.codes"
        " FROM embeddings LEFT JOIN embedding_sums ON embedding_sums.embedding = id"
        " LEFT JOIN token_codes ON token_codes.embedding = id WHERE id > ? ORDER BY id LIMIT ?"
    )
    last = -1
    while rows := store.rows(sql, (last, BATCH_ROWS)):
        for each, *sums, vector, codes in rows:
            found = zlib.crc32(vector), None if codes is None else zlib.crc32(codes)
            yield from ((each, what) for what, new, old in zip(_WHAT, found, sums, strict=True) if new != old)
        last = rows[-1]["id"]


def _database(store: Store) -> Iterator[str]:
    for (line,) in store.rows("PRAGMA integrity_check(20)"):
        parts = () if line == "ok" else line.splitlines()
        yield from (f"SQLite: {part}" for part in parts if not part.startswith("***"))
    for table, row, parent, _ in store.rows("PRAGMA foreign_key_check"):
        yield f"SQLite: row {row} of '{table}' refers to a missing row of '{parent}'"


def _vectors(store: Store) -> Iterator[str]:
    live = store.live_embeddings()
    known = store.rows("SELECT id FROM embeddings")
    for missing in np.setdiff1d(live, np.array(known, dtype=np.int64)):
        yield f"embedding {missing} is used by a chunk and is missing"
    for ids, vectors in store.vector_batches():
        for each in ids[~is_unit(vectors)]:
            yield f"the vector of embedding {each} is not of length 1"
    for each, width, size in store.rows("SELECT embedding, width, length(codes) FROM token_codes"):
        if not width or width < 1 or size is None or size % width:
            yield f"the token codes of embedding {each} are not rows of {width} bytes"
    for each, what in _damaged_embeddings(store):
        yield f"the {what} of embedding {each} is not what was stored"


def _blobs(store: Store) -> Iterator[str]:
    for row in store.rows("SELECT name, data FROM blobs"):
        wanted = store.setting(blob_sum(row["name"]))
        if wanted is not None and digest([row["data"]]).hex() != wanted:
            yield f"the stored '{row['name']}' is not what was stored"


def _lists(store: Store) -> Iterator[str]:
    """Reads what every ingest reads."""
    for read in (store.documents, store.failures, store.roots, store.document_roots):
        read()
    yield from ()


def _documents(store: Store) -> Iterator[str]:
    """Every document against its checksums, and every chunk against the text and the embedding it is to have."""
    encoder = store.manifest.encoder
    for row, source in store.rows("SELECT id, source FROM documents WHERE generation IS NOT NULL"):
        try:
            with store.reading():
                problems = list(_document(store, row, shown(source), encoder))
        except IndexCorruptError as error:
            problems = [f"document '{shown(source)}': {error}"]
        yield from problems


def _document(store: Store, row: int, source: str, encoder: EncoderSpec) -> Iterator[str]:
    (facts,) = store.rows("SELECT text, characters, chunks FROM documents WHERE id = ?", (row,))
    wanted = store.sums(row)
    if wanted is not None:
        for what, found, recorded in zip(("head", "text", "list of chunks"), store.sums_now(row), wanted, strict=True):
            if found != recorded:
                yield f"the {what} of document '{source}' is not the one that was stored"
    text = unpack(facts["text"])
    if len(text) != facts["characters"]:
        yield f"document '{source}' has {len(text)} characters, not the recorded {facts['characters']}"
    chunks = store.rows(
        "SELECT start_char, end_char, start_byte, end_byte, context, embeddings.key FROM chunks"
        " JOIN embeddings ON embeddings.id = embedding WHERE document = ? ORDER BY ordinal",
        (row,),
    )
    if len(chunks) != facts["chunks"]:
        yield f"document '{source}' has {len(chunks)} chunks, not the recorded {facts['chunks']}"
    offsets = byte_offsets(text, (position for start, end, *_ in chunks for position in (start, end)))
    for start, end, first, last, context, key in chunks:
        if not 0 <= start <= end <= len(text) or (offsets[start], offsets[end]) != (first, last):
            yield f"a chunk of '{source}' is not the text [{start}:{end}] of its document"
        elif embedding_key(encoder, passage_input(unpack(context), text[start:end])) != key:
            yield f"the chunk [{start}:{end}] of '{source}' is not what its embedding was made from"


def _dense(store: Store) -> Iterator[str]:
    from retrieval.dense import DenseIndex

    record = store.artefact()
    if record is None:
        return
    try:
        dense = DenseIndex.load(store.folder / Path(record.file).name, record.sha256, size=record.size)
    except OSError as error:
        yield f"the search file {record.file} cannot be read: {error.strerror}"
        return
    if not np.array_equal(dense.ids, record.embedding_ids()):
        yield f"the search file {record.file} holds other embeddings than recorded"
    if record.generation == store.generation and not np.array_equal(dense.ids, store.live_embeddings()):
        yield f"the search file {record.file} holds other embeddings than the store"
    elif dense.differs_from(store.vectors):
        yield f"the search file {record.file} holds other vectors than the store"


def _lexical(store: Store) -> Iterator[str]:
    record = store.artefact(LEXICAL)
    if record:
        live = store.live_embeddings() if record.generation == store.generation else None
        yield from verify_folder(store.folder, record, live)

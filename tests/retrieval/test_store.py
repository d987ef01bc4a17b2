from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from doubles import HashEncoder, manifest_of, new_store, publish_texts, stage_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retrieval.database
import retrieval.store
import retrieval.writer
from retrieval.encoder import passage_input
from retrieval.errors import IndexBusyError, IndexCorruptError, IndexMismatchError, IndexMissingError, RagError
from retrieval.records import Chunk, Document, Failure, Span
from retrieval.store import DATABASE, LOCK, DocumentFacts, Store, embedding_key

ENCODER = HashEncoder()
REPOSITORY = Path(__file__).resolve().parents[2]


def texts_of(store):
    return {row.doc_id: store.document(row.doc_id).text for row in store.documents()}


def all_chunks(store):
    return [stored for group in store.chunks_of_embeddings(store.live_embeddings()).values() for stored in group]


def full_disk(_descriptor):
    raise OSError("full")


def raw(store):
    """A connection past the store, to do damage with."""
    return closing(sqlite3.connect(store.folder / DATABASE, isolation_level=None))


# ---- what goes in comes out ------------------------------------------------------------------------------------------


def test_a_document_comes_back_as_it_was(store):
    document = Document(
        doc_id="d\udc80",
        root="/r\udcff",
        source="caf\udce9/é.md",
        media_type="text/markdown",
        title="T\ud800",
        text="\ufeff# α\r\n\ud83d\ude00 lone \ud800 and 😀\x00é",
        spans=(Span("heading", 1, 4, 1, "α\udfff"), Span("page", 0, 5, 2)),
        content_hash="ab" * 32,
        metadata={"n": [1, 2.5, None, True, {"k": "\ud83d\ude00"}], "😀": ""},
    )
    chunk = Chunk("c\udc80", document.doc_id, 0, 1, 12, document.text[1:12], 7, ("α\udfff", "b"), 2, "T\ud800 > α")
    with store.writer() as writer:
        key = embedding_key(ENCODER.spec, passage_input(chunk.context, chunk.text))
        ids = writer.add_embeddings([key], ENCODER.encode_passages(["x"]))
        writer.stage(document, [chunk], ids, [1])
        writer.publish(roots=[document.root])
    assert store.document(document.doc_id) == document
    (stored,) = store.chunks_of_embeddings(ids)[ids[0]]
    assert stored.chunk == chunk
    assert (stored.root, stored.source, stored.line, stored.embedding) == (document.root, document.source, 1, ids[0])
    assert stored.metadata == document.metadata
    assert store.chunks_by_id([chunk.chunk_id, "none"]) == {chunk.chunk_id: stored}
    assert store.hashes(document.root) == {document.source: (document.doc_id, document.content_hash)}
    assert store.roots() == [document.root]
    (row,) = store.documents()
    assert (row.doc_id, row.title, row.characters, row.chunks, row.tokens) == ("d\udc80", "T\ud800", 23, 1, 7)
    assert store.verify() == []


@given(st.text(st.characters(exclude_categories=[]), max_size=40), st.lists(st.integers(0, 40), max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_chunk_is_its_slice(store, text, cuts):
    with store.writer() as writer:
        writer.remove([row.doc_id for row in store.documents()])
        stage_text(writer, "d", text, cuts=sorted(min(cut, len(text)) for cut in cuts))
        writer.publish(roots=[])
    assert store.document("d").text == text
    for stored in all_chunks(store):
        assert stored.chunk.text == text[stored.chunk.start : stored.chunk.end]
    assert store.verify() == []


def test_overlapping_chunks_of_a_long_document(store):
    text = "żółw 😀 " * 20_000
    chunks = [
        Chunk(f"c{n}", "d", n, n * 1000, n * 1000 + 1500, text[n * 1000 : n * 1000 + 1500], 1) for n in range(100)
    ]
    with store.writer() as writer:
        keys = [embedding_key(ENCODER.spec, chunk.text) for chunk in chunks]
        ids = writer.add_embeddings(keys, ENCODER.encode_passages([chunk.chunk_id for chunk in chunks]))
        writer.stage(Document("d", "/r", "d", "", "", text), chunks, ids, [1] * 100)
        writer.publish(roots=[])
    assert [stored.chunk.text for stored in store.chunks_by_id(["c0", "c57", "c99"]).values()] == [
        chunks[n].text for n in (0, 57, 99)
    ]
    assert store.verify() == []


def test_chunks_that_read_the_same_share_an_embedding_in_a_fixed_order(store):
    publish_texts(store, {"b": "same", "a": "same", "c": "other"})
    groups = store.chunks_of_embeddings([*store.live_embeddings().tolist(), 999])
    assert [[stored.source for stored in group] for group in groups.values()] == [["a.txt", "b.txt"], ["c.txt"]]


def test_token_codes_and_blobs(store):
    codes = np.arange(48, dtype=np.uint8).reshape(3, 16)
    empty = np.empty((0, 16), dtype=np.uint8)
    keys = [embedding_key(ENCODER.spec, text) for text in "abc"]
    with store.writer() as writer:
        ids = writer.add_embeddings(keys, ENCODER.encode_passages(list("abc")), [codes, None, empty])
        assert writer.known([*keys, b"x" * 32]) == dict(zip(keys, ids, strict=True))
        assert writer.known(keys, with_codes=True) == {keys[0]: ids[0], keys[2]: ids[2]}
        assert writer.add_embeddings(keys[:2], ENCODER.encode_passages(list("ab")), [empty, codes]) == ids[:2]
        writer.publish(roots=[], blobs={"codec": b"\x00\x01"}, drop_unreferenced=False)
    found = store.token_codes([*ids, 999])
    assert {each: array.shape for each, array in found.items()} == {ids[0]: (3, 16), ids[1]: (3, 16), ids[2]: (0, 16)}
    assert np.array_equal(found[ids[0]], codes)
    assert (store.blob("codec"), store.blob("none")) == (b"\x00\x01", None)


def test_vectors_come_back_bit_by_bit_and_in_batches(store):
    publish_texts(store, {f"d{n}": f"word{n}" for n in range(25)})
    ids, vectors = store.vectors()
    assert np.array_equal(ids, store.live_embeddings())
    assert vectors.dtype == np.float32
    texts = {stored.embedding: stored.chunk.text for stored in all_chunks(store)}
    assert np.array_equal(vectors, ENCODER.encode_passages([texts[each] for each in ids]))
    assert [len(batch) for batch, _ in store.vector_batches(rows=10)] == [10, 10, 5]
    some, _ = store.vectors(np.array([ids[3], 10_000, ids[1]]))
    assert some.tolist() == [ids[1], ids[3]]
    assert store.vectors(np.array([], dtype=np.int64))[1].shape == (0, 64)


def test_counts(store):
    publish_texts(store, {"a": "one two", "b": "one two", "c": "three"})
    counts = store.counts()
    assert (counts.documents, counts.chunks, counts.embeddings, counts.characters) == (3, 3, 2, 19)
    assert {DATABASE, "dense-000001.faiss"} <= counts.artefact_bytes.keys()


def test_the_key_depends_on_encoder_and_text_but_not_on_the_question_prefix():
    spec = ENCODER.spec
    keys = {embedding_key(spec, "a"), embedding_key(spec, "b"), embedding_key(replace(spec, revision="2"), "a")}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 3
    assert embedding_key(replace(spec, query_prefix="q: "), "a") == embedding_key(spec, "a")


# ---- publishing ------------------------------------------------------------------------------------------------------


def test_staged_documents_are_invisible_until_published(store):
    publish_texts(store, {"a": "old", "b": "kept", "c": "gone"})
    with store.writer() as writer:
        stage_text(writer, "a", "new")
        writer.remove(["c"])
        writer.commit_batch()
        assert texts_of(store) == {"a": "old", "b": "kept", "c": "gone"}
        assert store.generation == 1
        assert writer.publish(roots=[]) == 2
        assert texts_of(store) == {"a": "new", "b": "kept"}
    assert store.generation == 2
    assert len(store.live_embeddings()) == 2
    assert store.verify() == []


def test_the_last_word_on_a_document_counts(store):
    publish_texts(store, {"a": "a0", "b": "b0"})
    with store.writer() as writer:
        stage_text(writer, "a", "a1")
        stage_text(writer, "a", "a2")
        stage_text(writer, "b", "b1")
        assert writer.remove(["b", "nobody"]) == 1
        writer.publish(roots=[])
    assert texts_of(store) == {"a": "a2"}
    with store.writer() as writer:
        writer.remove(["a"])
        stage_text(writer, "a", "a3")
        writer.publish(roots=[])
    assert texts_of(store) == {"a": "a3"}


def test_a_failed_run_leaves_the_old_state_and_its_embeddings(store):
    publish_texts(store, {"a": "old"})

    def fail():
        with store.writer() as writer:
            stage_text(writer, "a", "new")
            stage_text(writer, "b", "more")
            writer.put_blob("codec", b"basis")
            writer.commit_batch()
            stage_text(writer, "c", "not committed")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert texts_of(store) == {"a": "old"}
    with store.writer() as writer:
        keys = [embedding_key(ENCODER.spec, text) for text in ("new", "more", "not committed")]
        assert list(writer.known(keys)) == keys[:2]
        assert writer.blob("codec") == b"basis"
        writer.publish(roots=[])
        assert writer.known(keys) == {}, "nobody refers to them, so a publish drops them"
    assert texts_of(store) == {"a": "old"}


def test_a_failed_publish_can_be_repeated(store, monkeypatch):
    with store.writer() as writer:
        stage_text(writer, "a", "new")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_disk)
            with pytest.raises(RagError, match="cannot be written to: full; nothing was changed"):
                writer.publish(roots=["/docs"])
        assert (store.generation, texts_of(store)) == (0, {})
        writer.publish(roots=["/docs"])
    assert (store.generation, texts_of(store)) == (1, {"a": "new"})
    assert store.verify() == []


def test_embedding_ids_are_never_used_again(store):
    publish_texts(store, {"a": "one", "b": "two"})
    before = store.live_embeddings()
    store.delete(["a", "b"])
    assert store.live_embeddings().size == 0
    publish_texts(store, {"a": "three"})
    assert store.live_embeddings().min() > before.max()


def test_delete_counts_what_was_there_and_leaves_no_trace(store):
    secret = "the-launch-code-is-0000"
    publish_texts(store, {"a": secret, "b": "kept"})
    assert store.delete(["nobody"]) == 0
    assert store.generation == 1, "nothing changed, nothing is published"
    assert store.delete(["a", "nobody"]) == 1
    assert texts_of(store) == {"b": "kept"}
    for path in store.folder.iterdir():
        assert secret.encode() not in path.read_bytes()


def test_failures_are_replaced_for_the_roots_of_a_run(store):
    one, two, three = (Failure(f"/r{n}", "x.pdf", f"reason {n}", "advice") for n in (1, 2, 3))
    with store.writer() as writer:
        writer.fail([one, two])
        writer.publish(roots=["/r1", "/r2"])
    assert store.failures() == [one, two]
    with store.writer() as writer:
        writer.fail([three])
        writer.publish(roots=["/r2"])
    assert store.failures() == [one, three]
    assert store.roots() == ["/r1", "/r2"]


def test_a_snapshot_is_one_state(store):
    publish_texts(store, {"a": "old"})
    with store.snapshot():
        assert store.generation == 1
        with Store.open(store.folder) as other:
            publish_texts(other, {"a": "new"})
            assert other.generation == 2
        assert store.generation == 1
        assert texts_of(store) == {"a": "old"}
    assert texts_of(store) == {"a": "new"}


def test_readers_in_threads_never_see_half_a_state(store):
    """Each publish replaces two documents by two that say the same number."""
    publish_texts(store, {"a": "0", "b": "0"})
    wrong, done = [], threading.Event()

    def read():
        while not done.is_set():
            with store.snapshot():
                seen = {stored.chunk.text for stored in all_chunks(store)}
                if seen != {str(store.generation - 1)}:
                    wrong.append(seen)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    with Store.open(store.folder) as other:
        for n in range(1, 20):
            publish_texts(other, {"a": str(n), "b": str(n)})
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- what a writer refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, 63), np.float32), "shape"),
        (np.ones((2, 64), np.float32), "shape"),
        (np.ones((1, 64), np.float32), "length 1"),
        (np.full((1, 64), np.nan, np.float32), "finite"),
        (np.full((1, 64), 3e38, np.float32), "finite"),
        (np.zeros((1, 64), np.float32), "length 1"),
    ],
)
def test_vectors_are_checked(store, vectors, message):
    with store.writer() as writer, pytest.raises(ValueError, match=message):
        writer.add_embeddings([b"k" * 32], vectors)


@pytest.mark.parametrize(
    "codes", [[np.zeros((1, 2), np.float32)], [np.zeros(3, np.uint8)], [np.zeros((1, 0), np.uint8)], []]
)
def test_token_codes_are_checked(store, codes):
    with store.writer() as writer, pytest.raises(ValueError, match="token codes"):
        writer.add_embeddings([b"k" * 32], ENCODER.encode_passages(["x"]), codes)


def test_a_short_key_is_refused(store):
    with store.writer() as writer, pytest.raises(ValueError, match="32 bytes"):
        writer.add_embeddings([b"k"], ENCODER.encode_passages(["x"]))


@pytest.mark.parametrize(
    "metadata",
    [{"t": (1, 2)}, {1: "key"}, {"n": math.nan}, {"d": datetime(2026, 1, 1, tzinfo=UTC)}, {"b": b"x"}, {"s": {1}}],
)
def test_metadata_that_would_come_back_changed_is_refused(store, metadata):
    with store.writer() as writer, pytest.raises(ValueError, match="metadata must be JSON"):
        writer.stage(Document("d", "", "d", "", "", "x", metadata=metadata), [], [], [])


def test_metadata_nested_too_deep_is_refused(store):
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with store.writer() as writer, pytest.raises(ValueError, match="metadata must be JSON"):
        writer.stage(Document("d", "", "d", "", "", "x", metadata={"deep": deep}), [], [], [])


def test_a_chunk_that_is_not_a_slice_is_refused(store):
    document = Document("d", "", "d", "", "", "hello")
    chunk = Chunk("c", "d", 0, 1, 3, "el", 1)
    with store.writer() as writer:
        for wrong in (replace(chunk, start=0), replace(chunk, doc_id="e"), replace(chunk, end=9)):
            with pytest.raises(ValueError, match=r"is not document.text"):
                writer.stage(document, [wrong], [1], [1])
        with pytest.raises(ValueError, match="do not match"):
            writer.stage(document, [chunk], [], [1])
        with pytest.raises(RagError, match="FOREIGN KEY"):
            writer.stage(document, [chunk], [77], [1])


def test_the_manifest_comes_back(tmp_path):
    manifest = replace(manifest_of(ENCODER), created_at="2026-11-01T00:00:00Z", versions={"faiss": "1.15.1"})
    with Store.create(tmp_path / "new" / "index", manifest) as store:
        assert store.manifest == manifest


# ---- opening, locking ------------------------------------------------------------------------------------------------


def test_a_missing_index_names_the_command(tmp_path):
    with pytest.raises(IndexMissingError, match=r"run: rag ingest PATH --index '.*no index'"):
        Store.open(tmp_path / "no index")


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be looked at" * 50])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(IndexCorruptError):
        Store.open(tmp_path)


def test_another_database_or_version_is_refused(tmp_path):
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(IndexCorruptError, match="not an index of this program"):
        Store.open(tmp_path)
    new_store(tmp_path / "index").close()
    with closing(sqlite3.connect(tmp_path / "index" / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexMismatchError, match="format 99"):
        Store.open(tmp_path / "index")


def test_create_refuses_an_existing_index_and_foreign_leftovers(tmp_path):
    new_store(tmp_path).close()
    with pytest.raises(IndexMismatchError, match="already holds an index"):
        new_store(tmp_path)
    (tmp_path / DATABASE).unlink()
    (tmp_path / f"{DATABASE}-wal").write_bytes(b"the log of another database")
    with new_store(tmp_path) as store:
        assert store.verify() == []
    with pytest.raises(RagError, match="cannot be made"):
        new_store(tmp_path / DATABASE / "below a file")


def test_one_writer_at_a_time(store):
    with store.writer(), pytest.raises(IndexBusyError, match=f"process {os.getpid()} is writing"), store.writer():
        pass
    with store.writer(wait_seconds=5):
        assert (store.folder / LOCK).read_text() == f"{os.getpid()}\n"


def test_waiting_for_the_lock(store):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with store.writer():
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(10)
    threading.Timer(0.1, leave.set).start()
    with store.writer(wait_seconds=10):
        assert leave.is_set()
    holder.join()


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from doubles import stage_text
from retrieval.store import Store
with Store.open(Path(sys.argv[1])) as store, store.writer() as writer:
    stage_text(writer, "a", "half done")
    writer.commit_batch()
    stage_text(writer, "b", "not committed")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments), str(REPOSITORY), str(REPOSITORY / "tests")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_killed_writer_leaves_no_lock_and_no_document_but_its_embeddings(store):
    publish_texts(store, {"a": "old"})
    assert run_python(KILLED, store.folder).returncode == -signal.SIGKILL
    assert texts_of(store) == {"a": "old"}
    with store.writer() as writer:
        key = embedding_key(ENCODER.spec, "half done")
        assert list(writer.known([key])) == [key]
        with raw(store) as connection:
            assert connection.execute("SELECT count(*) FROM documents").fetchone() == (1,)
    assert store.verify() == []


READ_ONLY = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from retrieval.errors import RagError
from retrieval.store import Store
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
folder = Path(sys.argv[1])
with Store.open(folder) as store:
    print([store.document(row.doc_id).text for row in store.documents()], store.generation)
    try:
        store.delete(["a"])
    except RagError as error:
        print(error)
"""


def test_a_folder_that_cannot_be_written_to_can_be_read():
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())  # not below pytest's own folder, which other users cannot enter
    try:
        with new_store(folder / "index") as store:
            publish_texts(store, {"a": "old"})
        for path in (folder / "index").iterdir():
            if path.name != DATABASE:
                path.unlink()
        folder.chmod(0o755)
        (folder / "index").chmod(0o555)
        done = run_python(READ_ONLY, folder / "index")
        assert done.stdout.splitlines()[:1] == ["['old'] 1"], done.stderr
        assert "cannot be written to" in done.stdout
        (folder / "index").chmod(0o755)
        with Store.open(folder / "index") as store, store.writer():  # now another process keeps the log open
            (folder / "index").chmod(0o555)
            done = run_python(READ_ONLY, folder / "index")
            assert done.stdout.splitlines()[:1] == ["['old'] 1"], done.stderr
    finally:
        (folder / "index").chmod(0o755)
        shutil.rmtree(folder)


def test_an_immutable_reader_notices_a_changed_file(store, monkeypatch):
    publish_texts(store, {"a": "old"})
    monkeypatch.setattr(
        retrieval.store,
        "connect_for_reading",
        lambda folder: (retrieval.database._connect(f"{(folder / DATABASE).as_uri()}?mode=ro&immutable=1"), True),
    )
    with Store.open(store.folder) as reader:
        assert reader.generation == 1
        publish_texts(store, {"a": "new"})
        assert reader.generation == 2
        assert texts_of(reader) == {"a": "new"}


def test_a_folder_with_signs_that_mean_something_in_an_address(tmp_path):
    with new_store(tmp_path / "100% sure? #1 é") as store:
        publish_texts(store, {"a": "x"})
        assert store.verify() == []


def test_the_connection_of_a_store_cannot_write(store):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._connection.execute("DELETE FROM documents")


def test_importing_the_store_is_cheap():
    code = "import sys, retrieval.store; print({'faiss', 'langchain_core', 'torch', 'transformers'} & set(sys.modules))"
    assert run_python(code).stdout == "set()\n"


# ---- what changed, and what is looked at -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_journal_says_what_a_full_comparison_says(tmp_path, seed):
    """Random publishes, some interrupted; texts are few, so that documents share embeddings and take them over."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    with new_store(tmp_path) as store:
        states = [store.live_embeddings()]
        for _ in range(15):
            with store.writer() as writer:
                for _ in range(chance.randrange(4)):
                    cuts = [1] if chance.random() < 0.5 else []
                    stage_text(writer, f"d{chance.randrange(5)}", f"ab{chance.randrange(4)}", cuts=cuts)
                writer.remove([f"d{chance.randrange(5)}"] * chance.randrange(2))
                if chance.random() < 0.2:
                    writer.commit_batch()
                    continue
                writer.publish(roots=[], drop_unreferenced=chance.random() < 0.7)
            states.append(store.live_embeddings())
            for generation, before in enumerate(states):
                added, removed = store.changes_since(generation)
                assert added.tolist() == np.setdiff1d(states[-1], before).tolist()
                assert removed.tolist() == np.setdiff1d(before, states[-1]).tolist()
            with raw(store) as connection:
                known = {each for (each,) in connection.execute("SELECT id FROM embeddings")}
            assert known >= set(states[-1].tolist())
        with store.writer() as writer:
            writer.publish(roots=[])
        with raw(store) as connection:
            assert connection.execute("SELECT count(*) FROM embeddings").fetchone()[0] == len(store.live_embeddings())
        assert store.verify() == []


def test_a_journal_that_does_not_reach_back(store, monkeypatch):
    monkeypatch.setattr(retrieval.writer, "JOURNAL_BYTES", 3 * 4200)
    for n in range(6):
        publish_texts(store, {"a": f"text {n}"})
    assert store.changes_since(2) is None
    assert store.changes_since(-1) is None
    assert [each.tolist() for each in store.changes_since(3)] == [[6], [3]]
    assert [each.tolist() for each in store.changes_since(6)] == [[], []]


def test_a_killed_run_keeps_what_it_encoded_until_a_later_run_is_done(store):
    publish_texts(store, {"a": "old"})
    assert run_python(KILLED, store.folder).returncode == -signal.SIGKILL
    key = embedding_key(ENCODER.spec, "half done")
    with store.writer() as writer:
        stage_text(writer, "b", "another")
        writer.publish(roots=[], drop_unreferenced=False)
        assert list(writer.known([key])) == [key]
        writer.publish(roots=[])
        assert writer.known([key]) == {}
    assert store.verify() == []


SUMS = "SELECT * FROM document_sums", "SELECT * FROM embedding_sums"


def old_format(store, version):
    """What an index looked like before checksums (3), an index by place (2) and a journal (1)."""
    with raw(store) as connection:
        connection.executescript(
            "DROP TABLE document_sums; DROP TABLE embedding_sums; DELETE FROM manifest WHERE key LIKE 'sum of %';"
            "PRAGMA user_version = 3"
        )
        if version < 3:
            connection.executescript("DROP INDEX documents_places; PRAGMA user_version = 2")
        if version == 1:
            connection.executescript(
                "DROP TABLE changes; DELETE FROM manifest WHERE key = 'swept_embeddings';"
                "DELETE FROM artefacts WHERE kind = 'lexical'; PRAGMA user_version = 1"
            )


def test_an_index_of_format_1_can_be_read_and_the_first_writer_migrates_it(store):
    publish_texts(store, {"a": "one", "b": "two"})
    old_format(store, 1)
    with Store.open(store.folder) as reader:
        assert texts_of(reader) == {"a": "one", "b": "two"}
        assert reader.changes_since(0) is None
        assert reader.verify() == []
        publish_texts(reader, {"a": "three"})
        assert [len(each) for each in reader.changes_since(1)] == [1, 1]
        assert reader.changes_since(0) is None
        assert texts_of(reader) == {"a": "three", "b": "two"}
        assert reader.verify() == []


def test_an_index_of_format_2_can_be_read_and_the_first_writer_migrates_it(store):
    publish_texts(store, {"a": "one", "b": "two"})
    old_format(store, 2)
    with Store.open(store.folder) as reader:
        assert (texts_of(reader), reader.document_roots()) == ({"a": "one", "b": "two"}, ["/docs"])
        publish_texts(reader, {"a": "three"})
        assert [len(each) for each in reader.changes_since(1)] == [1, 1]
        assert list(reader.hashes("/docs", "a.txt")) == ["a.txt"]
        assert reader.verify() == []


def test_an_index_of_format_3_gets_checksums_with_the_first_writer(store):
    with store.writer() as writer:
        writer.put_blob("numbers", b"1234")
        (each,) = stage_text(writer, "a", "one")
        key = embedding_key(ENCODER.spec, "one")
        assert writer.add_embeddings([key], ENCODER.encode_passages(["one"]), [np.ones((1, 16), np.uint8)]) == [each]
        stage_text(writer, "b", "two")
        writer.publish(roots=["/docs"])
    with raw(store) as connection:
        before = [connection.execute(table).fetchall() for table in SUMS]
    old_format(store, 3)
    with Store.open(store.folder) as reader:
        assert (texts_of(reader), reader.verify()) == ({"a": "one", "b": "two"}, [])
        assert [one.chunk.text for one in reader.chunks_of("a")] == ["one"]
        assert reader.places_of_embeddings([each]) == {each: [(reader.chunks_of("a")[0].chunk.chunk_id, "a.txt")]}
        with reader.writer():
            pass
        with raw(store) as connection:
            assert [connection.execute(table).fetchall() for table in SUMS] == before
            connection.execute("UPDATE blobs SET data = x'00' WHERE name = 'numbers'")
        assert reader.verify() == ["the stored 'numbers' is not what was stored"]


def test_a_migration_does_not_bless_what_is_damaged(store):
    publish_texts(store, {"a": "one", "b": "two"})
    old_format(store, 3)
    with raw(store) as connection:
        connection.execute("UPDATE documents SET text = CAST('onf' AS BLOB) WHERE doc_id = CAST('a' AS BLOB)")
    with Store.open(store.folder) as reader:
        with reader.writer():
            pass
        assert any("'a.txt'" in problem for problem in reader.verify())
        with pytest.raises(IndexCorruptError):
            reader.document("a")
        assert reader.document("b").text == "two"


def test_a_document_is_found_by_its_place_without_a_look_at_the_others(store):
    with store.writer() as writer:
        for doc_id, root in (("a", "/r"), ("b", "/r"), ("c", "/"), ("d\udc80", "langchain")):
            stage_text(writer, doc_id, doc_id, root=root)
        writer.publish(roots=[])
        stage_text(writer, "e", "not yet", root="/staged")
        writer.commit_batch()
        assert store.document_roots() == ["/", "/r", "langchain"]
        assert store.hashes("/r", "b.txt") == {"b.txt": store.hashes("/r")["b.txt"]}
        assert store.hashes("/r", "c.txt") == store.hashes("/staged", "e.txt") == {}
        assert set(store.hashes("langchain", "d\udc80.txt")) == {"d\udc80.txt"}
    with Store.create(store.folder / "empty", manifest_of(ENCODER)) as empty:
        assert empty.document_roots() == []
    statements = []
    store._connection.set_trace_callback(statements.append)
    store.document_roots()
    store.hashes("/r", "b.txt")
    store._connection.set_trace_callback(None)
    plans = [row[3] for sql in statements for row in store._connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert [step for step in plans if "documents" in step and "documents_places" not in step] == []
    assert any("root=? AND source=?" in step for step in plans)


def test_a_small_publish_looks_at_no_whole_table(store):
    """Nor does opening a writer: every statement of both goes through an index, or through a table of few rows."""
    publish_texts(store, {f"d{n}": f"word{n}" for n in range(30)})
    statements = []
    with Store.open(store.folder) as other, other.writer() as writer:
        writer._connection.set_trace_callback(statements.append)
        writer.discard()
        stage_text(writer, "d1", "changed")
        writer.remove(["d2"])
        writer.publish(roots=["/docs"])
        writer._connection.set_trace_callback(None)
        for sql in {each for each in statements if each.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE"))}:
            for *_, step in writer._connection.execute(f"EXPLAIN QUERY PLAN {sql}"):
                whole = step.startswith(("SCAN documents", "SCAN chunks", "SCAN embeddings", "SCAN token_codes"))
                assert not whole or "documents_staged" in step, (sql, step)


def test_facts_of_documents_and_their_embeddings(store):
    text = "p1 p2 p3"
    document = Document("d\udc80", "/r", "a/b.pdf", "application/pdf", "T", text, metadata={"year": [2026]})
    chunks = [Chunk(f"c{n}", "d\udc80", n, 3 * n, 3 * n + 2, f"p{n + 1}", 1, page=n + 1) for n in range(3)]
    with store.writer() as writer:
        keys = [embedding_key(ENCODER.spec, chunk.text) for chunk in chunks]
        ids = writer.add_embeddings(keys, ENCODER.encode_passages([chunk.text for chunk in chunks]))
        writer.stage(document, chunks, ids, [1, 1, 1])
        stage_text(writer, "e", "p1")
        writer.publish(roots=[])
        stage_text(writer, "staged", "not yet")
        writer.commit_batch()
        first, second = store.document_facts()
        assert first == DocumentFacts(first.row, "d\udc80", "/r", "a/b.pdf", "application/pdf", "T", {"year": [2026]})
        assert (second.doc_id, second.metadata) == ("e", {})
        assert store.embeddings_of_documents([first.row]).tolist() == sorted(ids)
        assert store.embeddings_of_documents([second.row, first.row, first.row, 99]).tolist() == sorted(ids)
        assert store.embeddings_of_documents([first.row, second.row], pages=(2, 3)).tolist() == sorted(ids[1:])
        assert store.embeddings_of_documents([second.row + 1]).size == 0, "a staged document is not there"
        assert store.embeddings_of_documents([]).dtype == np.int64


def test_neighbours(store):
    with store.writer() as writer:
        stage_text(writer, "d", "abcdef", cuts=[1, 2, 5])
        stage_text(writer, "e", "alone")
        writer.publish(roots=[])
    with raw(store) as connection:  # a blank chunk has a number and no row
        connection.execute("DELETE FROM chunks WHERE ordinal = 2")
    found = store.neighbours(["d#0", "d#1", "d#3", "e#0", "none"])
    texts = {each: [side and side.chunk.text for side in sides] for each, sides in found.items()}
    assert texts == {"d#0": [None, "b"], "d#1": ["a", "f"], "d#3": ["b", None], "e#0": [None, None]}


def test_chunk_texts_are_what_the_encoder_read(store):
    document = Document("d", "/r", "d", "", "", "\ud800é x")
    with store.writer() as writer:
        ids = writer.add_embeddings([b"1" * 32, b"2" * 32], ENCODER.encode_passages(["a", "b"]))
        chunks = [Chunk("1", "d", 0, 0, 2, "\ud800é", 1, context="T\udfff"), Chunk("2", "d", 1, 3, 4, "x", 1)]
        writer.stage(document, chunks, ids, [1, 1])
        stage_text(writer, "e", "alone")
        writer.publish(roots=[])
    live = store.live_embeddings()
    assert {one.embedding: one.encoded for one in store.passages(rows=1)} == dict(
        zip(live.tolist(), ["T\udfff\n\ud800é", "x", "alone"], strict=True)
    )
    assert [(one.embedding, one.encoded) for one in store.passages(np.array([ids[1], 999]))] == [(ids[1], "x")]


# ---- verify ----------------------------------------------------------------------------------------------------------


MOVED = """
INSERT INTO embeddings SELECT 9, zeroblob(32), vector FROM embeddings WHERE id = 1;
UPDATE chunks SET embedding = 9 WHERE embedding = 1
"""


def test_a_damaged_text_is_never_handed_out(store):
    publish_texts(store, {"a": "hello", "b": "other"})
    with raw(store) as connection:
        connection.execute("UPDATE documents SET text = CAST('hallo' AS BLOB) WHERE doc_id = CAST('a' AS BLOB)")
    with pytest.raises(IndexCorruptError, match=r"the stored text of 'a.txt' is damaged; run: rag index repair"):
        store.document("a")
    assert store.document("b").text == "other"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE embeddings SET vector = zeroblob(256) WHERE id = 1", "embedding 1 is not of length 1"),
        ("UPDATE embeddings SET vector = zeroblob(8) WHERE id = 1", "has not 64 dimensions"),
        ("DELETE FROM embeddings WHERE id = 1", "embedding 1 is used by a chunk and is missing"),
        ("UPDATE documents SET text = x'78' WHERE doc_id = x'61'", "has 1 characters, not the recorded"),
        ("UPDATE documents SET text = x'ff' WHERE doc_id = x'61'", "decode"),
        ("UPDATE documents SET metadata = x'7b'", "the text of document 'a.txt' is not the one that was stored"),
        ("UPDATE documents SET text = x'68c3a96c6c71' WHERE doc_id = x'61'", "not what its embedding was made from"),
        ("UPDATE chunks SET line = 7 WHERE embedding = 1", "list of chunks of document 'a.txt' is not the one"),
        (
            "UPDATE embeddings SET vector = (SELECT vector FROM embeddings WHERE id = 2)",
            "vector of embedding 1 is not",
        ),
        ("UPDATE embeddings SET key = zeroblob(32) WHERE id = 1", "is not what its embedding was made from"),
        ("UPDATE chunks SET end_byte = end_byte - 1 WHERE embedding = 1", "is not the text [0:5] of its document"),
        ("UPDATE chunks SET start_char = -1 WHERE embedding = 1", "is not the text [-1:5] of its document"),
        ("DELETE FROM chunks WHERE embedding = 1", "has 0 chunks, not the recorded 1"),
        ("INSERT INTO token_codes VALUES (1, 16, x'00')", "are not rows of 16 bytes"),
        ("UPDATE artefacts SET ids = zeroblob(16)", "other embeddings than recorded"),
        ("UPDATE artefacts SET sha256 = 'x'", "does not have the recorded checksum"),
        ("UPDATE artefacts SET bytes = 1", "bytes, expected 1"),
        ("UPDATE artefacts SET file = '../nothing.faiss'", "cannot be read"),
        (MOVED, "other embeddings than the store"),
    ],
)
def test_verify_finds_damage(store, damage, problem):
    publish_texts(store, {"a": "h\u00e9llo", "b": "other"})
    assert store.verify() == []
    with raw(store) as connection:
        connection.executescript(damage)
    assert any(problem in line for line in store.verify()), store.verify()


def test_a_damaged_page_is_an_error_of_ours(store):
    publish_texts(store, {f"d{n}": f"text {n} " * 200 for n in range(50)})
    store.close()
    path = store.folder / DATABASE
    data = bytearray(path.read_bytes())
    for page in range(16384 * 2, len(data) - 16384, 16384):
        data[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with Store.open(store.folder) as damaged:
        assert damaged.verify()
        with pytest.raises(IndexCorruptError, match="damaged"):
            texts_of(damaged)

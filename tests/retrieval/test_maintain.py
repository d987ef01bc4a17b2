"""Another version takes the place of the live one: whole, atomic, undone on request; what is dropped is gone."""

from __future__ import annotations

import io
import json
import random
import stat
import tarfile

import numpy as np
import pytest
from doubles import (
    HashEncoder,
    manifest_of,
    new_store,
    open_retriever,
    publish_texts,
    stage_text,
)

from retrieval.analyze import Analyzer
from retrieval.dense import open_dense
from retrieval.errors import IndexBusyError, IndexCorruptError, IndexMissingError, RagError
from retrieval.maintain import backup, beside, compact, restore, restore_previous
from retrieval.store import DATABASE, Store
from retrieval.versions import POINTER, draft_of, drop, switch, versions

ENCODER = HashEncoder()
ANALYZER = Analyzer()
NOW = "2026-11-21T00:00:00+00:00"


def texts_of(store):
    return {row.doc_id: store.document(row.doc_id).text for row in store.documents()}


def hit_ids(found):
    return [hit.doc_id for hit in found.hits]


def bytes_of(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "index", ENCODER) as store:
        publish_texts(store, {"a": "red cats sleep", "b": "green dogs bark"})
        yield store


def replace_beside(store, texts):
    with beside(store, store.manifest, wait_seconds=0.0) as draft:
        with draft.writer(locked=True, analyzer=ANALYZER) as writer:
            for doc_id, text in texts.items():
                stage_text(writer, doc_id, text)
            writer.publish(roots=["/docs"], after=store.generation)
        switch(store.home, draft.folder, previous=store.folder)


# ---- beside ----------------------------------------------------------------------------------------------------------


def test_a_draft_is_read_by_nobody_until_it_is_named(store):
    before = texts_of(store)
    with beside(store, store.manifest, wait_seconds=0.0) as draft:
        with draft.writer(locked=True) as writer:
            stage_text(writer, "c", "blue fish swim")
            writer.publish(roots=[])
        assert texts_of(draft) == {"c": "blue fish swim"}
        assert texts_of(store) == before
        with Store.open(store.home) as other:
            assert texts_of(other) == before
        with pytest.raises(IndexBusyError), store.writer():
            pass
    assert texts_of(store) == before


def test_readers_follow_to_the_version_that_took_the_place(store):
    retriever = open_retriever(store, ENCODER)
    dense = open_dense(store)
    assert hit_ids(retriever.search("cats", k=1)) == ["a"]
    generation = store.generation
    replace_beside(store, {"c": "blue fish swim", "d": "red birds sing"})  # other texts, the same embedding ids
    assert store.generation > generation
    assert hit_ids(retriever.search("fish swim", k=1)) == ["c"]
    assert hit_ids(retriever.search("birds", k=1)) == ["d"]
    assert dense.generation == generation
    assert store.verify() == []


def test_the_earlier_version_can_be_had_back_and_given_up_again(store):
    old, generation = texts_of(store), store.generation
    new = {"c": "blue fish swim"}
    replace_beside(store, new)
    for wanted in (old, new, old):
        restore_previous(store.home, ANALYZER, wait_seconds=0.0)
        assert texts_of(store) == wanted
        assert store.generation > generation
        generation = store.generation
        assert store.verify() == []
    publish_texts(store, {"e": "written after"})
    assert texts_of(store) == {**old, "e": "written after"}


def test_only_the_live_version_and_the_one_before_are_kept(store):
    for n in range(4):
        replace_beside(store, {"c": f"number {n}"})
        folders = sorted(
            path.name for path in store.home.iterdir() if path.is_dir() and path.name.startswith("version")
        )
        assert folders == sorted(
            path.name for path in (versions(store.home).live, versions(store.home).previous) if path != store.home
        )
    assert not (store.home / DATABASE).exists()
    assert texts_of(store) == {"c": "number 3"}


def test_without_an_earlier_version_there_is_nothing_to_have_back(store, tmp_path):
    with pytest.raises(RagError, match="no earlier version of this index; name a file that rag index backup wrote"):
        restore_previous(store.home, ANALYZER, wait_seconds=0.0)
    with pytest.raises(IndexMissingError):
        restore_previous(tmp_path / "none", ANALYZER, wait_seconds=0.0)


def test_a_draft_of_a_killed_run_goes_on_and_one_made_otherwise_does_not(store):
    with beside(store, store.manifest, wait_seconds=0.0) as draft, draft.writer(locked=True) as writer:
        stage_text(writer, "c", "blue fish swim")
        writer.commit_batch()
    with beside(store, store.manifest, wait_seconds=0.0) as draft, draft.writer(locked=True) as writer:
        (key,) = writer._connection.execute("SELECT key FROM embeddings").fetchone()
        assert list(writer.known([key])) == [key]
    other = manifest_of(HashEncoder(dimension=32, name="smaller"))
    with beside(store, other, wait_seconds=0.0) as draft, draft.writer(locked=True) as writer:
        assert draft.manifest == other
        assert writer.known([key]) == {}


@pytest.mark.parametrize(
    "pointer",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"live": "../x", "previous": null}',
        b'{"live": ["a"], "previous": 1}',
        b"[" * 900,
        b'{"live": "version-000009/..", "previous": null}',
    ],
)
def test_a_pointer_that_is_not_ours_is_named(store, pointer):
    (store.home / POINTER).write_bytes(pointer)
    with pytest.raises(IndexCorruptError, match=POINTER):
        Store.open(store.home)


def test_a_pointer_leads_through_no_link(store, tmp_path):
    (store.home / "version-000002").symlink_to(tmp_path)
    (store.home / POINTER).write_text(json.dumps({"live": "version-000002", "previous": None}))
    with pytest.raises(IndexCorruptError, match="no version of this index"):
        Store.open(store.home)


def test_whoever_may_read_the_index_may_read_every_version_of_it(store):
    store.home.chmod(0o755)
    replace_beside(store, {"c": "blue fish swim"})
    assert stat.S_IMODE(versions(store.home).live.stat().st_mode) == 0o755


def test_a_draft_that_was_published_is_not_gone_on_with(store):
    """It may hold what was deleted from the live index since."""
    with beside(store, store.manifest, wait_seconds=0.0) as draft, draft.writer(locked=True) as writer:
        stage_text(writer, "c", "blue fish swim")
        writer.publish(roots=[])
    with beside(store, store.manifest, wait_seconds=0.0) as draft:
        assert texts_of(draft) == {}


def test_where_the_live_version_is_gone_the_earlier_one_is_kept_and_can_be_had_back(store):
    old = texts_of(store)
    replace_beside(store, {"c": "blue fish swim"})
    live = versions(store.home).live
    store.close()
    for path in live.iterdir():
        drop(path)
    with pytest.raises(IndexCorruptError, match=r"the live version of the index .* is gone; run: rag index restore"):
        Store.ensure(store.home, manifest_of(ENCODER), wait_seconds=0.0)
    restore_previous(store.home, ANALYZER, wait_seconds=0.0)
    with Store.open(store.home) as again:
        assert texts_of(again) == old
        assert again.verify() == []


def test_a_store_survives_a_look_at_a_bad_moment(store):
    pointer = store.home / POINTER
    pointer.write_text("half")
    with pytest.raises(IndexCorruptError):
        store.documents()
    pointer.unlink()
    assert set(texts_of(store)) == {"a", "b"}


# ---- compact ---------------------------------------------------------------------------------------------------------


def test_after_compact_no_byte_of_what_was_deleted_is_left_in_the_folder(store):
    secret = "the unmistakable zanzibar manuscript"
    publish_texts(store, {"s": secret, "c": "blue fish swim"})
    replace_beside(store, {**texts_of(store), "d": "yet another"})  # keeps a previous version that holds it, too
    assert secret.encode() in bytes_of(store.home)
    store.delete(["s"])
    assert secret.encode() in bytes_of(store.home)
    left, vectors = texts_of(store), {each: row.tobytes() for each, row in zip(*store.vectors(), strict=True)}
    compact(store, ANALYZER, wait_seconds=0.0)
    assert b"zanzibar" not in bytes_of(store.home)
    assert texts_of(store) == left
    assert {each: row.tobytes() for each, row in zip(*store.vectors(), strict=True)} == vectors
    assert store.verify() == []
    assert hit_ids(open_retriever(store, ENCODER).search("fish", k=1)) == ["c"]
    assert versions(store.home).previous is None


def test_after_compact_readers_and_a_writer_go_on_side_by_side(store):
    compact(store, ANALYZER, wait_seconds=0.0)
    with Store.open(store.home) as reader, reader.snapshot():
        assert set(texts_of(reader)) == {"a", "b"}
        publish_texts(store, {"c": "blue fish swim"})
        assert set(texts_of(reader)) == {"a", "b"}
    assert set(texts_of(store)) == {"a", "b", "c"}


def test_compact_drops_what_killed_runs_have_left(store):
    with store.writer() as writer:
        stage_text(writer, "x", "encoded and never published")
        writer.commit_batch()
    with beside(store, store.manifest, wait_seconds=0.0):
        pass
    compact(store, ANALYZER, wait_seconds=0.0)
    with store.writer() as writer:
        assert writer._connection.execute("SELECT count(*) FROM embeddings").fetchone()[0] == 2
    assert not draft_of(store.home).exists()


def test_a_damaged_index_is_not_compacted(store):
    with store.writer() as writer:
        writer._connection.execute("UPDATE documents SET text = CAST('x' AS BLOB) WHERE doc_id = CAST('a' AS BLOB)")
        writer._connection.commit()
    folder = store.folder
    with pytest.raises(IndexCorruptError, match=r"nothing was changed, for the index is damaged.*rag index repair"):
        compact(store, ANALYZER, wait_seconds=0.0)
    assert versions(store.home).live == folder
    assert not draft_of(store.home).exists()


# ---- backup and restore ----------------------------------------------------------------------------------------------


def test_a_backup_comes_back_as_it_was(store, tmp_path):
    facts = backup(store, tmp_path / "b.rag", created_at=NOW)
    assert (facts.documents, facts.chunks, facts.created_at) == (2, 2, NOW)
    was, vectors = texts_of(store), store.vectors()
    store.delete(["a"])
    publish_texts(store, {"c": "blue fish swim"})
    assert restore(store.home, tmp_path / "b.rag", ANALYZER, wait_seconds=0.0) == facts
    assert texts_of(store) == was
    assert all(np.array_equal(*each) for each in zip(store.vectors(), vectors, strict=True))
    assert store.verify() == []
    assert hit_ids(open_retriever(store, ENCODER).search("cats", k=1)) == ["a"]
    restore_previous(store.home, ANALYZER, wait_seconds=0.0)
    assert set(texts_of(store)) == {"b", "c"}


def test_a_backup_makes_an_index_where_there_was_none(store, tmp_path):
    backup(store, tmp_path / "b.rag", created_at=NOW)
    restore(tmp_path / "new" / "place", tmp_path / "b.rag", ANALYZER, wait_seconds=0.0)
    with Store.open(tmp_path / "new" / "place") as other:
        assert texts_of(other) == texts_of(store)
        assert other.verify() == []
        publish_texts(other, {"c": "blue fish swim"})
        assert set(texts_of(other)) == {"a", "b", "c"}


def test_a_backup_is_never_written_over_unasked(store, tmp_path):
    backup(store, tmp_path / "b.rag", created_at=NOW)
    with pytest.raises(RagError, match="is there already; choose another name, or replace it with --force"):
        backup(store, tmp_path / "b.rag", created_at=NOW)
    backup(store, tmp_path / "b.rag", created_at=NOW, replace=True)
    with pytest.raises(RagError, match="cannot be used as a backup: No such file"):
        backup(store, tmp_path / "none" / "b.rag", created_at=NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.rag", "index"]


def test_a_damaged_backup_changes_nothing(store, tmp_path):
    path = tmp_path / "b.rag"
    backup(store, path, created_at=NOW)
    good, rng = path.read_bytes(), random.Random(5)  # noqa: S311
    before = texts_of(store)
    flips = [rng.randrange(len(good)) for _ in range(20)]
    broken = [good[:cut] for cut in (0, 1, 511, 600, 2000, len(good) // 2)]
    broken += [good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :] for at in flips]
    refused = 0
    for data in broken:
        path.write_bytes(data)
        folder = sorted(store.home.iterdir())
        try:
            restore(store.home, path, ANALYZER, wait_seconds=0.0)
        except RagError:
            refused += 1
            assert sorted(store.home.iterdir()) == folder
        assert texts_of(store) == before  # a flip in the padding of the archive does no harm
    assert refused >= 20


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "index.sqlite/../../evil"])
def test_names_in_a_backup_lead_nowhere(store, tmp_path, name):
    path = tmp_path / "evil.rag"
    with tarfile.open(path, "w") as archive:
        for member, data in (("backup.json", b'{"format": 1}'), (name, b"x")):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(IndexCorruptError, match="is not a backup that rag index backup wrote"):
        restore(store.home, path, ANALYZER, wait_seconds=0.0)
    assert not list(tmp_path.rglob("evil"))

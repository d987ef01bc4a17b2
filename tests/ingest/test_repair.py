"""A damaged index is mended from what is sound in it: nothing wrong is kept, nothing sound is lost or encoded again."""

from __future__ import annotations

import random
import sqlite3
import zipfile
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from doubles import HashEncoder, open_retriever

from ingest.build import ingest
from ingest.indexer import Settings
from ingest.repair import repair
from retrieval.analyze import Analyzer
from retrieval.errors import IndexMismatchError, RagError
from retrieval.maintain import beside, restore_previous
from retrieval.records import ChunkingSpec
from retrieval.store import DATABASE, Store

ENCODER = HashEncoder()
ANALYZER = Analyzer()
SETTINGS = Settings(
    ENCODER.spec, ChunkingSpec(max_tokens=40), max_file_bytes=1_000_000, created_at="2026-11-21", versions={}
)
WORDS = ["amber", "basalt", "cobalt", "dolomite", "emerald", "feldspar", "garnet", "hematite", "indigo", "jasper"]


class CountingEncoder(HashEncoder):
    """Counts the texts that it encodes."""

    encoded = 0

    def encode(self, texts, *, query=False):
        for one in super().encode(texts, query=query):
            self.encoded += 1
            yield one


@pytest.fixture
def folder(tmp_path):
    chance = random.Random(3)  # noqa: S311 - reproducible
    (tmp_path / "docs").mkdir()
    for number in range(8):
        text = "\n\n".join(" ".join(chance.choices(WORDS, k=30)) + f" n{number}p{part}" for part in range(3))
        (tmp_path / "docs" / f"f{number}.txt").write_text(text)
    (tmp_path / "docs" / "empty.txt").touch()
    ingest_all(tmp_path)
    return tmp_path / "index"


def ingest_all(place, encoder=ENCODER):
    return ingest(
        [place / "docs"],
        folder=place / "index",
        settings=SETTINGS,
        make_encoder=lambda: encoder,
        analyzer=ANALYZER,
        report=lambda _: None,
    )


def mend(folder, encoder=ENCODER):
    return repair(folder, settings=SETTINGS, make_encoder=lambda: encoder, analyzer=ANALYZER)


def contents(folder):
    """Everything that repair must bring back: documents, chunks, vectors, failures, roots, and an answer."""
    with Store.open(folder) as store:
        documents = [store.document(row.doc_id) for row in store.documents()]
        ids, vectors = store.vectors()
        chunks = {
            one.chunk: (one.line, vectors[list(ids).index(each)].tobytes())
            for each, places in store.chunks_of_embeddings(ids).items()
            for one in places
        }
        found = open_retriever(store, ENCODER, analyzer=ANALYZER).search("garnet jasper n3p1", k=3).hits
        return documents, chunks, store.failures(), store.roots(), [(hit.chunk_id, hit.score) for hit in found]


def damage(folder, *statements):
    with Store.open(folder) as store, closing(sqlite3.connect(store.folder / DATABASE)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_sound_index_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if f"{DATABASE}-" not in path.name}
    found = mend(folder)
    assert (found.problems, found.rewritten, found.kept, found.lost) == ((), False, 0, ())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(folder.glob("version-*"))


def test_damaged_search_files_are_written_anew(folder):
    before = contents(folder)
    (dense,) = folder.glob("dense-*.faiss")
    dense.write_bytes(dense.read_bytes()[:-9])
    for path in next(folder.glob("lexical-*")).iterdir():
        path.unlink()
    found = mend(folder)
    assert found.rewritten
    assert len(found.problems) == 2
    with Store.open(folder) as store:
        assert store.verify() == []
    assert contents(folder) == before


def test_vectors_that_are_damaged_are_encoded_again_and_no_others(folder):
    before = contents(folder)
    damage(
        folder,
        "UPDATE embeddings SET vector = (SELECT vector FROM embeddings WHERE id = 2) WHERE id = 1",
        "UPDATE token_codes SET codes = zeroblob(length(codes)) WHERE embedding = 3",
        "DELETE FROM token_codes WHERE embedding = 4",
    )
    encoder = CountingEncoder()
    found = mend(folder, encoder)
    assert (found.kept, found.embedded, encoder.encoded, found.lost) == (8, 3, 3, ())
    assert contents(folder) == before
    with Store.open(folder) as store:
        assert store.verify() == []


def test_a_document_that_is_damaged_is_named_and_the_next_ingest_reads_it_again(folder):
    before = contents(folder)
    damage(folder, "UPDATE documents SET text = CAST(replace(CAST(text AS TEXT), 'n3p1', 'n3p9') AS BLOB)")
    found = mend(folder)
    root = str(folder.parent / "docs")
    assert (found.kept, found.lost) == (7, ((root, "f3.txt"),))
    assert any("f3.txt" in problem for problem in found.problems)
    with Store.open(folder) as store:
        assert store.verify() == []
        assert store.roots() == [root]
    encoder = CountingEncoder()
    report = ingest_all(folder.parent, encoder)
    assert report.added == ("f3.txt",)
    assert report.unchanged == 7
    assert contents(folder) == before


def test_a_lost_member_of_an_archive_is_read_again(folder):
    with zipfile.ZipFile(folder.parent / "docs" / "box.zip", "w") as box:
        for name in ("one", "two"):
            box.writestr(f"{name}.txt", f"{name} amber basalt in a box")
    ingest_all(folder.parent)
    before = contents(folder)
    damage(folder, "UPDATE documents SET text = CAST('x' AS BLOB) WHERE source = CAST('box.zip/one.txt' AS BLOB)")
    assert [source for _, source in mend(folder).lost] == ["box.zip/one.txt"]
    ingest_all(folder.parent)
    assert contents(folder)[:4] == before[:4]


@pytest.mark.usefixtures("folder")
def test_a_file_that_was_named_alone_is_to_be_named_again(tmp_path):
    other = tmp_path / "other"
    ingest(
        [tmp_path / "docs" / "f1.txt"],
        folder=other,
        settings=SETTINGS,
        make_encoder=lambda: ENCODER,
        analyzer=ANALYZER,
        report=lambda _: None,
    )
    damage(other, "UPDATE documents SET text = CAST('x' AS BLOB)")
    found = mend(other)
    assert found.again == (str(tmp_path / "docs" / "f1.txt"),)
    with Store.open(other) as store:
        assert store.roots() == []


def test_another_encoder_than_the_index_has_is_refused(folder):
    damage(folder, "DELETE FROM token_codes WHERE embedding = 1")
    other = HashEncoder(name="another")
    with pytest.raises(IndexMismatchError):
        repair(folder, settings=replace(SETTINGS, encoder=other.spec), make_encoder=lambda: other, analyzer=ANALYZER)
    assert mend(folder).kept == 8


def test_what_a_killed_rebuild_has_left_does_not_get_into_a_repair(folder):
    with Store.open(folder) as store:
        before = {each: codes.tobytes() for each, codes in store.token_codes(store.live_embeddings()).items()}
        with beside(store, store.manifest, wait_seconds=0.0) as draft, draft.writer(locked=True) as writer:
            (key,) = store.rows("SELECT key FROM embeddings WHERE id = 1")[0]
            writer.add_embeddings([key], store.vectors(np.array([1]))[1], [np.zeros((3, 16), np.uint8)])
            writer.commit_batch()
    damage(folder, "UPDATE blobs SET data = zeroblob(9) WHERE name = 'statistics'")
    assert mend(folder).kept == 8
    with Store.open(folder) as store:
        assert sorted(codes.tobytes() for codes in store.token_codes(store.live_embeddings()).values()) == sorted(
            before.values()
        )


def test_the_damaged_version_can_be_had_back(folder):
    damage(folder, "DELETE FROM chunks WHERE embedding = 1")
    damaged = contents(folder)
    mend(folder)
    assert contents(folder) != damaged
    restore_previous(folder, ANALYZER, wait_seconds=0.0)
    assert contents(folder)[1] == damaged[1]


def test_a_lost_codec_makes_every_code_anew(folder):
    before = contents(folder)
    damage(folder, "UPDATE blobs SET data = zeroblob(length(data)) WHERE name NOT IN ('evidence', 'statistics')")
    found = mend(folder)
    assert (found.kept, found.embedded) == (8, len(before[1]))
    with Store.open(folder) as store:
        assert store.verify() == []
    assert contents(folder)[:2] == before[:2]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_pages_are_overwritten_what_is_left_is_true(folder, seed):
    """Repair ends with a sound index of documents that are as they were, or refuses."""
    before = {document.source: document for document in contents(folder)[0]}
    with Store.open(folder) as store, store.writer() as writer:
        writer.publish(roots=())  # moves the log into the file
    path, chance = folder / DATABASE, random.Random(seed)  # noqa: S311 - reproducible
    for log in folder.glob(f"{DATABASE}-*"):
        log.unlink()
    data = bytearray(path.read_bytes())
    for _ in range(1 + seed % 3):
        page = chance.randrange(1, len(data) // 16384) * 16384
        data[page : page + 16384] = chance.randbytes(16384)
    path.write_bytes(data)
    try:
        found = mend(folder)
    except RagError:  # not even the manifest can be read
        return
    with Store.open(folder) as store:
        assert store.verify() == []
        kept = {
            document.source: document for document in map(store.document, (row.doc_id for row in store.documents()))
        }
        assert all(kept[source] == before[source] for source in kept)
        assert len(kept) == found.kept
    ingest_all(folder.parent)
    again = contents(folder)[0]
    assert [replace(document, content_hash="") for document in again] == [
        replace(document, content_hash="") for document in before.values()
    ]

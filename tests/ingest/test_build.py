"""The ingest loop: what it encodes, keeps, replaces, removes and reports, run after run, stopped and killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from doubles import HashEncoder, open_retriever

from ingest.build import forget_documents, ingest, ingest_documents
from ingest.files import document_id
from ingest.indexer import Settings
from ingest.isolate import Limits
from ingest.records import IngestReport, Progress
from retrieval.analyze import Analyzer, UserDictionary
from retrieval.encoder import Encoded
from retrieval.errors import IndexMismatchError
from retrieval.evidence import CALIBRATED, Evidence
from retrieval.filters import document_date
from retrieval.interaction import SignCodec
from retrieval.langchain import RagVectorStore
from retrieval.lexical import open_lexical
from retrieval.records import ChunkingSpec, Document
from retrieval.retriever import EVIDENCE_BLOB, STATISTICS_BLOB, codec_blob
from retrieval.statistics import Statistics
from retrieval.store import DATABASE, Store

CHUNKING = ChunkingSpec(max_tokens=40, overlap=0.1)
ENGLISH = ("the", "cat", "sat", "mat", "while", "rain", "fell", "over", "seven", "quiet", "hills", "nobody", "winter")


class CountingEncoder(HashEncoder):
    """Remembers every text it was given; may raise after some."""

    def __init__(self, *, fail_after: int | None = None, **options: object) -> None:
        super().__init__(**options)
        self.texts: list[str] = []
        self.fail_after = fail_after

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        for text in texts:
            if self.fail_after is not None and len(self.texts) >= self.fail_after:
                raise RuntimeError("the power went out")
            self.texts.append(text)
            yield from super().encode([text], query=query)


@dataclass
class Bench:
    """A folder of documents and an index beside it."""

    docs: Path
    index: Path
    encoder: CountingEncoder = field(default_factory=CountingEncoder)
    chunking: ChunkingSpec = CHUNKING
    max_file_bytes: int = 1_000_000
    parsing: Limits = field(default_factory=Limits)
    loads: int = 0
    progress: list[Progress] = field(default_factory=list)

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.docs / f"{name}.txt").write_text(text, encoding="utf-8", newline="")

    def settings(self) -> Settings:
        created_at = "2026-01-01T00:00:00+00:00"
        return Settings(
            self.encoder.spec, self.chunking, self.max_file_bytes, created_at, versions={}, parsing=self.parsing
        )

    def run(self, *paths: Path, stop: Callable[[], bool] = lambda: False, **options: Any) -> IngestReport:
        def make() -> CountingEncoder:
            self.loads += 1
            return self.encoder

        self.encoder.texts.clear()
        self.loads = 0
        self.progress.clear()
        return ingest(
            list(paths) or [self.docs],
            folder=self.index,
            settings=self.settings(),
            make_encoder=make,
            report=self.progress.append,
            stop=stop,
            **options,
        )

    def sources(self) -> list[str]:
        with Store.open(self.index) as store:
            return [row.source for row in store.documents()]

    def chunk_ids(self) -> dict[str, list[str]]:
        """Source -> ids of its chunks, in order."""
        with Store.open(self.index) as store:
            found: dict[str, list[str]] = {}
            for chunks in store.chunks_of_embeddings(store.live_embeddings()).values():
                for one in chunks:
                    found.setdefault(one.source, []).append(one.chunk.chunk_id)
        return {source: sorted(ids) for source, ids in sorted(found.items())}

    def text(self, source: str) -> str | None:
        with Store.open(self.index) as store:
            document = store.document(document_id(str(self.docs), source))
            return document.text if document else None

    def generation(self) -> int:
        with Store.open(self.index) as store:
            return store.generation

    def statistics(self) -> bytes | None:
        with Store.open(self.index) as store:
            return store.blob(STATISTICS_BLOB)

    def problems(self) -> list[str]:
        with Store.open(self.index) as store:
            return store.verify()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    docs = tmp_path / "docs"
    docs.mkdir()
    return Bench(docs.resolve(), tmp_path / "index")


@pytest.fixture(autouse=True)
def no_common_text(monkeypatch) -> None:
    """Encoder calls are counted here, so that none should be for texts of others."""
    monkeypatch.setattr("ingest.indexer._ENOUGH_TOKENS", 0)


def prose(seed: int, words: int = 60) -> str:
    """Text of a few chunks, different for every seed."""
    chance = random.Random(seed)  # noqa: S311 - the same text every time
    return " ".join(f"{chance.choice(ENGLISH)}{'.' if n % 9 == 8 else ''}" for n in range(words)) + f" number{seed}."


def after(calls: int) -> Callable[[], bool]:
    """A stop that says yes from its n-th question on."""
    asked = iter(range(10**9))
    return lambda: next(asked) >= calls


# ---- the ordinary life of an index -----------------------------------------------------------------------------------


def test_the_first_ingest_stores_everything(bench):
    bench.write(a=prose(1), b=prose(2))
    report = bench.run()
    assert (report.added, report.changed, report.unchanged, report.failures) == (("a.txt", "b.txt"), (), 0, ())
    assert report.chunks == report.embedded == len(bench.encoder.texts) > 2
    assert report.duplicates == 0
    assert report.tokens > 120
    assert not report.interrupted
    assert bench.text("a.txt") == prose(1)
    assert bench.problems() == []
    assert bench.generation() == 1


def test_an_unchanged_folder_costs_no_encoder_and_no_generation(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    report = bench.run()
    assert (report.added, report.changed, report.unchanged) == ((), (), 2)
    assert (bench.loads, bench.encoder.texts, report.embedded) == (0, [], 0)
    assert bench.generation() == 1


def test_a_changed_file_replaces_its_chunks_and_no_others(bench):
    bench.write(a=prose(1, 200), b=prose(2))
    bench.run()
    before = bench.chunk_ids()
    bench.write(a=prose(3, 50))
    report = bench.run()
    assert (report.added, report.changed, report.unchanged) == ((), ("a.txt",), 1)
    after_change = bench.chunk_ids()
    assert after_change["b.txt"] == before["b.txt"]
    assert len(after_change["a.txt"]) < len(before["a.txt"])
    assert bench.text("a.txt") == prose(3, 50)
    assert bench.problems() == []


def test_other_bytes_under_the_same_time_and_size_are_noticed(bench):
    bench.write(a="one two three.")
    times = (1_700_000_000, 1_700_000_000)
    os.utime(bench.docs / "a.txt", times)
    bench.run()
    bench.write(a="one two seven.")
    os.utime(bench.docs / "a.txt", times)
    assert bench.run().changed == ("a.txt",)
    assert bench.text("a.txt") == "one two seven."


def test_the_same_bytes_under_another_time_are_skipped(bench):
    bench.write(a=prose(1))
    bench.run()
    os.utime(bench.docs / "a.txt", (1, 1))
    assert bench.run().unchanged == 1
    assert bench.loads == 0


def test_a_text_seen_before_is_not_encoded_again_after_a_change(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    bench.write(a=prose(2))
    report = bench.run()
    assert report.changed == ("a.txt",)
    assert bench.encoder.texts == []


def test_a_file_that_is_gone_is_missing_until_it_is_pruned(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    (bench.docs / "a.txt").unlink()
    report = bench.run()
    assert (report.missing, report.pruned) == (("a.txt",), ())
    assert bench.sources() == ["a.txt", "b.txt"]
    assert bench.generation() == 1
    report = bench.run(prune=True)
    assert (report.missing, report.pruned) == ((), ("a.txt",))
    assert bench.sources() == ["b.txt"]
    assert bench.problems() == []


def test_prune_touches_its_own_root_only(bench, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    bench.write(a=prose(1), b=prose(2))
    (other / "a.txt").write_text(prose(3), encoding="utf-8")
    (other / "b.txt").write_text(prose(4), encoding="utf-8")
    bench.run(bench.docs)
    bench.run(other)
    (bench.docs / "a.txt").unlink()
    (other / "a.txt").unlink()
    assert bench.run(other, prune=True).pruned == ("a.txt",)
    with Store.open(bench.index) as store:
        left = [(Path(row.root).name, row.source) for row in store.documents()]
        assert left == [("docs", "a.txt"), ("docs", "b.txt"), ("other", "b.txt")]
        assert store.roots() == sorted([str(bench.docs), str(other)])


def test_naming_one_file_says_nothing_of_its_neighbours(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    (bench.docs / "b.txt").unlink()
    bench.write(a=prose(3))
    report = bench.run(bench.docs / "a.txt", prune=True)
    assert (report.changed, report.missing, report.pruned) == (("a.txt",), (), ())
    assert bench.sources() == ["a.txt", "b.txt"]


def test_a_file_is_in_the_index_once_whatever_root_it_was_given_under(bench):
    inner = bench.docs / "inner"
    inner.mkdir()
    (inner / "x.txt").write_text(prose(1), encoding="utf-8")
    bench.write(a=prose(2))
    bench.run(inner)
    assert bench.sources() == ["x.txt"]
    report = bench.run()
    assert (report.added, report.embedded) == (("a.txt", "inner/x.txt"), 2)
    assert bench.sources() == ["a.txt", "inner/x.txt"]
    bench.run(inner / "x.txt")
    assert bench.sources() == ["a.txt", "x.txt"]
    bench.run()
    bench.run(rebuild=True)
    assert bench.sources() == ["a.txt", "inner/x.txt"]
    assert bench.problems() == []
    with Store.open(bench.index) as store:
        assert Statistics.load(store.blob(STATISTICS_BLOB)).chunks == store.counts().chunks


def test_a_folder_that_lost_all_its_files_is_not_pruned(bench):
    """It may be a disk that is not mounted."""
    bench.write(a=prose(1))
    bench.run()
    (bench.docs / "a.txt").unlink()
    report = bench.run(prune=True)
    assert report.failures[0].reason.endswith("(documents ingested before are kept: 1)")
    assert bench.sources() == ["a.txt"]


def test_ids_do_not_depend_on_order_or_time(bench, tmp_path):
    bench.write(a=prose(1), b=prose(2))
    bench.run(bench.docs / "b.txt")
    bench.run()
    grown = bench.chunk_ids()
    bench.run(rebuild=True)
    assert bench.chunk_ids() == grown
    scratch = replace(bench, index=tmp_path / "scratch")
    scratch.run()
    assert scratch.chunk_ids() == grown


def test_exact_duplicates_are_encoded_once_and_both_are_citable(bench):
    bench.write(a=prose(1), copy=prose(1))
    report = bench.run()
    assert report.added == ("a.txt", "copy.txt")
    assert report.embedded == report.duplicates == len(bench.encoder.texts) == report.chunks // 2
    with Store.open(bench.index) as store:
        for places in store.chunks_of_embeddings(store.live_embeddings()).values():
            assert [one.source for one in places] == ["a.txt", "copy.txt"]
            assert places[0].chunk.chunk_id != places[1].chunk.chunk_id
            assert places[0].chunk.text == places[1].chunk.text


def test_removing_one_of_two_duplicates_keeps_the_other(bench):
    bench.write(a=prose(1), copy=prose(1))
    bench.run()
    (bench.docs / "a.txt").unlink()
    bench.run(prune=True)
    with Store.open(bench.index) as store:
        assert [row.source for row in store.documents()] == ["copy.txt"]
        assert len(store.live_embeddings()) == len(bench.chunk_ids()["copy.txt"])
    assert bench.problems() == []


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_nothing_to_ingest_makes_no_index(bench, tmp_path):
    report = bench.run()
    assert [failure.source for failure in report.failures] == ["."]
    assert not bench.index.exists()
    report = bench.run(tmp_path / "nowhere")
    assert [failure.source for failure in report.failures] == ["nowhere"]
    assert "cannot be found" in report.failures[0].reason
    assert not bench.index.exists()


def test_a_failing_file_is_reported_and_its_earlier_version_stays(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    (bench.docs / "a.txt").write_bytes(b"\x00\x01\xff" * 100)
    report = bench.run(prune=True)
    assert [failure.source for failure in report.failures] == ["a.txt"]
    assert "version ingested before is kept" in report.failures[0].reason
    assert (report.changed, report.missing, report.pruned) == ((), (), ())
    assert bench.text("a.txt") == prose(1)
    with Store.open(bench.index) as store:
        assert store.failures() == list(report.failures)
    generation = bench.generation()
    bench.run()
    assert bench.generation() == generation, "the same failure again is no news"
    bench.write(a=prose(3))
    assert bench.run().failures == ()
    with Store.open(bench.index) as store:
        assert store.failures() == []


def test_a_file_over_the_cap_is_kept(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    bench.max_file_bytes = 1000
    bench.write(a=prose(1, 1000))
    report = bench.run(prune=True)
    assert "too large" in report.failures[0].reason
    assert "version ingested before is kept" in report.failures[0].reason
    assert (report.pruned, report.missing) == ((), ())
    assert bench.text("a.txt") == prose(1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_not_pruned(bench):
    (bench.docs / "inner").mkdir()
    (bench.docs / "inner" / "x.txt").write_text(prose(1), encoding="utf-8")
    bench.write(a=prose(2))
    bench.run()
    (bench.docs / "inner").chmod(0)
    try:
        report = bench.run(prune=True)
    finally:
        (bench.docs / "inner").chmod(0o755)
    assert (report.pruned, report.missing) == ((), ())
    assert bench.sources() == ["a.txt", "inner/x.txt"]


def test_a_folder_that_fails_to_list_is_not_pruned(bench, monkeypatch):
    (bench.docs / "inner").mkdir()
    (bench.docs / "inner" / "x.txt").write_text(prose(1), encoding="utf-8")
    bench.write(a=prose(2))
    bench.run()
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = bench.run(prune=True)
    assert [failure.source for failure in report.failures] == ["inner"]
    assert (report.pruned, report.missing) == ((), ())
    assert bench.sources() == ["a.txt", "inner/x.txt"]


def test_a_root_that_is_gone_is_not_pruned(bench, tmp_path):
    bench.write(a=prose(1))
    bench.run()
    bench.docs.rename(tmp_path / "moved")
    report = bench.run(prune=True)
    assert [failure.source for failure in report.failures] == ["docs"]
    assert report.pruned == ()
    assert bench.sources() == ["a.txt"]


# ---- other settings --------------------------------------------------------------------------------------------------


def test_another_encoder_is_a_clear_error(bench):
    bench.write(a=prose(1))
    bench.run()
    bench.encoder = CountingEncoder(name="other-words", dimension=32)
    bench.encoder.spec = replace(bench.encoder.spec, revision="2")
    with pytest.raises(IndexMismatchError, match=r"'hashed-words' \(64-d.*'other-words' \(32-d.*--rebuild"):
        bench.run()
    assert bench.loads == 0
    report = bench.run(rebuild=True)
    assert (len(bench.encoder.texts), bench.problems()) == (report.chunks, [])
    with Store.open(bench.index) as store:
        assert store.manifest.encoder == bench.encoder.spec


def test_another_chunk_size_needs_a_rebuild_and_then_equals_an_index_from_scratch(bench, tmp_path):
    bench.write(a=prose(1, 300), b=prose(2, 300))
    bench.run()
    bench.chunking = replace(CHUNKING, max_tokens=80)
    with pytest.raises(IndexMismatchError, match=r"max_tokens 40 \(now 80\).*--rebuild"):
        bench.run()
    report = bench.run(rebuild=True)
    assert report.changed == ("a.txt", "b.txt")
    scratch = replace(bench, index=tmp_path / "scratch")
    scratch.run()
    assert bench.chunk_ids() == scratch.chunk_ids()
    assert bench.statistics() == scratch.statistics()
    assert bench.problems() == []


def test_a_rebuild_of_one_root_takes_the_others_along(bench, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text(prose(3), encoding="utf-8")
    bench.write(a=prose(1))
    bench.run()
    bench.run(other)
    bench.chunking = replace(CHUNKING, max_tokens=20)
    bench.run(rebuild=True)
    assert bench.sources() == ["a.txt", "x.txt"]
    assert bench.problems() == []


def test_a_rebuild_does_not_widen_a_file_to_its_folder(bench):
    bench.write(a=prose(1), secret=prose(2))
    bench.run(bench.docs / "a.txt")
    bench.run(bench.docs / "a.txt", rebuild=True)
    assert bench.sources() == ["a.txt"]


@pytest.mark.parametrize("loss", ["damaged", "gone", "root gone"])
def test_a_rebuild_keeps_what_cannot_be_read_any_more(bench, loss, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text(prose(3, 300), encoding="utf-8")
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    bench.run(other)
    if loss == "damaged":
        (other / "x.txt").write_bytes(b"\x00\x01\xff" * 100)
    elif loss == "gone":
        (other / "x.txt").unlink()
        (other / "y.txt").write_text(prose(9), encoding="utf-8")
    else:
        other.rename(tmp_path / "moved")
    bench.chunking = replace(CHUNKING, max_tokens=20)
    report = bench.run(rebuild=True)
    assert (report.missing, report.pruned) == (("x.txt",) if loss == "gone" else (), ())
    assert "x.txt" in bench.sources()
    assert bench.problems() == []
    with Store.open(bench.index) as store:
        statistics = store.blob(STATISTICS_BLOB)
        assert statistics is not None
        assert Statistics.load(statistics).chunks == store.counts().chunks
        assert store.document(document_id(str(other), "x.txt")).text == prose(3, 300)


def test_a_rebuild_keeps_texts_that_came_from_no_file(bench):
    bench.write(a=prose(1))
    bench.run()
    with Store.open(bench.index) as store:
        RagVectorStore(store, bench.encoder).add_texts(["added by hand"], [{"n": 1}], ids=["one"])
    statistics = bench.statistics()
    bench.chunking = replace(CHUNKING, max_tokens=20)
    report = bench.run(rebuild=True, prune=True)
    assert (report.changed, report.pruned) == (("a.txt",), ())
    with Store.open(bench.index) as store:
        (kept,) = RagVectorStore(store, bench.encoder).get_by_ids(["one"])
        assert (kept.page_content, kept.metadata) == ("added by hand", {"n": 1})
        forget_documents(store, ["one"], settings=bench.settings(), encoder=bench.encoder)
    bench.chunking = CHUNKING
    bench.run(rebuild=True)
    assert bench.statistics() == statistics
    assert bench.problems() == []


def test_a_rebuild_with_prune_drops_what_is_gone(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    (bench.docs / "a.txt").unlink()
    assert bench.run(rebuild=True, prune=True).pruned == ("a.txt",)
    assert bench.sources() == ["b.txt"]


# ---- files of several documents --------------------------------------------------------------------------------------


def pack(bench: Bench, **texts: str) -> None:
    """An archive beside the documents, with a text file for each."""
    with ZipFile(bench.docs / "box.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(f"{name}.txt", text)


def test_the_members_of_an_archive_are_documents(bench):
    pack(bench, a=prose(1), b=prose(2))
    bench.write(c=prose(3))
    report = bench.run()
    assert report.added == ("box.zip/a.txt", "box.zip/b.txt", "c.txt")
    assert bench.text("box.zip/b.txt") == prose(2)
    report = bench.run()
    assert (report.unchanged, report.embedded, bench.loads, bench.generation()) == (3, 0, 0, 1)
    assert bench.problems() == []


def test_a_member_that_is_gone_from_its_archive_is_gone_from_the_index(bench):
    pack(bench, a=prose(1), b=prose(2), c=prose(3))
    bench.run()
    pack(bench, a=prose(1), c=prose(4))
    report = bench.run()
    assert (report.changed, report.pruned) == (("box.zip/a.txt", "box.zip/c.txt"), ("box.zip/b.txt",))
    assert bench.sources() == ["box.zip/a.txt", "box.zip/c.txt"]
    assert prose(1) not in "".join(bench.encoder.texts), "only what is new is encoded"
    assert bench.problems() == []
    (bench.docs / "box.zip").unlink()
    bench.write(d=prose(5))
    assert bench.run().missing == ("box.zip/a.txt", "box.zip/c.txt")
    assert bench.run(prune=True).pruned == ("box.zip/a.txt", "box.zip/c.txt")
    assert bench.sources() == ["d.txt"]


def test_a_member_that_cannot_be_read_is_named_every_time_and_costs_nothing_again(bench):
    pack(bench, a=prose(1), b="", c=prose(3))
    for _ in range(2):
        report = bench.run()
        assert [failure.source for failure in report.failures] == ["box.zip/b.txt"]
        assert bench.generation() == 1
        assert bench.sources() == ["box.zip/a.txt", "box.zip/c.txt"]
    pack(bench, a=prose(1), c=prose(3))
    assert bench.run().failures == ()
    with Store.open(bench.index) as store:
        assert store.failures() == []


def test_a_rebuild_takes_an_archive_that_was_named_alone_from_its_file(bench):
    with ZipFile(bench.docs / "box.zip", "w") as archive:
        archive.writestr("a.txt", prose(1))
        archive.writestr("b.txt", prose(2))
    bench.run(bench.docs / "box.zip")
    report = bench.run(bench.docs / "box.zip", rebuild=True)
    assert (report.failures, report.skipped) == ((), ())
    assert bench.sources() == ["box.zip/a.txt", "box.zip/b.txt"]


def test_the_earlier_version_of_a_member_that_cannot_be_read_is_kept(bench):
    pack(bench, a=prose(1), b=prose(2))
    bench.run()
    good = (bench.docs / "box.zip").read_bytes()
    pack(bench, a=prose(3), b="")
    (failure,) = bench.run().failures
    assert "version ingested before is kept" in failure.reason
    assert (bench.text("box.zip/a.txt"), bench.text("box.zip/b.txt")) == (prose(3), prose(2))
    (bench.docs / "box.zip").write_bytes(good)
    assert bench.run().failures == ()
    assert bench.text("box.zip/a.txt") == prose(1)


def test_an_archive_that_cannot_be_read_any_more_is_kept(bench):
    pack(bench, a=prose(1), b=prose(2))
    bench.run()
    (bench.docs / "box.zip").write_bytes(b"")
    report = bench.run(prune=True)
    assert [(one.source, "documents ingested before are kept: 2" in one.reason) for one in report.failures] == [
        ("box.zip", True)
    ]
    assert (report.missing, report.pruned) == ((), ())
    assert bench.sources() == ["box.zip/a.txt", "box.zip/b.txt"]


def test_what_is_missing_of_an_archive_is_named_and_tried_again(bench):
    pack(bench, a=prose(1), b=prose(2), c=prose(3))
    bench.parsing = Limits(max_chars=len(prose(1) + prose(2)))
    for loads in (1, 0):
        report = bench.run()
        assert [failure.source for failure in report.failures] == ["box.zip/(the rest)"]
        assert "parse_chars" in report.failures[0].advice
        assert (bench.loads, bench.generation()) == (loads, 1), "the same again is no news"
        assert bench.sources() == ["box.zip/a.txt", "box.zip/b.txt"]
    bench.parsing = Limits()
    report = bench.run()
    assert report.failures == ()
    assert bench.sources() == ["box.zip/a.txt", "box.zip/b.txt", "box.zip/c.txt"]
    assert bench.text("box.zip/c.txt") == prose(3)
    assert bench.problems() == []


@pytest.mark.parametrize("questions", [1, 8, 14, 20])
def test_a_run_that_was_stopped_inside_an_archive_is_finished_by_the_next(bench, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.indexer._BATCH_TEXTS", 8)
    names = [f"m{number}" for number in range(8)]
    pack(bench, **{name: prose(number, 90) for number, name in enumerate(names)})
    assert bench.run(stop=after(questions)).interrupted
    assert len(bench.sources()) < 8
    bench.run()
    assert bench.sources() == [f"box.zip/{name}.txt" for name in names]
    changed = {name: prose(number + (100 if number < 7 else 0), 90) for number, name in enumerate(names)}
    pack(bench, **changed)  # the last one is known, and must not pass for the end
    bench.run(stop=after(questions))
    bench.run()
    assert {name: bench.text(f"box.zip/{name}.txt") for name in names} == changed
    scratch = replace(bench, index=tmp_path / "scratch")
    scratch.run()
    assert bench.statistics() == scratch.statistics()
    assert bench.problems() == []


def test_an_archive_may_be_named_by_itself_and_then_with_its_folder(bench):
    pack(bench, a=prose(1), b="", c=prose(3))
    bench.write(d=prose(4))
    for _ in range(2):
        report = bench.run(bench.docs / "box.zip")
        assert [failure.source for failure in report.failures] == ["box.zip/b.txt"]
    assert report.unchanged == 2
    pack(bench, c=prose(3))
    assert bench.run(bench.docs / "box.zip").pruned == ("box.zip/a.txt",)
    with Store.open(bench.index) as store:
        assert store.failures() == []
    assert bench.run().added == ("d.txt",)
    bench.run(rebuild=True)
    assert bench.sources() == ["box.zip/c.txt", "d.txt"]
    assert bench.problems() == []


# ---- stopped, failed, killed -----------------------------------------------------------------------------------------


@pytest.fixture
def many(bench, monkeypatch) -> Bench:
    """Forty documents in batches of four."""
    monkeypatch.setattr("ingest.indexer._BATCH_TEXTS", 16)
    bench.write(**{f"d{number:02d}": prose(number, 90) for number in range(40)})
    return bench


@pytest.mark.parametrize("questions", [1, 2, 40, 70, 100])
def test_a_stopped_run_publishes_whole_documents_and_the_next_encodes_only_the_rest(many, questions, tmp_path):
    report = many.run(stop=after(questions))
    assert report.interrupted
    assert list(report.added) == many.sources()
    assert len(many.sources()) < 40
    assert report.chunks == sum(map(len, many.chunk_ids().values()))
    assert many.problems() == []
    again = many.run()
    assert not again.interrupted
    assert len(many.sources()) == 40
    assert again.unchanged == len(report.added)
    with Store.open(many.index) as store:
        assert len(many.encoder.texts) == store.counts().embeddings - report.embedded
    scratch = replace(many, index=tmp_path / "scratch")
    scratch.run()
    assert many.statistics() == scratch.statistics()
    assert many.problems() == []


def test_a_stop_while_the_codec_is_fitted_leaves_no_codec_behind(many, tmp_path):
    many.run(stop=after(3))
    many.run()
    scratch = replace(many, index=tmp_path / "scratch")
    scratch.run()
    name = codec_blob(many.encoder.spec)
    with Store.open(many.index) as stopped, Store.open(scratch.index) as straight:
        assert stopped.blob(name) == straight.blob(name)


def test_a_stopped_rebuild_leaves_the_index_as_it_was(many):
    many.run()
    before, generation = many.chunk_ids(), many.generation()
    many.chunking = replace(CHUNKING, max_tokens=25)
    report = many.run(rebuild=True, stop=after(60))
    assert (report.interrupted, report.changed) == (True, ())
    assert (many.chunk_ids(), many.generation()) == (before, generation)
    assert many.problems() == []
    many.run(rebuild=True)
    assert many.problems() == []


def test_a_stopped_run_keeps_the_failures_it_did_not_come_to(many):
    (many.docs / "z.txt").write_bytes(b"\x00\x01\xff" * 100)
    many.run()
    many.write(**{f"d{number:02d}": prose(number + 100, 90) for number in range(40)})
    many.run(stop=after(20))
    with Store.open(many.index) as store:
        assert [failure.source for failure in store.failures()] == ["z.txt"]


def test_an_exception_leaves_the_old_state_and_loses_no_more_than_the_last_texts(many):
    many.write(extra=prose(1000))
    many.run(many.docs / "extra.txt")
    many.encoder.fail_after = 70
    with pytest.raises(RuntimeError, match="power"):
        many.run()
    assert many.sources() == ["extra.txt"]
    assert many.generation() == 1
    before = set(many.encoder.texts)
    many.encoder.fail_after = None
    report = many.run()
    assert len(report.added) == 40
    assert report.unchanged == 1
    twice = before & set(many.encoder.texts)
    assert len(twice) <= 16, "only the batch at hand is encoded again"
    assert many.problems() == []


def test_one_large_document_is_committed_as_it_goes(bench, monkeypatch):
    monkeypatch.setattr("ingest.indexer._COMMIT_TEXTS", 8)
    bench.write(small=prose(1))
    bench.run()
    bench.write(large=prose(2, 3000))
    bench.encoder.fail_after = 60
    with pytest.raises(RuntimeError, match="power"):
        bench.run()
    bench.encoder.fail_after = None
    report = bench.run()
    assert report.added == ("large.txt",)
    assert len(bench.encoder.texts) <= report.chunks - 60 + 8


KILLED = """
import sys, os, signal
from pathlib import Path
from doubles import HashEncoder
from ingest.build import ingest
from ingest.indexer import Settings
from retrieval.records import ChunkingSpec
import ingest.indexer
ingest.indexer._BATCH_TEXTS = 16

class Deadly(HashEncoder):
    seen = 0
    def encode(self, texts, *, query=False):
        for text in texts:
            if Deadly.seen == 70:
                os.kill(os.getpid(), signal.SIGKILL)
            Deadly.seen += 1
            yield from super().encode([text])

encoder = Deadly()
settings = Settings(encoder.spec, ChunkingSpec(max_tokens=40, overlap=0.1), 1_000_000, "", {})
ingest.build.ingest([Path(sys.argv[1])], folder=Path(sys.argv[2]), settings=settings, make_encoder=lambda: encoder,
                    report=lambda _: None)
"""


def test_a_killed_run_leaves_the_old_state_and_what_was_committed(many):
    many.write(extra=prose(1000))
    many.run(many.docs / "extra.txt")
    repository = Path(__file__).resolve().parents[2]
    environ = {**os.environ, "PYTHONPATH": f"{repository}{os.pathsep}{repository / 'tests'}"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, many.docs, many.index], env=environ, timeout=60, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert many.sources() == ["extra.txt"]
    assert many.problems() == []
    report = many.run()
    assert len(report.added) == 40
    assert len(many.encoder.texts) <= report.chunks - 70 + 16
    assert many.problems() == []


# ---- progress, statistics, deleting ----------------------------------------------------------------------------------


def test_progress_follows_the_encoder_not_the_reading(many):
    many.run()
    shown = [one for one in many.progress if one.unit == "kB"]
    assert [one.done for one in shown] == sorted(one.done for one in shown)
    assert shown[-1].done == shown[-1].total
    many.write(large=prose(2, 30_000))
    many.run()
    shown = [one for one in many.progress if one.unit == "kB"]
    assert len({one.done for one in shown}) > 20, "one large file moves the bar as well"


def test_progress_of_an_unchanged_folder_reaches_the_end(many):
    many.run()
    many.run()
    assert many.progress[-1].done == many.progress[-1].total


def test_the_index_after_many_changes_equals_one_from_scratch(bench, tmp_path):
    chance = random.Random(7)  # noqa: S311 - the same changes every time
    alive: set[str] = set()
    for step in range(25):
        name = f"f{chance.randrange(8)}"
        match chance.randrange(4):
            case 0 if name in alive and len(alive) > 1:
                (bench.docs / f"{name}.txt").unlink()
                alive.discard(name)
            case 1 if name in alive:
                os.utime(bench.docs / f"{name}.txt", (step, step))
            case _:
                bench.write(**{name: prose(chance.randrange(20), chance.randrange(20, 150))})
                alive.add(name)
        bench.run(prune=chance.random() < 0.7, stop=after(chance.randrange(1, 30)))
    bench.run(prune=True)
    scratch = replace(bench, index=tmp_path / "scratch")
    scratch.run()
    assert bench.chunk_ids() == scratch.chunk_ids()
    assert bench.statistics() == scratch.statistics()
    with Store.open(bench.index) as grown, Store.open(scratch.index) as straight:
        assert grown.counts().embeddings == straight.counts().embeddings
        for row, other in zip(grown.documents(), straight.documents(), strict=True):
            assert row == other
    assert bench.problems() == []


def test_deleting_takes_a_document_out_of_the_statistics(bench, tmp_path):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    with Store.open(bench.index) as store:
        forget_documents(
            store, [document_id(str(bench.docs), "a.txt")], settings=bench.settings(), encoder=bench.encoder
        )
    assert bench.sources() == ["b.txt"]
    (bench.docs / "a.txt").unlink()
    scratch = replace(bench, index=tmp_path / "scratch")
    scratch.run()
    assert bench.statistics() == scratch.statistics()
    assert bench.problems() == []


def test_token_codes_are_there_for_every_chunk(bench):
    bench.write(a=prose(1), b=prose(2))
    bench.run()
    with Store.open(bench.index) as store:
        live = store.live_embeddings()
        codes = store.token_codes(live)
        assert set(codes) == set(live.tolist())
        codec = SignCodec.load(store.blob(codec_blob(bench.encoder.spec)), dimension=bench.encoder.spec.dimension)
        assert {rows.shape[1] for rows in codes.values()} == {codec.bytes_per_token}
        assert all(np.isin(rows, range(256)).all() for rows in codes.values())


def test_the_codec_does_not_depend_on_where_the_folder_lies(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.indexer._SAMPLE_TOKENS", 150)
    bench.write(**{f"d{number}": prose(number, 90) for number in range(10)})
    bench.run()
    moved = replace(bench, docs=tmp_path / "moved", index=tmp_path / "scratch")
    bench.docs.rename(moved.docs)
    moved.run()
    name = codec_blob(bench.encoder.spec)
    with Store.open(bench.index) as before, Store.open(moved.index) as after_move:
        assert before.blob(name) == after_move.blob(name)


def test_a_codec_is_never_fitted_on_a_few_words(bench, monkeypatch):
    monkeypatch.setattr("ingest.indexer._ENOUGH_TOKENS", 1000)
    bench.write(a="just one note.")
    report = bench.run()
    assert report.embedded == 1
    assert len(bench.encoder.texts) > 10
    assert bench.sources() == ["a.txt"]
    with Store.open(bench.index) as store:
        assert store.counts().embeddings == 1


def test_a_reader_sees_the_old_state_until_the_end(many):
    many.run()
    many.write(**{f"d{number:02d}": prose(number + 100, 90) for number in range(40)})
    with Store.open(many.index) as reader:
        generation = reader.generation
        seen: list[tuple[int, str]] = []

        def look() -> bool:
            if len(seen) < 100:
                seen.append((reader.generation, reader.documents()[0].content_hash))
            return False

        many.run(stop=look)
        assert set(seen) == {(generation, seen[0][1])}
        assert reader.generation == generation + 1


def test_re_ingest_of_many_unchanged_files_is_quick(bench):
    for number in range(300):
        (bench.docs / f"n{number}.txt").write_text(prose(number, 30), encoding="utf-8")
    bench.run()
    started = time.perf_counter()
    bench.run()
    assert time.perf_counter() - started < 2
    assert (bench.index / DATABASE).is_file()


# ---- words, evidence, dates ------------------------------------------------------------------------------------------


def test_words_are_indexed_by_the_given_analyzer(bench, tmp_path):
    (tmp_path / "words.txt").write_text("quiet hills 100\n", encoding="utf-8")
    analyzer = Analyzer(UserDictionary.load(tmp_path / "words.txt"))
    bench.write(a="the quiet hills", b="hills so quiet")
    bench.run(analyzer=analyzer)
    with Store.open(bench.index) as store:
        lexical = open_lexical(store, analyzer)
        assert lexical.notice is None
        assert lexical.document_frequencies(["quiet_hills", "hill"]).tolist() == [1, 2]
        assert "another analysis" in str(open_lexical(store, Analyzer()).notice)


def test_a_changed_analysis_is_taken_over_by_the_next_run(bench, tmp_path):
    """Although no file has changed, and without encoding anything."""
    bench.write(a="the quiet hills")
    bench.run()
    generation = bench.generation()
    (tmp_path / "words.txt").write_text("quiet hills 100\n", encoding="utf-8")
    analyzer = Analyzer(UserDictionary.load(tmp_path / "words.txt"))
    report = bench.run(analyzer=analyzer)
    assert (report.unchanged, report.embedded, bench.encoder.texts) == (1, 0, [])
    assert bench.generation() == generation + 1
    with Store.open(bench.index) as store:
        assert open_lexical(store, analyzer).notice is None
    bench.run(analyzer=analyzer)
    assert bench.generation() == generation + 1
    assert bench.problems() == []


def test_an_index_keeps_its_calibration_until_it_is_rebuilt(bench):
    bench.write(a=prose(1))
    bench.run()
    own = Evidence({**CALIBRATED.weights, next(iter(CALIBRATED.weights)): 7.0}, 0.25)
    with Store.open(bench.index) as store:
        assert Evidence.load(store.blob(EVIDENCE_BLOB)) == CALIBRATED
        with store.writer() as writer:
            writer.publish(roots=[], blobs={EVIDENCE_BLOB: own.dump()})
        bench.write(b=prose(2))
        bench.run()
        assert Evidence.load(store.blob(EVIDENCE_BLOB)) == own
        assert open_retriever(store, bench.encoder).search("cat", k=1).evidence_needed == 0.25
        bench.run(rebuild=True)
        assert Evidence.load(store.blob(EVIDENCE_BLOB)) == CALIBRATED


@pytest.mark.parametrize(
    ("seconds", "day"), [(0, "1970-01-01"), (1_700_000_000, "2023-11-14"), (-5, "1970-01-01"), (2**33, "2242-03-16")]
)
def test_the_time_of_a_file_is_metadata(bench, seconds, day):
    bench.write(a="the cat")
    os.utime(bench.docs / "a.txt", (seconds, seconds))
    bench.run()
    with Store.open(bench.index) as store:
        (facts,) = store.document_facts()
    assert str(facts.metadata["modified"]).startswith(f"{day}T")
    assert str(facts.metadata["modified"]).endswith("+00:00")
    assert document_date(facts.metadata) == date.fromisoformat(day)


def test_front_matter_knows_better_than_the_file(bench):
    (bench.docs / "a.md").write_text("---\nmodified: 2001-02-03\n---\nthe cat\n", encoding="utf-8")
    bench.run()
    with Store.open(bench.index) as store:
        (facts,) = store.document_facts()
    assert document_date(facts.metadata) == date(2001, 2, 3)


def test_a_touched_file_is_not_read_as_new(bench):
    bench.write(a="the cat")
    bench.run()
    generation = bench.generation()
    os.utime(bench.docs / "a.txt", (1, 1))
    assert bench.run().unchanged == 1
    assert bench.generation() == generation


# ---- documents that are no files -------------------------------------------------------------------------------------


def line(name: str, text: str, *, root: str = "/corpus", **more: Any) -> Document:
    return Document(f"{root}/{name}", root, name, "text/plain", name, text, (), f"hash of {text}", **more)


def put(bench: Bench, documents: Sequence[Document], *, root: str = "/corpus", **options: Any) -> None:
    bench.encoder.texts.clear()
    ingest_documents(
        documents,
        root=root,
        folder=bench.index,
        settings=bench.settings(),
        make_encoder=lambda: bench.encoder,
        **options,
    )


def test_an_index_holds_just_the_documents_it_is_given(bench, tmp_path):
    first = [line("a", prose(1)), line("b", prose(2), metadata={"year": 2001}), line("c", prose(3))]
    put(bench, first)
    assert bench.sources() == ["a", "b", "c"]
    last = [first[1], line("c", prose(4)), line("d", prose(5))]
    put(bench, last)
    assert bench.sources() == ["b", "c", "d"]
    scratch = replace(bench, index=tmp_path / "scratch")
    put(scratch, last)
    assert bench.chunk_ids() == scratch.chunk_ids()
    assert bench.statistics() == scratch.statistics()
    with Store.open(bench.index) as store:
        assert [store.document(one.doc_id) for one in last] == last
        assert store.roots() == ["/corpus"]
        found = open_retriever(store, bench.encoder).search(prose(5), k=1)
        assert found.hits[0].source == "d"
    assert bench.problems() == []


def test_documents_in_the_index_already_are_left_alone(bench):
    documents = [line("a", prose(1)), line("b", prose(2))]
    put(bench, documents)
    generation = bench.generation()
    put(bench, documents)
    assert (bench.generation(), bench.encoder.texts) == (generation, [])
    progress: list[Progress] = []
    put(bench, [*documents, line("c", prose(3))], report=progress.append)
    assert len(bench.encoder.texts) < 20
    assert [(one.done, one.total) for one in progress if one.unit == "documents"] == [(1, 1)]


def test_no_documents_empty_their_root_and_no_other(bench):
    bench.write(file=prose(9))
    bench.run()
    put(bench, [line("a", prose(1))])
    put(bench, [line("z", prose(2), root="/other")], root="/other")
    put(bench, [])
    assert sorted(bench.sources()) == ["file.txt", "z"]
    assert bench.run(prune=True).unchanged == 1
    assert sorted(bench.sources()) == ["file.txt", "z"]
    assert bench.problems() == []


def test_a_rebuild_takes_documents_that_are_no_files_from_the_index(bench):
    bench.write(file=prose(9))
    bench.run()
    document = line("a", prose(1), metadata={"year": 2001})
    put(bench, [document])
    bench.run(rebuild=True)
    assert sorted(bench.sources()) == ["a", "file.txt"]
    with Store.open(bench.index) as store:
        assert store.document("/corpus/a") == document
    assert bench.problems() == []


def test_documents_for_an_index_of_another_kind_are_refused(bench):
    put(bench, [line("a", prose(1))])
    with pytest.raises(IndexMismatchError, match="was cut with max_tokens 40"):
        put(replace(bench, chunking=replace(CHUNKING, max_tokens=30)), [line("b", prose(2))])
    with pytest.raises(IndexMismatchError, match="was built with encoder 'hashed-words'"):
        put(replace(bench, encoder=CountingEncoder(name="another")), [line("b", prose(2))])
    assert bench.sources() == ["a"]

"""What the indexer asks of the encoder, what it says while it works, and lines of chunks; against slow oracles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from doubles import HashEncoder
from hypothesis import given
from hypothesis import strategies as st

from ingest import indexer
from ingest.build import ingest
from ingest.indexer import Settings
from ingest.isolate import Limits
from retrieval.records import Chunk, ChunkingSpec
from retrieval.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.records import IngestReport, Progress
    from retrieval.encoder import Encoded


class PortionedEncoder(HashEncoder):
    """Remembers how many texts it was given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.portions: list[int] = []

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        self.portions.append(len(texts))
        return super().encode(texts, query=query)


def run(
    docs: Path, index: Path, encoder: HashEncoder, *, progress: list[Progress], max_file_bytes: int = 1_000_000
) -> IngestReport:
    settings = Settings(
        encoder.spec, ChunkingSpec(max_tokens=40), max_file_bytes, created_at="", versions={}, parsing=Limits()
    )
    return ingest(
        [docs], folder=index, settings=settings, make_encoder=lambda: encoder, report=progress.append, prune=True
    )


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def test_a_huge_document_reaches_the_encoder_in_portions(docs: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(indexer, "_BATCH_TEXTS", 16)
    (docs / "huge.txt").write_text(" ".join(f"word{number}." for number in range(3000)), encoding="utf-8")
    encoder = PortionedEncoder()
    report = run(docs, tmp_path / "index", encoder, progress=[])
    assert report.chunks > 9 * 16
    assert max(encoder.portions) <= 16
    with Store.open(tmp_path / "index") as store:
        assert store.verify() == []


def test_of_a_huge_document_only_the_beginning_is_sampled(docs: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ingest.files._SAMPLED_CHARS", 2000)
    monkeypatch.setattr(indexer, "_ENOUGH_TOKENS", 0)
    (docs / "huge.txt").write_text(" ".join(f"word{number}." for number in range(3000)), encoding="utf-8")
    progress: list[Progress] = []
    report = run(docs, tmp_path / "index", HashEncoder(), progress=progress)
    sampled = max(one.done for one in progress if one.stage == "sampling the documents")
    assert 0 < sampled < report.tokens / 2
    with Store.open(tmp_path / "index") as store:
        assert store.verify() == []
        assert store.counts().embeddings == len(store.live_embeddings()), "what the cut has made goes again"


def test_progress_never_says_done_before_it_is(docs: Path, tmp_path: Path) -> None:
    for number in range(40):
        (docs / f"{number}.txt").write_text(f"Document {number} says nothing of any other. " * 40, encoding="utf-8")
    for changed in ([], ["7.txt"]):
        for name in changed:
            (docs / name).write_text("Something else.", encoding="utf-8")
        heard: list[Progress] = []
        run(docs, tmp_path / "index", HashEncoder(), progress=heard)
        stages = list(dict.fromkeys(one.stage for one in heard))
        assert stages[0] == "looking for files"
        assert heard[-1].stage == "saving", "what is shown last has no end that could be reached too early"
        assert heard[-1].total is None
        for stage in stages:
            done = [one.done for one in heard if one.stage == stage]
            assert done == sorted(done)
            assert all(one.total is None or one.done <= one.total for one in heard)
        reading = [one for one in heard if one.stage == "reading and encoding"]
        assert reading[-1].done == reading[-1].total
    unchanged: list[Progress] = []
    run(docs, tmp_path / "index", HashEncoder(), progress=unchanged)
    assert "saving" not in {one.stage for one in unchanged}


TEXTS = st.lists(st.sampled_from(["a", "\n", "\r\n", "\r", " ", "é", "\u2028"]), max_size=40).map("".join)


@given(TEXTS, st.lists(st.integers(0, 40), max_size=6), st.integers(0, 5))
def test_a_line_is_counted_from_the_beginning_of_the_text(text: str, cuts: list[int], overlap: int) -> None:
    starts = sorted({0, *(cut for cut in cuts if cut < len(text))})
    spans = [(max(0, a - overlap), b) for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    visible = [span for span in dict.fromkeys(spans) if text[slice(*span)].strip()]
    visible = [two for one, two in zip([(-1, -1), *visible], visible, strict=False) if one[0] < two[0]]
    chunks = [Chunk(str(n), "d", n, a, b, text[a:b], tokens=1) for n, (a, b) in enumerate(visible)]
    firsts = [a + len(text[a:b]) - len(text[a:b].lstrip()) for a, b in visible]
    assert indexer._lines(text, chunks) == [1 + len(re.findall(r"\r\n|\r|\n", text[:first])) for first in firsts]

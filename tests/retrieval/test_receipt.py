"""A receipt finds what is left of a deleted document, wherever it is, and nothing where nothing is."""

from __future__ import annotations

import random

import pytest
from doubles import HashEncoder, new_store, open_retriever, publish_texts

from retrieval.analyze import Analyzer
from retrieval.lexical import open_lexical
from retrieval.maintain import compact
from retrieval.receipt import Traces

ENCODER, ANALYZER = HashEncoder(), Analyzer()
SHARED = "every page of the handbook carries this very same footer about safety"


def essay(seed, words=400):
    chance = random.Random(seed)  # noqa: S311 - reproducible
    return " ".join(f"w{seed}x{chance.randrange(150)}" for _ in range(words))


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "index", ENCODER) as store:
        publish_texts(store, {"a": f"{essay(1)} {SHARED}", "b": f"{essay(2)} {SHARED}", "c": essay(3)}, encoder=ENCODER)
        yield store


def look(store, traces):
    return traces.look(store, open_retriever(store, ENCODER, analyzer=ANALYZER), open_lexical(store, ANALYZER))


def test_before_the_deletion_everything_is_found(store):
    traces = Traces.take(store, ["a"], ANALYZER)
    receipt = look(store, traces)
    assert (receipt.chunks, receipt.searches, receipt.found_by_search) == (1, 1, 1)
    assert receipt.samples == len(traces.pieces) > 40
    assert receipt.left_in["index.sqlite"] >= 0.9 * receipt.samples  # a page can end within a sample
    assert "dense-000001.faiss" in receipt.left_in
    assert not receipt.is_gone


def test_after_the_deletion_no_search_finds_it_and_after_compact_no_byte_is_left(store):
    traces = Traces.take(store, ["a"], ANALYZER)
    store.delete(["a"])
    receipt = look(store, traces)
    assert receipt.found_by_search == 0
    assert set(receipt.left_in) <= {"dense-000001.faiss"}  # written anew when more has changed
    compact(store, ANALYZER, wait_seconds=0.0)
    receipt = look(store, traces)
    assert receipt.is_gone
    assert receipt.left_in == {}
    assert (receipt.terms_left, receipt.samples) == (0, len(traces.pieces))
    assert receipt.terms > 100
    assert receipt.files >= 4


def test_what_others_say_as_well_is_no_sample(store):
    traces = Traces.take(store, ["a"], ANALYZER)
    assert traces.pieces
    assert not any(piece in SHARED.encode() for piece in traces.pieces)
    publish_texts(store, {"copy": store.document("a").text}, encoder=ENCODER)
    assert Traces.take(store, ["a"], ANALYZER).pieces == []
    assert Traces.take(store, ["a", "copy"], ANALYZER).pieces


def test_a_copy_that_somebody_left_in_the_folder_is_found(store):
    traces = Traces.take(store, ["c"], ANALYZER)
    text = store.document("c").text
    (store.home / "notes").mkdir()
    (store.home / "notes" / "old.txt").write_bytes(b"x" * (1 << 22) + text.encode())  # over the end of a block
    store.delete(["c"])
    compact(store, ANALYZER, wait_seconds=0.0)
    receipt = look(store, traces)
    assert list(receipt.left_in) == ["notes/old.txt"]
    assert not receipt.is_gone


def test_short_and_strange_documents_have_receipts_too(store):
    publish_texts(
        store,
        {"tiny": "zx", "blank": " \n ", "chinese": "这是一个非常特别的文件，只有这里提到了独角兽。"},
        encoder=ENCODER,
    )
    for doc_id in ("tiny", "blank", "chinese", "unknown"):
        traces = Traces.take(store, [doc_id], ANALYZER)
        store.delete([doc_id])
        compact(store, ANALYZER, wait_seconds=0.0)
        assert look(store, traces).is_gone

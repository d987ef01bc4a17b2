"""The composition root over the bundled encoder: one index, asked, followed, emptied, interrupted."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from doubles import HashEncoder, manifest_of

from app.config import Config
from app.pipeline import Pipeline
from ingest.records import Progress
from retrieval.errors import ConfigError, EmptyTextError, IndexMismatchError, IndexMissingError, RagError
from retrieval.filters import Filter
from retrieval.records import Document
from retrieval.store import Store

FERRY = "The ferry leaves from pier seven at dusk. It carries bicycles for free."
CLOCKS = "# Clocks\n\nThe museum of clocks has no windows at all.\n\nIts oldest clock was built by a blacksmith.\n"
BEES = "The beekeeper wears a purple hat. She collects the honey in June."
FERRY_QUESTION = "Where does the ferry leave from?"

Open = Callable[..., Pipeline]

pytestmark = pytest.mark.usefixtures("little_common_text")


def quiet(_: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def open_index(model_cache, encoder) -> Iterator[Open]:
    """Opens pipelines over a folder that share the session's encoder."""
    opened: list[Pipeline] = []

    def open_one(index: Path, **settings: object) -> Pipeline:
        pipeline = Pipeline(replace(Config(index, model_cache, device="cpu"), **settings))
        pipeline.__dict__["encoder"] = encoder  # as if it had been loaded
        opened.append(pipeline)
        return pipeline

    yield open_one
    for pipeline in opened:
        pipeline.close()


@pytest.fixture
def open_pipeline(open_index, tmp_path) -> Open:
    return partial(open_index, tmp_path / "index")


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> Path:
    """Three files, which the tests leave as they are."""
    folder = tmp_path_factory.mktemp("pipeline") / "docs"
    folder.mkdir()
    for name, text in {"ferry.txt": FERRY, "clocks.md": CLOCKS, "bees.txt": BEES}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder.resolve()


@pytest.fixture(scope="module")
def index(open_index, docs) -> Path:
    """Of `docs`, made once; every test has a copy."""
    open_index(docs.parent / "index").ingest([docs], report=quiet)
    return docs.parent / "index"


@pytest.fixture
def pipeline(open_pipeline, index, tmp_path) -> Pipeline:
    shutil.copytree(index, tmp_path / "index")
    return open_pipeline()


def test_search_and_ask(pipeline):
    result = pipeline.search(FERRY_QUESTION, k=2)
    assert [hit.rank for hit in result.hits] == [1, 2]
    assert result.hits[0].source == "ferry.txt"
    assert result.timings_ms["total"] >= max(result.timings_ms.values())
    answer = pipeline.ask(FERRY_QUESTION)
    assert "pier seven" in answer.text
    assert not answer.abstained
    assert len(answer.hits) == 3
    for citation in answer.citations:
        assert citation.quote == pipeline._document(citation.doc_id).text[citation.start : citation.end]


def test_what_is_cited_is_among_the_hits_however_few_are_asked_for(pipeline):
    answer = pipeline.ask(FERRY_QUESTION, k=1)
    assert {citation.chunk_id for citation in answer.citations} <= {hit.chunk_id for hit in answer.hits}
    assert answer.hits[0].rank == 1


def test_evidence_is_a_threshold(open_pipeline, pipeline):
    assert open_pipeline(min_evidence=1.0).ask(FERRY_QUESTION).abstained
    forced = open_pipeline(min_evidence=0.0).ask("What is the capital of France?")
    assert not forced.abstained
    assert pipeline.ask("What is the capital of France?").abstained


def test_one_sentence(open_pipeline, pipeline):
    del pipeline
    (citation,) = open_pipeline(sentences=1).ask(FERRY_QUESTION).citations
    assert citation.quote == "The ferry leaves from pier seven at dusk."


def test_a_blank_question(pipeline):
    with pytest.raises(EmptyTextError):
        pipeline.ask(" \n")


def test_an_open_pipeline_follows_what_another_publishes(open_pipeline, pipeline, tmp_path):
    question = "Who repairs the lighthouse?"
    assert "hermit" not in pipeline.ask(question).text
    (tmp_path / "light.txt").write_text("The lighthouse is repaired by a hermit.", encoding="utf-8")
    other = open_pipeline()
    other.ingest([tmp_path / "light.txt"], report=quiet)
    assert "hermit" in pipeline.ask(question).text
    other.delete("light.txt")
    assert "hermit" not in pipeline.ask(question).text


def test_no_index(open_pipeline):
    with pytest.raises(IndexMissingError, match="rag ingest PATH --index"):
        open_pipeline().ask(FERRY_QUESTION)


def test_an_index_of_another_encoder(open_pipeline, tmp_path):
    Store.create(tmp_path / "index", manifest_of(HashEncoder())).close()
    with pytest.raises(IndexMismatchError, match=r"'hashed-words'.*'all-MiniLM-L6-v2'"):
        open_pipeline().search("x")


def test_info_and_verify(pipeline, docs):
    facts = json.loads(json.dumps(pipeline.info()))
    assert (facts["documents"], facts["generation"], facts["roots"]) == (3, 1, [str(docs)])
    assert facts["manifest"]["encoder"]["dimension"] == 384
    assert facts["manifest"]["chunking"]["max_tokens"] == 512
    assert {"numpy", "openvino", "tokenizers"} <= set(facts["manifest"]["versions"])
    assert facts["manifest"]["created_at"].endswith("+00:00")
    assert pipeline.verify() == []


def test_settings_of_chunking_are_recorded(open_pipeline, docs):
    pipeline = open_pipeline(chunk_tokens=64, chunk_overlap=0.0, heading_context=False)
    pipeline.ingest([docs], report=quiet)
    chunking = pipeline.info()["manifest"]["chunking"]
    assert (chunking["max_tokens"], chunking["overlap"], chunking["heading_context"]) == (64, 0.0, False)


def test_the_size_cap_is_a_setting(open_pipeline, tmp_path):
    (tmp_path / "large.txt").write_text("word " * 1000, encoding="utf-8")
    report = open_pipeline(max_file_mb=0.002).ingest([tmp_path / "large.txt"], report=quiet)
    assert [failure.source for failure in report.failures] == ["large.txt"]


@pytest.mark.parametrize("name", ["source", "doc_id", "path"])
def test_delete_by_any_name(pipeline, docs, name):
    (row,) = (row for row in pipeline.documents() if row.source == "ferry.txt")
    given = {"source": row.source, "doc_id": row.doc_id, "path": str(docs / "ferry.txt")}[name]
    removed, receipt = pipeline.delete(given)
    assert (removed, receipt.chunks, receipt.found_by_search, receipt.terms_left) == ((row.doc_id,), row.chunks, 0, 0)
    assert [row.source for row in pipeline.documents()] == ["bees.txt", "clocks.md"]
    with pytest.raises(RagError, match="rag index list"):
        pipeline.delete(given)
    assert pipeline.verify() == []


def test_delete_asks_which_one(pipeline, docs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "ferry.txt").write_text("Another ferry.", encoding="utf-8")
    pipeline.ingest([other], report=quiet)
    with pytest.raises(RagError, match=r"ambiguous.*docs/ferry\.txt.*other/ferry\.txt"):
        pipeline.delete("ferry.txt")
    pipeline.delete(f"{docs}/ferry.txt")
    assert [row.root for row in pipeline.documents() if row.source == "ferry.txt"] == [str(other.resolve())]


def test_embed_does_not_depend_on_the_batch(pipeline):
    texts = [FERRY, "x", CLOCKS * 5, BEES]
    together = pipeline.embed(texts, pooling="mean", tokens=False)
    for text, vector in zip(texts, together, strict=True):
        (alone,) = pipeline.embed([text], pooling="mean", tokens=False)
        assert np.array_equal(alone, vector)
    (tokens,) = pipeline.embed(["the ferry"], pooling="mean", tokens=True)
    assert tokens.shape == (2, 384)


# ---- searching as the config says ------------------------------------------------------------------------------------


def test_notices_tell_of_search_files_that_could_not_be_used(open_pipeline, pipeline, tmp_path):
    assert pipeline.notices() == ()
    pipeline.search(FERRY_QUESTION)
    assert pipeline.notices() == ()
    for path in (tmp_path / "index").iterdir():
        if path.name.startswith("lexical-"):
            shutil.rmtree(path)
        elif path.name.startswith("dense-"):
            path.write_bytes(b"no index")
    damaged = open_pipeline()
    assert damaged.notices() == ()  # a look does not open the index
    assert damaged.search(FERRY_QUESTION).hits == pipeline.search(FERRY_QUESTION).hits
    notices = damaged.notices()
    assert any("lexical" in notice for notice in notices)
    assert any("in memory" in notice for notice in notices)


def test_a_filter_and_all_that_is_reported(pipeline):
    result = pipeline.search(FERRY_QUESTION, filters=Filter(types=("md",)), neighbours=True)
    assert {hit.source for hit in result.hits} == {"clocks.md"}
    assert sum(result.weights.values()) == pytest.approx(1)
    assert {"ferri", "pier"} & set(result.terms)
    assert 0 <= result.evidence <= 1
    assert pipeline.ask(FERRY_QUESTION, filters=Filter(sources=("none",))).abstained


def test_what_is_not_given_is_as_the_config_says(open_pipeline, pipeline):
    del pipeline
    one = open_pipeline(top_k=1, neighbours=True, max_per_document=1)
    assert len(one.search("museum").hits) == 1
    assert len(one.search("museum", k=3).hits) == 3


def test_synonyms_and_dictionary_are_files(open_pipeline, docs, tmp_path):
    (tmp_path / "synonyms.txt").write_text("ship, ferry\n", encoding="utf-8")
    (tmp_path / "words.txt").write_text("purple hat 100\n", encoding="utf-8")
    pipeline = open_pipeline(synonyms=tmp_path / "synonyms.txt", dictionary=tmp_path / "words.txt")
    pipeline.ingest([docs], report=quiet)
    result = pipeline.search("Is a purple hat worn on a ship?", k=3)
    assert [(one.phrase, one.added) for one in result.expansions] == [("ship", "ferry")]
    assert "purple_hat" in result.terms
    assert pipeline.notices() == ()
    plain = open_pipeline()
    plain.search("hat")
    (notice,) = plain.notices()
    assert "another analysis of words" in notice


def test_a_reranker_that_is_not_there_says_what_to_do(open_pipeline, pipeline):
    del pipeline
    with pytest.raises(ConfigError, match='set reranker = "interaction" to do without'):
        open_pipeline(reranker="no/such-model").search("hat")


def test_without_reranking(open_pipeline, pipeline):
    del pipeline
    hits = open_pipeline(reranker="none").search(FERRY_QUESTION, k=3).hits
    assert [hit.stages.fused_rank for hit in hits] == [1, 2, 3]


def test_documents_that_are_no_files(open_pipeline):
    pipeline = open_pipeline()
    document = Document("c/1", "/corpus", "1", "text/plain", "Bees", BEES, (), "1")
    pipeline.ingest_documents([document], root="/corpus", report=quiet)
    assert pipeline.search("Who wears a purple hat?").hits[0].doc_id == "c/1"
    pipeline.ingest_documents([], root="/corpus", report=quiet)
    assert pipeline.documents() == []


# ---- interrupted -----------------------------------------------------------------------------------------------------


@pytest.fixture
def long_docs(tmp_path) -> Path:
    folder = tmp_path / "long"
    folder.mkdir()
    for number in range(30):
        (folder / f"n{number:02d}.txt").write_text(f"Note {number}. {BEES} {FERRY}", encoding="utf-8")
    return folder


def test_the_first_ctrl_c_stops_cleanly(pipeline, long_docs):
    before = signal.getsignal(signal.SIGINT)
    sent: list[bool] = []

    def interrupt(progress: Progress) -> None:
        if progress.unit == "kB" and progress.done > 0 and not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGINT)

    report = pipeline.ingest([long_docs], report=interrupt)
    assert report.interrupted
    assert signal.getsignal(signal.SIGINT) is before
    assert 0 < len(report.added) < 30
    assert len(pipeline.documents()) == 3 + len(report.added)
    assert pipeline.verify() == []
    again = pipeline.ingest([long_docs], report=quiet)
    assert (again.interrupted, again.unchanged + len(again.added)) == (False, 30)


def test_the_second_ctrl_c_stops_at_once(open_pipeline, pipeline, long_docs):
    def interrupt(progress: Progress) -> None:
        if progress.unit == "kB":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        open_pipeline().ingest([long_docs], report=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(pipeline.documents()) == 3
    assert pipeline.verify() == []


def test_ingest_outside_the_main_thread(open_pipeline, docs):
    pipeline = open_pipeline()
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(len(pipeline.ingest([docs], report=quiet).added)))
    thread.start()
    thread.join(60)
    assert done == [3]

from __future__ import annotations

import threading

import numpy as np
import pytest
from doubles import HashEncoder, new_store, open_retriever, publish_texts, stage_text
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from retrieval.errors import IndexMismatchError, TextTooLongError
from retrieval.langchain import EmbeddingsEncoder, RagEmbeddings, RagRetriever, RagVectorStore
from retrieval.records import Hit, Neighbour, Stages
from retrieval.store import Store

ENCODER = HashEncoder()


# ---- LangChain's own suites ------------------------------------------------------------------------------------------


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        with new_store(tmp_path) as store:
            yield RagVectorStore(store, ENCODER)


class TestVectorStoreOverTheirEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        vectorstore = RagVectorStore.from_texts([], self.get_embeddings(), folder=tmp_path)
        yield vectorstore
        vectorstore.close()


class OurEmbeddings:
    @property
    def embeddings_class(self):
        return RagEmbeddings

    @property
    def embedding_model_params(self):
        return {"encoder": ENCODER}


class TestEmbeddingsUnit(OurEmbeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(OurEmbeddings, EmbeddingsIntegrationTests):
    pass


def search(question, *, k):
    return [
        Hit(n + 1, 1.0 / (n + 1), f"c{n}", "d", "a.md", n, n + 4, f"{question}{n}", ("Top", "Sub"), None, n + 1)
        for n in range(min(k, 10))
    ]


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return RagRetriever

    @property
    def retriever_constructor_params(self):
        return {"search": search}

    @property
    def retriever_query_example(self):
        return "why?"


# ---- beyond them -----------------------------------------------------------------------------------------------------


@pytest.fixture
def vectorstore(store):
    return RagVectorStore(store, ENCODER)


def test_a_hit_becomes_a_document_with_its_citation():
    (document,) = RagRetriever(search=search, k=1).invoke("why?")
    assert document == Document(
        id="c0",
        page_content="why?0",
        metadata={
            "doc_id": "d",
            "source": "a.md",
            "start": 0,
            "end": 4,
            "line": 1,
            "page": None,
            "heading": ["Top", "Sub"],
            "score": 1.0,
            "rank": 1,
        },
    )


async def test_options_go_with_every_search_and_those_of_a_call_come_first():
    asked = []

    def noting(question, *, k, **options):
        asked.append((k, options))
        return search(question, k=k)

    retriever = RagRetriever(search=noting, k=2, options={"max_per_document": 1, "diversity": 0.5})
    retriever.invoke("why?")
    await retriever.ainvoke("why?", k=1, diversity=0.0, neighbours=True)
    assert asked == [
        (2, {"max_per_document": 1, "diversity": 0.5}),
        (1, {"max_per_document": 1, "diversity": 0.0, "neighbours": True}),
    ]


def test_stages_and_neighbours_become_metadata():
    hit = Hit(1, 1.0, "c", "d", "a.md", 0, 4, "text", stages=Stages(dense_rank=3), after=Neighbour("n", 4, 6, "xy"))
    (document,) = RagRetriever(search=lambda _, k: [hit][:k]).invoke("why?")
    assert document.metadata["stages"]["dense_rank"] == 3
    assert document.metadata["after"] == {"chunk_id": "n", "start": 4, "end": 6, "text": "xy"}
    assert "before" not in document.metadata


async def test_the_number_of_hits_can_be_given_to_a_call_as_well():
    assert len(await RagRetriever(search=search).ainvoke("why?", k=2)) == 2
    assert len(RagRetriever(search=search).invoke("why?")) == 5


def test_an_added_text_is_one_document_with_one_chunk_and_unit_vectors(vectorstore):
    metadata = {"source": "x.md", "tags": ["a", {"b": None}], "n": 1.5, "flag": True, "\ud83d\ude00": "é"}
    text = "lone \ud800 and pair \ud83d\ude00 \r\n end"
    assert vectorstore.add_texts([text], [metadata], ids=["my id"]) == ["my id"]
    (found,) = vectorstore.similarity_search("lone", k=3)
    assert (found.id, found.page_content, found.metadata) == ("my id", text, metadata)
    (row,) = vectorstore.store.documents()
    assert (row.doc_id, row.source, row.chunks, row.characters) == ("my id", "x.md", 1, len(text))
    assert np.linalg.norm(vectorstore.store.vectors()[1], axis=1) == pytest.approx([1.0])
    assert vectorstore.store.verify() == []


def test_scores_are_cosines_best_first(vectorstore):
    vectorstore.add_texts(["red apple", "green apple", "blue sea"])
    found = vectorstore.similarity_search_with_score("red apple", k=3)
    assert [document.page_content for document, _ in found][:2] == ["red apple", "green apple"]
    assert found[0][1] == pytest.approx(1.0)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    relevant = vectorstore.similarity_search_with_relevance_scores("red apple", k=3)
    assert [score for _, score in relevant] == pytest.approx([(1 + score) / 2 for _, score in found])
    by_vector = vectorstore.similarity_search_by_vector([7.0 * x for x in ENCODER.encode_query("red apple")], k=2)
    assert [document.page_content for document in by_vector] == ["red apple", "green apple"]
    with pytest.raises(ValueError, match="no direction"):
        vectorstore.similarity_search_by_vector([0.0] * 64)


def test_equal_texts_are_embedded_once_and_all_are_found(vectorstore):
    class Counting(HashEncoder):
        seen: list[str] = []  # noqa: RUF012 - one test's tally

        def encode_passages(self, texts):
            self.seen.extend(texts)
            return super().encode_passages(texts)

    vectorstore.encoder = Counting()
    vectorstore.add_texts(["same", "same", "other"], ids=["1", "2", "3"])
    vectorstore.add_texts(["same"], ids=["4"])
    assert Counting.seen == ["same", "other"]
    assert [document.id for document in vectorstore.similarity_search("same", k=4)] == ["1", "2", "4", "3"]
    assert [document.id for document in vectorstore.similarity_search("same", k=2)] == ["1", "2"]


def test_many_texts_become_visible_together(vectorstore):
    vectorstore.add_texts([f"word{n}" for n in range(50)], batch_size=7)
    assert vectorstore.store.generation == 1
    assert len(vectorstore.similarity_search("word3", k=100)) == 50


def test_a_text_that_is_too_long_is_refused_and_nothing_is_added(vectorstore):
    with pytest.raises(TextTooLongError):
        vectorstore.add_texts(["fine", "long " * 600], batch_size=1)
    assert vectorstore.store.documents() == []
    assert vectorstore.similarity_search("fine") == []


@pytest.mark.parametrize("metadata", [{"when": object()}, {"pair": (1, 2)}, {"bytes": b""}])
def test_metadata_that_is_not_json_is_refused(vectorstore, metadata):
    with pytest.raises(ValueError, match="metadata must be JSON"):
        vectorstore.add_texts(["x"], [metadata])
    assert vectorstore.store.documents() == []


def test_nothing_is_ignored(vectorstore):
    for call in (vectorstore.similarity_search, vectorstore.max_marginal_relevance_search):
        with pytest.raises(TypeError, match="unknown options: filter"):
            call("x", filter={"a": 1})
    with pytest.raises(TypeError, match="unknown options: bulk"):
        vectorstore.add_texts(["x"], bulk=True)
    with pytest.raises(ValueError, match="do not match"):
        vectorstore.add_texts(["x", "y"], [{}])


def test_delete_without_ids_deletes_all(vectorstore):
    vectorstore.add_texts(["a", "b"])
    assert vectorstore.delete(["nobody"])
    assert len(vectorstore.similarity_search("a")) == 2
    assert vectorstore.delete()
    assert vectorstore.similarity_search("a") == []


def test_maximal_marginal_relevance(vectorstore):
    vectorstore.add_texts(["red apple", "red apple pie", "red sea"])
    plain = vectorstore.max_marginal_relevance_search("red apple", k=2, lambda_mult=1.0)
    assert [document.page_content for document in plain] == ["red apple", "red apple pie"]
    diverse = vectorstore.max_marginal_relevance_search("red apple", k=2, lambda_mult=0.3)
    assert [document.page_content for document in diverse] == ["red apple", "red sea"]
    vector = ENCODER.encode_query("red apple").tolist()
    assert vectorstore.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.3) == diverse
    assert len(vectorstore.max_marginal_relevance_search("red", k=9)) == 3
    assert len(vectorstore.as_retriever(search_type="mmr", search_kwargs={"k": 2}).invoke("red")) == 2
    vectorstore.delete()
    assert vectorstore.max_marginal_relevance_search("red") == []


def test_mmr_with_equal_texts(vectorstore):
    vectorstore.add_texts(["same", "same", "other"], ids=["1", "2", "3"])
    found = vectorstore.max_marginal_relevance_search("same", k=3, lambda_mult=0.5)
    assert [document.id for document in found] == ["1", "3", "2"]


def test_an_ingested_index_can_be_searched_and_keeps_its_citations(store):
    with store.writer() as writer:
        stage_text(writer, "doc", "first line\nsecond words", cuts=[11])
        writer.publish(roots=["/docs"])
    vectorstore = RagVectorStore(store, ENCODER)
    (found,) = vectorstore.similarity_search("second", k=1)
    assert (found.id, found.page_content) == ("doc#1", "second words")
    assert found.metadata == {
        "doc_id": "doc", "source": "doc.txt", "start": 11, "end": 23, "line": 2, "page": None, "heading": []
    }  # fmt: skip
    assert vectorstore.get_by_ids(["doc#1", "nobody", "doc#1"]) == [found]


def test_added_texts_are_found_by_meaning_although_no_token_codes_are_kept(tmp_path, encoder):
    """No word of the question is in the text that answers; one of them, "long", is in another."""
    texts = [
        "Felines slumber for sixteen hours a day.",
        "The dog barks long into the night.",
        "Rain falls on the hills.",
        "The stock market closed early.",
    ]
    with new_store(tmp_path, encoder) as store:
        RagVectorStore(store, encoder).add_texts(texts)
        found = open_retriever(store, encoder).search("How long do cats sleep?", k=4)
        (plain, *_) = open_retriever(store, encoder).search("When do kittens nap?", k=4).hits
    assert (found.question.known, found.question.readable) == (0, 1)
    assert found.weights["dense"] > 0
    assert [hit.stages.fused_rank for hit in found.hits] == [1, 2, 3, 4]
    assert {hit.text for hit in found.hits[:2]} == set(texts[:2])
    assert plain.text == texts[0]


def test_what_another_process_publishes_is_found(vectorstore):
    assert vectorstore.similarity_search("news") == []
    with Store.open(vectorstore.store.folder) as other:
        publish_texts(other, {"n": "news"})
    assert [document.page_content for document in vectorstore.similarity_search("news")] == ["news"]


def test_another_encoder_is_refused(store):
    with pytest.raises(IndexMismatchError, match=r"built with 'hashed-words' \(64-d, mean\).*'other' \(32-d, mean\)"):
        RagVectorStore(store, HashEncoder(dimension=32, name="other"))


def test_from_texts_makes_and_reopens_an_index(tmp_path):
    folder = tmp_path / "index"
    RagVectorStore.from_texts(["one"], RagEmbeddings(ENCODER), folder=str(folder)).close()
    vectorstore = RagVectorStore.from_documents([Document("two", id="2")], RagEmbeddings(ENCODER), folder=folder)
    assert len(vectorstore.similarity_search("one", k=5)) == 2
    assert isinstance(vectorstore.embeddings, RagEmbeddings)
    assert vectorstore.notice is None
    vectorstore.close()
    with pytest.raises(IndexMismatchError):
        RagVectorStore.from_texts(["x"], DeterministicFakeEmbedding(size=64), folder=folder)
    with pytest.raises(TypeError, match="unknown options"):
        RagVectorStore.from_texts(["x"], RagEmbeddings(ENCODER), folder=folder, persist=True)


def test_their_embeddings_are_brought_to_length_one():
    class Long(Embeddings):
        def embed_documents(self, texts):
            return [[3.0, 4.0] for _ in texts]

        def embed_query(self, text):
            return [0.0, 0.0] if text == "nothing" else [0.0, 2.0]

    encoder = EmbeddingsEncoder(Long(), name="long")
    assert encoder.spec.dimension == 2
    assert np.allclose(encoder.encode_passages(["a"]), [[0.6, 0.8]])
    assert encoder.encode_passages([]).shape == (0, 2)
    with pytest.raises(ValueError, match="no direction"):
        encoder.encode_query("nothing")


def test_langchains_indexing_works(vectorstore):
    from langchain_core.indexing import InMemoryRecordManager, index

    records = InMemoryRecordManager(namespace="test")
    records.create_schema()
    documents = [Document("one", metadata={"source": "1"}), Document("two", metadata={"source": "2"})]
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    first = index(documents, records, vectorstore, **options)
    again = index(documents[:1], records, vectorstore, **options)
    assert (first["num_added"], again["num_skipped"], again["num_deleted"]) == (2, 1, 1)
    assert [document.page_content for document in vectorstore.similarity_search("two")] == ["one"]


def test_searches_and_additions_from_many_threads(vectorstore):
    failed = []

    def work(name):
        try:
            for n in range(5):
                vectorstore.add_texts([f"word{n} by {name}"], ids=[f"{name}{n}"])
                if not vectorstore.similarity_search(f"word{n}", k=3):
                    failed.append(name)
        except Exception as error:  # noqa: BLE001 - reported below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(vectorstore.similarity_search("word1", k=100)) == 15
    assert vectorstore.store.verify() == []

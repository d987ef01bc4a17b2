"""Question to hits over a small ingested folder: order, duplicates, strange questions, and an index that moves on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doubles import HashEncoder, new_store, publish_texts

from retrieval.dense import open_dense
from retrieval.encoder import passage_input
from retrieval.errors import EmptyTextError, IndexMismatchError, TextTooLongError
from retrieval.records import Chunk, Document
from retrieval.retriever import Retriever
from retrieval.store import Store, embedding_key

TEXTS = {
    "try.md": "# Try\n\nThe else clause is executed when no exception was raised in the try suite.\n",
    "loops.md": "# Loops\n\nThe break statement ends the nearest enclosing loop and skips its else clause.\n",
    "cats.txt": "Cats sleep sixteen hours a day. They hunt at dusk.",
    "copy/cats.txt": "Cats sleep sixteen hours a day. They hunt at dusk.",
    "game.txt": "《战国无双3》是由光荣开发的战国无双系列的正统第三续作。本作在2009年发售。",
    "control.txt": "\u200b\u200c\u200d",
}
SIZE = len(TEXTS) - 1  # the two about cats are one


@pytest.fixture(scope="module")
def library(tmp_path_factory, put_in_index):
    folder = tmp_path_factory.mktemp("library")
    put_in_index(folder / "docs", folder / "index", TEXTS)
    return folder / "index"


@pytest.fixture
def opened(library, encoder):
    with Store.open(library) as store:
        yield store, Retriever(store, open_dense(store), encoder)


def test_the_answering_text_comes_first(opened):
    _, retriever = opened
    for question, source in [
        ("When is the else clause of a try statement executed?", "try.md"),
        ("What does break do to a loop?", "loops.md"),
        ("How long do cats sleep?", "cats.txt"),
        ("战国无双3是由哪个公司开发的？", "game.txt"),
    ]:
        assert retriever.search(question, k=3).hits[0].source == source


def test_hits_are_exact_and_in_order(opened):
    store, retriever = opened
    found = retriever.search("When is the else clause executed?", k=3)
    assert [hit.rank for hit in found.hits] == [1, 2, 3]
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert [passage.text for passage in found.passages] == [hit.text for hit in found.hits]
    assert set(found.timings_ms) == {"encode", "search", "rerank"}
    for hit in found.hits:
        document = store.document(hit.doc_id)
        assert document.text[hit.start : hit.end] == hit.text
        assert document.source == hit.source
        assert hit.line >= 1


def test_more_hits_than_texts_are_all_texts(opened):
    _, retriever = opened
    found = retriever.search("cats", k=1000)
    assert len(found.hits) == SIZE
    assert len({hit.text for hit in found.hits}) == SIZE


@pytest.mark.parametrize("k", [0, -1])
def test_no_hits_cannot_be_asked_for(opened, k):
    with pytest.raises(ValueError, match="k must be at least 1"):
        opened[1].search("cats", k=k)


def test_the_same_text_is_one_hit_with_its_other_places(opened):
    store, retriever = opened
    first, *others = retriever.search("How long do cats sleep?", k=10).hits
    (place,) = first.also_in
    assert (first.source, place.source) == ("cats.txt", "copy/cats.txt")
    assert store.document(place.doc_id).text[place.start : place.end] == first.text
    assert store.chunks_by_id([place.chunk_id])[place.chunk_id].chunk.doc_id == place.doc_id != first.doc_id
    assert first.text not in {hit.text for hit in others}


@pytest.mark.parametrize("blank", ["", " \t\r\n", "\u3000\u2003"])
def test_a_blank_question_is_refused(opened, blank):
    with pytest.raises(EmptyTextError, match="question is empty"):
        opened[1].search(blank, k=3)


@pytest.mark.parametrize(
    "question",
    ["\x00\x01\x1b[31m", "\ud800", "???", "🧑‍🚀", "\u202e\u200d", "[SEP] [CLS] </s>", "a" * 3000, "的" * 200],
)
def test_a_strange_question_gets_hits_with_low_scores(opened, question):
    found = opened[1].search(question, k=3)
    assert len(found.hits) == 3
    assert all(hit.score < 0.45 for hit in found.hits)


def test_control_characters_in_a_question_change_nothing(opened):
    plain = opened[1].search("How long do cats sleep?", k=3)
    noisy = opened[1].search("How long\x00 do cats\x07 sleep?\x1b", k=3)
    assert [hit.chunk_id for hit in noisy.hits] == [hit.chunk_id for hit in plain.hits]
    assert [hit.score for hit in noisy.hits] == pytest.approx([hit.score for hit in plain.hits])


def test_a_question_of_ten_thousand_words_says_what_to_do(opened):
    with pytest.raises(TextTooLongError) as caught:
        opened[1].search("why " * 10_000, k=3)
    assert "a question of 10002 tokens ('why why" in str(caught.value)
    assert str(caught.value).endswith("512 tokens that all-MiniLM-L6-v2 reads; ask it in fewer words")
    assert len(str(caught.value)) < 200
    assert opened[1].search("cats", k=1).hits  # and does no harm to the next one


# ---- an index that moves on ------------------------------------------------------------------------------------------


def test_follows_what_another_writer_publishes(tmp_path, put_in_index, encoder):
    folder, index = tmp_path / "docs", tmp_path / "index"
    put_in_index(folder, index, {"a.txt": "Cats sleep all day.", "b.txt": "Dogs bark at night."})
    with Store.open(index) as store:
        retriever = Retriever(store, open_dense(store), encoder)
        before = retriever.interaction
        assert retriever.search("What do birds sing?", k=5).hits[0].score < 0.45
        put_in_index(folder, index, {"c.txt": "Birds sing in the morning.", "a.txt": None})
        found = retriever.search("When do birds sing?", k=5)
        assert [hit.source for hit in found.hits] == ["c.txt", "b.txt"]
        assert retriever.interaction is not before  # and counts words anew
        put_in_index(folder, index, {"c.txt": "Fish swim."})
        assert {hit.text for hit in retriever.search("birds", k=5).hits} == {"Fish swim.", "Dogs bark at night."}


def test_an_index_built_anew_with_another_encoder_is_refused_and_stays_so(tmp_path):
    folder = tmp_path / "index"
    encoder = CountableEncoder()
    other = replace(encoder.spec, name="another", revision="2")
    with new_store(folder, encoder) as store:
        publish_texts(store, {"a": "cats sleep"}, encoder=encoder)
        retriever = Retriever(store, open_dense(store), encoder)
        assert retriever.search("cats", k=1).hits
        with store.writer(manifest=replace(store.manifest, encoder=other)) as writer:
            writer.remove(["a"])
            writer.publish(roots=["/docs"])
        for _ in range(2):
            with pytest.raises(IndexMismatchError, match=r"'another' .* while 'hashed-words' .* start again"):
                retriever.search("cats", k=1)


class CountableEncoder(HashEncoder):
    """Gives every token the id its tokenizer gives it."""

    def encode(self, texts, *, query=False):
        for encoded in super().encode(texts, query=query):
            yield replace(encoded, ids=encoded.ids * 0)


def test_an_index_without_token_codes_keeps_the_dense_order(tmp_path):
    encoder = CountableEncoder()
    texts = {"a": "red cats sleep", "b": "green dogs bark", "c": "red dogs"}
    with new_store(tmp_path / "index", encoder) as store:
        publish_texts(store, texts, encoder=encoder)
        found = Retriever(store, open_dense(store), encoder).search("dogs bark", k=3)
    assert [hit.doc_id for hit in found.hits] == ["b", "c", "a"]
    expected = encoder.encode_passages([texts[hit.doc_id] for hit in found.hits]) @ encoder.encode_query("dogs bark")
    assert [hit.score for hit in found.hits] == pytest.approx(expected.tolist(), abs=1e-6)


def add_document(store, encoder, doc_id, texts, *, contexts=None):
    """A document of one chunk a text, embedded but without token codes, as one added through LangChain."""
    whole = "".join(texts)
    contexts = contexts or [""] * len(texts)
    chunks, start = [], 0
    for number, (text, context) in enumerate(zip(texts, contexts, strict=True)):
        chunks.append(
            Chunk(f"{doc_id}#{number}", doc_id, number, start, start + len(text), text, tokens=9, context=context)
        )
        start += len(text)
    inputs = [passage_input(chunk.context, chunk.text) for chunk in chunks]
    with store.writer() as writer:
        ids = writer.add_embeddings(
            [embedding_key(encoder.spec, text) for text in inputs], encoder.encode_passages(inputs)
        )
        document = Document(doc_id, "/more", f"{doc_id}.txt", "text/plain", "", whole, content_hash="0")
        writer.stage(document, chunks, ids, [1] * len(chunks))
        writer.publish(roots=["/more"])


def test_chunks_without_token_codes_are_encoded_for_the_question(tmp_path, put_in_index, encoder):
    put_in_index(tmp_path / "docs", tmp_path / "index", {"a.txt": "Cats sleep all day.", "b.txt": "Dogs bark."})
    with Store.open(tmp_path / "index") as store:
        add_document(store, encoder, "added", ["Birds sing in the morning."], contexts=["Nature > Birds"])
        retriever = Retriever(store, open_dense(store), encoder)
        first = retriever.search("When do birds sing in nature?", k=2)
        assert store.token_codes(store.live_embeddings()).keys() != set(store.live_embeddings().tolist())
        assert (first.hits[0].doc_id, first.hits[0].context) == ("added", "Nature > Birds")
        assert first.hits[0].score > 0.45
        codes = first.passages[0].codes
        (encoded,) = encoder.encode(["Nature > Birds\nBirds sing in the morning."])
        assert codes.shape == (len(encoded.ids), 16)
        assert retriever.interaction.score_spans(first.question, first.passages[0], [(0, 26)])[0] > 0.45


def test_one_text_under_many_headings_does_not_crowd_out_the_others(tmp_path):
    """A licence in every file: every copy has its own context, so its own vector, and each is nearer than the rest."""
    encoder = CountableEncoder()
    with new_store(tmp_path / "index", encoder) as store:
        for number in range(12):
            add_document(store, encoder, f"d{number}", ["red cats sleep"], contexts=["cats " * (number + 1)])
        publish_texts(store, {"other": "dogs bark", "third": "fish swim"}, encoder=encoder)
        retriever = Retriever(store, open_dense(store), encoder, candidates=1)
        found = retriever.search("cats", k=3)
    assert {hit.text for hit in found.hits} == {"red cats sleep", "dogs bark", "fish swim"}
    assert len(found.hits[0].also_in) == 11

"""Question to hits over a small ingested folder: order, duplicates, strange questions, and an index that moves on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from doubles import HashEncoder, new_store, open_retriever, publish_texts, stage_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.analyze import Analyzer, UserDictionary
from retrieval.encoder import passage_input
from retrieval.errors import EmptyTextError, IndexMismatchError, TextTooLongError
from retrieval.filters import Filter, parse_filter
from retrieval.maintain import beside
from retrieval.records import Chunk, Document
from retrieval.store import Store, embedding_key
from retrieval.synonyms import Synonyms
from retrieval.versions import switch

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
        yield store, open_retriever(store, encoder)


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
    assert set(found.timings_ms) == {"encode", "search", "rerank", "read"}
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
    assert len(found.hits) == (3 if found.question.readable else 0)  # what nobody can read finds nothing
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
        retriever = open_retriever(store, encoder)
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
    encoder = HashEncoder()
    other = replace(encoder.spec, name="another", revision="2")
    with new_store(folder, encoder) as store:
        publish_texts(store, {"a": "cats sleep"}, encoder=encoder)
        retriever = open_retriever(store, encoder)
        assert retriever.search("cats", k=1).hits
        with beside(store, replace(store.manifest, encoder=other), wait_seconds=0.0) as draft:
            with draft.writer(locked=True) as writer:
                writer.publish(roots=["/docs"], after=store.generation)
            switch(folder, draft.folder, previous=store.folder)
        for _ in range(2):
            with pytest.raises(IndexMismatchError, match=r"'another' .* while 'hashed-words' .* start again"):
                retriever.search("cats", k=1)


def test_an_index_without_token_codes_is_searched_by_words(tmp_path):
    encoder = HashEncoder()
    with new_store(tmp_path / "index", encoder) as store:
        publish_texts(store, {"a": "red cats sleep", "b": "green dogs bark", "c": "red dogs"}, encoder=encoder)
        found = open_retriever(store, encoder).search("dogs bark", k=3)
    assert [hit.doc_id for hit in found.hits] == ["b", "c", "a"]
    assert [hit.score for hit in found.hits] == pytest.approx([hit.stages.overlap_score for hit in found.hits])
    assert found.hits[0].score == pytest.approx(1)


def add_document(store, encoder, doc_id, texts, *, contexts=None, pages=None):
    """A document of one chunk a text, embedded but without token codes, as one added through LangChain."""
    whole = "".join(texts)
    contexts, pages = contexts or [""] * len(texts), pages or [None] * len(texts)
    chunks, start = [], 0
    for number, (text, context, page) in enumerate(zip(texts, contexts, pages, strict=True)):
        span = start, start + len(text)
        chunks.append(Chunk(f"{doc_id}#{number}", doc_id, number, *span, text, tokens=9, page=page, context=context))
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
        retriever = open_retriever(store, encoder)
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
    encoder = HashEncoder()
    with new_store(tmp_path / "index", encoder) as store:
        for number in range(12):
            add_document(store, encoder, f"d{number}", ["red cats sleep"], contexts=["cats " * (number + 1)])
        publish_texts(store, {"other": "dogs bark", "third": "fish swim"}, encoder=encoder)
        retriever = open_retriever(store, encoder, candidates=1)
        found = retriever.search("cats", k=3)
    assert {hit.text for hit in found.hits} == {"red cats sleep", "dogs bark", "fish swim"}
    assert len(found.hits[0].also_in) == 11


def test_deleted_means_gone_at_once(tmp_path):
    encoder = HashEncoder()
    with new_store(tmp_path / "index", encoder) as store:
        publish_texts(store, {"a": "cats sleep", "b": "cats hunt", "c": "dogs"}, encoder=encoder, analyzer=Analyzer())
        retriever = open_retriever(store, encoder)
        assert retriever.search("cats sleep", k=1).hits[0].doc_id == "a"
        with Store.open(store.folder) as other:
            other.delete(["a"])
        found = retriever.search("cats sleep", k=9, filters=Filter(sources=("*.txt",)))
        assert [hit.doc_id for hit in found.hits] == ["b", "c"]
        publish_texts(store, {"a": "cats sleep again"}, encoder=encoder, analyzer=Analyzer())
        assert retriever.search("cats sleep", k=9).hits[0].text == "cats sleep again"


def test_an_empty_index_has_no_hits(store):
    found = open_retriever(store, HashEncoder()).search("cats", k=3)
    assert (found.hits, found.passages, found.evidence, found.dropped) == ((), (), 0, ())


# ---- filters ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Thirty documents, every third of which has the same text as another."""
    encoder = HashEncoder()
    texts = {f"d{number:02}": f"cats {number % 20} sleep" + " soundly" * (number % 4) for number in range(30)}
    with new_store(tmp_path_factory.mktemp("shelf") / "index", encoder) as store:
        publish_texts(store, texts, encoder=encoder, analyzer=Analyzer())
        yield store, encoder, texts, open_retriever(store, encoder, candidates=3, reranked=4)


@given(st.sets(st.integers(0, 29)), st.integers(1, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_is_exact_at_any_selectivity(shelf, numbers, k):
    _, encoder, texts, retriever = shelf
    allowed = {f"d{number:02}" for number in numbers}
    filters = Filter(sources=tuple(sorted(f"{one}.txt" for one in allowed)) or ("nothing.txt",))
    found = retriever.search("cats 7 soundly", k=k, filters=filters)
    different = {texts[one] for one in allowed}
    assert len(found.hits) == min(k, len(different))
    assert {hit.text for hit in found.hits} <= different
    for hit in found.hits:
        places = [hit.doc_id, *(place.doc_id for place in hit.also_in)]
        assert sorted(places) == sorted(one for one in allowed if texts[one] == hit.text)
    near = {text: float(encoder.encode_query("cats 7 soundly") @ encoder.encode_query(text)) for text in different}
    for hit in found.hits:  # a rank counts those that are allowed, and no others
        if hit.stages.dense_rank is not None:
            better = sum(score > near[hit.text] + 1e-6 for score in near.values())
            as_good = sum(abs(score - near[hit.text]) <= 1e-6 for score in near.values())
            assert better < hit.stages.dense_rank <= better + as_good


def test_a_filter_that_matches_nothing(shelf):
    for filters in (Filter(sources=("none/*",)), Filter(pages=(1, 2)), parse_filter(after="2030")):
        found = shelf[3].search("cats", k=5, filters=filters)
        assert (found.hits, found.passages, found.evidence, found.dropped) == ((), (), 0, ())


def test_a_text_in_an_allowed_and_a_forbidden_document_shows_the_allowed_place(opened):
    _, retriever = opened
    for source, other in (("/cats.txt", "copy/cats.txt"), ("copy/*", "cats.txt")):
        filters = Filter(sources=(source,)) if source != "/cats.txt" else Filter(sources=("cats.txt", "!copy/*"))
        (hit,) = retriever.search("How long do cats sleep?", k=5, filters=filters).hits
        assert hit.source != other
        assert hit.also_in == ()


def test_a_filter_of_pages_looks_at_pages(tmp_path):
    encoder = HashEncoder()
    with new_store(tmp_path / "index", encoder) as store:
        texts = ["cats sleep", "cats hunt", "cats sleep"]
        add_document(store, encoder, "paged", texts, pages=[1, 2, 3])
        retriever = open_retriever(store, encoder)
        (hit,) = retriever.search("cats sleep", k=5, filters=Filter(pages=(3, 9))).hits
        assert (hit.page, hit.also_in) == (3, ())
        (hit,) = retriever.search("cats sleep", k=5, filters=Filter(pages=(2, 2))).hits
        assert hit.text == "cats hunt"


def test_a_filter_is_decided_anew_when_the_index_changes(tmp_path):
    encoder = HashEncoder()
    filters = Filter(sources=("b*",))
    with new_store(tmp_path / "index", encoder) as store:
        publish_texts(store, {"a": "cats"}, encoder=encoder)
        retriever = open_retriever(store, encoder)
        assert retriever.search("cats", k=5, filters=filters).hits == ()
        publish_texts(store, {"b": "cats"}, encoder=encoder)
        assert [hit.doc_id for hit in retriever.search("cats", k=5, filters=filters).hits] == ["b"]


# ---- diversity, caps, neighbours -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A long document in many chunks, and two short ones."""
    encoder = HashEncoder()
    with new_store(tmp_path_factory.mktemp("cut") / "index", encoder) as store:
        with store.writer(analyzer=Analyzer()) as writer:
            long = "".join(f"cats sleep {number} " for number in range(10))
            stage_text(writer, "long", long, cuts=range(13, len(long), 13), encoder=encoder)
            stage_text(writer, "short", "cats sleep a little", encoder=encoder)
            stage_text(writer, "other", "dogs bark and cats run", encoder=encoder)
            writer.publish(roots=[])
        yield store, open_retriever(store, encoder)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_document_has_more_hits_than_it_may(cut, most):
    found = cut[1].search("cats sleep", k=6, max_per_document=most)
    documents = [hit.doc_id for hit in found.hits]
    assert max(documents.count(one) for one in documents) <= most
    assert {"short", "other"} <= set(documents) or len(documents) == 6
    assert [hit.rank for hit in found.hits] == [*range(1, len(documents) + 1)]
    reasons = {one.reason for one in found.dropped if one.source == "long.txt"}
    assert "its document has as many hits as one may have" in reasons


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A document of 150 chunks about cats, 70 of them about their sleep, beside five others about that of dogs."""
    encoder = HashEncoder()
    with new_store(tmp_path_factory.mktemp("crowd") / "index", encoder) as store:
        with store.writer(analyzer=Analyzer()) as writer:
            chunks = [f"cats {'sleep' if number < 70 else 'dream'} {number:03} " for number in range(150)]
            stage_text(writer, "cats", "".join(chunks), cuts=range(15, 15 * 150, 15), encoder=encoder)
            for number in range(5):
                stage_text(writer, f"dogs{number}", f"big dogs sleep in house {number}", encoder=encoder)
            writer.publish(roots=[])
        yield open_retriever(store, encoder)


@pytest.mark.parametrize(("k", "shown"), [(1, 1), (3, 3), (6, 6), (9, 6)])
def test_a_cap_looks_on_until_k_are_shown_or_nothing_is_left(crowd, k, shown):
    assert {hit.doc_id for hit in crowd.search("cats dream", k=60).hits} == {"cats"}
    documents = [hit.doc_id for hit in crowd.search("cats dream", k=k, max_per_document=1).hits]
    assert len(documents) == len(set(documents)) == shown
    assert documents[0] == "cats"


def test_diversity_picks_from_all_candidates_and_not_only_the_re_ranked_ones(crowd):
    assert {hit.doc_id for hit in crowd.search("cats sleep", k=60).hits} == {"cats"}
    assert len({hit.doc_id for hit in crowd.search("cats sleep", k=3, diversity=0.9).hits}) > 1


def test_diversity_shows_what_is_different(cut):
    _, retriever = cut
    plain, diverse = (retriever.search("cats sleep", k=3, diversity=mmr) for mmr in (0.0, 0.9))
    assert plain.hits[0].chunk_id == diverse.hits[0].chunk_id
    assert "other" not in {hit.doc_id for hit in plain.hits}
    assert diverse.hits[1].doc_id == "other"
    assert any(one.reason.startswith("too much like ") for one in diverse.dropped)
    with pytest.raises(ValueError, match="mmr 2"):
        retriever.search("cats", k=3, diversity=2.0)


def test_neighbours_are_the_chunks_before_and_after(cut):
    store, retriever = cut
    document = store.document("long")
    assert all(hit.before is hit.after is None for hit in retriever.search("cats sleep", k=20).hits)
    for hit in retriever.search("cats sleep", k=20, neighbours=True).hits:
        whole = store.document(hit.doc_id)
        for neighbour, first in ((hit.before, hit.start), (hit.after, hit.end)):
            outside = first in (0, len(whole.text))
            assert (neighbour is None) == outside
            if neighbour:
                assert whole.text[neighbour.start : neighbour.end] == neighbour.text
                assert first in (neighbour.start, neighbour.end)
                assert store.chunks_by_id([neighbour.chunk_id])[neighbour.chunk_id].chunk.doc_id == hit.doc_id
    assert document is not None


# ---- stages ----------------------------------------------------------------------------------------------------------


def assert_stages_agree(found):
    """What each stage says of the hits and of what was dropped is one story."""
    stages = [hit.stages for hit in found.hits] + [one.stages for one in found.dropped]
    for rank, score in (
        ("dense_rank", "dense_score"),
        ("lexical_rank", "lexical_score"),
        ("fused_rank", "fused_score"),
    ):
        listed = sorted((getattr(one, rank), -getattr(one, score)) for one in stages if getattr(one, rank) is not None)
        assert len({place for place, _ in listed}) == len(listed)
        scores = [score for _, score in listed]
        assert all(one <= other + 1e-5 for one, other in pairwise(scores))
    for one in stages:
        assert one.dense_rank is not None or one.lexical_rank is not None
        assert 0 <= one.fused_score <= 1
        assert (one.overlap_score is None) == (one.interaction_score is None)
        assert one.overlap_score is None or 0 <= one.overlap_score <= 1 + 1e-6
        assert (one.lexical_score > 0) or one.lexical_rank is None
    assert sum(found.weights.values()) == pytest.approx(1)
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert 0 <= found.evidence <= 1


def test_stages_agree_with_ranks(opened, shelf):
    for retriever in (opened[1], shelf[3]):
        for question in ("How long do cats 7 sleep soundly?", "战国无双3是由哪个公司开发的？", "of the", "???"):
            assert_stages_agree(retriever.search(question, k=3))


def test_what_came_close_is_dropped_with_a_reason(opened):
    found = opened[1].search("How long do cats sleep?", k=2)
    assert len(found.hits) + len(found.dropped) == SIZE
    assert [one.reason for one in found.dropped] == [
        f"rank {rank}, after the last one shown" for rank in range(3, SIZE + 1)
    ]
    assert not {hit.chunk_id for hit in found.hits} & {one.chunk_id for one in found.dropped}


def test_without_reranking_the_order_is_the_fused_one_and_there_is_evidence(library, encoder):
    with Store.open(library) as store:
        retriever = open_retriever(store, encoder, reranked=0)
        found = retriever.search("When is the else clause executed?", k=4)
        other = retriever.search("Who painted the ceiling of the Sistine chapel?", k=4)
    for one in (found, other):
        assert [hit.stages.fused_rank for hit in one.hits] == [1, 2, 3, 4]
        assert_stages_agree(one)
    assert all(len(passage.codes) for passage in found.passages)  # a reader still looks into them
    assert other.evidence < other.evidence_needed <= found.evidence


def test_below_what_is_reranked_the_fused_order_goes_on(library, encoder):
    with Store.open(library) as store:
        found = open_retriever(store, encoder, reranked=3).search("When is the else clause executed?", k=5)
    assert {hit.stages.fused_rank for hit in found.hits[:3]} == {1, 2, 3}
    assert [hit.stages.fused_rank for hit in found.hits[3:]] == [4, 5]
    assert [hit.stages.interaction_score is None for hit in found.hits] == [False, False, False, True, True]
    assert_stages_agree(found)


class Backwards:
    """A cross-encoder that likes short texts."""

    def __init__(self):
        self.read = []

    def scores(self, question, passages):
        self.read.append((question, list(passages)))
        return -np.array([len(passage) for passage in passages], dtype=np.float64)


def test_a_cross_encoder_orders_what_it_reads(library, encoder):
    reader = Backwards()
    with Store.open(library) as store:
        found = open_retriever(store, encoder, cross_encoder=reader, reranked=4).search("Do cats sleep?", k=4)
    ((question, passages),) = reader.read
    assert question == "Do cats sleep?"
    assert len(passages) == 4
    encoded = [passage_input(passage.context, passage.text) for passage in found.passages]
    assert encoded == sorted(passages, key=len)


# ---- the words of a question -----------------------------------------------------------------------------------------


def test_a_question_of_two_parts_finds_both(library, encoder):
    asked = "How long do cats sleep? And what does the break statement do to a loop?"
    with Store.open(library) as store:
        found = open_retriever(store, encoder).search(asked, k=3)
        whole = open_retriever(store, encoder, split_questions=False).search(asked, k=3)
    assert found.parts == ("How long do cats sleep?", "what does the break statement do to a loop?")
    assert {"cats.txt", "loops.md"} <= {hit.source for hit in found.hits}
    assert whole.parts == ()
    assert_stages_agree(whole)


def test_synonyms_find_what_the_words_alone_do_not(tmp_path):
    encoder, analyzer = HashEncoder(), Analyzer()
    (tmp_path / "synonyms.txt").write_text("car, motor vehicle, 汽车\n", encoding="utf-8")
    synonyms = Synonyms.load(tmp_path / "synonyms.txt", analyzer)
    texts = {"a": "a motor vehicle in the garage", "b": "the garden behind a house", "c": "红色的汽车在路上"}
    with new_store(tmp_path / "index", encoder) as store:
        publish_texts(store, texts, encoder=encoder, analyzer=analyzer)
        alone = open_retriever(store, encoder).search("Whose car is it?", k=3)
        found = open_retriever(store, encoder, synonyms=synonyms).search("Whose car is it?", k=3)
        (own, *_) = open_retriever(store, encoder, synonyms=synonyms).search("a garden car", k=3).hits
    assert all(hit.stages.lexical_rank is None for hit in alone.hits)
    assert {hit.doc_id for hit in found.hits[:2]} == {"a", "c"}
    assert [hit.stages.lexical_rank for hit in found.hits[2:]] == [None]
    assert [(one.phrase, one.added) for one in found.expansions] == [("car", "motor vehicle"), ("car", "汽车")]
    assert own.doc_id == "b"  # the word itself weighs more than what stands for another


def test_a_word_of_the_users_dictionary_is_found_as_one(tmp_path):
    (tmp_path / "words.txt").write_text("hot dog 100\n", encoding="utf-8")
    analyzer, encoder = Analyzer(UserDictionary.load(tmp_path / "words.txt")), HashEncoder()
    texts = {"a": "a dog in the hot sun", "b": "a stand that sells hot dog and mustard with bread", "c": "fish swim"}
    with new_store(tmp_path / "index", encoder) as store:
        publish_texts(store, texts, encoder=encoder, analyzer=analyzer)
        found = open_retriever(store, encoder, analyzer=analyzer).search("hot dog", k=3)
    assert set(found.terms) == {"hot", "dog", "hot_dog"}
    assert found.hits[0].doc_id == "b"


@pytest.mark.parametrize("question", ["of the and", "的了是", "ᚠᚢᚦᚨᚱᚲ", "ⲁⲃⲅ ⲇⲉⲍ", "\x00", "...", "\u202e"])
def test_a_question_without_a_word_anybody_knows(opened, question):
    found = opened[1].search(question, k=1000)
    assert len(found.hits) == (SIZE if found.question.readable else 0)
    assert found.evidence < found.evidence_needed
    assert_stages_agree(found)

"""The reader without a language model: what it quotes is verbatim, marked, from what was retrieved, or nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np
import pytest
from doubles import TermsOf, open_retriever
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reader.backends.extractive import PASSAGES_READ, ExtractiveReader
from reader.reader import REFUSAL, question_language
from reader.sentences import LONGEST as MAX_QUOTE_CHARS
from reader.sentences import pieces
from retrieval.analyze import Analyzer
from retrieval.encoder import passage_input
from retrieval.errors import RagError
from retrieval.interaction import Interaction, Passage, SignCodec
from retrieval.records import Document, Hit, Span, Stages
from retrieval.retriever import Retrieved
from retrieval.statistics import Statistics
from retrieval.store import Store

ELSE = (
    "# Compound statements\r\n\r\nThe try statement specifies exception handlers.\r\nThe optional else clause is "
    "executed if no exception was raised. Exceptions in the else clause are not handled by the except clauses.\r\n"
)
CATS = "Cats sleep sixteen hours a day. They hunt at dusk and at dawn."
GAME = "《战国无双3》是由光荣开发的战国无双系列的正统第三续作。本作在2009年12月3日发售。游戏没有中文版。"
TEXTS = {"else.md": ELSE, "cats.txt": CATS, "game.txt": GAME}
NEEDED = 0.45


class Desk:
    """Documents, hits over them in order of their score, and a reader: retrieval without an index."""

    def __init__(self, encoder):
        self.encoder = encoder
        encoded = list(encoder.encode(list(TEXTS.values())))
        common = encoder.encode([text[:800] for _, text in sorted(topics.items())[:25]])
        self.codec = SignCodec.fit(np.concatenate([one.tokens for one in (*encoded, *common)]))
        statistics = Statistics(encoder.tokenizer.get_vocab_size())
        for one in encoded:
            statistics.add(one.ids.tolist())
        self.analyzer = Analyzer()
        self.interaction = Interaction(encoder, self.codec, statistics, self.analyzer, TermsOf(*TEXTS.values()))
        self.looked_up = []

    def retrieve(self, question, slices):
        """(document, start, end) of each chunk -> what a retriever would return; the best match is the evidence."""
        asked = self.interaction.question(question)
        texts = [document.text[start:end] for document, start, end in slices]
        passages = [
            Passage(text, self.codec.encode(encoded.tokens))
            for text, encoded in zip(
                texts, self.encoder.encode([passage_input("", text) for text in texts]), strict=True
            )
        ]
        scores = self.interaction.match(
            asked,
            self.interaction.compare(asked, [passage.codes for passage in passages]).whole,
            np.array([sum(asked.term_weights.get(term, 0) for term in self.analyzer.term_set(text)) for text in texts]),
        )
        hits, ordered = [], []
        for rank, index in enumerate(np.argsort(-scores, kind="stable"), start=1):
            document, start, end = slices[index]
            hits.append(
                Hit(rank, float(scores[index]), f"{document.doc_id}#{start}-{end}", document.doc_id, document.source,
                    start, end, document.text[start:end], stages=Stages(interaction_score=float(scores[index])))
            )  # fmt: skip
            ordered.append(passages[index])
        evidence = float(np.clip(scores.max(), 0, 1)) if len(scores) else 0.0
        return Retrieved(asked, tuple(hits), tuple(ordered), evidence, NEEDED, {"search": 1.0})

    def reader(self, documents, **options):
        known = {document.doc_id: document for document in documents}

        def look_up(doc_id):
            self.looked_up.append(doc_id)
            return known[doc_id]

        return ExtractiveReader(self.interaction, look_up, **options)

    def ask(self, question, documents, **options):
        slices = [(document, 0, len(document.text)) for document in documents]
        return self.reader(documents, **options).read(self.retrieve(question, slices))


@pytest.fixture(scope="module")
def desk(encoder):
    return Desk(encoder)


def document(doc_id, text, *, spans=()):
    return Document(doc_id, "/docs", f"{doc_id}.txt", "text/plain", doc_id, text, spans)


def assert_sound(answer, documents):
    """Every promise an answer makes, whatever it says."""
    by_id = {each.doc_id: each for each in documents}
    if answer.abstained:
        assert (answer.citations, answer.matches) == ((), ())
        assert answer.text == REFUSAL[question_language(answer.question)]
        return
    assert answer.citations
    assert [citation.marker for citation in answer.citations] == [*range(1, len(answer.citations) + 1)]
    assert answer.text == " ".join(f"{citation.quote} [{citation.marker}]" for citation in answer.citations)
    hits = {hit.chunk_id: hit for hit in answer.hits}
    for citation in answer.citations:
        source, hit = by_id[citation.doc_id], hits[citation.chunk_id]
        assert citation.quote.strip() == citation.quote != ""
        assert citation.quote == source.text[citation.start : citation.end]
        assert citation.quote == hit.text[citation.start - hit.start : citation.end - hit.start]
        assert hit.start <= citation.start < citation.end <= hit.end
        assert (citation.source, citation.doc_id) == (hit.source, hit.doc_id)
        assert citation.line == source.line_at(citation.start)
    spans = sorted((citation.doc_id, citation.start, citation.end) for citation in answer.citations)
    for (one, _, end), (other, start, _) in pairwise(spans):
        assert one != other or end <= start, "two quotes overlap"
    assert len({citation.quote for citation in answer.citations}) == len(answer.citations)
    for marker in range(1, len(answer.citations) + 1):
        (citation,) = [one for one in answer.citations if one.marker == marker]
        matches = [match for match in answer.matches if match.marker == marker]
        assert sum(match.weight for match in matches) <= 1 + 1e-6
        for match in matches:
            assert citation.start <= match.start < match.end <= citation.end
            assert 0 <= match.question_start < match.question_end <= len(answer.question)


# ---- what it quotes --------------------------------------------------------------------------------------------------


def test_quotes_the_sentence_that_answers(desk):
    documents = [document(name, text) for name, text in TEXTS.items()]
    answer = desk.ask("When is the else clause executed?", documents, max_sentences=1)
    assert answer.text == "The optional else clause is executed if no exception was raised. [1]"
    (citation,) = answer.citations
    assert (citation.doc_id, citation.line, citation.page, citation.heading) == ("else.md", 4, None, ())
    assert (answer.reader.name, answer.prompt, answer.timings_ms) == ("extractive", None, {"search": 1.0})
    assert NEEDED <= answer.evidence <= 1
    assert_sound(answer, documents)
    asked = {answer.question[match.question_start : match.question_end] for match in answer.matches}
    assert {"else", "clause", "executed"} <= asked


def test_answers_in_chinese(desk):
    documents = [document(name, text) for name, text in TEXTS.items()]
    answer = desk.ask("本作在哪一年发售？", documents, max_sentences=1)
    assert answer.text == "本作在2009年12月3日发售。 [1]"
    assert_sound(answer, documents)


def test_line_page_and_heading_are_those_of_the_quote(desk):
    first, second = "Dogs bark at night.\n", "Habits\n\nCats sleep sixteen hours a day.\n"
    spans = (
        Span("page", 0, len(first), 1),
        Span("page", len(first), len(first + second), 2),
        Span("heading", len(first), len(first) + 6, 1, "Habits"),
    )
    source = document("pages", first + second, spans=spans)
    answer = desk.ask("How many hours a day do cats sleep?", [source], max_sentences=1)
    (citation,) = answer.citations
    assert (citation.quote, citation.line, citation.page) == ("Cats sleep sixteen hours a day.", 4, 2)
    assert citation.heading == ("Habits",)


def test_offsets_count_from_the_start_of_the_document(desk):
    before = "An introduction of no interest.\r\n" * 3
    source = document("late", before + CATS)
    found = desk.retrieve("How many hours do cats sleep?", [(source, len(before), len(source.text))])
    answer = desk.reader([source], max_sentences=1).read(found)
    (citation,) = answer.citations
    assert (citation.start, citation.line) == (len(before), 4)
    assert_sound(answer, [source])


def test_neighbours_are_joined_and_the_white_space_between_them_stays(desk):
    source = document("two", "Cats sleep sixteen hours a day.\r\n  Cats sleep at noon and at night.")
    answer = desk.ask("How many hours a day do cats sleep?", [source], max_sentences=2)
    (citation,) = answer.citations
    assert citation.quote == source.text
    assert answer.text == f"{source.text} [1]"
    assert_sound(answer, [source])


def test_sentences_apart_are_cited_one_by_one(desk):
    documents = [document("one", "Cats sleep sixteen hours a day."), document("two", "Cats sleep more hours at home.")]
    answer = desk.ask("How many hours do cats sleep?", documents, max_sentences=2)
    assert sorted(citation.doc_id for citation in answer.citations) == ["one", "two"]
    assert_sound(answer, documents)


def test_a_sentence_in_two_overlapping_chunks_is_quoted_once(desk):
    text = "Cats sleep sixteen hours a day. Some cats sleep twenty hours a day. Old cats sleep all day."
    source = document("overlap", text)
    middle, last = text.index("Some"), text.index("Old")
    slices = [(source, 0, last - 1), (source, middle, len(text))]
    answer = desk.reader([source], max_sentences=3).read(desk.retrieve("How many hours do cats sleep?", slices))
    assert_sound(answer, [source])
    quoted = " ".join(citation.quote for citation in answer.citations)
    assert quoted.count("twenty hours") == 1


def test_a_sentence_that_documents_share_is_quoted_once(desk):
    shared = "Cats sleep sixteen hours a day."
    documents = [document("one", f"{shared} Dogs bark."), document("two", f"Fish swim. {shared}")]
    answer = desk.ask("How many hours a day do cats sleep?", documents, max_sentences=3)
    assert_sound(answer, documents)
    assert answer.text.count(shared) == 1


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_sentences_than_asked_for(desk, most):
    documents = [document(f"d{number}", f"Cats sleep {number} hours a day.") for number in range(5)]
    answer = desk.ask("How many hours a day do cats sleep?", documents, max_sentences=most)
    assert len(answer.citations) == min(most, PASSAGES_READ)
    assert_sound(answer, documents)


def test_only_the_best_passages_are_read(desk):
    documents = [document(f"d{number}", f"Cats sleep {number} hours a day.") for number in range(6)]
    answer = desk.ask("How many hours a day do cats sleep?", documents, max_sentences=3)
    assert len(answer.hits) == 6
    assert {citation.doc_id for citation in answer.citations} <= {hit.doc_id for hit in answer.hits[:PASSAGES_READ]}


def test_only_documents_that_are_read_are_looked_up(desk):
    desk.looked_up.clear()
    documents = [document(f"d{number}", f"Cats sleep {number} hours a day.") for number in range(6)]
    desk.ask("How many hours a day do cats sleep?", documents, max_sentences=1)
    assert len(desk.looked_up) == len(set(desk.looked_up)) == PASSAGES_READ


def test_headings_and_questions_point_at_the_answer_but_are_none(desk):
    text = "# How long do cats sleep?\n\nDo cats sleep long? Cats sleep sixteen hours a day.\n"
    source = document("faq", text, spans=(Span("heading", 0, 25, 1, "How long do cats sleep?"),))
    answer = desk.ask("How long do cats sleep?", [source], max_sentences=1)
    assert [citation.quote for citation in answer.citations] == ["Cats sleep sixteen hours a day."]


def test_a_sentence_that_announces_a_list_is_quoted_with_it(desk):
    text = "Cats sleep in these places:\n\n- sofas\n- beds\n\nDogs bark.\n"
    answer = desk.ask("In which places do cats sleep?", [document("list", text)], max_sentences=1)
    assert [citation.quote for citation in answer.citations] == ["Cats sleep in these places:\n\n- sofas\n- beds"]


def test_a_long_stretch_without_sentences_is_quoted_in_part(desk):
    log = "".join(f"12:00:{number:02} server {number} started without a word\n" for number in range(40))
    source = document("log", log + "12:01:00 cats sleep sixteen hours a day\n")
    answer = desk.ask("How many hours a day do cats sleep?", [source], max_sentences=1)
    (citation,) = answer.citations
    assert "cats sleep sixteen hours a day" in citation.quote
    assert len(citation.quote) <= MAX_QUOTE_CHARS
    assert_sound(answer, [source])


@given(st.text(alphabet=st.sampled_from("ab \n\r\te\u0301🧑\u200d"), max_size=60).map(lambda text: text * 80))
@settings(max_examples=40, deadline=None)
def test_pieces_cover_a_stretch_in_order_and_are_short(text):
    found = pieces(text, 0, len(text))
    assert "".join("".join(text[start:end].split()) for start, end in found) == "".join(text.split())
    ends = [0, *(end for _, end in found)]
    for (start, end), before in zip(found, ends, strict=False):
        assert before <= start < end
        assert end - start <= MAX_QUOTE_CHARS
        assert text[start:end].strip() == text[start:end]


def test_a_document_that_changed_meanwhile_is_not_quoted(desk):
    old, new = document("cats", CATS), document("cats", f"New! {CATS}")
    found = desk.retrieve("How many hours do cats sleep?", [(old, 0, len(CATS))])
    with pytest.raises(RagError, match=r"'cats\.txt' changed in the index while it was read; ask again"):
        desk.reader([new]).read(found)


SENTENCE = st.sampled_from(
    ["Cats sleep sixteen hours a day.", "The else clause is executed.", "战国无双3是由光荣开发的。", "Dr. No!",
     "x = f('[SEP]')", "\x00\ud800", "e\u0301 🧑‍🚀", "[1]", "- item", "| a | b |", "```", "Does it? Yes", "。",
     "a" * 300]
)  # fmt: skip
BREAK = st.sampled_from([" ", "\n", "\r\n", "\n\n", "", "\t", "\u3000", "\r"])
TEXT = st.lists(st.tuples(SENTENCE, BREAK), min_size=1, max_size=8).map(
    lambda parts: "".join(sentence + gap for sentence, gap in parts)
)
QUESTION = st.sampled_from(
    [
        "How long do cats sleep?",
        "When is the else clause executed?",
        "战国无双3是谁开发的？",
        "[1] [SEP]",
        "\ud800",
        "e?",
    ]
)


@given(QUESTION, st.lists(TEXT, min_size=1, max_size=3), st.integers(1, 3), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_answer_is_sound(desk, question, texts, most, data):
    documents = [document(f"d{number}", text) for number, text in enumerate(texts)]
    slices = []
    for each in documents:  # chunks with an overlap
        cut = data.draw(st.integers(0, len(each.text)))
        overlap = data.draw(st.integers(0, min(20, cut)))
        slices += [(each, start, end) for start, end in ((0, cut), (cut - overlap, len(each.text))) if start < end]
    found = desk.retrieve(question, slices)
    answer = desk.reader(documents, max_sentences=most, min_evidence=0.0).read(found)
    assert_sound(answer, documents)
    assert len(answer.citations) <= most
    assert answer.hits == found.hits
    assert answer.question == question


# ---- when it says nothing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Who painted the ceiling of the Sistine chapel?", "en"),
        ("???", "en"),
        ("\x00\x01", "en"),
        ("太阳系中最大的行星是哪一颗？", "zh"),
    ],
)
def test_abstains_where_the_evidence_is_weak(desk, question, language):
    documents = [document(name, text) for name, text in TEXTS.items()]
    answer = desk.ask(question, documents)
    assert answer.abstained
    assert answer.text == REFUSAL[language]
    assert len(answer.hits) == 3  # to show where it looked
    assert_sound(answer, documents)


def test_abstains_without_hits(desk):
    answer = desk.ask("When is the else clause executed?", [])
    assert (answer.abstained, answer.evidence, answer.hits, answer.text) == (True, 0, (), REFUSAL["en"])
    assert desk.ask("战国无双", []).text == REFUSAL["zh"]
    assert desk.ask("cats", [], min_evidence=0.0).abstained


def test_the_threshold_can_be_set(desk):
    documents = [document("cats", CATS)]
    question = "How many hours do cats sleep?"
    evidence = desk.ask(question, documents).evidence
    assert not desk.ask(question, documents, min_evidence=evidence - 1e-6).abstained
    assert desk.ask(question, documents, min_evidence=evidence + 1e-6).abstained
    assert desk.ask(question, documents, min_evidence=1.0).abstained
    assert not desk.ask("Who painted the Sistine chapel?", documents, min_evidence=0.0).abstained


def test_blank_passages_hold_no_answer(desk):
    answer = desk.ask("cats", [document("blank", " \n\t\u3000")], min_evidence=0.0)
    assert answer.abstained


def test_evidence_and_threshold_are_those_of_the_retrieval(desk):
    """However well a sentence matches: whether there is an answer at all was decided over all that was found."""
    source = document("cats", CATS)
    found = desk.retrieve("How many hours do cats sleep?", [(source, 0, len(CATS))])
    for evidence, needed, abstains in ((0.3, 0.31, True), (0.3, 0.3, False), (0.0, 0.0, False), (1.0, 1.0, False)):
        answer = desk.reader([source]).read(replace(found, evidence=evidence, evidence_needed=needed))
        assert (answer.abstained, answer.evidence) == (abstains, evidence)
        assert_sound(answer, [source])
    strict = desk.reader([source], min_evidence=0.9).read(replace(found, evidence=0.8, evidence_needed=0.1))
    assert strict.abstained  # what was asked for comes before what was calibrated


def test_passages_without_token_codes_are_read_by_their_words(desk):
    statistics = Statistics(desk.encoder.tokenizer.get_vocab_size())
    plain = Interaction(desk.encoder, None, statistics, desk.analyzer, TermsOf(CATS))
    hit = Hit(1, 0.4, "cats#0", "cats", "cats.txt", 0, len(CATS), CATS)
    none = Passage(CATS, np.zeros((0, 0), np.uint8))
    found = Retrieved(plain.question("Do cats hunt at dusk and dawn?"), (hit,), (none,), 0.9, NEEDED, {})
    answer = ExtractiveReader(plain, lambda _: document("cats", CATS), max_sentences=1).read(found)
    assert answer.text == "They hunt at dusk and at dawn. [1]"
    assert_sound(answer, [document("cats", CATS)])


# ---- over a real index -----------------------------------------------------------------------------------------------


def test_over_an_index_of_files(tmp_path, put_in_index, encoder):
    long = "".join(f"Paragraph {number} says nothing of interest at all.\r\n\r\n" for number in range(120))
    texts = {**TEXTS, "long.md": f"{long}# Birds\r\n\r\nBirds sing in the early morning.\r\n\r\n{long}"}
    put_in_index(tmp_path / "docs", tmp_path / "index", texts)
    with Store.open(tmp_path / "index") as store:
        retriever = open_retriever(store, encoder)
        reader = ExtractiveReader(retriever.interaction, store.document, min_evidence=0.0, max_sentences=1)
        documents = [store.document(row.doc_id) for row in store.documents()]
        for question, quote, line, heading in [
            ("When do birds sing?", "Birds sing in the early morning.", 243, ("Birds",)),
            ("When is the else clause executed?", "The optional else clause is executed if no exception was raised.",
             4, ("Compound statements",)),
        ]:  # fmt: skip
            answer = reader.read(retriever.search(question, k=5))
            (citation,) = answer.citations
            assert (citation.quote, citation.line, citation.heading) == (quote, line, heading)
            assert texts[citation.source][citation.start : citation.end] == quote
            assert_sound(answer, documents)


# ---- the language of a refusal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("When is it?", "en"),
        ("什么时候发售？", "zh"),
        ("Python 的 else 子句什么时候执行？", "zh"),
        ("Python GIL 是什么", "zh"),
        ("What does 战国无双 mean?", "en"),
        ("いつ発売されましたか", "en"),
        ("", "en"),
        ("123", "en"),
        ("🧑‍🚀\ud800", "en"),
    ],
)
def test_question_language(question, language):
    assert question_language(question) == language


def test_a_refusal_holds_no_marker():
    assert not any(re.search(r"\[\d+\]", sentence) for sentence in REFUSAL.values())

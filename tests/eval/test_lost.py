"""Where a question was lost: every stage by hand, and that there is exactly one, or none, whatever comes in."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.lost import lost
from eval.records import Candidate, Choice, Example, Lost, Prediction, Stage
from reader.records import Citation, Sentence
from retrieval.records import Hit, Place

EXAMPLE = Example("q1", "When was the lighthouse built?", answers=("1832",), relevant={"coast.md": 1}, answerable=True)


def hit(chunk_id: str, rank: int = 1, *, source: str = "other.md", also: tuple[Place, ...] = ()) -> Hit:
    return Hit(rank, 1.0, chunk_id, "d", source, 0, 4, "text", also_in=also)


def candidate(chunk_id: str, dense: int | None, lexical: int | None, fused: int | None) -> Candidate:
    return Candidate(chunk_id, ("coast.md" if chunk_id == "gold" else "other.md",), dense, lexical, fused)


def cited(chunk_id: str = "gold", *, source: str = "coast.md", quote: str = "It was built in 1832.") -> Citation:
    return Citation(1, chunk_id, "d", source, 0, len(quote), quote, 1, None)


def predicted(**fields: object) -> Prediction:
    return replace(Prediction("q1", EXAMPLE.question, answer="In 1832.", abstained=False), **fields)  # type: ignore[arg-type]


def where(prediction: Prediction, example: Example = EXAMPLE, **known: object) -> Lost | None:
    usual = {"gold_passages": ("gold",), "missing": (), "correct": False, "k": 3, "reranked": 60}
    return lost(example, prediction, **{**usual, **known})  # type: ignore[arg-type]


FILL = tuple(candidate(f"c{at}", at, at, at) for at in range(1, 7))
READ = predicted(hits=(hit("c1"), hit("gold", 2)), read=("c1", "gold"), citations=(cited("c1"),))
LEFT_OUT = " but left out, as too like a better one or one too many of its document"
RETRIEVED = replace(READ, answer=None, abstained=None, citations=(), read=())

GOLDEN = [
    (
        "an error is a loss, whatever is known",
        predicted(answer=None, error="the model\nran out of memory"),
        {"gold_passages": ()},
        "failed",
        "no answer, because of an error: the model ran out of memory",
    ),
    (
        "the document was never ingested",
        predicted(),
        {"gold_passages": (), "missing": ("coast.md",)},
        "not in index",
        "no relevant document is in the index: coast.md",
    ),
    (
        "neither list brought it up",
        predicted(hits=(hit("c1"),), candidates=FILL),
        {},
        "not retrieved",
        "no passage that holds the answer is among the 6 passages that the search looked at",
    ),
    (
        "both lists and the fused order have it below what is re-ranked",
        predicted(candidates=(*FILL, candidate("gold", 80, None, 75))),
        {},
        "lost in fusion",
        "found at rank 80 by meaning, fused to 75; the first 60 are re-ranked",
    ),
    (
        "one list had it, the fused order did not",
        predicted(candidates=(*FILL, candidate("gold", None, 14, 66))),
        {},
        "lost in fusion",
        "found at rank 14 by words, fused to 66; the first 60 are re-ranked",
    ),
    (
        "the same where nothing is re-ranked: the head is what is read",
        predicted(candidates=(*FILL, candidate("gold", 2, 40, 7))),
        {"reranked": 0},
        "lost in fusion",
        "found at rank 40 by words and 2 by meaning, fused to 7; the reader reads 3",
    ),
    (
        "re-ranked to the seventh place",
        predicted(hits=(hit("c1"),), candidates=(*FILL, candidate("gold", 60, 14, 18))),
        {},
        "lost in re-ranking",
        "found at rank 14 by words and 60 by meaning, fused to 18, re-ranked to 7; the reader reads 3",
    ),
    (
        "re-ranked high enough, and left out for another reason",
        predicted(hits=(hit("c1"),), candidates=(FILL[0], candidate("gold", 1, 1, 1))),
        {},
        "lost in re-ranking",
        "found at rank 1 by words and 1 by meaning, fused to 1, re-ranked to 2" + LEFT_OUT + "; the reader reads 3",
    ),
    (
        "no room in the prompt",
        replace(READ, read=("c1",)),
        {},
        "cut from the prompt",
        "hit 2 of 2 holds the answer, but was not among the 1 passages read",
    ),
    (
        "too little evidence: no prompt was written, so nothing was cut from it",
        replace(READ, read=(), abstained=True, abstention="evidence", evidence=0.21),
        {},
        "wrongly abstained",
        "hit 2 of 2 holds the answer, but the evidence (0.21) was found too little to ask the reader",
    ),
    (
        "the model refused",
        replace(READ, abstained=True, abstention="model"),
        {},
        "wrongly abstained",
        "hit 2 of 2 holds the answer and was read, but the reader itself refused to answer",
    ),
    (
        "the reader read it and said something else",
        READ,
        {},
        "reader missed it",
        "hit 2 of 2 holds the answer and was read, but the answer given is not right; it cites other passages",
    ),
    (
        "the reader cited it and said something else",
        replace(READ, citations=(cited("gold"),)),
        {},
        "reader missed it",
        "hit 2 of 2 holds the answer and was read, but the answer given is not right, though it cites this passage",
    ),
    (
        "right, with the source of something else",
        replace(READ, citations=(cited("c1", source="other.md", quote="There are 18321 steps."),)),
        {"correct": True},
        "citation wrong",
        "the answer is right, but other.md is cited, which does not hold it",
    ),
    (
        "right, without a source",
        replace(READ, citations=()),
        {"correct": True},
        "citation wrong",
        "the answer is right, but nothing is cited",
    ),
    (
        "right, and a sentence beside it is not borne out",
        replace(
            READ,
            citations=(cited(),),
            sentences=(Sentence(0, 4, (1,), "supported", 0.9), Sentence(5, 8, (1, 3), "contradicted-number", 0.1)),
        ),
        {"correct": True},
        "citation wrong",
        "the answer is right, but [1], [3] does not bear out sentence 2",
    ),
    ("retrieval alone: found", RETRIEVED, {"correct": None}, None, ""),
    (
        "retrieval alone: not found",
        replace(RETRIEVED, hits=(hit("c1"),), candidates=(*FILL, candidate("gold", 4, 4, 4))),
        {"correct": None},
        "lost in re-ranking",
        "found at rank 4 by words and 4 by meaning, fused to 4, re-ranked to 7; 3 are shown",
    ),
]


@pytest.mark.parametrize(
    ("prediction", "known", "stage", "why"), [case[1:] for case in GOLDEN], ids=[g[0] for g in GOLDEN]
)
def test_every_stage(prediction, known, stage, why):
    found = where(prediction, **known)
    assert found == (Lost(stage, why) if stage else None)


def test_the_golden_cases_show_every_stage_of_an_answerable_question():
    assert {case[3] for case in GOLDEN} == {*get_args(Stage), None} - {
        "answered without an answer in the documents",
        "wrong",
    }


def test_a_right_answer_with_a_good_citation_is_not_lost_even_if_the_gold_passage_was_not_found():
    by_passage, by_document = cited("gold", source="?", quote="?"), cited("c9", quote="?")
    for good in (by_passage, by_document, cited("c9", source="else.md", quote="Built 1832, tall")):
        assert where(predicted(citations=(good,)), correct=True) is None


def test_an_answer_is_found_in_a_quote_as_whole_words_and_in_chinese_text_anywhere():
    def quoted(quote: str, answer: str) -> Lost | None:
        example = Example("q", "?", answers=(answer,))
        return where(predicted(citations=(cited("c9", quote=quote),)), example, correct=True, gold_passages=())

    assert quoted("灯塔建于一八三二年。", "一八三二年") is None
    assert quoted("The Ran river", "ran") is None
    assert quoted("ＦＲＡＮＣＥ, in full-width letters", "France") is None
    assert quoted("In France", "ran") is not None
    assert quoted("灯塔建于一八三二年。", "一九三二年") is not None


def test_the_same_text_in_another_place_is_the_gold_passage():
    place = Place("gold", "d2", "coast.md", 0, 4)
    found = replace(RETRIEVED, hits=(hit("c1", also=(place,)),))
    assert where(found, correct=None) is None
    assert where(found, correct=None, gold_passages=()) is None
    right = replace(found, answer="1832", abstained=False, citations=(cited("c1", source="x", quote=""),))
    assert where(right, correct=True) is None
    twin = replace(RETRIEVED, hits=(), candidates=(*FILL[1:], Candidate("c1", ("other.md",), 1, 9, 2, ("gold",))))
    missed = where(twin, correct=None)
    assert missed is not None
    assert missed.stage == "lost in re-ranking"


def test_a_reader_may_read_more_than_is_shown():
    read = predicted(hits=(hit("c1"),), candidates=(*FILL, candidate("gold", 7, 7, 7)), read=("c1", "c2", "c3", "gold"))
    assert where(read) == Lost(
        "reader missed it", "a passage below the hits holds the answer and was read, but the answer given is not right"
    )
    unread = replace(read, read=("c1", "c2", "c3", "c4"))
    missed = where(unread)
    assert missed is not None
    assert (missed.stage, missed.why[-18:]) == ("lost in re-ranking", "the reader reads 4")


def test_without_gold_passages_any_passage_of_a_relevant_document_counts():
    by_document = {"gold_passages": (), "correct": None}
    assert where(replace(RETRIEVED, hits=(hit("c1", source="coast.md"),)), **by_document) is None
    missed = where(replace(RETRIEVED, hits=(hit("c1"),), candidates=FILL), **by_document)
    assert missed == Lost(
        "not retrieved", "no passage that is of a relevant document is among the 6 passages that the search looked at"
    )
    two = replace(EXAMPLE, relevant={"coast.md": 1, "gone.md": 2})
    assert where(replace(RETRIEVED, hits=(hit("c1", source="gone.md"),)), two, missing=("gone.md",), **by_document)


def test_documents_have_the_names_of_the_dataset_in_candidates_and_those_of_the_index_in_hits():
    indexed_as = (hit("c1", source="docs/coast.md"), hit("c2", 2))
    named = (Candidate("c1", ("coast.md",), 1, 1, 1), Candidate("c2", ("other.md",), 2, 2, 2))
    found = replace(RETRIEVED, hits=indexed_as, candidates=named)
    assert where(found, gold_passages=(), correct=None) is None
    right = replace(found, answer="1832", abstained=False)
    good, bad = (cited(chunk_id, source="docs/x.md", quote="?") for chunk_id in ("c1", "c2"))
    assert where(replace(right, citations=(good,)), gold_passages=(), correct=True) is None
    assert where(replace(right, citations=(bad,)), gold_passages=(), correct=True) is not None


def test_a_question_the_documents_cannot_answer():
    unanswerable = Example("q1", "Who lives on the moon?", answerable=False)
    answered = where(predicted(evidence=0.724), unanswerable, gold_passages=(), correct=False)
    assert answered == Lost(
        "answered without an answer in the documents",
        "the documents hold no answer; it was answered anyway (evidence 0.72)",
    )
    assert where(predicted(abstained=True), unanswerable, gold_passages=(), correct=True) is None
    assert where(RETRIEVED, unanswerable, gold_passages=(), correct=None) is None
    assert where(predicted(answer=None, choice=1), unanswerable, gold_passages=(), correct=None) is not None


def test_of_several_gold_passages_the_one_that_came_furthest_counts():
    both = predicted(candidates=(FILL[0], candidate("gold", 70, 3, 61), candidate("g2", 30, 30, 30)))
    found = where(both, gold_passages=("gold", "g2"))
    assert found is not None
    assert found.stage == "lost in re-ranking"
    below = predicted(candidates=(candidate("gold", 90, 90, 90), candidate("g2", None, 5, 75)))
    found = where(below, gold_passages=("gold", "g2"))
    assert found == Lost("lost in fusion", "found at rank 5 by words, fused to 75; the first 60 are re-ranked")


def test_where_no_gold_is_known_the_reader_is_judged_alone():
    known_by_a_judge = Example("q1", "Why?", required=(("storm", "gale"),))
    found = where(predicted(), known_by_a_judge, gold_passages=())
    assert found == Lost(
        "reader missed it", "which passage holds the answer is not known; the answer given is not right"
    )
    answerable = Example("q1", "Why?", answerable=True)
    assert where(predicted(), answerable, gold_passages=(), correct=None) is None
    found = where(predicted(abstained=True, abstention="model"), answerable, gold_passages=(), correct=None)
    assert found is not None
    assert found.stage == "wrongly abstained"


@pytest.mark.parametrize("prediction", [READ, RETRIEVED, replace(READ, abstained=True), predicted(answer="")])
def test_where_nothing_is_known_nothing_is_lost(prediction):
    assert where(prediction, Example("q1", "What is it?"), gold_passages=(), correct=None) is None


# ---- whatever comes in -----------------------------------------------------------------------------------------------

ids = st.sampled_from(["gold", "c1", "c2", "g2"])
names = st.sampled_from(["coast.md", "other.md", "gone.md"])
ranks = st.none() | st.integers(1, 100)
texts = st.text(max_size=8)
hits = st.builds(
    hit,
    ids,
    st.integers(1, 9),
    source=names,
    also=st.builds(Place, ids, texts, names, st.just(0), st.just(1)).map(lambda one: (one,)) | st.just(()),
)
several = st.lists(texts, max_size=2).map(tuple)
examples = st.builds(
    Example,
    texts,
    texts,
    answers=several,
    required=st.lists(several, max_size=2).map(tuple),
    relevant=st.none() | st.dictionaries(names, st.integers(1, 3)),
    evidence=several,
    answerable=st.none() | st.booleans(),
    choices=st.just(()) | st.just((Choice("a", True),)),
)
labels = st.sampled_from(["supported", "unsupported", "contradicted-number", "uncited"])
markers = st.lists(st.integers(1, 3), max_size=2).map(tuple)
predictions = st.builds(
    Prediction,
    texts,
    texts,
    answer=st.none() | texts,
    abstained=st.none() | st.booleans(),
    abstention=st.sampled_from([None, "evidence", "model", "verification", "something new"]),
    evidence=st.none() | st.floats(0, 1),
    choice=st.none() | st.integers(0, 3),
    citations=st.lists(st.builds(cited, ids, source=names, quote=texts), max_size=2).map(tuple),
    sentences=st.lists(st.builds(Sentence, st.just(0), st.just(1), markers, labels, st.none()), max_size=2).map(tuple),
    hits=st.lists(hits, max_size=3).map(tuple),
    candidates=st.lists(st.builds(Candidate, ids, st.lists(names).map(tuple), ranks, ranks, ranks), max_size=4).map(
        tuple
    ),
    read=st.lists(ids, max_size=3).map(tuple),
    error=st.none() | st.none() | texts,
)


@given(
    example=examples,
    prediction=predictions,
    gold_passages=st.frozensets(ids),
    missing=st.frozensets(names),
    correct=st.none() | st.booleans(),
    k=st.integers(1, 10),
    reranked=st.sampled_from([0, 3, 60]),
)
def test_one_stage_or_none(example, prediction, **known):
    found = lost(example, prediction, **known)
    if found is None:
        return
    assert found.stage in get_args(Stage)
    assert found.why
    assert "\n" not in found.why
    assert (found.stage == "failed") == (prediction.error is not None)
    if found.stage in ("lost in fusion", "lost in re-ranking"):
        assert prediction.candidates
        assert not known["gold_passages"].intersection(one.chunk_id for one in prediction.hits)
    if found.stage == "not retrieved":
        assert known["gold_passages"].isdisjoint(one.chunk_id for one in prediction.candidates)
    assert (found.stage == "citation wrong") <= (known["correct"] is True)
    assert (found.stage == "answered without an answer in the documents") <= (example.answerable is False)
    if prediction.answer is None and prediction.choice is None:
        assert found.stage in ("failed", "not in index", "not retrieved", "lost in fusion", "lost in re-ranking")

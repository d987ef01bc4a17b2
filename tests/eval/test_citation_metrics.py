"""Citations: ALCE's recall and precision by hand and against a slow count, and the values of recorded answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import EvalError
from eval.metrics.citations import alce, citation_values
from eval.records import Example, Prediction
from reader.records import Citation, Sentence
from retrieval.records import Hit, Place

FACTS = {"opened 1932": {"year"}, "opened 1932, eight lanes": {"year", "lanes"}, "blue": {"colour"}}


def entails(sentence, passages):
    """Passages are words; a sentence follows where they have every word it needs."""
    return FACTS[sentence] <= {word for passage in passages for word in passage.split()}


# ---- ALCE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentences", "recall", "precision"),
    [
        ([("opened 1932", ["year"])], 1, 1),
        ([("opened 1932", ["lanes"])], 0, 0),
        ([("opened 1932", [])], 0, 0),
        # one bears it out alone, the other does not and is not needed
        ([("opened 1932", ["year", "lanes"])], 1, 1 / 2),
        # neither does alone, together they do: both are needed
        ([("opened 1932, eight lanes", ["year", "lanes"])], 1, 1),
        # each does alone
        ([("opened 1932", ["year", "year lanes"])], 1, 1),
        # three: year and lanes are needed, colour is not
        ([("opened 1932, eight lanes", ["year", "lanes", "colour"])], 1, 2 / 3),
        # two halves of one fact twice: none does alone, and any one of the four can be left out
        ([("opened 1932, eight lanes", ["year", "year", "lanes", "lanes"])], 1, 0),
        # citations of a sentence that is not borne out count as none: 1 + 0 of 1 + 2
        ([("opened 1932", ["year"]), ("blue", ["year", "lanes"])], 1 / 2, 1 / 3),
        # a sentence without citations lowers recall alone
        ([("opened 1932", ["year"]), ("blue", [])], 1 / 2, 1),
        ([], 0, 0),
    ],
)
def test_alce_by_hand(sentences, recall, precision):
    assert alce(sentences, entails) == pytest.approx((recall, precision))


words = st.lists(st.sampled_from(["year", "lanes", "colour", "year lanes", ""]), max_size=4)


@given(st.lists(st.tuples(st.sampled_from(sorted(FACTS)), words), min_size=1, max_size=4))
def test_alce_against_a_count_by_its_definition(sentences):
    borne_out = [bool(cited) and entails(sentence, cited) for sentence, cited in sentences]
    irrelevant = needed = 0
    for (sentence, cited), is_borne_out in zip(sentences, borne_out, strict=True):
        for at, passage in enumerate(cited):
            others = cited[:at] + cited[at + 1 :]
            if is_borne_out and (entails(sentence, [passage]) or not entails(sentence, others)):
                needed += 1
            else:
                irrelevant += 1
    assert alce(sentences, entails) == (
        sum(borne_out) / len(borne_out),
        needed / (needed + irrelevant) if needed + irrelevant else 0,
    )


# ---- recorded answers ------------------------------------------------------------------------------------------------

TEXTS = {"d1": "It opened in 1932. It is blue.", "d2": "It has eight lanes."}
EXAMPLE = Example("q", "Since when?", relevant={"one.md": 1, "three.md": 2})


def hit(number, *, also_in=()):
    places = tuple(Place(f"c{source}", "d", source, 0, 1) for source in also_in)
    return Hit(number, 1.0, f"c{number}", f"d{number}", {1: "one.md", 2: "two.md"}[number], 0, 9, "", also_in=places)


def citation(number, quote, *, marker=None):
    text, doc = TEXTS[f"d{number}"], f"d{number}"
    start = text.index(quote)
    source = {1: "one.md", 2: "two.md"}[number]
    return Citation(marker or number, f"c{number}", doc, source, start, start + len(quote), quote, 1, None)


QUOTES = Prediction(
    "q", "Since when?", "It opened in 1932. [1] It has eight lanes. [2]", abstained=False,
    citations=(citation(1, "It opened in 1932."), citation(2, "It has eight lanes.")), hits=(hit(1), hit(2)),
)  # fmt: skip


def values(prediction, example=EXAMPLE):
    return citation_values(prediction, example, TEXTS.get)


def test_an_answer_of_quotes():
    # of the two cited documents one is relevant; of the two relevant ones one is cited
    assert values(QUOTES) == {
        "validity": 1, "span_exact": 1, "recall": 1, "precision": 1, "support": 1,
        "gold_precision": 1 / 2, "gold_recall": 1 / 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {"start": 1}, {"end": 8}, {"quote": "It opened in 1933."}, {"doc_id": "gone"}, {"start": -30, "end": -12},
        {"start": 0, "end": 0, "quote": ""}, {"start": 5, "end": 3, "quote": ""}, {"end": 999, "quote": TEXTS["d1"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_quote_that_is_not_exact_bears_nothing_out(broken):
    first, second = QUOTES.citations
    found = values(replace(QUOTES, citations=(replace(first, **broken), second)))
    assert [found[name] for name in ("span_exact", "recall", "precision", "support")] == [1 / 2] * 4
    assert found["validity"] == 1


def test_a_citation_is_valid_where_its_passage_was_given_and_its_marker_stands():
    assert values(replace(QUOTES, answer="It opened in 1932. [1] It has eight lanes."))["validity"] == 1 / 2
    assert values(replace(QUOTES, hits=(hit(2),)))["validity"] == 1 / 2
    assert values(replace(QUOTES, read=("c1",)))["validity"] == 1 / 2  # what was read counts, whatever was found
    assert values(replace(QUOTES, answer="It opened. [11] Eight lanes. [2]"))["validity"] == 1 / 2


def test_a_document_counts_by_any_of_its_copies():
    copied = replace(QUOTES, hits=(hit(1), hit(2, also_in=("three.md",))))
    found = values(copied)
    assert (found["gold_precision"], found["gold_recall"]) == (1, 1)


def test_documents_that_nobody_judged_are_not_counted():
    assert "gold_precision" not in values(QUOTES, Example("q", "?"))
    nothing = values(QUOTES, Example("q", "?", relevant={}))  # judged: none is relevant
    assert "gold_precision" not in nothing
    assert "gold_recall" not in nothing


def sentence(markers=(), label="supported", *, alone=(), without=(), support=0.9):
    return Sentence(0, 1, markers, label, support, alone=alone, without=without)


def written(*sentences):
    return replace(QUOTES, sentences=sentences)


def test_a_written_answer_by_hand():
    found = values(
        written(
            sentence((1,), alone=(0.9,)),  # 1 of 1 counts
            sentence((1, 2), alone=(0.9, 0.1), without=(0.1, 0.9)),  # the second is not needed: 1 of 2
            sentence((1, 2), alone=(0.4, 0.3), without=(0.3, 0.4)),  # only together: 2 of 2
            sentence((2,), "unsupported", alone=(0.4,), support=0.4),  # 0 of 1
            sentence((), "uncited", support=None),
        )
    )
    assert (found["recall"], found["support"]) == (3 / 5, 3 / 4)
    assert found["precision"] == 4 / 6
    assert found["validity"] == found["span_exact"] == 1


def test_a_contradicted_number_is_not_borne_out_whatever_its_parts_are():
    found = values(written(sentence((1, 2), "contradicted-number", alone=(0.9, 0.9), without=(0.9, 0.9))))
    assert (found["recall"], found["precision"], found["support"]) == (0, 0, 0)


def test_an_answer_that_cites_nothing():
    bare = replace(QUOTES, citations=(), sentences=(sentence((), "uncited", support=None),))
    expected = {"recall": 0, "precision": 0, "gold_recall": 0}
    assert values(bare) == expected  # shares of its citations are shares of nothing
    assert values(replace(bare, sentences=())) == expected


@pytest.mark.parametrize(
    "old",
    [
        sentence((1, 2), alone=(0.9, 0.9)),
        sentence((1,)),
        sentence((1,), alone=(0.9,), without=(0.9,)),
        sentence((1, 2), alone=(0.9,), without=(0.1, 0.1)),
    ],
    ids=range(4),
)
def test_support_that_was_not_recorded_is_named(old):
    with pytest.raises(EvalError, match=r"answer to 'q' .* run the evaluation again"):
        values(written(old))


def test_abstentions_have_no_citations_and_failures_the_worst():
    assert values(replace(QUOTES, abstained=True, citations=())) == {}
    assert values(Prediction("q", "Since when?", hits=(hit(1),))) == {}  # nobody was asked for an answer
    for example in (EXAMPLE, Example("q", "?"), Example("q", "?", relevant={})):
        failed = values(Prediction("q", "Since when?", error="out of memory"), example)
        assert failed.keys() == values(QUOTES, example).keys()
        assert not any(failed.values())

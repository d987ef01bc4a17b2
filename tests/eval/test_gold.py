"""Gold in an index: documents by the dataset's names, passages by what they hold."""

from __future__ import annotations

import pytest

from eval.errors import EvalError
from eval.gold import GoldFinder
from eval.metrics.answers import contained
from eval.records import Example
from retrieval.store import Store

LONG = "The ferry leaves at dusk.\n\n" + "It carries bicycles and goats. " * 40 + "\n\nThe last one sails at nine.\n"


@pytest.fixture(scope="module")
def store(put_in_index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gold")
    texts = {
        "guide/ferry.txt": LONG,
        "ferry.txt": "No ferry today.",
        "开放时间.txt": "图书馆每天早上八点开门。",
        "a/same.txt": "one",
        "b/same.txt": "two",
    }
    put_in_index(folder / "docs", folder / "index", texts, max_tokens=64)
    with Store.open(folder / "index") as opened:
        yield opened


def find(store, source, *answers, **more):
    example = Example("q", "?", answers, relevant={source: 1}, **more)
    return GoldFinder(store, [example], lambda text, answer: contained(text, [answer])).find(example)


def texts_of(store, gold):
    return [stored.chunk.text for stored in store.chunks_by_id(gold.passages).values()]


def test_passages_are_those_that_hold_the_answer(store):
    found = find(store, "guide/ferry.txt", "nine")
    (text,) = texts_of(store, found)
    assert "sails at nine" in text
    assert found.missing == ()
    assert found.example.relevant == {"guide/ferry.txt": 1}


def test_a_chinese_answer(store):
    (text,) = texts_of(store, find(store, "开放时间.txt", "八点"))
    assert "八点" in text


def test_evidence_says_which_passage_where_it_is_given(store):
    found = find(store, "guide/ferry.txt", "ferry", evidence=("The last  one sails\nat nine.",))
    assert all("nine" in text for text in texts_of(store, found))


def test_an_exact_name_goes_before_the_end_of_another(store):
    assert find(store, "ferry.txt", "today").example.relevant == {"ferry.txt": 1}


def test_a_name_may_begin_above_or_below_the_ingested_folder(store):
    assert find(store, "docs/guide/ferry.txt", "nine").example.relevant == {"guide/ferry.txt": 1}
    assert find(store, "docs/ferry.txt", "today").example.relevant == {"ferry.txt": 1}


def test_a_name_that_several_documents_end_with_is_told(store):
    with pytest.raises(EvalError, match=r"'same.txt' of a question may be a/same.txt, b/same.txt"):
        find(store, "same.txt", "one")


def test_what_the_index_has_not_keeps_its_name(store):
    found = find(store, "gone.txt", "nine")
    assert (found.example.relevant, found.missing, found.passages) == ({"gone.txt": 1}, ("gone.txt",), ())


def test_where_nobody_judged_there_is_no_gold(store):
    example = Example("q", "?", ("nine",))
    found = GoldFinder(store, [example], lambda text, answer: answer in text).find(example)
    assert (found.example, found.passages, found.missing) == (example, (), ())

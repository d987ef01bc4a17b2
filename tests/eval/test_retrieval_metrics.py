"""Ranked lists against judgements: the reference run, definitions written out, ids of any kind."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import EvalError
from eval.metrics.retrieval import MAX_GRADE, MEASURES, ranked_values
from eval.trec import read_run
from retrieval.errors import MissingPackageError

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data")

names = st.text(st.sampled_from("ab 文%\x00\udcff"), min_size=1, max_size=2)
ranked_lists = st.lists(names, max_size=12)
judgements = st.dictionaries(names, st.integers(-2, 4), max_size=8)


def _defined(ranked: list[str], graded: dict[str, int]) -> dict[str, float]:
    """The measures as papers define them, step by step."""
    ranked = [name for place, name in enumerate(ranked) if name not in ranked[:place]]
    relevant = {name for name, grade in graded.items() if grade >= 1}
    right = [name in relevant for name in ranked]

    def gained(grades: list[int]) -> float:
        return sum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades[:10], start=1))

    precisions = [sum(right[:rank]) / rank for rank in range(1, min(len(right), 100) + 1) if right[rank - 1]]
    return {
        **{f"success@{k}": float(any(right[:k])) for k in (1, 3, 5, 10)},
        **{f"recall@{k}": sum(right[:k]) / len(relevant) for k in (1, 3, 5, 10, 20, 100)},
        "precision@5": sum(right[:5]) / 5,
        "mrr@10": next((1 / rank for rank, each in enumerate(right[:10], start=1) if each), 0.0),
        "ndcg@10": gained([graded.get(name, 0) for name in ranked]) / gained(sorted(graded.values(), reverse=True)),
        "map@100": sum(precisions) / len(relevant),
    }


def test_a_list_worked_out_by_hand():
    values = ranked_values({"q": ["x", "a", "y", "b"]}, {"q": {"a": 1, "b": 3, "c": 1, "z": 0}})["q"]
    assert tuple(values) == MEASURES
    assert values == pytest.approx(
        {
            "success@1": 0, "success@3": 1, "success@5": 1, "success@10": 1,
            "recall@1": 0, "recall@3": 1 / 3, "recall@5": 2 / 3,
            "recall@10": 2 / 3, "recall@20": 2 / 3, "recall@100": 2 / 3,
            "precision@5": 2 / 5,
            "mrr@10": 1 / 2,
            "ndcg@10": (1 / math.log2(3) + 3 / math.log2(5)) / (3 + 1 / math.log2(3) + 1 / 2),
            "map@100": (1 / 2 + 2 / 4) / 3,
        }
    )  # fmt: skip


@given(st.dictionaries(names, ranked_lists, max_size=4), st.dictionaries(names, judgements, max_size=4))
def test_every_value_is_the_definition_whatever_the_ids(runs, relevant):
    found = ranked_values(runs, relevant)
    judged = [question for question, graded in relevant.items() if max(graded.values(), default=0) >= 1]
    assert list(found) == judged
    for question in judged:
        assert found[question] == pytest.approx(_defined(runs.get(question, []), relevant[question]), abs=1e-9)


@given(st.permutations(range(130)), st.sets(st.integers(0, 140), min_size=1, max_size=30))
def test_long_lists_are_the_definition(order, relevant):
    ranked = [f"d{number}" for number in order]
    graded = {f"d{number}": 1 + number % 3 for number in relevant}
    assert ranked_values({"q": ranked}, {"q": graded})["q"] == pytest.approx(_defined(ranked, graded), abs=1e-9)


@given(st.permutations("abcdefgh"), st.dictionaries(st.sampled_from("abcdefghij"), st.integers(-1, 3), min_size=1))
def test_ir_measures_itself_says_the_same(ranked, graded):
    import ir_measures as ir

    measures = {"ndcg@10": ir.nDCG @ 10, "map@100": ir.AP @ 100, "mrr@10": ir.RR @ 10, "recall@3": ir.R @ 3}
    theirs = ir.calc_aggregate(measures.values(), {"q": graded}, {"q": {name: -i for i, name in enumerate(ranked)}})
    ours = ranked_values({"q": ranked}, {"q": graded}).get("q", dict.fromkeys(MEASURES, 0.0))
    assert {name: ours[name] for name in measures} == {name: theirs[measure] for name, measure in measures.items()}


def test_the_reference_run_has_the_reference_scores():
    folder = DATA / "eval"
    if not folder.is_dir():
        pytest.skip(f"no {folder} (set RAG_TEST_DATA)")
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "cranfield/qrels/test.tsv").read_text().splitlines()[1:]:
        question, document, grade = line.split("\t")
        relevant.setdefault(question, {})[document] = int(grade)
    found = ranked_values(read_run(folder / "reference/cranfield.run"), relevant)
    expected = json.loads((folder / "reference/scores.json").read_text())["cranfield.run"]
    ours = {"nDCG@10": "ndcg@10", "RR@10": "mrr@10", "P@5": "precision@5", "AP@100": "map@100"} | {
        "Success@1": "success@1", "Success@5": "success@5", "R@5": "recall@5", "R@10": "recall@10"
    }  # fmt: skip
    means = {name: sum(values[ours[name]] for values in found.values()) / len(found) for name in expected}
    assert len(found) == 90
    assert {name: round(mean, 8) for name, mean in means.items()} == expected


def test_what_is_missing_scores_nothing_and_what_is_not_judged_is_left_out():
    runs = {"empty": [], "answered": ["a"], "nobody asked": ["a"], "nothing relevant": ["a"]}
    graded = {"unanswered": {"a": 1}, "empty": {"a": 1}, "answered": {"a": 1}, "nothing relevant": {"a": 0}, "none": {}}
    found = ranked_values(runs, graded)
    assert list(found) == ["unanswered", "empty", "answered"]
    assert set(found["unanswered"].values()) == set(found["empty"].values()) == {0.0}
    assert found["answered"]["success@1"] == 1
    assert ranked_values(runs, {}) == ranked_values({}, {}) == {}


def test_of_a_document_that_comes_twice_the_first_counts():
    twice = ranked_values({"q": ["a", "a", "a", "b"]}, {"q": {"b": 1}})
    assert twice == ranked_values({"q": ["a", "b"]}, {"q": {"b": 1}})


def test_a_grade_that_would_fill_the_memory_is_refused():
    assert ranked_values({"q": ["a"]}, {"q": {"a": MAX_GRADE}})["q"]["ndcg@10"] == 1
    with pytest.raises(EvalError, match=r"question 'q' has a document of grade 1e\+30; expected at most 1000"):
        ranked_values({"q": ["a"]}, {"q": {"a": 10**30}})


def test_without_ir_measures_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'cited-rag\[eval\]'"):
        ranked_values({"q": ["a"]}, {"q": {"a": 1}})

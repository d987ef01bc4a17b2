"""Two runs side by side: by hand, against slow oracles, and what a gate lets pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.compare import compare
from eval.errors import EvalError
from eval.gate import gate
from eval.records import Example, Judged, Lost, Stage

MANIFEST = {"dataset": {"name": "coast", "sha256": "a" * 64}, "config": {"top_k": 5, "reranker": "interaction"}}


@dataclass(frozen=True)
class Run:
    judged: Mapping[str, Judged]
    manifest: Mapping[str, Any] = field(default_factory=lambda: MANIFEST)


def judged(number: int, lost: Stage | None = None, **values: float) -> Judged:
    """Measures are given as section_name, with _at_ for @."""
    named = {name.replace("_at_", "@").replace("_", ".", 1): value for name, value in values.items()}
    return Judged(Example(f"q{number}", f"灯塔问题 {number}?"), named, Lost(lost, "…") if lost else None)


def run(*questions: Judged, **manifest: Any) -> Run:
    return Run({one.example.example_id: one for one in questions}, {**MANIFEST, **manifest})


def graded(measure: str, values: list[float | None]) -> Run:
    return run(*(judged(at, **({} if value is None else {measure: value})) for at, value in enumerate(values)))


A = run(
    judged(1, answer_correct=1.0, retrieval_ndcg_at_10=1.0),
    judged(2, "reader missed it", answer_correct=0.0, retrieval_ndcg_at_10=1.0),
    judged(3, "not retrieved", answer_correct=0.0, retrieval_ndcg_at_10=0.0),
    judged(4, answer_correct=1.0),
    judged(5, answer_correct=1.0, answer_f1=0.5),
)
B = run(
    judged(1, "wrongly abstained", answer_correct=0.0, retrieval_ndcg_at_10=1.0),
    judged(2, answer_correct=1.0, retrieval_ndcg_at_10=1.0),
    judged(3, "not retrieved", answer_correct=0.0, retrieval_ndcg_at_10=0.5),
    judged(4, answer_correct=1.0, retrieval_ndcg_at_10=1.0),
    judged(6, answer_correct=1.0),
)


def test_a_comparison_by_hand():
    found = compare(A, B)
    assert (found.n, found.only_a, found.only_b, found.reworded) == (4, 1, 1, 0)
    ndcg, correct = found.differences
    # Questions 1 to 3 have it in both: (1 + 1 + 0) / 3 and (1 + 1 + .5) / 3. One differs: either sign is as far from 0.
    assert (ndcg.measure, ndcg.n, ndcg.unpaired) == ("retrieval.ndcg@10", 3, 1)
    assert (ndcg.a, ndcg.b, ndcg.p) == (pytest.approx(2 / 3), pytest.approx(2.5 / 3), 1.0)
    # One won, one lost: 2 / 4 in either.
    assert (correct.measure, correct.a, correct.b, correct.difference) == ("answer.correct", 0.5, 0.5, 0.0)
    assert {one.verdict for one in found.differences} == {"no difference shown"}
    first, second = found.flips
    assert (first.example_id, first.measure, first.right_in) == ("q1", "answer.correct", "a")
    assert first.lost == Lost("wrongly abstained", "…")
    assert (second.example_id, second.right_in, second.lost) == ("q2", "b", Lost("reader missed it", "…"))
    assert [(one.a, one.b, one.n) for one in found.moves] == [
        ("not retrieved", "not retrieved", 1),
        ("reader missed it", None, 1),
        (None, "wrongly abstained", 1),
        (None, None, 1),
    ]
    assert found.notes == (
        "1 of the questions of A are not compared: the other run was not asked them",
        "1 of the questions of B are not compared: the other run was not asked them",
    )


def test_a_verdict_goes_by_the_p_of_all_measures_together():
    """8 questions won by f1, none lost: p = 2 / 2^8. 6 of them also by recall: p = 2 / 2^6.

    Together: with all 8 signs alike the statistic is 8 / sqrt(8); 6 / sqrt(6) never reaches it, so nothing is added.
    """

    def side(value: float) -> Run:
        return run(*(judged(at, answer_f1=value, answer_recall=value if at < 6 else 0.0) for at in range(8)))

    better = compare(side(0.0), side(1.0))
    assert [one.p for one in better.differences] == [2 / 2**8, 2 / 2**6]
    assert [one.p_adjusted for one in better.differences] == [2 / 2**8, 2 / 2**6]
    assert [one.verdict for one in better.differences] == ["better", "better"]
    assert [one.verdict for one in compare(side(1.0), side(0.0)).differences] == ["worse", "worse"]


def test_the_same_measure_many_times_counts_as_one():
    """Six questions won by a measure and by its twenty copies: p stays 2 / 2^6 (Holm's procedure would make it .66)."""

    def side(value: float) -> Run:
        return run(*(judged(at, **{f"answer_copy{n}": value for n in range(21)}) for at in range(6)))

    assert {one.p_adjusted for one in compare(side(0.0), side(1.0)).differences} == {2 / 2**6}


def test_retrieval_alone_flips_by_success():
    a = run(judged(1, retrieval_success_at_5=1.0), judged(2, retrieval_success_at_5=1.0))
    b = run(judged(1, "lost in fusion", retrieval_success_at_5=0.0), judged(2, retrieval_success_at_5=1.0))
    (flip,) = compare(a, b).flips
    assert (flip.example_id, flip.measure, flip.lost) == ("q1", "retrieval.success@5", Lost("lost in fusion", "…"))


def test_a_question_with_another_text_is_another_question():
    changed = replace(B.judged["q1"], example=Example("q1", "Something else?"))
    found = compare(A, run(*[changed if one.example.example_id == "q1" else one for one in B.judged.values()]))
    assert (found.n, found.only_a, found.only_b, found.reworded) == (3, 2, 2, 1)
    assert found.notes[-1] == "1 of these have the same id in both runs but another text"
    with pytest.raises(EvalError, match="share no question: A has 1, B has 1, and 1 have the same id but another text"):
        compare(run(A.judged["q1"]), run(changed))
    with pytest.raises(EvalError, match="share no question: A has 0, B has 0, and 0"):
        compare(run(), run())


def test_other_datasets_need_consent():
    other = replace(B, manifest={**MANIFEST, "dataset": {"name": "coast2", "sha256": "b" * 64}})
    message = r"A was asked coast \(aaaaaaaaaaaa\), B was asked coast2 \(bbbbbbbbbbbb\).*--other-dataset"
    with pytest.raises(EvalError, match=message):
        compare(A, other)
    assert compare(A, other, other_dataset=True).notes[0].startswith("the datasets are not the same")
    for unknown in ({}, {"dataset": "coast"}):
        assert compare(A, replace(B, manifest=unknown)).notes[0].startswith("a manifest does not say")


def test_what_was_set_otherwise():
    changed = {
        "config": {"top_k": 8, "reranker": "interaction", "stop": ["a", "b"]},
        "created_at": "2031",
        "prompts": {"answer-en": "ff"},
    }
    found = compare(A, replace(B, manifest={**MANIFEST, **changed})).settings
    assert [(one.name, one.a, one.b) for one in found] == [
        ("config.stop", None, ["a", "b"]),
        ("config.top_k", 5, 8),
        ("prompts.answer-en", None, "ff"),
    ]


def test_a_measure_of_one_run_alone_is_named():
    notes = compare(graded("answer_f1", [1.0, 0.0]), graded("retrieval_map", [1.0, 0.0])).notes
    assert notes == (
        "no question has these of A in both runs: answer.f1",
        "no question has these of B in both runs: retrieval.map",
    )


def test_the_record_is_plain_json():
    record = compare(A, B).to_record()
    assert json.loads(json.dumps(record, allow_nan=False))["flips"][0]["lost"] == {
        "stage": "wrongly abstained",
        "why": "…",
    }


values = st.dictionaries(
    st.sampled_from(["answer.f1", "answer.correct", "retrieval.map"]), st.sampled_from([0.0, 0.5, 1.0])
)
stages = st.none() | st.sampled_from(get_args(Stage))
questions = st.dictionaries(st.integers(0, 9), st.tuples(values, stages, st.sampled_from(["?", "??"])), min_size=1)


def _as_run(drawn: dict[int, Any]) -> Run:
    return Run(
        {
            f"q{key}": Judged(Example(f"q{key}", text), given_values, Lost(stage, "…") if stage else None)
            for key, (given_values, stage, text) in drawn.items()
        }
    )


@given(a=questions, b=questions)
def test_means_counts_and_moves_are_those_of_an_oracle(a, b):
    shared = [key for key in a if key in b and a[key][2] == b[key][2]]
    if not shared:
        with pytest.raises(EvalError):
            compare(_as_run(a), _as_run(b))
        return
    found = compare(_as_run(a), _as_run(b))
    assert (found.n, found.only_a, found.only_b) == (len(shared), len(a) - len(shared), len(b) - len(shared))
    assert sum(one.n for one in found.moves) == len(shared)
    for one in found.moves:
        assert one.n == sum((a[key][1], b[key][1]) == (one.a, one.b) for key in shared)
    for each in found.differences:
        pairs = [(a[key][0].get(each.measure), b[key][0].get(each.measure)) for key in shared]
        both = [(x, y) for x, y in pairs if x is not None and y is not None]
        assert (each.n, each.unpaired) == (len(both), sum((x is None) != (y is None) for x, y in pairs))
        assert each.a == pytest.approx(sum(x for x, _ in both) / len(both))
        assert each.difference == pytest.approx(sum(y - x for x, y in both) / len(both))
        assert each.low <= each.difference + 1e-9
        assert each.difference <= each.high + 1e-9
        sums = [
            sum(sign * (y - x) for sign, (x, y) in zip(signs, both, strict=True))
            for signs in product((1, -1), repeat=len(both))
        ]
        reached = [abs(one) >= abs(sum(y - x for x, y in both)) - 1e-9 for one in sums]
        assert each.p == pytest.approx(sum(reached) / len(reached))
        assert each.p_adjusted >= each.p
    turned = compare(_as_run(b), _as_run(a))
    assert [one.p for one in turned.differences if one.measure == "answer.f1"] == [
        one.p for one in found.differences if one.measure == "answer.f1"
    ]
    assert len(turned.flips) == len(found.flips)


# ---- the gate --------------------------------------------------------------------------------------------------------


def test_the_same_run_passes():
    found = gate(A, A)
    assert found.passed
    assert [one.measure for one in found.checks] == ["retrieval.ndcg@10", "answer.correct", "answer.f1"]
    assert {one.why.split(":")[0] for one in found.checks} == {"no drop"}


def test_a_significant_drop_fails_and_a_rise_does_not():
    good, bad = graded("answer_f1", [1.0] * 8), graded("answer_f1", [0.0] * 5 + [1.0] * 3)
    # 5 lost, none won: one-sided p = 1 / 2 ** 5 = .031
    found = gate(bad, good)
    (check,) = found.checks
    assert not found.passed
    assert (check.p, check.passed) == (1 / 2**5, False)
    assert check.why == "a significant drop: 1.0000 to 0.3750 (-0.6250 [-0.8750, -0.2500], p 0.0312)"
    assert gate(good, bad).passed
    assert gate(bad, good, alpha=0.03).passed
    assert gate(bad, good, tolerance=0.625).passed
    assert gate(bad, good, tolerance=0.625).checks[0].why.startswith("a significant drop within the tolerance of 0.625")
    assert not gate(bad, good, tolerance=0.62).passed


def test_checks_are_judged_together():
    """Five questions lost by one measure: p = 1 / 2^5. Five others by a second one: that either shows so much has a
    chance of 1 - (31 / 32)^2 = .0615. Were they the same five, it would stay 1 / 2^5."""

    def lost_by(f1: range, recall: range) -> Run:
        return run(
            *(judged(at, answer_f1=float(at not in f1), answer_recall=float(at not in recall)) for at in range(10))
        )

    good, both = lost_by(range(0), range(0)), ["answer.f1", "answer.recall"]
    apart = gate(lost_by(range(5), range(5, 10)), good, measures=both)
    assert [check.p for check in apart.checks] == [pytest.approx(1 - (31 / 32) ** 2)] * 2
    assert apart.passed
    alike = gate(lost_by(range(5), range(5)), good, measures=both)
    assert [check.p for check in alike.checks] == [1 / 2**5] * 2
    assert not alike.passed


def test_fewer_questions_fail_and_more_do_not():
    whole, part = graded("answer_f1", [1.0, 1.0, 0.0]), graded("answer_f1", [1.0, 1.0])
    found = gate(part, whole)
    assert (found.passed, found.missing) == (False, 1)
    assert found.notes[-1] == "the run was asked 2 of the baseline's 3 questions; run it over all of them"
    assert gate(whole, part).passed


def test_a_measure_that_one_of_them_lacks_is_an_error():
    a, b = graded("answer_f1", [1.0, 0.0]), graded("answer_recall", [1.0, 0.0])
    with pytest.raises(EvalError, match=r"'answer.f1' cannot be checked"):
        gate(b, a, measures=["answer.f1"])
    with pytest.raises(EvalError, match=r"'answer.f2' cannot be checked.*did you mean answer.f1\?"):
        gate(a, a, measures=["answer.f2"])
    with pytest.raises(EvalError, match="the baseline has none of"):
        gate(graded("answer_recall", [1.0]), graded("answer_recall", [1.0]))


def test_a_main_measure_that_the_run_has_for_no_question_fails():
    """A run that answers nothing has no citations to be wrong."""
    cites = graded("citations_precision", [1.0, 1.0])
    found = gate(graded("answer_f1", [1.0, 0.0]), cites)
    assert not found.passed
    assert found.checks == ()
    assert "no question has citations.precision in the run, as in the baseline" in found.notes


def test_a_gate_over_other_datasets_is_an_error():
    with pytest.raises(EvalError, match="the baseline was asked coast"):
        gate(replace(A, manifest={"dataset": {"name": "x", "sha256": "c"}}), A)

"""Values, rankings and scores of hand-made predictions, each number computable by hand."""

from __future__ import annotations

import pytest

from eval.gold import Gold
from eval.lost import came_out
from eval.records import Candidate, Choice, Example, Prediction
from eval.score import Scoring, baseline_run, document_runs, judge, scores
from reader.records import Citation
from retrieval.records import Hit

TEXTS = {"d1": "The ferry leaves at dusk.", "d2": "The library opens at eight.", "d3": "Nothing here."}


def candidate(name, *ranks, twins=(), sources=None):
    """ranks: dense, lexical, fused."""
    return Candidate(f"c-{name}", sources or (name,), *ranks, twins)


def hit(rank, name):
    return Hit(rank, 1.0 / rank, f"c-{name}", name, name, 0, len(TEXTS[name]), TEXTS[name])


def quoting(name, start, end):
    return Citation(1, f"c-{name}", name, name, start, end, TEXTS[name][start:end], 1, None)


def gold(name, question, answers, source, **more):
    example = Example(name, question, answers, relevant={source: 1}, answerable=True, **more)
    return Gold(example, passages=(f"c-{source}",))


GOLDS = [
    gold("q1", "When does the ferry leave?", ("dusk",), "d1"),
    gold("q2", "When does the library open?", ("eight",), "d2"),
    Gold(Example("q3", "Who is king?", relevant={}, answerable=False)),
    gold("q4", "What is missing?", ("a shoe",), "d1"),
]
ORDER = (candidate("d1", 1, 2, 1), candidate("d2", 2, 1, 2), candidate("d3", None, 3, 3))
RIGHT = Prediction(
    "q1", GOLDS[0].example.question, "The ferry leaves at dusk. [1]", abstained=False, evidence=0.9,
    citations=(quoting("d1", 0, 25),), hits=(hit(1, "d1"), hit(2, "d2")), candidates=ORDER, read=("c-d1", "c-d2"),
)  # fmt: skip
WRONG = Prediction(
    "q2", GOLDS[1].example.question, "The ferry leaves at dusk. [1]", abstained=False, evidence=0.6,
    citations=(quoting("d1", 0, 25),), hits=(hit(1, "d1"), hit(2, "d2")), candidates=ORDER, read=("c-d1", "c-d2"),
)  # fmt: skip
ABSTAINED = Prediction(
    "q3", "Who is king?", "No.", abstained=True, abstention="evidence", evidence=0.1, candidates=ORDER
)
FAILED = Prediction("q4", "What is missing?", error="the question is too long")
MADE = {one.example_id: one for one in (RIGHT, WRONG, ABSTAINED, FAILED)}
SCORING = Scoring(2, 0, TEXTS.get)


@pytest.fixture
def judged():
    return {one.example.example_id: one for one in judge(GOLDS, MADE, SCORING)}


def test_a_right_answer(judged):
    values = judged["q1"].values
    assert values["retrieval.success@1"] == values["answer.correct"] == values["citations.span_exact"] == 1
    assert values["retrieval.passage_success@1"] == values["citations.gold_precision"] == 1
    assert judged["q1"].lost is None


def test_a_wrong_answer_is_lost_where_it_was_read(judged):
    values = judged["q2"].values
    assert (values["retrieval.success@1"], values["retrieval.mrr@10"], values["answer.correct"]) == (0, 1 / 2, 0)
    assert values["citations.gold_precision"] == 0
    assert judged["q2"].lost.stage == "reader missed it"


def test_a_right_abstention(judged):
    values = judged["q3"].values
    assert values["abstention.accuracy"] == values["answer.exact_match"] == 1
    assert not any(name.startswith(("retrieval", "citations")) for name in values)
    assert judged["q3"].lost is None


def test_a_failure_scores_the_worst_everywhere(judged):
    assert set(judged["q4"].values.values()) == {0.0}
    assert {"retrieval.success@1", "answer.correct", "abstention.accuracy"} <= judged["q4"].values.keys()
    assert judged["q4"].lost.stage == "failed"


def test_what_was_not_asked_failed():
    (one,) = judge(GOLDS[:1], {}, SCORING)
    assert one.values["answer.correct"] == 0
    assert one.lost.stage == "failed"


def test_scores_are_means_over_what_applies(judged):
    found = scores(list(judged.values()), MADE)
    assert found["retrieval"]["success@1"]["value"] == pytest.approx(1 / 3)
    assert found["retrieval"]["success@1"]["n"] == 3
    assert found["answer"]["correct"]["value"] == pytest.approx(2 / 4)  # q1, and q3 by abstaining
    assert found["abstention"]["accuracy"]["value"] == pytest.approx(3 / 4)
    assert found["failed"] == 1
    assert found["lost"] == {"reader missed it": 1, "failed": 1}
    assert found["confusion"]["answerable"] == {"answered": 2, "abstained": 0, "failed": 1}
    assert found["abstention"]["auroc"]["value"] == 1.0  # .9 and .6 against .1
    # By evidence: q1 is right, then q2 is wrong: at a quarter nothing wrong, at half one of two.
    assert found["curves"]["risk_coverage"] == [[0.25, 0.0], [0.5, 0.5]]
    assert found["curves"]["recall_by_k"][:2] == [[1, pytest.approx(1 / 3)], [2, pytest.approx(2 / 3)]]
    assert "judge" not in found


def test_baselines_come_from_the_ranks_of_what_was_looked_at(judged):
    assert document_runs([judged["q1"]], MADE) == {"q1": ["d1", "d2", "d3"]}
    example = judged["q1"].example
    assert baseline_run(RIGHT, example, "dense") == ["d1", "d2"]
    assert baseline_run(RIGHT, example, "bm25") == ["d2", "d1", "d3"]
    assert baseline_run(RIGHT, example, "rrf") == ["d1", "d2", "d3"]  # 1/61 + 1/62 both: by their id
    found = scores(list(judged.values()), MADE)["baselines"]
    # BM25 puts d2 first: q2 right, q1 wrong, of the two that were searched.
    assert found["bm25"]["success@1"]["value"] == pytest.approx(1 / 3)
    assert found["bm25"]["success@1"]["above"]["difference"] == 0


def test_the_same_text_elsewhere_is_the_passage_that_is_looked_for():
    twin = candidate("copy", 1, 1, 1, twins=("c-d1",), sources=("copy", "d1"))
    found = Prediction("q1", "When does the ferry leave?", candidates=(twin,), hits=(hit(1, "d3"),))
    (one,) = judge(GOLDS[:1], {"q1": found}, SCORING)
    assert one.values["retrieval.passage_success@1"] == 1
    assert one.values["retrieval.success@5"] == 1


def test_copies_of_a_text_have_one_rank_and_a_relevant_one_takes_it():
    """Twelve documents with the same text, the sixth of which is relevant: it is first, and nothing else is second."""
    names = tuple(f"copy{n:02}" for n in range(11))
    copies = candidate("copy00", 1, 1, 1, sources=(*names[:5], "d1", *names[5:]))
    found = Prediction("q1", "?", candidates=(copies, candidate("d2", 2, 2, 2)), hits=(hit(1, "d3"),))
    (one,) = judge(GOLDS[:1], {"q1": found}, SCORING)
    assert one.values["retrieval.success@1"] == 1
    assert document_runs([one], {"q1": found}) == {"q1": ["d1", "d2"]}
    assert baseline_run(found, one.example, "dense") == ["d1", "d2"]


def test_hits_come_first_however_they_were_picked():
    """For diversity the second hit was the third candidate."""
    found = Prediction("q2", "?", candidates=ORDER, hits=(hit(1, "d1"), hit(2, "d3")))
    (one,) = judge(GOLDS[1:2], {"q2": found}, SCORING)
    assert document_runs([one], {"q2": found}) == {"q2": ["d1", "d3", "d2"]}
    assert one.values["retrieval.mrr@10"] == pytest.approx(1 / 3)


def test_a_search_alone_has_no_values_of_answers():
    (one,) = judge(GOLDS[:1], {"q1": Prediction("q1", "?", candidates=ORDER, hits=(hit(1, "d1"),))}, SCORING)
    assert {name.split(".")[0] for name in one.values} == {"retrieval"}
    assert scores([one], {"q1": RIGHT})["answer"] == {}


def test_a_question_with_choices_is_right_by_its_choice():
    example = gold(
        "q1", "When?", ("at the time of dusk or so",), "d1", choices=(Choice("noon", False), Choice("dusk", True))
    )
    for choice, lost in ((1, None), (0, "reader missed it")):
        (one,) = judge([example], {"q1": Prediction(**{**_fields(RIGHT), "choice": choice})}, SCORING)
        assert one.values["answer.choice"] == float(choice)
        assert (one.lost and one.lost.stage) == lost


def _fields(prediction):
    return {name: getattr(prediction, name) for name in prediction.__slots__}


def test_similarity_is_asked_for_answers_alone():
    asked = []

    def similarity(pairs):
        asked.extend(pairs)
        return [0.5, None]

    judged = judge(GOLDS, MADE, Scoring(2, 0, TEXTS.get, similarity=similarity))
    assert asked == [(RIGHT.answer, ("dusk",)), (WRONG.answer, ("eight",))]
    assert [one.values.get("answer.similarity") for one in judged] == [0.5, None, None, 0.0]


def test_of_recorded_output_nobody_knows_where_it_lost():
    """Lost is what is wrong, and right what is not: by the first ten of a ranking, by what was said of answers."""
    judged = judge(GOLDS, MADE, Scoring(2, 0, TEXTS.get, recorded="ranking"))
    assert [one.lost.stage if one.lost else None for one in judged] == [None, None, None, "failed"]
    assert [came_out(one) for one in judged] == ["right", "right", "right", "lost"]
    assert "retrieval.success@1" in judged[0].values
    recorded = judge(GOLDS, MADE, Scoring(2, 0, TEXTS.get, recorded="answers"))
    assert [one.lost.stage if one.lost else None for one in recorded] == [None, "wrong", None, "failed"]
    assert not any(name.startswith(("retrieval", "citations")) for one in recorded for name in one.values)


def test_what_comes_out_right_in_the_report_is_what_is_correct():
    judged = judge(GOLDS, MADE, SCORING)
    right = sum(came_out(one) == "right" for one in judged)
    assert right == scores(judged, MADE)["answer"]["correct"]["value"] * len(judged)


def test_an_answer_of_which_nothing_is_known_is_not_judged():
    """There is a gold document, but nobody knows the answer: whether what was said is useful cannot be told either."""
    example = Example("q1", "When?", relevant={"d1": 1}, answerable=True)
    (one,) = judge([Gold(example)], {"q1": RIGHT}, SCORING)
    assert "abstention.useful" not in one.values
    assert one.values["abstention.accuracy"] == 1
    assert came_out(one) == "found"

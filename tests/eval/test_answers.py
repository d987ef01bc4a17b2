"""Answers against golds: the reference scripts' numbers, hand-made cases, slow oracles, and what is right and wrong."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.answers import (
    LEAST_RECALL,
    _common_run,
    _common_subsequence,
    answer_values,
    cmrc_exact_match,
    cmrc_f1,
    contained,
    correct,
    exact_match,
    f1,
    is_chinese,
    is_long,
    recall,
    rouge_l,
    squad_exact_match,
    squad_f1,
    tokens,
    without_markers,
)
from eval.records import Example

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data") / "eval"
LONG = "Cats sleep because resting muscles save energy between hunts, which are short but hard work."
LONG_ZH = "猫睡觉是因为休息的肌肉在两次捕猎之间节省能量，而捕猎虽然短暂，却是非常辛苦的。"

texts = st.lists(st.sampled_from([*"abcA 1290.,'-\n中国１，。万十\ud800\0é", "the ", "[1]"]), max_size=30).map("".join)


def reference(name):
    if not (DATA / "reference").is_dir():
        pytest.skip(f"no reference scores below {DATA} (set RAG_TEST_DATA)")
    scores = json.loads((DATA / "reference/scores.json").read_text())[name]
    folder = {"squad2": "squad2_dev_big", "cmrc2018": "cmrc2018_dev"}[name]
    lines = (DATA / folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["_id"]: row for row in map(json.loads, lines)}
    predictions = json.loads((DATA / f"reference/{name}_predictions.json").read_text(encoding="utf-8"))
    return scores, [(rows[number], predictions[number]) for number in predictions]


def percent(values):
    return 100 * sum(values) / len(values)


# ---- the sets' own scripts -------------------------------------------------------------------------------------------


def test_squad_2_counts_as_its_script_does():
    scores, asked = reference("squad2")
    found = [
        answer_values(
            answer,
            answer == "",
            Example(
                row["_id"],
                row["text"],
                tuple(row.get("all_answers", ())),
                answerable=not row.get("unanswerable", False),
            ),
        )
        for row, answer in asked
    ]
    plain = [(exact_match(answer, row["all_answers"]), f1(answer, row["all_answers"])) for row, answer in asked]
    assert [(each["exact_match"], each["f1"]) for each in found] == plain
    for prefix, rows in (
        ("", found),
        ("HasAns_", [each for each, (row, _) in zip(found, asked, strict=True) if not row["unanswerable"]]),
        ("NoAns_", [each for each, (row, _) in zip(found, asked, strict=True) if row["unanswerable"]]),
    ):
        assert len(rows) == scores[f"{prefix}total"]
        assert percent([each["exact_match"] for each in rows]) == pytest.approx(scores[f"{prefix}exact"], abs=1e-12)
        assert percent([each["f1"] for each in rows]) == pytest.approx(scores[f"{prefix}f1"], abs=1e-12)


def test_cmrc_2018_counts_as_its_script_does():
    scores, asked = reference("cmrc2018")
    assert len(asked) == scores["TOTAL"]
    assert f"{percent([exact_match(answer, row['answers']) for row, answer in asked]):.3f}" == scores["EM"]
    assert f"{percent([f1(answer, row['answers']) for row, answer in asked]):.3f}" == scores["F1"]


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "expected"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 1 / 2),  # 1 common of 3 and 1: 2 * 1 / 4
        ("in Paris, France", ["Paris", "Paris France"], 0, 4 / 5),  # the better gold: 2 * 2 / 5
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),  # one cat and one dog are common: 2 * 2 / 6
        ("", [], 1, 1),
        ("", ["...", "the"], 1, 1),  # golds of which nothing is left: the right answer is none
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("a-b", ["ab"], 1, 1),
        ("theatre", ["the atre"], 0, 0),
    ],
)
def test_squad_by_hand(answer, golds, exact, expected):
    assert squad_exact_match(answer, golds) == exact
    assert squad_f1(answer, golds) == pytest.approx(expected)
    assert (exact_match(answer, golds), f1(answer, golds)) == (exact, squad_f1(answer, golds))


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "expected"),
    [
        ("《战国无双3》", ["战国无双3"], 1, 1),
        ("在北京", ["北京"], 0, 4 / 5),  # the run 北京: 2 * 2 / (3 + 2)
        ("北和京", ["北京"], 0, 2 / 5),  # characters apart are no run: 2 * 1 / (3 + 2)
        ("由光荣和ω-Force开发", ["光荣和ω-force"], 0, 8 / 11),  # 光 荣 和 ωforce: 2 * 4 / (7 + 4)
        ("1939年 9月1日", ["1939年"], 0, 4 / 8),  # 1939 年 of 1939 年 9 月 1 日: 2 * 2 / (6 + 2)
        ("上海", ["北京"], 0, 0),
        ("", ["北京"], 0, 0),
    ],
)
def test_cmrc_by_hand(answer, golds, exact, expected):
    assert cmrc_exact_match(answer, golds) == exact
    assert cmrc_f1(answer, golds) == pytest.approx(expected)
    assert (exact_match(answer, golds), f1(answer, golds)) == (exact, cmrc_f1(answer, golds))


def test_golds_decide_which_script_counts():
    for golds in (["北京"], ["1939年9月1日"], ["光荣和ω-force"], ["235", "235朔望月"], ["「变形金刚」"]):
        assert is_chinese(golds)
    for golds in ([], ["1939"], ["Ogród Saski"], ["the Seto Inland Sea (瀬戸内海) in Japan"], ["ひらがな"]):
        assert not is_chinese(golds)


# ---- containment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("It opened in Paris.", "paris"),
        ("The crisis began in October, 1973.", "October 1973"),
        ("Kissinger's plan", "Kissinger"),
        ("Democrats won", "the Democrats"),
        ("it holds 39,000 tonnes", "39000"),
        ("the u.s. army", "US Army"),
        ("about 10 GB of memory", "10GB"),
        ("10GB are needed", "10 GB"),
        ("pass `fp16=True` to it", "fp16=True"),
        ("huggingface_hub.HfApi", "HfApi"),
        ("use C++ here", "++"),
        ("共有90名议员", "90"),
        ("共有９０名议员", "90名"),
        ("「战史演武」和《争霸演武》", "战史演武和争霸演武"),
        ("最經典的著作之一《兩種新科學》", "《兩種新科學》"),
        ("分别为300，500和700", "300"),
        ("创建了T.C.B.S。", "T.C.B.S"),
        ("十三人", "十三人"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
    ],
)
def test_what_an_answer_holds(answer, gold):
    assert contained(answer, ["something else", gold])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("start", "art"),
        ("in 1990", "90"),
        ("90.5 metres", "90"),
        ("2,390 metres", "390"),
        ("a 5G network", "5"),
        ("GPT2", "2"),
        ("1990年", "90"),
        ("90万人", "90"),
        ("2.5亿元", "2.5"),
        ("十三人", "三人"),
        ("二十五", "二十"),
        ("300，500和700", "300500"),
        ("長城", "长城"),
        ("Paris in France", "Paris France"),
        ("anything", ""),
        ("anything", "   "),
        ("", "Paris"),
    ],
)
def test_what_an_answer_does_not_hold(answer, gold):
    assert not contained(answer, [gold])


@given(texts, st.data())
def test_an_answer_holds_its_own_words_and_recalls_them(answer, data):
    words = tokens(answer)
    start = data.draw(st.integers(0, len(words)))
    gold = " ".join(words[start : data.draw(st.integers(start, len(words)))])
    if tokens(gold) and all(tokens(word) == (word,) for word in words):
        assert contained(" ".join(words), [gold])
        assert recall(" ".join(words), [gold]) == 1


# ---- recall and ROUGE-L ----------------------------------------------------------------------------------------------


def test_recall_by_hand():
    assert recall("Dogs bark loudly at night", ["the dogs bark", "silence"]) == 1  # "the" carries no meaning
    assert recall("a dog", ["dog dog cat"]) == pytest.approx(1 / 3)  # one dog of two, no cat
    assert recall("they are the who", ["the who"]) == 1  # nothing but stop words, so they count
    assert recall("北京是首都", ["首都北京市"]) == pytest.approx(4 / 5)
    assert recall("anything", ["...", ""]) == recall("anything", []) == 0


def test_rouge_l_by_hand():
    # police killed the gunman / police kill the gunman: 3 in order, of 4 and 4 (the example of Lin's paper)
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", ["police killed the gunman"]) == pytest.approx(2 / 4)
    assert rouge_l("", ["gunman"]) == rouge_l("gunman", []) == 0
    assert rouge_l("中华人民共和国", ["中国"]) == pytest.approx(2 * 2 / 9)


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_common_rows_and_subsequences_against_slow_ones(one, other):
    @cache
    def longest(a, b):
        if a == len(one) or b == len(other):
            return 0
        if one[a] == other[b]:
            return 1 + longest(a + 1, b + 1)
        return max(longest(a + 1, b), longest(a, b + 1))

    assert _common_subsequence(one, other) == longest(0, 0)
    rows = [size for size in range(len(one) + 1) for at in range(len(one) - size + 1) if one[at : at + size] in other]
    assert _common_run(one, other) == max(rows)


def test_a_long_answer_is_measured_against_long_golds():
    hostile = "the cat sat on the mat . " * 20_000
    example = Example("q", "?", ("the cat sat on the mat", LONG, "[" * 1000), wrong=("dogs",))
    assert set(answer_values(hostile, False, example)) == {
        "exact_match", "f1", "recall", "rouge_l", "contained", "correct", "not_wrong",
    }  # fmt: skip


# ---- right and wrong -------------------------------------------------------------------------------------------------


def test_a_long_gold_needs_half_its_words_a_phrase_all_and_a_short_one_must_stand_there():
    assert is_long(LONG)
    assert is_long(LONG_ZH)
    assert not is_long("Ancestral sampling with Euler method steps.")
    assert not is_long("python -m spacy huggingface-hub push en_ner_fashion-0.0.0-py3-none-any.whl")
    long = Example("q", "Why do cats sleep?", (LONG,))
    assert correct("Their resting muscles save energy between short hunts, hard as work [1].", long)
    assert not correct("Cats sleep in boxes.", long)
    assert correct("因为休息的肌肉在捕猎之间节省能量，捕猎是辛苦的。", Example("q", "猫为什么睡觉？", (LONG_ZH,)))
    assert not correct("猫在箱子里睡觉。", Example("q", "猫为什么睡觉？", (LONG_ZH,)))
    phrase = Example("q", "How?", ("By passing `fp16=True` to the init",))  # six words
    assert correct("The init takes it, passing `fp16=True`.", phrase)
    assert not correct("The init takes `fp16=True`.", phrase)
    short = Example("q", "Where?", ("Harbour Bridge in Sydney",))  # four
    assert recall("The bridge of Sydney harbour", short.answers) == 1 > LEAST_RECALL
    assert not correct("The bridge of Sydney harbour", short)
    assert correct("At the Harbour Bridge in Sydney.", short)
    assert not correct("泰国坡鹿也在海南。", Example("q", "哪一种？", ("海南坡鹿",)))


def test_one_of_every_required_group():
    example = Example("q", "谁是主演？", ("张丹",), required=(("张丹", "Zhang Dan"), ("张昊",)))
    assert correct("张昊和 Zhang Dan 主演。", example)
    assert not correct("张丹主演。", example)  # where groups are required, a known answer is not enough
    assert answer_values("张丹主演。", False, example)["contained"] == 0


def test_wrong_answers_count_unless_they_are_part_of_a_right_one():
    example = Example("q", "Where?", ("Paris, Texas",), wrong=("Paris", "London"))
    for said, not_wrong in (
        ("In Paris, Texas.", 1),
        ("In Paris.", 0),
        ("In Paris, Texas, not in Paris.", 0),
        ("伦敦，即 London", 0),
    ):
        assert answer_values(said, False, example)["not_wrong"] == not_wrong
    assert answer_values("London, or Paris, Texas [2]", False, example)["not_wrong"] == 0
    assert answer_values(None, False, example)["not_wrong"] == 0
    assert answer_values("I cannot say.", True, example)["not_wrong"] == 1


def test_unanswerable_questions_want_an_abstention():
    example = Example("q", "Where?", wrong=("Paris",), answerable=False)
    none = {"exact_match": 0.0, "f1": 0.0, "correct": 0.0}
    assert answer_values("The documents hold no answer.", True, example) == {"not_wrong": 1, **dict.fromkeys(none, 1.0)}
    assert answer_values("Paris", False, example) == {"not_wrong": 0, **none}
    assert answer_values(None, False, example) == {"not_wrong": 0, **none}
    assert not correct("Paris", example)


def test_abstentions_and_failures_of_an_answerable_question_score_0():
    example = Example("q", "Where?", ("no answer",), answerable=True)
    for text, abstained in (("There is no answer.", True), (None, False)):
        values = answer_values(text, abstained, example)
        assert set(values) == {"exact_match", "f1", "recall", "contained", "correct"}
        assert not any(values.values())


def test_nothing_is_measured_where_nothing_is_known():
    assert answer_values("Paris", False, Example("q", "Where?")) == {}
    assert answer_values("Paris", False, Example("q", "Where?", answerable=True)) == {}
    assert set(answer_values("Paris", False, Example("q", "Where?", required=(("Paris",),)))) == {
        "contained",
        "correct",
    }
    assert not correct("Paris", Example("q", "Where?"))


def test_markers_are_no_words_of_an_answer():
    for text in ("Paris [1].", "Paris [1][2].", "Paris [1, 2].", "Paris (Source 1).", "Paris【2】."):
        assert without_markers(text) == "Paris."
        assert answer_values(text, False, Example("q", "Where?", ("Paris",))).items() >= {"exact_match": 1}.items()
    assert without_markers("巴黎[1]。") == "巴黎。"
    assert not correct("Paris [12]", Example("q", "How many?", ("12",)))
    assert without_markers("`x[1]`") == "`x[1]`"


@given(
    texts, st.lists(texts, max_size=3), st.lists(texts, max_size=2), st.booleans(), st.sampled_from([True, False, None])
)
def test_whatever_is_said_every_value_is_between_0_and_1(text, golds, wrong, abstained, answerable):
    example = Example("q", "?", tuple(golds), wrong=tuple(wrong), answerable=answerable)
    values = answer_values(text, abstained, example)
    assert all(0 <= value <= 1 for value in values.values())
    assert values.keys() == answer_values(None, False, example).keys()
    if golds and answerable is not False and not abstained:
        assert values["correct"] == correct(text, example)
        assert values["correct"] >= values["contained"]


@given(texts, st.lists(texts, min_size=1, max_size=3), texts)
def test_the_best_gold_counts(answer, golds, more):
    for measure in (cmrc_f1, cmrc_exact_match, recall, rouge_l, contained):
        assert measure(answer, golds) == max(measure(answer, [gold]) for gold in golds)
    for measure in (squad_f1, squad_exact_match):  # beside "..", which says nothing, only other golds count
        assert measure(answer, ["Paris", more]) >= measure(answer, ["Paris"])
        assert measure(answer, ["Paris", ".."]) == measure(answer, ["Paris"])

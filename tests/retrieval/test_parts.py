"""Parts of a question: what is cut, what stays whole, and how the rankings of the parts are merged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.parts import MAX_CHARS, MAX_PARTS, merge, parts


def texts(question: str) -> list[str]:
    return [part.text for part in parts(question)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "What is the Eiffel Tower made of? And who designed the Louvre pyramid?",
            ["What is the Eiffel Tower made of?", "who designed the Louvre pyramid?"],
        ),
        (
            "1) How do I install transformers? 2) Which GPU memory is needed?",
            ["How do I install transformers?", "Which GPU memory is needed?"],
        ),
        (
            "Tell me: a) how are tokens counted b) what is the chunk size limit",
            ["Tell me: a) how are tokens counted", "what is the chunk size limit"],
        ),
        (
            "How do I load a model and also how can I push a dataset to the hub?",
            ["How do I load a model", "how can I push a dataset to the hub?"],
        ),
        (
            "what can I use UI Online for and when can I apply through UI Online, please?",
            ["what can I use UI Online for", "when can I apply through UI Online, please?"],
        ),
        (
            "How does a trainer save checkpoints as well as how does the hub store weights?",
            ["How does a trainer save checkpoints", "how does the hub store weights?"],
        ),
        (
            "Explain LoRA adapters. Describe gradient checkpointing.",
            ["Explain LoRA adapters.", "Describe gradient checkpointing."],
        ),
        (
            "which planet is largest? which metal is lightest?",
            ["which planet is largest?", "which metal is lightest?"],
        ),
        (
            "如何安装 transformers 库；怎样上传数据集到 Hub？",
            ["如何安装 transformers 库", "怎样上传数据集到 Hub？"],
        ),
        ("北京大学在哪里，以及清华大学是谁创立的？", ["北京大学在哪里", "清华大学是谁创立的？"]),
        (
            "规划在智能体中的作用是什么？为什么智能体需要规划行动？",
            ["规划在智能体中的作用是什么？", "为什么智能体需要规划行动？"],
        ),
        (
            "Fires need a fuel. What role does oxygen play in combustion? Which gas puts fires out?",
            ["Fires need a fuel. What role does oxygen play in combustion?", "Which gas puts fires out?"],
        ),
    ],
)  # fmt: skip
def test_several_questions_are_cut(question, expected):
    assert texts(question) == expected


@pytest.mark.parametrize(
    "question",
    [
        "salt and pepper",
        "Who founded Johnson & Johnson and Smith & Wesson?",
        "What is the difference between LoRA adapters and full fine-tuning?",
        "How to become a real estate agent and does it pay?",  # "it" is nothing by itself
        "How and why do I configure index rate alerts?",
        "Ctenophores, cnidarians and what other group are labelled diploblastic?",
        "Combustion is caused by an oxidant and a fuel. What role does oxygen play in combustion?",
        "Who did the U.S. collaborate with on an Earth orbit mission in 1975?",
        "What nationality are researchers Richard G. Wilkinson and Kate Pickett?",
        "Did 'Rep. Patrick McHenry' or another speaker win the vote?",
        "Who is the player that scored most runs in 2019 and who captained India later?",  # a relative clause
        "Which publisher was founded in 2005, and is based where?",
        "Grace's novel was published by a house that was founded in 2005, and is based where?",
        "Which company trained the model, and is the same company behind the dataset?",
        "How are tokens counted (a) in Chinese (b) in English?",
        "What was the answer to “Who goes there? What do they want?” in the play?",
        "苹果公司是谁创立的以及什么时候创立的？",  # the second half has lost its subject
        "伽利略最後遭到審判，這也和他惹怒了他的哪一位好友以及最重要的支柱有關?",
        "「殿下先謁陵乎？先即位乎？」這句話是誰說的?",
        "猫和狗的区别是什么？",
        "eyes of the dragon has how many pages? what is its genre, and when was this published?",
        "",
        "   ",
        "?? ?? ??",
        "\x00\x1b;\x00?\x07 the the",
        "What is X? " * (MAX_CHARS // 8),
    ],
)
def test_one_question_stays_whole(question):
    (part,) = parts(question)
    assert (part.text, part.start, part.end) == (question, 0, len(question))


def test_what_is_too_many_is_the_last_part():
    questions = [f"What does module number{n} compute quickly?" for n in range(7)]
    found = texts(" ".join(questions))
    assert found == [*questions[: MAX_PARTS - 1], " ".join(questions[MAX_PARTS - 1 :])]


WORDS = st.sampled_from(
    ["What", "which", "how", "and", "also", ";", "?", ".", "！", "以及", "什么", "北京", "大学", "1)", "2)", "a)", "it",
     "tower", "bridge", "is the", "built", "“", "”", "\n", ",", "salt"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map(" ".join)))
def test_parts_are_stretches_in_order(question):
    found = parts(question)
    assert 1 <= len(found) <= MAX_PARTS
    assert all(question[part.start : part.end] == part.text for part in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    if len(found) == 1:
        assert found[0].text == question
    else:
        assert all(part.text.strip() for part in found)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["? ", "and how ", "a) ", "; what is ", "以及什么", '"', " ", "1. ", "what and what ", "“", "."]
)
def test_no_question_is_slow(unit):
    """Milliseconds; a pattern that tries every way to take so many characters never ends."""
    parts((unit * MAX_CHARS)[:MAX_CHARS])


# merging


def test_merging_by_hand():
    # by reciprocal rank fusion: 1: 1/61; 2: 1/62 + .5/61; 3: 1/63 + .5/61; 9: .5/62; so 2, 3, 1, 9 after the heads
    assert merge([1, 2, 3], [[2, 9], [3]]) == [1, 2, 3, 9]
    assert merge([1, 2, 3, 4], [[7, 4], [8, 4]]) == [1, 7, 8, 4, 2, 3]  # 4: 1/64 + 1/62 beats 2: 1/62


RANKINGS = st.lists(st.integers(0, 30), unique=True, max_size=15)


@given(RANKINGS, st.lists(RANKINGS, max_size=4))
def test_merging_shows_the_best_of_every_part_and_loses_nothing(whole, by_part):
    merged = merge(whole, by_part)
    assert sorted(merged) == sorted(set(whole).union(*by_part))
    shown = merged[: 1 + len(by_part)]
    assert all(ranking[0] in shown for ranking in (whole, *by_part) if ranking)
    assert merged[:1] == (whole or [one for ranking in by_part for one in ranking])[:1]


@given(RANKINGS)
def test_without_parts_nothing_changes(whole):
    assert merge(whole, []) == whole
    assert merge(whole, [whole]) == whole

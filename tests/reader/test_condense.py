"""Follow-up questions: completed where they lean on what was said, and left alone where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import load_prompt
from reader.backends.scripted import ScriptedBackend
from reader.condense import MAX_CHARS, carry_over, condense
from reader.records import Turn
from retrieval.analyze import Analyzer

FERRY = [Turn("Where does the ferry to Marstal leave from?", "It leaves from pier seven [1].")]
analyzer = Analyzer()


def rare_when_long(terms):
    return np.array([float(len(term)) for term in terms])


def carried(question, history=FERRY):
    return carry_over(question, history, analyzer, rare_when_long)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("When was it built?", "When was it built? (ferry Marstal leave)"),
        ("And on Sundays?", "And on Sundays? (ferry Marstal leave)"),
        ("Price?", "Price? (ferry Marstal leave)"),
        ("Does that ferry carry bicycles?", "Does that ferry carry bicycles? (Marstal leave)"),
        ("How tall is the tower of the cathedral?", "How tall is the tower of the cathedral?"),
        ("Which museums of clocks open on Monday morning?", "Which museums of clocks open on Monday morning?"),
        ("Is there a limit on the size of integers?", "Is there a limit on the size of integers?"),
        ("Where is the file that holds the settings?", "Where is the file that holds the settings?"),
        ("Why?", "Why? (ferry Marstal leave)"),
        ("Why did the Senate spend money on travel?", "Why did the Senate spend money on travel?"),
        ("!!!", "!!!"),
    ],
)
def test_what_a_follow_up_leaves_out_is_carried_over(question, expected):
    assert carried(question) == expected


def test_chinese_carries_the_question_before_and_only_once():
    history = [Turn("渡轮从哪里出发去马斯塔尔？", "七号码头 [1]。")]
    first = carried("它什么时候出发？", history)
    assert first == "它什么时候出发？ (渡轮从哪里出发去马斯塔尔)"
    assert carried("那价格呢？", [*history, Turn(first, "")]) == "那价格呢？ (渡轮从哪里出发去马斯塔尔)"
    assert carried("为什么？", history) == "为什么？ (渡轮从哪里出发去马斯塔尔)"
    for alone in (
        "为什么博物馆里没有一扇窗户？",
        "博物馆里最古老的时钟是谁制造的？",
        "应该怎样保养汽车发动机？",
        "那不勒斯的人口是多少？",
        "吉他怎么弹奏最好听？",
    ):
        assert carried(alone, history) == alone
    named = [Turn("什么是卷积神经网络 (CNN)", "")]
    assert carried("它有哪些层？", named) == "它有哪些层？ (什么是卷积神经网络 (CNN))"


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_question_itself_stays_whole(question, before):
    found = carry_over(question, [Turn(before, "")], analyzer, rare_when_long)
    assert found == question or (found.startswith(f"{question} (") and found.endswith(")"))
    assert carry_over(question, [], analyzer, rare_when_long) == question


def prompt(language):
    return load_prompt(f"condense-{language}")


def test_a_model_rewrites_the_question_from_what_was_said():
    backend = ScriptedBackend(['  Question: "When was the ferry to Marstal built?"\n'])
    assert condense(backend, prompt, "When was it built?", FERRY) == "When was the ferry to Marstal built?"
    ((system, user),) = backend.asked
    assert "Do not answer" in system.content
    assert "Q: Where does the ferry to Marstal leave from?\nA: It leaves from pier seven [1]." in user.content
    assert user.content.endswith("Last question: When was it built?\n\nThe question by itself:")


@pytest.mark.parametrize(
    "written",
    [
        "",
        " \n",
        "x" * (MAX_CHARS + 1),
        "many " * 130,
        "Sure! Here is the rewritten question:\nWhat is x?",
        "```\nWhat is x?\n```",
        "It leaves from pier seven [1].",
        "The rewritten question is:",
    ],
)
def test_what_is_no_question_is_not_taken_for_one(written):
    assert condense(ScriptedBackend([written]), prompt, "When?", FERRY) is None


def test_a_long_conversation_is_told_from_its_end():
    history = [Turn(f"Question {n}?", "word " * 100) for n in range(20)]
    backend = ScriptedBackend(["Fine?"], window=500)
    assert condense(backend, prompt, "When?", history) == "Fine?"
    assert "Question 19?" in backend.asked[0][1].content
    assert "Question 10?" not in backend.asked[0][1].content
    assert condense(ScriptedBackend(["Fine?"], window=150), prompt, "When?", history) is None

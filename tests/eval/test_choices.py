"""Multiple choice: the best supported choice is taken, and what counts as right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.choices import choice_values, choose, guessing
from eval.records import Choice, Example


def test_a_choice_counts_alone_and_behind_the_question():
    # alone / behind the question: .5 + .2 = .7, .1 + .5 = .6, .0 + .9 = .9
    support = {"a": 0.5, "Which? a": 0.2, "b": 0.1, "Which? b": 0.5, "丙": 0.0, "Which? 丙": 0.9}
    assert choose("Which?", ["a", "b", "丙"], support.__getitem__) == 2
    assert choose("Which?", ["a", "b"], support.__getitem__) == 0


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6))
def test_the_first_of_the_best_is_taken(choices):
    support = {"a": 0.2, "b": 0.5, "c": 0.5}
    found = choose("?", choices, lambda claim: support.get(claim, 0))
    assert support[choices[found]] == max(support[each] for each in choices)
    assert all(support[each] < support[choices[found]] for each in choices[:found])


def test_no_choice_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        choose("Which?", [], lambda _: 0.5)


def example(*correct):
    return Example("q", "Which?", choices=tuple(Choice(f"choice {n}", each) for n, each in enumerate(correct)))


def test_one_of_the_correct_choices_is_enough_and_none_is_wrong():
    several = example(False, True, True)
    assert [choice_values(choice, several)["choice"] for choice in (0, 1, 2, None, 3, -1)] == [0, 1, 1, 0, 0, 0]


def test_choices_that_cannot_be_wrong_or_right_say_nothing():
    for one in (example(), example(True, True), example(False, False)):
        assert choice_values(0, one) == {}


def test_guessing_is_the_share_of_correct_choices():
    assert guessing(example(True, False, False, False).choices) == 0.25
    assert guessing(()) == 0

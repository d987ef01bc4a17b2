"""The double that ships: in order, verbatim, cut where asked, and never silent at the end of its script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.backends.base import Backend, Generation, Message, Sampling
from reader.backends.scripted import ScriptedBackend
from retrieval.errors import ModelError, PromptTooLongError

ASKED = [Message("system", "be kind"), Message("user", "a b c")]


def test_answers_in_order_and_remembers_what_it_was_asked():
    backend: Backend = ScriptedBackend(["one two", "three", "four"])
    assert backend.generate(ASKED, Sampling()) == Generation("one two", 7, 2)
    assert backend.generate_many([ASKED[1:], ASKED], Sampling()) == [
        Generation("three", 4, 1),
        Generation("four", 7, 1),
    ]
    assert backend.asked == [tuple(ASKED), tuple(ASKED[1:]), tuple(ASKED)]
    assert backend.model == "scripted"


def test_an_exhausted_script_is_an_error():
    backend = ScriptedBackend(["one"])
    backend.generate(ASKED, Sampling())
    with pytest.raises(ModelError, match="holds 1 answers; a further one was asked for"):
        backend.generate(ASKED, Sampling())
    assert len(backend.asked) == 1


def test_a_prompt_over_the_window_is_refused():
    with pytest.raises(PromptTooLongError, match=r"7 \+ 4 tokens, the window is 10"):
        ScriptedBackend(["one"], window=10).generate(ASKED, Sampling(max_tokens=4))


@given(st.text(max_size=60), st.integers(0, 8))
def test_never_longer_than_asked_and_verbatim_as_far_as_it_goes(answer, most):
    backend = ScriptedBackend([answer, answer])
    found = backend.generate(ASKED, Sampling(max_tokens=most))
    assert found.answer_tokens == backend.count_tokens(found.text) <= most
    assert answer.startswith(found.text)
    assert found.complete == (backend.count_tokens(answer) <= most)
    if found.complete:
        assert found.text == answer
    assert "".join(backend.stream(ASKED, Sampling(max_tokens=most))) == found.text


def test_the_script_is_its_own():
    answers = ["one"]
    backend = ScriptedBackend(answers)
    answers.clear()
    assert backend.generate(ASKED, Sampling()).text == "one"

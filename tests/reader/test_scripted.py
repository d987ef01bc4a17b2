"""The double that ships: in order, verbatim, cut where asked, and never silent at the end of its script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.backends.base import Backend, Generation
from reader.backends.scripted import ScriptedBackend
from retrieval.errors import ModelError


def test_answers_in_order_and_remembers_what_it_was_asked():
    backend: Backend = ScriptedBackend(["one two", "three"])
    assert backend.generate("system", "user", max_tokens=9) == Generation("one two", 2, 2)
    assert backend.generate("s", "a b c", max_tokens=9) == Generation("three", 4, 1)
    assert backend.asked == [("system", "user"), ("s", "a b c")]
    assert backend.model == "scripted"


def test_an_exhausted_script_is_an_error():
    backend = ScriptedBackend(["one"])
    backend.generate("", "", max_tokens=1)
    with pytest.raises(ModelError, match="holds 1 answers; a further one was asked for"):
        backend.generate("", "", max_tokens=1)
    assert len(backend.asked) == 1
    with pytest.raises(ModelError):
        ScriptedBackend([]).generate("", "", max_tokens=1)


@given(st.text(max_size=60), st.integers(0, 8))
def test_never_longer_than_asked_and_verbatim_as_far_as_it_goes(answer, most):
    backend = ScriptedBackend([answer])
    found = backend.generate("", "", max_tokens=most)
    assert found.answer_tokens == backend.count_tokens(found.text) <= most
    assert answer.startswith(found.text)
    if backend.count_tokens(answer) <= most:
        assert found.text == answer


def test_the_script_is_its_own():
    answers = ["one"]
    backend = ScriptedBackend(answers)
    answers.clear()
    assert backend.generate("", "", max_tokens=1).text == "one"

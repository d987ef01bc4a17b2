"""What is an answer, and what only comes before it: reasoning is taken out, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.backends.base import REASONING_LEFT_OUT, Generation, Thoughts, answer_of, stream_answer
from retrieval.errors import AnswerError

PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "think>", " ", "\n", "a", "<", "So."]))


def streamed(pieces):
    """What is yielded, what is returned or raised, and the notices."""
    closed, notes = [], []

    def stream():
        try:
            yield from pieces
            return Generation("".join(pieces), 1, len(pieces))
        finally:
            closed.append(True)

    shown, made = [], stream_answer(stream(), who="m", note=notes.append)
    while True:
        try:
            shown.append(next(made))
        except StopIteration as end:
            assert closed
            return "".join(shown), end.value, notes
        except AnswerError as error:
            assert closed
            return "".join(shown), error, notes


def answer_by_hand(text):
    """The slow oracle: block after block from the beginning of the whole text."""
    rest = text
    while rest.lstrip().startswith("<think>"):
        rest = rest.partition("</think>")[2].lstrip()
    return rest


@given(PIECES)
def test_the_answer_does_not_depend_on_the_pieces(pieces):
    text = "".join(pieces)
    thoughts = Thoughts()
    assert thoughts.feed(text) + thoughts.close() == answer_by_hand(text)
    shown, returned, _ = streamed(pieces)
    if answer_by_hand(text).strip():
        assert returned.text == shown == answer_by_hand(text)
    else:
        assert isinstance(returned, AnswerError)
        assert not shown.strip()


@pytest.mark.parametrize(
    ("text", "answer", "noted"),
    [("So.", "So.", False), ("\n So.", "\n So.", False), ("<think>hm</think>\n\nSo.", "So.", True),
     ("\n<think>\n\n</think>\n\nSo.", "So.", False), ("<think>a</think> <think>b</think>So.", "So.", True),
     ("So <think>it</think> is.", "So <think>it</think> is.", False), ("<thin ice", "<thin ice", False),
     ("<", "<", False)],
)  # fmt: skip
def test_by_hand(text, answer, noted):
    notes = []
    assert answer_of(Generation(text, 1, 1), who="m", note=notes.append) == Generation(answer, 1, 1)
    assert notes == [REASONING_LEFT_OUT] * noted
    assert streamed(list(text)) == (answer, Generation(answer, 1, len(text)), notes)


@pytest.mark.parametrize(
    ("text", "complete", "expected"),
    [("", True, "m ended its answer without a word"), (" \n", True, "without a word; ask in other words"),
     ("", False, "m reached the limit of tokens without a word; if it reasons unseen"),
     ("<think>hm", False, "m wrote nothing but reasoning; raise max_answer_tokens, or turn its reasoning off"),
     ("<think>hm</think> ", True, "nothing but reasoning")],
)  # fmt: skip
def test_no_answer_is_blank(text, complete, expected):
    with pytest.raises(AnswerError, match=expected):
        answer_of(Generation(text, 1, 1, complete), who="m", note=lambda _: None)

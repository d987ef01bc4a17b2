"""Grapheme cluster boundaries, against the whole text read by \\X from its start."""

from __future__ import annotations

import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrieval.graphemes import Graphemes, boundaries

LETTERS = list(
    "ab \r\n\t\x00\u0301\u0308\u200d\u200b\u0600\u0903\u0e33\u1100\u1161\u11a8각क्🇩🇪🇫👩🏽❤\ufe0f©‼\u20e3\ud800"
)
TEXTS = st.one_of(st.lists(st.sampled_from(LETTERS), max_size=40).map("".join), st.text(max_size=60))


def slow(text: str) -> list[int]:
    return [match.start() for match in regex.finditer(r"\X", text)] + [len(text)]


@given(TEXTS)
@settings(max_examples=500, deadline=None)
@example("🇩🇪🇫🇷🇩")
@example("🇩🇪🇩🇪\u0301")
@example("\u0600🇩🇪🇫🇷")
@example("a\r\nb\rc\n\u0301")
def test_every_position_agrees_with_the_slow_way(text: str) -> None:
    graphemes = Graphemes(text)
    expected = {0, *slow(text)}
    assert {place for place in range(len(text) + 1) if graphemes.is_boundary(place)} == expected
    assert {place for place in range(len(text), -1, -1) if graphemes.is_boundary(place)} == expected
    assert boundaries(text) == slow(text)


def test_what_a_reader_sees_as_one_character_is_one() -> None:
    for whole in [
        "e\u0301",
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "🇩🇪",
        "1\ufe0f\u20e3",
        "각",
        "\u1100\u1161\u11a8",
        "क्षि",
        "\r\n",
        "ก\u0e33",
    ]:
        assert boundaries(f"a{whole}b") == [0, 1, 1 + len(whole), 2 + len(whole)]


def test_long_rows_are_read_once() -> None:
    """Each of these takes minutes where a position is found by counting from the start of its row or line."""
    for text in ["🇩" * 1_000_000, "a" + "\u0301" * 1_000_000, "é\r" * 300_000, "漢\n" * 300_000, "👩‍" * 300_000]:
        graphemes = Graphemes(text)
        assert sum(map(graphemes.is_boundary, range(0, len(text), 7))) > 0

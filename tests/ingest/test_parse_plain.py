"""Underlined headings, literal blocks and tables of reStructuredText and plain text."""

from __future__ import annotations

import time
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import pytest

from ingest.parse.plain import parse

if TYPE_CHECKING:
    from ingest.parse import Parsed


def read(text: str) -> Parsed:
    return parse(text.encode(), ".rst")


def headings(text: str) -> list[tuple[int, str]]:
    return [(span.number, span.label) for span in read(text).spans if span.kind == "heading"]


def blocks(text: str, kind: str) -> list[str]:
    return [text[span.start : span.end] for span in read(text).spans if span.kind == kind]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_levels_are_the_order_of_styles(end):
    text = end.join(["=====", "Title", "=====", "", "One", "===", "", "Two", "---", "x", "", "Three", "=====", "y"])
    parsed = read(text)
    assert parsed.title == "Title"
    assert parsed.media_type == "text/x-rst"
    assert [(s.number, text[s.start : s.end]) for s in parsed.spans] == [
        (1, f"====={end}Title{end}====="),
        (2, f"One{end}==="),
        (3, f"Two{end}---"),
        (2, f"Three{end}====="),
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Title\n====", [(1, "Title")]),  # one short is forgiven
        ("Title\n===", []),
        ("if\n**", [(1, "if")]),
        ("x\n**", []),
        ("标题\n====", [(1, "标题")]),  # wide characters take two columns
        ("标题\n==", []),
        (" indented\n=========", []),
        ("one\ntwo\n===", []),
        ("-----\n=====", []),
        ("para\n\n====\n\npara", []),
        ("ab\n::", []),
        ("ab\n..", []),
        ("long " * 70 + "\n" + "=" * 400, []),
    ],
)
def test_what_is_a_heading(text, wanted):
    assert headings(text) == wanted


def test_literal_blocks():
    text = (
        "Run::\n\n   a\n\n     b\n\nText.\n\n.. code-block:: py\n   :x: y\n\n   c\n\n"
        ".. note::\n\n   prose\n\nList:\n\n  * x\n"
    )
    assert blocks(text, "code") == ["   a\n\n     b", ".. code-block:: py\n   :x: y\n\n   c"]


def test_literal_block_at_the_end_and_inside_an_item():
    assert blocks("- item:\n\n     code\n\n  more\n\nx:\n\n  end", "code") == ["     code", "  end"]


def test_tables():
    grid = "+---+---+\n| a | b |\n+===+===+\n| 1 | 2 |\n+---+---+"
    simple = "=== ===\na   b\n=== ===\n1   2\n\n3   4\n=== ==="
    assert blocks(f"x\n\n{grid}\n\n{simple}\n\ny === ===", "table") == [grid, simple]


def test_python_language_reference():
    """Real text that every machine has: each topic opens with its title, and sections nest."""
    for name, text in topics.items():
        parsed = parse(text.encode(), ".txt")
        assert parsed.text == text
        assert parsed.title, name
        assert parsed.text.lstrip().startswith(parsed.title), name
    found = headings(topics["try"])
    assert found[0] == (1, 'The "try" statement')
    assert (2, '"else" clause') in found
    found = headings(topics["compound"])
    assert (2, 'The "try" statement') in found
    assert (3, '"else" clause') in found
    assert any("lambda" in block for block in blocks(topics["operator-summary"], "table"))


@pytest.mark.parametrize(
    "text",
    [
        ":\n\n" * 200_000,
        ":\n \n" * 200_000,
        ":\n\n x\n" * 100_000,
        "ab\n==\n\n" * 100_000,
        "=== ===\n" * 100_000,
        "+---+\n" * 200_000,
        "-=" * 500_000,
        " " * 1_000_000 + "x",
        "".join(" " * n + "a:\n\n" for n in range(1_500)),
        ".. code::\n" * 100_000,
    ],
)
def test_hostile_text_takes_linear_time(text):
    started = time.perf_counter()
    read(text)
    assert time.perf_counter() - started < 5  # measured 0.02 to 0.6 s


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Minutes of June\n\nWe met.", "Minutes of June"),
        ("\ufeff\n  会议纪要 \r\n\r\n内容", "会议纪要"),
        ("We met in June.\n\nThen we left.", ""),  # a sentence
        ("Dear Ann,\n\nhello", ""),
        ("one\ntwo\n\nthree", ""),  # a paragraph of two lines
        ("alone\n\n \n", ""),
        ("1234\n\ntext", ""),
        ("x" * 101 + "\n\ntext", ""),
        ("First\n\nTitle\n=====\n\ntext", "Title"),
    ],
)
def test_a_short_first_line_that_stands_alone_is_the_title(text, title):
    parsed = parse(text.encode(), ".txt")
    assert parsed.title == title
    assert all(parsed.text[span.start : span.end].startswith(span.label) for span in parsed.spans)

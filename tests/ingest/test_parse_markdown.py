"""Headings, code, tables and front matter of Markdown; checked against a CommonMark parser as the slow oracle."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.parse.markdown import outline, parse

if TYPE_CHECKING:
    from ingest.parse import Parsed


def read(text: str) -> Parsed:
    return parse(text.encode(), ".md")


def headings(text: str) -> list[tuple[int, str]]:
    return [(span.number, span.label) for span in read(text).spans if span.kind == "heading"]


def blocks(text: str, kind: str) -> list[str]:
    return [text[span.start : span.end] for span in read(text).spans if span.kind == kind]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_headings_with_every_line_end(end):
    lines = ["# One #", "", "text", "", "Two  ", "---", "para", "", "   ### Three [[three]]", "Top", "===", ""]
    text = end.join(lines)
    parsed = read(text)
    assert [(s.number, s.label, text[s.start : s.end]) for s in parsed.spans] == [
        (1, "One", "# One #"),
        (2, "Two", f"Two  {end}---"),
        (3, "Three", "   ### Three [[three]]"),
        (1, "Top", f"Top{end}==="),
    ]
    assert parsed.title == "One"


@pytest.mark.parametrize(
    "text",
    [
        "#no space",
        "    # code",
        "####### seven",
        "#",
        "a\nb\n---",
        "- item\n---",
        "> quote\n---",
        "\\# x",
        "para\n\n---",
    ],
)
def test_what_is_no_heading(text):
    assert headings(text) == []


def test_overlong_headings_are_prose():
    assert headings("# " + "x" * 301 + "\n\n" + "y" * 301 + "\n===\n# ok") == [(1, "ok")]


def test_code_hides_headings_and_runs_to_its_own_fence():
    text = "# A\n````py\n# no\n```\n# no\n````  \n~~~\n# no\n```\n~~~\n- ```sh\n  # no\n  ```\n# B\n```\n# open"
    assert headings(text) == [(1, "A"), (1, "B")]
    assert [block.split("\n")[0] for block in blocks(text, "code")] == ["````py", "~~~", "- ```sh", "```"]
    assert blocks(text, "code")[0].endswith("````  ")
    assert blocks(text, "code")[-1] == "```\n# open"


def test_inline_code_of_three_backticks_opens_nothing():
    assert headings("```not a fence``` here\n# A") == [(1, "A")]


def test_comments_hide_headings_unless_they_never_end():
    assert headings("<!--\n# no\n-->\n# A\n<!-- x --> \n# B") == [(1, "A"), (1, "B")]
    assert headings("<!-- open\n# A") == [(1, "A")]


def test_tables():
    text = "a | b\n:-- | --:\n1 | 2\n| 3 |\n\nno | table\n\n| x |\n|---|\n# H | bar\nplain"
    assert blocks(text, "table") == ["a | b\n:-- | --:\n1 | 2\n| 3 |", "| x |\n|---|\n# H | bar"]


def test_front_matter_is_metadata_and_no_heading():
    lines = [
        "\ufeff---",
        "title: 'A: b'",
        "tags: [x, y]",
        "author: Ann",
        "nested:",
        "  key: no",
        "# comment",
        "x: |",
        "  y",
    ]
    text = "\n".join([*lines, "---", "# H", "---", "k: v", ""])
    parsed = read(text)
    assert parsed.metadata == {"title": "A: b", "author": "Ann", "tags": ["x", "y"]}
    assert parsed.title == "A: b"
    assert headings(text) == [(1, "H")]


def test_front_matter_lists():
    text = "---\ntags:\n  - a\n  - 'b, c'\nx: 1\nflow: [blue, \"quoted, x\", 'y']\nopen: [a,\nempty: []\n---\n# H"
    assert read(text).metadata == {
        "tags": ["a", "b, c"], "x": "1", "flow": ["blue", "quoted, x", "y"], "empty": [],
    }  # fmt: skip


@pytest.mark.parametrize("text", ["---\n\ntitle: x\n---\n# H", "---\nprose\n---\n# H", "---\ntitle: open\n# H"])
def test_what_is_no_front_matter(text):
    assert read(text).metadata == {}
    assert (1, "H") in headings(text)


def test_malformed_front_matter_does_not_hide_the_document():
    parsed = read("---\ntitle: [unclosed\n: : :\n---\n# Real title\nThe answer is basalt.\n")
    assert parsed.title == "Real title"


def test_outline_of_a_fragment_has_no_front_matter():
    assert outline("---\na: b\n---\n# H\n")[-1].label == "H"


@pytest.mark.parametrize(
    "text",
    [
        "#" * 1_000_000,
        "#\n" * 200_000,
        "```\n~~~\n" * 100_000,
        "|-" * 500_000,
        "- " * 500_000,
        " " * 1_000_000 + "x",
        "<!--\n" * 200_000,
        "a\n---\n" * 100_000,
        "a|b\n-|-\n" * 100_000,
        "---\n" + "a: b\n" * 200_000,
        "[" * 1_000_000,
        "# a [[" * 200_000,
    ],
)
def test_hostile_text_takes_linear_time(text):
    started = time.perf_counter()
    read(text)
    assert time.perf_counter() - started < 5  # measured 0.01 to 0.5 s


LINE = st.one_of(
    st.sampled_from(["# A", "## B ##", "  # C", "#", "text", "Title", "", "===", "---", "-", "***"]),
    st.sampled_from(["```", "~~~~", "```py", "a | b", "- x", "> q", "<!-- c -->"]),
)


@given(st.lists(LINE, max_size=12).map("\n".join))
def test_agrees_with_a_commonmark_parser(text):
    """Top-level one-line headings are the same, where the documented differences do not come in."""
    markdown_it = pytest.importorskip("markdown_it")
    if text.startswith("---"):
        return  # front matter or not is our own decision
    if "- x" in text or "> q" in text or "<!--" in text or "\n-\n" in f"\n{text}\n":
        return  # containers and HTML blocks follow simpler rules here
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(text)
    found = [(head, inline.content) for head, inline in pairwise(tokens) if head.type == "heading_open"]
    if any("\n" in title for _, title in found):
        return  # a heading of several lines is a paragraph here
    wanted = [(head.map[0], int(head.tag[1])) for head, title in found if head.level == 0 and title]
    spans = read(text).spans
    assert [(text.count("\n", 0, s.start), s.number) for s in spans if s.kind == "heading"] == wanted

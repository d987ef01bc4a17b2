"""What holds for every text and for every real file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.parse import FORMATS, Parsed, parse
from retrieval.errors import ParseError

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data")
MAX_BYTES = 5_000_000

MARKS = "# ,## T,===,---,```,~~~,|,a|b,-|-,    ,::,:,.. code::,+--+,=== ===,def f():,class A:,@x,<!--,-->,word,文字"
MORE_MARKS = [
    "\ufeff",
    "\0",
    "\u2028",
    "e\u0301",
    "\U0001f600",
    "[[x]]",
    "{#y}",
    "#",
    "- ",
    "1. ",
    "> ",
    "key: value",
    "---\n",
]
PIECES = st.sampled_from([*MARKS.split(","), *MORE_MARKS, "\n", "\r", "\r\n", "\n\n", " ", "\t"])
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200))


def parsed_or_refused(path: Path, data: bytes) -> Parsed | None:
    """What parse() gives; None where it says that it cannot, and what to do. Any other exception fails the test."""
    try:
        return parse(path, data)
    except ParseError as error:
        refusal = error
    assert refusal.reason
    assert refusal.advice
    return None


def check_spans(parsed: Parsed) -> None:
    last = 0
    for span in parsed.spans:
        assert 0 <= last <= span.start <= span.end <= len(parsed.text)
        last = span.start
        if span.kind == "heading":
            assert span.number >= 1
            assert span.label.strip()
            assert span.label in parsed.text[span.start : span.end]
            assert not parsed.text[span.start : span.end].endswith(("\n", "\r"))
    parsed.text.encode("utf-8")
    parsed.title.encode("utf-8")


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, name=st.sampled_from(["a.md", "a.rst", "a.txt", "a.py", "a.js", "a"]))
@example(text="\r# A\r\r\n", name="a.md")
def test_text_formats_keep_the_file_and_mark_it_exactly(text, name):
    try:
        parsed = parse(Path(name), text.encode())
    except ParseError:
        assert "\0" in text or not text.removeprefix("\ufeff").strip()
        return
    assert parsed.text == text
    check_spans(parsed)


TAGS = (
    "<p> </p> <h1> </h1> <table> </table> <tr> <td> <pre> </pre> <ul> <li> </ul> <br> x </div> <b> </b> &lt; <h2> </h2>"
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*TAGS.split(), "<caption>", "<svg>", "<div hidden>", " ", "\n"]), max_size=30))
def test_any_markup_gives_exact_spans(pieces):
    if (parsed := parsed_or_refused(Path("a.html"), "".join(pieces).encode())) is not None:
        check_spans(parsed)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([*sorted(FORMATS), ".bin", ""]))
def test_any_bytes_give_a_document_or_a_parse_error(data, suffix):
    if (parsed := parsed_or_refused(Path(f"a{suffix}"), data)) is not None:
        check_spans(parsed)


@pytest.mark.parametrize("folder", ["files/messy", "files/hostile"])
def test_real_files_give_a_document_or_a_parse_error(folder):
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {folder} below {DATA} (set RAG_TEST_DATA)")
    started = time.perf_counter()
    parsed = 0
    for path in sorted((DATA / folder).rglob("*")):
        if path.suffix.lower() not in FORMATS or not path.is_file() or path.stat().st_size > MAX_BYTES:
            continue
        if (document := parsed_or_refused(path, path.read_bytes())) is not None:
            check_spans(document)
            parsed += 1
        assert time.perf_counter() - started < 20, path
    assert parsed >= 10

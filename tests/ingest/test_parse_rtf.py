"""RTF written by hand; the control words are those of the RTF specification 1.9.1."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packages import check_spans, marked

from ingest.parse.rtf import MAX_DEPTH
from ingest.parse.rtf import parse as parse_rtf
from retrieval.errors import ParseError


def read(body: str | bytes, head: str = r"\rtf1\ansi\ansicpg1252\deff0"):
    raw = body if isinstance(body, bytes) else body.encode("latin-1")
    parsed = parse_rtf(b"{" + head.encode() + raw + b"}", ".rtf")
    check_spans(parsed)
    return parsed


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"one\par two\line three\tab four", "one\n\ntwo\nthree\tfour"),
        ("a\r\nb\\\nc", "ab\n\nc"),
        (r"caf\'e9 \'80", "café €"),
        (r"\u8364?\u-10179?\u-8704? {\uc2\u233ab}c{\uc0\u234}d", "€😀 écêd"),
        (r"\u55357?x", "\ufffdx"),
        (r"\{\\\}~\~\_ \emdash\ldblquote q\rdblquote", "{\\}~\u00a0\u2011 —“q”"),
        (r"a{\*\unknown b{c}}{\pict ffff}{\header h}{\v hidden}{\deleted gone}\v x\v0 d", "ad"),
        (r"{\field{\*\fldinst HYPERLINK x}{\fldrslt link}}", "link"),
        (r"{\shp{\*\shpinst{\sp{\sn a}{\sv b}}{\shptxt boxed\par}}}", "boxed"),
        (r"a\bin3 {{}b", "ab"),
        (r"\unknownword123 a\b0 b", "ab"),
    ],
)
def test_golden(body, text):
    assert read(body).text == text


def test_fonts_decide_how_bytes_read():
    fonts = r"{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial Cyr;}{\f2\fcharset128 Mincho;}}"
    assert read(fonts + r"\f1\'cc\'e8\'f0 {\f2 \'93\'fa\'83A} \'cc").text == "Мир 日ア М"
    assert read(r"\'c4\'e3\'ba\'c3", head=r"\rtf1\ansi\ansicpg936").text == "你好"
    assert read(r"\'8e", head=r"\rtf1\mac").text == "é"
    assert read(r"\'e9", head=r"\rtf1\ansi\ansicpg99999").text == "é"


def test_headings_information_and_notes():
    styles = r"{\stylesheet{\s0 Normal;}{\s1\sbasedon0 heading 1;}{\s3\b heading 3;}{\*\cs10 Default;}}"
    info = r"{\info{\title The {\b title}}{\author Ann}{\creatim\yr2024\mo1\dy2\hr3}{\keywords no}}"
    parsed = read(
        styles + info + r"\pard\s1 Top\par\pard Body{\footnote\pard\plain \s0 Below.}more\par"
        r"\pard\s3 Deep\par\pard\outlinelevel1 Outlined\par\pard end"
    )
    assert parsed.text == "Top\n\nBodymore\n\nNote: Below.\n\nDeep\n\nOutlined\n\nend"
    assert marked(parsed, "heading") == [("heading", 1, "Top"), ("heading", 3, "Deep"), ("heading", 2, "Outlined")]
    assert parsed.title == "The title"
    assert parsed.metadata == {"author": "Ann", "created": "2024-01-02"}


def test_tables():
    row = r"\trowd\cellx1\cellx2\pard\intbl {}\cell {}\cell\row".format
    parsed = read(r"before\par" + row("Name", "Age") + row(r"Ann\par Lee", "7") + r"\pard after\par")
    assert parsed.text == "before\n\n| Name | Age |\n| Ann Lee | 7 |\n\nafter"
    assert marked(parsed, "table") == [("table", 0, "| Name | Age |\n| Ann Lee | 7 |")]


def test_a_document_that_ends_too_soon_and_one_that_goes_on():
    assert parse_rtf(rb"{\rtf1 a{\b b\par c", ".rtf").text == "ab\n\nc"
    assert parse_rtf(rb"{\rtf1 a}{\rtf1 b}junk", ".rtf").text == "a"


def test_what_is_no_rtf_and_what_nests_without_end():
    with pytest.raises(ParseError, match="not an RTF"):
        parse_rtf(b"text", ".rtf")
    with pytest.raises(ParseError, match="nested"):
        read("{" * (MAX_DEPTH + 1))


WORDS = (
    r"{ } \par \cell \row \intbl \pard \u233 \u-10179 \uc3 \'e9 \' \* \footnote \info \title \fonttbl \f1 \fcharset128"
    r" \stylesheet \s1 heading 1; \bin5 \bin-1 \v \trowd text \\ \~ \ansicpg932 \upr \shptxt \yr2024"
)
PIECES = st.sampled_from(WORDS.split(" "))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text("ab {}\\\n", max_size=4)), max_size=40).map(" ".join))
def test_any_control_words_give_exact_spans(body):
    read(body).text.encode()


def test_time_is_linear():
    started = time.perf_counter()
    read(rb"{\pict " + b"0123456789abcdef" * 200_000 + b"}" + rb"\u233?\'e9\b x\par " * 30_000)
    assert time.perf_counter() - started < 10  # measured: 0.9 s

"""OpenDocument files written by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from packages import check_spans, marked, packed

from ingest.parse import parse
from retrieval.errors import ParseError

NAMES = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in {
        "office": "office",
        "text": "text",
        "table": "table",
        "draw": "drawing",
        "style": "style",
        "presentation": "presentation",
        "meta": "meta",
    }.items()
)
HIDING = (
    '<style:style style:name="no"><style:table-properties table:display="false"/>'
    '<style:drawing-page-properties presentation:visibility="hidden"/></style:style>'
)
META = (
    f'<office:document-meta {NAMES} xmlns:dc="dc"><office:meta><dc:title>Title</dc:title>'
    "<dc:creator>Bob</dc:creator><meta:initial-creator>Ann</meta:initial-creator><dc:date>2024-05-06</dc:date>"
    "<meta:creation-date>2024-01-02</meta:creation-date></office:meta></office:document-meta>"
)


def document(kind, body, *, meta="", manifest="<manifest/>"):
    content = (
        f"<office:document-content {NAMES}><office:automatic-styles>{HIDING}</office:automatic-styles>"
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    members = {"content.xml": content, "META-INF/manifest.xml": manifest}
    return packed(members | ({"meta.xml": meta} if meta else {}))


def read(data, suffix=".odt"):
    parsed = parse(Path(f"a{suffix}"), data)
    check_spans(parsed)
    return parsed


def cell(text="", attributes=""):
    return f"<table:table-cell {attributes}>{f'<text:p>{text}</text:p>' if text else ''}</table:table-cell>"


def row(*cells, attributes=""):
    return f"<table:table-row {attributes}>{''.join(cells)}</table:table-row>"


def sheet(name, *rows, style=""):
    return f'<table:table table:name="{name}" table:style-name="{style}">{"".join(rows)}</table:table>'


def test_text_headings_lists_notes_and_tables():
    body = (
        '<text:h text:outline-level="2">Part</text:h>'
        "<text:p>One<text:s text:c='3'/>two\n  <text:span>three</text:span><text:tab/>end<text:line-break/>next"
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Below.</text:p></text:note-body>"
        "</text:note><office:annotation><text:p>unseen</text:p></office:annotation></text:p>"
        "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        "<text:list><text:list-item><text:p>item</text:p><text:list><text:list-item><text:p>inner</text:p>"
        "</text:list-item></text:list></text:list-item></text:list>"
        + sheet("T", row(cell("a"), cell("b")), row(cell("1"), cell("2")))
    )
    parsed = read(document("text", body, meta=META))
    assert parsed.text == (
        "Part\n\nOne   two three\tend\nnext\n\nNote: Below.\n\n- item\n\n  - inner\n\n| a | b |\n| 1 | 2 |"
    )
    assert marked(parsed, "heading") == [("heading", 2, "Part")]
    assert parsed.title == "Title"
    facts = {"author": "Ann", "created": "2024-01-02", "modified": "2024-05-06", "comments_left_out": 1}
    assert parsed.metadata == facts


def test_sheets_with_numbers_hidden_ones_and_repetition():
    rows = [
        row(cell("Name"), cell("Age")),
        row(cell("Ann"), cell("7"), cell(attributes='table:number-columns-repeated="16382"')),
        row(cell(attributes='table:number-columns-repeated="16384"'), attributes='table:number-rows-repeated="10"'),
        row(cell("Bob"), cell("8"), attributes='table:number-rows-repeated="2"'),
        row(cell(), attributes='table:number-rows-repeated="1048000"'),
    ]
    parsed = read(document("spreadsheet", sheet("People", *rows) + sheet("Shut", row(cell("x")), style="no")), ".ods")
    assert marked(parsed, "row") == [
        ("row", 1, "| Name | Age |"),
        ("row", 2, "| Ann | 7 |"),
        ("row", 13, "| Bob | 8 |"),
        ("row", 14, "| Bob | 8 |"),
    ]
    assert [(s.number, s.label) for s in parsed.spans if s.kind == "sheet"] == [(1, "People")]
    assert parsed.metadata == {"hidden_sheets": 1}
    assert parsed.title == ""


def test_merged_cells():
    covered = "<table:covered-table-cell/>"
    rows = [
        row(cell("Fruit"), cell("2023", 'table:number-columns-spanned="2"'), covered),
        row(cell(), cell("Q1"), cell("Q2")),
        row(cell("pear", 'table:number-rows-spanned="2" table:number-columns-spanned="1"'), cell("a"), cell("b")),
        row(covered, cell("c"), cell("d")),
        row(cell(), cell("e"), cell("f")),
    ]
    parsed = read(document("spreadsheet", sheet("S", *rows)), ".ods")
    assert parsed.text.split("\n")[1:] == [
        "| Fruit | 2023 |",
        "|  | Q1 | Q2 |",
        "| pear | a | b |",
        "| pear | c | d |",
        "|  | e | f |",
    ]


def test_claims_without_end_are_refused_in_time():
    bombs = [
        row(cell("x"), attributes='table:number-rows-repeated="999999999"') * 2,
        row(cell("x", 'table:number-columns-repeated="999999999"')),
        row(cell("word " * 100), attributes='table:number-rows-repeated="1000000"'),
    ]
    for bomb in bombs:
        started = time.perf_counter()
        with pytest.raises(ParseError, match="more than"):
            read(document("spreadsheet", sheet("S", bomb)), ".ods")
        assert time.perf_counter() - started < 20


def test_slides():
    def slide(*frames, style="", notes=""):
        spoken = f"<presentation:notes>{frame(notes, 'notes')}</presentation:notes>" if notes else ""
        return f'<draw:page draw:style-name="{style}">{"".join(frames)}{spoken}</draw:page>'

    def frame(text, kind="outline"):
        box = f"<draw:text-box><text:p>{text}</text:p></draw:text-box>"
        return f'<draw:frame presentation:class="{kind}">{box}</draw:frame>'

    slides = slide(frame("body"), frame("Title", "title"), frame("9", "page-number"), notes="Say this")
    slides += slide(frame("unseen"), style="no") + slide(
        "<draw:g><draw:custom-shape><text:p>drawn</text:p></draw:custom-shape></draw:g>"
    )
    parsed = read(document("presentation", slides), ".odp")
    assert parsed.text == "Title\n\nbody\n\nNotes:\nSay this\n\ndrawn"
    assert marked(parsed, "slide") == [("slide", 1, "Title\n\nbody\n\nNotes:\nSay this"), ("slide", 3, "drawn")]
    assert parsed.title == "Title"
    assert parsed.metadata == {"hidden_slides": 1}


def test_encrypted_and_other_kinds():
    with pytest.raises(ParseError, match="encrypted"):
        read(document("text", "", manifest='<m xmlns="m"><encryption-data/></m>'))
    with pytest.raises(ParseError, match="another kind"):
        read(document("drawing", ""))
    with pytest.raises(ParseError, match="only blanks"):
        read(document("text", "<text:p/>"))

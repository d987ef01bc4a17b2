"""Workbooks written by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from packages import check_spans, marked, office, relations

from ingest.parse import parse
from ingest.parse.xlsx import parse as parse_xlsx
from retrieval.errors import ParseError

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def row(number, *cells):
    """A row of cells given as XML or, for short, as inline text."""
    return f'<row r="{number}">{"".join(cell if cell.startswith("<") else inline(cell) for cell in cells)}</row>'


def inline(text, reference=""):
    where = f' r="{reference}"' if reference else ""
    return f'<c{where} t="inlineStr"><is><t>{text}</t></is></c>'


def cell(reference, value, kind="n", style=0):
    return f'<c r="{reference}" t="{kind}" s="{style}"><v>{value}</v></c>'


def workbook(*sheets, strings="", styles="", extra="", members=None, title=""):
    """Sheets as (name, rows) or (name, rows, state); `extra` stands after the rows of each."""
    links = [("worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1)]
    links += [("sharedStrings", "sharedStrings.xml"), ("styles", "styles.xml")]
    listed = "".join(
        f'<sheet name="{name}" state="{state[0] if state else "visible"}" r:id="r{n}"/>'
        for n, (name, _, *state) in enumerate(sheets, start=1)
    )
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(links),
        "xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{strings}</sst>',
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}">{styles}</styleSheet>',
    }
    for n, (_, rows, *_) in enumerate(sheets, start=1):
        content = f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(rows)}</sheetData>{extra}</worksheet>'
        parts[f"xl/worksheets/sheet{n}.xml"] = content
    return office("xl/workbook.xml", {**parts, **(members or {})}, title=title)


def read(data):
    parsed = parse(Path("a.xlsx"), data)
    check_spans(parsed)
    return parsed


def test_sheets_rows_and_their_numbers():
    people = [row(1, "Name", "Age"), row(2, "Ann", cell("B2", 7)), row(5, "Bob", cell("B5", 8))]
    parsed = read(workbook(("People", people), ("Notes", [row(1, "hello")]), title="The book"))
    assert parsed.text == "Sheet: People\n| Name | Age |\n| Ann | 7 |\n| Bob | 8 |\n\nSheet: Notes\nhello"
    assert parsed.title == "The book"
    assert marked(parsed, "row") == [
        ("row", 1, "| Name | Age |"),
        ("row", 2, "| Ann | 7 |"),
        ("row", 5, "| Bob | 8 |"),
        ("row", 1, "hello"),
    ]
    assert [(s.kind, s.number, s.label) for s in parsed.spans if s.kind in {"sheet", "heading"}] == [
        ("sheet", 1, "People"),
        ("heading", 1, "People"),
        ("sheet", 2, "Notes"),
        ("heading", 1, "Notes"),
    ]
    assert parsed.metadata == {"created": "2024-01-02T03:04:05Z", "sheets": 2}


def test_every_kind_of_cell():
    strings = "<si><t>shared</t></si><si><r><t>ri</t></r><r><t>ch</t></r><rPh><t>aid</t></rPh></si>"
    styles = (
        '<numFmts><numFmt numFmtId="170" formatCode="0.0%"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="170"/><xf numFmtId="14"/></cellXfs>'
    )
    cells = [
        cell("A1", 0, "s"),
        cell("B1", 1, "s"),
        cell("C1", 1, "b"),
        cell("D1", "#DIV/0!", "e"),
        cell("E1", "made", "str"),
        cell("F1", "0.125", style=1),
        cell("G1", "45000", style=2),
        cell("H1", "2024-05-06T00:00:00", "d"),
        '<c r="I1"><f>SUM(A1:A9)</f><v>42</v></c>',
        '<c r="J1"><f>1+1</f></c>',
    ]
    parsed = read(workbook(("S", [row(1, *cells)]), strings=strings, styles=styles))
    assert parsed.text == "Sheet: S\n| shared | rich | TRUE | #DIV/0! | made | 12.5% | 2023-03-15 | 2024-05-06 | 42 |"
    assert parsed.metadata["formulas_not_computed"] == 1


def test_merged_cells_are_filled_downwards_and_label_what_they_span():
    rows = [row(1, "Fruit", "2023", ""), row(2, "", "Q1", "Q2"), row(3, "pear", "a", "b"), row(4, "", "c", "d")]
    merged = '<mergeCells><mergeCell ref="B1:C1"/><mergeCell ref="A3:A4"/><mergeCell ref="A9:XFD1048576"/></mergeCells>'
    text = read(workbook(("S", rows), extra=merged)).text
    assert text.split("\n")[1:] == ["| Fruit | 2023 |", "|  | Q1 | Q2 |", "| pear | a | b |", "| pear | c | d |"]


def test_hidden_sheets_and_comments_are_left_out_and_said():
    sheets = ("Open", [row(1, "seen")]), ("Shut", [row(1, "unseen")], "hidden"), ("Gone", [row(1, "x")], "veryHidden")
    parsed = read(workbook(*sheets, members={"xl/comments1.xml": "<c/>"}))
    assert parsed.text == "Sheet: Open\nseen"
    assert parsed.metadata["hidden_sheets"] == 2
    assert parsed.metadata["left_out"] == ["xl/comments1.xml"]


def test_nothing_but_hidden_sheets():
    with pytest.raises(ParseError, match="1 hidden"):
        read(workbook(("Shut", [row(1, "unseen")], "hidden")))


def test_cells_in_far_corners_cost_nothing():
    far = [row(1, inline("first", "A1")), row(1_048_576, inline("last", "XFD1048576"))]
    started = time.perf_counter()
    parsed = read(workbook(("S", far)))
    assert time.perf_counter() - started < 1
    assert marked(parsed, "row") == [("row", 1, "first"), ("row", 1_048_576, "last")]


@pytest.mark.parametrize("reference", ["XFE1", "ZZZZ1", "ÄA1", "a-b", "1A"])
def test_cells_that_cannot_be(reference):
    with pytest.raises(ParseError, match="column"):
        read(workbook(("S", [row(1, inline("x", reference))])))


def test_a_text_that_is_not_there():
    with pytest.raises(ParseError, match="text '7', which is not there"):
        read(workbook(("S", [row(1, cell("A1", 7, "s"))])))


def test_the_strict_variant_is_read():
    strict = "http://purl.oclc.org/ooxml/spreadsheetml/main"
    data = workbook(("S", [row(1, "hello")]))
    # Members are packed, so the package is written anew with other namespaces.
    import zipfile
    from io import BytesIO

    from packages import packed

    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    office_strict = "http://purl.oclc.org/ooxml/officeDocument/relationships"
    changed = {name: text.replace(MAIN, strict).replace(OFFICE, office_strict) for name, text in members.items()}
    assert read(packed(changed)).text == "Sheet: S\nhello"


def test_thirty_thousand_rows_take_a_moment():
    rows = [row(n, "name", cell(f"B{n}", n), cell(f"C{n}", 45000, style=1)) for n in range(1, 30_001)]
    data = workbook(("S", rows), styles='<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>')
    started = time.perf_counter()
    parsed = parse_xlsx(data, ".xlsx")
    assert time.perf_counter() - started < 5  # measured: 0.6 s
    assert sum(span.kind == "row" for span in parsed.spans) == 30_000

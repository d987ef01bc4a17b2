"""Read an Excel workbook: every visible sheet as tables, cells as people see them. Evaluates no formula, runs no macro.

A formula shows the value that was last computed for it. Sheets are streamed row by row, and only cells that are there
cost memory: a reader that lays a sheet out as a rectangle asks for 512 GB where a file has one cell in each of two far
corners (measured with python-calamine 0.9.1). Hidden sheets and comments are left out and said in the metadata; hidden
rows and columns are read, since a filter hides rows that belong to the data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ingest.parse import Parsed
from ingest.parse.cellformat import BUILT_IN, shown
from ingest.parse.package import Package, elements, local_name
from ingest.parse.tables import MAX_COLUMNS, Merged, TableCounter, add_table
from ingest.parse.text import TextBuilder
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.parse.tables import Cell, Row

MAX_MERGED_CELLS = 200_000  # of a sheet; merged cells beyond are shown once, where they begin

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_STRICT_RELATION = "{http://purl.oclc.org/ooxml/officeDocument/relationships}id"
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^<>]*?ref=[\"']([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})[\"']")
_REFERENCE = re.compile(r"([A-Z]{1,3})(\d{1,7})")


class _Book(NamedTuple):
    """What the cells of all sheets refer to."""

    strings: list[str]
    formats: list[str]  # by style
    from_1904: bool


class _Counts(TableCounter):
    """What was met so far, in all sheets."""

    not_computed = 0  # formulas


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read an XLSX or XLSM file; metadata: `sheets`, and counts of what was left out where anything was."""
    package = Package(data, "XLSX")
    main = package.main_part("xl/workbook.xml")
    workbook = package.xml(main)
    relations = package.relations(main, is_main=True)
    parts = dict(relations.values())
    book = _Book(_strings(package, parts), _formats(package, parts), _from_1904(workbook))
    builder, counts = TextBuilder(), _Counts()
    spans: list[Span] = []
    hidden = 0
    sheets = list(workbook.iter("{*}sheet"))
    for number, sheet in enumerate(sheets, start=1):
        kind, part = relations.get(sheet.get(_RELATION) or sheet.get(_STRICT_RELATION) or "", ("", ""))
        if sheet.get("state", "visible") != "visible":
            hidden += 1
        elif kind == "worksheet":  # the others are charts and old macros
            name = " ".join(sheet.get("name", "").split()) or f"Sheet {number}"
            rows = _rows(package.read(part), part, book, counts)
            tables = add_table(builder, rows, caption=f"Sheet: {name}")
            spans += _sheet_spans(tables, number, name, builder.length)
    metadata = package.core_properties()
    title = str(metadata.pop("title", ""))
    left_out = package.names(r"xl/(threaded)?comments.*\.xml")
    facts = {
        "hidden_sheets": hidden,
        "formulas_not_computed": counts.not_computed,
        "left_out": left_out,
        "damaged_parts": package.damaged,
    }
    metadata |= {"sheets": len(sheets), **{key: value for key, value in facts.items() if value}}
    if not spans:
        found = f"no text in its {len(sheets)} sheets ({hidden} hidden)"
        raise ParseError(found, advice="unhide the sheets that should be found, or leave the file out")
    return Parsed(builder.text(), title, tuple(spans), _MEDIA_TYPE, metadata)


def _sheet_spans(tables: list[Span], number: int, name: str, end: int) -> list[Span]:
    if not tables:
        return []
    start = tables[0].start
    heading = Span("heading", start, start + len(f"Sheet: {name}"), 1, name)
    return [Span("sheet", start, end, number, name), tables[0], heading, *tables[1:]]


def _from_1904(workbook: Any) -> bool:
    return any(each.get("date1904") in {"1", "true"} for each in workbook.iter("{*}workbookPr"))


def _strings(package: Package, parts: dict[str, str]) -> list[str]:
    """The texts that cells refer to by number."""
    part = parts.get("sharedStrings", "")
    return [_rich_text(item) for item in elements(package.read(part), part, "si")] if part in package else []


def _rich_text(item: Any) -> str:
    """Text in pieces, without the reading aids (phonetic runs) above Chinese and Japanese words."""
    return "".join(
        text.text or "" for text in item.iter("{*}t") if local_name(text.getparent()) != "rPh"
    )  # fmt: skip


def _formats(package: Package, parts: dict[str, str]) -> list[str]:
    """The number format of each cell style."""
    part = parts.get("styles", "")
    if part not in package:
        return []
    styles = package.xml(part)
    codes = {each.get("numFmtId", ""): each.get("formatCode", "") for each in styles.iter("{*}numFmt")}
    numbers = [each.get("numFmtId", "0") for cells in styles.iter("{*}cellXfs") for each in cells.iter("{*}xf")]
    return [codes.get(number) or BUILT_IN.get(int(number) if number.isdecimal() else 0, "") for number in numbers]


def _rows(data: bytes, part: str, book: _Book, counts: _Counts) -> Iterator[Row]:
    """The rows of a sheet with their numbers; an empty one wherever some are missing."""
    merged = _merged(data)
    last = 0
    for element in elements(data, part, "row"):
        number = _whole(element.get("r"), last + 1)
        if number > last + 1:
            yield 0, ()
        last = number
        cells: list[Cell] = list(_cells(element, book, counts))
        counts.add(cells)
        for column, covered in merged.get(number, ()):
            cells += [""] * (column + 1 - len(cells))
            cells[column] = covered
        yield number, cells


def _cells(row: Any, book: _Book, counts: _Counts) -> list[str]:
    cells: list[str] = []
    tag = row.tag.removesuffix("row")
    for element in row.iterchildren(f"{tag}c"):
        reference = element.get("r")
        column = _column(reference.rstrip("0123456789")) if reference else len(cells)
        if column >= MAX_COLUMNS:
            raise ParseError(f"a cell in column {column + 1:,}", advice=f"expected at most {MAX_COLUMNS:,} columns")
        if column >= len(cells):
            cells += [""] * (column + 1 - len(cells))
        cells[column] = _cell(element, tag, book, counts)
    return cells


def _cell(element: Any, tag: str, book: _Book, counts: _Counts) -> str:
    kind = element.get("t", "n")
    if kind == "inlineStr":
        return _rich_text(element)
    parts = {child.tag: child.text for child in element}
    value: str | None = parts.get(f"{tag}v")
    if value is None:
        counts.not_computed += f"{tag}f" in parts
        return ""
    if kind == "s":
        number = _whole(value, len(book.strings))
        if number >= len(book.strings):
            raise ParseError(
                f"cell {element.get('r')} refers to text {value[:20]!r}, which is not there", advice=_DAMAGED
            )
        return book.strings[number]
    if kind == "b":
        return "TRUE" if value.strip() == "1" else "FALSE"
    if kind == "n":
        style = _whole(element.get("s"), 0)
        code = book.formats[style] if style < len(book.formats) else ""
        return shown(value, code, from_1904=book.from_1904)
    return value.removesuffix("T00:00:00") if kind == "d" else value


_DAMAGED = "the file seems damaged: open it in a spreadsheet program and save it again"


def _merged(data: bytes) -> dict[int, list[tuple[int, Merged]]]:
    """Row number -> columns that merged cells cover there. They stand at the end of the file, after the rows."""
    covered: dict[int, list[tuple[int, Merged]]] = defaultdict(list)
    room = MAX_MERGED_CELLS
    for match in _MERGED.finditer(data):
        first, top, last, bottom = (each.decode() for each in match.groups())
        left, right, rows = _column(first), _column(last), range(int(top), int(bottom) + 1)
        room -= max(len(rows) * (right - left + 1), 1)
        if room < 0 or right >= MAX_COLUMNS:
            break
        for number in rows:
            covered[number] += [(column, Merged.LEFT) for column in range(left + 1, right + 1)]
            covered[number] += [] if number == rows[0] else [(left, Merged.ABOVE)]
    return covered


@lru_cache(maxsize=MAX_COLUMNS)
def _column(letters: str) -> int:
    """The column of a cell from 0: A is 0, Z is 25, AA is 26."""
    column = 0
    for letter in letters[:4].upper():
        if not "A" <= letter <= "Z":
            raise ParseError(f"a cell in column {letters[:20]!r}", advice=_DAMAGED)
        column = column * 26 + ord(letter) - 64
    return column - 1


def _whole(text: str | None, otherwise: int) -> int:
    """A whole number of at most nine digits as files write them."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else otherwise

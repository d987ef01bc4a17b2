"""Read OpenDocument text, spreadsheets and presentations (ODT, ODS, ODP). Opens no link, runs no macro.

Cells show the text that was saved for them; no formula is evaluated. A footnote stands below its paragraph. Hidden
sheets and slides, and comments, are left out and counted in the metadata; deleted text and pictures are left out.
Repeated rows and cells are what the file claims, up to the limits that hold for every table.
"""

from __future__ import annotations

import re
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ingest.parse import Parsed
from ingest.parse.package import Package, check_length, local_name, properties
from ingest.parse.tables import MAX_COLUMNS, MAX_ROWS, Merged, TableCounter, add_table
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, no_surrogates
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.parse.tables import Cell, Row
    from retrieval.records import SpanKind

MAX_LIST_INDENT = 8
MAX_SPACES = 100  # that one element stands for

_NAMESPACE = "urn:oasis:names:tc:opendocument:xmlns:"
_TEXT = f"{{{_NAMESPACE}text:1.0}}"
_TABLE = f"{{{_NAMESPACE}table:1.0}}"
_DRAW = f"{{{_NAMESPACE}drawing:1.0}}"
_SHOW = f"{{{_NAMESPACE}presentation:1.0}}"
_STYLE = f"{{{_NAMESPACE}style:1.0}}"
_KINDS = {"text": ("ODT", ".text"), "spreadsheet": ("ODS", ".spreadsheet"), "presentation": ("ODP", ".presentation")}
_PROPERTIES = {
    "title": "title", "initial-creator": "author", "creator": "editor", "creation-date": "created", "date": "modified",
}  # fmt: skip
_LEFT_OUT = {
    "tracked-changes",
    "annotation",
    "note",
    "ruby-text",
    "notes",
    "forms",
    "desc",
    "sequence-decls",
    "scripts",
}
_SPACE = re.compile(r"[ \t\r\n]+")


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read an ODT, ODS or ODP file; metadata: `author`, `created`, `modified`, and counts of what was left out."""
    package = Package(data, "OpenDocument")
    manifest = "META-INF/manifest.xml"
    if manifest in package and any(True for _ in package.xml(manifest).iter("{*}encryption-data")):
        raise ParseError("the OpenDocument file is encrypted", advice="save a copy without a password")
    root = package.xml("content.xml")
    body: Any = next(iter(root.iterfind("./{*}body/*")), None)
    kind, media = _KINDS.get(local_name(body) if body is not None else "", ("", ""))
    if not kind:
        raise ParseError("an OpenDocument file of another kind", advice="expected a text, spreadsheet or presentation")
    writer = _Writer(_hidden_styles(root))
    pages = {"ODS": f"{_TABLE}table", "ODP": f"{_DRAW}page"}
    if kind == "ODT":
        writer.blocks(body)
    else:
        for number, page in enumerate(body.iterchildren(pages[kind]), start=1):
            writer.page(page, number)
    described = package.optional_xml("meta.xml" if "meta.xml" in package else "")
    found = {} if described is None else properties(described, _PROPERTIES)
    editor = found.pop("editor", "")
    metadata = {**({"author": editor} if editor else {}), **found}
    title = str(metadata.pop("title", ""))
    first = next((span.label for span in writer.spans if span.kind == "heading" and span.number == 1), "")
    comments = sum(1 for _ in root.iter("{*}annotation"))
    facts = {
        "hidden_sheets" if kind == "ODS" else "hidden_slides": writer.hidden,
        "comments_left_out": comments,
        "damaged_parts": package.damaged,
    }
    metadata |= {key: value for key, value in facts.items() if value}
    title = title or ("" if kind == "ODS" else first)
    media_type = f"application/vnd.oasis.opendocument{media}"
    return Parsed(writer.builder.text(), title, tuple(writer.spans), media_type, metadata)


def _hidden_styles(root: Any) -> set[str]:
    """Names of the styles that hide a sheet or a slide."""
    hidden = set()
    for style in root.iter(f"{_STYLE}style"):
        for each in style:
            if each.get(f"{_TABLE}display") == "false" or each.get(f"{_SHOW}visibility") == "hidden":
                hidden.add(style.get(f"{_STYLE}name", ""))
    return hidden


class _Writer:
    """Assembles the text."""

    def __init__(self, hidden_styles: set[str]) -> None:
        self.builder = TextBuilder()
        self.spans: list[Span] = []
        self.hidden = 0
        self._hidden_styles = hidden_styles
        self._counter = TableCounter()

    def page(self, page: Any, number: int) -> None:
        """A sheet or a slide."""
        style = page.get(f"{_TABLE}style-name") or page.get(f"{_DRAW}style-name")
        if style in self._hidden_styles:
            self.hidden += 1
            return
        first = len(self.spans)
        length = self.builder.length
        kind: SpanKind = "sheet" if page.tag == f"{_TABLE}table" else "slide"
        label = self._sheet(page, number) if kind == "sheet" else self._slide(page)
        if self.builder.length > length:
            start = length + 2 if length else 0
            self.spans.insert(first, Span(kind, start, self.builder.length, number, label))

    def blocks(self, container: Any, depth: int = 0) -> None:
        """Headings, paragraphs, list items and tables, in document order."""
        for element in container:
            name = local_name(element)
            if name in {"h", "p"}:
                self._paragraph(element, depth)
            elif name == "table":
                self.spans += add_table(self.builder, self._rows(element, numbered=False))
            elif name not in _LEFT_OUT:
                self.blocks(element, depth + (name == "list"))

    def _sheet(self, sheet: Any, number: int) -> str:
        name = " ".join(sheet.get(f"{_TABLE}name", "").split()) or f"Sheet {number}"
        tables = add_table(self.builder, self._rows(sheet, numbered=True), caption=f"Sheet: {name}")
        if tables:
            start = tables[0].start
            self.spans += [tables[0], Span("heading", start, start + len(f"Sheet: {name}"), 1, name), *tables[1:]]
        return name

    def _slide(self, slide: Any) -> str:
        """The title first, then the shapes in the order of the file, then the notes."""
        shapes = [shape for shape in slide if local_name(shape) != "notes"]
        titles = [shape for shape in shapes if shape.get(f"{_SHOW}class") == "title"]
        label = ""
        for shape in titles:
            title = "\n".join(filter(None, (_text(paragraph) for paragraph in shape.iter(f"{_TEXT}p"))))
            if title:
                start = self.builder.add(title)
                if not label and len(title) <= MAX_TITLE_CHARS:
                    label = title.split("\n", 1)[0]
                    self.spans.append(Span("heading", start, self.builder.length, 1, label))
        furniture = {"footer", "header", "page-number", "date-time"}
        for shape in shapes:
            if shape not in titles and shape.get(f"{_SHOW}class") not in furniture:
                self.blocks([shape])
        notes = [frame for frame in slide.iter(f"{_DRAW}frame") if frame.get(f"{_SHOW}class") == "notes"]
        lines = [_text(paragraph) for frame in notes for paragraph in frame.iter(f"{_TEXT}p")]
        if any(lines):
            self.builder.add("\n".join(["Notes:", *filter(None, lines)]))
        return label

    def _paragraph(self, element: Any, depth: int) -> None:
        text = _text(element)
        level = element.get(f"{_TEXT}outline-level", "1") if local_name(element) == "h" else ""
        if text:
            indent = "  " * min(depth - 1, MAX_LIST_INDENT)
            start = self.builder.add(f"{indent}- {text}" if depth and not level else text)
            if level and len(text) <= MAX_TITLE_CHARS:
                number = int(level) if level in set("123456789") else 9
                self.spans.append(Span("heading", start, self.builder.length, number, text.split("\n", 1)[0].strip()))
        for note in element.iter(f"{_TEXT}note-body"):
            if words := " ".join(_text(note).split()):
                self.builder.add(f"Note: {words}")
        check_length(self.builder)

    def _rows(self, table: Any, *, numbered: bool) -> Iterator[Row]:
        """The rows of a table, those claimed by repetition included; of empty ones, one stands for many."""
        covering: dict[int, tuple[int, int]] = {}
        number = 0
        for row in _table_parts(table, f"{_TABLE}table-row"):
            times = _count(row, "number-rows-repeated", MAX_ROWS + 1)
            cells = list(_cells(row, covering))
            shown = times if any(cells) else 1
            self._counter.add(cells, shown)
            for _ in range(shown):
                number += 1
                yield number if numbered else 0, cells
            number += times - shown


def _table_parts(parent: Any, tag: str) -> Iterator[Any]:
    for element in parent:
        if element.tag == tag:
            yield element
        elif local_name(element) in {"table-header-rows", "table-rows", "table-row-group"}:
            yield from _table_parts(element, tag)


def _cells(row: Any, covering: dict[int, tuple[int, int]]) -> Iterator[Cell]:
    """Cells of a row. `covering`: column -> width and rows still to come of cells that reach into rows below."""
    column = covered_until = 0
    blanks = 0  # empty cells wait: a row may end with thousands
    below = {left: (width, rows - 1) for left, (width, rows) in covering.items() if rows > 1}
    for cell in row:
        name = local_name(cell)
        if name not in {"table-cell", "covered-table-cell"}:
            continue
        text = _text(cell)
        for _ in repeat(None, _count(cell, "number-columns-repeated", MAX_COLUMNS + 1)):
            shown: Cell = text
            if name == "covered-table-cell":
                width = covering.get(column, (0, 0))[0]
                shown = Merged.LEFT if column < covered_until else Merged.ABOVE if width else ""
                covered_until = max(covered_until, column + width)
            elif text:
                width = _count(cell, "number-columns-spanned", MAX_COLUMNS)
                covered_until = column + width
                if (rows := _count(cell, "number-rows-spanned", MAX_ROWS)) > 1:
                    below[column] = (width, rows - 1)
            column += 1
            if shown == "":
                blanks += 1
            else:
                yield from repeat("", blanks)
                yield shown
                blanks = 0
            if column > MAX_COLUMNS:
                break
    covering.clear()
    covering.update(below)


def _count(element: Any, name: str, most: int) -> int:
    value = element.get(f"{_TABLE}{name}", "1")
    return max(1, min(int(value), most)) if value.isascii() and value.isdecimal() and len(value) < 10 else 1


def _text(element: Any) -> str:
    return no_surrogates("".join(_pieces(element))).strip()


def _pieces(element: Any) -> Iterator[str]:
    """Text below an element, its white space collapsed as the format asks; depth is limited by the XML reader."""
    if element.text:
        yield _SPACE.sub(" ", element.text)
    for child in element:
        name = local_name(child)
        if name == "s":
            spaces = child.get(f"{_TEXT}c", "1")
            yield " " * min(int(spaces) if spaces.isdecimal() and len(spaces) < 5 else 1, MAX_SPACES)
        elif name == "tab":
            yield "\t"
        elif name == "line-break":
            yield "\n"
        elif name not in _LEFT_OUT:
            if child.tag in {f"{_TEXT}p", f"{_TEXT}h"}:  # of a text box
                yield "\n"
            yield from _pieces(child)
        if child.tail:
            yield _SPACE.sub(" ", child.tail)

"""Read a PowerPoint presentation, slide by slide: title, text, tables, charts as tables, notes. Opens no link or macro.

Shapes are read in the order of the file, which is the one that screen readers follow; the title comes first. Hidden
slides and comments are left out and said in the metadata; pictures, slide numbers, dates and footers are left out.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ingest.parse import Parsed
from ingest.parse.cellformat import shown
from ingest.parse.package import Package, check_length, local_name
from ingest.parse.tables import Merged, add_table
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, no_surrogates
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.parse.tables import Cell

MAX_INDENT = 8
MAX_CHART_POINTS = 10_000

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_TITLES = {"title", "ctrTitle"}
_FURNITURE = {"sldNum", "dt", "ftr", "hdr", "sldImg"}
_MADE_UP_TITLES = {"powerpoint presentation", "presentation", "slide 1"}  # what programs write when nobody gave a title


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a PPTX or PPTM file; metadata: `slides`, and what was left out where anything was."""
    package = Package(data, "PPTX")
    main = package.main_part("ppt/presentation.xml")
    relations = package.relations(main, is_main=True)
    ids = [each.get(f"{_RELATION}id", "") for each in package.xml(main).iter("{*}sldId")]
    parts = [relations[one][1] for one in ids if relations.get(one, ("", ""))[0] == "slide"]
    builder = TextBuilder()
    spans: list[Span] = []
    hidden = 0
    for number, part in enumerate(parts, start=1):
        slide = package.optional_xml(part)
        if slide is not None and slide.get("show") in {"0", "false"}:
            hidden += 1
        elif slide is not None:
            spans += _Slide(package, part, builder).read(slide, number)
    metadata = package.core_properties()
    title = str(metadata.pop("title", ""))
    first = next((span.label for span in spans if span.kind == "heading"), "")
    left_out = package.names(r"ppt/comments/.*\.xml")
    facts = {"hidden_slides": hidden, "left_out": left_out, "damaged_parts": package.damaged}
    metadata |= {"slides": len(parts), **{key: value for key, value in facts.items() if value}}
    if not spans:
        found = f"no text on its {len(parts)} slides ({hidden} hidden, {len(package.damaged)} parts damaged)"
        raise ParseError(found, advice="pictures of text need OCR; or leave the file out")
    title = "" if title.lower() in _MADE_UP_TITLES else title
    return Parsed(builder.text(), title or first, tuple(spans), _MEDIA_TYPE, metadata)


class _Slide:
    """Writes one slide."""

    def __init__(self, package: Package, part: str, builder: TextBuilder) -> None:
        self._package = package
        self._relations = package.relations(part)
        self._builder = builder
        self._spans: list[Span] = []
        self._start: int | None = None

    def read(self, slide: Any, number: int) -> list[Span]:
        """Append the text of a slide and return its spans; a slide without text has none."""
        shapes = [shape for tree in slide.iter("{*}spTree") for shape in _shapes(tree)]
        titles = [shape for shape in shapes if _placeholder(shape) in _TITLES]
        label = ""
        for shape in titles:
            title = "\n".join(_lines(shape)).strip()
            start = self._add(title)
            if title and not label and len(title) <= MAX_TITLE_CHARS:
                label = title.split("\n", 1)[0].strip()
                self._spans.append(Span("heading", start, self._builder.length, 1, label))
        for shape in shapes:
            if shape not in titles and _placeholder(shape) not in _FURNITURE:
                self._shape(shape)
        self._notes()
        if self._start is None:
            return []
        return [Span("slide", self._start, self._builder.length, number, label), *self._spans]

    def _shape(self, shape: Any) -> None:
        """A text, a table, a chart or a diagram."""
        if local_name(shape) != "graphicFrame":
            self._add("\n".join(_lines(shape)).strip("\n"))
            return
        for table in shape.iter(f"{_A}tbl"):
            self._table([(0, list(_cells(row))) for row in table.iter(f"{_A}tr")])
        for reference in shape.iter("{*}chart"):
            if (chart := self._related(reference.get(f"{_RELATION}id"), "chart")) is not None:
                self._chart(chart)
        for reference in shape.iter("{*}relIds"):
            if (diagram := self._related(reference.get(f"{_RELATION}dm"), "diagramData")) is not None:
                self._add("\n".join(_lines(diagram)).strip("\n"))

    def _chart(self, chart: Any) -> None:
        """The numbers that the chart was drawn from when the file was saved."""
        title = " ".join(" ".join(_lines(each)) for each in chart.iterfind(".//{*}chart/{*}title")).strip()
        categories: list[str] = []
        columns: list[list[str]] = []
        for series in chart.iter("{*}ser"):
            name = " ".join(_points(series, "tx")[:1])
            categories = categories or _points(series, "cat") or _points(series, "xVal")
            columns.append([name, *(_points(series, "val") or _points(series, "yVal"))])
        rows = zip_longest(["", *categories], *columns, fillvalue="")
        self._table([(0, list(row)) for row in rows], caption=f"Chart: {title}" if title else "Chart")

    def _notes(self) -> None:
        part = next((target for kind, target in self._relations.values() if kind == "notesSlide"), "")
        notes = self._package.optional_xml(part)
        if notes is not None:
            bodies = [shape for shape in _shapes(notes) if _placeholder(shape) == "body"]
            text = "\n".join(line for shape in bodies for line in _lines(shape)).strip()
            self._add(f"Notes:\n{text}" if text else "")

    def _related(self, identity: str | None, kind: str) -> Any:
        found, part = self._relations.get(identity or "", ("", ""))
        return self._package.optional_xml(part) if found == kind else None

    def _add(self, text: str) -> int:
        if not text.strip():
            return self._builder.length
        start = self._builder.add(no_surrogates(text))
        self._start = start if self._start is None else self._start
        check_length(self._builder)
        return start

    def _table(self, rows: list[tuple[int, list[Cell]]], caption: str = "") -> None:
        spans = add_table(self._builder, rows, caption=caption)
        if spans and self._start is None:
            self._start = spans[0].start
        self._spans += spans


def _shapes(tree: Any) -> Iterator[Any]:
    """Shapes, those in groups and in newer forms included, in the order of the file."""
    for element in tree:
        name = local_name(element)
        if name in {"sp", "graphicFrame", "cxnSp", "pic"}:
            yield element
        elif name != "Fallback":  # a second copy for old readers
            yield from _shapes(element)


def _placeholder(shape: Any) -> str:
    """What a shape is for: "title", "body", "" for a free one."""
    found = shape.find("./{*}nvSpPr/{*}nvPr/{*}ph")
    return str(found.get("type", "body")) if found is not None else ""


def _lines(shape: Any) -> Iterator[str]:
    """Paragraphs of a shape; the deeper ones are list items."""
    for paragraph in shape.iter(f"{_A}p"):
        level = paragraph.find(f"{_A}pPr")
        depth = level.get("lvl", "0") if level is not None else "0"
        indent = min(int(depth) if depth in set("012345678") else 0, MAX_INDENT)
        text = _text(paragraph).strip()
        yield "  " * (indent - 1) + f"- {text}" if indent and text else text


def _text(paragraph: Any) -> str:
    pieces = []
    for element in paragraph.iter():
        if element.tag in {f"{_A}t", f"{_MATH}t"}:
            pieces.append(element.text or "")
        elif element.tag == f"{_A}br":
            pieces.append("\n")
        elif element.tag == f"{_A}tab":
            pieces.append("\t")
    return "".join(pieces)


def _cells(row: Any) -> Iterator[Cell]:
    for cell in row.iterchildren(f"{_A}tc"):
        if cell.get("vMerge") in {"1", "true"}:
            yield Merged.LEFT if cell.get("hMerge") in {"1", "true"} else Merged.ABOVE
        elif cell.get("hMerge") in {"1", "true"}:
            yield Merged.LEFT
        else:
            yield "\n".join(_lines(cell))


def _points(series: Any, name: str) -> list[str]:
    """The saved values of one part of a chart series, in their places."""
    values: list[str] = []
    for part in series.iterfind(f"./{{*}}{name}"):
        formats = part.iter("{*}formatCode")
        code = next((each.text for each in formats if each.text), "")
        levels = list(part.iter("{*}lvl")) or [part]  # of categories with several levels, the first is the innermost
        for point in levels[0].iter("{*}pt"):
            place = point.get("idx", "")
            index = int(place) if place.isdecimal() and len(place) < 8 else len(values)
            if index >= MAX_CHART_POINTS:
                break
            values += [""] * (index + 1 - len(values))
            values[index] = shown(point.findtext("{*}v") or "", point.get("formatCode") or code)
    return values

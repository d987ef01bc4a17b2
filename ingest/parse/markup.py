r"""Read XML: prose as paragraphs and headings, data as `path/to/element: value` lines. Reads no DTD and no other file.

XML is prose when some element mixes text with other elements, as DocBook, JATS and TEI do: then elements inside running
text are part of it, all others are blocks, titles are headings at the depth of their section, tables are tables, and
short leaf elements are `name: value`. Otherwise it is data: each value and attribute is a line that shows its path.
Entities that the file declares are not put in: they stand as `&name;`, and the metadata counts them. A file that is not
well-formed keeps its text, and the metadata says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import unescape
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple
from xml.parsers import expat

from ingest.parse import Parsed
from ingest.parse.package import check_length
from ingest.parse.tables import add_table
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, decode
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_DEPTH = 500
MAX_PATH_CHARS = 200  # a path is repeated on every line, so its front is cut
MAX_FIELD_CHARS = 100  # a longer leaf element is a paragraph

_MEDIA_TYPE = "application/xml"
_ADVICE = "save it without entities or in another format"


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


_TITLES = _names(
    "title head heading article-title subtitle bridgehead invention-title title-of-invention h1 h2 h3 h4 h5 h6"
)
_CODE = _names("programlisting screen literallayout preformat code-block verbatim pre source-code")
_ROWS = _names("tr row")
_CELLS = _names("td th entry")
# Blocks wherever they stand, and too common to be shown by name.
_BLOCKS = (_TITLES | _CODE | _ROWS | _CELLS).union(
    _names(
        "p para simpara ab list ul ol li item list-item listitem itemizedlist orderedlist def-list note footnote fn"
    ),
    _names(
        "table-wrap table tgroup thead tbody caption fig figure sec section div chapter abstract body text ref bibl"
    ),
    _names("lb br quote blockquote disp-quote boxed-text disp-formula label"),
)
_ITEMS = _names("li item list-item listitem")
# Titles in these name a picture, a table or another document, not a section of this one.
_NOT_SECTIONS = _names(
    "caption fig figure table table-wrap ref element-citation mixed-citation nlm-citation biblioentry"
)


class _Node(NamedTuple):
    """A "start" of an element, with its name in `value`, an "end", or a "text", which `value` is."""

    kind: Literal["start", "end", "text"]
    value: str
    attributes: Mapping[str, str] = MappingProxyType({})


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read XML; metadata: "not_valid", "entities" (declared ones not put in), "attributes_left_out" (of prose)."""
    text = decode(data)
    reader = _Reader()
    try:
        reader.read(text)
    except expat.ExpatError as error:
        return Parsed(text, media_type=_MEDIA_TYPE, metadata={"not_valid": str(error)})
    builder = TextBuilder()
    metadata: dict[str, object] = {"entities": reader.entities} if reader.entities else {}
    spans: list[Span] = []
    if reader.mixed:
        spans = _Prose(builder, reader.mixed).write(reader.nodes)
        if attributes := sum(len(node.attributes) for node in reader.nodes):
            metadata["attributes_left_out"] = attributes
    else:
        _write_data(builder, reader.nodes)
    title = next((span.label for span in spans if span.kind == "heading"), "")
    return Parsed(builder.text(), title, tuple(spans), _MEDIA_TYPE, metadata)


class _Reader:
    """A list of what stands in a file, in order, and the elements (by number) that mix text with elements."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.mixed: set[int] = set()
        self.entities = 0
        self._open: list[_Open] = []
        self._count = 0

    def read(self, text: str) -> None:
        """Parse. Raises ExpatError where it is not well-formed, ParseError where it is dangerous."""
        parser = expat.ParserCreate("utf-8")  # whatever encoding the declaration names: it is decoded already
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.DefaultHandler = self._other  # which keeps expat from putting in internal entities
        parser.EntityDeclHandler = self._declared
        parser.Parse(text.removeprefix("\ufeff").encode(), True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._open:
            self._open[-1].elements = True
            self._note_mixed()
        if len(self._open) == MAX_DEPTH:
            raise expat.ExpatError(f"nested deeper than {MAX_DEPTH} elements")
        self._open.append(_Open(self._count))
        self._count += 1
        shown = {_local(key): value for key, value in attributes.items() if not key.startswith("xmlns")}
        self.nodes.append(_Node("start", _local(name), shown))

    def _end(self, name: str) -> None:
        self._open.pop()
        self.nodes.append(_Node("end", _local(name)))

    def _text(self, text: str) -> None:
        self.nodes.append(_Node("text", text))
        if self._open and not text.isspace():
            self._open[-1].text = True
            self._note_mixed()

    def _note_mixed(self) -> None:
        if self._open[-1].text and self._open[-1].elements:
            self.mixed.add(self._open[-1].number)

    def _other(self, markup: str) -> None:
        """Comments, declarations, and entities that were not put in; names that HTML knows are no secret."""
        if self._open and markup.startswith("&"):
            text = unescape(markup)
            self.entities += text == markup
            self._text(text)

    def _declared(self, name: str, _is_parameter: bool, value: str | None, *_place: str | None) -> None:
        if value and name not in {"lt", "amp"} and "&" in value:
            raise ParseError(f"entity '{name}' is made of entities, as in an XML bomb", advice=_ADVICE)


class _Prose:
    """Write elements as a document."""

    def __init__(self, builder: TextBuilder, mixed: set[int]) -> None:
        self._builder = builder
        self._mixed = mixed
        self._spans: list[Span] = []
        self._open: list[_Open] = []  # the root first
        self._count = 0
        self._pieces: list[str] = []  # of the block that is open
        self._last_is_line = False  # what was written last may be followed by a line of its own kind
        self._bullet = ""  # owed to the next text
        self._rows: list[tuple[int, list[str]]] = []
        self._row: list[str] = []
        self._cell: _Open | None = None
        self._cell_texts: list[str] = []

    def write(self, nodes: Iterable[_Node]) -> list[Span]:
        """Write everything; return the spans, sorted."""
        for node in nodes:
            if node.kind == "text":
                self._pieces.append(node.value)
            elif node.kind == "start":
                self._start(node.value)
            else:
                self._end()
        self._flush_table()
        return self._spans

    def _start(self, name: str) -> None:
        is_inline = bool(self._open) and self._open[-1].number in self._mixed and name not in _BLOCKS
        if not is_inline:
            self._flush()
        self._open.append(_Open(self._count, name, is_inline))
        self._count += 1
        if name in _CELLS and self._cell is None:
            self._cell, self._cell_texts = self._open[-1], []
        elif name in _ITEMS:
            self._bullet = "- "

    def _end(self) -> None:
        if not self._open[-1].is_inline:
            self._flush()
        closed = self._open.pop()
        if closed is self._cell:
            self._row.append(" ".join(self._cell_texts))
            self._cell = None
        elif closed.name in _ROWS and self._cell is None and self._row:
            self._rows.append((0, self._row))
            self._row = []
        elif closed.name in _ITEMS:
            self._bullet = ""

    def _flush(self) -> None:
        """Write the open block, if there is anything in it."""
        raw = "".join(self._pieces)
        self._pieces = []
        text = " ".join(raw.split())
        if not text:
            return
        if self._cell is not None:
            self._cell_texts.append(text)
            return
        self._flush_table()
        block = next(each for each in reversed(self._open) if not each.is_inline)
        is_code = any(each.name in _CODE for each in self._open)
        is_field = not is_code and block.name not in _BLOCKS and block.number not in self._mixed
        is_field = is_field and len(text) <= MAX_FIELD_CHARS
        is_line = is_field or bool(self._bullet)
        shown = raw.strip("\n") if is_code else f"{block.name}: {text}" if is_field else self._bullet + text
        start = self._builder.add(shown, gap="\n" if is_line and self._last_is_line else "\n\n")
        check_length(self._builder)
        self._last_is_line, self._bullet = is_line, ""
        if is_code:
            self._spans.append(Span("code", start, self._builder.length))
        elif block.name in _TITLES and self._is_section(block) and len(text) <= MAX_TITLE_CHARS:
            level = sum(each.has_title for each in self._open)
            self._spans.append(Span("heading", start, self._builder.length, level, text))

    def _is_section(self, title: _Open) -> bool:
        """Whether the parent of a title is a part of the document; if so, it has a title from now on."""
        parent = self._open[max(self._open.index(title) - 1, 0)]
        parent.has_title = parent.name not in _NOT_SECTIONS
        return parent.has_title

    def _flush_table(self) -> None:
        rows = [*self._rows, (0, self._row)] if self._row else self._rows
        self._rows, self._row = [], []
        self._spans += add_table(self._builder, rows)
        self._last_is_line = self._last_is_line and not rows


@dataclass(slots=True)
class _Open:
    """An element that is open, numbered in the order of the starts."""

    number: int
    name: str = ""
    is_inline: bool = False
    text: bool = False
    elements: bool = False
    has_title: bool = False
    path: str = ""
    children: dict[str, int] = field(default_factory=dict)  # how many of each name


def _write_data(builder: TextBuilder, nodes: Iterable[_Node]) -> None:
    """Write each value as a line with its path, and a blank line after each element that holds others."""
    open_elements = [_Open(0)]
    pieces: list[str] = []
    gap = "\n"
    for node in nodes:
        parent = open_elements[-1]
        lines: list[str] = []
        if node.kind == "text":
            pieces.append(node.value)
        elif node.kind == "start":
            number = parent.children[node.value] = parent.children.get(node.value, 0) + 1
            path = f"{parent.path}/{node.value}" + (f"[{number}]" if number > 1 else "")
            path = path.lstrip("/") if len(path) <= MAX_PATH_CHARS else f"…{path[-MAX_PATH_CHARS:]}"
            open_elements.append(_Open(0, path=path, text=bool(node.attributes)))
            lines = [f"{path}/@{key}: {value}" for key, value in node.attributes.items()]
            pieces = []
        else:
            closed = open_elements.pop()
            text = "".join(pieces).strip()
            pieces = []
            if text:
                lines = [f"{closed.path}:\n{text}" if "\n" in text else f"{closed.path}: {text}"]
            elif not closed.children and not closed.text:
                lines = [closed.path]
            elif closed.children:
                gap = "\n\n"
        for line in lines:
            builder.add(line, gap=gap)
            gap = "\n"
            check_length(builder)


def _local(name: str) -> str:
    return name.rpartition(":")[2]

r"""Read HTML as the text a browser would show: blocks, lists, tables, preformatted text. Runs and fetches nothing.

What a browser does not show is left out: scripts, styles, templates, elements that are `hidden` or have an inline style
that hides them (counted in the metadata). Style sheets are not read. The tree is walked with a stack of our own, so
depth is no matter to Python; but every HTML parser needs quadratic time for endless nesting or attributes, so a page
that has them is read without its structure, and the metadata says so.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ingest.parse import Parsed
from ingest.parse.tables import Merged, add_table
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, decode
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from selectolax.lexbor import LexborNode

    from ingest.parse.tables import Cell

MAX_DEPTH = 2_000  # browsers stop at 512; 100,000 open elements cost the parser 14 s
MAX_ATTRIBUTES = 2_000  # of one element; 50,000 cost 4 s
MAX_LIST_INDENT = 8
MAX_CELL_SPAN = 1_000  # columns or rows that one cell covers, however many it claims
MAX_MERGED_CELLS = 200_000  # of a page; merged cells beyond are shown once, where they begin


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_DROPPED = _tags(
    "head script style template noscript svg iframe object embed audio video canvas select datalist -comment"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = _tags("ul ol menu dir")
_LINES = _tags("li inner-list dt dd tr br option")  # begin on a new line; the other blocks after a blank line
_BLOCKS = _LINES | _tags(
    "address article aside blockquote body caption center details dialog dir div dl fieldset figcaption figure footer"
    " form h1 h2 h3 h4 h5 h6 header hgroup hr legend main menu nav ol p pre search section summary table td th ul"
)
_NOT_IN_DATA_TABLES = _tags("table pre h1 h2 h3 h4 h5 h6")
# Elements that close by themselves and so do not add up: <p>a<p>b is two paragraphs side by side.
_UNNESTED = _tags(
    "p li dt dd tr td th tbody thead tfoot option optgroup col colgroup rt rp html head body"
    " area base br embed hr img input link meta param source track wbr"
)

_SPACE = re.compile(r"[ \t\n\r\f]+")
_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)")
_WHOLE_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)[^<>]*>")
_CROWDED_TAG = re.compile(rf"<[A-Za-z](?:[^<>\s]*+\s++){{{MAX_ATTRIBUTES}}}")
# Elements that a parser opens again in each paragraph after one that left them open: a page of 20 kB can claim 650 MB.
# They add nothing to the text, so they become plain spans.
_FORMATTING = re.compile(r"<(/?)(?:a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[\s/>])", re.IGNORECASE)
# Text between the cells of a table goes before the table, to the end of the text that is there already: a parser copies
# that for each piece, so that 80,000 rows with "&nbsp;" between them took more than 1 GB. In a paragraph each is short.
_STRAY_TEXT = re.compile(r"(<(?:table|/?(?:tr|tbody|thead|tfoot)|/t[dh])(?:\s[^<>]*)?>)(\s*[^<\s][^<]*)", re.IGNORECASE)
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])", re.IGNORECASE)


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read an HTML page. Bytes that are UTF-8 are accepted whatever encoding the page declares."""
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError

    markup = decode(data).removeprefix("\ufeff")
    metadata: dict[str, object] = {}
    markup = _FORMATTING.sub(r"<\1span", markup)
    if _depth(markup) > MAX_DEPTH or _CROWDED_TAG.search(markup):
        markup = _WHOLE_TAG.sub(_flat, markup)
        metadata["flattened"] = f"over {MAX_DEPTH} levels or {MAX_ATTRIBUTES} attributes: read without structure"
    try:
        tree = LexborHTMLParser(_STRAY_TEXT.sub(r"\1<p>\2</p>", markup))
    except SelectolaxError as error:  # the one way in which it can fail: no page is wrong to an HTML parser
        raise MemoryError from error
    writer = _Writer()
    hidden: list[str] = []
    if tree.root is not None:
        layout = _layout_tables(tree.root)
        for tag, node, entering in _walk(tree.root, hidden):
            _write(writer, tag, node, entering=entering, layout=layout)
    if hidden:
        metadata["hidden_elements"] = len(hidden)
    spans = tuple(sorted(writer.spans, key=lambda span: (span.start, -span.end)))
    named = tree.css_first("head title")
    title = _collapse(named.text()).strip()[:MAX_TITLE_CHARS] if named is not None else ""
    first = next((span.label for span in spans if span.kind == "heading" and span.number == 1), "")
    return Parsed(writer.text(), title or first, spans, "text/html", metadata)


def _depth(markup: str) -> int:
    """An upper estimate of how deep elements nest: the most elements that are open at once."""
    open_elements: Counter[str] = Counter()
    depth = deepest = 0
    for closing, name in _TAG.findall(markup):
        tag = name.lower()
        if tag in _UNNESTED:
            continue
        if not closing:
            open_elements[tag] += 1
            depth += 1
            deepest = max(deepest, depth)
        elif open_elements[tag]:
            open_elements[tag] -= 1
            depth -= 1
    return deepest


def _flat(tag: re.Match[str]) -> str:
    name = tag[2].lower()
    if name in {"script", "style", "title", "head", "body", "p", "br"}:
        return f"<{tag[1]}{name}>"
    return "<p>" if name in _BLOCKS else ""


def _walk(root: LexborNode, hidden: list[str]) -> Iterator[tuple[str, LexborNode, bool]]:
    """Every shown node in document order, elements once entering and once leaving; hidden ones are noted."""
    stack: list[tuple[str, LexborNode]] = []
    node: LexborNode | None = root
    while True:
        if node is not None:
            tag = node.tag or ""
            if not _is_shown(tag, node, hidden):
                node = node.next
                continue
            yield tag, node, True
            stack.append((tag, node))
            node = node.first_child
        elif stack:
            tag, left = stack.pop()
            yield tag, left, False
            node = left.next if stack else None
        else:
            return


def _is_shown(tag: str, node: LexborNode, hidden: list[str]) -> bool:
    if tag == "-text":
        return True
    if tag in _DROPPED:
        return False
    attributes = node.attributes
    if "hidden" in attributes or _HIDING_STYLE.search(attributes.get("style") or ""):
        hidden.append(tag)
        return False
    return True


def _layout_tables(root: LexborNode) -> set[int]:
    """Tables that arrange a page instead of holding data: those with a table, heading or <pre> inside."""
    layout: set[int] = set()
    open_tables: list[int] = []
    for tag, node, entering in _walk(root, []):
        if entering and open_tables and tag in _NOT_IN_DATA_TABLES:
            layout.add(open_tables[-1])
        if tag == "table":
            if entering:
                open_tables.append(node.mem_id)
            else:
                open_tables.pop()
    return layout


def _write(writer: _Writer, tag: str, node: LexborNode, *, entering: bool, layout: set[int]) -> None:
    """Tell the writer what was met. What stands for itself (text, <br>) counts once, on entering."""
    if tag == "-text":
        if entering:
            writer.write(node.text_content or "")
    elif tag == "table" and node.mem_id not in layout:
        writer.table(entering=entering)
    elif tag == "pre":
        writer.preformatted(entering=entering)
    elif tag in _HEADINGS:
        writer.heading(_HEADINGS[tag], entering=entering)
    elif tag in _LISTS:
        writer.list(entering=entering)
    elif tag in {"tr", "td", "th", "caption"} and writer.in_table:
        if tag == "tr":
            writer.row(entering=entering)
        elif tag == "caption":
            writer.caption(entering=entering)
        else:
            writer.cell(node.attributes, entering=entering)
    elif tag in _BLOCKS and (entering or tag != "br"):
        writer.block(tag, entering=entering)


class _Writer:
    """Collapse white space, separate blocks, and keep the offsets of what was written."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.in_table = False
        self._parts: list[str] = []
        self._length = 0
        self._line_feeds = 0  # owed before the next text
        self._space = False  # owed too
        self._bullet = ""  # owed too
        self._lists = 0  # how deep
        self._marks: list[tuple[int, int]] = []  # open headings: parts and length when they began
        self._captured: list[str] | None = None  # raw pieces of the open <pre>, table cell or caption
        self._caption = ""
        self._rows: list[tuple[int, list[Cell]]] = []
        self._cells: list[tuple[str, int, int]] = []  # of the open row: text, columns and rows that it covers
        self._covering: dict[int, tuple[int, int]] = {}  # column -> columns, rows still to come of cells from above
        self._merged_room = MAX_MERGED_CELLS

    def text(self) -> str:
        """Everything written."""
        return "".join(self._parts)

    def write(self, text: str) -> None:
        """Text of the page: verbatim inside <pre>, elsewhere with its white space collapsed."""
        if self._captured is not None:
            self._captured.append(text)
            return
        collapsed = _collapse(text)
        self._space |= collapsed.startswith(" ")
        if words := collapsed.strip(" "):
            self._emit(words)
            self._space = collapsed.endswith(" ")

    def block(self, tag: str, *, entering: bool) -> None:
        """An edge of a block, or a <br>."""
        if self._captured is not None:
            if tag == "br" or (self._captured and not self._captured[-1].endswith("\n")):
                self._captured.append("\n")
        else:
            self._break(1 if tag in _LINES else 2)
        if tag == "li":
            indent = "  " * min(max(self._lists - 1, 0), MAX_LIST_INDENT)
            self._bullet = f"{indent}- " if entering and self._captured is None else ""

    def list(self, *, entering: bool) -> None:
        """An edge of a list: the outermost stands by itself, an inner one continues its item."""
        outermost = self._lists == (0 if entering else 1)
        self._lists += 1 if entering else -1
        self.block("ul" if outermost else "inner-list", entering=entering)

    def heading(self, level: int, *, entering: bool) -> None:
        """A heading is marked when it is short; its title is its first line."""
        self._break(2)
        if entering:
            self._marks.append((len(self._parts), self._length))
        elif place := self._since_mark(max_chars=MAX_TITLE_CHARS + 2):
            start, text = place
            self.spans.append(Span("heading", start, start + len(text), level, text.split("\n", 1)[0].strip()))

    def table(self, *, entering: bool) -> None:
        """An edge of a table that holds data."""
        self._break(2)
        self.in_table = entering
        builder = TextBuilder()
        spans = [] if entering else add_table(builder, self._rows, caption=self._caption)
        self._caption, self._rows, self._covering = "", [], {}
        if spans:
            self._emit(builder.text())
            start = self._length - builder.length
            self.spans += [replace(span, start=span.start + start, end=span.end + start) for span in spans]
            self._break(2)

    def row(self, *, entering: bool) -> None:
        """The cells side by side, below those that reach down into their row."""
        if not entering:
            self._rows.append((0, list(_placed(self._cells, self._covering))))
        self._cells = []

    def cell(self, attributes: Mapping[str, str | None], *, entering: bool) -> None:
        """Whatever stands in a cell becomes one line."""
        text = self._capture(entering=entering)
        if not entering:
            columns, rows = (_span(attributes.get(name)) for name in ("colspan", "rowspan"))
            self._merged_room -= columns * rows - 1
            self._cells.append((text, columns, rows) if self._merged_room >= 0 else (text, 1, 1))

    def caption(self, *, entering: bool) -> None:
        """What a table is about stands above each part of it."""
        self._caption = self._capture(entering=entering) or self._caption

    def _capture(self, *, entering: bool) -> str:
        """Begin to hold text back, or give what was held."""
        held = "".join(self._captured or ())
        self._captured = [] if entering else None
        return "" if entering else _collapse(held).strip(" ")

    def preformatted(self, *, entering: bool) -> None:
        """Kept character by character, but for the line ends around it."""
        self._break(2)
        block = "".join(self._captured or ()).strip("\n")
        if not entering and block.strip():
            self._emit(block)
            self.spans.append(Span("code", self._length - len(block), self._length))
            self._break(2)
        self._captured = [] if entering else None

    def _break(self, line_feeds: int) -> None:
        self._line_feeds = max(self._line_feeds, line_feeds)
        self._space = False

    def _emit(self, text: str) -> None:
        owed = ("\n" * self._line_feeds or " " * self._space) if self._length else ""
        for part in (owed, self._bullet, text):
            self._parts.append(part)
            self._length += len(part)
        self._line_feeds, self._space, self._bullet = 0, False, ""

    def _since_mark(self, max_chars: int) -> tuple[int, str] | None:
        """Return start and text of what was written since the last mark; None when nothing, or too much."""
        parts, length = self._marks.pop()
        if self._length - length > max_chars:
            return None
        written = "".join(self._parts[parts:])
        text = written.lstrip("\n ")
        return (self._length - len(text), text) if text else None


def _placed(cells: Iterable[tuple[str, int, int]], covering: dict[int, tuple[int, int]]) -> Iterator[Cell]:
    """The cells of a row in their columns. `covering` is what reaches into it from above, and then into the next."""
    column = 0
    below = {left: (columns, rows - 1) for left, (columns, rows) in covering.items() if rows > 1}
    for cell in (*cells, None):
        while column in covering:
            width, _ = covering[column]
            yield Merged.ABOVE
            yield from [Merged.LEFT] * (width - 1)
            column += width
        if cell is not None:
            text, columns, rows = cell
            yield text
            yield from [Merged.LEFT] * (columns - 1)
            if rows > 1:
                below[column] = (columns, rows - 1)
            column += columns
    covering.clear()
    covering.update(below)


def _span(value: str | None) -> int:
    is_number = value is not None and value.isascii() and value.isdecimal() and len(value) < 10
    return max(1, min(int(value or 1), MAX_CELL_SPAN)) if is_number else 1


def _collapse(text: str) -> str:
    return _SPACE.sub(" ", text)

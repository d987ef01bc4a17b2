r"""Read a Word document: paragraphs and tables in document order, headings by their style. Opens no link or macro.

A footnote stands below the paragraph or table that refers to it. Left out: headers, footers, pictures, deleted and
hidden text, and comments, which the metadata says. Accepted insertions count as text. Cells are counted as they stand
in the file: a merged cell may claim to cover millions of columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.parse import Parsed
from ingest.parse.package import Package, check_length
from ingest.parse.tables import Merged, add_table
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, no_surrogates
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ingest.parse.tables import Cell, Row

MAX_SPAN = 64  # columns that one merged cell may cover

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # a second copy for old readers
_LEFT_OUT = {_FALLBACK, f"{_W}moveFrom", f"{_W}del", f"{_W}rPr", f"{_W}pPr"}
_NOTES = {f"{_W}footnoteReference": "footnotes", f"{_W}endnoteReference": "endnotes"}
_RAISED = str.maketrans("0123456789+-\u2212=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_SIGNS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a DOCX or DOCM file; metadata: `author`, `created`, `modified`, `left_out`, `damaged_parts`, where any."""
    package = Package(data, "DOCX")
    main = package.main_part("word/document.xml")
    parts = {kind: part for kind, part in package.relations(main).values() if part in package}
    levels, captions = _styles(package.optional_xml(parts.get("styles", "")))
    notes = {kind: _notes(package.optional_xml(parts.get(kind, ""))) for kind in _NOTES.values()}
    writer = _Writer(levels, captions, notes)
    for body in package.xml(main).iterchildren(f"{_W}body"):
        for block in _blocks(body):
            writer.add(block)
    writer.close()
    metadata = package.core_properties()
    title = str(metadata.pop("title", ""))
    first = next((span.label for span in writer.spans if span.kind == "heading" and span.number == 1), "")
    facts = {"left_out": package.names(r"word/comments\.xml"), "damaged_parts": package.damaged}
    metadata |= {key: value for key, value in facts.items() if value}
    return Parsed(writer.builder.text(), title or first, tuple(writer.spans), _MEDIA_TYPE, metadata)


class _Writer:
    """Assembles the text. A caption waits for the table below it, which repeats it."""

    def __init__(self, levels: dict[str, int], captions: set[str], notes: dict[str, dict[str, str]]) -> None:
        self.builder = TextBuilder()
        self.spans: list[Span] = []
        self._levels = levels
        self._captions = captions
        self._notes = notes
        self._caption = ""

    def add(self, block: Any) -> None:
        """A paragraph or a table."""
        if block.tag == f"{_W}tbl":
            self.spans += add_table(self.builder, _rows(block), caption=self._caption)
            self._caption = ""
        else:
            self._paragraph(block)
        for reference in block.iter(*_NOTES):
            if text := self._notes.get(_NOTES[reference.tag], {}).pop(reference.get(f"{_W}id", ""), ""):
                self.builder.add(f"Note: {text}")

    def close(self) -> None:
        """Write a caption that no table followed."""
        if self._caption:
            self.builder.add(self._caption)
        self._caption = ""

    def _paragraph(self, paragraph: Any) -> None:
        text = no_surrogates(_text(paragraph)).strip()
        if not text:
            return
        self.close()
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        name = style.get(f"{_W}val", "") if style is not None else ""
        level = _outline_level(paragraph) or self._levels.get(name, 0)
        if name in self._captions and len(text) <= MAX_TITLE_CHARS and "\n" not in text:
            self._caption = text
            return
        is_item = paragraph.find(f"{_W}pPr/{_W}numPr") is not None and not level
        start = self.builder.add(f"- {text}" if is_item else text)
        check_length(self.builder)
        if level and len(text) <= MAX_TITLE_CHARS:
            self.spans.append(Span("heading", start, self.builder.length, level, text.split("\n", 1)[0].strip()))


def _styles(root: Any) -> tuple[dict[str, int], set[str]]:
    """Heading levels by style id, from the style's name or outline level or those it is based on; ids of captions."""
    styles = {
        style.get(f"{_W}styleId", ""): style
        for style in (() if root is None else root.iterchildren(f"{_W}style"))
        if style.get(f"{_W}type", "paragraph") == "paragraph"
    }
    levels: dict[str, int] = {}
    for identity, style in styles.items():
        ancestor: Any = style
        for _ in range(10):  # a style may claim to be based on itself
            level = _style_level(ancestor)
            if level or ancestor is None:
                break
            ancestor = styles.get(_value(ancestor, "basedOn"))
        if level:
            levels[identity] = level
    return levels, {identity for identity, style in styles.items() if _value(style, "name").lower() == "caption"}


def _notes(root: Any) -> dict[str, str]:
    """Texts of footnotes or endnotes by their id; the lines that separate them from the page are none."""
    notes = () if root is None else root
    return {note.get(f"{_W}id", ""): " ".join(no_surrogates(_text(note)).split()) for note in notes}


def _value(element: Any, name: str) -> str:
    found = element.find(f"{_W}{name}") if element is not None else None
    return str(found.get(f"{_W}val", "")) if found is not None else ""


def _style_level(style: Any) -> int:
    if style is None:
        return 0
    name = _value(style, "name").lower()
    if name == "title":
        return 1
    word, _, number = name.partition(" ")
    if word == "heading" and number in set("123456789"):
        return int(number)
    return _outline_level(style)


def _outline_level(element: Any) -> int:
    outline = element.find(f"{_W}pPr/{_W}outlineLvl")
    value = outline.get(f"{_W}val", "9") if outline is not None else "9"
    return int(value) + 1 if value in set("012345678") else 0  # 9 means body text


def _blocks(container: Any) -> Iterator[Any]:
    """Paragraphs and tables in document order, also inside content controls and accepted insertions."""
    for element in container:
        if element.tag in {f"{_W}p", f"{_W}tbl"}:
            yield element
        elif element.tag not in _LEFT_OUT:
            yield from _blocks(element)


def _rows(table: Any) -> Iterator[Row]:
    for row in _children(table, f"{_W}tr"):
        yield 0, list(_cells(row))


def _cells(row: Any) -> Iterator[Cell]:
    """Cells with the columns they cover; whatever stands in one, tables included, becomes one line."""
    before = row.find(f"{_W}trPr/{_W}gridBefore")
    yield from [""] * (min(_count(before), MAX_SPAN) if before is not None else 0)
    for cell in _children(row, f"{_W}tc"):
        properties = cell.find(f"{_W}tcPr")
        span = properties.find(f"{_W}gridSpan") if properties is not None else None
        merge = properties.find(f"{_W}vMerge") if properties is not None else None
        goes_on = merge is not None and merge.get(f"{_W}val", "continue") == "continue"
        yield Merged.ABOVE if goes_on else no_surrogates(_text(cell))
        yield from [Merged.LEFT] * (min(_count(span), MAX_SPAN) - 1 if span is not None else 0)


def _count(element: Any) -> int:
    value = element.get(f"{_W}val", "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 1


def _children(parent: Any, tag: str) -> Iterator[Any]:
    for element in parent:
        if element.tag == tag:
            yield element
        elif element.tag in {f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"}:
            yield from _children(element, tag)


def _text(element: Any) -> str:
    return "".join(_pieces(element))


def _pieces(element: Any) -> Iterator[str]:
    """The text below an element; XML is at most 256 deep here (lxml's own limit), so recursion is safe."""
    for child in element:
        if child.tag in {f"{_W}t", f"{_M}t"}:
            yield (child.text or "") + "".join(inner.tail or "" for inner in child)  # around entities
        elif child.tag in _SIGNS:
            yield _SIGNS[child.tag]
        elif child.tag in _FORMULAS:
            yield _FORMULAS[child.tag](child)
        elif child.tag not in _LEFT_OUT and not _is_hidden(child):
            is_raised = child.tag == f"{_W}r" and _value(child.find(f"{_W}rPr"), "vertAlign") == "superscript"
            yield _raised(child, otherwise="") if is_raised else _text(child)
            if child.tag in {f"{_W}p", f"{_W}tc"}:  # paragraphs of a cell or a text box
                yield "\n"


def _raised(element: Any, otherwise: str = "^") -> str:
    """An exponent as people see it: "10⁻⁶" and not "10-6"; what has no raised form is marked."""
    text = _text(element)
    raised = text.translate(_RAISED)
    return raised if not any(map(set(text).__contains__, raised)) else f"{otherwise}{_operand(text, otherwise)}"


def _operand(text: str, mark: str = "/") -> str:
    """Text beside a sign, in parentheses where it is more than a word."""
    return text if not mark or text.isalnum() or not text else f"({text})"


def _fraction(element: Any) -> str:
    above, below = (_text(part) if part is not None else "" for part in map(element.find, (f"{_M}num", f"{_M}den")))
    return f"{_operand(above)}/{_operand(below)}"


def _delimited(element: Any) -> str:
    """What stands in parentheses, which are not part of the text."""
    signs = {key: element.find(f"{_M}dPr/{_M}{key}") for key in ("begChr", "endChr", "sepChr")}
    opening, closing, between = (
        sign.get(f"{_M}val", "") if sign is not None else usual
        for sign, usual in zip(signs.values(), "()|", strict=True)
    )
    return f"{opening}{between.join(map(_text, element.iterchildren(f'{_M}e')))}{closing}"


def _sum(element: Any) -> str:
    """A sum, integral or product: its sign, which is no text, its limits and what it is over."""
    sign = element.find(f"{_M}naryPr/{_M}chr")
    return (sign.get(f"{_M}val", "") if sign is not None else "∫") + _text(element)


_FORMULAS: Mapping[str, Callable[[Any], str]] = {
    f"{_M}sup": _raised,
    f"{_M}sub": lambda element: f"_{_operand(_text(element))}" if len(element) else "",
    f"{_M}f": _fraction,
    f"{_M}d": _delimited,
    f"{_M}nary": _sum,
    f"{_M}rad": lambda element: f"√({_text(element)})",
}
"""Parts of a formula whose arrangement says something that their text alone does not."""


def _is_hidden(run: Any) -> bool:
    if run.tag != f"{_W}r":
        return False
    vanish = run.find(f"{_W}rPr/{_W}vanish")
    return vanish is not None and vanish.get(f"{_W}val", "true") not in {"0", "false", "off"}

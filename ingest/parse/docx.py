r"""Read a Word document: paragraphs and tables in document order, headings by their style. Opens no link or macro.

Left out: headers, footers, comments, pictures, deleted and hidden text; footnotes and endnotes are left out and said in
the metadata. Accepted insertions count as text. The tree is walked here and not through python-docx's `row.cells`,
which repeats a merged cell once for every column that it claims to cover (a file may claim millions).
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from ingest.parse import Parsed
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docx.document import Document

MAX_UNPACKED_BYTES = 200_000_000
MAX_MEMBERS = 10_000
MAX_RATIO = 100  # of one member; XML of real documents packs 5 to 30 times
RATIO_FREE_BYTES = 10_000_000  # below this a high ratio does no harm

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # a second copy for old readers
_LEFT_OUT = {_FALLBACK, f"{_W}moveFrom", f"{_W}del", f"{_W}rPr", f"{_W}pPr"}
_SIGNS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a DOCX file. Raises ParseError before unpacking anything when it would unpack to too much."""
    members = _checked_members(data)
    import docx

    document = docx.Document(BytesIO(data))
    levels = _heading_levels(document)
    builder = TextBuilder()
    spans: list[Span] = []
    for block in _blocks(document.element.body):
        if block.tag == f"{_W}tbl":
            spans += _add_table(builder, block)
        else:
            spans += _add_paragraph(builder, block, levels)
    # Without its own properties python-docx makes some up, title included.
    title = document.core_properties.title.strip()[:MAX_TITLE_CHARS] if "docProps/core.xml" in members else ""
    first = next((span.label for span in spans if span.kind == "heading" and span.number == 1), "")
    notes = sorted({"word/footnotes.xml", "word/endnotes.xml"} & members)
    metadata: dict[str, object] = {"left_out": notes} if notes else {}
    return Parsed(builder.text(), title or first, tuple(spans), _MEDIA_TYPE, metadata)


_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def _checked_members(data: bytes) -> set[str]:
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise ParseError("encrypted, or a .doc file under a new name", advice="save it as DOCX without a password")
    try:
        with ZipFile(BytesIO(data)) as archive:
            members = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError) as error:
        raise ParseError(f"not a DOCX file: {error}", advice="open it in a word processor and save it again") from error
    unpacked = sum(member.file_size for member in members)
    packed_tight = any(member.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * member.compress_size) for member in members)
    if unpacked > MAX_UNPACKED_BYTES or packed_tight or len(members) > MAX_MEMBERS:
        found = f"{len(members)} members, {unpacked:,} bytes unpacked from {len(data):,}"
        raise ParseError(
            f"refused as a possible zip bomb: {found}", advice="save it again without pictures, or split it"
        )
    return {member.filename for member in members}


def _heading_levels(document: Document) -> dict[str, int]:
    """Style id -> heading level, by the style's name or outline level, or those of the styles it is based on."""
    from docx.enum.style import WD_STYLE_TYPE

    levels: dict[str, int] = {}
    for style in document.styles:
        if style.type != WD_STYLE_TYPE.PARAGRAPH:
            continue
        ancestor: Any = style
        for _ in range(10):  # a style may claim to be based on itself
            level = _style_level(ancestor)
            if level or ancestor is None:
                break
            ancestor = ancestor.base_style
        if level:
            levels[style.style_id] = level
    return levels


def _style_level(style: Any) -> int:
    if style is None:
        return 0
    name = (style.name or "").lower()
    if name == "title":
        return 1
    word, _, number = name.partition(" ")
    if word == "heading" and number in set("123456789"):
        return int(number)
    return _outline_level(style.element)


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


def _add_paragraph(builder: TextBuilder, paragraph: Any, levels: dict[str, int]) -> list[Span]:
    text = _text(paragraph).strip()
    if not text:
        return []
    style = paragraph.find(f"{_W}pPr/{_W}pStyle")
    level = _outline_level(paragraph) or levels.get(style.get(f"{_W}val", "") if style is not None else "", 0)
    is_item = paragraph.find(f"{_W}pPr/{_W}numPr") is not None and not level
    start = builder.add(f"- {text}" if is_item else text)
    if level and len(text) <= MAX_TITLE_CHARS:
        return [Span("heading", start, builder.length, level, text.split("\n", 1)[0].strip())]
    return []


def _add_table(builder: TextBuilder, table: Any) -> list[Span]:
    """One row a line; whatever stands in a cell, tables included, becomes one line."""
    rows = []
    for row in _children(table, f"{_W}tr"):
        cells = [" ".join(_text(cell).split()) for cell in _children(row, f"{_W}tc")]
        if any(cells):
            rows.append(" | ".join(cells))
    if not rows:
        return []
    start = builder.add("\n".join(rows))
    return [Span("table", start, builder.length)]


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
        if child.tag in {f"{_W}t", _MATH_TEXT}:
            yield (child.text or "") + "".join(inner.tail or "" for inner in child)  # around comments, entities
        elif child.tag in _SIGNS:
            yield _SIGNS[child.tag]
        elif child.tag not in _LEFT_OUT and not _is_hidden(child):
            yield from _pieces(child)
            if child.tag in {f"{_W}p", f"{_W}tc"}:  # paragraphs of a cell or a text box
                yield "\n"


def _is_hidden(run: Any) -> bool:
    if run.tag != f"{_W}r":
        return False
    vanish = run.find(f"{_W}rPr/{_W}vanish")
    return vanish is not None and vanish.get(f"{_W}val", "true") not in {"0", "false", "off"}

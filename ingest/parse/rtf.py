r"""Read Rich Text Format: paragraphs, headings by their style, tables, footnotes. Opens no object and no link.

One pass over the control words. Bytes are decoded by the code page of the font they are set in, Unicode characters
(\u) are taken as they are. Left out: pictures, headers and footers, field codes, hidden and deleted text, comments.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ingest.parse import Parsed
from ingest.parse.package import check_length
from ingest.parse.tables import TableCounter, add_table
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder
from retrieval.errors import ParseError
from retrieval.records import Span

MAX_DEPTH = 1_000  # of groups; word processors nest them some ten deep

_TOKEN = re.compile(
    rb"\\'([0-9a-fA-F]{2})|\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\([^a-zA-Z])|([{}])|[\r\n\x00]+|([^\\{}\r\n\x00]+)|\\",
)
_CHARSETS = {
    77: "mac-roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030", 136: "big5", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250", 254: "cp437", 255: "cp437",
}  # fmt: skip
_SIGNS = {
    "tab": "\t", "line": "\n", "softline": "\n", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’",
    "ldblquote": "“", "rdblquote": "”", "bullet": "•", "emspace": "\u2003", "enspace": "\u2002", "nestcell": "\t",
    "nestrow": "\n", "zwj": "\u200d", "zwnj": "\u200c",
    "~": "\u00a0", "_": "\u2011", "{": "{", "}": "}", "\\": "\\", "\t": "\t",
}  # fmt: skip
_SKIPPED = frozenset((
    "colortbl", "pict", "objdata", "header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf",
    "fldinst", "xe", "tc", "tcn", "rxe", "txe", "sp", "filetbl", "listtable", "listoverridetable", "revtbl", "rsidtbl",
    "bkmkstart", "bkmkend", "nonshppict", "annotation", "atnid", "atnauthor", "keywords", "subject", "operator",
    "doccomm", "comment", "hlinkbase", "category", "manager", "company", "printim", "buptim", "ftnsep", "ftnsepc",
    "aftnsep", "aftnsepc", "ftncn", "aftncn", "template", "pnseclvl", "upr", "private", "themedata",
))  # fmt: skip
_KEPT = {"shpinst", "shptxt", "ud"}  # may be passed over by readers that do not know them, but hold text
_ENDS = {"par", "sect", "page", "column"}
_INFO = {"title": "title", "author": "author", "creatim": "created", "revtim": "modified"}


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits and its end restores. `target`: what text in it is for; "" is the body."""

    target: str = ""
    font: int = -1
    fallback_chars: int = 1  # that follow each \u for readers that do not know it
    hidden: bool = False


@dataclass(slots=True)
class _Paragraph:
    """What is said of the paragraph that is being read."""

    in_table: bool = False
    style: int = 0
    outline: int = 0


@dataclass(slots=True)
class _Row:
    """Cells of the table row that is being read, and the rows before it."""

    cells: list[str] = field(default_factory=list)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read an RTF file; metadata: `author`, `created`, `modified` where the file has them."""
    if not data.startswith(b"{\\rtf"):
        raise ParseError("not an RTF file", advice="give the file the extension of what it is")
    reader = _Reader(data)
    reader.read()
    info: dict[str, object] = {key: text for key, text in reader.info.items() if text}
    title = str(info.pop("title", ""))[:MAX_TITLE_CHARS]
    first = next((span.label for span in reader.spans if span.number == 1 and span.kind == "heading"), "")
    return Parsed(reader.builder.text(), title or first, tuple(reader.spans), "application/rtf", info)


class _Reader:
    """Reads control words and keeps what they say."""

    def __init__(self, data: bytes) -> None:
        self.builder = TextBuilder()
        self.spans: list[Span] = []
        self.info: dict[str, str] = {}
        self._data = data
        self._position = 0
        self._state = _State()
        self._stack: list[_State] = []
        self._bytes = bytearray()  # of text, until it is known that no more of one character follow
        self._texts: dict[str, list[str]] = {"": []}  # by what they are for
        self._notes: list[str] = []
        self._paragraph = _Paragraph()
        self._row = _Row()
        self._counter = TableCounter()
        self._code_page = "cp1252"
        self._default_font = 0
        self._fonts: dict[int, str] = {}
        self._levels: dict[int, int] = {}  # of heading styles
        self._entry = 0  # font or style that is being defined
        self._to_skip = 0  # characters after \u
        self._is_optional = False  # after \*

    def read(self) -> None:
        """Read all of it."""
        while self._position < len(self._data):
            token = _TOKEN.match(self._data, self._position)
            if token is None:  # a byte that nothing starts with; there is none
                break
            self._position = token.end()
            code, word, number, symbol, brace, text = token.groups()
            if text or code:
                self._write(text or bytes([int(code, 16)]))
            elif brace:
                self._decode()
                self._to_skip = 0
                self._open() if brace == b"{" else self._close()
                if not self._stack:  # what follows the document is none of it
                    break
            elif word:
                self._control(word.decode(), int(number) if number else None)
            elif symbol:
                self._symbol(symbol.decode("latin-1"))
        self._decode()
        self._end_paragraph()
        self._end_table()

    def _write(self, raw: bytes) -> None:
        skipped = min(self._to_skip, len(raw))
        self._to_skip -= skipped
        if self._state.target != "skip":
            self._bytes += raw[skipped:]

    def _decode(self) -> None:
        """Turn the bytes that wait into text."""
        if self._bytes:
            font = self._state.font if self._state.font >= 0 else self._default_font
            text = self._bytes.decode(self._fonts.get(font, self._code_page), "replace")
            self._bytes.clear()
            self._put(text)

    def _put(self, text: str) -> None:
        target = self._state.target
        if target in {"fonts", "skip"} or (self._state.hidden and not target):
            return
        if target == "styles":
            name, _, rest = text.strip().lower().rstrip(";").partition(" ")
            if name == "heading" and rest in set("123456789"):
                self._levels[self._entry] = int(rest)
            elif name == "title" and not rest:
                self._levels[self._entry] = 1
        else:
            self._texts.setdefault(target, []).append(text)

    def _open(self) -> None:
        if len(self._stack) == MAX_DEPTH:
            raise ParseError(f"groups nested more than {MAX_DEPTH} deep", advice="save the file again")
        self._stack.append(self._state)
        self._is_optional = False

    def _close(self) -> None:
        ended = self._state.target
        if self._stack:
            self._state = self._stack.pop()
        if ended == self._state.target or ended not in self._texts:
            return
        text = _well_formed("".join(self._texts.pop(ended)))
        if ended == "note":
            self._notes += [" ".join(text.split())]
        else:
            self.info.setdefault(ended, text.strip())

    def _control(self, word: str, number: int | None) -> None:
        is_optional, self._is_optional = self._is_optional, False
        if word == "bin":  # that many bytes of a picture follow
            self._position += max(number or 0, 0)
        elif word == "u" and number is not None:
            self._decode()
            self._put(chr(number % 65_536))
            self._to_skip = self._state.fallback_chars
        elif word in _SIGNS:
            self._decode()
            self._put(_SIGNS[word])
        elif action := _ACTIONS.get(word):
            self._decode()
            action(self, 1 if number is None else number)
        elif word in _INFO and self._state.target in {"info", *_INFO.values()}:
            self._state = replace(self._state, target=_INFO[word])
        elif word in _SKIPPED or (is_optional and word not in _KEPT):
            self._decode()
            self._state = replace(self._state, target="skip")
        elif word in _ENDS:
            self._decode()
            self._end_paragraph()

    def _symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._is_optional = True
        elif symbol in "\r\n":
            self._control("par", None)
        elif symbol in _SIGNS:
            self._decode()
            self._put(_SIGNS[symbol])

    def _end_paragraph(self) -> None:
        """End a paragraph of the body, or a line of a cell or of a note."""
        if self._state.target or self._paragraph.in_table:
            self._put("\n")
            return
        text = _well_formed("".join(self._texts[""])).strip()
        self._texts[""] = []
        if not text:
            return
        self._end_table()
        start = self.builder.add(text)
        level = self._paragraph.outline or self._levels.get(self._paragraph.style, 0)
        if level and len(text) <= MAX_TITLE_CHARS:
            self.spans.append(Span("heading", start, self.builder.length, level, text.split("\n", 1)[0].strip()))
        self._add_notes()

    def end_cell(self) -> None:
        if not self._state.target:
            self._row.cells.append(_well_formed("".join(self._texts[""])))
            self._texts[""] = []

    def end_row(self) -> None:
        if not self._state.target:
            self._counter.add(self._row.cells)
            self._row.rows.append((0, self._row.cells))
            self._row.cells = []

    def _end_table(self) -> None:
        if self._row.cells:
            self.end_row()
        if not self._row.rows:
            return
        self.spans += add_table(self.builder, self._row.rows)
        self._row = _Row()
        self._add_notes()

    def _add_notes(self) -> None:
        for note in filter(None, self._notes):
            self.builder.add(f"Note: {note}")
        self._notes = []
        check_length(self.builder)

    # ---- what control words do, by name; the number is 1 where the file gives none ----

    def set_target(self, target: str) -> None:
        self._state = replace(self._state, target=target if self._state.target != "skip" else "skip")

    def set_font(self, number: int) -> None:
        self._entry = number
        self._state = replace(self._state, font=number)

    def set_charset(self, number: int) -> None:
        if self._state.target == "fonts" and number in _CHARSETS:
            self._fonts[self._entry] = _CHARSETS[number]

    def set_code_page(self, number: int) -> None:
        name = {65001: "utf-8", 10000: "mac-roman", 936: "gb18030"}.get(number, f"cp{number}")
        try:
            codecs.lookup(name)
        except LookupError:
            return
        self._code_page = name

    def set_style(self, number: int) -> None:
        self._entry = number
        if not self._state.target:
            self._paragraph.style = number

    def set_default_font(self, number: int) -> None:
        self._default_font = number

    def set_fallback(self, number: int) -> None:
        self._state = replace(self._state, fallback_chars=min(max(number, 0), 100))

    def set_hidden(self, number: int) -> None:
        self._state = replace(self._state, hidden=number != 0)

    def set_outline(self, number: int) -> None:
        self._paragraph.outline = number + 1 if 0 <= number <= 8 else 0

    def set_in_table(self, number: int) -> None:
        self._paragraph.in_table = number != 0

    def plain(self) -> None:
        self._state = replace(self._state, hidden=False, font=-1)

    def reset_paragraph(self) -> None:
        if not self._state.target:
            self._paragraph = _Paragraph()

    def date(self, part: str, number: int) -> None:
        if self._state.target in {"created", "modified"} and 0 < number < 10_000:
            written = self.info.get(self._state.target, "")
            self.info[self._state.target] = f"{written}-{number:02d}" if part != "yr" else f"{number:04d}"


def _well_formed(text: str) -> str:
    """Characters beyond the first 65,536 stand as two halves in the file; a half alone becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_ACTIONS: Mapping[str, Callable[[_Reader, int], None]] = {
    "fonttbl": lambda reader, _: reader.set_target("fonts"),
    "stylesheet": lambda reader, _: reader.set_target("styles"),
    "info": lambda reader, _: reader.set_target("info"),
    "footnote": lambda reader, _: reader.set_target("note"),
    "f": _Reader.set_font,
    "fcharset": _Reader.set_charset,
    "ansicpg": _Reader.set_code_page,
    "mac": lambda reader, _: reader.set_code_page(10_000),
    "pc": lambda reader, _: reader.set_code_page(437),
    "pca": lambda reader, _: reader.set_code_page(850),
    "deff": _Reader.set_default_font,
    "uc": _Reader.set_fallback,
    "v": _Reader.set_hidden,
    "deleted": _Reader.set_hidden,
    "s": _Reader.set_style,
    "outlinelevel": _Reader.set_outline,
    "intbl": _Reader.set_in_table,
    "plain": lambda reader, _: reader.plain(),
    "pard": lambda reader, _: reader.reset_paragraph(),
    "cell": lambda reader, _: reader.end_cell(),
    "row": lambda reader, _: reader.end_row(),
    "yr": lambda reader, number: reader.date("yr", number),
    "mo": lambda reader, number: reader.date("mo", number),
    "dy": lambda reader, number: reader.date("dy", number),
}

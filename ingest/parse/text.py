"""What the parsers share: strict decoding, a scanning copy with plain line ends, assembling text. Knows no format."""

from __future__ import annotations

import re

from retrieval.errors import ParseError

MAX_TITLE_CHARS = 300  # a longer "heading" is prose above a rule; it would drown every chunk it is given to as context
MAX_NUL_SHARE = 0.1  # stray NULs are kept; UTF-16 without a byte order mark has one in every second byte

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(data: bytes) -> str:
    """Decode UTF-8 strictly and change nothing: byte order mark, line ends and stray NULs stay.

    Raises ParseError with the byte position (from 0) of the first bad byte, or when the bytes are binary content.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _not_utf8("a UTF-16 byte order mark at byte 0")
    if data.count(0) > MAX_NUL_SHARE * len(data):
        raise ParseError("binary content (or UTF-16 text): too many NUL bytes", advice=_UTF8_ADVICE)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(f"byte 0x{data[error.start]:02x} at position {error.start}") from error


def scanning_copy(text: str) -> str:
    r"""Return a line feed and then the text, each line end a single "\n", as many characters as the original.

    So line-level patterns can start with the literal "\n" (which makes `re` skip from line to line) and the
    position of that "\n" is where its line starts in the original text. Other positions are one too high.
    """
    if "\r" in text:
        text = text.replace("\r\n", " \n").replace("\r", "\n")
    if text.startswith("\ufeff"):
        text = " " + text[1:]
    return "\n" + text


def line_above(scan: str, floor: int, end: int) -> tuple[int, str]:
    r"""Return where the line ending at `end` starts (its "\n") and its text; no further back than `floor`."""
    start = scan.rfind("\n", floor, end)
    return (start, scan[start + 1 : end]) if start >= 0 else (end, "")


def no_surrogates(text: str) -> str:
    """Replace lone surrogates, which no encoding can carry, by U+FFFD; the length stays."""
    return _LONE_SURROGATE.sub("\ufffd", text)


class TextBuilder:
    """Assemble a text from pieces and know where each one lies."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.length = 0

    def add(self, text: str, *, gap: str = "\n\n") -> int:
        """Append `gap` (not before the first piece) and the text; return where the text starts."""
        if self.length:
            self._parts.append(gap)
            self.length += len(gap)
        start = self.length
        self._parts.append(text)
        self.length += len(text)
        return start

    def text(self) -> str:
        """Everything added so far."""
        return "".join(self._parts)


_UTF8_ADVICE = "save the file as UTF-8 (for example: iconv -f OLD_ENCODING -t UTF-8), or leave it out"


def _not_utf8(found: str) -> ParseError:
    return ParseError(f"not UTF-8 text: {found}", advice=_UTF8_ADVICE)

"""Where a text may be cut without tearing apart what a reader sees as one character (UAX #29 grapheme clusters)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import regex

# \X alone counts a row of regional indicators from its start again at each of them; a pair before another is one flag
_CLUSTER = regex.compile(r"\p{GCB=Regional_Indicator}{2}(?=\p{GCB=Regional_Indicator})|\X")
_LINE_END = regex.compile(r"\r\n|[\n\r]")
_PLAIN_BELOW = "\u0300"  # below it only CR LF joins into one cluster


def boundaries(text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Where clusters begin in text[start:end], and `end`; ascending. `start` must be a boundary itself."""
    end = len(text) if end is None else end
    found = [match.start() for match in _CLUSTER.finditer(text, start, end)]
    found.append(end)
    return found


class Graphemes:
    """Answers whether positions of one text are cluster boundaries. Remembers the line it looked at last."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line = range(0)
        self._lines: list[int] = []  # where they start, and the end of the text
        self._boundaries: list[int] = []

    def is_boundary(self, position: int) -> bool:
        """Whether a cut at this position leaves every grapheme cluster whole."""
        text = self._text
        if position <= 0 or position >= len(text):
            return True
        before, after = text[position - 1], text[position]
        if before in "\r\n":
            return not (before == "\r" and after == "\n")
        if before < _PLAIN_BELOW and after < _PLAIN_BELOW:
            return True
        if position not in self._line:
            self._read_line(position)
        index = bisect_left(self._boundaries, position)
        return index < len(self._boundaries) and self._boundaries[index] == position

    def _read_line(self, position: int) -> None:
        """Find every boundary of the line that holds a position; clusters never cross a line end."""
        if not self._lines:
            self._lines = [0, *(match.end() for match in _LINE_END.finditer(self._text)), len(self._text)]
        line = bisect_right(self._lines, position)
        first, last = self._lines[line - 1 : line + 1]
        self._line = range(first, last)
        self._boundaries = boundaries(self._text, first, last)

"""Where a text may be cut without tearing apart what a reader sees as one character (UAX #29 grapheme clusters)."""

from __future__ import annotations

from bisect import bisect_left

import regex

_CLUSTER = regex.compile(r"\X")
_LINE_END = regex.compile(r"\r\n|[\n\r]")
_PLAIN_BELOW = "\u0300"  # below it only CR LF joins into one cluster


class Graphemes:
    """Answers whether positions of one text are cluster boundaries. Remembers the line it looked at last."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line = range(0)
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
        text = self._text
        first = max(text.rfind("\n", 0, position), text.rfind("\r", 0, position)) + 1
        end = _LINE_END.search(text, position)
        last = end.start() if end else len(text)
        self._line = range(first, last + 1)
        self._boundaries = [match.start() for match in _CLUSTER.finditer(text, first, last)]
        self._boundaries.append(last)

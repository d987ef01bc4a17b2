r"""Read CSV and TSV: each row one line of a table, below the header row it belongs to. Evaluates nothing.

The delimiter is the one that cuts the first rows most evenly. Rows count as in a spreadsheet, blank ones too. A quote
that never closes would swallow the rest of the file: from the row it stands in, quotes are then read as they are.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from io import StringIO
from itertools import chain, islice
from typing import TYPE_CHECKING

from ingest.parse import Parsed
from ingest.parse.tables import add_table
from ingest.parse.text import TextBuilder, decode
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.parse.tables import Row

MAX_ROWS = 1_000_000
MAX_COLUMNS = 16_384  # the limit of spreadsheet programs

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_CHARS = 65_536
_SAMPLE_ROWS = 100
_SAYS_DELIMITER = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # a first line that spreadsheet programs write
_END = "\ue000end of the file\ue000"  # a row that ends the file, unless an open quote swallows it


def parse(data: bytes, suffix: str) -> Parsed:
    """Read a table; metadata: "open_quote_row", the row whose quote never closes."""
    text = decode(data).removeprefix("\ufeff")
    said = _SAYS_DELIMITER.match(text)
    body = text[said.end() :] if said else text
    delimiter = said[1] if said else _delimiter(body, suffix)
    builder = TextBuilder()
    rows = _Rows(body, delimiter, first=2 if said else 1)
    limit = csv.field_size_limit(len(body) + len(_END))  # 131,072 by default, and an error beyond
    try:
        spans = add_table(builder, rows)
    finally:
        csv.field_size_limit(limit)
    media_type = "text/tab-separated-values" if delimiter == "\t" else "text/csv"
    metadata: dict[str, object] = {"open_quote_row": rows.open_quote} if rows.open_quote else {}
    return Parsed(builder.text(), "", tuple(spans), media_type, metadata)


class _Rows:
    """The rows of a text, numbered."""

    def __init__(self, text: str, delimiter: str, *, first: int) -> None:
        self.open_quote: int | None = None
        self._text = text
        self._delimiter = delimiter
        self._first = first

    def __iter__(self) -> Iterator[Row]:
        for number, row in enumerate(self._rows(), start=self._first):
            if number > MAX_ROWS or len(row) > MAX_COLUMNS:
                found, expected = (
                    f"{len(row):,} columns in row {number:,}",
                    f"{MAX_ROWS:,} rows and {MAX_COLUMNS:,} columns",
                )
                raise ParseError(f"{found}; expected at most {expected}", advice="split the table")
            yield number, row

    def _rows(self) -> Iterator[list[str]]:
        lines = _Lines(self._text)
        position = 0
        for count, row in enumerate(csv.reader(chain(lines, [_END]), delimiter=self._delimiter)):
            if row == [_END]:
                return
            if row and row[-1].endswith(_END):
                self.open_quote = self._first + count
                rest = _Lines(self._text[position:])
                yield from csv.reader(rest, delimiter=self._delimiter, quoting=csv.QUOTE_NONE)
                return
            yield row
            position = lines.position


class _Lines:
    r"""The lines of a text with their ends (\n, \r\n or \r), and how many characters have been given out."""

    def __init__(self, text: str) -> None:
        self.position = 0
        self._lines = StringIO(text, newline="")

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.position += len(line)
            yield line


def _delimiter(text: str, suffix: str) -> str:
    """The delimiter under which most of the first rows have the same number of columns; of equals, the first."""
    sample = text[:_SAMPLE_CHARS]
    if suffix in {".tsv", ".tab"} and "\t" in sample:
        return "\t"
    return max(_DELIMITERS, key=lambda delimiter: _evenness(sample, delimiter))


def _evenness(sample: str, delimiter: str) -> float:
    """The share of rows that have the most frequent number of columns above one."""
    try:
        rows = [len(row) for row in islice(csv.reader(_Lines(sample), delimiter=delimiter), _SAMPLE_ROWS) if row]
    except csv.Error:  # a field beyond the limit of the module
        return 0.0
    widths = Counter(width for width in rows if width > 1)
    return max(widths.values(), default=0) / max(len(rows), 1)

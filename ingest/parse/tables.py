"""Write a table as text that still makes sense when it is cut: rows in groups, each below its caption and header row.

A group is a block of lines `| a | b |`. A row too long for that is told as a record, one `header: value` a line. Knows
rows of text; sees no file format and evaluates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import zip_longest
from typing import NamedTuple

from ingest.parse.package import check_length
from ingest.parse.text import TextBuilder
from retrieval.errors import ParseError
from retrieval.records import Span

GROUP_ROWS = 20
GROUP_CHARS = 800  # about 250 tokens with the header: two groups make a chunk
MAX_HEADER_CHARS = 300  # a longer header row is not repeated as a row: the cells are told one by one
MAX_LABEL_CHARS = 60  # of a header cell where it is repeated; its own row shows it whole
MAX_ROWS = 1_000_000  # that are not empty, of all tables of a file together
MAX_CELLS = 20_000_000  # likewise; empty ones between others included
MAX_COLUMNS = 16_384  # the limit of spreadsheet programs


class Merged(Enum):
    """A cell that is covered by another one, and where that one lies. It shows what the other shows."""

    LEFT = "left"
    ABOVE = "above"


Cell = str | Merged
Row = tuple[int, Sequence[Cell]]
"""The number of a row as people see it, counted from 1, and its cells; 0: rows have no numbers, and no spans."""


class TableCounter:
    """Counts rows and cells of a whole file, so that a small file cannot claim tables without end."""

    def __init__(self) -> None:
        self.rows = 0
        self.cells = 0

    def add(self, cells: Sequence[Cell], times: int = 1) -> None:
        """Count a row that is there so many times. Raises ParseError when there are too many, or one too wide."""
        self.rows += times if any(cells) else 0
        self.cells += times * len(cells)
        if self.rows > MAX_ROWS or self.cells > MAX_CELLS or len(cells) > MAX_COLUMNS:
            raise ParseError(
                f"tables of more than {MAX_ROWS:,} rows, {MAX_CELLS:,} cells or {MAX_COLUMNS:,} columns",
                advice="split the file, or leave it out",
            )


def add_table(builder: TextBuilder, rows: Iterable[Row], *, caption: str = "") -> list[Span]:
    """Append a table and return its spans, sorted: one "table" a group, and within it one "row" a numbered row.

    `rows` may be a stream: no more than a group is held. Blank rows and empty outer columns are left out; a blank row
    also says that what follows may be another table, with a header of its own. The header is the first row of two or
    more cells, unless it holds numbers or dates: then there is none. Raises ParseError beyond MAX_CHARS of text.
    """
    table = _Table(builder, _one_line(caption))
    for number, cells in rows:
        table.add(number, cells)
    table.flush()
    return table.spans


class _Line(NamedTuple):
    """A row of one-line cells; `covered` are the columns that the cell to their left covers, and which show nothing."""

    number: int
    cells: list[str]
    covered: frozenset[int]

    def columns(self) -> set[int]:
        """Those with text."""
        return {column for column, cell in enumerate(self.cells) if cell}


_NO_HEADER = _Line(0, [], frozenset())


class _Table:
    """A table on its way into a text."""

    def __init__(self, builder: TextBuilder, caption: str) -> None:
        self.spans: list[Span] = []
        self._builder = builder
        self._caption = caption
        self._header = _NO_HEADER  # the row, or the last of two, that shows the labels
        self._labels: list[str] = []
        self._told = False  # row by row as records, for the header is too long to repeat
        self._decided = False  # whether the header of this stretch of rows is known
        self._above: list[str] = []
        self._group: list[_Line] = []
        self._group_chars = 0

    def add(self, number: int, cells: Sequence[Cell]) -> None:
        """One more row."""
        if not any(isinstance(cell, str) and not _is_blank(cell) for cell in cells):
            if Merged.ABOVE not in cells:  # else it is the lower part of merged cells, which the row above has shown
                self._decided, self._above = False, []
            return
        row = _one_lined(number, cells, self._above)
        if not self._decided:
            self._decide(row)
        elif self._above is self._header.cells and self._header.covered and _is_header(row.cells):
            self._set_header(row, _both(self._labels, row.cells))
        self._above = row.cells
        chars = sum(map(len, row.cells)) + 3 * len(row.cells)
        is_record = chars > GROUP_CHARS or (self._told and row is not self._header)
        if is_record or len(self._group) == GROUP_ROWS or self._group_chars + chars > GROUP_CHARS:
            self.flush()
        self._group.append(row)
        self._group_chars += chars
        if is_record:
            self._write(
                [self._caption] if self._caption else [], [_record(row, [] if row is self._header else self._labels)]
            )

    def flush(self) -> None:
        """Write the rows that wait."""
        if not self._group:
            return
        above = [self._caption] if self._caption else []
        is_shown = any(row is self._header for row in self._group)
        columns = _columns(self._group if is_shown else [*self._group, self._header])
        if self._labels and not is_shown and not self._told:
            above.append(_line(list(map(_label, self._labels)), columns))
        is_list = len(columns) == 1
        self._write(above, [row.cells[columns[0]] if is_list else _line(row.cells, columns) for row in self._group])

    def _decide(self, row: _Line) -> None:
        """Find out which header is in force from this row on."""
        columns = row.columns()
        if len(columns) < 2:
            return
        self._decided = True
        is_header = _is_header(row.cells)
        if not is_header and _outer(columns) == _outer(self._header.columns()):
            return  # the table above goes on after a blank row
        if any(len(waiting.columns()) > 1 for waiting in self._group):  # else it is the title of what comes
            self.flush()
        self._set_header(*((row, _spread(row)) if is_header else (_NO_HEADER, [])))

    def _set_header(self, header: _Line, labels: list[str]) -> None:
        self._header, self._labels = header, labels
        self._told = sum(min(len(cell), MAX_LABEL_CHARS) + 3 for cell in labels) > MAX_HEADER_CHARS

    def _write(self, above: list[str], lines: list[str]) -> None:
        start = self._builder.add("\n".join([*above, *lines]))
        self.spans.append(Span("table", start, self._builder.length))
        position = start + sum(len(line) + 1 for line in above)
        for row, line in zip(self._group, lines, strict=True):
            if row.number:
                self.spans.append(Span("row", position, position + len(line), row.number))
            position += len(line) + 1
        self._group, self._group_chars = [], 0
        check_length(self._builder)


def _one_lined(number: int, cells: Sequence[Cell], above: list[str]) -> _Line:
    """One line of text a cell, without empty cells at the end; a cell covered from above shows what covers it."""
    row: list[str] = []
    covered = []
    for column, cell in enumerate(cells):
        if isinstance(cell, str):
            row.append(_one_line(cell))
        elif cell is Merged.ABOVE:
            row.append(above[column] if column < len(above) else "")
        else:
            row.append("")
            covered.append(column)
    while not row[-1]:
        row.pop()
    return _Line(number, row, frozenset(covered))


def _spread(header: _Line) -> list[str]:
    """The label of each column; a cell that covers several columns labels them all."""
    labels = header.cells + [""] * (max(header.covered, default=0) + 1 - len(header.cells))
    for column in sorted(header.covered):
        labels[column] = labels[column - 1] if column else ""
    return labels


def _both(upper: list[str], lower: list[str]) -> list[str]:
    """Labels of two header rows, where cells of the upper one span several columns: "2023" above "Q1" is "2023 Q1"."""
    pairs = zip_longest(upper, lower, fillvalue="")
    return [f"{first} {second}".strip() if first != second else first for first, second in pairs]


def _columns(rows: Sequence[_Line]) -> list[int]:
    """The columns to show: those with text, and one empty column where some stand between two tables side by side."""
    shown: set[int] = set().union(*(row.columns() for row in rows))
    covered = set().union(*(row.covered for row in rows))
    columns: list[int] = []
    for column in sorted(shown):
        between = {*range(columns[-1] + 1, column)} - covered if columns else set()
        columns += [min(between), column] if between else [column]
    return columns


def _is_header(cells: list[str]) -> bool:
    """Whether a row holds no numbers and dates, but for years: its cells have letters, or no digits."""
    return all(any(map(str.isalpha, cell)) or not any(map(str.isdigit, cell)) or _is_year(cell) for cell in cells)


def _is_year(cell: str) -> bool:
    return len(cell) == 4 and cell.isdecimal() and cell[:2] in {"19", "20"}


def _is_blank(cell: str) -> bool:
    return not cell or cell.isspace()


def _outer(columns: set[int]) -> tuple[int, int]:
    return (min(columns), max(columns)) if columns else (-1, -1)


def _line(cells: Sequence[str], columns: Sequence[int]) -> str:
    shown = [cells[column] if column < len(cells) else "" for column in columns]
    while shown and not shown[-1]:
        shown.pop()
    return f"| {' | '.join(shown)} |"


def _record(row: _Line, labels: list[str]) -> str:
    """A row told cell by cell, a label before each cell that has one."""
    pairs = zip_longest(map(_label, labels[: len(row.cells)]), row.cells, fillvalue="")
    return "\n".join(f"{label}: {cell}" if label else cell for label, cell in pairs if cell)


def _label(cell: str) -> str:
    return cell if len(cell) <= MAX_LABEL_CHARS else f"{cell[: MAX_LABEL_CHARS - 1].rstrip()}…"


def _one_line(text: str) -> str:
    return " ".join(text.split())

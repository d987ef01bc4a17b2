"""Results as Markdown: a title, a table, a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """One measurement and its baseline, as rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __str__(self) -> str:
        lines = [f"### {self.title}", "", *self._lines()]
        return "\n".join([*lines, "", self.note] if self.note else lines) + "\n"

    def _lines(self) -> list[str]:
        cells = [self.header, ["---"] * len(self.header), *self.rows]
        return ["| " + " | ".join(row) + " |" for row in cells]

"""Read questions from a table (CSV, TSV) or from JSON lines, a question each, with the same columns for both.

Columns, in any case and order: question; answer or answers; source (of the documents that answer); id; evidence or
context; unanswerable or answerable; choices; required; wrong; history; kind. Only the first is needed, and answers may
be empty: a question is unanswerable only where a column says so. Chinese names of the first columns are known. Several
answers or sources are a list in JSON lines and in a cell; sources in a cell may have semicolons between them instead.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from eval.datasets import questions
from eval.datasets.beir import file_name
from eval.datasets.rows import Reading, Row, distinct, parsed, shown
from eval.errors import EvalError
from eval.records import Example

DELIMITERS = (",", "\t", ";", "|")
_NAMES = {
    "_id": "id", "sources": "source", "source_doc": "source", "问题": "question", "問題": "question",
    "答案": "answer", "来源": "source", "來源": "source", "出处": "source", "出處": "source", "证据": "evidence",
    "證據": "evidence",
}  # fmt: skip
_KNOWN = frozenset({
    "question", "answer", "answers", "all_answers", "source", "id", "evidence", "context", "unanswerable", "answerable",
    "answerability", "choices", "needs_choices", "required", "wrong", "history", "kind", "type", "hops", "ambiguous",
    "start", "end",  # of evidence, in what this program generates
})  # fmt: skip
_TEXT_LISTS = (
    "answer",
    "answers",
    "all_answers",
    "source",
    "evidence",
    "context",
    "wrong",
)  # a cell may be a JSON list
_LISTS = ("choices", "required", "history")  # a cell must be one
_LIST_OF_TEXTS = re.compile(r'\[\s*"')


def has_question(names: Iterable[str]) -> bool:
    """Whether these columns, or keys, make a set of questions."""
    return "question" in map(_canonical, names)


def load_lines(file: Path, reading: Reading) -> tuple[Example, ...]:
    """The questions of a JSONL file."""
    return _examples((_renamed(row, row.fields) for row in reading.rows(file)), reading)


def load_table(file: Path, reading: Reading) -> tuple[Example, ...]:
    """The questions of a CSV or TSV file, whose first row names the columns."""
    return _examples(_table_rows(file, reading), reading)


def delimiter_of(line: str) -> str | None:
    """What cuts a first row into columns of which one is the question; None where nothing does."""
    for delimiter in DELIMITERS:
        try:
            if has_question(next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])):
                return delimiter
        except csv.Error:
            continue
    return None


def question_id(question: str, times: int = 1) -> str:
    """The id of a question that has none: of its words, so that other lines may come and go. times: that it came."""
    made = hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:10]
    return made if times == 1 else f"{made}-{times}"


def _examples(rows: Iterator[Row], reading: Reading) -> tuple[Example, ...]:
    found, came = [], Counter[str]()
    for row in rows:
        if unknown := sorted(set(row.fields) - _KNOWN):
            reading.note(f"columns that are not used: {', '.join(map(shown, unknown))[:200]}")
        question = row.text("question")
        if not questions.is_blank(row, reading, question):
            words = " ".join(question.split())
            came[words] += 1
            found.append(_example(row, reading, question, question_id(words, came[words])))
    if found and not any(_says_something(one) for one in found):
        raise EvalError(
            f"{row.place}: no question of this file has an answer, a source, choices or a word on whether it can be"
            " answered, so nothing could be scored; expected a column answer or source"
        )
    return tuple(found)


def _says_something(example: Example) -> bool:
    return (
        bool(example.answers or example.relevant or example.choices or example.required)
        or example.answerable is not None
    )


def _example(row: Row, reading: Reading, question: str, otherwise: str) -> Example:
    sources = [file_name(name) for name in row.texts("source")]
    return questions.example(
        row,
        reading,
        example_id=row.identity("id") if row.has("id") else otherwise,
        question=question,
        relevant=dict.fromkeys(sources, 1) or None,
        evidence=distinct((*row.texts("evidence"), *row.texts("context"))),
        answerable=True if sources or row.texts("answer") or row.texts("answers") or row.has("required") else None,
    )


def _canonical(name: str) -> str:
    name = name.strip().lower()
    return _NAMES.get(name, name)


def _renamed(row: Row, fields: Mapping[str, object]) -> Row:
    """With the names that columns have here; what is null is left out."""
    made: dict[str, object] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if _canonical(name) in made:
            row.fail(f"{shown(name)} beside another column for {_canonical(name)!r}", "one of them")
        made[_canonical(name)] = value
    return Row(row.place, row.number, made)


def _table_rows(file: Path, reading: Reading) -> Iterator[Row]:
    """Rows with what their cells hold, empty ones left out. A row's number is that of its first line."""
    lines = reading.lines(file)
    number, line = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    delimiter = delimiter_of(line)
    if delimiter is None:
        raise EvalError(f"{file}, line {number}: found no column 'question'; expected it in the first row")
    names = [_canonical(name) for name in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter))]
    if twice := [name for name, times in Counter(names).items() if name and times > 1]:
        raise EvalError(f"{file}, line {number}: found two columns for {shown(twice[0])}; expected one of them")
    started = _Started(lines, number)
    reader = csv.reader(started, delimiter=delimiter, strict=True)
    while True:
        started.new_row()
        place = f"{file}, line {started.row}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise EvalError(
                f"{place}: is not a table row that can be read: {error}; expected cells with {delimiter!r} between "
                'them, in "quotes" where they hold one, and quotes within those doubled'
            ) from None
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise EvalError(
                f"{place}: found {len(cells)} cells; expected {len(names)}, as the header has; a cell that holds "
                f'{delimiter!r} stands in "quotes"'
            )
        yield Row(place, started.row, _cells(names, cells, place))


class _Started:
    """Lines for the csv module, and the number of the line that the row being read began with."""

    def __init__(self, lines: Iterator[tuple[int, str]], number: int) -> None:
        self.row = number
        self._lines = lines
        self._number = number

    def new_row(self) -> None:
        self.row = self._number + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._number, line = next(self._lines)
        return line


def _cells(names: list[str], cells: list[str], place: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, text in zip(names, map(str.strip, cells), strict=True):
        if name in _LISTS or (name in _TEXT_LISTS and _LIST_OF_TEXTS.match(text)):
            fields[name] = parsed(text, f"{place}, column {name!r}") if text else None
        elif name == "source":
            fields[name] = text.split(";")
        elif text or name == "question":
            fields[name] = text
    return fields

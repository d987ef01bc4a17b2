"""Run files in TREC's format, in and out, and relevance judgements, out. Knows lines and ids, no measure.

A run has lines `question Q0 document rank score tag`, judgements (qrels) have `question 0 document grade`, their fields
parted by ASCII white space. An id that holds what ends a field or a line somewhere (white space, control characters)
or `%` is written with those characters as the percent-escapes of their UTF-8 bytes. On reading, only an escape that
writing would have made is undone, so ids that are URLs of other tools (`Caf%C3%A9`) stay as they are.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from eval.errors import EvalError

MAX_LINE_BYTES = 10_000
MAX_FILE_BYTES = 2_000_000_000

_UNSAFE = re.compile(r"[%\s\x00-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")  # the last two: byte order mark, lone surrogates
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_RUN_FIELDS = ("question", "Q0", "document", "rank", "score", "tag")


def read_run(path: Path) -> dict[str, tuple[str, ...]]:
    """Question -> its documents, best first: by score, equal scores by rank, equal ranks as they stand in the file.

    trec_eval breaks ties by id instead and never looks at the rank. Questions come in the order of their first line.
    Raises EvalError with the number of the line.
    """
    placed: dict[str, dict[str, tuple[float, int]]] = {}
    names: dict[str, str] = {}  # one string for the many mentions of a document
    for where, (question, _, document, rank, score, _) in _rows(path, _RUN_FIELDS):
        number = float(score) if _DECIMAL.fullmatch(score) else math.nan
        if not math.isfinite(number):
            _refuse(where, f"score {_shown(score)}", "a finite number")
        if document not in names:
            names[document] = _unescaped(document)
        places = placed.setdefault(_unescaped(question), {})
        _first(where, names[document], seen=places)
        places[names[document]] = (-number, _whole(where, "rank", rank))
    return {question: tuple(sorted(places, key=places.__getitem__)) for question, places in placed.items()}


def write_run(path: Path, runs: Mapping[str, Sequence[str]], *, tag: str = "cited-rag") -> None:
    """Write lists of documents, best first, in place of what was there; of a document that comes twice, the first.

    The score is the number of documents left, so that every tool finds the same order whatever it does with ties. A
    question without documents has no line: to a reader of the file it is one that was not answered. Raises EvalError.
    """
    lines = (
        (question, "Q0", document, str(rank), str(len(documents) - rank + 1), tag)
        for question, listed in runs.items()
        for documents in [list(dict.fromkeys(listed))]
        for rank, document in enumerate(documents, start=1)
    )
    _write(path, lines)


def write_qrels(path: Path, relevant: Mapping[str, Mapping[str, int]]) -> None:
    """Write question -> document -> grade in place of what was there. Raises EvalError."""
    _write(
        path, ((q, "0", document, str(grade)) for q, graded in relevant.items() for document, grade in graded.items())
    )


def _escaped(name: str) -> str:
    return _UNSAFE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), name
    )


def _unescaped(name: str) -> str:
    if "%" not in name:
        return name
    try:
        meant = unquote_to_bytes(name).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return name
    return meant if _escaped(meant) == name else name


def _rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """For each line that is not blank, where it stands and its fields. Streams: holds a line at a time."""
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            _refuse(where, "a longer line", f"at most {MAX_LINE_BYTES:,} bytes a line")
        try:
            found = [field.decode("utf-8") for field in line.split()]  # of bytes: parts at ASCII white space alone
        except UnicodeDecodeError as error:
            raise EvalError(f"{where}: found bytes that are not UTF-8; save the file as UTF-8") from error
        if found and len(found) != len(fields):
            _refuse(where, f"{len(found)} fields", f"{len(fields)}: {' '.join(fields)}")
        if found:
            yield where, found


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each cut off after one byte too many. A byte order mark before the first is passed over."""
    total = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield line if total else line.removeprefix(b"\xef\xbb\xbf")
                total += len(line)
                if total > MAX_FILE_BYTES:
                    raise EvalError(f"{path} is too large: expected at most {MAX_FILE_BYTES:,} bytes; split it")
    except OSError as error:
        raise EvalError(f"{path} cannot be read: {error.strerror or error}") from error


def _first(where: str, document: str, *, seen: Container[str]) -> None:
    if document in seen:
        _refuse(where, f"document {_shown(document)} a second time for its question", "each once")


def _whole(where: str, name: str, text: str) -> int:
    if not _WHOLE.fullmatch(text):
        _refuse(where, f"{name} {_shown(text)}", "a whole number of at most nine digits")
    return int(text)


def _refuse(where: str, found: str, expected: str) -> NoReturn:
    raise EvalError(f"{where}: found {found}, expected {expected}; mend the line or remove it")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Beside, then renamed: whoever reads finds the old file or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.unlink(missing_ok=True)
        try:
            with beside.open("xb") as file:
                file.writelines(_line(path, row) for row in rows)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise EvalError(f"{path} cannot be written: {error.strerror or error}") from error


def _line(path: Path, row: Sequence[str]) -> bytes:
    line = " ".join(map(_escaped, row)).encode("utf-8") + b"\n"
    if "" in row or len(line) > MAX_LINE_BYTES:
        raise EvalError(
            f"{path} cannot hold question {_shown(row[0])} with document {_shown(row[2])}: expected ids that are not "
            f"empty and lines of at most {MAX_LINE_BYTES:,} bytes"
        )
    return line

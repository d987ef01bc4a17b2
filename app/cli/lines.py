"""Read texts, one a line, from a file or standard input, as they arrive. Knows bytes and lines; not their meaning."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

MAX_LINE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end, counted from 1. `problem` says why the text cannot be used; None = it can."""

    number: int
    text: str
    problem: str | None = None


def read_lines(source: str) -> Iterator[Line]:
    """Every line of a file, or of standard input for `-`, blank ones included; never more than a line in memory."""
    with _opened(source) as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                _skip_rest(stream)
                yield Line(number, "", f"line {number} is longer than {MAX_LINE_BYTES:,} bytes; give one text a line")
            else:
                yield _decoded(number, raw)


def _opened(source: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb")


def _decoded(number: int, raw: bytes) -> Line:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        shown = raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
        return Line(number, shown, f"line {number} is not UTF-8 (byte {error.start + 1}); save the file as UTF-8")
    return Line(number, text.rstrip("\r\n"))


def _skip_rest(stream: IO[bytes]) -> None:
    while (part := stream.readline(MAX_LINE_BYTES)) and not part.endswith(b"\n"):
        pass

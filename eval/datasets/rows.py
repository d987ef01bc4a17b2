"""Read the files of a dataset line by line, checked and hashed on the way. Knows JSON and text; knows no format.

Every error names the file and the line. A line is held in memory, a file never.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, NoReturn

from eval.errors import EvalError

MAX_LINE_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2 * 2**30
MAX_WHOLE_BYTES = 256 * 2**20
_MAX_ID_CHARS = 1_000  # a TREC file has it in every line
"""Of a file that is one JSON value: it takes several times its size in memory. SQuAD's largest file has 42 MB."""

_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16; UTF-32's little-endian one begins with the first
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TRUE = frozenset({"true", "yes", "y", "1", "1.0", "是"})
_FALSE = frozenset({"false", "no", "n", "0", "0.0", "否"})
_SHOWN_PLACES = 3
_HEAD_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Row:
    """An object of a file. place: where it stands, for messages; number: its line, counted from 1.

    A field that is absent and one that is null are the same. Every reader of a field raises EvalError where its value
    is of another kind.
    """

    place: str
    number: int
    fields: Mapping[str, object]

    def has(self, *names: str) -> bool:
        """Whether any of the fields holds a value."""
        return any(self.fields.get(name) is not None for name in names)

    def fail(self, found: str, expected: str) -> NoReturn:
        """Raise EvalError that names the place."""
        raise EvalError(f"{self.place}: found {found}; expected {expected}")

    def text(self, name: str) -> str:
        """A field that must hold a text, which may be blank."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else self._wrong(name, "a text")

    def text_or_none(self, name: str) -> str:
        """A field that may hold a text; "" where it holds nothing."""
        return self.text(name) if self.has(name) else ""

    def identity(self, *names: str) -> str:
        """The first of these fields that is there: a text that is not blank, or a whole number."""
        name = next((name for name in names if self.has(name)), names[0])
        value = self.fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            return self._wrong(name, "a text or a whole number")
        if len(value) > _MAX_ID_CHARS:
            self.fail(f"an id of {len(value):,} characters", f"at most {_MAX_ID_CHARS:,}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that may hold a text or a list of texts; without white space at their ends, none blank, each once."""
        value = self.fields.get(name)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        texts = [one.strip() for one in listed if isinstance(one, str)]
        return distinct(texts) if len(texts) == len(listed) else self._wrong(name, "a text or a list of texts")

    def passages(self, name: str) -> list[str]:
        """A field that may hold a list of texts, as they are; a blank one is refused, for their numbers count."""
        return [
            one if isinstance(one, str) and one.strip() else self.fail(f"no text in {name}[{at}]", "a passage there")
            for at, one in enumerate(self.items(name))
        ]

    def flag(self, name: str) -> bool | None:
        """A field that may say yes or no, as true and false, 1 and 0, or in words; None where it says nothing."""
        value = self.fields.get(name)
        if value is None:
            return None
        word = str(value).strip().lower() if isinstance(value, str | int | float) else "?"
        if word and word not in _TRUE | _FALSE:
            self._wrong(name, "true or false")
        return word in _TRUE if word else None

    def rows(self, name: str) -> list[Row]:
        """A field that may hold a list of objects."""
        return [self.part(one, f"{name}[{at}]") for at, one in enumerate(self.items(name))]

    def items(self, name: str) -> list[object]:
        """A field that may hold a list of anything."""
        value = self.fields.get(name)
        return [] if value is None else value if isinstance(value, list) else self._wrong(name, "a list")

    def part(self, value: object, name: str) -> Row:
        """An object inside of this one."""
        if not isinstance(value, dict):
            self.fail(f"{kind(value)} in {name}", "an object there")
        return Row(f"{self.place}, {name}", self.number, value)

    def _wrong(self, name: str, expected: str) -> NoReturn:
        value = self.fields.get(name)
        short = f", {shown(value)}" if isinstance(value, str) else ""
        self.fail(f"no {name!r}" if value is None else f"{kind(value)} in {name!r}{short}", f"{expected} there")


class Reading:
    """What is being read: hashes the files, counts what a person should know of, tells ids that come twice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: dict[str, str] = {}
        self._notes: dict[str, list[str]] = {}
        self._noted: Counter[str] = Counter()
        self._ids: dict[str, str] = {}

    def note(self, message: str, row: Row | None = None) -> None:
        """Say something once; of the rows it was seen at, their number and the first few."""
        places = self._notes.setdefault(message, [])
        if row is not None:
            self._noted[message] += 1
            if len(places) < _SHOWN_PLACES:
                places.append(row.place.removeprefix(f"{self.root}, ").removeprefix(f"{self.root}/"))

    def notes(self) -> tuple[str, ...]:
        """A line each, in the order they came up."""
        lines = []
        for message, places in self._notes.items():
            more = "; ..." if self._noted[message] > len(places) else ""
            lines.append(f"{message} ({self._noted[message]:,}: {'; '.join(places)}{more})" if places else message)
        return tuple(lines)

    def once(self, row: Row, example_id: str) -> str:
        """The id, if no row had it before. Raises EvalError that names both places."""
        before = self._ids.setdefault(example_id, row.place)
        if before != row.place:
            row.fail(f"the id {shown(example_id)} again, which {before} has", "an id of its own for every line")
        return example_id

    def sha256(self) -> str:
        """Of one file, its own; of several, of the lines that `sha256sum` prints for them, paths from the folder."""
        if len(self._digests) == 1:
            return next(iter(self._digests.values()))
        listed = "".join(f"{digest}  {name}\n" for name, digest in self._digests.items())
        return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()

    def lines(self, file: Path) -> Iterator[tuple[int, str]]:
        """The lines of a UTF-8 file with their numbers, ends included; a byte order mark is dropped."""
        digest = hashlib.sha256()
        with _opened(file, MAX_FILE_BYTES) as stream:
            for number in count(1):
                line = read_line(stream, file, number)
                if not line:
                    break
                digest.update(line)
                yield number, decoded(line, f"{file}, line {number}", first=number == 1)
        self._read(file, digest.hexdigest())

    def rows(self, file: Path) -> Iterator[Row]:
        """The objects of a JSONL file; blank lines are skipped."""
        for number, line in self.lines(file):
            if line.strip():
                place = f"{file}, line {number}"
                value = parsed(line, place)
                if not isinstance(value, dict):
                    raise EvalError(f"{place}: found {kind(value)}; expected one JSON object a line")
                yield Row(place, number, value)

    def whole(self, file: Path) -> object:
        """The one JSON value of a file."""
        with _opened(file, MAX_WHOLE_BYTES) as stream:
            data = stream.read(MAX_WHOLE_BYTES + 1)
        if len(data) > MAX_WHOLE_BYTES:
            raise EvalError(f"{file} grew while it was read; expected a file that stands still")
        self._read(file, hashlib.sha256(data).hexdigest())
        return parsed(decoded(data, str(file), first=True), str(file))

    def _read(self, file: Path, digest: str) -> None:
        inside = file.is_relative_to(self.root) and file != self.root
        self._digests[file.relative_to(self.root).as_posix() if inside else file.name] = digest


def read_line(stream: BinaryIO, file: Path, number: int) -> bytes:
    """The next line with its end, b"" at the end of the file."""
    try:
        line = stream.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise EvalError(f"{file}, line {number}: cannot be read: {error.strerror}") from None
    if len(line) > MAX_LINE_BYTES:
        raise EvalError(f"{file}, line {number}: found more than {MAX_LINE_BYTES:,} bytes; expected one record a line")
    return line


def head(file: Path) -> str:
    """How a file begins: its first 64 KB, without byte order mark and leading white space; "" of a blank beginning."""
    with _opened(file, MAX_FILE_BYTES) as stream:
        data = stream.read(_HEAD_BYTES)
    if data.startswith(_OTHER_MARKS):
        decoded(data, f"{file}, line 1", first=True)
    return data.removeprefix(_MARK).decode("utf-8", "replace").lstrip()


def decoded(data: bytes, place: str, *, first: bool) -> str:
    """UTF-8, strictly. first: the data begins the file, and a byte order mark is dropped."""
    if first and data.startswith(_OTHER_MARKS):
        raise EvalError(f"{place}: found UTF-16; expected UTF-8: save the file as UTF-8 (in a spreadsheet, CSV UTF-8)")
    try:
        return (data.removeprefix(_MARK) if first else data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvalError(
            f"{place}: byte {error.start + 1} is not UTF-8; save the file as UTF-8 (in a spreadsheet, CSV UTF-8)"
        ) from None


def parsed(text: str, place: str) -> object:
    """The JSON value of a text.

    Raises EvalError for what JSON (RFC 8259) does not have or leaves open: NaN, numbers beyond a float, a key that
    stands twice, half a surrogate pair; and for what is nested too deeply to be read.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        problem = "it is nested too deeply"
    except UnicodeEncodeError:
        problem = "an escape such as \\ud83d stands alone, which is half a character"
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        problem = f"{error.msg} at {line}character {error.colno}"
    except ValueError as error:  # ours, or a whole number of thousands of digits
        problem = str(error)[:200]
    else:
        return value
    raise EvalError(f"{place}: is not JSON that can be read: {problem}; correct or remove it")


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order, the blank ones left out."""
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def shown(text: str) -> str:
    """A text of a file within a message: quoted, escaped and short."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def present(file: Path) -> bool:
    """Whether the name is taken, be it by a link that leads nowhere."""
    try:
        return file.is_symlink() or file.exists()
    except OSError as error:
        raise EvalError(f"{file}: cannot be read: {error.strerror}") from None


def _opened(file: Path, most: int) -> BinaryIO:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise EvalError(f"{file} is not a file; expected one that can be read again and again")
        if status.st_size > most:
            raise EvalError(f"{file} has {status.st_size:,} bytes; expected at most {most:,}: split it")
        return file.open("rb")
    except OSError as error:
        raise EvalError(f"{file}: cannot be read: {error.strerror}") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(name)} stands twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"{digits[:20]} is no number that can be held")
    return value

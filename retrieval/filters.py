"""Which documents and pages a search may look at: source globs, types, metadata conditions, dates, pages.

A filter is decided before the search, so the search is exact however few documents are left. Knows what is recorded of
documents; nothing of texts, vectors or scores.
"""

from __future__ import annotations

import fnmatch
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, cast

from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from retrieval.store import DocumentFacts

MAX_VALUE_CHARS = 1000
MAX_VALUES = 100
MAX_DEPTH = 8
"""Dots in a key: every one may be read in two ways, so their number bounds the work."""
LAST_PAGE = 10_000_000
"""Stands for "to the end"; more pages than any document has."""

DATE_KEYS = ("date", "published", "updated", "modified", "created")
"""Where a document's date is looked for in its metadata: the first of these that holds one counts."""

Operator = Literal["=", "!=", ">=", "<=", ">", "<", "~"]

_CONDITION = re.compile(r"([^=!<>~]+)(!=|>=|<=|=|>|<|~)(.+)", re.DOTALL)
_TYPE = re.compile(r"\.?[^\s/*.][^\s/*]*|[^\s/*]+/(?:[^\s/*]+|\*)")
_PAGES = re.compile(r"(\d{1,7})?(-)?(\d{1,7})?", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})", re.ASCII)
_VERSION = re.compile(r"v?(\d{1,9}(?:\.\d{1,9}){1,5})", re.ASCII)
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ].{0,40})?)?)?", re.ASCII)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """What a value of a document's metadata must be; `parse_condition` reads one from text.

    Dots in `key` lead into nested metadata; keys and texts are compared without regard to case. A list holds a
    condition when any element does. "!=" is the contrary of "=", so it also holds where the key is missing; "~" is
    "contains". Numbers compare with numbers, dates with dates (a year or a month as the whole of it), all else as text.
    """

    key: str
    op: Operator
    value: str

    def holds(self, metadata: Mapping[str, object]) -> bool:
        """Whether the metadata meets it."""
        values = _values(metadata, self.key)
        if self.op == "!=":
            return not any(_compare(value, "=", self.value) for value in values)
        return any(_compare(value, self.op, self.value) for value in values)

    def __str__(self) -> str:
        return f"{self.key}{self.op}{self.value}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Every kind that is given must hold; several sources or types are alternatives, several conditions are not.

    sources: globs over POSIX paths, see `parse_filter`. after is the first day that counts, before the first one that
    does not; a document without a date is never after or before anything. pages: first and last, from 1; a document
    without pages has none of them.
    """

    sources: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    metadata: tuple[Condition, ...] = ()
    after: date | None = None
    before: date | None = None
    pages: tuple[int, int] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether everything may be found."""
        return self == Filter()

    def matches(self, facts: DocumentFacts) -> bool:
        """Whether a document may be looked at; which of its pages may is `matches_page`."""
        return (
            self._matches_source(facts)
            and (not self.types or any(_is_type(facts, wanted) for wanted in self.types))
            and self._matches_metadata(facts)
            and self._matches_date(facts)
        )

    def matches_page(self, page: int | None) -> bool:
        """Whether a chunk on a page may be found; None is a chunk of a document without pages."""
        return self.pages is None or (page is not None and self.pages[0] <= page <= self.pages[1])

    def describe(self) -> str:
        """The filter in words, fit for a message: "source docs/*.pdf and page 3-7"."""
        parts = [_alternatives("source", self.sources), _alternatives("type", self.types)]
        parts += [str(condition) for condition in self.metadata]
        parts += [f"date from {self.after} on"] if self.after else []
        parts += [f"date before {self.before}"] if self.before else []
        if self.pages:
            first, last = self.pages
            parts.append(f"page {first}" if first == last else f"page {first}-{'' if last == LAST_PAGE else last}")
        return " and ".join(part for part in parts if part)

    def _matches_source(self, facts: DocumentFacts) -> bool:
        wanted = [pattern for pattern in self.sources if not pattern.startswith("!")]
        unwanted = [pattern[1:] for pattern in self.sources if pattern.startswith("!")]
        return (not wanted or any(_matches_glob(facts, pattern) for pattern in wanted)) and not any(
            _matches_glob(facts, pattern) for pattern in unwanted
        )

    def _matches_metadata(self, facts: DocumentFacts) -> bool:
        if not self.metadata:
            return True
        metadata = {"title": facts.title, **facts.metadata}
        return all(condition.holds(metadata) for condition in self.metadata)

    def _matches_date(self, facts: DocumentFacts) -> bool:
        if self.after is None and self.before is None:
            return True
        found = document_date(facts.metadata)
        return (
            found is not None
            and (self.after is None or found >= self.after)
            and (self.before is None or found < self.before)
        )


def parse_filter(
    *,
    sources: Sequence[str] = (),
    types: Sequence[str] = (),
    where: Sequence[str] = (),
    after: str | None = None,
    before: str | None = None,
    pages: str | None = None,
) -> Filter:
    """Read a filter from the words of a person. Raises ConfigError on what cannot be read.

    sources: `*` and `?` stay inside a folder, `**` goes through folders, `[a-z]` and `[!a-z]` are one character. A
    path without wildcards names a file or a whole folder, `docs/` a folder only. Without a slash, but for the last
    one, a glob matches at any depth; one that begins with a slash is compared with the whole path, `root/source`. A
    leading `!` takes away instead. Case counts.
    types: `pdf` or `.md` (what the name ends with), `html` (also what the file is), `text/html`, `text/*`.
    where: `key=value`, also `!=`, `>=`, `<=`, `>`, `<` and `~` for "contains".
    after, before: YYYY, YYYY-MM, YYYY-MM-DD; a time after it is passed over. pages: 3, 3-7, -7, 3-.
    """
    for name, values in (("source", sources), ("type", types), ("where", where)):
        if len(values) > MAX_VALUES:
            raise ConfigError(f"{name}: found {len(values):,} values, expected at most {MAX_VALUES}; use a wider glob")
    for pattern in sources:
        _glob(pattern.removeprefix("!"))
    return Filter(
        sources=tuple(sources),
        types=tuple(_parse_type(wanted) for wanted in types),
        metadata=tuple(parse_condition(condition) for condition in where),
        after=None if after is None else _parse_day("after", after),
        before=None if before is None else _parse_day("before", before),
        pages=None if pages is None else _parse_pages(pages),
    )


def parse_condition(text: str) -> Condition:
    """Read `key=value` and its like. Raises ConfigError."""
    found = _CONDITION.fullmatch(text) if len(text) <= MAX_VALUE_CHARS else None
    if not found or not found[1].strip() or not found[3].strip() or found[1].count(".") > MAX_DEPTH:
        raise ConfigError(
            f"where: found {_shown(text)}, expected KEY=VALUE, also with != >= <= > < or ~ for contains, in at most "
            f"{MAX_VALUE_CHARS} characters; write for example tags=draft"
        )
    return Condition(found[1].strip(), cast("Operator", found[2]), found[3].strip())


def document_date(metadata: Mapping[str, object]) -> date | None:
    """The day a document is of: the first of DATE_KEYS that holds a date; a year or a month counts as its first day."""
    for value in chain.from_iterable(_values(metadata, key) for key in DATE_KEYS):
        if period := _period(value):
            return period[0]
    return None


# ---- sources ---------------------------------------------------------------------------------------------------------

Segment = Callable[[str], object]
"""Whether one folder or file name matches; None in a glob stands for `**`, any number of folders."""


@lru_cache(maxsize=256)
def _glob(pattern: str) -> tuple[Segment | None, ...]:
    """Compile a glob, one item a segment of the path."""
    whole = unicodedata.normalize("NFC", pattern[: MAX_VALUE_CHARS + 1])
    names = [name for name in whole.split("/") if name not in ("", ".")]
    if not names or len(pattern) > MAX_VALUE_CHARS or "\0" in pattern:
        raise ConfigError(
            f"source: found {_shown(pattern)}, expected a glob of 1 to {MAX_VALUE_CHARS} characters; write for example "
            "docs/**/*.md"
        )
    # fnmatch makes every star but the last atomic, so nothing is tried twice: at worst length times length
    glob = [None if name == "**" else re.compile(fnmatch.translate(name)).match for name in names]
    if "/" not in whole.rstrip("/"):
        glob.insert(0, None)
    if whole.endswith("/"):
        glob += [re.compile("").match, None]  # at least one name below the folder
    elif not re.search(r"[*?\[]", names[-1]):
        glob.append(None)
    return tuple(glob)


def _matches_glob(facts: DocumentFacts, pattern: str) -> bool:
    path = f"{facts.root}/{facts.source}" if pattern.startswith("/") else facts.source
    return _matches_segments(_glob(pattern), [name for name in unicodedata.normalize("NFC", path).split("/") if name])


def _matches_segments(glob: Sequence[Segment | None], names: Sequence[str]) -> bool:
    """Wildcard matching that goes back to the last `**` only: at worst len(glob) * len(names) comparisons."""
    at = back_glob = back_name = 0
    position, starred = 0, False
    while position < len(names):
        segment = glob[at] if at < len(glob) else ...
        if segment is None:
            starred, at = True, at + 1
            back_glob, back_name = at, position
        elif segment is not ... and segment(names[position]):
            at, position = at + 1, position + 1
        elif starred:
            back_name += 1
            at, position = back_glob, back_name
        else:
            return False
    return all(segment is None for segment in glob[at:])


# ---- types -----------------------------------------------------------------------------------------------------------


def _parse_type(text: str) -> str:
    if len(text) > MAX_VALUE_CHARS or not _TYPE.fullmatch(text):
        raise ConfigError(f"type: found {_shown(text)}, expected an extension like pdf or a media type like text/*")
    return text.lower()


def _is_type(facts: DocumentFacts, wanted: str) -> bool:
    media_type = facts.media_type.partition(";")[0].strip().lower()
    family, _, kind = media_type.partition("/")
    if "/" in wanted:
        return wanted in (media_type, f"{family}/*")
    return wanted == kind or facts.source.rpartition("/")[2].lower().endswith("." + wanted.removeprefix("."))


# ---- metadata --------------------------------------------------------------------------------------------------------


def _values(metadata: object, key: str) -> Iterator[object]:
    """The plain values under a key: the key as it is written, then its dots as ways into what is nested."""
    if isinstance(metadata, Mapping):
        wanted = key.casefold()
        for name, value in metadata.items():
            own = str(name).casefold()
            if own == wanted:
                yield from _elements(value)
            elif wanted.startswith(own + "."):
                yield from _values(value, wanted[len(own) + 1 :])
    elif isinstance(metadata, list | tuple):
        for element in metadata:
            if isinstance(element, Mapping):
                yield from _values(element, key)


def _elements(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _compare(found: object, op: str, wanted: str) -> bool:
    """One value against one condition. What has no order against the other (a word, a number) is never above it."""
    if op == "~":
        return _text(wanted) in _text(found)
    version, wanted_version = _version(found), _version(wanted)
    if version and wanted_version and (len(version) > 2 or len(wanted_version) > 2):
        return _COMPARE[op](version, wanted_version)
    number, wanted_number = _number(found), _number(wanted)
    if number is not None and wanted_number is not None:
        return _COMPARE[op](number, wanted_number)
    period, wanted_period = _period(found), _period(wanted)
    if period and wanted_period:
        return _compare_days(period[0], op, wanted_period)
    if op != "=" and (number is not None or wanted_number is not None or period or wanted_period):
        return False
    return _COMPARE[op](_text(found), _text(wanted))


def _compare_days(day: date, op: str, wanted: tuple[date, date]) -> bool:
    first, last = wanted
    return {"=": first <= day <= last, ">=": day >= first, ">": day > last, "<=": day <= last, "<": day < first}[op]


def _text(value: object) -> str:
    return unicodedata.normalize("NFC", str(value)).strip().casefold()


def _version(value: object) -> tuple[int, ...] | None:
    """The numbers of 1.10.0 or v2.3.1; two numbers alone are a decimal number unless compared with three."""
    found = _VERSION.fullmatch(str(value).strip())
    return tuple(map(int, found[1].split("."))) if found else None


def _number(value: object) -> int | float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else None


# ---- dates and pages -------------------------------------------------------------------------------------------------


def _period(value: object) -> tuple[date, date] | None:
    """The first and last day of an ISO date, month or year, the time of day passed over; None where it is none."""
    found = _DATE.fullmatch(str(value).strip()) if isinstance(value, str | date | int) else None
    if not found or isinstance(value, bool):
        return None
    year, month, day = (int(part) if part else None for part in found.groups())
    try:
        first = date(year or 0, month or 1, day or 1)
        if day:
            return first, first
        after = (first.year, first.month + 1) if month and month < 12 else (first.year + 1, 1)
        last = date.max if after[0] > date.max.year else date.fromordinal(date(*after, 1).toordinal() - 1)
    except ValueError:
        return None
    return first, last


def _parse_day(name: str, text: str) -> date:
    period = _period(text)
    if period is None:
        raise ConfigError(f"{name}: found {_shown(text)}, expected a date; write YYYY, YYYY-MM or YYYY-MM-DD")
    return period[0]


def _parse_pages(text: str) -> tuple[int, int]:
    found = _PAGES.fullmatch(text.strip())
    if found and (found[1] or found[3]):
        first = int(found[1] or 1)
        last = int(found[3] or LAST_PAGE) if found[2] else first
        if 1 <= first <= last and (found[2] or not found[3]):
            return first, last
    raise ConfigError(f"page: found {_shown(text)}, expected pages counted from 1; write 3, 3-7, -7 or 3-")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else repr(text[:77]) + "..."


def _alternatives(name: str, values: Sequence[str]) -> str:
    return f"{name} {' or '.join(values)}" if values else ""

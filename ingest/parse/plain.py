r"""Read text that people write: reStructuredText, Org, AsciiDoc, LaTeX, subtitles, logs. Text is the file unchanged.

Org, AsciiDoc and LaTeX mark their headings on the line itself. Elsewhere a heading is an unindented line with a row of
one punctuation mark below it (and perhaps above it), after a blank line; its level is the order in which its style
first appears, as in reStructuredText. Without any, a short first line that is no sentence and stands alone is the
title. A block indented below a paragraph that ends in a colon counts as a literal block (in plain text, "::" has
already become ":"), unless it is a list. Knows no directive but the ones that hold code.
"""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import east_asian_width

from ingest.parse import Parsed
from ingest.parse.text import MAX_TITLE_CHARS, decode, line_above, scanning_copy
from retrieval.records import Span

MAX_INDENT = 40  # a deeper "literal block" is a drawing; and each indent compiles one small pattern

_UNDERLINE = re.compile(r"\n([!-/:-@\[-`{-~])\1+[ \t]*$", re.MULTILINE)
_CODE_LEAD = re.compile(
    r":[ \t]*\n(?:[ \t]*\n)+(?=[ \t])"
    r"|\.\.[ \t](?:code-block|code|sourcecode|parsed-literal|ipython|prompt)::[^\n]*(?=\n)",
)
_TABLE = re.compile(
    r"\n(?P<indent>[ \t]*)(?:(?P<grid>\+[-=+]{3,}\+)|(?P<simple>={2,}(?: +={2,})+))[ \t]*$", re.MULTILINE
)
_GRID_ROWS = re.compile(r"(?:\n[ \t]*[+|][^\n]*)*")
_BLANK_BELOW = re.compile(r"\n[ \t]*(?:\n|\Z)|\Z")
_FIRST_LINE = re.compile(r"\ufeff?\s*+([^\r\n]{1,100})(?:\r\n|[\r\n])[ \t]*+(?:\r\n|[\r\n])\s*+\S")
_STARS = re.compile(r"\n(?P<mark>\*{1,6})[ \t]+(?P<title>[^\n]*)")
_EQUALS = re.compile(r"\n(?P<mark>={1,6})[ \t]+(?P<title>[^\n]*)")
_COMMANDS = re.compile(
    r"\n[ \t]*\\(?P<mark>title|part|chapter|(?:sub){0,2}section)\*?(?:\[[^\]\n]*\])?\{(?P<title>[^\n]*?)\}"
    r"(?:[ \t]*\\label\{[^}\n]*\})?[ \t]*(?=\n|\Z)"
)
_MARKED = {".org": _STARS, ".adoc": _EQUALS, ".asciidoc": _EQUALS, ".tex": _COMMANDS, ".ltx": _COMMANDS}
_TEX_LEVELS = {"title": 1, "part": 2, "chapter": 3, "section": 4, "subsection": 5, "subsubsection": 6}
_TITLELESS = frozenset((".rst", ".log", ".srt", ".vtt"))  # a first line that stands alone is no title in these
_ORG_EXTRAS = re.compile(r"^(?:TODO|DONE)[ \t]+|[ \t]+:[\w@:]+:$")  # the state and the tags of a task
_MEDIA_TYPES = {
    ".rst": "text/x-rst", ".org": "text/x-org", ".adoc": "text/x-asciidoc", ".asciidoc": "text/x-asciidoc",
    ".tex": "text/x-tex", ".ltx": "text/x-tex", ".vtt": "text/vtt", ".srt": "application/x-subrip",
}  # fmt: skip
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•][ \t]|\(?(?:\d{1,3}|[a-zA-Z#])[.)][ \t])")


def parse(data: bytes, suffix: str) -> Parsed:
    """Read a text file; the title is its first heading, or the short line that it opens with."""
    text = decode(data)
    scan = scanning_copy(text)
    tables = _tables(scan)
    if suffix in _MARKED:
        headings = _marked_headings(scan, _MARKED[suffix])
    else:
        headings = _headings(scan) or ([] if suffix in _TITLELESS else _title_line(text))
    spans = sorted(headings + tables + _literal_blocks(scan), key=lambda span: (span.start, -span.end))
    title = headings[0].label if headings else ""
    return Parsed(text, title, tuple(spans), _MEDIA_TYPES.get(suffix, "text/plain"))


def _marked_headings(scan: str, pattern: re.Pattern[str]) -> list[Span]:
    found: list[Span] = []
    for heading in pattern.finditer(scan):
        mark, title = heading["mark"], heading["title"].strip()
        if title and len(title) <= MAX_TITLE_CHARS:
            end = heading.start() + len(heading[0].rstrip()) - 1
            label = _ORG_EXTRAS.sub("", title) if pattern is _STARS else title
            found.append(Span("heading", heading.start(), end, _TEX_LEVELS.get(mark, len(mark)), label or title))
    return found


def _title_line(text: str) -> list[Span]:
    """A first line of at most 100 characters that is no sentence, with a blank line and more text below it."""
    found = _FIRST_LINE.match(text)
    line = found[1].rstrip() if found else ""
    if not found or not any(map(str.isalpha, line)) or line.endswith(tuple(".!?,;:。！？，；：…")):
        return []
    return [Span("heading", found.start(1), found.start(1) + len(line), 1, line)]


def _headings(scan: str) -> list[Span]:
    found: list[Span] = []
    styles: dict[tuple[str, bool], int] = {}
    floor = 0
    for rule in _UNDERLINE.finditer(scan):
        row = rule[0].strip()
        if rule.start() < floor:
            continue
        start, line = line_above(scan, floor, rule.start())
        if not _is_title(line, row):
            continue
        start_above, above = line_above(scan, floor, start)
        overlined = above.rstrip() == row
        if above.strip() and not overlined:
            continue
        level = styles.setdefault((row[0], overlined), len(styles) + 1)
        first = start_above if overlined else start
        found.append(Span("heading", first, rule.start() + len(row), level, line.strip()))
        floor = rule.end()
    return found


def _is_title(line: str, row: str) -> bool:
    """Whether the row is long enough to underline the line; one column short is forgiven, as writers miscount."""
    title = line.rstrip()
    if not title.strip() or title[0] in " \t" or len(title) > MAX_TITLE_CHARS or row in {"..", "::"}:
        return False
    if len(title) > 1 and not title.strip(title[0]):  # a row of marks itself
        return False
    columns = len(title) if title.isascii() else sum(2 if east_asian_width(c) in "WF" else 1 for c in title)
    return len(row) >= columns - 1 and (len(row) >= 3 or len(row) == columns)


def _literal_blocks(scan: str) -> list[Span]:
    """Blocks indented deeper than the line that announces them, blank lines inside included."""
    found: list[Span] = []
    floor = 0
    for lead in _CODE_LEAD.finditer(scan):
        if lead.start() < floor:
            continue
        directive = lead[0].startswith(".")
        line_start, line = line_above(scan, 0, lead.start() if directive else lead.start() + 1)
        item = _LIST_ITEM.match(line)
        base = item.end() if item else len(line) - len(line.lstrip(" \t"))
        if base > MAX_INDENT or (line.strip() if directive else line.lstrip().startswith("..")):
            continue  # a drawing, or dots inside a line, or a directive whose body is prose
        start = line_start if directive else lead.end() - 1
        dedent = _dedent(base).search(scan, lead.end() - (not directive))
        end = _trimmed(scan, start, dedent.start() if dedent else len(scan))
        if end > lead.end() and (directive or not _LIST_ITEM.match(scan, start + 1)):
            found.append(Span("code", start, end - 1))
            floor = end
    return found


@lru_cache(maxsize=MAX_INDENT + 1)
def _dedent(base: int) -> re.Pattern[str]:
    return re.compile(rf"\n[ \t]{{0,{base}}}[^ \t\n]")


def _trimmed(scan: str, start: int, end: int) -> int:
    """Return where the text before `end` ends without trailing blanks, at least `start`."""
    while end > start and scan[end - 1] in " \t\n":
        end -= 1
    return end


def _tables(scan: str) -> list[Span]:
    found: list[Span] = []
    top: re.Match[str] | None = None  # first border of a simple table whose last border is still to come
    floor = 0
    for border in _TABLE.finditer(scan):
        if border.start() < floor:
            continue
        if border["grid"]:
            rows = _GRID_ROWS.match(scan, border.end())
            floor = rows.end() if rows else border.end()
            found.append(Span("table", border.start(), floor - 1))
        elif top is None or top["indent"] != border["indent"]:
            top = border
        elif _BLANK_BELOW.match(scan, border.end()):
            found.append(Span("table", top.start(), border.end() - 1))
            top, floor = None, border.end()
    return found

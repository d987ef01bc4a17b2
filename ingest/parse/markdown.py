r"""Read Markdown: headings, fenced code, tables, front matter. Text is the file unchanged. Renders nothing.

One pattern finds the few lines that mean something, and a loop visits those lines alone; every line is tried once, so
time is linear in the file. Simpler than CommonMark in three places: a setext heading is one line (several lines above a
rule are a paragraph), headings inside quotes and lists are not headings of the document, and a pipe table may be
indented at will.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ingest.parse import Parsed
from ingest.parse.text import MAX_TITLE_CHARS, decode, line_above, scanning_copy
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FRONT_MATTER_CHARS = 65_536
MAX_FRONT_MATTER_KEYS = 64
MAX_FRONT_MATTER_VALUE_CHARS = 1_000

_EVENT = re.compile(
    r"""\n(?=[ \t]*[-#`~|:=<*+\d])(?:  # the look ahead spares ordinary lines the four attempts
      [ ]{0,3} (?P<hashes>\#{1,6}) (?P<atx>[ \t][^\n]*)? $
    | (?P<lead>[ \t]* (?:(?:[-*+]|\d{1,9}[.)])[ \t]+){0,3}) (?P<fence>`{3,}|~{3,}) (?P<info>[^\n]*)
    | (?P<indent>[ \t]*) (?P<rule>[|:=-][|:=\- \t]*) $
    | [ ]{0,3} (?P<comment><!--)
    )""",
    re.MULTILINE | re.VERBOSE,
)
_CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+$")
# [[id]] and {#id} are the address of a heading, not its title.
_ANCHOR = re.compile(r"[ \t]*(?:\[\[[^\[\]]*\]\]|\{#[^{}]*\})$")
_NOT_PARAGRAPH = re.compile(r" {4}|\t| {0,3}(?:[-*+>]([ \t]|$)|\d{1,9}[.)][ \t]|<!--|$)")
_THEMATIC_BREAK = re.compile(r" {0,3}([*_-])[ \t]*(?:\1[ \t]*){2,}$")
_TABLE_ROWS = re.compile(r"(?:\n[^\n|]*\|[^\n]*)*")
_FRONT_MATTER_OPEN = re.compile(r"\n ?---[ \t]*(?=\n[^\n]*\S)")
_FRONT_MATTER_CLOSE = re.compile(r"\n(?:---|\.\.\.)[ \t]*$", re.MULTILINE)
_BLOCK_LIST = re.compile(r"^([A-Za-z_][\w.-]{0,63})[ \t]*:[ \t]*((?:\n[ \t]*-[ \t]+[^\n]*)+)$", re.MULTILINE)
_ITEM = re.compile(r"\n[ \t]*-[ \t]+([^\n]*)")
_FLOW_ITEM = re.compile(r"[ \t]*(?:\"[^\"]*\"|'[^']*'|[^,])+")
_KEY_VALUE = re.compile(r"^([A-Za-z_][\w.-]{0,63})[ \t]*:(?:[ \t]+([^\n]*))?$", re.MULTILINE)


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a Markdown file; the flat `key: value` lines of its front matter become metadata: strings, or lists."""
    text = decode(data)
    scan = scanning_copy(text)
    body, metadata = _front_matter(scan)
    spans = _outline(scan, body)
    title = metadata.get("title")
    title = title if isinstance(title, str) else first_title(spans)
    return Parsed(text, title, spans, "text/markdown", metadata)


def outline(text: str) -> tuple[Span, ...]:
    """Spans of the headings, fenced code and tables of a Markdown text without front matter, in order."""
    return _outline(scanning_copy(text), 0)


def first_title(spans: tuple[Span, ...]) -> str:
    """Return the first heading of level 1, or ""."""
    return next((span.label for span in spans if span.kind == "heading" and span.number == 1), "")


def _outline(scan: str, body: int) -> tuple[Span, ...]:
    """Visit the meaningful lines. `floor`: where the last block ended; lines above it belong to something already."""
    spans: list[Span] = []
    floor = body
    fence: tuple[int, str] | None = None
    comments_close = True
    for event in _EVENT.finditer(scan, body):
        start, end = event.span()
        if start < floor:
            continue
        if fence is not None:
            if _closes(event, fence[1]):
                spans.append(Span("code", fence[0], end - 1))
                fence, floor = None, end
        elif event["hashes"]:
            spans += _atx(event)
            floor = end
        elif event["fence"]:
            if event["fence"][0] == "~" or "`" not in event["info"]:
                fence = (start, event["fence"])
        elif event["comment"]:
            close = scan.find("-->", start) if comments_close else -1
            comments_close = close >= 0
            floor = max(floor, close)
        elif found := _ruled(scan, floor, event):
            spans.append(found)
            floor = found.end + 1
    if fence is not None:  # never closed: it runs to the end, as browsers show it
        spans.append(Span("code", fence[0], len(scan) - 1))
    return tuple(spans)


def _closes(event: re.Match[str], opening: str) -> bool:
    fence = event["fence"]
    if not fence or fence[0] != opening[0] or len(fence) < len(opening):
        return False
    return not event["lead"].strip() and not event["info"].strip()


def _atx(event: re.Match[str]) -> list[Span]:
    title = (event["atx"] or "").strip()
    title = _ANCHOR.sub("", _CLOSING_HASHES.sub("", title)).rstrip()
    if not title or len(title) > MAX_TITLE_CHARS:
        return []
    end = event.end() - 1 - (len(event[0]) - len(event[0].rstrip()))
    return [Span("heading", event.start(), end, len(event["hashes"]), title)]


def _ruled(scan: str, floor: int, event: re.Match[str]) -> Span | None:
    """A line of rules below a line of text: a table or a setext heading; None: an ordinary rule."""
    rule = event["rule"].rstrip()
    start, above = line_above(scan, floor, event.start())
    if "|" in rule:
        if "-" not in rule or "=" in rule or "|" not in above:
            return None
        rows = _TABLE_ROWS.match(scan, event.end())
        return Span("table", start, (rows.end() if rows else event.end()) - 1)
    if rule.strip(rule[0]) or rule[0] not in "=-" or len(event["indent"].expandtabs(4)) > 3:
        return None
    title = _ANCHOR.sub("", above.strip())
    if not title or len(title) > MAX_TITLE_CHARS or _NOT_PARAGRAPH.match(above) or _THEMATIC_BREAK.match(above):
        return None
    before = line_above(scan, floor, start)[1]
    if before.strip() and not _THEMATIC_BREAK.match(before):
        return None
    return Span("heading", start, event.start() + len(event["indent"]) + len(rule), 1 if rule[0] == "=" else 2, title)


def _front_matter(scan: str) -> tuple[int, Mapping[str, object]]:
    """Return where the body starts (position of a line feed in `scan`) and the front matter's flat keys."""
    opening = _FRONT_MATTER_OPEN.match(scan)
    if not opening:
        return 0, {}
    closing = _FRONT_MATTER_CLOSE.search(scan, opening.end(), opening.end() + MAX_FRONT_MATTER_CHARS)
    if not closing:
        return 0, {}
    pairs = _KEY_VALUE.findall(scan[opening.end() + 1 : closing.start()])
    if not pairs:  # two thematic breaks around a paragraph, not front matter
        return 0, {}
    flat = {key: value.strip() for key, value in pairs[:MAX_FRONT_MATTER_KEYS]}
    simple = {key: value for key, value in flat.items() if value and value[0] not in "{|>&*!#"}
    values: dict[str, object] = {key: _value(each) for key, each in simple.items() if each[0] != "[" or each[-1] == "]"}
    blocks = _BLOCK_LIST.finditer(scan, opening.end(), closing.start() + 1)
    lists = {block[1]: [_unquoted(each.strip()) for each in _ITEM.findall(block[2])] for block in blocks}
    return closing.end(), {**values, **{key: lists[key] for key in list(lists)[:MAX_FRONT_MATTER_KEYS]}}


def _value(value: str) -> str | list[str]:
    """A plain or quoted string, or a list of them on one line."""
    if value[0] == "[" and value[-1] == "]":
        return [_unquoted(each.strip()) for each in _FLOW_ITEM.findall(value[1:-1]) if each.strip()]
    return _unquoted(value)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return value[:MAX_FRONT_MATTER_VALUE_CHARS]

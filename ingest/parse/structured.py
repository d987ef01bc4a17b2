r"""Read JSON, JSON lines and YAML so that every passage shows where in the structure it stands. Builds no objects.

YAML keeps its text, comments included: it is written to be read, so lines that open a block become headings and
nothing is resolved, which leaves aliases, tags and deep nesting without effect. JSON that fits into a chunk keeps its
text too, for its structure is then in view. Longer JSON, whose middle would say nothing by itself, and JSON that hides
its letters in \u escapes become lines `path.to[3].key: value`; several lines of text stand below their path. What is
not JSON in spite of its name (comments, a missing bracket) keeps its text, and the metadata says so.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ingest.parse import Parsed
from ingest.parse.package import check_length
from ingest.parse.text import TextBuilder, decode, no_surrogates, said, scanning_copy
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGINAL_CHARS = 4_000  # of JSON that stays as it is: the most that one chunk holds by default
MAX_PATH_CHARS = 200  # a path is repeated on every line, so its front is cut
MAX_INLINE_CHARS = 200  # a longer value stands below its path
MAX_YAML_DEPTH = 3

_YAML = frozenset((".yaml", ".yml"))
_LINES = frozenset((".jsonl", ".ndjson"))
_PLAIN_KEY = re.compile(r"[\w$@-]+")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")
_YAML_KEY = re.compile(
    r"\n(?P<indent> {0,40})(?:- +)*(?P<key>[\w.$/@-]+|\"[^\"\n]{1,100}\"|'[^'\n]{1,100}')"
    r":(?P<value>[ \t][^\n]*)?(?=\n|\Z)"
)
_YAML_OPENS = re.compile(
    r"[ \t]*(?:[&!][^\s#]*[ \t]*)?(?P<text>[|>][-+\d]*)?[ \t]*(?:#.*)?"
)  # a block, or a block text
MAX_YAML_LABEL_CHARS = 80

Node = object
"""A JSON value: a scalar (numbers as they are written), a list, or an `_Object`."""


class _Object(tuple[tuple[str, Node], ...]):
    """The pairs of a JSON object in order; a key that comes twice is there twice."""

    __slots__ = ()


def parse(data: bytes, suffix: str) -> Parsed:
    """Read a JSON or YAML file; metadata: "not_valid", where JSON is damaged and its text is kept as it is.

    Each line of JSON lines is a span "row", numbered as the line in the file.
    """
    text = decode(data)
    if suffix in _YAML:
        return Parsed(text, "", tuple(_yaml_headings(scanning_copy(text))), "application/yaml")
    try:
        if suffix in _LINES:
            return _json_lines(text)
        root = _load(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else said(error)
        return Parsed(text, media_type="application/json", metadata={"not_valid": reason})
    if len(text) <= ORIGINAL_CHARS and not _ESCAPE.search(text):
        return Parsed(text, media_type="application/json")
    builder = TextBuilder()
    _write(builder, root)
    return Parsed(builder.text(), media_type="application/json")


def _load(text: str) -> Node:
    """Parse JSON and keep numbers as they are written: 1.10, and 1e999, which is too large to be one."""
    return json.loads(text, object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=str)


def _json_lines(text: str) -> Parsed:
    builder = TextBuilder()
    spans: list[Span] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), start=1):
        if line.strip():
            try:
                record = _load(line)
            except (ValueError, RecursionError) as error:
                reason = f"line {number}: {said(error)}"
                return Parsed(text, media_type="application/jsonl", metadata={"not_valid": reason})
            start = builder.length + 2 * bool(builder.length)
            _write(builder, record)
            if builder.length > start:
                spans.append(Span("row", start, builder.length, number))
    return Parsed(builder.text(), "", tuple(spans), "application/jsonl")


def _write(builder: TextBuilder, root: Node) -> None:
    """Write a value as lines; a blank line stands between the values of a list of objects, and around long text."""
    gap = "\n\n"
    for path, value in _leaves(root):
        if value is None:  # where an object of a list ends
            gap = "\n\n"
            continue
        shown = no_surrogates(value)
        label = no_surrogates(path)
        is_long = len(shown) > MAX_INLINE_CHARS or "\n" in shown
        builder.add(f"{label}:\n{shown}" if is_long and label else f"{label}: {shown}" if label else shown, gap=gap)
        gap = "\n\n" if is_long else "\n"
        check_length(builder)


def _leaves(root: Node) -> Iterator[tuple[str, str | None]]:
    """The path and the text of each value at the ends of the tree; None after each object of a list.

    Lists of nothing but scalars are one value. The stack is our own: depth is no matter here.
    """
    stack: list[tuple[str, Node, bool]] = [("", root, False)]
    while stack:
        path, node, ends_here = stack.pop()
        if ends_here:
            yield path, None
        elif isinstance(node, _Object) and node:
            stack += [(_child(path, key), value, False) for key, value in reversed(node)]
        elif isinstance(node, list) and any(isinstance(item, list | _Object) for item in node):
            for position in range(len(node) - 1, -1, -1):
                end_mark = [("", None, True)] if isinstance(node[position], _Object) else []
                stack += [*end_mark, (_cut(f"{path}[{position}]"), node[position], False)]
        else:
            yield path, _scalars(node)


def _scalars(node: Node) -> str:
    """A scalar, or a list of scalars, as text."""
    if isinstance(node, list | _Object):
        return ", ".join(map(_scalar, node)) if node else ("[]" if isinstance(node, list) else "{}")
    return _scalar(node)


def _scalar(node: Node) -> str:
    return node if isinstance(node, str) else {True: "true", False: "false", None: "null"}[node]  # type: ignore[index]


def _child(path: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return _cut(f"{path}[{json.dumps(key[:MAX_PATH_CHARS], ensure_ascii=False)}]")
    return _cut(f"{path}.{key}" if path else key)


def _cut(path: str) -> str:
    return path if len(path) <= MAX_PATH_CHARS else f"…{path[-MAX_PATH_CHARS:]}"


def _yaml_headings(scan: str) -> Iterator[Span]:
    """Keys that open a block, down to MAX_YAML_DEPTH, and keys that would else seem to belong to the block before.

    Lines inside block texts (`|`, `>`) are no keys.
    """
    indents: list[int] = []  # of the headings that are in force here
    floor = 0
    for found in _YAML_KEY.finditer(scan):
        if found.start() < floor:
            continue
        indent = found.start("key") - found.start() - 1
        opens = _YAML_OPENS.fullmatch(found["value"] or "")
        if opens and opens["text"]:
            floor = _block_end(scan, found.end(), len(found["indent"]))
        closes = bool(indents) and indents[-1] >= indent
        while indents and indents[-1] >= indent:
            indents.pop()
        if closes or (opens and not opens["text"]):
            indents.append(indent)
            label = found["key"].strip("\"'") if opens else scan[found.start("key") : found.end()]
            label = label.strip()[:MAX_YAML_LABEL_CHARS].rstrip()
            if len(indents) <= MAX_YAML_DEPTH and label:
                end = found.start() + len(found[0].rstrip()) - 1
                yield Span("heading", found.start(), end, len(indents), label)


def _block_end(scan: str, position: int, indent: int) -> int:
    """Where the block text below a line ends: at the next line that is indented no deeper than that line."""
    dedent = re.compile(rf"\n {{0,{indent}}}[^ \n]").search(scan, position)
    return dedent.start() if dedent else len(scan)

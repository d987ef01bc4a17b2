r"""Read source code and data files. Text is the file unchanged. Knows the class and def lines of Python alone.

Python lines are found by a pattern, not by `ast`, so that a file with a syntax error still has its headings. Other
languages get no headings: a wrong outline is worse than none, and a grammar for each is a large dependency.
"""

from __future__ import annotations

import re

from ingest.parse import Parsed
from ingest.parse.text import decode, scanning_copy
from retrieval.records import Span

_PYTHON = {".py", ".pyi"}
_MEDIA_TYPES = {
    ".py": "text/x-python", ".pyi": "text/x-python", ".js": "text/javascript", ".mjs": "text/javascript",
    ".cjs": "text/javascript", ".jsx": "text/javascript", ".ts": "text/x-typescript", ".tsx": "text/x-typescript",
    ".java": "text/x-java", ".c": "text/x-c", ".h": "text/x-c", ".cpp": "text/x-c++", ".hpp": "text/x-c++",
    ".cc": "text/x-c++", ".cs": "text/x-csharp", ".go": "text/x-go", ".rs": "text/x-rust", ".rb": "text/x-ruby",
    ".sh": "text/x-shellscript", ".bash": "text/x-shellscript", ".zsh": "text/x-shellscript", ".css": "text/css",
    ".toml": "application/toml", ".sql": "application/sql",
}  # fmt: skip

_DEFINITION = re.compile(
    r"\n(?:[ \t]*@[^\n]*\n){0,8}(?P<indent>[ \t]*)(?:async[ \t]+)?(?P<label>(?:class|def)[ \t]+\w+)[^\n]*"
    r"|\n(?=[^\s#)\]}\"'])",  # a statement in the first column: whatever was open has ended
)


def parse(data: bytes, suffix: str) -> Parsed:
    """Read a source file; a language without a registered media type gets `text/x-` and its extension."""
    text = decode(data)
    spans = _definitions(scanning_copy(text)) if suffix in _PYTHON else ()
    return Parsed(text, "", spans, _MEDIA_TYPES.get(suffix, f"text/x-{suffix[1:]}"))


def _definitions(scan: str) -> tuple[Span, ...]:
    """Headings of a Python file: `class` and `def` lines with their decorators, level = nesting."""
    found: list[Span] = []
    indents: list[int] = []  # of the definitions that are open here
    for match in _DEFINITION.finditer(scan):
        indent = len(match["indent"].expandtabs(8)) if match["label"] else 0
        while indents and indents[-1] >= indent:
            indents.pop()
        if match["label"]:
            indents.append(indent)
            end = match.start() + len(match[0].rstrip()) - 1
            found.append(Span("heading", match.start(), end, len(indents), match["label"]))
    return tuple(found)

"""Turn the bytes of a file into text with marked spans. Knows formats by file extension; never opens a file.

One small module a format, imported when the first file of that format arrives. Each has the same door,
`parse(data: bytes, suffix: str) -> Parsed`, and may raise anything: this module turns it into a ParseError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from retrieval.records import Span

_EXTENSIONS = {
    "markdown": ".md .markdown .mdx .qmd .rmd",
    "plain": ".rst .txt .text",
    "html": ".html .htm .xhtml",
    "pdf": ".pdf",
    "docx": ".docx",
    "notebook": ".ipynb",
    "source": (
        ".py .pyi .js .mjs .cjs .ts .tsx .jsx .java .c .h .cpp .hpp .cc .cs .go .rs .rb .php .swift .kt .scala .sh"
        " .bash .zsh .sql .r .jl .lua .pl .m .ps1 .css .scss .toml .ini .cfg .yaml .yml .json .jsonl .xml .tex .bib"
        " .vue .proto .cmake .dart .ex .exs .hs .clj"
    ),
}

FORMATS: Mapping[str, str] = {suffix: name for name, suffixes in _EXTENSIONS.items() for suffix in suffixes.split()}
"""File extension in lower case -> the module of this package that reads it."""

_CONVERT = "convert it to Markdown, text, HTML, PDF or DOCX, or leave it out"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser found. Offsets of `spans` are code points in `text`; spans are sorted by start.

    `title` is the document's own title, never made from the file name; "" when it has none.
    """

    text: str
    title: str = ""
    spans: tuple[Span, ...] = ()
    media_type: str = "text/plain"
    metadata: Mapping[str, object] = field(default_factory=dict)


def parse(path: Path, data: bytes) -> Parsed:
    """Read the bytes of the file that `path` names; a file with an unknown extension is read as plain text.

    Raises ParseError on an empty, blank, binary, damaged, encrypted or not-UTF-8 file, and on nothing else.
    """
    suffix = path.suffix.lower()
    name = FORMATS.get(suffix, "plain")
    if not data:
        raise ParseError("the file is empty", advice="remove it, or check how it was made")
    if suffix and suffix not in FORMATS and b"\0" in data:
        raise ParseError(f"binary content, and no parser for '{suffix}' files", advice=_CONVERT)
    try:
        parsed: Parsed = import_module(f"ingest.parse.{name}").parse(data, suffix)
    except ParseError:
        raise
    except Exception as error:
        reason = f"cannot be read as {name}: {type(error).__name__}: {str(error)[:200]}"
        raise ParseError(
            reason, advice="the file seems damaged: save it again with the program that made it"
        ) from error
    if not parsed.text.removeprefix("\ufeff").strip():
        raise ParseError("there is no text in it, only blanks", advice="remove it, or check how it was made")
    return parsed

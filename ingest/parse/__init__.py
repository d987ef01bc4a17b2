"""Turn the bytes of a file into text with marked spans. Knows formats by content and by extension; never opens a file.

One small module a format, imported when the first file of that format arrives. Each has the same door,
`parse(data: bytes, suffix: str) -> Parsed`, and may raise anything: this module turns it into a ParseError. What a file
is, its content says first and its extension second (`sniff`). Texts reach their parser as UTF-8, whatever they were in
(`text.read_text`); mails come as they are, for each of their parts has an encoding of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ingest.parse import sniff
from ingest.parse.text import read_text, said
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import PurePath

    from ingest.parse.archive import Allowance
    from retrieval.records import Span

_EXTENSIONS = {
    "markdown": ".md .markdown .mdx .qmd .rmd",
    "plain": ".rst .txt .text .log .org .adoc .asciidoc .tex .ltx .srt .vtt",
    "html": ".html .htm .xhtml",
    "pdf": ".pdf",
    "docx": ".docx .docm",
    "pptx": ".pptx .pptm",
    "xlsx": ".xlsx .xlsm",
    "odf": ".odt .ods .odp",
    "epub": ".epub",
    "rtf": ".rtf",
    "notebook": ".ipynb",
    "delimited": ".csv .tsv .tab",
    "markup": ".xml .nxml .dbk .rss .atom .svg",
    "structured": ".json .jsonl .ndjson .geojson .yaml .yml",
    "mail": ".eml .msg .mht .mhtml",
    "archive": ".zip .tar .gz .tgz .bz2 .xz",
    "source": (
        ".py .pyi .js .mjs .cjs .ts .tsx .jsx .java .c .h .cpp .hpp .cc .cs .go .rs .rb .php .swift .kt .scala .sh"
        " .bash .zsh .sql .r .jl .lua .pl .m .ps1 .css .scss .toml .ini .cfg .bib"
        " .vue .proto .cmake .dart .ex .exs .hs .clj"
    ),
}

FORMATS: Mapping[str, str] = {suffix: name for name, suffixes in _EXTENSIONS.items() for suffix in suffixes.split()}
"""File extension in lower case -> the module of this package that reads it."""

MAX_DEPTH = 3  # of archives and mails inside one another

_BINARY = frozenset(("pdf", "docx", "pptx", "xlsx", "odf", "epub", "mail", "archive"))  # their parsers get any bytes
_TRUSTED = frozenset(("html", "markup", "source", "mail", "notebook"))  # may begin like HTML, XML or a mail themselves

_CONVERT = "convert it to Markdown, text, HTML, PDF or DOCX, or leave it out"


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a file: an attachment, a member of an archive. `refusal` says why it has no `data`.

    `name` is a relative path with "/" and without "..", unique in its container.
    """

    name: str
    data: bytes = b""
    refusal: ParseError | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser found. Offsets of `spans` are code points in `text`; spans are sorted by start.

    `title` is the document's own title, never made from the file name; "" when it has none. `metadata` has "encoding"
    where a text was not UTF-8, "replaced_bytes" where some of its bytes were not readable, and "said_to_be" (the
    extension) where the content was of another kind; `parse_all` adds the "bytes" that were read. `members` are
    documents of their own; see `parse_all`.
    """

    text: str
    title: str = ""
    spans: tuple[Span, ...] = ()
    media_type: str = "text/plain"
    metadata: Mapping[str, object] = field(default_factory=dict)
    members: tuple[Member, ...] = ()


def parse(path: PurePath, data: bytes) -> Parsed:
    """Read the bytes of the file that `path` names; a text with an unknown extension is read as plain text.

    Raises ParseError on an empty, blank, binary, damaged or encrypted file and on an archive, and on nothing else.
    """
    suffix = path.suffix.lower()
    kind, data, facts = _identified(data, suffix)
    if kind == "archive":
        raise ParseError("an archive, which is not one document", advice="unpack it, or read its members one by one")
    return _parsed(kind, data, suffix, facts)


def parse_all(path: PurePath, data: bytes) -> Iterator[tuple[str, Parsed | ParseError]]:
    """Read a file and the files inside it, at any depth up to MAX_DEPTH.

    Yields ("", document) for the file itself (an archive has none) and ("inner/name.md", document) for each member;
    those of "a.zip" in an archive are "a.zip/x.md". What cannot be read is there with its ParseError; ("", error) after
    other results says what an archive as a whole left out. The limits of `archive.Allowance` hold for all together.
    """
    from ingest.parse.archive import Allowance

    yield from _documents(path, data, "", Allowance(), MAX_DEPTH)


def _documents(
    path: PurePath, data: bytes, name: str, allowance: Allowance, depth: int
) -> Iterator[tuple[str, Parsed | ParseError]]:
    from ingest.parse.archive import unpack

    size = len(data)
    try:
        suffix = path.suffix.lower()
        kind, data, facts = _identified(data, suffix)
        members: Iterable[Member]
        if kind == "archive":
            members = unpack(data, path.name, allowance) if depth else ()
        else:
            parsed = _parsed(kind, data, suffix, {**facts, "bytes": size})
            yield name, parsed
            members = allowance.admitted(parsed.members) if depth else ()
        if not depth and (kind == "archive" or parsed.members):
            raise _too_deep()
        for member in members:
            inner = f"{name}/{member.name}" if name else member.name
            if member.refusal is not None:
                yield inner, member.refusal
            else:
                yield from _documents(PurePosixPath(member.name), member.data, inner, allowance, depth - 1)
    except ParseError as error:
        yield name, error


def _too_deep() -> ParseError:
    return ParseError(f"inside {MAX_DEPTH} archives or mails already", advice="unpack the outer ones first")


def _identified(data: bytes, suffix: str) -> tuple[str, bytes, dict[str, object]]:
    """The parser for a file, the bytes it gets, and what the metadata has to say about both."""
    if not data:
        raise ParseError("the file is empty", advice="remove it, or check how it was made")
    said = FORMATS.get(suffix)
    facts: dict[str, object] = {}
    kind = sniff.packed(data, suffix)
    if kind is None:
        kind, data, facts = _as_text(data, suffix, said)
    if said not in {None, kind}:
        facts["said_to_be"] = suffix
    return kind, data, facts


def _as_text(data: bytes, suffix: str, said: str | None) -> tuple[str, bytes, dict[str, object]]:
    try:
        decoded = read_text(data, sniff.declared_encoding(data))
    except ParseError:
        if said in _BINARY:
            return said, data, {}  # which says better than we can what is wrong with it
        raise
    if suffix and said is None and "\0" in decoded.text:
        raise ParseError(f"binary content, and no parser for '{suffix}' files", advice=_CONVERT)
    kind = said if said in _TRUSTED else sniff.written(decoded.text, loose=said in {None, "plain", *_BINARY})
    kind = kind or ("plain" if said is None or said in _BINARY | {"rtf"} else said)
    if decoded.encoding == "utf-8" and not decoded.replaced_bytes:
        return kind, data, {}
    if kind == "mail" and not decoded.encoding.startswith("utf-"):
        return kind, data, {}
    return kind, decoded.text.encode(), decoded.facts()


def _parsed(kind: str, data: bytes, suffix: str, facts: dict[str, object]) -> Parsed:
    try:
        parsed: Parsed = import_module(f"ingest.parse.{kind}").parse(data, suffix)
    except ParseError:
        raise
    except Exception as error:
        reason = f"cannot be read as {kind}: {type(error).__name__}: {said(error)}"
        raise ParseError(
            reason, advice="the file seems damaged: save it again with the program that made it"
        ) from error
    if not parsed.text.removeprefix("\ufeff").strip():
        raise ParseError("there is no text in it, only blanks", advice="remove it, or check how it was made")
    return replace(parsed, metadata={**parsed.metadata, **facts}) if facts else parsed

"""Read an e-book (EPUB 2 and 3): its chapters in reading order, each as the HTML that it is. Fetches nothing.

The table of contents, which repeats the headings, and chapters that are no HTML or cannot be read are left out and said
in the metadata.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ingest.parse import Parsed
from ingest.parse.html import parse as parse_html
from ingest.parse.package import SAVE_AGAIN, Package, check_length, local_name, properties, resolve
from ingest.parse.sniff import declared_encoding
from ingest.parse.text import TextBuilder, read_text
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from retrieval.records import Span

MAX_CHAPTERS = 10_000

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PROPERTIES = {"title": "title", "creator": "author", "language": "language", "date": "published"}
_HTML = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml"}


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read an EPUB file; metadata: `author`, `language`, `published`, `modified`, `chapters`, `left_out`."""
    package = Package(data, "EPUB")
    roots = [each.get("full-path", "") for each in package.xml(_CONTAINER).iter("{*}rootfile")]
    main = next((resolve("", root) for root in roots if root), "")
    if not main:
        raise ParseError(f"{_CONTAINER} names no book, so this is no complete EPUB file", advice=SAVE_AGAIN)
    book = package.xml(main)
    chapters, left_out = _chapters(book, main)
    if locked := _encrypted(package).intersection(chapters):
        raise ParseError(f"the EPUB file is encrypted ({len(locked)} chapters)", advice="use a copy without protection")
    builder = TextBuilder()
    spans: list[Span] = []
    hidden = 0
    for chapter in chapters:
        try:
            page = package.read(chapter)
            parsed = parse_html(read_text(page, declared_encoding(page)).text.encode(), ".xhtml")
        except ParseError:
            left_out.append(chapter)
            continue
        hidden += int(str(parsed.metadata.get("hidden_elements", 0)))
        if parsed.text:
            start = builder.add(parsed.text)
            spans += [replace(span, start=span.start + start, end=span.end + start) for span in parsed.spans]
            check_length(builder)
    if not builder.length:
        found = f"no text in its {len(chapters)} chapters"
        raise ParseError(found, advice="open it in an e-book reader: pictures of text need OCR")
    metadata = _properties(book)
    title = str(metadata.pop("title", ""))
    facts = {"chapters": len(chapters), "hidden_elements": hidden, "left_out": left_out}
    metadata |= {key: value for key, value in facts.items() if value}
    return Parsed(builder.text(), title, tuple(spans), "application/epub+zip", metadata)


def _chapters(book: Any, main: str) -> tuple[list[str], list[str]]:
    """Members that hold the chapters, in reading order, each once; and what stands among them but is none."""
    items = {item.get("id", ""): item for item in book.iterfind("./{*}manifest/{*}item")}
    chapters: dict[str, None] = {}
    left_out = []
    for reference in book.iterfind("./{*}spine/{*}itemref"):
        item = items.get(reference.get("idref", ""))
        name = resolve(main, item.get("href", "")) if item is not None else ""
        is_contents = item is not None and "nav" in item.get("properties", "").split()
        if item is None or is_contents or item.get("media-type") not in _HTML:
            left_out.append(name or reference.get("idref", ""))
        else:
            chapters[name] = None
    if len(chapters) > MAX_CHAPTERS:
        raise ParseError(f"{len(chapters):,} chapters, more than the {MAX_CHAPTERS:,} allowed", advice="split the book")
    return list(chapters), left_out


def _encrypted(package: Package) -> set[str]:
    """Members that are encrypted; of a book that can be read, these are fonts alone."""
    if _ENCRYPTION not in package:
        return set()
    return {resolve("", each.get("URI", "")) for each in package.xml(_ENCRYPTION).iter("{*}CipherReference")}


def _properties(book: Any) -> dict[str, object]:
    described = next(iter(book.iterfind("./{*}metadata")), None)
    if described is None:
        return {}
    found = properties(described, _PROPERTIES)
    authors = [" ".join("".join(each.itertext()).split()) for each in described.iter("{*}creator")]
    if len(authors) > 1:
        found["author"] = "; ".join(filter(None, authors))[:1000]
    modified = (each for each in described if local_name(each) == "meta" and each.get("property") == "dcterms:modified")
    changed = next((each.text.strip() for each in modified if each.text), "")
    return {**found, **({"modified": changed[:40]} if changed else {})}

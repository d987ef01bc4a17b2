"""ZIP packages of XML written by hand, part by part, and what holds for whatever a parser returns."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ingest.parse import Parsed
    from retrieval.errors import ParseError

_INTERNAL = re.compile(r"Traceback|File \"|\bline \d+, in|<class|<function| at 0x|\b\w+(?:Error|Exception)\b")

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CORE = "http://schemas.openxmlformats.org/package/2006/relationships/metadata/core-properties"


def packed(members: Mapping[str, str | bytes]) -> bytes:
    """A ZIP file with these members, in order."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def relations(targets: Iterable[tuple[str, str]]) -> str:
    """The part that says what another one refers to: types and targets, numbered r1, r2, ..."""
    entries = "".join(
        f'<Relationship Id="r{number}" Type="{kind if ":" in kind else f"{OFFICE}/{kind}"}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, start=1)
    )
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{entries}</Relationships>'
    )


def office(main: str, members: Mapping[str, str | bytes], *, title: str = "", author: str = "") -> bytes:
    """An OOXML package around its main part, with core properties where a title or an author is given."""
    links = [("officeDocument", main)]
    core = {}
    if title or author:
        links.append((CORE, "docProps/core.xml"))
        core["docProps/core.xml"] = (
            '<p:coreProperties xmlns:p="core" xmlns:dc="dc" xmlns:t="terms">'
            f"<dc:title>{title}</dc:title><dc:creator>{author}</dc:creator>"
            "<t:created>2024-01-02T03:04:05Z</t:created></p:coreProperties>"
        )
    types = {"[Content_Types].xml": "<Types/>"}  # by which a ZIP file is known to be such a package
    return packed({**types, "_rels/.rels": relations(links), **core, **members})


def marked(parsed: Parsed, *kinds: str) -> list[tuple[str, int, str]]:
    """Kind, number and text of the spans of these kinds, in order."""
    return [(s.kind, s.number, parsed.text[s.start : s.end]) for s in parsed.spans if s.kind in kinds]


def check_spans(parsed: Parsed) -> None:
    """Spans lie in the text and are sorted; a heading has a level, holds its label and ends with its line."""
    last = 0
    for span in parsed.spans:
        assert 0 <= last <= span.start <= span.end <= len(parsed.text)
        last = span.start
        if span.kind == "heading":
            shown = parsed.text[span.start : span.end]
            assert span.number >= 1
            assert span.label.strip()
            assert span.label in shown
            assert not shown.endswith(("\n", "\r"))
    parsed.text.encode("utf-8")
    parsed.title.encode("utf-8")


def check_reason(error: ParseError) -> None:
    """A reason and an advice that a person can read: one line each, and nothing of the program's own inside."""
    for words in (error.reason, error.advice):
        assert words.strip(), error
        assert words.isprintable(), error
        assert len(words) <= 500, error
        assert not _INTERNAL.search(words), error

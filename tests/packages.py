"""ZIP packages of XML written by hand, part by part, for the tests of the parsers that read them."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ingest.parse import Parsed

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
    """Spans lie in the text, are sorted, and headings hold their label."""
    last = 0
    for span in parsed.spans:
        assert last <= span.start <= span.end <= len(parsed.text)
        last = span.start
        assert span.kind != "heading" or span.label in parsed.text[span.start : span.end]

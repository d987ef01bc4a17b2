"""E-books written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages import check_spans, marked, packed

from ingest.parse import parse
from retrieval.errors import ParseError

CONTAINER = '<container xmlns="c"><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
META = (
    "<dc:title>The book</dc:title><dc:creator>Ann</dc:creator><dc:creator>Bob</dc:creator><dc:language>en</dc:language>"
    '<dc:date>2020-01-02</dc:date><meta property="dcterms:modified">2024-05-06T00:00:00Z</meta>'
)


def chapter(*blocks):
    return f'<?xml version="1.0"?><html xmlns="h"><head><title>x</title></head><body>{"".join(blocks)}</body></html>'


def book(chapters, *, members=None, extra_items="", extra_spine="", order=None):
    """Chapters by name, in the order of the spine unless another one is given."""
    html = 'media-type="application/xhtml+xml"'
    items = "".join(f'<item id="{name}" href="{name}" {html}/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in order or chapters)
    opf = (
        f'<package xmlns="o" xmlns:dc="d"><metadata>{META}</metadata><manifest>{items}{extra_items}</manifest>'
        f"<spine>{spine}{extra_spine}</spine></package>"
    )
    pages = {f"OEBPS/{name}": page for name, page in chapters.items()}
    return packed({"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": opf, **pages, **(members or {})})


def read(data):
    parsed = parse(Path("a.epub"), data)
    check_spans(parsed)
    return parsed


def test_chapters_in_reading_order_with_their_headings():
    pages = {"one.xhtml": chapter("<h1>One</h1><p>first</p>"), "two.xhtml": chapter("<h2>Two</h2><pre>code</pre>")}
    parsed = read(book(pages, order=["two.xhtml", "one.xhtml", "two.xhtml"]))
    assert parsed.text == "Two\n\ncode\n\nOne\n\nfirst"
    assert marked(parsed, "heading", "code") == [("heading", 2, "Two"), ("code", 0, "code"), ("heading", 1, "One")]
    assert parsed.title == "The book"
    assert parsed.metadata == {
        "author": "Ann; Bob",
        "language": "en",
        "published": "2020-01-02",
        "modified": "2024-05-06T00:00:00Z",
        "chapters": 2,
    }


def test_contents_pictures_and_missing_chapters_are_left_out_and_said():
    items = (
        '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        '<item id="art" href="art.svg" media-type="image/svg+xml"/>'
        '<item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/>'
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in ("nav", "art", "gone", "nowhere"))
    parsed = read(book({"one.xhtml": chapter("text")}, extra_items=items, extra_spine=spine))
    assert parsed.text == "text"
    assert parsed.metadata["left_out"] == ["OEBPS/nav.xhtml", "OEBPS/art.svg", "nowhere", "OEBPS/gone.xhtml"]


def test_chapters_in_another_encoding():
    page = '<?xml version="1.0" encoding="utf-16"?>' + chapter("<p>Grüße</p>").partition("?>")[2]
    assert read(book({"one.xhtml": page.encode("utf-16")})).text == "Grüße"


def encryption(name):
    return f'<encryption xmlns="e"><EncryptedData><CipherReference URI="{name}"/></EncryptedData></encryption>'


def test_protected_books_are_refused_but_not_for_their_fonts():
    pages = {"one.xhtml": chapter("text")}
    with pytest.raises(ParseError, match="encrypted"):
        read(book(pages, members={"META-INF/encryption.xml": encryption("OEBPS/one.xhtml")}))
    assert read(book(pages, members={"META-INF/encryption.xml": encryption("OEBPS/font.ttf")})).text == "text"


def test_books_without_text():
    with pytest.raises(ParseError, match="no text in its 1 chapters"):
        read(book({"one.xhtml": chapter("<p> </p>")}))
    with pytest.raises(ParseError, match="missing"):
        read(packed({"META-INF/container.xml": CONTAINER}))
    with pytest.raises(ParseError, match="names no book"):
        read(packed({"META-INF/container.xml": "<container/>"}))


def test_a_long_table_repeats_its_header_in_each_part():
    rows = "".join(f"<tr><td>name {n}</td><td>{n}</td></tr>" for n in range(30))
    parsed = read(book({"one.xhtml": chapter(f"<p>x</p><table><tr><th>Name</th><th>Age</th></tr>{rows}</table>")}))
    tables = [text for _, _, text in marked(parsed, "table")]
    assert len(tables) == 2
    assert all(text.startswith("| Name | Age |\n| name ") for text in tables)


def test_a_chapter_cannot_lie_outside_the_book():
    items = '<item id="out" href="../../../etc/passwd" media-type="text/html"/>'
    parsed = read(book({"one.xhtml": chapter("text")}, extra_items=items, extra_spine='<itemref idref="out"/>'))
    assert parsed.metadata["left_out"] == ["etc/passwd"]

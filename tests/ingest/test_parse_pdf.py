"""PDF files written by hand, object by object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ingest.parse.pdf import parse
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from ingest.parse import Parsed


def make_pdf(*pages: str, info: bytes = b"", trailer: bytes = b"") -> bytes:
    """A PDF with one line of Helvetica a page."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in enumerate(pages):
        stream = b"BT /F1 12 Tf 20 700 Td (%s) Tj ET" % text.encode("latin-1")
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>"
            % (5 + 2 * number)
        )
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
    objects.append(b"<<%s>>" % info)
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    tail = b"trailer<</Size %d/Root 1 0 R/Info %d 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (
        size,
        size - 1,
        trailer,
        len(data),
    )
    return data + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + tail


def read(data: bytes) -> Parsed:
    return parse(data, ".pdf")


def test_pages_and_title():
    parsed = read(make_pdf("first page", "", "third", info=b"/Title(A report)"))
    assert parsed.text == "first page\n\n\n\nthird"
    assert [(s.number, parsed.text[s.start : s.end]) for s in parsed.spans] == [
        (1, "first page"),
        (2, ""),
        (3, "third"),
    ]
    assert parsed.title == "A report"
    assert parsed.metadata == {"pages": 3}


def test_a_broken_page_is_noted_and_the_rest_is_read():
    parsed = read(make_pdf("first", "second").replace(b"/Kids[4 0 R 6 0 R]", b"/Kids[4 0 R 9 0 R]"))
    assert parsed.text.strip() == "first"
    assert parsed.metadata["pages_failed"] == [2]


def test_no_text_layer_asks_for_ocr():
    with pytest.raises(ParseError, match="no text layer") as caught:
        read(make_pdf(""))
    assert "OCR" in caught.value.advice


def test_encrypted():
    encrypt = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O(%s)/U(%s)>>/ID[<00><00>]" % (b"o" * 32, b"u" * 32)
    with pytest.raises(ParseError, match="encrypted"):
        read(make_pdf("secret", trailer=encrypt))


@pytest.mark.parametrize("data", [b"%PDF-", b"%PDF-1.4\n" + b"<<" * 10_000, make_pdf("x")[:200]])
def test_damaged(data):
    with pytest.raises(ParseError):
        read(data)

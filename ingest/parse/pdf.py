r"""Read the text layer of a PDF, page by page, with PDFium. Recognises no characters in pictures (no OCR).

PDFium may not be used by two threads at once, hence the lock.
"""

from __future__ import annotations

import re
from contextlib import closing
from threading import Lock
from typing import TYPE_CHECKING

from ingest.parse import Parsed
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, no_surrogates
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

MAX_PAGES = 20_000
MAX_CHARS = 50_000_000  # a page that draws its text again and again can be far larger than its file

_LOCK = Lock()
_NOISE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a PDF; metadata: `pages`, and `pages_failed` (numbers from 1) when some could not be read."""
    with _LOCK, closing(_open(data)) as document:
        count = len(document)
        if count > MAX_PAGES:
            raise ParseError(f"{count} pages, more than the {MAX_PAGES} allowed", advice="split the PDF")
        builder = TextBuilder()
        failed: list[int] = []
        spans = [_page(document, number, builder, failed) for number in range(1, count + 1)]
        title = _cleaned(document.get_metadata_value("Title"))[:MAX_TITLE_CHARS]
    if len(failed) == count:
        raise ParseError(f"none of its {count} pages can be read", advice=_SAVE_AGAIN)
    text = builder.text()
    if not text.strip():
        raise ParseError(
            f"no text layer in its {count} pages (scanned?)", advice="run OCR on it first, for example: ocrmypdf IN OUT"
        )
    metadata: dict[str, object] = {"pages": count}
    if failed:
        metadata["pages_failed"] = failed
    return Parsed(text, title, tuple(spans), "application/pdf", metadata)


_SAVE_AGAIN = "the file seems damaged: open it in a PDF viewer and print or save it as a new PDF"


def _open(data: bytes) -> PdfDocument:
    from pypdfium2 import PdfDocument, PdfiumError

    if b"%PDF-" not in data[:1024]:
        raise ParseError("not a PDF, whatever its name says", advice="give the file the extension of what it is")
    try:
        return PdfDocument(data)
    except PdfiumError as error:
        if "password" in str(error).lower():
            raise ParseError("the PDF is encrypted", advice="save a copy without a password") from error
        raise ParseError(f"damaged PDF: {error}", advice=_SAVE_AGAIN) from error


def _page(document: PdfDocument, number: int, builder: TextBuilder, failed: list[int]) -> Span:
    """Append one page; a page that cannot be read is an empty span and is noted."""
    from pypdfium2 import PdfiumError

    text = ""
    try:
        with closing(document[number - 1]) as page, closing(page.get_textpage()) as textpage:
            text = _cleaned(textpage.get_text_bounded(errors="replace"))
    except PdfiumError:
        failed.append(number)
    start = builder.add(text)
    if builder.length > MAX_CHARS:
        raise ParseError(f"more than {MAX_CHARS} characters by page {number}", advice="split the PDF")
    return Span("page", start, builder.length, number)


def _cleaned(text: str) -> str:
    return no_surrogates(_NOISE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))).strip()

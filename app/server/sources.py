"""Where an answer's words stand: the text of a document around them, and the page of a PDF with them marked.

Knows documents, places in them and their files; nothing of questions. Offsets count Unicode code points of the parsed
text, which JavaScript counts otherwise: so the quote comes apart from what stands before and after it. A file is what a
stranger made: pages are drawn in a confined process (`ingest.isolate`), and only from the very bytes that were read.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from starlette.exceptions import HTTPException

from app.server.answers import json_response, unless_gone
from app.server.engine import TookTooLongError
from app.server.lanes import Lane
from app.server.state import Server
from retrieval.errors import ChangedError, ParseError, RagError

if TYPE_CHECKING:
    from app.config import Config
    from app.pipeline import Pipeline
    from ingest.parse.page_image import PageImage, PageMark
    from retrieval.records import Document, Span

MAX_AROUND = 20_000
MAX_CHARS = 100_000
"""Of a quote, and of a piece of a text that is read on."""
DRAW_SECONDS = 20.0
DRAW_QUEUE = 32
KEPT_BYTES = 64_000_000
"""Of pages that were drawn: some hundreds."""

DocId = Annotated[str, InPath(max_length=1000)]
Offset = Annotated[int, Query(ge=0, le=2**40)]
Around = Annotated[int, Query(ge=0, le=MAX_AROUND)]
Limit = Annotated[int, Query(ge=1, le=MAX_CHARS)]
Page = Annotated[int, InPath(ge=1, le=1_000_000)]
Width = Annotated[int, Query(ge=200, le=2000)]

_BREAKS = tuple(map(re.compile, (r"\n\s*\n", r"\r\n?|\n", r"[。！？]|\s")))
"""Where a stretch of text may best begin or end: between paragraphs, lines, sentences or words."""


def router(server: Server) -> APIRouter:
    """`/api/source/{doc_id}` and what is below it."""
    images = PageImages(server.config)
    server.counters.watch(images.lane)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None]:
        yield
        await asyncio.to_thread(images.close)

    routes = APIRouter(prefix="/api/source", tags=["sources"], lifespan=lifespan)

    @routes.get("/{doc_id:path}/text", responses={404: {"description": "No such document"}})
    async def text(doc_id: DocId, request: Request, offset: Offset = 0, limit: Limit = 20_000) -> Response:
        """A piece of the whole text; `next` is the offset of the one after it, null at the end."""
        document = await unless_gone(request, server.engine.look(partial(_document, doc_id=doc_id)))
        start, end = _span(document, offset, offset + limit)
        record = {"doc_id": doc_id, "characters": len(document.text), "offset": start, "text": document.text[start:end]}
        return json_response({**record, "next": end if end < len(document.text) else None})

    @routes.get(
        "/{doc_id:path}/page/{page}",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}}, "description": "The page"},
            304: {"description": "As before"},
            404: {"description": "No such document or page, or its file is gone"},
            409: {"description": "The file has changed"},
        },
    )
    async def page_image(
        doc_id: DocId, page: Page, request: Request, *, start: Offset = 0, end: Offset = 0, width: Width = 1000
    ) -> Response:
        """A page of a PDF as it looks, with the part of a span that is on it marked.

        `x-marked` is what encloses the marks: left, top, right, bottom as shares of the page.
        """
        document = await unless_gone(request, server.engine.look(partial(_document, doc_id=doc_id)))
        mark = page_mark(document, page, *_span(document, start, end), width=width)
        tag = _fingerprint(document, mark)
        headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache"}
        if tag in re.split(r'[\s,"]+', request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        image = await unless_gone(request, images.draw(document, mark))
        if image.marked:
            headers["x-marked"] = ",".join(f"{share:g}" for share in image.marked)
        return Response(image.png, media_type="image/png", headers=headers)

    # After the others: an id may hold slashes.
    @routes.get("/{doc_id:path}", responses={404: {"description": "No such document"}})
    async def source(
        doc_id: DocId, request: Request, *, start: Offset = 0, end: Offset | None = None, around: Around = 2000
    ) -> Response:
        """The text around a span, in three parts, and where it is. Without an end, the span is empty."""

        def look(pipeline: Pipeline) -> dict[str, object]:
            document = _document(pipeline, doc_id)
            record = source_record(document, start, start if end is None else end, around)
            return {**record, "has_page_image": images.has(document)}

        return json_response(await unless_gone(request, server.engine.look(look)))

    return routes


def _document(pipeline: Pipeline, doc_id: str) -> Document:
    document = pipeline.document(doc_id)
    if document is None:
        raise HTTPException(404, "there is no such document in the index; it may have been removed since")
    return document


# ---- text ------------------------------------------------------------------------------------------------------------


def source_record(document: Document, start: int, end: int, around: int) -> dict[str, object]:
    """Where a span is, and the text around it, from the start of a paragraph or line to the end of one if possible.

    `text_start` is the offset of the first character of `before`. Raises HTTPException on a span that cannot be one.
    """
    start, end = _span(document, start, end)
    text, last = document.text, max(start, end - 1)
    first, stop = _first(text, start, around), _stop(text, end, around)
    pages = _pages(document)
    return {
        "doc_id": document.doc_id,
        "source": document.source,
        "title": document.title,
        "media_type": document.media_type,
        "characters": len(text),
        "start": start,
        "end": end,
        "text_start": first,
        "before": text[first:start],
        "quote": text[start:end],
        "after": text[end:stop],
        "line": document.line_at(start),
        "heading": list(document.heading_at(start)),
        "slide": document.slide_at(start),
        "sheet": document.sheet_at(start),
        "row": document.row_at(start),
        "page": document.page_at(start),
        "last_page": document.page_at(last),
        "pages": len(pages) or None,
    }


def _span(document: Document, start: int, end: int) -> tuple[int, int]:
    """A span within a document. Raises HTTPException where it begins outside, ends before it begins or is too long."""
    length = len(document.text)
    if start > end or start > length:
        raise HTTPException(
            422, f"characters {start:,} to {end:,} of a text of {length:,}; expected start <= end, and start within it"
        )
    end = min(end, length)
    if end - start > MAX_CHARS:
        raise HTTPException(422, f"{end - start:,} characters; at most {MAX_CHARS:,} are shown at once")
    return start, end


def _first(text: str, start: int, around: int) -> int:
    """Where to begin: at a break in the farther half of what may be shown, or as far as that reaches."""
    low = start - around
    return 0 if low <= 0 else min(_breaks(text, low, start - around // 2), default=low)


def _stop(text: str, end: int, around: int) -> int:
    high = end + around
    return len(text) if high >= len(text) else max(_breaks(text, end + around // 2, high), default=high)


def _breaks(text: str, low: int, high: int) -> list[int]:
    """The ends of the best kind of break that there is in a stretch of text."""
    found = ([match.end() for match in pattern.finditer(text, low, high)] for pattern in _BREAKS)
    return next(filter(None, found), [])


# ---- pages -----------------------------------------------------------------------------------------------------------


def page_mark(document: Document, page: int, start: int, end: int, *, width: int) -> PageMark:
    """A page to draw, and what of a span is on it. Raises HTTPException 404 where there is no such page."""
    from ingest.parse.page_image import PageMark

    pages = _pages(document)
    span = next((span for span in pages if span.number == page), None)
    if span is None:
        raise HTTPException(404, f"there is no page {page}; the document has {len(pages)}")
    first, stop = (min(max(place, span.start), span.end) - span.start for place in (start, end))
    return PageMark(page, document.text[span.start : span.end], first, stop, width)


def original(document: Document, *, max_bytes: int) -> bytes:
    """The bytes that a document was parsed from.

    Raises HTTPException 404 where there is no such file below the document's root, ParseError where it cannot be read,
    ChangedError where it holds something else now.
    """
    from ingest.discover import FoundFile, read_file

    try:
        root = Path(document.root)
        folder = root.resolve(strict=True)
        path = (folder / document.source).resolve(strict=True)
        is_there = root.is_absolute() and path.is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # not there; a NUL in its name; links in a circle
        is_there = False
    if not is_there:
        raise HTTPException(404, "the file that was ingested is not in its place; its text is in the index still")
    data = read_file(FoundFile(document.root, document.source, path, 0), max_bytes)
    if hashlib.sha256(data).hexdigest() != document.content_hash:
        raise ChangedError("the file has changed since it was ingested, and its pages with it; run: rag ingest")
    return data


class PageImages:
    """Draws pages, one at a time, and keeps those drawn last. `close` at the end."""

    def __init__(self, config: Config) -> None:
        from ingest.isolate import Limits, ParsingPool
        from ingest.parse.page_image import DRAW, FONTS, MAX_CHARS

        self.lane = Lane("pages", workers=1, room=DRAW_QUEUE)
        limits = Limits(min(config.parse_seconds, DRAW_SECONDS), config.parse_memory_mb << 20, MAX_CHARS)
        self._open = ExitStack()
        pool = ParsingPool(workers=1, limits=limits, parse=DRAW, readable=FONTS)  # its process starts with a first page
        self._pool = self._open.enter_context(pool)
        self._max_bytes, self._seconds = int(config.max_file_mb * 1_000_000), config.request_seconds
        self._kept = _Kept(KEPT_BYTES)

    def close(self) -> None:
        """Give up what is being drawn."""
        self._open.close()
        self.lane.close()

    def has(self, document: Document) -> bool:
        """Whether there is a file to draw the pages of a document from."""
        if document.media_type != "application/pdf" or not _pages(document):
            return False
        try:
            original(document, max_bytes=self._max_bytes)
        except (RagError, HTTPException):
            return False
        return True

    async def draw(self, document: Document, mark: PageMark) -> PageImage:
        """A page. Raises HTTPException 404, ParseError, ChangedError, BusyError, TookTooLongError."""
        tag = _fingerprint(document, mark)
        if kept := self._kept.get(tag):
            return kept
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(self.lane.submit(partial(self._drawn, document, mark, tag)))
        except TimeoutError:
            raise TookTooLongError(f"a page was given up after {self._seconds:g} s; ask again later") from None

    def _drawn(self, document: Document, mark: PageMark, tag: str) -> PageImage:
        from ingest.parse.page_image import drawn, errand

        if kept := self._kept.get(tag):  # somebody else has asked for it meanwhile
            return kept
        data = errand(mark, original(document, max_bytes=self._max_bytes))
        [(_, results)] = self._pool.parse_files([(None, "page", data)])
        _, result = results[-1]
        if isinstance(result, ParseError):
            raise result
        image = drawn(result)
        self._kept.put(tag, image)
        return image


class _Kept:
    """The images asked for last, as many as have room together."""

    def __init__(self, room: int) -> None:
        self._room, self._lock = room, threading.Lock()
        self._images: OrderedDict[str, PageImage] = OrderedDict()

    def get(self, tag: str) -> PageImage | None:
        with self._lock:
            if tag in self._images:
                self._images.move_to_end(tag)
            return self._images.get(tag)

    def put(self, tag: str, image: PageImage) -> None:
        with self._lock:
            self._room += len(self._images.pop(tag).png) if tag in self._images else 0
            self._images[tag] = image
            self._room -= len(image.png)
            while self._room < 0:
                self._room += len(self._images.popitem(last=False)[1].png)


def _pages(document: Document) -> list[Span]:
    return [span for span in document.spans if span.kind == "page"]


def _fingerprint(document: Document, mark: PageMark) -> str:
    """The same for pictures that are the same."""
    from ingest.parse.page_image import errand

    return hashlib.sha256(document.content_hash.encode() + errand(mark, b"")).hexdigest()[:32]

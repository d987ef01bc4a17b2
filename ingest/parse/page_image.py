"""Draw a page of a PDF with some of its words marked. Knows pages and pixels; nothing of documents or of who asks.

Both ends of one errand stand here: `errand` packs what is wanted in front of the file, `draw` does it in a worker
process (`ingest.isolate`), and `drawn` unpacks the picture. PNG is written here: it is one call of zlib.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from contextlib import closing
from ctypes import byref, c_int
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from ingest.parse import Parsed
from ingest.parse.pdf import LOCK, boxes, open_pdf, opened_page
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import PurePath

    from ingest.parse.pdf import Box

DRAW = "ingest.parse.page_image.draw"
"""What a ParsingPool is told to do with each file."""

FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/X11/fonts")
"""Where PDFium looks on Linux for the fonts that a file does without, as many Chinese ones do."""

MAX_PIXELS = 6_000_000  # A4 at 2,000 pixels of width; a page of another shape gets narrower
MAX_HEIGHT = 8_000
MAX_CHARS = 4 * MAX_PIXELS + 1_000_000
"""Of a picture in base64 that zlib could make no smaller: three bytes a pixel, and a third more."""

MARK = (255, 213, 0)
STRENGTH = (0.2, 0.4)  # of the mark over black and over white: letters stay dark, and it shows on a dark page too
MARGIN = 0.15  # of a line's height around the ink of its characters, as long as that is little on the page

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_Rectangle = tuple[int, int, int, int]  # left, top, right, bottom, in pixels from the top left corner; ends excluded


@dataclass(frozen=True, slots=True)
class PageMark:
    """A page (from 1), its text in the document, the part of it to mark, and the width wanted, in pixels."""

    page: int
    text: str
    start: int
    end: int
    width: int


@dataclass(frozen=True, slots=True)
class PageImage:
    """A PNG. `marked` is what encloses the marks: left, top, right, bottom as shares of the page; None without any."""

    png: bytes
    width: int
    height: int
    marked: tuple[float, float, float, float] | None


def errand(wanted: PageMark, pdf: bytes) -> bytes:
    """What a worker needs to know, as one "file"."""
    return json.dumps(asdict(wanted)).encode() + b"\n" + pdf


def draw(_path: PurePath, data: bytes) -> Parsed:
    """Do an errand. Raises ParseError where the file is damaged or its page reads otherwise than said."""
    order, _, pdf = data.partition(b"\n")
    wanted = PageMark(**json.loads(order))
    del data
    with LOCK, closing(open_pdf(pdf)) as document:
        document.init_forms()  # or fields are drawn empty
        found = boxes(document, wanted.page, wanted.text, wanted.start, wanted.end) if wanted.start < wanted.end else []
        with opened_page(document, wanted.page) as page:
            width, height = _size(page, wanted.width)
            pixels = _rendered(page, width, height)
            marks = [_rectangle(page, box, width, height) for box in found]
    marks = [mark for mark in marks if mark[0] < mark[2] and mark[1] < mark[3]]
    _tint(pixels, width, marks)
    text = base64.b64encode(_png(pixels, width, height)).decode("ascii")
    facts = {"width": width, "height": height, "marked": _enclosing(marks, width, height)}
    return Parsed(text, media_type="image/png", metadata=facts)


def drawn(result: Parsed) -> PageImage:
    """What a worker has drawn. Raises ParseError when it cannot have come from `draw`."""
    try:
        png = base64.b64decode(result.text, validate=True)
        facts: Mapping[str, Any] = result.metadata
        marked = facts["marked"] and tuple(float(share) for share in facts["marked"])
        image = PageImage(png, int(facts["width"]), int(facts["height"]), marked)
        is_sound = png.startswith(_SIGNATURE) and (marked is None or len(marked) == 4)
    except (ValueError, KeyError, TypeError) as error:
        raise _nonsense() from error
    if not is_sound:
        raise _nonsense()
    return image


def _nonsense() -> ParseError:
    return ParseError("what draws pages gave no picture", advice="the file is made to harm: leave it out")


def _size(page: Any, width: int) -> tuple[int, int]:
    """Width and height in pixels of a page as it is shown, turned and cut to what is to be seen."""
    across, down = page.get_size()
    if not (0 < across < math.inf and 0 < down < math.inf):
        raise ParseError(f"a page of {across:g} by {down:g} points", advice="print or save it as a new PDF")
    pixels_per_point = min(width / across, MAX_HEIGHT / down, math.sqrt(MAX_PIXELS / across / down))
    return max(1, math.floor(across * pixels_per_point)), max(1, math.floor(down * pixels_per_point))


def _rendered(page: Any, width: int, height: int) -> bytearray:
    """The pixels of a page, row by row: red, green, blue."""
    from pypdfium2 import PdfBitmap
    from pypdfium2.raw import (
        FPDF_ANNOT,
        FPDF_REVERSE_BYTE_ORDER,
        FPDF_FFLDraw,
        FPDF_RenderPageBitmap,
        FPDFBitmap_BGR,
    )

    how = (0, 0, width, height, 0, FPDF_ANNOT | FPDF_REVERSE_BYTE_ORDER)
    with closing(PdfBitmap.new_native(width, height, FPDFBitmap_BGR)) as bitmap:
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
        FPDF_RenderPageBitmap(bitmap, page, *how)
        if page.formenv:
            FPDF_FFLDraw(page.formenv, bitmap, page, *how)
        rows = memoryview(bitmap.buffer).cast("B")
        return bytearray().join(rows[y * bitmap.stride : y * bitmap.stride + 3 * width] for y in range(height))


def _rectangle(page: Any, box: Box, width: int, height: int) -> _Rectangle:
    """Where a box on a page is on its picture, with a margin, as far as it is there."""
    from pypdfium2.raw import FPDF_PageToDevice

    corners = []
    for x, y in ((box[0], box[1]), (box[2], box[3])):
        across, down = c_int(), c_int()
        FPDF_PageToDevice(page, 0, 0, width, height, 0, x, y, byref(across), byref(down))
        corners.append((across.value, down.value))
    (left, right), (top, bottom) = (sorted(ends) for ends in zip(*corners, strict=True))
    margin = max(1, min(round(MARGIN * min(right - left, bottom - top)), width // 150))
    return (
        max(0, left - margin), max(0, top - margin),
        min(width, right + margin + 1), min(height, bottom + margin + 1),
    )  # fmt: skip


def _tint(pixels: bytearray, width: int, marks: Iterable[_Rectangle]) -> None:
    """Lay the mark over rectangles, once where they overlap."""
    over_black, over_white = STRENGTH
    share = [over_black + (over_white - over_black) * value / 255 for value in range(256)]
    tables = [bytes(round(value + share[value] * (colour - value)) for value in range(256)) for colour in MARK]
    rows: dict[int, list[tuple[int, int]]] = {}
    for left, top, right, bottom in marks:
        for y in range(top, bottom):
            rows.setdefault(y, []).append((left, right))
    for y, stretches in rows.items():
        reached = 0
        for left, right in sorted(stretches):
            first, end = 3 * (y * width + max(left, reached)), 3 * (y * width + right)
            reached = max(reached, right)
            for channel, table in enumerate(tables):
                if first < end:
                    pixels[first + channel : end : 3] = pixels[first + channel : end : 3].translate(table)


def _enclosing(marks: list[_Rectangle], width: int, height: int) -> tuple[float, ...] | None:
    if not marks:
        return None
    lefts, tops, rights, bottoms = zip(*marks, strict=True)
    inner = (min(lefts) / width, min(tops) / height, max(rights) / width, max(bottoms) / height)
    return tuple(round(share, 4) for share in inner)


def _png(pixels: bytearray, width: int, height: int) -> bytes:
    """A PNG file of eight bits a channel (ISO/IEC 15948): a header, all rows unfiltered, an end."""
    row = 3 * width
    lines = b"".join(chain.from_iterable((b"\0", pixels[y * row : (y + 1) * row]) for y in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )

r"""Read the text layer of a PDF, page by page, with PDFium. Recognises no characters in pictures (no OCR).

Lines keep the order in which the file draws them, which is how they were written; only what stands below another part
of its column and was drawn before it goes after it (page numbers, titles drawn last). A gap between lines is a blank
line. Words cut at the end of a line are joined. Running heads and feet stay where they first appear and are dropped
after that, and counted. What was filled into a form or typed onto a page stands below the page's text; comments are
left out and counted. PDFium may not be used by two threads at once, hence the lock.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing, contextmanager
from ctypes import byref, c_double, c_float, c_ushort
from itertools import chain, combinations, groupby, pairwise, product
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from ingest.parse import Parsed
from ingest.parse.package import check_length
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, no_surrogates, said
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pypdfium2 import PdfDocument, PdfPage

MAX_PAGES = 20_000
MAX_PAGE_CHARS = 5_000_000
MAX_ANNOTATIONS = 10_000  # of a page that are looked at
MAX_SEARCHED_BYTES = 3_000_000_000  # by PDFium for the ends of streams: the file for each that has none; 10 s
MAX_RUNS = 100  # of lines on a page; beyond, they stay in the order of the file: ordering takes their square
EDGE = 0.2  # of a page, at its top and at its bottom, where running heads and feet stand
EDGE_LINES = 3  # of each edge
MAX_RUNNING_CHARS = 120  # of one of them
MIN_REPEATS = 3  # pages on which a line is a running one
PARAGRAPH_GAP = 1.35  # times the usual distance of lines
FAR = 2.0  # times the size of the largest character: what is further from the one before is marked by itself

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points as the file counts them: y upwards, the page not turned."""

LOCK = Lock()
_NOISE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")
_SENTENCE_ENDS = (".", "!", "?", ":", "。", "！", "？", "：")
_STREAM = re.compile(rb"(?<!end)stream\r?\n")
_HYPHEN = 2  # how PDFium writes a hyphen that cuts a word at the end of a line
_BLANKS = {0, _HYPHEN, 10, 13, 32, 160}  # which have no box
_CUT = re.compile(r"([^\W_]+(?:-[^\W_]+)*)\x02([^\W_]*)")
_SOFT_CUT = re.compile(r"(?<=\w)\u00ad\s*\n(?=\w)")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_NUMBER = re.compile(r"\d{1,6}", re.ASCII)
_MADE_UP_TITLE = re.compile(
    r"(?:Microsoft (?:Word|PowerPoint|Excel) - .*|untitled|.*\.(?:docx?|dvi|indd|qxd|pdf))", re.IGNORECASE
)
_DATE = re.compile(r"D:(\d{4})(\d{2})?(\d{2})?")


class _Line(NamedTuple):
    """A line as the file draws it, with its box in points, y upwards; `way` in degrees: 90 reads up, 270 down.

    `begin` is PDFium's index of its first character; -1 where it was typed onto the page.
    """

    text: str
    left: float
    bottom: float
    right: float
    top: float
    base: float
    way: int = 0
    begin: int = -1

    def overlaps(self, other: _Line) -> bool:
        """Whether both share a good part of their columns."""
        shared = min(self.right, other.right) - max(self.left, other.left)
        return shared > 0.1 * min(self.right - self.left, other.right - other.left)

    def is_above(self, other: _Line) -> bool:
        """Whether it ends before the other begins, in the same column."""
        return self.bottom >= other.top - 1 and self.overlaps(other)


class _Page(NamedTuple):
    """Lines of a page in reading order, and the heights between which its middle lies."""

    lines: list[_Line]
    low: float
    high: float
    typed: Sequence[_Line] = ()  # onto the page, or into its form


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a PDF; metadata: `pages`, `author`, `created`, `modified`.

    Also, where there are any: `pages_failed` (numbers from 1), `repeated_lines` (running heads and feet that were
    dropped), `characters_off_page` and `comments_left_out`.
    """
    with LOCK, closing(open_pdf(data)) as document:
        count = len(document)
        if count > MAX_PAGES:
            raise ParseError(f"{count} pages, more than the {MAX_PAGES} allowed", advice="split the PDF")
        reader = _Reader()
        pages = [reader.page(document, number) for number in range(1, count + 1)]
        title = _cleaned(document.get_metadata_value("Title"))[:MAX_TITLE_CHARS]
        properties = _properties(document)
    if len(reader.failed) == count:
        raise ParseError(f"none of its {count} pages can be read", advice=_SAVE_AGAIN)
    repeated = _repeated(pages)
    texts = ["".join(text for text, _ in _pieces(page, repeated.get(n, ()))) for n, page in enumerate(pages)]
    joined = _joiner(texts)
    builder = TextBuilder()
    spans = []
    for number, text in enumerate(texts, start=1):
        start = builder.add(_cleaned(joined(text)))
        check_length(builder)
        spans.append(Span("page", start, builder.length, number))
    if not builder.text().strip():
        raise ParseError(
            f"no text layer in its {count} pages (scanned?)", advice="run OCR on it first, for example: ocrmypdf IN OUT"
        )
    dropped = sum(map(len, repeated.values()))
    facts = {
        "pages_failed": reader.failed,
        "repeated_lines": dropped,
        "characters_off_page": reader.off_page,
        "comments_left_out": reader.comments,
    }
    metadata = {"pages": count, **properties, **{key: value for key, value in facts.items() if value}}
    title = "" if _MADE_UP_TITLE.fullmatch(title) else title
    return Parsed(builder.text(), title, tuple(spans), "application/pdf", metadata)


_SAVE_AGAIN = "the file seems damaged: open it in a PDF viewer and print or save it as a new PDF"


def open_pdf(data: bytes) -> PdfDocument:
    """The caller holds LOCK and closes it. Raises ParseError when it is none, damaged or encrypted."""
    from pypdfium2 import PdfDocument, PdfiumError

    if b"%PDF-" not in data[:1024]:
        raise ParseError("not a PDF, whatever its name says", advice="give the file the extension of what it is")
    endless = len(_STREAM.findall(data)) - data.count(b"endstream")
    if endless * len(data) > MAX_SEARCHED_BYTES:
        raise ParseError(f"damaged PDF: {endless:,} streams without an end", advice=_SAVE_AGAIN)
    try:
        return PdfDocument(data)
    except PdfiumError as error:
        if "password" in str(error).lower():
            raise ParseError("the PDF is encrypted", advice="save a copy without a password") from error
        raise ParseError(f"damaged PDF: {said(error)}", advice=_SAVE_AGAIN) from error


def _properties(document: PdfDocument) -> dict[str, object]:
    found: dict[str, object] = {}
    if author := _cleaned(document.get_metadata_value("Author"))[:MAX_TITLE_CHARS]:
        found["author"] = author
    for key, name in (("created", "CreationDate"), ("modified", "ModDate")):
        if date := _DATE.match(document.get_metadata_value(name)):
            found[key] = "-".join(filter(None, date.groups()))
    return found


# ---- pages into lines ------------------------------------------------------------------------------------------------


class _Reader:
    """Reads pages and notes what is wrong with them."""

    def __init__(self) -> None:
        self.failed: list[int] = []
        self.off_page = 0
        self.comments = 0
        self._chars = 0

    def page(self, document: PdfDocument, number: int) -> _Page:
        """The lines of a page in reading order; a page that cannot be read is empty, and noted."""
        from pypdfium2 import PdfiumError

        try:
            with closing(document[number - 1]) as page, closing(page.get_textpage()) as textpage:
                shown = page.get_bbox()
                lines = [*self._lines(textpage, shown)]
                typed = [*self._typed(page)]
                # What counts is how the text runs, not how the page is shown: a table may lie on its side.
                way = Counter(line.way for line in lines).most_common(1)[0][0] if lines else 0
                turn = 180 if page.get_rotation() == 180 and not way else way
        except PdfiumError:
            self.failed.append(number)
            return _Page([], 0, 0)
        _, low, _, high = _turned(shown, turn)
        edge = EDGE * (high - low)
        return _Page(_in_reading_order([_upright(line, turn) for line in lines]), low + edge, high - edge, typed)

    def _lines(self, textpage: Any, shown: Box) -> Iterator[_Line]:
        """The lines in the order of the file, without the characters that lie off the part of the page shown."""
        from pypdfium2.raw import FPDFText_GetUnicode

        count = textpage.count_chars()
        self._count(count)
        codes = [FPDFText_GetUnicode(textpage, index) for index in range(count)]
        for first, end in pairwise([0, *_line_ends(codes), count]):
            inked = [index for index in range(first, end) if codes[index] not in _BLANKS]
            if not all(_is_inside(textpage.get_charbox(index), shown) for index in {*inked[:1], *inked[-1:]}):
                kept = [index for index in inked if _is_inside(textpage.get_charbox(index), shown)]
                self.off_page += len(inked) - len(kept)
                inked = kept
                first, end = (kept[0], kept[-1] + 1) if kept else (0, 0)  # noqa: PLW2901  (what is left of the line)
            if inked:
                text = "".join(chr(code) if code < 0x110000 else "\ufffd" for code in codes[first:end])
                text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # it gives pairs singly
                begin = first + len(text) - len(text.lstrip())
                yield _boxed(textpage, text.strip(), inked[0], inked[-1])._replace(begin=begin)

    def _typed(self, page: Any) -> Iterator[_Line]:
        """Values of form fields behind their names, and text that was typed onto the page; not what nobody sees."""
        from pypdfium2.raw import FPDFPage_CloseAnnot, FPDFPage_GetAnnot, FPDFPage_GetAnnotCount

        for index in range(min(FPDFPage_GetAnnotCount(page), MAX_ANNOTATIONS)):
            if annotation := FPDFPage_GetAnnot(page, index):
                text = self._annotated(annotation)
                box = _box_of(annotation)
                FPDFPage_CloseAnnot(annotation)
                self._count(len(text))
                yield from [_Line(text, *box, box[1])] if text else []

    def _annotated(self, annotation: Any) -> str:
        from pypdfium2.raw import FPDFAnnot_GetFlags, FPDFAnnot_GetSubtype

        kind = FPDFAnnot_GetSubtype(annotation)
        if FPDFAnnot_GetFlags(annotation) & _UNSEEN:
            return ""
        if kind == _FIELD and not _number_in(annotation, b"Ff") & _PASSWORD:
            value, name = (" ".join(_string_in(annotation, key).split()) for key in (b"V", b"T"))
            return "" if value in {"", "Off"} else f"{name}: {value}" if name else value
        text = _string_in(annotation, b"Contents").strip() if kind in {_TYPED, *_COMMENTS} else ""
        self.comments += bool(text) and kind != _TYPED
        return text if kind == _TYPED else ""

    def _count(self, chars: int) -> None:
        self._chars += chars
        if chars > MAX_PAGE_CHARS or self._chars > 10 * MAX_PAGE_CHARS:
            raise ParseError(f"{chars:,} characters on a page, {self._chars:,} by then", advice="split the PDF")


# Kinds of annotations, their flags, and one of form fields, by number (ISO 32000-1, 12.5.3, 12.5.6 and 12.7.4.3).
_TYPED, _FIELD = 3, 20
_COMMENTS = {1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
_UNSEEN = 2 | 32  # hidden, not to be viewed
_PASSWORD = 1 << 13


def _string_in(annotation: Any, key: bytes) -> str:
    from pypdfium2.raw import FPDFAnnot_GetStringValue

    size = FPDFAnnot_GetStringValue(annotation, key, None, 0)  # in bytes of UTF-16, with a NUL at the end
    buffer = (c_ushort * (size // 2))()
    FPDFAnnot_GetStringValue(annotation, key, buffer, size)
    return bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")


def _number_in(annotation: Any, key: bytes) -> int:
    from pypdfium2.raw import FPDFAnnot_GetNumberValue

    value = c_float()
    is_there = FPDFAnnot_GetNumberValue(annotation, key, byref(value))
    return int(value.value) if is_there and abs(value.value) < 2**31 else 0


def _box_of(annotation: Any) -> Box:
    from pypdfium2.raw import FS_RECTF, FPDFAnnot_GetRect

    box = FS_RECTF()
    FPDFAnnot_GetRect(annotation, byref(box))
    return min(box.left, box.right), min(box.bottom, box.top), max(box.left, box.right), max(box.bottom, box.top)


def _is_inside(box: Box, shown: Box) -> bool:
    return box[0] < shown[2] and box[2] > shown[0] and box[1] < shown[3] and box[3] > shown[1]


def _line_ends(codes: list[int]) -> Iterator[int]:
    """Where lines end: after line feeds, and after a hyphen that cuts a word, for which PDFium puts no line feed."""
    return (index + 1 for index, code in enumerate(codes) if code in {10, 13, _HYPHEN})


def _boxed(textpage: Any, text: str, first: int, last: int) -> _Line:
    from pypdfium2.raw import FPDFText_GetCharOrigin

    begin, end = textpage.get_charbox(first), textpage.get_charbox(last)
    left, bottom, right, top = (
        min(begin[0], end[0]),
        min(begin[1], end[1]),
        max(begin[2], end[2]),
        max(begin[3], end[3]),
    )
    x, y = c_double(), c_double()
    FPDFText_GetCharOrigin(textpage, first, byref(x), byref(y))
    way = (90 if end[1] > begin[1] else 270) if top - bottom > right - left and len(text) > 2 else 0
    return _Line(text, left, bottom, right, top, y.value if not way else x.value, way)


def _upright(line: _Line, turn: int) -> _Line:
    """The line on a page that was turned until most of its text reads from left to right."""
    left, bottom, right, top = _turned((line.left, line.bottom, line.right, line.top), turn)
    base = {90: -line.base, 180: -line.base}.get(turn, line.base) if line.way in {turn, turn % 180} else bottom
    return _Line(line.text, left, bottom, right, top, base, (line.way - turn) % 180, line.begin)


def _turned(box: Box, turn: int) -> Box:
    """A box on a page that is turned clockwise by so many degrees."""
    left, bottom, right, top = box
    if turn == 90:
        return bottom, -right, top, -left
    if turn == 180:
        return -right, -top, -left, -bottom
    return (-top, left, -bottom, right) if turn == 270 else (left, bottom, right, top)


def _in_reading_order(lines: list[_Line]) -> list[_Line]:
    """Runs of lines in the order of the file, but none before a run that stands above it in the same column."""
    runs: list[list[_Line]] = []
    for line in lines:
        if runs and runs[-1][-1].is_above(line):
            runs[-1].append(line)
        else:
            runs.append([line])
    if len(runs) > MAX_RUNS:
        return lines
    boxes = [_Line("", *_around(run), 0) for run in runs]
    waiting = [{index for index, box in enumerate(boxes) if box.is_above(one) and box is not one} for one in boxes]
    left = dict.fromkeys(range(len(runs)))
    ordered: list[_Line] = []
    while left:
        chosen = next((index for index in left if not waiting[index] & left.keys()), next(iter(left)))
        del left[chosen]
        ordered += runs[chosen]
    return ordered


def _around(run: list[_Line]) -> Box:
    return (
        min(line.left for line in run), min(line.bottom for line in run),
        max(line.right for line in run), max(line.top for line in run),
    )  # fmt: skip


# ---- running heads and feet ------------------------------------------------------------------------------------------


def _repeated(pages: list[_Page]) -> dict[int, set[int]]:
    """Index of a page -> indices of its lines that repeat one on an earlier page, but for the number of the page."""
    where: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for index, page in enumerate(pages):
        for position in filter(lambda position: len(page.lines[position].text) <= MAX_RUNNING_CHARS, _edge_lines(page)):
            for key in _readings(page.lines[position].text, index):
                where.setdefault((page.lines[position].base < page.low, *key), []).append((index, position))
    repeated: dict[int, set[int]] = {}
    for places in where.values():
        if len({index for index, _ in places}) >= MIN_REPEATS:
            for index, position in places:
                if index != places[0][0] or not any(map(str.isalpha, pages[index].lines[position].text)):
                    repeated.setdefault(index, set()).add(position)
    return {index: found for index, found in repeated.items() if len(found) < len(pages[index].lines)}


def _edge_lines(page: _Page) -> Iterable[int]:
    by_height = sorted(range(len(page.lines)), key=lambda position: page.lines[position].base)
    low = [position for position in by_height[:EDGE_LINES] if page.lines[position].base < page.low]
    high = [position for position in by_height[-EDGE_LINES:] if page.lines[position].base > page.high]
    return {*low, *high}


def _readings(text: str, page: int) -> Iterator[tuple[object, ...]]:
    """What a line may have in common with those of other pages: each number in it is fixed, or counts the pages."""
    words = tuple(" ".join(text.split()).split(" "))
    pieces = _NUMBER.split(" ".join(words))
    numbers = [int(number) for number in _NUMBER.findall(" ".join(words))]
    if len(numbers) > 3:
        numbers, pieces = [], [" ".join(words)]
    for counted in product((False, True), repeat=len(numbers)):
        shown = tuple(number - page if counts else number for number, counts in zip(numbers, counted, strict=True))
        yield (*pieces, counted, shown)


# ---- lines into text -------------------------------------------------------------------------------------------------


def _pieces(page: _Page, repeated: Iterable[int]) -> Iterator[tuple[str, _Line | None]]:
    """The text of a page: lines, and what stands between them, such as a blank line where a paragraph ends."""
    dropped = set(repeated)
    lines = [line for position, line in enumerate(page.lines) if position not in dropped]
    steps = [above.base - below.base for above, below in pairwise(lines) if above.is_above(below)]
    usual = median(steps) if steps else 0
    yield from ((line.text, line) for line in lines[:1])
    for above, below in pairwise(lines):
        yield _between(above, below, usual), None
        yield below.text, below
    for number, line in enumerate(page.typed):
        yield "\n" if number else "\n\n" if lines else "", None
        yield line.text, line


def _between(above: _Line, below: _Line, usual: float) -> str:
    """What stands between two lines: nothing or a space in one broken by an index, a line end, or a blank line."""
    if above.text.endswith("\x02"):
        return ""
    if above.way or below.way:
        return "\n\n" if above.way != below.way else "\n"
    height = min(above.top - above.bottom, below.top - below.bottom)
    gap = below.left - above.right
    if min(above.top, below.top) - max(above.bottom, below.bottom) > height / 2:  # side by side
        return "\n" if gap > 3 * height or gap < -height else " " if gap > height / 4 else ""
    if above.is_above(below):
        return "\n" if above.base - below.base <= PARAGRAPH_GAP * usual else "\n\n"
    return "\n\n" if above.text.endswith(_SENTENCE_ENDS) else "\n"  # in the next column


def _joiner(texts: list[str]) -> Callable[[str], str]:
    """A function that joins the words of a text that were cut at the end of a line.

    Whether the hyphen belongs to the word, the document says: "well-known" stands elsewhere, or "important" does.
    """
    has_cuts = any("\x02" in text for text in texts)
    known = Counter(word for text in texts for word in _WORD.findall(text.lower())) if has_cuts else Counter()

    def join(cut: re.Match[str]) -> str:
        first, second = cut.groups()
        whole, hyphenated = f"{first}{second}", f"{first}-{second}"
        is_compound = not second[:1].islower() or "-" in first
        seen_whole, seen_hyphenated = known[whole.lower()], known[hyphenated.lower()]
        return hyphenated if seen_hyphenated > seen_whole or (is_compound and not seen_whole) else whole

    return lambda text: _SOFT_CUT.sub("", _CUT.sub(join, text))


def _cleaned(text: str) -> str:
    return no_surrogates(_NOISE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))).strip()


# ---- where a text stands ---------------------------------------------------------------------------------------------


def boxes(document: PdfDocument, number: int, text: str, start: int, end: int) -> list[Box]:
    """The places of text[start:end] on a page, a box or more for each line; `text` is the page's, as `parse` gave it.

    Raises ParseError when the page reads otherwise.
    """
    page = _Reader().page(document, number)
    edges = sorted(_edge_lines(page))  # those that other pages have were dropped, and these are not looked at
    tries = chain.from_iterable(combinations(edges, count) for count in range(len(edges) + 1))
    found = (_aligned(_pieces(page, dropped), text) for dropped in tries)
    places = next((each for each in found if each is not None), None)
    if places is None:
        raise ParseError(
            f"page {number} does not read as it did when it was ingested", advice="ingest again: rag ingest --rebuild"
        )
    chosen = groupby(filter(None, places[start:end]), key=lambda place: place[0])
    with opened_page(document, number) as shown, closing(shown.get_textpage()) as textpage:
        return [box for line, each in chosen for box in _parts(textpage, line, [offset for _, offset in each])]


@contextmanager
def opened_page(document: PdfDocument, number: int) -> Iterator[PdfPage]:
    """A page, counted from 1. Raises ParseError where there is none, or none that can be read."""
    from pypdfium2 import PdfiumError

    if number > len(document):
        raise ParseError(f"there is no page {number}, it has {len(document)}", advice="ingest it again")
    try:
        with closing(document[number - 1]) as page:
            yield page
    except PdfiumError as error:
        raise ParseError(f"page {number} cannot be read: {said(error)}", advice=_SAVE_AGAIN) from error


_Place = tuple[_Line, int] | None
"""A line and the offset of a character in it; None for what stands between lines."""


def _aligned(pieces: Iterable[tuple[str, _Line | None]], text: str) -> list[_Place] | None:
    """Where each character of a page's text comes from; None where these are not its pieces.

    What `parse` does to them leaves out characters (cuts of words, noise) and turns a few into others.
    """
    places: list[_Place] = []
    for piece, line in pieces:
        at = len(places)
        if text.startswith(piece, at):
            places += ((line, offset) if line else None for offset in range(len(piece)))
            continue
        for offset, character in enumerate(piece):
            if text.startswith(_KEPT_AS.get(character, character), len(places)):
                places.append((line, offset) if line else None)
            elif not (character.isspace() or character in "\x02\u00ad" or _NOISE.match(character)):
                return None
    return places if len(places) == len(text) else None


_KEPT_AS = {"\r": "\n", chr(_HYPHEN): "-"}


def _parts(textpage: Any, line: _Line, offsets: list[int]) -> Iterator[Box]:
    """The boxes of some characters of a line; none where they are blank. What was typed has one for all."""
    if line.begin < 0:
        yield line.left, line.bottom, line.right, line.top
        return
    indices = _indices(textpage, line)
    inked = [textpage.get_charbox(indices[offset]) for offset in offsets if ord(line.text[offset]) not in _BLANKS]
    inked = [box for box in inked if max(_sides(box)) > 0]
    if not inked:
        return
    far = FAR * max(max(_sides(box)) for box in inked)
    around = last = inked[0]
    for box in inked[1:]:
        wider = _union((around, box))
        if _distance(last, box) > far or min(_sides(wider)) > far:  # a line may have gaps, turn a corner or lean
            yield around
            wider = box
        around, last = wider, box
    yield around


def _sides(box: Box) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


def _distance(one: Box, other: Box) -> float:
    """Between two boxes, along the axis on which it is larger; negative where they overlap on both."""
    return max(max(one[axis], other[axis]) - min(one[axis + 2], other[axis + 2]) for axis in (0, 1))


def _indices(textpage: Any, line: _Line) -> list[int]:
    """PDFium's index of each character of a line; it counts two for a rare one."""
    from pypdfium2.raw import FPDFText_GetUnicode

    found, index = [], line.begin
    for character in line.text:
        found.append(index)
        index += 2 if ord(character) > 0xFFFF and FPDFText_GetUnicode(textpage, index) <= 0xFFFF else 1
    return found


def _union(boxes: Iterable[Box]) -> Box:
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)

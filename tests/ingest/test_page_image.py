"""Pages of PDFs as pictures, with words marked: PDF files written by hand, whose text stands at known places."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parse_pdf import drawn as lines_at
from test_parse_pdf import make_pdf

from ingest.isolate import Limits, ParsingPool
from ingest.parse import Parsed
from ingest.parse.page_image import (
    DRAW,
    FONTS,
    MAX_CHARS,
    MAX_HEIGHT,
    MAX_PIXELS,
    PageImage,
    PageMark,
    draw,
    drawn,
    errand,
)
from ingest.parse.pdf import parse
from retrieval.errors import ParseError

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data")

Rectangle = tuple[float, float, float, float]


def picture(data: bytes, quote: str, *, page: int = 1, width: int = 600) -> PageImage:
    """A page with a quote marked where it first stands on it."""
    return drawn(draw(PurePath("page"), errand(mark(parse(data, ".pdf"), quote, page=page, width=width), data)))


def mark(parsed: Parsed, quote: str, *, page: int = 1, width: int = 600) -> PageMark:
    span = next(span for span in parsed.spans if span.number == page)
    text = parsed.text[span.start : span.end]
    start = text.index(quote)
    return PageMark(page, text, start, start + len(quote), width)


def pixels(image: PageImage) -> list[bytes]:
    """Rows of red, green, blue, ..., from a PNG that is read chunk by chunk and whose checksums are looked at."""
    at, parts = 8, []
    while at < len(image.png):
        (length,) = struct.unpack_from(">I", image.png, at)
        kind, body = image.png[at + 4 : at + 8], image.png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", image.png, at + 8 + length) == (zlib.crc32(kind + body),)
        parts.append((kind, body))
        at += 12 + length
    assert [kind for kind, _ in parts] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *how = struct.unpack(">IIBBBBB", parts[0][1])
    assert (width, height, how) == (image.width, image.height, [8, 2, 0, 0, 0])
    raw = zlib.decompress(parts[1][1])
    assert len(raw) == height * (1 + 3 * width)
    rows = [raw[y * (1 + 3 * width) : (y + 1) * (1 + 3 * width)] for y in range(height)]
    assert {row[0] for row in rows} == {0}
    return [row[1:] for row in rows]


def pixel(rows: list[bytes], x: int, y: int) -> tuple[int, ...]:
    return tuple(rows[y][3 * x : 3 * x + 3])


def marked(data: bytes, quote: str, *, page: int = 1, width: int = 600) -> set[tuple[int, int]]:
    """(x, y) of every pixel that the mark changed: the picture is compared with one that has none."""
    parsed = parse(data, ".pdf")
    wanted = mark(parsed, quote, page=page, width=width)
    with_it, without = (
        pixels(drawn(draw(PurePath("page"), errand(each, data))))
        for each in (wanted, replace(wanted, end=wanted.start))
    )
    return {
        (x, y)
        for y, (one, other) in enumerate(zip(with_it, without, strict=True))
        if one != other
        for x in range(len(one) // 3)
        if one[3 * x : 3 * x + 3] != other[3 * x : 3 * x + 3]
    }


def around(found: set[tuple[int, int]]) -> Rectangle:
    xs, ys = zip(*found, strict=True)
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def close(found: Rectangle, expected: Rectangle, *, within: float = 3.0) -> bool:
    return all(abs(one - other) <= within for one, other in zip(found, expected, strict=True))


# "two" in "one two three", Helvetica of 12 points from x = 20: "one " is 556 + 556 + 556 + 278 thousandths wide, "two"
# is 278 + 722 + 556. Its ink reaches from the baseline to the top of the t, 0.67 of the size.
LEFT, RIGHT, BASE, TOP = 20 + 12 * 1.946, 20 + 12 * (1.946 + 1.556), 700.0, 708.0


def test_the_pixels_of_the_words_are_tinted_and_no_others():
    found = marked(make_pdf("one two three"), "two")
    left, top, right, bottom = around(found)
    assert close((left, top, right, bottom), (LEFT, 800 - TOP, RIGHT, 800 - BASE))
    assert found == {(x, y) for x in range(left, right) for y in range(top, bottom)}


def test_the_mark_is_yellow_and_letters_stay_dark():
    rows = pixels(picture(make_pdf("one two three"), "two"))
    inside = [pixel(rows, x, y) for y in range(93, 99) for x in range(45, 61)]
    assert max(inside) == (255, 238, 153)
    assert min(sum(each) for each in inside) < 200
    assert pixel(rows, 50, 50) == (255, 255, 255)


def test_marked_encloses_the_marks():
    data = make_pdf("one two three")
    image = picture(data, "two")
    shares = (side / size for side, size in zip(around(marked(data, "two")), (600, 800, 600, 800), strict=True))
    assert image.marked == pytest.approx(tuple(shares), abs=1e-4)
    assert picture(data, " ").marked is None


# A word at (x, y) of a page that is 300 by 400 of a 600 by 800 sheet, its lower left corner at (10, 350).
_X, _Y, _RIGHT, _TOP = LEFT - 10, BASE - 350, RIGHT - 10, TOP - 350


@pytest.mark.parametrize(
    ("rotate", "expected"),
    [
        (0, (_X, 400 - _TOP, _RIGHT, 400 - _Y)),
        (90, (_Y, _X, _TOP, _RIGHT)),
        (180, (300 - _RIGHT, _Y, 300 - _X, _TOP)),
        (270, (400 - _TOP, 300 - _RIGHT, 400 - _Y, 300 - _X)),
    ],
)
def test_turned_and_cropped_pages(rotate, expected):
    data = make_pdf("one two three", page=b"/CropBox[10 350 310 750]/Rotate %d" % rotate)
    found = marked(data, "two", width=400 if rotate in {90, 270} else 300)  # a pixel a point
    assert close(around(found), expected)


def test_a_picture_is_as_wide_as_asked():
    data = make_pdf("one two three")
    image = picture(data, "two", width=1200)
    assert (image.width, image.height) == (1200, 1600)
    assert close(around(marked(data, "two", width=1200)), (2 * LEFT, 2 * (800 - TOP), 2 * RIGHT, 2 * 100), within=5)


@given(
    places=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30)), min_size=1, max_size=25, unique=True),
    chosen=st.integers(0, 24),
)
@settings(max_examples=25, deadline=None)
def test_a_word_is_found_wherever_it_is_drawn(places, chosen):
    """Words in any order all over a page, each at its own place of a grid: columns, gaps and steps back."""
    words = [f"w{100 + number}" for number in range(len(places))]
    spots = [(20 + 60 * column, 40 + 24 * row) for column, row in places]
    data = make_pdf(lines_at(*((word, x, y) for word, (x, y) in zip(words, spots, strict=True))))
    which = chosen % len(words)
    x, y = spots[which]
    assert close(around(marked(data, words[which])), (x, 800 - y - 9, x + 12 * 2.39, 800 - y))


def test_each_line_of_a_quote_is_marked_and_not_what_is_between():
    data = make_pdf(lines_at(("alpha beta", 20, 700), ("gamma delta", 20, 660)))
    found = marked(data, "beta\ngamma")
    first, second = {place for place in found if place[1] < 110}, {place for place in found if place[1] > 120}
    assert first | second == found
    assert around(first)[0] > 45 > around(second)[0]


def test_a_word_that_was_cut_at_the_end_of_a_line():
    data = make_pdf(lines_at(("we have impor-", 20, 700), ("tant news", 20, 685)))
    assert parse(data, ".pdf").text == "we have important news"
    found = around(marked(data, "important"))
    assert close(found, (20, 91, 20 + 12 * 6.67, 115), within=4)
    assert around(marked(data, "news"))[1] > 104


def test_running_heads_that_were_dropped():
    pages = [lines_at(("The Annual Report", 20, 780), (f"chapter {name}", 20, 700)) for name in "abcd"]
    data = make_pdf(*pages)
    parsed = parse(data, ".pdf")
    assert parsed.metadata["repeated_lines"] == 3
    assert 85 < around(marked(data, "chapter c", page=3))[1] < 95
    assert 5 < around(marked(data, "Annual"))[1] < 15


def test_a_gap_within_a_line_is_not_marked():
    data = make_pdf("BT /F1 12 Tf 20 700 Td (left) Tj 400 0 Td (right) Tj ET")
    quote = parse(data, ".pdf").text
    found = marked(data, quote)
    assert {x for x, _ in found if 60 < x < 400} == set()
    assert {x for x, _ in found if x < 60}
    assert {x for x, _ in found if x > 400}


def test_what_was_typed_onto_the_page_is_marked_as_a_whole():
    note = b"/Annots[<</Type/Annot/Subtype/FreeText/Rect[100 200 300 250]/Contents(a typed note)>>]"
    data = make_pdf("printed", page=note)
    assert parse(data, ".pdf").text == "printed\n\na typed note"
    assert close(around(marked(data, "typed")), (100, 550, 300, 600), within=10)


def test_fields_of_a_form_show_what_was_filled_in():
    field = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(Name)/V(MMMMMM)/DA(/F1 12 Tf 0 g)/Rect[100 200 300 220]>>"
    form = b"/Resources<</Font<</F1 3 0 R>>>>/AcroForm<</Fields[%s]/DA(/F1 12 Tf 0 g)/DR<</Font<</F1 3 0 R>>>>>>"
    data = make_pdf("printed", page=b"/Annots[20 0 R]").replace(b"/Pages 2 0 R", b"/Pages 2 0 R" + form % b"20 0 R")
    data = data.replace(b"xref", b"20 0 obj" + field + b" endobj\nxref", 1)
    rows = pixels(picture(data, "MMMMMM"))
    assert min(pixel(rows, x, y)[0] for x in range(100, 160) for y in range(580, 600)) < 100
    assert close(around(marked(data, "MMMMMM")), (100, 580, 300, 600), within=5)


def chinese_pdf(*texts: str) -> bytes:
    """Lines in a font that the file does without, as many from China do; a character is 20 points wide."""
    shown = "".join(f"<{text.encode('utf-16-be').hex()}> Tj T* " for text in texts)
    data = make_pdf(f"BT /F1 20 Tf 30 TL 100 700 Td {shown} ET")
    font = (
        b"<</Type/Font/Subtype/Type0/BaseFont/STSong-Light/Encoding/UniGB-UTF16-H/DescendantFonts[<</Type/Font"
        b"/Subtype/CIDFontType0/BaseFont/STSong-Light/CIDSystemInfo<</Registry(Adobe)/Ordering(GB1)/Supplement 4>>"
        b"/DW 1000>>]>>"
    )
    return data.replace(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>", font)


def test_chinese():
    data = chinese_pdf("老茶馆位于运河边，早上六点开门。", "店主姓周，只卖龙井茶。")
    text = parse(data, ".pdf").text
    assert text == "老茶馆位于运河边，早上六点开门。\n店主姓周，只卖龙井茶。"
    left, top, right, bottom = around(marked(data, "龙井茶"))
    assert close((left, right), (100 + 7 * 20, 100 + 10 * 20), within=6)  # seven characters stand before it
    assert 110 <= top < bottom <= 140  # the second line


def test_pages_of_absurd_size():
    for box in ("14400 14400", "1 14400", "14400 1", "9999999 3"):
        data = make_pdf("x").replace(b"0 0 600 800", b"0 0 " + box.encode())
        image = drawn(draw(PurePath("page"), errand(PageMark(1, "", 0, 0, 2000), data)))
        assert 1 <= image.width <= 2000
        assert 1 <= image.height <= MAX_HEIGHT
        assert image.width * image.height <= MAX_PIXELS


@pytest.mark.parametrize(
    ("wanted", "data", "said"),
    [
        (PageMark(1, "something else", 0, 4, 600), make_pdf("one"), "does not read as it did"),
        (PageMark(1, "one and more", 0, 3, 600), make_pdf("one"), "does not read as it did"),
        (PageMark(2, "one", 0, 3, 600), make_pdf("one"), "cannot be read|does not read|no page 2"),
        (PageMark(2, "", 0, 0, 600), make_pdf("one"), "no page 2"),
        (PageMark(1, "", 0, 0, 600), b"no PDF", "not a PDF"),
        (PageMark(1, "", 0, 0, 600), b"%PDF-1.4 <<<<", "damaged"),
    ],
    ids=["other text", "more text", "marked page 2", "page 2", "no pdf", "damaged"],
)
def test_what_cannot_be_drawn_says_why(wanted, data, said):
    with pytest.raises(ParseError, match=said):
        draw(PurePath("page"), errand(wanted, data))


def test_only_pictures_are_taken():
    sound = draw(PurePath("page"), errand(PageMark(1, "one", 0, 3, 200), make_pdf("one")))
    assert drawn(sound).width == 200
    for damaged in (
        replace(sound, text="not base64!"),
        replace(sound, text="aGVsbG8="),
        replace(sound, metadata={}),
        replace(sound, metadata={**sound.metadata, "marked": ["a", 0, 0, 0]}),
        replace(sound, metadata={**sound.metadata, "marked": [0.5]}),
    ):
        with pytest.raises(ParseError, match="no picture"):
            drawn(damaged)


# ---- real and hostile files, through a worker ------------------------------------------------------------------------


@cache
def files(folder: str) -> list[Path]:
    root = DATA / "files" / folder
    if not root.is_dir():
        pytest.skip(f"no files/{folder} below {DATA} (set RAG_TEST_DATA)")
    return sorted(path for path in root.rglob("*.pdf") if path.is_file())


def results(*tasks: tuple[PageMark, bytes]) -> list[Parsed | ParseError]:
    limits = Limits(20.0, 1 << 30, MAX_CHARS)
    with ParsingPool(workers=1, limits=limits, parse=DRAW, readable=FONTS) as pool:
        return [found[-1][1] for _, found in pool.parse_files((None, "page", errand(*task)) for task in tasks)]


def test_hostile_files_give_a_picture_or_a_reason_and_the_next_one_is_drawn():
    good = make_pdf("one two three")
    found = results(
        *((PageMark(1, "", 0, 0, 1000), path.read_bytes()) for path in files("hostile")),
        (mark(parse(good, ".pdf"), "two"), good),
    )
    assert all(each.reason if isinstance(each, ParseError) else drawn(each).png for each in found)
    assert isinstance(found[-1], Parsed)


def test_real_files_are_drawn_with_what_was_read_from_them():
    """The text comes from workers that see no fonts, as when documents are ingested; pictures from those that do."""
    paths = files("messy")[::3]
    with ParsingPool(workers=1, limits=Limits()) as pool:
        read = [found[0][1] for _, found in pool.parse_files((None, path.name, path.read_bytes()) for path in paths)]
    tasks = [
        (PageMark(span.number, parsed.text[span.start : span.end], 0, min(40, span.end - span.start), 300), path)
        for path, parsed in zip(paths, read, strict=True)
        if isinstance(parsed, Parsed) and parsed.media_type == "application/pdf"
        for span in parsed.spans[:1]
        if span.start < span.end
    ]
    found = results(*((wanted, path.read_bytes()) for wanted, path in tasks))
    refused = [path.name for (_, path), each in zip(tasks, found, strict=True) if isinstance(each, ParseError)]
    assert len(refused) <= len(tasks) / 50
    pictures = [drawn(each) for each in found if isinstance(each, Parsed)]
    assert sum(image.marked is None for image in pictures) <= len(tasks) / 50


def test_a_worker_may_read_the_folders_it_was_given_and_no_others(tmp_path):
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with ParsingPool(
        workers=1, limits=Limits(), parse="test_page_image.peek", readable=[str(tmp_path / "open")]
    ) as pool:
        asked = [(None, "x", str(tmp_path / name / "file").encode()) for name in ("open", "shut")]
        (_, ((_, seen),)), (_, ((_, hidden),)) = pool.parse_files(asked)
    assert isinstance(seen, Parsed)
    assert seen.text == "open"
    assert isinstance(hidden, Parsed)
    assert hidden.text in {"refused", "shut"}  # the latter where the kernel has no Landlock


def peek(_path: PurePath, data: bytes) -> Parsed:
    try:
        return Parsed(Path(data.decode()).read_text(encoding="utf-8"))
    except OSError:
        return Parsed("refused")

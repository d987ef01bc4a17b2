"""PDF files written by hand, object by object."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse.pdf import parse
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from ingest.parse import Parsed


def line(text: str, x: int = 20, y: int = 700) -> str:
    """Drawing a line of Helvetica, 12 points high, at a place."""
    return f"BT /F1 12 Tf {x} {y} Td ({text}) Tj ET"


def make_pdf(*pages: str, info: bytes = b"", trailer: bytes = b"", page: bytes = b"") -> bytes:
    """A PDF whose pages are one line of text each, or what is drawn on them."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in enumerate(pages):
        stream = (text if text.startswith(("BT", "q ")) else line(text)).encode("latin-1")
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]%s/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>"
            % (page, 5 + 2 * number)
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


def drawn(*lines: tuple[str, int, int]) -> str:
    return " ".join(line(*one) for one in lines)


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


def test_what_is_typed_into_a_form_or_onto_a_page_stands_below_its_text():
    annotations = [
        b"/Widget/FT/Tx/T(Name)/V(Ann  Lee)",
        b"/Widget/FT/Btn/T(Agreed)/V/Yes",
        b"/Widget/FT/Btn/T(Other)/V/Off",
        b"/Widget/FT/Tx/V(no name)/Ff 1e99",
        b"/Widget/FT/Tx/T(Secret)/V(hidden)/Ff 8192",
        b"/Widget/FT/Tx/T(Unseen)/V(hidden)/F 2",
        b"/FreeText/Contents(typed here)",
        b"/Text/Contents(a comment)",
        b"/Link/Contents(a link)",
    ]
    listed = b"".join(b"<</Type/Annot/Subtype%s/Rect[0 0 9 9]>>" % each for each in annotations)
    parsed = read(make_pdf("Form", page=b"/Annots[%s]" % listed))
    assert parsed.text == "Form\n\nName: Ann Lee\nAgreed: Yes\nno name\ntyped here"
    assert parsed.metadata == {"pages": 1, "comments_left_out": 1}
    assert [(s.start, s.end) for s in parsed.spans] == [(0, len(parsed.text))]


def test_streams_without_an_end_are_not_looked_for_again_and_again():
    with pytest.raises(ParseError, match="50,000 streams without an end"):  # 4 MB of them took 60 s and more
        read(make_pdf("text") + b"9 0 obj<</Length 9>>\nstream\n(x) Tj endobj\n" * 50_000)
    stream = "BT /F1 12 Tf 20 700 Td (a stream and a stream) Tj ET\n" * 20_000
    assert "a stream and a stream" in read(make_pdf(stream)).text


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


def test_author_and_dates():
    info = b"/Title(Microsoft Word - draft.doc)/Author(Ann)/CreationDate(D:20240102030405Z)/ModDate(D:2024)"
    parsed = read(make_pdf("text", info=info))
    assert parsed.title == ""
    assert parsed.metadata == {"pages": 1, "author": "Ann", "created": "2024-01-02", "modified": "2024"}


def test_paragraphs_are_parted_where_lines_are():
    lines = [("One one.", 20, 700), ("one more.", 20, 686), ("Two", 20, 650), ("two.", 20, 636), ("two.", 20, 622)]
    assert read(make_pdf(drawn(*lines))).text == "One one.\none more.\n\nTwo\ntwo.\ntwo."


def test_columns_are_read_one_after_the_other():
    left = [(f"left {n}", 20, 700 - 14 * n) for n in range(4)]
    right = [(f"right {n}", 320, 700 - 14 * n) for n in range(4)]
    text = "left 0\nleft 1\nleft 2\nleft 3\nright 0\nright 1\nright 2\nright 3"
    assert read(make_pdf(drawn(*left, *right))).text == text


def test_what_stands_above_is_read_first_and_a_foot_last():
    body = [(f"a line of text, the {n} of them all.", 20, 600 - 14 * n) for n in range(5)]
    foot, head = ("the foot of the page", 20, 40), ("The title of all of it", 20, 700)
    lines = read(make_pdf(drawn(foot, *body, head))).text.split("\n")
    assert lines[0] == "The title of all of it"
    assert lines[-1] == "the foot of the page"
    assert [line for line in lines if line.startswith("a line")] == [text for text, _, _ in body]


def test_running_heads_and_page_numbers_are_dropped_after_the_first():
    pages = [
        drawn(("Annual report", 20, 770), (f"Content number {n * n + 7}", 20, 400), (f"Page {n} of 5", 20, 30))
        for n in range(1, 6)
    ]
    parsed = read(make_pdf(*pages))
    assert [parsed.text[s.start : s.end].split() for s in parsed.spans] == [
        ["Annual", "report", "Content", "number", "8", "Page", "1", "of", "5"],
        *(["Content", "number", str(n * n + 7)] for n in range(2, 6)),
    ]
    assert parsed.metadata["repeated_lines"] == 8


def test_bare_page_numbers_are_dropped_and_other_numbers_kept():
    pages = [
        drawn((f"{total}.00", 20, 770), ("text", 20, 400), (str(n), 20, 30)) for n, total in enumerate((9, 4, 7, 9), 8)
    ]
    parsed = read(make_pdf(*pages))
    assert " ".join(parsed.text.split()) == "9.00 text 4.00 text 7.00 text 9.00 text"


def test_pages_of_nothing_but_a_running_line_keep_it():
    assert read(make_pdf("Card 1", "Card 2", "Card 3", "Card 3")).text.split("\n\n") == [
        "Card 1",
        "Card 2",
        "Card 3",
        "Card 3",
    ]


def test_words_cut_at_the_end_of_a_line_are_joined():
    lines = [
        ("An impor-", 20, 700),
        ("tant and well-", 20, 686),
        ("known fact of Bose-", 20, 672),
        ("Einstein: well-known state-of-the-", 20, 658),
        ("art things.", 20, 644),
    ]
    text = "An important and well-known fact of Bose-Einstein: well-known state-of-the-art things."
    assert read(make_pdf(drawn(*lines))).text == text


def test_text_that_lies_on_its_side_is_read_as_it_runs():
    sideways = "BT /F1 12 Tf 0 1 -1 0 {} 100 Tm ({}) Tj ET".format
    page = " ".join(sideways(100 + 14 * n, text) for n, text in enumerate(["first line", "second line", "third line"]))
    for turned in (b"", b"/Rotate 90"):
        assert read(make_pdf(page, page=turned)).text == "first line\nsecond line\nthird line"


def test_text_beside_the_page_is_left_out_and_said():
    parsed = read(make_pdf(drawn(("seen", 20, 700), ("unseen", 900, 700))))
    assert parsed.text == "seen"
    assert parsed.metadata["characters_off_page"] == 6


PLACES = st.tuples(st.integers(0, 500), st.integers(1, 38), st.sampled_from(["word{}", "two words{}", "cut{}-", "{}."]))


@settings(max_examples=60, deadline=None)
@given(st.lists(PLACES, max_size=25, unique_by=lambda place: place[1]))
def test_every_line_is_read_wherever_it_stands(places):
    lines = [("start", 20, 790), *((text.format(number), x, 20 * y) for number, (x, y, text) in enumerate(places))]
    parsed = read(make_pdf(drawn(*lines)))
    written = Counter("".join(text for text, _, _ in lines).replace("-", "").replace(" ", ""))
    assert written <= Counter(parsed.text)

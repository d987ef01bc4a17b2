"""What a file is, told by its content: packages, refusals by name, and texts that only look like something."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.parse.sniff import declared_encoding, packed, written
from retrieval.errors import ParseError


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("names", "suffix", "kind"),
    [
        (["[Content_Types].xml", "word/document.xml"], ".zip", "docx"),
        (["[Content_Types].xml", "ppt/presentation.xml"], "", "pptx"),
        (["[Content_Types].xml", "xl/workbook.xml"], ".docx", "xlsx"),
        (["mimetype", "META-INF/container.xml", "a.opf"], ".zip", "epub"),
        (["mimetype", "content.xml", "META-INF/manifest.xml"], ".odt", "odf"),
        (["word/notes.txt", "a.md"], ".zip", "archive"),
        (["a.md"], ".docx", "archive"),
        ([], ".zip", "archive"),
    ],
)
def test_packages_by_the_names_in_them(names, suffix, kind):
    assert packed(zipped(*names), suffix) == kind


def test_a_damaged_package_goes_to_the_parser_of_its_extension():
    data = zipped("[Content_Types].xml", "word/document.xml")[:-20]
    assert packed(data, ".docx") == "docx"
    assert packed(data, ".zip") == "archive"


def test_compressed_and_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    assert packed(buffer.getvalue(), "") == "archive"
    assert packed(gzip.compress(b"x"), ".md") == "archive"


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0", "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"GIF89a\x01\0\x01\0", "GIF"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "WAV"),
        (b"\0\0\0\x18ftypmp42\0", "MP4"),
        (b"\0\0\0\x18ftypheic\0", "HEIC"),
        (b"MZ\x90\0\x03\0", "Windows program"),
        (b"\x7fELF\x02\x01\x01\0", "ELF"),
        (b"SQLite format 3\0", "SQLite"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "7z"),
        (b"Rar!\x1a\x07\x01\0", "RAR"),
        (b"\x80\x04\x95\0\0", "pickle"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(start, said):
    for suffix in (".pdf", ".txt", ""):
        with pytest.raises(ParseError, match=said) as caught:
            packed(start + bytes(100), suffix)
        assert caught.value.advice


@pytest.mark.parametrize(
    "text",
    ["BM25 is a score", "MZ", "GIF89a is a format", "ID3 tags", "PAR1 file", "BZh", "PDF files begin with %PDF-"],
)
def test_texts_that_begin_like_binaries(text):
    assert packed(text.encode(), ".md") is None


def test_old_microsoft_files_say_what_they_are_and_what_to_do():
    with pytest.raises(ParseError, match="damaged Microsoft file"):
        packed(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000), ".doc")


def test_pdf_with_rubbish_before_it_is_a_pdf_if_its_name_says_so():
    assert packed(b"\r\n%PDF-1.4", "") == "pdf"
    assert packed(b"junk %PDF-1.4", ".pdf") == "pdf"
    assert packed(b"junk %PDF-1.4", ".txt") is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<!DOCTYPE html>", "html"),
        ("\ufeff\n<?xml version='1.0'?>\n<!-- a -->\n<HTML lang='x'>", "html"),
        ("<htmlx>", None),
        ("about <html>", None),
        ("<?xml version='1.0'?><a/>", "markup"),
        ('{"a": [1, 2]}', "structured"),
        ('[{"a": 1}]\n', "structured"),
        ('{"a": 1', None),
        ("[1] A footnote, and another [2]", None),
        ("{}", "structured"),
        ("From: a@b.c\nSubject: x\nMessage-ID: <1>\n\nbody", "mail"),
        ("Received: from x\n by y\nFrom: a@b.c\r\n\r\nbody", "mail"),
        ("From: Ann\nTo: Bob\nSubject: a memo that a person typed\n\nHello", None),
        ("Title: x\nauthor: y\n", None),
    ],
)
def test_texts_by_their_beginning(text, kind):
    assert written(text, loose=True) == kind
    assert written(text, loose=False) == (kind if kind in {"html", "markup"} else None)


def test_declared_encodings():
    assert declared_encoding(b"<?xml version='1.0' encoding='GB2312'?>") == "GB2312"
    assert declared_encoding(b'<meta http-equiv=x content="text/html; charset=Big5">') == "Big5"
    assert declared_encoding(b"<meta charset = 'koi8-r'>") == "koi8-r"
    assert declared_encoding(b"charset=x") == ""


@given(st.binary(max_size=200), st.sampled_from(["", ".pdf", ".docx", ".txt"]))
def test_any_bytes_are_named_refused_or_left_open(data, suffix):
    with suppress(ParseError):
        assert packed(data, suffix) in {None, "pdf", "rtf", "docx", "mail", "archive"}


@given(st.text(alphabet='<!-?xml>html \n{}[]":,1a', max_size=200))
def test_any_text_is_named_or_left_open(text):
    assert written(text, loose=True) in {None, "html", "markup", "structured", "mail"}


@pytest.mark.parametrize(
    "text", ["<!-- " * 200_000, "<?" * 200_000, " " * 1_000_000, "a: b\n" * 200_000, "[" * 200_000]
)
@pytest.mark.timeout(10)
def test_hostile_beginnings_take_no_time(text):
    written(text, loose=True)
    declared_encoding(text.encode())

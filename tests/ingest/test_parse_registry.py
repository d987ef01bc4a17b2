"""The one door to all parsers: which one is chosen, and that nothing but a ParseError comes out."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest.parse import FORMATS, Parsed, parse
from retrieval.errors import ParseError


@pytest.mark.parametrize("name", ["a.md", "A.MD", "x.mdx", "x.rst", "README", "notes.txt", "a.py", "x.yaml", "b.tex"])
def test_text_is_the_decoded_file_unchanged(name):
    text = "\ufeff# Title\r\n\r\nline\rline\n\tcafé 文 \u2028 end \x0c"
    assert parse(Path(name), text.encode()).text == text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.md", b"", "empty"),
        ("a.md", b" \n\t\r\n", "blanks"),
        ("a.md", b"\xef\xbb\xbf\n", "blanks"),
        ("a.bin", b"AB\x00\x01", "binary content"),
        ("a.bin", b"a long line of text and one NUL\0", "binary content, and no parser for '.bin'"),
        ("a.txt", bytes(range(256)) * 4, "binary content"),
        ("a.zip", b"PK\x03\x04\xff", "an archive"),
        ("a.pdf", b"\x00\xfe\x00\x01" * 9, "not a PDF"),
        ("a.pdf", b"%PDF-1.7 rubbish", "damaged PDF"),
        ("a.docx", b"\x00\xfe\x00\x01" * 9, "not a DOCX"),
        ("a.ipynb", b"{", "damaged notebook"),
        ("a.ipynb", b"[" * 200_000, "damaged notebook"),
        ("a.ipynb", b"[1]", "not a notebook"),
        ("a.html", b"<script>1</script>", "blanks"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "a PNG picture"),
    ],
)
def test_bad_files_say_what_and_what_to_do(name, data, reason):
    with pytest.raises(ParseError, match=reason) as caught:
        parse(Path(name), data)
    assert caught.value.advice


def test_texts_reach_their_parser_decoded():
    parsed = parse(Path("a.md"), "# Überschrift\n\nÄpfel und Öl für alle".encode("cp1252"))
    assert (parsed.title, parsed.metadata) == ("Überschrift", {"encoding": "cp1252"})
    parsed = parse(Path("a.py"), "def f():\n    return 'é'\n".encode("utf-16"))
    assert [span.label for span in parsed.spans] == ["def f"]
    assert parsed.metadata == {"encoding": "utf-16-le"}


def test_what_a_page_declares_is_believed_only_where_it_can_be():
    page = '<html><meta charset="{}"><p>Гимназия и латынь'
    assert parse(Path("a.html"), page.format("koi8-r").encode("koi8-r")).metadata["encoding"] == "koi8-r"
    assert parse(Path("a.html"), page.format("koi8-r").encode()).text == "Гимназия и латынь"
    assert parse(Path("a.html"), page.format("zlib").encode("cp1251")).metadata["encoding"] == "cp1251"


@pytest.mark.parametrize(
    ("name", "data", "media_type", "said"),
    [
        ("wrong.pdf", b"%TXT plain text", "text/plain", ".pdf"),
        ("page.txt", b"<!-- x --><!DOCTYPE html><p>hi", "text/html", ".txt"),
        ("page.csv", b"<html><table><tr><td>1</table>", "text/html", ".csv"),
        ("data.txt", b'{"a": 1}', "application/json", ".txt"),
        ("note.docx", b"{\\rtf1 hello}", "application/rtf", ".docx"),
        ("page.html", b"just words", "text/html", None),
        ("page.php", b"<html><?php echo 1 ?>", "text/x-php", None),
        ("unknown.xyz", b"<?xml version='1.0'?><a>1</a>", "application/xml", None),
        ("README", b"BM25 ranks; MZ is no program", "text/plain", None),
    ],
)
def test_content_decides_and_the_difference_is_said(name, data, media_type, said):
    parsed = parse(Path(name), data)
    assert parsed.media_type == media_type
    assert parsed.metadata.get("said_to_be") == said


@pytest.mark.parametrize(
    ("name", "text", "headings"),
    [
        ("a.org", "* One\n** TODO Two :tag:\n*bold* x\n* \n", [(1, "One"), (2, "Two")]),
        ("a.adoc", "= Title\n\n== Part\n\n====\nexample\n====\n=no\n", [(1, "Title"), (2, "Part")]),
        (
            "a.tex",
            "\\title{T}\n\\section*{One {\\it x}}\\label{s}\n  \\subsection[o]{Two}\nsee \\section{no}",
            [(1, "T"), (4, "One {\\it x}"), (5, "Two")],
        ),
        ("a.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\nHi", []),
    ],
)
def test_headings_of_marked_texts(name, text, headings):
    parsed = parse(Path(name), text.encode())
    assert parsed.text == text
    assert [(span.number, span.label) for span in parsed.spans if span.kind == "heading"] == headings
    assert all(span.label in text[span.start : span.end] for span in parsed.spans)


@pytest.mark.parametrize("name", ["a.org", "a.adoc", "a.tex"])
def test_hostile_marked_texts_take_linear_time(name):
    started = time.perf_counter()
    for text in (
        "* " * 500_000,
        "\n*" * 300_000,
        "= " + " " * 500_000 + "x",
        "\\section{" * 100_000,
        "\\title{a}" + "}" * 300_000,
    ):
        parse(Path(name), text.encode())
    assert time.perf_counter() - started < 5


def test_stray_nul_bytes_are_kept_in_text_files():
    assert parse(Path("a.txt"), b"Alpha\0Beta\0 the code is 4417.\0").text == "Alpha\0Beta\0 the code is 4417.\0"


def test_an_unexpected_exception_becomes_a_parse_error(monkeypatch):
    def broken(data: bytes, suffix: str) -> Parsed:
        raise RuntimeError(data, suffix)

    monkeypatch.setattr("ingest.parse.markdown.parse", broken)
    with pytest.raises(ParseError, match="cannot be read as markdown: RuntimeError"):
        parse(Path("a.md"), b"x")


def test_every_format_has_a_module():
    folder = Path(sys.modules["ingest.parse"].__file__).parent
    assert all((folder / f"{module}.py").is_file() for module in FORMATS.values())


def test_registry_imports_no_parser_and_no_library():
    code = (
        "import sys, ingest.parse as p, pathlib; p.parse(pathlib.Path('a.md'), b'x');"
        "print([m for m in sys.modules if m.split('.')[0] in ('docx', 'lxml', 'pypdfium2', 'selectolax', 'json')"
        " or m in ('ingest.parse.html', 'ingest.parse.pdf', 'ingest.parse.docx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

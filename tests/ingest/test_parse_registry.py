"""The one door to all parsers: which one is chosen, and that nothing but a ParseError comes out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ingest.parse import FORMATS, Parsed, parse
from retrieval.errors import ParseError


@pytest.mark.parametrize(
    "name", ["a.md", "A.MD", "x.mdx", "x.rst", "README", "notes.txt", "data.csv", "a.py", "x.yaml"]
)
def test_text_is_the_decoded_file_unchanged(name):
    text = "\ufeff# Title\r\n\r\nline\rline\n\tcafé 文 \u2028 end \x0c"
    assert parse(Path(name), text.encode()).text == text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.md", b"", "empty"),
        ("a.md", b" \n\t\r\n", "blanks"),
        ("a.md", b"\xef\xbb\xbf\n", "blanks"),
        ("a.md", b"ok \xff", "byte 0xff at position 3"),
        ("a.txt", "héllo".encode("utf-16"), "UTF-16 byte order mark"),
        ("a.txt", "hello".encode("utf-16-le"), "binary content"),
        ("a.txt", "中文".encode("gb18030"), "not UTF-8"),
        ("a.bin", b"MZ\x00\x01", "binary content, and no parser for '.bin'"),
        ("a.zip", b"PK\x03\x04\xff", "not UTF-8"),
        ("a.pdf", b"hello", "not a PDF"),
        ("a.pdf", b"%PDF-1.7 rubbish", "damaged PDF"),
        ("a.docx", b"hello", "not a DOCX"),
        ("a.ipynb", b"{", "damaged notebook"),
        ("a.ipynb", b"[" * 200_000, "damaged notebook"),
        ("a.ipynb", b"[1]", "not a notebook"),
        ("a.html", b"<p>caf\xe9", "byte 0xe9 at position 6"),
        ("a.html", b"<script>1</script>", "blanks"),
    ],
)
def test_bad_files_say_what_and_what_to_do(name, data, reason):
    with pytest.raises(ParseError, match=reason) as caught:
        parse(Path(name), data)
    assert caught.value.advice


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

"""Word documents made with python-docx, some spoilt afterwards."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from pathlib import Path

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from ingest.parse import parse
from ingest.parse.docx import MAX_UNPACKED_BYTES
from retrieval.errors import ParseError


def saved(document: object) -> bytes:
    buffer = BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def read(data: bytes):
    return parse(Path("a.docx"), data)


def with_member(data: bytes, name: str, change) -> bytes:
    """The same package with one member changed."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, change(content) if member == name else content)
    return buffer.getvalue()


def test_paragraphs_tables_and_headings_in_order():
    document = docx.Document()
    document.core_properties.title = "The title"
    document.add_heading("Report", 0)
    document.add_paragraph("Before.\tTab")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ["a", "b\nc", "", "d"], strict=True):
        cell.text = text
    document.add_heading("Part", 2)
    document.add_paragraph("After.")
    parsed = read(saved(document))
    assert parsed.text == "Report\n\nBefore.\tTab\n\na | b c\n | d\n\nPart\n\nAfter."
    assert parsed.title == "The title"
    assert [(s.kind, s.number, parsed.text[s.start : s.end]) for s in parsed.spans] == [
        ("heading", 1, "Report"),
        ("table", 0, "a | b c\n | d"),
        ("heading", 2, "Part"),
    ]


def test_changes_controls_and_hidden_text():
    document = docx.Document()
    body = document.element.body
    for xml in (
        "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>",
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        "<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:t>seen</w:t></w:r></w:p>",
        "<w:p><w:pPr><w:outlineLvl w:val='1'/></w:pPr><w:r><w:t>Outlined</w:t></w:r></w:p>",
        "<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val='99999999'/></w:tcPr><w:p><w:r><w:t>wide</w:t></w:r></w:p></w:tc></w:tr></w:tbl>",  # noqa: E501
    ):
        body.insert(len(body) - 1, parse_xml(xml.replace(">", f" {nsdecls('w')}>", 1)))
    parsed = read(saved(document))
    assert parsed.text == "new\n\ncontrol\n\nseen\n\nOutlined\n\nwide"
    assert [(s.kind, s.number, s.label) for s in parsed.spans] == [("heading", 2, "Outlined"), ("table", 0, "")]


def test_without_properties_there_is_no_title():
    document = docx.Document()
    document.add_paragraph("text")
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(saved(document))) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in set(old.namelist()) - {"docProps/core.xml"}:
            new.writestr(member, re.sub(rb"<Relationship [^>]*core\.xml[^>]*/>", b"", old.read(member)))
    assert read(buffer.getvalue()).title == ""


def test_zip_bombs_are_refused_before_unpacking():
    document = docx.Document()
    document.add_paragraph("text")
    bomb = with_member(saved(document), "word/document.xml", lambda _: b" " * 20_000_000)
    with pytest.raises(ParseError, match="zip bomb"):
        read(bomb)
    stored = BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("word/document.xml", b"x")
        archive.filelist[0].file_size = MAX_UNPACKED_BYTES + 1  # what a lying directory claims
    with pytest.raises(ParseError, match="zip bomb"):
        read(stored.getvalue())


def spoilt_with(doctype: str, content: str) -> bytes:
    document = docx.Document()
    document.add_paragraph("MARK")

    def spoil(xml: bytes) -> bytes:
        head, _, rest = xml.partition(b"?>")
        return head + b"?>" + doctype.encode() + rest.replace(b"MARK", content.encode())

    return with_member(saved(document), "word/document.xml", spoil)


def test_entities_are_not_read():
    doctype = '<!DOCTYPE d [<!ENTITY file SYSTEM "file:///etc/passwd">]>'
    assert read(spoilt_with(doctype, "a &file; b")).text == "a  b"


def test_entities_are_not_expanded_without_end():
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    with pytest.raises(ParseError, match="amplification"):
        read(spoilt_with(f'<!DOCTYPE d [<!ENTITY l0 "lol">{entities}]>', "a &l9; b"))


@pytest.mark.parametrize("data", [b"PK\x03\x04 rubbish", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 600, b"text"])
def test_damaged_or_encrypted(data):
    with pytest.raises(ParseError):
        read(data)


def test_broken_xml_is_a_parse_error():
    document = docx.Document()
    document.add_paragraph("text")
    with pytest.raises(ParseError, match="cannot be read as docx"):
        read(with_member(saved(document), "word/document.xml", lambda content: content[:-20]))

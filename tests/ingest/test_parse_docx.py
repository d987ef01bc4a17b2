"""Word documents made with python-docx, some spoilt afterwards."""

from __future__ import annotations

import re
import zipfile
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from ingest.parse import parse
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
    assert parsed.text == "Report\n\nBefore.\tTab\n\n| a | b c |\n|  | d |\n\nPart\n\nAfter."
    assert parsed.title == "The title"
    assert [(s.kind, s.number, parsed.text[s.start : s.end]) for s in parsed.spans] == [
        ("heading", 1, "Report"),
        ("table", 0, "| a | b c |\n|  | d |"),
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


def body_of(*blocks: str) -> docx.document.Document:
    document = docx.Document()
    body = document.element.body
    names = f"{nsdecls('w')} xmlns:m='http://schemas.openxmlformats.org/officeDocument/2006/math'"
    for xml in blocks:
        body.insert(len(body) - 1, parse_xml(xml.replace(">", f" {names}>", 1)))
    return document


def test_properties_are_metadata():
    document = docx.Document()
    document.add_paragraph("text")
    document.core_properties.author = "Ann"
    document.core_properties.created = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    document.core_properties.modified = datetime(2024, 5, 6, tzinfo=UTC)
    facts = {"author": "Ann", "created": "2024-01-02T03:04:05Z", "modified": "2024-05-06T00:00:00Z"}
    assert read(saved(document)).metadata == facts


def test_merged_cells_and_rows_that_start_late():
    cell = "<w:tc><w:tcPr>{}</w:tcPr><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>".format
    down, wide = "<w:vMerge/>", "<w:gridSpan w:val='2'/>"
    rows = [
        cell("", "Fruit") + cell(wide, "2023"),
        cell("", " ") + cell("", "Q1") + cell("", "Q2"),
        cell("<w:vMerge w:val='restart'/>", "pear") + cell("", "1") + cell("", "2"),
        cell(down, "") + cell("", "3") + cell("", "4"),
        "<w:trPr><w:gridBefore w:val='1'/></w:trPr>" + cell("", "5") + cell("", "6"),
    ]
    table = f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>"
    lines = ["| Fruit | 2023 |", "|  | Q1 | Q2 |", "| pear | 1 | 2 |", "| pear | 3 | 4 |", "|  | 5 | 6 |"]
    assert read(saved(body_of(table))).text.split("\n") == lines


def test_a_long_table_repeats_its_caption_and_header():
    document = docx.Document()
    document.add_paragraph("Table 1: Squares", style="Caption")
    table = document.add_table(31, 2)
    for row, (first, second) in zip(table.rows, [("Number", "Square"), *((n, n * n) for n in range(30))], strict=True):
        row.cells[0].text, row.cells[1].text = str(first), str(second)
    document.add_paragraph("A lonely caption", style="Caption")
    document.add_paragraph("end")
    groups = read(saved(document)).text.split("\n\n")
    assert [group.split("\n")[:2] for group in groups[:2]] == [["Table 1: Squares", "| Number | Square |"]] * 2
    assert groups[2:] == ["A lonely caption", "end"]


def test_exponents_and_formulas_say_what_is_seen():
    run = "<m:r><m:t>{}</m:t></m:r>".format
    power = f"<m:sSup><m:e>{run('10')}</m:e><m:sup>{run('-6')}</m:sup></m:sSup>"
    fraction = f"<m:f><m:num>{run('a+b')}</m:num><m:den>{run('2')}</m:den></m:f>"
    limits = f"<m:sub>{run('n=1')}</m:sub><m:sup/>"
    total = f"<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr>{limits}<m:e>{run('x')}</m:e></m:nary>"
    raised = "<w:r><w:rPr><w:vertAlign w:val='superscript'/></w:rPr><w:t>{}</w:t></w:r>".format
    document = body_of(
        f"<w:p><m:oMath>{power}</m:oMath></w:p>",
        f"<w:p><m:oMath>{fraction}{total}<m:d><m:e>{run('y')}</m:e></m:d></m:oMath></w:p>",
        f"<w:p><w:r><w:t>m</w:t></w:r>{raised('2')}<w:r><w:t> 1</w:t></w:r>{raised('st')}</w:p>",
    )
    assert read(saved(document)).text == "10⁻⁶\n\n(a+b)/2∑_(n=1)x(y)\n\nm² 1st"


def test_footnotes_stand_below_their_paragraph_and_comments_are_said():
    document = body_of(
        "<w:p><w:r><w:t>Claim</w:t><w:footnoteReference w:id='2'/></w:r></w:p>", "<w:p><w:r><w:t>end</w:t></w:r></w:p>"
    )
    notes = (
        f"<w:footnotes {nsdecls('w')}><w:footnote w:id='0' w:type='separator'><w:p/></w:footnote>"
        "<w:footnote w:id='2'><w:p><w:r><w:t>Proof</w:t></w:r></w:p></w:footnote></w:footnotes>"
    )
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    link = f'<Relationship Id="x9" Type="{kind}" Target="footnotes.xml"/></Relationships>'.encode()
    data = with_member(
        saved(document), "word/_rels/document.xml.rels", lambda xml: xml.replace(b"</Relationships>", link)
    )
    buffer = BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("word/footnotes.xml", notes)
        archive.writestr("word/comments.xml", "<c/>")
    parsed = read(buffer.getvalue())
    assert parsed.text == "Claim\n\nNote: Proof\n\nend"
    assert parsed.metadata["left_out"] == ["word/comments.xml"]


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


def spoilt_with(doctype: str, content: str) -> bytes:
    document = docx.Document()
    document.add_paragraph("MARK")

    def spoil(xml: bytes) -> bytes:
        head, _, rest = xml.partition(b"?>")
        return head + b"?>" + doctype.encode() + rest.replace(b"MARK", content.encode())

    return with_member(saved(document), "word/document.xml", spoil)


def test_entities_are_not_read():
    doctype = '<!DOCTYPE d [<!ENTITY file SYSTEM "file:///etc/passwd">]>'
    with pytest.raises(ParseError, match="declares entities"):
        read(spoilt_with(doctype, "a &file; b"))


def test_entities_are_not_expanded_without_end():
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    with pytest.raises(ParseError, match=r"damaged XML|declares entities"):
        read(spoilt_with(f'<!DOCTYPE d [<!ENTITY l0 "lol">{entities}]>', "a &l9; b"))


@pytest.mark.parametrize("data", [b"PK\x03\x04 rubbish", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 600])
def test_damaged_or_encrypted(data):
    with pytest.raises(ParseError):
        read(data)


def test_broken_xml_is_a_parse_error():
    document = docx.Document()
    document.add_paragraph("text")
    with pytest.raises(ParseError, match="damaged XML"):
        read(with_member(saved(document), "word/document.xml", lambda content: content[:-20]))


def test_damaged_styles_and_properties_cost_the_headings_and_are_said():
    document = docx.Document()
    document.add_heading("Report")
    data = with_member(saved(document), "word/styles.xml", lambda content: content[:-20])
    parsed = read(with_member(data, "docProps/core.xml", lambda content: content[:-20]))
    assert (parsed.text, parsed.spans, parsed.title) == ("Report", (), "")
    assert parsed.metadata == {"damaged_parts": ["word/styles.xml", "docProps/core.xml"]}

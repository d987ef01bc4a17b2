"""Packages that are damaged, hostile or merely odd."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packages import office, packed, relations

from ingest.parse.package import (
    MAX_CHARS,
    MAX_MEMBERS,
    MAX_UNPACKED_BYTES,
    Package,
    check_length,
    elements,
    parse_xml,
    properties,
    resolve,
)
from ingest.parse.text import TextBuilder
from retrieval.errors import ParseError

BOMB = b" " * 20_000_000


def test_members_are_found_whatever_their_case_and_slashes():
    package = Package(packed({"Word\\Document.XML": "<a/>"}), "DOCX")
    assert "word/document.xml" in package
    assert package.read("word/document.xml") == b"<a/>"
    assert package.names(r"word/.*\.xml") == ["word/document.xml"]


def test_a_missing_member_says_so():
    with pytest.raises(ParseError, match=r"word/document\.xml is missing"):
        Package(packed({"a": "b"}), "DOCX").read("word/document.xml")


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04 rubbish", packed({"a": "b" * 99})[:-9]], ids=range(4))
def test_damaged_packages(data):
    with pytest.raises(ParseError, match="not a DOCX file"):
        Package(data, "DOCX")


def test_a_flipped_byte_is_noticed():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"hello world")
    with pytest.raises(ParseError, match="damaged"):
        Package(buffer.getvalue().replace(b"hello", b"hellO"), "DOCX").read("a")


def test_parts_that_a_document_can_do_without_are_named_where_they_are_damaged():
    package = Package(packed({"a.xml": "<a/>", "b.xml": "<a", "c.xml": BOMB}), "DOCX")
    assert package.optional_xml("a.xml").tag == "a"
    assert [package.optional_xml(name) for name in ("", "b.xml", "gone.xml", "b.xml")] == [None] * 4
    assert package.damaged == ["b.xml", "gone.xml"]
    with pytest.raises(ParseError, match="bomb"):
        package.optional_xml("c.xml")


WHOLE = packed({"a.xml": "<a>text</a>" * 9, "folder/b.xml": "<b/>"})


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=4), st.integers(0, 9))
def test_any_damage_is_a_parse_error(position, put, cut):
    data = WHOLE[:position] + put + WHOLE[position + cut :]
    try:
        package = Package(data, "DOCX")
        read = [package.read(name) for name in package.names(".*")]
    except ParseError:
        return
    assert all(isinstance(content, bytes) for content in read)


def test_a_tightly_packed_member_is_refused_before_it_is_unpacked():
    package = Package(packed({"bomb": b" " * 20_000_000, "ok": b"fine"}), "XLSX")
    with pytest.raises(ParseError, match="zip bomb"):
        package.read("bomb")
    assert package.read("ok") == b"fine"


def test_a_lying_directory_is_believed_at_its_word():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"x")
        archive.filelist[0].file_size = MAX_UNPACKED_BYTES + 1
    with pytest.raises(ParseError, match="zip bomb"):
        Package(buffer.getvalue(), "DOCX").read("a")


def test_what_is_unpacked_in_all_is_limited():
    data = bytes(range(256)) * 4_000  # does not pack a hundredfold
    package = Package(packed({"a": data}), "DOCX")
    for _ in range(MAX_UNPACKED_BYTES // len(data)):
        package.read("a")
    with pytest.raises(ParseError, match="in all"):
        package.read("a")


def test_too_many_members():
    with pytest.raises(ParseError, match="too many members"):
        Package(b"PK\x01\x02" * (MAX_MEMBERS + 1), "DOCX")


def test_encrypted_and_unknown_packing():
    data = bytearray(packed({"a": "b"}))
    entry = data.index(b"PK\x01\x02")
    data[entry + 8] |= 1
    with pytest.raises(ParseError, match="encrypted"):
        Package(bytes(data), "DOCX").read("a")
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", "b")
    with pytest.raises(ParseError, match="packed by method 14"):
        Package(buffer.getvalue(), "DOCX").read("a")


@pytest.mark.parametrize(
    ("base", "target", "member"),
    [
        ("ppt/slides/slide1.xml", "../media/a.png", "ppt/media/a.png"),
        ("ppt/slides/slide1.xml", "/xl/b.xml", "xl/b.xml"),
        ("a/b.opf", "../../../../etc/passwd", "etc/passwd"),
        ("OEBPS/c.opf", "text%20one.html#part", "OEBPS/text one.html"),
        ("", "word/document.xml", "word/document.xml"),
    ],
)
def test_references_stay_in_the_package(base, target, member):
    assert resolve(base, target) == member


def test_relations_and_properties():
    main = {"a/main.xml": "<m/>", "a/_rels/main.xml.rels": relations([("styles", "styles.xml")])}
    package = Package(office("a/main.xml", main, title=" A\n title ", author="Ann"), "DOCX")
    assert package.main_part("usual.xml") == "a/main.xml"
    assert package.relations("a/main.xml") == {"r1": ("styles", "a/styles.xml")}
    assert package.core_properties() == {"title": "A title", "author": "Ann", "created": "2024-01-02T03:04:05Z"}


def test_links_out_of_the_package_are_no_relations():
    outside = relations([("styles", "http://host/x")]).replace("Id=", 'TargetMode="External" Id=')
    assert Package(packed({"_rels/a.xml.rels": outside}), "DOCX").relations("a.xml") == {}


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = [
    '<!DOCTYPE d [<!ENTITY file SYSTEM "file:///etc/passwd">]><d>&file;</d>',
    '<!DOCTYPE d [<!ENTITY % file SYSTEM "file:///etc/passwd"> %file;]><d/>',
    f'<!DOCTYPE d [<!ENTITY l0 "lol">{LAUGHS}]><d>&l9;</d>',
    f'<!DOCTYPE d [<!ENTITY l0 "lol">{LAUGHS}]><d a="&l9;"/>',
    "<d>" * 100_000,
    "<d>&undeclared;</d>",
    "",
    "\0",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_xml_is_refused(text):
    with pytest.raises(ParseError):
        parse_xml(text.encode(), "a.xml")
    with pytest.raises(ParseError):
        list(elements(text.encode(), "a.xml", "d"))


def test_a_plain_doctype_is_no_harm_and_nothing_is_fetched():
    assert parse_xml(b'<!DOCTYPE d SYSTEM "http://127.0.0.1:9/x.dtd"><d>text</d>', "a.xml").text == "text"


def test_strict_office_files_have_the_usual_namespaces():
    root = parse_xml(b'<w:a xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"/>', "a.xml")
    assert root.tag == "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}a"


def test_elements_are_the_same_as_those_of_the_tree():
    data = b"<a xmlns='n'>" + b"".join(b"<r i='%d'><c>%d</c></r>" % (n, n) for n in range(1000)) + b"</a>"
    streamed = [(row.get("i"), row[0].text) for row in elements(data, "a.xml", "r")]
    assert streamed == [(row.get("i"), row[0].text) for row in parse_xml(data, "a.xml")]


def test_properties_take_the_first_text_of_a_name():
    root = parse_xml(b"<a xmlns:d='d'><d:title> </d:title><d:title>One</d:title><d:title>Two</d:title></a>", "a")
    assert properties(root, {"title": "title"}) == {"title": "One"}


def test_too_much_text():
    builder = TextBuilder()
    check_length(builder)
    builder.length = MAX_CHARS + 1
    with pytest.raises(ParseError, match="50,000,000 characters"):
        check_length(builder)

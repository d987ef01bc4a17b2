"""Damaged files through the parsing workers: whatever the bytes, documents or a reason that a person can read.

Files are damaged by a seeded generator, so a failure names the file that shows it again. 150 by default; where
RAG_STRESS is set (`make stress`), 5,000 of real files and as many of small ones made here.
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import test_parse_archive as archives
import test_parse_docx as docx
import test_parse_epub as epub
import test_parse_mail as mail
import test_parse_odf as odf
import test_parse_pdf as pdf
import test_parse_pptx as pptx
import test_parse_xlsx as xlsx
from packages import check_reason, check_spans
from test_parse_properties import DATA

from ingest.isolate import Limits, ParsingPool, Result
from ingest.parse import Parsed

IS_STRESS = bool(os.environ.get("RAG_STRESS"))
BATCHES, BATCH_FILES = (25, 200) if IS_STRESS else (1, 75)
MAX_BYTES = 1_000_000  # that repetition may make of a file

File = tuple[str, bytes]
"""A name, of which the extension counts, and content."""
Change = Callable[[Random, bytes, bytes], bytes]
"""Bytes in, bytes out; the second bytes are those of another file."""


# ---- files to damage -------------------------------------------------------------------------------------------------


def made_files() -> list[File]:
    """One small file of each format, and of each of its odder parts."""
    words = "The cat sat on the mat. "
    outline = [
        '<text:h text:outline-level="1">Title</text:h>',
        f"<text:p>{words}</text:p>",
        odf.sheet("T", *(odf.row(odf.cell("a"), odf.cell(str(n), 'table:number-columns-repeated="3"')) for n in "123")),
    ]
    letter = mail.message(Subject="=?utf-8?q?Gr=C3=BC=C3=9Fe?=", From="Ann <ann@example.org>")
    letter.set_content(words)
    letter.add_alternative(f"<h1>Title</h1><p>{words}</p>", subtype="html")
    letter.add_attachment("a;b\n1;2\n", subtype="csv", filename="table.csv")
    item = {"__properties_version1.0": mail.properties(8), "__substg1.0_37010102": words.encode()}
    chapters = {"one.xhtml": epub.chapter("<h1>One</h1>", words * 5), "two.xhtml": epub.chapter("<pre>code</pre>")}
    sheets = [("One", [xlsx.row(n, f"name {n}", xlsx.cell(f"B{n}", n)) for n in range(1, 40)])]
    notebook = '{"cells": [{"cell_type": "markdown", "source": "# Title"}, {"cell_type": "code", "source": ["x = 1"]}]}'
    page = "<title>T</title><h1>A</h1><table><tr><th colspan=2>x<th>y<tr><td rowspan=2>1<td>2</table><pre>a\n b</pre>"
    return [
        ("a.pdf", pdf.make_pdf(*(pdf.drawn(("head", 20, 770), (words, 20, 400)) for _ in range(4)))),
        ("a.docx", docx.saved(docx.body_of(*["<w:p><w:r><w:t>text</w:t></w:r></w:p>"] * 9))),
        ("a.pptx", pptx.presentation(pptx.slide(pptx.shape("Title", kind="title"), pptx.shape(words)), title="T")),
        ("a.xlsx", xlsx.workbook(*sheets, extra='<mergeCells><mergeCell ref="A2:B3"/></mergeCells>')),
        ("a.odt", odf.document("text", "".join(outline), meta=odf.META)),
        ("a.ods", odf.document("spreadsheet", outline[2])),
        ("a.epub", epub.book(chapters)),
        ("a.eml", letter.as_bytes()),
        ("a.msg", mail.outlook(**{"1000001F": words.encode("utf-16-le"), "__attach_version1.0_#00000000": item})),
        ("a.zip", archives.zipped(archives.DOCUMENTS)),
        ("a.tar", archives.tarred(archives.DOCUMENTS)),
        ("a.tgz", archives.tarred(archives.DOCUMENTS, "w:gz")),
        ("a.rtf", rb"{\rtf1\ansi{\fonttbl{\f0\fcharset134 x;}}\pard a\'c4\u20013?\par\trowd\intbl x\cell y\cell\row}"),
        ("a.html", page.encode()),
        ("a.xml", b'<!DOCTYPE a [<!ENTITY e "x">]><a><b c="d">text &e; <i>more</i> text</b><title>T</title></a>'),
        ("a.ipynb", notebook.encode()),
        ("a.json", ('{"key": [{"inner": "' + words + '", "n": 1.5e3}], "more": [null, true]}').encode()),
        ("a.yaml", b"key:\n  - inner: |\n      text\n  - other: &x 1\nlast: *x\n"),
        ("a.csv", b'name;"two\nlines";n\n' + b"a;b;1\n" * 60),
        ("a.md", f"---\ntitle: T\n---\n# One\n\n{words}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```".encode()),
        ("a.rst", f"Title\n=====\n\n{words}::\n\n    code\n\n=== ===\na   b\n=== ===\n".encode()),
        ("a.py", b"class A:\n    @x\n    def f(self):\n        return 1\n"),
        ("a.txt", "Text in UTF-16, 中文\n".encode("utf-16-le") * 20),
    ]


def open_files() -> list[File]:
    """Files that people really have, and files made to break readers."""
    folders = [DATA / "files" / name for name in ("messy", "hostile")]
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    if not paths:
        pytest.skip(f"no files below {DATA / 'files'} (set RAG_TEST_DATA)")
    return [(path.name, path.read_bytes()) for path in paths]


# ---- ways to damage them ---------------------------------------------------------------------------------------------


def flip_bits(random: Random, data: bytes, _: bytes) -> bytes:
    spoilt = bytearray(data)
    for _ in range(random.choice([1, 1, 4, 16, 64])):
        spoilt[random.randrange(len(spoilt))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


def overwrite(random: Random, data: bytes, _: bytes) -> bytes:
    size = random.choice([1, 2, 4, 8, 64, 1024])
    run = random.choice([b"\0" * size, b"\xff" * size, random.randbytes(size)])
    position = random.randrange(len(data))
    return data[:position] + run[: len(data) - position] + data[position + size :]


def truncate(random: Random, data: bytes, _: bytes) -> bytes:
    cut = random.randrange(1, len(data) + 1)
    return random.choice([data[:cut], data[-cut:]])


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def insert(random: Random, data: bytes, other: bytes) -> bytes:
    position, start = random.randrange(len(data) + 1), random.randrange(len(other) + 1)
    return data[:position] + other[start : start + random.choice([8, 100, 5_000])] + data[position:]


def rearrange(random: Random, data: bytes, _: bytes) -> bytes:
    """Swap or double two pieces: members of a package as they are packed, objects of a PDF, lines, tags."""
    marks = [b"PK\x03\x04", b"PK\x01\x02", b" obj", b"\n", b"<", b"{"]
    mark = random.choice([mark for mark in marks if data.count(mark) > 1] or [data[:1]])
    pieces = data.split(mark)
    one, two = random.randrange(len(pieces)), random.randrange(len(pieces))
    pieces[one], pieces[two] = pieces[two], random.choice([pieces[one], pieces[two]])
    return mark.join(pieces)


def repeat(random: Random, data: bytes, _: bytes) -> bytes:
    """A few bytes again and again: nesting, rows and attributes without end."""
    start = random.randrange(len(data))
    stretch = data[start : start + random.choice([1, 4, 16, 64, 1_000])]
    times = random.choice([100, 10_000, MAX_BYTES]) // len(stretch)
    return data[:start] + stretch * times + data[start:]


def blow_up(random: Random, data: bytes, _: bytes) -> bytes:
    """A number becomes a large one, or any four bytes do: lengths, counts, offsets, references."""
    numbers = list(re.finditer(rb"\d{1,10}", data))
    if numbers and random.random() < 0.7:
        start, end = random.choice(numbers).span()
        large = b"%d" % random.choice([0, 255, 65_536, 16_385, 10**6, 2**31 - 1, 2**32, 10**19, 10**400])
        return data[:start] + random.choice([b"", b"-"]) + large + data[end:]
    position = random.randrange(len(data))
    claim = random.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x10", b"\0\0\xff\xff"])
    return data[:position] + claim + data[position + 4 :]


BYTES: Sequence[Change] = (flip_bits, overwrite, truncate, splice, insert, rearrange, repeat, blow_up)


def damage_inside(random: Random, data: bytes, other: bytes) -> bytes:
    """Damage what is packed in a file and pack it again, so that it gets past the checksums."""
    if data.startswith(b"PK"):
        return _repacked(random, data, other)
    streams = list(re.finditer(rb"stream\r?\n(.{1,200000}?)endstream", data, re.DOTALL))
    for found in random.sample(streams, len(streams)):
        try:
            content = zlib.decompressobj().decompress(found[1], MAX_BYTES)
        except zlib.error:
            continue
        if content:
            return data[: found.start(1)] + zlib.compress(_damaged(random, content, other)) + data[found.end(1) :]
    return _damaged(random, data, other)


def _repacked(random: Random, data: bytes, other: bytes) -> bytes:
    try:
        with ZipFile(BytesIO(data)) as package:
            members = [(entry.filename, package.read(entry)) for entry in package.infolist()]
    except Exception:  # noqa: BLE001 - whatever a package that is damaged already leads the library to
        members = []
    texts = [place for place, (name, content) in enumerate(members) if content and not name.endswith(("png", "jpeg"))]
    if not texts:
        return _damaged(random, data, other)
    for _ in range(random.choice([1, 1, 3])):
        one, two = random.choice(texts), random.choice(texts)
        name, content = members[one]
        change = random.choice(["damage", "damage", "damage", "swap", "double", "lose"])
        members[one] = (name, _damaged(random, content, members[two][1]) if change == "damage" else members[two][1])
        if change == "swap":
            members[two] = (members[two][0], content)
        elif change == "lose":
            members[one] = ("lost", b"")
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as package, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that come twice, which is what such files have
        for name, content in members:
            package.writestr(name, content)
    return buffer.getvalue()


def _damaged(random: Random, data: bytes, other: bytes) -> bytes:
    return random.choice(BYTES)(random, data, other) if data and other else data + other


def damaged_file(files: Sequence[File], seed: int) -> File:
    """One of the files, damaged; the same for the same seed. Half the time its kind is drawn before the file."""
    random = Random(seed)  # noqa: S311 - no secret depends on it
    kinds = sorted({Path(name).suffix for name, _ in files})
    kind = random.choice([None, random.choice(kinds)])
    of_kind = [file for file in files if kind in {None, Path(file[0]).suffix}]
    name, data = random.choice(of_kind)
    _, other = random.choice(random.choice([of_kind, files]))
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        change = damage_inside if random.random() < 0.5 else _damaged
        data = change(random, data, other)[: 4 * MAX_BYTES]
    return name, data


# ---- the contract ----------------------------------------------------------------------------------------------------


def check_results(results: Sequence[Result]) -> None:
    assert results
    for _, result in results:
        if isinstance(result, Parsed):
            check_spans(result)
        else:
            check_reason(result)
            assert "the parser" not in result.reason  # it crashed, failed, or gave an answer that makes no sense
            assert "took longer" not in result.reason


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize("files", [made_files, open_files])
def test_damaged_files_end_in_documents_or_reasons(files, batch):
    known = files()
    seeds = range(batch * BATCH_FILES, (batch + 1) * BATCH_FILES)
    with ParsingPool(workers=2, limits=Limits()) as pool:
        for seed, results in pool.parse_files((seed, *damaged_file(known, seed)) for seed in seeds):
            try:
                check_results(results)
            except AssertionError as error:
                error.add_note(f"seed {seed}, a damaged {damaged_file(known, seed)[0]}")
                raise


def test_a_seed_gives_the_same_file_again():
    files = made_files()
    assert [damaged_file(files, seed) for seed in range(20)] == [damaged_file(files, seed) for seed in range(20)]

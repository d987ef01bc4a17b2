"""Archives in memory: safe names, limits over everything inside, and nothing dropped without a word."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse import MAX_DEPTH, Parsed, parse, parse_all
from ingest.parse.archive import MAX_RATIO, RATIO_FREE_BYTES, Allowance, Names, unpack
from retrieval.errors import ParseError

Files = dict[str, bytes]


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def outcome(name: str, data: bytes) -> dict[str, str]:
    """Name -> text, or "!" and the reason of a refusal."""
    results = list(parse_all(Path(name), data))
    assert len({member for member, _ in results}) == len(results)
    return {member: each.text if isinstance(each, Parsed) else f"! {each.reason}" for member, each in results}


DOCUMENTS = {"a.md": b"# A\n\ntext", "sub/b.txt": "café".encode("cp1252"), "sub/c.csv": b"x,y\n1,2\n"}
READ = {"a.md": "# A\n\ntext", "sub/b.txt": "café", "sub/c.csv": "| x | y |\n| 1 | 2 |"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped(DOCUMENTS)),
        ("a.tar", tarred(DOCUMENTS)),
        ("a.tgz", tarred(DOCUMENTS, "w:gz")),
        ("a.tar.bz2", tarred(DOCUMENTS, "w:bz2")),
        ("a.tar.xz", tarred(DOCUMENTS, "w:xz")),
        ("no_extension", zipped(DOCUMENTS)),
    ],
)
def test_members_are_documents(name, data):
    assert outcome(name, data) == READ


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_file_is_named_after_its_archive(pack):
    assert outcome("notes.md.gz", pack(b"# Notes\n")) == {"notes.md": "# Notes\n"}


def test_archives_in_archives_have_paths_and_a_depth():
    data = b"# Deep\n"
    for depth in range(MAX_DEPTH + 1):
        name = "x.md" if depth == 0 else f"{depth}.zip"
        data = zipped({name: data, "note.txt": b"note"})
        found = outcome("top.zip", data)
        path = "/".join([*(f"{level}.zip" for level in range(depth, 0, -1)), "x.md"])
        if depth < MAX_DEPTH:
            assert found[path] == "# Deep\n"
            assert found["note.txt"] == "note"
    assert found["3.zip/2.zip/1.zip"] == f"! inside {MAX_DEPTH} archives or mails already"
    assert found["3.zip/2.zip/note.txt"] == "note"


def test_a_plain_file_is_itself():
    ((name, parsed),) = parse_all(Path("a.md"), b"# A")
    assert (name, parsed) == ("", replace(parse(Path("a.md"), b"# A"), metadata={"bytes": 3}))
    ((name, error),) = parse_all(Path("a.md"), b"")
    assert name == ""
    assert isinstance(error, ParseError)


def test_an_archive_is_no_single_document():
    with pytest.raises(ParseError, match="an archive"):
        parse(Path("a.zip"), zipped(DOCUMENTS))


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("/abs.md", "abs.md"),
        ("C:\\Users\\x.md", "Users/x.md"),
        ("/C:/D:x.md", "x.md"),
        ("notes a: b.md", "notes a: b.md"),
        ("./a//b.md", "a/b.md"),
        ("a\\b.md", "a/b.md"),
        ("tab\tx\x1b[31m.md", "tab\\tx\\x1b[31m.md"),
        ("gp\u202efdp.md", "gp\\u202efdp.md"),
        ("文件.md", "文件.md"),
    ],
)
def test_names_are_made_safe(raw, safe):
    assert Names().relative(raw) == safe
    assert list(outcome("a.tar", tarred({raw: b"x"}))) == [safe]


@pytest.mark.parametrize("name", ["../../evil.md", "..\\evil.md", "a/../../evil.md", "/../evil.md"])
def test_names_that_lead_out_are_refused(name):
    for archive, data in (
        ("a.zip", zipped({name: b"x", "ok.md": b"ok"})),
        ("a.tar", tarred({name: b"x", "ok.md": b"ok"})),
    ):
        found = outcome(archive, data)
        assert found.pop("ok.md") == "ok"
        ((shown, reason),) = found.items()
        assert shown in {"evil.md", "a/evil.md"}
        assert reason.startswith("! its name leads out of the archive")


@given(st.lists(st.text(alphabet="ab./\\:\0\n\u202e(2) ", max_size=12), max_size=20))
def test_safe_names_are_relative_and_unique(raw):
    names = Names()
    safe = [names.relative(name) for name in raw]
    assert len(set(safe)) == len(safe)
    for name in safe:
        assert name
        assert name.isprintable()
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(name.split("/"))


def test_equal_names_are_numbered_quickly():
    names = Names()
    started = time.perf_counter()
    assert [names.relative("a/x.md") for _ in range(3)] == ["a/x.md", "a/x (2).md", "a/x (3).md"]
    for _ in range(20_000):
        names.relative("a/x.md")
    assert time.perf_counter() - started < 2


def test_old_programs_write_names_in_their_own_encoding():
    name = "会议纪要和项目计划书.md"
    data = zipped({"x" * len(name.encode("gbk")): b"text"}).replace(b"x" * len(name.encode("gbk")), name.encode("gbk"))
    assert outcome("a.zip", data) == {name: "text"}


def test_links_devices_and_encrypted_members_are_named():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (
            ("soft", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("dev", tarfile.CHRTYPE),
            ("dir", tarfile.DIRTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    found = outcome("a.tar", buffer.getvalue())
    assert set(found) == {"soft", "hard", "dev"}
    assert all("a link, device or sparse file" in text for text in found.values())

    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("locked.md", "secret")
    locked = bytearray(buffer.getvalue())
    local, central = locked.rindex(b"PK\x03\x04"), locked.rindex(b"PK\x01\x02")
    locked[local + 6] |= 1
    locked[central + 8] |= 1
    assert outcome("a.zip", bytes(locked)) == {
        "link": "! a link, device or sparse file in the archive, not a regular file",
        "locked.md": "! encrypted in the archive",
    }


def test_bombs_are_refused_by_member():
    bomb = zipped({"bomb.txt": b"a" * (RATIO_FREE_BYTES * 3), "fine.md": b"fine"})
    found = outcome("a.zip", bomb)
    assert found["fine.md"] == "fine"
    assert f"over {MAX_RATIO} times" in found["bomb.txt"]
    assert "possible bomb" in outcome("a.gz", gzip.compress(bytes(30_000_000)))[""]


def test_a_small_ratio_or_a_small_file_is_no_bomb():
    text = b"x" * RATIO_FREE_BYTES
    assert outcome("a.zip", zipped({"a.txt": text}))["a.txt"] == text.decode()


def test_what_is_unpacked_in_all_is_bounded_across_archives():
    noise = os.urandom(300).hex().encode()
    allowance = Allowance(unpacked_bytes=1_000)
    first = list(unpack(zipped({"a": noise, "b": noise}), "a.zip", allowance))
    assert [member.refusal is None for member in first] == [True, False]
    assert "too large" in str(first[1].refusal)
    assert allowance.unpacked_bytes == 400
    (second,) = unpack(zipped({"c": noise}), "b.zip", allowance)
    assert "too large" in str(second.refusal)
    with pytest.raises(ParseError, match="too large"):  # a stream does not say how long it is: what was read counts
        list(unpack(gzip.compress(noise, mtime=0), "c.gz", allowance))
    assert allowance.unpacked_bytes == 0


def test_members_beyond_the_limit_are_said():
    members = []
    with pytest.raises(ParseError, match="files inside: those beyond are left out"):
        members.extend(
            member.name for member in unpack(tarred({str(n): b"x" for n in range(9)}), "a", Allowance(members=5))
        )
    found = list(parse_all(Path("a.zip"), zipped({f"{n}.md": b"x" for n in range(10_005)})))
    assert len(found) == 10_001
    name, error = found[-1]
    assert name == ""
    assert isinstance(error, ParseError)
    assert "more than 10,000 files" in error.reason


def test_a_list_too_long_for_memory_is_refused_unread():
    with pytest.raises(ParseError, match="100,000 entries"):
        list(unpack(b"PK\x03\x04" + b"PK\x01\x02" * 100_001, "a.zip", Allowance()))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", b"PK\x03\x04 rubbish", "damaged archive"),
        ("a.zip", zipped({}), "no files"),
        ("a.zip", zipped({"dir/": b""}), "no files"),
        ("a.tar", b"x" * 600, "x"),
        ("a.tar", b"\0" * 10_240, "no files"),
        ("a.gz", gzip.compress(b"text " * 100, mtime=0)[:-20], "damaged archive"),
        ("a.xz", b"\xfd7zXZ\0 rubbish", "damaged archive"),
        ("a.bz2", b"BZh91AY&SY rubbish", "damaged archive"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0\x04", "7z archive"),
    ],
)
def test_damaged_and_empty_archives(name, data, reason):
    (found,) = outcome(name, data).items()
    assert found[0] == ""
    assert reason in found[1]


def test_a_damaged_member_costs_only_itself():
    data = bytearray(zipped({"a.md": b"first text here", "b.md": b"second"}))
    data[40] ^= 0xFF
    found = outcome("a.zip", bytes(data))
    assert found["a.md"].startswith("! damaged in the archive")
    assert found["b.md"] == "second"


def test_a_damaged_header_in_a_tar_is_said():
    data = bytearray(tarred({"a.md": b"first", "b.md": b"second"}))
    data[1024 + 10] ^= 0xFF  # in the name of the second member, whose checksum is then wrong
    found = outcome("a.tar", bytes(data))
    assert found["a.md"] == "first"
    assert found[""].startswith("! damaged archive")


def test_a_tar_that_runs_backwards_ends():
    """A negative size makes the reader of the standard library meet the same header for ever."""
    data = bytearray(tarred({"a": b"x", "b": b"y"}))
    data[124:136] = b"\xff" * 4 + (-1024).to_bytes(8, "big", signed=True)
    header = bytes(data[:148]) + b" " * 8 + bytes(data[156:512])
    data[148:156] = f"{sum(header):06o}\0 ".encode()
    assert "" in outcome("a.tar", bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_archives_end_in_results(data):
    base = data.draw(
        st.sampled_from(
            [zipped(DOCUMENTS), tarred(DOCUMENTS), tarred(DOCUMENTS, "w:gz"), gzip.compress(b"x" * 99, mtime=0)]
        )
    )
    spoiled = bytearray(base)
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(base) - 1), st.integers(0, 255)), max_size=8)
    ):
        spoiled[position] = value
    cut = data.draw(st.integers(1, len(base)))
    assert list(parse_all(Path("a.zip"), bytes(spoiled[:cut])))

"""E-mail: headers, which body is taken, attachments; Internet mail and Outlook files."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse import Parsed, parse, parse_all
from ingest.parse.mail import MAX_HEADER_CHARS
from retrieval.errors import ParseError


def message(**headers: str) -> EmailMessage:
    mail = EmailMessage()
    defaults = {"From": "Ann <ann@example.org>", "To": "bob@example.org", "Subject": "Lunch"}
    for name, value in {**defaults, "Date": "Tue, 01 Oct 2024 12:34:56 -0500", **headers}.items():
        mail[name] = value
    return mail


def read(mail: EmailMessage | bytes) -> Parsed:
    return parse(Path("a.eml"), mail if isinstance(mail, bytes) else mail.as_bytes())


def test_headers_and_body():
    mail = message(Cc="Cleo <c@example.org>")
    mail.set_content("Hello\n\n> quoted\n> history\n")
    parsed = read(mail)
    assert parsed.text == (
        "From: Ann <ann@example.org>\nTo: bob@example.org\nCc: Cleo <c@example.org>\n"
        "Date: Tue, 01 Oct 2024 12:34:56 -0500\nSubject: Lunch\n\nHello\n\n> quoted\n> history"
    )
    assert (parsed.title, parsed.media_type) == ("Lunch", "message/rfc822")
    assert parsed.metadata == {"author": "Ann <ann@example.org>", "date": "2024-10-01T12:34:56-05:00"}


def test_plain_text_is_preferred_and_html_is_read_as_shown():
    both = message()
    both.set_content("plain version")
    both.add_alternative("<p>html version</p>", subtype="html")
    assert read(both).text.endswith("\n\nplain version")
    html = message()
    html.set_content("<h1>Menu</h1><p>Soup<p hidden>no", subtype="html")
    parsed = read(html)
    assert parsed.text.endswith("\n\nMenu\n\nSoup")
    (span,) = parsed.spans
    assert (span.label, parsed.text[span.start : span.end]) == ("Menu", "Menu")
    assert parsed.metadata["hidden_elements"] == 1
    blank = message()
    blank.set_content(" \n")
    blank.add_alternative("<p>only here</p>", subtype="html")
    assert read(blank).text.endswith("\n\nonly here")


def test_attachments_are_members_wherever_they_hang():
    mail = message()
    mail.set_content("see below")
    mail.add_alternative("<p>see below</p>", subtype="html")
    mail.get_payload()[1].add_attachment(b"# Minutes", maintype="text", subtype="markdown", filename="minutes.md")
    mail.add_attachment(b"a,b\n1,2", maintype="text", subtype="csv", filename="../t.csv")
    mail.add_attachment(b"a,b\n3,4", maintype="text", subtype="csv", filename="t.csv")
    mail.add_attachment(b"\x89PNG\r\n\x1a\n\0", maintype="image", subtype="png", filename="p.png")
    results = dict(parse_all(Path("a.eml"), mail.as_bytes()))
    assert list(results) == ["", "minutes.md", "t.csv", "t (2).csv", "p.png"]
    assert "Attachments: minutes.md, t.csv, t (2).csv, p.png" in results[""].text
    assert results["minutes.md"].text == "# Minutes"
    assert results["t (2).csv"].text == "| a | b |\n| 3 | 4 |"
    assert isinstance(results["p.png"], ParseError)


def test_a_forwarded_mail_is_a_member_with_its_own():
    inner = message(Subject="Inner/note")
    inner.set_content("inner text")
    inner.add_attachment(b"deep", maintype="text", subtype="plain", filename="deep.txt")
    outer = message()
    outer.set_content("outer text")
    outer.add_attachment(inner)
    results = dict(parse_all(Path("a.eml"), outer.as_bytes()))
    assert list(results) == ["", "Inner-note.eml", "Inner-note.eml/deep.txt"]
    assert results["Inner-note.eml"].text.endswith("inner text")


def test_pictures_in_the_body_and_signatures_are_named_not_read():
    mail = message()
    mail.set_content("<p>x<img src=cid:1>", subtype="html")
    mail.add_related(b"\x89PNG", maintype="image", subtype="png", cid="<1>", filename="logo.png")
    mail.make_mixed()
    mail.add_attachment(b"sig", maintype="application", subtype="pgp-signature", filename="s.asc")
    parsed = read(mail)
    assert parsed.members == ()
    assert parsed.metadata["left_out"] == ["logo.png", "s.asc"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"=?utf-8?q?caf=C3=A9?= and =?iso-8859-1?q?na=EFve?=", "café and naïve"),
        (b"=?GB2312?B?1tDOxA==?=", "中文"),
        (b"=?gb2312?B?1tDO?= =?gb2312?B?xLLiytQ=?=", "中文测试"),  # cut within a character, as some programs do
        ("žluťoučký kůň".encode(), "žluťoučký kůň"),
        ("会议纪要与日程安排".encode("gbk"), "会议纪要与日程安排"),
        (b"=?nonsense?q?plain?= x", "plain x"),
        (b"=?utf-8?b?!!!?= x", "x"),
        (b"two\r\n\tlines \x1b[31m", "two lines \\x1b[31m"),
    ],
)
def test_subjects(raw, shown):
    assert read(b"From: a@b.c\r\nSubject: " + raw + b"\r\n\r\nbody").title == shown


@pytest.mark.parametrize("date", ["1 Jan 99999999999999999999 00:00", "Tue, 01 Oct 2024 12:34:56 +99999999999999999"])
def test_a_date_that_cannot_be_costs_nothing_else(date):
    parsed = read(f"From: a@b.c\nDate: {date}\n\nbody".encode())
    assert parsed.text == f"From: a@b.c\nDate: {date}\n\nbody"
    assert "date" not in parsed.metadata


@pytest.mark.parametrize("charset", [b"a\0b", b'"a\0"', b"*0*=x''%00"])
def test_a_charset_that_cannot_be_is_none(charset):
    assert read(b"From: a@b.c\nContent-Type: text/plain; charset=" + charset + b"\n\nb\xf6dy").text.endswith("bödy")


def test_bodies_in_other_encodings():
    head = b"From: a@b.c\nMIME-Version: 1.0\nContent-Type: text/plain; charset=%s\n\n"
    text = "Тезисы доклада на конференции"
    assert read(head % b"koi8-r" + text.encode("koi8-r")).text.endswith(text)
    assert read(head % b"utf-8" + text.encode("cp1251")).text.endswith(text)  # it lies
    assert read(head % b"x-unknown" + text.encode()).text.endswith(text)
    assert read(head % b"rot13" + b"plain").text.endswith("plain")


def test_a_mail_to_thousands_shows_the_first():
    mail = message(To=", ".join(f"user{n}@example.org" for n in range(5_000)))
    mail.set_content("x")
    assert len(read(mail).text) < MAX_HEADER_CHARS + 300
    assert "…" in read(mail).text


def test_a_mail_in_utf16():
    mail = message()
    mail.set_content("wide")
    parsed = read(mail.as_string().encode("utf-16"))
    assert parsed.text.endswith("wide")
    assert parsed.metadata["encoding"] == "utf-16-le"


PIECES = st.sampled_from(
    [
        b"From: a@b.c\n", b"Subject: =?utf-8?q?", b"?=", b"Content-Type: multipart/mixed; boundary=b\n",
        b"Content-Type: multipart/alternative; boundary=b\n", b"Content-Type: message/rfc822\n", b"--b\n", b"--b--\n",
        b"\n", b"Content-Transfer-Encoding: base64\n",
        b"Content-Disposition: attachment; filename*=utf-8''%ff%00/../x\n",
        b"Content-Type: text/html; charset=\"\xff\"\n", b"x\n", b"\xff\n", b"Date: 99 Foo 99999\n", b": :\n",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_any_mail_is_read_or_refused(data):
    if not data:
        return
    for _, result in parse_all(Path("a.eml"), data):
        if isinstance(result, ParseError):
            assert result.advice
            assert not result.reason.startswith("cannot be read as mail")  # an exception that was not foreseen


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: " + b"=?utf-8?q?a?= " * 200_000 + b"\n\nx",
        b"To: " + b"a@b.c, " * 300_000 + b"\n\nx",
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 9_000 + b"--b--\n",
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(500)),
        b"Content-Type: " + b"a;" * 200_000 + b"\n\nx",
        b"X: y\n" * 200_000 + b"\nx",
    ],
)
def test_hostile_mails_take_little_time(data):
    started = time.perf_counter()
    list(parse_all(Path("a.eml"), data))
    assert time.perf_counter() - started < 5


# An Outlook file by hand: a compound file of 512-byte sectors. Every stream is padded to 4,096 bytes and more, so that
# none is small enough for the mini stream, and the file allocation table fits into one sector.


def compound(tree: dict[str, bytes | dict[str, bytes]]) -> bytes:
    """Pack streams and one level of folders into an OLE compound file (MS-CFB)."""
    entries: list[tuple[str, int, bytes, list[int]]] = [("Root Entry", 5, b"", [])]
    for name, content in tree.items():
        entries[0][3].append(len(entries))
        if isinstance(content, dict):
            folder = ("", 1, b"", list(range(len(entries) + 1, len(entries) + 1 + len(content))))
            entries.append((name, *folder[1:]))
            entries += [(inner, 2, data, []) for inner, data in content.items()]
        else:
            entries.append((name, 2, content, []))
    directory_sectors = -(-len(entries) // 4)
    fat = [0xFFFFFFFD, *range(2, directory_sectors + 1), 0xFFFFFFFE]
    body = b""
    records = []
    siblings = {}
    for _, _, _, children in entries:
        siblings |= dict(zip(children, [*children[1:], 0xFFFFFFFF], strict=False))
    for number, (name, kind, data, children) in enumerate(entries):
        start, size = 0xFFFFFFFE, 0
        if kind == 2:
            size = max(len(data), 4096)
            sectors = -(-size // 512)
            start = len(fat)
            fat += [*range(start + 1, start + sectors), 0xFFFFFFFE]
            body += data.ljust(sectors * 512, b"\0")
        encoded = name.encode("utf-16-le") + b"\0\0"
        records.append(
            struct.pack(
                "<64sHBBIII16sIQQIQ", encoded, len(encoded), kind, 1, 0xFFFFFFFF, siblings.get(number, 0xFFFFFFFF),
                children[0] if children else 0xFFFFFFFF, b"", 0, 0, 0, start, size,
            )
        )  # fmt: skip
    head = struct.pack(
        "<8s16sHHHHH6xIIIIIIIII", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 62, 3, 0xFFFE, 9, 6,
        0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0,
    )  # fmt: skip
    table = struct.pack("<128I", *fat, *[0xFFFFFFFF] * (128 - len(fat)))
    directory = b"".join(records).ljust(directory_sectors * 512, b"\0")
    return head + struct.pack("<I", 0) + b"\xff" * (108 * 4) + table + directory + body


def filetime(moment: datetime) -> int:
    return int((moment - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000


def properties(header: int, *rows: tuple[int, int, int]) -> bytes:
    return bytes(header) + b"".join(struct.pack("<HHIq", kind, number, 6, value) for kind, number, value in rows)


def outlook(**streams: bytes | dict[str, bytes]) -> bytes:
    sent = filetime(datetime(2024, 10, 1, 12, 30, tzinfo=UTC))
    table = properties(32, (0x40, 0x0039, sent), (3, 0x3FFD, 1251))
    texts = {"0037001F": "Обед".encode("utf-16-le"), "0C1A001F": "Ann".encode("utf-16-le")}
    named = {f"__substg1.0_{name}": data for name, data in {**texts, **streams}.items() if isinstance(data, bytes)}
    folders = {name: data for name, data in streams.items() if isinstance(data, dict)}
    return compound({"__properties_version1.0": table, **named, **folders})


def test_outlook():
    attachment = {
        "__properties_version1.0": properties(8),
        "__substg1.0_3707001F": "note.md".encode("utf-16-le"),
        "__substg1.0_37010102": b"# Note" + b"\n" * 5000,
    }
    inside = {"__properties_version1.0": properties(8), "__substg1.0_3001001F": "task".encode("utf-16-le")}
    data = outlook(
        **{
            "1000001E": "Приходите все в полдень".encode("cp1251"),
            "5D01001F": "ann@example.org".encode("utf-16-le"),
            "__attach_version1.0_#00000000": attachment,
            "__attach_version1.0_#00000001": inside,
        }
    )
    results = dict(parse_all(Path("a.msg"), data))
    mail = results[""]
    assert mail.text == (
        "From: Ann <ann@example.org>\nDate: 2024-10-01 12:30 UTC\nSubject: Обед\nAttachments: note.md, task\n\n"
        "Приходите все в полдень"
    )
    assert (mail.title, mail.media_type) == ("Обед", "application/vnd.ms-outlook")
    assert mail.metadata == {
        "author": "Ann <ann@example.org>",
        "date": "2024-10-01T12:30:00+00:00",
        "bytes": len(data),
    }
    assert results["note.md"].title == "Note"
    assert isinstance(results["task"], ParseError)


def test_outlook_with_html_alone():
    data = outlook(**{"10130102": "<h1>Меню</h1><p>Суп и компот</p>".encode("cp1251")})
    assert parse(Path("a.msg"), data).text.endswith("\n\nМеню\n\nСуп и компот")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_outlook_files_end_in_results(data):
    spoiled = bytearray(outlook(**{"1000001F": "body".encode("utf-16-le")}))
    for position, value in data.draw(st.lists(st.tuples(st.integers(8, 2_000), st.integers(0, 255)), max_size=8)):
        spoiled[position] = value
    assert list(parse_all(Path("a.msg"), bytes(spoiled)))

r"""Read e-mail, RFC 822 and Outlook: who, when, what about, and the body, quoted history included. Fetches nothing.

Of the versions of a body the plain one is taken, else the HTML one as a browser would show it. Attachments become
members, documents of their own; pictures inside the body and signatures are left out and named in the metadata. Headers
are taken apart by the older of Python's two header parsers: the newer one raises on many that real mails have.
"""

from __future__ import annotations

import email
import re
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import policy
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import parsedate_to_datetime
from io import BytesIO
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from ingest.parse import Member, Parsed, html
from ingest.parse.archive import Names, visible
from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, no_surrogates, read_text, said
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from olefile import OleFileIO

    from retrieval.records import Span

MAX_HEADER_CHARS = 2_000  # of a mail to thousands, the first receivers are shown
MAX_SOURCE_CHARS = 20_000  # of a header as it stands in the file
MAX_PARTS = 10_000

_OLE = b"\xd0\xcf\x11\xe0"
_SHOWN = ("From", "To", "Cc", "Bcc", "Date", "Subject")
_SIGNATURES = frozenset(("application/pkcs7-signature", "application/x-pkcs7-signature", "application/pgp-signature"))
_STYLES = frozenset(("text/css", "text/javascript"))
_BLANKS = re.compile(r"\s+")


@dataclass(slots=True)
class _Mail:
    """A mail taken apart, whatever it was stored as. `bodies` are media type and content, in order."""

    headers: dict[str, str] = field(default_factory=dict)
    date: datetime | None = None
    bodies: list[Parsed] = field(default_factory=list)
    attachments: list[Member] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read an EML, MHTML or MSG file; metadata: `author`, `date` (ISO 8601), `left_out` (names of parts)."""
    is_outlook = data.startswith(_OLE)
    mail = _outlook(data) if is_outlook else _internet(data)
    builder = TextBuilder()
    lines = [f"{name}: {mail.headers[name]}" for name in _SHOWN if mail.headers.get(name)]
    if mail.attachments:
        lines.append(f"Attachments: {', '.join(member.name for member in mail.attachments)}")
    if lines:
        builder.add("\n".join(lines))
    spans: list[Span] = []
    metadata: dict[str, object] = {}
    for body in mail.bodies:
        start = builder.add(body.text)
        spans += [replace(span, start=span.start + start, end=span.end + start) for span in body.spans]
        metadata |= body.metadata
    found = {"author": mail.headers.get("From"), "date": mail.date and mail.date.isoformat(), "left_out": mail.left_out}
    metadata |= {key: value for key, value in found.items() if value}
    media_type = "application/vnd.ms-outlook" if is_outlook else "message/rfc822"
    title = mail.headers.get("Subject", "")[:MAX_TITLE_CHARS]
    return Parsed(builder.text(), title, tuple(spans), media_type, metadata, tuple(mail.attachments))


class _ShortHeaders(policy.Compat32):
    """The older parser, which takes quadratic time for a header with many parameters: 5 s for 400 kB, so it is cut."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Name and value of a header, at most MAX_SOURCE_CHARS of it."""
        name, value = super().header_source_parse(sourcelines)
        return name, value[:MAX_SOURCE_CHARS]


def _internet(data: bytes) -> _Mail:
    """Take an RFC 822 message apart."""
    message = email.message_from_bytes(data, policy=_ShortHeaders())
    mail = _Mail({name: _header(message, name) for name in _SHOWN})
    try:
        mail.date = parsedate_to_datetime(mail.headers["Date"])
    except (ValueError, TypeError, IndexError, OverflowError):
        mail.date = None  # the line in the text shows what stands there
    names = Names()
    for count, (part, place) in enumerate(_parts(message)):
        if count == MAX_PARTS:
            raise ParseError(f"more than {MAX_PARTS:,} parts in one mail", advice="leave it out, or save it in pieces")
        _take(part, place, mail, names)
    return mail


class _Place(NamedTuple):
    """Where a part stands: whether a text there is wanted, and whether it belongs to the page beside it."""

    is_wanted: bool
    is_related: bool


def _parts(message: Message) -> Iterator[tuple[Message, _Place]]:
    """Every part in order, and where it stands. Of several alternatives the text of one is wanted.

    That is the plain one; without it the one with HTML, else the last. Others may still hold attachments.
    """
    stack = [(message, _Place(is_wanted=True, is_related=False))]
    while stack:
        part, place = stack.pop()
        if not part.is_multipart() or part.get_content_type() == "message/rfc822":
            yield part, place
            continue
        inner: Any = part.get_payload()
        chosen = inner
        if part.get_content_type() == "multipart/alternative":
            plain = [each for each in inner if each.get_content_type() == "text/plain" and _content(each).strip()]
            with_html = [each for each in inner if "html" in each.get_content_type() or each.is_multipart()]
            chosen = (plain or with_html or inner[-1:])[:1]
        is_related = part.get_content_type() == "multipart/related"
        stack += [(each, _Place(place.is_wanted and each in chosen, is_related)) for each in reversed(inner)]


def _take(part: Message, place: _Place, mail: _Mail, names: Names) -> None:
    """File a part under bodies, attachments or what is left out."""
    kind = part.get_content_type()
    disposition = part.get_content_disposition()
    raw_name = _plain(part.get_filename() or "")
    is_attached = disposition == "attachment" or bool(raw_name and disposition != "inline")
    is_text = kind.startswith("text/") and not is_attached
    is_shown = disposition == "inline" or (part["Content-ID"] and (place.is_related or not is_attached))
    if kind in _SIGNATURES | _STYLES or (is_shown and kind.startswith("image/")):
        mail.left_out.append(visible(raw_name) or kind)
    elif kind == "message/rfc822":
        mail.attachments.append(_forwarded(part, names))
    elif is_text and place.is_wanted:
        _add_body(mail, _content(part), _charset(part), is_html=kind == "text/html")
    elif not is_text and not part.is_multipart():
        name = names.relative(raw_name or f"unnamed.{part.get_content_subtype()}")
        mail.attachments.append(Member(name, _content(part)))


def _forwarded(part: Message, names: Names) -> Member:
    inner: Any = part.get_payload(0)
    subject = _header(inner, "Subject")[:100].replace("/", "-").replace("\\", "-")
    name = names.relative(f"{subject or 'message'}.eml")
    try:
        return Member(name, inner.as_bytes())
    except (ValueError, LookupError, TypeError) as error:
        reason = f"damaged in the mail: {said(error)}"
        return Member(name, refusal=ParseError(reason, advice="save it as a file of its own"))


def _add_body(mail: _Mail, data: bytes, charset: str, *, is_html: bool) -> None:
    """Add a version of the body, decoded; one that cannot be is named among what is left out."""
    try:
        decoded = read_text(data.rstrip(b"\0"), charset)
        text = decoded.text.removeprefix("\ufeff").replace("\r\n", "\n")
        body = html.parse(text.encode(), ".html") if is_html else Parsed(text.strip("\n").rstrip())
    except ParseError:
        mail.left_out.append("a body that is no text")
        return
    facts = {"replaced_bytes": decoded.replaced_bytes} if decoded.replaced_bytes else {}
    if body.text.strip():
        mail.bodies.append(replace(body, metadata={**body.metadata, **facts}))


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _charset(part: Message) -> str:
    try:
        return part.get_content_charset() or ""
    except (LookupError, ValueError):  # encoded in a way that cannot be undone
        return ""


def _header(message: Message, name: str) -> str:
    """The first header of a name on one line, decoded; "" without it."""
    raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
    shown = _plain(str(raw))
    return shown if len(shown) <= MAX_HEADER_CHARS else f"{shown[:MAX_HEADER_CHARS]}…"


def _plain(raw: str) -> str:
    """A header's value with its encoded words and raw bytes decoded, blanks collapsed."""
    try:
        text = read_text(raw.encode("utf-8", "surrogateescape")).text  # raw bytes arrive as lone surrogates
    except (ParseError, UnicodeEncodeError):
        text = no_surrogates(raw)
    try:
        pieces = [_decoded_word(*piece) for piece in decode_header(text)]
    except (HeaderParseError, ValueError):
        pieces = [text]
    return visible(_BLANKS.sub(" ", "".join(pieces)).strip())


def _decoded_word(word: str | bytes, charset: str | None) -> str:
    if isinstance(word, str):
        return word
    if charset is None:  # what stands between encoded words; decode_header packs it so
        return word.decode("raw-unicode-escape", "replace")
    try:
        return read_text(word, charset).text if word else ""
    except ParseError:
        return word.decode("ascii", "backslashreplace")


# Properties of Outlook messages (MS-OXPROPS) that are read, by number.
_SUBJECT, _BODY, _HTML, _CODE_PAGE = 0x0037, 0x1000, 0x1013, 0x3FFD
_SENDER, _SENDER_ADDRESS, _TO, _CC = 0x0C1A, 0x5D01, 0x0E04, 0x0E03
_SENT, _DELIVERED = 0x0039, 0x0E06
_ATTACHED, _LONG_NAME, _SHORT_NAME, _DISPLAY_NAME = 0x3701, 0x3707, 0x3704, 0x3001
_CONTENT_ID = 0x3712
_UNICODE, _STRING, _BYTES, _OBJECT = 0x001F, 0x001E, 0x0102, 0x000D
_FIXED = Struct("<HHIq")  # type, number, flags, value
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def _outlook(data: bytes) -> _Mail:
    """Take an Outlook message apart (MS-OXMSG)."""
    from olefile import OleFileIO

    with closing(OleFileIO(BytesIO(data))) as file:
        message = _Outlook(file, "")
        address = message.string(_SENDER_ADDRESS)
        sender = message.string(_SENDER)
        sent = message.time(_SENT) or message.time(_DELIVERED)
        mail = _Mail(date=sent)
        mail.headers = {
            "From": f"{sender} <{address}>" if address and address != sender else sender,
            "To": message.string(_TO),
            "Cc": message.string(_CC),
            "Date": sent.strftime("%Y-%m-%d %H:%M UTC") if sent else "",
            "Subject": message.string(_SUBJECT),
        }
        if body := message.string(_BODY, one_line=False):
            _add_body(mail, body.encode(), "utf-8", is_html=False)
        else:
            _add_body(mail, message.stream(_HTML, _BYTES), message.encoding, is_html=True)
        names = Names()
        folders = sorted({path[0] for path in file.listdir() if path[0].startswith("__attach_version1.0_")})
        for folder in folders[:MAX_PARTS]:
            _take_outlook(_Outlook(file, f"{folder}/", message.encoding), mail, names)
        return mail


def _take_outlook(attachment: _Outlook, mail: _Mail, names: Names) -> None:
    known = map(attachment.string, (_LONG_NAME, _SHORT_NAME, _DISPLAY_NAME))
    raw_name = next(filter(None, known), "unnamed")
    data = attachment.stream(_ATTACHED, _BYTES)
    if attachment.string(_CONTENT_ID) and data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")):
        mail.left_out.append(visible(raw_name))
    elif data or not attachment.is_object(_ATTACHED):
        mail.attachments.append(Member(names.relative(raw_name), data))
    else:
        refusal = ParseError("an Outlook item inside a message", advice="open it in Outlook and save it as a file")
        mail.attachments.append(Member(names.relative(raw_name), refusal=refusal))


class _Outlook:
    """The properties of one folder of an Outlook file: of the message, or of one attachment."""

    def __init__(self, file: OleFileIO, folder: str, encoding: str = "") -> None:
        self._file = file
        self._folder = folder
        header = 8 if folder else 32  # bytes before the table of fixed properties
        table = self._read("__properties_version1.0")[header:]
        rows = (_FIXED.unpack_from(table, start) for start in range(0, len(table) - _FIXED.size + 1, _FIXED.size))
        self._fixed = {number: value for _, number, _, value in rows}
        code_page = self._fixed.get(_CODE_PAGE, 0) & 0xFFFF
        self.encoding = encoding or ("utf-8" if code_page == 65001 else f"cp{code_page or 1252}")

    def stream(self, number: int, kind: int) -> bytes:
        """The bytes of a property; b"" without it."""
        return self._read(f"__substg1.0_{number:04X}{kind:04X}")

    def string(self, number: int, *, one_line: bool = True) -> str:
        """A property as text; "" without it."""
        text = self.stream(number, _UNICODE).decode("utf-16-le", "replace")
        if not text and (raw := self.stream(number, _STRING)):
            text = read_text(raw, self.encoding).text
        text = text.rstrip("\0")
        return visible(_BLANKS.sub(" ", text).strip())[:MAX_HEADER_CHARS] if one_line else text

    def time(self, number: int) -> datetime | None:
        """A moment; None without it, or when it is out of range."""
        try:
            return _EPOCH + timedelta(microseconds=self._fixed[number] // 10) if self._fixed.get(number) else None
        except OverflowError:
            return None

    def is_object(self, number: int) -> bool:
        """Whether a property is a folder of its own."""
        return bool(self._file.exists(f"{self._folder}__substg1.0_{number:04X}{_OBJECT:04X}"))

    def _read(self, name: str) -> bytes:
        path = self._folder + name
        if not self._file.exists(path) or self._file.get_type(path) != 2:  # 2: a stream
            return b""
        with self._file.openstream(path) as stream:
            return bytes(stream.read())

r"""Unpack archives in memory: ZIP, TAR, and files packed with gzip, bzip2 or xz. Writes nothing, knows no document.

Members come one by one, so that no more than one is held at a time. Sizes that an archive claims are not believed:
every member is read up to what is still allowed, and not a byte further. What is left out has a name and a reason.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING
from zipfile import ZipFile, ZipInfo

from ingest.parse import Member, sniff
from ingest.parse.text import read_text, said
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedIOBase
    from typing import IO

MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 200_000_000
MAX_RATIO = 200  # unpacked bytes for a packed one; texts pack up to 20 times, logs 100 times
RATIO_FREE_BYTES = 1_000_000  # below this a high ratio does no harm
MAX_NAME_CHARS = 1_000

_ROOT = re.compile(r"(?:[/\\]|[A-Za-z]:)*")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
_ADVICE = "unpack it yourself and leave out what you do not need"
_DAMAGED = "the archive seems damaged: pack it again"
_UTF8_NAME = 0x800  # flag of a ZIP member
_ENCRYPTED = 0x1


@dataclass(slots=True)
class Allowance:
    """What may still be unpacked from one file, archives inside archives included."""

    members: int = MAX_MEMBERS
    unpacked_bytes: int = MAX_UNPACKED_BYTES

    def admitted(self, members: Iterable[Member]) -> Iterator[Member]:
        """Count members that are in memory already; those beyond the limits come with a refusal."""
        for member in members:
            self.count()
            too_many = len(member.data) > self.unpacked_bytes
            self.unpacked_bytes -= 0 if too_many else len(member.data)
            yield Member(member.name, refusal=_too_large(len(member.data))) if too_many else member

    def count(self) -> None:
        """Count a member. Raises ParseError when there are too many: nothing more is read then."""
        if not self.members:
            found = f"more than {MAX_MEMBERS:,} files inside"
            raise ParseError(f"{found}: those beyond are left out", advice=_ADVICE)
        self.members -= 1

    def read(self, stream: IO[bytes] | BufferedIOBase, packed_bytes: int, *, claimed_bytes: int = 0) -> bytes:
        """Read a stream to its end, which counts, or no further than allowed. Raises ParseError when it is longer.

        What claims to be too long is not read at all, so that a film in an archive costs its documents nothing.
        """
        limit = min(self.unpacked_bytes, max(RATIO_FREE_BYTES, MAX_RATIO * packed_bytes))
        data = stream.read(limit + 1) if claimed_bytes <= limit else b""
        size = max(claimed_bytes, len(data))
        refusal = _too_large(size) if limit == self.unpacked_bytes else _bomb(packed_bytes)
        self.unpacked_bytes = max(self.unpacked_bytes - len(data), 0)
        if size > limit:
            raise refusal
        return data


class Names:
    """Make names of members safe to show and to use as part of a source, each one different."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def relative(self, name: str) -> str:
        r"""A relative path with "/": no drive, no root, no "..", invisible characters escaped; see `unique`."""
        parts = re.split(r"[/\\]+", _ROOT.sub("", name[:MAX_NAME_CHARS], count=1))
        return self.unique("/".join(visible(part) for part in parts if part not in {"", ".", ".."}) or "unnamed")

    def unique(self, name: str) -> str:
        """The name, with a number before its extension when it is taken."""
        unique, number = name, self._taken.get(name, 0)
        while number and unique in self._taken:
            number += 1
            stem, dot, suffix = name.rpartition(".") if "." in name.rpartition("/")[2] else (name, "", "")
            unique = f"{stem} ({number}){dot}{suffix}"
        self._taken[name] = max(number, 1)
        self._taken.setdefault(unique, 1)
        return unique


def visible(name: str) -> str:
    r"""A name in which control, invisible and undecodable characters stand as \xNN or \uNNNN."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def unpack(data: bytes, name: str, allowance: Allowance) -> Iterator[Member]:
    """The files in an archive, in its order. `name` is the archive's own, and gives that of a single packed file.

    Raises ParseError when the archive is damaged, empty or beyond the allowance as a whole, after the members before.
    """
    count = 0
    try:
        for member in _members(data, name, allowance):
            count += 1
            yield member
    except ParseError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged archive leads them to
        raise ParseError(f"damaged archive: {said(error)}", advice=_DAMAGED) from error
    if not count:
        raise ParseError("there are no files in this archive", advice="check how it was made")


def _members(data: bytes, name: str, allowance: Allowance) -> Iterator[Member]:
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _unzipped(data, allowance)
    opened = _decompressed(data)
    if opened is None:
        return _untarred(data, allowance)
    inner = allowance.read(opened, len(data))
    if inner[257:262] == b"ustar":
        return _untarred(inner, allowance)
    return iter([Member(Names().relative(re.sub(r"\.\w+$", "", name) or "content"), inner)])


def _unzipped(data: bytes, allowance: Allowance) -> Iterator[Member]:
    sniff.zip_names(data)  # refuses a list that is too long
    names = Names()
    with ZipFile(BytesIO(data)) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry, name in zip(entries, _decoded_names(entries), strict=True):
            allowance.count()
            yield _member(names.relative(name), name, partial(_read_zipped, archive, entry, allowance))


def _member(name: str, raw_name: str, read: Callable[[], bytes]) -> Member:
    """A member, or its refusal when its name is dangerous or it cannot be read."""
    try:
        if ".." in re.split(r"[/\\]", raw_name):
            return Member(name, refusal=_leads_out(raw_name))
        return Member(name, read())
    except ParseError as error:
        return Member(name, refusal=error)
    except Exception as error:  # noqa: BLE001  (the libraries raise whatever a damaged archive leads them to)
        return Member(name, refusal=ParseError(f"damaged in the archive: {said(error)}", advice=_DAMAGED))


def _read_zipped(archive: ZipFile, entry: ZipInfo, allowance: Allowance) -> bytes:
    if entry.flag_bits & _ENCRYPTED:
        raise ParseError("encrypted in the archive", advice="pack it again without a password")
    mode = entry.external_attr >> 16  # of Unix; 0 where it was packed by another system
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise _not_a_file()
    with archive.open(entry) as stream:
        return allowance.read(stream, entry.compress_size, claimed_bytes=entry.file_size)


def _decoded_names(entries: list[ZipInfo]) -> list[str]:
    """Names as their makers saw them: many programs write them in the encoding of their country and do not say so."""
    unsaid = [entry for entry in entries if not entry.flag_bits & _UTF8_NAME and not entry.filename.isascii()]
    joined = b"\n".join(entry.filename.encode("cp437", "replace") for entry in unsaid)  # as zipfile decoded them
    try:
        decoded = read_text(joined).text.split("\n")
    except ParseError:
        decoded = []
    if len(decoded) != len(unsaid):
        return [entry.filename for entry in entries]
    shown = {id(entry): name for entry, name in zip(unsaid, decoded, strict=True)}
    return [shown.get(id(entry), entry.filename) for entry in entries]


def _decompressed(data: bytes) -> BufferedIOBase | None:
    """The stream inside a packed file; None where it is not packed."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=BytesIO(data))
    if data.startswith(b"BZh"):
        return bz2.BZ2File(BytesIO(data))
    return lzma.LZMAFile(BytesIO(data)) if data.startswith(b"\xfd7zXZ") else None


def _untarred(data: bytes, allowance: Allowance) -> Iterator[Member]:
    """Members of a TAR file. They are not packed in it, so they cost nothing of what may be unpacked."""
    names = Names()
    end = -1
    with tarfile.open(fileobj=BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for entry in archive:
            if entry.size < 0 or entry.offset <= end:
                raise ParseError("damaged archive: its members run backwards", advice=_DAMAGED)
            end = entry.offset
            if not entry.isdir():
                allowance.count()
                name = _decoded_name(entry.name.encode("utf-8", "surrogateescape"))
                yield _member(names.relative(name), name, partial(_read_tarred, archive, entry))
        beyond = data[archive.offset : archive.offset + tarfile.BLOCKSIZE]
        if beyond.strip(b"\0"):  # the library takes a damaged header for the end
            raise ParseError("damaged archive: what follows its last member is no member", advice=_DAMAGED)


def _decoded_name(name: bytes) -> str:
    try:
        return read_text(name).text if name else ""
    except ParseError:
        return name.decode("utf-8", "backslashreplace")


def _read_tarred(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(entry) if entry.isreg() and not entry.issparse() else None
    if stream is None:
        raise _not_a_file()
    return stream.read()


def _not_a_file() -> ParseError:
    return ParseError("a link, device or sparse file in the archive, not a regular file", advice=_ADVICE)


def _leads_out(name: str) -> ParseError:
    return ParseError(f"its name leads out of the archive: {visible(name[:MAX_NAME_CHARS])}", advice=_ADVICE)


def _bomb(packed_bytes: int) -> ParseError:
    found = f"over {MAX_RATIO} times its packed size of {packed_bytes:,} bytes"
    return ParseError(f"refused as a possible bomb: unpacks to {found}", advice=_ADVICE)


def _too_large(size: int) -> ParseError:
    found = f"over {MAX_UNPACKED_BYTES:,} bytes with what was unpacked before it"
    return ParseError(f"too large: {found} ({size:,} or more by itself)", advice=_ADVICE)

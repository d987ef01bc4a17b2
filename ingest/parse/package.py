"""Open documents that are ZIP packages of XML (OOXML, ODF, EPUB) without trusting them. Knows no document format.

Nothing is unpacked to disk and no name in a package reaches the file system. Only members that a parser asks for are
unpacked, so pictures and films in a package neither cost nor count. XML is read by libxml2 with its own limits (256
levels, 10 MB in one text); entities, external or not, are refused, and nothing is ever fetched.
"""

from __future__ import annotations

import re
import zlib
from io import BytesIO
from posixpath import dirname, join, normpath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from ingest.parse.text import MAX_TITLE_CHARS, TextBuilder, said
from retrieval.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zipfile import ZipInfo

MAX_MEMBERS = 50_000  # a presentation of a thousand slides has about ten a slide
MAX_UNPACKED_BYTES = 100_000_000  # of all members that are read, each as often as it is read
MAX_RATIO = 100  # of one member; XML of real documents packs 5 to 30 times
RATIO_FREE_BYTES = 10_000_000  # below this a high ratio does no harm
MAX_CHARS = 50_000_000  # of text; a small package can claim a table without end

_ENTRY = b"PK\x01\x02"  # begins each entry of the table of contents
# What `zipfile` raises on damaged files; ValueError is an offset before the file, or a name that is no text.
_DAMAGE = (BadZipFile, ValueError, OverflowError, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
# The strict variant of OOXML differs in the names of its namespaces, and nowhere else that matters here.
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")
_TRANSITIONAL = rb"http://schemas.openxmlformats.org/\1/2006/"
_CORE_PROPERTIES = {"title": "title", "creator": "author", "created": "created", "modified": "modified"}
SAVE_AGAIN = "the file seems damaged: open it in the program that made it and save it again"


class DamagedPartError(ParseError):
    """A part of a package is missing or damaged. A document can do without some."""


class Package:
    """A ZIP package in memory. Names of members are compared as OPC does, without regard to case.

    `damaged` names the parts that `optional_xml` was asked for and that are missing or cannot be read.
    """

    def __init__(self, data: bytes, kind: str) -> None:
        """Read the table of contents. `kind` is for people: "DOCX". Raises ParseError where `data` is no such thing."""
        if data.count(_ENTRY) > MAX_MEMBERS:  # before the list of them takes memory
            raise _bomb("the package has too many members", f"at most {MAX_MEMBERS:,}")
        try:
            self._archive = ZipFile(BytesIO(data))
        except _DAMAGE as error:
            raise ParseError(f"not a {kind} file, or a damaged one: {said(error)}", advice=SAVE_AGAIN) from error
        self.kind = kind
        self.damaged: list[str] = []
        members = self._archive.infolist()
        self._members = {_key(member.filename): member for member in members if not member.is_dir()}
        self._unread_bytes = MAX_UNPACKED_BYTES

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._members

    def names(self, pattern: str) -> list[str]:
        """Names, in lower case, of the members that match a regular expression as a whole, in order."""
        return [name for name in sorted(self._members) if re.fullmatch(pattern, name)]

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises ParseError where it is encrypted or a bomb, DamagedPartError where damaged."""
        member = self._members.get(_key(name))
        if member is None:
            raise DamagedPartError(f"{name} is missing, so this is no complete {self.kind} file", advice=SAVE_AGAIN)
        self._check(member)
        try:
            return self._archive.read(member)  # unpacks no more than the size that was checked
        except _DAMAGE as error:
            raise DamagedPartError(
                f"{name} in the {self.kind} file is damaged: {said(error)}", advice=SAVE_AGAIN
            ) from error

    def xml(self, name: str) -> Any:
        """The root element of a member, without comments and processing instructions; see `read` and `parse_xml`."""
        return parse_xml(self.read(name), name)

    def optional_xml(self, name: str) -> Any:
        """The root element of a part that a document can do without; None for no name, and where it is damaged."""
        try:
            return self.xml(name) if name else None
        except DamagedPartError:
            if name not in self.damaged:
                self.damaged.append(name)
            return None

    def relations(self, part: str, *, is_main: bool = False) -> dict[str, tuple[str, str]]:
        """What an OOXML part refers to in its package: id -> last word of the type, name of the member.

        Those of the main part must be readable: without them the rest of the document is not found.
        """
        name = join(dirname(part), "_rels", f"{part.rpartition('/')[2]}.rels")
        if name not in self:
            return {}
        found = self.xml(name) if is_main else self.optional_xml(name)
        return {
            each.get("Id", ""): (each.get("Type", "").rpartition("/")[2], resolve(part, each.get("Target", "")))
            for each in (() if found is None else found)
            if each.get("TargetMode") != "External"
        }

    def main_part(self, usual: str) -> str:
        """The part that an OOXML package is about; the usual name where its relations do not say."""
        found = [target for kind, target in self.relations("").values() if kind == "officeDocument" and target in self]
        return found[0] if found else usual

    def core_properties(self) -> dict[str, object]:
        """`title`, `author`, `created`, `modified` of an OOXML package, those that it has."""
        parts = [target for kind, target in self.relations("").values() if kind == "core-properties"]
        name = next((part for part in [*parts, "docProps/core.xml"] if part in self), None)
        found = self.optional_xml(name) if name else None
        return {} if found is None else properties(found, _CORE_PROPERTIES)

    def _check(self, member: ZipInfo) -> None:
        if member.flag_bits & 1:
            raise ParseError(f"the {self.kind} file is encrypted", advice="save a copy without a password")
        if member.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
            raise ParseError(f"{member.filename} is packed by method {member.compress_type}", advice=SAVE_AGAIN)
        self._unread_bytes -= member.file_size
        if member.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * member.compress_size):
            found = f"{member.filename}: {member.file_size:,} bytes packed in {member.compress_size:,}"
            raise _bomb(found, f"at most {MAX_RATIO} times as many")
        if self._unread_bytes < 0:
            raise _bomb(f"{member.filename} has {member.file_size:,} bytes", f"{MAX_UNPACKED_BYTES:,} in all")


def parse_xml(data: bytes, name: str) -> Any:
    """The root element of an XML text. Raises ParseError where it is damaged or declares entities."""
    from lxml.etree import XMLParser, XMLSyntaxError, fromstring

    if b"purl.oclc.org" in data:
        data = _STRICT.sub(_TRANSITIONAL, data)
    parser = XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True)
    try:
        root = fromstring(data, parser)
    except (XMLSyntaxError, ValueError) as error:
        raise DamagedPartError(f"{name} is damaged XML: {said(error)}", advice=SAVE_AGAIN) from error
    _refuse_entities(root, name)
    return root


def elements(data: bytes, name: str, tag: str) -> Iterator[Any]:
    """The elements of one local name as they are complete, each emptied afterwards: a long table is never a tree."""
    from lxml.etree import XMLSyntaxError, iterparse

    events = iterparse(BytesIO(data), tag=f"{{*}}{tag}", resolve_entities=False, no_network=True, remove_comments=True)
    try:
        for position, (_, element) in enumerate(events):
            if not position:
                _refuse_entities(element, name)
            yield element
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    except XMLSyntaxError as error:
        raise DamagedPartError(f"{name} is damaged XML: {said(error)}", advice=SAVE_AGAIN) from error


def properties(root: Any, names: Mapping[str, str]) -> dict[str, object]:
    """The first text below `root` for each local name in `names`, under the key that stands there."""
    found: dict[str, object] = {}
    for element in root.iter("{*}*"):
        key = names.get(local_name(element), "")
        text = " ".join("".join(element.itertext()).split())[:MAX_TITLE_CHARS] if key else ""
        if text:
            found.setdefault(key, text)
    return found


def local_name(element: Any) -> str:
    """The name of an element without its namespace; "" where a tag is no name (an entity)."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def resolve(base: str, target: str) -> str:
    """The member that a reference inside `base` means. Never leaves the package: there is nothing above its root."""
    path = unquote(target.partition("#")[0])
    return normpath(join("/", "" if path.startswith("/") else dirname(base), path.lstrip("/"))).lstrip("/")


def check_length(builder: TextBuilder) -> None:
    """Raise ParseError where a document has more text than any should."""
    if builder.length > MAX_CHARS:
        raise ParseError(f"more than {MAX_CHARS:,} characters of text", advice="split the file")


def _key(name: str) -> str:
    return normpath("/" + name.replace("\\", "/")).lstrip("/").lower()


def _refuse_entities(element: Any, name: str) -> None:
    declared = element.getroottree().docinfo.internalDTD
    if declared is not None and next(declared.iterentities(), None) is not None:
        raise ParseError(f"{name} declares entities, which documents have no need of", advice=SAVE_AGAIN)


def _bomb(found: str, expected: str) -> ParseError:
    return ParseError(
        f"refused as a possible zip bomb: {found}; expected {expected}",
        advice="if the file is what you expect, split it or save it again",
    )

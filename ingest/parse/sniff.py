r"""Tell what a file is by its content. Knows signatures and how texts begin; parses nothing, decodes nothing.

`packed` looks at bytes, `written` at text. Both answer with the name of a parser module, or None where the content does
not say: then the file's extension decides. What can be recognised but not read (pictures, sound, programs, old Office
files, other archives) is refused by name, with what to do about it.
"""

from __future__ import annotations

import re
from io import BytesIO

from ingest.parse.text import said
from retrieval.errors import ParseError

MAX_ARCHIVE_ENTRIES = 100_000  # of a ZIP file's own list, which is held in memory: about 500 bytes each

_PDF_WITHIN = 1024  # bytes before the header that PDF readers pass over
_NUL_WITHIN = 1024  # bytes; texts may begin with "BM" or "MZ", but hold no NUL there

# What a kind of file begins with, and its name for people.
_UNREADABLE: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"), (b"GIF87a", "a GIF picture"),
    (b"GIF89a", "a GIF picture"), (b"II*\0", "a TIFF picture"), (b"MM\0*", "a TIFF picture"), (b"BM", "a BMP picture"),
    (b"\0\0\1\0", "an icon"), (b"8BPS", "a Photoshop picture"), (b"AT&TFORM", "a DjVu document"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"), (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"ID3", "sound (MP3)"), (b"\xff\xfb", "sound (MP3)"), (b"fLaC", "sound (FLAC)"), (b"OggS", "sound or film (Ogg)"),
    (b"MThd", "sound (MIDI)"), (b"\x1aE\xdf\xa3", "a film (Matroska)"), (b"\0\0\1\xba", "a film (MPEG)"),
    (b"FLV\1", "a film (Flash)"), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "sound or film (Windows Media)"),
    (b"MZ", "a Windows program"), (b"\x7fELF", "a program (ELF)"), (b"\xca\xfe\xba\xbe", "a Java class or program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"), (b"\xfe\xed\xfa\xcf", "a macOS program"), (b"\0asm", "WebAssembly"),
    (b"SQLite format 3\0", "an SQLite database"), (b"\0\1\0\0Standard", "an Access database"),
    (b"PAR1", "a Parquet table"), (b"ARROW1", "an Arrow table"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"), (b"\x80\x02", "a Python pickle"), (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"), (b"\x80\x05", "a Python pickle"), (b"GGUF", "a language model (GGUF)"),
    (b"\0\1\0\0\0", "a font"), (b"OTTO\0", "a font"), (b"wOFF", "a font"), (b"wOF2", "a font"),
    (b"\0\x05\x16\x07", "a macOS resource fork"), (b"\0\x05\x16\0", "a macOS resource fork"),
    (b"\x30\x82", "a certificate or a signature"), (b"bplist00", "a binary property list"),
)  # fmt: skip
_UNREADABLE_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"MSCF\0\0\0\0": "a Windows cabinet",
    b"\x04\x22\x4d\x18": "an LZ4 archive",
    b"!<arch>\n": "a Unix library or package",
}
_RIFF = {b"WEBP": "a WebP picture", b"WAVE": "sound (WAV)", b"AVI ": "a film (AVI)"}
_ISO_MEDIA = {b"heic": "a HEIC picture", b"mif1": "a HEIF picture", b"avif": "an AVIF picture", b"M4A ": "sound (M4A)"}

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# A stream in the root of an old Microsoft file -> what the file is, and the format to save it in.
_OLE_STREAMS = {
    "EncryptedPackage": ("an encrypted Office file", "save a copy without a password"),
    "WordDocument": ("an old Word file (.doc)", "open it in a word processor and save it as DOCX"),
    "Workbook": ("an old Excel file (.xls)", "open it in a spreadsheet program and save it as XLSX"),
    "Book": ("an old Excel file (.xls)", "open it in a spreadsheet program and save it as XLSX"),
    "PowerPoint Document": ("an old PowerPoint file (.ppt)", "open it in a presentation program and save it as PPTX"),
}
_OUTLOOK_STREAM = "__properties_version1.0"
_COMPRESSED = re.compile(rb"\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\0", re.DOTALL)
_PACKAGE_PARTS = (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx"), ("META-INF/container.xml", "epub"))
_PACKAGES = {
    ".docx": "docx", ".docm": "docx", ".pptx": "pptx", ".pptm": "pptx", ".xlsx": "xlsx", ".xlsm": "xlsx",
    ".odt": "odf", ".ods": "odf", ".odp": "odf", ".epub": "epub",
}  # fmt: skip

_COMMENT = r"(?:\s|<!--(?:[^-]|-(?!->)){0,10000}-->|<\?[^<>]{0,1000}\?>)*"
_HTML = re.compile(rf"{_COMMENT}<(?:!doctype\s+html|html)(?=[\s>])", re.IGNORECASE)
_XML = re.compile(r"\s*<\?xml\s")
_JSON = re.compile(r'\s*(?:\{\s*(?:"|\})|\[\s*(?:[\[{"\]]|-?\d))')
_HEADER_LINE = re.compile(r"([A-Za-z][A-Za-z0-9-]{1,60}):[ \t]?[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*\r?\n")
_MAIL_HEADERS = frozenset(("from", "to", "subject", "date", "sender", "return-path", "delivered-to", "content-type"))
_MACHINE_HEADERS = frozenset(("received", "message-id", "mime-version"))  # nobody types these above a memo
_MAX_HEADERS = 200
_BEGIN_CHARS = 20_000
_DECLARED = re.compile(
    rb"""<\?xml[^>]{0,200}encoding\s*=\s*["']\s*([\w.:-]{1,40})|<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]{1,40})""",
    re.IGNORECASE,
)


def packed(data: bytes, suffix: str) -> str | None:
    """The parser for a file that is no plain text; `suffix` helps where a package lacks what would tell its kind.

    Raises ParseError, naming it, for what is recognised and cannot be read.
    """
    start = data[:_PDF_WITHIN].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in data[:_PDF_WITHIN]):
        return "pdf"
    if start.startswith(b"{\\rtf"):
        return "rtf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(data, suffix)
    if data.startswith(_OLE):
        return _ole_kind(data)
    if _COMPRESSED.match(data) or data[257:262] == b"ustar":
        return "archive"
    if kind := _unreadable(data):
        raise ParseError(f"{kind}, not a text document", advice="leave it out, or describe it in a document")
    for signature, kind in _UNREADABLE_ARCHIVES.items():
        if data.startswith(signature):
            raise ParseError(f"{kind}, which cannot be opened here", advice="unpack it, or pack it as ZIP")
    return None


def written(text: str, *, loose: bool) -> str | None:
    """The parser for a text that shows by its beginning what it is.

    HTML and XML documents announce themselves. With `loose`, for files of no known kind, signs count too: a mail has
    headers that machines write, and JSON is valid to its end.
    """
    begin = text[:_BEGIN_CHARS].removeprefix("\ufeff")
    if _HTML.match(begin):
        return "html"
    if _XML.match(begin):
        return "markup"
    if not loose:
        return None
    if _JSON.match(begin) and _is_json(text):
        return "structured"
    return "mail" if _is_mail(begin) else None


def _zip_kind(data: bytes, suffix: str) -> str:
    """The parser for a ZIP file, by the names in it; a damaged package goes to the parser of its extension."""
    names = zip_names(data)
    if names is None or not names:
        return _PACKAGES.get(suffix, "archive")
    if "[Content_Types].xml" in names or "META-INF/container.xml" in names:
        for part, kind in _PACKAGE_PARTS:
            if any(name.startswith(part) for name in names):
                return kind
    if {"content.xml", "META-INF/manifest.xml"} <= names:
        return "odf"
    return "archive"


def zip_names(data: bytes) -> set[str] | None:
    """Names in a ZIP file; None where it is damaged. Raises ParseError for a list too long to be held in memory."""
    from zipfile import BadZipFile, ZipFile

    if data.count(b"PK\x01\x02") > MAX_ARCHIVE_ENTRIES:
        found = f"more than {MAX_ARCHIVE_ENTRIES:,} entries in one ZIP file"
        raise ParseError(f"refused as a possible zip bomb: {found}", advice="pack it in parts")
    try:
        with ZipFile(BytesIO(data)) as archive:
            return set(archive.namelist())
    except (BadZipFile, ValueError, NotImplementedError, OverflowError):
        return None


def _ole_kind(data: bytes) -> str:
    """An Outlook message, or a refusal that names the program."""
    from olefile import OleFileIO

    try:
        with OleFileIO(BytesIO(data)) as file:
            names = {path[0] for path in file.listdir()}
    except Exception as error:  # the library raises whatever a damaged file leads it to
        advice = "open it in the program that made it and save it in a current format"
        raise ParseError(f"a damaged Microsoft file: {said(error)}", advice=advice) from error
    if _OUTLOOK_STREAM in names:
        return "mail"
    known = (kind for stream, kind in _OLE_STREAMS.items() if stream in names)
    found, advice = next(known, ("an old Microsoft file", "save it in a current format"))
    raise ParseError(f"{found}, which cannot be read here", advice=advice)


def _unreadable(data: bytes) -> str | None:
    """What a picture, sound, film, program or other data file is."""
    if data.startswith(b"RIFF"):
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _ISO_MEDIA.get(data[8:12], "a film (MP4)")
    has_nul = b"\0" in data[:_NUL_WITHIN]
    for signature, kind in _UNREADABLE:
        if data.startswith(signature) and (has_nul or (len(signature) > 3 and not signature.isascii())):
            return kind
    return None


def _is_json(text: str) -> bool:
    import json

    try:
        json.loads(text.removeprefix("\ufeff"), parse_int=str)  # Python refuses numbers of over 4,300 digits
    except (ValueError, RecursionError):
        return False
    return True


def _is_mail(begin: str) -> bool:
    """Whether a text begins with the headers of an e-mail."""
    names: set[str] = set()
    position = 0
    for _ in range(_MAX_HEADERS):
        line = _HEADER_LINE.match(begin, position)
        if line is None:
            break
        names.add(line[1].lower())
        position = line.end()
    return bool(names & _MACHINE_HEADERS) and bool(names & _MAIL_HEADERS)


def declared_encoding(data: bytes) -> str:
    """The encoding that an XML declaration or an HTML <meta> names; "" where there is none."""
    found = _DECLARED.search(data, 0, 2048)
    return (found[1] or found[2]).decode("ascii", "replace") if found else ""

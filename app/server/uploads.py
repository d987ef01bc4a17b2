"""The folder of uploaded files: safe names, whole writes, removals that survive a kill. Knows files, never an index.

A file is written beside its place under a hidden name and renamed when it is whole and safe on disk. One that is to go
is first renamed too, so that a removal which was begun is known to whoever starts next. Ingest leaves hidden files
aside.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import ChangedError, RagError

MAX_NAME_BYTES = 200
"""Of a kept name in UTF-8. File systems take 255; a removal puts a word before it."""

_MAX_SUFFIX_BYTES = 20
_SIGNS = frozenset(" ._-()[],'&+（）《》〈〉「」『』【】、，。：；！？·—“”‘’")
_LETTERS = frozenset("LMN")  # categories of Unicode: letters, the marks on them, numbers
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789")}
)
_NEVER_SEARCHED = frozenset({"__pycache__", "node_modules"})
_PART, _REMOVED = ".part-", ".removed-"

Stamp = tuple[int, int, int]
"""What differs between two files that were uploaded under one name."""


class UploadError(RagError):
    """The folder of uploads cannot be written to."""


def safe_name(given: str) -> str:
    """A name for a file, whatever was given: one part of a path, visible, not too long, the ending kept.

    A harmless name stays (composed, NFC). One that had to be changed gets a fingerprint of what was given, so that two
    names never become the same file.
    """
    whole = unicodedata.normalize("NFC", given).strip()
    name = "".join(each if _is_kept(each) else "_" for each in whole).strip(" .") or "document"
    if name.partition(".")[0].strip().lower() in _RESERVED or name in _NEVER_SEARCHED:
        name = f"_{name}"
    if name == whole and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    fingerprint = hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending.encode()) > _MAX_SUFFIX_BYTES:
        stem, dot, ending = name, "", ""
    end = f"-{fingerprint}{dot}{ending}"
    return stem.encode()[: MAX_NAME_BYTES - len(end.encode())].decode("utf-8", "ignore") + end


def _is_kept(character: str) -> bool:
    return character in _SIGNS or unicodedata.category(character)[0] in _LETTERS


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that is safe on disk. replaced: there was one of this name before."""

    name: str
    bytes: int
    sha256: str
    replaced: bool


class Uploads:
    """The uploaded files of one index. Methods may be called from any thread; they raise UploadError."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))  # as ingest calls the root of what lies in it
        self._placing = threading.Lock()

    def files(self) -> list[str]:
        """Names of the files that are whole."""
        return sorted(name for name in self._listed() if not name.startswith("."))

    def tidy(self) -> list[str]:
        """Remove what a kill left half written. Returns names of files whose removal was begun."""
        names = self._listed()
        with _explained(self.folder):
            for name in names:
                if name.startswith(_PART):
                    self._path(name).unlink(missing_ok=True)
        return sorted(name.removeprefix(_REMOVED) for name in names if name.startswith(_REMOVED))

    def draft(self) -> Draft:
        """A new file to write to. The folder is made if need be, for its owner's eyes alone."""
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Draft(self, self._path(_PART + secrets.token_hex(8)))

    def name_of(self, root: str, source: str) -> str | None:
        """The uploaded file that a document is, or is inside of; None where it came from elsewhere.

        The file need not be there any more.
        """
        above = f"{self.folder}/"
        place = f"{root}/{source}"
        if not place.startswith(above):
            return None
        name = place.removeprefix(above).split("/")[0]
        return None if name.startswith(".") or self._path(name).is_dir() else name

    def stamp(self, name: str) -> Stamp | None:
        """Tells this file from a later one of the same name; None where there is none."""
        with _explained(self.folder), suppress(FileNotFoundError):
            found = self._path(name).lstat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def begin_removal(self, name: str, seen: Stamp | None) -> None:
        """Take a file away for good; `put_back` can still undo it. No file is no error.

        Raises ChangedError where the file is not the one that was seen.
        """
        with self._placing, _explained(self.folder):
            if self.stamp(name) != seen:
                raise ChangedError(f"'{name}' was uploaded anew meanwhile; delete it again if that is to go too")
            if seen is not None:
                self._path(name).replace(self._path(_REMOVED + name))
                self.sync()

    def put_back(self, name: str) -> None:
        """Undo a removal, unless there is a new file of this name."""
        removed = self._path(_REMOVED + name)
        with self._placing, _explained(self.folder), suppress(FileExistsError, FileNotFoundError):
            os.link(removed, self._path(name))
        self.finish_removal(name)

    def finish_removal(self, name: str) -> None:
        """Let go of what was taken away."""
        with _explained(self.folder), suppress(FileNotFoundError):
            self._path(_REMOVED + name).unlink()
            self.sync()

    def place(self, draft: Path, name: str) -> bool:
        """Give a whole file its name. Returns whether there was one of this name."""
        with self._placing, _explained(self.folder):
            replaced = self.stamp(name) is not None
            draft.replace(self._path(name))
            self.sync()
            return replaced

    def sync(self) -> None:
        """Make a rename survive a power cut."""
        from retrieval.versions import sync_folder

        sync_folder(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _listed(self) -> list[str]:
        """Names of the plain files in the folder; none where there is no folder yet."""
        with _explained(self.folder), suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return []


class Draft:
    """A file that is being written. `keep` gives it its name; `discard` at the end leaves nothing of one not kept."""

    def __init__(self, uploads: Uploads, path: Path) -> None:
        self._uploads, self._path = uploads, path
        self._lock = threading.Lock()  # whoever gives up on a thread may discard while it still writes
        self._digest, self._size = hashlib.sha256(), 0
        self._file = open(path, "xb", buffering=0, opener=_private)  # noqa: SIM115 - closed by discard

    def write(self, data: bytes) -> None:
        """Append."""
        with self._lock, _explained(self._path.parent):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._digest.update(data)
            self._size += len(data)

    def keep(self, name: str) -> Kept:
        """Make the file safe on disk, under a name that `safe_name` made."""
        with self._lock, _explained(self._path.parent):
            os.fsync(self._file.fileno())
            replaced = self._uploads.place(self._path, name)
            return Kept(name, self._size, self._digest.hexdigest(), replaced)

    def discard(self) -> None:
        """Close the file, and remove it unless it was kept."""
        with self._lock, _explained(self._path.parent):
            self._file.close()
            self._path.unlink(missing_ok=True)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What the system refuses becomes an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise UploadError(
            f"the folder of uploads cannot be used: {error.strerror or error} ({folder}); make room, or check its"
            " rights, and do it again"
        ) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

"""Which version of an index counts. Knows folders and one pointer file; nothing of what an index holds.

An index folder holds its first version itself. A version that is made beside it (built anew, compacted, restored,
repaired) is a folder inside, `version-000002`, that nobody reads until it is complete; then `live.json` names it, by
one rename, together with the version that was live before and can be had back. Whoever has the old one open reads on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from retrieval.errors import IndexCorruptError, RagError

POINTER = "live.json"
FIRST = "."  # the folder itself
_NAME = re.compile(r"version-[0-9]{6}")
_FIRST_FILES = "index.sqlite*", "dense-*.faiss*", "lexical-*"
_POINTER_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Versions:
    """The folder that is read, and the one that was read before it, if that is still there."""

    live: Path
    previous: Path | None = None


def versions(home: Path) -> Versions:
    """The versions of the index in a folder. Raises IndexCorruptError on a pointer that is not ours."""
    try:
        with open_regular(home / POINTER) as file:
            data = file.read(_POINTER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return Versions(home)
    except OSError as error:
        raise IndexCorruptError(f"'{home / POINTER}' cannot be read: {error.strerror}") from error
    try:
        fields = json.loads(data)
        live, previous = fields["live"], fields["previous"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise IndexCorruptError(f"'{home / POINTER}' does not name the live version of the index") from error
    found = _folder(home, live)
    before = None if previous is None else _folder(home, previous)
    return Versions(found, before if before and before.is_dir() else None)


def open_regular(path: Path) -> BufferedReader:
    """Open a file of an index to read: one that is no plain file could block for ever. Raises OSError, or
    IndexCorruptError on a pipe, a device or the like.
    """
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IndexCorruptError(f"'{path}' is no plain file")
    return descriptor


def stamp(home: Path) -> tuple[int, int] | None:
    """Something that differs after every switch; None as long as there was none."""
    try:
        found = (home / POINTER).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def draft_of(home: Path) -> Path:
    """The folder of the version that is made beside the live one; it need not exist. There is only ever one."""
    known = versions(home)
    taken = {int(each.name.rpartition("-")[2]) for each in (known.live, known.previous) if each and each != home}
    return home / f"version-{max(taken, default=1) + 1:06d}"


def switch(home: Path, live: Path, *, previous: Path | None) -> None:
    """Make a complete version the live one, and say which can be had back. The caller holds the writer lock.

    Every other version is dropped.
    """
    _name(home, live, previous)
    with suppress(OSError):  # the switch is made; what is left over goes with the next
        tidy(home)


def tidy(home: Path) -> None:
    """Drop every version that is neither live nor the previous one."""
    known = versions(home)
    kept = {each for each in (known.live, known.previous) if each}
    for folder in home.iterdir():
        if _NAME.fullmatch(folder.name) and folder not in kept:
            drop(folder)
    if home not in kept:
        for pattern in _FIRST_FILES:
            for path in home.glob(pattern):
                drop(path)
    (home / f"{POINTER}.new").unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder for an index, for its owner's eyes alone: it holds the texts. One that is there stays as it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RagError(f"the index folder '{folder}' cannot be made: {error.strerror}") from error


def drop(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing there is no harm."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(home: Path, live: Path, previous: Path | None) -> None:
    """Write the pointer."""
    names = {
        word: FIRST if path == home else path.name for word, path in (("live", live), ("previous", previous)) if path
    }
    draft = home / f"{POINTER}.new"
    with draft.open("wb") as file:
        file.write(json.dumps({"previous": None, **names}).encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(live)
    draft.replace(home / POINTER)
    sync_folder(home)


def _folder(home: Path, name: object) -> Path:
    if name == FIRST:
        return home
    folder = home / str(name)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or folder.is_symlink():
        raise IndexCorruptError(f"'{home / POINTER}' names {name!r}, which is no version of this index")
    return folder

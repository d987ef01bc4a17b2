"""Export the Python language reference inside CPython as a folder of text files: `python -m app.sample DIR`.

A real corpus that every machine has. Knows `pydoc_data.topics` and the folder it fills; nothing of the index.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import RagError

if TYPE_CHECKING:
    from collections.abc import Mapping

LIST_NAME = ".rag-sample"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.txt")
MAX_LIST_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Exported:
    """File names, sorted, by what happened to them."""

    written: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]


def export(folder: Path, topics: Mapping[str, str]) -> Exported:
    """Write one `NAME.txt` a topic, and remove those of topics that are gone. Does nothing to files of others.

    Which files are ours stands in `.rag-sample` in the folder. Raises RagError where a file that is not ours is in the
    way, or a topic has a name that is no plain file name.
    """
    texts = {f"{name}.txt": text.encode("utf-8") for name, text in topics.items()}
    if odd := [name for name in texts if not FILE_NAME.fullmatch(name)]:
        raise RagError(f"topic names that are no plain file names: {odd[:5]}; this Python is not supported")
    folder.mkdir(parents=True, exist_ok=True)
    ours = _listed(folder)
    current = {name: _content(folder / name, len(text)) for name, text in texts.items()}
    stale = sorted(name for name, text in texts.items() if current[name] != text)
    if foreign := [name for name in stale if name not in ours and current[name] is not None]:
        raise RagError(f"{folder / foreign[0]} exists and was not written by this command; choose an empty folder")
    gone = sorted(name for name in ours - set(texts) if (folder / name).is_file())
    # The list first, with all old and new names: an export cut off in the middle still knows its own files.
    _replace(folder / LIST_NAME, "".join(f"{name}\n" for name in sorted(ours | set(texts))).encode())
    for name in stale:
        _replace(folder / name, texts[name])
    for name in gone:
        (folder / name).unlink()
    _replace(folder / LIST_NAME, "".join(f"{name}\n" for name in sorted(texts)).encode())
    return Exported(written=tuple(stale), unchanged=tuple(sorted(set(texts) - set(stale))), removed=tuple(gone))


def main(arguments: list[str]) -> int:
    """Export into the folder named by the one argument; returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m app.sample DIR", file=sys.stderr)
        return 2
    from pydoc_data.topics import topics

    try:
        done = export(Path(arguments[0]), topics)
    except (RagError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = f"{len(done.written)} written, {len(done.unchanged)} unchanged, {len(done.removed)} removed"
    print(
        f"{len(topics)} topics of the Python {sys.version_info.major}.{sys.version_info.minor} language reference "
        f"in {arguments[0]}: {counts}"
    )
    return 0


def _listed(folder: Path) -> set[str]:
    """Names that an earlier export wrote; a line that is no name of ours is not believed."""
    content = _content(folder / LIST_NAME, MAX_LIST_BYTES) or b""
    return {line for line in content.decode("utf-8", "replace").splitlines() if FILE_NAME.fullmatch(line)}


def _content(file: Path, size: int) -> bytes | None:
    """At most `size` + 1 bytes of a file, enough to tell whether it is the same; None where there is none."""
    try:
        with file.open("rb") as stream:
            return stream.read(size + 1)
    except FileNotFoundError:
        return None


def _replace(file: Path, content: bytes) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one, and a link is never followed."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(file)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

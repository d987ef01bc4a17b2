"""Fault points: something goes wrong at a chosen line, or right before a chosen call that changes a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import FrameType

# Every call of a C function through which the product changes a file, as the interpreter names it. Between two of them
# nothing on disk changes, so the moment after one is the moment before the next.
WRITES = frozenset(
    {
        "open", "BufferedWriter.write", "BufferedWriter.flush", "BufferedWriter.close", "BufferedWriter.__exit__",
        "write", "pwrite", "fsync", "ftruncate", "truncate", "chmod", "utime", "sendfile", "flock",
        "mkdir", "rmdir", "rename", "replace", "link", "symlink", "unlink", "remove",
        "connect", "Connection.execute", "Connection.executemany", "Connection.executescript", "Connection.commit",
        "Connection.rollback", "Connection.backup", "Connection.close", "Blob.write",
        "write_index", "Index", "Index.writer", "IndexWriter.add_document", "IndexWriter.delete_documents_by_term",
        "IndexWriter.commit", "IndexWriter.wait_merging_threads",
    }
)  # fmt: skip


class FaultError(Exception):
    """What goes wrong."""


def run_until_line(number: int, act: Callable[[], object], fail: Callable[[], None], *, files: Collection[str]) -> int:
    """Run `act`, calling `fail` at the n-th line of these files; returns how many of their lines were executed.

    Not at the lines that free the lock: where they fail, the end of the process frees it.
    """
    seen = 0

    def on_line(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == number:
                fail()
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        return on_line if code.co_filename in files and code.co_name != "write_lock" else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        act()
    finally:
        sys.settrace(before)
    return seen


def run_until_write(number: int, act: Callable[[], object], fail: Callable[[], None]) -> list[str]:
    """Run `act`, calling `fail` right before the n-th call of WRITES in this thread; returns the calls, in order."""
    seen: list[str] = []

    def on_call(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__qualname__ in WRITES:
            seen.append(function.__qualname__)
            if len(seen) == number:
                fail()

    before = sys.getprofile()
    sys.setprofile(on_call)
    try:
        act()
    finally:
        sys.setprofile(before)
    return seen

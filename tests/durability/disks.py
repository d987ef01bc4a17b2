"""Disks that are full or may only be read, for the length of a child of the fork server; needs the right to mount.

Mounts are made in a namespace of the child's own: nobody else sees them, and its end undoes them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from pathlib import Path
from typing import Any

from examine import Report, attempt_ingest, held_by
from faults import run_until_write
from stages import State

_NEW_MOUNTS, _NEW_USERS = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18


def why_no_mounts() -> str:
    """Why a child cannot mount here; empty where it can."""
    try:
        _own_mounts()
    except OSError as error:
        return f"mounting in a namespace is not permitted here: {error.strerror}"
    return ""


def ingest_with_short_files(docs: str, index: str, name: str, longest: int, number: int) -> Report:
    """Run a stage where no file can grow beyond so many bytes from the n-th call on that changes one.

    For SQLite and everybody else, the disk is full then.
    """

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))

    reports: list[Report] = []
    run_until_write(number, lambda: reports.append(attempt_ingest(docs, index, name)), fill)
    return reports[0]


def ingest_on_small_disk(docs: str, index: str, origin: str, stage: tuple[str, list[State]], room: int) -> Report:
    """Run a stage, its name and the states around it given, on a disk with so many bytes to spare; then with many.

    held: which of the states the index has after each run.
    """
    name, states = stage
    size = room + sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in Path(origin).rglob("*"))
    _own_mounts()
    _mount("tmpfs", index, "tmpfs", 0, f"size={size}")
    shutil.copytree(origin, index, dirs_exist_ok=True)
    first = attempt_ingest(docs, index, name)
    held = [held_by(Path(index), states)]
    _mount("tmpfs", index, "tmpfs", _REMOUNT, f"size={size + (16 << 20)}")
    second = attempt_ingest(docs, index, name)
    held.append(held_by(Path(index), states))
    return {"first": first, "second": second, "held": held}


def ingest_on_read_only_disk(docs: str, index: str, name: str, truths: list[State]) -> Report:
    """Read an index, and run a stage, where nothing can be written."""
    _own_mounts()
    _mount(index, index, "", _BIND, "")
    _mount("", index, "", _BIND | _REMOUNT | _READ_ONLY, "")
    before = held_by(Path(index), truths)
    return {"before": before, "ingest": attempt_ingest(docs, index, name), "after": held_by(Path(index), truths)}


def _own_mounts() -> None:
    """A namespace where this process may mount."""
    user, group = os.getuid(), os.getgid()
    _checked(_libc().unshare(_NEW_MOUNTS | (_NEW_USERS if user else 0)), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
    _mount("", "/", "", _RECURSIVE | _PRIVATE, "")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc().mount(*arguments), f"mount {target}")


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

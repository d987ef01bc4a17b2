"""Take from this process what parsing does not need: other files, the network, other programs. Knows no parser.

Linux is asked twice, and neither can be undone. A seccomp filter lets pass the few system calls that computing needs
and refuses all others: whatever opens a socket, starts a program, makes, changes or removes a file, or reaches another
process, by a way that exists today or that a later kernel brings. Landlock leaves the modules and libraries of Python
as the only files that can be read. Both hold for machine code as they do for Python.

A kernel may lack either, a container may forbid it, and only x86_64 and aarch64 are known here: then that part is
missing, and `confine` says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000 | errno.EPERM
KILL: Final = 0x80000000  # the process, by SIGSYS

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column in _NUMBERS, AUDIT_ARCH_*
_CALLS = """
    access 21 -, brk 12 214, clock_getres 229 114, clock_gettime 228 113, clock_nanosleep 230 115, close 3 57,
    dup 32 23, dup2 33 -, dup3 292 24, exit 60 93, exit_group 231 94, faccessat 269 48, faccessat2 439 439,
    fcntl 72 25, fstat 5 80, futex 202 98, getcwd 79 17, getdents64 217 61, getegid 108 177, geteuid 107 175,
    getgid 104 176, getpid 39 172, getppid 110 173, getrandom 318 278, getrusage 98 165, gettid 186 178,
    gettimeofday 96 169, getuid 102 174, io_uring_setup 425 425, lseek 8 62, lstat 6 -, madvise 28 233, mmap 9 222,
    mprotect 10 226, mremap 25 216, munmap 11 215, nanosleep 35 101, newfstatat 262 79, open 2 -, openat 257 56,
    poll 7 -, ppoll 271 73, pread64 17 67, prlimit64 302 261, pselect6 270 72, read 0 63, readlink 89 -,
    readlinkat 267 78, readv 19 65, restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135,
    rt_sigreturn 15 139, sched_getaffinity 204 123, sched_yield 24 124, seccomp 317 277, select 23 -,
    sigaltstack 131 132, socket 41 198, stat 4 -, statx 332 291, sysinfo 99 179, tgkill 234 131, time 201 -,
    uname 63 160, write 1 64, writev 20 66
"""
_NUMBERS = {name: numbers for name, *numbers in (line.split() for line in _CALLS.split(","))}
"""System call -> its number on x86_64 and on aarch64, "-" where there is none."""

_FREE = """
    access brk clock_getres clock_gettime clock_nanosleep close dup dup2 dup3 exit exit_group faccessat faccessat2 fstat
    futex getcwd getdents64 getegid geteuid getgid getpid getppid getrandom getrusage gettid gettimeofday getuid lseek
    lstat madvise mmap mprotect mremap munmap nanosleep newfstatat poll ppoll pread64 pselect6 read readlink readlinkat
    readv restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield select sigaltstack stat
    statx sysinfo time uname write writev
"""
_WHOLE = 0xFFFFFFFF
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_DUPLICATING = 1030  # F_DUPFD_CLOEXEC
_CPU_TIME = 0  # RLIMIT_CPU

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # where a filter finds them, in bytes
_INSTRUCTION = struct.Struct("=HBBI")  # what to do, how far to jump if so and if not, a constant
_X32_CALLS = 0x40000000  # the same machine, other numbers

_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Landlock; the same on every machine
_BENEATH = 1
_READ_FILE, _READ_FOLDER, _ALL_ACCESS = 1 << 2, 1 << 3, (1 << 13) - 1  # all that Landlock's first version knows

LIBRARIES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store", "/etc/ld.so.cache",
)  # fmt: skip
"""Where the dynamic linker finds what modules need, beside the folders of the modules themselves.

No fonts: 224 PDFs gave the same text with those of the machine and without.
"""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is in force: `calls`, that nothing is written, started or connected; `files`, that only modules are read."""

    calls: bool
    files: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """`then` becomes of a system call whose arguments are as wanted; the next rule is for others.

    Wanted are (word, mask, value): word 2n holds the low 32 bits of argument n, 2n + 1 the high ones.
    """

    call: str
    wanted: tuple[tuple[int, int, int], ...] = ()
    then: int = ALLOW


def confine(readable: Iterable[str]) -> Confinement:
    """Leave this process what computing takes, and reading below the paths given. Says what the system granted.

    The filter holds for every thread, Landlock for the calling one and those it starts. Files that are open stay open.
    What is refused fails with EPERM, a path with EACCES.
    """
    if sys.platform != "linux":
        return Confinement(calls=False, files=False)
    files = _read_only(readable)  # first: the filter knows nothing of Landlock
    pid = os.getpid()
    rules = [
        *map(Rule, _FREE.split()),
        Rule("open", ((2, _WRITING, 0),)),
        Rule("openat", ((4, _WRITING, 0),)),
        Rule("fcntl", ((2, _WHOLE ^ 3, 0),)),  # dup, close-on-exec, and what it is; not who gets its signals
        Rule("fcntl", ((2, _WHOLE, _DUPLICATING),)),
        Rule("tgkill", ((0, _WHOLE, pid),)),  # abort()
        Rule("prlimit64", ((0, _WHOLE, 0), (2, _WHOLE, _CPU_TIME))),  # set for every file anew
        Rule("prlimit64", ((0, _WHOLE, 0), (4, _WHOLE, 0), (5, _WHOLE, 0))),  # a limit is only asked for
    ]
    return Confinement(calls=install(rules, otherwise=REFUSE) == 0, files=files)


def install(rules: Iterable[Rule], *, otherwise: int, flags: int = _ALL_THREADS) -> int:
    """Put a filter on this process, with all its threads, and its children, for good; -1 where that is not granted.

    `flags` and what is returned are those of seccomp(2).
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _MACHINES or sys.maxsize < 2**32:
        return -1
    code = program(rules, otherwise=otherwise, machine=machine)
    place = ctypes.create_string_buffer(code, len(code))
    number = int(_NUMBERS["seccomp"][_MACHINES[machine][0]])
    described = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(place))
    return _call(number, _SET_FILTER, flags, described) if _gives_up_privileges() else -1


def program(rules: Iterable[Rule], *, otherwise: int, machine: str) -> bytes:
    """The filter as the kernel runs it (classic BPF). A call by the numbers of another architecture kills."""
    column, architecture = _MACHINES[machine]
    code = [
        (_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32_CALLS), (_RETURN, 0, 0, KILL),
    ]  # fmt: skip
    for rule in rules:
        number = _NUMBERS[rule.call][column]
        if number == "-":
            continue
        body = []
        for left, (word, mask, value) in zip(reversed(range(len(rule.wanted))), rule.wanted, strict=True):
            body += [(_LOAD, 0, 0, _ARGUMENTS + 4 * word), (_AND, 0, 0, mask), (_EQUAL, 0, 3 * left + 1, value)]
        body.append((_RETURN, 0, 0, rule.then))
        if rule.wanted:
            body.append((_LOAD, 0, 0, _NUMBER))
        code += [(_EQUAL, 0, len(body), int(number)), *body]
    code.append((_RETURN, 0, 0, otherwise))
    return b"".join(_INSTRUCTION.pack(*one) for one in code)


def _read_only(paths: Iterable[str]) -> bool:
    """Landlock: let files below these paths be read, no other, and nothing else be done to any."""
    ruleset = _call(_CREATE_RULESET, struct.pack("=Q", _ALL_ACCESS), 8, 0)
    if ruleset < 0:
        return False
    try:
        for path in paths:
            with suppress(OSError):  # not there
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
                access = _READ_FILE | (_READ_FOLDER if Path(path).is_dir() else 0)
                _call(_ADD_RULE, ruleset, _BENEATH, struct.pack("=Qi", access, place), 0)
                os.close(place)
        return _gives_up_privileges() and _call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _gives_up_privileges() -> bool:
    """What the kernel asks for before it takes a filter from anybody."""
    return int(ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))) == 0


def _call(number: int, *arguments: int | bytes) -> int:
    """A system call that no library offers; -1 where it fails."""
    words = (one if isinstance(one, bytes) else ctypes.c_long(one) for one in arguments)
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *words))

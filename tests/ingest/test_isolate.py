"""Parsing in processes of their own: what a parser does costs its own file and no other, and nothing is left over."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.isolate import Limits, ParsingPool, Result, confinement
from ingest.parse import Parsed, parse_all
from ingest.sandbox import Confinement
from retrieval.errors import IngestError, ParseError
from retrieval.records import Span

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory and ends children with parents")


def what_the_kernel_has() -> Confinement:
    if sys.platform != "linux":
        return Confinement(calls=False, files=False)
    filters = "\nSeccomp" in Path("/proc/self/status").read_text() and platform.machine() in ("x86_64", "aarch64")
    return Confinement(calls=filters, files=ctypes.CDLL(None).syscall(444, None, 0, 1) > 0)


KERNEL = what_the_kernel_has()
needs_calls = pytest.mark.skipif(not KERNEL.calls, reason="no seccomp filters here")
needs_files = pytest.mark.skipif(not KERNEL.files, reason="no Landlock here")
LIMITS = Limits(seconds=20, memory_bytes=256 << 20, max_chars=100_000)

PARSERS = '''
import ctypes, json, mmap, os, resource, signal, socket, struct, subprocess, sys, time
from ingest.parse import Parsed
from retrieval.errors import ParseError
from retrieval.records import Span

kept = []

def parse(path, data):
    """What the file's name says, done to its bytes."""
    return globals()[path.stem](data)

def text(data): return Parsed(data.decode(), metadata={"pid": os.getpid()})
def refused(data): raise ParseError("refused", advice="go away")
def segfault(data): ctypes.string_at(0)
def abort(data): os.abort()
def leave(data): os._exit(0)
def system_exit(data): sys.exit(0)
def odd(data):
    class Odd(BaseException):
        def __str__(self): raise ValueError
    raise Odd
def recurse(data): return recurse(data)
def recurse_in_c(data):
    sys.setrecursionlimit(10**9)
    nested = []
    for _ in range(10**6): nested = [nested]
    return Parsed(repr(nested))
def loop(data):
    while True: pass
def stubborn(data):
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
    while True: time.sleep(1)
def stand_still(data): signal.raise_signal(signal.SIGSTOP)
def hoard(data):
    pieces = []
    while True: pieces.append(bytearray(1 << 20))
def hoard_and_excuse(data):
    try: hoard(data)
    except MemoryError as error: raise ParseError("cannot be read", advice="") from error
def hoard_once(data): bytearray(1 << 40)
def keep(data):
    kept.append(bytearray(140 << 20))
    return text(data)
def verbose(data): return Parsed("x" * 1_000_000)
def marked(data): return Parsed("x" * 50_000, spans=tuple(Span("code", n, n + 1) for n in range(50_000)))
def chatty(data):
    for _ in range(1000): print("rubbish" * 100)
    os.write(1, b"more"); os.write(2, b"more" * 100_000)
    return text(data)
def into_pipes(*data):
    for number in range(3, 64):
        try:
            for each in data: os.write(number, each)
        except OSError: pass
    return text(b"said")
def garbage(data): return into_pipes(b"rubbish" * 1000)
def huge_claim(data): return into_pipes(struct.pack(">QQ", 1 << 60, 1 << 60))
def forged(data): return into_pipes(struct.pack(">QQ", len(data), 0), data)
def mute(data):
    for number in range(3, 64):
        try: os.close(number)
        except OSError: pass
    time.sleep(1000)
def connect(data): socket.create_connection(("127.0.0.1", int(data)))
def look_up(data): socket.getaddrinfo("localhost", 80)
def start(data): subprocess.run(["true"])
def fork(data): os.fork()
def write(data): open(data, "wb")
def remove(data): os.remove(data)
def write_natively(data):
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.open(data, os.O_WRONLY | os.O_CREAT, 0o600)
    return Parsed(f"{libc.write(number, data, 1)}")
def native(data):
    name, *arguments = json.loads(data)
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [one.encode() if isinstance(one, str) else ctypes.c_long(one) for one in arguments]
    return Parsed(f"{getattr(libc, name)(*arguments)} {ctypes.get_errno()}")
def thirty_two_bits(data):
    """mkdir by its number for 32-bit programs, which is getpid's for others; its path must lie low."""
    low, all_rights = 0x40, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | low, all_rights)
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    code = bytes.fromhex("53 bb") + struct.pack("<I", where + 64)  # push rbx; mov ebx, path
    code += bytes.fromhex("b9 c0010000 b8 27000000 cd80 5b c3")  # mov ecx, 0700; mov eax, 39; int 0x80; pop rbx; ret
    page[: len(code)] = code
    page[64 : 64 + len(data)] = data
    return Parsed(str(ctypes.CFUNCTYPE(ctypes.c_int)(where)()))
def surroundings(data):
    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)]
    return Parsed(f"{[*os.environ]} {sys.stdin.read()!r} {os.read(0, 9)!r} {limits} {os.getcwd()}")
def swell(data): return Parsed("x" * 20_000_000)
def slow(data):
    time.sleep(float(data))
    return text(data)
def members(data):
    for name in data.decode().split(","):
        if name == "segfault": segfault(data)
        if name == "boom": raise ValueError
        yield (name, Parsed("content of " + name)) if name != "bad" else (name, ParseError("bad", advice="none"))
def large_members(data):
    for number in range(10): yield f"{number}.txt", Parsed("x" * 30_000)
def no_members(data): return []
def nothing(data): return None
def backwards(data): return Parsed("text", spans=(Span("code", 3, 2),))
def unknown_kind(data): return Parsed("text", spans=(Span("nonsense", 1, 2),))
def not_json(data): return Parsed("text", metadata={"set": {1}})
def not_a_number(data): return Parsed("text", metadata={"score": float("nan")})
def surrogates(data):
    return Parsed("a\\ud800b", "\\udfff", (Span("code", 1, 2, 0, "\\ud800"),), metadata={"k": "\\ud800"})
def rich(data):
    spans = (Span("heading", 0, 2, 1, "日本"), Span("page", 0, 9, 1))
    return Parsed("日本 😀\\r\\n\\0 end", "Title \\\\ud800", spans, "text/x",
                  {"list": [1, "zwei", None, 2.5], "nested": {"a": True}})
'''


@pytest.fixture(scope="module", autouse=True)
def parsers(tmp_path_factory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("parsers")
    (folder / "hostile_parsers.py").write_text(PARSERS, encoding="utf-8")
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))


def new_pool(*, workers: int = 1, limits: Limits = LIMITS) -> ParsingPool:
    return ParsingPool(workers=workers, limits=limits, parse="hostile_parsers.parse")


@pytest.fixture(scope="module")
def pool(parsers) -> Iterator[ParsingPool]:  # noqa: ARG001 - they must be found when the workers start
    with new_pool(workers=2) as pool:
        yield pool


def parsed(pool: ParsingPool, *files: tuple[str, bytes]) -> list[tuple[Result, ...]]:
    found = list(pool.parse_files((number, f"{name}.x", data) for number, (name, data) in enumerate(files)))
    assert [number for number, _ in found] == list(range(len(files)))
    return [results for _, results in found]


def only(results: tuple[Result, ...]) -> Parsed | ParseError:
    ((name, result),) = results
    assert name == ""
    return result


def reason(results: tuple[Result, ...]) -> str:
    error = only(results)
    assert isinstance(error, ParseError)
    assert error.advice
    return error.reason


def pids(pool: ParsingPool) -> list[int]:
    return [worker._process.pid for worker in pool._workers]


def is_there(pid: int) -> bool:
    """Whether a process lives; one that ended and was not waited for yet does not."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(*processes: int) -> None:
    end = time.monotonic() + 10
    while any(map(is_there, processes)):
        assert time.monotonic() < end, "processes are left over"
        time.sleep(0.02)


# ---- what goes through -----------------------------------------------------------------------------------------------


def test_a_result_arrives_as_it_was(pool):
    expected = Parsed(
        "日本 😀\r\n\0 end",
        "Title \\ud800",
        (Span("heading", 0, 2, 1, "日本"), Span("page", 0, 9, 1)),
        "text/x",
        {"list": [1, "zwei", None, 2.5], "nested": {"a": True}},
    )
    (results,) = parsed(pool, ("rich", b""))
    assert results == (("", expected),)


def test_the_parsers_that_ship_say_the_same_in_a_worker():
    files = {
        "a.md": b"---\ntitle: T\ntags: [x, y]\n---\n# One\n\n```py\ncode\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "b.html": b"<title>t</title><h1>Head</h1><p>Text <b>bold</b></p>",
        "c.txt": "Überschrift\n===========\n\nText.\n".encode(),
        "d.ipynb": b'{"cells": [{"cell_type": "markdown", "source": ["# Hi"]}], "metadata": {}, "nbformat": 4}',
    }
    with ParsingPool(workers=1, limits=LIMITS) as pool:
        found = dict(pool.parse_files((name, name, data) for name, data in files.items()))
        ((_, ((_, empty),)),) = pool.parse_files([("e", "e.md", b"")])
    assert {name: only(results) for name, results in found.items()} == {
        name: only(parse_all(Path(name), data)) for name, data in files.items()
    }
    assert isinstance(empty, ParseError)
    assert empty.reason == "the file is empty"


def test_lone_surrogates_which_nothing_can_store_are_replaced(pool):
    (results,) = parsed(pool, ("surrogates", b""))
    assert only(results) == Parsed("a\ufffdb", "\ufffd", (Span("code", 1, 2, 0, "\ufffd"),), metadata={"k": "\ufffd"})


def test_a_file_may_hold_several_documents(pool):
    one, same, cut, none = parsed(
        pool, ("members", b"a/b.md,bad,c"), ("members", b"a,a,a"), ("members", b"a,boom,b"), ("no_members", b"")
    )
    assert [(name, str(getattr(result, "text", result))) for name, result in one] == [
        ("a/b.md", "content of a/b.md"), ("bad", "bad"), ("c", "content of c"),
    ]  # fmt: skip
    assert [name for name, _ in same] == ["a", "a (2)", "a (3)"]
    assert [(name, isinstance(result, Parsed)) for name, result in cut] == [("a", True), ("", False)]
    assert reason(none) == "holds no document"


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "a/..", "x" * 5000])
def test_no_document_can_pass_for_one_outside_its_file(pool, name):
    (results,) = parsed(pool, ("members", f"good,{name}".encode()))
    assert results[0] == ("good", Parsed("content of good"))
    assert results[1][0] == ""
    assert "makes no sense, after 1 of its documents" in str(results[1][1])


def test_a_crash_keeps_the_documents_before_it(pool):
    first, second = parsed(pool, ("members", b"a,b,segfault,c"), ("text", b"next"))
    assert [name for name, _ in first] == ["a", "b", ""]
    assert str(first[-1][1]) == "crashed the parser (signal 11), after 2 of its documents"
    assert only(second).text == "next"


# ---- what does not ---------------------------------------------------------------------------------------------------

HARM = {
    "refused": "refused",
    "segfault": r"crashed the parser \(signal 11\)",
    "abort": r"crashed the parser \(signal 6\)",
    "leave": r"ended without an answer \(exit status 0\)",
    "system_exit": r"failed \(SystemExit\)",
    "odd": r"failed \(Odd\)",
    "recurse": r"failed \(RecursionError\)",
    "recurse_in_c": r"crashed the parser \(signal 11\)",
    "verbose": "holds more than 100,000 characters of text",
    "marked": "holds more than 100,000 characters of headings, rows and names",
    "garbage": "makes no sense",
    "huge_claim": "makes no sense",
    "nothing": r"failed \(TypeError\)",
    "backwards": "makes no sense",
    "unknown_kind": "makes no sense",
    "not_json": r"failed \(TypeError\)",
    "not_a_number": r"failed \(ValueError\)",
    "start": r"failed \(PermissionError\)",
    "fork": r"failed \(PermissionError\)",
    "look_up": r"failed \(PermissionError\)",
}


@pytest.mark.parametrize("name", HARM)
def test_harm_costs_its_own_file_alone(pool, name):
    before, harmed, after = parsed(pool, ("text", b"before"), (name, b""), ("text", b"after"))
    assert (only(before).text, only(after).text) == ("before", "after")
    with pytest.raises(ParseError, match=HARM[name]):
        raise only(harmed)
    assert only(harmed).advice


@LINUX
@pytest.mark.parametrize("name", ["hoard", "hoard_and_excuse", "hoard_once"])
def test_memory_is_limited(pool, name):
    harmed, after = parsed(pool, (name, b""), ("text", b"after"))
    assert reason(harmed) == "needed more than 256 MiB of memory"
    assert only(after).text == "after"


@pytest.mark.parametrize("name", ["loop", "stubborn", "stand_still", "mute"])
def test_time_is_limited(name):
    with new_pool(limits=Limits(seconds=0.5)) as pool:
        started = time.monotonic()
        harmed, after = parsed(pool, (name, b""), ("text", b"after"))
        assert time.monotonic() - started < 10
    if name != "mute":  # it may be found out before its time is up
        assert reason(harmed) == "took longer than 0.5 s"
    assert reason(harmed)
    assert only(after).text == "after"


def test_text_is_limited_over_all_documents_of_a_file(pool):
    (results,) = parsed(pool, ("large_members", b""))
    assert [name for name, _ in results] == ["0.txt", "1.txt", "2.txt", ""]
    assert (
        str(results[-1][1])
        == "holds more than 100,000 characters of text by 3.txt, which is left out with all after it"
    )


@pytest.mark.parametrize(
    "message",
    [
        b"{}", b"[]", b"null", b"1", b"\xff", b"[" * 100_000, b'{"name": "", "reason": 1, "advice": ""}',
        b'{"name": "", "reason": "\\ud800", "advice": ""}', b'{"name": 7, "reason": "", "advice": ""}',
        b'{"name": "", "title": "", "media_type": "", "metadata": [], "spans": [[], [], [], []]}',
        b'{"name": "", "title": "", "media_type": "", "metadata": {"x": NaN}, "spans": [[], [], [], [], []]}',
        b'{"name": "", "title": "", "media_type": "", "metadata": {"x": 1e999}, "spans": [[], [], [], [], []]}',
        b'{"name": "", "title": "", "media_type": "", "metadata": {}, "spans": [["code"], [0.0], [0], [0], [""]]}',
        b'{"name": "", "title": "", "media_type": "", "metadata": {}, "spans": [["code"], [0], [9], [0], [""]]}',
        b'{"name": "", "title": "", "media_type": "", "metadata": {}, "spans": [[["code"]], [0], [0], [0], [""]]}',
        b'{"last": true}',
    ],
)  # fmt: skip
def test_a_forged_answer_is_found_out(pool, message):
    forged, after = parsed(pool, ("forged", message), ("text", b"after"))
    assert "makes no sense" in reason(forged)
    assert only(after).text == "after"


def test_what_is_printed_does_no_harm(pool):
    (results,) = parsed(pool, ("chatty", b"kept"))
    assert only(results).text == "kept"


def test_no_connection_is_made_and_no_file_changed(pool, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        connected, *others = parsed(
            pool,
            ("connect", str(server.getsockname()[1]).encode()),
            ("write", bytes(victim)),
            ("write", bytes(tmp_path / "new")),
            ("remove", bytes(victim)),
        )
        with pytest.raises(TimeoutError):
            server.accept()
    assert [reason(results) for results in (connected, *others)] == ["the parser failed (PermissionError)"] * 4
    (written,) = parsed(pool, ("write_natively", bytes(victim)))
    assert only(written).text == "-1", "machine code is held by the limit on the size of files"
    assert victim.read_bytes() == b"untouched"
    assert not (tmp_path / "new").exists()


# ---- what a parser that was taken over can do ------------------------------------------------------------------------

HARMLESS = [
    ("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
    ("socket", socket.AF_INET6, socket.SOCK_DGRAM, 0),
    ("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
    ("open", "victim", os.O_WRONLY),
    ("open", "victim", os.O_RDWR | os.O_APPEND),
    ("open", "victim", os.O_RDONLY | os.O_TRUNC),
    ("open", "new", os.O_RDONLY | os.O_CREAT, 0o600),
    ("openat", -100, "new", os.O_WRONLY | os.O_CREAT, 0o600),
    ("creat", "new", 0o600),
    ("mkdir", "new", 0o700),
    ("mkfifo", "new", 0o600),
    ("symlink", "victim", "new"),
    ("link", "victim", "new"),
    ("rename", "victim", "new"),
    ("unlink", "victim"),
    ("unlinkat", -100, "victim", 0),
    ("rmdir", "folder"),
    ("truncate", "victim", 0),
    ("chmod", "victim", 0o777),
    ("utimes", "victim", 0),
    ("memfd_create", "name", 0),
    ("shmget", 0, 4096, 0o1600),
    ("eventfd", 0, 0),
    ("kill", os.getpid(), 0),
]  # fmt: skip
HARMFUL = [
    ("fork",),
    ("execl", "/bin/true", "true", 0),
    ("kill", -1, 0),
    ("ptrace", 16, os.getpid(), 0, 0),
    ("unshare", 0x10000000),
    ("chroot", "/"),
    ("mount", "none", "/", "tmpfs", 0, 0),
    ("setrlimit", 1, "\0" * 16),
    ("prctl", 1, 0, 0, 0, 0),
    ("syscall", 425, 1, "\0" * 120),  # io_uring_setup: a ring opens and connects where no filter looks
    ("syscall", 434, os.getpid(), 0),  # pidfd_open
    ("syscall", 435, "\0" * 64, 64),  # clone3
    ("syscall", 437, -100, "victim", "\0" * 24, 24),  # openat2
    ("syscall", 999),  # what a later kernel may bring
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a file and a folder in it, which is the current one."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "victim").write_bytes(b"untouched")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def native(pool: ParsingPool, *call: str | int) -> str:
    """What a C function returned in a worker, and errno."""
    (results,) = parsed(pool, ("native", json.dumps(call).encode()))
    return only(results).text


def absolute(place: Path, *call: str | int) -> list[str | int]:
    return [str(place / word) if word in ("victim", "new", "folder") else word for word in call]


@needs_calls
@pytest.mark.parametrize(
    "call", [*HARMLESS, *HARMFUL], ids=lambda call: " ".join(map(repr, call[:3])).replace(str(os.getpid()), "pid")
)
def test_machine_code_cannot_write_start_or_connect(pool, place, call):
    call = absolute(place, *call)
    assert native(pool, *call) == f"-1 {errno.EPERM}"
    assert sorted(one.name for one in place.iterdir()) == ["folder", "victim"]
    assert (place / "victim").read_bytes() == b"untouched"
    if call[0] in {one[0] for one in HARMLESS}:
        import hostile_parsers

        done = int(hostile_parsers.native(json.dumps(call)).text.split()[0])
        assert done >= 0, "where nothing is refused it works, so the refusal above was no accident"
        if call[0] in ("socket", "open", "openat", "creat", "memfd_create", "eventfd"):
            os.close(done)


@needs_files
@pytest.mark.parametrize(
    "path",
    ["victim", "/etc/passwd", f"/proc/{os.getpid()}/environ", "/proc/self/mem"],
    ids=["victim", "system", "parent", "own"],
)
def test_nothing_but_modules_can_be_read(pool, place, path):
    assert native(pool, "open", str(place / path), os.O_RDONLY) == f"-1 {errno.EACCES}"
    assert not native(pool, "open", json.__file__, os.O_RDONLY).startswith("-1")


@needs_calls
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 takes calls by other numbers")
def test_other_numbers_for_the_same_calls_end_the_worker(pool, place):
    x32_mkdir = json.dumps(["syscall", 0x40000000 + 83, str(place / "new"), 0o700]).encode()
    x32, i386, after = parsed(
        pool, ("native", x32_mkdir), ("thirty_two_bits", bytes(place / "new")), ("text", b"after")
    )
    assert [reason(results) for results in (x32, i386)] == ["crashed the parser (signal 31)"] * 2
    assert only(after).text == "after"
    assert not (place / "new").exists()


UNCONFINED = """
import sys
from ingest import sandbox
from ingest.isolate import Limits, ParsingPool, confinement
assert sandbox.install([sandbox.Rule("seccomp", then=sandbox.REFUSE)], otherwise=sandbox.ALLOW) == 0
print(confinement().calls)
with ParsingPool(workers=1, limits=Limits(), parse="hostile_parsers.parse") as pool:
    ((_, ((_, parsed),)),) = pool.parse_files([(1, "text.x", b"read")])
    ((_, ((_, connected),)),) = pool.parse_files([(1, "look_up.x", b"")])
print(parsed.text, connected)
"""


@needs_calls
def test_where_no_filter_is_allowed_workers_parse_without_and_say_so():
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", UNCONFINED], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n", 1)[0] == "False"
    assert "read the parser failed (PermissionError)" in done.stdout


def test_confinement_is_what_the_kernel_has():
    assert confinement() == KERNEL


def test_a_worker_has_no_keys_no_input_and_no_terminal(monkeypatch):
    monkeypatch.setenv("RAG_SERVER_KEY", "secret")
    with new_pool() as fresh:
        (results,) = parsed(fresh, ("surroundings", b""))
        assert [os.getsid(pid) for pid in pids(fresh)] == pids(fresh)
    assert only(results).text in (
        f"{names} '' b'' [(0, 0), (0, 0)] /"
        for names in ([], ["LC_CTYPE"])  # Python's own, in the C locale
    )


# ---- the pool --------------------------------------------------------------------------------------------------------

FILES = st.lists(
    st.tuples(st.sampled_from(["text", "text", "text", "refused", "system_exit", "garbage", "segfault", "leave"]),
              st.text(st.characters(codec="utf-8"), max_size=50).map(str.encode)),
    max_size=12,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_every_file_gets_its_result_in_order(pool, files):
    for (name, data), results in zip(files, parsed(pool, *files), strict=True):
        if name == "text":
            assert only(results).text == data.decode()
        else:
            assert reason(results)


def test_iterations_may_be_nested(pool):
    found = []
    for number, _ in pool.parse_files((number, "text.x", b"outer") for number in range(150)):
        inner = pool.parse_files((number, "text.x", b"inner") for number in range(150))
        found.append((number, next(inner)[0]))
        inner.close()
    assert found == [(number, 0) for number in range(150)]


def test_parsing_goes_on_while_the_caller_is_busy():
    with new_pool() as pool:
        results = pool.parse_files((number, "slow.x", b"0.1") for number in range(11))
        next(results)
        time.sleep(3)
        started = time.monotonic()
        assert len(list(results)) == 10
        assert time.monotonic() - started < 0.5, "the ten had a second of work in them"


def test_how_far_ahead_files_are_taken_is_bounded(pool):
    taken = []

    def files(count: int, size: int) -> Iterator[tuple[int, str, bytes]]:
        for number in range(count):
            taken.append(number)
            yield number, "text.x", b"x" * size

    for number, _ in pool.parse_files(files(300, 10)):
        assert len(taken) <= number + 1 + 128
    taken.clear()
    with new_pool(limits=Limits(max_chars=10_000_000)) as large:
        for number, results in large.parse_files(files(8, 10_000_000)):
            assert len(taken) <= number + 1 + 4, "32 MB and the one that went above"
            assert len(only(results).text) == 10_000_000


def test_how_much_text_waits_is_bounded():
    with new_pool(limits=Limits(max_chars=20_000_000)) as pool:
        rooms = []
        parse_ahead = pool._parse_ahead
        pool._parse_ahead = lambda room, *file: rooms.append(room) or parse_ahead(room, *file)  # type: ignore[method-assign]
        files = [(number, "swell.x", b"") for number in range(6)]
        results = pool.parse_files(files)
        next(results)
        time.sleep(1)
        assert rooms[0].taken <= 32_000_000 + 20_000_000
        assert [number for number, _ in results] == [1, 2, 3, 4, 5]
        assert rooms[0].taken == 0


@LINUX
def test_a_worker_that_stays_large_is_replaced():
    with new_pool() as small:
        first, second, third = parsed(small, ("text", b""), ("keep", b""), ("text", b""))
    one, two, three = (only(results).metadata["pid"] for results in (first, second, third))
    assert one == two != three


def test_no_file_needs_no_worker():
    with new_pool() as pool:
        assert list(pool.parse_files([])) == []
        assert pids(pool) == []


@pytest.mark.parametrize("parse", ["no_such_module.parse", "hostile_parsers.no_such_function"])
def test_workers_that_cannot_start_are_no_fault_of_the_file(parse):
    with (
        ParsingPool(workers=1, limits=LIMITS, parse=parse) as pool,
        pytest.raises(IngestError, match=r"does not start \(.*no_such.*rag doctor"),
    ):
        list(pool.parse_files([(1, "a.x", b"")]))


@LINUX
def test_too_little_memory_to_start_is_no_fault_of_the_file():
    with new_pool(limits=Limits(memory_bytes=1 << 20)) as pool, pytest.raises(IngestError, match="parse_memory_mb"):
        list(pool.parse_files([(1, "text.x", b"")]))


# ---- nothing is left over --------------------------------------------------------------------------------------------


def test_an_exception_of_the_caller_leaves_no_process():
    def consume(pool: ParsingPool) -> None:
        for _ in pool.parse_files([(1, "text.x", b""), (2, "stubborn.x", b""), (3, "text.x", b"")]):
            processes.extend(pids(pool))
            raise RuntimeError("the disk is full")

    processes: list[int] = []
    started = time.monotonic()
    with new_pool() as pool, pytest.raises(RuntimeError, match="disk"):
        consume(pool)
    assert time.monotonic() - started < 5, "nobody waits for the file that hangs"
    assert processes
    wait_until_gone(*processes)
    with pytest.raises(RuntimeError):
        list(pool.parse_files([(1, "text.x", b"")]))


SUSPENDED = """
import os, signal, subprocess, sys
from ingest.isolate import Limits, ParsingPool
with ParsingPool(workers=1, limits=Limits(seconds=1.5), parse="hostile_parsers.parse") as pool:
    results = pool.parse_files([(1, "text.x", b""), (2, "slow.x", b"0.2")])
    next(results)
    subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    print(next(results))
"""


def test_time_during_which_the_program_was_suspended_does_not_count():
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", SUSPENDED], env=environ, capture_output=True, text=True, check=True)
    assert "text='0.2'" in done.stdout


PARENT = """
import signal, sys, time
from ingest.isolate import Limits, ParsingPool
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
def files():
    yield 1, "text.x", b""
    yield 2, sys.argv[1] + ".x", b""
with ParsingPool(workers=1, limits=Limits(), parse="hostile_parsers.parse") as pool:
    results = pool.parse_files(files())
    next(results)
    print(pool._workers[0]._process.pid, flush=True)
    try:
        next(results)
        time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def start_parent(name: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", PARENT, name], env=environ, stdout=subprocess.PIPE, text=True)


@LINUX
@pytest.mark.parametrize("name", ["text", "loop", "stubborn"])
def test_a_killed_parent_takes_its_workers_along(name):
    with start_parent(name) as parent:
        worker = int(parent.stdout.readline())
        assert is_there(worker)
        time.sleep(0.2)
        parent.kill()
    wait_until_gone(worker)


@pytest.mark.parametrize("name", ["text", "stubborn"])
def test_an_interrupted_parent_ends_its_workers(name):
    with start_parent(name) as parent:
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.read() == "interrupted\n"
    assert parent.returncode == 0
    wait_until_gone(worker)


@LINUX
def test_a_worker_never_holds_more_than_its_limit():
    script = textwrap.dedent("""
        import resource
        from ingest.isolate import Limits, ParsingPool
        limits = Limits(memory_bytes=256 << 20)
        with ParsingPool(workers=1, limits=limits, parse="hostile_parsers.parse") as pool:
            list(pool.parse_files([(1, "hoard.x", b"")]))
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    """)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert 128 << 20 < int(done.stdout) < 256 << 20

"""Parse files in processes of their own, each limited in time, memory and output. Knows no format and no index.

A parser reads what strangers made. It may hang, eat the memory or take its process down with it; here that costs one
file, which gets a ParseError that says so, and the next file meets a new process. A worker is a Python started anew (a
fork would copy the locks of the encoder's threads); files go to it down one pipe and answers come back up another, as
lengths, JSON and UTF-8 that the parent checks.

The parent reads the files, not the worker: the bytes that are parsed are those that were hashed, whatever becomes of
the file meanwhile, and a parser has no reason to open anything.

On Linux the kernel keeps every limit, and `sandbox` leaves a worker nothing to do but compute: it reads no file but
modules, writes none and reaches nobody (`confinement` says whether that holds here). macOS does not limit the address
space and does not end a worker with its parent: there time and output are limited, an audit hook holds Python code, and
a worker that lost its parent ends when it waits for the next file or has used up its processor time.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from threading import Event, Lock, RLock, Thread
from typing import IO, Any, NoReturn, Self, TypeVar, cast, get_args

from ingest import sandbox
from ingest.parse import Parsed
from ingest.parse.text import no_surrogates
from retrieval.errors import IngestError, ParseError
from retrieval.records import Span, SpanKind

_AHEAD_FILES = 128  # two batches of the ingest loop: while one is encoded, the next is parsed
_AHEAD_SIZE = 32_000_000  # bytes of files that wait to be parsed; characters of results that wait to be taken
_FILES_PER_WORKER = 1000  # what a parser leaks goes with its process
_START_SECONDS = 60.0
_TICK_SECONDS = 0.1
_MARK_BYTES = 1_000_000  # of titles, names and metadata; spans may take a byte for every character of text allowed
_MAX_RESULTS = 100_000
_MAX_NAME_CHARS = 4096
_MAX_REASON_CHARS = 1000
_OUT_OF_MEMORY = 77  # an exit status needs no memory to be given

_BOOT = "import sys; settings, *sys.path[:] = sys.argv[1:]; from ingest.isolate import serve; serve(settings)"
_SIZES = struct.Struct(">QQ")
_KINDS = frozenset(get_args(SpanKind))

T = TypeVar("T")

Result = tuple[str, Parsed | ParseError]
"""A document in a file and what became of it. The name is "" for the file itself, a path with "/" for a member."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost: seconds by the clock, bytes of its worker's address space, characters of text in all."""

    seconds: float = 60.0
    memory_bytes: int = 1 << 30
    max_chars: int = 50_000_000


def confinement() -> sandbox.Confinement:
    """What a worker that was started for it has found to be in force. Raises IngestError when none can be started."""
    worker = _Worker("ingest.parse.parse_all", Limits())
    try:
        return worker.wait_until_ready()
    finally:
        worker.close()


class ParsingPool:
    """Workers that parse files. The first starts when there is a file to parse; none is left after `with`.

    `parse` is the dotted name of a function (path, bytes) -> Parsed, or -> iterable of Result where a file can hold
    several documents. Only workers import it. `path` is a mere name: there need be no such file. `readable` are folders
    that it may read beside those of modules.
    """

    def __init__(
        self, *, workers: int, limits: Limits, parse: str = "ingest.parse.parse_all", readable: Sequence[str] = ()
    ) -> None:
        self._limits, self._parse, self._readable = limits, parse, readable
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="parsing")  # one waits for each worker
        self._lock = Lock()
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._closing = Event()
        self._watchdog = Thread(target=self._watch, name="parsing-watchdog", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closing.set()
            workers = [*self._workers]
        for worker in workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()
        if self._watchdog.ident is not None:
            self._watchdog.join()

    def parse_files(self, files: Iterable[tuple[T, str, bytes]]) -> Iterator[tuple[T, tuple[Result, ...]]]:
        """Parse (anything, file name, bytes); yields (that anything, results) in the same order, a result at least.

        Files are taken and parsed some way ahead, so that parsing goes on while the caller does other things. Several
        iterations may be under way at once. Raises IngestError when no worker can be started, whatever the file.
        """
        ahead: deque[tuple[T, str, bytes, Future[tuple[Result, ...] | None]]] = deque()
        ahead_bytes, room = 0, _Room()
        rest = iter(files)
        try:
            while True:
                while len(ahead) < _AHEAD_FILES and ahead_bytes < _AHEAD_SIZE and (file := next(rest, None)):
                    tag, name, data = file
                    ahead_bytes += len(data)
                    ahead.append((tag, name, data, self._threads.submit(self._parse_ahead, room, name, data)))
                if not ahead:
                    return
                tag, name, data, task = ahead.popleft()
                ahead_bytes -= len(data)
                results = task.result()
                if results is None:
                    results = self._threads.submit(self._parse_one, name, data).result()
                else:
                    room.take(-_size(results))
                del data, task  # or a large file stays in memory for as long as it is encoded
                yield tag, results
        finally:
            for *_, task in ahead:
                task.cancel()

    def _parse_ahead(self, room: _Room, name: str, data: bytes) -> tuple[Result, ...] | None:
        """Parse before the caller asks; None, to be parsed when asked for, while too much is held already."""
        if room.taken > _AHEAD_SIZE:
            return None
        results = self._parse_one(name, data)
        room.take(_size(results))
        return results

    def _parse_one(self, name: str, data: bytes) -> tuple[Result, ...]:
        worker = self._take_worker()
        try:
            return worker.parse(name, data)
        finally:
            self._return_worker(worker)

    def _take_worker(self) -> _Worker:
        with self._lock:
            if self._closing.is_set():
                raise RuntimeError("the parsing pool is closed; parse inside its `with`")
            if self._idle:
                return self._idle.pop()
            worker = _Worker(self._parse, self._limits, self._readable)
            self._workers.append(worker)
            if self._watchdog.ident is None:
                self._watchdog.start()
            return worker

    def _return_worker(self, worker: _Worker) -> None:
        if worker.is_usable:
            with self._lock:
                self._idle.append(worker)
        else:
            worker.close()
            with self._lock:
                self._workers.remove(worker)

    def _watch(self) -> None:
        """End what is late. A look now and then: a timer for each file halved the files a second."""
        before = time.monotonic()
        while not self._closing.wait(_TICK_SECONDS):
            now = time.monotonic()
            passed = min(now - before, 10 * _TICK_SECONDS)  # while this process was suspended, no answer was read
            before = now
            with self._lock:
                workers = [*self._workers]
            for worker in workers:
                worker.let_pass(passed)


class _Room:
    """How much is held, counted by several threads."""

    def __init__(self) -> None:
        self.taken = 0
        self._lock = Lock()

    def take(self, size: int) -> None:
        with self._lock:
            self.taken += size


def _size(results: Iterable[Result]) -> int:
    """Characters of text; a span takes the room of about a hundred."""
    return sum(len(one.text) + 100 * len(one.spans) for _, one in results if isinstance(one, Parsed))


# ---- what both ends speak --------------------------------------------------------------------------------------------


class _NonsenseError(Exception):
    """The other end sent something that it never sends."""


def _header(fields: Mapping[str, object]) -> bytes:
    """Raises ValueError, TypeError or RecursionError when the fields are not JSON."""
    return no_surrogates(json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))).encode()


def _send(stream: IO[bytes], header: bytes, body: bytes = b"") -> None:
    """Raises OSError when nobody listens."""
    stream.write(_SIZES.pack(len(header), len(body)) + header)
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes], *, max_header: int, max_body: int) -> tuple[bytes, bytes]:
    """Header and body as they were sent. Raises EOFError, or _NonsenseError before reading more than is allowed."""
    head_size, body_size = _SIZES.unpack(_read(stream, _SIZES.size))
    if head_size > max_header or body_size > max_body:
        raise _NonsenseError
    return _read(stream, head_size), _read(stream, body_size)


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


# ---- the parent's end ------------------------------------------------------------------------------------------------


class _Worker:
    """A process that parses one file after the other. Used by one thread at a time; any may kill it."""

    def __init__(self, parse: str, limits: Limits, readable: Sequence[str] = ()) -> None:
        self._limits = limits
        self._is_ready = self._was_late = self._was_last = False
        self._seconds_left = math.inf
        self._ending = RLock()
        asked = {"parse": parse, "parent": os.getpid(), "limits": asdict(limits), "readable": [*readable]}
        settings = json.dumps(asked)
        # Modules are found where this process finds them. The environment stays behind: it holds keys. In a session of
        # its own, Ctrl-C does not reach the worker: when to end is for the parent to say.
        path = [str(Path(entry).absolute()) for entry in (*sys.path, str(Path(__file__).parents[1]))]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-X", "utf8", "-c", _BOOT, settings, *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise IngestError(f"no process can be started to parse files in: {error}; end other programs") from error
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._requests, self._answers, self._complaints = (cast("IO[bytes]", pipe) for pipe in pipes)

    def parse(self, name: str, data: bytes) -> tuple[Result, ...]:
        """All that the worker says of a file; when that is the end of the worker, the last result says why."""
        if not self._is_ready:
            self.wait_until_ready()
        results: list[Result] = []
        try:
            with self._deadline(self._limits.seconds):
                _send(self._requests, _header({"name": name}), data)
                for result in self._results():
                    results.append(result)  # noqa: PERF402 - what came before a problem counts
        except (OSError, EOFError, _NonsenseError) as problem:
            results.append(("", self._post_mortem(problem, len(results))))
        return tuple(results)

    @property
    def is_usable(self) -> bool:
        """Whether it lives and takes another file."""
        return self._process.returncode is None and not self._was_last

    def kill(self) -> int:
        """End the process and all it may have started; returns its exit status, negative for a signal."""
        with self._ending:
            if self._process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):  # macOS: the latter when it has just ended
                    os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def let_pass(self, seconds: float) -> None:
        """Take note of the time, and end the process when it has not answered within its own."""
        with self._ending:  # against an answer, and the next file, that come between looking and killing
            self._seconds_left -= seconds
            if self._seconds_left < 0:
                self._was_late = True
                self.kill()

    def close(self) -> None:
        """End the process and give back its pipes."""
        self.kill()
        for pipe in (self._requests, self._answers, self._complaints):
            with suppress(OSError):  # what was still to be sent
                pipe.close()

    def wait_until_ready(self) -> sandbox.Confinement:
        """Says what confines the worker. Raises IngestError when it does not start."""
        try:
            with self._deadline(_START_SECONDS):
                header, _ = _receive(self._answers, max_header=_MARK_BYTES, max_body=0)
        except (OSError, EOFError, _NonsenseError) as problem:
            status = self.kill()
            complaint = self._complaints.read(100_000).decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise IngestError(
                f"the process that parses files does not start ({complaint or f'exit status {status}'}); check the "
                "installation with: rag doctor; and that parse_memory_mb is not too little to start with"
            ) from problem
        self._is_ready = True
        return sandbox.Confinement(**json.loads(header))

    def _results(self) -> Iterator[Result]:
        """What the worker sends of one file, checked; the last message is only noted."""
        names: set[str] = set()
        chars = self._limits.max_chars
        marks = chars + 2 * _MARK_BYTES  # more than a worker sends before it says that it is too much
        for _ in range(_MAX_RESULTS):
            header, body = _receive(self._answers, max_header=marks, max_body=4 * chars)
            marks -= len(header)
            try:
                fields = json.loads(header, parse_constant=_refuse)
                if "last" in fields:
                    self._was_last = fields["last"] is not False
                    if not names:
                        raise _NonsenseError
                    return
                name, result = _name(fields["name"], names), _result(fields, body.decode())
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise _NonsenseError from error
            chars -= len(result.text) if isinstance(result, Parsed) else 0
            if chars < 0:
                raise _NonsenseError
            yield name, result
        raise _NonsenseError

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        with self._ending:
            self._seconds_left = seconds
        try:
            yield
        finally:
            with self._ending:
                self._seconds_left = math.inf

    def _post_mortem(self, problem: Exception, so_far: int) -> ParseError:
        status = self.kill()
        limits = self._limits
        if self._was_late or status == -signal.SIGXCPU:
            reason, advice = f"took longer than {limits.seconds:g} s", _advice("parse_seconds")
        elif isinstance(problem, _NonsenseError):
            reason, advice = "the parser gave an answer that makes no sense", _SUSPECT
        elif status == _OUT_OF_MEMORY:
            reason, advice = f"needed more than {_amount(limits.memory_bytes)} of memory", _advice("parse_memory_mb")
        elif status < 0:
            reason, advice = f"crashed the parser (signal {-status})", _SUSPECT
        else:
            reason, advice = f"the parser ended without an answer (exit status {status})", _SUSPECT
        return ParseError(reason + (f", after {so_far:,} of its documents" if so_far else ""), advice=advice)


_SUSPECT = "the file is damaged, or made to harm: save it again with the program that made it, or leave it out"


def _advice(setting: str) -> str:
    return f"split the file, leave it out, or raise {setting}"


def _amount(size: int) -> str:
    return f"{size / 2**30:g} GiB" if size >= 2**30 else f"{size / 2**20:g} MiB"


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


def _name(value: str, taken: set[str]) -> str:
    """The name of a document in a file, a relative path that stays below it; the second of a name gets a number."""
    parts = value.split("/") if value else []
    if len(value) > _MAX_NAME_CHARS or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(value)
    _check_words(value)
    name, number = value, 1
    while name and name in taken:  # the file itself may have two results: what it held, and how its parser ended
        number += 1
        name = f"{value} ({number})"
    taken.add(name)
    return name


def _result(fields: dict[str, Any], text: str) -> Parsed | ParseError:
    """A result as it was. Raises one of several errors when it cannot have been one."""
    if "reason" in fields:
        _check_words(fields["reason"], fields["advice"])
        return ParseError(fields["reason"], advice=fields["advice"])
    title, media_type, metadata, columns = (fields[key] for key in ("title", "media_type", "metadata", "spans"))
    _check_words(title, media_type, *columns[4])
    json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False).encode()
    spans = tuple(Span(*values) for values in zip(*columns, strict=True))
    before = 0
    for span in spans:
        whole = type(span.start) is type(span.end) is type(span.number) is int
        if not whole or not before <= span.start <= span.end <= len(text) or span.kind not in _KINDS:
            raise ValueError(span)
        before = span.start
    return Parsed(text, title, spans, media_type, metadata)


def _check_words(*values: str) -> None:
    """Raise unless all are texts that UTF-8 can carry."""
    for value in values:
        value.encode()


# ---- the worker's end ------------------------------------------------------------------------------------------------


def serve(settings: str) -> NoReturn:
    """Be a worker: parse what comes down standard input until it ends. Never returns."""
    asked = json.loads(settings)
    limits = Limits(**asked["limits"])
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # what a library prints must not land among the answers
    die_with(asked["parent"])
    _limit_resources(limits)
    module, _, function = asked["parse"].rpartition(".")
    parse = getattr(import_module(module), function)
    sys.addaudithook(_forbid)
    statm = os.open(_STATM, os.O_RDONLY) if Path(_STATM).exists() else None
    granted = sandbox.confine([*sys.path, *sandbox.LIBRARIES, *asked["readable"]])
    _send(answers, _header(asdict(granted)))
    os.dup2(nowhere, 2)
    with suppress(EOFError):
        for files in range(1, sys.maxsize):
            header, data = _receive(requests, max_header=_MARK_BYTES, max_body=sys.maxsize)
            _limit_processor_time(limits.seconds)
            _answer(answers, parse, Path(json.loads(header)["name"]), data, max_chars=limits.max_chars)
            del data
            was_last = files >= _FILES_PER_WORKER or _address_space(statm) > limits.memory_bytes / 2
            _send(answers, _header({"last": was_last}))
    os._exit(0)


def _answer(
    answers: IO[bytes],
    parse: Callable[[Path, bytes], Parsed | Iterable[Result]],
    path: Path,
    data: bytes,
    *,
    max_chars: int,
) -> None:
    """Parse a file and send each result as it comes."""
    left = {"text": max_chars, "headings, rows and names": max_chars + _MARK_BYTES}
    is_empty = True
    try:
        found = parse(path, data)
        for name, result in [("", found)] if isinstance(found, Parsed) else found:
            _end_if_out_of_memory(result)
            header, body = _packed(name, result)
            left["text"] -= len(result.text) if isinstance(result, Parsed) else 0
            left["headings, rows and names"] -= len(header)
            if short := [what for what, size in left.items() if size < 0]:
                _send(answers, *_packed("", _too_much(name, short[0], max_chars)))
                return
            _send(answers, header, body)
            is_empty = False
        if is_empty:
            _send(answers, *_packed("", ParseError("holds no document", advice="leave it out")))
    except BaseException as error:  # noqa: BLE001 - a parser may raise anything, SystemExit too
        _end_if_out_of_memory(error)
        if not isinstance(error, ParseError):
            error = ParseError(f"the parser failed ({type(error).__name__})", advice=_SUSPECT)
        _send(answers, *_packed("", error))


def _too_much(name: str, what: str, max_chars: int) -> ParseError:
    where = f" by {name}, which is left out with all after it" if name else ""
    return ParseError(f"holds more than {max_chars:,} characters of {what}{where}", advice=_advice("parse_chars"))


def _packed(name: str, result: Parsed | ParseError) -> tuple[bytes, bytes]:
    if isinstance(result, ParseError):
        reason, advice = (words[:_MAX_REASON_CHARS] for words in (result.reason, result.advice))
        return _header({"name": name, "reason": reason, "advice": advice}), b""
    spans = [(span.kind, span.start, span.end, span.number, span.label) for span in result.spans]
    header = _header(
        {
            "name": name,
            "title": result.title,
            "media_type": result.media_type,
            "metadata": dict(result.metadata),
            "spans": list(zip(*spans, strict=True)) if spans else [()] * 5,
        }
    )
    return header, no_surrogates(result.text).encode()


def _end_if_out_of_memory(problem: object) -> None:
    """A library that once got no memory may have been left half-way: the process ends, and says why."""
    while isinstance(problem, BaseException):
        if isinstance(problem, MemoryError):
            os._exit(_OUT_OF_MEMORY)
        problem = problem.__cause__ or problem.__context__


def _limit_resources(limits: Limits) -> None:
    """No memory above the limit, no file written, no core dumped, few files open."""
    refusals = () if sys.platform == "linux" else (ValueError, OSError)
    wanted = (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    )
    for kind, value in wanted:
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(*refusals):
            resource.setrlimit(kind, (lower, lower))


def _limit_processor_time(seconds: float) -> None:
    """Have the kernel end this process should it compute for that long from now: nobody else may be left to do it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(0)


_PR_SET_PDEATHSIG = 1


_STATM = "/proc/self/statm"  # opened while files can be


def _address_space(statm: int | None) -> int:
    """Bytes, as the limit counts them; 0 where the system does not say."""
    return int(os.pread(statm, 100, 0).split()[0]) * resource.getpagesize() if statm is not None else 0


_FORBIDDEN = frozenset(
    {
        "socket.__new__", "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr",
        "socket.gethostbyname", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system",
        "subprocess.Popen", "os.kill", "os.killpg", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove",
        "os.rename", "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "sqlite3.connect",
    }
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """Stop a library that, led by a file, would connect, start a program or change a file.

    For systems without a sandbox, and for a message that says more than an error number. It holds for Python code that
    means no harm itself.
    """
    if event in _FORBIDDEN or (event == "open" and arguments[2] & _WRITING):
        raise PermissionError(f"a parser must not do this: {event}")

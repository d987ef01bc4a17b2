"""A process with everything imported, to fork cases from: each costs milliseconds, has hard limits and may be killed.

Knows how to call a function by its name in a child; never what it does. The process itself stays with one thread, or a
fork would copy locks that nobody frees.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY_BYTES = 4 << 30
SECONDS = 60

_BOOT = "import sys; folder, prepare, *sys.path[:] = sys.argv[1:]; from forks import serve; serve(folder, prepare)"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended. `status` is negative for a signal: -SIGALRM means that it ran out of time.

    `result` is what the function returned, None where it did not; `errors` is all it wrote to standard error.
    """

    status: int
    result: Any
    errors: str


class Child:
    """A function at work in a process of its own."""

    def __init__(self, forks: Forks, number: int, pid: int) -> None:
        self._forks, self._number, self.pid = forks, number, pid

    def kill(self) -> None:
        """End it at once; harmless where it has ended."""
        os.kill(self.pid, signal.SIGKILL)  # until `wait` has seen its end, nobody else gets its number

    def wait(self) -> Ended:
        """Wait for its end, which its limits see to."""
        while (status := self._forks.ask(reap=self.pid)) is None:
            time.sleep(0.005)
        result, errors = self._forks.files(self._number)
        text = result.read_text(encoding="utf-8") if result.exists() else "null"
        return Ended(status, json.loads(text), errors.read_text(encoding="utf-8", errors="replace"))


class Forks:
    """The client: may be used from several threads."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self._lock, self._started = threading.Lock(), 0

    def ask(self, **request: object) -> Any:
        """One answer to one request."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def files(self, number: int) -> tuple[Path, Path]:
        """Where a child leaves its result and its complaints."""
        return self._folder / f"{number}.json", self._folder / f"{number}.err"

    def start(self, call: str, *arguments: object, seconds: int = SECONDS) -> Child:
        """Call 'module:function' with these arguments (anything that JSON can carry; paths become strings)."""
        with self._lock:
            self._started += 1
            number = self._started
        plain = [str(each) if isinstance(each, Path) else each for each in arguments]
        return Child(self, number, self.ask(number=number, call=call, arguments=plain, seconds=seconds))

    def run(self, call: str, *arguments: object, seconds: int = SECONDS) -> Ended:
        """Start it and wait for its end."""
        return self.start(call, *arguments, seconds=seconds).wait()


@contextmanager
def fork_server(folder: Path, *, prepare: str) -> Iterator[Forks]:
    """A server that has called 'module:function' to be prepared. It leaves what children say in `folder`."""
    path = [str(Path(__file__).parent), *(str(Path(entry).absolute()) for entry in sys.path)]
    single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")} | {"TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, str(folder), prepare, *path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **single},
        text=True,
    )
    with process:  # closes its input, which ends it
        assert process.stdout
        assert process.stdout.readline() == "ready\n", "the fork server did not start; its complaint is above"
        yield Forks(process, folder)


# ---- the server ------------------------------------------------------------------------------------------------------


def serve(folder: str, prepare: str) -> None:
    """Fork a child for each request, until there are no more."""
    _function(prepare)()
    threads = Path("/proc/self/task")
    assert not threads.exists() or len(list(threads.iterdir())) == 1, "a fork needs a process of one thread"
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_reap(**request) if "reap" in request else _fork(Path(folder), **request)), flush=True)


def _reap(reap: int) -> int | None:
    pid, status = os.waitpid(reap, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def _fork(folder: Path, number: int, call: str, arguments: list[Any], seconds: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _be_child(folder, number, call, arguments, seconds)
    finally:
        os._exit(1)


def _be_child(folder: Path, number: int, call: str, arguments: list[Any], seconds: int) -> NoReturn:
    nowhere = os.open(os.devnull, os.O_RDWR)
    complaints = os.open(folder / f"{number}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, target in ((nowhere, 0), (nowhere, 1), (complaints, 2)):
        os.dup2(descriptor, target)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds)  # nobody handles it, so it ends a child that hangs, whatever it hangs in
    status = 0
    try:
        result = _function(call)(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / f"{number}.json").write_text(json.dumps(result), encoding="utf-8")
    except BaseException:  # noqa: BLE001 - told to whoever waits for this child
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found

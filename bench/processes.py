"""Parts of a measurement in processes of their own: their memory watched, or the machine given to each in turn.

Knows processes and `/proc`, so Linux only; nothing of what they measure. A part is a module that is run with its
arguments, prints "ready" when it has loaded what it needs, begins when it reads a line, and prints its result as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

_PROJECT = Path(__file__).resolve().parent.parent
_TURN_SECONDS = 1.0


@dataclass(slots=True)
class Part:
    """A process that is ready to begin. After it has ended: its result, and the seconds by the clock that it had."""

    process: subprocess.Popen[str]
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def start(cls, module: str, *arguments: str) -> Part:
        """Start a module of this project and wait until it is ready. Raises RuntimeError when it ends instead."""
        command = [sys.executable, "-m", module, *arguments]
        pipe = subprocess.PIPE
        part = cls(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=_PROJECT))
        if part._output.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(command)} ended with status {part.process.wait()} before it was ready")
        return part

    def begin(self) -> None:
        """Let it work."""
        requests = cast("IO[str]", self.process.stdin)
        requests.write("\n")
        requests.flush()

    def has_ended(self, seconds: float) -> bool:
        """Give it so much time at most; whether it has come to its end. Raises RuntimeError when that has no result."""
        started = time.perf_counter()
        ended = bool(select.select([self._output], [], [], seconds)[0])
        self.seconds += time.perf_counter() - started
        if ended:
            line = self._output.readline()
            if self.process.wait() or not line:
                raise RuntimeError(f"a part of the measurement ended with status {self.process.returncode}")
            self.result = json.loads(line)
        return ended

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all it has started."""
        for process in family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    @property
    def _output(self) -> IO[str]:
        return cast("IO[str]", self.process.stdout)


def serve(work: Callable[[], Mapping[str, object]]) -> None:
    """Be a part: say that all is ready, work when asked to, and print the result with the processor time it took.

    `cpu_seconds` of this process and of those it started and waited for; `peak` bytes resident of this process alone:
    the system counts for a child what its parent held when it was forked.
    """
    print("ready", flush=True)
    sys.stdin.readline()
    before = _cpu_seconds()
    found = work()
    facts = {
        "cpu_seconds": _cpu_seconds() - before,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps({**found, **facts}), flush=True)


def take_turns(parts: Sequence[Part]) -> None:
    """Let each run for a second while the others stand still, again and again until all have ended.

    So all see the same machine, however busy it is with other things, and none sees another of them.
    """
    running = list(parts)
    for part in running:
        part.signal(signal.SIGSTOP)
        part.begin()
    while running:
        for part in [*running]:
            part.signal(signal.SIGCONT)
            if part.has_ended(_TURN_SECONDS):
                running.remove(part)
            else:
                part.signal(signal.SIGSTOP)


def watch(part: Part) -> list[tuple[int, int]]:
    """Let it run to its end. Returns for every second the bytes resident: its own, and those of what it started."""
    samples = []
    part.begin()
    while not part.has_ended(1.0):
        own, *others = map(_resident, family(part.process.pid))
        samples.append((own, sum(others)))
    return samples


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            found += [each for child in task.read_text().split() for each in family(int(child))]
    return found


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):  # it has just ended
        return 0


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)

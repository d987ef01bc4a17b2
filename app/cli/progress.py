"""Show how far a long job is, on standard error. Knows Progress records and a clock; not what the job does.

Nothing is shown for what takes less than a second. A terminal gets a bar with rate and time left; anything else gets
plain lines, at most one every two seconds.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from app.cli.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ingest.records import Progress

PATIENCE_SECONDS = 1.0
LINE_SECONDS = 2.0


class Reporter:
    """Give it to a job as its `report`. A context manager: leaving it removes the bars."""

    def __init__(self, console: Console, *, lines: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """`lines=False` keeps quiet where there is no terminal."""
        self._console = console
        self._lines = lines
        self._clock = clock
        self._begun = clock()
        self._next_line = self._begun + PATIENCE_SECONDS
        self._stage = ""
        self._stage_begun = self._begun
        self._stage_done = 0
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Take note; show it when it is time."""
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._stage_begun, self._stage_done, self._task = progress.stage, now, progress.done, None
        if now - self._begun < PATIENCE_SECONDS:
            return
        if self._console.is_terminal:
            self._draw(progress)
        elif self._lines and now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self._console.print(self._line(progress, now), soft_wrap=True)

    def _line(self, progress: Progress, now: float) -> str:
        stage, unit = visible(progress.stage), visible(progress.unit)
        total = "" if progress.total is None else f"/{progress.total:,}"
        line = f"{stage}: {progress.done:,}{total} {unit}"
        rate = (progress.done - self._stage_done) / max(now - self._stage_begun, 1e-9)
        if rate <= 0:
            return line
        line += f", {_speed(rate, unit)}"
        if progress.total is None:
            return line
        return f"{line}, {duration(max(progress.total - progress.done, 0) / rate)} left"

    def _draw(self, progress: Progress) -> None:
        if self._bars is None:
            self._bars = _bars(self._console)
            self._bars.start()
        if self._task is None:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._task = self._bars.add_task(visible(progress.stage), total=progress.total, unit=visible(progress.unit))
        self._bars.update(self._task, completed=progress.done, total=progress.total)


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: object) -> Text:
            speed: float | None = getattr(task, "speed", None)
            return Text(_speed(speed, getattr(task, "fields", {})["unit"]) if speed else "", style="dim")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} ", markup=False),
        Rate(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


@contextmanager
def waiting(console: Console, doing: str, *, lines: bool = True) -> Iterator[None]:
    """Say what is being done if it takes more than a second: a spinner on a terminal, one line elsewhere."""
    status = console.status(doing) if console.is_terminal else None
    show = status.start if status else lambda: console.print(f"{doing} ...", soft_wrap=True)
    timer = threading.Timer(PATIENCE_SECONDS if status else LINE_SECONDS, show)
    timer.daemon = True
    if status or lines:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        if status:
            status.stop()


def _speed(rate: float, unit: str) -> str:
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"


def duration(seconds: float) -> str:
    """A length of time for people: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"

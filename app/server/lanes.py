"""Bounded lanes of threads: a job is taken at once, waits for its turn, or is refused. Knows nothing of its jobs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from retrieval.errors import RagError

T = TypeVar("T")

_NEWEST_SHARE = 0.1
"""Of the last job's time in the running mean."""


class BusyError(RagError):
    """There is no room to wait in. retry_seconds: when there may be some."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(f"all places are taken and as many wait as may; try again in about {retry_seconds} s")
        self.retry_seconds = retry_seconds


class Lane:
    """Runs jobs in order on some threads; `room` is how many may run and wait together."""

    def __init__(self, name: str, *, workers: int, room: int) -> None:
        self.name, self._workers, self._room = name, workers, room
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"lane-{name}")
        self._lock = threading.Lock()
        self._taken, self._mean_seconds = 0, 0.0

    @property
    def taken(self) -> int:
        """How many jobs run or wait now."""
        return self._taken

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """The job's future; to cancel it while it waits gives its place back. Raises BusyError without a place."""
        with self._lock:
            if self._taken >= self._room:
                raise BusyError(math.ceil(max(1.0, self._taken * self._mean_seconds / self._workers)))
            self._taken += 1
        try:
            future = self._threads.submit(self._timed, job)
        except RuntimeError:  # the lane is closed
            self._give_back(None)
            raise
        future.add_done_callback(self._give_back)
        return future

    def close(self) -> None:
        """Take no more; what waits is dropped, what runs is waited for."""
        self._threads.shutdown(cancel_futures=True)

    def _timed(self, job: Callable[[], T]) -> T:
        started = time.monotonic()
        try:
            return job()
        finally:
            seconds = time.monotonic() - started
            self._mean_seconds += _NEWEST_SHARE * (seconds - self._mean_seconds)

    def _give_back(self, _: object) -> None:
        with self._lock:
            self._taken -= 1

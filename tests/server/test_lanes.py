"""The contracts of app/server/lanes.py: order, room, places given back whatever happens, and an orderly end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.lanes import BusyError, Lane

PATIENCE = 30


@contextmanager
def lane_of(*, workers=1, room=3):
    lane = Lane("test", workers=workers, room=room)
    try:
        yield lane
    finally:
        lane.close()


class Held:
    """A job that has begun when `begun` is set, and ends when `go_on` is."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return "done"


def test_jobs_come_out_in_order_with_what_they_gave():
    done = []
    with lane_of(room=50) as lane:
        futures = [lane.submit(lambda n=n: done.append(n) or n * n) for n in range(50)]
        assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(50)]
    assert done == list(range(50))
    assert lane.taken == 0


def test_an_error_is_its_job_s_own_and_gives_the_place_back():
    with lane_of(room=1) as lane:
        for _ in range(3):
            future = lane.submit(lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                future.result(PATIENCE)
            wait_until_free(lane)
        assert lane.submit(lambda: "still here").result(PATIENCE) == "still here"


def wait_until_free(lane: Lane) -> None:
    """Callbacks, which give places back, run just after a result is there."""
    while lane.taken:
        wait([], timeout=0.001)


def test_room_is_for_those_that_run_and_those_that_wait():
    held = Held()
    with lane_of(workers=2, room=3) as lane:
        futures = [lane.submit(held) for _ in range(3)]
        assert lane.taken == 3
        with pytest.raises(BusyError, match="try again") as refusal:
            lane.submit(held)
        assert refusal.value.retry_seconds >= 1
        assert lane.taken == 3  # who is refused takes no place
        held.go_on.set()
        assert [future.result(PATIENCE) for future in futures] == ["done"] * 3


def test_who_stops_waiting_gives_the_place_back_and_is_never_run():
    held, ran = Held(), []
    with lane_of(room=2) as lane:
        running = lane.submit(held)
        waiting = lane.submit(lambda: ran.append("waiting"))
        assert held.begun.wait(PATIENCE)
        assert waiting.cancel()
        assert lane.taken == 1
        assert not running.cancel()  # it has begun: its place is taken until it ends
        assert lane.taken == 1
        other = lane.submit(lambda: ran.append("other"))
        held.go_on.set()
        other.result(PATIENCE)
    assert ran == ["other"]


def test_the_end_waits_for_what_runs_and_drops_what_waits():
    held, ran = Held(), []
    lane = Lane("test", workers=1, room=9)
    running, waiting = lane.submit(held), lane.submit(lambda: ran.append("waiting"))
    assert held.begun.wait(PATIENCE)
    with ThreadPoolExecutor(1) as other:
        closing = other.submit(lane.close)
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE)
        assert not closing.done()
        held.go_on.set()
        closing.result(PATIENCE)
    assert (running.result(), ran) == ("done", [])
    with pytest.raises(RuntimeError):
        lane.submit(held)
    assert lane.taken == 0


@given(st.lists(st.sampled_from(["run", "fail", "cancel"]), max_size=40), st.integers(1, 3), st.integers(1, 10))
def test_no_place_is_lost_and_none_is_given_twice(doings, workers, room):
    held, refused, futures = Held(), 0, []
    with lane_of(workers=workers, room=room) as lane:
        for doing in doings:
            try:
                future = lane.submit((lambda: 1 / 0) if doing == "fail" else held)
            except BusyError:
                refused += 1
                assert lane.taken == room
            else:
                futures.append(future)
                if doing == "cancel":
                    future.cancel()
            assert 0 <= lane.taken <= room
        held.go_on.set()
        wait(futures, PATIENCE)
        wait_until_free(lane)
        assert len(futures) + refused == len(doings)
        assert [lane.submit(lambda: 1) for _ in range(room)]  # every place can be taken again


def test_many_threads_at_once_lose_no_place():
    with lane_of(workers=2, room=5) as lane, ThreadPoolExecutor(8) as many:

        def ask(number: int) -> int:
            while True:
                try:
                    return lane.submit(lambda: number).result(PATIENCE)
                except BusyError:
                    continue

        assert list(many.map(ask, range(200))) == list(range(200))
        wait_until_free(lane)

"""Several processes and threads on one index: writers take turns, readers see whole states and never go back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import together
from life import Life
from stages import assert_holds

from retrieval.errors import IndexBusyError
from retrieval.store import Store


def test_a_second_writer_is_told_who_the_first_is_or_waits_for_it(life: Life, place: Path) -> None:
    index = life.copy_before("change", place / "index")
    holder = life.forks.start("together:hold_the_lock", index, place)
    together.await_all(place, "held")
    with Store.open(index) as store:
        for wait_seconds in (0.0, 0.1):
            told = pytest.raises(IndexBusyError, match=rf"^process {holder.pid} is writing to the index in ")
            with told, store.writer(wait_seconds=wait_seconds):
                pass
    patient = life.forks.start("together:wait_for_the_lock", index, place)
    together.await_all(place, "waiting")
    together.tell(place, "release")
    assert [each.wait().status for each in (holder, patient)] == [0, 0]


def test_a_killed_writer_leaves_no_lock(life: Life, place: Path) -> None:
    index = life.copy_before("change", place / "index")
    holder = life.forks.start("together:hold_the_lock", index, place)
    together.await_all(place, "held")
    holder.kill()
    assert holder.wait().status == -signal.SIGKILL
    with Store.open(index) as store, store.writer():
        pass


@pytest.mark.parametrize("name", ["first", "change", "rebuild"])
def test_the_same_run_twice_at_once(life: Life, place: Path, name: str) -> None:
    """One after the other, whichever comes first; the second finds the work done, or does a rebuild again."""
    life.enter(name)
    index = life.copy_before(name, place / "index")
    runs = [
        life.forks.start("together:ingest_when_told", life.docs, index, name, place, f"writer{n}") for n in range(2)
    ]
    together.await_all(place, "writer0", "writer1")
    together.tell(place, "go")
    ended = [run.wait() for run in runs]
    assert [each.result for each in ended] == 2 * [{"ingest": "done", "problems": [], "shown": []}], ended
    assert_holds(index, life.states[name])


@pytest.mark.parametrize("name", ["change", "rebuild"])
def test_readers_see_the_old_state_then_the_new(life: Life, place: Path, name: str) -> None:
    life.enter(name)
    index = life.copy_before(name, place / "index")
    states = [life.states[life.before(name) or ""], life.states[name]]
    readers = ["reader0", "reader1"]
    writer = life.forks.start("together:write_slowly", life.docs, index, name, place, readers)
    reading = [life.forks.start("together:read_meanwhile", index, place, me, states) for me in readers]
    for ended in [writer.wait(), *(each.wait() for each in reading)]:
        assert ended.status == 0, ended.errors
        for seen in ended.result or ():
            assert None not in seen
            assert seen == sorted(seen)
            assert (seen[0], seen[-1]) == (0, 1)


@pytest.mark.parametrize("names", [["change", "prune"], ["change", "prune", "rebuild", "rebuild"]])
def test_a_reader_keeps_its_state_though_its_files_are_gone(life: Life, place: Path, names: list[str]) -> None:
    index = life.copy_before("change", place / "index")
    files = {path for path in index.rglob("*.*") if path.suffix in {".faiss", ".term"}}
    reader = life.forks.start(
        "together:read_on", index, place, [life.states["first"], life.states[names[-1]]], seconds=120
    )
    together.await_all(place, "opened")
    for name in names:
        life.enter(name)
        life.run("stages:run", life.docs, index, name, os.devnull)
    assert not any(path.exists() for path in files)
    together.tell(place, "published")
    ended = reader.wait()
    assert ended.status == 0, ended.errors
    assert ended.result == 5 * [True]

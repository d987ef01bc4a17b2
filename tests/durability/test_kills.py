"""A run that is killed, wherever that is, leaves the old or the new state, and the next run goes on from there."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from life import IS_STRESS, Life, side_by_side
from stages import (
    COMMIT_TEXTS,
    QUESTIONS,
    SAMPLED_TEXTS,
    STAGES,
    State,
    assert_holds,
    codes_of,
    committed_keys,
    shape_of,
)

from retrieval.errors import IndexMissingError

POINTS = {"first": 7, "change": 8, "prune": 5, "rebuild": 6}
MOMENTS = 500 if IS_STRESS else 20
NOTHING: State = {"documents": {}, "failures": [], "passages": {}, "matches": {question: [] for question in QUESTIONS}}


def spread(calls: Sequence[str], count: int) -> list[int]:
    """Numbers of calls, from 1: the last one, the last of some kinds, and others from all over; under stress, all."""
    if IS_STRESS:
        return list(range(1, len(calls) + 1))
    chance = random.Random(len(calls))  # noqa: S311 - reproducible
    last = {name: number for number, name in enumerate(calls, start=1)}
    kinds = chance.sample(sorted(last.values()), count // 2)
    return sorted({len(calls), *kinds, *chance.sample(range(1, len(calls)), count - 1 - count // 2)})


def outcome(life: Life, name: str, index: Path) -> str:
    """Whether what a killed run left is the old or the new state; there is no third."""
    old = life.before(name)
    try:
        found = assert_holds(index, life.states[name], life.states[old] if old else NOTHING)
    except IndexMissingError:
        assert old is None
        return "old"
    return "new" if found == life.states[name] else "old"


def assert_goes_on(life: Life, name: str, index: Path, found: str, killed_log: Path) -> None:
    """The next run ends where an undisturbed one does, encodes nothing that was committed, and leaves no litter."""
    done = killed_log.read_text().split() if killed_log.exists() else []
    committed = committed_keys(index, life.keys[name])
    log = index.with_name(f"{index.name}-next.log")
    life.run("stages:run_again", life.docs, index, name, found == "old", log)
    again = set(log.read_text().split()) if log.exists() else set()
    assert not again & committed
    is_fitted = name in {"first", "rebuild"}  # then the sample for the token codec waits in memory for its turn
    assert len(again & set(done)) <= COMMIT_TEXTS + is_fitted * SAMPLED_TEXTS
    assert_holds(index, life.states[name])
    assert codes_of(index) == life.codes[name]
    assert shape_of(index) == life.shapes[name]


def judged(life: Life, name: str, index: Path, log: Path, what: str) -> str:
    """The outcome of a killed run, and a look at the run after it."""
    try:
        found = outcome(life, name, index)
        assert_goes_on(life, name, index, found, log)
    except BaseException as error:
        error.add_note(f"killed {what}; see {index}")
        raise
    shutil.rmtree(index)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_kill_before_any_call_that_changes_a_file(life: Life, place: Path, name: str) -> None:
    life.enter(name)
    calls = life.run("stages:run_counting", life.docs, life.copy_before(name, place / "counted"), name)

    def case(number: int) -> str:
        index, log = life.copy_before(name, place / str(number)), place / f"{number}.log"
        ended = life.forks.run("stages:run_killed", life.docs, index, name, number, log)
        assert ended.status == -signal.SIGKILL, (number, calls[number - 1], ended)
        return judged(life, name, index, log, f"before call {number} of {len(calls)}, {calls[number - 1]}")

    assert set(side_by_side(case, spread(calls, POINTS[name]))) == {"old", "new"}


@pytest.mark.parametrize("name", STAGES)
def test_a_kill_at_a_random_moment(life: Life, place: Path, name: str) -> None:
    """By the clock, so inside of calls too; whether a run has ended before its moment comes is left to chance."""
    life.enter(name)
    chance = random.Random(name)  # noqa: S311 - reproducible, as far as a clock is
    moments = [chance.uniform(0, 1.1 * life.seconds[name]) for _ in range(MOMENTS // len(STAGES))]

    def case(numbered: tuple[int, float]) -> str:
        number, moment = numbered
        index, log = life.copy_before(name, place / str(number)), place / f"{number}.log"
        child = life.forks.start("stages:run", life.docs, index, name, log)
        time.sleep(moment)
        child.kill()
        assert child.wait().status in {0, -signal.SIGKILL}
        return judged(life, name, index, log, f"after {moment:.3f} s")

    assert set(side_by_side(case, enumerate(moments))) <= {"old", "new"}

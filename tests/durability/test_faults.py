"""Whatever becomes of its files, an index answers right, refuses in one line, or `verify` names it; no crash."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import hostile
import pytest
from examine import DAMAGES, Report, outcome_of
from forks import Ended
from life import IS_STRESS, Life, side_by_side
from stages import assert_holds, pattern_of, shape_of

from retrieval.store import DATABASE

READ_ONLY = "the index in '{}' cannot be written to: Read-only file system"
CASES = 1000 if IS_STRESS else 36


@pytest.fixture(scope="module")
def truths(life: Life, memory_disk: Path) -> Path:
    """The states that a damaged index may turn out to hold: the last, the one before, or one made anew of the files."""
    path = memory_disk / "truths.json"
    path.write_text(json.dumps([life.states[name] for name in ("change", "first", "prune")]))
    return path


@pytest.fixture(scope="module")
def with_log(life: Life, memory_disk: Path) -> Path:
    """An index whose last state is in SQLite's log only: its writer was killed right after it had published."""
    life.enter("change")
    calls = life.run("stages:run_counting", life.docs, life.copy_before("change", memory_disk / "counted"), "change")
    published = len(calls) - calls[::-1].index("Connection.commit")
    index = life.copy_before("change", memory_disk / "with-log")
    life.forks.run("stages:run_killed", life.docs, index, "change", published + 1, os.devnull)
    (log,) = index.rglob("*-wal")
    assert log.stat().st_size
    return index


def files_of(index: Path) -> list[str]:
    return sorted(path.relative_to(index).as_posix() for path in index.rglob("*") if path.is_file())


def table(reports: dict[tuple[str, str, int], Report]) -> str:
    """Outcomes counted by kind of file, for whoever reads the log of a stress run."""
    counts: dict[str, Counter[str]] = {}
    for (target, _, _), report in reports.items():
        counts.setdefault(pattern_of(target), Counter())[outcome_of(report)] += 1
    return "\n".join(f"{name:40} {dict(count)}" for name, count in sorted(counts.items()))


def test_a_damaged_file_is_made_up_for_refused_or_named(
    life: Life, place: Path, truths: Path, with_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    life.enter("change")

    def case(number: int) -> tuple[tuple[str, str, int], Report]:
        chance = random.Random(number)  # noqa: S311 - reproducible
        origin = chance.choice([life.after("first"), life.after("change"), with_log])
        target = chance.choice([*files_of(origin), *(name for name in files_of(origin) if DATABASE in name)])
        damage = chance.choice([*DAMAGES, "flipped", "flipped"])
        index = place / str(number)
        shutil.copytree(origin, index)
        ended = life.forks.run("examine:examine_damaged", index, life.docs, (target, damage, number), truths)
        shutil.rmtree(index)
        assert ended.status == 0, (target, damage, number, ended)
        return (target, damage, number), ended.result

    reports = dict(side_by_side(case, range(CASES)))
    if IS_STRESS:
        with capsys.disabled():
            print(f"\n{table(reports)}")
    bad = {case: report for case, report in reports.items() if outcome_of(report) in {"crash", "false", "silent"}}
    assert not bad


# ---- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["change", "rebuild"])
def test_files_that_cannot_grow(life: Life, place: Path, name: str) -> None:
    """A run that is refused leaves the old state; the next one, with room, ends where an undisturbed one does."""
    life.enter(name)
    old, new = life.states[life.before(name) or ""], life.states[name]
    calls = life.run("stages:run_counting", life.docs, life.copy_before(name, place / "counted"), name)
    largest = max(path.stat().st_size for path in life.after(name).rglob("*"))
    chance = random.Random(0)  # noqa: S311 - reproducible
    count = 200 if IS_STRESS else 3
    sizes = [(0, 1), (1, 1), *((chance.randrange(2 * largest), 1) for _ in range(count))]
    numbers = [(0, chance.randint(1, len(calls))) for _ in range(count)]
    last = [(0, max(at for at, call in enumerate(calls, 1) if call == kind)) for kind in sorted({*calls}) if IS_STRESS]

    def case(limit: tuple[int, int]) -> str:
        index = life.copy_before(name, place / f"{limit}")
        report = life.run("disks:ingest_with_short_files", life.docs, index, name, *limit)
        assert not report["problems"], (limit, report)
        found = assert_holds(index, old, new)
        assert found == new or report["ingest"] == "refused"  # a refusal may come after the new state is live
        life.run("stages:run_again", life.docs, index, name, report["ingest"] == "refused", os.devnull)
        assert_holds(index, new)
        assert shape_of(index) == life.shapes[name]
        return str(report["ingest"])

    assert "refused" in side_by_side(case, {*sizes, *numbers, *last})


@pytest.fixture(scope="module")
def may_mount(life: Life) -> None:
    if reason := life.run("disks:why_no_mounts"):
        pytest.skip(reason)


@pytest.mark.usefixtures("may_mount")
def test_a_full_disk(life: Life, place: Path) -> None:
    life.enter("change")
    states = [life.states["first"], life.states["change"]]
    chance = random.Random(0)  # noqa: S311 - reproducible
    rooms = [0, 4096, *(chance.randrange(1 << 20) for _ in range(100 if IS_STRESS else 6))]

    def case(room: int) -> str:
        (index := place / str(room)).mkdir()
        arguments = life.docs, index, life.after("first"), ("change", states), room
        report = life.run("disks:ingest_on_small_disk", *arguments)
        first, second = report["first"], report["second"]
        assert not first["problems"] + second["problems"], (room, report)
        assert (second["ingest"], report["held"]) == ("done", [int(first["ingest"] == "done"), 1]), (room, report)
        return str(first["ingest"])

    assert "refused" in set(side_by_side(case, rooms))


@pytest.mark.usefixtures("may_mount")
def test_a_disk_that_may_only_be_read(life: Life, place: Path) -> None:
    life.enter("change")
    index = life.copy_before("change", place / "index")
    states = [life.states["first"], life.states["change"]]
    report = life.run("disks:ingest_on_read_only_disk", life.docs, index, "change", states)
    assert (report["before"], report["after"]) == (0, 0)
    assert report["ingest"] == {"ingest": "refused", "problems": [], "shown": [READ_ONLY.format(index)]}
    life.run("stages:run", life.docs, index, "change", os.devnull)
    assert_holds(index, life.states["change"])


# ---- index folders that were made to harm ----------------------------------------------------------------------------


def assert_bearable(ended: Ended, case: object) -> None:
    """No crash, no hang, no end of memory, no text that is wrong, and whatever is wrong is refused or named."""
    assert ended.status == 0, (case, ended.status, ended.errors[-2000:])
    assert outcome_of(ended.result) in {"right", "refused", "named"}, (case, ended.result)


def test_hostile_folders(life: Life, place: Path, truths: Path) -> None:
    life.enter("change")

    def case(name: str) -> None:
        index = place / name.replace("/", "_")
        shutil.copytree(life.after("first"), index)
        assert_bearable(life.forks.run("hostile:examine_hostile", index, life.docs, name, truths, seconds=20), name)

    names = [*hostile.CASES]
    chance = random.Random(0)  # noqa: S311 - reproducible
    side_by_side(case, names if IS_STRESS else chance.sample(names, 20))


def test_values_of_any_type(life: Life, place: Path, truths: Path) -> None:
    life.enter("change")

    def case(seed: int) -> None:
        index = place / str(seed)
        shutil.copytree(life.after("first"), index)
        assert_bearable(life.forks.run("hostile:examine_retyped", index, life.docs, seed, truths), seed)

    side_by_side(case, range(500 if IS_STRESS else 16))

"""An index in every stage of its life, as a test finds it, and cases side by side."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from forks import Forks
from stages import STAGES, State, assert_holds, codes_of, shape_of, state_of, write_files

from retrieval.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

IS_STRESS = bool(os.environ.get("RAG_STRESS"))


class Life:
    """An index before and after each stage, made without a disturbance, and what each must hold.

    keys: of the texts that a stage encodes. codes, shapes: the token codes and the files of the index after it.
    """

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks, self.docs, self._folder = forks, folder / "docs", folder
        self.docs.mkdir()
        self.states: dict[str, State] = {}
        self.seconds: dict[str, float] = {}
        for name, stage in STAGES.items():
            scratch = folder / f"{name}-from-scratch"
            write_files(self.docs, stage.held)
            self.run("stages:run_from_scratch", self.docs, scratch, name)
            with Store.open(scratch) as store:
                self.states[name] = state_of(store)
            self.enter(name)
            index = self.copy_before(name, self.after(name))
            started = time.monotonic()
            self.run("stages:run", self.docs, index, name, folder / f"{name}.log")
            self.seconds[name] = time.monotonic() - started
            assert_holds(index, self.states[name])
        self.keys = {name: (folder / f"{name}.log").read_text().split() for name in STAGES}
        self.codes = {name: codes_of(self.after(name)) for name in STAGES}
        self.shapes = {name: shape_of(self.after(name)) for name in STAGES}

    def run(self, call: str, *arguments: object) -> Any:
        """Run it in a child that is to end well; returns its result."""
        ended = self.forks.run(call, *arguments)
        assert ended.status == 0, ended.errors
        return ended.result

    def enter(self, name: str) -> None:
        """Make the folder of documents what the stage finds."""
        write_files(self.docs, STAGES[name].files)

    def after(self, name: str) -> Path:
        """The index after a stage; not to be changed."""
        return self._folder / f"after-{name}"

    def before(self, name: str) -> str | None:
        """The stage before."""
        names = [*STAGES]
        return names[names.index(name) - 1] if names[0] != name else None

    def copy_before(self, name: str, place: Path) -> Path:
        """A copy of the index as the stage finds it; there is none before the first."""
        before = self.before(name)
        if before is not None:
            shutil.copytree(self.after(before), place)
        return place


def side_by_side(act: Callable[[Any], T], cases: Iterable[Any]) -> list[T]:
    """The results of cases that spend their time in children, two at once."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(act, cases))

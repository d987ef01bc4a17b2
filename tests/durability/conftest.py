"""Shared by the tests of durability: the fork server, and an index in every stage of its life."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forks import Forks, fork_server
from life import Life

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process to fork cases from."""
    with fork_server(tmp_path_factory.mktemp("forks"), prepare="stages:warm") as server:
        yield server


@pytest.fixture(scope="session")
def memory_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is one: a kill leaves there what it leaves on a disk, in half of the time."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    if not os.access(shared, os.W_OK):
        yield tmp_path_factory.mktemp("indexes")
        return
    with tempfile.TemporaryDirectory(prefix="durability-", dir=shared) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def life(forks: Forks, memory_disk: Path) -> Life:
    """The stages of an index."""
    return Life(forks, Path(tempfile.mkdtemp(dir=memory_disk)))


@pytest.fixture
def place(memory_disk: Path) -> Path:
    """An empty folder for one test."""
    return Path(tempfile.mkdtemp(dir=memory_disk))

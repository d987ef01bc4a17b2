"""Shared by the tests of retrieval: the doubles one folder up, and an empty store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrieval.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    from doubles import new_store

    with new_store(tmp_path / "index") as opened:
        yield opened

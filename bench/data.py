"""Where the open data lies, and rows of it. Data is read from beside the project, never copied into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

_DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


class DataMissingError(Exception):
    """A measurement needs data that is not on this machine."""


def data_folder(*parts: str) -> Path:
    """A folder of the open data (`../shared/data`, or $RAG_TEST_DATA). Raises DataMissingError where it is absent."""
    folder = Path(os.environ.get("RAG_TEST_DATA", _DEFAULT), *parts)
    if not folder.is_dir():
        raise DataMissingError(f"{folder} is not there; set RAG_TEST_DATA to where the open data lies")
    return folder


def rows(path: Path) -> Iterator[dict[str, object]]:
    """The objects of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)

"""Documents that come and go while the server answers: uploads, ingest runs, what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.config import Config


class Library:
    """The documents of one server."""

    def __init__(self, config: Config, *, flags: Mapping[str, object], folder: Path) -> None:
        self._config, self._flags, self._folder = config, flags, folder

    async def start(self) -> None:
        """Take in what an earlier server was given and had no time for."""

    async def close(self) -> None:
        """End what runs, keeping what is complete."""

"""What the routes of one server share. Knows the parts; does nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.config import Config
    from app.server.access import Gate
    from app.server.counters import Counters
    from app.server.engine import Engine
    from app.server.library import Library


@dataclass(frozen=True, slots=True)
class Server:
    """One server. cookie: the name of its cookie, which browsers share among all ports of a machine."""

    config: Config
    engine: Engine
    library: Library
    gate: Gate
    counters: Counters
    cookie: str

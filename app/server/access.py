"""Who may come in: a token, kept in a file only its owner can read, and the cookie that a browser gets for it.

Knows tokens and cookies; nothing of routes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from app.config import LEAST_TOKEN_CHARS, Config
from retrieval.errors import ConfigError

_COOKIE_SECONDS = 30 * 86_400
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it comes from. is_new: it was made just now, and nobody has seen it."""

    value: str
    origin: str
    is_new: bool = False


def settled_token(config: Config) -> Token:
    """The token of a server with these settings. Raises ConfigError where it may not listen or has none it can use."""
    require_token(config.host, config.token, config.token_file)
    return find_token(config.token, config.token_file)


def find_token(given: str, file: Path) -> Token:
    """The token of the settings, else the one in the file, which is made where there is none.

    Raises ConfigError on a file that others may read, or that holds no token.
    """
    if given:
        return Token(given, "RAG_TOKEN")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = secrets.token_urlsafe(32)
    beside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(made + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.link(beside, file)  # fails where another process was first
    except FileExistsError:
        return Token(_kept(file), str(file))
    finally:
        beside.unlink(missing_ok=True)
    return Token(made, str(file), is_new=True)


def _kept(file: Path) -> str:
    with file.open("rb") as stream:
        mode, data = os.fstat(stream.fileno()).st_mode, stream.read(_MAX_BYTES)
    if mode & 0o077:
        raise ConfigError(f"{file} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {file}")
    found = data.decode("ascii", "replace").strip()
    if len(found) < LEAST_TOKEN_CHARS or not found.isascii() or not found.isprintable() or " " in found:
        raise ConfigError(f"{file} holds no token; remove it, and one is made anew")
    return found


def require_token(host: str, given: str, file: Path) -> None:
    """Raise ConfigError where other machines could reach the server and there is no token that its owner knows of."""
    if given or file.exists() or is_loopback(host):
        return
    raise ConfigError(
        f"{host} can be reached from other machines, and there is no token yet; set RAG_TOKEN to a long secret, or"
        " start once with the host 127.0.0.1 and note the token that is printed"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Tells who holds the token, or a cookie made from it."""

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time) -> None:
        self._token, self._clock = token.encode(), clock

    def opens_for(self, token: str) -> bool:
        """Whether it is the token; takes as long whatever is wrong with it."""
        return hmac.compare_digest(hashlib.sha256(token.encode()).digest(), hashlib.sha256(self._token).digest())

    def new_cookie(self) -> tuple[str, int]:
        """What a browser keeps in place of the token, and for how many seconds. The token cannot be found from it."""
        until = str(int(self._clock()) + _COOKIE_SECONDS)
        return f"{until}.{self._signature(until)}", _COOKIE_SECONDS

    def knows(self, cookie: str) -> bool:
        """Whether it was made here, from this token, and is still good."""
        until, _, signature = cookie.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= 12):
            return False
        genuine = hmac.compare_digest(signature.encode(), self._signature(until).encode())
        return genuine and int(until) > self._clock()

    def _signature(self, until: str) -> str:
        return hmac.new(self._token, f"rag-cookie {until}".encode(), hashlib.sha256).hexdigest()

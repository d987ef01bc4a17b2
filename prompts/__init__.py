"""Prompts are data: one TOML file each, with version, system and user text. Loads, checks and fingerprints them.

Placeholders are written {{name}}. They are filled in one pass, so that a value that looks like a placeholder, a
template or code stays exactly what it is. Knows no model and no chat template.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}")
_KEYS = {"version", "language", "system", "user"}
_MAX_BYTES = 100_000


class PromptError(ValueError):
    """A prompt file is malformed, or was given missing or unexpected variables."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt template. `sha256` fingerprints the file's text; `variables` are the placeholders it has."""

    name: str
    version: int
    language: str
    system: str
    user: str
    sha256: str

    @property
    def variables(self) -> frozenset[str]:
        """The placeholders that must be filled."""
        return frozenset(_PLACEHOLDER.findall(self.system + self.user))

    def fill(self, values: Mapping[str, str]) -> tuple[str, str]:
        """System and user text with every placeholder filled. Raises PromptError on missing or unexpected values."""
        missing, unexpected = self.variables - values.keys(), values.keys() - self.variables
        if missing or unexpected:
            raise PromptError(
                f"prompt '{self.name}' expects {sorted(self.variables)}; "
                f"missing: {sorted(missing) or 'none'}, unexpected: {sorted(unexpected) or 'none'}"
            )
        return self._fill(self.system, values), self._fill(self.user, values)

    @staticmethod
    def _fill(template: str, values: Mapping[str, str]) -> str:
        return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def load_prompt(name: str, *, folder: Path | None = None) -> Prompt:
    """Load a prompt by name, from a folder of the user's or from those that ship. Raises PromptError."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise PromptError(f"{name!r} is no prompt name; expected small letters, digits, '-' and '_'")
    source = (folder or files("prompts")) / f"{name}.toml"
    try:
        with source.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise PromptError(f"there is no prompt '{name}'; shipped: {', '.join(prompt_names())}") from error
    except OSError as error:
        raise PromptError(f"prompt '{name}' cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise PromptError(f"prompt '{name}' is too long, expected at most {_MAX_BYTES:,} bytes")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PromptError(f"prompt '{name}' is not valid TOML: {error}") from error
    return _checked(name, table, hashlib.sha256(data).hexdigest())


def prompt_names() -> list[str]:
    """Names of the prompts that ship."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files("prompts").iterdir() if entry.name.endswith(".toml")
    )


def _checked(name: str, table: Mapping[str, object], sha256: str) -> Prompt:
    if table.keys() != _KEYS:
        raise PromptError(f"prompt '{name}' has the keys {sorted(table)}, expected {sorted(_KEYS)}")
    version, language, system, user = table["version"], table["language"], table["system"], table["user"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PromptError(f"prompt '{name}' has version {version!r}, expected a whole number from 1")
    if not (isinstance(language, str) and isinstance(system, str) and isinstance(user, str)):
        raise PromptError(f"prompt '{name}': language, system and user must be text")
    return Prompt(name, version, language, system.strip(), user.strip(), sha256)

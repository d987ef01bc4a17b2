"""Records of an evaluation as JSON lines, and back, checked in full by their own types. Knows records and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from eval.errors import EvalError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_LINE_BYTES = 64_000_000
"""A question with every passage that was looked at takes some tens of kilobytes."""

T = TypeVar("T")

_NAMES = {"example_id": "id"}
_FIELDS = {name: field for field, name in _NAMES.items()}


def dumps(record: object) -> str:
    """A record on one line, without its end."""
    plain = _adapter(type(record)).dump_python(record, mode="json")
    return json.dumps(_renamed(plain, _NAMES), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def loads(kind: type[T], line: bytes | str) -> T:
    """The record of a line. Raises ValueError that names the field at fault."""
    from pydantic import ValidationError

    try:
        record = json.loads(line, parse_constant=_refuse)
        return cast("T", _adapter(kind).validate_python(_renamed(record, _FIELDS)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole line"
        raise ValueError(f"{place}: {first['msg']}") from None


def read_lines(kind: type[T], path: Path) -> Iterator[T]:
    """Every record of a file. Raises EvalError that names file and line."""
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise EvalError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; it is not ours")
            try:
                yield loads(kind, raw)
            except ValueError as error:
                raise EvalError(
                    f"{path}:{number}: {error}; expected a line as `rag eval run` writes it; run it again with --force"
                ) from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once a type."""
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _renamed(record: Any, names: dict[str, str]) -> Any:
    """With other names for the keys of a record and of the example in it; keys that are data keep theirs."""
    if not isinstance(record, dict):
        return record
    renamed = {names.get(key, key): value for key, value in record.items()}
    return {**renamed, "example": _renamed(renamed["example"], names)} if "example" in renamed else renamed

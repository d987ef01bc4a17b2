"""The routes of evaluation runs: which there are, the report of one, two compared. Knows run folders; makes none.

Names are looked up in a listing and never become part of a path. What lies in the folder may be anybody's: it is read
within bounds, and what is wrong with it is said of it.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from app.server.answers import json_response, problem, request_id_of, unless_gone
from app.server.state import Server
from eval.errors import EvalError

if TYPE_CHECKING:
    from app.pipeline import Pipeline

LISTED = 200
MAX_FACTS_BYTES = 2_000_000
"""Of manifest.json or scores.json; they take some tens of kilobytes."""
MAX_REPORT_BYTES = 64_000_000
MAX_QUESTIONS_BYTES = 128_000_000
"""Of questions.jsonl of either run that is compared; some thousands of questions take six million."""

_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report runs as a page of nobody: it has no cookie, and nothing here answers it. What its own policy forbids, stays
forbidden. `sandbox` and an opener policy exclude one another (HTML, 7.1.3)."""

_NAME = Annotated[str, Query(min_length=1, max_length=255)]


class _Facts(BaseModel):
    """What is read of a file of a run; it may hold more."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


_Short = Annotated[str, Field(max_length=300)]


class _Named(_Facts):
    name: _Short | None = None


class _Models(_Facts):
    reader: _Named = _Named()


class _Profile(_Facts):
    encoder: _Short | None = None


class _Manifest(_Facts):
    format: int
    created_at: _Short
    finished_at: _Short | None = None
    dataset: _Named
    questions: Annotated[int, Field(ge=0)]
    models: _Models = _Models()
    profile: _Profile = _Profile()
    recorded: _Named = _Named()


class _Score(_Facts):
    value: float | None
    low: float | None
    high: float | None
    n: int


Model = TypeVar("Model", bound=_Facts)


def router(server: Server) -> APIRouter:
    """`/api/runs`: the list, a report, a comparison."""
    routes = APIRouter(prefix="/api/runs", tags=["evaluation"])

    @routes.get("")
    async def runs(request: Request) -> Response:
        """The newest evaluation runs with their main scores; of one that cannot be read, what is wrong with it."""
        return json_response(await unless_gone(request, server.engine.look(lambda _: _listing(server.config.runs))))

    @routes.get("/compare", responses={404: {"description": "No such run"}})
    async def compare(request: Request, a: _NAME, b: _NAME) -> Response:
        """Is B better than A: the JSON of `rag eval compare A B --json`."""

        def compared(_: Pipeline) -> Response:
            folders = [_found(server.config.runs, name) for name in (a, b)]
            try:
                return json_response(_compared(*folders))
            except ValueError:
                raise EvalError("a run holds a number that JSON has not; run rag eval run again with --force") from None

        try:
            return await unless_gone(request, server.engine.look(compared, slow=True))
        except EvalError as error:
            return problem(422, "not-comparable", str(error), request_id_of(request))

    @routes.get("/{name}/report", responses={404: {"description": "No such run, or it has no report"}})
    async def report(request: Request, name: str) -> Response:
        """The report of a run, as a page that can do nothing here."""

        def read(_: Pipeline) -> bytes:
            return _content(_found(server.config.runs, name) / "report.html", MAX_REPORT_BYTES)

        try:
            page = await unless_gone(request, server.engine.look(read))
        except EvalError as error:
            return problem(404, "no-report", str(error), request_id_of(request))
        headers = {"content-security-policy": _REPORT_POLICY, "cross-origin-opener-policy": "unsafe-none"}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return routes


# ---- the list --------------------------------------------------------------------------------------------------------


def _listing(place: Path) -> dict[str, object]:
    """What `GET /api/runs` answers."""
    try:
        folders = _folders(place)
    except OSError as error:
        return {"folder": str(place), "runs": [], "left_out": 0, "problem": f"cannot be listed ({error.strerror})"}
    newest = heapq.nlargest(LISTED, folders, key=_changed_at)
    runs = sorted((_run_record(Path(each)) for each in newest), key=lambda run: str(run["started"] or ""), reverse=True)
    return {"folder": str(place), "runs": runs, "left_out": len(folders) - len(runs), "problem": None}


def _folders(place: Path) -> list[os.DirEntry[str]]:
    """Folders that may be runs; links are not followed, and what is hidden is not shown."""
    try:
        with os.scandir(place) as entries:
            return [each for each in entries if each.is_dir(follow_symlinks=False) and not each.name.startswith(".")]
    except FileNotFoundError:
        return []


def _changed_at(folder: os.DirEntry[str]) -> int:
    try:
        return folder.stat(follow_symlinks=False).st_mtime_ns
    except OSError:  # removed just now
        return 0


def _found(place: Path, name: str) -> Path:
    """The folder of that very name. Raises HTTPException 404 where the listing has none."""
    for each in _folders(place):
        if each.name == name:
            return Path(each)
    raise HTTPException(404, "there is no run of this name; GET /api/runs lists them")


def _run_record(folder: Path) -> dict[str, object]:
    record: dict[str, object] = {
        "name": folder.name,
        "problem": None,
        "dataset": None,
        "started": None,
        "finished": None,
        "questions": None,
        "system": None,
        "scores": [],
        "has_report": _size(folder / "report.html") is not None,
        "comparable": False,
    }
    try:
        record |= _facts(folder)
        record["scores"] = list(_headlines(folder)) if record["finished"] else []
        record["comparable"] = bool(record["finished"]) and _problem_of_questions(folder) is None
    except EvalError as error:
        record["problem"] = str(error)
    return record


def _facts(folder: Path) -> dict[str, object]:
    """Of the manifest. Raises EvalError where it is not one of ours."""
    from eval.folder import FORMAT, MANIFEST

    if not folder.name.isprintable():
        raise EvalError("its name is no text that can be shown; rename the folder")
    if _size(folder / MANIFEST) is None:
        raise EvalError(f"it holds no {MANIFEST}, so it is no run")
    record = _read(folder / MANIFEST)
    if record.get("format") != FORMAT:
        raise EvalError(f"{MANIFEST} has another format than {FORMAT}; another version of this program wrote it")
    facts = _checked(_Manifest, record, MANIFEST)
    system = [facts.recorded.name] if facts.recorded.name else [facts.profile.encoder, facts.models.reader.name]
    return {
        "dataset": facts.dataset.name,
        "started": facts.created_at,
        "finished": facts.finished_at,
        "questions": facts.questions,
        "system": ", ".join(filter(None, system)) or None,
    }


def _headlines(folder: Path) -> Iterator[dict[str, object]]:
    """The main measures with their 95% intervals, in the order of the terminal's table."""
    from app.cli.evaluate import HEADLINES
    from eval.folder import SCORES

    scores = _read(folder / SCORES)
    for section, names in HEADLINES:
        found = scores.get(section, {})
        for name in names:
            if isinstance(found, dict) and name in found:
                score = _checked(_Score, found[name], f"{SCORES}: {section}.{name}")
                if score.value is not None:
                    yield {"measure": f"{section}.{name}", **score.model_dump()}


def _checked(kind: type[Model], record: object, what: str) -> Model:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise EvalError(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


# ---- two compared ----------------------------------------------------------------------------------------------------


def _compared(a: Path, b: Path) -> dict[str, Any]:
    """As the command does it. Raises EvalError."""
    from eval.compare import compare
    from eval.folder import load_run

    for folder in (a, b):
        known = _run_record(folder)
        if not known["finished"] and not known["problem"]:
            raise EvalError(f"the run '{folder.name}' is not finished; give the same rag eval run again, it goes on")
        if wrong := known["problem"] or _problem_of_questions(folder):
            raise EvalError(f"the run '{folder.name}' cannot be compared: {wrong}")
    return compare(load_run(a), load_run(b)).to_record()


def _problem_of_questions(folder: Path) -> str | None:
    from eval.folder import QUESTIONS, SCORES

    for name, most in ((QUESTIONS, MAX_QUESTIONS_BYTES), (SCORES, MAX_FACTS_BYTES)):
        size = _size(folder / name)
        if size is None:
            return f"it holds no {name}"
        if size > most:
            return f"{name} has {size:,} bytes, and at most {most:,} are read here; use: rag eval compare"
    return None


# ---- files -----------------------------------------------------------------------------------------------------------


def _size(path: Path) -> int | None:
    """Of a regular file; None where there is none: links and pipes are nothing to read."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _content(path: Path, most: int) -> bytes:
    """The whole of a regular file. Raises EvalError where there is none, or it is longer than `most` bytes."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise EvalError(f"{path.name} is no file")
            content = stream.read(most + 1)
    except OSError as error:
        raise EvalError(f"{path.name} cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise EvalError(f"{path.name} has more than {most:,} bytes, which is not shown here; open it from its folder")
    return content


def _read(path: Path) -> Mapping[str, Any]:
    """An object without a number that JSON has not. Raises EvalError."""
    try:
        found = json.loads(_content(path, MAX_FACTS_BYTES), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise EvalError(f"{path.name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise EvalError(f"{path.name} holds {type(found).__name__}, expected an object")
    return found


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name[:20]} is no number that JSON has")

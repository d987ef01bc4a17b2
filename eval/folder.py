"""A run folder: manifest.json, predictions.jsonl, questions.jsonl, scores.json, report.html. Knows files; no metric.

Predictions are appended as they are made, so that a run that was killed goes on where it stopped. All other files are
written beside and renamed: a reader sees the old one or the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import EvalError
from eval.records import Judged, Prediction
from eval.wire import MAX_LINE_BYTES, dumps, read_lines

FORMAT = 1
MANIFEST, PREDICTIONS, QUESTIONS, SCORES, REPORT = (
    "manifest.json",
    "predictions.jsonl",
    "questions.jsonl",
    "scores.json",
    "report.html",
)
RUN_FILE, QRELS_FILE, MAP, VERDICTS = "run.trec", "qrels.trec", "map.json", "verdicts.jsonl"
LOCK = ".lock"
OURS = (MANIFEST, PREDICTIONS, QUESTIONS, SCORES, REPORT, RUN_FILE, QRELS_FILE, MAP, VERDICTS, LOCK)
MOVING = ("format", "created_at", "finished_at", "seconds", "asked", "questions_per_second", "costs", "paths")
"""Keys of a manifest that say nothing of what a run's numbers depend on."""

_ELSEWHERE = (*MOVING, "git_commit", "machine", "judge")
"""Keys that may differ when a run goes on: on another machine, after a commit; and who graded it afterwards."""

_MAX_JSON_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as it is compared and shown."""

    folder: Path
    manifest: Mapping[str, Any]
    scores: Mapping[str, Any]
    judged: Mapping[str, Judged]


class RunFolder:
    """A run that is being made. Use `begun`, which takes care that nobody else is making it."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], done: frozenset[str]) -> None:
        self.folder, self.manifest, self.done = folder, manifest, done

    @property
    def is_complete(self) -> bool:
        """Whether everything was asked before."""
        return bool(self.manifest.get("finished_at"))

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Add predictions in one write: a run that is killed leaves whole lines, or one that is cut off at the end."""
        lines = "".join(f"{dumps(one)}\n" for one in predictions).encode("utf-8")
        with (self.folder / PREDICTIONS).open("ab", buffering=0) as stream:
            view = memoryview(lines)
            while view:
                view = view[stream.write(view) :]

    def predictions(self) -> Iterator[Prediction]:
        """Those made so far, in the order they were made."""
        path = self.folder / PREDICTIONS
        yield from read_lines(Prediction, path) if path.exists() else ()

    def write_manifest(self, **news: object) -> None:
        """Record what became of the run."""
        self.manifest = {**self.manifest, **news}
        write_json(self.folder / MANIFEST, self.manifest)

    def write_questions(self, judged: Sequence[Judged]) -> None:
        """Every question with its gold, its values and where it was lost."""
        write_text(self.folder / QUESTIONS, "".join(f"{dumps(one)}\n" for one in judged))

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Every measure with its interval."""
        write_json(self.folder / SCORES, scores)


@contextmanager
def begun(folder: Path, manifest: Mapping[str, Any], *, force: bool = False) -> Iterator[RunFolder]:
    """A run folder to fill: a new one, or one that was begun with this very manifest, which then goes on.

    force: what another run left there is removed first; files of others never are. Raises EvalError where the folder
    holds another run or other things, or somebody else is filling it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise EvalError(f"{folder} is a file; name a folder for the run") from None
    with _alone(folder):
        if force and (folder / MANIFEST).exists():
            for name in OURS:
                if name != LOCK:
                    (folder / name).unlink(missing_ok=True)
        known = _resumed(folder, manifest)
        if known is None:
            _refuse_others(folder, force=force)
            write_json(folder / MANIFEST, manifest)
        yield RunFolder(folder, known or manifest, frozenset(_ids(folder / PREDICTIONS)))


def load_run(folder: Path) -> Run:
    """A finished run. Raises EvalError where there is none, or one of another version."""
    manifest = _manifest(folder)
    if manifest is None:
        raise EvalError(f"{folder} holds no run, no {MANIFEST}; make one: rag eval run DATASET --out {folder}")
    if not (folder / SCORES).exists():
        raise EvalError(f"the run in {folder} is not finished; give the same rag eval run again, it goes on")
    judged: dict[str, Judged] = {one.example.example_id: one for one in read_lines(Judged, folder / QUESTIONS)}
    return Run(folder, manifest, read_json(folder / SCORES), judged)


def load_predictions(folder: Path) -> dict[str, Prediction]:
    """The predictions of a run by the id of their question."""
    return {one.example_id: one for one in read_lines(Prediction, folder / PREDICTIONS)}


def read_json(path: Path, *, advice: str = "run rag eval run again with --force") -> dict[str, Any]:
    """An object of a JSON file. Raises EvalError with advice."""
    with path.open("rb") as stream:
        content = stream.read(_MAX_JSON_BYTES + 1)
    problem = f"it is larger than {_MAX_JSON_BYTES:,} bytes"
    if len(content) <= _MAX_JSON_BYTES:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            problem = str(error)
        else:
            if isinstance(found, dict):
                return found
            problem = f"found {type(found).__name__}, expected an object"
    raise EvalError(f"{path} cannot be read: {problem}; {advice}")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """An object, for people as well as for programs; in one step."""
    write_text(path, json.dumps(record, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """A file in one step: whoever reads it sees the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / LOCK).open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvalError(
                f"another process is writing the run in {folder}; wait for it, or name another folder"
            ) from None
        yield


def _refuse_others(folder: Path, *, force: bool) -> None:
    """Nothing without a manifest is ours: what is there has names of its own, and stays."""
    there = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    in_the_way = [name for name in there if name in OURS]
    if in_the_way:
        raise EvalError(
            f"{folder} holds {', '.join(in_the_way)} of no run, which would be replaced; choose an empty folder"
        )
    if there and not force:
        raise EvalError(
            f"{folder} holds other files ({', '.join(there[:3])}); choose an empty folder, or --force to write beside"
            " them"
        )


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise EvalError(
            f"{path} has format {manifest.get('format')!r}, expected {FORMAT}; another version of this program wrote"
            " it: choose another folder, or --force to replace it"
        )
    return manifest


def _resumed(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the run that is there, if it is the one that is asked for."""
    known = _manifest(folder)
    if known is None:
        return None
    differ = differences(known, manifest)
    if differ:
        shown = ", ".join(f"{key} {before!s:.60} (now {now!s:.60})" for key, before, now in differ[:4])
        more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
        raise EvalError(
            f"{folder} holds a run made otherwise: {shown}{more}; choose another --out, or --force to replace it"
        )
    _cut_off(folder / PREDICTIONS)
    return known


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], *, ignored: Collection[str] = _ELSEWHERE
) -> list[tuple[str, Any, Any]]:
    """Path, value in a and value in b of what two manifests say differently, in the order of the paths.

    ignored: keys that are not looked at; without, those that may differ when a run goes on.
    """
    before, now = (dict(_leaves({key: value for key, value in one.items() if key not in ignored})) for one in (a, b))
    return [(key, before.get(key), now.get(key)) for key in sorted({*before, *now}) if before.get(key) != now.get(key)]


def _leaves(record: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their dotted path; a list is one value, as JSON has it."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", list(value) if isinstance(value, tuple) else value


def _cut_off(path: Path) -> None:
    """Take away a last line that a killed run did not finish."""
    if not path.exists():
        return
    with path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = max(0, size - MAX_LINE_BYTES)
        stream.seek(start)
        end = start + stream.read().rfind(b"\n") + 1
        if end < size:
            stream.truncate(end)


def _ids(path: Path) -> Iterator[str]:
    """Ids of what was predicted. Raises EvalError on a line that is no prediction, and on an id that comes twice."""
    if not path.exists():
        return
    seen: set[str] = set()
    for one in read_lines(Prediction, path):
        if one.example_id in seen:
            raise EvalError(f"{path} holds {one.example_id!r} twice; run again with --force")
        seen.add(one.example_id)
        yield one.example_id

"""Try many settings: which of them, in which order, and how they rank beside what they cost.

A file names the settings. Whoever builds indexes, searches and reads is handed in, and so is whoever keeps a run; this
module knows which settings change which stage, so that no stage is run twice for the same ones. Knows no product.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.compare import ALPHA, Results
from eval.errors import EvalError
from eval.folder import write_json
from eval.records import SECTIONS, Outcome, Score
from eval.statistics import familywise, intervals, paired
from retrieval.errors import RagError

MAX_FILE_BYTES = 1_000_000
MAX_COMBINATIONS = 1_000
MAX_VALUE_CHARS = 1_000
SWEEP_FILE = "sweep.json"

Value = str | int | float | bool
Settings = Mapping[str, Value]
Part = Literal["index", "search", "read"]

# ---- what can be tried -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Key:
    """A setting: the first stage that it changes, what it may be, and the readers it means something to."""

    stage: Part
    parse: Callable[[object], Value]
    readers: frozenset[str] = frozenset({"extractive", "zephyr", "server"})


def _number(kind: type[int | float], low: float, high: float) -> Callable[[object], Value]:
    def parse(raw: object) -> Value:
        allowed = int if kind is int else (int, float)
        if isinstance(raw, bool) or not isinstance(raw, allowed) or not low <= raw <= high:  # also false for nan
            word = "a whole number" if kind is int else "a number"
            raise ValueError(f"{word} from {low:g} to {high:g}")
        return kind(raw)

    return parse


def _choice(*allowed: str) -> Callable[[object], Value]:
    def parse(raw: object) -> Value:
        if raw not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return str(raw)

    return parse


def _switch(raw: object) -> Value:
    if not isinstance(raw, bool):
        raise ValueError("true or false")  # noqa: TRY004  # every wrong value is told the same way
    return raw


def _name(raw: object) -> Value:
    if not isinstance(raw, str) or not raw.strip() or len(raw) > MAX_VALUE_CHARS:
        raise ValueError("a name or a path")
    return raw


_READERS = ("none", "extractive", "zephyr", "server")
_WRITERS = frozenset({"zephyr", "server"})
_KEYS: Mapping[str, _Key] = {
    "encoder": _Key("index", _name),
    "chunk_tokens": _Key("index", _number(int, 16, 8192)),
    "chunk_overlap": _Key("index", _number(float, 0.0, 0.5)),
    "heading_context": _Key("index", _switch),
    "top_k": _Key("search", _number(int, 1, 1000)),
    "candidates": _Key("search", _number(int, 1, 10_000)),
    "fusion": _Key("search", _choice("adaptive", "dense", "bm25", "rrf")),
    "reranker": _Key("search", _name),
    "split_questions": _Key("search", _switch),
    "max_per_document": _Key("search", _number(int, 0, 1000)),
    "diversity": _Key("search", _number(float, 0.0, 1.0)),
    "reader": _Key("read", _choice(*_READERS), frozenset(_READERS)),
    "min_evidence": _Key("read", _number(float, 0.0, 1.0)),
    "sentences": _Key("read", _number(int, 1, 3), frozenset({"extractive"})),
    "model": _Key("read", _name, frozenset({"zephyr"})),
    "quantization": _Key("read", _choice("4bit", "8bit", "none"), frozenset({"zephyr"})),
    "compress": _Key("read", _switch, _WRITERS),
    "temperature": _Key("read", _number(float, 0.0, 2.0), _WRITERS),
    "max_answer_tokens": _Key("read", _number(int, 1, 100_000), _WRITERS),
}

Fixed = tuple[tuple[str, Value], ...]
"""Settings that can be compared and looked up: pairs in the order of _KEYS."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One of the settings that are tried, by the stage that they change first; what is not named is as configured."""

    index: Fixed = ()
    search: Fixed = ()
    read: Fixed = ()

    @property
    def settings(self) -> dict[str, Value]:
        """All of them by name."""
        return dict((*self.index, *self.search, *self.read))

    @property
    def name(self) -> str:
        """For its folder: readable, unique, and the same whatever else is tried."""
        shown = ",".join(f"{key}={value}" for key, value in self.settings.items()) or "as-configured"
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{re.sub('[^0-9A-Za-z_.,=-]', '_', shown)[:120]}-{digest[:8]}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a file asks for. index: search this one; documents: index these; neither: those the dataset brings along.

    combinations: those of one index follow one another, and among them those of one search.
    """

    path: Path
    dataset: Path
    metric: str
    combinations: tuple[Combination, ...]
    index: Path | None = None
    documents: Path | None = None
    limit: int | None = None


# ---- reading the file ------------------------------------------------------------------------------------------------


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file: TOML with `dataset`, `metric`, a table [grid] of lists, and tables [[run]] of single values.

    Every combination of the grid is tried, and every [[run]] as it stands; what comes twice is tried once. A setting
    that means nothing to a reader (`sentences` to a language model) is left out beside it. Raises EvalError that names
    what is wrong and what would be right.
    """
    raw = _toml(path)
    try:
        _check_keys(raw)
        sweep = Sweep(
            path=path,
            dataset=path.parent / _text(raw, "dataset", "the questions to ask"),
            index=path.parent / _text(raw, "index", "an index folder") if "index" in raw else None,
            documents=path.parent / _text(raw, "documents", "files or a folder") if "documents" in raw else None,
            metric=_text(raw, "metric", "such as retrieval.ndcg@10"),
            limit=_limit(raw.get("limit")),
            combinations=_ordered([*_grid(raw.get("grid", {})), *_runs(raw.get("run", []))]),
        )
        _check(sweep)
    except ValueError as error:
        raise EvalError(f"{path}: {error}") from None
    return sweep


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise EvalError(f"{path} cannot be read ({error.strerror}); name a sweep file: rag eval sweep FILE") from None
    if len(content) > MAX_FILE_BYTES:
        raise EvalError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes; a sweep file is a few lines")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: no text, no TOML, a number without end
        raise EvalError(f"{path} is not valid TOML: {error}; write lines like  top_k = [3, 5]") from None


def _check_keys(raw: Mapping[str, object]) -> None:
    known = ("dataset", "index", "documents", "metric", "limit", "grid", "run")
    for key in raw:
        if key not in known:
            raise ValueError(_unknown(key, known))


def _text(raw: Mapping[str, object], key: str, what: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{key} is {_shown(value)}, expected {what}")
    return value


def _limit(raw: object) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        raise ValueError(f"limit is {_shown(raw)}, expected how many questions to ask, from 1 on")
    return raw


def _grid(raw: object) -> Iterator[Combination]:
    """Every combination of the lists; none of an empty table."""
    if not isinstance(raw, dict):
        raise ValueError(f"grid is {_shown(raw)}, expected a table of lists: [grid], then lines like  top_k = [3, 5]")  # noqa: TRY004
    lists: dict[str, list[Value]] = {}
    for key, values in raw.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"[grid] {key} is {_shown(values)}, expected a list, such as  {key} = [...]")
        lists[key] = [_parsed(key, value, "[grid]") for value in values]
    count = math.prod(map(len, lists.values()))
    if count > MAX_COMBINATIONS:
        raise ValueError(
            f"[grid] has {count:,} combinations, expected at most {MAX_COMBINATIONS:,}; try fewer at a time"
        )
    if lists:
        yield from (_combination(dict(zip(lists, values, strict=True))) for values in product(*lists.values()))


def _runs(raw: object) -> Iterator[Combination]:
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        raise ValueError(f"run is {_shown(raw)}, expected tables [[run]] with lines like  top_k = 5")
    if len(raw) > MAX_COMBINATIONS:
        raise ValueError(f"there are {len(raw):,} tables [[run]], expected at most {MAX_COMBINATIONS:,}")
    for number, one in enumerate(raw, start=1):
        yield _combination({key: _parsed(key, value, f"[[run]] {number}:") for key, value in one.items()})


def _parsed(key: str, raw: object, where: str) -> Value:
    if key not in _KEYS:
        raise ValueError(f"{where} {_unknown(key, tuple(_KEYS))}")
    try:
        return _KEYS[key].parse(raw)
    except ValueError as error:
        raise ValueError(f"{where} {key} holds {_shown(raw)}, expected {error}") from None


def _combination(settings: Mapping[str, Value]) -> Combination:
    """Settings by stage, without those that mean nothing to the reader."""
    reader = settings.get("reader")
    stages: dict[Part, list[tuple[str, Value]]] = {"index": [], "search": [], "read": []}
    for name, key in _KEYS.items():
        if name in settings and (key.stage != "read" or reader is None or reader in key.readers):
            stages[key.stage].append((name, settings[name]))
    return Combination(*(tuple(pairs) for pairs in stages.values()))


def _ordered(combinations: Sequence[Combination]) -> tuple[Combination, ...]:
    """Each once; those that share an index together, among them those that share a search; as they came otherwise."""
    by_stage: dict[Fixed, dict[Fixed, dict[Fixed, Combination]]] = {}
    for one in combinations:
        by_stage.setdefault(one.index, {}).setdefault(one.search, {})[one.read] = one
    return tuple(one for searches in by_stage.values() for readers in searches.values() for one in readers.values())


def _check(sweep: Sweep) -> None:
    """Refuse what would fail, or say nothing, only after hours of work."""
    if not sweep.combinations:
        raise ValueError("it names nothing to try; add a table [grid] with lines like  top_k = [3, 5]")
    if sweep.index and sweep.documents:
        raise ValueError("index and documents are both given; expected one: search an index, or make one of documents")
    section, _, measure = sweep.metric.partition(".")
    if section not in SECTIONS or not measure:
        raise ValueError(f"metric is {_shown(sweep.metric)}, expected {', '.join(SECTIONS)}, a dot and a measure")
    for one in sweep.combinations:
        if sweep.index and one.index:
            key = one.index[0][0]
            raise ValueError(
                f"{key} changes how documents are indexed, but index names one that is there; try documents"
            )
        if section != "retrieval" and one.settings.get("reader") == "none":
            raise ValueError(f'reader "none" gives no answers, so it has no {sweep.metric}; take one of retrieval')


def _unknown(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"unknown key {key[:60]!r}; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def _shown(raw: object) -> str:
    found = "missing" if raw is None else repr(raw)
    return found if len(found) <= 80 else f"{found[:77]}..."


# ---- running it ------------------------------------------------------------------------------------------------------


class Searched(Protocol):
    """What was retrieved for every question of the dataset: once, and remembered."""

    def read(self, settings: Settings, /) -> Sequence[Outcome | RagError]:
        """What a reader makes of each, in order; a question it fails on is an error, not an exception."""


class Indexed(Protocol):
    """An open index."""

    @property
    def index_bytes(self) -> int | None:
        """How large it is on disk."""

    def search(self, settings: Settings, /) -> Searched:
        """Retrieve for every question of the dataset."""


class Builder(Protocol):
    """Whoever can index the documents of a sweep."""

    def index(self, settings: Settings, /) -> AbstractContextManager[Indexed]:
        """An index made with these settings, open until left."""


Costs = Mapping[str, Any]
"""As JSON has it. latency_ms: stage -> median and p95, of a question, and their sum as "total". index_bytes.
peak_memory_bytes: stage (index, search, read) -> the most that this process held at once, None where nobody can tell.
"""

Finished = Callable[[Combination], Results | None]
"""The run of a combination that was finished before, if it was. Its manifest has the Costs under "costs"."""

Write = Callable[[Combination, Sequence[Outcome | RagError], Costs], Results]
"""Keeps the run of a combination, its Costs in the manifest under "costs", and judges it."""

Report = Callable[[int, int, Combination], None]
"""Told how many combinations are done, how many there are, and which was the last."""

Ran = tuple[Combination, Results | RagError]


def sweep(
    asked: Sweep,
    builder: Builder,
    out: Path,
    *,
    finished: Finished,
    write: Write,
    report: Report = lambda _done, _total, _last: None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run every combination that is not finished, rank all, and write OUT/sweep.json; returns what it holds.

    A combination that cannot be run is ranked last, with its error. Raises EvalError where none has the metric.
    """
    known = {one: finished(one) for one in asked.combinations}
    found: dict[Combination, Results | RagError] = {one: run for one, run in known.items() if run is not None}
    todo = [one for one in asked.combinations if one not in found]
    for combination, run in _run_all(todo, builder, write):
        found[combination] = run
        if len(found) == 1 and not isinstance(run, RagError) and np.isnan(_values([run], asked.metric)).all():
            raise EvalError(_nothing_has(asked.metric, [run]))  # now, not after hours
        report(len(found), len(known), combination)
    record = {
        "format": 1,
        "dataset": str(asked.dataset),
        "metric": asked.metric,
        "limit": asked.limit,
        "ranking": [asdict(one) for one in ranking(found, asked.metric, seed=seed)],
    }
    write_json(out / SWEEP_FILE, record)
    return record


def _run_all(todo: Sequence[Combination], builder: Builder, write: Write) -> Iterator[Ran]:
    """Index once a chunking, retrieve once a search, read once a reader."""
    for index, of_index in groupby(todo, key=lambda one: one.index):
        with ExitStack() as stack:
            try:
                indexed, peak = peak_memory(partial(_opened, stack, builder, dict(index)))
            except RagError as error:
                yield from ((one, error) for one in of_index)
                continue
            for search, of_search in groupby(of_index, key=lambda one: one.search):
                yield from _run_search(indexed, dict(search), list(of_search), write, index_peak=peak)


def _opened(stack: ExitStack, builder: Builder, settings: Settings) -> Indexed:
    return stack.enter_context(builder.index(settings))


def _run_search(
    indexed: Indexed, settings: Settings, combinations: Sequence[Combination], write: Write, *, index_peak: int | None
) -> Iterator[Ran]:
    try:
        searched, search_peak = peak_memory(partial(indexed.search, settings))
    except RagError as error:
        yield from ((one, error) for one in combinations)
        return
    for one in combinations:
        try:
            outcomes, read_peak = peak_memory(partial(searched.read, dict(one.read)))
        except RagError as error:
            yield one, error
            continue
        costs = {
            "latency_ms": latency([each.timings_ms for each in outcomes if isinstance(each, Outcome)]),
            "index_bytes": indexed.index_bytes,
            "peak_memory_bytes": {"index": index_peak, "search": search_peak, "read": read_peak},
        }
        yield one, write(one, outcomes, costs)


def latency(timings_ms: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """stage -> median and 95th percentile over the questions that had it; "total": of each question's, or their sum."""
    stages = dict.fromkeys(stage for one in timings_ms for stage in one)
    by_stage = {stage: [one[stage] for one in timings_ms if stage in one] for stage in stages}
    totals = [one.get("total", sum(one.values())) for one in timings_ms]
    whole = {**by_stage, "total": totals} if totals else {}
    return {
        stage: {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}
        for stage, values in whole.items()
    }


T = TypeVar("T")


def peak_memory(work: Callable[[], T]) -> tuple[T, int | None]:
    """Do it, and tell the most bytes of memory that this process held meanwhile; what it held before is in it.

    By Linux's own count (VmHWM, set back through /proc/self/clear_refs; man 5 proc); None elsewhere, or where /proc is
    closed. Other processes and the memory of a GPU are not counted.
    """
    try:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    except OSError:
        return work(), None
    result = work()
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return result, int(found[1]) * 1024 if found else None


# ---- ranking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tried:
    """A combination, its score, and what it costs. rank: from 1 on, None where it has no score.

    difference: from the best, over the questions of both, at most 0 but for questions that only one has. p: that such a
    difference comes about by chance (randomisation test), of all combinations together. below_best: whether it is shown
    to be worse. error: why it could not be run.
    """

    rank: int | None
    name: str
    settings: Settings
    score: Score
    difference: float | None
    p: float | None
    below_best: bool | None
    costs: Costs
    error: str | None


def ranking(runs: Mapping[Combination, Results | RagError], metric: str, *, seed: int = 0) -> list[Tried]:
    """Best first, equal ones by name, last those without a score. Raises EvalError where no run has the metric."""
    ordered = sorted(runs.items(), key=lambda pair: pair[0].name)
    values = _values([run for _, run in ordered], metric)
    scores = intervals(values, seed=seed)
    best_first = sorted(range(len(ordered)), key=lambda at: -(-math.inf if (it := scores[at].value) is None else it))
    best = best_first[0]
    if scores[best].value is None:
        raise EvalError(_nothing_has(metric, [run for _, run in ordered]))
    of_best = np.repeat(values[:, [best]], len(ordered), axis=1)
    pairs, chances = paired(of_best, values, seed=seed), familywise(of_best, values, seed=seed)
    return [
        _tried(
            place,
            *ordered[at],
            scores[at],
            difference=pairs[at].difference,
            p=None if at == best else chances[at],
        )
        for place, at in enumerate(best_first, start=1)
    ]


def _tried(
    place: int,
    combination: Combination,
    run: Results | RagError,
    score: Score,
    *,
    difference: float | None,
    p: float | None,
) -> Tried:
    return Tried(
        rank=None if score.value is None else place,
        name=combination.name,
        settings=combination.settings,
        score=score,
        difference=difference,
        p=p,
        below_best=None if difference is None else p is not None and p < ALPHA and difference < 0,
        costs={} if isinstance(run, RagError) else run.manifest.get("costs", {}),
        error=str(run) if isinstance(run, RagError) else None,
    )


def _values(runs: Sequence[Results | RagError], metric: str) -> NDArray[np.float64]:
    """(questions, runs), NaN where a run has no value for a question."""
    judged = [{} if isinstance(run, RagError) else run.judged for run in runs]
    questions = sorted({example_id for one in judged for example_id in one})
    found = np.full((len(questions), len(runs)), np.nan)
    for column, one in enumerate(judged):
        for row, example_id in enumerate(questions):
            if example_id in one:
                found[row, column] = one[example_id].values.get(metric, np.nan)
    return found


def _nothing_has(metric: str, runs: Sequence[Results | RagError]) -> str:
    errors = [str(run) for run in runs if isinstance(run, RagError)]
    if errors:
        return f"no combination has {metric}; {len(errors)} of {len(runs)} failed, the first one: {errors[0]}"
    judged = (one for run in runs if not isinstance(run, RagError) for one in run.judged.values())
    known = dict.fromkeys(name for one in judged for name in one.values)
    near = get_close_matches(metric, known, n=1)
    return f"no combination has {metric!r}; " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    )

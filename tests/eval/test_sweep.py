"""A sweep file is read strictly, each stage runs once for each of its settings, and the ranking knows its doubts."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.errors import EvalError
from eval.records import Example, Judged, Outcome
from eval.sweep import Combination, Settings, Sweep, latency, load_sweep, peak_memory, ranking, sweep
from retrieval.errors import ModelError, RagError

HEAD = 'dataset = "questions.jsonl"\nmetric = "retrieval.ndcg@10"\n'


def load(tmp_path: Path, text: str) -> Sweep:
    path = tmp_path / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    return load_sweep(path)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_sweep_file(tmp_path):
    found = load(
        tmp_path,
        """
        dataset = "questions.jsonl"
        documents = "文档"
        metric = "answer.f1"
        limit = 200
        [grid]
        chunk_tokens = [256, 512]
        top_k = [3, 5]
        reader = ["extractive"]
        [[run]]
        chunk_tokens = 256
        top_k = 8
        [[run]]
        reader = "zephyr"
        quantization = "4bit"
        """,
    )
    assert (found.dataset, found.documents, found.index) == (tmp_path / "questions.jsonl", tmp_path / "文档", None)
    assert (found.metric, found.limit) == ("answer.f1", 200)
    # The first [[run]] comes beside the others of its index.
    assert [tuple(one.settings.values()) for one in found.combinations] == [
        (256, 3, "extractive"),
        (256, 5, "extractive"),
        (256, 8),
        (512, 3, "extractive"),
        (512, 5, "extractive"),
        ("zephyr", "4bit"),
    ]
    assert found.combinations[0] == Combination((("chunk_tokens", 256),), (("top_k", 3),), (("reader", "extractive"),))


def test_what_means_nothing_to_a_reader_is_not_tried(tmp_path):
    grid = '[grid]\nreader = ["none", "extractive", "zephyr"]\nsentences = [1, 2]\ncompress = [true, false]\n'
    found = load(tmp_path, HEAD + grid)
    assert [one.settings for one in found.combinations] == [
        {"reader": "none"},
        {"reader": "extractive", "sentences": 1},
        {"reader": "extractive", "sentences": 2},
        {"reader": "zephyr", "compress": True},
        {"reader": "zephyr", "compress": False},
    ]


WRONG = [
    ("", "dataset is missing, expected the questions to ask"),
    ('dataset = "q"', "metric is missing, expected such as"),
    (HEAD, "it names nothing to try"),
    (HEAD + "[grid]", "it names nothing to try"),
    (HEAD + "datset = 1", r"unknown key 'datset'; did you mean dataset\?"),
    (HEAD + "[grid]\nchunk_token = [5]", r"\[grid\] unknown key 'chunk_token'; did you mean chunk_tokens\?"),
    (HEAD + "[grid]\nxyz = [5]", "unknown key 'xyz'; known are encoder, chunk_tokens"),
    (HEAD + "[grid]\ntop_k = 5", r"\[grid\] top_k is 5, expected a list, such as  top_k = \[...\]"),
    (HEAD + "[grid]\ntop_k = []", r"top_k is \[\], expected a list"),
    (HEAD + "[grid]\ntop_k = [0]", "top_k holds 0, expected a whole number from 1 to 1000"),
    (HEAD + "[grid]\ntop_k = [true]", "top_k holds True, expected a whole number"),
    (HEAD + "[grid]\ntop_k = [5.0]", "top_k holds 5.0, expected a whole number"),
    (HEAD + "[grid]\nmin_evidence = [nan]", "min_evidence holds nan, expected a number from 0 to 1"),
    (HEAD + '[grid]\nfusion = ["rff"]', "fusion holds 'rff', expected one of adaptive, dense, bm25, rrf"),
    (HEAD + '[grid]\ncompress = ["yes"]', "compress holds 'yes', expected true or false"),
    (HEAD + '[grid]\nreranker = [" "]', "reranker holds ' ', expected a name or a path"),
    (HEAD + "[[run]]\ntop_k = [5]", r"\[\[run\]\] 1: top_k holds \[5\], expected a whole number"),
    (HEAD + "grid = 5", "grid is 5, expected a table of lists"),
    (HEAD + "run = [5]", r"run is \[5\], expected tables"),
    (HEAD + "limit = 0\n[grid]\ntop_k = [5]", "limit is 0, expected how many"),
    (HEAD + "limit = true\n[grid]\ntop_k = [5]", "limit is True, expected how many"),
    ('dataset = "q"\nmetric = "ndcg"\n[grid]\ntop_k = [5]', "metric is 'ndcg', expected retrieval, answer, abstention"),
    ('dataset = "q"\nmetric = "answer.f1"\n[grid]\nreader = ["none"]', 'reader "none" gives no answers'),
    (HEAD + 'index = "i"\ndocuments = "d"\n[grid]\ntop_k = [5]', "index and documents are both given"),
    (HEAD + 'index = "i"\n[grid]\nchunk_tokens = [256]', "chunk_tokens changes how documents are indexed"),
    (HEAD + f"[grid]\ntop_k = {list(range(1, 102))}\ncandidates = {list(range(1, 102))}", "10,201 combinations"),
    (HEAD + "top_k =", "is not valid TOML"),
    (HEAD + "[[run]]\n" * 1001, r"1,001 tables \[\[run\]\]"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, message):
    with pytest.raises(EvalError, match=message):
        load(tmp_path, text)


def test_files_that_are_none(tmp_path):
    with pytest.raises(EvalError, match="cannot be read"):
        load_sweep(tmp_path / "absent.toml")
    with pytest.raises(EvalError, match="cannot be read"):
        load_sweep(tmp_path)
    with pytest.raises(EvalError, match="larger than 1,000,000 bytes"):
        load(tmp_path, "#" * 1_000_001)
    (tmp_path / "latin.toml").write_bytes(b'dataset = "\xe9"')
    with pytest.raises(EvalError, match="is not valid TOML"):
        load_sweep(tmp_path / "latin.toml")


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"{HEAD}[grid]\n{text}"))
def test_any_file_gives_a_sweep_or_says_why_not(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = load_sweep(path)
    except EvalError as error:
        said = str(error)
    else:
        assert found.combinations
        return
    assert said.startswith(str(path))


def test_names_are_short_plain_and_differ():
    one = Combination(search=(("reranker", "/models/" + "长" * 500),))
    other = Combination(search=(("reranker", "/models/" + "长" * 501),))
    assert one.name != other.name
    assert one.name.isascii()
    assert "/" not in one.name
    assert len(one.name) < 140
    assert Combination(index=(("chunk_tokens", 256),), search=(("top_k", 5),)).name.startswith(
        "chunk_tokens=256,top_k=5-"
    )


# ---- each stage once -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    manifest: Mapping[str, Any]
    judged: Mapping[str, Judged]


@dataclass
class Counting:
    """A builder that counts what it does, and whose quality follows from the settings."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    open: int = 0
    fails: tuple[str, Any] = ("", None)

    @contextmanager
    def index(self, settings: Settings, /) -> Iterator[_CountingIndex]:
        self.did("index", settings)
        assert self.open == 0
        self.open += 1
        yield _CountingIndex(self, dict(settings))
        self.open -= 1

    def did(self, stage: str, settings: Settings) -> None:
        self.calls[stage, json.dumps(dict(settings), sort_keys=True)] += 1
        key, value = self.fails
        if key in settings and settings[key] == value:
            raise ModelError(f"{key} cannot be {value}")


@dataclass
class _CountingIndex:
    builder: Counting
    settings: dict[str, Any]

    @property
    def index_bytes(self) -> int:
        return 1000 * int(self.settings.get("chunk_tokens", 512))

    def search(self, settings: Settings, /) -> _CountingSearch:
        assert self.builder.open == 1
        self.builder.did("search", {**self.settings, **settings})
        return _CountingSearch(self, {**self.settings, **settings})


@dataclass
class _CountingSearch:
    index: _CountingIndex
    settings: dict[str, Any]

    def read(self, settings: Settings, /) -> Sequence[Outcome | RagError]:
        whole = {**self.settings, **settings}
        self.index.builder.did("read", whole)
        times = ({"search": 2.0, "answer": float(at)} for at in range(1, 21))
        return [Outcome((), (), None, time) for time in times] + [ModelError("one failed")]


class Kept:
    """Keeps runs in memory; the k-th of 21 questions is right where top_k is at least k."""

    def __init__(self) -> None:
        self.runs: dict[Combination, Run] = {}

    def write(self, one: Combination, outcomes: Sequence[Outcome | RagError], costs: Mapping[str, Any]) -> Run:
        right = int(one.settings.get("top_k", 5))
        values = [{"retrieval.ndcg@10": float(at < right)} for at in range(len(outcomes))]
        judged = {f"q{at}": Judged(Example(f"q{at}", "?"), each) for at, each in enumerate(values)}
        self.runs[one] = Run({"costs": dict(costs)}, judged)
        return self.runs[one]


def asked(grid: Mapping[str, Sequence[Any]]) -> str:
    return HEAD + "[grid]\n" + "\n".join(f"{key} = {json.dumps(list(values))}" for key, values in grid.items())


def run(tmp_path: Path, text: str, builder: Counting, kept: Kept) -> dict[str, Any]:
    return sweep(load(tmp_path, text), builder, tmp_path, finished=kept.runs.get, write=kept.write)


grids = st.fixed_dictionaries(
    {},
    optional={
        "chunk_tokens": st.lists(st.sampled_from([128, 256, 512]), min_size=1, max_size=4),
        "chunk_overlap": st.lists(st.sampled_from([0.0, 0.1]), min_size=1, max_size=3),
        "top_k": st.lists(st.sampled_from([3, 5, 8]), min_size=1, max_size=4),
        "reranker": st.lists(st.sampled_from(["interaction", "none"]), min_size=1, max_size=2),
        "reader": st.lists(st.sampled_from(["none", "extractive"]), min_size=1, max_size=2),
        "sentences": st.lists(st.sampled_from([1, 2]), min_size=1, max_size=2),
    },
).filter(bool)
_STAGE = {
    "index": ("chunk",),
    "search": ("chunk", "top_k", "reranker"),
    "read": ("chunk", "top_k", "reranker", "rea", "sen"),
}


@settings(max_examples=40)
@given(grid=grids, order=st.randoms())
def test_every_stage_runs_once_for_each_of_its_settings_in_whatever_order_they_are_given(tmp_path_factory, grid, order):
    folder, builder, kept = tmp_path_factory.getbasetemp(), Counting(), Kept()
    record = run(folder, asked(grid), builder, kept)
    wanted = set()
    for values in product(*grid.values()):
        one = dict(zip(grid, values, strict=True))
        if one.get("reader") == "none":
            one.pop("sentences", None)
        for stage, keys in _STAGE.items():
            own = {key: value for key, value in one.items() if key.startswith(keys)}
            wanted.add((stage, json.dumps(own, sort_keys=True)))
    assert builder.calls == Counter(wanted)
    assert json.loads((folder / "sweep.json").read_text(encoding="utf-8")) == record
    assert len(record["ranking"]) == len(kept.runs) == sum(stage == "read" for stage, _ in wanted)

    shuffled = {key: order.sample(values, len(values)) for key, values in order.sample([*grid.items()], len(grid))}
    again = run(folder, asked(shuffled), Counting(), Kept())
    assert [_without_memory(one) for one in again["ranking"]] == [_without_memory(one) for one in record["ranking"]]

    resumed = Counting()
    assert run(folder, asked(grid), resumed, kept) == record
    assert not resumed.calls


def _without_memory(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "costs": {key: value for key, value in one["costs"].items() if key != "peak_memory_bytes"}}


def test_a_sweep_that_was_stopped_does_only_what_is_left(tmp_path):
    text = asked({"chunk_tokens": [256, 512], "top_k": [3, 5]})
    kept = Kept()
    run(tmp_path, text, Counting(), kept)
    del kept.runs[next(one for one in kept.runs if one.settings == {"chunk_tokens": 512, "top_k": 5})]
    builder = Counting()
    run(tmp_path, text, builder, kept)
    assert [stage for stage, _ in builder.calls] == ["index", "search", "read"]
    assert all("512" in settings for _, settings in builder.calls)


@pytest.mark.parametrize(("key", "value", "failed"), [("chunk_tokens", 256, 4), ("top_k", 8, 4), ("reader", "none", 4)])
def test_what_cannot_be_run_is_ranked_last_and_does_not_end_the_sweep(tmp_path, key, value, failed):
    text = asked({"chunk_tokens": [256, 512], "top_k": [3, 8], "reader": ["none", "extractive"]})
    record = run(tmp_path, text, Counting(fails=(key, value)), Kept())
    ranks = [one["rank"] for one in record["ranking"]]
    assert ranks == [*range(1, 9 - failed), *[None] * failed]
    for one in record["ranking"][-failed:]:
        assert (one["error"], one["settings"][key]) == (f"{key} cannot be {value}", value)
        assert one["score"]["n"] == 0


def test_where_nothing_could_be_run_the_error_is_said(tmp_path):
    with pytest.raises(EvalError, match=r"no combination has .*; 1 of 1 failed, the first one: top_k cannot be 3"):
        run(tmp_path, asked({"top_k": [3]}), Counting(fails=("top_k", 3)), Kept())


def test_progress_and_costs_are_told(tmp_path):
    told: list[tuple[int, int, Any]] = []
    kept = Kept()
    sweep(
        load(tmp_path, asked({"chunk_tokens": [256], "top_k": [3, 5]})),
        Counting(),
        tmp_path,
        finished=kept.runs.get,
        write=kept.write,
        report=lambda done, total, last: told.append((done, total, last.settings["top_k"])),
    )
    assert told == [(1, 2, 3), (2, 2, 5)]
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    best, second = record["ranking"]
    assert [best["settings"]["top_k"], second["settings"]["top_k"]] == [5, 3]
    assert best["costs"]["index_bytes"] == 256_000
    # 20 answers took 1 to 20 ms: half of them less than 10.5, of 95% the linear interpolation 1 + .95 x 19 = 19.05
    assert best["costs"]["latency_ms"] == {
        "search": {"median": 2.0, "p95": 2.0},
        "answer": {"median": 10.5, "p95": pytest.approx(19.05)},
        "total": {"median": 12.5, "p95": pytest.approx(21.05)},
    }


def test_a_total_that_was_measured_is_kept():
    assert latency([{"search": 2.0, "total": 3.0}]) == {
        "search": {"median": 2.0, "p95": 2.0},
        "total": {"median": 3.0, "p95": 3.0},
    }
    assert latency([]) == {}


# ---- ranking ---------------------------------------------------------------------------------------------------------


def scored(**values: Sequence[float | None]) -> dict[Combination, Run]:
    runs = {}
    for name, column in values.items():
        judged = {
            f"q{at}": Judged(Example(f"q{at}", "?"), {} if value is None else {"answer.f1": value})
            for at, value in enumerate(column)
        }
        runs[Combination(read=(("reader", name),))] = Run({}, judged)
    return runs


def test_a_ranking_by_hand():
    runs = scored(worst=[0.0] * 8, best=[1.0] * 8, near=[1.0] * 5 + [0.0] * 3, without=[None] * 8)
    best, near, worst, without = ranking(runs, "answer.f1")
    assert [one.settings["reader"] for one in (best, near, worst, without)] == ["best", "near", "worst", "without"]
    assert [one.rank for one in (best, near, worst, without)] == [1, 2, 3, None]
    assert (best.score.value, best.difference, best.p, best.below_best) == (1.0, 0.0, None, False)
    # 3 of 8 differ: p = 2 / 2 ** 3 = .25. 8 of 8: 2 / 2 ** 8; no signs of the other three get as far.
    assert (near.difference, near.p, near.below_best) == (-0.375, 0.25, False)
    assert (worst.difference, worst.p, worst.below_best) == (-1.0, 2 / 2**8, True)
    assert (without.score.value, without.difference, without.p, without.below_best) == (None, None, None, None)


def test_a_metric_that_nothing_has_is_an_error():
    with pytest.raises(EvalError, match=r"no combination has 'answer.f2'; did you mean answer.f1\?"):
        ranking(scored(one=[1.0]), "answer.f2")


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of a stage")
def test_the_peak_of_a_stage_is_its_own():
    large = 1 << 26

    def fill() -> int:
        return len(b"\1" * large)

    (size, before), (_, most), (_, after) = peak_memory(lambda: 0), peak_memory(fill), peak_memory(lambda: 0)
    assert size == 0
    if before is None or most is None or after is None:
        pytest.skip("/proc/self/clear_refs cannot be written here")
    assert most - before > large // 2
    assert most - after > large // 2

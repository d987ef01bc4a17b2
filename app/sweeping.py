"""A sweep put together: what builds indexes, searches and readers for it, and what keeps its runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.evaluation import SEED, Means, Wanted, dataset_facts, indexed, make_run, spread, system_facts
from app.scoring import Scorer
from app.systems import PipelineSystem
from ingest.records import Progress
from retrieval.errors import RagError

if TYPE_CHECKING:
    from pathlib import Path

    from app.config import Config
    from app.pipeline import Pipeline
    from eval.folder import Run
    from eval.records import Dataset, Example, Outcome
    from eval.sweep import Combination, Costs, Settings, Sweep
    from retrieval.retriever import Retrieved


def run_sweep(asked: Sweep, config: Config, out: Path, means: Means) -> dict[str, Any]:
    """Try every combination that is not finished; the record of sweep.json."""
    from eval.datasets import load_dataset
    from eval.sweep import sweep

    dataset = load_dataset(asked.dataset)
    for line in dataset.notes:
        means.note(line)
    examples = spread(dataset.examples, asked.limit)
    config = replace(config, seed=SEED if config.seed is None else config.seed)
    bench = _Bench(asked, dataset, examples, config, means)
    out.mkdir(parents=True, exist_ok=True)

    def report(done: int, total: int, last: Combination) -> None:
        means.note(f"{done} of {total} done: {last.name}")

    return sweep(
        asked,
        _Builder(bench),
        out,
        finished=lambda one: _finished(out / one.name, dataset),
        write=lambda one, outcomes, costs: _keep(bench, one, outcomes, costs, out / one.name),
        report=report,
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all combinations have in common."""

    sweep: Sweep
    dataset: Dataset
    examples: Sequence[Example]
    config: Config
    means: Means

    def configured(self, *settings: Settings) -> Config:
        """The settings of a combination on top of the user's; "none" is no reader that a config knows."""
        changes = {
            name: value for each in settings for name, value in each.items() if (name, value) != ("reader", "none")
        }
        return replace(self.config, **changes)  # type: ignore[arg-type]  # checked by the sweep

    @contextmanager
    def opened(self, config: Config) -> Iterator[Pipeline]:
        """A pipeline over the index that these settings ask for, made where it is not there."""
        if self.sweep.index is not None:
            with indexed(self.dataset, replace(config, index=self.sweep.index), self.means, own_index=True) as pipeline:
                yield pipeline
        elif self.sweep.documents is not None:
            with indexed(
                self.dataset, replace(config, index=self._own_index(config)), self.means, own_index=True
            ) as one:
                one.ingest([self.sweep.documents], prune=True, report=self.means.report)
                yield one
        else:
            with indexed(self.dataset, config, self.means, own_index=not self.dataset.documents) as pipeline:
                yield pipeline

    def _own_index(self, config: Config) -> Path:
        depends_on = (
            self.sweep.documents,
            config.encoder,
            config.chunk_tokens,
            config.chunk_overlap,
            config.heading_context,
        )
        return config.cache / "eval" / f"documents-{hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]}"


class _Builder:
    def __init__(self, bench: _Bench) -> None:
        self._bench = bench

    @contextmanager
    def index(self, settings: Settings, /) -> Iterator[_Indexed]:
        """An index made with these settings."""
        with self._bench.opened(self._bench.configured(settings)) as pipeline:
            yield _Indexed(self._bench, settings, pipeline.bytes_on_disk())


@dataclass(frozen=True, slots=True)
class _Indexed:
    bench: _Bench
    index: Settings
    index_bytes: int | None

    def search(self, settings: Settings, /) -> _Searched:
        """Retrieve for every question; what is retrieved is the same whatever reads it."""
        config = self.bench.configured(self.index, settings)
        with self.bench.opened(config) as pipeline:
            system = PipelineSystem(pipeline, k=config.top_k, reads=False)
            found: list[Retrieved | RagError] = []
            for example in self.bench.examples:
                found += system.retrieve([example])
                self.bench.means.report(Progress("searching", len(found), len(self.bench.examples), "questions"))
        return _Searched(self.bench, self.index, settings, tuple(found))


@dataclass(frozen=True, slots=True)
class _Searched:
    bench: _Bench
    index: Settings
    searched: Settings
    found: tuple[Retrieved | RagError, ...]

    def read(self, settings: Settings, /) -> list[Outcome | RagError]:
        """What a reader makes of it."""
        config = self.bench.configured(self.index, self.searched, settings)
        reads = settings.get("reader") != "none"
        outcomes: list[Outcome | RagError] = []
        with self.bench.opened(config) as pipeline:
            system = PipelineSystem(pipeline, k=config.top_k, reads=reads)
            for start in range(0, len(self.found), system.at_once):
                some = slice(start, start + system.at_once)
                outcomes += system.read(self.bench.examples[some], self.found[some])
                self.bench.means.report(Progress("reading", len(outcomes), len(self.found), "questions"))
        return outcomes


@dataclass(frozen=True, slots=True)
class _Given:
    """Outcomes that are there already, as a system."""

    given: dict[str, Outcome | RagError]
    at_once: int = 64

    def outcomes(self, examples: Sequence[Example]) -> list[Outcome | RagError]:
        """Those of the examples."""
        return [self.given[one.example_id] for one in examples]


def _keep(
    bench: _Bench, combination: Combination, outcomes: Sequence[Outcome | RagError], costs: Costs, folder: Path
) -> Run:
    """Write the run of a combination."""
    settings = combination.settings
    config = bench.configured(settings)
    wanted = Wanted(
        bench.sweep.dataset, folder, reads=settings.get("reader") != "none", limit=bench.sweep.limit, force=True
    )
    given = _Given({one.example_id: outcome for one, outcome in zip(bench.examples, outcomes, strict=True)})
    with bench.opened(config) as pipeline:
        facts = dataset_facts(bench.dataset, wanted, len(bench.examples)) | system_facts(pipeline, config)
        facts |= {"costs": dict(costs), "settings": settings}
        made = make_run(bench.examples, given, wanted, facts, bench.means, scorer=Scorer(pipeline, config))
    if made is None:
        raise RagError("the run was interrupted")
    return made


def _finished(folder: Path, dataset: Dataset) -> Run | None:
    """The run of a combination that was finished before, of this very dataset."""
    from eval.errors import EvalError
    from eval.folder import load_run

    try:
        found = load_run(folder)
    except EvalError:
        return None
    return (
        found if found.manifest.get("finished_at") and found.manifest["dataset"]["sha256"] == dataset.sha256 else None
    )

"""A sweep put together: what builds indexes, searches and readers for it, and what keeps its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from app.evaluation import (
    SEED,
    Means,
    Wanted,
    dataset_facts,
    indexed,
    make_run,
    place_of_index,
    spread,
    system_facts,
)
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
    from eval.errors import EvalError
    from eval.sweep import sweep

    dataset = load_dataset(asked.dataset)
    for line in dataset.notes:
        means.note(line)
    if dataset.claims:
        raise EvalError(f"{asked.dataset} holds claims; a sweep needs questions")
    examples = spread(dataset.examples, asked.limit)
    config = replace(config, seed=SEED if config.seed is None else config.seed)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        bench = _Bench(asked, dataset, examples, config, means, stack, out)
        return sweep(
            asked,
            _Builder(bench),
            out,
            finished=bench.finished,
            write=bench.keep,
            report=lambda done, total, last: means.note(f"{done} of {total} done: {last.name}"),
        )


@dataclass(slots=True)
class _Bench:
    """What all combinations have in common, and the pipelines that were opened for them."""

    sweep: Sweep
    dataset: Dataset
    examples: Sequence[Example]
    config: Config
    means: Means
    stack: ExitStack
    out: Path
    _pipelines: dict[str, Pipeline] = field(default_factory=dict)
    _fresh: set[Path] = field(default_factory=set)

    def configured(self, *settings: Settings) -> Config:
        """The settings of a combination on top of the user's; "none" is no reader that a config knows."""
        named = (pair for each in settings for pair in each.items())
        return replace(self.config, **dict(pair for pair in named if pair != ("reader", "none")))  # type: ignore[arg-type]  # checked by the sweep

    def pipeline(self, *settings: Settings) -> Pipeline:
        """A pipeline with these settings; its index is brought up to date once."""
        config = self.configured(*settings)
        key = repr(config)
        if key not in self._pipelines:
            self._pipelines[key] = self.stack.enter_context(self._opened(config))
        return self._pipelines[key]

    @contextmanager
    def _opened(self, config: Config) -> Iterator[Pipeline]:
        means = replace(self.means, note=_quiet) if self._pipelines else self.means
        documents = self.sweep.documents.resolve() if self.sweep.documents else None
        own = documents is not None or self.sweep.index is not None or not self.dataset.documents
        if self.sweep.index is not None:
            config = replace(config, index=self.sweep.index)
        if documents is not None:
            config = replace(config, index=place_of_index(documents.name, str(documents), config))
        with indexed(self.dataset, config, means, own_index=own) as pipeline:
            if documents is not None and config.index not in self._fresh:
                pipeline.ingest([documents], prune=True, report=means.report)
                self._fresh.add(config.index)
            yield pipeline

    def _facts(self, combination: Combination) -> dict[str, Any]:
        settings = combination.settings
        pipeline, config = self.pipeline(settings), self.configured(settings)
        wanted = self._wanted(combination)
        facts = dataset_facts(self.dataset, wanted, len(self.examples))
        return facts | system_facts(pipeline, config, reads=wanted.reads) | {"settings": settings}

    def _wanted(self, combination: Combination) -> Wanted:
        reads = combination.settings.get("reader") != "none"
        return Wanted(self.sweep.dataset, self.out / combination.name, reads=reads, limit=self.sweep.limit, force=True)

    def finished(self, combination: Combination) -> Run | None:
        """The run of a combination that was finished before, of the very same questions, index and settings."""
        from eval.errors import EvalError
        from eval.folder import differences, load_run

        try:
            found = load_run(self.out / combination.name)
        except EvalError:
            return None
        complete = bool(found.manifest.get("finished_at"))
        return found if complete and not differences(found.manifest, self._facts(combination)) else None

    def keep(self, combination: Combination, outcomes: Sequence[Outcome | RagError], costs: Costs) -> Run:
        """Write the run of a combination."""
        named = {one.example_id: outcome for one, outcome in zip(self.examples, outcomes, strict=True)}
        facts = self._facts(combination) | {"costs": dict(costs)}
        pipeline, config = self.pipeline(combination.settings), self.configured(combination.settings)
        made = make_run(
            self.examples,
            _Given(named),
            self._wanted(combination),
            facts,
            self.means,
            scorer=Scorer(pipeline, config),
            timed=False,
        )
        if made is None:
            raise RagError("the run was interrupted")
        return made


def _quiet(_: str) -> None:
    return


class _Builder:
    def __init__(self, bench: _Bench) -> None:
        self._bench = bench

    @contextmanager
    def index(self, settings: Settings, /) -> Iterator[_Indexed]:
        """An index made with these settings."""
        yield _Indexed(self._bench, settings, self._bench.pipeline(settings).bytes_on_disk())


@dataclass(frozen=True, slots=True)
class _Indexed:
    bench: _Bench
    index: Settings
    index_bytes: int | None

    def search(self, settings: Settings, /) -> _Searched:
        """Retrieve for every question; what is retrieved is the same whatever reads it."""
        k = self.bench.configured(self.index, settings).top_k
        system = PipelineSystem(self.bench.pipeline(self.index, settings), k=k, reads=False)
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
        pipeline = self.bench.pipeline(self.index, self.searched, settings)
        k = self.bench.configured(self.index, self.searched, settings).top_k
        system = PipelineSystem(pipeline, k=k, reads=settings.get("reader") != "none")
        outcomes: list[Outcome | RagError] = []
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

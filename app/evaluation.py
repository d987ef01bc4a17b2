"""Evaluation put together: a dataset, an index, the pipeline and a run folder. Knows every room; prints nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from app.pipeline import Pipeline
from app.scoring import ClaimScorer, Scorer
from app.systems import ClaimSystem, PipelineSystem, with_passages
from ingest.records import Progress, Report

if TYPE_CHECKING:
    from app.config import Config
    from eval.folder import Run
    from eval.records import Dataset, Example
    from eval.run import System

_T = TypeVar("_T")

SEED = 0
"""Of what a language model draws, where the settings name none: a run must be repeatable."""

_PATHS = frozenset(
    {"index", "cache", "chats", "hub_cache", "file", "origins", "server_key", "threads", "parse_workers"}
)
"""Settings that no number of a run depends on, or that must not be written down."""

_PACKAGES = ("cited-rag", "torch", "transformers", "sentence-transformers", "openvino", "tokenizers", "tantivy",
             "faiss-cpu", "faiss-gpu", "bitsandbytes", "ir-measures", "numpy")  # fmt: skip


# ---- a run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to run. own_index: ask the index of the settings, though the dataset brings documents. reads: False only
    searches. limit: None for all questions. run_file, answers_file: recorded output to score in place of the product's.
    """

    dataset: Path
    out: Path
    own_index: bool = False
    reads: bool = True
    limit: int | None = None
    force: bool = False
    with_map: bool = False
    run_file: Path | None = None
    answers_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What an evaluation works with: how to open a pipeline, and whom to tell what."""

    open_pipeline: Callable[[Config], Pipeline]
    report: Report = lambda _: None
    note: Callable[[str], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False


def evaluate(wanted: Wanted, config: Config, means: Means) -> Run | None:
    """Ask what is not asked yet, score everything, write the report. None where `stop` ended it before its end."""
    from eval.datasets import load_dataset

    means.report(Progress("reading the dataset", 0, None, "files"))
    dataset = load_dataset(wanted.dataset)
    for line in dataset.notes:
        means.note(line)
    examples = spread(dataset.examples, wanted.limit)
    if wanted.run_file or wanted.answers_file:
        return _score_recorded(dataset, examples, wanted, config, means)
    config = replace(config, seed=SEED if config.seed is None else config.seed)
    if dataset.claims:
        return _check_claims(with_passages(dataset), wanted, config, means)
    with indexed(dataset, config, means, own_index=wanted.own_index) as pipeline:
        system = PipelineSystem(pipeline, k=config.top_k, reads=wanted.reads)
        facts = dataset_facts(dataset, wanted, len(examples)) | system_facts(pipeline, config)
        scorer = Scorer(pipeline, config, with_map=wanted.with_map)
        return make_run(examples, system, wanted, facts, means, scorer=scorer)


def _check_claims(dataset: Dataset, wanted: Wanted, config: Config, means: Means) -> Run | None:
    """A run over claims: each is checked against what it cites."""
    from eval.claims import as_examples

    claims = spread(dataset.claims, wanted.limit)
    with indexed(dataset, config, means, own_index=False) as pipeline:
        facts = dataset_facts(dataset, wanted, len(claims)) | system_facts(pipeline, config)
        system, scorer = ClaimSystem(pipeline, claims), ClaimScorer(claims)
        return make_run(as_examples(claims), system, wanted, facts, means, scorer=scorer)


def spread(examples: Sequence[_T], limit: int | None) -> Sequence[_T]:
    """At most so many, taken evenly over all: neighbours in a file are often about the same."""
    if limit is None or limit >= len(examples):
        return examples
    return [examples[at * len(examples) // limit] for at in range(limit)]


def make_run(
    examples: Sequence[Example],
    system: System,
    wanted: Wanted,
    facts: Mapping[str, Any],
    means: Means,
    *,
    scorer: Scorer | ClaimScorer,
) -> Run | None:
    """A run folder from its first question to its report; one that was begun before goes on."""
    from eval.folder import begun, load_run
    from eval.run import run

    def report(done: int, total: int) -> None:
        means.report(Progress("asking", done, total, "questions"))

    with begun(wanted.out, facts, force=wanted.force) as folder:
        if folder.is_complete:
            means.note(f"{wanted.out} is complete already; --force asks everything again")
            return load_run(wanted.out)
        if folder.done:
            means.note(f"going on: {len(folder.done):,} of {len(examples):,} questions were asked before")
        started = time.perf_counter()
        if not run(examples, system, folder, report=report, stop=means.stop):
            return None
        seconds = time.perf_counter() - started
        asked = len(examples) - len(folder.done)
        speed = round(asked / seconds, 2) if asked and seconds > 0 else None
        folder.write_manifest(seconds=round(seconds, 3), asked=asked, questions_per_second=speed)
        means.report(Progress("scoring", 0, None, "questions"))
        scorer.score(folder, examples)
        folder.write_manifest(finished_at=_now())
    return load_run(wanted.out)


@contextmanager
def indexed(dataset: Dataset, config: Config, means: Means, *, own_index: bool) -> Iterator[Pipeline]:
    """A pipeline over the index to ask: the settings' own, or one of the dataset's documents, made where there is none.

    Such an index is kept in the cache folder, one for each content, encoder and chunking.
    """
    if dataset.documents and not own_index:
        config = replace(config, index=_place_of_index(dataset, config))
    pipeline = means.open_pipeline(config)
    try:
        means.note(str(pipeline.choice))
        if dataset.documents and not own_index:
            pipeline.ingest_documents(dataset.documents, root=dataset.documents[0].root, report=means.report)
        yield pipeline
        for notice in pipeline.notices():
            means.note(notice)
    finally:
        pipeline.close()


def _place_of_index(dataset: Dataset, config: Config) -> Path:
    depends_on = "\0".join(
        map(str, (config.profile, config.encoder, config.device, config.pooling, config.chunk_tokens,
                  config.chunk_overlap, config.heading_context, config.dictionary))
    )  # fmt: skip
    content = hashlib.sha256()
    for document in dataset.documents:
        content.update(f"{document.source}\0{document.content_hash}\0".encode())
    name = re.sub(r"[^\w.-]", "_", dataset.name)[:60]
    return config.cache / "eval" / f"{name}-{content.hexdigest()[:12]}-{_digest(depends_on)[:8]}"


def _score_recorded(
    dataset: Dataset, examples: Sequence[Example], wanted: Wanted, config: Config, means: Means
) -> Run | None:
    """Score the output of another system as if it were a run of ours."""
    from eval.recorded import RecordedAnswers, RecordedRun

    system: System
    if wanted.run_file:
        system, path = RecordedRun(wanted.run_file, k=config.top_k), wanted.run_file
    elif wanted.answers_file:
        system, path = RecordedAnswers(wanted.answers_file), wanted.answers_file
    facts = dataset_facts(dataset, wanted, len(examples)) | {
        "recorded": {"name": path.name, "sha256": _file_digest(path)}
    }
    scorer = Scorer(None, config, recorded="ranking" if wanted.run_file else "answers")
    return make_run(examples, system, wanted, facts, means, scorer=scorer)


# ---- the manifest ----------------------------------------------------------------------------------------------------


def dataset_facts(dataset: Dataset, wanted: Wanted, questions: int) -> dict[str, Any]:
    """Of what is asked, and with which program."""
    from eval.folder import FORMAT

    return {
        "format": FORMAT,
        "name": dataset.name,
        "created_at": _now(),
        "finished_at": None,
        "dataset": {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "questions": len(dataset.examples),
            "documents": len(dataset.documents),
            "claims": len(dataset.claims),
        },
        "paths": {"dataset": str(wanted.dataset)},
        "questions": questions,
        "reads": wanted.reads,
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "git_commit": _git_commit(Path.cwd()),
    }


def system_facts(pipeline: Pipeline, config: Config) -> dict[str, Any]:
    """Of what is asked of: index, settings, prompts and models."""
    store, choice = pipeline.parts.store, pipeline.choice
    content = hashlib.sha256()
    rows = store.documents()
    for source, digest in sorted((row.source, row.content_hash) for row in rows):
        content.update(f"{source}\0{digest}\0".encode("utf-8", "surrogatepass"))
    manifest = store.manifest
    settings = {name: getattr(config, name) for name in sorted(each.name for each in fields(config))}
    return {
        "index": {
            "sha256": content.hexdigest(),
            "documents": len(rows),
            "chunks": sum(row.chunks for row in rows),
            "encoder": asdict(manifest.encoder),
            "chunking": asdict(manifest.chunking),
        },
        "config": {name: _plain(value) for name, value in settings.items() if name not in _PATHS},
        "profile": {"encoder": choice.encoder, "reader": choice.reader, "device": choice.device},
        "prompts": pipeline.prompts(),
        "models": pipeline.models(),
        "seed": config.seed,
    }


def _plain(value: object) -> object:
    """As JSON keeps it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value


def _git_commit(folder: Path) -> str | None:
    """The commit that is checked out where the program was started, so that a number can be made again."""
    for place in (folder, *folder.parents):
        head = place / ".git" / "HEAD"
        try:
            content = head.read_text(encoding="utf-8").strip()
            if not content.startswith("ref: "):
                return content
            return (place / ".git" / content.removeprefix("ref: ")).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

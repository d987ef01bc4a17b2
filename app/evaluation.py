"""Evaluation put together: a dataset, an index, the pipeline and a run folder. Knows every room; prints nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from app.pipeline import Pipeline, installed_version, now
from app.scoring import ClaimScorer, Scorer, index_facts
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

_LEFT_OUT = frozenset(
    {"index", "cache", "chats", "hub_cache", "file", "origins", "prompts", "server_key", "server_url", "server_timeout",
     "offline", "threads", "parse_workers", "parse_seconds", "parse_memory_mb", "parse_chars", "max_file_mb",
     "chunk_tokens", "chunk_overlap", "heading_context", "dictionary", "synonyms", "host", "port", "token",
     "token_file", "queue", "request_seconds", "uploads", "runs"}
)  # fmt: skip
"""Settings that no number of a run depends on, that are recorded as what they lead to (the index, the prompts, the
content of files), or that must not be written down.
"""

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
    _check(wanted, dataset)
    if wanted.run_file or wanted.answers_file:
        return _score_recorded(dataset, wanted, config, means)
    config = replace(config, seed=SEED if config.seed is None else config.seed)
    if dataset.claims:
        return _check_claims(with_passages(dataset), wanted, config, means)
    examples = spread(dataset.examples, wanted.limit)
    with indexed(dataset, config, means, own_index=wanted.own_index) as pipeline:
        scorer = Scorer(pipeline, config, with_map=wanted.with_map)
        if remark := scorer.check(examples):
            means.note(remark)
        system = PipelineSystem(pipeline, k=config.top_k, reads=wanted.reads)
        facts = dataset_facts(dataset, wanted, len(examples)) | system_facts(pipeline, config, reads=wanted.reads)
        return make_run(examples, system, wanted, facts, means, scorer=scorer)


def _check(wanted: Wanted, dataset: Dataset) -> None:
    """Refuse what would be lost, or be ignored, before anything is done."""
    from eval.errors import EvalError

    out, source = wanted.out.resolve(), wanted.dataset.resolve()
    if out in (source, *source.parents):
        raise EvalError(f"the dataset {wanted.dataset} is inside --out {wanted.out}; name another folder for the run")
    if not dataset.claims:
        return
    for given, flag in (
        (not wanted.reads, "--retrieval-only"),
        (wanted.own_index, "--index"),
        (wanted.run_file or wanted.answers_file, "--run and --answers"),
    ):
        if given:
            raise EvalError(f"{wanted.dataset} holds claims, for which {flag} means nothing; leave it out")
    if not any(claim.passages for claim in dataset.claims):
        raise EvalError(f"no claim of {wanted.dataset} cites a text; expected some in `references`")


def _check_claims(dataset: Dataset, wanted: Wanted, config: Config, means: Means) -> Run | None:
    """A run over claims: each is checked against what it cites."""
    from eval.claims import as_examples

    claims = spread(dataset.claims, wanted.limit)
    with indexed(dataset, config, means, own_index=False) as pipeline:
        facts = dataset_facts(dataset, wanted, len(claims)) | system_facts(pipeline, config, reads=False)
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
    timed: bool = True,
) -> Run | None:
    """A run folder from its first question to its report; one that was begun before goes on.

    timed: whether the pace is that of the system. `seconds` and `asked` are of the last part of a run that went on.
    """
    from eval.folder import REPORT, begun, load_run
    from eval.run import run

    def report(done: int, total: int) -> None:
        means.report(Progress("asking", done, total, "questions"))

    with begun(wanted.out, facts, force=wanted.force) as folder:
        if folder.is_complete and (wanted.out / REPORT).exists():
            means.note(f"{wanted.out} is complete already; --force asks everything again")
            return load_run(wanted.out)
        if folder.done:
            means.note(f"going on: {len(folder.done):,} of {len(examples):,} questions were asked before")
        started = time.perf_counter()
        if not run(examples, system, folder, report=report, stop=means.stop):
            return None
        seconds = time.perf_counter() - started
        asked = len(examples) - len(folder.done)
        if asked and timed:
            speed = round(asked / seconds, 2) if seconds > 0 else None
            folder.write_manifest(seconds=round(seconds, 3), asked=asked, questions_per_second=speed)
        means.report(Progress("scoring", 0, None, "questions"))
        scorer.score(folder, examples)
        folder.write_manifest(finished_at=now())
    return load_run(wanted.out)


@contextmanager
def indexed(dataset: Dataset, config: Config, means: Means, *, own_index: bool) -> Iterator[Pipeline]:
    """A pipeline over the index to ask: the settings' own, or one of the dataset's documents, made where there is none.

    Such an index is kept in the cache folder, one for each content, encoder and chunking.
    """
    if dataset.documents and not own_index:
        config = replace(config, index=place_of_index(dataset.name, _content_of(dataset), config))
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


def place_of_index(name: str, content: str, config: Config) -> Path:
    """Where an index is kept that an evaluation makes: one for each content, encoder, chunking and dictionary."""
    depends_on = [
        getattr(config, setting)
        for setting in ("profile", "encoder", "device", "pooling", "chunk_tokens", "chunk_overlap", "heading_context")
    ]
    dictionary = _file_digest(config.dictionary) if config.dictionary else ""
    digest = _digest(repr((content, depends_on, dictionary)))
    readable = re.sub(r"[^\w.-]", "_", name)[:60]
    return config.cache / "eval" / f"{readable}-{digest[:20]}"


def _content_of(dataset: Dataset) -> str:
    content = hashlib.sha256()
    for document in dataset.documents:
        content.update(f"{document.source}\0{document.content_hash}\0".encode())
    return content.hexdigest()


def _score_recorded(dataset: Dataset, wanted: Wanted, config: Config, means: Means) -> Run | None:
    """Score the output of another system as if it were a run of ours."""
    from eval.errors import EvalError
    from eval.recorded import RecordedAnswers, RecordedRun

    examples = spread(dataset.examples, wanted.limit)
    path = wanted.run_file or wanted.answers_file
    if path is None:
        raise ValueError("nothing was recorded")
    system = RecordedRun(path, k=config.top_k) if wanted.run_file else RecordedAnswers(path)
    known = sum(one.example_id in system.ids for one in examples)
    if not known:
        raise EvalError(
            f"{path} says nothing of any question of {wanted.dataset}; its ids must be those of the dataset"
        )
    if known < len(examples):
        means.note(
            f"{path} says nothing of {len(examples) - known:,} of the {len(examples):,} questions; they count as failed"
        )
    facts = dataset_facts(dataset, wanted, len(examples)) | {
        "recorded": {"name": path.name, "sha256": _file_digest(path)}
    }
    scorer = Scorer(None, config, recorded="ranking" if wanted.run_file else "answers")
    return make_run(examples, system, wanted, facts, means, scorer=scorer, timed=False)


# ---- the manifest ----------------------------------------------------------------------------------------------------


def dataset_facts(dataset: Dataset, wanted: Wanted, questions: int) -> dict[str, Any]:
    """Of what is asked, and with which program."""
    from eval.folder import FORMAT

    return {
        "format": FORMAT,
        "name": dataset.name,
        "created_at": now(),
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
        "versions": {name: found for name in _PACKAGES if (found := installed_version(name))},
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "git_commit": _git_commit(Path.cwd()),
    }


def system_facts(pipeline: Pipeline, config: Config, *, reads: bool = True) -> dict[str, Any]:
    """Of what is asked of: index, settings, prompts and models. reads: whether anything is answered."""
    choice = pipeline.choice
    settings = {name: getattr(config, name) for name in sorted(each.name for each in fields(config))}
    reader = {"reader": pipeline.reader_model(), "reader_revision": _revision(config.model, choice.reader == "zephyr")}
    encoder = pipeline.encoder.spec
    models = {
        "encoder": {"name": encoder.name, "revision": encoder.revision},
        "reranker_revision": _revision(config.reranker, config.reranker not in {"interaction", "none"}),
        "verifier_revision": _revision(config.verifier, bool(config.verifier)),
    }
    return {
        "index": index_facts(pipeline.parts.store),
        "config": {name: _plain(value) for name, value in settings.items() if name not in _LEFT_OUT},
        "files": {name: _file_digest(file) for name in ("dictionary", "synonyms") if (file := getattr(config, name))},
        "profile": {"encoder": choice.encoder, "device": choice.device},
        "prompts": pipeline.prompts() if reads else {},
        "models": {**models, **(reader if reads else {})},
        "seed": config.seed,
    }


def _revision(model: str, used: bool) -> str | None:
    """What tells one state of a model's files from another: their names and sizes, and its configuration."""
    if not used:
        return None
    from retrieval.encoder import model_folder

    folder = model_folder(model)
    listed = sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*") if path.is_file()
    )
    settings = folder / "config.json"
    return _digest(repr(listed) + (settings.read_text(encoding="utf-8") if settings.is_file() else ""))


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

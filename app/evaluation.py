"""Evaluation put together: a dataset, an index, the pipeline and a run folder. Knows every room; prints nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.pipeline import Pipeline
from ingest.records import Progress, Report
from retrieval.errors import RagError

if TYPE_CHECKING:
    from app.config import Config
    from eval.folder import Run, RunFolder
    from eval.gold import Gold
    from eval.records import Candidate, Dataset, Example, Judged, Outcome, Prediction
    from eval.report.corpus_map import CorpusMap
    from eval.run import System
    from eval.score import Scoring, Similarity
    from reader.records import Answer
    from retrieval.encoder import Encoder
    from retrieval.records import Ranked
    from retrieval.retriever import Retrieved
    from retrieval.store import Store

SEED = 0
"""Of what a language model draws, where the settings name none: a run must be repeatable."""

_CHOSEN_BY = 5
"""Passages that bear a choice out."""

_LEAST_READABLE = 0.5
"""Share of a text's tokens that the encoder must know for its vector to say what the text means."""

_PATHS = frozenset(
    {"index", "cache", "chats", "hub_cache", "file", "origins", "server_key", "threads", "parse_workers"}
)
"""Settings that no number of a run depends on, or that must not be written down."""

_PACKAGES = ("cited-rag", "torch", "transformers", "sentence-transformers", "openvino", "tokenizers", "tantivy",
             "faiss-cpu", "faiss-gpu", "bitsandbytes", "ir-measures", "numpy")  # fmt: skip


# ---- the product as a system -----------------------------------------------------------------------------------------


class PipelineSystem:
    """Answers examples as `rag ask` does, and keeps what was looked at on the way."""

    def __init__(self, pipeline: Pipeline, *, k: int, reads: bool) -> None:
        """k: how many hits to ask for. reads: whether questions are answered, or only searched for."""
        self._pipeline, self._k, self._reads = pipeline, k, reads

    @property
    def at_once(self) -> int:
        """How many questions the reader gains from being asked together."""
        return self._pipeline.at_once if self._reads else 1

    def outcomes(self, examples: Sequence[Example]) -> list[Outcome | RagError]:
        """What the product makes of each."""
        return self.read(examples, self.retrieve(examples))

    def retrieve(self, examples: Sequence[Example]) -> list[Retrieved | RagError]:
        """What is found for each."""
        return [self._pipeline.examine(one.question, one.history, k=self._k) for one in examples]

    def read(self, examples: Sequence[Example], retrieved: Sequence[Retrieved | RagError]) -> list[Outcome | RagError]:
        """What is made of what was found."""
        pairs = [
            (one, found) for one, found in zip(examples, retrieved, strict=True) if not isinstance(found, RagError)
        ]
        answers: Sequence[Answer | RagError | None] = [None] * len(pairs)
        if self._reads:
            histories = [one.history for one, _ in pairs]
            answers = self._pipeline.read([found for _, found in pairs], histories, k=self._k)
        read = iter([self._outcome(*pair, answer) for pair, answer in zip(pairs, answers, strict=True)])
        return [found if isinstance(found, RagError) else next(read) for found in retrieved]

    def _outcome(self, example: Example, found: Retrieved, answer: Answer | RagError | None) -> Outcome | RagError:
        from eval.records import Outcome

        if isinstance(answer, RagError):
            return answer
        hits = found.hits[: self._k] if answer is None else answer.hits
        timings = found.timings_ms if answer is None else answer.timings_ms
        return Outcome(
            hits=hits,
            candidates=tuple(map(_candidate, found.ranking)),
            evidence=found.evidence,
            timings_ms={name: round(value, 2) for name, value in timings.items()},
            answer=answer,
            read=() if answer is None else self._read_of(found, answer),
            choice=self._choice(example, found) if answer and example.choices else None,
        )

    def _read_of(self, found: Retrieved, answer: Answer) -> tuple[str, ...]:
        """chunk_ids of what the reader was given; none where there was too little evidence to ask it."""
        if answer.abstention == "evidence":
            return ()
        if self._pipeline.choice.reader == "extractive":
            from reader.backends.extractive import PASSAGES_READ

            return tuple(hit.chunk_id for hit in found.hits[:PASSAGES_READ])
        dropped = set(answer.prompt.dropped) if answer.prompt else set()
        return tuple(hit.chunk_id for hit in found.hits[: self._k] if hit.chunk_id not in dropped)

    def _choice(self, example: Example, found: Retrieved) -> int | None:
        from eval.metrics.choices import choose

        verifier, passages = self._pipeline.verifier, found.passages[:_CHOSEN_BY]
        return choose(
            example.question,
            [choice.text for choice in example.choices],
            lambda claim: verifier.check(claim, passages).support,
        )


def _candidate(one: Ranked) -> Candidate:
    from eval.records import Candidate

    stages = one.stages
    return Candidate(one.chunk_id, one.sources, stages.dense_rank, stages.lexical_rank, stages.fused_rank, one.twins)


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
    with indexed(dataset, config, means, own_index=wanted.own_index) as pipeline:
        system = PipelineSystem(pipeline, k=config.top_k, reads=wanted.reads)
        facts = dataset_facts(dataset, wanted, len(examples)) | system_facts(pipeline, config)
        return make_run(
            examples, system, wanted, facts, means, scorer=Scorer(pipeline, config, with_map=wanted.with_map)
        )


def spread(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
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
    scorer: Scorer,
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
        means.report(Progress("scoring", 0, None, "questions"))
        scorer.score(folder, examples)
        folder.write_manifest(
            finished_at=_now(),
            seconds=round(seconds, 3),
            asked=asked,
            questions_per_second=round(asked / seconds, 2) if asked and seconds > 0 else None,
        )
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


# ---- scoring ---------------------------------------------------------------------------------------------------------


class Scorer:
    """Turns the predictions of a run into its scores and its report."""

    def __init__(
        self, pipeline: Pipeline | None, config: Config, *, traced: bool = True, with_map: bool = False
    ) -> None:
        """pipeline: over the index that was asked; None for recorded output of another system."""
        self._pipeline, self._config, self._traced, self._with_map = pipeline, config, traced, with_map

    def score(self, folder: RunFolder, examples: Sequence[Example]) -> None:
        """Write questions.jsonl, scores.json, the TREC files and report.html."""
        from eval.score import judge, scores

        predictions = {one.example_id: one for one in folder.predictions()}
        judged = judge(self._golds(examples), predictions, self._scoring())
        found = scores(judged, predictions)
        folder.write_questions(judged)
        self._write_trec(folder, judged, predictions)
        self._write_report(folder, judged, predictions, found)
        folder.write_scores(found)

    def _golds(self, examples: Sequence[Example]) -> list[Gold]:
        from eval.gold import Gold, GoldFinder
        from eval.metrics.answers import contained

        if self._pipeline is None:
            return [Gold(one) for one in examples]
        finder = GoldFinder(self._pipeline.parts.store, examples, lambda text, answer: contained(text, [answer]))
        return [finder.find(one) for one in examples]

    def _scoring(self) -> Scoring:
        from eval.score import Scoring

        if self._pipeline is None:
            return Scoring(self._config.top_k, 0, lambda _: None, traced=self._traced)
        store = self._pipeline.parts.store

        @lru_cache(maxsize=256)
        def text_of(doc_id: str) -> str | None:
            document = store.document(doc_id)
            return None if document is None else document.text

        from retrieval.retriever import SearchSettings

        reranked = 0 if self._config.reranker == "none" else SearchSettings().reranked
        return Scoring(self._config.top_k, reranked, text_of, similarity=_similarity(self._pipeline.encoder))

    def _write_trec(self, folder: RunFolder, judged: Sequence[Judged], predictions: Mapping[str, Prediction]) -> None:
        from eval.folder import QRELS_FILE, RUN_FILE
        from eval.score import document_runs
        from eval.trec import write_qrels, write_run

        relevant = {one.example.example_id: one.example.relevant for one in judged if one.example.relevant}
        if relevant:
            write_run(folder.folder / RUN_FILE, document_runs(predictions.values()))
            write_qrels(folder.folder / QRELS_FILE, relevant)

    def _write_report(
        self,
        folder: RunFolder,
        judged: Sequence[Judged],
        predictions: Mapping[str, Prediction],
        found: Mapping[str, Any],
    ) -> None:
        from eval.folder import MAP, REPORT, write_text
        from eval.report import write_report
        from eval.wire import dumps

        drawn = self._map(self._pipeline.parts.store, predictions) if self._with_map and self._pipeline else None
        if drawn is not None:
            write_text(folder.folder / MAP, dumps(drawn))
        write_report(
            folder.folder / REPORT,
            manifest=folder.manifest,
            scores=found,
            judged=judged,
            predictions=predictions,
            map=drawn,
        )

    @staticmethod
    def _map(store: Store, predictions: Mapping[str, Prediction]) -> CorpusMap | None:
        """The corpus in two dimensions: the passages that were hits, and of the others as many as can be drawn."""
        import numpy as np

        from eval.report.corpus_map import MOST_POINTS, corpus_map

        hits = {hit.chunk_id for one in predictions.values() for hit in one.hits}
        wanted = {each.embedding for each in store.chunks_by_id(hits).values()}
        others = [each for each in store.live_embeddings().tolist() if each not in wanted]
        random.Random(SEED).shuffle(others)  # noqa: S311 - which passages to draw
        ids, vectors = store.vectors(np.array(sorted([*wanted, *others][:MOST_POINTS]), dtype=np.int64))
        chunks = store.chunks_of_embeddings(ids.tolist())
        firsts = [chunks[each][0] for each in ids.tolist()]
        if not firsts:
            return None
        return corpus_map(
            vectors,
            [one.chunk.chunk_id for one in firsts],
            sources=[one.source for one in firsts],
            titles=[" > ".join(one.chunk.heading) for one in firsts],
            seed=SEED,
            keep=hits,
        )


def load_map(folder: Path) -> CorpusMap | None:
    """The map that a run's report was drawn with; None where it has none."""
    from eval.folder import MAP
    from eval.report.corpus_map import CorpusMap
    from eval.wire import read_lines

    path = folder / MAP
    return next(read_lines(CorpusMap, path), None) if path.exists() else None


def _similarity(encoder: Encoder) -> Similarity:
    """Cosine of an answer and the nearest gold, cut to [0, 1]; None where the encoder cannot read one of them whole."""

    def readable(text: str) -> bool:
        tokens = encoder.tokenizer.encode(text, add_special_tokens=False).tokens
        known = sum(token not in {"[UNK]", "<unk>"} for token in tokens)
        return 0 < len(tokens) <= encoder.spec.max_tokens - 2 and known >= _LEAST_READABLE * len(tokens)

    def similarity(pairs: Sequence[tuple[str, Sequence[str]]]) -> list[float | None]:
        texts = dict.fromkeys(text for answer, golds in pairs for text in (answer, *golds) if readable(text))
        vectors = dict(zip(texts, encoder.encode_passages(list(texts)), strict=True)) if texts else {}
        return [
            max((float(vectors[answer] @ vectors[gold]) for gold in golds if gold in vectors), default=None)
            if answer in vectors
            else None
            for answer, golds in pairs
        ]

    return similarity


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
    scorer = Scorer(None, config, traced=wanted.run_file is not None)
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

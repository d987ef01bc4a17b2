"""The composition root: a Config becomes a Pipeline that can ingest, search and ask. Knows every room."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from app.profiles import ProfileChoice, choose_profile
from ingest.records import IngestReport, Place, Report
from retrieval.errors import (
    ChangedError,
    ConfigError,
    IndexCorruptError,
    IndexMismatchError,
    IndexMissingError,
    MissingPackageError,
    ModelError,
    RagError,
)
from retrieval.records import ChunkingSpec, Document, Failure, Hit, Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.config import Config
    from ingest.indexer import Settings
    from ingest.repair import RepairReport
    from prompts import Prompt
    from reader.backends.base import Backend
    from reader.backends.loading import ZephyrSettings
    from reader.reader import Reader
    from reader.records import Answer, Turn
    from reader.verify import SupportModel, Verifier
    from retrieval.analyze import Analyzer
    from retrieval.dense import DenseIndex
    from retrieval.encoder import Encoder
    from retrieval.filters import Filter
    from retrieval.ledger import Account
    from retrieval.lexical import LexicalIndex
    from retrieval.maintain import BackupFacts
    from retrieval.receipt import Receipt
    from retrieval.retriever import Retrieved, Retriever, SearchSettings
    from retrieval.store import DocumentRow, Store, StoredChunk
    from retrieval.synonyms import Synonyms

_BATCH = 64
"""Questions that are sent to a language model together."""

_HOPELESS = (ConfigError, MissingPackageError, ModelError, IndexMissingError, IndexMismatchError, IndexCorruptError)
"""Errors that every further question would meet again."""

_WAIT_SECONDS = 5.0
"""For another writer."""

_T = TypeVar("_T")

_RECORDED = ("numpy", "tokenizers", "openvino", "sentence-transformers", "faiss-cpu", "faiss-gpu", "cited-rag")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a search is made of, for those who measure its parts one by one."""

    store: Store
    dense: DenseIndex
    lexical: LexicalIndex
    retriever: Retriever


@dataclass(frozen=True, slots=True)
class SearchResult(Trace):
    """The hits of a question, best first, and the evidence of an answer among them, [0, 1]."""

    question: str
    hits: tuple[Hit, ...]
    timings_ms: Mapping[str, float]
    evidence: float | None = None


class Pipeline:
    """Everything a person can do with one index. Models and index are opened when first needed; `close` at the end."""

    def __init__(self, config: Config, *, note: Callable[[str], None] = lambda _: None) -> None:
        """note: told what takes long, such as loading a model."""
        self._config, self._note = config, note
        self.choice: ProfileChoice = choose_profile(config)
        self._opening = threading.Lock()
        self._store: Store | None = None
        self._encoders: dict[str, Encoder] = {}

    # ---- questions ---------------------------------------------------------------------------------------------------

    def search(
        self,
        question: str,
        *,
        k: int | None = None,
        filters: Filter | None = None,
        max_per_document: int | None = None,
        diversity: float | None = None,
        neighbours: bool | None = None,
    ) -> SearchResult:
        """The k best hits among what the filter leaves; what is not given is as the config says."""
        started = time.perf_counter()
        found = self._retrieve(
            question,
            k or self._config.top_k,
            filters,
            max_per_document=max_per_document,
            diversity=diversity,
            neighbours=neighbours,
        )
        timings = _with_total(found.timings_ms, started)
        return SearchResult(question, found.hits, timings, found.evidence, **found.traced())

    def ask(
        self, question: str, *, k: int | None = None, filters: Filter | None = None, history: Sequence[Turn] = ()
    ) -> Answer:
        """An answer with citations, or an abstention. The reader may look further down than the k hits shown."""
        from reader.backends.base import drain

        def read(found: Retrieved) -> Generator[str, None, Answer]:
            yield from ()
            return self._reader.read(found, history)

        return drain(self._answered(question, k, filters, read, depth=self._read_depth(k)))

    def ask_stream(
        self,
        question: str,
        *,
        k: int | None = None,
        filters: Filter | None = None,
        history: Sequence[Turn] = (),
        quote: bool = False,
    ) -> Generator[str, None, Answer]:
        """The same, yielded as it is written. What it returns counts: checking may withdraw what was yielded.

        quote: let the extractive reader answer, whichever is configured.
        """

        def read(found: Retrieved) -> Generator[str, None, Answer]:
            return (self._quoter if quote else self._reader).stream(found, history)

        return self._answered(question, k, filters, read, depth=self._read_depth(k, quote=quote))

    def _answered(
        self,
        question: str,
        k: int | None,
        filters: Filter | None,
        read: Callable[[Retrieved], Generator[str, None, Answer]],
        *,
        depth: int,
    ) -> Generator[str, None, Answer]:
        """Search and read; anew where a document changes in between, before anything was said."""
        started, said = time.perf_counter(), False
        for last in (False, False, True):
            found = self._retrieve(question, depth, filters)
            reading = time.perf_counter()
            stream = read(found)
            try:
                while True:
                    piece = next(stream)
                    said = True
                    yield piece
            except StopIteration as end:
                return self._finished(end.value, k, started, reading)
            except ChangedError:
                if said or last:
                    raise
            finally:
                stream.close()
        raise AssertionError("the last round returns or raises")

    @property
    def at_once(self) -> int:
        """How many questions the reader gains from being asked together."""
        return _BATCH if self._backend else 1

    def ask_many(
        self, questions: Sequence[str], *, k: int | None = None, filters: Filter | None = None
    ) -> list[Answer | RagError]:
        """An answer, or what went wrong with it, for each question, in order; a language model is asked in batches.

        Raises what every further question would meet again. Times are those of all of them together.
        """
        started = time.perf_counter()
        found = [_attempted(partial(self._retrieve, one, self._read_depth(k), filters)) for one in questions]
        reading = time.perf_counter()
        read = iter(self._read([one for one in found if not isinstance(one, RagError)]))
        answers = [one if isinstance(one, RagError) else next(read) for one in found]
        return [one if isinstance(one, RagError) else self._finished(one, k, started, reading) for one in answers]

    def examine(self, question: str, history: Sequence[Turn] = (), *, k: int | None = None) -> Retrieved | RagError:
        """What any reader would read for a question, and all that was looked at on the way; or what went wrong."""
        from reader.backends.extractive import PASSAGES_READ

        def search() -> Retrieved:
            depth = max(k or self._config.top_k, PASSAGES_READ)
            return self._retrieve(self.understand(question, history), depth, None, traced=True)

        return _attempted(search)

    def read(
        self, retrieved: Sequence[Retrieved], histories: Sequence[Sequence[Turn]] = (), *, k: int | None = None
    ) -> list[Answer | RagError]:
        """The answers that `ask` would give to what was retrieved; "answer" among the times is their mean time."""
        depth, started = self._read_depth(k), time.perf_counter()
        shown = [replace(one, hits=one.hits[:depth], passages=one.passages[:depth]) for one in retrieved]
        found = self._read(shown, histories)
        each = 1000 * (time.perf_counter() - started) / max(1, len(retrieved))
        return [one if isinstance(one, RagError) else _timed(self._shown(one, k), each) for one in found]

    def _read(
        self, retrieved: Sequence[Retrieved], histories: Sequence[Sequence[Turn]] = ()
    ) -> Sequence[Answer | RagError]:
        read = _attempted(partial(self._reader.read_many, retrieved, histories))
        return [read] * len(retrieved) if isinstance(read, RagError) else read

    def understand(self, asked: str, history: Sequence[Turn], *, quote: bool = False) -> str:
        """A follow-up question, so that it can be searched for alone. quote: without asking a language model."""
        from reader.condense import carry_over, condense

        if not history:
            return asked
        if (
            not quote
            and self._backend
            and (condensed := condense(self._backend, self._prompt("condense"), asked, history))
        ):
            return condensed
        carried = carry_over(asked, history, self.analyzer, self.parts.retriever.interaction.term_idf)
        if carried == asked:
            return asked
        alone, together = (_attempted(partial(self._retrieve, each, 1, None)) for each in (asked, carried))
        if isinstance(together, RagError) or (not isinstance(alone, RagError) and alone.evidence >= together.evidence):
            return asked  # it can stand alone
        return carried

    def notices(self) -> tuple[str, ...]:
        """Lines for people about search files that were missing or damaged, and about what a model did without."""
        parts, backend = (self.__dict__.get(name) for name in ("parts", "_backend"))  # a look must not open anything
        found = filter(None, (parts.dense.notice, parts.lexical.notice)) if parts else ()
        return (*found, *(backend.notices if backend else ()))

    def _read_depth(self, k: int | None, *, quote: bool = False) -> int:
        from reader.backends.extractive import PASSAGES_READ

        return max(k or self._config.top_k, PASSAGES_READ if quote or self.choice.reader == "extractive" else 1)

    def _finished(self, answer: Answer, k: int | None, started: float, reading: float) -> Answer:
        """As it is shown, with times, in ms."""
        timings = {**answer.timings_ms, "answer": 1000 * (time.perf_counter() - reading)}
        return replace(self._shown(answer, k), timings_ms=_with_total(timings, started))

    def _shown(self, answer: Answer, k: int | None) -> Answer:
        """With the hits that were asked for and those that are cited."""
        k = k or self._config.top_k
        cited = {citation.chunk_id for citation in answer.citations}
        return replace(answer, hits=tuple(hit for hit in answer.hits if hit.rank <= k or hit.chunk_id in cited))

    def _retrieve(
        self,
        question: str,
        k: int,
        filters: Filter | None,
        *,
        max_per_document: int | None = None,
        diversity: float | None = None,
        neighbours: bool | None = None,
        traced: bool = False,
    ) -> Retrieved:
        """What is not given is as the config says."""
        config = self._config
        return self.parts.retriever.search(
            question,
            k=k,
            filters=filters,
            max_per_document=config.max_per_document if max_per_document is None else max_per_document,
            diversity=config.diversity if diversity is None else diversity,
            neighbours=config.neighbours if neighbours is None else neighbours,
            traced=traced,
        )

    # ---- the index ---------------------------------------------------------------------------------------------------

    def ingest(
        self, paths: Sequence[Path], *, prune: bool = False, rebuild: bool = False, report: Report
    ) -> IngestReport:
        """Bring the index up to date. Ctrl-C ends the run after the text at hand and keeps what is complete."""
        from ingest.build import ingest

        with stop_on_interrupt() as stop:
            return ingest(
                paths,
                folder=self._config.index,
                settings=self._settings(),
                make_encoder=lambda: self.encoder,
                analyzer=self.analyzer,
                report=report,
                prune=prune,
                rebuild=rebuild,
                stop=stop,
            )

    def ingest_documents(self, documents: Sequence[Document], *, root: str, report: Report) -> None:
        """Make the index hold just these documents under a root."""
        from ingest.build import ingest_documents

        ingest_documents(
            documents,
            root=root,
            folder=self._config.index,
            settings=self._settings(),
            make_encoder=lambda: self.encoder,
            analyzer=self.analyzer,
            report=report,
        )

    def documents(self) -> list[DocumentRow]:
        """What is in the index, by root and source."""
        return self._open_store().documents()

    def failures(self) -> list[Failure]:
        """Files that could not be ingested, by root and source."""
        return self._open_store().failures()

    def ingested(self) -> list[Path]:
        """The folders that were ingested whole, and the files of others that were named one by one."""
        from ingest.build import ingested_before

        return ingested_before(self._open_store())

    def info(self) -> dict[str, object]:
        """Facts about the index, fit for JSON."""
        store = self._open_store()
        counts, manifest = store.counts(), store.manifest
        from retrieval.database import LEXICAL
        from retrieval.dense import describe_dense
        from retrieval.versions import draft_of, versions

        lexical = store.artefact(LEXICAL)
        try:
            dense = describe_dense(store)
            vectors = "none yet" if dense is None else asdict(dense)
        except (OSError, IndexCorruptError) as error:
            vectors = f"cannot be read, and is made anew in memory by each search: {error}; run: rag index repair"
        known = versions(store.home)
        return {
            "index": str(self._config.index),
            "version": {
                "live": known.live.relative_to(store.home).as_posix(),
                "previous": known.previous.relative_to(store.home).as_posix() if known.previous else None,
                "unfinished": draft_of(store.home).is_dir(),
            },
            "roots": store.roots(),
            "generation": store.generation,
            "documents": counts.documents,
            "chunks": counts.chunks,
            "embeddings": counts.embeddings,
            "characters": counts.characters,
            "tokens": counts.tokens,
            "bytes": dict(counts.artefact_bytes),
            "token_bytes_per_chunk": round(counts.token_code_bytes / max(1, counts.embeddings)),
            "dense": vectors,
            "lexical": "none yet" if lexical is None else f"tantivy, BM25 ({lexical.file})",
            "manifest": asdict(replace(manifest, versions=dict(manifest.versions))),
            "failures": [asdict(failure) for failure in store.failures()],
        }

    def verify(self) -> list[str]:
        """Problems found when everything is checked against everything; empty when all is well."""
        return self._open_store().verify()

    def repair(self, report: Report) -> RepairReport:
        """Check the index, and mend it where that finds anything."""
        from ingest.repair import repair

        return repair(
            self._config.index,
            settings=self._settings(),
            make_encoder=lambda: self.encoder,
            analyzer=self.analyzer,
            report=report,
        )

    def compact(self, report: Report) -> None:
        """Write the index anew without anything that was deleted, and drop its earlier version."""
        from ingest.indexer import words_in
        from retrieval.maintain import compact

        compact(self._open_store(), self.analyzer, wait_seconds=_WAIT_SECONDS, progress=words_in(report))

    def backup(self, path: Path, *, replace: bool = False) -> BackupFacts:
        """Write the index to one file."""
        from retrieval.maintain import backup

        return backup(self._open_store(), path, created_at=now(), replace=replace)

    def restore(self, path: Path | None, report: Report) -> BackupFacts | None:
        """Make the index of a backup the live one; without a path, the version that was live before this one."""
        from ingest.indexer import words_in
        from retrieval.maintain import restore, restore_previous

        if path is None:
            restore_previous(self._config.index, self.analyzer, wait_seconds=_WAIT_SECONDS)
            return None
        return restore(self._config.index, path, self.analyzer, wait_seconds=_WAIT_SECONDS, progress=words_in(report))

    def bytes_on_disk(self) -> int:
        """What the whole index folder takes, earlier versions included."""
        size = 0
        for path in self._open_store().home.rglob("*"):
            with suppress(FileNotFoundError):  # another process has dropped it
                size += path.stat().st_size if path.is_file() else 0
        return size

    def ledger(self) -> Iterator[Account]:
        """What became of every byte of every document."""
        from ingest.build import check_encoder
        from retrieval.ledger import accounts

        store = self._open_store()
        check_encoder(store.manifest, self._settings())
        return accounts(store, self.encoder)

    def account(self, doc_id: str) -> Account | None:
        """What became of every byte of one document; None where there is no such document."""
        from ingest.build import check_encoder
        from retrieval.ledger import account

        store = self._open_store()
        check_encoder(store.manifest, self._settings())
        return account(store, self.encoder, doc_id)

    def export(self) -> Iterator[StoredChunk]:
        """Every chunk, by document."""
        store = self._open_store()
        with store.snapshot():
            for row in store.documents():
                yield from store.chunks_of(row.doc_id)

    def delete(
        self, source: str, *, compacted: bool = False, report: Report = lambda _: None
    ) -> tuple[tuple[str, ...], Receipt]:
        """Remove the document of a source (or of a doc_id) from the index, and look for what is left of it.

        Returns the ids removed. `compacted`: write the index anew without it, so that nothing is left.
        """
        rows = [row for row in self.documents() if source in {row.source, row.doc_id, f"{row.root}/{row.source}"}]
        if not rows:
            raise RagError(f"there is no document '{source}' in the index; rag index list shows what there is")
        if len(rows) > 1:
            places = ", ".join(f"{row.root}/{row.source}" for row in rows)
            raise RagError(f"'{source}' is ambiguous, it is in several roots: {places}; name one of these")
        doc_ids = (rows[0].doc_id,)
        return doc_ids, self.forget(doc_ids, compacted=compacted, report=report)

    def forget(
        self,
        doc_ids: Sequence[str],
        *,
        failed: Sequence[Place] = (),
        compacted: bool = False,
        report: Report = lambda _: None,
    ) -> Receipt:
        """Remove documents, and what is said of files that `failed`; the receipt is for all documents together."""
        from ingest.build import forget_documents
        from retrieval.receipt import Traces

        store = self._open_store()
        traces = Traces.take(store, doc_ids, self.analyzer)
        forget_documents(
            store,
            doc_ids,
            settings=self._settings(),
            encoder=self.encoder,
            analyzer=self.analyzer,
            failed=failed,
        )
        if compacted:
            self.compact(report)
        return traces.look(store, self.parts.retriever, self.parts.lexical)

    def embed(self, texts: Sequence[str], *, pooling: str, tokens: bool) -> list[NDArray[np.float32]]:
        """Vectors of texts as passages: (dim,) each, or with `tokens` (tokens, dim) each, in order."""
        encoder = self._load_encoder(pooling)
        return [encoded.tokens if tokens else encoded.vector for encoded in encoder.encode(list(texts))]

    def prompts(self) -> dict[str, str]:
        """Name and fingerprint of every prompt that answering may use; none where no language model is asked."""
        if self.choice.reader == "extractive":
            return {}
        found = [self._prompt(task)(language) for task in ("answer", "condense") for language in ("en", "zh")]
        return {prompt.name: prompt.sha256 for prompt in found}

    def reader_model(self) -> dict[str, str]:
        """What answers: the reader and its model."""
        return {"name": self.choice.reader, "model": self._backend.model if self._backend else "none"}

    def document(self, doc_id: str) -> Document | None:
        """One document with its whole text, or None."""
        return self._open_store().document(doc_id)

    def close(self) -> None:
        """Close the index."""
        if self._store is not None:
            self._store.close()
            self._store = None

    # ---- parts -------------------------------------------------------------------------------------------------------

    @cached_property
    def encoder(self) -> Encoder:
        """The model that turns texts into vectors; loaded when first asked for."""
        return self._load_encoder(self._config.pooling)

    def _load_encoder(self, pooling: str) -> Encoder:
        from retrieval.encoder import load_encoder

        if pooling not in self._encoders:
            self._encoders[pooling] = load_encoder(
                self.choice.encoder,
                cache=self._config.cache,
                device=self.choice.device,
                pooling="" if pooling == "auto" else pooling,
                threads=self._config.threads,
            )
        return self._encoders[pooling]

    def _settings(self) -> Settings:
        from ingest.indexer import Settings
        from ingest.isolate import Limits
        from retrieval.encoder import encoder_spec

        config = self._config
        spec = encoder_spec(self.choice.encoder, pooling="" if config.pooling == "auto" else config.pooling)
        return Settings(
            encoder=spec,
            chunking=ChunkingSpec(
                max_tokens=min(config.chunk_tokens, spec.max_tokens),
                overlap=config.chunk_overlap,
                heading_context=config.heading_context,
            ),
            max_file_bytes=int(config.max_file_mb * 1_000_000),
            created_at=now(),
            versions={name: found for name in _RECORDED if (found := installed_version(name))},
            parsing=Limits(config.parse_seconds, config.parse_memory_mb << 20, config.parse_chars),
            parse_workers=config.parse_workers or max(1, (os.cpu_count() or 1) // 2),
        )

    def _open_store(self) -> Store:
        with self._opening:
            if self._store is None:
                from retrieval.store import Store

                self._store = Store.open(self._config.index)
            return self._store

    @cached_property
    def analyzer(self) -> Analyzer:
        """How texts become index terms."""
        from retrieval.analyze import Analyzer, UserDictionary

        dictionary = self._config.dictionary
        return Analyzer(UserDictionary.load(dictionary) if dictionary else None)

    @cached_property
    def _synonyms(self) -> Synonyms | None:
        from retrieval.synonyms import Synonyms

        return Synonyms.load(self._config.synonyms, self.analyzer) if self._config.synonyms else None

    @cached_property
    def parts(self) -> Parts:
        """The open index, and what searches it."""
        from ingest.build import check_encoder
        from retrieval.batching import SharedEncoder
        from retrieval.dense import open_dense
        from retrieval.lexical import open_lexical
        from retrieval.retriever import Retriever

        store = self._open_store()
        check_encoder(store.manifest, self._settings())
        dense, lexical = open_dense(store, device=self.choice.device), open_lexical(store, self.analyzer)
        shared = SharedEncoder(self.encoder)
        retriever = Retriever(store, dense, lexical, shared, analyzer=self.analyzer, settings=self._search_settings())
        return Parts(store, dense, lexical, retriever)

    def _search_settings(self) -> SearchSettings:
        from retrieval.rerank import CrossEncoder
        from retrieval.retriever import SearchSettings

        config = self._config
        named = config.reranker not in {"interaction", "none"}
        settings = SearchSettings(
            candidates=config.candidates,
            split_questions=config.split_questions,
            cross_encoder=CrossEncoder.load(config.reranker, device=self.choice.device) if named else None,
            synonyms=self._synonyms,
            fusion=config.fusion,  # type: ignore[arg-type]  # checked by its setting
        )
        return replace(settings, reranked=0) if config.reranker == "none" else settings

    @property
    def _reader(self) -> Reader:
        """Made for each question: the index, and with it the weights of words, may have changed."""
        config, interaction = self._config, self.parts.retriever.interaction
        if self._backend is None:
            return self._quoter
        from reader.backends.base import Sampling
        from reader.compress import Compressor
        from reader.generative import GenerativeReader

        return GenerativeReader(
            self._backend,
            interaction,
            self._document,
            prompt=self._prompt("answer"),
            sampling=Sampling(
                max_tokens=config.max_answer_tokens,
                temperature=config.temperature,
                repetition_penalty=config.repetition_penalty,
                seed=config.seed,
            ),
            verifier=self.verifier,
            compressor=Compressor(interaction) if config.compress else None,
            min_evidence=config.min_evidence,
            name=self.choice.reader,
        )

    @property
    def _quoter(self) -> Reader:
        from reader.backends.extractive import ExtractiveReader

        interaction = self.parts.retriever.interaction
        return ExtractiveReader(
            interaction, self._document, min_evidence=self._config.min_evidence, max_sentences=self._config.sentences
        )

    @property
    def verifier(self) -> Verifier:
        """What checks claims against passages; made anew, since the weights of words may have changed."""
        from reader.verify import Verifier

        return Verifier(self.parts.retriever.interaction, model=self._support_model)

    @cached_property
    def _backend(self) -> Backend | None:
        """The language model; None where the reader has none."""
        config = self._config
        if self.choice.reader == "server":
            from reader.backends.openai_compatible import OpenAICompatibleBackend, ServerSettings

            return OpenAICompatibleBackend(
                ServerSettings(
                    url=config.server_url,
                    model=config.server_model,
                    api_key=config.server_key,
                    timeout_seconds=config.server_timeout,
                    window=config.window,
                    tokenizer=config.tokenizer,
                )
            )
        if self.choice.reader == "zephyr":
            from reader.backends.zephyr import ZephyrBackend

            return ZephyrBackend(zephyr_settings(config, self.choice), report=self._note)
        return None

    @cached_property
    def _support_model(self) -> SupportModel | None:
        from reader.verify import NliModel

        return NliModel.load(self._config.verifier, device=self.choice.device) if self._config.verifier else None

    def _prompt(self, task: str) -> Callable[[str], Prompt]:
        """language -> the prompt of a task."""
        return lambda language: self.prompt(f"{task}-{language}")

    def prompt(self, name: str) -> Prompt:
        """The user's own prompt of a name, where their folder has it, else the one that ships."""
        from prompts import PromptError, load_prompt

        folder = self._config.prompts
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"there is no folder {folder} of prompts; make it, or leave the setting prompts out")
        shipped = load_prompt(name)
        if folder is None or not (folder / f"{shipped.name}.toml").exists():
            return shipped
        try:
            own = load_prompt(shipped.name, folder=folder)
        except PromptError as error:
            raise ConfigError(f"{error} (in {folder})") from error
        if own.variables != shipped.variables:
            raise ConfigError(
                f"the prompt {folder / shipped.name}.toml has the placeholders {sorted(own.variables)}, expected"
                f" {sorted(shipped.variables)}"
            )
        return own

    def model(self, purpose: str) -> Backend:
        """The language model. Raises ConfigError that says how to have one, where the reader has none."""
        if self._backend is None:
            raise ConfigError(
                f"{purpose} needs a language model and the {self.choice.reader} reader has none; use --reader zephyr,"
                " or name a server (docs/serving.md)"
            )
        return self._backend

    def _document(self, doc_id: str) -> Document:
        document = self._open_store().document(doc_id)
        if document is None:
            raise ChangedError("a document was removed from the index while it was read; ask again")
        return document


def _attempted(job: Callable[[], _T]) -> _T | RagError:
    """What a job gives, or what went wrong where the next one may go well."""
    try:
        return job()
    except _HOPELESS:
        raise
    except RagError as error:
        return error


def zephyr_settings(config: Config, choice: ProfileChoice) -> ZephyrSettings:
    """The settings of the Zephyr backend, as the config has them."""
    from reader.backends.loading import ZephyrSettings

    return ZephyrSettings(
        model=config.model,
        device=choice.device,
        quantization=config.quantization,  # type: ignore[arg-type]  # checked by its setting
        kv_cache=config.kv_cache,  # type: ignore[arg-type]
        device_map=config.device_map,
        rope_scaling=config.rope_scaling,
        window=config.window,
    )


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question the job can ask; the second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(number, frame)
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _timed(answer: Answer, milliseconds: float) -> Answer:
    """With the time that reading took, and that of all stages together."""
    timings = {**answer.timings_ms, "answer": milliseconds}
    rounded = {name: round(value, 2) for name, value in {**timings, "total": sum(timings.values())}.items()}
    return replace(answer, timings_ms=rounded)


def _with_total(timings: Mapping[str, float], started: float) -> dict[str, float]:
    rounded = {name: round(value, 2) for name, value in timings.items()}
    return {**rounded, "total": round(1000 * (time.perf_counter() - started), 2)}


def now() -> str:
    """In UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def installed_version(name: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""The composition root: a Config becomes a Pipeline that can ingest, search and ask. Knows every room."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from app.profiles import ProfileChoice, choose_profile, require_reader
from ingest.records import IngestReport, Report
from retrieval.errors import IndexCorruptError, RagError
from retrieval.records import ChunkingSpec, Document, Hit, Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.config import Config
    from ingest.build import Settings
    from reader.reader import Reader
    from reader.records import Answer
    from retrieval.analyze import Analyzer
    from retrieval.dense import DenseIndex
    from retrieval.encoder import Encoder
    from retrieval.filters import Filter
    from retrieval.lexical import LexicalIndex
    from retrieval.retriever import Retrieved, Retriever, SearchSettings
    from retrieval.store import DocumentRow, Store
    from retrieval.synonyms import Synonyms

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

    def __init__(self, config: Config) -> None:
        self._config = config
        self.choice: ProfileChoice = choose_profile(config)
        self._store: Store | None = None

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

    def ask(self, question: str, *, k: int | None = None, filters: Filter | None = None) -> Answer:
        """An answer with citations, or an abstention. The reader may look further down than the k hits shown."""
        from reader.backends.extractive import PASSAGES_READ

        require_reader(self.choice)
        started = time.perf_counter()
        k = k or self._config.top_k
        found = self._retrieve(question, max(k, PASSAGES_READ), filters)
        reading = time.perf_counter()
        answer = self._reader(self.parts.retriever).read(found)
        timings = {**found.timings_ms, "answer": 1000 * (time.perf_counter() - reading)}
        cited = {citation.chunk_id for citation in answer.citations}
        shown = tuple(hit for hit in answer.hits if hit.rank <= k or hit.chunk_id in cited)
        return replace(answer, hits=shown, timings_ms=_with_total(timings, started))

    def notices(self) -> tuple[str, ...]:
        """Lines for people about search files that were missing, damaged or behind; nothing before a search."""
        parts = self.__dict__.get("parts")  # a look must not open the index
        return tuple(filter(None, (parts.dense.notice, parts.lexical.notice))) if parts else ()

    def _retrieve(
        self,
        question: str,
        k: int,
        filters: Filter | None,
        *,
        max_per_document: int | None = None,
        diversity: float | None = None,
        neighbours: bool | None = None,
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
        )

    # ---- the index ---------------------------------------------------------------------------------------------------

    def ingest(
        self, paths: Sequence[Path], *, prune: bool = False, rebuild: bool = False, report: Report
    ) -> IngestReport:
        """Bring the index up to date. Ctrl-C ends the run after the text at hand and keeps what is complete."""
        from ingest.build import ingest

        with _stop_on_interrupt() as stop:
            return ingest(
                paths,
                folder=self._config.index,
                settings=self._settings(),
                make_encoder=lambda: self._encoder,
                analyzer=self._analyzer,
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
            make_encoder=lambda: self._encoder,
            analyzer=self._analyzer,
            report=report,
        )

    def documents(self) -> list[DocumentRow]:
        """What is in the index, by root and source."""
        return self._open_store().documents()

    def info(self) -> dict[str, object]:
        """Facts about the index, fit for JSON."""
        store = self._open_store()
        counts, manifest = store.counts(), store.manifest
        from retrieval.database import LEXICAL
        from retrieval.dense import describe_dense

        lexical = store.artefact(LEXICAL)
        try:
            dense = describe_dense(store)
            vectors = "none yet" if dense is None else asdict(dense)
        except (OSError, IndexCorruptError) as error:
            vectors = f"cannot be read, and is made anew in memory by each search: {error}; run: rag ingest --rebuild"
        return {
            "index": str(self._config.index),
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

    def delete(self, source: str) -> tuple[str, ...]:
        """Remove the document of a source (or of a doc_id) from the index. Returns the ids removed."""
        from ingest.build import forget_documents

        rows = [row for row in self.documents() if source in {row.source, row.doc_id, f"{row.root}/{row.source}"}]
        if not rows:
            raise RagError(f"there is no document '{source}' in the index; rag index list shows what there is")
        if len(rows) > 1:
            places = ", ".join(f"{row.root}/{row.source}" for row in rows)
            raise RagError(f"'{source}' is ambiguous, it is in several roots: {places}; name one of these")
        doc_ids = tuple(row.doc_id for row in rows)
        forget_documents(
            self._open_store(), doc_ids, settings=self._settings(), encoder=self._encoder, analyzer=self._analyzer
        )
        return doc_ids

    def embed(self, texts: Sequence[str], *, pooling: str, tokens: bool) -> list[NDArray[np.float32]]:
        """Vectors of texts as passages: (dim,) each, or with `tokens` (tokens, dim) each, in order."""
        encoder = self._load_encoder(pooling)
        return [encoded.tokens if tokens else encoded.vector for encoded in encoder.encode(list(texts))]

    def close(self) -> None:
        """Close the index."""
        if self._store is not None:
            self._store.close()
            self._store = None

    # ---- parts -------------------------------------------------------------------------------------------------------

    @cached_property
    def _encoder(self) -> Encoder:
        return self._load_encoder(self._config.pooling)

    def _load_encoder(self, pooling: str) -> Encoder:
        from retrieval.encoder import load_encoder

        return load_encoder(
            self.choice.encoder,
            cache=self._config.cache,
            device=self.choice.device,
            pooling="" if pooling == "auto" else pooling,
            threads=self._config.threads,
        )

    def _settings(self) -> Settings:
        from ingest.build import Settings
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
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: found for name in _RECORDED if (found := _version(name))},
        )

    def _open_store(self) -> Store:
        if self._store is None:
            from retrieval.store import Store

            self._store = Store.open(self._config.index)
        return self._store

    @cached_property
    def _analyzer(self) -> Analyzer:
        from retrieval.analyze import Analyzer, UserDictionary

        dictionary = self._config.dictionary
        return Analyzer(UserDictionary.load(dictionary) if dictionary else None)

    @cached_property
    def _synonyms(self) -> Synonyms | None:
        from retrieval.synonyms import Synonyms

        return Synonyms.load(self._config.synonyms, self._analyzer) if self._config.synonyms else None

    @cached_property
    def parts(self) -> Parts:
        """The open index, and what searches it."""
        from ingest.build import check_encoder
        from retrieval.dense import open_dense
        from retrieval.lexical import open_lexical
        from retrieval.retriever import Retriever

        store = self._open_store()
        check_encoder(store.manifest, self._settings())
        dense, lexical = open_dense(store, device=self.choice.device), open_lexical(store, self._analyzer)
        retriever = Retriever(
            store, dense, lexical, self._encoder, analyzer=self._analyzer, settings=self._search_settings()
        )
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
        )
        return replace(settings, reranked=0) if config.reranker == "none" else settings

    def _reader(self, retriever: Retriever) -> Reader:
        from reader.backends.extractive import ExtractiveReader

        return ExtractiveReader(
            retriever.interaction,
            self._document,
            min_evidence=self._config.min_evidence,
            max_sentences=self._config.sentences,
        )

    def _document(self, doc_id: str) -> Document:
        document = self._open_store().document(doc_id)
        if document is None:
            raise RagError("a document was removed from the index while it was read; ask again")
        return document


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
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


def _with_total(timings: Mapping[str, float], started: float) -> dict[str, float]:
    rounded = {name: round(value, 2) for name, value in timings.items()}
    return {**rounded, "total": round(1000 * (time.perf_counter() - started), 2)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

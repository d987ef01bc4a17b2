"""LangChain's seams over ours: Embeddings, VectorStore and BaseRetriever. Translates records; holds no logic of search.

A text that is added here is one document with one chunk, is never cut, and comes back with its metadata as it was
given. An index made by `rag ingest` can be searched here as well: its chunks come back with their citation as metadata.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray
from pydantic import Field

from retrieval.analyze import Analyzer
from retrieval.dense import open_dense, refresh
from retrieval.errors import IndexMismatchError
from retrieval.records import Chunk, ChunkingSpec, Document, EncoderSpec, Hit, IndexManifest
from retrieval.store import Store, StoredChunk, Writer, embedding_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun

Floats = NDArray[np.float32]

ROOT = "langchain:"
"""The root of documents that were added here; no folder, so no ingest run touches them."""

_ADDED_TOKENS = 0  # not counted: the encoder refuses what it cannot read whole


class PassageEncoder(Protocol):
    """The part of an encoder that is needed here."""

    @property
    def spec(self) -> EncoderSpec:
        """What makes its vectors comparable with others."""

    def encode_passages(self, texts: Sequence[str]) -> Floats:
        """float32 (n, dim), unit rows, input order. Raises TextTooLongError rather than truncate."""

    def encode_query(self, text: str) -> Floats:
        """float32 (dim,), unit."""


class RagEmbeddings(Embeddings):
    """Our encoder, for LangChain. Vectors have length 1; texts that are too long raise TextTooLongError."""

    def __init__(self, encoder: PassageEncoder) -> None:
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of passages, in order."""
        return [[float(value) for value in row] for row in self.encoder.encode_passages(texts)] if texts else []

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return [float(value) for value in self.encoder.encode_query(text)]


class EmbeddingsEncoder:
    """Any LangChain Embeddings, as an encoder for RagVectorStore. Vectors are brought to length 1.

    `name` must say which model it is: it is all that keeps vectors of different models out of one index.
    """

    def __init__(self, embeddings: Embeddings, *, name: str, max_tokens: int = 0) -> None:
        self.embeddings = embeddings
        dimension = len(embeddings.embed_query("dimension"))
        self.spec = EncoderSpec(name, "", dimension, max_tokens, pooling="unknown")

    def encode_passages(self, texts: Sequence[str]) -> Floats:
        """float32 (n, dim), unit rows, input order."""
        vectors = self.embeddings.embed_documents(list(texts))
        return _unit(np.array(vectors, dtype=np.float64).reshape(len(texts), self.spec.dimension))

    def encode_query(self, text: str) -> Floats:
        """float32 (dim,), unit."""
        vectors = _unit(np.array([self.embeddings.embed_query(text)], dtype=np.float64))
        return cast("Floats", vectors[0])


class RagVectorStore(VectorStore):
    """An index folder as a LangChain VectorStore. Scores are cosines, higher is better.

    Raises IndexMismatchError when the index was built with another encoder. `wait_seconds`: how long to wait for
    another writer before IndexBusyError.
    """

    def __init__(
        self,
        store: Store,
        encoder: PassageEncoder,
        *,
        analyzer: Analyzer | None = None,
        device: str = "cpu",
        wait_seconds: float = 30.0,
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.analyzer = analyzer or Analyzer()
        self.wait_seconds = wait_seconds
        self._check_encoder()
        self._dense = open_dense(store, device=device)

    @property
    def embeddings(self) -> Embeddings:
        """The encoder, seen as LangChain's Embeddings."""
        return RagEmbeddings(self.encoder)

    @property
    def notice(self) -> str | None:
        """A line for people when the search file had to be made anew, None otherwise."""
        return self._dense.notice

    @classmethod
    def from_texts(  # type: ignore[override]  # an index has to lie somewhere: `folder` has no default
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        folder: str | Path,
        device: str = "cpu",
        **unknown: object,
    ) -> RagVectorStore:
        """Add texts to the index in a folder, which is made if there is none."""
        _refuse(unknown)
        encoder = _encoder_of(embedding)
        folder = Path(folder)
        if Store.exists(folder):
            store = Store.open(folder)
        else:
            whole = ChunkingSpec(max_tokens=encoder.spec.max_tokens, overlap=0.0, heading_context=False)
            store = Store.create(folder, IndexManifest(encoder.spec, whole))
        try:
            vectorstore = cls(store, encoder, device=device)
            vectorstore.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return vectorstore

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # ---- adding and removing -----------------------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int = 256,
        **unknown: object,
    ) -> list[str]:
        """Add texts, or replace those of the same id; all become visible together. Returns their ids, in order.

        Raises ValueError on metadata that is not JSON, TextTooLongError on a text that the encoder cannot read whole.
        """
        _refuse(unknown)
        texts = list(texts)
        metadatas = metadatas or [{} for _ in texts]
        given: Sequence[str | None] = ids or [None] * len(texts)  # LangChain passes None for a document without id
        named = [str(uuid.uuid4()) if each is None else each for each in given]
        if not len(texts) == len(metadatas) == len(named):
            raise ValueError(f"{len(texts)} texts, {len(metadatas)} metadatas and {len(named)} ids do not match")
        if not texts:
            return []
        documents = [_document(*each) for each in zip(named, texts, metadatas, strict=True)]
        with self.store.writer(wait_seconds=self.wait_seconds, analyzer=self.analyzer) as writer:
            self._check_encoder()
            for first in range(0, len(documents), batch_size):
                self._stage(writer, documents[first : first + batch_size])
            writer.publish(roots=())
        return named

    def delete(self, ids: list[str] | None = None, **unknown: object) -> bool:
        """Remove documents by id, all of them if None is given; unknown ids do no harm."""
        _refuse(unknown)
        doomed = [row.doc_id for row in self.store.documents()] if ids is None else ids
        self.store.delete(doomed, wait_seconds=self.wait_seconds)
        return True

    # ---- looking up --------------------------------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The documents, or chunks of ingested documents, with these ids, in order; unknown ids are left out."""
        found = self.store.chunks_by_id(ids)
        return [_translate(found[each]) for each in dict.fromkeys(ids) if each in found]

    def similarity_search(self, query: str, k: int = 4, **unknown: object) -> list[LangChainDocument]:
        """The k most similar, best first."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **unknown)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        **unknown: object,
    ) -> list[tuple[LangChainDocument, float]]:
        """The k most similar with their cosines, best first."""
        _refuse(unknown)
        return self._search(self.encoder.encode_query(query), k)

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        **unknown: object,
    ) -> list[LangChainDocument]:
        """The k most similar to a vector of any length but 0, best first."""
        _refuse(unknown)
        return [document for document, _ in self._search(_unit(np.array([embedding], dtype=np.float64))[0], k)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **unknown: object,
    ) -> list[LangChainDocument]:
        """The k of the best `fetch_k` that are similar to the question and not to each other."""
        _refuse(unknown)
        return self._diverse(self.encoder.encode_query(query), k, fetch_k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **unknown: object,
    ) -> list[LangChainDocument]:
        """The k of the best `fetch_k` that are similar to a vector and not to each other."""
        _refuse(unknown)
        return self._diverse(_unit(np.array([embedding], dtype=np.float64))[0], k, fetch_k, lambda_mult)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _check_encoder(self) -> None:
        built, asked = self.store.manifest.encoder, self.encoder.spec
        if built != asked:
            raise IndexMismatchError(
                f"the index was built with '{built.name}' ({built.dimension}-d, {built.pooling}), the encoder given is"
                f" '{asked.name}' ({asked.dimension}-d, {asked.pooling}); use that encoder or another folder"
            )

    def _stage(self, writer: Writer, documents: list[Document]) -> None:
        keys = [embedding_key(self.encoder.spec, document.text) for document in documents]
        known = writer.known(keys)
        new = {key: document.text for key, document in zip(keys, documents, strict=True) if key not in known}
        if new:
            vectors = self.encoder.encode_passages(list(new.values()))
            known.update(zip(new, writer.add_embeddings(list(new), vectors), strict=True))
        for key, document in zip(keys, documents, strict=True):
            name, text = document.doc_id, document.text
            chunk = Chunk(name, name, 0, 0, len(text), text, _ADDED_TOKENS)
            writer.stage(document, [chunk], [known[key]], [1])
        writer.commit_batch()

    def _search(self, query: Floats, k: int) -> list[tuple[LangChainDocument, float]]:
        return [(_translate(stored), score) for stored, score in self._nearest(query, k)]

    def _nearest(self, query: Floats, k: int) -> list[tuple[StoredChunk, float]]:
        """The k best chunks; chunks that share an embedding follow each other in the store's order."""
        with self.store.snapshot():
            refresh(self.store, self._dense)
            scores, ids = self._dense.search(query[None], k)
            places = self.store.chunks_of_embeddings(ids[0])
        ranked = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        return [(stored, score) for each, score in ranked for stored in places[each]][:k]

    def _diverse(self, query: Floats, k: int, fetch_k: int, lambda_mult: float) -> list[LangChainDocument]:
        """Maximal marginal relevance (Carbonell and Goldstein, 1998) over the best `fetch_k`."""
        with self.store.snapshot():
            nearest = [stored for stored, _ in self._nearest(query, fetch_k)]
            ids, vectors = self.store.vectors(np.array([stored.embedding for stored in nearest], dtype=np.int64))
        rows = vectors[np.searchsorted(ids, [stored.embedding for stored in nearest])]
        relevance, likeness = rows @ query, rows @ rows.T
        chosen: list[int] = []
        left = list(range(len(nearest)))
        while left and len(chosen) < k:
            closest = likeness[np.ix_(left, chosen)].max(axis=1, initial=-1.0) if chosen else np.zeros(len(left))
            best = int(np.argmax(lambda_mult * relevance[left] - (1 - lambda_mult) * closest))
            chosen.append(left.pop(best))
        return [_translate(nearest[each]) for each in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(max((1.0 + cosine) / 2.0, 0.0), 1.0)


class RagRetriever(BaseRetriever):
    """A search function of ours, `search(question, k=k, **options)` -> hits, as a LangChain retriever.

    `options` go with every search, those given to `invoke` before them: filters, max_per_document, diversity,
    neighbours. Citations, stages and neighbours become metadata.
    """

    search: Callable[..., Sequence[Hit]]
    k: int = 5
    options: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, **options: Any
    ) -> list[LangChainDocument]:
        del run_manager  # nothing is reported from inside a search
        hits = self.search(query, k=self.k if k is None else k, **{**self.options, **options})
        return [_hit_document(hit) for hit in hits]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **options: Any
    ) -> list[LangChainDocument]:
        look = partial(self._get_relevant_documents, run_manager=run_manager.get_sync(), k=k, **options)
        return await run_in_executor(None, look, query)


def _encoder_of(embeddings: Embeddings) -> PassageEncoder:
    """Our encoder inside RagEmbeddings, or theirs under a name made of its class and model."""
    if isinstance(embeddings, RagEmbeddings):
        return embeddings.encoder
    model = getattr(embeddings, "model", None) or getattr(embeddings, "model_name", "")
    kind = type(embeddings)
    return EmbeddingsEncoder(embeddings, name=f"{kind.__module__}.{kind.__qualname__}:{model}")


def _document(doc_id: str, text: str, metadata: dict[str, Any]) -> Document:
    source = metadata.get("source")
    return Document(
        doc_id=doc_id,
        root=ROOT,
        source=source if isinstance(source, str) and source else doc_id,
        media_type="text/plain",
        title="",
        text=text,
        content_hash=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        metadata=metadata,
    )


def _translate(stored: StoredChunk) -> LangChainDocument:
    """What was added here comes back as it was; a chunk of an ingested document comes with its citation."""
    chunk = stored.chunk
    metadata = dict(stored.metadata)
    if stored.root != ROOT:
        metadata |= _citation(chunk, stored.source, stored.line)
    return LangChainDocument(id=chunk.chunk_id, page_content=chunk.text, metadata=metadata)


def _hit_document(hit: Hit) -> LangChainDocument:
    metadata = {**_citation(hit, hit.source, hit.line), "score": hit.score, "rank": hit.rank}
    extras = {"stages": hit.stages, "before": hit.before, "after": hit.after}
    metadata |= {name: asdict(found) for name, found in extras.items() if found is not None}
    return LangChainDocument(id=hit.chunk_id, page_content=hit.text, metadata=metadata)


def _citation(place: Chunk | Hit, source: str, line: int) -> dict[str, object]:
    return {
        "doc_id": place.doc_id,
        "source": source,
        "start": place.start,
        "end": place.end,
        "line": line,
        "page": place.page,
        "heading": list(place.heading),
    }


def _unit(vectors: NDArray[np.float64]) -> Floats:
    """Rows of length 1. Raises ValueError on a row that has no direction."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise ValueError("an embedding is zero or not finite, so it has no direction to compare")
    return cast("Floats", (vectors / lengths).astype(np.float32))


def _refuse(unknown: dict[str, object]) -> None:
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}; nothing is ignored here")

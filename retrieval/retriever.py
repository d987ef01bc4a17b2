"""Question to hits: dense candidates, re-ranked by late interaction, the same text shown once.

Knows the store, the dense index and the interaction; nothing of readers or files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.dense import DenseIndex, refresh
from retrieval.encoder import Encoder, passage_input
from retrieval.errors import IndexMismatchError
from retrieval.interaction import Interaction, Passage, Question, SignCodec
from retrieval.records import EncoderSpec, Hit, Place
from retrieval.rerank import rerank
from retrieval.statistics import Statistics
from retrieval.store import Store, StoredChunk
from retrieval.threads import one_blas_thread

STATISTICS_BLOB = "statistics"

Codes = NDArray[np.uint8]


def codec_blob(encoder: EncoderSpec) -> str:
    """Where an index keeps the codec of an encoder's token vectors; one built anew keeps the old one's beside it."""
    return f"token-codec-{encoder.revision[:16]}-{encoder.passage_prefix}"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The hits of a question, best first, and what a reader needs to look into them (`passages`, one a hit)."""

    question: Question
    hits: tuple[Hit, ...]
    passages: tuple[Passage, ...]
    timings_ms: Mapping[str, float]


class Retriever:
    """Searches one open index and follows it when another process publishes a new state."""

    def __init__(self, store: Store, dense: DenseIndex, encoder: Encoder, *, candidates: int = 100) -> None:
        self._store, self._dense, self._encoder = store, dense, encoder
        self._candidates = candidates
        self._load()

    @property
    def interaction(self) -> Interaction:
        """The comparison of questions and passages, with the statistics of this index."""
        return self._interaction

    def search(self, question: str, *, k: int) -> Retrieved:
        """The k best hits; fewer where the index has fewer texts.

        Raises EmptyTextError on a blank question, TextTooLongError on one the encoder cannot read whole,
        IndexMismatchError when the index was built anew with another encoder meanwhile.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        started = time.perf_counter()
        with one_blas_thread(), self._store.snapshot():
            self._follow()
            asked = self._interaction.question(question)
            encoded = time.perf_counter()
            # where the encoder cannot read the question, its order means little, so more of it is looked at
            groups = self._groups(asked, max(k, round(self._candidates / max(asked.known, 0.1))), k=k)
            searched = time.perf_counter()
            passages = self._passages([group.chunks[0] for group in groups])
        ranked = self._rank(asked, groups, passages)[:k]
        done = time.perf_counter()
        return Retrieved(
            question=asked,
            hits=tuple(_hit(rank, score, groups[index].chunks) for rank, (index, score) in enumerate(ranked, start=1)),
            passages=tuple(passages[index] for index, _ in ranked),
            timings_ms={
                "encode": 1000 * (encoded - started),
                "search": 1000 * (searched - encoded),
                "rerank": 1000 * (done - searched),
            },
        )

    def _follow(self) -> None:
        """Take over what another process has published since the last look."""
        if self._store.generation == self._dense.generation:
            return
        built_with, spec = self._store.manifest.encoder, self._encoder.spec
        if built_with != spec:
            raise IndexMismatchError(
                f"the index was built anew with encoder '{built_with.name}' ({built_with.dimension}-d) while "
                f"'{spec.name}' ({spec.dimension}-d) was searching it; start again"
            )
        refresh(self._store, self._dense)
        self._load()

    def _groups(self, question: Question, candidates: int, *, k: int) -> list[_Group]:
        """Candidates by dense score, at least k different texts where the index has as many."""
        while True:
            scores, ids = self._dense.search(question.vector[None, :], candidates)
            found = self._store.chunks_of_embeddings(ids[0].tolist())
            groups = _by_text(ids[0].tolist(), scores[0].tolist(), found)
            if len(groups) >= k or candidates >= self._dense.size:
                return groups
            candidates *= 4  # one text stands under many headings: a licence in every file

    def _load(self) -> None:
        """Read what the current generation of the index says of its words and token codes."""
        spec = self._encoder.spec
        codec, statistics = self._store.blob(codec_blob(spec)), self._store.blob(STATISTICS_BLOB)
        self._codec = SignCodec.load(codec, dimension=spec.dimension) if codec else None
        vocabulary = self._encoder.tokenizer.get_vocab_size()
        counts = Statistics.load(statistics) if statistics else Statistics(vocabulary)
        self._interaction = Interaction(self._encoder, self._codec, counts)

    def _rank(
        self, question: Question, groups: Sequence[_Group], passages: Sequence[Passage]
    ) -> list[tuple[int, float]]:
        """By interaction; an index without token codes (filled through LangChain alone) keeps the dense order."""
        if self._codec is None:
            return [(index, group.score) for index, group in enumerate(groups)]
        return rerank(self._interaction, question, passages)

    def _passages(self, chunks: Sequence[StoredChunk]) -> list[Passage]:
        stored = self._store.token_codes([chunk.embedding for chunk in chunks])
        missing = [chunk for chunk in chunks if chunk.embedding not in stored]
        if missing and self._codec is not None:  # added through LangChain: encoded now instead of at ingest
            inputs = [passage_input(one.chunk.context, one.chunk.text) for one in missing]
            for one, encoded in zip(missing, self._encoder.encode(inputs), strict=True):
                stored[one.embedding] = self._codec.encode(encoded.tokens)
        none = np.zeros((0, 0), np.uint8)
        return [Passage(one.chunk.text, stored.get(one.embedding, none), one.chunk.context) for one in chunks]


@dataclass(frozen=True, slots=True)
class _Group:
    """Chunks with the very same text, and the best dense score among them."""

    score: float
    chunks: list[StoredChunk]


def _by_text(ids: Sequence[int], scores: Sequence[float], found: Mapping[int, Sequence[StoredChunk]]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for embedding, score in zip(ids, scores, strict=True):
        for chunk in found.get(embedding, ()):
            groups.setdefault(chunk.chunk.text, _Group(score, [])).chunks.append(chunk)
    return list(groups.values())


def _hit(rank: int, score: float, chunks: Sequence[StoredChunk]) -> Hit:
    first, chunk = chunks[0], chunks[0].chunk
    return Hit(
        rank=rank,
        score=score,
        chunk_id=chunk.chunk_id,
        doc_id=chunk.doc_id,
        source=first.source,
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        heading=chunk.heading,
        page=chunk.page,
        line=first.line,
        context=chunk.context,
        also_in=tuple(
            Place(one.chunk.chunk_id, one.chunk.doc_id, one.source, one.chunk.start, one.chunk.end)
            for one in chunks[1:]
        ),
    )

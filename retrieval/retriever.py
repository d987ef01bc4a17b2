"""Question to hits: two lists, fused by how sure each is of itself, re-ranked word by word, each text shown once.

Knows the store, the indexes and the interaction; nothing of readers or files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.analyze import Analyzer
from retrieval.dense import DenseIndex, refresh
from retrieval.diversity import LeftOut, diversify
from retrieval.encoder import Encoded, Encoder, require_words
from retrieval.errors import IndexMismatchError
from retrieval.evidence import CROWD, Evidence, features
from retrieval.filters import Filter
from retrieval.fusion import Fusion, dense_share, fuse, reciprocal
from retrieval.interaction import Interaction, Passage, Question, SignCodec
from retrieval.lexical import LexicalIndex
from retrieval.parts import merge, parts
from retrieval.records import Dropped, EncoderSpec, Hit, Neighbour, Place, Ranked, Stages, Trace
from retrieval.rerank import Candidates, CrossEncoder, rerank, spread
from retrieval.statistics import Statistics
from retrieval.store import Store, StoredChunk
from retrieval.threads import one_blas_thread

if TYPE_CHECKING:
    from retrieval.synonyms import Expansion, Synonyms

STATISTICS_BLOB = "statistics"
EVIDENCE_BLOB = "evidence"
DROPPED_SHOWN = 20

Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def codec_blob(encoder: EncoderSpec) -> str:
    """Where an index keeps the codec of an encoder's token vectors; one built anew keeps the old one's beside it."""
    return f"token-codec-{encoder.revision[:16]}-{encoder.passage_prefix}"


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a retriever works; fixed while it is open.

    candidates: how many each list gives. reranked: how many of the fused ones are re-ordered, 0 for none. fusion: how
    the lists become one; all but "adaptive" are there to be compared with it.
    """

    candidates: int = 100
    reranked: int = 60
    fusion: Fusion = "adaptive"
    split_questions: bool = True
    cross_encoder: CrossEncoder | None = None
    synonyms: Synonyms | None = None


@dataclass(frozen=True, slots=True)
class Retrieved(Trace):
    """The hits of a question, best first, and what a reader needs to look into them (`passages`, one a hit).

    evidence: how likely an answer is in here at all, [0, 1], calibrated (retrieval/evidence.py); a reader abstains
    below `evidence_needed`. ranking: everything that was looked at, hits included, best first, where it was asked for.
    """

    question: Question
    hits: tuple[Hit, ...]
    passages: tuple[Passage, ...]
    evidence: float
    evidence_needed: float
    timings_ms: Mapping[str, float]
    ranking: tuple[Ranked, ...] = ()


class Retriever:
    """Searches one open index and follows it when another process publishes a new state."""

    def __init__(
        self,
        store: Store,
        dense: DenseIndex,
        lexical: LexicalIndex,
        encoder: Encoder,
        *,
        analyzer: Analyzer | None = None,
        settings: SearchSettings | None = None,
    ) -> None:
        self._store, self._dense, self._lexical, self._encoder = store, dense, lexical, encoder
        self._analyzer, self._settings = analyzer or Analyzer(), settings or SearchSettings()
        self._load()

    @property
    def interaction(self) -> Interaction:
        """The comparison of questions and passages, with the statistics of this index."""
        return self._interaction

    def search(
        self,
        question: str,
        *,
        k: int,
        filters: Filter | None = None,
        max_per_document: int = 0,
        diversity: float = 0.0,
        neighbours: bool = False,
        traced: bool = False,
    ) -> Retrieved:
        """The k best hits; fewer where the index, or what the filter leaves of it, has fewer texts.

        max_per_document: of one document at most so many, 0 for any number. diversity: [0, 1], of maximal marginal
        relevance. neighbours: hits carry the chunks before and after. traced: with the whole `ranking`, which no filter
        narrows. Raises EmptyTextError on a blank question, TextTooLongError on one the encoder cannot read whole,
        IndexMismatchError when the index was built anew with another encoder meanwhile.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        require_words(question)
        clock = _Clock()
        texts = [question, *self._parts(question)]
        with clock("encode"):  # before the lock of the store: several threads may search
            encoded = list(self._encoder.encode(texts, query=True))
        with self._current(), one_blas_thread():
            allowed = self._allowed(filters)
            with clock("encode"):
                asked, *several = map(self._ask, texts, encoded)
            picks = _Picks(k, max_per_document, diversity)
            ranking, chosen = self._found(asked, several, allowed, picks, clock)
            with clock("read"):
                passages = self._passages(chosen.groups, ranking.codes)
                around = self._around(chosen.groups) if neighbours else {}
            places = self._store.places_of_embeddings(ranking.ids) if traced else {}
        return Retrieved(
            question=asked.question,
            hits=tuple(_hits(chosen.groups, around)),
            passages=tuple(passages),
            evidence=self._evidence.score(ranking.evidence),
            evidence_needed=self._evidence.threshold,
            evidence_features=ranking.evidence,
            timings_ms=clock.times,
            weights={"dense": ranking.dense_share, "lexical": 1 - ranking.dense_share},
            terms=asked.question.term_weights,
            expansions=asked.expansions,
            parts=tuple(part.question.text for part in several),
            dropped=chosen.dropped,
            ranking=tuple(_traced(ranking, chosen.groups, places)),
        )

    # ---- from question to ranking ------------------------------------------------------------------------------------

    def _ask(self, question: str, encoded: Encoded) -> _Asked:
        """Weigh the terms of a question; synonyms come in below the words they stand for."""
        asked = self._interaction.question(question, encoded)
        expansions = self._settings.synonyms.expand(question) if self._settings.synonyms else ()
        terms = dict.fromkeys(asked.term_weights, 1.0)
        for expansion in expansions:
            for term in expansion.terms:
                terms.setdefault(term, expansion.weight)
        return _Asked(asked, terms, expansions)

    def _parts(self, question: str) -> list[str]:
        """The parts of a question that asks several things; none where it asks one."""
        found = parts(question) if self._settings.split_questions else ()
        return [part.text for part in found] if len(found) > 1 else []

    def _found(
        self,
        asked: _Asked,
        several: Sequence[_Asked],
        allowed: _Allowed,
        picks: _Picks,
        clock: _Clock,
    ) -> tuple[_Ranking, _Chosen]:
        """Candidates in their final order, and k of them chosen, where the index has as many that may be.

        With a cap or for diversity they are picked among sixteen times the usual candidates at most: where one document
        holds nearly all of an index, fewer come back.
        """
        depth = first = max(picks.k, self._settings.candidates)
        size = self._dense.size if allowed.embeddings is None else len(allowed.embeddings)
        while True:
            ranking = self._ranking(asked, several, allowed, depth, clock)
            with clock("read"):
                wanted = len(ranking.ids) if picks.over_all else picks.k
                chosen = self._chosen(self._groups(ranking, allowed, wanted=wanted), picks)
            deep = depth >= size or (picks.over_all and depth >= _PICKED_FROM * first)
            if len(chosen.groups) >= picks.k or deep:
                return ranking, chosen
            depth *= 4  # one text stands under many headings: a licence in every file

    def _ranking(
        self, asked: _Asked, several: Sequence[_Asked], allowed: _Allowed, depth: int, clock: _Clock
    ) -> _Ranking:
        """Every candidate in its final order; a question of several parts is searched by part and merged."""
        whole = self._rank(asked, allowed, depth, clock)
        by_part = [self._rank(part, allowed, depth, clock) for part in several]
        if not by_part:
            return whole
        order = merge(whole.ids, [part.ids for part in by_part])
        stages = {**{key: value for part in reversed(by_part) for key, value in part.stages.items()}, **whole.stages}
        codes = {**{key: value for part in by_part for key, value in part.codes.items()}, **whole.codes}
        weakest = min((part.evidence for part in by_part), key=self._evidence.score)
        evidence = max(whole.evidence, weakest, key=self._evidence.score)
        of_parts = frozenset(stages) - frozenset(whole.stages)
        return replace(whole, ids=order, stages=stages, codes=codes, evidence=evidence, of_parts=of_parts)

    def _rank(self, asked: _Asked, allowed: _Allowed, depth: int, clock: _Clock) -> _Ranking:
        """Two lists, one fused, its head re-ranked."""
        question = asked.question
        with clock("search"):
            pool = self._candidates(asked, allowed, depth)
            fused_order = np.argsort(-pool.fused, kind="stable")
        with clock("rerank"):
            head = fused_order[: self._settings.reranked or CROWD]  # evidence looks at them anyway
            codes = self._codes([int(each) for each in pool.ids[head]])
            overlap = self._lexical.overlap(self._term_shares(asked), pool.ids[head]).astype(np.float64)
            candidates = Candidates(
                dense=pool.dense[head],
                lexical=pool.lexical[head],
                overlap=overlap,
                fused=pool.fused[head],
                comparison=self._interaction.compare(question, [codes[int(each)] for each in pool.ids[head]]),
            )
            order = self._order(question, candidates, pool.ids[head])
            matched = self._interaction.match(question, candidates.comparison.whole, candidates.overlap)
            evidence = features(question, candidates, order, spread=spread(candidates, question.weights))
        ids = [int(each) for each in chain(pool.ids[head][order], pool.ids[fused_order[len(head) :]])]
        compared = zip(pool.ids[head].tolist(), zip(matched.tolist(), overlap.tolist(), strict=True), strict=True)
        stages = pool.stages(fused_order, dict(compared) if self._settings.reranked else {})
        return _Ranking(ids, stages, codes, evidence, pool.dense_share)

    def _candidates(self, asked: _Asked, allowed: _Allowed, depth: int) -> _Pool:
        """The union of both lists; each candidate gets the score of either list, whichever found it."""
        question, among = asked.question, allowed.embeddings
        lexical_scores, lexical_ids = self._lexical.search(asked.terms, depth, among=among)
        if not question.readable and not len(lexical_ids):  # a vector of unknown tokens is as near to anything
            among = np.empty(0, dtype=np.int64)
        near, near_ids = self._dense.search(question.vector[None, :], depth, among=among)
        dense_list = [int(each) for each in near_ids[0]]
        lexical_list = [int(each) for each in lexical_ids]
        ids = np.array(sorted({*dense_list, *lexical_list}), dtype=np.int64)
        dense = _completed(ids, near_ids[0], near[0], partial(self._dense.scores, question.vector))
        lexical = _completed(ids, lexical_ids, lexical_scores, partial(self._lexical.scores, asked.terms))
        ranks = _ranks(dense_list), _ranks(lexical_list)
        if self._settings.fusion == "rrf":
            share = 0.5
            fused = reciprocal(np.array([[listed.get(each, np.inf) for each in ids.tolist()] for listed in ranks]))
        else:
            share = self._dense_share(near[0].astype(np.float64), lexical_scores, question)
            fused = fuse(dense, lexical, share)
        return _Pool(
            ids=ids,
            dense=dense,
            lexical=lexical,
            fused=fused,
            dense_share=share,
            dense_ranks=ranks[0],
            lexical_ranks=ranks[1],
        )

    def _dense_share(self, near: NDArray[np.float64], worded: Floats, question: Question) -> float:
        if self._settings.fusion == "adaptive":
            return dense_share(near, _padded(worded, len(near)), known=question.readable)
        return float(self._settings.fusion == "dense")

    def _order(self, question: Question, candidates: Candidates, ids: Ints) -> Ints:
        if not self._settings.reranked or (self._codec is None and self._settings.cross_encoder is None):
            return np.arange(len(ids))
        if self._settings.cross_encoder is None:
            return rerank(candidates, question.weights, known=question.known)
        texts = {one.embedding: one.encoded for one in self._store.passages(ids)}
        scores = self._settings.cross_encoder.scores(question.text, [texts[int(each)] for each in ids])
        return np.argsort(-scores, kind="stable")

    def _term_shares(self, asked: _Asked) -> dict[str, float]:
        """Idf share of every term searched for, sum 1; a synonym has its weight in it."""
        extra = [term for term in asked.terms if term not in asked.question.term_weights]
        if not extra:
            return dict(asked.question.term_weights)
        found = list(asked.terms)
        weights = self._interaction.term_idf(found) * np.array([asked.terms[term] for term in found])
        return dict(zip(found, (weights / max(weights.sum(), 1e-9)).tolist(), strict=True))

    def _codes(self, ids: Sequence[int]) -> dict[int, Codes]:
        """Token codes of embeddings; what was added through LangChain is encoded now instead of at ingest."""
        none = np.zeros((0, 0), np.uint8)
        if self._codec is None:
            return dict.fromkeys(ids, none)
        found = self._store.token_codes(ids)
        missing = np.array([each for each in ids if each not in found], dtype=np.int64)
        if missing.size:
            texts = {one.embedding: one.encoded for one in self._store.passages(missing)}
            for each, encoded in zip(texts, self._encoder.encode(list(texts.values())), strict=True):
                found[each] = self._codec.encode(encoded.tokens)
        return found

    # ---- from ranking to hits ----------------------------------------------------------------------------------------

    def _chosen(self, groups: Sequence[_Group], picks: _Picks) -> _Chosen:
        if not picks.over_all:
            kept, left_out = list(groups[: picks.k]), [LeftOut(at, "rank") for at in range(picks.k, len(groups))]
        else:
            found, vectors = self._store.vectors(np.array([group.embedding for group in groups], dtype=np.int64))
            rows = vectors[np.searchsorted(found, [group.embedding for group in groups])]
            result = diversify(
                -np.arange(len(groups), dtype=np.float64),
                rows,
                [group.chunks[0].chunk.doc_id for group in groups],
                k=picks.k,
                mmr=picks.diversity,
                max_per_document=picks.max_per_document,
            )
            kept, left_out = [groups[at] for at in result.kept], list(result.left_out)
        return _Chosen(kept, tuple(_dropped(groups, one) for one in left_out[:DROPPED_SHOWN]))

    def _groups(self, ranking: _Ranking, allowed: _Allowed, *, wanted: int) -> list[_Group]:
        """Chunks with the very same text are one, in the order of the best of them; at least `wanted` if there are."""
        groups: dict[str, _Group] = {}
        step = wanted + DROPPED_SHOWN
        for first in range(0, len(ranking.ids), step):
            if len(groups) >= wanted:
                break
            ids = ranking.ids[first : first + step]
            found = self._store.chunks_of_embeddings(ids)
            for chunk in (one for each in ids for one in found.get(each, ()) if allowed(one)):
                new = _Group(chunk.embedding, ranking.stages[chunk.embedding], [])
                groups.setdefault(chunk.chunk.text, new).chunks.append(chunk)
        return list(groups.values())

    def passages(self, chunks: Sequence[StoredChunk]) -> list[Passage]:
        """Chunks of this index as what a reader looks into, in order."""
        with self._current():
            codes = self._codes(list(dict.fromkeys(one.embedding for one in chunks)))
        return [Passage(one.chunk.text, codes[one.embedding], one.chunk.context) for one in chunks]

    def _passages(self, groups: Sequence[_Group], codes: Mapping[int, Codes]) -> list[Passage]:
        below = self._codes([group.embedding for group in groups if group.embedding not in codes])  # what was re-ranked
        every = {**below, **codes}
        firsts = [group.chunks[0] for group in groups]
        return [Passage(one.chunk.text, every[one.embedding], one.chunk.context) for one in firsts]

    def _around(self, groups: Sequence[_Group]) -> dict[str, tuple[Neighbour | None, Neighbour | None]]:
        found = self._store.neighbours([group.chunks[0].chunk.chunk_id for group in groups])
        return {each: (_neighbour(before), _neighbour(after)) for each, (before, after) in found.items()}

    # ---- the state of the index --------------------------------------------------------------------------------------

    @contextmanager
    def _current(self) -> Iterator[None]:
        """One state of the store, and both indexes of that state.

        Another process may publish again while we look, and drop the lexical files of the state we see: then a newer
        look will do, and at last the words are read from the store.
        """
        for last in (False, False, True):
            with self._store.snapshot():
                self._follow(build=last)
                if self._lexical.generation == self._store.generation:
                    yield
                    return

    def _follow(self, *, build: bool) -> None:
        """Take over what another process has published since the last look."""
        same = self._store.generation == self._dense.generation == self._lexical.generation
        if same and self._dense.folder == self._store.folder:
            return
        built_with, spec = self._store.manifest.encoder, self._encoder.spec
        if built_with != spec:
            raise IndexMismatchError(
                f"the index was built anew with encoder '{built_with.name}' ({built_with.dimension}-d) while "
                f"'{spec.name}' ({spec.dimension}-d) was searching it; start again"
            )
        refresh(self._store, self._dense)
        self._lexical.follow(self._store, build=build)
        self._load()

    def _load(self) -> None:
        """Read what the current generation of the index says of its words, token codes and evidence."""
        spec = self._encoder.spec
        codec, statistics = self._store.blob(codec_blob(spec)), self._store.blob(STATISTICS_BLOB)
        self._codec = SignCodec.load(codec, dimension=spec.dimension) if codec else None
        counts = Statistics.load(statistics) if statistics else Statistics(self._encoder.tokenizer.get_vocab_size())
        self._interaction = Interaction(self._encoder, self._codec, counts, self._analyzer, self._lexical)
        self._evidence = Evidence.load(self._store.blob(EVIDENCE_BLOB))
        self._filtered: dict[Filter, _Allowed] = {}

    def _allowed(self, filters: Filter | None) -> _Allowed:
        """What a filter leaves; remembered until the index changes."""
        if filters is None or filters.is_empty:
            return _Allowed(None, None, None)
        if filters not in self._filtered:
            facts = [one for one in self._store.document_facts() if filters.matches(one)]
            embeddings = self._store.embeddings_of_documents([one.row for one in facts], pages=filters.pages)
            if len(self._filtered) >= _FILTERS_KEPT:
                self._filtered.clear()
            self._filtered[filters] = _Allowed(embeddings, frozenset(one.doc_id for one in facts), filters)
        return self._filtered[filters]


_FILTERS_KEPT = 16
_PICKED_FROM = 16


@dataclass(frozen=True, slots=True)
class _Picks:
    """Which of the ranked texts are wanted; see Retriever.search."""

    k: int
    max_per_document: int
    diversity: float

    @property
    def over_all(self) -> bool:
        """Whether they are picked among all there are, and are not simply the first ones."""
        return bool(self.max_per_document or self.diversity)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question, and the terms to look for with their weights: 1 for its own, less for synonyms."""

    question: Question
    terms: Mapping[str, float]
    expansions: tuple[Expansion, ...]


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What may be found; None is everything. A text may stand in a document that is kept out as well."""

    embeddings: Ints | None
    documents: frozenset[str] | None
    filters: Filter | None

    def __call__(self, stored: StoredChunk) -> bool:
        """Whether a hit may show this place."""
        return (
            self.documents is None
            or self.filters is None
            or (stored.chunk.doc_id in self.documents and self.filters.matches_page(stored.chunk.page))
        )


@dataclass(frozen=True, slots=True)
class _Pool:
    """The candidates of a question, n of them by ascending id; scores are float64 (n,)."""

    ids: Ints
    dense: NDArray[np.float64]
    lexical: NDArray[np.float64]
    fused: NDArray[np.float64]
    dense_share: float
    dense_ranks: Mapping[int, int]
    lexical_ranks: Mapping[int, int]

    def stages(self, fused_order: Ints, compared: Mapping[int, tuple[float, float]]) -> dict[int, Stages]:
        """What each candidate went through, by id. compared: interaction and overlap of those that were re-ranked."""
        return {
            each: Stages(
                dense_rank=self.dense_ranks.get(each),
                dense_score=float(self.dense[at]),
                lexical_rank=self.lexical_ranks.get(each),
                lexical_score=float(self.lexical[at]),
                fused_rank=rank,
                fused_score=float(self.fused[at]),
                interaction_score=compared.get(each, (None, None))[0],
                overlap_score=compared.get(each, (None, None))[1],
            )
            for rank, at in enumerate(fused_order.tolist(), start=1)
            for each in [int(self.ids[at])]
        }


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Embedding ids, best first, and what is known of them. of_parts: those that only a part of the question found."""

    ids: list[int]
    stages: Mapping[int, Stages]
    codes: Mapping[int, Codes]
    evidence: Mapping[str, float]
    dense_share: float
    of_parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Group:
    """Chunks with the very same text, and the best embedding among them."""

    embedding: int
    stages: Stages
    chunks: list[StoredChunk]


@dataclass(frozen=True, slots=True)
class _Chosen:
    groups: list[_Group]
    dropped: tuple[Dropped, ...]


class _Clock:
    """Adds up milliseconds by name."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.times[name] = self.times.get(name, 0.0) + 1000 * (time.perf_counter() - started)


def _completed(ids: Ints, listed: Ints, scores: Floats, look_up: Callable[[Ints], Floats]) -> NDArray[np.float64]:
    """Scores of ids (ascending): those of a list, and of what it did not list by looking them up."""
    found = np.zeros(len(ids))
    found[np.searchsorted(ids, listed)] = scores
    missing = np.isin(ids, listed, invert=True)
    if missing.any():
        found[missing] = look_up(ids[missing])
    return found


def _ranks(listed: Sequence[int]) -> dict[int, int]:
    """Ids of a list, best first -> their ranks, from 1."""
    return {each: rank for rank, each in enumerate(listed, start=1)}


def _padded(scores: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """A list as long as the other one: what matches no term at all has a score of zero."""
    return np.concatenate([scores.astype(np.float64), np.zeros(max(0, size - len(scores)))])


def _traced(
    ranking: _Ranking, chosen: Sequence[_Group], places: Mapping[int, list[tuple[str, str]]]
) -> Iterator[Ranked]:
    """Everything that was looked at, in its final order; a hit stands for the same text under other headings too."""
    hits = {group.embedding: [(one.chunk.chunk_id, one.source) for one in group.chunks] for group in chosen}
    shown = {chunk_id for listed in hits.values() for chunk_id, _ in listed}
    for each in ranking.ids:
        listed = hits.get(each) or [place for place in places.get(each, ()) if place[0] not in shown]
        if not listed:
            continue
        (first, _), *others = listed
        yield Ranked(
            chunk_id=first,
            sources=tuple(dict.fromkeys(source for _, source in listed)),
            stages=ranking.stages[each],
            twins=tuple(chunk_id for chunk_id, _ in others),
            by_part=each in ranking.of_parts,
        )


def _dropped(groups: Sequence[_Group], one: LeftOut) -> Dropped:
    group = groups[one.position]
    reasons = {
        "rank": f"rank {one.position + 1}, after the last one shown",
        "document": "its document has as many hits as one may have",
        "similar": "too much like " + (groups[one.like].chunks[0].source if one.like is not None else "a better hit"),
    }
    return Dropped(group.chunks[0].source, group.chunks[0].chunk.chunk_id, reasons[one.reason], group.stages)


def _neighbour(stored: StoredChunk | None) -> Neighbour | None:
    if stored is None:
        return None
    chunk = stored.chunk
    return Neighbour(chunk.chunk_id, chunk.start, chunk.end, chunk.text)


def _hits(groups: Sequence[_Group], around: Mapping[str, tuple[Neighbour | None, Neighbour | None]]) -> Iterator[Hit]:
    """Scores are the interaction's (the fused ones where it did not look), never above that of the hit before."""
    highest = float("inf")
    for rank, group in enumerate(groups, start=1):
        matched, first = group.stages.interaction_score, group.chunks[0]
        score = matched if matched is not None else group.stages.fused_score
        highest = min(highest, score if score is not None else highest)
        chunk = first.chunk
        before, after = around.get(chunk.chunk_id, (None, None))
        yield Hit(
            rank=rank,
            score=highest,
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
                for one in group.chunks[1:]
            ),
            stages=group.stages,
            before=before,
            after=after,
        )

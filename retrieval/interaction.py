"""Late interaction: how well the words of a question are matched by the words of a text, and which by which.

The encoder's own last-layer token vectors are compared by MaxSim (Khattab and Zaharia, ColBERT, SIGIR 2020): each
question token takes its best match, weighted by its inverse document frequency. Token vectors of passages are kept as
signs of their principal components, 16 bytes a token; questions stay in floats. Where the encoder cannot read the text
(its tokenizer knows little of the question), overlap of idf-weighted terms takes over by that share.

Knows vectors, tokens and terms; nothing of indexes, files or ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from retrieval.analyze import is_stop_word, located_terms, term_set, terms
from retrieval.encoder import Encoder, clean, passage_input
from retrieval.errors import EmptyTextError, IndexCorruptError
from retrieval.statistics import Statistics

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

CODE_BITS = 128
_OVERLAP_SHARE = 0.15  # of the score is term overlap even in text the encoder reads well (docs/benchmarks.md)
_BLOCK_PASSAGES = 128  # compared in one product: 34 MB of signs where each has 512 tokens
_STOP_WORD_SHARE = 0.3  # of its idf is what a stop word of the question weighs
_CARRY = 0.5  # of a sentence's missing match is lent by the sentence before it: "He" and "it" refer back


class SignCodec:
    """Token vectors to sign bits of their first principal components, and questions to the same space.

    mean: float32 (dim,); basis: float32 (dim, bits), orthonormal columns.
    """

    def __init__(self, mean: Floats, basis: Floats) -> None:
        self._mean, self._basis = mean, basis

    @classmethod
    def fit(cls, tokens: Floats, *, bits: int = CODE_BITS) -> SignCodec:
        """Fit on token vectors, float32 (n, dim)."""
        mean = tokens.mean(axis=0)
        centred = (tokens - mean).astype(np.float64)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        basis = vectors[:, ::-1][:, : min(bits, tokens.shape[1] // 8 * 8)]
        return cls(mean.astype(np.float32), np.ascontiguousarray(basis, dtype=np.float32))

    @property
    def bytes_per_token(self) -> int:
        """Size of one token's code."""
        return int(self._basis.shape[1]) // 8

    def encode(self, tokens: Floats) -> Codes:
        """Codes of passage tokens: float32 (n, dim) -> uint8 (n, bits / 8)."""
        return np.packbits((tokens - self._mean) @ self._basis > 0, axis=1)

    def project(self, tokens: Floats) -> Floats:
        """Question tokens in the space of the codes: float32 (n, dim) -> (n, bits), unit rows."""
        projected = (tokens - self._mean) @ self._basis
        return np.asarray(projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-9), np.float32)

    def signs(self, codes: Codes) -> Floats:
        """Codes as unit vectors: uint8 (n, bits / 8) -> float32 (n, bits)."""
        bits = np.unpackbits(codes, axis=1).astype(np.float32)
        return (bits * 2 - 1) / np.float32(np.sqrt(bits.shape[1]))

    def dump(self) -> bytes:
        """Mean and basis as little-endian float32, the mean first."""
        return np.concatenate([self._mean[:, None], self._basis], axis=1).astype("<f4").tobytes()

    @classmethod
    def load(cls, data: bytes, *, dimension: int) -> SignCodec:
        """Read what dump wrote for an encoder of this dimension."""
        if not data or len(data) % (4 * dimension) or len(data) // (4 * dimension) % 8 != 1:
            raise IndexCorruptError("the index's token codec has a wrong size; run: rag ingest --rebuild")
        table = np.frombuffer(data, dtype="<f4").reshape(dimension, -1).astype(np.float32)
        if not np.isfinite(table).all():
            raise IndexCorruptError("the index's token codec holds no finite numbers; run: rag ingest --rebuild")
        return cls(table[:, 0].copy(), np.ascontiguousarray(table[:, 1:]))


@dataclass(frozen=True)
class Question:
    """A question, ready to be compared.

    vector: float32 (dim,), for dense search. tokens: float32 (m, bits), unit rows. weights: (m,), sum 1, zero where the
    tokenizer does not know the text. offsets: (m, 2), characters. known: share of tokens the tokenizer knows, [0, 1].
    term_weights: idf share of each term, sum 1.
    """

    text: str
    vector: Floats
    tokens: Floats
    weights: NDArray[np.float64]
    offsets: NDArray[np.int64]
    known: float
    term_weights: Mapping[str, float]


@dataclass(frozen=True)
class Passage:
    """A passage as the encoder read it: `codes` of the tokens of its context and its text, in order."""

    text: str
    codes: Codes
    context: str = ""

    @cached_property
    def terms(self) -> frozenset[str]:
        """Index terms of context and text."""
        return term_set(passage_input(self.context, self.text))


@dataclass(frozen=True, slots=True)
class Match:
    """A stretch of the question and the stretch of a text that answers to it, with its weight in the score."""

    question_start: int
    question_end: int
    start: int
    end: int
    weight: float
    similarity: float


class Interaction:
    """Compares questions with passages and with their sentences."""

    def __init__(self, encoder: Encoder, codec: SignCodec | None, statistics: Statistics) -> None:
        self._encoder, self._codec, self._statistics = encoder, codec, statistics
        unknown = encoder.tokenizer.token_to_id("[UNK]")
        self._unknown = encoder.tokenizer.token_to_id("<unk>") if unknown is None else unknown

    def question(self, text: str) -> Question:
        """Encode a question once for everything that compares it. Raises EmptyTextError on blank text."""
        if not text.strip():
            raise EmptyTextError("the question is empty; expected at least one word")
        encoded = next(iter(self._encoder.encode([text], query=True)))
        inside = encoded.offsets[:, 0] >= 0
        ids = encoded.ids[inside]
        unknown = np.zeros(len(ids), bool) if self._unknown is None else ids == self._unknown
        # a question mark is rare in most corpora, so its idf is high; it means nothing
        words = np.array([any(map(str.isalnum, text[a:b])) for a, b in encoded.offsets[inside]], dtype=bool)
        weights = np.where(unknown | ~words, 0.0, self._statistics.token_idf(ids))
        # in a small corpus "how" and "who" are rare as well, and would outweigh the words that matter
        stops = np.array([is_stop_word(text[a:b]) for a, b in encoded.offsets[inside]], dtype=bool)
        weights = np.where(stops, _STOP_WORD_SHARE * weights, weights)
        found = list(dict.fromkeys(terms(text)))
        term_weights = self._statistics.term_idf(found)
        return Question(
            text=text,
            vector=encoded.vector,
            tokens=self._codec.project(encoded.tokens[inside]) if self._codec else np.zeros((len(ids), 0), np.float32),
            weights=weights / max(weights.sum(), 1e-9),
            offsets=encoded.offsets[inside],
            known=float(1 - unknown.mean()) if len(ids) and self._codec else 0.0,
            term_weights=dict(zip(found, (term_weights / max(term_weights.sum(), 1e-9)).tolist(), strict=True)),
        )

    def score(self, question: Question, passages: Sequence[Passage]) -> NDArray[np.float64]:
        """How well each passage matches as a whole, float64 (n,), about [0, 1], higher is better."""
        readable = question.known * (1 - _OVERLAP_SHARE)
        overlap = np.array([_overlap(question, passage.terms) for passage in passages])
        if readable == 0:
            return overlap
        return readable * self._max_similarities(question, passages) + (1 - readable) * overlap

    def score_spans(
        self, question: Question, passage: Passage, spans: Sequence[tuple[int, int]]
    ) -> NDArray[np.float64]:
        """How well each stretch of one passage matches, float64 (n,). Spans are character offsets in its text.

        Tokens were encoded within the passage, so a sentence is judged in its context; what it lacks is lent in part by
        the span before it.
        """
        overlap = np.array([_overlap(question, term_set(passage.text[a:b])) for a, b in spans])
        if question.known == 0 or not spans:
            return overlap
        similarities = self._similarities(question, passage)
        best = np.stack(
            [
                similarities[chosen].max(axis=0) if len(chosen) else np.zeros(len(question.weights))
                for chosen in self._tokens_of(passage, spans)
            ]
        )
        lent = np.maximum(best[1:], (1 - _CARRY) * best[1:] + _CARRY * best[:-1])
        matched = np.concatenate([best[:1], lent]) @ question.weights
        return np.asarray(question.known * matched + (1 - question.known) * overlap)

    def matches(self, question: Question, passage: Passage, span: tuple[int, int]) -> list[Match]:
        """Which words of the question matched which words of a span of a passage, in question order.

        Weights are shares of the span's score: they add up to 1 at most.
        """
        found = _term_matches(question, passage.text, span) if question.known < 1 else []
        if question.known > 0:
            found += self._token_matches(question, passage, span)
        return _merged(question.text, passage.text, found)

    def _token_matches(self, question: Question, passage: Passage, span: tuple[int, int]) -> list[Match]:
        if not len(passage.codes):
            return []
        offsets = self._offsets(passage)
        chosen = (offsets[:, 0] >= span[0]) & (offsets[:, 0] < span[1])
        if not chosen.any():
            return []
        offsets, similarities = offsets[chosen], self._similarities(question, passage)[chosen]
        best = similarities.argmax(axis=0)
        return [
            Match(
                int(a),
                int(b),
                int(offsets[row][0]),
                int(offsets[row][1]),
                weight=question.known * float(weight),
                similarity=max(0.0, min(1.0, float(similarities[row, i]))),
            )
            for i, ((a, b), row, weight) in enumerate(zip(question.offsets, best, question.weights, strict=True))
            if weight > 0
        ]

    def _max_similarities(self, question: Question, passages: Sequence[Passage]) -> NDArray[np.float64]:
        """Weighted MaxSim of many passages, a block of them in one product."""
        scores = np.zeros(len(passages))
        filled = [index for index, passage in enumerate(passages) if len(passage.codes)]
        for first in range(0, len(filled), _BLOCK_PASSAGES):
            block = filled[first : first + _BLOCK_PASSAGES]
            codes = [passages[index].codes for index in block]
            similarities = self._signs(np.concatenate(codes)) @ question.tokens.T
            starts = np.cumsum([0, *map(len, codes[:-1])])
            scores[block] = np.maximum.reduceat(similarities, starts, axis=0) @ question.weights
        return scores

    def _similarities(self, question: Question, passage: Passage) -> Floats:
        """Every passage token against every question token: float32 (n, m)."""
        return self._signs(passage.codes) @ question.tokens.T

    def _signs(self, codes: Codes) -> Floats:
        if self._codec is None:
            raise IndexCorruptError("the index holds token codes but no codec; run: rag ingest --rebuild")
        return self._codec.signs(codes)

    def _offsets(self, passage: Passage) -> NDArray[np.int64]:
        """Characters of the passage's text that each code stands for; tokens of prefix and context lie below zero."""
        before = self._encoder.spec.passage_prefix + passage_input(passage.context, "")
        encoding = self._encoder.tokenizer.encode(clean(before + passage.text), add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) - len(before)
        if len(offsets) != len(passage.codes):
            raise IndexCorruptError(
                f"a passage has {len(passage.codes)} token codes but {len(offsets)} tokens; run: rag ingest --rebuild"
            )
        return offsets

    def _tokens_of(self, passage: Passage, spans: Sequence[tuple[int, int]]) -> list[NDArray[np.int64]]:
        if not len(passage.codes):
            return [np.zeros(0, np.int64) for _ in spans]
        starts = self._offsets(passage)[:, 0]
        return [np.flatnonzero((starts >= a) & (starts < b)) for a, b in spans]


def _overlap(question: Question, found: frozenset[str]) -> float:
    """Idf share of the question's terms that occur."""
    return sum(weight for term, weight in question.term_weights.items() if term in found)


def _term_matches(question: Question, text: str, span: tuple[int, int]) -> list[Match]:
    places: dict[str, tuple[int, int]] = {}
    for term, start, end in located_terms(text[span[0] : span[1]]):
        places.setdefault(term, (span[0] + start, span[0] + end))
    asked: dict[str, tuple[int, int]] = {}  # a term counts once, however often the question repeats it
    for term, start, end in located_terms(question.text):
        asked.setdefault(term, (start, end))
    return [
        Match(*asked[term], *places[term], (1 - question.known) * weight, 1.0)
        for term, weight in question.term_weights.items()
        if term in places
    ]


def _merged(question: str, text: str, found: Sequence[Match]) -> list[Match]:
    """Matches of word pieces as matches of whole words; a question word keeps its best piece, weights add up."""
    words: dict[tuple[int, int], Match] = {}
    for match in found:
        key = _word_around(question, match.question_start, match.question_end)
        start, end = _word_around(text, match.start, match.end)
        old = words.get(key)
        weight = match.weight + (old.weight if old else 0.0)
        best = match if old is None or match.similarity > old.similarity else None
        words[key] = (
            Match(*key, start, end, weight, match.similarity)
            if best or old is None
            else Match(*key, old.start, old.end, weight, old.similarity)
        )
    return [words[key] for key in sorted(words)]


def _word_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Grow a stretch of letters to the whole word it is part of, in scripts that use spaces."""
    while start > 0 and _joins(text[start - 1], text[start]):
        start -= 1
    while 0 < end < len(text) and _joins(text[end - 1], text[end]):
        end += 1
    return start, end


def _joins(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum() and left < "\u2e80" and right < "\u2e80"

"""Late interaction: how well the words of a question are matched by the words of a text, and which by which.

The encoder's own last-layer token vectors are compared by MaxSim (Khattab and Zaharia, ColBERT, SIGIR 2020): each
question token takes its best match, weighted by its inverse document frequency. Token vectors of passages are kept as
signs of their principal components, 16 bytes a token; questions stay in floats. Where the encoder cannot read the text
(its tokenizer knows little of the question), overlap of idf-weighted terms takes over by that share.

Knows vectors, tokens and terms; nothing of indexes, files or ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.analyze import Analyzer, Located, is_stop_word
from retrieval.encoder import Encoded, Encoder, clean, passage_input, require_words
from retrieval.errors import IndexCorruptError
from retrieval.statistics import Statistics, TermCounts, inverse_document_frequency

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

CODE_BITS = 128
_OVERLAP_SHARE = 0.15  # of the score is term overlap even in text the encoder reads well (docs/benchmarks.md)
_BLOCK_PASSAGES = 128  # compared in one product: 34 MB where each has 512 tokens
_PADDING = 32  # tokens; half the widest window, and a multiple of half of each other
_STOP_WORD_SHARE = 0.3  # of its idf is what a stop word of the question weighs
_CARRY = 0.5  # of a sentence's missing match is lent by the sentence before it: "He" and "it" refer back


class SignCodec:
    """Token vectors to sign bits of their first principal components, and questions to the same space.

    mean: float32 (dim,); basis: float32 (dim, bits), orthonormal columns.
    """

    def __init__(self, mean: Floats, basis: Floats) -> None:
        self._mean, self._basis = mean, basis
        self._origin = mean @ basis

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
        return np.packbits(tokens @ self._basis > self._origin, axis=1)

    def project(self, tokens: Floats) -> Floats:
        """Question tokens in the space of the codes: float32 (n, dim) -> (n, bits), unit rows."""
        projected = (tokens - self._mean) @ self._basis
        return np.asarray(projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-9), np.float32)

    def similarities(self, codes: Codes, tokens: Floats) -> Floats:
        """Every passage token against every projected question token: (n, bits / 8), (m, bits) -> float32 (n, m).

        The cosine of signs +-1 with the question, as one product of bits 0 and 1: twice as fast as making the signs.
        """
        products = np.unpackbits(codes, axis=1).astype(np.float32) @ tokens.T
        return np.asarray((2 * products - tokens.sum(axis=1)) / np.sqrt(np.float32(max(tokens.shape[1], 1))))

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
    tokenizer does not know the text. offsets: (m, 2), characters. readable: share of tokens the tokenizer knows,
    [0, 1]; known: the same, but 0 in an index without token codes, where tokens cannot be compared. term_weights: idf
    share of each term, sum 1.
    """

    text: str
    vector: Floats
    tokens: Floats
    weights: NDArray[np.float64]
    offsets: NDArray[np.int64]
    known: float
    term_weights: Mapping[str, float]
    readable: float


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage as the encoder read it: `codes` of the tokens of its context and its text, in order."""

    text: str
    codes: Codes
    context: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How n passages match a question of m tokens. All float32 in [-1, 1], higher is better; zeros without codes.

    best: (n, m), the best match of each question token anywhere in the passage. whole: (n,), their weighted sum.
    nearby: (n, 3), the same within the best stretch of 16, 32 and 64 tokens.
    phrases: (n, 2), pairs of neighbouring question tokens matched by neighbouring passage tokens: mean of both
    similarities, and the worse of them.
    """

    best: Floats
    whole: Floats
    nearby: Floats
    phrases: Floats


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

    def __init__(
        self,
        encoder: Encoder,
        codec: SignCodec | None,
        statistics: Statistics,
        analyzer: Analyzer,
        term_counts: TermCounts,
    ) -> None:
        self._encoder, self._codec, self._statistics = encoder, codec, statistics
        self._analyzer, self._term_counts = analyzer, term_counts
        unknown = encoder.tokenizer.token_to_id("[UNK]")
        self._unknown = encoder.tokenizer.token_to_id("<unk>") if unknown is None else unknown

    def question(self, text: str, encoded: Encoded | None = None) -> Question:
        """Encode a question once for everything that compares it; encoded: what the encoder made of it, if it has.

        Raises EmptyTextError on blank text.
        """
        require_words(text)
        encoded = encoded or next(iter(self._encoder.encode([text], query=True)))
        inside = encoded.offsets[:, 0] >= 0
        ids = encoded.ids[inside]
        unknown = np.zeros(len(ids), bool) if self._unknown is None else ids == self._unknown
        # a question mark is rare in most corpora, so its idf is high; it means nothing
        words = np.array([any(map(str.isalnum, text[a:b])) for a, b in encoded.offsets[inside]], dtype=bool)
        weights = np.where(unknown | ~words, 0.0, self._statistics.token_idf(ids))
        # in a small corpus "how" and "who" are rare as well, and would outweigh the words that matter
        stops = np.array([is_stop_word(text[a:b]) for a, b in encoded.offsets[inside]], dtype=bool)
        weights = np.where(stops, _STOP_WORD_SHARE * weights, weights)
        readable = float(1 - unknown.mean()) if len(ids) else 0.0
        found = list(dict.fromkeys(self._analyzer.terms(text)))
        term_weights = self.term_idf(found)
        return Question(
            text=text,
            vector=encoded.vector,
            tokens=self._codec.project(encoded.tokens[inside]) if self._codec else np.zeros((len(ids), 0), np.float32),
            weights=weights / max(weights.sum(), 1e-9),
            offsets=encoded.offsets[inside],
            known=readable if self._codec else 0.0,
            readable=readable,
            term_weights=dict(zip(found, (term_weights / max(term_weights.sum(), 1e-9)).tolist(), strict=True)),
        )

    def term_idf(self, terms: Sequence[str]) -> NDArray[np.float64]:
        """Inverse document frequency of index terms: float64 (n,)."""
        return inverse_document_frequency(self._term_counts.document_frequencies(terms), self._term_counts.size)

    def match(self, question: Question, whole: Floats, overlap: NDArray[np.float64]) -> NDArray[np.float64]:
        """How well passages match as a whole, float64 (n,), about [0, 1]: MaxSim where the encoder reads, else overlap.

        whole: (n,) of a Comparison. overlap: (n,) idf shares of the question's terms that occur.
        """
        readable = question.known * (1 - _OVERLAP_SHARE)
        return np.asarray(readable * whole + (1 - readable) * overlap)

    def compare(self, question: Question, codes: Sequence[Codes]) -> Comparison:
        """Compare a question with passages, given the codes of their tokens: uint8 (tokens, bytes) each."""
        m = len(question.weights)
        found = Comparison(*(np.zeros((len(codes), *shape), np.float32) for shape in ((m,), (), (3,), (2,))))
        if question.known == 0:
            return found
        filled = [index for index, code in enumerate(codes) if len(code)]
        for first in range(0, len(filled), _BLOCK_PASSAGES):
            block = filled[first : first + _BLOCK_PASSAGES]
            lengths = np.array([len(codes[index]) for index in block])
            padded = (lengths // _PADDING + 1) * _PADDING  # at least one, so that no pair reaches into the next passage
            starts = np.cumsum(padded) - padded
            inside = np.arange(padded.sum()) - np.repeat(starts, padded) < np.repeat(lengths, padded)
            similarities = np.full((len(inside), m), -1, np.float32)
            similarities[inside] = self._similarities(question, np.concatenate([codes[index] for index in block]))
            found.best[block] = np.maximum.reduceat(similarities, starts, axis=0)
            found.nearby[block] = _nearby(similarities, starts, question.weights)
            found.phrases[block] = _phrases(similarities, starts, question.weights)
        found.whole[:] = found.best @ question.weights
        return found

    def score_spans(
        self, question: Question, passage: Passage, spans: Sequence[tuple[int, int]]
    ) -> NDArray[np.float64]:
        """How well each stretch of one passage matches, float64 (n,). Spans are character offsets in its text.

        Tokens were encoded within the passage, so a sentence is judged in its context; what it lacks is lent in part by
        the span before it.
        """
        overlap = np.array([_overlap(question, self._analyzer.term_set(passage.text[a:b])) for a, b in spans])
        if question.known == 0 or not spans:
            return overlap
        similarities = self._similarities(question, passage.codes)
        best = np.stack(
            [
                similarities[chosen].max(axis=0) if len(chosen) else np.zeros(len(question.weights))
                for chosen in self._tokens_of(passage, spans)
            ]
        )
        lent = np.maximum(best[1:], (1 - _CARRY) * best[1:] + _CARRY * best[:-1])
        matched = np.concatenate([best[:1], lent]) @ question.weights
        return np.asarray(question.known * matched + (1 - question.known) * overlap)

    def align(self, question: Question, passage: Passage) -> tuple[Floats, NDArray[np.int64]]:
        """Every token of a passage against every token of a question: float32 (n, m), and its characters, int64 (n, 2).

        Tokens of the encoder's prefix and of the passage's context lie below zero. Nothing, (0, m), without codes.
        """
        if question.known == 0 or not len(passage.codes):
            return np.zeros((0, len(question.weights)), np.float32), np.zeros((0, 2), np.int64)
        return self._similarities(question, passage.codes), self._offsets(passage)

    def located_terms(self, text: str) -> Iterator[Located]:
        """The index terms of any text, as of a question or a passage, each with the characters it stands for."""
        return self._analyzer.located_terms(text)

    def matches(self, question: Question, passage: Passage, span: tuple[int, int]) -> list[Match]:
        """Which words of the question matched which words of a span of a passage, in question order.

        Weights are shares of the span's score: they add up to 1 at most.
        """
        found = self._term_matches(question, passage.text, span) if question.known < 1 else []
        if question.known > 0:
            found += self._token_matches(question, passage, span)
        return _merged(question.text, passage.text, found)

    def _term_matches(self, question: Question, text: str, span: tuple[int, int]) -> list[Match]:
        places: dict[str, tuple[int, int]] = {}
        for term, start, end in self._analyzer.located_terms(text[span[0] : span[1]]):
            places.setdefault(term, (span[0] + start, span[0] + end))
        asked: dict[str, tuple[int, int]] = {}  # a term counts once, however often the question repeats it
        for term, start, end in self._analyzer.located_terms(question.text):
            asked.setdefault(term, (start, end))
        return [
            Match(*asked[term], *places[term], (1 - question.known) * weight, 1.0)
            for term, weight in question.term_weights.items()
            if term in places
        ]

    def _token_matches(self, question: Question, passage: Passage, span: tuple[int, int]) -> list[Match]:
        if not len(passage.codes):
            return []
        offsets = self._offsets(passage)
        chosen = (offsets[:, 0] >= span[0]) & (offsets[:, 0] < span[1])
        if not chosen.any():
            return []
        offsets, similarities = offsets[chosen], self._similarities(question, passage.codes)[chosen]
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

    def _similarities(self, question: Question, codes: Codes) -> Floats:
        """Every passage token against every question token: float32 (n, m)."""
        if self._codec is None:
            raise IndexCorruptError("the index holds token codes but no codec; run: rag ingest --rebuild")
        return self._codec.similarities(codes, question.tokens)

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


def _nearby(similarities: Floats, starts: NDArray[np.int64], weights: NDArray[np.float64]) -> Floats:
    """Weighted MaxSim within the best window of 16, 32 and 64 tokens of each passage: float32 (n, 3).

    Windows overlap by half. Passages start at multiples of 32 rows, so half windows never hold two of them.
    """
    windows = []
    half = 8
    blocks = similarities.reshape(-1, half, similarities.shape[1]).max(axis=1)
    while half <= _PADDING:
        first = starts // half
        pairs = np.concatenate([np.maximum(blocks[:-1], blocks[1:]), blocks[-1:]])
        last = np.append(first[1:], len(blocks)) - 1
        pairs[last] = blocks[last]
        windows.append(np.maximum.reduceat(pairs @ weights, first))
        half *= 2
        blocks = blocks.reshape(-1, 2, blocks.shape[1]).max(axis=1) if half <= _PADDING else blocks
    return np.stack(windows, axis=1).astype(np.float32)


def _phrases(similarities: Floats, starts: NDArray[np.int64], weights: NDArray[np.float64]) -> Floats:
    """How well pairs of neighbouring question tokens are matched by neighbouring tokens: float32 (n, 2)."""
    pairs = (weights[:-1] + weights[1:]) / 2
    if not pairs.sum() > 0:  # one token is no phrase
        return np.repeat(np.maximum.reduceat(similarities @ weights, starts)[:, None], 2, axis=1).astype(np.float32)
    pairs /= pairs.sum()
    left, right = similarities[:-1, :-1], similarities[1:, 1:]
    both = (left + right) / 2
    both[starts[1:] - 1] = -1  # the padding of one passage and the first token of the next
    mean = np.maximum.reduceat(both, starts, axis=0) @ pairs
    worse = np.maximum.reduceat(np.minimum(left, right), starts, axis=0) @ pairs
    return np.stack([mean, worse], axis=1).astype(np.float32)


def _overlap(question: Question, found: frozenset[str]) -> float:
    """Idf share of the question's terms that occur."""
    return sum(weight for term, weight in question.term_weights.items() if term in found)


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

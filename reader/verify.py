"""Is a sentence of an answer borne out by the passages it cites: a label, a calibrated number, and the exact evidence.

Each claim is compared with windows of one to three neighbouring sentences of every passage by late interaction, word
order and exact facts (reader/facts.py: numbers, names, denials, directions); a logistic regression weighs them. Its
weights are data, fitted by bench/verifying.py: reader/verify.toml. A model that judges pairs of texts can be added.

Knows claims and passages; nothing of questions, answers or indexes.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from reader.facts import DENIED, Number, holds, names, numbers, reversed_words, same_kind, words
from reader.records import Label
from retrieval.analyze import is_stop_word
from retrieval.encoder import model_folder
from retrieval.errors import ConfigError, EmptyTextError, ModelError, TextTooLongError
from retrieval.interaction import Interaction, Passage, Question
from retrieval.sentences import sentences

Floats = NDArray[np.float64]
Span = tuple[int, int]
_T = TypeVar("_T")

SUPPORTED = 0.5
"""A claim with this much support is supported; classes count alike in the fit, so this is where they part."""

_COPIED = 0.97  # support of a sentence that stands in a passage word for word
_CONTRADICTED = 0.2  # at most, where the evidence has another number in its place, or says the opposite
_NEARLY_QUOTED = 0.6  # of a claim's words, in order: from here on a denial too many or too few is a misquotation
_NEAR = 4  # words from one to the next that both have
_NEARLY_COPIED = 0.85  # of a claim's words, in order, with every term that carries meaning
_TERM_MATCH = (0.3, 0.8)  # what a term counts as, as a token's similarity: absent, present
_LONGER = 0.02  # a longer window must match better by this much a sentence to be the evidence
_MOST_WORDS = 400  # of a window are put in order: the time is the product with the claim's
_MAX_BYTES = 100_000
_SHARPNESS = 8.0  # of the soft minimum
_GOOD_MATCH = 0.7  # what the same word in another sentence reaches
_NLI_BATCH = 16


@dataclass(frozen=True, slots=True)
class Evidence:
    """The stretch of a passage that bears a claim out best.

    passage: its position among the passages given. start, end: characters of its text, no white space at either end.
    score: [0, 1], how well this passage alone supports the claim.
    """

    passage: int
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Check:
    """What checking a claim found.

    support: [0, 1], about the share of such claims that are supported, where half of all are. evidence: one a passage
    that has words, best first. without: where asked for, the support by the other passages, for each passage in
    order; empty where fewer than two were given.
    """

    label: Label
    support: float
    evidence: tuple[Evidence, ...]
    without: tuple[float, ...] = ()


def _nothing(left_out: int) -> Check:
    """What checking finds without words, in a claim or in every passage."""
    return Check("unsupported", 0.0, (), without=(0.0,) * left_out if left_out > 1 else ())


class SupportModel(Protocol):
    """Judges whether a text bears out a claim: an NLI model, a hallucination detector."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """For each (evidence, claim) how likely the one bears out the other, [0, 1], in the order given."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A logistic regression: what each feature counts, and what is added."""

    features: Mapping[str, float]
    intercept: float

    def support(self, measured: Mapping[str, float]) -> float:
        """[0, 1], from what `Verifier.features` measured."""
        logit = self.intercept + sum(weight * measured[name] for name, weight in self.features.items())
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


class Verifier:
    """Checks claims, one sentence at a time, against the passages they cite."""

    def __init__(
        self, interaction: Interaction, *, model: SupportModel | None = None, weights: Weights | None = None
    ) -> None:
        self._interaction, self._model = interaction, model
        self._weights = weights or shipped_weights()

    def check(self, claim: str, passages: Sequence[Passage], *, each_left_out: bool = False) -> Check:
        """How well the passages bear the claim out. A claim or passages without words: unsupported, 0, no evidence.

        Markers ([1]) must be gone from the claim. One too long for the encoder is as good as its worse half.
        each_left_out: also how well the others do without each passage, which with five takes half as long again.
        """
        left_out = len(passages) if each_left_out else 0
        try:
            compared = self._compare(claim, passages)
        except TextTooLongError:
            kept = [half for half in _halves(claim) if any(map(str.isalnum, half))]
            halves = [self.check(half, passages, each_left_out=each_left_out) for half in kept]
            halves = halves or [_nothing(left_out)]
            worse = min(halves, key=lambda half: half.support)
            return replace(worse, without=tuple(map(min, zip(*(half.without for half in halves), strict=True))))
        return self._judge(compared, left_out) if compared else _nothing(left_out)

    def check_each(self, claim: str, passages: Sequence[Passage]) -> list[Check]:
        """The claim against each passage by itself, in order; the claim is encoded once.

        Evidence is by the position of its passage among all of them.
        """
        try:
            compared = self._compare(claim, passages)
        except TextTooLongError:
            alone = [self.check(claim, [passage]) for passage in passages]
            return [
                replace(check, evidence=tuple(replace(found, passage=index) for found in check.evidence))
                for index, check in enumerate(alone)
            ]
        views = compared.views if compared else ()
        judged = {view.passage: self._judge(replace(compared, views=(view,)), 0) for view in views if compared}
        return [judged.get(index, _nothing(0)) for index in range(len(passages))]

    def _judge(self, compared: _Compared, left_out: int) -> Check:
        """left_out: of so many passages, each in turn; one without words has no view: nothing is lost without it."""
        if not compared.views:
            return _nothing(left_out)
        claim = compared.claim
        spans = [view.best.span for view in compared.views]
        judged: list[float | None] = [None] * len(spans)
        if self._model is not None:
            texts = [view.text[a:b] for view, (a, b) in zip(compared.views, spans, strict=True)]
            judged = [*_judged(self._model, texts, claim)]
        alone = [self._support(compared, [view], own) for view, own in zip(compared.views, judged, strict=True)]
        label, support = self._decide(compared, judged, alone)
        evidence = (
            Evidence(view.passage, *span, score) for view, span, score in zip(compared.views, spans, alone, strict=True)
        )
        found = tuple(sorted(evidence, key=lambda one: -one.score))
        if left_out < 2:
            return Check(label, support, found)
        without = dict(self._without(compared, judged, alone))
        return Check(label, support, found, tuple(without.get(place, support) for place in range(left_out)))

    def _without(
        self, compared: _Compared, judged: Sequence[float | None], alone: Sequence[float]
    ) -> Iterator[tuple[int, float]]:
        """For the passage of each view, the support by the other views."""
        for at, view in enumerate(compared.views):
            others = replace(compared, views=_but(compared.views, at))
            yield view.passage, self._decide(others, _but(judged, at), _but(alone, at))[1] if others.views else 0.0

    def _decide(
        self, compared: _Compared, judged: Sequence[float | None], alone: Sequence[float]
    ) -> tuple[Label, float]:
        """Label and support by all views together, given what a model judged of each, and the support by each alone."""
        best = max((each for each in judged if each is not None), default=None)
        support = max(self._support(compared, compared.views, best), *alone)
        if self._contradicts(compared):
            return "contradicted-number", min(support, _CONTRADICTED)
        return "supported" if support >= SUPPORTED else "unsupported", support

    def features(self, claim: str, passages: Sequence[Passage]) -> dict[str, float] | None:
        """What the weights weigh; None where the claim or the passages have no words."""
        compared = self._compare(claim, passages)
        return _features(compared, compared.views) if compared and compared.views else None

    def _support(self, compared: _Compared, views: Sequence[_View], judged: float | None) -> float:
        """By the weights and what a model judged of the evidence; rules for copies and misquotes stand above both."""
        if any(_is_copied(compared, view) for view in views):
            return _COPIED
        support = self._weights.support(_features(compared, views))
        if judged is not None:
            support = _mean_of_logits(support, judged)
        quoted = [view.best for view in views if view.best.is_quoted]
        misquoted = bool(quoted) and all(_is_misquoted(compared, window) for window in quoted)
        return min(support, _CONTRADICTED) if misquoted else support

    def _contradicts(self, compared: _Compared) -> bool:
        """Whether a number is what speaks against the claim: the rest is borne out, and another stands in its place."""
        if any(_is_copied(compared, view) for view in compared.views):
            return False
        quoted = [view.best for view in compared.views if view.best.is_quoted]
        if quoted and all(map(_has_other_number, quoted)):
            return True
        missing = _missing_numbers(compared, compared.views)
        found = max((view.best for view in compared.views), key=lambda window: window.score).numbers
        others = [
            other for other in found if other.stated and not any(holds(other, own) for own in compared.units.numbers)
        ]
        if not any(same_kind(other, number) for other in others for number in missing):
            return False
        rest = compared.without([(number.start, number.end) for number in missing])
        if not rest.units.weights.sum() > 0:  # nothing but the number
            return True
        return self._weights.support(_features(rest, rest.views)) >= SUPPORTED

    def _compare(self, claim: str, passages: Sequence[Passage]) -> _Compared | None:
        try:
            asked = self._interaction.question(claim)
        except EmptyTextError:
            return None
        units = _units(self._interaction, asked)
        if not units.weights.sum() > 0:
            return None
        views = [self._view(asked, units, passage, index) for index, passage in enumerate(passages)]
        return _Compared(claim, units, tuple(view for view in views if view is not None))

    def _view(self, asked: Question, units: _Units, passage: Passage, index: int) -> _View | None:
        """A passage as the claim sees it; None where it has no words."""
        text = passage.text
        spans = [span for span in sentences(text) if any(map(str.isalnum, text[span[0] : span[1]]))]
        if not spans:
            return None
        starts = [start for start, _ in spans]
        similarities, offsets = self._interaction.align(asked, passage)
        tokens = _best_by_sentence(similarities, offsets[:, 0], starts)
        terms: list[list[str]] = [[] for _ in spans]
        for term, start, _ in self._interaction.located_terms(text):
            terms[max(0, bisect_right(starts, start) - 1)].append(term)
        present = np.array([[term in found for term in units.terms] for found in map(frozenset, terms)], dtype=bool)
        counted = np.where(present, _TERM_MATCH[1], _TERM_MATCH[0])[:, : units.counted_terms]
        matched = np.concatenate([tokens, counted], axis=1)
        there = numbers(text) if units.numbers else ()
        for number in there:  # as good as the same word, however it is written
            row = max(0, bisect_right(starts, number.start) - 1)
            held = [(wanted.start, wanted.end) for wanted in units.numbers if holds(number, wanted)]
            same = _inside(units.spans, held)
            matched[row, same] = np.maximum(matched[row, same], _TERM_MATCH[1])
            present[row, _inside(units.term_spans, held)] = True
        return _View(
            passage=index,
            text=text,
            numbers=(*there, *numbers(passage.context)),
            plain_context=f" {' '.join(words(passage.context))} ",
            context_terms=frozenset(term for term, _, _ in self._interaction.located_terms(passage.context)),
            spans=spans,
            terms=terms,
            matched=matched,
            present=present,
            about=_mean_by_sentence(similarities.max(axis=1, initial=0.0), offsets[:, 0], starts),
            units=units,
        )


# ---- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Units:
    """What of a claim must be matched: its tokens, and by the share that the encoder cannot read, its terms.

    weights: (k,), sum 1, tokens first. spans: their characters. kinds: (k,), places in _KINDS. terms: every term of the
    claim, the first `counted_terms` of them among the units (all or none). term_weights: idf shares, sum 1. numbers:
    those that need bearing out.
    """

    weights: Floats
    spans: Sequence[Span]
    terms: Sequence[str]
    term_weights: Floats
    term_spans: Sequence[Span]
    counted_terms: int
    kinds: NDArray[np.int64]
    words: Sequence[str]
    numbers: Sequence[Number]

    def without(self, spans: Sequence[Span]) -> _Units:
        """The same claim, as if it said nothing there."""
        return replace(
            self,
            weights=_silenced(self.weights, self.spans, spans),
            term_weights=_silenced(self.term_weights, self.term_spans, spans),
            numbers=[one for one in self.numbers if not _inside([(one.start, one.end)], spans)[0]],
        )


def _silenced(weights: Floats, places: Sequence[Span], spans: Sequence[Span]) -> Floats:
    left = np.where(_inside(places, spans), 0.0, weights)
    return np.asarray(left / max(left.sum(), 1e-9))


def _inside(places: Sequence[Span], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Which places share a character with one of the spans."""
    return np.array([any(a < end and start < b for start, end in spans) for a, b in places], dtype=bool)


def _units(interaction: Interaction, asked: Question) -> _Units:
    places: dict[str, Span] = {}
    for term, start, end in interaction.located_terms(asked.text):
        places.setdefault(term, (start, end))
    terms = list(asked.term_weights)
    counted = terms if asked.known < 1 else []
    term_weights = np.array(list(asked.term_weights.values()), dtype=np.float64)
    spans = [*((int(a), int(b)) for a, b in asked.offsets), *(places[term] for term in counted)]
    return _Units(
        weights=np.concatenate([asked.known * asked.weights, (1 - asked.known) * term_weights[: len(counted)]]),
        spans=spans,
        terms=terms,
        term_weights=term_weights,
        term_spans=[places[term] for term in terms],
        counted_terms=len(counted),
        kinds=np.array([_kind(asked.text, span) for span in spans], dtype=np.int64),
        words=words(asked.text),
        numbers=[number for number in numbers(asked.text) if number.stated],
    )


def _kind(text: str, span: Span) -> int:
    written = text[slice(*span)]
    if any(map(str.isdigit, written)):
        return _KINDS.index("numbers")
    if is_stop_word(written):
        return _KINDS.index("small words")
    return _KINDS.index("names" if span[0] > 0 and written[:1].isupper() else "words")


@dataclass(frozen=True)
class _Window:
    """Neighbouring sentences of a passage. matched: (k,), the best match of each unit of the claim."""

    text: str
    span: Span
    terms: Sequence[str]
    matched: Floats
    present: NDArray[np.bool_]
    about: float
    score: float
    said: Sequence[str]

    @cached_property
    def words(self) -> list[str]:
        return words(self.text)[:_MOST_WORDS]

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        return numbers(self.text)

    @cached_property
    def aligned(self) -> list[Span]:
        """Places in the claim's words and in these that correspond, in order."""
        return _aligned(self.said, self.words)

    @cached_property
    def is_quoted(self) -> bool:
        """Whether so many of the claim's words stand here in order that a difference must be meant."""
        return len(self.aligned) >= _NEARLY_QUOTED * len(self.said) and bool(self.aligned)

    @cached_property
    def gaps(self) -> list[tuple[Span, Span]]:
        """Where claim and window part between two words that they share, and soon meet again: both stretches.

        What the claim begins or ends with stands for as many words before or behind those that both have.
        """
        (first, before), (last, after) = self.aligned[0], self.aligned[-1]
        left = (-1, max(-1, before - first - 1))
        right = (len(self.said), min(len(self.words), after + len(self.said) - last))
        return [
            ((a, b), (left, right))
            for (a, left), (b, right) in pairwise([left, *self.aligned, right])
            if b - a <= _NEAR and right - left <= _NEAR
        ]

    @cached_property
    def replaced(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """What the claim says and what stands in its place, alone and with the words that both have around it."""
        return [
            (
                (_text(self.said[a + 1 : b]), _text(self.words[left + 1 : right])),
                (_text(self.said[max(0, a) : b + 1]), _text(self.words[max(0, left) : right + 1])),
            )
            for (a, b), (left, right) in (self.gaps if self.is_quoted else ())
            if b - a > 1 and right - left > 1
        ]

    @cached_property
    def run(self) -> int:
        """How many words on end the claim and these have in common."""
        return _longest_run(self.said, self.words)


@dataclass(frozen=True)
class _View:
    """A passage as one claim sees it. A row a sentence: matched (s, k) by units, present (s, terms), about (s,)."""

    passage: int
    text: str
    numbers: Sequence[Number]
    plain_context: str
    context_terms: frozenset[str]
    spans: Sequence[Span]
    terms: Sequence[Sequence[str]]
    matched: Floats
    present: NDArray[np.bool_]
    about: Floats
    units: _Units

    @cached_property
    def single(self) -> _Window:
        """The best sentence."""
        return self._best(1)[1]

    @cached_property
    def best(self) -> _Window:
        """The best of one, two and three sentences; a longer one must be better by what makes it worth reading."""
        return max((self._best(size) for size in (1, 2, 3)), key=lambda found: found[0])[1]

    @cached_property
    def whole(self) -> Floats:
        return np.asarray(self.matched.max(axis=0))

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Which terms of the claim occur anywhere, context included."""
        named = np.array([term in self.context_terms for term in self.units.terms], dtype=bool)
        return np.asarray(named | self.present.any(axis=0))

    @cached_property
    def plain(self) -> str:
        return f" {' '.join(words(self.text))} "

    def _best(self, size: int) -> tuple[float, _Window]:
        size = min(size, len(self.spans))
        count = len(self.spans) - size + 1
        matched = np.maximum.reduce([self.matched[at : at + count] for at in range(size)])
        scores = matched @ self.units.weights
        at = int(scores.argmax())
        rows = slice(at, at + size)
        span = self.spans[at][0], self.spans[at + size - 1][1]
        window = _Window(
            text=self.text[slice(*span)],
            span=span,
            terms=[term for found in self.terms[rows] for term in found],
            matched=matched[at],
            present=np.asarray(self.present[rows].any(axis=0)),
            about=float(self.about[rows].mean()),
            score=float(scores[at]),
            said=self.units.words,
        )
        return window.score - _LONGER * (size - 1), window


@dataclass(frozen=True)
class _Compared:
    """A claim and the passages as it sees them."""

    claim: str
    units: _Units
    views: Sequence[_View]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return names(self.claim)

    def without(self, spans: Sequence[Span]) -> _Compared:
        units = self.units.without(spans)
        return _Compared(self.claim, units, [replace(view, units=units) for view in self.views])


# ---- features --------------------------------------------------------------------------------------------------------


_KINDS = ("words", "numbers", "names", "small words")
_MATCHED = (
    "score",  # MaxSim: the mean match of the claim's units by their weights
    "worst", "weak", "tenth", "quarter",  # the worst match, a soft minimum, the match of the worst tenth and quarter
    *(f"lost {kind}" for kind in _KINDS),  # how far below a good match they stay, by what they are
)  # fmt: skip
FEATURES = (
    *(f"{by}: {name}" for by in ("sentence", "window", "together") for name in _MATCHED),
    "terms", "all terms",  # idf share of its terms in the best window of a passage, in all passages together
    "pairs",  # share of its pairs of neighbouring terms that neighbour each other in a passage as well
    "in order", "run",  # share of its words that the best window has in this order, without a gap
    "about", "share",  # how far the best sentence, the best window speak of nothing else
    "no number", "other number",  # whether one of its numbers is in no passage, not in the best window
    "no name",  # share of its names that are in no passage
    "length", "evidence length", "passages",  # logarithms
)  # fmt: skip
"""What is measured of a claim against some passages, in this order: first how its units are matched by the best
sentence, the best window, and all passages together."""


def _features(compared: _Compared, views: Sequence[_View]) -> dict[str, float]:
    """What speaks for and against a claim, given some of the passages: a value for each of FEATURES."""
    units = compared.units
    best = max((view.best for view in views), key=lambda window: window.score)
    single = max((view.single for view in views), key=lambda window: window.score)
    together = np.maximum.reduce([view.whole for view in views])
    all_terms = float(np.logical_or.reduce([view.held for view in views]) @ units.term_weights)
    pairs = set(pairwise(units.terms))
    there = {pair for view in views for found in view.terms for pair in pairwise(found)}
    values = (
        *_matched(single.matched, units),
        *_matched(best.matched, units),
        *_matched(together, units),
        max(float(view.best.present @ units.term_weights) for view in views),
        all_terms,
        len(pairs & there) / len(pairs) if pairs else all_terms,
        len(best.aligned) / max(1, len(units.words)),
        best.run / max(1, len(units.words)),
        single.about,
        len({*best.terms} & {*units.terms}) / max(1, len({*best.terms})),
        float(bool(_missing_numbers(compared, views))),
        float(not all(any(holds(found, wanted) for found in best.numbers) for wanted in compared.units.numbers)),
        _missing_names(compared, views),
        float(np.log1p(np.count_nonzero(units.weights))),
        float(np.log1p(sum(len(found) for view in views for found in view.terms))),
        float(np.log1p(len(views))),
    )
    return dict(zip(FEATURES, values, strict=True))


def _matched(matched: Floats, units: _Units) -> tuple[float, ...]:
    """A value for each of _MATCHED."""
    counted = units.weights > 0
    order = np.argsort(matched[counted])
    values, reached = matched[counted][order], np.cumsum(units.weights[counted][order])
    lost = units.weights * np.clip(_GOOD_MATCH - matched, 0, None)
    return (
        float(matched @ units.weights),
        float(values[0]),
        _soft_minimum(matched, units.weights),
        float(values[np.searchsorted(reached, 0.1 * reached[-1])]),
        float(values[np.searchsorted(reached, 0.25 * reached[-1])]),
        *(float(lost[units.kinds == kind].sum()) for kind in range(len(_KINDS))),
    )


def _soft_minimum(matched: Floats, weights: Floats) -> float:
    """The worst matches, weighted, as a similarity; the rest hardly counts."""
    return float(-np.log(weights @ np.exp(-_SHARPNESS * matched)) / _SHARPNESS)


def _missing_numbers(compared: _Compared, views: Sequence[_View]) -> list[Number]:
    return [
        wanted
        for wanted in compared.units.numbers
        if not any(holds(found, wanted) for view in views for found in view.numbers)
    ]


def _missing_names(compared: _Compared, views: Sequence[_View]) -> float:
    """Share of the claim's names that no passage has, its context included."""
    if not compared.names:
        return 0.0
    written = "".join(view.plain + view.plain_context for view in views)
    return sum(f" {' '.join(words(name))}" not in written for name in compared.names) / len(compared.names)


def _is_copied(compared: _Compared, view: _View) -> bool:
    """Whether a passage has the claim word for word, or all but words that carry no meaning, with every fact."""
    if f" {' '.join(compared.units.words)} " in view.plain:
        return True
    window = view.best
    if not window.present.all() or _missing_numbers(compared, [view]) or _missing_names(compared, [view]):
        return False
    if window.is_quoted and _is_misquoted(compared, window):
        return False
    return len(window.aligned) >= _NEARLY_COPIED * len(compared.units.words)


def _is_misquoted(compared: _Compared, window: _Window) -> bool:
    """Whether what is nearly a copy says something else: a denial too many or too few, another name, a turned word."""
    return (
        _is_denied(window)
        or _has_other_number(window)
        or _has_other_name(compared, window)
        or any(reversed_words(*around) for _, around in window.replaced)
    )


def _is_denied(window: _Window) -> bool:
    said, stands = (set(places) for places in zip(*window.aligned, strict=True))
    if any(word == DENIED and at not in said for at, word in enumerate(window.said)):
        return True
    left_out = [at for at, word in enumerate(window.words) if word == DENIED and at not in stands]
    return any(left < at < right for at in left_out for _, (left, right) in window.gaps)


def _has_other_number(window: _Window) -> bool:
    return any(
        same_kind(one, other) and not holds(other, one)
        for (said, stands), _ in window.replaced
        for one in numbers(said)
        for other in numbers(stands)
    )


def _has_other_name(compared: _Compared, window: _Window) -> bool:
    """A name that the window has elsewhere may stand for a pronoun or for a part of it."""
    own, there = ({word for name in names(text) for word in words(name)} for text in (compared.claim, window.text))
    new, old = own.difference(window.words), there.difference(window.said)
    return any(
        new.intersection(words(said)) and old.intersection(words(stands)) for (said, stands), _ in window.replaced
    )


def _aligned(one: Sequence[str], other: Sequence[str]) -> list[Span]:
    """Places of the longest common subsequence of two lists of words, in order."""
    numbered = {word: at for at, word in enumerate(dict.fromkeys(other))}
    places = np.array([numbered[word] for word in other])
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=np.int32)
    for at, word in enumerate(one):
        row = table[at].copy()
        row[1:] = np.maximum(row[1:], row[:-1] + (places == numbered.get(word, -1)))
        table[at + 1] = np.maximum.accumulate(row)
    found: list[Span] = []
    left, right = len(one), len(other)
    while left and right:
        if table[left, right] == table[left - 1, right]:
            left -= 1
        elif table[left, right] == table[left, right - 1]:
            right -= 1
        else:
            left, right = left - 1, right - 1
            found.append((left, right))
    return found[::-1]


def _text(found: Sequence[str]) -> str:
    """Words as they are written: no space between Chinese characters."""
    return re.sub("(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])", "", " ".join(found))


def _longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest stretch of words that both have."""
    places: dict[str, list[int]] = {}
    for at, word in enumerate(other):
        places.setdefault(word, []).append(at)
    ending: dict[int, int] = {}
    longest = 0
    for word in one:
        ending = {at: ending.get(at - 1, 0) + 1 for at in places.get(word, ())}
        longest = max(longest, *ending.values(), 0)
    return longest


def _best_by_sentence(similarities: NDArray[np.float32], places: NDArray[np.int64], starts: Sequence[int]) -> Floats:
    """The best match of each token of the claim within each sentence: (s, m); nothing matches where it has no token."""
    best = np.zeros((len(starts), similarities.shape[1]))
    for row, (first, last) in enumerate(_rows_of(places, starts)):
        if first < last:
            best[row] = np.clip(similarities[first:last].max(axis=0), 0, 1)
    return best


def _mean_by_sentence(values: NDArray[np.float32], places: NDArray[np.int64], starts: Sequence[int]) -> Floats:
    return np.array([values[a:b].mean() if a < b else 0.0 for a, b in _rows_of(places, starts)], dtype=np.float64)


def _rows_of(places: NDArray[np.int64], starts: Sequence[int]) -> list[Span]:
    """Which rows, in order of place, belong to each sentence."""
    first = np.searchsorted(places, starts)
    return list(zip(first.tolist(), [*first[1:].tolist(), len(places)], strict=True))


# ---- weights ---------------------------------------------------------------------------------------------------------


@cache
def shipped_weights() -> Weights:
    """Those of this release. Raises ConfigError where the file was damaged."""
    with (files("reader") / "verify.toml").open("rb") as file:
        return read_weights(file.read(_MAX_BYTES + 1))


def read_weights(data: bytes) -> Weights:
    """Weights from TOML: `intercept`, and a number for every feature under [weights]. Raises ConfigError."""
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"the weights of the verifier have more than {_MAX_BYTES:,} bytes; reinstall cited-rag")
    try:
        table = tomllib.loads(data.decode("utf-8"))
        made = Weights({str(name): float(each) for name, each in table["weights"].items()}, float(table["intercept"]))
        if not np.isfinite([made.intercept, *made.features.values()]).all():
            raise ValueError("a number is not finite")  # noqa: TRY301 - one handler for all damage
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the weights of the verifier cannot be read ({error}); reinstall cited-rag") from error
    if unknown := set(made.features) ^ set(FEATURES):
        raise ConfigError(f"the weights of the verifier name other features: {sorted(unknown)}; reinstall cited-rag")
    return made


# ---- models that judge pairs -----------------------------------------------------------------------------------------


class NliModel:
    """A sentence-pair classifier with an entailment class, from a local folder or the local Hugging Face cache."""

    def __init__(self, tokenizer: Any, model: Any, entailment: int, *, device: str) -> None:
        self._tokenizer, self._model, self._entailment, self._device = tokenizer, model, entailment, device

    @classmethod
    def load(cls, name: str, *, device: str = "cpu") -> NliModel:
        """Load by folder or hub name; local safetensors only, nothing is fetched or executed. Raises ModelError."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            folder = str(model_folder(name))
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
        except (ModelError, OSError, ValueError, KeyError, ImportError) as error:
            found = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the support model {name!r} cannot be loaded from this machine ({found}); expected a folder, or a "
                f"model in the local Hugging Face cache; on a machine with network access run: rag models fetch {name}"
            ) from error
        return cls(tokenizer, model.eval().to(device), _entailment_index(name, model.config.id2label), device=device)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """How likely each text entails each claim, [0, 1]. The longer of the two is cut where both are too long."""
        import torch

        found: list[float] = []
        for first in range(0, len(pairs), _NLI_BATCH):
            batch = pairs[first : first + _NLI_BATCH]
            inputs = self._tokenizer(
                [evidence for evidence, _ in batch],
                [claim for _, claim in batch],
                truncation="longest_first",
                max_length=min(512, self._tokenizer.model_max_length),
                padding=True,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                logits = self._model(**inputs).logits.float()
            found += torch.softmax(logits, dim=-1)[:, self._entailment].tolist()
        return found


def _entailment_index(name: str, labels: Mapping[int, str]) -> int:
    found = [int(at) for at, label in labels.items() if re.fullmatch(r"entail(?:ment|ed|s)?", str(label).lower())]
    if len(found) != 1:
        raise ModelError(
            f"the support model {name!r} has the classes {', '.join(map(str, labels.values()))}; "
            "expected one called 'entailment'"
        )
    return found[0]


def _judged(model: SupportModel, texts: Sequence[str], claim: str) -> list[float]:
    judged = [float(score) for score in model.scores([(text, claim) for text in texts])]
    if len(judged) != len(texts) or not all(0 <= score <= 1 for score in judged):
        raise ModelError(
            f"the support model gave {len(judged)} scores for {len(texts)} pairs: {judged[:5]}; "
            "expected one in [0, 1] for each"
        )
    return judged


def _mean_of_logits(one: float, other: float) -> float:
    one, other = (float(np.clip(each, 1e-6, 1 - 1e-6)) for each in (one, other))
    logit = (np.log(one / (1 - one)) + np.log(other / (1 - other))) / 2
    return float(1 / (1 + np.exp(-logit)))


def _but(items: Sequence[_T], place: int) -> list[_T]:
    """All but the one in that place."""
    return [item for at, item in enumerate(items) if at != place]


def _halves(claim: str) -> tuple[str, str]:
    """A long claim in two, at white space near its middle where there is any."""
    middle = len(claim) // 2
    cut = claim.find(" ", middle, middle + 100)
    cut = middle if cut < 0 else cut
    return claim[:cut], claim[cut:]

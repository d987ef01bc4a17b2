"""Which sentences of the retrieved passages a prompt needs: those that late interaction finds to the point.

A sentence is kept while it is nearly as good as the best one, so that many are kept where many answer alike and few
where one does; a share of the text is kept in any case. Then what the kept ones lack: where a word of the question is
matched clearly better by a sentence left out, that one is kept as well (the other half of a question of two hops), and
the heading, table header or lead-in that a kept sentence stands under. Knows passages; nothing of prompts or tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reader.sentences import BLANK_LINE, Spans, announced, scores, stretches
from retrieval.interaction import Interaction, Passage, Question
from retrieval.records import Hit

Kept = tuple[tuple[int, int], ...]
Bools = NDArray[np.bool_]

# Chosen on squad1_dev, clapnq_dev, xquad_zh and cmrc2018_dev, amid a plateau: a step of .02 in
# NEARLY trades a point of the tokens for less than half a point of the answers (docs/benchmarks.md, compressing).
NEARLY = 0.83
"""Of the best sentence's score is what another must reach to be kept."""
LEAST_SHARE = 0.2
"""Of all characters is kept in any case, best sentences first. Long answers and Chinese need it."""
_PASSAGE_SHARE = 1.0  # of its passage's score a sentence is given; with .5 clapnq_dev keeps 95% instead of 98%
_RANK_COST = 0.03  # of the best score is what a sentence loses with each rank: the ranking knows more than MaxSim
_RANKS = 10  # that count so
_MISSED = 0.015  # of the question; hotpot100 keeps 94% of its answers with it, 68% without, for 3% more tokens
_SHORT_BYTES = 2000  # of all passages, about 500 tokens: little to gain, and rgb_en_fact would lose 14% of its answers
_SCRAP_CHARS = 25  # so short a "sentence" beside a kept one is kept: "On 23 June, Rep." belongs to what follows
_MAX_HEADING_CHARS = 120

_HEADING = re.compile(r"#{1,6}[ \t]")


class Compressor:
    """Chooses sentences. The same question and hits give the same sentences."""

    def __init__(self, interaction: Interaction, *, nearly: float = NEARLY, least_share: float = LEAST_SHARE) -> None:
        self._interaction, self._nearly, self._least_share = interaction, nearly, least_share

    def keep(self, question: Question, hits: Sequence[Hit], passages: Sequence[Passage]) -> list[Kept]:
        """Spans of each hit's text to show, ascending, apart by more than white space; none of a hit beside the point.

        `passages` are those of the hits, best hit first. Everything is kept where no sentence matches at all, and where
        there is little to leave out.
        """
        spans = [stretches(hit.text) for hit in hits]
        values = self._values(question, hits, passages, spans)
        best = max((value.max() for value in values if len(value)), default=0.0)
        size = sum(len(hit.text.encode("utf-8", "replace")) for hit in hits)
        if best <= 0 or size <= _SHORT_BYTES:
            return [_merged(each, np.ones(len(each), bool)) for each in spans]
        relative = [value / best - _RANK_COST * min(rank, _RANKS) for rank, value in enumerate(values)]
        chosen = self._best(relative, spans)
        self._add_missed(question, passages, spans, chosen)
        for hit, each, kept in zip(hits, spans, chosen, strict=True):
            _add_scraps(hit.text, each, kept)
            _add_context(hit.text, each, kept)
        return [_merged(each, kept) for each, kept in zip(spans, chosen, strict=True)]

    def _values(
        self, question: Question, hits: Sequence[Hit], passages: Sequence[Passage], spans: Sequence[Spans]
    ) -> list[NDArray[np.float64]]:
        return [
            scores(self._interaction, question, hit, passage, spans=each, passage_share=_PASSAGE_SHARE)
            for hit, passage, each in zip(hits, passages, spans, strict=True)
        ]

    def _best(self, relative: Sequence[NDArray[np.float64]], spans: Sequence[Spans]) -> list[Bools]:
        """All that is nearly as good as the best, and the next best until the least share is reached."""
        values = np.concatenate(relative)
        lengths = np.array([end - start for each in spans for start, end in each])
        order = np.argsort(-values, kind="stable")
        before = np.cumsum(lengths[order]) - lengths[order]
        kept = values >= self._nearly * values.max()
        kept[order] |= before < self._least_share * lengths.sum()
        return np.split(kept, np.cumsum([len(each) for each in spans])[:-1])

    def _add_missed(
        self, question: Question, passages: Sequence[Passage], spans: Sequence[Spans], chosen: Sequence[Bools]
    ) -> None:
        """Keep each sentence whose words match the question's better than anything kept, by as much as counts."""
        matched: dict[tuple[int, int], float] = defaultdict(float)
        best: dict[tuple[int, int], tuple[float, float, int, int]] = {}
        for at, (passage, each, kept) in enumerate(zip(passages, spans, chosen, strict=True)):
            for match in self._interaction.matches(question, passage, (0, len(passage.text))):
                word = match.question_start, match.question_end
                found = match.similarity, match.weight, at, match.start
                best[word] = max(best.get(word, found), found, key=lambda one: one[0])
            for span in _merged(each, kept):
                for match in self._interaction.matches(question, passage, span):
                    word = match.question_start, match.question_end
                    matched[word] = max(matched[word], match.similarity)
        gains: dict[tuple[int, int], float] = defaultdict(float)
        for word, (similarity, weight, at, start) in best.items():
            sentence = max(0, bisect_right([first for first, _ in spans[at]], start) - 1)
            gains[at, sentence] += weight * (similarity - matched[word])
        for (at, sentence), gain in gains.items():
            if gain >= _MISSED:
                chosen[at][sentence] = True


def _add_context(text: str, spans: Spans, kept: Bools) -> None:
    """Keep the heading, table header and lead-in that kept sentences stand under, and all that they announce."""
    ends = [end for _, end in spans]
    heading: list[int] = []
    table: list[int] = []
    for at, (start, end) in enumerate(spans):
        under = slice(at + 1, bisect_right(ends, announced(text, start, end)))
        if kept[at]:
            kept[under] = True
        elif kept[under].any():
            kept[at] = True
        if _HEADING.match(text, start):
            heading = [at] if end - start <= _MAX_HEADING_CHARS else []
        table = [*table, at] if text.startswith("|", start) else []
        if kept[at]:
            kept[heading + table[:2]] = True  # of a table the names of its columns and the rule below them


def _add_scraps(text: str, spans: Spans, kept: Bools) -> None:
    """Keep the shortest stretches that stand beside a kept sentence in its paragraph."""
    was = kept.copy()
    for at, ((_, one_end), (start, _)) in enumerate(pairwise(spans)):
        if was[at] != was[at + 1] and not BLANK_LINE.search(text[one_end:start]):
            other = at if was[at + 1] else at + 1
            kept[other] |= spans[other][1] - spans[other][0] <= _SCRAP_CHARS


def _merged(spans: Spans, kept: Bools) -> Kept:
    """Spans of the kept sentences; between neighbours there is white space alone, and they are one."""
    merged: list[tuple[int, int]] = []
    for at in np.flatnonzero(kept):
        start, end = spans[at]
        merged[-1:] = [(merged[-1][0], end)] if at and kept[at - 1] else [*merged[-1:], (start, end)]
    return tuple(merged)

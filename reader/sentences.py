"""The sentences of a passage as readers use them: none reaches out of a heading, none is endless, each has a score.

Knows text and late interaction; nothing of quotes or prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from retrieval.graphemes import Graphemes
from retrieval.interaction import Interaction, Passage, Question
from retrieval.records import Hit
from retrieval.sentences import sentences

Spans = list[tuple[int, int]]

LONGEST = 1200
"""Characters; a longer "sentence" (a log, a table, minified code) is read and quoted in pieces."""
MAX_LIST_CHARS = 600
"""A sentence that ends in a colon goes with what it announces, up to the next blank line, as far as this."""
BLANK_LINE = re.compile(r"(?:\r\n|\n|\r(?!\n))[ \t]*[\r\n]")


def stretches(text: str, headings: Sequence[tuple[int, int]] = ()) -> Spans:
    """Spans of the sentences of a passage, in order, blank ones left out; one too long is cut into pieces."""
    cuts = sorted({0, len(text), *(position for heading in headings for position in heading)})
    return [
        piece
        for first, last in pairwise(cuts)
        for start, end in sentences(text, first, last)
        for piece in pieces(text, start, end)
    ]


def scores(
    interaction: Interaction,
    question: Question,
    hit: Hit,
    passage: Passage,
    *,
    spans: Sequence[tuple[int, int]],
    passage_share: float,
) -> NDArray[np.float64]:
    """How well each stretch answers, float64 (n,): its own match and a share of its passage's."""
    matched = hit.score if hit.stages is None else hit.stages.interaction_score or 0.0
    return interaction.score_spans(question, passage, spans) + passage_share * matched


def pieces(text: str, start: int, end: int) -> Spans:
    """A sentence, cut where it is longer than LONGEST: at the last line end, else white space, else anywhere."""
    found = []
    graphemes = Graphemes(text)
    while end - start > LONGEST:
        furthest = start + LONGEST
        cut = max(text.rfind("\n", start, furthest), text.rfind("\r", start, furthest)) + 1
        if cut <= start:
            cut = text.rfind(" ", start, furthest) + 1
        if cut <= start:
            cut = next((at for at in range(furthest, start, -1) if graphemes.is_boundary(at)), furthest)
        found.append((start, cut))
        start = cut
    stripped = [
        (left + len(piece) - len(piece.lstrip()), left + len(piece.rstrip()))
        for left, right in [*found, (start, end)]
        for piece in [text[left:right]]
    ]
    return [(left, right) for left, right in stripped if left < right]


def announced(text: str, start: int, end: int) -> int:
    """Where the list or code ends that a sentence announces with a colon; `end` itself where it announces nothing."""
    if not text[start:end].endswith((":", "：")):
        return end
    first = end + len(text[end:]) - len(text[end:].lstrip())
    blank = BLANK_LINE.search(text, first)
    last = blank.start() if blank else len(text)
    if last - first > MAX_LIST_CHARS:
        last = max(text.rfind("\n", first, first + MAX_LIST_CHARS), text.rfind("\r", first, first + MAX_LIST_CHARS))
    return max(end, first + len(text[first:last].rstrip())) if last > first else end

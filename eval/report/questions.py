"""The questions of an evaluation as the page's data. Knows records; nothing of markup, scores or plots.

Everything that counts characters is done here, for a browser counts UTF-16 units: texts are handed over in pieces. A
passage is cut to its beginning and to what is marked in it; a number among its pieces is how many characters were left
out there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args

from eval.lost import came_out
from eval.records import Example, Judged, Prediction, Stage
from eval.report.text import shown
from reader.records import Citation
from retrieval.graphemes import Graphemes
from retrieval.records import Hit, Place

CITED, GOLD, UNSUPPORTED = 1, 2, 4
"""What a marked piece is: quoted by the answer, known to hold it, or a sentence that its sources do not bear out."""

HOLDS, RELEVANT = 1, 2
"""Why a passage is gold: it is known to hold the answer, or only its document to be relevant."""

Piece = str | int | tuple[str, int, tuple[int, ...]]

MOST_PASSAGE_CHARS = 20_000_000
"""Of all passages together; the questions after it come without, and say so. 5,000 questions have a fifth of it."""

_BEGINNING = 180
_AROUND = 120
_LONGEST = 1_200
_LONGEST_TEXT = 10_000
_WORD = 20
_SPACE = re.compile(r"\s")
_MOST_HITS = 20
_MOST_LISTED = 20
_NOT_BORNE_OUT = frozenset({"unsupported", "contradicted-number"})


@dataclass(slots=True)
class _Names:
    """Texts that many questions share, each written once."""

    known: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))

    def listed(self) -> list[str]:
        return [shown(text) for text in self.known]


def questions_data(
    judged: Sequence[Judged], predictions: Mapping[str, Prediction], *, points: Mapping[str, int]
) -> dict[str, Any]:
    """What the page's script reads. points: chunk_id -> place in the map. A question without prediction is shown so."""
    sources, kinds, measures = _Names(), _Names(), _Names()
    room, rows = MOST_PASSAGE_CHARS, []
    for one in judged:
        prediction = predictions.get(one.example.example_id)
        row = _question(one, sources, kinds, measures)
        if prediction is None:
            row["error"] = "there is no prediction for this question"
        else:
            hits = [_hit(hit, one, prediction, sources, points) for hit in prediction.hits[:_MOST_HITS]]
            row |= _answered(prediction, sources) | {"trace": list(_trace(one, prediction, sources))}
            room -= sum(map(_length, hits))
            row |= {"hits": hits, "more": max(0, len(prediction.hits) - _MOST_HITS)} if room > 0 else {"cut": True}
        rows.append({key: value for key, value in row.items() if value not in (None, "", [], ())})
    return {
        "stages": list(get_args(Stage)),
        "sources": sources.listed(),
        "kinds": kinds.listed(),
        "measures": measures.listed(),
        "questions": rows,
    }


def _question(one: Judged, sources: _Names, kinds: _Names, measures: _Names) -> dict[str, Any]:
    example = one.example
    relevant = sorted(example.relevant or {})
    return {
        "id": shown(example.example_id),
        "q": _short(example.question),
        "kind": kinds(example.kind),
        "history": [[_short(turn.question), _short(turn.answer)] for turn in example.history],
        "gold": [_short(text) for text in example.answers[:_MOST_LISTED]],
        "required": [[_short(text) for text in group] for group in example.required],
        "wrong": [_short(text) for text in example.wrong],
        "choices": [[_short(choice.text), choice.correct] for choice in example.choices],
        "answerable": example.answerable,
        "relevant": [sources(name) for name in relevant[:_MOST_LISTED]],
        "unlisted": max(0, len(relevant) - _MOST_LISTED),
        "missing": [sources(name) for name in one.missing[:_MOST_LISTED]],
        "stage": get_args(Stage).index(one.lost.stage) if one.lost else None,
        "why": shown(one.lost.why) if one.lost else None,
        "outcome": came_out(one),
        "values": [[measures(name), round(value, 4)] for name, value in one.values.items()],
    }


def _answered(prediction: Prediction, sources: _Names) -> dict[str, Any]:
    read = {hit.chunk_id: hit for hit in prediction.hits[:_MOST_HITS]}
    return {
        "a": list(_sentences(prediction)) if prediction.answer is not None else None,
        "abstained": prediction.abstained or None,
        "reason": shown(prediction.abstention) if prediction.abstention else None,
        "evidence": None if prediction.evidence is None else round(prediction.evidence, 3),
        "choice": prediction.choice,
        "error": shown(prediction.error) if prediction.error is not None else None,
        "times": [[shown(stage), round(ms, 1)] for stage, ms in prediction.timings_ms.items()],
        "quotes": [
            [one.marker, sources(one.source), one.line, one.page, shown(one.quote[:_LONGEST])]
            for one in prediction.citations
            if not (one.chunk_id in read and _stands(one, read[one.chunk_id]))
        ],
    }


def _sentences(prediction: Prediction) -> Iterator[Piece]:
    """The answer, its sentences that nothing bears out marked."""
    whole, at = prediction.answer or "", 0
    text = whole[:_LONGEST_TEXT]
    for one in prediction.sentences:
        if one.label in _NOT_BORNE_OUT and at <= one.start < one.end <= len(text):
            yield from filter(None, [shown(text[at : one.start])])
            yield shown(text[one.start : one.end]), UNSUPPORTED, ()
            at = one.end
    yield from filter(None, [shown(text[at:]), len(whole) - len(text)])


def _trace(one: Judged, prediction: Prediction, sources: _Names) -> Iterator[list[Any]]:
    """The gold passages that were looked at: source, rank by meaning, by words, fused, in the end, and whether read."""
    placed = list(enumerate(prediction.candidates, start=1))
    found = [(rank, each) for rank, each in placed if _is_gold(one, (each.chunk_id, *each.twins), each.sources)]
    for rank, each in found[:_MOST_LISTED]:
        ranks = [each.dense_rank, each.lexical_rank, each.fused_rank, rank]
        yield [
            sources(each.sources[0] if each.sources else "?"),
            *ranks,
            each.chunk_id in prediction.read if prediction.read else None,
        ]


def _is_gold(one: Judged, chunk_ids: Iterable[str], sources: Iterable[str]) -> bool:
    """By passage, or by document where no passage is known."""
    if one.gold_passages:
        return not set(one.gold_passages).isdisjoint(chunk_ids)
    return not set(one.example.relevant or ()).isdisjoint(sources)


def _hit(hit: Hit, one: Judged, prediction: Prediction, sources: _Names, points: Mapping[str, int]) -> dict[str, Any]:
    places: tuple[Hit | Place, ...] = (hit, *hit.also_in)
    gold = _is_gold(one, [place.chunk_id for place in places], [place.source for place in places])
    unread = bool(prediction.read) and hit.chunk_id not in prediction.read
    row = {
        "rank": hit.rank,
        "source": sources(hit.source),
        "heading": shown(" › ".join(hit.heading)),
        "page": hit.page,
        "line": hit.line,
        "text": list(_passage(hit, prediction.citations, _gold_stretches(hit.text, one.example) if gold else ())),
        "gold": (HOLDS if one.gold_passages else RELEVANT) if gold else None,
        "unread": unread or None,
        "point": points.get(hit.chunk_id),
    }
    return {key: value for key, value in row.items() if value not in (None, "")}


def _stands(citation: Citation, hit: Hit) -> bool:
    """Whether the quote is, to the character, where the citation says."""
    start, end = citation.start - hit.start, citation.end - hit.start
    return 0 <= start <= end <= len(hit.text) and hit.text[start:end] == citation.quote


def _gold_stretches(text: str, example: Example) -> Iterator[tuple[int, int]]:
    """Where the evidence stands in a passage, or the answers where no evidence is known; the first place of each."""
    for wanted in example.evidence or example.answers:
        if wanted and (start := text.find(wanted)) >= 0:
            yield start, start + len(wanted)


# ---- cutting ---------------------------------------------------------------------------------------------------------


def _passage(hit: Hit, citations: Sequence[Citation], gold: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    """The passage in pieces: its beginning, and what is marked with what stands around it."""
    marks = [(start, end, GOLD, 0) for start, end in gold]
    marks += [
        (one.start - hit.start, one.end - hit.start, CITED, one.marker)
        for one in citations
        if one.chunk_id == hit.chunk_id and _stands(one, hit)
    ]
    text, at = hit.text, 0
    for start, end in _stretches(text, [(start, end) for start, end, _, _ in marks]):
        if start > at:
            yield start - at
        borders = {start, end, *(min(max(edge, start), end) for mark in marks for edge in mark[:2])}
        edges = sorted(borders)
        for first, last in pairwise(edges):
            over = [mark for mark in marks if mark[0] <= first and last <= mark[1]]
            kind = CITED * any(mark[2] == CITED for mark in over) | GOLD * any(mark[2] == GOLD for mark in over)
            piece = shown(text[first:last])
            yield (
                (piece, kind, tuple(sorted({mark[3] for mark in over if mark[3] and mark[1] == last})))
                if over
                else piece
            )
        at = end
    if at < len(text):
        yield len(text) - at


def _stretches(text: str, marks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is shown of a text: ascending, apart from one another, cut between characters as people see them."""
    whole = Graphemes(text)
    wanted = [(0, _BEGINNING), *((start - _AROUND, min(end, start + _LONGEST) + _AROUND) for start, end in marks)]
    merged: list[list[int]] = []
    for start, end in sorted((max(0, start), min(len(text), end)) for start, end in wanted):
        if merged and start <= merged[-1][1] + _AROUND:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    if len(text) - merged[-1][1] < _AROUND:  # a rest that short is not worth a cut
        merged[-1][1] = len(text)
    return [(_moved(text, whole, start), _moved(text, whole, end)) for start, end in merged]


def _moved(text: str, whole: Graphemes, position: int) -> int:
    """The end of a word close after a position; where there is none, that of a character as people see it."""
    close = _SPACE.search(text, position, position + _WORD)
    position = close.start() if close and 0 < position < len(text) else position
    while not whole.is_boundary(position):
        position += 1
    return position


def _short(text: str) -> str:
    rest = len(text) - _LONGEST_TEXT
    return shown(text[:_LONGEST_TEXT]) + (f" … {rest:,} characters left out" if rest > 0 else "")


def _length(hit: Mapping[str, Any]) -> int:
    return sum(
        len(piece if isinstance(piece, str) else piece[0]) for piece in hit["text"] if not isinstance(piece, int)
    )

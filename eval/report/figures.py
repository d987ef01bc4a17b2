"""What the page says in numbers: the headline, the tables, where questions were lost, the manifest. Knows no markup."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from eval.lost import came_out
from eval.records import Judged, Stage

_SECTIONS = {
    "retrieval": "Retrieval",
    "answer": "Answers",
    "abstention": "Abstention",
    "citations": "Citations",
    "judge": "Judge",
}

_KEY_MEASURES = (
    "retrieval.success@1",
    "answer.correct",
    "abstention.accuracy",
    "citations.gold_precision",
    "retrieval.recall@5",
    "retrieval.ndcg@10",
    "answer.f1",
    "retrieval.mrr@10",
    "citations.precision",
)
_KEY_FIGURES = 5

_STAGES: Mapping[str, str] = {
    "not in index": "No indexed passage holds the answer.",
    "not retrieved": "The search looked at other passages.",
    "lost in fusion": "Found by words or by meaning, then put too low.",
    "lost in re-ranking": "High enough until the last ordering.",
    "cut from the prompt": "Found, but the reader was not given it.",
    "wrongly abstained": "The answer was there; none was given.",
    "reader missed it": "The passage was read, the answer is not right.",
    "citation wrong": "Right, but what it cites does not show it.",
    "answered without an answer in the documents": "Nothing to find, and answered all the same.",
    "failed": "An error was met.",
    "wrong": "Nothing that was recorded says where.",
}

_MEANINGS = {
    "retrieval": (
        (r"success@(\d+)", "a relevant {what} is {among}"),
        (r"recall@(\d+)", "of the relevant {what}s, those {among}"),
        (r"precision@(\d+)", "of the first {k} {what}s, those that are relevant"),
        (r"ndcg@(\d+)", "order of the first {k}; 100 where the best come first"),
        (r"mrr@(\d+)", "1 over the rank of the first relevant {what}"),
        (r"map@(\d+)", "precision at each relevant {what}, averaged"),
    ),
    "answer": (
        (r"correct", "right by what is known of the answer"),
        (r"exact_match", "the known answer and nothing else"),
        (r"f1", "words shared with the known answer"),
        (r"recall", "words of the known answer that it has"),
        (r"contained", "the known answer stands in it"),
        (r"not_wrong", "no answer known to be wrong stands in it"),
        (r"rouge_l", "longest run of words shared with a long known answer"),
        (r"choice", "the right choice was taken"),
        (r"similarity", "nearness to the known answer, by the encoder"),
    ),
    "abstention": (
        (r"accuracy", "answered or abstained, whichever was right"),
        (r"answered_answerable", "questions with an answer that got one"),
        (r"abstained_unanswerable", "questions without an answer that got none"),
        (r"useful", "a right answer, or an abstention where there is none"),
        (r"selective_accuracy", "right among those answered"),
        (r"auroc", "more evidence where there is an answer, of all pairs"),
        (r"accuracy_coverage_area", "right among the surest, over every share of them"),
    ),
    "citations": (
        (r"validity", "citations of a passage that the reader was given"),
        (r"span_exact", "quotes that stand in the document to the character"),
        (r"precision", "citations that their sentence needs"),
        (r"recall", "sentences that their citations bear out"),
        (r"support", "sentences with citations that are supported"),
        (r"gold_precision", "cited documents that are relevant"),
        (r"gold_recall", "relevant documents that are cited"),
    ),
    "judge": ((r"correctness", "a model's mark, from 1 to 5"),),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A measure as it is shown. at, low_at, high_at: places on its scale, from 0 to 100; None without a scale."""

    section: str
    name: str
    meaning: str
    value: str
    interval: str
    n: str
    at: float | None
    low_at: float | None
    high_at: float | None


Cells = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The measures of one section. more: further tables, each a head and rows of cells, (text, note)."""

    title: str
    rows: tuple[Row, ...]
    more: tuple[tuple[Cells, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """A stage and the questions it lost. before, after: the share still to be won, [0, 100], on either side of it."""

    stage: str
    meaning: str
    count: int
    share: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Flow:
    """Where the questions went: `total` that can be judged, through the stages that lost any, to those not lost."""

    total: int
    losses: tuple[Loss, ...]
    kept: int
    kept_share: str
    unjudged: int


def tables(scores: Mapping[str, Any]) -> tuple[Table, ...]:
    """A table for each section that has measures, in the order of the product."""
    found = [(name, title) for name, title in _SECTIONS.items() if scores.get(name)]
    made = []
    for name, title in found:
        rows = _without_repeats([_row(measure, score, section=name) for measure, score in scores[name].items()])
        more = {"retrieval": _baselines, "answer": _kinds, "abstention": _confusion}.get(name)
        made.append(Table(title, rows, tuple(filter(None, [more(scores)])) if more else ()))
    return tuple(made)


def key_figures(scores: Mapping[str, Any]) -> tuple[Row, ...]:
    """At most five measures that say most, the best known first; those without a value are left out."""
    known = [
        f"{section}.{measure}"
        for section in _SECTIONS
        for measure, score in scores.get(section, {}).items()
        if score.get("value") is not None
    ]
    chosen = [name for name in _KEY_MEASURES if name in known]
    chosen = (chosen + [name for name in known if name not in chosen])[:_KEY_FIGURES]
    chosen.sort(key=lambda name: list(_SECTIONS).index(name.split(".")[0]))
    return tuple(_row(name.split(".", 1)[1], _looked_up(scores, name), section=name.split(".")[0]) for name in chosen)


def flow(judged: Sequence[Judged]) -> Flow | None:
    """Where questions were lost, in the order that data flows; None without a question."""
    if not judged:
        return None
    lost = Counter(one.lost.stage for one in judged if one.lost)
    unjudged = sum(came_out(one) is None for one in judged)
    total = len(judged) - unjudged
    left, losses = total, []
    for stage in get_args(Stage):
        if count := lost[stage]:
            share = 100 * count / total
            losses.append(
                Loss(stage, _STAGES[stage], count, _percent(share), 100 * left / total, 100 * (left - count) / total)
            )
            left -= count
    return Flow(total, tuple(losses), left, _percent(100 * left / total if total else 0), unjudged)


def settings(manifest: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """The manifest as groups of (name, value): plain facts first, then a group for each nested part."""
    plain = tuple((key, _said(value)) for key, value in manifest.items() if not isinstance(value, Mapping))
    groups = [(key, tuple(_flat(value))) for key, value in manifest.items() if isinstance(value, Mapping) and value]
    return ((("run", plain),) if plain else ()) + tuple(groups)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _said(inner)


def _said(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    return "none" if value is None else str(value)


def _looked_up(scores: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section, measure = name.split(".", 1)
    found: Mapping[str, Any] = scores[section][measure]
    return found


def _row(measure: str, score: Mapping[str, Any], *, section: str) -> Row:
    value, low, high = (score.get(key) for key in ("value", "low", "high"))
    known = [one for one in (value, low, high) if one is not None]
    if all(0 <= one <= 1 for one in known):
        first, last, show = 0.0, 1.0, _share
    else:  # a judge's marks, from 1 to 5; of other numbers nobody knows the scale
        first, last, show = 1.0, 5.0, _plain
    scaled = bool(known) and all(first <= one <= last for one in known)

    def at(one: float | None) -> float | None:
        return round(100 * (one - first) / (last - first), 2) if scaled and one is not None else None

    return Row(
        section=_SECTIONS[section],
        name=measure,
        meaning=_meaning(section, measure),
        value=show(value) if value is not None else "–",
        interval=f"{show(low)} – {show(high)}" if low is not None and high is not None else "",
        n=f"{score.get('n', 0):,}",
        at=at(value),
        low_at=at(low),
        high_at=at(high),
    )


def _without_repeats(rows: Sequence[Row]) -> tuple[Row, ...]:
    """A measure at several depths is explained once."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.name.split("@")[0], row.name)
    return tuple(row if row.name in first.values() else replace(row, meaning="") for row in rows)


def _meaning(section: str, measure: str) -> str:
    what = "passage" if measure.startswith("passage_") else "document"
    for pattern, text in _MEANINGS.get(section, ()):
        if found := re.fullmatch(pattern, measure.removeprefix("passage_")):
            k = found[1] if found.re.groups else ""
            return text.format(what=what, k=k, among="first" if k == "1" else f"among the first {k}")
    return ""


def _confusion(scores: Mapping[str, Any]) -> tuple[Cells, ...]:
    """What was done with which questions."""
    found: Mapping[str, Mapping[str, int]] = scores.get("confusion") or {}
    done = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [_cells(name, *(f"{row.get(each, 0):,}" for each in done)) for name, row in found.items()]
    return (_cells("questions", *done), *rows) if rows else ()


def _kinds(scores: Mapping[str, Any]) -> tuple[Cells, ...]:
    """Questions by what the set says of them; nothing where all are of one kind."""
    found: Mapping[str, Mapping[str, Any]] = scores.get("kinds") or {}
    rows = [
        _cells(name, f"{row['questions']:,}", f"{row['lost']:,}", "–" if right is None else _share(right))
        for name, row in found.items()
        for right in [row.get("correct")]
    ]
    return (_cells("kind", "questions", "lost", "correct"), *rows) if len(rows) > 1 else ()


def _baselines(scores: Mapping[str, Any]) -> tuple[Cells, ...]:
    """What simpler rankings would have given, and how far each is from this run where that is sure (95%)."""
    found: Mapping[str, Mapping[str, Any]] = scores.get("baselines") or {}
    measures = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = []
    for name in measures:
        ours = (scores["retrieval"].get(name) or {}).get("value")
        theirs = [_beside(row[name]) if name in row else ("–", "") for row in found.values()]
        rows.append(((name, ""), ("–" if ours is None else _share(ours), ""), *theirs))
    return (_cells("beside simpler rankings", "this run", *found), *rows) if rows else ()


def _beside(score: Mapping[str, Any]) -> tuple[str, str]:
    above = score["above"]
    if not (above["low"] > 0 or above["high"] < 0):
        return _share(score["value"]), "about even"
    return _share(score["value"]), f"{_share(abs(above['difference']))} {'lower' if above['low'] > 0 else 'higher'}"


def _cells(*texts: str) -> Cells:
    return tuple((text, "") for text in texts)


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _plain(value: float) -> str:
    return f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{share:.1f}%"

"""Where a question was lost: the first stage, in the order that data flows, that did not pass on what answers it.

Knows the gold of a question and the ranks and citations of a prediction; never the index, a model or the settings.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.metrics import answers
from eval.records import Candidate, Example, Judged, Lost, Prediction

_SHOWN_CHARS = 300


ANSWER_MEASURES = ("answer.choice", "answer.correct", "citations.agreement")
"""What says whether an answer is right: the first of these that a question has."""


def wrong(values: Mapping[str, float], *, ranked: bool) -> Lost | None:
    """For recorded output, which says nothing of stages: whether a question came out wrong. ranked: it is a ranking."""
    if ranked:
        found = values.get("retrieval.success@10")
        return Lost("wrong", "no relevant document is among the first ten") if found == 0 else None
    said = next((values[name] for name in ANSWER_MEASURES if name in values), None)
    return Lost("wrong", "what was said is not right") if said == 0 else None


def came_out(one: Judged) -> Literal["lost", "right", "found"] | None:
    """How a question came out: its answer is right, or only its document was found; None where nobody can tell."""
    if one.lost:
        return "lost"
    if any(name in one.values for name in ANSWER_MEASURES):
        return "right"
    return "found" if any(name.startswith("retrieval.") for name in one.values) else None


def lost(
    example: Example,
    prediction: Prediction,
    *,
    gold_passages: Collection[str],
    missing: Collection[str],
    correct: bool | None,
    k: int,
    reranked: int,
) -> Lost | None:
    """The first stage that lost a question; None where it was not lost, or nobody knows what would be right.

    gold_passages: chunk_ids of the indexed passages that hold the answer. Where there are none although documents are
    known to be relevant (an answer in other words than theirs), any passage of a relevant document counts as gold, by
    Candidate.sources. missing: relevant sources that the index does not have. correct: whether the answer is right;
    None where nobody can tell. k: how many hits were asked for. reranked: how many of the fused candidates were
    re-ranked, 0 for none.

    A right answer that is rightly cited is not lost, even where the gold passage was not found: another may say it.
    What the search looked at was retrieved. Of its fused order a head is passed on: what is re-ranked, or what is read
    where nothing is. A gold passage below that head is lost in fusion.
    """
    if prediction.error is not None:
        return Lost("failed", f"no answer, because of an error: {_short(prediction.error)}")
    if example.answerable is False:
        return _unfounded(prediction)
    gold = _Gold.of(example, prediction, gold_passages, missing)
    if correct and _written(prediction) and not prediction.abstained:
        return _miscited(example, prediction, gold)
    reached = {one.chunk_id for one in prediction.hits}.union(prediction.read)
    if gold.known and gold.passages.isdisjoint(reached):
        return _not_found(example, prediction, gold, max(k, len(prediction.read)), reranked)
    return _not_read(example, prediction, gold, correct) if _written(prediction) else None


def _unfounded(prediction: Prediction) -> Lost | None:
    """A question the documents cannot answer is lost where it was answered all the same."""
    if prediction.abstained or not _written(prediction):
        return None
    seen = "" if prediction.evidence is None else f" (evidence {prediction.evidence:.2f})"
    return Lost(
        "answered without an answer in the documents", f"the documents hold no answer; it was answered anyway{seen}"
    )


# ---- retrieval -------------------------------------------------------------------------------------------------------


def _not_found(example: Example, prediction: Prediction, gold: _Gold, k: int, reranked: int) -> Lost:
    """Which stage of the search lost every gold passage."""
    if example.relevant and not gold.sources:
        named = _short(", ".join(sorted(example.relevant or ())))
        return Lost("not in index", f"no relevant document is in the index: {named}")
    placed = [(at, one) for at, one in enumerate(prediction.candidates, start=1) if one.chunk_id in gold.passages]
    if not placed:
        looked_at = len(prediction.candidates) or len(prediction.hits)
        return Lost(
            "not retrieved", f"no passage that {gold.says} is among the {looked_at} passages that the search looked at"
        )
    head, shown = reranked or k, f"the reader reads {k}" if _written(prediction) else f"{k} are shown"
    at, best = _furthest(placed, head)
    if best.fused_rank is None or best.fused_rank > head:
        fused = f"fused to {best.fused_rank}" if best.fused_rank else "not in the fused order"
        passed_on = f"the first {reranked} are re-ranked" if reranked else shown
        return Lost("lost in fusion", f"{_listed(best)}, {fused}; {passed_on}")
    path = f"{_listed(best)}, fused to {best.fused_rank}" + (f", re-ranked to {at}" if reranked else "")
    left_out = " but left out, as too like a better one or one too many of its document" if at <= k else ""
    return Lost("lost in re-ranking" if reranked else "lost in fusion", f"{path}{left_out}; {shown}")


def _furthest(placed: Sequence[tuple[int, Candidate]], head: int) -> tuple[int, Candidate]:
    """The gold candidate that came furthest, with its place in the final order, which counts within the head only."""

    def key(one: tuple[int, Candidate]) -> tuple[bool, float]:
        fused = math.inf if one[1].fused_rank is None else one[1].fused_rank
        return (True, fused) if fused > head else (False, one[0])

    return min(placed, key=key)


def _listed(one: Candidate) -> str:
    lists = ((one.lexical_rank, "words"), (one.dense_rank, "meaning"))
    ranks = " and ".join(f"{rank} by {name}" for rank, name in lists if rank is not None)
    return f"found at rank {ranks}" if ranks else "found in neither list"


# ---- reading ---------------------------------------------------------------------------------------------------------


def _not_read(example: Example, prediction: Prediction, gold: _Gold, correct: bool | None) -> Lost | None:
    """What happened to the gold hits on their way to the answer; where no gold is known, to the question."""
    shown = {hit.chunk_id: f"hit {hit.rank} of {len(prediction.hits)}" for hit in prediction.hits}
    hits = [named for chunk_id, named in shown.items() if chunk_id in gold.passages]
    read = [
        shown.get(chunk_id, "a passage below the hits") for chunk_id in prediction.read if chunk_id in gold.passages
    ]
    asked = prediction.abstention != "evidence"  # with too little evidence, no passage is given to anybody
    if hits and prediction.read and asked and not read:
        among = f"was not among the {len(prediction.read)} passages read"
        return Lost("cut from the prompt", f"{hits[0]} {gold.says}, but {among}")
    best = (read or hits or [""])[0]
    stands = f"{best} {gold.says}{' and was read' if read and asked else ''}" if best else ""
    if prediction.abstained:
        known = correct is False or example.answerable or stands
        return Lost("wrongly abstained", f"{_because(stands)}{_reason(prediction)}") if known else None
    if correct is False:
        seen = _cited(prediction, gold) if stands else ""
        return Lost("reader missed it", f"{_because(stands)}the answer given is not right{seen}")
    return None


def _because(stands: str) -> str:
    return f"{stands}, but " if stands else "which passage holds the answer is not known; "


def _reason(prediction: Prediction) -> str:
    evidence = "" if prediction.evidence is None else f" ({prediction.evidence:.2f})"
    reasons = {
        "evidence": f"the evidence{evidence} was found too little to ask the reader",
        "model": "the reader itself refused to answer",
        "verification": "what the reader wrote was withdrawn, as no source bears it out",
    }
    return reasons.get(prediction.abstention or "", "no answer was given")


def _cited(prediction: Prediction, gold: _Gold) -> str:
    cited = {one.chunk_id for one in prediction.citations}
    if not cited:
        return ""
    return "; it cites other passages" if gold.passages.isdisjoint(cited) else ", though it cites this passage"


# ---- citations -------------------------------------------------------------------------------------------------------


def _miscited(example: Example, prediction: Prediction, gold: _Gold) -> Lost | None:
    """A right answer is lost where a cited sentence is not borne out, or no citation leads to an answer."""
    if prediction.answer is None:  # a choice alone says nothing that could be cited
        return None
    for number, sentence in enumerate(prediction.sentences, start=1):
        if sentence.markers and sentence.label in ("unsupported", "contradicted-number"):
            cites = ", ".join(f"[{marker}]" for marker in sentence.markers)
            return Lost("citation wrong", f"the answer is right, but {cites} does not bear out sentence {number}")
    if not (gold.known or example.answers or example.required or example.evidence):
        return None
    golden = gold.passages | gold.relevant
    if any(one.chunk_id in golden or one.source in gold.sources for one in prediction.citations):
        return None
    quoted = "\n".join(one.quote for one in prediction.citations)
    if answers.correct(quoted, example) or answers.contained(quoted, example.evidence):
        return None
    cited = _short(", ".join(dict.fromkeys(one.source for one in prediction.citations)))
    seen = f"{cited} is cited, which does not hold it" if cited else "nothing is cited"
    return Lost("citation wrong", f"the answer is right, but {seen}")


# ---- what is gold ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Gold:
    """passages: chunk_ids that count as gold, or have the very same text. relevant: those of relevant documents, as far
    as a search saw them.

    sources: relevant documents that are in the index. known: whether anybody knows where an answer is. says: what is
    known of a gold passage.
    """

    passages: frozenset[str]
    relevant: frozenset[str]
    sources: frozenset[str]
    known: bool
    says: str

    @classmethod
    def of(cls, example: Example, prediction: Prediction, passages: Collection[str], missing: Collection[str]) -> _Gold:
        sources = frozenset(example.relevant or ()).difference(missing)
        seen = [*_seen(prediction)]
        same_text = frozenset(ids[0] for ids, _ in seen if not frozenset(passages).isdisjoint(ids))
        relevant = frozenset(ids[0] for ids, named in seen if not sources.isdisjoint(named))
        return cls(
            same_text.union(passages) if passages else relevant,
            relevant,
            sources,
            known=bool(passages or example.relevant),
            says="holds the answer" if passages else "is of a relevant document",
        )


def _seen(prediction: Prediction) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of every text: chunk_ids, its own first, and documents, as the dataset (candidates) or the index (hits) names
    them."""
    for one in prediction.candidates:
        yield (one.chunk_id, *one.twins), one.sources
    for hit in prediction.hits:
        yield (
            (hit.chunk_id, *(place.chunk_id for place in hit.also_in)),
            (hit.source, *(place.source for place in hit.also_in)),
        )


def _written(prediction: Prediction) -> bool:
    """Whether a reader was asked; retrieval alone leaves neither an answer nor a choice."""
    return prediction.answer is not None or prediction.choice is not None


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARS else f"{flat[: _SHOWN_CHARS - 3]}..."

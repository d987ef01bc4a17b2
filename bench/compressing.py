"""What compressing prompts saves and loses: tokens of the top five passages, and the gold answers still in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources, util
from itertools import accumulate

import numpy as np

from bench.data import DataMissingError, data_folder, rows
from bench.sets import opened, question_set
from bench.table import Table
from reader.compress import LEAST_SHARE, NEARLY, Compressor, Kept
from reader.sentences import stretches
from retrieval.interaction import Interaction
from retrieval.retriever import Retrieved
from retrieval.threads import one_blas_thread

SETS = ("squad1_dev", "clapnq_dev", "xquad_zh", "cmrc2018_dev", "drcd_dev", "hotpot100")
_QUESTIONS = 400
_PASSAGES = 5
_RULES = {  # what compression is given: nearly, least_share
    "less": (0.93, 0.12),
    "shipped": (NEARLY, LEAST_SHARE),
    "more": (0.76, 0.3),
    "fixed share": (2.0, 0.25),  # nothing is twice as good as the best
}
_WAYS = ("ours", "first sentences", "fewer passages", "overlap")

Gold = Callable[[Sequence[str]], tuple[float, ...]]
"""Texts -> the gold that is in them, one number in [0, 1] for each measure of the set."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One question under one rule. kept: what each of _WAYS leaves, each as gold by measure."""

    tokens: int
    tokens_kept: int
    whole: tuple[float, ...]
    kept: tuple[tuple[float, ...], ...]


def run(*, limit: int | None = None) -> Table:
    """Tokens and gold kept by set, rule and measure, beside three other ways to fill the same room."""
    return Table(
        "Compressing the top five passages",
        ("set", "questions", "measure", "rule", "tokens kept", "in whole passages", *(f"kept: {way}" for way in _WAYS)),
        [line for name in SETS for line in _lines(name, limit or _QUESTIONS)],
        "Tokens are Zephyr's, of passages without their head lines. *In whole passages*: the gold that the five hold,"
        " mean over the questions. *Kept*: how much of that is still there. The other ways get as many characters for"
        " each question, and may finish the sentence in which they end: the first sentences of each passage, whole"
        " passages by rank, and the sentences that share most idf with the question."
        f" Shipped is what reaches {NEARLY:.2f} of the best score, and {LEAST_SHARE:.0%} of the text in any case,"
        " chosen on the first four sets.",
    )


def _lines(name: str, limit: int) -> list[tuple[str, ...]]:
    measures, gold = _gold(name)
    count = _zephyr()
    asked = question_set(name)
    questions = [one for one in asked.questions if one.kind == "answerable" and one.number in gold]
    questions = questions[:: max(1, len(questions) // limit)][:limit]
    with opened(asked) as pipeline, one_blas_thread():
        retriever = pipeline.parts.retriever
        found = [(retriever.search(one.text, k=_PASSAGES), gold[one.number]) for one in questions]
        outcomes = {
            rule: [
                _outcome(retriever.interaction, retrieved, settings, gold=each, count=count)
                for retrieved, each in found
            ]
            for rule, settings in _RULES.items()
        }
    return [
        (name, str(len(questions)), measure, rule, *_figures(of_rule, at))
        for at, measure in enumerate(measures)
        for rule, of_rule in outcomes.items()
    ]


def _figures(outcomes: Sequence[_Outcome], measure: int) -> list[str]:
    whole = np.array([one.whole[measure] for one in outcomes])
    kept = np.array([[way[measure] for way in one.kept] for one in outcomes])
    share = sum(one.tokens_kept for one in outcomes) / sum(one.tokens for one in outcomes)
    return [f"{value:.3f}" for value in (share, whole.mean(), *kept.mean(axis=0) / whole.mean())]


def _outcome(
    interaction: Interaction,
    found: Retrieved,
    settings: tuple[float, float],
    *,
    gold: Gold,
    count: Callable[[str], int],
) -> _Outcome:
    compressor = Compressor(interaction, nearly=settings[0], least_share=settings[1])
    ours = compressor.keep(found.question, found.hits, found.passages)
    room = sum(end - start for spans in ours for start, end in spans)
    texts = [hit.text for hit in found.hits]
    ways = [_cut(texts, kept) for kept in (ours, *_others(interaction, found, room))]
    return _Outcome(
        tokens=sum(map(count, texts)),
        tokens_kept=sum(map(count, map(" … ".join, ways[0]))),
        whole=gold(texts),
        kept=tuple(gold([piece for pieces in way for piece in pieces]) for way in ways),
    )


def _others(interaction: Interaction, found: Retrieved, room: int) -> list[list[Kept]]:
    """What three simple rules keep in the same number of characters, in the order of _WAYS."""
    spans = [(at, *span) for at, hit in enumerate(found.hits) for span in stretches(hit.text)]
    read = replace(found.question, known=0.0)  # leaves the overlap of terms alone
    overlap = [
        score
        for at, passage in enumerate(found.passages)
        for score in interaction.score_spans(read, passage, [(a, b) for of, a, b in spans if of == at])
    ]
    by_start = sorted(range(len(spans)), key=lambda one: spans[one][1])
    by_overlap = sorted(range(len(spans)), key=lambda one: -overlap[one])
    kept = []
    for order in (by_start, range(len(spans)), by_overlap):
        ordered = [spans[one] for one in order]
        before = accumulate((end - start for _, start, end in ordered), initial=0)
        chosen = sorted(one for one, used in zip(ordered, before, strict=False) if used < room)
        kept.append([tuple((a, b) for of, a, b in chosen if of == at) for at in range(len(found.hits))])
    return kept


def _cut(texts: Sequence[str], kept: Sequence[Kept]) -> list[list[str]]:
    """The pieces of each passage; sentences side by side are one, as an answer may reach over both."""
    pieces: list[list[str]] = []
    for text, spans in zip(texts, kept, strict=True):
        joined: list[tuple[int, int]] = []
        for start, end in spans:
            side_by_side = joined and not text[joined[-1][1] : start].strip()
            joined[-1:] = [(joined[-1][0], end)] if side_by_side else [*joined[-1:], (start, end)]
        pieces.append([text[start:end] for start, end in joined])
    return pieces


def _gold(name: str) -> tuple[tuple[str, ...], dict[str, Gold]]:
    """The names of a set's measures, and for each question that has gold how to measure it."""
    found = list(rows(data_folder("eval", name) / "queries.jsonl"))
    if name == "clapnq_dev":
        made = {str(row["_id"]): _selected(row["selected_sentences"]) for row in found if row.get("selected_sentences")}
        return ("all selected sentences", "one of them", "share of them"), made
    return ("a gold answer",), {str(row["_id"]): _answers(row["answers"]) for row in found if row.get("answers")}


def _answers(given: object) -> Gold:
    answers = [re.sub(r"\s+", "", str(each).lower()) for each in given if str(each).strip()]  # type: ignore[attr-defined]  # JSON

    def gold(texts: Sequence[str]) -> tuple[float, ...]:
        plain = [re.sub(r"\s+", "", text.lower()) for text in texts]
        return (float(any(answer in text for answer in answers for text in plain)),)

    return gold


def _selected(given: object) -> Gold:
    """Sentences come tokenised, with other quotes and dashes: letters and digits are compared."""
    sentences = sorted({re.sub(r"[\W_]+", "", each.lower()) for several in given for each in several})  # type: ignore[attr-defined]  # JSON

    def gold(texts: Sequence[str]) -> tuple[float, ...]:
        plain = [re.sub(r"[\W_]+", "", text.lower()) for text in texts]
        held = [any(sentence in text for text in plain) for sentence in sentences]
        return float(all(held)), float(any(held)), sum(held) / len(held)

    return gold


def _zephyr() -> Callable[[str], int]:
    """Counts tokens as Zephyr-7B does. Raises DataMissingError where its tokenizer is not on this machine."""
    if util.find_spec("mistral_common") is None:
        raise DataMissingError("mistral-common, which carries Zephyr's tokenizer, is not installed")
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(str(resources.files("mistral_common") / "data" / "tokenizer.model.v1"))
    return cache(lambda text: len(tokenizer.encode(text, bos=False, eos=False)))

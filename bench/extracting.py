"""Which sentence of the right passage holds the answer: by MaxSim, by overlap of terms, and by the product's mix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.pipeline import Pipeline
from bench.data import data_folder, rows
from bench.sets import Asked, opened, question_set
from bench.table import Table
from eval.statistics import paired
from retrieval.interaction import Passage
from retrieval.sentences import sentences
from retrieval.threads import one_blas_thread

SETS = ("squad1_dev", "xquad_en", "xquad_zh", "cmrc2018_dev", "drcd_dev")
_QUESTIONS = 400
_WAYS = {"MaxSim": 1.0, "overlap": 0.0, "ours": None}  # the share of MaxSim; None: what the tokenizer knows


def run(*, limit: int | None = None) -> Table:
    """Share of questions whose best sentence of the gold document holds a gold answer."""
    lines = []
    for name in SETS:
        found = _measure(name, limit or _QUESTIONS)
        ours, others = found["ours"], {way: values for way, values in found.items() if way != "ours"}
        best = max(others, key=lambda way: others[way].mean())
        (above,) = paired(others[best][:, None], ours[:, None], seed=0)
        shares = (f"{values.mean():.3f}" for values in found.values())
        lines.append((name, str(len(ours)), *shares, f"{above.low:+.3f} to {above.high:+.3f} ({best})"))
    return Table(
        "The best sentence of the right passage",
        ("set", "questions", *_WAYS, "ours - better single, 95%"),
        lines,
        "Share of questions whose best sentence of the gold document holds a gold answer. Ours mixes both by the share"
        " of the question's tokens that the encoder's tokenizer knows (1.00 in English, about .35 in Chinese). The"
        " interval is a paired bootstrap.",
    )


def _measure(name: str, limit: int) -> dict[str, np.ndarray]:
    asked = question_set(name)
    answers = {
        str(row["_id"]): [_plain(str(text)) for text in given]
        for row in rows(data_folder("eval", name) / "queries.jsonl")
        if isinstance(given := row.get("answers"), list)
    }
    questions = [one for one in asked.questions if one.kind == "answerable" and answers.get(one.number)]
    found: dict[str, list[float]] = {way: [] for way in _WAYS}
    with opened(asked) as pipeline, one_blas_thread():
        rows_of = {facts.source: facts.row for facts in pipeline.parts.store.document_facts()}
        for one in questions[:: max(1, len(questions) // limit)][:limit]:
            row = rows_of[next(iter(one.relevant))]
            for way, holds in _best(pipeline, one, row, answers[one.number]).items():
                found[way].append(float(holds))
    return {way: np.array(values) for way, values in found.items()}


def _best(pipeline: Pipeline, asked: Asked, row: int, answers: Sequence[str]) -> dict[str, bool]:
    """Whether the best sentence of a document holds an answer, by each way."""
    store, interaction = pipeline.parts.store, pipeline.parts.retriever.interaction
    question = interaction.question(asked.text)
    chunks = [places[0] for places in store.chunks_of_embeddings(store.embeddings_of_documents([row])).values()]
    codes = store.token_codes([chunk.embedding for chunk in chunks])
    scored: dict[str, list[tuple[float, str]]] = {way: [] for way in _WAYS}
    for stored in chunks:
        text, spans = stored.chunk.text, list(sentences(stored.chunk.text))
        passage = Passage(text, codes[stored.embedding], stored.chunk.context)
        for way, share in _WAYS.items():
            read = question if share is None else replace(question, known=share)
            scores = interaction.score_spans(read, passage, spans).tolist()
            scored[way] += [(score, text[start:end]) for score, (start, end) in zip(scores, spans, strict=True)]
    return {
        way: any(answer in _plain(max(found, key=lambda one: one[0])[1]) for answer in answers)
        for way, found in scored.items()
    }


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", text.lower())

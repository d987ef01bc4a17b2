"""The predictions of a run turned into its scores, its TREC files and its report."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from app.config import Config
    from app.pipeline import Pipeline
    from eval.folder import RunFolder
    from eval.gold import GoldFinder
    from eval.records import Claim, Example, Judged, Prediction
    from eval.report.corpus_map import CorpusMap
    from eval.score import Recorded, Scoring, Similarity
    from retrieval.encoder import Encoder
    from retrieval.store import Store

_LEAST_READABLE = 0.5
"""Share of a text's tokens that the encoder must know for its vector to say what the text means."""

_LISTED = 100
"""Documents a question in a TREC file: as deep as any measure looks."""

_SEED = 0
"""Of the map: which passages are drawn, and where."""


def index_facts(store: Store) -> dict[str, Any]:
    """What tells one state of an index from another."""
    content = hashlib.sha256()
    rows = store.documents()
    for source, digest in sorted((row.source, row.content_hash) for row in rows):
        content.update(f"{source}\0{digest}\0".encode("utf-8", "surrogatepass"))
    return {
        "sha256": content.hexdigest(),
        "documents": len(rows),
        "chunks": sum(row.chunks for row in rows),
        "encoder": asdict(store.manifest.encoder),
        "chunking": asdict(store.manifest.chunking),
    }


class Scorer:
    """Turns the predictions of a run into its scores and its report."""

    def __init__(
        self, pipeline: Pipeline | None, config: Config, *, recorded: Recorded | None = None, with_map: bool = False
    ) -> None:
        """pipeline: over the index that was asked; None for recorded output of another system."""
        self._pipeline, self._config, self._recorded, self._with_map = pipeline, config, recorded, with_map

    def check(self, examples: Sequence[Example]) -> str | None:
        """Look the gold's documents up before anything is asked. Returns a remark where the index lacks some.

        Raises EvalError on a name that several documents may have.
        """
        finder = self._finder(examples)
        gone = list(dict.fromkeys(name for one in examples for name in finder.missing(one))) if finder else []
        asked = sum(bool(finder.missing(one)) for one in examples) if finder else 0
        more = f" and {len(gone) - 3:,} more" if len(gone) > 3 else ""
        return f"the index has not {', '.join(gone[:3])}{more}, which {asked:,} questions ask for" if gone else None

    def score(self, folder: RunFolder, examples: Sequence[Example]) -> None:
        """Write questions.jsonl, scores.json, the TREC files and report.html.

        Raises EvalError where the index is no longer the one that was asked.
        """
        from eval.gold import Gold
        from eval.score import document_runs, judge, scores

        self._require_the_same_index(folder)
        predictions = {one.example_id: one for one in folder.predictions()}
        finder = self._finder(examples)
        golds = [finder.find(one) if finder else Gold(one) for one in examples]
        judged = judge(golds, predictions, self._scoring())
        found = scores(judged, predictions)
        folder.write_questions(judged)
        if any(one.relevant for one in examples) and self._recorded != "answers":
            runs = document_runs(judged, predictions)
            self._write_trec(folder, examples, runs, names=finder.names if finder else {})
        self._write_report(folder, judged, predictions, found)
        folder.write_scores(found)

    def _require_the_same_index(self, folder: RunFolder) -> None:
        from eval.errors import EvalError

        if self._pipeline is None or index_facts(self._pipeline.parts.store) == dict(folder.manifest["index"]):
            return
        raise EvalError(
            f"the index was changed while it was asked, so that some answers in {folder.folder} are of the old one and"
            " some of the new one; run it again with --force"
        )

    def _finder(self, examples: Sequence[Example]) -> GoldFinder | None:
        from eval.gold import GoldFinder
        from eval.metrics.answers import contained

        if self._pipeline is None:
            return None
        return GoldFinder(self._pipeline.parts.store, examples, lambda text, answer: contained(text, [answer]))

    def _scoring(self) -> Scoring:
        from eval.score import Scoring

        if self._pipeline is None:
            return Scoring(self._config.top_k, 0, lambda _: None, recorded=self._recorded)
        store = self._pipeline.parts.store

        @lru_cache(maxsize=256)
        def text_of(doc_id: str) -> str | None:
            document = store.document(doc_id)
            return None if document is None else document.text

        from retrieval.retriever import SearchSettings

        reranked = 0 if self._config.reranker == "none" else SearchSettings().reranked
        return Scoring(self._config.top_k, reranked, text_of, similarity=_similarity(self._pipeline.encoder))

    @staticmethod
    def _write_trec(
        folder: RunFolder, examples: Sequence[Example], runs: Mapping[str, Sequence[str]], *, names: Mapping[str, str]
    ) -> None:
        """The ranking and the judgements; names: source in the index -> the dataset's name of it."""
        from eval.folder import QRELS_FILE, RUN_FILE
        from eval.trec import write_qrels, write_run

        named = {each: [names.get(one, one) for one in run[:_LISTED]] for each, run in runs.items()}
        write_run(folder.folder / RUN_FILE, named)
        write_qrels(folder.folder / QRELS_FILE, {one.example_id: one.relevant for one in examples if one.relevant})

    def _write_report(
        self,
        folder: RunFolder,
        judged: Sequence[Judged],
        predictions: Mapping[str, Prediction],
        found: Mapping[str, Any],
    ) -> None:
        from eval.folder import MAP, REPORT, write_text
        from eval.report.page import write_report
        from eval.wire import dumps

        drawn = self._map(self._pipeline.parts.store, predictions) if self._with_map and self._pipeline else None
        if drawn is not None:
            write_text(folder.folder / MAP, dumps(drawn))
        write_report(
            folder.folder / REPORT,
            manifest={name: fact for name, fact in folder.manifest.items() if fact is not None},
            scores=found,
            judged=judged,
            predictions=predictions,
            map=drawn,
        )

    @staticmethod
    def _map(store: Store, predictions: Mapping[str, Prediction]) -> CorpusMap | None:
        """The corpus in two dimensions: the passages that were hits, and of the others as many as can be drawn."""
        import numpy as np

        from eval.report.corpus_map import MOST_POINTS, corpus_map

        hits = {hit.chunk_id for one in predictions.values() for hit in one.hits}
        wanted = {each.embedding for each in store.chunks_by_id(hits).values()}
        others = [each for each in store.live_embeddings().tolist() if each not in wanted]
        random.Random(_SEED).shuffle(others)  # noqa: S311 - which passages to draw
        ids, vectors = store.vectors(np.array(sorted([*wanted, *others][:MOST_POINTS]), dtype=np.int64))
        chunks = store.chunks_of_embeddings(ids.tolist())
        firsts = [chunks[each][0] for each in ids.tolist()]
        if not firsts:
            return None
        return corpus_map(
            vectors,
            [one.chunk.chunk_id for one in firsts],
            sources=[one.source for one in firsts],
            titles=[" > ".join(one.chunk.heading) for one in firsts],
            seed=_SEED,
            keep=hits,
        )


class ClaimScorer:
    """Turns checks of claims into scores."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = claims

    def score(self, folder: RunFolder, _examples: Sequence[Example]) -> None:
        """Write questions.jsonl, scores.json and report.html."""
        from eval.claims import claim_scores, judge_claims
        from eval.folder import REPORT
        from eval.report.page import write_report

        predictions = {one.example_id: one for one in folder.predictions()}
        judged = judge_claims(self._claims, predictions)
        found = claim_scores(self._claims, judged, predictions)
        folder.write_questions(judged)
        write_report(
            folder.folder / REPORT, manifest=folder.manifest, scores=found, judged=judged, predictions=predictions
        )
        folder.write_scores(found)


def load_map(folder: Path) -> CorpusMap | None:
    """The map that a run's report was drawn with; None where it has none."""
    from eval.folder import MAP
    from eval.report.corpus_map import CorpusMap
    from eval.wire import read_lines

    path = folder / MAP
    return next(read_lines(CorpusMap, path), None) if path.exists() else None


def _similarity(encoder: Encoder) -> Similarity:
    """Cosine of an answer and the nearest gold, cut to [0, 1]; None where the encoder cannot read one of them whole."""

    def readable(text: str) -> bool:
        tokens = encoder.tokenizer.encode(text, add_special_tokens=False).tokens
        known = sum(token not in {"[UNK]", "<unk>"} for token in tokens)
        return 0 < len(tokens) <= encoder.spec.max_tokens - 2 and known >= _LEAST_READABLE * len(tokens)

    def similarity(pairs: Sequence[tuple[str, Sequence[str]]]) -> list[float | None]:
        texts = dict.fromkeys(text for answer, golds in pairs for text in (answer, *golds) if readable(text))
        vectors = dict(zip(texts, encoder.encode_passages(list(texts)), strict=True)) if texts else {}
        return [
            max((max(0.0, float(vectors[answer] @ vectors[gold])) for gold in golds if gold in vectors), default=None)
            if answer in vectors
            else None
            for answer, golds in pairs
        ]

    return similarity

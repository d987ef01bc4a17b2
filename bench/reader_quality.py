"""Does the extractive reader quote the answer? Open question sets, their paragraphs as the corpus."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.config import load_config
from app.pipeline import Pipeline
from ingest.records import Progress


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of the questions of a set; `one`, `two`: a gold answer stands in at most one, two sentences."""

    name: str
    questions: int
    paragraphs: int
    success_at_1: float
    recall_at_5: float
    one: float
    two: float
    right_paragraph: float
    abstained: float
    median_ms: float


def measure(folder: Path, work: Path, *, questions: int | None = None, part: int | None = None) -> Quality:
    """Index a BEIR folder's paragraphs as one file each and ask its questions. `part` 0 or 1 takes half of them."""
    work.mkdir(parents=True, exist_ok=True)
    sources = {}
    documents = work / "documents"
    documents.mkdir(exist_ok=True)
    for number, row in enumerate(_rows(folder / "corpus.jsonl")):
        sources[row["_id"]] = f"p{number:06d}.txt"
        path = documents / sources[row["_id"]]
        if not path.exists():
            path.write_text(row["text"], encoding="utf-8", newline="")
    gold: dict[str, set[str]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, _ = line.split("\t")
        gold.setdefault(query, set()).add(sources[document])
    flags = {"index": str(work / "index"), "profile": "embedded", "min_evidence": 0.0}
    pipelines = [Pipeline(load_config({**flags, "sentences": n}, {}, Path.cwd())) for n in (2, 1)]
    pipelines[0].ingest([documents], report=_silent)
    rows = [row for row in _rows(folder / "queries.jsonl") if row.get("answers") and row["_id"] in gold]
    random.Random(0).shuffle(rows)  # noqa: S311 - a fixed sample, not a secret
    rows = rows if part is None else rows[part::2]
    result = _ask(folder.name, pipelines, rows[:questions], gold, len(sources))
    for pipeline in pipelines:
        pipeline.close()
    return result


def _ask(
    name: str, pipelines: Sequence[Pipeline], rows: Sequence[dict], gold: dict[str, set[str]], paragraphs: int
) -> Quality:
    top = recalled = one = two = right = abstained = 0
    times = []
    for row in rows:
        started = time.perf_counter()
        answer = pipelines[0].ask(row["text"], k=5)
        times.append(1000 * (time.perf_counter() - started))
        wanted = gold[row["_id"]]
        found = [{hit.source, *(place.source for place in hit.also_in)} for hit in answer.hits]
        top += bool(found and found[0] & wanted)
        recalled += any(sources & wanted for sources in found[:5])
        abstained += answer.abstained
        right += bool(answer.citations and answer.citations[0].source in wanted)
        answers = [_plain(text) for text in row["answers"]]
        quotes = [_plain(citation.quote) for citation in answer.citations]
        two += any(text in quote for text in answers for quote in quotes)
        single = "".join(_plain(citation.quote) for citation in pipelines[1].ask(row["text"], k=5).citations)
        one += any(text in single for text in answers)
    n = max(1, len(rows))
    shares = (top / n, recalled / n, one / n, two / n, right / n, abstained / n)
    return Quality(name, len(rows), paragraphs, *shares, sorted(times)[len(times) // 2])


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", text.lower())


def _silent(_: Progress) -> None:
    return

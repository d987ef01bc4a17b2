"""How good is it on every open set: `rag eval run` over each, beside dense, BM25 and their reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.config import load_config, process_environment
from app.evaluation import Means, Wanted, evaluate
from app.pipeline import Pipeline
from bench.sets import CACHE, FILES, folder_of, opened, question_set
from bench.table import Table
from eval.folder import Run
from eval.score import measured

# Set -> the measure that says most of it: where one passage answers, whether it comes first.
SETS: Mapping[str, str] = {
    "squad1_dev": "success@1",
    "squad2_dev_big": "success@1",
    "xquad_en": "success@1",
    "xquad_zh": "success@1",
    "cmrc2018_dev": "success@1",
    "drcd_dev": "success@1",
    FILES: "success@1",
    "scifact": "ndcg@10",
    "cranfield": "ndcg@10",
    "hotpot100": "ndcg@10",
    "musique100": "ndcg@10",
    "multihoprag_facts": "ndcg@10",
    "clapnq_dev": "ndcg@10",
    "mtrag_un": "ndcg@10",
    "rgb_zh": "ndcg@10",
    "rgb_en_fact": "ndcg@10",
    "hf_quiz_en": "success@5",
    "hf_quiz_zh": "success@5",
}
_BASELINES = {"dense": "dense", "bm25": "BM25", "rrf": "RRF"}


class Tables(tuple[Table, ...]):
    """Several tables in one section of a page."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def run(*, limit: int | None = None) -> Tables:
    """Every set, as shipped: retrieval beside the baselines, answers and abstentions, where questions were lost."""
    runs = {}
    for name in SETS:
        runs[name] = run_set(name, limit=limit)
        print(_retrieval_line(name, runs[name]), _answer_line(name, runs[name]), flush=True)
    return Tables(
        (
            _table(
                "Retrieval: is the right document found?",
                ("set", "questions", "measure", *_BASELINES.values(), "ours, 95%", "ours - best baseline, 95%", "p"),
                [_retrieval_line(name, made) for name, made in runs.items()],
                "Documents ranked by their best passage; measures by ir_measures. Dense is the usual demo (cosine of"
                " pooled vectors), BM25 is tantivy over our analysis, RRF their reciprocal rank fusion (k = 60, 100 of"
                " each); all from the same searches. Intervals are Wilson's for shares and bootstrapped otherwise, p is"
                " of a randomisation test.",
            ),
            _table(
                "Answers: the extractive reader, as shipped",
                ("set", "correct, 95%", "refused", "false answers", "AUROC", "exact spans", "cites a relevant document",
                 "choice"),
                [_answer_line(name, made) for name, made in runs.items()],
                "Correct: of the answerable questions, those whose quotes hold a known answer, or at least half the"
                " words of a long one; a refusal is wrong. Refused: answerable questions that were not answered. False"
                " answers: unanswerable ones that were. AUROC: of evidence, answerable against not. Exact spans: quotes"
                " that are the very characters of their document. Choice: of questions with choices, those whose best"
                " supported choice is right.",
            ),
            _table(
                "Where questions were lost",
                ("set", "questions", "lost", *_stages(runs.values())),
                [_lost_line(name, made, _stages(runs.values())) for name, made in runs.items()],
                "The first stage, in the order that data flows, that did not pass on what answers the question.",
            ),
        )
    )  # fmt: skip


def run_set(name: str, *, limit: int | None = None, out: Path | None = None) -> Run:
    """The run of a set, in .rag/bench/runs; what was asked before, with the same program, is not asked again."""
    with opened(question_set(name)):
        pass  # brings the index up to date
    config = load_config({"index": str(CACHE / name), "profile": "embedded"}, process_environment(), Path.cwd())
    wanted = Wanted(folder_of(name), out or CACHE / "runs" / name, own_index=True, limit=limit, force=True)
    made = evaluate(wanted, config, Means(Pipeline))
    assert made is not None
    return made


def _table(title: str, columns: Sequence[str], lines: Sequence[tuple[str, ...]], note: str) -> Table:
    return Table(title, tuple(columns), list(lines), note)


def _retrieval_line(name: str, made: Run) -> tuple[str, ...]:
    measure = SETS[name]
    ours, baselines = made.scores["retrieval"][measure], made.scores["baselines"]
    best = max(_BASELINES, key=lambda each: baselines[each][measure]["value"])
    above = baselines[best][measure]["above"]
    return (
        name,
        f"{ours['n']:,}",
        measure,
        *(f"{baselines[each][measure]['value']:.3f}" for each in _BASELINES),
        _with_interval(ours),
        f"{above['difference']:+.3f} ({above['low']:+.3f} to {above['high']:+.3f}, {_BASELINES[best]})",
        f"{above['p']:.3f}",
    )


def _answer_line(name: str, made: Run) -> tuple[str, ...]:
    answer, abstention, citations = (made.scores[section] for section in ("answer", "abstention", "citations"))
    return (
        name,
        _correct(made),
        _complement(abstention.get("answered_answerable")),
        _complement(abstention.get("abstained_unanswerable")),
        _value(abstention.get("auroc")),
        _value(citations.get("span_exact")),
        _value(citations.get("gold_precision")),
        _value(answer.get("choice")),
    )


def _correct(made: Run) -> str:
    """The share of right answers among the answerable questions."""
    known = [one for one in made.judged.values() if one.example.answerable is not False]
    score = measured(known).get("answer.correct")
    return f"{_with_interval(asdict(score))} of {score.n:,}" if score else ""


def _stages(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(stage for made in runs for stage in made.scores["lost"]))


def _lost_line(name: str, made: Run, stages: Sequence[str]) -> tuple[str, ...]:
    lost, questions = made.scores["lost"], made.scores["questions"]
    return (
        name,
        f"{questions:,}",
        f"{sum(lost.values()) / questions:.3f}",
        *(f"{lost[stage] / questions:.3f}" if stage in lost else "" for stage in stages),
    )


def _with_interval(score: Mapping[str, Any]) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _value(score: Mapping[str, Any] | None) -> str:
    return "" if score is None else f"{score['value']:.3f}"


def _complement(score: Mapping[str, Any] | None) -> str:
    return "" if score is None else f"{1 - score['value']:.3f}"

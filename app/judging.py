"""What a language model does for evaluation: write questions about an index, and grade answers. Knows every room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ingest.records import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from app.evaluation import Means
    from app.pipeline import Pipeline
    from eval.critics import Verdict
    from eval.folder import Run
    from eval.generate import Generated, Passage
    from eval.judge import Agreement
    from eval.records import Example


def make_questions(pipeline: Pipeline, *, count: int, seed: int, means: Means) -> Generated:
    """Question-answer pairs from the passages of the index: by the reader's language model, or by templates."""
    passages = list(_passages(pipeline))

    def report(done: int) -> None:
        means.report(Progress("writing questions", done, count, "questions"))

    if pipeline.choice.reader == "extractive":
        from eval.cloze import cloze

        means.report(Progress("writing questions", 0, None, "questions"))
        return cloze(passages, count=count, seed=seed, analyzer=pipeline.analyzer)
    from eval.generate import generate

    model = pipeline.model("writing questions")
    return generate(passages, model, count=count, seed=seed, load_prompt=pipeline.prompt, report=report)


def _passages(pipeline: Pipeline) -> Iterator[Passage]:
    from eval.generate import Passage

    store = pipeline.parts.store
    for row in store.documents():
        for stored in store.chunks_of(row.doc_id):
            chunk = stored.chunk
            yield Passage(chunk.text, stored.source, chunk.start, chunk.heading, row.title)


@dataclass(frozen=True, slots=True)
class Graded:
    """What a judge found: how many answers it graded, how many verdicts could not be read, and the first of these."""

    answers: int
    unparsable: int
    first_unparsable: str = ""


def judge_run(made: Run, pipeline: Pipeline, means: Means) -> Graded:
    """Grade every answer of a run from 1 to 5 and write the grades into it: scores.json, questions.jsonl, the report.

    An abstention is graded like any answer. A verdict that cannot be read counts for no grade and is counted.
    """
    import json

    from app.scoring import load_map
    from eval.errors import EvalError
    from eval.folder import REPORT, VERDICTS, RunFolder, load_predictions, write_text
    from eval.judge import Item, judge
    from eval.metrics.answers import without_markers
    from eval.report.page import write_report
    from eval.score import scores

    predictions = load_predictions(made.folder)
    asked = [
        (one, Item(one.example.question, reference, without_markers(prediction.answer)))
        for one in made.judged.values()
        for prediction in [predictions.get(one.example.example_id)]
        if prediction is not None and prediction.answer is not None and (reference := _reference(one.example))
    ]
    if not asked:
        raise EvalError(f"no answer of {made.folder} can be graded: no question has a known answer and was answered")
    verdicts = judge(
        pipeline.model("a judge"),
        [item for _, item in asked],
        load_prompt=pipeline.prompt,
        report=lambda done: means.report(Progress("grading", done, len(asked), "answers")),
    )
    grades = {one.example.example_id: verdict.score for (one, _), verdict in zip(asked, verdicts, strict=True)}
    judged = [
        replace(one, values={**_without_judge(one.values), **_graded(grades.get(one.example.example_id))})
        for one in made.judged.values()
    ]
    found = scores(judged, predictions)
    graded = _counted(verdicts)
    prompts = {name: pipeline.prompt(name).sha256 for name in ("judge-en", "judge-zh")}
    found["judging"] = asdict(graded)
    lines = [
        {"id": one.example.example_id, **asdict(verdict)} for (one, _), verdict in zip(asked, verdicts, strict=True)
    ]
    write_text(made.folder / VERDICTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    folder = RunFolder(made.folder, made.manifest, frozenset(made.judged))
    folder.write_questions(judged)
    folder.write_scores(found)
    folder.write_manifest(judge={**pipeline.reader_model(), "prompts": prompts})
    write_report(
        made.folder / REPORT,
        manifest=folder.manifest,
        scores=found,
        judged=judged,
        predictions=predictions,
        map=load_map(made.folder),
    )
    return graded


def judge_file(path: Path, pipeline: Pipeline, means: Means) -> tuple[Agreement, Graded]:
    """Grade the answers of a file that people graded too, and compare."""
    from eval.judge import Rated, agreement, judge, load_judged, preference_agreement

    rows = load_judged(path)
    items = [item for row in rows for item in ([row.item] if isinstance(row, Rated) else [row.first, row.second])]
    verdicts = judge(
        pipeline.model("a judge"),
        items,
        load_prompt=pipeline.prompt,
        report=lambda done: means.report(Progress("grading", done, len(items), "answers")),
    )
    rated = [row.human for row in rows if isinstance(row, Rated)]
    if rated:
        return agreement(verdicts, rated), _counted(verdicts)
    preferred = [row.human for row in rows if not isinstance(row, Rated)]
    return preference_agreement(verdicts[::2], verdicts[1::2], preferred), _counted(verdicts)


def _reference(example: Example) -> str:
    """What the judge compares with; "" where nobody knows."""
    if example.answerable is False:
        return "There is no answer in the documents."
    if example.required:
        return "; ".join(" / ".join(group) for group in example.required)
    return " / ".join(example.answers)


def _graded(score: int | None) -> dict[str, float]:
    return {} if score is None else {"judge.correctness": float(score)}


def _without_judge(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not name.startswith("judge.")}


def _counted(verdicts: Sequence[Verdict]) -> Graded:
    bad = [verdict for verdict in verdicts if verdict.score is None]
    return Graded(len(verdicts), len(bad), bad[0].text[:500] if bad else "")

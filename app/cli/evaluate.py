"""`rag eval`: run a dataset, compare runs, guard against a loss, sweep settings, make questions, judge answers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import (
    INTERRUPTED,
    ConfigFlag,
    DeviceFlag,
    EncoderFlag,
    IndexFlag,
    JsonFlag,
    ProfileFlag,
    ReaderFlag,
    Session,
    TopKFlag,
    complain,
    note,
    print_json,
    stderr,
    stdout,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eval.folder import Run

app = typer.Typer(no_args_is_help=True, help="Measure how good the answers are, and where questions are lost.")

HEADLINES = (
    ("retrieval", ("success@1", "success@5", "recall@5", "mrr@10", "ndcg@10", "passage_success@1")),
    ("answer", ("correct", "contained", "exact_match", "f1", "recall", "similarity", "choice")),
    ("abstention", ("accuracy", "answered_answerable", "abstained_unanswerable", "useful", "auroc")),
    ("citations", ("validity", "span_exact", "recall", "precision", "support", "gold_precision", "gold_recall")),
)
"""What the terminal shows; scores.json and the report have every measure."""

DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A BEIR folder, SQuAD JSON, CSV or JSONL with question and answer, or a file of cases.",
        show_default=False,
    ),
]
OutFlag = Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder for the run.", show_default=False)]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace what an earlier run left in --out.")]


@app.callback()
def _group() -> None:
    """Measure how good the answers are, and where questions are lost."""


@app.command()
def run(
    context: typer.Context,
    *,
    dataset: DatasetArgument,
    out: OutFlag,
    retrieval_only: Annotated[bool, typer.Option("--retrieval-only", help="Search, and answer nothing.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="So many questions, spread evenly over all.")
    ] = None,
    force: ForceFlag = False,
    run_file: Annotated[
        str | None, typer.Option("--run", metavar="FILE", help="Score this TREC run of another system instead.")
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option("--answers", metavar="FILE", help="Score these answers instead: a JSON object, id to answer."),
    ] = None,
    with_map: Annotated[
        bool | None, typer.Option("--map/--no-map", help="Draw the corpus in the report (needs the extra map).")
    ] = None,
    as_json: JsonFlag = False,
    top_k: TopKFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Ask every question of a dataset and score what comes out. A run that was interrupted goes on."""
    from app.cli.progress import Reporter
    from app.evaluation import Means, Wanted, evaluate
    from app.pipeline import stop_on_interrupt

    if run_file and answers:
        raise typer.BadParameter("give --run or --answers, not both", param_hint="--run")
    session: Session = context.obj
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, reader=reader, top_k=top_k
    )
    wanted = Wanted(
        Path(dataset),
        Path(out),
        own_index="index" in settings.origins,
        reads=not retrieval_only,
        limit=limit,
        force=force,
        with_map=find_spec("openTSNE") is not None if with_map is None else with_map,
        run_file=Path(run_file) if run_file else None,
        answers_file=Path(answers) if answers else None,
    )
    with stop_on_interrupt() as stop, Reporter(stderr()) as progress:
        made = evaluate(wanted, settings, Means(session.open_pipeline, progress, note, stop))
    if made is None:
        complain("interrupted", f"what was asked is kept in {out}; the same command goes on from there")
        raise typer.Exit(INTERRUPTED)
    if as_json:
        print_json(made.scores)
    else:
        print_scores(made)


def print_scores(made: Run) -> None:
    """The main measures with their intervals, where questions were lost, and where the rest is."""
    from rich.text import Text

    from app.cli.text import visible

    console = stdout()
    shown = table("", "measure", "value", "95%", "questions", numbers=("value", "questions"))
    for section, names in HEADLINES:
        found = made.scores.get(section, {})
        for at, name in enumerate(name for name in names if name in found):
            score = found[name]
            interval = f"{score['low']:.3f} to {score['high']:.3f}"
            shown.add_row(
                Text(section if at == 0 else "", style="bold"), name, f"{score['value']:.3f}",
                Text(interval, style="dim"), f"{score['n']:,}",
            )  # fmt: skip
    console.print(shown)
    _print_lost(made.scores)
    _print_baselines(made.scores)
    console.print()
    seconds, asked = made.manifest.get("seconds"), made.manifest.get("asked")
    speed = made.manifest.get("questions_per_second")
    took = f"{asked:,} questions in {seconds:,.1f} s, {speed:,.1f} a second; " if asked and speed else ""
    console.print(f"{took}report: {visible(str(made.folder / 'report.html'))}", style="dim", soft_wrap=True)


def _print_lost(scores: Mapping[str, Any]) -> None:
    if not scores.get("lost"):
        return
    shown = table("lost", "questions", "share", numbers=("questions", "share"))
    for stage, count in scores["lost"].items():
        shown.add_row(stage, f"{count:,}", f"{count / scores['questions']:.1%}")
    stdout().print()
    stdout().print(shown)


def _print_baselines(scores: Mapping[str, Any]) -> None:
    found = scores.get("baselines")
    if not found:
        return
    names = ("success@1", "recall@5", "ndcg@10")
    shown = table("retrieval", *names, numbers=names)
    shown.add_row("this run", *(f"{scores['retrieval'][name]['value']:.3f}" for name in names))
    for baseline, measures in found.items():
        shown.add_row(baseline, *(f"{measures[name]['value']:.3f}" for name in names))
    stdout().print()
    stdout().print(shown)

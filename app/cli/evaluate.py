"""`rag eval`: run a dataset, compare runs, guard against a loss, sweep settings, make questions, judge answers."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import (
    FAILED,
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
from app.cli.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eval.compare import Comparison, Difference
    from eval.folder import Run
    from eval.gate import Gate

app = typer.Typer(no_args_is_help=True, help="Measure how good the answers are, and where questions are lost.")

HEADLINES = (
    ("retrieval", ("success@1", "success@5", "recall@5", "mrr@10", "ndcg@10", "passage_success@1")),
    ("answer", ("correct", "contained", "exact_match", "f1", "recall", "similarity", "choice")),
    ("abstention", ("accuracy", "answered_answerable", "abstained_unanswerable", "useful", "auroc")),
    (
        "citations",
        (
            "validity",
            "span_exact",
            "recall",
            "precision",
            "support",
            "gold_precision",
            "gold_recall",
            "agreement",
            "balanced_accuracy",
            "auroc",
        ),
    ),
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
        own_index=index is not None,
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


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)]


@app.command()
def compare(
    *,
    a: Annotated[str, typer.Argument(metavar="A", help="Folder of a finished run.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Folder of another one.", show_default=False)],
    other_dataset: Annotated[
        bool, typer.Option("--other-dataset", help="Compare though the datasets are not the same.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Show every measure.")] = False,
    show: Annotated[int, typer.Option("--show", min=0, metavar="N", help="How many flipped questions to list.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """Is B better than A: each measure with interval and p-value, and the questions that flipped."""
    from eval.compare import compare as compared
    from eval.folder import load_run

    found = compared(load_run(Path(a)), load_run(Path(b)), other_dataset=other_dataset)
    if as_json:
        print_json(found.to_record())
    else:
        _print_comparison(found, show=show, show_all=show_all)


def _is_main(one: Difference) -> bool:
    """Whether a measure is shown unasked: a main one, or one that shows a difference."""
    section, name = one.measure.split(".", 1)
    return one.verdict != "no difference shown" or name in dict(HEADLINES).get(section, ())


def _print_comparison(found: Comparison, *, show: int, show_all: bool) -> None:
    from rich.text import Text

    console = stdout()
    for line in found.notes:
        note(line)
    both = [setting for setting in found.settings if None not in (setting.a, setting.b)]
    for setting in both[:20]:
        console.print(f"{visible(setting.name)}: {setting.a} in A, {setting.b} in B", style="dim", soft_wrap=True)
    everything = found.differences if show_all else [one for one in found.differences if _is_main(one)]
    shown = table("", "measure", "A", "B", "B - A", "95%", "p", "n", numbers=("A", "B", "B - A", "p", "n"))
    style, section = {"better": "bold green", "worse": "bold red"}, ""
    for one in everything:
        heading, name = one.measure.split(".", 1)
        shown.add_row(
            Text("" if heading == section else heading, style="bold"), visible(name), f"{one.a:.3f}", f"{one.b:.3f}",
            Text(f"{one.difference:+.3f}", style=style.get(one.verdict, "")),
            Text(f"{one.low:+.3f}, {one.high:+.3f}", style="dim"),
            Text(f"{one.p_adjusted:.3f}", style=style.get(one.verdict, "")), Text(f"{one.n:,}", style="dim"),
        )  # fmt: skip
        section = heading
    console.print(shown)
    left_out = len(found.differences) - len(everything)
    more = f"; {left_out} more measures: --all" if left_out else ""
    tested = f"{found.n:,} questions; p: randomisation test of all measures together, two-sided{more}"
    console.print(tested, style="dim", soft_wrap=True)
    gained = sum(flip.right_in == "b" for flip in found.flips)
    console.print()
    console.print(f"{gained:,} questions only B has right, {len(found.flips) - gained:,} only A", style="bold")
    for flip in found.flips[:show]:
        other = "A" if flip.right_in == "b" else "B"
        where = f"{other} lost it: {flip.lost.stage}, {flip.lost.why}" if flip.lost else f"{other} has it wrong"
        console.print(f"  {'+' if flip.right_in == 'b' else '-'} {visible(flip.question)[:100]}", soft_wrap=True)
        console.print(f"    {visible(where)}", style="dim", soft_wrap=True)
    if len(found.flips) > show:
        console.print(f"  and {len(found.flips) - show:,} more; --show N lists them, --json has all", style="dim")
    _print_moves(found)
    console.print()
    console.print(_verdict(found), style="bold", soft_wrap=True)


def _verdict(found: Comparison) -> str:
    """In words, which measures are shown to differ."""
    names = {
        verdict: [one.measure for one in found.differences if one.verdict == verdict] for verdict in ("better", "worse")
    }
    said = [f"B is {verdict} in {', '.join(measures)}" for verdict, measures in names.items() if measures]
    return "; ".join(said) if said else f"no difference is shown: {found.n:,} questions do not tell these two apart"


def _print_moves(found: Comparison) -> None:
    """How many questions each run lost where."""
    stages = dict.fromkeys(stage for move in found.moves for stage in (move.a, move.b) if stage)
    if not stages:
        return
    shown = table("lost", "in A", "in B", numbers=("in A", "in B"))
    for stage in stages:
        counts = (sum(move.n for move in found.moves if getattr(move, side) == stage) for side in ("a", "b"))
        shown.add_row(stage, *map("{:,}".format, counts))
    stdout().print()
    stdout().print(shown)


@app.command()
def gate(
    *,
    run: RunArgument,
    baseline: Annotated[str, typer.Option("--baseline", metavar="RUN", help="The run to hold it against.")],
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", metavar="NAME", help="What to check, like answer.correct; several may be given."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", min=0.0001, max=0.5, help="Chance of a false alarm.")] = 0.05,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0.0, help="A drop of so much passes anyhow.")] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """Fail (exit 1) when a measure dropped significantly below a baseline: for your own CI."""
    from eval.folder import load_run
    from eval.gate import gate as checked

    found = checked(load_run(Path(run)), load_run(Path(baseline)), measures=measure, alpha=alpha, tolerance=tolerance)
    if as_json:
        print_json(found.to_record())
    else:
        _print_gate(found)
    if not found.passed:
        raise typer.Exit(FAILED)


def _print_gate(found: Gate) -> None:
    from rich.text import Text

    for line in found.notes:
        note(line)
    shown = table("", "measure", "baseline", "run", "difference", "95%", "p", numbers=("baseline", "run", "p"))
    for check in found.checks:
        shown.add_row(
            Text("passed", style="green") if check.passed else Text("FAILED", style="bold red"), check.measure,
            f"{check.baseline:.3f}", f"{check.run:.3f}", f"{check.difference:+.3f}",
            Text(f"{check.low:+.3f}, {check.high:+.3f}", style="dim"), f"{check.p:.3f}",
        )  # fmt: skip
    stdout().print(shown)
    told = "p: that a drop so large comes about by chance, all checks together, one-sided"
    stdout().print(told, style="dim", soft_wrap=True)
    failed = [check.measure for check in found.checks if not check.passed]
    stdout().print(f"failed: {', '.join(failed)}" if failed else "no significant drop", style="bold", soft_wrap=True)


@app.command()
def sweep(
    context: typer.Context,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A TOML file: dataset, metric, [grid].")],
    out: OutFlag,
    as_json: JsonFlag = False,
    profile: ProfileFlag = None,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Try every combination of settings and rank them, beside what they cost. A sweep that was interrupted goes on."""
    from app.cli.progress import Reporter
    from app.evaluation import Means
    from app.sweeping import run_sweep
    from eval.sweep import load_sweep

    session: Session = context.obj
    session.kept = f"what is finished is kept in {out}; the same command goes on from there"
    settings = session.config(config=config, profile=profile, device=device)
    asked = load_sweep(Path(file))
    with Reporter(stderr()) as progress:
        record = run_sweep(asked, settings, Path(out), Means(session.open_pipeline, progress, note))
    if as_json:
        print_json(record)
    else:
        _print_sweep(record)


def _print_sweep(record: Mapping[str, Any]) -> None:
    from rich.text import Text

    metric = record["metric"].split(".", 1)[1]
    numbers = (metric, "ms", "index MB", "peak MB")
    shown = table("", "settings", metric, "95%", "p", "ms", "index MB", "peak MB", numbers=numbers)
    for tried in record["ranking"]:
        score, costs = tried["score"], tried["costs"]
        settings = visible(", ".join(f"{key}={value}" for key, value in tried["settings"].items()) or "as configured")
        if tried["rank"] is None:
            shown.add_row("", Text(f"{settings}: {visible(tried['error'] or 'no value')}", style="red"))
            continue
        worse = f"{tried['p']:.3f}" if tried["p"] is not None else ""
        peaks = [peak for peak in costs.get("peak_memory_bytes", {}).values() if peak]
        shown.add_row(
            str(tried["rank"]), settings, f"{score['value']:.3f}",
            Text(f"{score['low']:.2f}-{score['high']:.2f}", style="dim"),
            Text(worse, style="red" if tried["below_best"] else "dim"),
            _number(costs.get("latency_ms", {}).get("total", {}).get("median"), 1),
            _number(costs.get("index_bytes"), 1e6), _number(max(peaks, default=None), 1e6),
        )  # fmt: skip
    shown.columns[3].no_wrap = True
    stdout().print(shown)
    stdout().print("p: that it falls short of the best by chance; ms: a question, median", style="dim", soft_wrap=True)


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:,.1f}"


@app.command()
def generate(
    context: typer.Context,
    *,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Where to write them, as JSON lines.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="How many questions.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which passages are drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Make a test set from your own index: with the reader's language model, or with templates where it has none."""
    from app.cli.progress import Reporter
    from app.evaluation import Means
    from app.judging import make_questions
    from eval.errors import EvalError
    from eval.generate import write_pairs

    session: Session = context.obj
    if Path(out).exists() and not force:  # before the work, not after it
        raise EvalError(f"{out} exists; name another file, or add --force to replace it")
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, reader=reader
    )
    with session.pipeline(settings) as pipeline, Reporter(stderr()) as progress:
        made = make_questions(pipeline, count=count, seed=seed, means=Means(session.open_pipeline, progress, note))
    if not made.pairs:
        raise EvalError(f"no question could be made: {_reasons(made.dropped) or 'the index is empty'}")
    write_pairs(Path(out), made.pairs, force=force)
    console = stdout()
    console.print(f"{len(made.pairs):,} questions of {made.passages:,} passages in {visible(out)}", soft_wrap=True)
    if made.dropped:
        console.print(f"not kept: {_reasons(made.dropped)}", style="dim", soft_wrap=True)
    if len(made.pairs) < count:
        note(f"the index gave {len(made.pairs):,} good questions, {count:,} were asked for")


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {visible(reason)}" for reason, count in dropped.items())


@app.command()
def judge(
    context: typer.Context,
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="A finished run; or a JSONL file of answers that people graded, to see how far the judge agrees.",
            show_default=False,
        ),
    ],
    as_json: JsonFlag = False,
    profile: ProfileFlag = None,
    reader: ReaderFlag = None,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Let a language model grade answers from 1 to 5."""
    from app.cli.progress import Reporter
    from app.evaluation import Means
    from app.judging import judge_file, judge_run
    from eval.folder import load_run

    session: Session = context.obj
    settings = session.config(config=config, profile=profile, reader=reader, device=device)
    with session.pipeline(settings) as pipeline, Reporter(stderr()) as progress:
        means = Means(session.open_pipeline, progress, note)
        if Path(target).is_dir():
            graded = judge_run(load_run(Path(target)), pipeline, means)
            record = dict(load_run(Path(target)).scores.get("judge", {}))
        else:
            agreed, graded = judge_file(Path(target), pipeline, means)
            record = asdict(agreed)
    if as_json:
        print_json({**record, **asdict(graded)})
        return
    for name, value in record.items():
        found = value["value"] if isinstance(value, dict) else value
        stdout().print(f"{name}: {found:.3f}" if isinstance(found, float) else f"{name}: {found}", soft_wrap=True)
    if graded.unparsable:
        unread = f"{graded.unparsable:,} of {graded.answers:,} verdicts could not be read"
        note(f"{unread}; the first: {graded.first_unparsable}")

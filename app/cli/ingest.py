"""`rag ingest`: read folders and files into the index, and say what happened to each."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

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
    Session,
    complain,
    note,
    print_json,
    stderr,
    stdout,
    table,
)
from retrieval.errors import RagError

if TYPE_CHECKING:
    from rich.console import Console

    from ingest.records import IngestReport, Progress

NAMES, ROWS = 3, 20
"""How many failed files are named for one reason, and how many reasons."""
EVENT_SECONDS = 0.25
KEPT = "what was stored before stays; run the same command again to go on"


def ingest(
    context: typer.Context,
    *,
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Folders or files.", show_default=False)],
    prune: Annotated[bool, typer.Option("--prune", help="Remove documents whose files are gone.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Read and encode everything again, beside the present index.")
    ] = False,
    max_file_mb: Annotated[
        str | None, typer.Option("--max-file-mb", metavar="MB", help="Leave larger files aside.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print one line, and nothing when nothing changed.")
    ] = False,
    as_json: JsonFlag = False,
    as_events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="Print progress as JSON, one object a line, then the report; end with the program that started it.",
        ),
    ] = False,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Read documents into the index. Unchanged files are not read again."""
    from app.cli.progress import Reporter
    from retrieval.versions import versions

    session: Session = context.obj
    session.kept = KEPT
    quiet = quiet or as_events
    with (
        _as_events() if as_events else nullcontext(),
        Reporter(stderr(), lines=not quiet) as bars,
        session.pipeline(
            settings := session.config(
                config=config, index=index, profile=profile, encoder=encoder, device=device, max_file_mb=max_file_mb
            ),
            announce=not quiet,
        ) as pipeline,
    ):
        report = pipeline.ingest(
            [Path(path) for path in paths],
            prune=prune,
            rebuild=rebuild,
            report=Events() if as_events else bars,
        )
    if as_events:
        from app.cli.wire import ingest_record

        print_json({"report": ingest_record(report)})
    elif as_json:
        from app.cli.wire import ingest_record

        print_json(ingest_record(report))
    elif quiet:
        _print_line(report)
    else:
        _print_report(report, stdout())
        if rebuild and not report.interrupted and versions(settings.index).previous:
            note("the earlier index is kept: rag index restore brings it back, rag index compact drops it")
    if report.interrupted:
        stored = len(report.added) + len(report.changed)
        complain("interrupted", f"{stored:,} documents of this run are stored; {KEPT}")
        raise typer.Exit(INTERRUPTED)
    if report.failures and not (report.added or report.changed or report.unchanged):
        complain("error", "nothing could be ingested")
        raise typer.Exit(FAILED)


class Events:
    """Prints how far a job is, as JSON: each stage, and a few times a second how much of it is done."""

    def __init__(self) -> None:
        self._stage, self._next = "", 0.0

    def __call__(self, progress: Progress) -> None:
        """Take note; print it when it is time."""
        now = time.monotonic()
        if progress.stage != self._stage or now >= self._next:
            self._stage, self._next = progress.stage, now + EVENT_SECONDS
            print_json({"progress": asdict(progress)})


@contextmanager
def _as_events() -> Iterator[None]:
    """Print an error as JSON too. Whoever reads it may be killed: then nobody is left to wait for this process."""
    from ingest.isolate import die_with

    die_with(os.getppid())
    try:
        yield
    except BrokenPipeError:
        raise
    except (RagError, OSError) as error:
        print_json({"error": str(error)})
        raise


def _counts(report: IngestReport) -> dict[str, int]:
    return {
        "added": len(report.added),
        "changed": len(report.changed),
        "unchanged": report.unchanged,
        "missing": len(report.missing),
        "pruned": len(report.pruned),
        "failed": len(report.failures),
    }


def _print_line(report: IngestReport) -> None:
    """One line, on standard error: with --quiet the caller wants the next command's results on standard output."""
    from app.cli.progress import duration

    news = [f"{count:,} {word}" for word, count in _counts(report).items() if count and word != "unchanged"]
    if not news:
        return
    advice = " (rag index info says why)" if report.failures else ""
    stderr().print(f"index: {', '.join(news)} in {duration(report.seconds)}{advice}", style="dim", soft_wrap=True)


def _print_report(report: IngestReport, console: Console) -> None:
    from rich.text import Text

    from app.cli.progress import duration

    counts = _counts(report)
    summary = table("documents", "", numbers=("",))
    for word, count in counts.items():
        summary.add_row(word, Text(f"{count:,}", style="" if count else "dim"))
    rate = f", {report.tokens / report.seconds:,.0f} tokens/s" if report.tokens and report.seconds > 0 else ""
    console.print(summary)
    console.print()
    work = (
        f"{report.chunks:,} chunks: {report.embedded:,} embedded, {report.duplicates:,} duplicates; "
        f"{report.tokens:,} tokens in {duration(report.seconds)}{rate}"
    )
    console.print(work if report.chunks else f"nothing to embed, in {duration(report.seconds)}", soft_wrap=True)
    if report.missing:
        console.print()
        console.print(f"{len(report.missing):,} gone from disk and kept; remove them with --prune:", style="bold")
        _print_names(report.missing, console)
    _print_formats(report, console)
    _print_failures(report, console)
    _print_skipped(report, console)


def _print_formats(report: IngestReport, console: Console) -> None:
    """Outcomes by format, the most frequent first, where there is something to tell apart."""
    from rich.text import Text

    from app.cli.text import visible

    outcomes = {
        "added": Counter(map(_format, report.added)),
        "changed": Counter(map(_format, report.changed)),
        "failed": Counter(_format(failure.source) for failure in report.failures),
    }
    formats = sum(outcomes.values(), Counter[str]()).most_common()
    if len(formats) < 2 and not report.failures:
        return
    shown = table("format", *outcomes, numbers=tuple(outcomes))
    named = {name: [counts[name] for counts in outcomes.values()] for name, _ in formats[:ROWS]}
    rest = [sum(counts[name] for name, _ in formats[ROWS:]) for counts in outcomes.values()]
    if any(rest):
        named[f"{len(formats) - ROWS:,} others"] = rest
    for name, numbers in named.items():
        shown.add_row(Text(visible(name)), *(Text(f"{count:,}", style="" if count else "dim") for count in numbers))
    console.print()
    console.print(shown)


def _format(source: str) -> str:
    """How the name of a document ends."""
    return PurePosixPath(source).suffix.lower().removeprefix(".") or "no extension"


def _print_failures(report: IngestReport, console: Console) -> None:
    """One row a reason: a folder of photographs can hold thousands of files that all fail alike."""
    from rich.text import Text

    from app.cli.text import visible

    if not report.failures:
        return
    alike: dict[tuple[str, str], list[str]] = {}
    for failure in report.failures:
        alike.setdefault((failure.reason, failure.advice), []).append(visible(failure.source))
    shown = table("failed", "why", "what to do")
    for (reason, advice), names in list(alike.items())[:ROWS]:
        more = [f"and {len(names) - NAMES:,} more"] if len(names) > NAMES else []
        shown.add_row(Text("\n".join(names[:NAMES] + more)), Text(visible(reason)), Text(visible(advice), style="dim"))
    console.print()
    console.print(shown)
    if len(alike) > ROWS or any(len(names) > NAMES for names in alike.values()):
        console.print("rag index info lists every one", style="dim")


def _print_skipped(report: IngestReport, console: Console) -> None:
    """One row a reason: a folder of dependencies can hold thousands of ignored files."""
    from rich.text import Text

    from app.cli.text import visible

    if not report.skipped:
        return
    first = {skipped.reason: skipped.source for skipped in reversed(report.skipped)}
    shown = table("left aside", "", "first", numbers=("",))
    for reason, count in Counter(skipped.reason for skipped in report.skipped).most_common():
        shown.add_row(Text(visible(reason)), f"{count:,}", Text(visible(first[reason]), style="dim"))
    console.print()
    console.print(shown)


def _print_names(names: tuple[str, ...], console: Console, *, at_most: int = 10) -> None:
    from app.cli.text import visible

    for name in names[:at_most]:
        console.print(f"  {visible(name)}", soft_wrap=True)
    if len(names) > at_most:
        console.print(f"  and {len(names) - at_most:,} more", soft_wrap=True)

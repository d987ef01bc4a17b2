"""`rag index`: what is in the index, whether it is sound, and how to mend, copy, shrink and export it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import (
    FAILED,
    ConfigFlag,
    IndexFlag,
    JsonFlag,
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

    from app.cli.progress import Reporter
    from app.pipeline import Pipeline
    from ingest.repair import RepairReport
    from retrieval.ledger import Account

app = typer.Typer(
    no_args_is_help=True, help="What is in the index, whether it is sound, and how to mend, copy and shrink it."
)

LEDGER_ROWS = 50
"""Documents that the ledger shows one by one: those of which something is missing before others, then the largest."""

NAMES = 5
"""Pages or parts that are named of a list of what was left out."""


def _opened(context: typer.Context, *, index: str | None, config: str | None) -> AbstractContextManager[Pipeline]:
    """The pipeline of a command that is about the index: which profile was chosen is of no interest."""
    session: Session = context.obj
    return session.pipeline(session.config(config=config, index=index), announce=False)


@contextmanager
def _working(
    context: typer.Context, *, index: str | None, config: str | None, quiet: bool
) -> Iterator[tuple[Pipeline, Reporter]]:
    """The same for what takes long: with something to report to, which says nothing outside of a terminal if quiet."""
    from app.cli.progress import Reporter

    with _opened(context, index=index, config=config) as pipeline, Reporter(stderr(), lines=not quiet) as progress:
        yield pipeline, progress


@app.command("list")
def list_documents(
    context: typer.Context, as_json: JsonFlag = False, index: IndexFlag = None, config: ConfigFlag = None
) -> None:
    """List the documents."""
    from rich.text import Text

    from app.cli.text import visible

    with _opened(context, index=index, config=config) as pipeline:
        rows = pipeline.documents()
    if as_json:
        print_json({"documents": [asdict(row) for row in rows]})
        return
    if not rows:
        note("the index holds no documents; add some with: rag ingest PATH")
        return
    shown = table(
        "source", "title", "type", "characters", "chunks", "tokens", numbers=("characters", "chunks", "tokens")
    )
    roots = {row.root for row in rows}
    for root in sorted(roots):
        for row in (row for row in rows if row.root == root):
            counts = (f"{count:,}" for count in (row.characters, row.chunks, row.tokens))
            shown.add_row(
                Text(visible(row.source), style="cyan"),
                Text(visible(row.title)),
                Text(visible(row.media_type)),
                *counts,
            )
    stdout().print(shown)
    where = visible(next(iter(roots))) if len(roots) == 1 else f"{len(roots)} folders (rag index info names them)"
    note(f"{len(rows):,} documents from {where}")


@app.command()
def info(
    context: typer.Context,
    *,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="What became of every byte: read, parsed, cut, encoded, left out.")
    ] = False,
    as_json: JsonFlag = False,
    index: IndexFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Show where the index is, how it was built, how large it is, and which files failed."""
    with _opened(context, index=index, config=config) as pipeline:
        if ledger:
            _print_ledger(pipeline.ledger(), as_json=as_json)
            return
        facts = pipeline.info()
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts, stdout())


@app.command()
def verify(
    context: typer.Context, as_json: JsonFlag = False, index: IndexFlag = None, config: ConfigFlag = None
) -> None:
    """Check every part of the index against the others. Exit code 1 where something is wrong."""
    from app.cli.progress import waiting
    from app.cli.text import visible

    with _opened(context, index=index, config=config) as pipeline, waiting(stderr(), "checking"):
        problems = pipeline.verify()
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems or ["the index is sound"]:
            stdout().print(visible(problem), soft_wrap=True)
    if problems:
        note("to mend it, run: rag index repair")
        raise typer.Exit(FAILED)


@app.command()
def repair(
    context: typer.Context, as_json: JsonFlag = False, index: IndexFlag = None, config: ConfigFlag = None
) -> None:
    """Check the index and mend what is damaged. Exit code 1 where documents were lost."""
    with _working(context, index=index, config=config, quiet=as_json) as (pipeline, progress):
        report = pipeline.repair(progress)
    if as_json:
        print_json(asdict(report))
    else:
        _print_repair(report, stdout())
    if report.lost:
        raise typer.Exit(FAILED)


@app.command()
def backup(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: JsonFlag = False,
    index: IndexFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Write the whole index to one file, with a checksum. Others may search and ingest meanwhile."""
    from app.cli.progress import waiting
    from app.cli.text import visible

    session: Session = context.obj
    with _opened(context, index=index, config=config) as pipeline, waiting(stderr(), "copying"):
        facts = pipeline.backup(session.cwd / file, replace=force)
    if as_json:
        print_json({"file": str(file), **asdict(facts)})
    else:
        size = f"{facts.documents:,} documents, {facts.chunks:,} chunks, {facts.bytes / 1e6:,.1f} MB"
        stdout().print(f"{visible(str(file))}: {size}", soft_wrap=True)


@app.command()
def restore(
    context: typer.Context,
    *,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A backup; without one, the index as it was before the last rebuild."),
    ] = None,
    as_json: JsonFlag = False,
    index: IndexFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Bring a backup back, or what was live before the last rebuild, repair or restore.

    What is live now is kept: the same command without FILE brings it back.
    """
    from app.cli.text import visible
    from retrieval.versions import versions

    session: Session = context.obj
    with _working(context, index=index, config=config, quiet=as_json) as (pipeline, progress):
        facts = pipeline.restore(session.cwd / file if file else None, progress)
        documents = len(pipeline.documents())
    if as_json:
        print_json({"file": str(file) if file else None, "documents": documents, **(asdict(facts) if facts else {})})
        return
    what = f"{visible(str(file))}, written {visible(facts.created_at)}" if facts else "the version before"
    stdout().print(f"restored {what}: {documents:,} documents", soft_wrap=True)
    if versions(session.config(config=config, index=index).index).previous:  # else there was none
        note("to undo this, run: rag index restore")


@app.command()
def compact(
    context: typer.Context, as_json: JsonFlag = False, index: IndexFlag = None, config: ConfigFlag = None
) -> None:
    """Write the index anew without anything that was deleted, and drop its earlier version."""
    with _working(context, index=index, config=config, quiet=as_json) as (pipeline, progress):
        before = pipeline.bytes_on_disk()
        pipeline.compact(progress)
        after = pipeline.bytes_on_disk()
    if as_json:
        print_json({"bytes_before": before, "bytes_after": after})
    else:
        stdout().print(f"{before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB; nothing deleted is left", soft_wrap=True)


@app.command()
def export(
    context: typer.Context,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write here instead of to standard output.")
    ] = None,
    index: IndexFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Write every chunk as one JSON object a line, in the order of the documents."""
    from app.cli.wire import chunk_record, dumps

    session: Session = context.obj
    with _opened(context, index=index, config=config) as pipeline:
        lines = (dumps(chunk_record(chunk)) for chunk in pipeline.export())
        if out is None:
            for line in lines:
                print(line)
            return
        number = _write_lines(session.cwd / out, lines)
    note(f"{number:,} chunks in {out}")


def _write_lines(path: Path, lines: Iterator[str]) -> int:
    """Write a new file, whole or not at all; returns the number of lines."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise RagError(f"'{path}' is there already; choose another name") from error
    try:
        with file:
            return sum(1 for line in lines if file.write(f"{line}\n"))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _print_repair(report: RepairReport, console: Console) -> None:
    from app.cli.text import visible

    for problem in report.problems or ["the index is sound; nothing was changed"]:
        console.print(visible(problem), soft_wrap=True)
    if report.rewritten:
        note("the search files were written anew from the store")
    elif report.problems:
        note(
            f"{report.kept:,} documents were taken over, {report.embedded:,} texts encoded again; the damaged index is"
            " kept: rag index restore brings it back, rag index compact drops it"
        )
    for root, source in report.lost:
        complain("lost", f"{root}/{source}" if source else "a document whose name cannot be read")
    if report.lost:
        where = shlex.join(report.again) if report.again else "with the folders it was made from"
        note(f"to read what was lost from its files again, run: rag ingest {where}")


def _print_ledger(accounts: Iterator[Account], *, as_json: bool) -> None:
    if as_json:
        for account in accounts:
            print_json(asdict(account))
        return
    from app.cli.progress import waiting

    with waiting(stderr(), "counting"):
        rows = list(accounts)
    _print_accounts(rows, stdout())


def _print_accounts(rows: Sequence[Account], console: Console) -> None:
    """Sizes, and what else is not as it is nearly everywhere: all text in chunks, all tokens embedded and known."""
    from rich.text import Text

    from app.cli.text import visible

    ranked = sorted(rows, key=lambda row: (row.unaccounted + abs(row.unembedded), len(row.left_out), row.characters))
    chosen = sorted(ranked[-LEDGER_ROWS:], key=lambda row: (row.root, row.source))
    counted = ["bytes", "characters", "tokens"]
    counted += [
        name for name in ("blank", "unaccounted", "unembedded", "unknown") if any(getattr(r, name) for r in rows)
    ]
    shown = table("source", *counted, numbers=tuple(counted))
    for column in shown.columns[1:]:
        column.no_wrap = True
    for row in chosen:
        values = (getattr(row, name) for name in counted)
        cells = ("" if value is None else f"{value:,}" for value in values)
        shown.add_row(Text(visible(row.source), style="cyan"), *cells)
    totals = (sum(getattr(row, name) or 0 for row in rows) for name in counted)
    shown.add_row(Text(f"all {len(rows):,}", style="bold"), *(Text(f"{total:,}", style="bold") for total in totals))
    console.print(shown)
    if not any(row.unaccounted or row.unembedded for row in rows):
        console.print("every character is accounted for, every token is embedded", style="green", soft_wrap=True)
    _print_left_out([row for row in chosen if row.left_out], console)
    if len(chosen) < len(rows):
        note(
            f"{len(chosen):,} of {len(rows):,} documents: those of which something is missing first, then the largest;"
            " --json lists every one"
        )


def _print_left_out(rows: Sequence[Account], console: Console) -> None:
    from rich.text import Text

    from app.cli.text import visible

    if not rows:
        return
    shown = table("left out by the parser", "")
    for row in rows:
        said = "\n".join(f"{what.replace('_', ' ')}: {_amount(amount)}" for what, amount in row.left_out.items())
        shown.add_row(Text(visible(row.source), style="cyan"), Text(said))
    console.print()
    console.print(shown)


def _amount(value: object) -> str:
    """A number, or names: the first of them."""
    if not isinstance(value, list | tuple):
        return _shown(value)
    more = [f"and {len(value) - NAMES:,} more"] if len(value) > NAMES else []
    return ", ".join([*map(_shown, value[:NAMES]), *more])


def _print_facts(facts: Mapping[str, object], console: Console) -> None:
    """Plain facts first, then what is a table in itself."""
    from rich.text import Text

    shown = table("", "")
    shown.show_header = False
    lists: dict[str, Sequence[Mapping[str, object]]] = {}
    for name, value in _flat(facts):
        if _is_rows(value):
            lists[name] = value  # type: ignore[assignment]  # _is_rows said so
        else:
            shown.add_row(Text(name, style="dim"), Text(_shown(value)))
    console.print(shown)
    for name, rows in lists.items():
        console.print()
        console.print(f"{name}: {len(rows):,}", style="bold", soft_wrap=True)
        common = {column for column in rows[0] if len(rows) > 1 and len({str(row.get(column)) for row in rows}) == 1}
        for column in sorted(common):  # said once; the other columns need the room
            console.print(f"{column}: {_shown(rows[0].get(column))}", style="dim", soft_wrap=True)
        columns = [column for column in rows[0] if column not in common]
        listed = table(*columns)
        for row in rows:
            listed.add_row(*(Text(_shown(row.get(column))) for column in columns))
        console.print(listed)


def _flat(facts: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested facts as `outer inner` names."""
    rows: list[tuple[str, object]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows.extend(_flat(value, f"{name} "))
        else:
            rows.append((name, value))
    return rows


def _is_rows(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _shown(value: object) -> str:
    from app.cli.text import visible

    match value:
        case None | [] | () | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case list() | tuple():
            return "\n".join(_shown(part) for part in value)
        case _:
            return visible(str(value))

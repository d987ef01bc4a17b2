"""`rag index list|info|verify`: what is in the index, and whether it is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from app.cli.common import (
    FAILED,
    ConfigFlag,
    IndexFlag,
    JsonFlag,
    Session,
    note,
    print_json,
    stderr,
    stdout,
    table,
)

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="What is in the index, and whether it is sound.")


@app.command("list")
def list_documents(
    context: typer.Context, as_json: JsonFlag = False, index: IndexFlag = None, config: ConfigFlag = None
) -> None:
    """List the documents."""
    from rich.text import Text

    from app.cli.text import visible

    session: Session = context.obj
    with session.pipeline(session.config(config=config, index=index), announce=False) as pipeline:
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
def info(context: typer.Context, as_json: JsonFlag = False, index: IndexFlag = None, config: ConfigFlag = None) -> None:
    """Show where the index is, how it was built, how large it is, and which files failed."""
    session: Session = context.obj
    with session.pipeline(session.config(config=config, index=index), announce=False) as pipeline:
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

    session: Session = context.obj
    with (
        session.pipeline(session.config(config=config, index=index), announce=False) as pipeline,
        waiting(stderr(), "checking"),
    ):
        problems = pipeline.verify()
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems or ["the index is sound"]:
            stdout().print(visible(problem), soft_wrap=True)
    if problems:
        raise typer.Exit(FAILED)


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

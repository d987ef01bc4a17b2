"""`rag doctor`: what this machine can do, and the command that fixes each gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from app.cli.common import (
    FAILED,
    ConfigFlag,
    DeviceFlag,
    EncoderFlag,
    IndexFlag,
    JsonFlag,
    ProfileFlag,
    ReaderFlag,
    Session,
    print_json,
    stdout,
    table,
)

if TYPE_CHECKING:
    from app.config import Config
    from app.doctor import Check

MARKS = {"ok": ("ok", "green"), "note": ("-", "dim"), "gap": ("gap", "bold red")}


def doctor(
    context: typer.Context,
    *,
    as_json: JsonFlag = False,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Show what this machine can do, and how to fix what it cannot. Exit code 1 where something needed is missing."""
    from app.doctor import as_record, examine, ready

    session: Session = context.obj
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, reader=reader
    )
    checks = examine(settings, index_facts=lambda: _index_facts(session, settings))
    if as_json:
        print_json(as_record(checks))
    else:
        _print_checks(checks)
    if not ready(checks):
        raise typer.Exit(FAILED)


def _index_facts(session: Session, settings: Config) -> str:
    with session.pipeline(settings, announce=False) as pipeline:
        documents = pipeline.documents()
    return f"{len(documents):,} documents, {sum(row.chunks for row in documents):,} chunks"


def _print_checks(checks: tuple[Check, ...]) -> None:
    from rich.text import Text

    from app.cli.text import visible

    shown = table("", "", "")
    shown.show_header = False
    for check in checks:
        mark, style = MARKS[check.state]
        found = Text(visible(check.found), style="dim" if check.state == "note" else "")
        if check.fix:
            found.append("\nrun: ", style="dim")
            found.append(visible(check.fix), style="cyan")
        shown.add_row(Text(mark, style=style), Text(visible(check.name), style="bold"), found)
    stdout().print(shown)

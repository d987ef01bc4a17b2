"""The `rag` command: its groups put together, and --version."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli import ask, bench, chat, delete, doctor, embed, evaluate, index, ingest, mcp, models, search, serve
from app.cli.common import RagGroup, Session

app = typer.Typer(
    cls=RagGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"rag {version('cited-rag')}")
        raise typer.Exit


@app.callback(help="Ask your own documents, privately, and get answers whose citations are exact to the character.")
def _start(
    context: typer.Context,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.obj is None:
        context.obj = Session()


app.command()(ingest.ingest)
app.command()(search.search)
app.command()(ask.ask)
app.command()(chat.chat)
app.add_typer(index.app, name="index")
app.add_typer(models.app, name="models")
app.command()(delete.delete)
app.command()(serve.serve)
app.command()(mcp.mcp)
app.command()(embed.embed)
app.add_typer(evaluate.app, name="eval")
app.add_typer(bench.app, name="bench")
app.command()(doctor.doctor)

"""`rag models list|fetch|check|where`: the models that the settings ask for, on this machine or brought to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import (
    FAILED,
    ConfigFlag,
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

if TYPE_CHECKING:
    from app.models import Model, Need

app = typer.Typer(no_args_is_help=True, help="The models that the settings ask for, and how to bring them here.")

MARKS = {"here": "green", "missing": "yellow", "broken": "bold red"}
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Models by name or folder.")]


@app.command("list")
def list_models(
    context: typer.Context, *, as_json: JsonFlag = False, profile: ProfileFlag = None, config: ConfigFlag = None
) -> None:
    """List the models that the settings ask for, and whether they are here."""
    from rich.text import Text

    from app.cli.text import visible
    from app.models import as_record, is_place, look, needed

    session: Session = context.obj
    settings = session.config(config=config, profile=profile)
    found = [(need, look(need.name, hub_cache=settings.hub_cache, weights=need.weights)) for need in needed(settings)]
    if as_json:
        print_json({"hub_cache": str(settings.hub_cache), "models": [as_record(need, model) for need, model in found]})
        return
    shown = table("model", "for", "state", "size", "where", numbers=("size",))
    for need, model in found:
        shown.add_row(
            Text(visible(need.name), style="cyan"),
            Text(need.used),
            Text(model.state, style=MARKS[model.state]),
            _size(model.bytes) if model.folder else "",
            Text(visible(str(model.folder or ""))),
        )
    stdout().print(shown)
    for _, model in found:
        missing = f"{model.name} is not in {settings.hub_cache}; run: rag models fetch {model.name}"
        for problem in model.problems if model.folder or is_place(model.name) else (missing,):
            note(problem)


@app.command()
def check(
    context: typer.Context,
    names: Names = None,
    *,
    as_json: JsonFlag = False,
    profile: ProfileFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Read every byte of the models that are here, and compare it with what the hub said of it.

    Exit code 1 where something is wrong, or a model that was asked for by name or profile is missing.
    """
    from app.cli.progress import Reporter
    from app.models import as_record, look, needed
    from app.models import check as check_model

    session: Session = context.obj
    settings = session.config(config=config, profile=profile)
    needs = {need.name: need for need in needed(settings)}
    found = [
        look(name, hub_cache=settings.hub_cache, weights=name not in needs or needs[name].weights)
        for name in names or needs
    ]
    with Reporter(stderr()) as report:
        models = [check_model(model, report=report) for model in found]
    if as_json:
        print_json({"models": [as_record(needs.get(model.name), model) for model in models]})
    else:
        for model in models:
            _print_checked(model)
    asked = bool(names or profile)
    if any(model.state == "broken" or (model.state == "missing" and asked) for model in models):
        raise typer.Exit(FAILED)


@app.command()
def where(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model by name or folder.")],
    config: ConfigFlag = None,
) -> None:
    """Print the folder of a model, and nothing else. Exit code 1 where it is not here."""
    from retrieval.encoder import model_folder

    session: Session = context.obj
    print(model_folder(name, hub_cache=session.config(config=config).hub_cache))


@app.command()
def fetch(
    context: typer.Context,
    names: Names = None,
    *,
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="Into a folder to carry over, not into the hub's cache.")
    ] = None,
    profile: ProfileFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Download models by name, or all that a profile needs: the one command that goes to the network."""
    from app.models import fetch as fetch_model
    from app.models import needed
    from app.profiles import EMBEDDED_ENCODER

    session: Session = context.obj
    settings = session.config(config=config, profile=profile)
    if not names and profile is None:
        raise typer.BadParameter("name a model, or --profile gpu for all it needs", param_hint="NAME")
    needs = needed(settings)
    wanted = names or [need.name for need in needs if need.name != EMBEDDED_ENCODER and not _is_folder(need.name)]
    folder = None if to is None else session.cwd / Path(to).expanduser()
    for name in wanted:
        model = fetch_model(name, config=settings, to=folder, note=note)
        _check_fetched(model)
        if to is None:
            note(f"{name} is in {model.folder}")
        else:
            note(_how_to_carry(name, model, needs))
    if not wanted:
        note("nothing to fetch: what is needed is here")


def _check_fetched(model: Model) -> None:
    from app.cli.progress import Reporter
    from app.models import check as check_model

    with Reporter(stderr()) as report:
        checked = check_model(model, report=report)
    if checked.problems:
        for problem in checked.problems:
            complain("error", problem)
        raise typer.Exit(FAILED)


def _how_to_carry(name: str, model: Model, needs: tuple[Need, ...]) -> str:
    folder = Path(str(model.folder))
    settings = [need.setting for need in needs if need.name == name] or ["encoder", "model"]
    lines = " or ".join(f'{setting} = "/folder/on/that/machine/{folder.name}"' for setting in settings)
    return f"{name} is in {folder}; copy the whole folder to the other machine and put into rag.toml there: {lines}"


def _print_checked(model: Model) -> None:
    from app.cli.text import visible

    if model.state == "here":
        without = f", {model.unknown} of them without a checksum to compare with" if model.unknown else ""
        line = f"{model.name}: right, {len(model.files)} files, {_size(model.bytes)}{without}, in {model.folder}"
        stdout().print(visible(line), soft_wrap=True)
    for problem in model.problems:
        stdout().print(visible(f"{model.name}: {problem}"), soft_wrap=True)


def _is_folder(name: str) -> bool:
    from app.models import is_place

    return is_place(name) or (Path(name) / "config.json").is_file()


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"

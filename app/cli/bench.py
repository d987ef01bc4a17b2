"""`rag bench ladder`: what 16, 8 and 4 bits cost and save on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import FAILED, ConfigFlag, DeviceFlag, JsonFlag, Session, note, print_json, stdout, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.ladder import Rung

app = typer.Typer(no_args_is_help=True, help="Measure a language model on this machine.")

ModelFlag = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="Model name or folder instead of the configured one.")
]


@app.callback()
def _group() -> None:
    """Measure a language model on this machine."""


@app.command()
def ladder(
    context: typer.Context,
    *,
    model: ModelFlag = None,
    as_json: JsonFlag = False,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Load a model in bf16 and in 4 bits, with a full and an 8-bit key-value cache; show memory, speed, agreement."""
    from app.ladder import as_record, climb
    from reader.backends.loading import ZephyrSettings

    session: Session = context.obj
    settings = session.config(config=config, model=model, device=device)
    way = ZephyrSettings(model=settings.model, device=settings.device, rope_scaling=settings.rope_scaling)
    rungs = climb(way, report=note)
    if as_json:
        print_json(as_record(rungs))
    else:
        _print(rungs)
    if all(rung.failure for rung in rungs):
        raise typer.Exit(FAILED)


def _print(rungs: Sequence[Rung]) -> None:
    from rich.text import Text

    numbers = ("weights", "KV a token", "load", "read", "write", "same tokens")
    shown = table("", *numbers, numbers=numbers)
    for rung in rungs:
        if not rung.failure:
            shown.add_row(Text(rung.name), *cells(rung))
    stdout().print(shown)
    for rung in rungs:
        if rung.failure:
            note(f"{rung.name}: {rung.failure}")


def cells(rung: Rung) -> tuple[str, ...]:
    """The numbers of a rung, with their units."""
    return (
        f"{rung.weight_bytes / 1e9:.2f} GB",
        f"{rung.kv_token_bytes / 1024:.1f} KiB",
        f"{rung.load_seconds:.1f} s",
        f"{rung.prefill_tokens_per_second:,.0f} tokens/s",
        f"{rung.decode_tokens_per_second:,.1f} tokens/s",
        "-" if rung.agreement is None else f"{rung.agreement:.1%}",
    )

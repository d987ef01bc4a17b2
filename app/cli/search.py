"""`rag search`: the passages nearest to a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import (
    ConfigFlag,
    DeviceFlag,
    EncoderFlag,
    IndexFlag,
    JsonFlag,
    ProfileFlag,
    Session,
    TopKFlag,
    note,
    place,
    print_json,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from retrieval.records import Hit


def search(
    context: typer.Context,
    *,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.", show_default=False)],
    as_json: JsonFlag = False,
    top_k: TopKFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Show the passages nearest to a question, best first."""
    from app.cli.progress import waiting

    session: Session = context.obj
    settings = session.config(config=config, index=index, profile=profile, encoder=encoder, device=device, top_k=top_k)
    if not question.strip():
        raise typer.BadParameter("the question is blank", param_hint="QUESTION")
    with session.pipeline(settings) as pipeline:
        with waiting(stderr(), "searching"):
            result = pipeline.search(question, k=settings.top_k)
        if as_json:
            from app.cli.wire import hit_record

            hits = [hit_record(hit, text=True) for hit in result.hits]
            print_json({"question": result.question, "hits": hits, "timings_ms": dict(result.timings_ms)})
        elif result.hits:
            print_hits(result.hits, question, stdout())
        else:
            note("nothing found")


def print_hits(hits: Sequence[Hit], question: str, console: Console) -> None:
    """Rank, score, place and heading on a line, then about three lines of the text around the question's words."""
    from rich.padding import Padding
    from rich.text import Text

    from app.cli.text import excerpt, visible

    for number, hit in enumerate(hits):
        where, heading = place(hit.source, hit.line, hit.page, hit.heading)
        if number:
            console.print()
        head = Text.assemble(
            (f"{hit.rank:>2}", "bold"), "  ", (f"{hit.score:.3f}", "dim"), "  ", (where, "cyan"), (heading, "dim")
        )
        console.print(head, soft_wrap=True)
        text = excerpt(hit.text, question)
        if console.is_terminal:
            console.print(Padding(text, (0, 0, 0, 4), expand=False))
        else:
            console.print("    ", text, sep="", soft_wrap=True)
        for other in hit.also_in:
            console.print(f"    also in {visible(other.source)}", style="dim", soft_wrap=True)

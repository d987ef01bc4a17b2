"""`rag search`: the passages nearest to a question, and how they were found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import (
    AfterFlag,
    BeforeFlag,
    ConfigFlag,
    DeviceFlag,
    DiversityFlag,
    EncoderFlag,
    IndexFlag,
    JsonFlag,
    MaxPerDocumentFlag,
    NeighboursFlag,
    PageFlag,
    ProfileFlag,
    Session,
    SourceFlag,
    TopKFlag,
    TypeFlag,
    WhereFlag,
    filter_of,
    note_nothing,
    place,
    print_json,
    require_question,
    stderr,
    stdout,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from app.pipeline import SearchResult
    from retrieval.records import Hit, Neighbour, Stages

SHOWN_DROPPED = 20
SHOWN_TERMS = 30
NEIGHBOUR_CHARS = 120


def search(
    context: typer.Context,
    *,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.", show_default=False)],
    explain: Annotated[bool, typer.Option("--explain", help="Show how every passage was found or dropped.")] = False,
    as_json: JsonFlag = False,
    top_k: TopKFlag = None,
    source: SourceFlag = None,
    type_: TypeFlag = None,
    where: WhereFlag = None,
    after: AfterFlag = None,
    before: BeforeFlag = None,
    page: PageFlag = None,
    max_per_document: MaxPerDocumentFlag = None,
    diversity: DiversityFlag = None,
    neighbours: NeighboursFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Show the passages nearest to a question, best first."""
    from app.cli.progress import waiting

    session: Session = context.obj
    require_question(question)
    filters = filter_of(source=source, type_=type_, where=where, after=after, before=before, page=page)
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, top_k=top_k,
        max_per_document=max_per_document, diversity=diversity, neighbours=neighbours,
    )  # fmt: skip
    with session.pipeline(settings) as pipeline:
        with waiting(stderr(), "searching"):
            result = pipeline.search(question, k=settings.top_k, filters=filters)
        if as_json:
            from app.cli.wire import search_record

            print_json(search_record(result, filters))
        else:
            print_result(result, stdout(), explain=explain)
        if not result.hits:
            note_nothing(filters)


def print_result(result: SearchResult, console: Console, *, explain: bool) -> None:
    """The hits; with `explain`, before them how the question was read, after them the stages and what was dropped."""
    if explain:
        _print_reading(result, console)
    print_hits(result.hits, result.question, console)
    if explain:
        _print_stages(result, console)


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
        _print_neighbour("before", hit.before, console)
        text = excerpt(hit.text, question)
        if console.is_terminal:
            console.print(Padding(text, (0, 0, 0, 4), expand=False))
        else:
            console.print("    ", text, sep="", soft_wrap=True)
        _print_neighbour("after", hit.after, console)
        for other in hit.also_in:
            console.print(f"    also in {visible(other.source)}", style="dim", soft_wrap=True)


def _print_neighbour(word: str, neighbour: Neighbour | None, console: Console) -> None:
    """The end of the chunk before a hit, the beginning of the one after it, on a line."""
    from app.cli.text import visible

    if neighbour is None:
        return
    flat = " ".join(neighbour.text.split())
    short = flat[-NEIGHBOUR_CHARS:] if word == "before" else flat[:NEIGHBOUR_CHARS]
    cut = "…" * (len(short) < len(flat))
    shown = cut + visible(short) if word == "before" else visible(short) + cut
    console.print(f"    {word}: {shown}", style="dim", soft_wrap=True)


def _print_reading(result: SearchResult, console: Console) -> None:
    """How the question was read: a name and a value a line."""
    from rich.text import Text

    from app.cli.text import visible

    for name, value in _reading(result):
        console.print(Text.assemble((f"{name:<11}", "bold"), visible(value)), soft_wrap=True)
    console.print()


def _reading(result: SearchResult) -> Iterator[tuple[str, str]]:
    weighty = sorted(result.terms.items(), key=lambda item: -item[1])
    more = [f"and {len(weighty) - SHOWN_TERMS:,} more"] if len(weighty) > SHOWN_TERMS else []
    yield "terms", ", ".join([*(f"{term} {weight:.2f}" for term, weight in weighty[:SHOWN_TERMS]), *more]) or "none"
    for each in result.expansions:
        yield "expansion", f"{each.phrase} + {each.added} x {each.weight:.2f}"
    for part in result.parts if len(result.parts) > 1 else ():
        yield "part", part
    if result.weights:
        yield "fusion", ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items())
    yield "evidence", "none" if result.evidence is None else f"{result.evidence:.2f}"


def _print_stages(result: SearchResult, console: Console) -> None:
    """Where each hit stood at each stage, then what was dropped and why."""
    from app.cli.text import visible

    if result.hits:
        shown = _stage_table("hit")
        for hit in result.hits:
            shown.add_row(str(hit.rank), *_stage_cells(hit.stages))
        console.print()
        console.print(shown)
    if result.dropped:
        console.print()
        console.print(_line(_STAGES, "reason", "dropped"), style="bold", soft_wrap=True)
        for one in result.dropped[:SHOWN_DROPPED]:
            line = _line(tuple(_stage_cells(one.stages)), visible(one.reason), visible(one.source))
            console.print(line, soft_wrap=True)
        if len(result.dropped) > SHOWN_DROPPED:
            console.print(f"and {len(result.dropped) - SHOWN_DROPPED:,} more", style="dim", soft_wrap=True)


_STAGES = ("dense", "lexical", "fused", "interaction", "overlap")


def _line(cells: Sequence[str], reason: str, source: str) -> str:
    """A row of stages, then what has no fixed length: names of files may be long."""
    return "  ".join([*(f"{cell:>{len(name) + 5}}" for name, cell in zip(_STAGES, cells, strict=True)), reason, source])


def _stage_table(first: str) -> Table:
    return table(first, *_STAGES, numbers=_STAGES)


def _stage_cells(stages: Stages | None) -> Iterator[str]:
    """A cell a stage: the rank, then the score; a dash where the stage did not list it."""
    if stages is None:
        yield from ("-",) * 5
        return
    yield _cell(stages.dense_score, stages.dense_rank)
    yield _cell(stages.lexical_score, stages.lexical_rank)
    yield _cell(stages.fused_score, stages.fused_rank)
    yield _cell(stages.interaction_score)
    yield _cell(stages.overlap_score)


def _cell(score: float | None, rank: int | None = None) -> str:
    number = "" if rank is None else f"{rank}."
    value = "" if score is None else f"{score:.3f}"
    return f"{number} {value}".strip() or "-"

"""`rag delete`: take one document out of the index, with a receipt. The file on disk is not touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import ConfigFlag, IndexFlag, JsonFlag, Session, note, print_json, stderr, stdout, table

if TYPE_CHECKING:
    from rich.console import Console

    from retrieval.receipt import Receipt


def delete(
    context: typer.Context,
    *,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The document, as rag index list shows it.", show_default=False)
    ],
    compact: Annotated[
        bool, typer.Option("--compact", help="Write the index anew without it, so that no byte of it is left.")
    ] = False,
    as_json: JsonFlag = False,
    index: IndexFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Take a document out of the index; its file stays, and the next ingest of its folder adds it again.

    The receipt says what was looked for afterwards, and what was found.
    """
    from app.cli.progress import Reporter
    from app.cli.text import visible

    session: Session = context.obj
    with (
        session.pipeline(session.config(config=config, index=index), announce=False) as pipeline,
        Reporter(stderr(), lines=not as_json) as progress,
    ):
        removed, receipt = pipeline.delete(source, compacted=compact, report=progress)
    if as_json:
        from app.cli.wire import receipt_record

        print_json({"source": source, "deleted": list(removed), "receipt": receipt_record(receipt)})
        return
    stdout().print(f"deleted {visible(source)} from the index", soft_wrap=True)
    _print_receipt(receipt, stdout())
    if not receipt.is_gone:
        shown = "" if receipt.found_by_search else "no search shows it any more; "
        note(f"{shown}to remove what is left of it from the files, run: rag index compact")


def _print_receipt(receipt: Receipt, console: Console) -> None:
    from rich.text import Text

    from app.cli.text import visible

    shown = table("looked for", "found", "in")
    for what, found, where in (
        (f"{receipt.chunks:,} chunks", receipt.found_by_search, f"{receipt.searches} searches with its own passages"),
        ("words of its own", receipt.terms_left, f"{receipt.terms:,} looked up in the word index"),
        (
            f"{receipt.samples:,} samples of text and vectors",
            sum(receipt.left_in.values()),
            f"{receipt.files} files, {receipt.bytes / 1e6:,.1f} MB",
        ),
    ):
        shown.add_row(Text(what), Text(f"{found:,}", style="bold red" if found else "green"), Text(where, style="dim"))
    for file, number in receipt.left_in.items():
        shown.add_row("", Text(f"{number:,}", style="dim"), Text(visible(file), style="dim"))
    console.print(shown)
    if receipt.is_gone:
        console.print("nothing of it is left in the index", style="green", soft_wrap=True)

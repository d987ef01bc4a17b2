"""`rag delete`: take one document out of the index. The file on disk is not touched."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.common import ConfigFlag, IndexFlag, JsonFlag, Session, print_json, stdout
from retrieval.errors import RagError


def delete(
    context: typer.Context,
    *,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The document, as rag index list shows it.", show_default=False)
    ],
    as_json: JsonFlag = False,
    index: IndexFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Take a document out of the index; its file stays, and the next ingest of its folder adds it again."""
    from app.cli.text import visible

    session: Session = context.obj
    with session.pipeline(session.config(config=config, index=index), announce=False) as pipeline:
        removed = pipeline.delete(source)
    if not removed:
        raise RagError(f"the index holds no document {source!r}; rag index list shows what it holds")
    if as_json:
        print_json({"source": source, "deleted": list(removed)})
    else:
        stdout().print(f"deleted {visible(source)} from the index", soft_wrap=True)

"""Read a Jupyter notebook (format 3 and 4): cells in order, code marked, text outputs cut short. Runs nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ingest.parse import Parsed, markdown
from ingest.parse.text import TextBuilder, decode, no_surrogates, said
from retrieval.errors import ParseError
from retrieval.records import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_OUTPUT_CHARS = 2_000  # of one cell: a log is no document

_ANSI = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")


def parse(data: bytes, suffix: str) -> Parsed:  # noqa: ARG001  (every parser has the same door)
    """Read a notebook; metadata: `language`, and `outputs_cut` (how many cells had more output than is kept)."""
    notebook = _load(data)
    builder = TextBuilder()
    spans: list[Span] = []
    cut = 0
    for number, cell in enumerate(_cells(notebook), start=1):
        source = _joined(cell.get("source", cell.get("input"))).strip("\n")
        output, was_cut = _output(cell)
        cut += was_cut
        if source.strip() or output:
            spans += _add_cell(builder, number, cell, source, output)
    metadata: dict[str, object] = {"language": language} if (language := _language(notebook)) else {}
    if cut:
        metadata["outputs_cut"] = cut
    ordered = tuple(sorted(spans, key=lambda span: (span.start, -span.end)))
    return Parsed(builder.text(), markdown.first_title(ordered), ordered, "application/x-ipynb+json", metadata)


def _load(data: bytes) -> dict[str, object]:
    try:
        notebook = json.loads(decode(data).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ParseError(f"damaged notebook: {said(error)}", advice="open it in Jupyter and save it again") from error
    if not isinstance(notebook, dict) or not ("cells" in notebook or "worksheets" in notebook):
        raise ParseError("JSON, but not a notebook: no cells in it", advice="give it the extension .json")
    return notebook


def _cells(notebook: dict[str, object]) -> Iterator[dict[str, object]]:
    """Cells of format 4, or of the worksheets of format 3; what is no cell is passed over."""
    worksheets = notebook.get("worksheets")
    for sheet in [notebook, *(worksheets if isinstance(worksheets, list) else ())]:
        cells = sheet.get("cells") if isinstance(sheet, dict) else None
        yield from (cell for cell in cells if isinstance(cell, dict)) if isinstance(cells, list) else ()


def _add_cell(builder: TextBuilder, number: int, cell: dict[str, object], source: str, output: str) -> list[Span]:
    kind = cell.get("cell_type")
    inside: tuple[Span, ...] = ()
    begin = builder.length
    if source.strip():
        begin = start = builder.add(source)
        if kind == "markdown":
            inside = tuple(replace(s, start=s.start + start, end=s.end + start) for s in markdown.outline(source))
        elif kind == "heading":  # format 3
            level = cell.get("level")
            number_of_level = level if isinstance(level, int) and 1 <= level <= 6 else 1
            inside = (Span("heading", start, builder.length, number_of_level, source.strip()),)
        elif kind == "code":
            inside = (Span("code", start, builder.length),)
    if output:
        start = builder.add(output)
        begin = begin if source.strip() else start
    return [Span("cell", begin, builder.length, number), *inside]


def _output(cell: dict[str, object]) -> tuple[str, bool]:
    """Printed text and plain-text results of a cell, and whether they were cut."""
    outputs = cell.get("outputs")
    pieces: list[str] = []
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            continue
        data = output.get("data")
        plain = data.get("text/plain") if isinstance(data, dict) else output.get("text")
        pieces.append(_joined(plain))
    text = _ANSI.sub("", "\n".join(piece.strip("\n") for piece in pieces if piece.strip()))
    return text[:MAX_OUTPUT_CHARS].rstrip(), len(text) > MAX_OUTPUT_CHARS


def _joined(source: object) -> str:
    """Text that is stored as a string or as a list of lines; anything else is no text."""
    lines = source if isinstance(source, list) else [source]
    return no_surrogates("".join(line for line in lines if isinstance(line, str)))


def _language(notebook: dict[str, object]) -> str:
    metadata = notebook.get("metadata")
    kernel = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    language = kernel.get("language") if isinstance(kernel, dict) else None
    return language[:64] if isinstance(language, str) else ""

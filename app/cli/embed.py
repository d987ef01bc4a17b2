"""`rag embed`: vectors of texts, printed as JSON lines or saved as .npy or .jsonl."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from app.cli.common import ConfigFlag, DeviceFlag, EncoderFlag, ProfileFlag, Session, note, print_json, stderr
from retrieval.errors import RagError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np

    Vectors = list[tuple[str, np.ndarray]]

BATCH_TEXTS = 256
"""Texts in memory at once; the encoder batches by length inside."""


def embed(
    context: typer.Context,
    *,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to encode.", show_default=False)
    ] = None,
    source: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Texts, one a line; - reads standard input.")
    ] = None,
    pooling: Annotated[str | None, typer.Option("--pooling", metavar="NAME", help="mean, cls or pooler.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="One vector a token instead of one a text.")] = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="x.npy or x.jsonl.", show_default=False)
    ] = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Print or save the vectors of texts; no index is needed."""
    from app.cli.progress import waiting

    session: Session = context.obj
    if bool(texts) == (source is not None):
        raise typer.BadParameter("give texts, or --input FILE", param_hint="TEXT")
    if output is not None and not output.endswith((".npy", ".jsonl")):
        raise typer.BadParameter(f"{output} must end in .npy or .jsonl", param_hint="--output")
    settings = session.config(config=config, profile=profile, encoder=encoder, device=device, pooling=pooling)
    with session.pipeline(settings) as pipeline:

        def encode(batch: list[str]) -> Vectors:
            with waiting(stderr(), "encoding"):
                return list(zip(batch, pipeline.embed(batch, pooling=settings.pooling, tokens=tokens), strict=True))

        given = texts or _lines(source or "-")
        encoded = (pair for batch in _batches(given) for pair in encode(batch))
        if output is None:
            for text, vector in encoded:
                print_json(_record(text, vector, tokens=tokens))
        else:
            count = (_save_npy if output.endswith(".npy") else _save_jsonl)(Path(output), encoded, tokens)
            note(f"wrote the vectors of {count:,} texts to {output}")


def _lines(source: str) -> Iterator[str]:
    """Every line; a blank or unreadable one is an error, because rows and lines must stay side by side."""
    from app.cli.lines import read_lines

    for line in read_lines(source):
        if line.problem is not None:
            raise RagError(line.problem)
        if not line.text.strip():
            raise RagError(f"line {line.number} is blank; every line needs a text, so that vectors and lines pair up")
        yield line.text


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_TEXTS)):
        yield batch


def _record(text: str, vector: np.ndarray, *, tokens: bool) -> dict[str, object]:
    """Nine digits give back the very float32, without the tail that float64 would print."""
    rows = [[float(f"{value:.9g}") for value in row] for row in (vector if tokens else vector[None]).tolist()]
    return {"text": text, "vectors": rows} if tokens else {"text": text, "vector": rows[0]}


def _save_npy(output: Path, encoded: Iterable[tuple[str, np.ndarray]], tokens: bool) -> int:
    """float32 (texts, dim), or (tokens, dim) of one text."""
    import numpy as np

    vectors = [vector for _, vector in encoded]
    if not vectors:
        raise RagError("there is no text to encode")
    if tokens and len(vectors) > 1:
        raise RagError("token vectors of several texts differ in length and do not fit one .npy; save them as .jsonl")
    array = vectors[0] if tokens else np.stack(vectors)
    with _replacing(output) as stream:
        np.save(stream, array, allow_pickle=False)
    return len(vectors)


def _save_jsonl(output: Path, encoded: Iterable[tuple[str, np.ndarray]], tokens: bool) -> int:
    from app.cli.wire import dumps

    count = 0
    with _replacing(output) as stream:
        for text, vector in encoded:
            stream.write(dumps(_record(text, vector, tokens=tokens)).encode("utf-8") + b"\n")
            count += 1
    return count


@contextmanager
def _replacing(output: Path) -> Iterator[IO[bytes]]:
    """Write beside, then rename: a run that fails leaves the old file as it was."""
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as stream:
        beside = Path(stream.name)
        try:
            yield stream
            stream.flush()
            beside.chmod(0o644)
            beside.replace(output)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

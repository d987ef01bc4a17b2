"""The map of the corpus: its passages on a plane, and where a question lies among them. Knows points; judges nothing.

Arranging takes seconds to minutes: a process of its own does it at low priority, once for each state of the index. What
it leaves in the cache folder are numbers alone, so that what is deleted from the index has left no name or text there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.cli.wire import hit_record
from app.server.answers import json_response, unless_gone
from app.server.engine import Asked
from app.server.requests import QuestionText, Strict, require_visible
from app.server.state import Server
from retrieval.errors import ChangedError, MissingPackageError, RagError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.config import Config
    from app.pipeline import Pipeline
    from retrieval.records import Hit
    from retrieval.store import Store

MOST_POINTS = 5_000
"""Of a larger corpus a random sample is drawn: enough to see its shape, arranged in about 20 s on one core."""
MAKE_SECONDS = 900.0
BEGINNING_CHARS = 160
"""Of a passage's text, for its point."""

_NEIGHBOURS = 10
_MOST_BYTES = 1_000_000
_BATCH = 500
_SEED = 0
_NICE = 10

_Column = Annotated[tuple[int, ...], Field(max_length=MOST_POINTS)]


class _Plane(BaseModel):
    """What is kept of a map; every column has an item a point. depth: how many folders of a source name its group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    passages: int
    embeddings: _Column
    x: _Column
    y: _Column
    group: _Column
    depth: int
    others: bool


class QuestionBody(Strict):
    """A question to find on the map."""

    question: QuestionText


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A map in memory. vectors: of its points, float32 (n, dim), unit rows."""

    state: str
    plane: _Plane
    vectors: NDArray[np.float32]

    def place(self, vector: NDArray[np.float32]) -> tuple[int, int]:
        """Where something that is not drawn belongs: amid the passages nearest to it.

        The median of its neighbours, as in Poličar, Stražar and Zupan, "Embedding to reference t-SNE space addresses
        batch effects in single-cell classification" (2019), without the optimisation that follows there.
        """
        import numpy as np

        near = np.argsort(-(self.vectors @ vector), kind="stable")[:_NEIGHBOURS]
        x, y = (float(np.median(np.asarray(each)[near])) for each in (self.plane.x, self.plane.y))
        return round(x), round(y)


def router(server: Server) -> APIRouter:
    """`/api/map`: the map, making it, and a question in it."""
    maps = Maps(server.config)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await maps.close()

    routes = APIRouter(prefix="/api/map", tags=["map"], lifespan=lifespan)

    @routes.get("")
    async def corpus_map(request: Request) -> Response:
        """The map of the index as it is now, if it is drawn; else whether it is being drawn."""
        return json_response(await unless_gone(request, server.engine.look(maps.record, slow=True)))

    @routes.post("", status_code=202)
    async def draw(request: Request) -> Response:
        """Begin to draw the map, unless it is drawn already or being drawn."""
        if await unless_gone(request, server.engine.look(maps.is_ready)):
            return json_response({"state": "ready"})
        maps.begin()
        return json_response({"state": "making"}, status=202)

    @routes.post("/question")
    async def question(body: QuestionBody, request: Request) -> Response:
        """Where a question lies on the map, and the passages nearest to it."""
        asked = Asked(require_visible(body.question))
        found = await unless_gone(request, server.engine.search(asked))

        def placed(pipeline: Pipeline) -> dict[str, object]:
            return maps.placed(pipeline, found.question, found.hits)

        return json_response(await unless_gone(request, server.engine.look(placed)))

    return routes


class Maps:
    """The maps of one index: at most one is made at a time, and the newest is kept."""

    def __init__(self, config: Config) -> None:
        self._index, self._folder = config.index, config.cache / "maps"
        self._making: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._drawn: _Drawn | None = None

    def begin(self) -> None:
        """Start to draw, unless that is being done. Raises MissingPackageError without openTSNE."""
        if find_spec("openTSNE") is None:
            raise MissingPackageError("a map of the corpus needs openTSNE; run: pip install 'cited-rag[map]'")
        if self._making is None or self._making.done():
            self._problem = None
            self._making = asyncio.create_task(self._make())

    async def close(self) -> None:
        """End what is being drawn."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    def is_ready(self, pipeline: Pipeline) -> bool:
        """Whether the index as it is now is drawn."""
        return self._current(pipeline.parts.store) is not None

    def record(self, pipeline: Pipeline) -> dict[str, object]:
        """What `GET /api/map` answers. Columns have an item a point; `document` counts from 0 in `documents`."""
        store = pipeline.parts.store
        drawn = self._current(store)
        if drawn is None:
            is_making = self._making is not None and not self._making.done()
            state = "making" if is_making else "none"
            return {"state": state, "passages": len(store.live_embeddings()), "problem": self._problem}
        record = _points(store, drawn.plane)
        if _state(store) != drawn.state:
            raise ChangedError("the index changed while its map was read; ask again")
        return record

    def placed(self, pipeline: Pipeline, question: str, hits: Sequence[Hit]) -> dict[str, object]:
        """What `POST /api/map/question` answers. `point` is None of a hit that is not drawn: it lies near its like."""
        import numpy as np

        store = pipeline.parts.store
        drawn = self._current(store)
        if drawn is None:
            raise ChangedError("the index as it is now has no map yet; draw it first: POST /api/map")
        chunks = store.chunks_by_id(hit.chunk_id for hit in hits)
        point_of = {embedding: point for point, embedding in enumerate(drawn.plane.embeddings)}
        ids, vectors = store.vectors(np.array(sorted({one.embedding for one in chunks.values()}), dtype=np.int64))
        vector_of = dict(zip(ids.tolist(), vectors, strict=True))
        shown = []
        for hit in hits:
            if (one := chunks.get(hit.chunk_id)) is None:
                raise ChangedError("a passage was removed from the index while it was looked for; ask again")
            point = point_of.get(one.embedding)
            x, y = (
                drawn.place(vector_of[one.embedding]) if point is None else (drawn.plane.x[point], drawn.plane.y[point])
            )
            shown.append({**hit_record(hit, text=True), "point": point, "x": x, "y": y})
        x, y = drawn.place(pipeline.encoder.encode_query(question))
        return {"question": question, "x": x, "y": y, "hits": shown}

    def _current(self, store: Store) -> _Drawn | None:
        """The map of the index as it is, in memory or kept; None where there is none, or what is kept is not whole."""
        import numpy as np

        state = _state(store)
        if self._drawn is not None and self._drawn.state == state:
            return self._drawn
        try:
            with _file(self._folder, self._index, state).open("rb") as stream:
                plane = _Plane.model_validate_json(stream.read(_MOST_BYTES))
        except (OSError, ValidationError):
            return None
        ids, vectors = store.vectors(np.array(plane.embeddings, dtype=np.int64))
        if tuple(ids.tolist()) != plane.embeddings or len({len(plane.x), len(plane.y), len(plane.group), len(ids)}) > 1:
            return None
        self._drawn = _Drawn(state, plane, vectors)
        return self._drawn

    async def _make(self) -> None:
        command = [sys.executable, "-P", "-m", "app.server.corpus", str(self._index), str(self._folder)]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            self._problem = f"no process can be started to draw the map ({error.strerror}); end other programs"
            return
        try:
            _, said = await asyncio.wait_for(process.communicate(), MAKE_SECONDS)
        except TimeoutError:
            self._problem = f"the map was given up after {MAKE_SECONDS:g} s"
        else:
            if process.returncode:
                lines = said.decode("utf-8", "replace").strip().splitlines()
                self._problem = lines[-1][:1000] if lines else f"drawing ended with status {process.returncode}"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _points(store: Store, plane: _Plane) -> dict[str, object]:
    """The points with what they stand for, read from the index as it is now. `others`: one more group, without name."""
    others = max(plane.group)
    documents: dict[str, int] = {}
    sources: list[dict[str, str]] = []
    names: dict[int, str] = {}
    document, start, end, line, page, text = [], [], [], [], [], []
    for first in range(0, len(plane.embeddings), _BATCH):
        batch = plane.embeddings[first : first + _BATCH]
        chunks = store.chunks_of_embeddings(batch)
        for at, embedding in enumerate(batch, first):
            if embedding not in chunks:
                raise ChangedError("the index changed while its map was read; ask again")
            one = chunks[embedding][0]
            if one.chunk.doc_id not in documents:
                documents[one.chunk.doc_id] = len(documents)
                sources.append({"doc_id": one.chunk.doc_id, "source": one.source})
            if not (plane.others and plane.group[at] == others):
                names.setdefault(plane.group[at], "/".join(one.source.split("/")[: plane.depth]))
            document.append(documents[one.chunk.doc_id])
            start.append(one.chunk.start)
            end.append(one.chunk.end)
            line.append(one.line)
            page.append(one.chunk.page)
            text.append(one.chunk.text[:BEGINNING_CHARS])
    return {
        "state": "ready",
        "passages": plane.passages,
        "groups": [names[group] for group in sorted(names)],
        "others": plane.others,
        "documents": sources,
        "points": {
            "x": plane.x, "y": plane.y, "group": plane.group, "document": document, "start": start, "end": end,
            "line": line, "page": page, "text": text,
        },
    }  # fmt: skip


def _state(store: Store) -> str:
    """What tells one state of an index from another: ids of embeddings mean something within one state only."""
    with store.snapshot():
        found = (str(store.folder), store.manifest.created_at, store.generation)
    return _digest(repr(found))


def _file(folder: Path, index: Path, state: str) -> Path:
    return folder / f"{_digest(str(index))}-{state}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


# ---- the process that draws ------------------------------------------------------------------------------------------


def draw(index: Path, folder: Path, *, most: int = MOST_POINTS) -> None:
    """Draw the map of an index, of at most so many passages, into a folder; remove older ones. Raises RagError."""
    import numpy as np

    from eval.folder import write_text
    from eval.report.corpus_map import corpus_map
    from retrieval.store import Store

    with Store.open(index) as store, store.snapshot():
        state, live = _state(store), store.live_embeddings()
        some = np.random.default_rng(_SEED).permutation(live)[:most]
        ids, vectors = store.vectors(some)
        places = store.places_of_embeddings(ids.tolist())
    firsts = [places[each][0] for each in ids.tolist()]
    made = corpus_map(
        vectors,
        [chunk_id for chunk_id, _ in firsts],
        sources=[source for _, source in firsts],
        titles=[""] * len(firsts),
        seed=_SEED,
    )
    named = made.groups[:-1] if made.others else made.groups
    plane = _Plane(
        passages=len(live),
        embeddings=tuple(ids.tolist()),
        x=made.x,
        y=made.y,
        group=made.group,
        depth=max(len(name.split("/")) for name in named),
        others=made.others,
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = _file(folder, index, state)
    write_text(file, plane.model_dump_json())
    for other in folder.glob(f"{_digest(str(index))}-*.json"):
        if other != file:
            other.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> int:
    """Draw as a program: INDEX FOLDER. What went wrong is the last line of stderr."""
    index, folder = map(Path, arguments)
    with suppress(OSError):
        os.nice(_NICE)
    try:
        draw(index, folder)
    except (RagError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

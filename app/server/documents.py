"""The routes of the library: documents, uploads, ingest runs. Knows HTTP; what is done is done by the library."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.cli.wire import receipt_record
from app.server.answers import (
    ClientGoneError,
    EventStream,
    frame,
    json_response,
    problem,
    problem_record,
    request_id_of,
    unless_gone,
)
from app.server.library import Job, JobState, PartOfFileError
from app.server.questions import failure_frame
from app.server.requests import Strict
from app.server.state import Server
from app.server.uploads import Kept, UploadError, Uploads, safe_name
from retrieval.errors import ConfigError, IndexMissingError

if TYPE_CHECKING:
    from app.pipeline import Pipeline
    from retrieval.records import Failure
    from retrieval.store import DocumentRow

UPLOAD_ROUTE = "POST /api/documents"
MAX_ROWS = 1000

_Words = Annotated[str, Query(max_length=1000)]
_Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]
_Offset = Annotated[int, Query(ge=0, le=10**9)]
_Paths = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(min_length=1, max_length=1000)]

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class IngestBody(Strict):
    """What to ingest: files or folders that were ingested before or uploaded; null: all of them."""

    paths: _Paths | None = None
    prune: bool = False


def router(server: Server) -> APIRouter:
    """`/api/documents` and `/api/ingest`."""
    routes = APIRouter(prefix="/api", tags=["library"])
    _reading(routes, server)
    _changing(routes, server)
    _ingesting(routes, server)
    return routes


def _reading(routes: APIRouter, server: Server) -> None:
    uploads = server.library.uploads

    @routes.get("/documents")
    async def documents(request: Request, q: _Words = "", limit: _Limit = 200, offset: _Offset = 0) -> Response:
        """Documents whose source or title holds `q`, and the files that could not be read."""

        def look(pipeline: Pipeline) -> dict[str, object]:
            words = _folded(q)
            rows = [row for row in pipeline.documents() if _holds(words, row.source, row.title)]
            failures = [one for one in pipeline.failures() if _holds(words, one.source)]
            return {
                "documents": [_row_record(row, uploads) for row in rows[offset : offset + limit]],
                "total": len(rows),
                "failures": [_failure_record(one, uploads) for one in failures[:limit]],
                "failures_total": len(failures),
            }

        try:
            found = await unless_gone(request, server.engine.look(look))
        except IndexMissingError:
            found = {"documents": [], "total": 0, "failures": [], "failures_total": 0}
        return json_response(found)

    @routes.get("/documents/failures")
    async def failures(request: Request, q: _Words = "", limit: _Limit = 200, offset: _Offset = 0) -> Response:
        """Files that could not be read, and why."""
        try:
            known = await unless_gone(request, server.engine.look(lambda pipeline: pipeline.failures()))
        except IndexMissingError:
            known = []
        words = _folded(q)
        found = [one for one in known if _holds(words, one.source)]
        shown = [_failure_record(one, uploads) for one in found[offset : offset + limit]]
        return json_response({"failures": shown, "total": len(found)})

    @routes.get("/documents/{doc_id:path}")
    async def document(doc_id: str, request: Request) -> Response:
        """One document, and what became of every byte of it."""

        def look(pipeline: Pipeline) -> dict[str, object] | None:
            row = next((row for row in pipeline.documents() if row.doc_id == doc_id), None)
            account = pipeline.account(doc_id) if row else None
            return {"document": _row_record(row, uploads), "account": asdict(account)} if row and account else None

        with suppress(IndexMissingError):
            if found := await unless_gone(request, server.engine.look(look, slow=True)):  # it reads all of a document
                return json_response(found)
        raise _unknown(doc_id)


def _changing(routes: APIRouter, server: Server) -> None:
    library = server.library

    @routes.post("/documents", status_code=202, openapi_extra={"requestBody": {"required": True, "content": _FILE}})
    async def upload(request: Request, name: Annotated[str, Query(min_length=1, max_length=1000)]) -> Response:
        """Keep a file, the body, and ingest it. It is safe on disk when this answers."""
        try:
            kept = await _received(request, library.uploads, safe_name(name))
        except UploadError as error:
            return problem(507, "storage", str(error), request_id_of(request))
        job = library.ingest([library.uploads.folder / kept.name])
        return json_response({**asdict(kept), "job": job.now.job}, status=202)

    @routes.delete("/documents/{doc_id:path}")
    async def delete(doc_id: str, request: Request, *, compact: bool = False, whole: bool = False) -> Response:
        """Take a document out of the index, and its file away if it was uploaded; with a receipt.

        An upload that could not be read goes by the `doc_id` of its failure. A file that holds several documents, such
        as an archive, goes `whole`, or this is refused.
        """
        try:
            deleted = await library.delete(doc_id, compacted=compact, whole=whole)
        except PartOfFileError as error:
            return problem(409, "part-of-file", str(error), request_id_of(request))
        except UploadError as error:
            return problem(507, "storage", str(error), request_id_of(request))
        if deleted is None:
            raise _unknown(doc_id)
        receipt = receipt_record(deleted.receipt)
        return json_response({"doc_ids": deleted.doc_ids, "receipt": receipt, "file": deleted.file})


def _ingesting(routes: APIRouter, server: Server) -> None:
    library = server.library

    @routes.post("/ingest", status_code=202)
    async def ingest(body: IngestBody) -> Response:
        """Read files and folders again, in a run that others may have asked for too."""
        paths = await (library.known_paths() if body.paths is None else library.allowed(body.paths))
        if not paths:
            raise ConfigError("there is nothing to read yet; upload a document, or run: rag ingest PATH")
        return json_response({"job": library.ingest(paths, prune=body.prune).now.job}, status=202)

    @routes.get("/ingest")
    async def jobs() -> Response:
        """The last runs, the newest first."""
        return json_response({"jobs": [_job_record(job) for job in library.jobs]})

    @routes.get("/ingest/{job}/events")
    async def events(job: str, request: Request) -> Response:
        """A run as it goes: state, progress, and at the end done with its report, or failed."""
        found = library.job(job)
        if found is None:
            raise HTTPException(404, "there is no such ingest run, or it was long ago; GET /api/ingest lists the last")
        request_id = request_id_of(request)
        return EventStream(_frames(found, request_id), describe=lambda error: failure_frame(error, request_id))


async def _received(request: Request, uploads: Uploads, name: str) -> Kept:
    """The body as a file. Nothing is left of one that does not come whole."""
    draft = await asyncio.to_thread(uploads.draft)
    try:
        async for data in request.stream():
            await asyncio.to_thread(draft.write, data)
        return await asyncio.to_thread(draft.keep, name)
    except ClientDisconnect:
        raise ClientGoneError from None
    finally:
        await asyncio.to_thread(draft.discard)


async def _frames(job: Job, request_id: str) -> AsyncGenerator[bytes]:
    before: JobState | None = None
    async with aclosing(job.follow()) as states:
        async for now in states:
            if now.state == "done":
                yield frame("done", now.report or {})
            elif now.state == "failed":
                yield frame("failed", problem_record(500, "ingest", now.problem or "", request_id))
            elif before is None or now.state != before.state or now.progress is None:
                yield frame("state", _job_record(now))
            else:
                yield frame("progress", asdict(now.progress))
            before = now


def _job_record(job: JobState) -> dict[str, object]:
    return asdict(job)


def _row_record(row: DocumentRow, uploads: Uploads) -> dict[str, object]:
    return {**asdict(row), "uploaded": uploads.name_of(row.root, row.source) is not None}


def _failure_record(failure: Failure, uploads: Uploads) -> dict[str, object]:
    """With the id that deletes it, where it is of an upload."""
    from ingest.files import document_id

    uploaded = uploads.name_of(failure.root, failure.source) is not None
    doc_id = document_id(failure.root, failure.source) if uploaded else None
    return {**asdict(failure), "uploaded": uploaded, "doc_id": doc_id}


def _holds(words: str, *texts: str) -> bool:
    return not words or any(words in _folded(text) for text in texts)


def _folded(text: str) -> str:
    """As it is compared: without case, and wide letters as the usual ones."""
    return unicodedata.normalize("NFKC", text).casefold()


def _unknown(doc_id: str) -> HTTPException:
    return HTTPException(404, f"there is no document '{doc_id[:100]}'; GET /api/documents lists what there is")

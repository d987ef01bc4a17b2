"""The application: routes, guard and lifetime put together. Knows every part of the server; does nothing itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse

from app.server import corpus, documents, openai_api, questions, runs, sources
from app.server.access import Gate
from app.server.answers import PROBLEMS, ClientGoneError, json_response, problem, problem_of, request_id_of
from app.server.counters import Counters
from app.server.engine import Engine
from app.server.guard import App, Guard
from app.server.lanes import BusyError
from app.server.library import Library
from app.server.page import page_routes
from app.server.signin import sign_in_page
from app.server.state import Server
from app.server.tools import tools_over_http
from retrieval.errors import RagError

if TYPE_CHECKING:
    from app.config import Config
    from app.pipeline import Pipeline

MAX_FORM_BYTES = 16_384
"""Of the form that brings the token; what is longer cannot hold it."""


@dataclass(frozen=True, slots=True)
class Application:
    """What uvicorn runs, and the server within it."""

    app: App
    server: Server
    api: FastAPI


def make_application(
    config: Config,
    *,
    token: str,
    open_pipeline: Callable[[Config], Pipeline],
    flags: Mapping[str, object] | None = None,
    folder: Path | None = None,
) -> Application:
    """The whole server over one index. Nothing is opened before it starts.

    flags, folder: what the config was made from beside the environment, for the ingest that runs in a process of its
    own.
    """
    counters = Counters()
    engine = Engine(config, open_pipeline(config))
    for lane in engine.lanes.values():
        counters.watch(lane)
    library = Library(config, engine, flags=dict(flags or {}), folder=folder or Path.cwd())
    server = Server(
        config=config,
        engine=engine,
        library=library,
        gate=Gate(token),
        counters=counters,
        cookie=f"rag-{config.port}",
    )
    api = _api(server)
    guard = Guard(
        api,
        gate=server.gate,
        counters=counters,
        cookie=server.cookie,
        max_upload_bytes=int(config.max_file_mb * 1_000_000),
        uploads=frozenset({documents.UPLOAD_ROUTE}),
    )
    return Application(guard, server, api)


def _api(server: Server) -> FastAPI:
    tools_route, tools = tools_over_http(server.engine, server.counters, host=server.config.host)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await server.engine.start()
        await server.library.start()
        try:
            async with tools.run():
                yield
        finally:
            await server.library.close()
            server.engine.close()

    api = FastAPI(
        title="rag",
        version=version("cited-rag"),
        summary="Answers from your own documents, with citations exact to the character.",
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        responses=PROBLEMS,
    )
    for add in (_upkeep, _signing_in):
        add(api, server)
    for part in (questions, sources, documents, runs, corpus, openai_api):
        api.include_router(part.router(server))
    page_routes(api)
    api.router.routes.append(tools_route)
    _handlers(api, server)
    return api


def _upkeep(api: FastAPI, server: Server) -> None:
    @api.get("/healthz", tags=["upkeep"])
    async def healthz() -> Response:
        """Whether the process answers; needs no token."""
        return json_response({"status": "ok"})

    @api.get("/readyz", tags=["upkeep"], responses={503: {"description": "Not yet"}})
    async def readyz() -> Response:
        """Whether the encoder is loaded, and the index open where there is one yet."""
        is_ready = await server.engine.is_well()
        record = {"status": "ready" if is_ready else "not ready", "problem": server.engine.problem}
        return json_response(record, status=200 if is_ready else 503)

    @api.get("/metrics", tags=["upkeep"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return PlainTextResponse(server.counters.text(), media_type="text/plain; version=0.0.4")

    @api.get("/api/index", tags=["index"])
    async def index() -> Response:
        """Facts about the index, as `rag index info --json`; what answers, and what it has to do without."""

        def facts(pipeline: Pipeline) -> dict[str, object]:
            return {**pipeline.info(), "reader": pipeline.reader_model(), "notices": list(pipeline.notices())}

        return json_response(await server.engine.look(facts))


def _signing_in(api: FastAPI, server: Server) -> None:
    @api.post("/signin", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        """Take the token from the form, and give a cookie for it."""
        sent = (await request.body())[:MAX_FORM_BYTES]
        token = dict(parse_qsl(sent.decode("utf-8", "replace"))).get("token", "").strip()
        if not server.gate.opens_for(token):
            return sign_in_page(401, refused=True)
        value, seconds = server.gate.new_cookie()
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            server.cookie,
            value,
            max_age=seconds,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer


def _handlers(api: FastAPI, server: Server) -> None:
    @api.exception_handler(RagError)
    async def failed(request: Request, error: RagError) -> Response:
        if isinstance(error, BusyError):
            server.counters.refused()
        return problem_of(error, request_id_of(request))

    @api.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        """Where and what, never the value: it may be long, or no text at all."""
        said = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:10]]
        if "json" not in request.headers.get("content-type", ""):
            said.append("is the header Content-Type: application/json missing?")
        return problem(422, "invalid", "; ".join(said)[:2000], request_id_of(request))

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        code = {404: "not-found", 405: "method", 408: "body", 413: "body"}.get(error.status_code, "refused")
        headers = dict(error.headers or {})
        return problem(error.status_code, code, str(error.detail), request_id_of(request), headers=headers)

    @api.exception_handler(ClientGoneError)
    async def gone(_request: Request, _error: ClientGoneError) -> Response:
        return Response(status_code=499)

"""The routes that answer and search: the JSON of `rag ask --json` and `rag search --json`, at once or as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from app.cli.wire import answer_record, search_record
from app.server.answers import (
    EVENTS,
    EventStream,
    frame,
    json_response,
    problem_record,
    prompt_start,
    request_id_of,
    status_of,
    unless_gone,
)
from app.server.engine import Answered, Event, Understood, Written
from app.server.requests import AskBody, SearchBody
from app.server.state import Server
from retrieval.errors import RagError


def router(server: Server) -> APIRouter:
    """`POST /api/ask` and `POST /api/search`."""
    routes = APIRouter(prefix="/api", tags=["questions"])

    @routes.post("/ask", responses=EVENTS)
    async def ask(body: AskBody, request: Request) -> Response:
        """Answer with citations, or abstain. With `stream` as events: understood, written, answered, or failed."""
        asked = body.asked()
        if body.stream:
            events = await unless_gone(request, prompt_start(server.engine.ask_stream(asked)))
            return EventStream(
                _frames(server, events, explain=body.explain),
                describe=lambda error: failure_frame(error, request_id_of(request)),
            )
        answer = await unless_gone(request, server.engine.ask(asked))
        server.counters.answer(answer)
        return json_response(answer_record(answer, explain=body.explain))

    @routes.post("/search")
    async def search(body: SearchBody, request: Request) -> Response:
        """The passages nearest to a question, and how each was found."""
        asked = body.asked()
        return json_response(search_record(await unless_gone(request, server.engine.search(asked)), asked.filters))

    return routes


async def _frames(server: Server, events: AsyncGenerator[Event], *, explain: bool) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        async for event in events:
            match event:
                case Understood(question):
                    yield frame("understood", {"question": question})
                case Written(text):
                    yield frame("written", {"text": text})
                case Answered(answer):
                    server.counters.answer(answer)
                    yield frame("answered", answer_record(answer, explain=explain))


def failure_frame(error: RagError, request_id: str) -> bytes:
    """An error that was met when a part was sent already."""
    status, code = status_of(error)
    return frame("failed", problem_record(status, code, str(error), request_id))

"""The page: files that come with the product, by name, and nothing else. Knows no document."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@cache
def _pages() -> dict[str, bytes]:
    """Name -> content of every file of the page; read once, so that no name ever becomes a path."""
    folder = files("app.server").joinpath("static")
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}


def page_routes(api: FastAPI) -> None:
    """`GET /` and the files it asks for."""

    @api.get("/", include_in_schema=False)
    async def home() -> Response:
        return _served("index.html")

    @api.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _served(name)


def _served(name: str) -> Response:
    content = _pages().get(name)
    if content is None:
        raise HTTPException(404, "the page has no such part")
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(content, media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})

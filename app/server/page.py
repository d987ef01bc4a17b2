"""The page: files that come with the product, by name, and nothing else. Knows no document."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class _Part:
    """A file of the page, as it is and packed; `tag` is new when its content is."""

    content: bytes
    packed: bytes
    tag: str


@cache
def _parts() -> dict[str, _Part]:
    """Every file of the page by its name; read once, so that no name ever becomes a path."""
    folder = files("app.server").joinpath("static")
    found = {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}
    return {
        name: _Part(content, gzip.compress(content, mtime=0), f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        for name, content in found.items()
    }


def page_routes(api: FastAPI) -> None:
    """`GET /` and the files it asks for."""

    @api.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        return _served("index.html", request)

    @api.get("/page/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:
        return _served(name, request)


def _served(name: str, request: Request) -> Response:
    part = _parts().get(name)
    if part is None:
        raise HTTPException(404, "the page has no such part")
    headers = {"cache-control": "no-cache", "etag": part.tag, "vary": "accept-encoding"}
    if part.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = part.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = part.packed, "gzip"
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

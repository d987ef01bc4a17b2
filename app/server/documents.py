"""The routes of the library: documents, uploads, ingest runs."""

from __future__ import annotations

from fastapi import APIRouter

from app.server.state import Server

UPLOAD_ROUTE = "POST /api/documents"


def router(_server: Server) -> APIRouter:
    """`/api/documents` and `/api/ingest`."""
    return APIRouter(prefix="/api", tags=["library"])

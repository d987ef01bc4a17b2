"""Shared by the tests of the program: runs it within this process, where a process of its own is not the point."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.common import Session
from app.cli.root import app
from app.config import Config
from app.pipeline import Pipeline


@pytest.fixture
def little_common_text(monkeypatch) -> None:
    """Enough to fit a codec on, for tests that make many an index."""
    monkeypatch.setattr("ingest.indexer._ENOUGH_TOKENS", 1500)


@pytest.fixture(scope="session")
def rag_within(encoder, model_cache) -> Callable[..., Result]:
    """Runs `rag` with a folder as home, in that folder, over the session's encoder; settings are variables."""

    def open_pipeline(config: Config) -> Pipeline:
        pipeline = Pipeline(replace(config, cache=model_cache))
        pipeline.__dict__["encoder"] = encoder  # as if it had been loaded
        return pipeline

    def run(folder: Path, *arguments: str, stdin: str | None = None, **settings: object) -> Result:
        environ = {"HOME": str(folder)} | {f"RAG_{key.upper()}": str(value) for key, value in settings.items()}
        session = Session(environ=environ, cwd=folder, open_pipeline=open_pipeline)
        with chdir(folder):
            done = CliRunner().invoke(app, arguments, input=stdin, obj=session, env={"COLUMNS": "100"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done

    return run

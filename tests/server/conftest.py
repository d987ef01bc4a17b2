"""Shared by the tests of the server: a small library in two languages, and real servers on loopback over it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import LIBRARY, Serve, Served, serving_over

from app.config import Config
from app.pipeline import Pipeline


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small library as files. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("library") / "docs"
    folder.mkdir()
    for name, text in LIBRARY.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def small_index(tmp_path_factory, library_folder, model_cache, encoder) -> Path:
    """An index of the small library. Not to be changed: copy it (`index_copy`)."""
    index = tmp_path_factory.mktemp("server-index") / "index"
    pipeline = Pipeline(Config(index, model_cache, device="cpu"))
    pipeline.__dict__["encoder"] = encoder  # as if it had been loaded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.indexer._ENOUGH_TOKENS", 1500)  # to fit a codec on; the usual number takes a while
        pipeline.ingest([library_folder], report=lambda _: None)
    pipeline.close()
    return index


@pytest.fixture(autouse=True, scope="module")
def _converted_model(model_cache: Path) -> Iterator[None]:
    """For the ingest that a server starts as another process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAG_CACHE", str(model_cache))
        yield


@pytest.fixture
def index_copy(tmp_path: Path, small_index: Path) -> Path:
    """An index of the small library that a test may change."""
    return Path(shutil.copytree(small_index, tmp_path / "index"))


@pytest.fixture(scope="session")
def serve(model_cache, encoder) -> Serve:
    """`with serve(index, **settings) as served`: a real server in a thread, over the session's encoder.

    backend: a language model to answer with, such as a ScriptedBackend, instead of quoting.
    """
    return serving_over(model_cache, encoder)


@pytest.fixture(scope="module")
def served(serve: Serve, small_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a copy of the small library, shared by the tests of a module: they must not change it."""
    index = shutil.copytree(small_index, tmp_path_factory.mktemp("served") / "index")
    with serve(Path(index)) as one:
        yield one

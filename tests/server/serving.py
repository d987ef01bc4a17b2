"""A small library in two languages, and real servers on loopback over it; conftest.py makes fixtures of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from app.config import Config
from app.pipeline import Pipeline
from app.server.app import Application, make_application
from app.server.heads import bounded_protocol
from retrieval.records import Document

TOKEN = "a-token-for-tests-only-0123456789"

LIBRARY = {
    "ferry.md": "# The ferry\n\nThe ferry leaves from pier seven at dusk. It carries bicycles for free.\n\n"
    "In winter it stops at the old lighthouse, where the keeper sells tea.\n",
    "clocks.md": "# Clocks\n\nThe museum of clocks has no windows at all.\n\n"
    "Its oldest clock was built by a blacksmith in 1702.\n",
    "bees.txt": "The beekeeper wears a purple hat. She collects the honey in June.\n",
    "茶馆.md": "# 茶馆\n\n老茶馆位于运河边，每天早上六点开门。店主姓周，只卖龙井茶。\n",
    "emoji.txt": "🐝🐝🐝 Bees dance to show the way. 𠮷野家 is written with a rare character. "
    "The queen lays 2,000 eggs a day.\n",
}
"""Name -> text of every document of the small library."""

FERRY_QUESTION = "Where does the ferry leave from?"
TEA_QUESTION = "茶馆的店主姓什么？"
UNANSWERABLE = "What is the boiling point of tungsten?"


@dataclass(frozen=True, slots=True)
class Served:
    """A running server. `client` brings the token; `bare` brings nothing."""

    url: str
    client: httpx.Client
    bare: httpx.Client
    application: Application
    config: Config

    def ask(self, question: str, **more: Any) -> dict[str, Any]:
        answer = self.client.post("/api/ask", json={"question": question, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


Serve = Callable[..., AbstractContextManager[Served]]


def serving_over(model_cache: Path, encoder: Any) -> Serve:
    """What the fixture `serve` is."""

    def open_with(backend: Any) -> Callable[[Config], Pipeline]:
        def open_pipeline(config: Config) -> Pipeline:
            pipeline = Pipeline(config)
            pipeline.__dict__["encoder"] = encoder
            if backend is not None:
                pipeline.__dict__["_backend"] = backend
                pipeline.choice = replace(pipeline.choice, reader="zephyr")
            return pipeline

        return open_pipeline

    @contextmanager
    def running(index: Path, *, backend: Any = None, **settings: Any) -> Iterator[Served]:
        base = Config(
            index,
            model_cache,
            device="cpu",
            uploads=index.with_name(f"{index.name}-uploads"),
            runs=index.with_name("eval"),
            token=TOKEN,
        )
        config = replace(base, **settings)
        application = make_application(
            config,
            token=TOKEN,
            open_pipeline=open_with(backend),
            flags={"index": str(index), "device": "cpu"},
            folder=index.parent,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                application.app,
                port=0,
                log_config=None,
                access_log=False,
                lifespan="on",
                http=bounded_protocol(),
                ws="none",
            )
        )
        thread = threading.Thread(target=server.run, daemon=True)
        ready = threading.Event()
        startup = server.startup

        async def started(*arguments: Any, **named: Any) -> None:
            await startup(*arguments, **named)
            ready.set()

        server.startup = started  # type: ignore[method-assign]
        thread.start()
        assert ready.wait(60), "the server does not start"
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with (
            httpx.Client(base_url=url, headers=headers, timeout=60) as client,
            httpx.Client(base_url=url, timeout=60) as bare,
        ):
            try:
                yield Served(url, client, bare, application, config)
            finally:
                server.should_exit = True
                thread.join(60)
                assert not thread.is_alive(), "the server does not end"

    return running


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """(name, record) of every event in a whole stream."""
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if fields:
            found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found


def require_exact(record: dict[str, Any], documents: dict[str, Document]) -> None:
    """Every citation of an answer is what stands in its document, to the character."""
    for citation in record["citations"]:
        text = documents[citation["doc_id"]].text
        assert text[citation["start"] : citation["end"]] == citation["quote"]

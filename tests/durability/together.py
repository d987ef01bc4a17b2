"""Writers and readers of one index at the same time. Runs in children of the fork server.

They tell each other what they wait for by making files in a folder.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from doubles import HashEncoder, open_retriever
from examine import Report, attempt_ingest
from stages import QUESTIONS, STAGES, State, are_exact, bring_up_to_date, state_of

from retrieval.retriever import Retriever
from retrieval.store import Store


def tell(signals: Path, name: str) -> None:
    """Let others go on."""
    (signals / name).touch()


def await_all(signals: Path, *names: str) -> None:
    """Wait until all of it was told; the child's time limit is ours."""
    while not all((signals / name).exists() for name in names):
        time.sleep(0.002)


def hold_the_lock(index: str, signals: str) -> None:
    """Be the writer until somebody says 'release'."""
    with Store.open(Path(index)) as store, store.writer():
        tell(Path(signals), "held")
        await_all(Path(signals), "release")


def wait_for_the_lock(index: str, signals: str) -> None:
    """Be the next writer."""
    with Store.open(Path(index)) as store:
        tell(Path(signals), "waiting")
        with store.writer(wait_seconds=60):
            pass


def ingest_when_told(docs: str, index: str, name: str, signals: str, me: str) -> Report:
    """Start a stage at the same moment as others."""
    tell(Path(signals), me)
    await_all(Path(signals), "go")
    return attempt_ingest(docs, index, name)


def write_slowly(docs: str, index: str, name: str, signals: str, readers: list[str]) -> None:
    """Run a stage once every reader has seen the old state; takes its time over every text."""
    await_all(Path(signals), *readers)
    bring_up_to_date(docs, index, STAGES[name], os.devnull, pause_seconds=0.005)
    tell(Path(signals), "written")


def read_meanwhile(index: str, signals: str, me: str, truths: list[State]) -> list[list[int | None]]:
    """Look at an index again and again: anew, with a store that stays open (two threads), and with a retriever.

    Returns which of the states each saw, one after the other; None for anything else.
    """
    place, folder = Path(signals), Path(index)

    shown = [{tuple(passage[:4]) for passage in state["passages"].values()} for state in truths]

    def number(state: State) -> int | None:
        plain = json.loads(json.dumps(state))
        return truths.index(plain) if plain in truths else None

    with Store.open(folder) as store, Store.open(folder) as searched:
        retriever = open_retriever(searched, HashEncoder())

        def anew() -> int | None:
            with Store.open(folder) as opened, opened.snapshot():
                return number(state_of(opened))

        def standing() -> int | None:
            with store.snapshot():
                return number(state_of(store))

        def searching() -> int | None:
            hits = retriever.search(QUESTIONS[0], k=50).hits  # far more than match: some are of one state only
            found = {(hit.source, hit.start, hit.end, hit.text) for hit in hits}
            return next((n for n, passages in enumerate(shown) if found <= passages), None)

        seen: list[list[int | None]] = [[anew()], [standing()], [standing()], [searching()]]
        tell(place, me)

        def look(which: int) -> None:
            act = (anew, standing, standing, searching)[which]
            while not (place / "written").exists():
                seen[which].append(act())
            seen[which].append(act())

        with ThreadPoolExecutor(len(seen)) as threads:
            list(threads.map(look, range(len(seen))))
    return seen


def read_on(index: str, signals: str, truths: list[State]) -> list[bool]:
    """Read one state, its files open, while others publish and remove them; then the newest. Whether each was right."""
    with Store.open(Path(index)) as store:
        old, new = open_retriever(store, HashEncoder()), open_retriever(store, HashEncoder())
        with store.snapshot():
            first = json.loads(json.dumps(state_of(store))) == truths[0]
            tell(Path(signals), "opened")
            await_all(Path(signals), "published")
            still = json.loads(json.dumps(state_of(store))) == truths[0]
            exact = are_exact(_cited(old), truths[0])
        newest = are_exact(_cited(new), truths[1])
        return [first, still, exact, newest, json.loads(json.dumps(state_of(store))) == truths[1]]


def _cited(retriever: Retriever) -> list[tuple[str, int, int, str]]:
    hits = [hit for question in QUESTIONS for hit in retriever.search(question, k=5).hits]
    return [(hit.source, hit.start, hit.end, hit.text) for hit in hits]

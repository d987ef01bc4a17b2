"""Damage an index, then do with it all that people do, and say how that went. Runs in children of the fork server.

Nothing here raises over what the product did: every step has a word for its end, and `problems` are what must not be.
"""

from __future__ import annotations

import io
import json
import os
import random
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import (
    State,
    are_close,
    are_exact,
    citations,
    dense_scores,
    exact_scores,
    run,
    state_of,
)

from retrieval.errors import RagError
from retrieval.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

Report = dict[str, Any]
LONGEST_MESSAGE = 500
_PARTS = "documents", "passages", "matches"  # failures are advice of an earlier run, and have no checksum


# ---- damage ----------------------------------------------------------------------------------------------------------


def deleted(path: Path, _chance: random.Random) -> None:
    path.unlink()


def emptied(path: Path, _chance: random.Random) -> None:
    os.truncate(path, 0)


def cut(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    os.truncate(path, chance.choice([1, size // 2, size - 1, chance.randrange(size)]) if size else 0)


def lengthened(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.choice([1, 100, 20_000])))


def flipped(path: Path, chance: random.Random) -> None:
    """One to eight bits, each anywhere."""
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 2, 8]) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    _overwrite(path, bytes(data))


def overwritten(path: Path, chance: random.Random) -> None:
    """A stretch of other bytes, as a disk leaves them behind."""
    data = bytearray(path.read_bytes())
    first = chance.randrange(max(1, len(data)))
    size = min(len(data) - first, chance.choice([4, 512, 4096]))
    data[first : first + size] = chance.choice([bytes(size), chance.randbytes(size)])
    _overwrite(path, bytes(data))


def _overwrite(path: Path, data: bytes) -> None:
    path.unlink()  # its other links keep what they have
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    each.__name__: each for each in (deleted, emptied, cut, lengthened, flipped, overwritten)
}


# ---- what becomes of it ----------------------------------------------------------------------------------------------


def examine_damaged(index: str, docs: str, harm: tuple[str, str, int], truths: str) -> Report:
    """Damage an index (a path in it, how, and a seed), then examine it."""
    target, damage, seed = harm
    DAMAGES[damage](Path(index, target), random.Random(seed))  # noqa: S311 - reproducible
    return examine(index, docs, truths)


def examine(index: str, docs: str, truths: str) -> Report:
    """Search, read, verify and ingest. `truths`: a file with the states that the index may hold.

    cited, held: right, wrong or refused. verify: sound, named or refused. ingest: done or refused. The same after it.
    shown: what was said of it. problems: whatever is no answer.
    """
    states: list[State] = json.loads(Path(truths).read_text(encoding="utf-8"))
    report: Report = {"problems": [], "shown": []}
    report["cited"] = _tried(report, lambda: _cited(Path(index), states))
    report["held"] = _tried(report, lambda: _held(report, Path(index), states))
    report["verify"] = _tried(report, lambda: _verify(report, Path(index)))
    report["rag index list"] = _tried(report, lambda: _listed(report, index))
    report["ingest"] = _tried(report, lambda: _ingested(docs, index, "change"))
    report["cited after"] = _tried(report, lambda: _cited(Path(index), states))
    report["held after"] = _tried(report, lambda: _held(report, Path(index), states))
    report["verify after"] = _tried(report, lambda: _verify(report, Path(index)))
    return report


def outcome_of(report: Report) -> str:
    """right: as if nothing had happened. refused: with a clear line. named: not all is right, and verify says so.

    And what must not be: crash (anything that is no answer), false (a wrong text was cited), silent (something is not
    right and nobody knows).
    """
    if report["problems"]:
        return "crash"
    for time in ("", " after"):
        cited, held, verify = (report[f"{step}{time}"] for step in ("cited", "held", "verify"))
        if cited == "wrong":
            return "false"
        if held != "right" and verify == "sound":
            return "silent"
    if report["held"] == "wrong":
        return "named"
    return "refused" if "refused" in {report["cited"], report["held"]} else "right"


def _tried(report: Report, step: Callable[[], str]) -> str:
    try:
        return step()
    except RagError as error:
        message = str(error)
        report["shown"].append(message)
        if "\n" in message or not message or len(message) > LONGEST_MESSAGE:
            report["problems"].append(f"not one clear line: {message[:2000]}")
        return "refused"
    except Exception as error:  # noqa: BLE001 - whatever is no answer is what we look for
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        report["problems"].append(f"{type(error).__name__}: {str(error)[:300]} at {' < '.join(ours[:1:-1][:4])}")
        return "crashed"


def _cited(index: Path, states: Sequence[State]) -> str:
    with Store.open(index) as store:
        found = citations(store)
    return "right" if any(are_exact(found, state) for state in states) else "wrong"


def _held(report: Report, index: Path, states: Sequence[State]) -> str:
    with Store.open(index) as store:
        found = json.loads(json.dumps(state_of(store)))
        scores = dense_scores(store)
    wrong = [[part for part in _PARTS if found[part] != state[part]] for state in states]
    if [] in wrong:
        return "right" if are_close(scores, exact_scores(states[wrong.index([])])) else "wrong"
    report["shown"].append(f"wrong {', '.join(wrong[0])}")
    return "wrong"


def _verify(report: Report, index: Path) -> str:
    with Store.open(index) as store:
        problems = store.verify()
    report["shown"] += problems[:5]
    return "named" if problems else "sound"


def _listed(report: Report, index: str) -> str:
    """What the command line makes of it: its exit code, and one line where it is not 0."""
    from app.cli.common import Session
    from app.cli.root import app

    code, complained = 0, io.StringIO()
    session = Session(environ={"HOME": index}, cwd=Path(index))
    with redirect_stdout(io.StringIO()), redirect_stderr(complained):
        try:
            app(["index", "list", "--index", index], prog_name="rag", obj=session)
        except SystemExit as error:
            code = int(error.code or 0)
    if code not in {0, 1} or len(complained.getvalue().splitlines()) > 1:
        report["problems"].append(f"rag index list ended with {code}: {complained.getvalue()[:500]}")
    return str(code)


def attempt_ingest(docs: str, index: str, name: str) -> Report:
    """Run a stage: done, or refused with what was said."""
    report: Report = {"problems": [], "shown": []}
    report["ingest"] = _tried(report, lambda: _ingested(docs, index, name))
    return report


def held_by(index: Path, states: Sequence[State]) -> int | None:
    """Which of the states a sound index holds, by its number; None where it is another or not sound."""
    with Store.open(index) as store:
        found = json.loads(json.dumps(state_of(store)))
        sound = not store.verify() and are_close(dense_scores(store), exact_scores(found))
        exact = are_exact(citations(store), found)
    return states.index(found) if sound and exact and found in states else None


def _ingested(docs: str, index: str, name: str) -> str:
    try:
        run(docs, index, name, os.devnull)
    except OSError as error:
        if error.strerror is None:
            raise
        raise RagError(f"{error.strerror}: {error.filename}") from error  # as the command line says it
    return "done"

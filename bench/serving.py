"""What users of `rag serve` wait for: an answer alone and in a crowd, a quote beside long generations, the page.

The server is a process of its own over the sample index, as `rag serve` starts it. Its users are another one
(`bench/http_client.py`); what they take of the processor is measured and stated.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.config import load_config, process_environment
from app.pipeline import Pipeline
from bench import processes
from bench.http_client import Client, Plan
from bench.processes import Part
from bench.table import Table

USERS = 32
_QUESTIONS = 400
_WARM = 20
_QUICK_SECONDS = 15.0
_LOADS = 5
_PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens. folder: for what belongs to the measurement."""

    port: int
    token: str
    process: int
    folder: Path

    def load(
        self, questions: Sequence[str], *, clients: int = 1, limit_seconds: float = 600.0, **fields: object
    ) -> Part:
        """Users who are ready to ask."""
        records = [{"question": question, **fields} for question in questions]
        plan = Plan(self.port, self.token, clients, "/api/ask", records, limit_seconds)
        file = self.folder / f"plan-{secrets.token_hex(4)}.json"
        file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
        return Part.start("bench.http_client", str(file))

    def asked(self, questions: Sequence[str], **how: Any) -> Load:
        """What becomes of these questions."""
        part = self.load(questions, **how)
        part.begin()
        while not part.has_ended(60):
            pass
        return Load.of(part.result)


@dataclass(frozen=True, slots=True)
class Load:
    """What users met. words, whole: seconds of each request, ascending. cpu_seconds: what the users themselves took."""

    rate: float
    words: Sequence[float]
    whole: Sequence[float]
    cpu_seconds: float

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Load:
        """From what a client printed. Raises RuntimeError where a request failed."""
        if set(result["statuses"]) != {"200"}:
            raise RuntimeError(f"not every request was answered; statuses: {result['statuses']}")
        _, words, whole = (sorted(column) for column in zip(*result["times"], strict=True))
        return cls(len(whole) / result["seconds"], words, whole, result["cpu_seconds"])


@contextmanager
def server(index: Path, folder: Path, **settings: str) -> Iterator[Running]:
    """`rag serve` as a process, with a home of its own. settings: RAG_ variables without their prefix."""
    token = secrets.token_urlsafe(24)
    cache = load_config({}, process_environment(), folder).cache
    wanted = {"token": token, "cache": str(cache), "profile": "embedded", **settings}
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(_PROJECT)}
    environ |= {f"RAG_{name.upper()}": value for name, value in wanted.items()}
    command = [sys.executable, "-m", "app", "serve", "--index", str(index), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environ)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("http://"):
                break
        else:
            raise RuntimeError(f"the server ended: {''.join(said)}")
        with (folder / "server.log").open("a", encoding="utf-8") as log:
            draining = threading.Thread(target=log.writelines, args=(process.stderr,), daemon=True)
            draining.start()
            yield Running(int(line.strip().rstrip("/").rpartition(":")[2]), token, process.pid, folder)
            if process.poll() is not None:
                raise RuntimeError(f"the server ended by itself with status {process.returncode}")
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            draining.join(60)
    finally:
        process.kill()
        process.wait()


@contextmanager
def sample_index(folder: Path) -> Iterator[Pipeline]:
    """The topics of the Python reference in `folder`/documents, and their index in `folder`/index."""
    from pydoc_data.topics import topics

    from app.sample import export

    export(folder / "documents", topics)
    settings = {"index": str(folder / "index"), "profile": "embedded"}
    pipeline = Pipeline(load_config(settings, process_environment(), folder))
    try:
        pipeline.ingest([folder / "documents"], report=lambda _: None)
        yield pipeline
    finally:
        pipeline.close()


def questions(pipeline: Pipeline, count: int, *, seed: int = 0) -> list[str]:
    """Distinct questions, each made of the first words of a sentence in the index."""
    import random

    from eval.generate import prose

    found: dict[str, None] = {}
    for stored in pipeline.export():
        text = stored.chunk.text
        for start, end in prose(text):
            words = text[start:end].split()
            if 8 <= len(words) <= 60:
                said = " ".join(words[:12]).rstrip(".,;:")
                found[f"What does it mean that {said}?"] = None
    shuffled = sorted(found)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - not for secrets
    return shuffled[:count]


def run(limit: int | None = None) -> str:
    """Answers, answers beside long ones, and the page."""
    with TemporaryDirectory() as work:
        folder = Path(work)
        with sample_index(folder) as pipeline:
            asked = questions(pipeline, limit or _QUESTIONS)
        tables = [_answers(folder, asked), _beside_writing(folder, asked), _page(folder)]
    return "\n".join(map(str, tables))


# ---- answers ---------------------------------------------------------------------------------------------------------


def _answers(folder: Path, asked: Sequence[str]) -> Table:
    alone, both = _in_process(folder, asked, 1), _in_process(folder, asked, 2)
    with server(folder / "index", folder) as running:
        running.asked(asked[:_WARM])
        one = running.asked(asked)
        streamed = running.asked(asked, stream=True)
        many = running.asked(asked, clients=USERS)
    rows = [
        ("`Pipeline.ask` in one process, the baseline", f"{alone:.1f}", "", "", ""),
        (
            "the same in two processes at once: what the second core is worth",
            f"{both:.1f}",
            "",
            "",
            _ratio(both, alone),
        ),
        ("server, one user", f"{one.rate:.1f}", *_quantiles(one.whole), _ratio(one.rate, alone)),
        ("server, one user, first words of a stream", "", *_quantiles(streamed.words), ""),
        (f"server, {USERS} users at once", f"{many.rate:.1f}", *_quantiles(many.whole), _ratio(many.rate, one.rate)),
    ]
    note = (
        f"{len(asked)} distinct questions each; the ratio of {USERS} users is to one user, the others to the baseline. "
        f"The users took {1000 * one.cpu_seconds / len(asked):.1f} ms of the processor an answer when alone, "
        f"{1000 * many.cpu_seconds / len(asked):.1f} ms in the crowd."
    )
    return Table("Answers, embedded profile, sample index", ("what", "answers/s", "p50", "p99", "ratio"), rows, note)


def _in_process(folder: Path, asked: Sequence[str], count: int) -> float:
    """Answers/s of so many processes, each of which asks all questions."""
    file = folder / "questions.json"
    file.write_text(json.dumps(list(asked)), encoding="utf-8")
    parts = [Part.start("bench.serving", str(folder / "index"), str(file)) for _ in range(count)]
    for part in parts:
        part.begin()
    for part in parts:
        while not part.has_ended(60):
            pass
    return sum(len(asked) / float(part.result["seconds"]) for part in parts)


def _ask_all(index: str, file: str) -> None:
    """Be the process that asks the pipeline itself."""
    asked = json.loads(Path(file).read_text(encoding="utf-8"))
    pipeline = Pipeline(load_config({"index": index, "profile": "embedded"}, process_environment(), Path(index)))
    for question in asked[:_WARM]:
        pipeline.ask(question)

    def work() -> dict[str, float]:
        started = time.perf_counter()
        for question in asked:
            pipeline.ask(question)
        return {"seconds": time.perf_counter() - started}

    processes.serve(work)


# ---- beside a language model -----------------------------------------------------------------------------------------


def _beside_writing(folder: Path, asked: Sequence[str]) -> Table:
    """Quick answers while a language model's stand-in writes to as many as may be written to at once."""
    from bench.stand_in import TOKENS, TOKENS_PER_SECOND

    quick = {"reader": "extractive", "limit_seconds": _QUICK_SECONDS}
    with _stand_in() as url:
        settings = {"reader": "server", "server_url": url, "max_answer_tokens": str(TOKENS)}
        with server(folder / "index", folder, **settings) as running:
            running.asked(asked[:_WARM], **quick)
            quiet = running.asked(asked, **quick)
            writing = running.load(asked[:USERS], clients=USERS, stream=True)
            try:
                writing.begin()
                while (begun := _taken(running)) < USERS:
                    time.sleep(0.1)
                beside = running.asked(asked, **quick)
                still = _taken(running)
            finally:
                writing.process.kill()
                writing.process.wait()
    rows = [
        ("nothing is written, the baseline", f"{quiet.rate:.1f}", *_quantiles(quiet.whole)),
        (f"{begun} long answers are being written", f"{beside.rate:.1f}", *_quantiles(beside.whole)),
    ]
    note = (
        f"One user with `reader: extractive`; {TOKENS_PER_SECOND} tokens/s to each of {begun}, {still} of whom were "
        "still being written to at the end. The stand-in and those who read it share the processor with the server."
    )
    return Table("Quick answers beside long ones", ("while", "answers/s", "p50", "p99"), rows, note)


@contextmanager
def _stand_in() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.stand_in"], stdout=subprocess.PIPE, text=True, cwd=_PROJECT
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def _taken(running: Running) -> int:
    """How many answers are being written or wait for it."""

    async def metrics() -> str:
        async with Client(running.port, running.token) as client:
            return (await client.ask("GET", "/metrics")).body.decode()

    lines = asyncio.run(metrics()).splitlines()
    return round(float(next(line.split()[1] for line in lines if line.startswith("rag_writing_taken "))))


# ---- the page --------------------------------------------------------------------------------------------------------


def _page(folder: Path) -> Table:
    """Bytes and first paint of the page, each load by a new visitor."""
    with server(folder / "index", folder) as running:
        loads = _loads(running)
    header = ("", "median", "goal")
    if not loads:
        return Table("The page", header, [("not measured: there is no Chromium, or no playwright package", "", "")])
    paint, transferred, unpacked, files = (statistics.median(column) for column in zip(*loads, strict=True))
    rows = [
        ("first paint", f"{paint:.0f} ms", "300 ms"),
        (f"the page and all it loads, {files:.0f} files, with their headers", f"{transferred / 1000:.0f} KB", "200 KB"),
        ("the same without compression and headers", f"{unpacked / 1000:.0f} KB", ""),
    ]
    slowest = max(paint for paint, *_ in loads)
    return Table(
        "The page", header, rows, f"{len(loads)} cold loads in Chromium on loopback, slowest {slowest:.0f} ms."
    )


_MEASURE = """() => {
    const loaded = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
    const sum = (name) => loaded.reduce((total, entry) => total + entry[name], 0);
    const paints = performance.getEntriesByType('paint').map((entry) => entry.startTime);
    return [Math.min(...paints), sum('transferSize'), sum('decodedBodySize'), loaded.length];
}"""


def _loads(running: Running) -> list[tuple[float, float, float, int]]:
    """(first paint in ms, bytes transferred, bytes unpacked, files) of each load; none without a browser."""
    import shutil

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    if program is None:
        return []
    found = []
    with sync_playwright() as playwright:
        for _ in range(_LOADS):
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(extra_http_headers={"Authorization": f"Bearer {running.token}"})
            page.goto(f"http://127.0.0.1:{running.port}/", wait_until="networkidle")
            found.append(tuple(page.evaluate(_MEASURE)))
            browser.close()
    return found


def _quantiles(seconds: Sequence[float]) -> tuple[str, str]:
    at = [seconds[min(len(seconds) - 1, int(share * len(seconds)))] for share in (0.5, 0.99)]
    return f"{1000 * at[0]:.0f} ms", f"{1000 * at[1]:.0f} ms"


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}x"


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        _ask_all(*sys.argv[1:3])

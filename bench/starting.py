"""What a person waits for: help, the first answer of a process, and each further one."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from app.config import load_config, process_environment
from app.pipeline import Pipeline
from bench.table import Table
from ingest.records import Progress

_ROUNDS = 7
QUESTIONS = (
    "When is the else clause of a try statement executed?",
    "What does the yield expression do in a generator function?",
    "How are keyword arguments passed to a function?",
    "What does the global statement do?",
    "Which exception does a failing assert statement raise?",
    "What is the difference between is and ==?",
    "How does the with statement call __exit__?",
    "What happens when a slice index is out of range?",
    "How are default parameter values evaluated?",
    "What is a formatted string literal?",
)


def run() -> Table:
    """Processes and questions on the sample corpus, each the median of several rounds."""
    from pydoc_data.topics import topics

    from app.sample import export

    with TemporaryDirectory() as work:
        documents, index = Path(work) / "documents", Path(work) / "index"
        export(documents, topics)
        config = load_config({"index": str(index), "profile": "embedded"}, process_environment(), Path.cwd())
        pipeline = Pipeline(config)
        report = pipeline.ingest([documents], report=_silent)
        ask = ["-m", "app", "ask", QUESTIONS[0], "--index", str(index), "--profile", "embedded"]
        rows = [
            ("`python -c pass`, the baseline", f"{_process(['-c', 'pass']):.2f} s", ""),
            ("`rag --help`", f"{_process(['-m', 'app', '--help']):.2f} s", "0.4 s, without torch"),
            ("`rag ask`, process start included", f"{_process(ask):.2f} s", "2.5 s"),
            ("each further question", f"{_questions(pipeline):.0f} ms", "100 ms"),
            (
                "importing torch and sentence-transformers alone, the baseline",
                f"{_process(['-c', 'import torch, sentence_transformers']):.2f} s",
                "",
            ),
        ]
        pipeline.close()
    return Table(
        f"Waiting, on the sample corpus ({report.chunks} chunks)",
        ("what", "median", "goal"),
        rows,
        f"Median of {_ROUNDS} processes, of {len(QUESTIONS) * 3} questions.",
    )


def _process(arguments: list[str]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _questions(pipeline: Pipeline) -> float:
    pipeline.ask(QUESTIONS[0])
    times = []
    for question in QUESTIONS * 3:
        started = time.perf_counter()
        pipeline.ask(question)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _silent(_: Progress) -> None:
    return

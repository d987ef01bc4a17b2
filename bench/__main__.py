"""Run the measurements and write them into docs: python -m bench [splitting] [retrieval] ..."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bench import (
    calibrating,
    citing,
    compressing,
    evaluation,
    extracting,
    growing,
    ingesting,
    quality,
    reading,
    scaling,
    serving,
    soaking,
    splitting,
    starting,
    verifying,
)
from bench.data import DataMissingError

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("benchmarks.md", "evaluation.md")


def main() -> None:
    """Measure what was asked for, print it, and replace its section of the page."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="some of the measurements; all by default")
    parser.add_argument("--limit", type=int, help="questions a set (default: all of them)")
    parser.add_argument("--requests", type=int, default=soaking.REQUESTS, help="of the soak (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=soaking.CLIENTS, help="of the soak (default: %(default)s)")
    parser.add_argument("--print-only", action="store_true", help="leave the pages in docs as they are")
    arguments = parser.parse_args()
    benches: dict[str, Callable[[], object]] = {
        "splitting": splitting.run,
        "ingesting": ingesting.run,
        "overhead": growing.run_beside_encoder,
        "memory": growing.run_memory,
        "growing": growing.run_scale,
        "starting": starting.run,
        "scaling": scaling.run,
        "searching": scaling.run_whole,
        "quality": partial(quality.run, limit=arguments.limit),
        "evaluation": partial(evaluation.run, limit=arguments.limit),
        "extracting": partial(extracting.run, limit=arguments.limit),
        "calibrating": partial(calibrating.run, limit=arguments.limit),
        "compressing": partial(compressing.run, limit=arguments.limit),
        "verifying": partial(verifying.run, limit=arguments.limit),
        "citing": partial(citing.run, limit=arguments.limit),
        "reading": partial(reading.run, limit=arguments.limit),
        "serving": partial(serving.run, limit=arguments.limit),
        "soak": partial(soaking.run, arguments.requests, arguments.clients),
    }
    unknown = set(arguments.names) - benches.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(benches)}")
    for name, bench in benches.items():
        if arguments.names and name not in arguments.names:
            continue
        try:
            result = f"{bench()}\n{_machine()}\n"
        except DataMissingError as error:
            print(f"{name}: skipped, {error}\n")
            continue
        print(result)
        if not arguments.print_only:
            _write(name, result)


def _write(name: str, result: str) -> None:
    """Replace the section of a measurement, on whichever page it has one."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    for page in (DOCS / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        page.write_text(section.sub(lambda _: f"{begin}\n{result}{end}", text), encoding="utf-8")


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "openvino", "tokenizers"))
    return f"*{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}.*"


if __name__ == "__main__":
    main()

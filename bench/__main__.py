"""Run the measurements and write them into docs/benchmarks.md: python -m bench [splitting] [ingesting] ..."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bench import ingesting, quality, splitting, starting
from bench.data import DataMissingError
from bench.table import Table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def main() -> None:
    """Measure what was asked for, print it, and replace its section of the page."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="splitting, ingesting, starting, quality; all by default")
    parser.add_argument("--limit", type=int, help="questions a set, for quality (default: all of them)")
    parser.add_argument("--print-only", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    benches: dict[str, Callable[[], Table]] = {
        "splitting": splitting.run,
        "ingesting": ingesting.run,
        "starting": starting.run,
        "quality": partial(quality.run, limit=arguments.limit),
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
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    section = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    PAGE.write_text(section.sub(lambda _: f"{begin}\n{result}{end}", page), encoding="utf-8")


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "openvino", "tokenizers"))
    return f"*{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}.*"


if __name__ == "__main__":
    main()

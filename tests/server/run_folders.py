"""Evaluation runs over the small library, made by the product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.config import Config
from app.evaluation import Means, Wanted, evaluate
from app.pipeline import Pipeline

CASES = [
    {"id": "q1", "question": "Where does the ferry leave from?", "answer": "pier seven", "source": "ferry.md"},
    {"id": "q2", "question": "Who built the oldest clock?", "answer": "a blacksmith", "source": "clocks.md"},
    {"id": "q3", "question": "What colour is the beekeeper's hat?", "answer": "purple", "source": "bees.txt"},
    {"id": "q4", "question": "茶馆的店主姓什么？", "answer": "周", "source": "茶馆.md"},
]
NAME = 'a "run" & 100% <b>评测</b> #1?.v2'.replace("/", "\u2215")
"""Of a folder: everything that an address or a page could stumble over."""


def made_runs(tests: Path, index: Path, cache: Path, encoder: Any) -> Path:
    """The folder of two finished runs over the same questions, `first` and `shy`, and of one over fewer, NAME.

    tests: the folder of all tests' files; the runs are made once. Not to be changed: copy them.
    """
    folder = tests / "run-folders"
    if folder.exists():
        return folder / "eval"
    folder.mkdir()

    def open_pipeline(config: Config) -> Pipeline:
        pipeline = Pipeline(config)
        pipeline.__dict__["encoder"] = encoder  # as if it had been loaded
        return pipeline

    def run(name: str, cases: list[dict[str, str]], **settings: Any) -> None:
        file = folder / f"{len(cases)} cases.jsonl"
        file.write_text("".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases), encoding="utf-8")
        config = Config(index, cache, device="cpu", **settings)
        evaluate(Wanted(file, folder / "eval" / name, own_index=True), config, Means(open_pipeline))

    run("first", CASES)
    run("shy", CASES, min_evidence=1.0)
    run(NAME, CASES[:2])
    return folder / "eval"

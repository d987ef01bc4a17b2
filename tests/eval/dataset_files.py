"""Small datasets of every format, in English and Chinese, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PARIS = "Paris is the capital of France.  It lies on\nthe Seine. About 2 million people live there."
BEIJING = "北京是中国的首都。它位于华北平原的北部，人口超过两千万。"

CORPUS = [
    {"_id": "d1", "title": "Paris", "text": PARIS},
    {"_id": "d2", "title": "北京", "text": BEIJING},
    {"_id": "d3", "text": ""},
]
QUERIES = [
    {
        "_id": "q1",
        "text": "What is the capital of France?",
        "answers": ["Paris", " Paris "],
        "all_answers": ["Paris", "the city of Paris"],
        "unanswerable": False,
        "selected_sentences": [["It lies on the Seine.", "Rome is in Italy."], []],
    },
    {
        "_id": "q2",
        "text": "它的人口有多少？",
        "answers": ["超过", "两千万"],
        "required": [["超过", "多于"], ["两千万"]],
        "history": [["user", "中国的首都是哪里？"], ["agent", "北京。"]],
        "kind": "follow-up",
    },
    {"_id": "q3", "text": "Who is the mayor?", "answers": ["I do not know."], "unanswerable": True, "type": "null"},
    {"_id": "q4", "text": "   ", "answers": ["x"]},
    {"_id": "q5", "text": "A question of another split"},
    {"_id": "q6", "text": "Which?", "answers": ["ask back"], "answerability": "UNDERSPECIFIED", "unanswerable": False},
    {
        "_id": "q7",
        "text": "下列哪些是首都？",
        "answers": ["巴黎", "北京"],
        "choices": [
            {"text": "巴黎", "correct": True},
            {"text": "上海", "correct": False},
            {"text": "北京", "correct": True},
        ],
        "needs_choices": True,
    },
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq4\td1\t1\nq7\td1\t1\nq7\td2\t1.0\n"
ELSEWHERE = [
    {"_id": "o1", "text": "谁发明了电话？", "answers": [], "reference_if_present": ["贝尔"], "unanswerable": True}
]


def write(path: Path, text: str) -> Path:
    """A UTF-8 file, its line ends as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """A JSON value a line; a text is written as it is, to be malformed."""
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    return write(path, "".join(f"{line}\n" for line in lines))


def write_beir(
    folder: Path,
    *,
    corpus: Sequence[Any] | None = CORPUS,
    queries: Sequence[Any] = QUERIES,
    qrels: str = QRELS,
    split: str = "test",
) -> Path:
    """A BEIR folder; corpus None: without one."""
    if corpus is not None:
        write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", queries)
    write(folder / "qrels" / f"{split}.tsv", qrels)
    return folder

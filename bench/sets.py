"""The open question sets as documents, and their indexes, kept between runs in .rag/bench."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import load_config, process_environment
from app.pipeline import Pipeline
from bench.data import data_folder, rows
from ingest.records import Progress
from retrieval.records import Document

CACHE = Path(__file__).resolve().parent.parent / ".rag" / "bench"
FILES = "hf_docs"
"""The set whose documents are files: all of corpora/hf_docs, for the questions of hf_doc_qa_eval."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a set. relevant: source of a document -> its grade; empty where nothing in the corpus answers.

    kind: "answerable"; "unanswerable" asks for what the corpus does not say, perhaps of something it speaks about;
    "elsewhere" is the question of another corpus.
    """

    number: str
    text: str
    relevant: Mapping[str, int]
    kind: str = "answerable"


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A corpus and what is asked of it, in the order of its file."""

    name: str
    questions: tuple[Asked, ...]


def question_set(name: str) -> QuestionSet:
    """A set by its folder's name, or FILES. Blank questions, of which squad2_dev_big has a few, are left out."""
    folder = data_folder("eval", "hf_doc_qa_eval" if name == FILES else name)
    return QuestionSet(name, tuple(one for one in _questions(folder) if one.text.strip()))


def documents(name: str) -> list[Document]:
    """The corpus of a set, a document a line; `source` is the id that the set gives it."""
    corpus = data_folder("eval", name) / "corpus.jsonl"
    made = []
    for row in rows(corpus):
        title, text = str(row.get("title") or ""), str(row["text"])
        digest = hashlib.sha256(f"{title}\0{text}".encode()).hexdigest()
        source = str(row["_id"])
        made.append(Document(f"{name}/{source}", f"/{name}", source, "text/plain", title, text, (), digest))
    return made


@contextmanager
def pipeline_over(index: Path) -> Iterator[Pipeline]:
    """The embedded profile over an index folder."""
    config = load_config({"index": str(index), "profile": "embedded"}, process_environment(), Path.cwd())
    pipeline = Pipeline(config)
    try:
        yield pipeline
    finally:
        pipeline.close()


@contextmanager
def opened(asked: QuestionSet) -> Iterator[Pipeline]:
    """A pipeline over the set's index, brought up to date first."""
    with pipeline_over(CACHE / asked.name) as pipeline:
        if asked.name == FILES:
            pipeline.ingest([data_folder("corpora", FILES)], report=_silent)
        else:
            pipeline.ingest_documents(documents(asked.name), root=f"/{asked.name}", report=_silent)
        yield pipeline


def _questions(folder: Path) -> Iterator[Asked]:
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if float(grade) > 0:
            relevant.setdefault(query, {})[document.replace("/blob/main/", "/")] = int(float(grade))
    for row in rows(folder / "queries.jsonl"):
        found = relevant.get(str(row["_id"]), {})
        kind = "unanswerable" if row.get("unanswerable") or not found else "answerable"
        yield Asked(str(row["_id"]), str(row["text"]), found, kind)
    elsewhere = folder / "queries_outofcorpus.jsonl"
    for row in rows(elsewhere) if elsewhere.is_file() else ():
        yield Asked(str(row["_id"]), str(row["text"]), {}, "elsewhere")


def _silent(_: Progress) -> None:
    return

"""The open question sets as documents, and their indexes, kept between runs in .rag/bench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.config import load_config, process_environment
from app.pipeline import Pipeline
from bench.data import data_folder
from eval.datasets import load_dataset
from eval.records import Dataset, Example
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


def folder_of(name: str) -> Path:
    """Where the questions of a set are."""
    return data_folder("eval", "hf_doc_qa_eval" if name == FILES else name)


def question_set(name: str) -> QuestionSet:
    """A set by its folder's name, or FILES."""
    return QuestionSet(name, tuple(map(_asked, _dataset(name).examples)))


def documents(name: str) -> list[Document]:
    """The corpus of a set, a document a line; `source` is the id that the set gives it."""
    return list(_dataset(name).documents)


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


@cache
def _dataset(name: str) -> Dataset:
    return load_dataset(folder_of(name))


def _asked(example: Example) -> Asked:
    if example.kind == "elsewhere":
        return Asked(example.example_id, example.question, {}, "elsewhere")
    relevant = example.relevant or {}
    kind = "answerable" if relevant and example.answerable is not False else "unanswerable"
    return Asked(example.example_id, example.question, relevant if kind == "answerable" else {}, kind)


def _silent(_: Progress) -> None:
    return

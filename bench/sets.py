"""The open question sets as folders of documents, and their indexes, kept between runs in .rag/bench."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import Config, load_config, process_environment
from app.pipeline import Pipeline
from bench.data import data_folder, rows
from ingest.records import Progress

CACHE = Path(__file__).resolve().parent.parent / ".rag" / "bench"


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
    """A corpus as a folder of files, and what is asked of it, in the order of its file."""

    name: str
    documents: Path
    questions: tuple[Asked, ...]


def question_set(name: str) -> QuestionSet:
    """A set by its folder's name; "hf_docs" stands for hf_doc_qa_eval over all of corpora/hf_docs."""
    folder = data_folder("eval", "hf_doc_qa_eval" if name == "hf_docs" else name)
    if name == "hf_docs":
        documents = data_folder("corpora", "hf_docs")
        sources = {str(path.relative_to(documents)): str(path.relative_to(documents)) for path in documents.rglob("*")}
    else:
        documents = CACHE / name / "documents"
        sources = _write_documents(folder / "corpus.jsonl", documents)
    return QuestionSet(name, documents, tuple(_questions(folder, sources)))


def _questions(folder: Path, sources: Mapping[str, str]) -> Iterator[Asked]:
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        document = document.replace("/blob/main/", "/")
        if float(grade) > 0 and document in sources:
            relevant.setdefault(query, {})[sources[document]] = int(float(grade))
    for row in rows(folder / "queries.jsonl"):
        number, found = str(row["_id"]), relevant.get(str(row["_id"]), {})
        unanswerable = bool(row.get("unanswerable")) or not found
        yield Asked(number, str(row["text"]), found, "unanswerable" if unanswerable else "answerable")
    elsewhere = folder / "queries_outofcorpus.jsonl"
    for row in rows(elsewhere) if elsewhere.is_file() else ():
        yield Asked(str(row["_id"]), str(row["text"]), {}, "elsewhere")


def _write_documents(corpus: Path, target: Path) -> dict[str, str]:
    """One Markdown file a document, its title as the heading; returns corpus id -> file name."""
    digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
    written = target.with_name("documents.sha256")
    whole = written.is_file() and written.read_text(encoding="ascii") == digest
    if not whole:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    sources = {}
    for number, row in enumerate(rows(corpus)):
        title, text = str(row.get("title") or ""), str(row["text"])
        name = f"{number:06d}.md"
        sources[str(row["_id"])] = name
        if not whole:
            (target / name).write_text(f"# {title}\n\n{text}" if title else text, encoding="utf-8", newline="")
    written.write_text(digest, encoding="ascii")
    return sources


@contextmanager
def opened(asked: QuestionSet, **flags: object) -> Iterator[Pipeline]:
    """A pipeline over the set's index, brought up to date first; profile embedded unless flags say otherwise."""
    pipeline = Pipeline(_config({"index": str(CACHE / asked.name / "index"), "profile": "embedded", **flags}))
    try:
        pipeline.ingest([asked.documents], prune=True, report=_silent)
        yield pipeline
    finally:
        pipeline.close()


def _config(flags: Mapping[str, object]) -> Config:
    return load_config(flags, process_environment(), Path.cwd())


def _silent(_: Progress) -> None:
    return

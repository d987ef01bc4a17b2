"""The life of a small index: a first ingest, a change, a prune, a rebuild; what it holds after each, and its checks.

What an index must hold is what one made from scratch of the same files holds, as plain values that JSON can carry.
Used by the tests and, through the fork server, in their children.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from doubles import HashEncoder, open_retriever
from faults import run_until_write

import ingest.indexer
import retrieval.writer
from ingest.build import ingest as run_ingest
from ingest.indexer import Settings
from retrieval.analyze import Analyzer
from retrieval.dense import open_dense
from retrieval.encoder import Encoded
from retrieval.errors import IndexMissingError
from retrieval.lexical import open_lexical
from retrieval.records import ChunkingSpec
from retrieval.store import Store, embedding_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ingest.records import IngestReport

COMMIT_TEXTS = 4
MANY = 1000  # more than there are
SAMPLED_TOKENS, SAMPLED_TEXTS = 200, 16  # no stage has a sample of more texts
WORDS = [
    first + second
    for first in ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru")
    for second in ("lem", "nor", "pax", "ret", "sum")
]
QUESTIONS = ("balem fipax rusum", "gonor meret 漢字 dolem", "kulem shared sentence")

State = dict[str, Any]
"""What an index holds: documents (source -> text), failures (sources), passages (chunk id -> source, start, end, text,
vector in hexadecimal), matches (question -> chunk ids that have one of its words)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of `ingest`: the files it finds, and all those that the index holds afterwards."""

    files: Mapping[str, bytes]
    held: Mapping[str, bytes]
    prune: bool = False
    rebuild: bool = False
    max_tokens: int = 40


def _paragraph(seed: int) -> str:
    chance = random.Random(seed)  # noqa: S311 - reproducible
    return " ".join(chance.choices(WORDS, k=25))


def _text(*seeds: int) -> bytes:
    return "\n\n".join(map(_paragraph, seeds)).encode()


_FIRST = {
    **{f"plain{n}.txt": _text(10 * n, 10 * n + 1, 10 * n + 2) for n in range(7)},
    "notes/heading.md": b"# Shared title\n\n" + _text(1, 90) + b"\n\n## Below\n\n" + _text(91),  # 1: as in plain0.txt
    "notes/wide.txt": f"漢字 and \U0001f600 {_paragraph(92)}\r\n\r\n漢字 é {_paragraph(93)}".encode(),
    "twin.txt": _text(10, 11, 12),  # as plain1.txt
    "empty.txt": b"",
    "broken.pdf": b"%PDF-1.7\nnothing that a reader could make sense of",
}
_CHANGED = {
    **_FIRST,
    "plain0.txt": _text(0, 200, 2),
    "plain2.txt": _text(201, 202),
    "notes/heading.md": b"# Another title\n\n" + _text(1, 90),
    "new0.txt": _text(203, 204, 205),
    "new1.txt": _text(206, 10, 207),
}
_LEFT = {name: data for name, data in _CHANGED.items() if name not in {"plain3.txt", "twin.txt"}}

STAGES = {
    "first": Stage(_FIRST, _FIRST),
    "change": Stage(_LEFT, _CHANGED),
    "prune": Stage(_LEFT, _LEFT, prune=True),
    "rebuild": Stage(_LEFT, _LEFT, rebuild=True, max_tokens=24),
}


class LoggingEncoder(HashEncoder):
    """Notes the key of every text it encodes, one a line, so that a kill loses none."""

    def __init__(self, log: str, pause_seconds: float) -> None:
        super().__init__()
        self._pause_seconds = pause_seconds
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        for text in texts:
            time.sleep(self._pause_seconds)
            os.write(self._log, embedding_key(self.spec, text).hex().encode() + b"\n")
            yield from super().encode([text], query=query)


def write_files(docs: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder hold these files and no others."""
    for path in [*docs.rglob("*")]:
        if path.is_file():
            path.unlink()
    for name, data in files.items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def bring_up_to_date(
    docs: str, index: str, stage: Stage, log: str = os.devnull, *, pause_seconds: float = 0.0
) -> IngestReport:
    """Run a stage in small steps: a commit every four texts, a batch every four documents, every file due at once."""
    small = {
        (ingest.indexer, "_COMMIT_TEXTS"): COMMIT_TEXTS,
        (ingest.indexer, "_BATCH_TEXTS"): 16,
        (ingest.indexer, "_SAMPLE_TOKENS"): SAMPLED_TOKENS,
        (ingest.indexer, "_ENOUGH_TOKENS"): SAMPLED_TOKENS,
        (retrieval.writer, "REWRITE_ROWS"): 2,
    }
    for (module, setting), value in small.items():
        assert hasattr(module, setting)
        setattr(module, setting, value)
    encoder = LoggingEncoder(log, pause_seconds)
    return run_ingest(
        [Path(docs)],
        folder=Path(index),
        settings=Settings(encoder.spec, ChunkingSpec(max_tokens=stage.max_tokens), 1_000_000, "", versions={}),
        make_encoder=lambda: encoder,
        report=lambda _: None,
        prune=stage.prune,
        rebuild=stage.rebuild,
    )


# ---- in a child ------------------------------------------------------------------------------------------------------


def warm() -> None:
    """Import what children need and fill the caches that each would have to fill: once, before the first fork."""
    from pydoc_data.topics import topics

    for name in ("faiss", "tantivy", "tokenizers", "app.cli.root", "app.pipeline", "rich.text", "rich.table"):
        importlib.import_module(name)
    encoder = HashEncoder()
    paragraphs = map(_paragraph, range(100))
    list(
        encoder.encode([*paragraphs, *(line for _, text in sorted(topics.items())[:5] for line in text.split("\n\n"))])
    )
    Analyzer().terms("漢字 and words")


def run(docs: str, index: str, name: str, log: str) -> int:
    """Run a stage; returns how many texts it encoded."""
    return bring_up_to_date(docs, index, STAGES[name], log).embedded


def run_again(docs: str, index: str, name: str, unfinished: bool, log: str) -> None:
    """Run a stage after one that was killed; nobody asks for a rebuild again that is done."""
    stage = STAGES[name]
    bring_up_to_date(docs, index, replace(stage, rebuild=stage.rebuild and unfinished), log)


def run_from_scratch(docs: str, index: str, name: str) -> None:
    """Make a new index that is cut like that of a stage."""
    bring_up_to_date(docs, index, replace(STAGES[name], rebuild=False))


def run_counting(docs: str, index: str, name: str) -> list[str]:
    """Run a stage; returns every call that changed a file."""
    return run_until_write(0, lambda: run(docs, index, name, os.devnull), lambda: None)


def run_killed(docs: str, index: str, name: str, number: int, log: str) -> None:
    """Run a stage up to its n-th call that changes a file, and die there."""
    run_until_write(number, lambda: run(docs, index, name, log), lambda: os.kill(os.getpid(), signal.SIGKILL))


# ---- what an index holds ---------------------------------------------------------------------------------------------


def passages_of(store: Store) -> dict[str, tuple[str, int, int, str, str]]:
    """Every published chunk: id -> source, start, end, text, vector in hexadecimal."""
    ids, vectors = store.vectors()
    packed = dict(zip(ids.tolist(), (row.tobytes().hex() for row in vectors), strict=True))
    return {
        each.chunk.chunk_id: (each.source, each.chunk.start, each.chunk.end, each.chunk.text, packed[embedding])
        for embedding, chunks in store.chunks_of_embeddings(ids.tolist()).items()
        for each in chunks
    }


def names_of(store: Store) -> dict[int, list[str]]:
    """Embedding -> the ids of its chunks."""
    found = store.chunks_of_embeddings(store.live_embeddings().tolist())
    return {embedding: [each.chunk.chunk_id for each in chunks] for embedding, chunks in found.items()}


def state_of(store: Store) -> State:
    """All of it; raises what the store raises."""
    rows = {row.source: store.document(row.doc_id) for row in store.documents()}
    analyzer, names = Analyzer(), names_of(store)
    lexical = open_lexical(store, analyzer)
    matches = {}
    for question in QUESTIONS:
        _, ids = lexical.search(dict.fromkeys(analyzer.terms(question), 1.0), MANY)
        matches[question] = sorted(name for embedding in ids.tolist() for name in names.get(embedding, ["none"]))
    return {
        "documents": {source: document.text if document else "" for source, document in rows.items()},
        "failures": sorted(failure.source for failure in store.failures()),
        "passages": {chunk_id: list(values) for chunk_id, values in passages_of(store).items()},
        "matches": matches,
    }


def dense_scores(store: Store) -> dict[str, dict[str, float]]:
    """What a dense search gives each chunk, by question."""
    dense, names = open_dense(store), names_of(store)
    queries = HashEncoder().encode_passages(QUESTIONS)
    rows = zip(QUESTIONS, *dense.search(queries, MANY), strict=True)
    return {
        question: {
            name: float(score)
            for score, each in zip(scores, ids.tolist(), strict=True)
            for name in names.get(each, ["none"])
        }
        for question, scores, ids in rows
    }


def exact_scores(state: State) -> dict[str, dict[str, float]]:
    """The slow oracle of `dense_scores`: the inner products themselves."""
    queries = dict(zip(QUESTIONS, HashEncoder().encode_passages(QUESTIONS), strict=True))
    vectors = {name: np.frombuffer(bytes.fromhex(vector), "<f4") for name, (*_, vector) in state["passages"].items()}
    return {
        question: {name: float(vector @ query) for name, vector in vectors.items()}
        for question, query in queries.items()
    }


def are_close(found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]) -> bool:
    """The same chunks with the same scores, up to the last digits."""
    return all(
        found[question].keys() == scores.keys()
        and all(abs(found[question][name] - score) < 1e-5 for name, score in scores.items())
        for question, scores in expected.items()
    )


def citations(store: Store) -> list[tuple[str, int, int, str]]:
    """What a search shows as found: source, start, end and text of each hit."""
    retriever = open_retriever(store, HashEncoder())
    found = (hit for question in QUESTIONS for hit in retriever.search(question, k=5).hits)
    return [(hit.source, hit.start, hit.end, hit.text) for hit in found]


def are_exact(found: Sequence[tuple[str, int, int, str]], state: State) -> bool:
    """Whether every citation is the very text of its document."""
    texts = state["documents"]
    return all(source in texts and texts[source][start:end] == text for source, start, end, text in found)


def assert_holds(index: Path, *states: State) -> State:
    """The index is complete and sound, and holds one of these states; returns which."""
    with Store.open(index) as store:
        found = state_of(store)
        assert found in states
        assert open_dense(store).notice is None
        assert open_lexical(store, Analyzer()).notice is None
        assert are_close(dense_scores(store), exact_scores(found))
        assert are_exact(citations(store), found)
        assert store.verify() == []
    return found


def codes_of(index: Path) -> dict[str, str]:
    """The coded token vectors of every chunk, by its id."""
    with Store.open(index) as store:
        names = names_of(store)
        codes = store.token_codes(names)
        return {
            name: hashlib.sha256(codes[each].tobytes()).hexdigest() for each, some in names.items() for name in some
        }


def committed_keys(index: Path, keys: Iterable[str]) -> set[str]:
    """Those of some keys whose embeddings an index has, published or not, and so need not be made again."""
    try:
        store = Store.open(index)
    except IndexMissingError:
        return set()
    with store, store.writer() as writer:
        return {key.hex() for key in writer.known([bytes.fromhex(each) for each in keys], with_codes=True)}


def shape_of(index: Path) -> Counter[str]:
    """How many files of each pattern of names lie in an index folder; not the lock file that tantivy may make late."""
    names = (path.relative_to(index).as_posix() for path in index.rglob("*") if path.is_file())
    return Counter(pattern_of(name) for name in names if not name.endswith(".tantivy-meta.lock"))


def pattern_of(name: str) -> str:
    """A file's name, with N for what is a number or drawn at random."""
    return re.sub(r"[0-9a-f]{32}|[0-9]+", "N", name)

"""Dense search by size: every vector compared, and what the index of the product does, side by side.

Vectors are synthetic: a tree of topics, each a Gaussian step away from the one above it, documents below the last
topics, passages around their documents. Steps and spectrum are set so that 20,000 of them are like 20,000 passages of
fourteen open sets under all-MiniLM-L6-v2: the effective dimension is 75 (70), the first 10, 50 and 200 components hold
.25, .56, .87 (.26, .53, .91) of the variance, the cosine to the nearest vector is .75 (.73) and to the tenth .57 (.55).
A question is a passage with noise of the same spectrum, at a cosine of .64 (.64).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.table import Table
from retrieval.dense import DenseIndex
from retrieval.records import ChunkingSpec, EncoderSpec, IndexManifest
from retrieval.store import Store

Floats = NDArray[np.float32]

_SIZES = (20_000, 100_000, 1_000_000)
_DIMENSION = 384
_QUESTIONS = 100
_K = 100  # candidates, as the retriever asks for
_ROWS = 50_000
_TOPIC_STEPS = (0.12, 0.12, 0.12, 0.12, 0.26)  # variance from each level of the tree to the next
_PASSAGE_STEP = 0.3
_CHILDREN, _PASSAGES = 10, 8
_NOISE = 1.2

# In a process of its own, so that what was freed before does not hide what opening takes.
_OPEN = """
import sys, time
from pathlib import Path
import faiss
from retrieval.dense import DenseIndex
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before, started = resident(), time.perf_counter()
dense = DenseIndex.load(Path(sys.argv[1]), sys.argv[2])
print(time.perf_counter() - started, resident() - before)
"""


def run(*, limit: int | None = None) -> Table:
    """Both at every size up to `limit` vectors (default: all), the same questions in turn."""
    header = ("vectors", "index", "build", "on disk", "resident", "open", "p50", "p95", "recall@10")
    rows = [row for size in _SIZES if size <= (limit or size) for row in _measure(size)]
    note = (
        f"{_DIMENSION} dimensions, synthetic; {_QUESTIONS} questions one at a time for the best {_K}, flat and ours in "
        "turn; ours includes reading exact vectors from SQLite. Open: checking the SHA-256 and loading."
    )
    return Table("Dense search by size", header, rows, note)


def _measure(size: int) -> list[list[str]]:
    vectors, questions = synthetic(size)
    ids = np.arange(1, size + 1, dtype=np.int64)
    with tempfile.TemporaryDirectory() as name, _filled(Path(name), vectors) as store:
        started = time.perf_counter()
        flat = DenseIndex.build(ids, vectors)
        flat_seconds = time.perf_counter() - started
        started = time.perf_counter()
        ours = DenseIndex.gather(ids, store.vectors, dimension=_DIMENSION)
        seconds = time.perf_counter() - started
        found: dict[str, list[NDArray[np.int64]]] = {"flat": [], "ours": []}
        times: dict[str, list[float]] = {"flat": [], "ours": []}
        for question in questions:
            for label, index in (("flat", flat), ("ours", ours)):
                started = time.perf_counter()
                _, best = index.search(question[None], _K)
                times[label].append(1000 * (time.perf_counter() - started))
                found[label].append(best[0, :10])
        recall = [len(np.intersect1d(a, b)) / 10 for a, b in zip(found["flat"], found["ours"], strict=True)]
        kind, probes, lists = ours.description.kind, ours.description.probes, ours.description.lists
        shown = f"ours: {kind}" + (f", {probes} of {lists} lists" if lists else "")
        return [
            [f"{size:,}", "flat", f"{flat_seconds:.1f} s", *_opened(flat, Path(name)), *_quantiles(times["flat"]), "1"],
            [
                "",
                shown,
                f"{seconds:.1f} s",
                *_opened(ours, Path(name)),
                *_quantiles(times["ours"]),
                f"{np.mean(recall):.4f}",
            ],
        ]


def _opened(index: DenseIndex, folder: Path) -> list[str]:
    """Bytes on disk, bytes resident, seconds to open."""
    path = folder / "bench.faiss"
    sha256 = index.save(path)
    command = [sys.executable, "-c", _OPEN, str(path), sha256]
    opened = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    seconds, resident = map(float, opened.stdout.split())
    return [f"{path.stat().st_size / 1e6:.0f} MB", f"{resident / 1e6:.0f} MB", f"{seconds:.2f} s"]


def _quantiles(milliseconds: list[float]) -> list[str]:
    return [f"{each:.1f} ms" for each in np.quantile(milliseconds, [0.5, 0.95])]


def _filled(folder: Path, vectors: Floats) -> Store:
    """A store of these vectors under the ids 1 to n, without documents."""
    store = Store.create(folder, IndexManifest(EncoderSpec("synthetic", "1", _DIMENSION, 512), ChunkingSpec()))
    with store.writer() as writer:
        for first in range(0, len(vectors), _ROWS):
            rows = vectors[first : first + _ROWS]
            writer.add_embeddings([(first + n).to_bytes(32, "big") for n in range(len(rows))], rows)
            writer.commit_batch()
    return store


def synthetic(size: int) -> tuple[Floats, Floats]:
    """Vectors, float32 (size, 384), and questions, float32 (100, 384), both of unit rows; always the same."""
    random = np.random.default_rng(0)
    spectrum = 1 / np.sqrt(1 + np.arange(_DIMENSION, dtype=np.float32) / 12)
    spectrum /= np.linalg.norm(spectrum)

    def steps(count: int, variance: float) -> Floats:
        drawn = random.standard_normal((count, _DIMENSION), dtype=np.float32) * spectrum
        return np.asarray(np.sqrt(variance, dtype=np.float32) * drawn, dtype=np.float32)

    documents = max(1, size // _PASSAGES)
    nodes = np.zeros((1, _DIMENSION), dtype=np.float32)
    for level, variance in enumerate(_TOPIC_STEPS, start=1):
        count = max(1, documents // _CHILDREN ** (len(_TOPIC_STEPS) - level))
        nodes = nodes[random.integers(len(nodes), size=count)] + steps(count, variance)
    vectors = np.empty((size, _DIMENSION), dtype=np.float32)
    for first in range(0, size, _ROWS):
        rows = vectors[first : first + _ROWS]
        rows[:] = _unit(nodes[random.integers(documents, size=len(rows))] + steps(len(rows), _PASSAGE_STEP))
    asked = random.permutation(size)[:_QUESTIONS]
    return vectors, _unit(vectors[asked] + _NOISE * _unit(steps(len(asked), 1.0)))


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

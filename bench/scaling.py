"""Searches by size: dense ones alone beside comparing every vector, and whole ones in an index of the product's making.

Vectors are synthetic: a tree of topics, each a Gaussian step away from the one above it, documents below the last
topics, passages around their documents. Steps and spectrum are set so that 20,000 of them are like 20,000 passages of
fourteen open sets under all-MiniLM-L6-v2: the effective dimension is 75 (70), the first 10, 50 and 200 components hold
.25, .56, .87 (.26, .53, .91) of the variance, the cosine to the nearest vector is .75 (.73) and to the tenth .57 (.55).
A question is a passage with noise of the same spectrum, at a cosine of .64 (.64).

Texts are words drawn by Zipf's law from what Python's own help is written in and 100,000 made-up ones; the words of a
question are drawn from a passage. Token codes are random bytes: re-ranking reads and compares them like any other.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.table import Table
from ingest.build import forget_documents, ingest
from ingest.files import document_id
from ingest.indexer import Settings
from retrieval.analyze import Analyzer
from retrieval.dense import DenseIndex, open_dense
from retrieval.encoder import BUNDLED_NAME, Encoded, load_tokenizer, model_folder
from retrieval.filters import parse_filter
from retrieval.interaction import SignCodec
from retrieval.lexical import open_lexical
from retrieval.records import Chunk, ChunkingSpec, Document, EncoderSpec, IndexManifest
from retrieval.retriever import STATISTICS_BLOB, Retriever, codec_blob
from retrieval.statistics import Statistics
from retrieval.store import Store

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_Value = TypeVar("_Value")

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
    vectors, questions, _ = synthetic(size)
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


def synthetic(size: int) -> tuple[Floats, Floats, Ints]:
    """Vectors, float32 (size, 384), questions, float32 (100, 384), both of unit rows, and the row each of these asks.

    Always the same.
    """
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
    return vectors, _unit(vectors[asked] + _NOISE * _unit(steps(len(asked), 1.0))), asked


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


# ---- whole searches --------------------------------------------------------------------------------------------------

_WHOLE_SIZES = (20_000, 1_000_000)
_CACHE = Path(__file__).resolve().parent.parent / ".rag" / "bench"
_CHUNKS, _WORDS, _TOKENS, _TOPICS = 4, 120, 150, 100
_MADE_UP = 100_000
_COUNTED = 20_000  # chunks whose tokens are counted, to stand for all
_HITS = 5
_SETTINGS = Settings(
    EncoderSpec("synthetic", "1", _DIMENSION, 512), ChunkingSpec(), max_file_bytes=1_000_000, created_at="", versions={}
)
_FILTERS = {"1%": "topic-07*", "10%": "topic-0*", "50%": "topic-[0-4]*"}


class PreparedEncoder:
    """Tokenises like the bundled encoder, and takes the vector of a question from a table; all else is noise."""

    def __init__(self, vectors: Mapping[str, Floats]) -> None:
        self.spec, self._vectors = _SETTINGS.encoder, vectors
        self.tokenizer = load_tokenizer(model_folder(BUNDLED_NAME))
        self._directions = _unit(np.random.default_rng(2).standard_normal((4096, _DIMENSION), dtype=np.float32))

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        """One text after the other; a text that has no vector of its own gets the mean of its tokens."""
        del query
        for text in texts:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            ids = np.array(encoding.ids, dtype=np.int64)
            tokens = self._directions[ids % len(self._directions)]
            vector = self._vectors[text] if text in self._vectors else _unit(tokens.sum(axis=0, keepdims=True))[0]
            yield Encoded(vector, tokens, ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2))

    def encode_passages(self, texts: Sequence[str]) -> Floats:
        """Pooled vectors only."""
        return np.stack([encoded.vector for encoded in self.encode(texts)])

    def encode_query(self, text: str) -> Floats:
        """Pooled vector of a question."""
        return next(self.encode([text], query=True)).vector


def run_whole(*, limit: int | None = None) -> Table:
    """Search, change, delete and open in indexes of up to `limit` chunks (default: all sizes), built once and kept."""
    sizes = [size for size in _WHOLE_SIZES if size <= (limit or size)]
    columns = [_in_own_process(_built(size)) for size in sizes]
    note = (
        f"{_QUESTIONS} questions of ten words, one at a time, the best {_HITS}; encoding the question is left out, "
        "re-ranking is not. A change is the whole of an ingest without loading the encoder, then the next search of "
        "an open index; what was changed is found by it, what was deleted is not. Memory is that of a fresh process, "
        "above what the imports take; the rest of the index is read through the page cache."
    )
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return Table("Whole searches by size", ("", *(f"{size:,} chunks" for size in sizes)), rows, note)


def _in_own_process(place: Path) -> dict[str, str]:
    command = [sys.executable, "-c", "import sys; from bench import scaling; scaling.report(sys.argv[1])", str(place)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def report(place: str) -> None:
    """Measure the index in a folder and print it as JSON; meant for a process of its own."""
    folder, asked = Path(place), json.loads((Path(place) / "questions.json").read_text(encoding="utf-8"))
    vectors, exact = (np.load(Path(place) / f"{name}.npy", allow_pickle=False) for name in ("questions", "exact"))
    encoder, analyzer = PreparedEncoder(dict(zip(asked, vectors, strict=True))), Analyzer()
    before = _resident()
    with Store.open(folder) as store:
        dense, dense_seconds = _timed(lambda: open_dense(store))
        lexical, lexical_seconds = _timed(lambda: open_lexical(store, analyzer))
        retriever, seconds = _timed(lambda: Retriever(store, dense, lexical, encoder, analyzer=analyzer))
        opened = _resident()
        notices = [each for each in (dense.notice, lexical.notice) if each]
        found = {
            "open dense, lexical, retriever": f"{dense_seconds:.2f}, {lexical_seconds:.2f}, {seconds:.2f} s",
            "resident, opened": f"{(opened - before) / 1e6:.0f} MB",
            **_searched(retriever, asked),
            "resident, after the questions": f"{(_resident() - before) / 1e6:.0f} MB",
            "dense alone, lexical alone p50": _median(lambda vector: dense.search(vector[None], _K), vectors)
            + ", "
            + _median(lambda terms: lexical.search(terms, _K), [dict.fromkeys(analyzer.terms(q), 1.0) for q in asked]),
            "recall@10 of exact": f"{_recall(dense, vectors, exact):.4f}",
            **{f"filter {share}: first, p50": _filtered(retriever, asked, glob) for share, glob in _FILTERS.items()},
            **_changed(folder, store, retriever, encoder),
            **_sizes(store),
        }
    print(json.dumps({**found, **({"notices": " ".join(notices)} if notices else {})}))


def _searched(retriever: Retriever, asked: Sequence[str]) -> dict[str, str]:
    """Milliseconds by stage, and of the processor: what a search takes where nothing else runs."""
    for question in asked[:10]:  # to warm up
        retriever.search(question, k=_HITS)
    timings, busy = [], []
    for question in asked:
        started = time.process_time()
        timings.append(retriever.search(question, k=_HITS).timings_ms)
        busy.append(1000 * (time.process_time() - started))
    stages = [name for name in timings[0] if name != "encode"]
    total = [sum(each[name] for name in stages) for each in timings]
    parts = ", ".join(f"{name} {statistics.median(each[name] for each in timings):.1f}" for name in stages)
    return {
        "search p50, p95": ", ".join(_quantiles(total)),
        "of which (p50, ms)": parts,
        "processor time p50, with encoding": f"{statistics.median(busy):.1f} ms",
    }


def _filtered(retriever: Retriever, asked: Sequence[str], glob: str) -> str:
    """The first search resolves the filter, the others know what it allows."""
    filters = parse_filter(sources=[glob])
    _, seconds = _timed(lambda: retriever.search(asked[0], k=_HITS, filters=filters))
    return f"{seconds:.2f} s, " + _median(lambda question: retriever.search(question, k=_HITS, filters=filters), asked)


def _changed(folder: Path, store: Store, retriever: Retriever, encoder: PreparedEncoder) -> dict[str, str]:
    """A new file, the same one changed, and deleted; each with the search that follows."""
    file = folder / "files" / "topic-00.changed.txt"
    file.parent.mkdir(exist_ok=True)

    def ingested(word: str) -> None:
        file.write_text(f"The {word} is kept in the third drawer of the long table.", encoding="utf-8")
        ingest([file], folder=folder, settings=_SETTINGS, make_encoder=lambda: encoder, report=lambda _: None)

    def forgotten() -> None:
        doc_id = document_id(str(file.parent), file.name)
        forget_documents(store, [doc_id], settings=_SETTINGS, encoder=encoder)

    def one(change: Callable[[], None], word: str, *, there: bool) -> str:
        _, changing = _timed(change)
        found, searching = _timed(lambda: retriever.search(f"where is the {word} kept", k=_HITS))
        if any(word in hit.text for hit in found.hits) != there:
            raise RuntimeError(f"'{word}' should{'' if there else ' not'} be found")
        return f"{changing:.2f} + {searching:.2f} s"

    return {
        "new file, next search": one(lambda: ingested("zorkmid"), "zorkmid", there=True),
        "changed file, next search": one(lambda: ingested("quatloo"), "quatloo", there=True),
        "deleted, next search": one(forgotten, "quatloo", there=False),
    }


def _sizes(store: Store) -> dict[str, str]:
    with store.snapshot():
        counts = store.counts()
    sizes = {"database": 0, "dense": 0, "lexical": 0}
    for name, size in counts.artefact_bytes.items():
        sizes[name.partition("-")[0] if name.partition("-")[0] in sizes else "database"] += size
    return {
        "on disk": ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in sizes.items()),
        "a chunk": f"{sum(sizes.values()) / counts.chunks / 1000:.1f} kB, "
        f"token vectors {counts.token_code_bytes / counts.embeddings / 1000:.1f} kB",
    }


def _recall(dense: DenseIndex, vectors: Floats, exact: Ints) -> float:
    found = (dense.search(vector[None], _K)[1][0, :10] for vector in vectors)
    return float(np.mean([len(np.intersect1d(best, ids)) / 10 for best, ids in zip(exact, found, strict=True)]))


def _median(search: Callable[[Any], object], asked: Sequence[Any]) -> str:
    return f"{1000 * statistics.median(_timed(lambda each=each: search(each))[1] for each in asked):.1f} ms"  # type: ignore[misc]


def _timed(action: Callable[[], _Value]) -> tuple[_Value, float]:
    started = time.perf_counter()
    return action(), time.perf_counter() - started


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# ---- making an index -------------------------------------------------------------------------------------------------


def _built(size: int) -> Path:
    """The folder of an index of so many chunks, made if it is not there."""
    place, draft = _CACHE / f"scaling-{size}", _CACHE / f"scaling-{size}.new"
    if not place.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _build(draft, place, size)
        draft.rename(place)
    return place


def _build(draft: Path, place: Path, size: int) -> None:
    """`place` is where it will be: the root of its documents is a folder there."""
    vectors, questions, asked = synthetic(size)
    random = np.random.default_rng(3)
    words = _words(random)
    chances = 1 / (np.arange(len(words)) + 3)
    edges = np.cumsum(chances / chances.sum())
    texts: dict[int, str] = {}
    counted = Statistics(PreparedEncoder({}).tokenizer.get_vocab_size())
    tokens = _unit(random.standard_normal((20_000, _DIMENSION), dtype=np.float32))
    manifest = IndexManifest(_SETTINGS.encoder, _SETTINGS.chunking)
    with Store.create(draft, manifest) as store, store.writer(analyzer=Analyzer()) as writer:
        writer.put_blob(codec_blob(_SETTINGS.encoder), SignCodec.fit(tokens).dump())
        for first in range(0, size, _ROWS):
            rows = vectors[first : first + _ROWS]
            drawn = np.searchsorted(edges, random.random((len(rows), _WORDS)))
            passages = [" ".join(each).capitalize() + "." for each in words[np.minimum(drawn, len(words) - 1)].tolist()]
            texts.update((int(row), passages[row - first]) for row in asked if first <= row < first + _ROWS)
            _count(counted, passages[: _COUNTED - first], size)
            codes = random.integers(256, size=(len(rows), _TOKENS, 16), dtype=np.uint8)
            keys = [number.to_bytes(32, "big") for number in range(first, first + len(rows))]
            ids = writer.add_embeddings(keys, rows, list(codes))
            for number, (document, chunks) in enumerate(_documents(str(place / "files"), first, passages)):
                of_chunks = ids[number * _CHUNKS :][: len(chunks)]
                writer.stage(document, chunks, of_chunks, [1 + 2 * chunk.ordinal for chunk in chunks])
            writer.commit_batch()
        writer.publish(roots=[str(place / "files")], blobs={STATISTICS_BLOB: counted.dump()})
    spoken = [" ".join(random.choice(texts[int(row)].lower().rstrip(".").split(), 10)) for row in asked]
    (draft / "questions.json").write_text(json.dumps(spoken), encoding="utf-8")
    np.save(draft / "questions.npy", questions)
    best = [np.argpartition(-(vectors @ question), 10)[:10] for question in questions]
    np.save(draft / "exact.npy", 1 + np.stack(best).astype(np.int64))


def _count(counted: Statistics, passages: Sequence[str], size: int) -> None:
    """Count the first chunks for as many as they stand for."""
    if passages:
        for encoding in PreparedEncoder({}).tokenizer.encode_batch_fast(passages, add_special_tokens=False):
            counted.add(encoding.ids, sign=max(1, size // _COUNTED))


def _documents(root: str, first: int, passages: Sequence[str]) -> Iterator[tuple[Document, list[Chunk]]]:
    """Documents of four passages each, which are numbered from `first`."""
    for at in range(0, len(passages), _CHUNKS):
        number, texts = (first + at) // _CHUNKS, passages[at : at + _CHUNKS]
        source = f"topic-{number % _TOPICS:02}.{number:06}.txt"
        doc_id, text = document_id(root, source), "\n\n".join(texts)
        starts = np.cumsum([0, *(len(each) + 2 for each in texts)]).tolist()
        chunks = [
            Chunk(f"{doc_id}-{n}", doc_id, n, start, start + len(each), each, tokens=_TOKENS)
            for n, (start, each) in enumerate(zip(starts, texts, strict=False))
        ]
        metadata = {"modified": "2026-01-01T00:00:00+00:00", "topic": number % _TOPICS}
        yield Document(doc_id, root, source, "text/plain", source, text, metadata=metadata), chunks


def _words(random: np.random.Generator) -> NDArray[np.str_]:
    """Words, the most frequent ones first: real ones, and made-up ones between them."""
    from pydoc_data.topics import topics

    real = Counter(word for text in topics.values() for word in text.lower().split() if word.isalpha())
    parts = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "ol", "us")]
    made = ("".join(random.choice(parts, 2 + n % 3)) for n in range(2 * _MADE_UP))
    common = [word for word, _ in real.most_common(2000)]
    return np.array(list(dict.fromkeys([*common, *islice(made, _MADE_UP)])))

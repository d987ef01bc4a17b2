"""The one door to FAISS: exact inner-product search over the store's unit vectors, on CPU or GPU.

Knows ids and vectors; never a text or a chunk. Everything here is derived from the store and can be made again from it.
The file is immutable and named by its generation; the store's record of it is the truth, and its checksum is compared
before FAISS reads a byte. A file that is a little behind is kept: `open_dense` makes up for the difference.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError, IndexCorruptError, MissingPackageError
from retrieval.store import Artefact, Store, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_GPU_MAX_K = 2048  # the most neighbours FAISS finds on a GPU


class DenseIndex:
    """Vectors by id, in memory. Safe to use from several threads.

    `generation` is the state of the store it holds. `notice` is a line for people when something was wrong with the
    file, None otherwise.
    """

    def __init__(self, dimension: int, *, generation: int = 0, notice: str | None = None) -> None:
        faiss = _faiss()
        self.generation = generation
        self.notice = notice
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self._highest = -1  # no id above it is inside, which spares a look in the usual, ascending order
        self._gpu: int | None = None
        self._on_gpu: Any = None
        self._lock = threading.RLock()

    @classmethod
    def build(cls, ids: Ints, vectors: Floats) -> DenseIndex:
        """An index of unit vectors, float32 (n, dim), under their ids, int64 (n,)."""
        dense = cls(vectors.shape[1])
        dense.add(ids, vectors)
        return dense

    @classmethod
    def load(cls, path: Path, sha256: str, *, size: int | None = None, generation: int = 0) -> DenseIndex:
        """Read a saved file. Raises IndexCorruptError unless it has the recorded bytes, OSError if it is unreadable."""
        faiss = _faiss()
        data = _read_checked(path, sha256, size)
        try:
            index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        except RuntimeError as error:
            raise IndexCorruptError(f"'{path}' cannot be read by this FAISS ({faiss.__version__})") from error
        if not isinstance(index, faiss.IndexIDMap2):
            raise IndexCorruptError(f"'{path}' holds another kind of index ({type(index).__name__})")
        dense = cls(index.d, generation=generation)
        dense._index = index
        dense._highest = int(dense.ids.max(initial=-1))
        return dense

    @property
    def size(self) -> int:
        """How many vectors it holds."""
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        return int(self._index.d)

    @property
    def ids(self) -> Ints:
        """The ids it holds: int64 (n,), ascending."""
        with self._lock:
            return np.sort(_faiss().vector_to_array(self._index.id_map)).astype(np.int64)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """The k best for each query, float32 (n, dim): scores and ids, both (n, min(k, size)), best first.

        Scores are inner products, higher is better; equal scores are ordered by id. Where k is larger than the index,
        there are as many columns as it has vectors, so that an id is never made up.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension or not np.isfinite(queries).all():
            raise ValueError(f"queries must be finite and of the shape (n, {self.dimension}), not {queries.shape}")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        with self._lock:
            k = min(k, self.size)
            if not k or not len(queries):
                return np.empty((len(queries), k), dtype=np.float32), np.empty((len(queries), k), dtype=np.int64)
            scores, ids = self._searcher(k).search(queries, k)
        order = np.lexsort((ids, -scores))
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def add(self, ids: Ints, vectors: Floats) -> None:
        """Add unit vectors, float32 (n, dim), under new ids, int64 (n,). Raises ValueError on an id that is there."""
        if vectors.shape != (len(ids), self.dimension):
            raise ValueError(f"vectors have the shape {vectors.shape}, expected ({len(ids)}, {self.dimension})")
        with self._lock:
            if not len(ids):
                return
            known = ids.min() <= self._highest and np.intersect1d(ids, self.ids).size
            if known or len(np.unique(ids)) != len(ids):
                raise ValueError("an id is given twice or is in the index already; remove it first")
            self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), ids.astype(np.int64))
            self._highest = max(self._highest, int(ids.max()))
            self._on_gpu = None

    def remove(self, ids: Ints) -> int:
        """Take vectors out; unknown ids do no harm. Returns how many there were."""
        if not len(ids):
            return 0
        with self._lock:
            self._on_gpu = None
            return int(self._index.remove_ids(np.ascontiguousarray(ids, dtype=np.int64)))

    def clear(self, dimension: int) -> None:
        """Forget everything and start over with vectors of this dimension."""
        faiss = _faiss()
        with self._lock:
            self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
            self._highest = -1
            self._on_gpu = None

    def save(self, path: Path) -> str:
        """Write a file, all of it or nothing, and return its SHA-256. What is written survives a power cut."""
        faiss = _faiss()
        draft = path.with_name(f"{path.name}.tmp")
        digest = hashlib.sha256()
        try:
            with draft.open("wb") as file:

                def write(data: bytes) -> None:
                    digest.update(data)
                    file.write(data)

                with self._lock:
                    faiss.write_index(self._index, faiss.PyCallbackIOWriter(write))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(path.parent)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return digest.hexdigest()

    def to(self, device: str) -> None:
        """Search on 'cpu', 'cuda' or 'cuda:N' from now on. Raises MissingPackageError or ConfigError if that cannot be.

        On a GPU, additions and removals are made in main memory, and the vectors are copied over before the next
        search; a search for more than 2,048 neighbours runs on the CPU, with the same result.
        """
        gpu = _gpu_number(device)
        if gpu is not None:
            _check_gpu(gpu)
        with self._lock:
            self._gpu, self._on_gpu = gpu, None

    def _searcher(self, k: int) -> Any:
        if self._gpu is None or k > _GPU_MAX_K:
            return self._index
        if self._on_gpu is None:
            faiss = _faiss()
            resources = faiss.StandardGpuResources()
            self._on_gpu = faiss.index_cpu_to_gpu(resources, self._gpu, self._index)
            self._on_gpu.kept_alive = resources
        return self._on_gpu


def open_dense(store: Store, *, device: str = "cpu") -> DenseIndex:
    """The search index of the store's current state, from the recorded file and what came after it.

    Where the file is missing or damaged, the vectors come from the store, and `notice` says so.
    """
    dense = _load_recorded(store)
    refresh(store, dense)
    dense.to(device)
    return dense


def refresh(store: Store, dense: DenseIndex) -> bool:
    """Bring an index to the store's current state; cheap when it is there already. Returns whether anything changed."""
    with store.snapshot():
        generation = store.generation
        if dense.generation == generation:
            return False
        dimension = store.manifest.encoder.dimension
        if dense.dimension != dimension:  # built anew with another encoder
            dense.clear(dimension)
        live, inside = store.live_embeddings(), dense.ids
        dense.remove(np.setdiff1d(inside, live, assume_unique=True))
        for ids, vectors in store.vector_batches(np.setdiff1d(live, inside, assume_unique=True)):
            dense.add(ids, vectors)
        dense.generation = generation
    return True


def rebuild_dense(store: Store, *, wait_seconds: float = 0.0) -> int:
    """Write the search file anew from the stored vectors. Returns the new generation; documents stay as they are."""
    with store.writer(wait_seconds=wait_seconds) as writer:
        return writer.publish(roots=(), rewrite_dense=True)


def _load_recorded(store: Store) -> DenseIndex:
    record = store.artefact()
    while record is not None:
        try:
            return _load(store, record)
        except (OSError, IndexCorruptError) as error:
            newer = store.artefact()
            if newer == record:
                notice = f"search file rebuilt in memory from the stored vectors: {error}"
                return DenseIndex(store.manifest.encoder.dimension, generation=-1, notice=notice)
            record = newer  # another process published and dropped the file between our two looks
    return DenseIndex(store.manifest.encoder.dimension)


def _load(store: Store, record: Artefact) -> DenseIndex:
    name = os.path.basename(record.file)  # noqa: PTH119 - a record cannot lead out of the folder
    return DenseIndex.load(store.folder / name, record.sha256, size=record.size, generation=record.generation)


def _read_checked(path: Path, sha256: str, size: int | None) -> bytes:
    with path.open("rb") as file:
        found = os.fstat(file.fileno()).st_size
        if size is not None and found != size:
            raise IndexCorruptError(f"'{path}' has {found} bytes, expected {size}")
        data = file.read(found)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IndexCorruptError(f"'{path}' does not have the recorded checksum")
    return data


def _gpu_number(device: str) -> int | None:
    """None for the CPU."""
    kind, _, number = device.partition(":")
    if device == "cpu":
        return None
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ConfigError(f"the device of the index is 'cpu', 'cuda' or 'cuda:N', not '{device}'")
    return int(number or 0)


def _check_gpu(gpu: int) -> None:
    faiss = _faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise MissingPackageError(
            "this FAISS was built without GPU support; run: pip uninstall faiss-cpu && pip install 'cited-rag[gpu]'"
        )
    if gpu >= faiss.get_num_gpus():
        raise ConfigError(f"FAISS sees {faiss.get_num_gpus()} GPUs, so there is no 'cuda:{gpu}'; use --device cpu")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError("FAISS is not installed; run: pip install 'cited-rag[cpu]'") from error
    return faiss

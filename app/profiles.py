"""Choose encoder, reader and device for this machine. Knows what CUDA needs; loads no model.

torch is imported only where an NVIDIA driver was found: a machine without one must not wait for it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.config import Config

EMBEDDED_ENCODER = "all-MiniLM-L6-v2"
GPU_ENCODER = "thenlper/gte-small"
DRIVER_PLACES = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia"), Path("/dev/dxg"))
"""Where Linux shows an NVIDIA driver; the last one is the driver that Windows lends to WSL."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """Whether CUDA can be used here; `reason` says why (not), as the end of a sentence."""

    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """What was chosen, and why. `device` is cpu or cuda; `reader` is extractive, zephyr or server."""

    profile: str
    encoder: str
    reader: str
    device: str
    reason: str

    def __str__(self) -> str:
        """One line for people."""
        device = "CPU" if self.device == "cpu" else "CUDA"
        return f"profile {self.profile}: {self.encoder} on {device}, {self.reader} reader ({self.reason})"


def probe_cuda() -> Cuda:
    """Ask this machine. Cheap where there is no driver or torch is a CPU build; imports torch otherwise."""
    if not any(place.exists() for place in DRIVER_PLACES) and shutil.which("nvidia-smi") is None:
        return Cuda(usable=False, reason="no CUDA device found")
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Cuda(usable=False, reason="torch is not installed")
    if version.endswith("+cpu"):
        return Cuda(usable=False, reason=f"an NVIDIA driver, but torch {version} is a CPU build")
    import torch

    if not torch.cuda.is_available():
        return Cuda(usable=False, reason=f"an NVIDIA driver, but torch {version} finds no CUDA device")
    return Cuda(usable=True, reason=torch.cuda.get_device_name(0))


def choose_profile(config: Config, *, cuda: Callable[[], Cuda] = probe_cuda) -> ProfileChoice:
    """Pick the profile, its encoder, reader and device. `cuda` is asked only where the answer matters.

    `auto` takes the gpu profile where CUDA works and its encoder is on this machine. Raises ConfigError where a setting
    asks for CUDA and there is none, or two settings contradict each other.
    """
    if config.profile == "gpu" and config.device == "cpu":
        raise ConfigError("profile gpu runs on CUDA but device is cpu; use --profile embedded or --device cuda")
    profile, device, reason = _place(config, cuda)
    if profile == "gpu" and config.profile == "auto" and not config.encoder and not _is_cached(config, GPU_ENCODER):
        profile, device = "embedded", "cpu"
        reason = f"{reason}, but {GPU_ENCODER} is not on this machine; rag doctor says how to get it"
    encoder = config.encoder or (GPU_ENCODER if profile == "gpu" else EMBEDDED_ENCODER)
    reader, why = _reader(config, profile)
    return ProfileChoice(profile=profile, encoder=encoder, reader=reader, device=device, reason=reason + why)


def _reader(config: Config, profile: str) -> tuple[str, str]:
    """The reader, and what to add to the reason: auto takes a server that was named, and Zephyr on a GPU."""
    if config.reader == "server" and not config.server_url:
        raise ConfigError(
            "the server reader needs server_url; set it in rag.toml or as RAG_SERVER_URL, like"
            " http://127.0.0.1:11434/v1 for Ollama (docs/serving.md)"
        )
    if config.reader != "auto":
        return config.reader, ""
    if config.server_url:
        return "server", ""
    if profile != "gpu":
        return "extractive", ""
    if Path(config.model).is_dir() or _is_cached(config, config.model):
        return "zephyr", ""
    return "extractive", f"; {config.model} is not on this machine, rag models fetch {config.model} gets it"


def _is_cached(config: Config, name: str) -> bool:
    """Whether a hub model was downloaded to this machine, every file of it."""
    from app.models import look  # here, because it knows the profiles

    return look(name, hub_cache=config.hub_cache).state == "here"


def _place(config: Config, cuda: Callable[[], Cuda]) -> tuple[str, str, str]:
    """Profile, device, reason."""
    if config.device == "cpu":
        return "embedded", "cpu", "the CPU was asked for"
    if config.profile == "embedded" and config.device == "auto":
        return "embedded", "cpu", "asked for"
    found = cuda()
    if found.usable:
        return ("embedded" if config.profile == "embedded" else "gpu"), "cuda", found.reason
    if config.profile == "gpu" or config.device == "cuda":
        asked = "profile gpu" if config.profile == "gpu" else "device cuda"
        raise ConfigError(
            f"{asked} needs a CUDA device: {found.reason}; use --profile embedded --device cpu, or install the NVIDIA "
            "driver and run make setup (rag doctor shows what is missing)"
        )
    return "embedded", "cpu", found.reason

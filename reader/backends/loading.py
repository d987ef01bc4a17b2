"""The one door to transformers' models: settings, and what is loaded by them. Reads files; generates nothing.

Only files that are on this machine: nothing here opens a connection, runs code that comes with a model, or reads
weights other than safetensors.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reader.backends.generation import is_out_of_memory
from reader.backends.memory import KvCache, Quantization
from retrieval import encoder
from retrieval.encoder import model_folder
from retrieval.errors import ConfigError, ModelError, RagError

ZEPHYR = "HuggingFaceH4/zephyr-7b-beta"
WINDOW = 4096  # tokens, unless asked otherwise: as far as Zephyr's attention reaches without sliding
DEVICES = ("cpu", "cuda")

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True)
class ZephyrSettings:
    """Which model, and how it is loaded.

    device: auto, cpu or cuda. device_map: accelerate's; "auto" spreads the model over several GPUs where there are.
    quantization: "none" is `dtype`. dtype: of the computation, and of what is not quantised; "auto" is bfloat16, or
    float16 on a GPU without it. rope_scaling: put over the model's own, to read further than it was trained to.
    window: tokens of prompt and answer together; 0 is 4,096, or less where the model reads less.
    """

    model: str = ZEPHYR
    device: str = "auto"
    quantization: Quantization = "4bit"
    kv_cache: KvCache = "full"
    window: int = 0
    dtype: Dtype = "auto"
    device_map: str | Mapping[str, int | str] = "auto"
    rope_scaling: Mapping[str, object] | None = None


@contextmanager
def at_the_door(folder: Path) -> Iterator[None]:
    """Files of a model are read here: quietly, and what libraries raise on bad ones becomes a ModelError."""
    # bitsandbytes asks the package `kernels`, where it is installed, to download machine code from the hub and runs it.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    # Says for every layer that numbers are converted, and that there is no such kernel.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with encoder.quiet(), explained(folder):
        yield


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what a library raises into a ModelError that names the model's folder and tells memory from other causes."""
    with encoder.explained(folder):
        try:
            yield
        except Exception as error:
            if isinstance(error, RagError) or not is_out_of_memory(error):
                raise
            raise ModelError(
                f"out of memory with the model in {folder}; load it in 4 bits, with a quantised key-value cache or a "
                "shorter window, or end other programs that use the device"
            ) from error


def weights_folder(name: str) -> Path:
    """The folder of a model's files, with safetensors in it."""
    folder = model_folder(name)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors; expected weights in that format (others can hold programs); "
            f"run: rag models fetch {name}"
        )
    return folder


def load_config(folder: Path, settings: ZephyrSettings) -> Any:
    """The model's config with the settings' rope scaling put over its own. Raises what transformers raises."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if settings.rope_scaling is not None:
        config.rope_parameters = {**(config.rope_parameters or {}), **settings.rope_scaling}
        config.standardize_rope_params()
        config.validate_rope()
    return config


def load_tokenizer(folder: Path) -> Any:
    """The model's tokenizer; what it needs is read from its folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def load_model(folder: Path, config: Any, settings: ZephyrSettings, *, device: str) -> Any:
    """The weights, quantised as they come in. Raises ModelError where they cannot be read."""
    from transformers import AutoModelForCausalLM

    dtype = choose_dtype(settings, device)
    with at_the_door(folder):
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            quantization_config=quantization_of(settings, dtype),
            device_map=device_map_of(settings, device),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    return model.eval()


def window_of(config: Any, settings: ZephyrSettings) -> int:
    """Tokens of prompt and answer together. Raises ConfigError where the model has fewer positions than asked for."""
    positions = int(getattr(config, "max_position_embeddings", None) or WINDOW)
    factor = (settings.rope_scaling or {}).get("factor", 1.0)
    furthest = int(positions * (float(factor) if isinstance(factor, int | float) else 1.0))
    if settings.window > furthest:
        raise ConfigError(
            f"a window of {settings.window:,} tokens is more than the {furthest:,} that {settings.model} reads; "
            "ask for fewer, or set rope_scaling"
        )
    return settings.window or min(WINDOW, furthest)


def stop_sliding(config: Any, window: int) -> bool:
    """Switch sliding attention off where it reaches over the whole window. Returns whether it is still on.

    The numbers are the same, and caches can be cut, shared and quantised. Models that mix kinds of layers are left as
    they are: theirs differ in more than reach.
    """
    reach = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) != {"full_attention"}
    if reach is None or window > reach:
        return reach is not None
    config.sliding_window = None
    return False


def choose_device(wanted: str) -> str:
    """Where to compute: cpu or cuda. Raises ConfigError where there is no such device."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch finds no CUDA device; use device cpu")
    if wanted not in DEVICES:
        raise ConfigError(f"device is {wanted!r}; expected auto, cpu or cuda")
    return wanted


def device_map_of(settings: ZephyrSettings, device: str) -> str | Mapping[str, int | str]:
    """For from_pretrained. "auto" is left to accelerate on several GPUs only: on one it would move layers off it."""
    import torch

    if settings.device_map != "auto" or (device == "cuda" and torch.cuda.device_count() > 1):
        return settings.device_map
    return {"": device}


def choose_dtype(settings: ZephyrSettings, device: str) -> Any:
    """The torch dtype of the computation."""
    import torch

    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    emulated = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def quantization_of(settings: ZephyrSettings, dtype: Any) -> Any:
    """For from_pretrained: NF4 with double quantisation (QLoRA), LLM.int8, or None."""
    from transformers import BitsAndBytesConfig

    kind: Any = BitsAndBytesConfig
    if settings.quantization == "4bit":
        return kind(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return kind(load_in_8bit=True) if settings.quantization == "8bit" else None


def precision_of(settings: ZephyrSettings, dtype: Any) -> str:
    """What a model is loaded in, for people."""
    kind = {"4bit": "4-bit NF4", "8bit": "8-bit", "none": str(dtype).removeprefix("torch.")}[settings.quantization]
    return kind if settings.kv_cache == "full" else f"{kind}, key-value cache in {settings.kv_cache}"


def free_bytes(device: str) -> int:
    """Memory that can still be had: of all GPUs, or of the machine (what other programs could give up included)."""
    if device == "cuda":
        import torch

        gpus = range(torch.cuda.device_count())
        cached = sum(torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu) for gpu in gpus)
        return cached + sum(int(torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus)
    with Path("/proc/meminfo").open(encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return 1024 * int(fields["MemAvailable"].split()[0])

"""What a language model takes of a machine's memory, from its config.json alone. Knows arithmetic; asks no machine.

The formulas hold for dense decoders of the Llama kind (Llama, Mistral, Qwen, Phi-3, Gemma ...): gated feed-forward
layers, grouped key-value heads, and linear layers without biases worth counting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

from retrieval.errors import ModelError

Quantization = Literal["4bit", "8bit", "none"]
KvCache = Literal["full", "8bit", "4bit"]

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits a weight in NF4 with double quantisation: a byte for every 64, a float for every 256 of those bytes (QLoRA)."""

HQQ_GROUP = 64  # values of a quantised key-value cache that share a scale and a zero, two bytes each
HQQ_RESIDUAL = 128  # its newest tokens, kept as they are
_WINDOWS = (2048, 1024)  # shorter ones that are proposed where memory is short
_MIXTURES = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Load:
    """How a model is to be loaded. element_bytes: 2 for bfloat16 and float16, 4 for float32; window: in tokens."""

    quantization: Quantization
    kv_cache: KvCache
    window: int
    element_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes in a config.json that decide about memory."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape | None:
        """The shape that a config.json describes; None where it is not that of a dense decoder."""
        keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        sizes = [config.get(key) for key in keys]
        if any(config.get(key) for key in _MIXTURES) or not all(_is_size(size) for size in sizes):
            return None
        vocabulary, hidden, intermediate, layers, heads = (int(size) for size in sizes if size is not None)
        kv_heads = config.get("num_key_value_heads") or heads
        head_size = config.get("head_dim") or hidden // heads
        if not _is_size(kv_heads) or not _is_size(head_size):
            return None
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(vocabulary, hidden, intermediate, layers, heads, kv_heads, head_size, tied)

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers' matrices, which are what is quantised."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def other_parameters(self) -> int:
        """Weights of embeddings, output layer and norms, which are not."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.hidden * (2 * self.layers + 1)

    def weight_bytes(self, load: Load) -> int:
        """Of the whole model, in memory."""
        full = 8 * load.element_bytes
        bits = {"4bit": NF4_BITS, "8bit": 8 + 32 / self.hidden, "none": full}[load.quantization]
        return round((self.linear_parameters * bits + self.other_parameters * full) / 8)

    def kv_token_bytes(self, load: Load) -> int:
        """Of the keys and values of one token, in all layers."""
        values = 2 * self.layers * self.kv_heads * self.head_size
        if load.kv_cache == "full":
            return values * load.element_bytes
        bits = int(load.kv_cache.removesuffix("bit")) + 2 * 8 * load.element_bytes / HQQ_GROUP
        return round(values * bits / 8)

    def kv_bytes(self, load: Load, tokens: int) -> int:
        """Of the keys and values of one conversation of so many tokens.

        A quantised cache keeps its newest tokens as they are, and reads one layer at a time back to full size.
        """
        full = self.kv_token_bytes(replace(load, kv_cache="full"))
        if load.kv_cache == "full":
            return full * tokens
        return self.kv_token_bytes(load) * tokens + full * min(tokens, HQQ_RESIDUAL) + full * tokens // self.layers

    def working_bytes(self, load: Load, tokens: int) -> int:
        """Of what lives for one layer only while so many tokens are read: states, and its largest matrix if packed."""
        states = tokens * (4 * self.hidden + 3 * self.intermediate) * load.element_bytes
        logits = 3 * self.vocabulary * 4
        matrix = 0 if load.quantization == "none" else self.hidden * self.intermediate * load.element_bytes
        return states + logits + matrix

    def needed(self, load: Load) -> int:
        """Bytes for the model and one conversation that fills the window."""
        return self.weight_bytes(load) + self.kv_bytes(load, load.window) + self.working_bytes(load, load.window)


def require_room(shape: Shape, load: Load, free_bytes: int, *, name: str, device: str) -> None:
    """Refuse to load what will not fit. Raises ModelError with what was needed, what is there, and what would fit."""
    needed = shape.needed(load)
    if needed <= free_bytes:
        return
    fitting = [f"{_settings(each, load)} ({_gb(shape.needed(each))})" for each in _smaller(shape, load, free_bytes)]
    advice = f"these fit: {'; '.join(fitting)}" if fitting else "nothing smaller fits either; use a smaller model"
    raise ModelError(
        f"{name} needs {_gb(needed)} on {device} (weights {_gb(shape.weight_bytes(load))}, keys and values of "
        f"{load.window:,} tokens {_gb(shape.kv_bytes(load, load.window))}, working space "
        f"{_gb(shape.working_bytes(load, load.window))}), but {_gb(free_bytes)} are free; {advice}"
    )


def _smaller(shape: Shape, load: Load, free_bytes: int) -> list[Load]:
    """Up to three ways to load that fit, those that change least first."""
    windows = (load.window, *(window for window in _WINDOWS if window < load.window))
    orders = (get_args(Quantization)[::-1], get_args(KvCache), windows)
    asked = (load.quantization, load.kv_cache, load.window)
    ways = sorted(
        product(*orders),
        key=lambda way: (sum(a != b for a, b in zip(way, asked, strict=True)), *map(_rank, orders, way)),
    )
    loads = [replace(load, quantization=way[0], kv_cache=way[1], window=way[2]) for way in ways]
    return [each for each in loads if shape.needed(each) <= free_bytes][:3]


def _rank(order: tuple[Any, ...], choice: object) -> int:
    return order.index(choice)


def _settings(load: Load, asked: Load) -> str:
    """The settings in which one way to load differs from another."""
    changed = [
        f"{name} {getattr(load, name)}"
        for name in ("quantization", "kv_cache", "window")
        if getattr(load, name) != getattr(asked, name)
    ]
    return " with ".join(changed)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

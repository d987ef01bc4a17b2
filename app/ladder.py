"""The quantisation ladder: what each way to load a language model costs in memory, speed and agreement.

Every rung reads the same prompts and is led along the answer of the first one, token by token; agreement is how often
it would have chosen the same. Knows backends and a clock; draws no tables.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from retrieval.errors import ModelError, RagError

if TYPE_CHECKING:
    from reader.backends.loading import ZephyrSettings
    from reader.backends.zephyr import ZephyrBackend

PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 3, 512, 32
RUNGS: tuple[tuple[str, str, str], ...] = (
    ("bf16", "none", "full"),
    ("bf16, KV 8-bit", "none", "8bit"),
    ("NF4", "4bit", "full"),
    ("NF4, KV 8-bit", "4bit", "8bit"),
)
"""Name, quantization, kv_cache; the first is what the others are compared with."""


@dataclass(frozen=True, slots=True)
class Rung:
    """What was measured. Bytes as they are in memory; agreement in [0, 1], None without a first rung to compare with.

    failure: why there are no numbers, where there are none.
    """

    name: str
    load_seconds: float = 0.0
    weight_bytes: int = 0
    kv_token_bytes: int = 0
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    agreement: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Led:
    """One prompt read and an answer followed: the tokens the model would have chosen, and how long it took."""

    tokens: list[int]
    prefill_seconds: float
    decode_seconds: float
    kv_bytes: int


def climb(settings: ZephyrSettings, *, report: Callable[[str], None]) -> list[Rung]:
    """Measure every rung, one model in memory at a time. A rung that fails says why; the next one is tried."""
    from reader.backends.zephyr import ZephyrBackend

    rungs: list[Rung] = []
    answers: list[list[int]] | None = None
    for number, (name, quantization, kv_cache) in enumerate(RUNGS, start=1):
        report(f"rung {number} of {len(RUNGS)}: {name}")
        way = replace(settings, quantization=quantization, kv_cache=kv_cache)  # type: ignore[arg-type]  # of RUNGS
        try:
            rung, chosen = measure(ZephyrBackend(way), name, answers=answers)
        except RagError as error:
            rung, chosen = Rung(name, failure=str(error)), None
        if number == 1:
            answers = chosen
        rungs.append(rung)
        free_memory()
    return rungs


def measure(backend: ZephyrBackend, name: str, *, answers: list[list[int]] | None) -> tuple[Rung, list[list[int]]]:
    """One rung, and the tokens it chose. Without `answers` it follows its own."""
    prompts = make_prompts(backend)
    started = time.perf_counter()
    model = backend.weights()
    load_seconds = time.perf_counter() - started
    lead(backend, prompts[0][:8], answer=None, tokens=2)  # what is made ready at first use
    runs = [
        lead(backend, prompt, answer=answers[number] if answers else None, tokens=ANSWER_TOKENS)
        for number, prompt in enumerate(prompts)
    ]
    chosen = [run.tokens for run in runs]
    same = [
        a == b for run, answer in zip(chosen, answers or [], strict=False) for a, b in zip(run, answer, strict=True)
    ]
    cached = len(prompts[0]) + ANSWER_TOKENS - 1
    rung = Rung(
        name,
        load_seconds=load_seconds,
        weight_bytes=tensor_bytes(model),
        kv_token_bytes=runs[0].kv_bytes // cached,
        prefill_tokens_per_second=sum(map(len, prompts)) / sum(run.prefill_seconds for run in runs),
        decode_tokens_per_second=len(runs) * (ANSWER_TOKENS - 1) / sum(run.decode_seconds for run in runs),
        agreement=sum(same) / len(same) if same else None,
    )
    return rung, chosen


def make_prompts(backend: ZephyrBackend) -> list[list[int]]:
    """The same for every model, but for its tokens: pages of Python's own reference, shorter in a small window."""
    from pydoc_data.topics import topics

    length = min(PROMPT_TOKENS, backend.window - ANSWER_TOKENS)
    texts = sorted(topics.values(), key=len)[-PROMPTS:]
    found = [backend.encode(text[: 8 * length])[:length] for text in texts]
    if min(map(len, found)) < length or length < 1:
        raise ModelError(f"a window of {backend.window} tokens is too small to measure in; use 64 or more")
    return found


def lead(backend: ZephyrBackend, prompt: Sequence[int], *, answer: list[int] | None, tokens: int) -> Led:
    """Read a prompt, then follow `answer` (or what is chosen) for so many tokens, one a step."""
    import torch

    model, cache = backend.weights(), backend.new_cache()
    device = model.get_input_embeddings().weight.device
    following, chosen, seconds = torch.tensor([list(prompt)], device=device), [], []
    with torch.inference_mode():
        for step in range(tokens):
            started = time.perf_counter()
            output = model(input_ids=following, past_key_values=cache, use_cache=True, logits_to_keep=1)
            chosen.append(int(output.logits[0, -1].argmax()))  # waits for the device
            seconds.append(time.perf_counter() - started)
            following = torch.tensor([[chosen[-1] if answer is None else answer[step]]], device=device)
    return Led(chosen, seconds[0], sum(seconds[1:]), tensor_bytes(cache))


def tensor_bytes(holder: object) -> int:
    """Bytes of all tensors in an object, wherever they hang: what packed weights need besides themselves included."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in _tensors(holder, set())}.values())


def _tensors(holder: object, seen: set[int]) -> Iterator[Any]:
    import torch

    if id(holder) in seen or isinstance(holder, str | bytes | int | float | torch.dtype | torch.device | type):
        return
    seen.add(id(holder))
    if isinstance(holder, torch.Tensor):
        yield holder
    inside: list[object] = list(getattr(holder, "__dict__", {}).values())
    if isinstance(holder, Mapping):
        inside += holder.values()
    elif isinstance(holder, list | tuple):
        inside += holder
    for each in inside:
        yield from _tensors(each, seen)


def free_memory() -> None:
    """Let go of models that nobody holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def as_record(rungs: Sequence[Rung]) -> dict[str, object]:
    """The ladder as JSON has it."""
    return {"ladder": [asdict(rung) for rung in rungs]}

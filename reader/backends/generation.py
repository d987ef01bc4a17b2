"""Tokens one after the other: a decode loop over rows of a batch, and the text that tokens become.

One loop serves streaming and batches, so that both draw alike: the same seed gives the same answer either way. Knows a
model that maps token ids to logits; nothing of messages, templates or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Any

from reader.backends.base import Sampling
from retrieval.errors import ModelError

_MAX_HELD_TOKENS = 12  # a character is up to four bytes; unfinished ones can overlap in byte-pair tokens
_UNFINISHED = "\ufffd"

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, control tokens left out."""


class Draft:
    """An answer in the making: text that is given out as soon as it is certain. The pieces put together are `text`.

    Held back are tokens that end within a character, and characters that may turn out to begin a turn marker. The
    answer is `done` at a stop token, a turn marker or `max_tokens`; only the last leaves it incomplete.
    """

    def __init__(
        self, decode: Decode, *, anchor: int, stops: Collection[int], markers: Collection[str], max_tokens: int
    ) -> None:
        """`anchor` is a token that is text: decoders drop the space before a first word, and only there."""
        self._decode, self._stops, self._markers = decode, stops, [marker for marker in markers if marker]
        self._anchor, self._anchor_chars = anchor, len(decode([anchor]))
        self._held: list[int] = []
        self._waiting, self._max_tokens = "", max_tokens
        self.text, self.tokens = "", 0
        self.complete, self.done = False, max_tokens <= 0

    def add(self, token: int) -> str:
        """The text that is certain after one more token, which may be none."""
        if token in self._stops:
            self.complete = self.done = True
            return self._give(self._piece(), last=True)
        self.tokens += 1
        self._held.append(token)
        self.done = self.tokens >= self._max_tokens
        piece = self._decoded()
        if piece.endswith(_UNFINISHED) and len(self._held) < _MAX_HELD_TOKENS and not self.done:
            return ""
        return self._give(self._piece(), last=self.done)

    def _piece(self) -> str:
        piece, self._held = self._decoded(), []
        return piece

    def _decoded(self) -> str:
        if not self.text + self._waiting:
            return self._decode(self._held)
        return self._decode([self._anchor, *self._held])[self._anchor_chars :]

    def _give(self, piece: str, *, last: bool) -> str:
        """Up to the first marker; without one, up to where one may have begun."""
        waiting = self._waiting + piece
        cuts = [at for at in (waiting.find(marker) for marker in self._markers) if at >= 0]
        if cuts:
            self.complete = self.done = True
        certain = waiting[: min(cuts)] if cuts else waiting[: len(waiting) - (0 if last else self._begun(waiting))]
        self._waiting = waiting[len(certain) :]
        self.text += certain
        return certain

    def _begun(self, text: str) -> int:
        """How many characters at the end of a text could be the beginning of a marker."""
        return max(
            (size for marker in self._markers for size in range(1, len(marker)) if text.endswith(marker[:size])),
            default=0,
        )


class Rows:
    """Conversations that are gone on with together, a token each a step.

    Rows are padded on the left. A `cache` may hold the keys and values of the first `known` tokens, the same in every
    row: those are not computed again. `tokens` holds what the cache holds, or is about to.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, *, cache: Any, known: int = 0
    ) -> None:
        import torch

        self._model, self._cache = model, cache
        self._device = model.get_input_embeddings().weight.device
        self._processors = _processors(sampling)
        self._draws = [_chance(sampling.seed, self._device) for _ in prompts] if sampling.temperature else None
        width = max(map(len, prompts))
        mask = torch.ones((len(prompts), width), dtype=torch.long)
        # Padded with a token of the row's own prompt: it counts as seen anyway, so that no penalty can fall on a token
        # for being the padding (Zephyr's is its end of sequence). It stands behind what is known, before what is new.
        ids = torch.empty((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            new = known + width - len(prompt)
            ids[row, :known] = torch.tensor(prompt[:known], dtype=torch.long)
            ids[row, known:new] = prompt[0]
            ids[row, new:] = torch.tensor(prompt[known:], dtype=torch.long)
            mask[row, known:new] = 0
        self._ids, self._mask = ids.to(self._device), mask.to(self._device)
        self._padded = bool((mask == 0).any())
        self._computed = known

    def step(self) -> list[int]:
        """The next token of each row. Raises ModelError where the model gives no numbers."""
        import torch

        with torch.inference_mode():
            positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, self._computed :]
            output = self._model(
                input_ids=self._ids[:, self._computed :],
                attention_mask=self._mask if self._padded else None,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1].float()
            if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
                raise ModelError(
                    "the model's scores for the next token are not numbers; its weights are damaged, or the number "
                    "format is too small for them: fetch it again, or use bfloat16 or float32 instead of float16"
                )
            self._computed = self._ids.shape[1]
            tokens = self._choose(self._processors(self._ids, logits))
            self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
            self._mask = torch.cat([self._mask, torch.ones_like(tokens[:, None])], dim=1)
            chosen: list[int] = tokens.tolist()
        return chosen

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        import torch

        with torch.inference_mode():
            kept = torch.tensor(rows, dtype=torch.long, device=self._device)
            self._ids, self._mask = self._ids[kept], self._mask[kept]
            self._cache.batch_select_indices(kept)
        if self._draws is not None:
            self._draws = [self._draws[row] for row in rows]

    def computed(self) -> list[int]:
        """The tokens of the first row whose keys and values the cache holds."""
        tokens: list[int] = self._ids[0, : self._computed].tolist()
        return tokens

    def _choose(self, scores: Any) -> Any:
        """The best token of each row, or one drawn by its probability.

        Drawn by the Gumbel-max trick, noise on every score and then the best: as good as drawing from the softmax,
        and rounding hardly ever changes it, where it often moves a number past the border of two small probabilities.
        """
        import torch

        if self._draws is not None:
            noise = torch.empty_like(scores)
            for row, draw in zip(noise, self._draws, strict=True):
                row.exponential_(generator=draw)
            scores = scores - noise.clamp(min=torch.finfo(noise.dtype).tiny).log()
        return scores.argmax(dim=-1)


def _chance(seed: int | None, device: Any) -> Any:
    """A source of chance of its own: the program's other sources are neither used nor set."""
    import torch

    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _processors(sampling: Sampling) -> Any:
    """As in transformers' generate: the penalty falls on what stands in the prompt as well as in the answer."""
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper

    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.temperature:
        processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    return processors


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))


def read_prefix(model: Any, tokens: Sequence[int], *, rows: int, cache: Any) -> None:
    """Compute the keys and values of tokens once, and have them for so many rows."""
    Rows(model, [tokens], Sampling(temperature=0, repetition_penalty=1), cache=cache).step()
    cache.batch_repeat_interleave(rows)


def in_batches(
    prompts: Sequence[Sequence[int]], write: Callable[[list[int]], None], *, size: int, note: Callable[[str], None]
) -> None:
    """Have all prompts written, `size` positions at a time, the longest first: neighbours pad one another least.

    Where memory runs out the batch is halved, `note` is told, and it goes on. Raises ModelError where one alone is too
    much.
    """
    waiting = sorted(range(len(prompts)), key=lambda position: -len(prompts[position]))
    while waiting:
        batch = waiting[:size]
        if _fits_memory(write, batch):
            waiting = waiting[size:]
            continue
        _give_memory_back()
        tokens = len(prompts[batch[0]])
        if len(batch) == 1:
            raise ModelError(
                f"out of memory with a single prompt of {tokens:,} tokens; ask with fewer or shorter passages, or load "
                "the model with a quantised key-value cache or in 4 bits"
            )
        size = len(batch) // 2
        note(f"out of memory with {len(batch)} prompts of up to {tokens:,} tokens together; went on with {size}")


def _fits_memory(write: Callable[[list[int]], None], batch: list[int]) -> bool:
    """Whether it was written. The error is let go of here: what it holds on to is the memory that is needed."""
    try:
        write(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found too little memory, on a GPU or on the CPU (which has no error class of its own)."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _give_memory_back() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()

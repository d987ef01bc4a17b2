"""Tokens one after the other: steps of the rows of a batch, and the text that tokens become.

One step serves streaming and batches, so that both draw alike: the same seed gives the same answer either way. Knows a
model that maps token ids to logits; nothing of messages, templates or how much memory there is.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from copy import copy
from itertools import takewhile
from typing import Any

from reader.backends.base import Sampling
from retrieval.errors import ModelError

_MAX_HELD_TOKENS = 12  # a character is up to four bytes; unfinished ones can overlap in byte-pair tokens
_UNFINISHED = "\ufffd"

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, control tokens left out."""

KeysAndValues = list[tuple[Any, Any]]
"""A pair of tensors (rows, heads, tokens, size) for each layer."""


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
        """The text that is certain after one more token, which may be none. What comes after the end is nothing."""
        if self.done:
            return ""
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
    """Conversations that are gone on with together, a token each a step. They end in the same column.

    `sampling` is that of all; rows that are joined keep their own. A `cache` may hold the keys and values of the first
    `known` tokens of a single prompt: those are not computed again.
    ids, mask: int64 (rows, tokens), what was read and chosen, and which of it counts. computed: how many columns of
    that the cache holds. draws: each row's source of chance, None of a greedy one.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, *, cache: Any, known: int = 0
    ) -> None:
        import torch

        self._model, self.cache, self.computed = model, cache, known
        device = model.get_input_embeddings().weight.device
        self.sample([sampling] * len(prompts), device)
        self.draws = [_chance(sampling.seed, device) if sampling.temperature else None for _ in prompts]
        ids = [torch.tensor([list(prompt)], dtype=torch.long, device=device) for prompt in prompts]
        self.put(ids, [torch.ones_like(each) for each in ids])

    @classmethod
    def joined(cls, parts: Sequence[Rows], *, cache: Any) -> Rows:
        """The rows of all parts, each of which has chosen its next token. Keys and values are copied into `cache`.

        So every prompt is read alone, without padding, and all are written together.
        """
        import torch

        rows = copy(parts[0])
        with torch.inference_mode():
            rows.put([part.ids for part in parts], [part.mask for part in parts])
            rows.cache, rows.computed = cache, rows.ids.shape[1] - 1
            for number in range(len(parts[0].cache.layers)):
                layers = [part.cache.layers[number] for part in parts]
                cache.update(
                    _padded([layer.keys for layer in layers], dim=-2),
                    _padded([layer.values for layer in layers], dim=-2),
                    number,
                )
        rows.draws = [draw for part in parts for draw in part.draws]
        rows.sample([each for part in parts for each in part.samplings], rows.ids.device)
        return rows

    def put(self, ids: Sequence[Any], masks: Sequence[Any]) -> None:
        """Token ids, padded on the left with a token of the row's own prompt, and which of them count.

        The padding counts as seen anyway, then: no penalty can fall on a token for being it (Zephyr's usual one is its
        end of sequence, and answers would not end).
        """
        import torch

        self.mask = _padded([mask[..., None] for mask in masks], dim=-2)[..., 0]
        padded = _padded([each[..., None] for each in ids], dim=-2)[..., 0]
        first = torch.cat([each[:, :1] for each in ids])
        self.ids = torch.where(self.mask == 0, first, padded)
        self._has_padding = bool((self.mask == 0).any())

    def sample(self, samplings: Sequence[Sampling], device: Any) -> None:
        """How each row is drawn. penalties, temperatures: float32 (rows, 1), 1 for none; None where no row has one."""
        import torch

        def column(values: Sequence[float]) -> Any:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None] if set(values) != {1} else None

        self.samplings = list(samplings)
        self._penalties = column([each.repetition_penalty for each in samplings])
        self._temperatures = column([each.temperature or 1 for each in samplings])

    def step(self) -> list[int]:
        """The next token of each row. Raises ModelError where the model gives no numbers."""
        import torch

        with torch.inference_mode():
            positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, self.computed :]
            output = self._model(
                input_ids=self.ids[:, self.computed :],
                attention_mask=self._attention_mask(),
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1].float()
            if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
                raise ModelError(
                    "the model's scores for the next token are not numbers; its weights are damaged, or the number "
                    "format is too small for them: fetch it again, or use bfloat16 or float32 instead of float16"
                )
            self.computed = self.ids.shape[1]
            tokens = self._choose(self._processed(logits))
            self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
            self.mask = torch.cat([self.mask, torch.ones_like(tokens[:, None])], dim=1)
            chosen: list[int] = tokens.tolist()
        return chosen

    def _attention_mask(self) -> Any:
        """Which tokens are looked at; None for all before one's own.

        On the CPU a mask that hides nothing is worth its place: with one, transformers attends by groups of heads,
        without it leaves the groups to torch, which then takes eight times as long for a single token (64 rows of 150
        tokens, bfloat16: 2 ms a layer and 16).
        """
        import torch

        rows, width = self.ids.shape
        if self._has_padding:
            return self.mask
        if self.ids.device.type == "cpu" and width - self.computed == 1 and not any(self.cache.is_sliding):
            return torch.ones((rows, 1, 1, width), dtype=torch.bool)
        return None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, without the padding that none of them needs."""
        import torch

        with torch.inference_mode():
            kept = torch.tensor(rows, dtype=torch.long, device=self.ids.device)
            spare = int(self.mask[kept].argmax(dim=1).min())
            self.ids, self.mask = self.ids[kept, spare:], self.mask[kept, spare:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[kept, :, spare:], layer.values[kept, :, spare:]
        self.computed -= spare
        self._has_padding = bool((self.mask == 0).any())
        self.draws = [self.draws[row] for row in rows]
        self.sample([self.samplings[row] for row in rows], kept.device)

    def first(self) -> tuple[list[int], KeysAndValues]:
        """Of the first row: tokens, and their keys and values, (1, heads, tokens, size), of each layer."""
        tokens: list[int] = self.ids[0, : self.computed].tolist()
        return tokens, [(layer.keys[:1], layer.values[:1]) for layer in self.cache.layers if layer.is_initialized]

    def _processed(self, scores: Any) -> Any:
        """As in transformers' generate: the penalty falls on what stands in the prompt as well as in the answer."""
        import torch

        if self._penalties is not None:
            seen = scores.gather(1, self.ids)
            changed = torch.where(seen < 0, seen * self._penalties, seen / self._penalties)
            scores = scores.scatter(1, self.ids, changed)
        return scores if self._temperatures is None else scores / self._temperatures

    def _choose(self, scores: Any) -> Any:
        """The best token of each row, or one drawn by its probability.

        Drawn by the Gumbel-max trick, noise on every score and then the best: as good as drawing from the softmax,
        and rounding hardly ever changes it, where it often moves a number past the border of two small probabilities.
        """
        import torch

        for row, draw in enumerate(self.draws):
            if draw is not None:
                noise = torch.empty_like(scores[row]).exponential_(generator=draw)
                scores[row] -= noise.clamp(min=torch.finfo(noise.dtype).tiny).log()
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


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))


def _padded(parts: Sequence[Any], *, dim: int) -> Any:
    """Tensors of different length along a dimension as one batch, filled up in front with zeros."""
    import torch

    length = max(part.shape[dim] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, length - part.shape[dim], 0)) for part in parts])


def fits_memory(job: Callable[[], None]) -> bool:
    """Whether it was done. The error is let go of here: what it holds on to is the memory that is needed."""
    try:
        job()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found too little memory, on a GPU or on the CPU (which has no error class of its own)."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def give_memory_back() -> None:
    """Let go of what nobody holds any more, on the device as well."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""A language model on this machine, by default Zephyr-7B in 4 bits: loaded through transformers, offline, once needed.

Any causal language model with a chat template works, by hub name or folder. Its files must be on this machine: nothing
here opens a connection, runs code that comes with a model, or reads weights other than safetensors. Knows messages and
tokens; nothing of hits or citations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from reader.backends.base import Generation, Message, Sampling, Stream, answer_of, drain, stream_answer
from reader.backends.batching import MAX_ROWS, Batching, Conversation
from reader.backends.chat_template import ChatTemplate
from reader.backends.generation import Draft, KeysAndValues, Rows, shared_prefix
from reader.backends.loading import (
    ZephyrSettings,
    at_the_door,
    choose_device,
    choose_dtype,
    device_map_of,
    explained,
    free_bytes,
    load_config,
    load_model,
    load_tokenizer,
    precision_of,
    stop_sliding,
    weights_folder,
    window_of,
)
from reader.backends.memory import HQQ_GROUP, HQQ_RESIDUAL, Load, Shape, require_room
from retrieval.encoder import quiet, read_json
from retrieval.errors import AnswerError, MissingPackageError, ModelError, PromptTooLongError

_PAGE_TOKENS = 256  # of a block in continuous batching, transformers' own default
_KEPT_SHARE = 0.1  # of the free memory is what an older prompt's keys and values may take
_RESULT_SECONDS = 1.0  # how often a silent worker is looked after


class ZephyrBackend:
    """A causal language model on CPU or GPU. Weights are loaded when the first text is generated.

    Any number of threads may ask at once: what they ask is written together, a token each a step, as far as memory goes
    (a quantised or sliding cache has its answers written one after the other). Whoever asks does the work of all until
    a piece of its own answer is there; no thread goes on behind.

    The keys and values of the last two prompts are kept, so that a prompt that begins like one of them is read from
    where it differs: in a chat, answers take turns with questions being rewritten, which begin otherwise. Prompts that
    were read before count for the repetition penalty, as in transformers' generate. A seed gives the same answer alone
    and in a batch, as far as rounding allows: in float32, always seen; in bfloat16 and 4 bits, mostly
    (docs/benchmarks.md).
    """

    def __init__(self, settings: ZephyrSettings, *, report: Callable[[str], None] = lambda _: None) -> None:
        """Reads config and tokenizer; the weights come when they are first needed. `report` is told what takes time.

        Raises ModelError, MissingPackageError.
        """
        self.model = settings.model
        self._settings, self._report = settings, report
        self._folder = weights_folder(settings.model)
        self._device = choose_device(settings.device)
        if settings.kv_cache != "full" and find_spec("hqq") is None:
            raise MissingPackageError(f"a key-value cache in {settings.kv_cache} needs hqq; run: pip install hqq")
        with at_the_door(self._folder):
            self._shape = Shape.of(read_json(self._folder / "config.json"))
            self._config = load_config(self._folder, settings)
            self.tokenizer = load_tokenizer(self._folder)
            self.window = window_of(self._config, settings)
            self._slides = stop_sliding(self._config, self.window)
            self._template = ChatTemplate(self.tokenizer, name=self.model)
            self._stops = self._stop_tokens()
        if self._slides and settings.kv_cache != "full":
            raise ModelError(
                f"{self.model} has sliding attention, which a quantised key-value cache cannot serve at a window of "
                f"{self.window:,} tokens; use kv_cache full, or a window no longer than its attention reaches"
            )
        self._anchor: int = self.tokenizer.encode("a", add_special_tokens=False)[-1]
        self._loading = threading.Lock()
        self._loaded: Any = None
        self._kept: tuple[tuple[list[int], KeysAndValues], ...] = ()
        self._notices: list[str] = []
        self._batching = Batching(self)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was degraded so far, each line once."""
        return tuple(dict.fromkeys(self._notices))

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's own tokens; never less than it takes within a prompt."""
        return self._template.count(text)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Length of the whole prompt that these messages become, the template's own tokens included."""
        return len(self._template.encode(messages))

    def encode(self, text: str) -> list[int]:
        """A text as tokens, none of them a control token."""
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        """Go on with one conversation. Raises ModelError when the model fails, PromptTooLongError over the window."""
        return drain(self.stream(messages, sampling))

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """The same, piece by piece. Closing the stream stops the computation."""
        return (yield from stream_answer(self._stream(messages, sampling), who=self.model, note=self._notices.append))

    def _stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        prompt = self._prompt(messages, sampling)
        self.weights()
        one = self._conversation(prompt, sampling, is_heard=True)
        with explained(self._folder):
            yield from self._batching.stream(one)
        return _generation(one)

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation | AnswerError]:
        """Go on with many conversations together; answers in their order.

        Every prompt is read alone, from where it differs from the one before; rows are written together, and a new one
        comes in where another is done. On CUDA, greedy ones without a penalty are left to transformers' continuous
        batching. A quantised or sliding cache has neither: there, batches are padded and run to their longest answer.
        """
        prompts = [self._prompt(messages, sampling) for messages in conversations]
        self.weights()
        return [self._answer(each) for each in self._written(prompts, sampling, report=report)]

    def _answer(self, generation: Generation) -> Generation | AnswerError:
        try:
            return answer_of(generation, who=self.model, note=self._notices.append)
        except AnswerError as error:
            return error

    def _written(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, report: Callable[[int], None]
    ) -> list[Generation]:
        with explained(self._folder):
            if prompts and self._can_batch_continuously(sampling):
                try:
                    with self._batching.paused():
                        return self.generate_continuously(prompts, sampling, report=report)
                except (RuntimeError, ValueError) as error:
                    self._notices.append(f"continuous batching failed ({str(error)[:300]}); went on without it")
            written = [self._conversation(prompt, sampling, is_heard=False) for prompt in prompts]
            # The longest first, so that memory runs out early and neighbours are alike.
            self._batching.write(sorted(written, key=lambda one: -one.prompt_tokens), report=report)
        return [_generation(one) for one in written]

    def _conversation(self, prompt: list[int], sampling: Sampling, *, is_heard: bool) -> Conversation:
        return Conversation(prompt, sampling, self._draft(sampling), is_heard=is_heard)

    def weights(self) -> Any:
        """The model itself, transformers' own, loaded now if it was not. Raises ModelError where it does not fit."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
        return self._loaded

    def _load(self) -> Any:
        settings = self._settings
        dtype = choose_dtype(settings, self._device)
        if isinstance(settings.device_map, str):  # who maps by hand knows what fits where
            self._require_room()
        self._report(f"loading {self.model} ({precision_of(settings, dtype)}) on {self._device}")
        started = time.perf_counter()
        model = load_model(self._folder, self._config, settings, device=self._device)
        self._report(f"loaded {self.model} in {time.perf_counter() - started:.1f} s")
        return model

    def _require_room(self) -> None:
        if self._shape is None:
            self._notices.append(f"{self.model} is of a kind whose memory cannot be estimated; it was loaded unchecked")
            return
        require_room(self._shape, self._way, free_bytes(self._device), name=self.model, device=self._device)

    @property
    def _way(self) -> Load:
        element_bytes = choose_dtype(self._settings, self._device).itemsize
        return Load(self._settings.quantization, self._settings.kv_cache, self.window, element_bytes)

    # ---- prompts -----------------------------------------------------------------------------------------------------

    def _prompt(self, messages: Sequence[Message], sampling: Sampling) -> list[int]:
        prompt = self._template.encode(messages)
        if len(prompt) + sampling.max_tokens > self.window:
            raise PromptTooLongError(
                f"prompt and answer take {len(prompt):,} + {sampling.max_tokens:,} tokens, the window of {self.model} "
                f"is {self.window:,}; ask with fewer passages or for a shorter answer, or set a larger window"
            )
        return prompt

    def _stop_tokens(self) -> frozenset[int]:
        """What ends an answer: the model's ends of sequence, and control tokens by which its template changes turns."""
        path = self._folder / "generation_config.json"
        named = [self.tokenizer.eos_token_id, self._config.eos_token_id]
        named.append(read_json(path).get("eos_token_id") if path.is_file() else None)
        ends = {int(one) for each in named if each is not None for one in (each if isinstance(each, list) else [each])}
        turns = (Message("user", "a"), Message("assistant", "a"), Message("user", "a"))
        control = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(ends | (set(self._template.encode(turns)) & control))

    def _draft(self, sampling: Sampling) -> Draft:
        return Draft(
            self._decode,
            anchor=self._anchor,
            stops=self._stops,
            markers=self._template.markers,
            max_tokens=sampling.max_tokens,
        )

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    # ---- keys and values ---------------------------------------------------------------------------------------------

    def new_cache(self) -> Any:
        """An empty cache for keys and values, full or quantised as the settings say."""
        from transformers import DynamicCache, QuantizedCache

        if self._settings.kv_cache == "full":
            return DynamicCache(config=self._config)
        # Along axis 1 a group is a part of one token's one head, so that neighbours in a batch do not touch each other.
        return QuantizedCache(
            "hqq",
            self._config,
            nbits=int(self._settings.kv_cache.removesuffix("bit")),
            axis_key=1,
            axis_value=1,
            q_group_size=HQQ_GROUP if self._head_size() % HQQ_GROUP == 0 else self._head_size(),
            residual_length=HQQ_RESIDUAL,
        )

    def _head_size(self) -> int:
        config = self._config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    # ---- what batching asks for, one thread at a time ----------------------------------------------------------------

    @property
    def can_cut(self) -> bool:
        """Whether a cache can be cut, and rows taken out of it: not one that is quantised or slides."""
        return self._settings.kv_cache == "full" and not self._slides

    def begin(self, tokens: Sequence[int], sampling: Sampling) -> tuple[Rows, int]:
        """A prompt to be read from where it differs from those kept, and how many tokens that leaves out."""
        cache, known, best = self.new_cache(), 0, KeysAndValues()
        for kept, layers in self._kept:
            shared = min(shared_prefix([kept, tokens]), len(tokens) - 1)
            known, best = max((known, best), (shared, layers), key=lambda each: each[0])
        for number, (keys, values) in enumerate(best):
            cache.update(keys[:, :, :known], values[:, :, :known], number)  # copied: nobody else is touched
        return Rows(self.weights(), [tokens], sampling, cache=cache, known=known), known

    def begin_padded(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Rows:
        """Prompts to be read together."""
        return Rows(self.weights(), prompts, sampling, cache=self.new_cache())

    def join(self, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts as one batch."""
        return Rows.joined(parts, cache=self.new_cache())

    def keep(self, rows: Rows) -> None:
        """Remember a single row's tokens with their keys and values, beside the last other one's if that is small."""
        if self.can_cut:
            tokens, layers = rows.first()
            others = [each for each in self._kept if each[0] != tokens[: len(each[0])]]
            self._kept = (*(each for each in others[-1:] if self._is_small(each[0])), (tokens, layers))

    def _is_small(self, tokens: Sequence[int]) -> bool:
        """Whether to keep the keys and values of so many tokens takes little of the memory that is free."""
        if self._shape is None:
            return False
        return self._shape.kv_bytes(self._way, len(tokens)) <= _KEPT_SHARE * free_bytes(self._device)

    def most_rows(self, *, tokens: int, held: int) -> int:
        """How many conversations of so many tokens there is memory for, what those that are written hold included."""
        if self._shape is None:
            return MAX_ROWS
        each = self._shape.kv_bytes(self._way, tokens) + self._shape.working_bytes(self._way, tokens)
        room = free_bytes(self._device) + self._shape.kv_bytes(self._way, held)
        return room // (2 * each)  # a growing cache is copied, so twice

    def make_room(self, notice: str = "") -> None:
        """Forget what was read before."""
        self._kept = ()
        if notice:
            self._notices.append(notice)

    # ---- transformers' continuous batching ---------------------------------------------------------------------------

    def _can_batch_continuously(self, sampling: Sampling) -> bool:
        """transformers' continuous batching has no repetition penalty (it drops it), and seeds of its own."""
        greedy = sampling.temperature == 0 and sampling.repetition_penalty == 1
        return greedy and self.can_cut and device_map_of(self._settings, self._device) == {"": "cuda"}

    def generate_continuously(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, report: Callable[[int], None]
    ) -> list[Generation]:
        """Greedy answers by transformers' continuous batching: rows come and go, shared beginnings are kept once.

        Raises RuntimeError or ValueError where it cannot: its worker died, or found no memory.
        """
        from transformers import ContinuousBatchingConfig, GenerationConfig

        model = self.weights()
        Rows(model, [prompts[0]], sampling, cache=self.new_cache()).step()  # it would not notice a broken model
        options = {"do_sample": False, "max_new_tokens": sampling.max_tokens, "pad_token_id": 0}
        config = GenerationConfig.from_dict({**options, "eos_token_id": sorted(self._stops)})
        found: dict[str, Any] = {}
        place = ContinuousBatchingConfig(num_blocks=self._blocks(prompts, sampling.max_tokens))
        with (
            quiet(),
            model.continuous_batching_context_manager(
                generation_config=config, continuous_batching_config=place
            ) as manager,
        ):
            names = manager.add_requests([list(prompt) for prompt in prompts], max_new_tokens=sampling.max_tokens)
            while len(found) < len(names):
                result = manager.get_result(timeout=_RESULT_SECONDS)
                if result is None and not manager.is_running():
                    break
                if result is not None and result.is_finished():
                    found[result.request_id] = result
                    report(len(found))
        failed = [name for name in names if name not in found or found[name].error is not None]
        if failed:
            errors = {str(found[name].error) for name in failed if name in found} or {"it ended early"}
            raise RuntimeError(f"{len(failed)} of {len(names)} answers are missing: {'; '.join(sorted(errors))}")
        written = [self._conversation(list(prompt), sampling, is_heard=False) for prompt in prompts]
        for name, one in zip(names, written, strict=True):
            for token in found[name].generated_tokens:
                one.add(token)
        return [_generation(one) for one in written]

    def _blocks(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
        """Pages of keys and values for all prompts, or as many as half of the free memory holds.

        Left to itself, transformers takes nine tenths of what is free, however little it has to do.
        """
        needed = sum((len(prompt) + max_tokens) // _PAGE_TOKENS + 2 for prompt in prompts)
        if self._shape is None:
            return needed
        page_bytes = _PAGE_TOKENS * self._shape.kv_token_bytes(self._way)
        return max(1, min(needed, free_bytes(self._device) // 2 // page_bytes))


def _generation(one: Conversation) -> Generation:
    draft = one.draft
    return Generation(draft.text, one.prompt_tokens, draft.tokens, draft.complete, one.reused_tokens)

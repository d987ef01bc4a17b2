"""LangChain's seams over language models: any of their chat models as a backend of ours, and our backends as one of theirs.

Translates messages, settings and counts; holds no logic of prompts or answers. Text alone goes through: an image or a
call of a tool is an error, never left out in silence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr

from reader.backends.base import Backend, Generation, Message, Role, Sampling, Stream
from reader.backends.openai_compatible import estimate_tokens
from reader.neutral import neutralise
from retrieval.errors import ModelError, PromptTooLongError, RagError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

IN_FLIGHT = 8
_TURN_TOKENS, _PROMPT_TOKENS = 12, 48  # what a chat template may add; see openai_compatible
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "MAX_TOKENS"})
_THEIRS: Mapping[Role, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_OURS: Mapping[str, Role] = {"system": "system", "human": "user", "ai": "assistant"}


# ---- theirs as ours --------------------------------------------------------------------------------------------------


class LangChainBackend:
    """Any LangChain chat model, as a backend.

    window: tokens of prompt and answer together. count: the length of a text in the model's own tokens; None estimates
    from above. options: what to invoke the model with for a Sampling, such as
    `lambda s: {"max_tokens": s.max_tokens, "temperature": s.temperature}`: every provider has its own names, and
    without it the model keeps the settings it was made with, which is a notice.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        window: int = 4096,
        count: Callable[[str], int] | None = None,
        options: Callable[[Sampling], Mapping[str, Any]] | None = None,
    ) -> None:
        self._model, self.window = model, window
        self._count, self._options = count or estimate_tokens, options
        named = model._get_ls_params().get("ls_model_name")  # noqa: SLF001 - how LangChain itself asks for the name
        self.model: str = named or type(model).__name__
        notices = {
            "prompt lengths are estimated from above; give the model's own count": count is None,
            f"{self.model} samples as it was made to; give options to set length, temperature and seed": not options,
        }
        self.notices: tuple[str, ...] = tuple(notice for notice, holds in notices.items() if holds)

    def count_tokens(self, text: str) -> int:
        """By `count`, else an upper bound."""
        return self._count(neutralise(text))

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """An upper bound: what the contents take, and room for a template, which only the model knows."""
        return _PROMPT_TOKENS + sum(_TURN_TOKENS + self.count_tokens(message.content) for message in messages)

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        """One answer. What the provider raises becomes a ModelError."""
        asked = self._asked(messages, sampling)
        with self._explained():
            message = self._model.invoke(asked, **self._given(sampling))
            return self._generation(message, messages, sampling)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """Piece by piece, where the model streams; else in one piece."""
        asked = self._asked(messages, sampling)
        whole: AIMessageChunk | None = None
        with self._explained():
            for chunk in self._model.stream(asked, **self._given(sampling)):
                whole = cast("AIMessageChunk", chunk if whole is None else whole + chunk)
                if piece := str(chunk.text):
                    yield piece
            if whole is None:
                raise ModelError(f"{self.model} streamed nothing; expected at least one message")
            return self._generation(whole, messages, sampling)

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation]:
        """Eight at a time, through the model's own batching."""
        asked = [self._asked(messages, sampling) for messages in conversations]
        config: RunnableConfig = {"max_concurrency": IN_FLIGHT}
        done: dict[int, Generation] = {}
        with self._explained():
            for index, message in self._model.batch_as_completed(asked, config, **self._given(sampling)):
                done[index] = self._generation(message, conversations[index], sampling)
                report(len(done))
        return [done[index] for index in range(len(conversations))]

    def _asked(self, messages: Sequence[Message], sampling: Sampling) -> list[BaseMessage]:
        if (tokens := self.prompt_tokens(messages)) + sampling.max_tokens > self.window:
            raise PromptTooLongError(
                f"prompt and answer take up to {tokens} + {sampling.max_tokens} tokens, the window given for {self.model} "
                f"is {self.window}; use fewer or shorter passages, a shorter answer, or a larger window"
            )
        return [_THEIRS[message.role](neutralise(message.content)) for message in messages]

    def _given(self, sampling: Sampling) -> dict[str, Any]:
        return dict(self._options(sampling)) if self._options else {}

    def _generation(self, answer: BaseMessage, messages: Sequence[Message], sampling: Sampling) -> Generation:
        text = str(answer.text)
        usage = answer.usage_metadata if isinstance(answer, AIMessage) else None
        told = answer.response_metadata
        reasons = {told.get(name) for name in ("finish_reason", "stop_reason", "done_reason")}
        if usage is None:
            return Generation(text, self.prompt_tokens(messages), self.count_tokens(text), not reasons & _CUT)
        reused = usage.get("input_token_details", {}).get("cache_read", 0)
        complete = not reasons & _CUT and (any(reasons) or usage["output_tokens"] < sampling.max_tokens)
        return Generation(text, usage["input_tokens"], usage["output_tokens"], complete, reused)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What a provider raises has hundreds of names, one of ours here."""
        try:
            yield
        except RagError:
            raise
        except Exception as error:
            raise ModelError(f"{self.model} failed: {type(error).__name__}: {str(error)[:500]}") from error


# ---- ours as theirs --------------------------------------------------------------------------------------------------


class RagChatModel(BaseChatModel):
    """A backend of ours, as a LangChain chat model. The backend is made at the first question, so weights load late.

    make_backend: such as `lambda: ZephyrBackend.load(ZephyrSettings())`, or `lambda: backend`. max_tokens, temperature,
    repetition_penalty and seed are those of Sampling, and may be given to a call as well; stop ends an answer before
    the first of these strings. Nothing else is accepted: an option that has no effect is an error.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    make_backend: Callable[[], Backend] = Field(exclude=True, repr=False)
    model_name: str = Field(default="rag-backend", alias="model")
    max_tokens: int = Field(default=500, ge=1)
    temperature: float = Field(default=0.2, ge=0.0)
    repetition_penalty: float = Field(default=1.1, gt=0.0)
    seed: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")

    _made: Backend | None = PrivateAttr(default=None)
    _making: Any = PrivateAttr(default_factory=threading.Lock)

"""LangChain's seams over models: any of their chat models as a backend of ours, any backend as a chat model of theirs.

Translates messages, settings and counts; holds no logic of prompts or answers. Text alone goes through: an image or a
call of a tool is an error, never left out in silence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from reader.backends.base import (
    REASONING_LEFT_OUT,
    Backend,
    Generation,
    Message,
    Role,
    Sampling,
    Stream,
    answer_of,
    drain,
    require_text,
    stream_answer,
)
from reader.backends.remote import IN_FLIGHT, Lengths, is_complete
from reader.neutral import neutralise
from retrieval.errors import AnswerError, ModelError, PromptTooLongError, RagError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

_THEIRS: Mapping[Role, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_SAMPLING = tuple(each.name for each in fields(Sampling))
_WITHOUT_EFFECT = frozenset({"timeout", "max_retries", "api_key", "streaming"})


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
        self._lengths, self._options = Lengths(count), options
        named = model._get_ls_params().get("ls_model_name")  # noqa: SLF001 - how LangChain itself asks for the name
        self.model: str = named or type(model).__name__
        notices = {
            "prompt lengths are estimated from above; give the model's own count": count is None,
            f"{self.model} samples as it was made to; give options to set length, temperature and seed": not options,
        }
        self._notices = {notice: None for notice, holds in notices.items() if holds}  # an ordered set

    @property
    def notices(self) -> tuple[str, ...]:
        """What is estimated, left to the model, or left out."""
        return tuple(self._notices)

    def count_tokens(self, text: str) -> int:
        """What it takes within a prompt at most: by `count`, else an estimate from above."""
        return self._lengths.within(text)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """An upper bound: what the contents take, and room for a template, which only the model knows."""
        return self._lengths.prompt(messages)

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        """One answer. What the provider raises becomes a ModelError."""
        asked = self._asked(messages, sampling)
        with self._explained():
            message = self._model.invoke(asked, **self._given(sampling))
            return self._whole(message, messages, sampling)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """Piece by piece, where the model streams; else in one piece."""
        return (yield from stream_answer(self._stream(messages, sampling), who=self.model, note=self._notice))

    def _stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        asked = self._asked(messages, sampling)
        whole: AIMessageChunk | None = None
        reason = ""
        with self._explained():
            for chunk in self._model.stream(asked, **self._given(sampling)):
                whole = chunk if whole is None else whole + chunk
                reason = _reason(chunk) or reason  # of the whole it may be "stopstop"
                if piece := str(chunk.text):
                    yield piece
            if whole is None:
                raise ModelError(f"{self.model} streamed nothing; expected at least one message")
            return self._generation(whole, messages, sampling, reason=reason)

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation | AnswerError]:
        """Eight at a time, through the model's own batching."""
        asked = [self._asked(messages, sampling) for messages in conversations]
        config: RunnableConfig = {"max_concurrency": IN_FLIGHT}
        done: dict[int, Generation | AnswerError] = {}
        with self._explained():
            for index, message in self._model.batch_as_completed(asked, config, **self._given(sampling)):
                try:
                    done[index] = self._whole(message, conversations[index], sampling)
                except AnswerError as error:
                    done[index] = error
                report(len(done))
        return [done[index] for index in range(len(conversations))]

    def _asked(self, messages: Sequence[Message], sampling: Sampling) -> list[BaseMessage]:
        if (tokens := self.prompt_tokens(messages)) + sampling.max_tokens > self.window:
            raise PromptTooLongError(
                f"prompt and answer take up to {tokens} + {sampling.max_tokens} tokens, the window given for "
                f"{self.model} is {self.window}; use fewer or shorter passages, a shorter answer, or a larger window"
            )
        return [_THEIRS[message.role](neutralise(message.content)) for message in messages]

    def _given(self, sampling: Sampling) -> dict[str, Any]:
        return dict(self._options(sampling)) if self._options else {}

    def _whole(self, answer: BaseMessage, messages: Sequence[Message], sampling: Sampling) -> Generation:
        generation = self._generation(answer, messages, sampling, reason=_reason(answer))
        return answer_of(generation, who=self.model, note=self._notice)

    def _generation(
        self, answer: BaseMessage, messages: Sequence[Message], sampling: Sampling, *, reason: str
    ) -> Generation:
        text = str(answer.text)
        usage = answer.usage_metadata if isinstance(answer, AIMessage) else None
        if reason:
            complete = is_complete(reason, who=self.model)
        else:
            complete = usage is None or usage["output_tokens"] < sampling.max_tokens
        if thought := any(block["type"] == "reasoning" for block in answer.content_blocks):
            self._notice(REASONING_LEFT_OUT)
        require_text(text, who=self.model, thought=thought, complete=complete)
        if usage is None:
            return Generation(text, self.prompt_tokens(messages), self._lengths.alone(text), complete)
        reused = usage.get("input_token_details", {}).get("cache_read", 0)
        return Generation(text, usage["input_tokens"], usage["output_tokens"], complete, reused)

    def _notice(self, line: str) -> None:
        self._notices[line] = None

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

    make_backend: such as `lambda: ZephyrBackend(ZephyrSettings())`, or `lambda: backend`. max_tokens, temperature,
    repetition_penalty and seed are those of Sampling, and may be given to a call as well; an answer ends before the
    first of the strings in `stop`. timeout, max_retries, api_key and streaming are accepted, as all of LangChain's
    models must, and change nothing: the backend has its own. Anything else is an error.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    make_backend: Callable[[], Backend] = Field(exclude=True, repr=False)
    model_name: str = Field(default="rag", alias="model")
    max_tokens: int = Field(default=500, ge=1)
    temperature: float = Field(default=0.2, ge=0.0)
    repetition_penalty: float = Field(default=1.1, gt=0.0)
    seed: int | None = None
    stop: list[str] | str | None = Field(default=None, alias="stop_sequences")

    _made: Backend | None = PrivateAttr(default=None)
    _making: Any = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="before")
    @classmethod
    def _without_effect(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name not in _WITHOUT_EFFECT}

    @property
    def backend(self) -> Backend:
        """The backend, made now if it was not."""
        with self._making:
            if self._made is None:
                self._made = self.make_backend()
            return self._made

    @property
    def _llm_type(self) -> str:
        return "cited-rag"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, **self._sampling()}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="cited-rag",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model", self.model_name),
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        if stopping := stop or self.stop:
            params["ls_stop"] = _listed(stopping)
        return params

    def get_num_tokens(self, text: str) -> int:
        """In the model's own tokens; LangChain's default would download another model's tokenizer."""
        return self.backend.count_tokens(text)

    def get_token_ids(self, text: str) -> list[int]:
        """Not known here. Raises NotImplementedError."""
        raise NotImplementedError(f"{self.model_name} counts tokens but does not name them; use get_num_tokens")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager  # told of pieces, of which there are none
        generation = drain(self._written(messages, stop, kwargs))
        message = AIMessage(generation.text, **self._told(generation))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        pieces = self._written(messages, stop, kwargs)
        with closing(pieces):
            while True:
                try:
                    message = AIMessageChunk(content=next(pieces))
                except StopIteration as end:
                    message = AIMessageChunk(content="", chunk_position="last", **self._told(end.value))
                chunk = ChatGenerationChunk(message=message)
                if run_manager:
                    run_manager.on_llm_new_token(message.text, chunk=chunk)
                yield chunk
                if message.chunk_position:
                    return

    def _written(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> Stream:
        if unknown := sorted(given.keys() - set(_SAMPLING)):
            raise TypeError(f"unknown options: {', '.join(unknown)}; expected some of {', '.join(_SAMPLING)}, stop")
        checked = RagChatModel(make_backend=self.make_backend, **self._sampling() | given)  # raises ValueError
        sampling = Sampling(**checked._sampling())
        asked = [_ours(message) for message in messages]
        stops = [each for each in _listed(stop or self.stop or ()) if each]
        with closing(self.backend.stream(asked, sampling)) as stream:
            if not stops:
                return (yield from stream)
            text, whole = yield from _until(stream, stops)
        return whole or Generation(text, self.backend.prompt_tokens(asked), self.backend.count_tokens(text))

    def _sampling(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SAMPLING}

    def _told(self, generation: Generation) -> dict[str, Any]:
        """What a message says besides its text."""
        usage = UsageMetadata(
            input_tokens=generation.prompt_tokens,
            output_tokens=generation.answer_tokens,
            total_tokens=generation.prompt_tokens + generation.answer_tokens,
            input_token_details=InputTokenDetails(cache_read=generation.reused_tokens),
        )
        finish = "stop" if generation.complete else "length"
        return {
            "usage_metadata": usage,
            "response_metadata": {"model_name": self.backend.model, "finish_reason": finish},
        }


def _until(stream: Stream, stops: Sequence[str]) -> Generator[str, None, tuple[str, Generation | None]]:
    """Pieces up to the first stop to be complete, and the text of them all; None where a stop ended it.

    What may be the beginning of a stop is held back, so no part of one is ever shown.
    """
    shown, held = "", ""
    while True:
        try:
            held += next(stream)
        except StopIteration as end:
            if held:
                yield held
            return shown + held, end.value
        ends = [(at + len(stop), at) for stop in stops if (at := held.find(stop)) >= 0]
        begun = [size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])]
        ready = min(ends)[1] if ends else len(held) - max(begun, default=0)
        if ready:
            yield held[:ready]
        shown, held = shown + held[:ready], held[ready:]
        if ends:
            return shown, None


def _listed(stop: Sequence[str]) -> list[str]:
    """One string is a sequence as well, of letters."""
    return [stop] if isinstance(stop, str) else list(stop)


def _reason(answer: BaseMessage) -> str:
    """Why an answer ended, as its provider calls it; "" for nothing said."""
    told = answer.response_metadata
    return next((str(told[name]) for name in ("finish_reason", "stop_reason", "done_reason") if told.get(name)), "")


def _ours(message: BaseMessage) -> Message:
    """A message as text. Raises ModelError on anything that text cannot hold."""
    role = next((role for role, kind in _THEIRS.items() if isinstance(message, kind)), None)
    if role is None or (isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)):
        what = "with tool calls" if role else f"of type '{message.type}'"
        raise ModelError(f"a message {what} cannot be put into a prompt here; expected system, human and ai messages")
    blocks = [message.content] if isinstance(message.content, str) else message.content
    texts = [block if isinstance(block, str) else block.get("text") for block in blocks]
    kinds = {"text" if isinstance(block, str) else str(block.get("type")) for block in blocks}
    if kinds - {"text"} or not all(isinstance(text, str) for text in texts):
        raise ModelError(f"a message holds {', '.join(sorted(kinds - {'text'})) or 'no text'}; expected text alone")
    return Message(role, "".join(cast("list[str]", texts)))

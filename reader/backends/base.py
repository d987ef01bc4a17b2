"""What a language model behind a reader must do. Knows messages, tokens and text; nothing of hits or citations."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from retrieval.errors import AnswerError

REASONING_LEFT_OUT = "the model reasons before it answers; that is left out, but counts towards max_answer_tokens"
_OPEN, _CLOSE = "<think>", "</think>"

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `content` is data: whatever it says, it never becomes a control token."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn. temperature 0 is greedy; `seed` makes drawing repeatable; None leaves it to chance."""

    max_tokens: int = 500
    temperature: float = 0.2
    repetition_penalty: float = 1.1
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote. Lengths are in the model's own tokens.

    complete: False where `max_tokens` ended it in the middle. reused_tokens: of the prompt, taken over from the prompt
    before it instead of being read again.
    """

    text: str
    prompt_tokens: int
    answer_tokens: int
    complete: bool = True
    reused_tokens: int = 0


Stream = Generator[str, None, Generation]
"""Yields pieces of text as they are written and returns the whole: `generation = yield from backend.stream(...)`."""


class Backend(Protocol):
    """A language model that goes on with conversations."""

    @property
    def model(self) -> str:
        """Name of the model, for the record."""

    @property
    def window(self) -> int:
        """Tokens of prompt and answer together, at most."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines for people about what was degraded so far: a batch halved for want of memory, a length estimated."""

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's own tokens; never less than it takes within a prompt."""

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Length of the whole prompt that these messages become, the template's own tokens included."""

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        """Go on with one conversation. The text of an answer is never blank, and holds no reasoning before it.

        Raises AnswerError where the model refuses this answer or leaves it empty, ModelError when the model fails,
        PromptTooLongError over the window.
        """

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """The same, piece by piece. Raises in the middle rather than end early: a part never passes for the whole."""

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation | AnswerError]:
        """Go on with many conversations, in order. `report` is told how many are done, now and then.

        What one answer alone failed by stands in its place; every other error is raised, for it would hit all of them.
        """


def drain(stream: Stream) -> Generation:
    """The whole of a stream."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            generation: Generation = end.value
            return generation


class Thoughts:
    """Takes what a model thinks aloud, `<think>...</think>`, from the beginning of an answer, closed or not.

    However the text is cut into pieces, the same is left. What does not begin so is not touched. found: whether there
    was a thought that is more than white space.
    """

    def __init__(self) -> None:
        self.found = False
        self._held = ""
        self._inside = self._after = self._answering = False

    def feed(self, piece: str) -> str:
        """The part of the answer that is certain after one more piece."""
        if self._answering:
            return piece
        self._held += piece
        while True:
            if self._inside:
                thought, closed, rest = self._held.partition(_CLOSE)
                self.found = self.found or bool((thought if closed else thought[: 1 - len(_CLOSE)]).strip())
                if not closed:
                    self._held = thought[1 - len(_CLOSE) :]
                    return ""
                self._held, self._inside, self._after = rest, False, True
            text = self._held.lstrip()
            if not text.startswith(_OPEN):
                break
            self._held, self._inside = text[len(_OPEN) :], True
        if _OPEN.startswith(text):  # or nothing yet
            return ""
        self._answering = True
        return text if self._after else self._held

    def close(self) -> str:
        """What was held back, and is part of the answer after all."""
        if self._answering:
            return ""
        if self._inside:
            self.found = self.found or bool(self._held.strip())
            return ""
        return self._held.lstrip() if self._after else self._held


def answer_of(generation: Generation, *, who: str, note: Callable[[str], None]) -> Generation:
    """A generation without reasoning before the answer, which is noted. Raises AnswerError where nothing is left."""
    thoughts = Thoughts()
    text = thoughts.feed(generation.text) + thoughts.close()
    if thoughts.found:
        note(REASONING_LEFT_OUT)
    require_text(text, who=who, thought=thoughts.found, complete=generation.complete)
    return replace(generation, text=text)


def stream_answer(stream: Stream, *, who: str, note: Callable[[str], None]) -> Stream:
    """The same for a stream: what it yields is what it returns. Closing it closes the stream."""
    thoughts = Thoughts()
    with closing(stream):
        while True:
            try:
                piece = thoughts.feed(next(stream))
            except StopIteration as end:
                generation = answer_of(end.value, who=who, note=note)
                break
            if piece:
                yield piece
    if piece := thoughts.close():
        yield piece
    return generation


def require_text(text: str, *, who: str, thought: bool, complete: bool) -> None:
    """Raise AnswerError where an answer has no words; thought: whether there was reasoning before it."""
    if text.strip():
        return
    if thought:
        raise AnswerError(f"{who} wrote nothing but reasoning; raise max_answer_tokens, or turn its reasoning off")
    if complete:
        raise AnswerError(f"{who} ended its answer without a word; ask in other words, or use another model")
    raise AnswerError(
        f"{who} reached the limit of tokens without a word; if it reasons unseen before it answers, raise "
        "max_answer_tokens or turn that off"
    )

"""What a language model behind a reader must do. Knows messages, tokens and text; nothing of hits or citations."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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
        """Go on with one conversation. Raises ModelError when the model fails, PromptTooLongError over the window."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """The same, piece by piece. Raises in the middle rather than end early: a part never passes for the whole."""

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation]:
        """Go on with many conversations, in order. `report` is told how many are done, now and then."""


def drain(stream: Stream) -> Generation:
    """The whole of a stream."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            generation: Generation = end.value
            return generation

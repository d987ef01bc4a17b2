"""A backend that answers from a script: the double that tests and demonstrations use. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from reader.backends.base import Generation, Message, Sampling, Stream, drain
from retrieval.errors import AnswerError, ModelError, PromptTooLongError


class ScriptedBackend:
    """Gives the scripted answers in order and remembers what it was asked. Tokens are words."""

    model = "scripted"
    notices: tuple[str, ...] = ()

    def __init__(self, answers: Sequence[str], *, window: int = 4096) -> None:
        self._answers = list(answers)
        self.window = window
        self.asked: list[tuple[Message, ...]] = []

    def count_tokens(self, text: str) -> int:
        """Number of words."""
        return len(text.split())

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Number of words, and one for each turn."""
        return sum(1 + self.count_tokens(message.content) for message in messages)

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        """The next scripted answer, cut at `max_tokens` words. Raises ModelError when the script is over."""
        return drain(self.stream(messages, sampling))

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """The next scripted answer, word by word."""
        prompt_tokens = self.prompt_tokens(messages)
        if prompt_tokens + sampling.max_tokens > self.window:
            raise PromptTooLongError(
                f"prompt and answer take {prompt_tokens} + {sampling.max_tokens} tokens, the window is {self.window}"
            )
        if len(self.asked) >= len(self._answers):
            raise ModelError(f"the script holds {len(self._answers)} answers; a further one was asked for")
        answer = self._answers[len(self.asked)]
        self.asked.append(tuple(messages))
        words = list(_words(answer))
        yield from words[: sampling.max_tokens]
        written = "".join(words[: sampling.max_tokens])
        return Generation(written, prompt_tokens, self.count_tokens(written), len(words) <= sampling.max_tokens)

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation | AnswerError]:
        """One after the other."""
        done: list[Generation | AnswerError] = []
        for messages in conversations:
            done.append(self.generate(messages, sampling))
            report(len(done))
        return done


def _words(text: str) -> Iterator[str]:
    """Words with the white space after them; the first one with that before it as well."""
    return (found.group() for found in re.finditer(r"^\s*\S+\s*|\S+\s*|^\s+$", text))

"""A backend that answers from a script: the double that tests and demonstrations use. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reader.backends.base import Generation
from retrieval.errors import ModelError


class ScriptedBackend:
    """Gives the scripted answers in order and remembers what it was asked. Tokens are words."""

    model = "scripted"

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    def count_tokens(self, text: str) -> int:
        """Number of words."""
        return len(text.split())

    def generate(self, system: str, user: str, *, max_tokens: int) -> Generation:
        """The next scripted answer, cut at `max_tokens` words. Raises ModelError when the script is over."""
        if len(self.asked) >= len(self._answers):
            raise ModelError(f"the script holds {len(self._answers)} answers; a further one was asked for")
        answer = self._answers[len(self.asked)]
        self.asked.append((system, user))
        ends = [word.end() for word in re.finditer(r"\S+", answer)]
        if len(ends) > max_tokens:
            answer = answer[: ends[max_tokens - 1]] if max_tokens > 0 else ""
        return Generation(answer, self.count_tokens(f"{system} {user}"), self.count_tokens(answer))

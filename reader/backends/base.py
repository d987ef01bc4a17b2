"""What a language model behind a reader must do. Knows messages and text; nothing of hits or citations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote, and the lengths of prompt and answer in its own tokens."""

    text: str
    prompt_tokens: int
    answer_tokens: int


class Backend(Protocol):
    """A language model that completes one exchange."""

    @property
    def model(self) -> str:
        """Name of the model, for the record."""

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's own tokens."""

    def generate(self, system: str, user: str, *, max_tokens: int) -> Generation:
        """Answer one message. Raises ModelError when the model fails."""

"""What may come in a question: fields, types and limits. Knows shapes; nothing of how a request is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.chat import without_markers
from app.server.engine import Asked
from reader.records import Turn
from retrieval.errors import EmptyTextError

if TYPE_CHECKING:
    from retrieval.filters import Filter

MAX_QUESTION_CHARS = 8_000
MAX_ANSWER_CHARS = 40_000
MAX_TURNS = 100
MAX_PASSAGES = 100

QuestionText = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARS)]
_Patterns = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=50)]
_Word = Annotated[str, Field(max_length=100)]


class Strict(BaseModel):
    """A request without fields that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FilterBody(Strict):
    """As the flags of `rag search`: several sources or types are alternatives, all conditions of `where` must hold."""

    source: _Patterns = []
    type: _Patterns = []
    where: _Patterns = []
    after: _Word | None = None
    before: _Word | None = None
    page: _Word | None = None


class TurnBody(Strict):
    """An earlier question and its answer."""

    question: QuestionText
    answer: Annotated[str, Field(max_length=MAX_ANSWER_CHARS)]

    def taken(self) -> Turn:
        """Without markers: they point at passages that are not shown again."""
        return Turn(self.question, without_markers(self.answer))


class SearchBody(Strict):
    """A question to search for. top_k: how many passages; left out, as configured."""

    question: QuestionText
    top_k: Annotated[int, Field(ge=1, le=MAX_PASSAGES)] | None = None
    filter: FilterBody | None = None

    def asked(self) -> Asked:
        """Checked as the command line checks it. Raises ConfigError, EmptyTextError."""
        return Asked(require_visible(self.question), self.top_k, _filter(self.filter))


class AskBody(SearchBody):
    """A question to answer. history: the turns before it, oldest first. explain: with the words that matched."""

    history: Annotated[list[TurnBody], Field(max_length=MAX_TURNS)] = []
    reader: Literal["configured", "extractive"] = "configured"
    explain: bool = False
    stream: bool = False

    def asked(self) -> Asked:
        """Checked as the command line checks it. Raises ConfigError, EmptyTextError."""
        turns = tuple(turn.taken() for turn in self.history)
        return Asked(require_visible(self.question), self.top_k, _filter(self.filter), turns, self.reader)


def require_visible(question: str) -> str:
    """The question. Raises EmptyTextError where it has no character that can be seen."""
    if not any(character.isprintable() and not character.isspace() for character in question):
        raise EmptyTextError("the question is blank; expected at least one word")
    return question


def _filter(body: FilterBody | None) -> Filter | None:
    from retrieval.filters import parse_filter

    if body is None:
        return None
    wanted = parse_filter(
        sources=body.source, types=body.type, where=body.where, after=body.after, before=body.before, pages=body.page
    )
    return None if wanted.is_empty else wanted

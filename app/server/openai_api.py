"""OpenAI's routes over the same engine: chat, models, embeddings. Knows OpenAI's shapes; nothing of how one reads.

A chat completion is an answer from the documents. What OpenAI's protocol has no place for, citations first of all,
stands in further fields, which its clients hand through. What a client wants that the product cannot give is refused;
what has no effect is named in `notices`.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.chat import without_markers
from app.cli.wire import citation_record
from app.server.answers import (
    EventStream,
    frame,
    json_response,
    problem,
    problem_record,
    prompt_start,
    request_id_of,
    status_of,
    unless_gone,
)
from app.server.engine import Answered, Asked, Event, ReaderName, Written
from app.server.requests import MAX_ANSWER_CHARS, MAX_QUESTION_CHARS, MAX_TURNS, require_visible
from app.server.state import Server
from reader.records import Answer, Citation, Turn
from retrieval.errors import ConfigError, EmptyTextError, RagError, TextTooLongError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from app.pipeline import Pipeline
    from retrieval.records import Hit

    _Encoded = tuple[NDArray[np.float32], int]
    """A text's vector, (dim,), unit length, and how many tokens the encoder read."""

READERS: Mapping[str, ReaderName] = {"rag": "configured", "rag-extractive": "extractive"}
"""Models to chat with: the configured reader, and the one that always quotes."""

MAX_MESSAGES = 500
MAX_INPUTS = 256
"""Texts in a request for embeddings."""
MAX_INPUT_CHARS = 8_000

_INPUTS_AT_ONCE = 32
"""Texts encoded before others that wait get their turn."""
_NAMED_UNREAD = 20
_TASK = "### Task:"
"""How Open WebUI's prompts begin that ask for a title, tags or follow-ups, or bring passages of its own."""
_DONE = b"data: [DONE]\n\n"
_FREE_CHOICE = (None, "auto", "none")
"""What leaves it to the model whether to call a tool: this one calls none."""
_PIECE = re.compile(r".+?(?:\[\d{1,3}\]\s*|\Z)", re.DOTALL)

WITHDRAWN = {
    "en": "\n\nThe text above is withdrawn. After checking, the answer is:\n\n",
    "zh": "\n\n以上内容已撤回。核对后的回答是：\n\n",
}
"""Between what was streamed and the checked answer, where checking left nothing of it."""
FOUND = {"en": "\n\nSources found by checking:\n\n", "zh": "\n\n核对时找到的来源：\n\n"}
"""Between what was streamed and the sentences that checking gave a source."""

Json = dict[str, Any]
_Name = Annotated[str, Field(max_length=1000)]


class _Open(BaseModel):
    """A request that may hold more than is read here: clients add fields of their own."""

    model_config = ConfigDict(extra="allow", frozen=True)


class PartBody(_Open):
    """A part of a message."""

    type: _Name
    text: str | None = None


class MessageBody(_Open):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[PartBody] | None = None

    def text(self) -> str:
        """Its text, parts on lines of their own. Raises ConfigError on a part that is none."""
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type != "text":
                raise ConfigError(f"a message has a part of type {part.type[:40]!r}; only text can be read")
        return "\n".join(part.text or "" for part in self.content)


class StreamOptions(_Open):
    """How to stream. include_usage: end with a chunk that holds the tokens used."""

    include_usage: bool | None = None


class ChatBody(_Open):
    """A conversation whose last message is the question. What is named below `n` must ask for nothing special."""

    model: _Name
    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    tool_choice: str | dict[str, Any] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    web_search_options: dict[str, Any] | None = None

    def asked(self) -> Asked:
        """The question, and the turns before it. Raises ConfigError, EmptyTextError, TextTooLongError."""
        self._require_plain()
        said = [message for message in self.messages if message.role in {"user", "assistant"}]
        if not said or said[-1].role != "user":
            raise ConfigError("the last message must be the user's question")
        question = require_visible(_within(said[-1].text(), MAX_QUESTION_CHARS))
        if question.lstrip().startswith(_TASK):
            raise ConfigError(
                f"{_TASK!r} begins an instruction, and documents answer questions. In Open WebUI choose another task"
                " model, and attach no files to the chat (docs/openai.md)"
            )
        return Asked(question, history=_turns(said[:-1]), reader=READERS[self.model])

    def notices(self) -> list[str]:
        """What was sent and not read."""
        unread = [name for name, value in (self.model_extra or {}).items() if value is not None]
        more = [f"and {len(unread) - _NAMED_UNREAD} more"] if len(unread) > _NAMED_UNREAD else []
        named = [name[:40] for name in sorted(unread)[:_NAMED_UNREAD]] + more
        roles = [message.role for message in self.messages]
        first = roles.index("user") if "user" in roles else 0
        said = {
            f"not read: {', '.join(named)}; the reader's own settings hold": bool(named),
            "messages of the system are not read: the reader has its own instruction": bool(
                {"system", "developer"}.intersection(roles)
            ),
            "messages of tools are not read: answers come from the documents alone": bool(
                {"tool", "function"}.intersection(roles)
            ),
            "words before the first question are not read": "assistant" in roles[:first],
        }
        return [notice for notice, holds in said.items() if holds]

    def _require_plain(self) -> None:
        """Raise ConfigError where the answer would not be what was asked for."""
        wanted = {
            "n": self.n not in {None, 1},
            "tool_choice": self.tool_choice not in _FREE_CHOICE,
            "function_call": self.function_call not in _FREE_CHOICE,
            "response_format": self.response_format is not None and self.response_format.get("type") != "text",
            "logprobs": bool(self.logprobs),
            "modalities": any(kind != "text" for kind in self.modalities or ()),
            "web_search_options": self.web_search_options is not None,
        }
        if refused := [name for name, is_wanted in wanted.items() if is_wanted]:
            raise ConfigError(
                f"{', '.join(refused)}: not supported; there is one answer, in plain text, from the documents alone."
                " Leave this out"
            )


class EmbeddingsBody(_Open):
    """Texts to encode as passages. Token numbers are taken only to be refused with a reason."""

    model: _Name
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """One or more, none of them blank. Raises ConfigError, EmptyTextError, TextTooLongError."""
        given = [self.input] if isinstance(self.input, str) else self.input
        texts = [text for text in given if isinstance(text, str)]
        if len(texts) < len(given):
            raise ConfigError("the input is token numbers; send texts, for numbers mean other words to each model")
        if not 0 < len(texts) <= MAX_INPUTS:
            raise ConfigError(f"the input has {len(texts)} texts; expected 1 to {MAX_INPUTS}")
        for place, text in enumerate(texts):
            if not text.strip():
                raise EmptyTextError(f"text {place} of the input is blank; leave it out")
            _within(text, MAX_INPUT_CHARS)
        return texts


def router(server: Server) -> APIRouter:
    """`POST /v1/chat/completions`, `GET /v1/models`, `GET /v1/models/{id}`, `POST /v1/embeddings`."""
    routes, started = APIRouter(prefix="/v1", tags=["openai"]), int(time.time())
    encoder = server.engine.pipeline.choice.encoder

    def model_record(name: str) -> Json:
        return {"id": name, "object": "model", "created": started, "owned_by": "rag"}

    def unknown(name: str, known: Sequence[str], request: Request) -> Response:
        said = f"there is no model {name[:100]!r} here; expected {' or '.join(known)}"
        return problem(404, "model_not_found", said, request_id_of(request))

    @routes.get("/models")
    async def models() -> Response:
        """The readers to chat with, and the encoder for embeddings."""
        return json_response({"object": "list", "data": [model_record(name) for name in (*READERS, encoder)]})

    @routes.get("/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        """One of them."""
        known = (*READERS, encoder)
        return json_response(model_record(name)) if name in known else unknown(name, known, request)

    @routes.post("/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer the last message from the documents, at once or, with `stream`, as it comes."""
        if body.model not in READERS:
            return unknown(body.model, tuple(READERS), request)
        asked = body.asked()
        reply = _Reply(
            request_id_of(request),
            body.model,
            int(time.time()),
            tuple(body.notices()),
            bool(body.stream_options and body.stream_options.include_usage),
        )
        if body.stream:
            events = await unless_gone(request, prompt_start(server.engine.ask_stream(asked)))
            return EventStream(_frames(server, events, reply), describe=reply.failure)
        answer = await unless_gone(request, server.engine.ask(asked))
        server.counters.answer(answer)
        return json_response(reply.whole(answer))

    @routes.post("/embeddings")
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Vectors of texts, as the index has them of its passages."""
        if body.model != encoder:
            return unknown(body.model, (encoder,), request)
        try:
            encoded = await unless_gone(request, _encoded(server, body))
        except TextTooLongError as error:
            return problem(400, "context_length_exceeded", str(error), request_id_of(request))
        return json_response(_embeddings_record(encoded, body))

    return routes


# ---- what was asked --------------------------------------------------------------------------------------------------


def _turns(said: Sequence[MessageBody]) -> tuple[Turn, ...]:
    """Each question with what was answered; a question that was given no answer has an empty one."""
    turns: list[Turn] = []
    for message in said:
        if message.role == "user":
            turns.append(Turn(require_visible(_within(message.text(), MAX_QUESTION_CHARS)), ""))
        elif turns:
            answer = f"{turns[-1].answer}\n\n{_settled(message.text())}".strip()
            turns[-1] = Turn(turns[-1].question, _within(answer, MAX_ANSWER_CHARS))
    if len(turns) > MAX_TURNS:
        raise TextTooLongError(
            f"a conversation of {len(turns)} questions; at most {MAX_TURNS} are taken: begin another"
        )
    return tuple(turns)


def _settled(text: str) -> str:
    """What counts of an earlier answer: what checking left of it, without markers."""
    for said in WITHDRAWN.values():
        text = text.rpartition(said)[2]
    for said in FOUND.values():
        text = text.partition(said)[0]
    return without_markers(text)


def _within(text: str, limit: int) -> str:
    """The text. Raises TextTooLongError."""
    if len(text) > limit:
        raise TextTooLongError(f"a text of {len(text):,} characters; at most {limit:,} are taken")
    return text


# ---- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reply:
    """What all parts of one completion share, and how they are written."""

    request_id: str
    model: str
    created: int
    notices: tuple[str, ...]
    tells_usage: bool

    def whole(self, answer: Answer) -> Json:
        """A completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, **_details(answer)}
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}],
            "usage": _usage(answer),
            "sources": list(_sources(answer)),
            "notices": list(self.notices),
        }

    def chunk(self, delta: Json, *, finish: str | None = None, **more: object) -> bytes:
        """A part of a completion."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.tells_usage else {}
        return frame(None, {**self._head("chat.completion.chunk"), "choices": [choice], **usage, **more})

    def end(self, answer: Answer, *, corrected: bool) -> Iterator[bytes]:
        """What follows the text. Sources stand in a chunk without a delta: Open WebUI looks for them in such alone."""
        if sources := list(_sources(answer)):
            yield self.chunk({}, sources=sources)
        delta = {**_details(answer), "answer": answer.text, "corrected": corrected}
        yield self.chunk(delta, finish=_finish(answer), notices=list(self.notices))
        if self.tells_usage:
            yield frame(None, {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(answer)})
        yield _DONE

    def failure(self, error: RagError) -> bytes:
        """An error that was met when a part was sent already, in the form that OpenAI's clients raise."""
        status, code = status_of(error)
        return frame(None, problem_record(status, code, str(error), self.request_id)) + _DONE

    def _head(self, kind: str) -> Json:
        return {"id": f"chatcmpl-{self.request_id}", "object": kind, "created": self.created, "model": self.model}


async def _frames(server: Server, events: AsyncGenerator[Event], reply: _Reply) -> AsyncGenerator[bytes]:
    """Text as it is written, and at the end what checking made of it."""
    said, blank = "", ""  # white space waits for the word behind it: the checked answer has none at its ends
    async with aclosing(events):
        yield reply.chunk({"role": "assistant", "content": ""})
        async for event in events:
            if isinstance(event, Written):
                text = blank + event.text if said else (blank + event.text).lstrip()
                words = text.rstrip()
                blank = text[len(words) :]
                if words:
                    said += words
                    yield reply.chunk({"content": words})
            elif isinstance(event, Answered):
                server.counters.answer(event.answer)
                is_same = event.answer.text.startswith(said)
                rest = event.answer.text[len(said) :] if is_same else _correction(event.answer)
                for piece in _PIECE.findall(rest):
                    yield reply.chunk({"content": piece})
                for data in reply.end(event.answer, corrected=not is_same):
                    yield data


def _correction(answer: Answer) -> str:
    """What to add to a text that checking has changed."""
    from reader.reader import question_language

    language = question_language(answer.question)
    if answer.abstained or not any(sentence.added for sentence in answer.sentences):
        return WITHDRAWN[language] + answer.text
    added = [answer.text[sentence.start : sentence.end] for sentence in answer.sentences if sentence.added]
    return FOUND[language] + "\n".join(f"- {' '.join(sentence.split())}" for sentence in added)


def _details(answer: Answer) -> Json:
    """What OpenAI's messages have no field for; the names of `rag ask --json`."""
    return {
        "citations": [citation_record(citation) for citation in answer.citations],
        "sentences": [asdict(sentence) for sentence in answer.sentences],
        "abstained": answer.abstained,
        "abstention": answer.abstention,
        "evidence": answer.evidence,
        "question": answer.question,
    }


def _finish(answer: Answer) -> str:
    return "stop" if answer.written is None or answer.written.complete else "length"


def _usage(answer: Answer) -> Json:
    """Tokens of the language model that wrote the answer; none where there was no model."""
    prompt = answer.prompt.tokens if answer.prompt and answer.written else 0
    written = answer.written.tokens if answer.written else 0
    cached = answer.written.reused_tokens if answer.written else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _sources(answer: Answer) -> Iterator[Json]:
    """What Open WebUI shows behind [n]: its n-th source, by distinct names and ids. A gap holds the passage not cited.

    No name or id may look like an address: it would load that site's icon through a service on the internet.
    """
    quotes: dict[int, list[Citation]] = {}
    for citation in answer.citations:
        quotes.setdefault(citation.marker, []).append(citation)
    hits = {hit.rank: hit for hit in answer.hits}
    for marker in range(1, max(quotes, default=0) + 1):
        if cited := quotes.get(marker):
            yield _source(marker, cited[0], [citation.quote for citation in cited])
        elif marker in hits:
            yield _source(marker, hits[marker], [hits[marker].text], remark=", not cited")


def _source(marker: int, place: Citation | Hit, texts: Sequence[str], *, remark: str = "") -> Json:
    where = f"page {place.page}" if place.page is not None else f"line {place.line}"
    name, key = f"{marker}. {place.source}, {where}{remark}", f"{place.doc_id}-{marker}"
    return {
        "source": {"id": key, "name": name},
        "document": list(texts),
        "metadata": [{"source": key, "name": name} for _ in texts],
    }


# ---- embeddings ------------------------------------------------------------------------------------------------------


async def _encoded(server: Server, body: EmbeddingsBody) -> list[_Encoded]:
    """The texts encoded, in order. Raises TextTooLongError rather than cut one."""
    texts = body.texts()
    encoded: list[_Encoded] = []
    for first in range(0, len(texts), _INPUTS_AT_ONCE):
        job = partial(_encode, texts[first : first + _INPUTS_AT_ONCE], body.dimensions)
        encoded += await server.engine.look(job, slow=True)
    return encoded


def _encode(texts: Sequence[str], dimensions: int | None, pipeline: Pipeline) -> list[_Encoded]:
    spec = pipeline.encoder.spec
    if dimensions not in {None, spec.dimension}:
        raise ConfigError(f"{dimensions} dimensions; {spec.name} has {spec.dimension}: leave `dimensions` out")
    return [(encoded.vector, len(encoded.ids)) for encoded in pipeline.encoder.encode(texts)]


def _embeddings_record(encoded: Sequence[_Encoded], body: EmbeddingsBody) -> Json:
    """As base64 they are little-endian 32-bit floats."""

    def written(vector: NDArray[np.float32]) -> str | list[float]:
        if body.encoding_format == "base64":
            return b64encode(vector.astype("<f4").tobytes()).decode()
        found: list[float] = vector.tolist()
        return found

    data = [
        {"object": "embedding", "index": place, "embedding": written(vector)}
        for place, (vector, _) in enumerate(encoded)
    ]
    tokens = sum(count for _, count in encoded)
    return {
        "object": "list",
        "data": data,
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }

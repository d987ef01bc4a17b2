"""A model behind any OpenAI-compatible server: vLLM, LMDeploy, TGI, llama.cpp, Ollama, `transformers serve`.

Speaks /v1/models and /v1/chat/completions over plain HTTP and trusts nothing that comes back: every reply is bounded in
bytes, pieces and time, and an answer that did not end properly is an error. Knows messages and tokens; nothing of hits.

The server, not this program, puts the chat template around the messages, so their contents are neutralised first.
No proxy, no redirect and no credential of the environment is followed; certificates are those the machine trusts.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reader.backends.base import (
    REASONING_LEFT_OUT,
    Generation,
    Message,
    Sampling,
    Stream,
    drain,
    require_text,
    stream_answer,
)
from reader.backends.remote import IN_FLIGHT, Lengths, is_complete
from reader.neutral import neutralise
from retrieval.errors import AnswerError, ConfigError, ModelError, PromptTooLongError, RagError

if TYPE_CHECKING:
    import httpx

DEFAULT_WINDOW = 4096
"""Where nobody says better. Ollama's own default on small GPUs, which cuts longer prompts without a word."""
CONNECT_SECONDS = 10.0
MAX_PAUSE_SECONDS = 30.0
_GRACE_SECONDS = 2.0  # for the counts that come after an answer
_MAX_TEXT_BYTES = 1 << 20  # of a list of models, an error, one event
_BYTES_A_TOKEN = 4096  # an event takes 150 to 400 bytes; with log probabilities nobody asked for, a few thousand
_PIECES_A_TOKEN = 4  # servers send one piece a token or fewer; some proxies split them

_RETRIED = frozenset({429, 502, 503, 504})
_BAD_REQUEST = frozenset({400, 422})
_PENALTY_NAMES = {
    "vllm": "repetition_penalty",
    "sglang": "repetition_penalty",
    "lmdeploy": "repetition_penalty",
    "llamacpp": "repeat_penalty",
}
"""By `owned_by` in /v1/models: servers known to apply a repetition penalty, which is no part of OpenAI's interface."""
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|exceed_context|maximum (?:input )?length|too many (?:input )?tokens"
    r"|prompt is too long|inputs?`? (?:tokens|must have)|max_new_tokens`? must be <=",
    re.IGNORECASE,
)
_FILTERED = "content_filter"  # the code of an error, as Azure says it; others end an answer with it
_OPTIONAL = ("repetition_penalty", "repeat_penalty", "stream_options", "seed")
_EXPECTED = "expected an OpenAI-compatible server (/v1/models, /v1/chat/completions); correct server_url"
_AGAIN = "ask again; if it happens again, its log says why"
_SHORTEN = "use fewer or shorter passages, a shorter answer, or a server with a larger window"
_ASK_OTHERWISE = "ask in other words"
_ADVICE = {
    401: "give its key as RAG_SERVER_KEY",
    403: "the key in RAG_SERVER_KEY may not use this model",
    404: _EXPECTED,
    429: "it is busy or the key's quota is used up; ask again later",
    502: "what stands before the model does not reach it; start the model",
    503: "it is still loading its model or is overloaded; ask again later",
    504: "what stands before the model gave up waiting; ask again later",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, as JSON may hold it and UTF-8 may not
_HOST = re.compile(r"(?!.*[^.:]{64})[\w.:-]{1,253}")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the model is.

    url: with or without the final /v1. model: "" takes the one that the server names, if it names one.
    timeout_seconds: between two pieces of an answer; a connection has at most 10. retries: of what passes by itself,
    that is a refused connection and the statuses 429, 502, 503, 504; never once an answer has begun.
    window: tokens of prompt and answer; 0 asks the server, and takes 4096 with a notice where it does not say.
    tokenizer: folder, or hub name whose files are on this machine, to count exactly; "" estimates from above.
    """

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)
    timeout_seconds: float = 120.0
    retries: int = 3
    window: int = 0
    tokenizer: str = ""


class OpenAICompatibleBackend:
    """Goes on with conversations by asking a server. Nothing is asked before it is needed; threads may share it.

    `sleep` waits between retries; `draw` gives their jitter, a number in [0, 1). Raises ConfigError on a URL that is
    none, and on a key that would cross a network unencrypted.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings, self._sleep, self._draw = settings, sleep, draw
        self._url = _checked_url(settings.url)
        self._where = f"the model server at {self._url}"
        self._notices: dict[str, None] = {}  # an ordered set
        self._refused: set[str] = set()  # fields that the server does not take
        self._lengths = Lengths(self._exact_tokens if settings.tokenizer else None)
        self._check_key()

    @property
    def model(self) -> str:
        """The name the server knows the model by. Raises ModelError where it names none, or several."""
        return self._served.name

    @property
    def window(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self._served.window

    @property
    def notices(self) -> tuple[str, ...]:
        """What was estimated, assumed, or left out because the server does not take it."""
        return tuple(self._notices)

    def count_tokens(self, text: str) -> int:
        """What it takes within a prompt at most: by `tokenizer`, else an estimate from above."""
        self._notice_estimates()
        return self._lengths.within(text)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """An upper bound: what the contents take, and room for a template, which only the server knows."""
        self._notice_estimates()
        return self._lengths.prompt(messages)

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Generation:
        """The whole answer; it is streamed, so the time limit holds between two pieces here as well."""
        return drain(self.stream(messages, sampling))

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """Piece by piece, as the server sends them. Closing the stream closes the connection: the server stops."""
        return (yield from self._answer(messages, sampling, Event()))

    def generate_many(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Generation | AnswerError]:
        """Eight requests at a time, which servers batch. The first error ends the others at their next piece.

        A request that the server calls bad (400, 422) while it answers others is that question's error alone.
        """
        for messages in conversations:
            self._require_room(messages, sampling)
        waiting, finished = SimpleQueue[int](), SimpleQueue[tuple[int, Generation | Exception]]()
        for index in range(len(conversations)):
            waiting.put(index)
        stopped = Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    index = waiting.get_nowait()
                except Empty:
                    return
                try:
                    finished.put((index, drain(self._answer(conversations[index], sampling, stopped))))
                except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
                    finished.put((index, error))

        # Daemons: an error and Ctrl-C need not wait until a server that hangs has run into its time limit.
        for _ in range(min(IN_FLIGHT, len(conversations))):
            Thread(target=work, daemon=True).start()
        done: dict[int, Generation | AnswerError] = {}
        bad: list[_RefusedError] = []
        try:
            while len(done) < len(conversations):
                index, result = finished.get()
                if isinstance(result, _RefusedError) and result.status in _BAD_REQUEST:
                    bad.append(result)
                    result = AnswerError(str(result))
                if isinstance(result, Exception) and not isinstance(result, AnswerError):
                    raise result
                done[index] = result
                report(len(done))
        finally:
            stopped.set()
        if bad and len(bad) == len(conversations):
            raise bad[0]
        return [done[index] for index in range(len(conversations))]

    # ---- one answer --------------------------------------------------------------------------------------------------

    def _answer(self, messages: Sequence[Message], sampling: Sampling, stopped: Event) -> Stream:
        return stream_answer(self._stream(messages, sampling, stopped), who=self._where, note=self._notice)

    def _stream(self, messages: Sequence[Message], sampling: Sampling, stopped: Event) -> Stream:
        prompt_tokens = self._require_room(messages, sampling)
        reply = _Reply(self._where, self._excerpt, most_pieces=64 + _PIECES_A_TOKEN * sampling.max_tokens)
        with closing(self._ask(messages, sampling)) as response:
            most_bytes = _MAX_TEXT_BYTES + _BYTES_A_TOKEN * sampling.max_tokens
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind.endswith(("html", "json")):  # the latter from a server that does not stream
                yield reply.take(_decoded(self._whole(response, most_bytes), self._where))
                reply.done = True
            else:
                yield from self._pieces(response, reply, most_bytes, stopped)
        self._notice_a_cut(reply, messages)
        return self._generation(reply, prompt_tokens, sampling)

    def _pieces(self, response: httpx.Response, reply: _Reply, most_bytes: int, stopped: Event) -> Iterator[str]:
        """Read events until the answer is over. Raises ModelError on a server that keeps quiet or goes on for ever."""
        events, heard, start = _Events(self._where), time.monotonic(), b""
        timeout = self._settings.timeout_seconds
        try:
            for chunk in self._chunks(response, most_bytes):
                start = start or chunk[:500]
                for data in events.feed(chunk):
                    before = reply.pieces, reply.finish is None
                    if piece := reply.take(data):
                        yield piece
                    if reply.over:
                        return
                    # Comments and empty events keep a connection alive; they are no progress.
                    if (reply.pieces, reply.finish is None) != before:
                        heard = time.monotonic()
                quiet = time.monotonic() - heard
                if reply.finish is not None and quiet > min(_GRACE_SECONDS, timeout):
                    return  # the answer is here; some servers keep the connection alive after it
                if quiet > timeout:
                    raise ModelError(self._silent("in the middle of its answer"))
                if stopped.is_set():
                    raise ModelError("stopped, because another request of the same batch failed")
        except _BrokenError:
            if reply.finish is None:
                raise
        if reply.finish is None:
            said = f" after '{self._excerpt(reply.text[-200:])}'" if reply.text else f"; {self._said(start)}"
            raise ModelError(f"{self._where} ended its answer without a finish_reason or [DONE]{said}; {_AGAIN}")

    def _generation(self, reply: _Reply, prompt_tokens: int, sampling: Sampling) -> Generation:
        if not reply.begun:
            raise ModelError(f"{self._where} answered without any choices; {_EXPECTED}")
        complete = is_complete(self._excerpt(reply.finish or "stop"), who=self._where)
        if reply.usage is None:
            self._notice("the server does not count tokens; the lengths given for answers are estimates")
            used = (prompt_tokens, min(self._lengths.alone(reply.text), sampling.max_tokens), 0)
        else:
            used = reply.usage
        if not complete and not reply.text and reply.usage is not None and used[1] == 0:  # LMDeploy's way to say it
            raise PromptTooLongError(f"{self._where} had no room for an answer; {_SHORTEN}")
        if reply.thought:
            self._notice(REASONING_LEFT_OUT)
        require_text(reply.text, who=self._where, thought=reply.thought, complete=complete)
        return Generation(reply.text, used[0], used[1], complete, used[2])

    def _notice(self, line: str) -> None:
        self._notices[line] = None

    def _notice_estimates(self) -> None:
        if not self._settings.tokenizer:
            self._notice("prompt lengths are estimated from above; name the model's tokenizer to count them")

    def _notice_a_cut(self, reply: _Reply, messages: Sequence[Message]) -> None:
        """Ollama cuts a prompt that does not fit and says nothing, but what it counts gives it away."""
        least = self._lengths.contents(messages) * (
            0.9 if self._settings.tokenizer else 0.25
        )  # an estimate can be so far off
        if reply.usage is not None and reply.usage[0] < least:
            self._notices[
                f"{self._where} read fewer tokens than it was sent, so it may have cut a prompt; set window to the "
                "context length that it really has"
            ] = None

    def _require_room(self, messages: Sequence[Message], sampling: Sampling) -> int:
        prompt_tokens = self.prompt_tokens(messages)
        if prompt_tokens + sampling.max_tokens > self.window:
            counted = "" if self._settings.tokenizer else " (estimated from above; name the tokenizer to count)"
            raise PromptTooLongError(
                f"prompt and answer take up to {prompt_tokens} + {sampling.max_tokens} tokens{counted}, the window of "
                f"{self._where} is {self.window}; {_SHORTEN}"
            )
        return prompt_tokens

    def _ask(self, messages: Sequence[Message], sampling: Sampling) -> httpx.Response:
        """Open the stream of an answer; fields that the server refuses by name are left out, with a notice."""
        while True:
            body = self._body(messages, sampling)
            try:
                response = self._open("POST", "/chat/completions", body)
            except _RefusedError as refusal:
                named = [name for name in _OPTIONAL if name in body and re.search(rf"\b{name}\b", refusal.said)]
                if refusal.status not in (400, 422) or not named:
                    raise
                self._refused.add(named[0])
                self._notices[f"{self._where} does not take {named[0]}; it was left out"] = None
            else:
                if "repetition_penalty" in body and not self._served.penalty:
                    self._notices[f"{self._where} does not say whether it applies the repetition_penalty sent"] = None
                return response

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": each.role, "content": neutralise(each.content)} for each in messages],
            "stream": True,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.repetition_penalty != 1.0:
            body[self._served.penalty or "repetition_penalty"] = sampling.repetition_penalty
        return {name: value for name, value in body.items() if name not in self._refused}

    # ---- what the server is ------------------------------------------------------------------------------------------

    @cached_property
    def _served(self) -> _Served:
        asked = self._settings.model
        try:
            listed = self._listed()
        except _RefusedError as refusal:  # `transformers serve` answers 500 where nothing was ever downloaded
            if not asked or refusal.status in (401, 403):
                raise
            listed = []
        if not asked and len(listed) != 1:
            names = ", ".join(self._excerpt(entry["id"]) for entry in listed[:20])
            raise ModelError(
                f"{self._where} names {f'{len(listed)} models: {names}' if listed else 'no model'}; "
                "say which one to use (server_model)"
            )
        entry = next((each for each in listed if each["id"] == asked), {"id": asked}) if asked else listed[0]
        window = self._settings.window or _window(entry)
        if not window:
            self._notices[f"{self._where} does not say its window; {DEFAULT_WINDOW} tokens are assumed"] = None
        return _Served(
            entry["id"], window or DEFAULT_WINDOW, _PENALTY_NAMES.get(str(entry.get("owned_by")).lower(), "")
        )

    def _listed(self) -> list[dict[str, Any]]:
        with closing(self._open("GET", "/models")) as response:
            content = self._whole(response)
        try:
            listed = json.loads(content)["data"]
            if all(isinstance(entry["id"], str) and entry["id"] for entry in listed):
                return list(listed)
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        raise ModelError(f"{self._said(content)} when asked for its models; {_EXPECTED}")

    @cached_property
    def _tokenizer(self) -> Any:
        from reader.backends.loading import load_tokenizer
        from retrieval.encoder import quiet

        name = self._settings.tokenizer
        try:
            with quiet():
                return load_tokenizer(Path(name))
        except Exception as error:
            raise ModelError(
                f"no tokenizer could be loaded from '{name}' ({type(error).__name__}); expected a folder with the "
                "model's tokenizer.json, or a hub name whose files are on this machine; without, lengths are estimated"
            ) from error

    def _exact_tokens(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    # ---- the wire ----------------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> httpx.Client:
        """One connection a request: the wait for a model dwarfs it, and none can go stale between two questions."""
        import httpx

        headers = {"Accept-Encoding": "identity"}  # nothing to unpack, so nothing that unpacks to gigabytes
        if self._settings.api_key:
            headers["Authorization"] = f"Bearer {self._settings.api_key}"
        return httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(self._settings.timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context(),
        )

    def _open(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Send a request, again where that may help. Returns a response whose body is still to be read."""
        import httpx

        for attempt in range(self._settings.retries + 1):
            asked_seconds = 0.0
            try:
                request = self._client.build_request(method, self._url + path, json=body)
                response = self._client.send(request, stream=True)
            except httpx.HTTPError as error:
                failure: RagError = self._unreachable(error)
                failure.__cause__ = error
                again = _caused_by(error, ConnectionRefusedError) is not None
            else:
                if response.is_success:
                    return response
                with closing(response):
                    failure = self._refusal(response)
                again = response.status_code in _RETRIED
                asked_seconds = _seconds(response.headers.get("retry-after", ""))
            if not again or attempt == self._settings.retries:
                break
            backoff = 0.5 * 2**attempt * (0.5 + 0.5 * self._draw())
            self._sleep(min(asked_seconds + backoff, MAX_PAUSE_SECONDS))
        raise failure

    def _chunks(self, response: httpx.Response, most: int) -> Iterator[bytes]:
        """The body as it comes. Raises ModelError beyond `most` bytes, and where the connection breaks."""
        import httpx

        taken = 0
        try:
            for chunk in response.iter_raw():
                taken += len(chunk)
                if taken > most:
                    raise ModelError(
                        f"{self._where} sent more than {most:,} bytes; expected an answer of the length asked"
                    )
                yield chunk
        except httpx.TimeoutException as error:
            raise _BrokenError(self._silent("in the middle of its answer")) from error
        except httpx.HTTPError as error:
            raise _BrokenError(
                f"the connection to {self._where} broke in the middle of its answer ({self._excerpt(str(error))}); "
                f"{_AGAIN}"
            ) from error

    def _whole(self, response: httpx.Response, most: int = _MAX_TEXT_BYTES) -> bytes:
        """A body that comes at once. Raises ModelError on one that trickles in for longer than silence may last."""
        content, started = b"", time.monotonic()
        for chunk in self._chunks(response, most):
            content += chunk
            if time.monotonic() - started > self._settings.timeout_seconds:
                raise ModelError(self._silent("but a trickle"))
        return content

    # ---- what went wrong ---------------------------------------------------------------------------------------------

    def _unreachable(self, error: httpx.HTTPError) -> ModelError:
        import httpx

        if _caused_by(error, socket.gaierror):
            return ModelError(
                f"no machine is called '{urlsplit(self._url).hostname}'; correct server_url ({self._url})"
            )
        if found := _caused_by(error, ssl.SSLError):
            return ModelError(
                f"no secure connection to {self._where} ({self._excerpt(str(found))}); expected TLS with a certificate "
                "that this machine trusts: add it to the system's, or correct server_url"
            )
        if _caused_by(error, ConnectionRefusedError):
            return ModelError(f"nothing listens at {self._url}; start the server, or correct server_url")
        if isinstance(error, httpx.ConnectTimeout):
            return ModelError(f"no connection to {self._where} within {CONNECT_SECONDS:g} seconds; correct server_url")
        if isinstance(error, httpx.TimeoutException):
            return ModelError(self._silent("before its answer began"))
        return ModelError(
            f"the connection to {self._where} broke before it answered ({self._excerpt(str(error))}); expected HTTP: "
            "correct server_url, or look into the server's log"
        )

    def _refusal(self, response: httpx.Response) -> RagError:
        """The error that a status other than success stands for."""
        status = response.status_code
        try:
            said = self._whole(response).decode("utf-8", "replace")
        except ModelError:
            said = ""  # the status says enough
        if status in (400, 413, 422) and _TOO_LONG.search(said):
            return PromptTooLongError(f"{self._where} refused the prompt: {self._excerpt(_message(said))}; {_SHORTEN}")
        if status == 400 and _FILTERED in said:
            return AnswerError(f"{self._where} refused the question: {self._excerpt(_message(said))}; {_ASK_OTHERWISE}")
        advice = _ADVICE.get(status, "its log says more")
        if 300 <= status < 400:
            to = self._excerpt(response.headers.get("location", ""))
            advice = f"it sends on to '{to}', and nothing is sent on; correct server_url"
        elif status == 404 and "model" in said.lower():
            advice = "correct server_model, or load that model into the server"
        return _RefusedError(
            f"{self._where} answered {status}: '{self._excerpt(_message(said))}'; {advice}", status, said
        )

    def _silent(self, when: str) -> str:
        return (
            f"{self._where} sent nothing for {self._settings.timeout_seconds:g} seconds {when}; it hangs, or is slower "
            "than server_timeout allows"
        )

    def _said(self, content: bytes) -> str:
        return f"{self._where} answered '{self._excerpt(content[:1000].decode('utf-8', 'replace'))}'"

    def _excerpt(self, text: str) -> str:
        """What a server says, for an error: short, without control characters, and without the key it may repeat."""
        if self._settings.api_key:
            text = text.replace(self._settings.api_key, "***")
        text = _CONTROL.sub(" ", text).strip()
        return text if len(text) <= 200 else text[:200] + "…"

    def _check_key(self) -> None:
        key, parts = self._settings.api_key, urlsplit(self._url)
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(
                "the server's key holds white space or characters outside ASCII; expected it as it was given"
            )
        if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
            return
        if key:
            raise ConfigError(
                f"the key would cross the network to {self._url} unencrypted; use https://, or a tunnel "
                "(ssh -L 8000:localhost:8000 HOST) and http://localhost:8000, or no key"
            )
        self._notices[f"questions and passages travel unencrypted to {self._url}; use https:// or a tunnel"] = None


@dataclass(frozen=True, slots=True)
class _Served:
    """What a server serves. penalty: its name for the repetition penalty, "" where it is not known to have one."""

    name: str
    window: int
    penalty: str


class _RefusedError(ModelError):
    """A status other than success; `said` is the body."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class _BrokenError(ModelError):
    """A connection that broke in the middle of a body."""


class _Events:
    """Server-sent events (WHATWG HTML, 9.2) out of bytes that may be split anywhere. Only `data` is looked at."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest = bytearray()
        self._data: list[str] = []
        self._after_return = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The events that these bytes complete. Raises ModelError on a line of a mebibyte, and on bytes not UTF-8."""
        if self._after_return and chunk:  # \r\n, cut in the middle
            chunk, self._after_return = chunk.removeprefix(b"\n"), False
        self._after_return = self._after_return or chunk.endswith(b"\r")
        self._rest += chunk
        if b"\n" in chunk or b"\r" in chunk:
            *lines, rest = re.split(rb"\r\n|\n|\r", bytes(self._rest))
            self._rest = bytearray(rest)
            for line in lines:
                yield from self._line(line)
        if len(self._rest) > _MAX_TEXT_BYTES:
            raise ModelError(f"{self._where} sent a line of more than {_MAX_TEXT_BYTES:,} bytes; {_EXPECTED}")

    def _line(self, line: bytes) -> Iterator[str]:
        if not line and self._data:
            yield "\n".join(self._data)
            self._data = []
        name, _, value = _decoded(line, self._where).removeprefix("\ufeff").partition(":")
        if name in ("data", "error"):  # older llama.cpp servers send `error: {...}`
            self._data.append(value.removeprefix(" "))


class _Reply:
    """An answer as its events are taken in. usage: tokens of the prompt, of the answer, of the prompt reused."""

    def __init__(self, where: str, excerpt: Callable[[str], str], *, most_pieces: int) -> None:
        self._where, self._excerpt, self._most_pieces = where, excerpt, most_pieces
        self._texts: list[str] = []
        self.pieces = 0
        self.finish: str | None = None
        self.usage: tuple[int, int, int] | None = None
        self.begun = self.done = self.thought = False

    @property
    def text(self) -> str:
        """All that was written so far."""
        return "".join(self._texts)

    @property
    def over(self) -> bool:
        """Whether nothing more is needed."""
        return self.done or (self.finish is not None and self.usage is not None)

    def take(self, data: str) -> str:
        """Take in one event; returns the text it adds. Raises ModelError on anything but a piece of an answer."""
        if data.strip() == "[DONE]":
            self.done = True
            return ""
        try:
            event = json.loads(data)
            failed = event.get("error")
            text = "" if failed else self._add(event)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{self._where} sent '{self._excerpt(data[:1000])}', no piece of a chat completion; {_EXPECTED}"
            ) from error
        if failed:
            raise self._error(data)
        if self.pieces > self._most_pieces:
            raise ModelError(f"{self._where} does not stop: {self.pieces} pieces came, more than max_tokens allows")
        return text

    def _add(self, event: dict[str, Any]) -> str:
        """Anything of another shape raises TypeError or AttributeError."""
        choices, usage = event.get("choices"), event.get("usage")
        self.usage = _usage(usage) or self.usage
        if choices is None and usage is None:
            raise TypeError
        choice = next((each for each in choices or () if each.get("index", 0) == 0), None)
        if choice is None:
            return ""
        delta = choice.get("delta") or choice.get("message") or {}
        finish, content = choice.get("finish_reason"), delta.get("content")
        if not isinstance(finish, str | None) or not isinstance(content, str | None):
            raise TypeError
        self.begun = True
        self.finish = finish or self.finish
        # What a model thinks before it answers is no part of the answer, but of what max_tokens allows.
        thought = bool(delta.get("reasoning_content") or delta.get("reasoning"))
        self.thought = self.thought or thought
        self.pieces += bool(content) or thought
        text = _SURROGATE.sub("\ufffd", content or "")
        self._texts.append(text)
        return text

    def _error(self, data: str) -> RagError:
        said = self._excerpt(_message(data))
        if _TOO_LONG.search(data):
            return PromptTooLongError(f"{self._where} refused the prompt: {said}; {_SHORTEN}")
        if _FILTERED in data:
            return AnswerError(f"{self._where} refused this answer: {said}; {_ASK_OTHERWISE}")
        return ModelError(f"{self._where} failed in its answer: '{said}'; its log says more")


def _checked_url(url: str) -> str:
    """The address of the interface, ending in /v1. Raises ConfigError."""
    if "@" in url or "?" in url or "#" in url:  # not shown: it may hold a password
        raise ConfigError("server_url holds more than scheme, host and path; a key is given as RAG_SERVER_KEY")
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and _HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = _CONTROL.sub(" ", url)[:100]
        raise ConfigError(f"server_url is '{shown}'; expected an address like http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first of an error and its causes that is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _seconds(retry_after: str) -> float:
    """Seconds that a server asks to wait; 0 where it gives a date or nothing."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 6 else 0.0


def _window(entry: dict[str, Any]) -> int:
    """Tokens of prompt and answer that an entry of /v1/models names, 0 for none. What it was trained on is not that."""
    meta = entry.get("meta")
    named = [
        entry.get("max_model_len"),
        entry.get("context_length"),
        meta.get("n_ctx") if isinstance(meta, dict) else None,
    ]
    return next((each for each in named if type(each) is int and each > 0), 0)


def _usage(usage: object) -> tuple[int, int, int] | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt, answer, reused = usage.get("prompt_tokens"), usage.get("completion_tokens"), cached or 0
    if all(type(each) is int and each >= 0 for each in (prompt, answer, reused)):
        return prompt, answer, reused  # type: ignore[return-value]  # the line above
    return None


def _message(said: str) -> str:
    """The words of an error body: {"error": {"message": ...}}, {"error": ...}, {"message": ...} or {"detail": ...}."""
    try:
        found = json.loads(said)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(name):
                found = found[name]
        return found if isinstance(found, str) else json.dumps(found)
    except (ValueError, RecursionError):
        return said


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{where} sent bytes that are not UTF-8; {_EXPECTED}") from error

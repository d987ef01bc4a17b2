"""Answers many people's questions at once over one pipeline. Knows the pipeline and its lanes; nothing of HTTP.

Each question runs on a thread of a lane. Quoting and searching have a lane of their own, so that they never wait behind
a language model. Whoever stops listening gives up the place: a question that waits is dropped, one that is being
answered ends at its next piece of text.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from app.server.lanes import Lane
from reader.records import Answer, Turn
from retrieval.errors import IndexMissingError, RagError

if TYPE_CHECKING:
    from app.config import Config
    from app.pipeline import Pipeline, SearchResult
    from retrieval.filters import Filter

QUICK_WORKERS = 4
"""Quoting takes a few ms; more threads than cores gain nothing, but one slow question stops nobody."""
WRITING_WORKERS = 32
"""Answers a language model may write at once; the rest waits."""

ReaderName = Literal["configured", "extractive"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it came. `k` None is the configured number; a history makes it a follow-up."""

    question: str
    k: int | None = None
    filters: Filter | None = None
    history: tuple[Turn, ...] = ()
    reader: ReaderName = "configured"


@dataclass(frozen=True, slots=True)
class Understood:
    """The question that is searched for: the one asked, or a follow-up completed."""

    question: str


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of the answer, as it is written. Checking may still withdraw it."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The checked answer: this counts."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


Event = Understood | Written | Answered
"""What comes of a question: Understood once, Written any number of times, Answered at the end."""


class TookTooLongError(RagError):
    """A request was given up after its time."""


class Engine:
    """One open pipeline, shared. `start` before the first question, `close` after the last."""

    def __init__(self, config: Config, pipeline: Pipeline) -> None:
        self.config, self.pipeline = config, pipeline
        self._opening, self._while_open = threading.Lock(), ExitStack()
        self.lanes = {
            "quick": Lane("quick", workers=QUICK_WORKERS, room=config.queue),
            "writing": Lane("writing", workers=WRITING_WORKERS, room=config.queue),
            "index": Lane("index", workers=2, room=config.queue),
            "slow": Lane("slow", workers=2, room=config.queue),
        }
        self.is_ready = False
        self.problem: str | None = None

    async def start(self) -> None:
        """Open the index and load the encoder, so that no question need wait for them. A missing index is no error."""
        from retrieval.threads import one_blas_thread

        try:
            await asyncio.to_thread(self._warm_up)
        except RagError as error:
            self.problem = str(error)  # every question will be told the same
        # For reading as well as searching: on two cores an answer took 85 ms of the processor without this, 33 with it.
        self._while_open.enter_context(one_blas_thread())
        self.is_ready = True

    def close(self) -> None:
        """Wait for what runs, and close the index."""
        for lane in self.lanes.values():
            lane.close()
        self._while_open.close()
        self.pipeline.close()

    @property
    def writes(self) -> bool:
        """Whether the configured reader is a language model."""
        return self.pipeline.choice.reader != "extractive"

    async def search(self, asked: Asked) -> SearchResult:
        """The hits of a question."""

        def search() -> SearchResult:
            self._open()
            return self.pipeline.search(asked.question, k=asked.k, filters=asked.filters)

        return await self._within(self._result("quick", search))

    async def ask(self, asked: Asked) -> Answer:
        """The checked answer to a question."""
        async with aclosing(self.ask_stream(asked)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    return event.answer
        raise AssertionError("a stream of events ends with an answer or an error")

    async def ask_stream(self, asked: Asked) -> AsyncGenerator[Event]:
        """What comes of a question, as it comes. Closing it gives up the place. Raises RagError, BusyError."""
        loop, events, gone = asyncio.get_running_loop(), asyncio.Queue[Event | _Failed](), threading.Event()

        def tell(event: Event | _Failed) -> None:
            if not gone.is_set():
                loop.call_soon_threadsafe(events.put_nowait, event)

        def answer() -> None:
            try:
                self._answer(asked, tell, gone)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the one who asked is told
                tell(_Failed(error))

        writes = self.writes and asked.reader == "configured"
        place = self.lanes["writing" if writes else "quick"].submit(answer)
        deadline = loop.time() + self.config.request_seconds
        try:
            while True:
                event = await self._within(events.get(), deadline - loop.time())
                if isinstance(event, _Failed):
                    raise event.error
                yield event
                if isinstance(event, Answered):
                    return
        finally:
            gone.set()
            place.cancel()

    async def look(self, job: Callable[[Pipeline], T], *, slow: bool = False) -> T:
        """The result of a look at the index. slow: it may take a second and more, so that short ones must not wait."""
        return await self._within(self._result("slow" if slow else "index", lambda: job(self.pipeline)))

    async def is_well(self) -> bool:
        """Whether questions can be answered; looked at again where they could not. A missing index is no error."""
        if self.problem is not None:
            try:
                await self._within(self._result("slow", self._open))
            except IndexMissingError:
                self.problem = None
            except RagError as error:
                self.problem = str(error)
        return self.is_ready and self.problem is None

    def _answer(self, asked: Asked, tell: Callable[[Event], None], gone: threading.Event) -> None:
        if gone.is_set():
            return
        self._open()
        quote = asked.reader == "extractive"
        question = self.pipeline.understand(asked.question, asked.history, quote=quote)
        tell(Understood(question))
        stream = self.pipeline.ask_stream(
            question, k=asked.k, filters=asked.filters, history=asked.history, quote=quote
        )
        try:
            while not gone.is_set():
                tell(Written(next(stream)))
        except StopIteration as end:
            tell(Answered(end.value))
        finally:
            stream.close()

    def _open(self) -> None:
        """The index, opened by one thread and used by all."""
        with self._opening:
            _ = self.pipeline.parts
        self.problem = None

    def _warm_up(self) -> None:
        try:
            self._open()
        except IndexMissingError:
            _ = self.pipeline.encoder
        else:
            self.pipeline.search("what is this about", k=1)
        if self.pipeline.choice.reader == "zephyr":
            self.pipeline.reader_model()  # its tokenizer; the weights come with the first answer

    async def _result(self, lane: str, job: Callable[[], T]) -> T:
        place = self.lanes[lane].submit(job)
        try:
            return await asyncio.wrap_future(place)
        finally:
            place.cancel()

    async def _within(self, coming: Awaitable[T], seconds: float | None = None) -> T:
        """Wait as long as a request may take. Raises TookTooLongError."""
        allowed = self.config.request_seconds
        try:
            # Not wait_for: it loses a cancellation that comes together with the result (CPython issue 86296).
            async with asyncio.timeout(allowed if seconds is None else seconds):
                return await coming
        except TimeoutError:
            raise TookTooLongError(
                f"given up after {allowed:g} s; ask again when there is less to do, or raise request_seconds"
            ) from None

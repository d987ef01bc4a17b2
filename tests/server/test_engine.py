"""The contracts of app/server/engine.py without HTTP: answers, places that are given back, time, beginning and end."""

from __future__ import annotations

import asyncio
import shutil
import threading
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from serving import FERRY_QUESTION, TEA_QUESTION, UNANSWERABLE
from threadpoolctl import threadpool_info

from app.config import Config
from app.pipeline import Pipeline
from app.server.engine import Answered, Asked, Engine, TookTooLongError, Understood, Written
from app.server.lanes import BusyError
from reader.backends.base import Generation
from reader.records import Turn
from retrieval.errors import EmptyTextError, IndexMissingError

TEXT = "The ferry leaves from pier seven at dusk [1]."
FERRY = Asked(FERRY_QUESTION)
QUOTED = replace(FERRY, reader="extractive")


class Held:
    """A language model that writes a space again and again until it is told to go on; counts who asked and who left."""

    model, window, notices = "held", 4096, ()

    def __init__(self) -> None:
        self.go_on, self.begun, self.closed = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self.asked = 0

    def count_tokens(self, text):
        return len(text.split())

    def prompt_tokens(self, messages):
        return sum(1 + self.count_tokens(message.content) for message in messages)

    def stream(self, _messages, _sampling):
        self.asked += 1
        self.begun.release()
        try:
            while not self.go_on.wait(0.01):
                yield " "
            yield TEXT
        finally:
            self.closed.release()
        return Generation(TEXT, 10, 10)


@pytest.fixture
def engine_over(model_cache, encoder):
    """`async with engine_over(index) as engine`: started, closed at the end; a backend makes its reader write."""

    @asynccontextmanager
    async def running(index: Path, *, backend=None, **settings):
        config = replace(Config(index, model_cache, device="cpu"), **settings)
        pipeline = Pipeline(config)
        pipeline.__dict__["encoder"] = encoder
        if backend is not None:
            pipeline.__dict__["_backend"] = backend
            pipeline.choice = replace(pipeline.choice, reader="zephyr")
        engine = Engine(config, pipeline)
        await engine.start()
        try:
            yield engine
        finally:
            engine.close()

    return running


async def freed(engine: Engine) -> None:
    """Until every place is given back."""
    while any(lane.taken for lane in engine.lanes.values()):
        await asyncio.sleep(0.001)


async def begun(held: Held, count: int = 1) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(held.begun.acquire, timeout=30)


def test_answers_are_those_of_the_pipeline(engine_over, small_index):
    async def ask():
        async with engine_over(small_index) as engine:
            assert engine.is_ready
            assert engine.problem is None
            assert not engine.writes
            asked = [Asked(question) for question in (FERRY_QUESTION, TEA_QUESTION, UNANSWERABLE)]
            answers = await asyncio.gather(*map(engine.ask, asked))
            found = await engine.search(replace(FERRY, k=2))
            return answers, [engine.pipeline.ask(each.question) for each in asked], found

    answers, expected, found = asyncio.run(ask())
    for one, other in zip(answers, expected, strict=True):
        assert replace(one, timings_ms={}) == replace(other, timings_ms={})
    assert len(found.hits) == 2


def test_a_stream_says_what_was_understood_then_words_then_the_answer(engine_over, small_index):
    history = (Turn("What does the museum of clocks look like?", "It has no windows at all."),)

    async def ask():
        async with engine_over(small_index) as engine:
            return [event async for event in engine.ask_stream(Asked("Who built its oldest one?", history=history))]

    first, *words, last = asyncio.run(ask())
    assert isinstance(first, Understood)
    assert all(isinstance(event, Written) for event in words)
    assert isinstance(last, Answered)
    assert last.answer.question == first.question != "Who built its oldest one?"
    assert "1702" in last.answer.text


def test_errors_come_out_as_they_are(engine_over, small_index):
    async def ask():
        async with engine_over(small_index) as engine:
            for failing in (engine.ask(Asked(" ")), engine.search(Asked(" "))):
                with pytest.raises(EmptyTextError):
                    await failing
            with pytest.raises(ZeroDivisionError):
                await engine.look(lambda _: 1 / 0)
            await freed(engine)
            assert (await engine.ask(FERRY)).citations

    asyncio.run(ask())


def test_who_leaves_stops_the_model_and_gives_the_place_back(engine_over, small_index):
    held = Held()

    async def ask():
        async with engine_over(small_index, backend=held, queue=1) as engine:
            async with aclosing(engine.ask_stream(FERRY)) as events:
                async for event in events:
                    if isinstance(event, Written):
                        break
                with pytest.raises(BusyError):
                    await engine.ask(FERRY)
            assert await asyncio.to_thread(held.closed.acquire, timeout=30)
            await freed(engine)
            asking = asyncio.ensure_future(engine.ask(FERRY))
            await begun(held, 2)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await freed(engine)
            held.go_on.set()
            assert (await engine.ask(FERRY)).text == TEXT

    asyncio.run(ask())


def test_who_leaves_while_waiting_is_never_asked_for(engine_over, small_index):
    held = Held()

    async def ask():
        async with engine_over(small_index, backend=held) as engine:
            asking = [asyncio.ensure_future(engine.ask(FERRY)) for _ in range(40)]
            await begun(held, 32)  # all that may be written at once
            for each in asking[32:]:
                each.cancel()
            await asyncio.gather(*asking[32:], return_exceptions=True)
            assert engine.lanes["writing"].taken == 32
            assert (await engine.ask(QUOTED)).reader.name == "extractive"  # and quotes do not wait for them
            held.go_on.set()
            assert {answer.text for answer in await asyncio.gather(*asking[:32])} == {TEXT}

    asyncio.run(ask())
    assert held.asked == 32


def test_what_takes_too_long_is_given_up(engine_over, small_index):
    held, stuck = Held(), threading.Event()

    async def ask():
        async with engine_over(small_index, backend=held, request_seconds=0.2) as engine:
            with pytest.raises(TookTooLongError, match=r"0\.2 s"):
                await engine.ask(FERRY)
            with pytest.raises(TookTooLongError):
                await engine.look(lambda _: stuck.wait(30))
            stuck.set()
            await freed(engine)

    asyncio.run(ask())
    assert held.closed.acquire(timeout=30)


def test_the_end_waits_for_what_is_being_answered(engine_over, small_index):
    held, ended = Held(), []

    async def ask():
        async with engine_over(small_index, backend=held) as engine:
            asking = asyncio.ensure_future(engine.ask(FERRY))
            await begun(held)
            closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
            closing.add_done_callback(lambda _: ended.append("closed"))
            asking.add_done_callback(lambda _: ended.append("answered"))
            held.go_on.set()
            assert (await asking).text == TEXT
            await closing

    asyncio.run(ask())
    assert sorted(ended) == ["answered", "closed"]


def test_a_library_that_comes_later_is_opened_then(engine_over, small_index, tmp_path):
    async def ask():
        async with engine_over(tmp_path / "index") as engine:
            assert engine.is_ready
            with pytest.raises(IndexMissingError):
                await engine.ask(FERRY)
            shutil.copytree(small_index, tmp_path / "index")
            assert (await engine.ask(FERRY)).citations

    asyncio.run(ask())


def test_matrix_products_leave_the_cores_to_others_while_it_is_open(engine_over, small_index):
    def threads() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if "numpy" in each["filepath"]}

    before = threads()

    async def ask() -> set[int]:
        async with engine_over(small_index) as engine:
            await engine.ask(FERRY)
            return threads()

    assert asyncio.run(ask()) == {1}
    assert threads() == before

"""Conversations that many callers have written together: every one gets what it gets alone, whoever comes and goes."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise

import pytest
import torch
from doubles import consume
from hypothesis import given
from hypothesis import strategies as st

from reader.backends.base import Message, Sampling, drain
from reader.backends.batching import Batching, Conversation
from reader.backends.generation import Draft
from reader.backends.loading import ZephyrSettings
from reader.backends.zephyr import ZephyrBackend
from retrieval.errors import ModelError, PromptTooLongError

WAYS = [
    Sampling(max_tokens=12, temperature=0, repetition_penalty=1.0),
    Sampling(max_tokens=20, temperature=0, repetition_penalty=1.3),
    Sampling(max_tokens=16, temperature=0.9, repetition_penalty=1.1, seed=7),
    Sampling(max_tokens=9, temperature=0.7, repetition_penalty=1.0, seed=8),
]
SYSTEM = Message("system", "You answer questions from numbered passages of the user's own documents.")
QUESTIONS = [
    "Why?",
    "What does the yield expression do in a generator function?",
    "巴黎是哪个国家的首都？ 请回答。",
    "List them: " + ", ".join(f"the item {number}" for number in range(20)),
]
ASKED = [((SYSTEM, Message("user", question)), way) for way in WAYS for question in QUESTIONS]
LONG = Sampling(max_tokens=40, temperature=0, repetition_penalty=1.3)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded(small_zephyr):
    """A backend in float32, where rounding changes no token."""
    backend = ZephyrBackend(ZephyrSettings(model=str(small_zephyr), device="cpu", quantization="none", dtype="float32"))
    backend.weights()
    return backend


@pytest.fixture(scope="module")
def alone(loaded):
    """What each of ASKED is answered by itself, and the first of them at length."""
    return {asked: loaded.generate(*asked).text for asked in [*ASKED, (ASKED[0][0], LONG), (ASKED[1][0], LONG)]}


@pytest.fixture
def seen(loaded):
    """(rows, columns) of every pass through the model."""
    passes: list[tuple[int, int]] = []
    note = lambda _model, _arguments, options: passes.append(tuple(options["input_ids"].shape))  # noqa: E731
    with loaded.weights().register_forward_pre_hook(note, with_kwargs=True):
        yield passes


@pytest.fixture
def backend(loaded):
    return seats(loaded, 64)


def seats(backend, most):
    """The same backend, nothing read, with so many seats."""
    backend._kept, backend._notices = (), []
    backend._batching = Batching(backend, most=most)
    return backend


def failing(backend, when, error):
    """A model that fails where `when(input_ids)` says so."""

    def hook(_model, _arguments, options):
        if when(options["input_ids"]):
            raise error

    return backend.weights().register_forward_pre_hook(hook, with_kwargs=True)


def ask_at_once(backend, asked):
    """The text of every answer, or its error, each asked by a thread of its own at the same moment."""
    start = threading.Barrier(len(asked))

    def ask(each):
        start.wait()
        try:
            pieces, generation = consume(backend.stream(*each))
        except ModelError as error:
            return error
        assert "".join(pieces) == generation.text
        return generation.text

    with ThreadPoolExecutor(len(asked)) as threads:
        return list(threads.map(ask, asked))


# ---- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [64, 3])
def test_threads_at_once_get_what_each_gets_alone(loaded, alone, seen, most):
    """Greedy and drawn, with a penalty and without, in seats for all and for a few."""
    assert ask_at_once(seats(loaded, most), ASKED) == [alone[each] for each in ASKED]
    assert 1 < max(rows for rows, _ in seen) <= most
    assert loaded._batching._rows is None
    assert loaded.notices == ()


def test_streams_questions_and_batches_share_the_model(backend, alone):
    """A batch of one caller, streams of others, and each caller's own way to sample."""
    many = [messages for messages, way in ASKED if way is WAYS[1]]
    with ThreadPoolExecutor(9) as threads:
        batch = threads.submit(backend.generate_many, many, WAYS[1])
        others = [threads.submit(backend.generate, *each) for each in ASKED[8:16]]
        assert [one.text for one in batch.result()] == [alone[messages, WAYS[1]] for messages in many]
        assert [one.result().text for one in others] == [alone[each] for each in ASKED[8:16]]


def test_who_comes_late_is_written_with_those_who_are_there(backend, alone, seen):
    early = backend.stream(ASKED[0][0], LONG)
    begun = [next(early) for _ in range(5)]
    pieces, late = consume(backend.stream(*ASKED[9]))
    assert late.text == alone[ASKED[9]] == "".join(pieces)
    assert "".join(begun) + "".join(consume(early)[0]) == alone[ASKED[0][0], LONG]
    assert (2, 1) in seen


def test_a_closed_stream_gives_its_seat_to_the_next(loaded, alone, seen):
    backend = seats(loaded, 2)
    first, second, third = (
        backend.stream(ASKED[0][0], LONG), backend.stream(ASKED[1][0], LONG), backend.stream(*ASKED[6])
    )  # fmt: skip
    next(first)
    begun = next(second)
    first.close()
    assert len(backend._batching._writing) == 1
    assert drain(third).text == alone[ASKED[6]]
    rest = "".join(consume(second)[0])
    assert rest
    assert begun + rest == alone[ASKED[1][0], LONG]
    assert max(rows for rows, _ in seen) == 2


def test_a_stream_closed_while_another_caller_steps_leaves_within_that_step(backend, alone, seen):
    """As the garbage collector may do it: on the very thread that is in the middle of a step."""
    first, second = backend.stream(ASKED[0][0], LONG), backend.stream(ASKED[1][0], LONG)
    begun = [next(first)]
    next(second)
    with backend.weights().register_forward_pre_hook(lambda *_: second.close()):
        while second.gi_frame is not None:
            begun.append(next(first))
    del seen[:]
    assert "".join(begun) + "".join(consume(first)[0]) == alone[ASKED[0][0], LONG]
    assert {rows for rows, _ in seen} == {1}


def test_a_prompt_and_a_step_take_turns_where_somebody_reads_along(backend, seen):
    """A caller who reads an answer as it is written waits for one prompt at most, however many come in."""
    heard = backend.stream(ASKED[0][0], LONG)
    next(heard)
    backend.generate_many([(Message("user", f"{number} words?"),) for number in range(8)], WAYS[1])
    prompts = [columns > 1 for _, columns in seen]
    assert sum(prompts) == 9
    assert not any(one and other for one, other in pairwise(prompts))
    heard.close()


def test_nothing_is_left_when_nobody_asks(backend, seen):
    threads = threading.active_count()
    stream = backend.stream(ASKED[0][0], LONG)
    next(stream)
    assert threading.active_count() == threads
    stream.close()
    assert (backend._batching._rows, backend._batching._writing) == (None, [])
    assert len(seen) < 5


def test_a_conversation_that_went_on_among_others_is_not_read_again(backend):
    """Alone again at its end: what it wrote is kept with what it read."""
    messages = ASKED[1][0]
    stream = backend.stream(messages, LONG)
    next(stream)
    drain(backend.stream(*ASKED[0]))
    written = drain(stream)
    again = backend.generate((*messages, Message("assistant", written.text), Message("user", "More?")), WAYS[0])
    assert again.reused_tokens >= written.prompt_tokens - 2


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_nobody_elses_error(backend, alone):
    stream = backend.stream(*ASKED[1])
    begun = next(stream)
    with pytest.raises(PromptTooLongError):
        backend.generate((Message("user", "word " * 5000),), WAYS[0])
    assert begun + "".join(consume(stream)[0]) == alone[ASKED[1]]


def test_a_prompt_that_the_model_fails_by_is_nobody_elses_error(backend, alone):
    stream = backend.stream(ASKED[0][0], LONG)
    begun = next(stream)
    with failing(backend, lambda ids: ids.shape[1] > 60, RuntimeError("shapes do not match")):
        with pytest.raises(ModelError, match="shapes do not match"):
            backend.generate(*ASKED[3])
        assert begun + "".join(consume(stream)[0]) == alone[ASKED[0][0], LONG]


def test_an_error_of_the_model_is_told_to_all_it_wrote_for_and_the_next_begin_anew(backend, alone):
    streams = [backend.stream(*each) for each in ASKED[:3]]
    for stream in streams:
        next(stream)
    with failing(backend, lambda ids: len(ids) == 3, ModelError("not numbers")):
        for stream in streams:
            with pytest.raises(ModelError, match="not numbers"):
                drain(stream)
    assert ask_at_once(backend, ASKED[:3]) == [alone[each] for each in ASKED[:3]]


def test_an_interrupted_caller_is_the_only_one(backend, alone):
    """What the others have written is read again, and gone on with: drawn ones too."""
    streams = [backend.stream(*each) for each in ASKED[8:12]]
    begun = [next(stream) for stream in streams]
    with failing(backend, lambda ids: len(ids) == 4, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        drain(streams[0])
    for stream, first, each in zip(streams[1:], begun[1:], ASKED[9:12], strict=True):
        assert first + "".join(consume(stream)[0]) == alone[each]


def test_where_memory_runs_out_fewer_go_on_and_none_begins_again(backend, alone):
    out = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with failing(backend, lambda ids: len(ids) > 5, out):
        assert ask_at_once(backend, ASKED) == [alone[each] for each in ASKED]
    assert backend.notices
    assert set(backend.notices) <= {
        f"out of memory with {rows} prompts together; went on with {rows // 2}" for rows in range(6, 17)
    }
    assert backend._batching._most == 64


def test_one_that_finds_no_memory_alone_fails_and_the_others_go_on(backend, alone):
    out = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with failing(backend, lambda ids: ids.shape[1] > 100, out):
        told = ask_at_once(backend, ASKED[:4])
    assert told[:3] == [alone[each] for each in ASKED[:3]]
    assert isinstance(told[3], ModelError)
    assert "out of memory with a single prompt" in str(told[3])


# ---- caches that cannot be cut ---------------------------------------------------------------------------------------


def test_rows_that_cannot_be_cut_are_written_one_after_the_other(tmp_path, small_zephyr):
    changed = shutil.copytree(small_zephyr, tmp_path / "sliding")
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "sliding_window": 32}))
    backend = ZephyrBackend(ZephyrSettings(model=str(changed), device="cpu", quantization="none", dtype="float32"))
    asked = ASKED[4:12]
    expected = [backend.generate(*each).text for each in asked]
    passes: list[int] = []
    note = lambda _model, _arguments, options: passes.append(len(options["input_ids"]))  # noqa: E731
    with backend.weights().register_forward_pre_hook(note, with_kwargs=True):
        held = backend.stream(ASKED[0][0], LONG)
        next(held)
        held.close()
        assert ask_at_once(backend, asked) == expected
    assert set(passes) == {1}


# ---- any order of coming, reading and going --------------------------------------------------------------------------


class Arithmetic:
    """A model whose next token is a sum, for rows that are lists."""

    def __init__(self, *, can_cut):
        self.can_cut = can_cut

    def begin(self, tokens, _sampling):
        return Lists([list(tokens)]), 0

    def begin_padded(self, prompts, _sampling):
        return Lists([list(prompt) for prompt in prompts])

    def join(self, parts):
        return Lists([tokens for part in parts for tokens in part.tokens])

    def keep(self, rows):
        assert len(rows.tokens) == 1

    def most_rows(self, *, tokens, held):
        del tokens, held
        return 64

    def make_room(self, notice=""):
        raise AssertionError(notice)


class Lists:
    def __init__(self, tokens):
        self.tokens, self.draws = tokens, [None] * len(tokens)

    def step(self):
        chosen = [next_token(tokens) for tokens in self.tokens]
        for tokens, token in zip(self.tokens, chosen, strict=True):
            tokens.append(token)
        return chosen

    def keep(self, rows):
        self.tokens = [self.tokens[row] for row in rows]


def next_token(tokens):
    return 2 + (31 * sum(tokens) + len(tokens)) % 24


def conversation(number):
    """It is `number % 7` tokens long, and its every token is a letter."""
    draft = Draft(
        lambda ids: "".join(chr(95 + each) for each in ids), anchor=2, stops={0}, markers=(), max_tokens=number % 7
    )
    return Conversation([number], Sampling(number % 7), draft, is_heard=True)


def by_itself(number):
    tokens = [number]
    for _ in range(number % 7):
        tokens.append(next_token(tokens))
    return "".join(chr(95 + each) for each in tokens[1:])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["read", "read", "read", "end", "close"])), max_size=60),
    st.integers(1, 4),
    st.booleans(),
)
def test_whatever_callers_do_each_reads_its_own(acts, most, can_cut):
    """Six callers start, read, finish and hang up in any order, as one thread can: what they read is their own."""
    batching = Batching(Arithmetic(can_cut=can_cut), most=most)
    streams, texts = {}, {}
    for place, (caller, act) in enumerate(acts):
        if caller not in streams:
            streams[caller] = (place, batching.stream(conversation(place)))
            texts[caller] = ""
        number, stream = streams[caller]
        pieces = [] if act == "close" else [next(stream, None)] if act == "read" else list(stream)
        texts[caller] += "".join(piece or "" for piece in pieces)
        assert by_itself(number).startswith(texts[caller])
        if act == "close":
            stream.close()
        if act != "read" or None in pieces:
            assert act == "close" or texts[caller] == by_itself(number)
            del streams[caller]
        assert len(batching._writing) <= most
    with ExitStack() as closing:
        for _, stream in streams.values():
            closing.callback(stream.close)
    assert (batching._rows, batching._writing) == (None, [])

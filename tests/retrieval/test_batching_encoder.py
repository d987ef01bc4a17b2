"""The contracts of retrieval/batching.py: the wrapped encoder's vectors, in batches, errors to whom they belong."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from doubles import HashEncoder

from retrieval.batching import TOGETHER, SharedEncoder
from retrieval.errors import EmptyTextError, TextTooLongError

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("Where does the ferry leave from?", "茶馆的店主姓什么？", "cat", "", "The queen lays 2,000 eggs a day. " * 9)
LONG = "cat " * 600


class Held(HashEncoder):
    """Counts what it encodes together, and stays at the first run until it is let go. What says "break" breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple[bool, list[str]]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode(self, texts, *, query=False):
        self.runs.append((query, list(texts)))
        self.begun.set()
        assert self.go_on.wait(30)
        if "break" in texts:
            raise RuntimeError("broken")
        return super().encode(texts, query=query)


def assert_same(found, expected, *, tolerance=0.0):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_allclose(one.vector, other.vector, rtol=0, atol=tolerance)
        np.testing.assert_allclose(one.tokens, other.tokens, rtol=0, atol=tolerance)


@pytest.fixture(params=["openvino", "sentence-transformers"])
def either(request):
    """(encoder, how far its vectors may differ with the company they are in)."""
    if request.param == "openvino":
        return request.getfixturevalue("encoder"), 0.0
    return request.getfixturevalue("torch_encoder"), 1e-5


def in_company(held, shared, asked):
    """What comes of each call when all wait while the encoder is at work: (results or errors, the runs after it)."""

    def encode(texts, query):
        try:
            return list(shared.encode(texts, query=query))
        except Exception as error:  # noqa: BLE001 - looked at below
            return error

    with ThreadPoolExecutor(len(asked) + 1) as many:
        first = many.submit(encode, ["first"], False)
        assert held.begun.wait(30)
        rest = []
        for number, each in enumerate(asked, start=1):
            rest.append(many.submit(encode, *each))
            while len(shared._waiting) < number:  # so that they wait in this order
                assert not wait([rest[-1]], timeout=0.001).done
        held.go_on.set()
        assert not isinstance(first.result(30), Exception)
        return [each.result(30) for each in rest], held.runs[1:]


def test_many_threads_get_what_they_would_get_alone(either):
    encoder, tolerance = either
    shared = SharedEncoder(encoder)
    asked = [(list(TEXTS[: 1 + n % 5]), bool(n % 2)) for n in range(15)]
    alone = [list(encoder.encode(texts, query=query)) for texts, query in asked]
    with ThreadPoolExecutor(8) as many:
        found = list(many.map(lambda each: list(shared.encode(each[0], query=each[1])), asked))
    for one, other in zip(found, alone, strict=True):
        assert_same(one, other, tolerance=tolerance)


def test_it_is_an_encoder_like_the_one_it_wraps(encoder):
    shared = SharedEncoder(encoder)
    assert (shared.spec, shared.tokenizer) == (encoder.spec, encoder.tokenizer)
    np.testing.assert_array_equal(shared.encode_passages(TEXTS), encoder.encode_passages(TEXTS))
    np.testing.assert_array_equal(shared.encode_query(TEXTS[0]), encoder.encode_query(TEXTS[0]))
    assert shared.encode_passages([]).shape == (0, 384)
    with pytest.raises(EmptyTextError):
        shared.encode_query(" \n")


def test_what_waits_is_encoded_together_in_the_order_it_came():
    held = Held()
    found, runs = in_company(held, SharedEncoder(held), [([f"question {n}", "of parts"], True) for n in range(5)])
    assert runs == [(True, [text for n in range(5) for text in (f"question {n}", "of parts")])]
    for n, each in enumerate(found):
        assert_same(each, list(HashEncoder().encode([f"question {n}", "of parts"])))


def test_questions_and_passages_are_not_mixed():
    held = Held()
    asked = [(["a"], True), (["b"], True), (["c"], False), (["d"], True)]
    _, runs = in_company(held, SharedEncoder(held), asked)
    assert runs == [(True, ["a", "b"]), (False, ["c"]), (True, ["d"])]


def test_a_batch_has_a_size_and_who_brings_much_gives_way():
    held = Held()
    many = [f"passage {n}" for n in range(2 * TOGETHER + 1)]
    found, runs = in_company(held, SharedEncoder(held), [(many, False), (["short"], False)])
    assert all(len(texts) <= TOGETHER for _, texts in runs)
    assert runs[0] == (False, many[:TOGETHER])
    assert "short" in [text for _, texts in runs[:3] for text in texts]
    assert_same(found[0], list(HashEncoder().encode(many)))


@pytest.mark.parametrize(("bad", "error"), [(LONG, TextTooLongError), ("break", RuntimeError)])
def test_an_error_reaches_only_whose_text_it_is(bad, error):
    held = Held()
    shared = SharedEncoder(held)
    found, _ = in_company(held, shared, [(["good"], True), (["also good", bad], True), (["better"], True)])
    assert isinstance(found[1], error)
    assert_same(found[0], list(HashEncoder().encode(["good"])))
    assert_same(found[2], list(HashEncoder().encode(["better"])))
    assert_same(list(shared.encode(["afterwards"])), list(HashEncoder().encode(["afterwards"])))


def test_no_more_is_encoded_than_is_taken():
    held = Held()
    held.go_on.set()
    coming = SharedEncoder(held).encode([f"passage {n}" for n in range(10 * TOGETHER)])
    next(coming)
    assert len(held.runs) == 1


def test_nothing_is_encoded_of_nothing(encoder):
    assert list(SharedEncoder(encoder).encode([])) == []

"""Counts that come and go without a trace, and bytes that are either right or refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import IndexCorruptError
from retrieval.statistics import Statistics, inverse_document_frequency

VOCABULARY = 50
CHUNKS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=6), max_size=6)


def counted(chunks):
    made = Statistics(VOCABULARY)
    for token_ids in chunks:
        made.add(token_ids)
    return made


@given(CHUNKS, CHUNKS, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_what_is_taken_away_leaves_no_trace(kept, removed, random):
    both = [*kept, *removed]
    random.shuffle(both)
    made = counted(both)
    for token_ids in removed:
        made.add(token_ids, sign=-1)
    assert made.dump() == counted(kept).dump()


def test_a_chunk_counts_once_however_often_it_repeats_a_word():
    assert counted([[3]]).dump() == counted([[3, 3, 3]]).dump()


def test_idf_by_hand():
    """BM25's, with twenty more chunks as if read and each word in one of them."""
    made = counted([[1, 2], [1]])
    expected = [np.log(1 + (22 - n - 1 + 0.5) / (n + 1 + 0.5)) for n in (0, 1, 2)]
    np.testing.assert_allclose(made.token_idf(np.array([7, 2, 1])), expected)
    np.testing.assert_allclose(inverse_document_frequency(np.array([0, 1, 2]), 2), expected)


@given(st.lists(st.integers(-5, 300), max_size=5), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_idf_is_positive_and_finite_even_where_deleted_passages_still_count(found, chunks):
    """A lexical index counts deleted passages until they are merged away: more may be found than there are."""
    idf = inverse_document_frequency(np.array(found, dtype=np.int64), chunks)
    assert idf.shape == (len(found),)
    assert np.isfinite(idf).all()
    assert (idf > 0).all()


@given(st.integers(1, 40), st.lists(st.integers(0, 40), min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_the_rarer_the_heavier(chunks, occurrences):
    occurrences = [min(times, chunks) for times in occurrences]
    made = Statistics(VOCABULARY)
    for number in range(chunks):
        made.add([token for token, times in enumerate(occurrences) if number < times])
    idf = made.token_idf(np.arange(len(occurrences)))
    assert (idf > 0).all()
    for one, times in enumerate(occurrences):
        for other, more in enumerate(occurrences):
            assert (times < more) == (idf[one] > idf[other])


def test_nothing_counted_is_no_error():
    made = Statistics(VOCABULARY)
    assert made.token_idf(np.zeros(0, np.int64)).shape == (0,)
    assert np.isfinite(made.token_idf(np.arange(3))).all()
    made.add([])
    assert made.chunks == 1


@given(CHUNKS)
@settings(max_examples=10, deadline=None)
def test_dump_and_load(chunks):
    made = counted(chunks)
    read = Statistics.load(made.dump())
    assert read.chunks == made.chunks == len(chunks)
    assert read.dump() == made.dump()
    np.testing.assert_array_equal(read.token_idf(np.arange(VOCABULARY)), made.token_idf(np.arange(VOCABULARY)))
    read.add([1])  # what was read can be counted on


GOOD = counted([[1, 2, 3], [3]]).dump()


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_is_noticed(position, change):
    """Or has no effect: some bits of a compressed stream mean nothing, and zlib's checksum is of what comes out."""
    data = bytearray(GOOD)
    data[position] ^= change
    try:
        read = Statistics.load(bytes(data))
    except IndexCorruptError as error:
        assert str(error).endswith("run: rag ingest --rebuild")  # noqa: PT017 - either outcome is right
    else:
        assert read.dump() == GOOD


@given(st.one_of(st.binary(max_size=200), st.integers(0, len(GOOD) - 1).map(lambda end: GOOD[:end])))
@settings(max_examples=60, deadline=None)
def test_anything_else_is_refused(data):
    with pytest.raises(IndexCorruptError):
        Statistics.load(data)


def table(chunks, vocabulary, buckets, counts):
    header = np.array([chunks, vocabulary, buckets], dtype="<i8").tobytes()
    return zlib.compress(header + np.arange(counts, dtype="<i4").tobytes())


def test_the_term_counts_of_the_first_release_are_passed_over():
    read = Statistics.load(table(100, 3, 1 << 20, 3 + (1 << 20)))
    assert read.chunks == 100
    assert read.dump() == Statistics.load(table(100, 3, 0, 3)).dump()
    np.testing.assert_allclose(read.token_idf(np.arange(3)), inverse_document_frequency(np.arange(3), 100))


@pytest.mark.parametrize(
    "data",
    [
        GOOD + b"x",
        table(1, 50, 0, 49),
        table(1, 50, 0, 51),
        table(1, 50, 1 << 20, 50),
        table(-1, 50, 0, 50),
        table(1, 0, 0, 0),
        table(1, -50, 1 << 20, (1 << 20) - 50),
        table(1, 100, -50, 50),
        table(1, 50, (1 << 20) + 1, 51 + (1 << 20)),
        table(1, 1 << 62, 0, 10),
    ],
    ids=[
        "more after",
        "short",
        "long",
        "no terms",
        "negative",
        "no tokens",
        "fewer than none",
        "fewer buckets than none",
        "too many buckets",
        "huge",
    ],
)
def test_a_table_that_contradicts_itself_is_refused(data):
    with pytest.raises(IndexCorruptError):
        Statistics.load(data)


def test_a_decompression_bomb_is_not_unpacked():
    import tracemalloc

    bomb = zlib.compress(b"\0" * 100_000_000, level=1)
    tracemalloc.start()
    try:
        with pytest.raises(IndexCorruptError, match="wrong length"):
            Statistics.load(bomb)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()

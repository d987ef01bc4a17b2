"""Memory from a config.json: Zephyr's by hand, and what is proposed where it does not fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.small_models import ZEPHYR_SHAPE
from reader.backends.memory import NF4_BITS, Load, Shape, require_room
from retrieval.errors import ModelError

ZEPHYR = Shape.of(ZEPHYR_SHAPE)
NF4 = Load("4bit", "full", 4096)
BF16 = Load("none", "full", 4096)


def test_zephyr_by_hand():
    # Queries and output 4096 x 4096 each, keys and values 4096 x 1024 each, three matrices of 4096 x 14,336; 32 layers.
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    assert ZEPHYR.linear_parameters == 32 * layer == 6_979_321_856
    # Embeddings and output layer 32,000 x 4096 each, two norms a layer and one more.
    assert ZEPHYR.other_parameters == 2 * 32_000 * 4096 + 65 * 4096 == 262_410_240
    assert ZEPHYR.linear_parameters + ZEPHYR.other_parameters == 7_241_732_096  # as published

    assert round(NF4_BITS, 3) == 4.127
    assert ZEPHYR.weight_bytes(NF4) == round(6_979_321_856 * NF4_BITS / 8 + 262_410_240 * 2)
    assert round(ZEPHYR.weight_bytes(NF4) / 1e9, 1) == 4.1
    assert ZEPHYR.weight_bytes(BF16) == 2 * 7_241_732_096
    assert round(ZEPHYR.weight_bytes(replace(NF4, quantization="8bit")) / 1e9, 1) == 7.5


def test_keys_and_values_by_hand():
    # Two tensors, 32 layers, 8 heads of 128 numbers, 2 bytes.
    assert ZEPHYR.kv_token_bytes(NF4) == 2 * 32 * 8 * 128 * 2 == 128 * 1024
    # 64 numbers share a scale and a zero of 2 bytes each: half a bit a number.
    assert ZEPHYR.kv_token_bytes(replace(NF4, kv_cache="8bit")) == 128 * 1024 * 8.5 / 16
    assert ZEPHYR.kv_token_bytes(replace(NF4, kv_cache="4bit")) == 128 * 1024 * 4.5 / 16
    assert ZEPHYR.kv_bytes(NF4, 4096) == 512 * 1024 * 1024
    # The newest 128 tokens and one of 32 layers are there in full as well.
    in_8_bits = 4096 * 69_632 + 128 * 131_072 + 4096 * 131_072 // 32
    assert ZEPHYR.kv_bytes(replace(NF4, kv_cache="8bit"), 4096) == in_8_bits


def test_tied_embeddings_and_missing_head_counts():
    shape = Shape.of({"vocab_size": 10, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
                      "num_attention_heads": 2, "tie_word_embeddings": True})  # fmt: skip
    assert shape.kv_heads == 2
    assert shape.head_size == 4
    assert shape.other_parameters == 10 * 8 + 3 * 8
    assert shape.linear_parameters == 4 * 8 * 8 + 3 * 8 * 16


@pytest.mark.parametrize(
    "changed",
    [{"num_local_experts": 8}, {"hidden_size": None}, {"hidden_size": "4096"}, {"num_hidden_layers": 0},
     {"vocab_size": True}, {"head_dim": -1}],
)  # fmt: skip
def test_what_is_no_dense_decoder_is_not_estimated(changed):
    assert Shape.of({**ZEPHYR_SHAPE, **changed}) is None


def test_enough_room_passes():
    require_room(ZEPHYR, NF4, ZEPHYR.needed(NF4), name="zephyr", device="cuda")


def test_too_little_says_what_would_fit():
    with pytest.raises(ModelError) as raised:
        require_room(ZEPHYR, BF16, 8_000_000_000, name="zephyr", device="cuda")
    said = str(raised.value)
    assert "zephyr needs 15.5 GB on cuda (weights 14.5 GB, keys and values of 4,096 tokens 0.5 GB" in said
    assert "but 8.0 GB are free; these fit: quantization 4bit (" in said


def test_a_shorter_window_alone_is_proposed_where_it_does():
    free = ZEPHYR.needed(replace(NF4, window=1024))
    with pytest.raises(ModelError, match=r"these fit: window 1024 \(4\.\d GB\)"):
        require_room(ZEPHYR, NF4, free, name="zephyr", device="cpu")


def test_nothing_fits():
    with pytest.raises(ModelError, match="nothing smaller fits either; use a smaller model"):
        require_room(ZEPHYR, NF4, 1_000_000_000, name="zephyr", device="cpu")


loads = st.builds(
    Load,
    quantization=st.sampled_from(["4bit", "8bit", "none"]),
    kv_cache=st.sampled_from(["full", "8bit", "4bit"]),
    window=st.integers(1, 32_768),
    element_bytes=st.sampled_from([2, 4]),
)


@given(loads, st.integers(0, 30_000_000_000))
def test_what_is_proposed_fits_and_is_smaller(load, free):
    try:
        require_room(ZEPHYR, load, free, name="zephyr", device="cpu")
    except ModelError as error:
        proposed = [float(size) for size in re.findall(r"\((\d+\.\d) GB\)", str(error))]
        assert all(size <= free / 1e9 + 0.05 for size in proposed)  # printed with one decimal
        assert len(proposed) <= 3
    else:
        assert ZEPHYR.needed(load) <= free


@given(loads, st.integers(1, 32_768))
def test_more_tokens_never_need_less(load, tokens):
    assert ZEPHYR.kv_bytes(load, tokens) <= ZEPHYR.kv_bytes(load, tokens + 1)
    assert ZEPHYR.needed(load) <= ZEPHYR.needed(replace(load, window=load.window + 1))

"""Numbers by value however they are written, names, denials and directions, in English and Chinese."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reader.facts import DENIED, holds, names, numbers, reversed_words, same_kind, words

SAME = [
    ("3,000", "3000", "three thousand", "三千", "0.3万", "3 thousand", "3k"),
    ("5%", "5 %", "5 percent", "five per cent", "百分之五", "５％"),
    ("3.5 million", "350万", "3,500,000", "三百五十万"),
    ("$44bn", "$44 billion", "44 billion dollars", "440亿美元"),
    ("1990年", "in 1990", "一九九〇年"),
    ("5 km", "5 kilometres", "5公里", "五公里", "5-km"),
    ("March 1999", "1999-03-05", "3月"),
    ("twenty-five", "25", "二十五", "25th"),
    ("two hundred and fifty thousand", "250,000", "25万"),
    ("a dozen", "12", "十二"),
]
OTHER = [
    ("3,000", "3,001"), ("5%", "6%"), ("5%", "5 people"), ("3 million", "3.2 million"), ("1990", "1991"),
    ("5 km", "5 miles"), ("$5", "€5"), ("3月", "4月"), ("May 5", "June 6"), ("三千", "三万"), ("1.2.3", "1.2.4"),
    ("12", "12.6"), ("3.52 million", "3.5 million"), ("1990s", "1989"), ("五公里", "五公斤"),
]  # fmt: skip
ROUNDED = [("3.5 million", "3,481,200"), ("12%", "12.3 percent"), ("1990s", "1994"), ("350万", "3,499,000")]


def first(text):
    return numbers(text)[0]


@pytest.mark.parametrize("ways", SAME, ids=lambda ways: ways[0])
def test_a_number_is_the_same_however_it_is_written(ways):
    for one, other in permutations(ways, 2):
        if one.startswith("1999-"):  # a year and its month: only the claim's side is a month alone
            continue
        assert any(holds(found, first(one)) for found in numbers(other)), (one, other, numbers(other))


@pytest.mark.parametrize(("claim", "evidence"), OTHER)
def test_another_number_does_not_hold(claim, evidence):
    assert not any(holds(found, wanted) for wanted in numbers(claim) for found in numbers(evidence))


@pytest.mark.parametrize(("claim", "evidence"), ROUNDED)
def test_a_claim_may_round_what_the_evidence_says_exactly(claim, evidence):
    assert holds(first(evidence), first(claim))
    assert not holds(first(claim), first(evidence))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("B12, GPT-4 and COVID-19 are names", []),
        ("mid-1990s", [1990]),
        ("28-24", [28, 24]),
        ("4. The king", []),
        ("2. Of 7 kings 2 fell", [7, 2]),
        ("三明治和四川", []),
        ("千万不要", []),
        ("one of the first", []),
        ("3.5 million", [3_500_000]),
        ("US$5m and 5m", [5_000_000, 5]),
        ("march on, it may be", []),
        ("on 5 March", [5, 3]),
        ("二〇二四年十二月三十一日", [2024, 12, 31]),
        ("2024-12-31", [2024, 12, 31]),
        ("三点五", [3.5]),
        ("hundreds of people", []),
    ],
)
def test_what_counts_as_a_stated_number(text, values):
    assert [number.value for number in numbers(text) if number.stated] == values


def test_kinds_that_could_stand_in_each_others_place():
    year, decade, share, plain = (first(text) for text in ("1990", "1990s", "5%", "5"))
    assert same_kind(year, decade)
    assert same_kind(plain, first("7"))
    assert not same_kind(year, share)
    assert not same_kind(share, plain)


@given(st.text(max_size=80) | st.text("0123456789.,%$ 年月千万亿三点百分之-amk", max_size=60))
@example("٣٤ and ९, ²")
@example("9" * 400)
@example("9" * 39 + " trillion")
@settings(max_examples=200, deadline=None)
def test_any_text_gives_numbers_with_places_and_holds_itself(text):
    for number in numbers(text):
        assert 0 <= number.start < number.end <= len(text)
        assert not math.isnan(number.value)
        assert holds(number, number)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000, "a " * 50_000, "one " * 30_000, "万" * 50_000, "1," * 50_000, "1." * 50_000, "$" * 100_000,
        "A" * 100_000, "n't" * 30_000, "三千" * 30_000, "百分之" * 30_000, "5 " + " " * 100_000,
    ],
    ids=lambda text: repr(text[:6]),
)  # fmt: skip
def test_hostile_text_takes_linear_time(text):
    """Half a second at most; what is quadratic needs hours."""
    numbers(text)
    names(text)
    words(text)
    reversed_words(text, text)


def test_names_are_capitalised_words_that_do_not_open_a_sentence():
    assert names("The Beatles sang in New York. However, Paul left.") == ("Beatles", "New", "York", "Paul")
    assert names("他使用GPT模型和Transformer架构") == ("GPT", "Transformer")
    assert names("It is so. I am") == ()


def test_words_fold_case_width_and_script_and_denials_are_one_word():
    assert words("It ISN'T so, it was never so.") == ["it", "is", DENIED, "so", "it", "was", DENIED, "so"]
    assert words("這不是真的") == words("这不是真的") == ["这", DENIED, "是", "真", "的"]
    assert words("ＧＰＴ 3.5") == ["gpt", "3.5"]
    assert DENIED not in words("不仅如此，未来无论如何 and no. 1, no 5")


def test_directions_are_turned_only_where_the_opposite_stands_in_their_place():
    assert reversed_words("Sales increased in 2001.", "Sales fell in 2001.")
    assert reversed_words("气温高于去年", "气温低于去年")
    assert not reversed_words("Sales increased.", "Sales rose, then fell.")
    assert not reversed_words("Sales were stable.", "Sales fell.")

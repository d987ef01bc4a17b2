"""Text to index terms: which forms meet, where they stand, and that no text is too strange or too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.analyze import located_terms, term_bucket, term_set, terms

HOSTILE = st.text(alphabet=st.characters(), max_size=120)  # lone surrogates included
MIXED = st.text(
    alphabet=st.sampled_from("abcXYZ éÉßİ19_-'.,\n\u0301\u200b\u200d的是战国无双ひらカタ한국ไทย🧑\ud800𠀀"), max_size=60
)


@pytest.mark.parametrize(
    "forms",
    [
        ("cats", "cat", "CATS", "Cat"),
        ("walking", "walked", "walks", "walk"),
        ("studies", "study"),
        ("raise", "raises", "raised", "raising"),
        ("classes", "class"),
        ("executes", "execute", "executed", "executing"),
        ("quickly", "quick"),
        ("markedly", "marked", "marks"),
        ("exceptions", "exception"),
    ],
)
def test_forms_of_a_word_meet(forms):
    assert len({tuple(terms(form)) for form in forms}) == 1
    assert terms(forms[0])


@pytest.mark.parametrize(("one", "other"), [("red", "reed"), ("cat", "car"), ("string", "str"), ("bus", "but")])
def test_other_words_do_not(one, other):
    assert terms(one) != terms(other)


def test_a_short_word_keeps_its_ending():
    assert terms("ring king bed his as bus she") == ["ring", "king", "bed", "bus"]


def test_stop_words_are_left_out_and_repeats_stay():
    assert terms("What is the cat to the other cat?") == ["cat", "other", "cat"]
    assert terms("the of and") == []
    assert terms("什么") == []


def test_chinese_gives_bigrams_and_a_lone_character_itself():
    assert terms("战国无双3的") == ["战国", "国无", "无双", "3"]  # the last one is a stop word
    assert terms("猫") == ["猫"]
    assert terms("Python的类") == ["python", "的类"]


def test_other_scripts_without_spaces_give_bigrams():
    for text in ("ひらがな", "ภาษาไทย", "한국어", "𠀀𠀁𠀂"):
        assert terms(text)[0] == text[:2]


def test_punctuation_and_underscores_separate():
    assert terms("try_stmt: self.else-clause!") == ["try", "stmt", "self", "else", "claus"]


@given(st.one_of(HOSTILE, MIXED))
def test_the_three_views_agree_and_positions_slice_the_text(text):
    located = list(located_terms(text))
    assert [term for term, _, _ in located] == terms(text)
    assert {term for term, _, _ in located} == term_set(text)
    for term, start, end in located:
        assert 0 <= start < end <= len(text)
        assert terms(text[start:end]) in ([term], [])  # [] where a bigram alone is a stop word
        assert not any(letter.isspace() for letter in text[start:end])
    starts = [start for _, start, _ in located]
    assert starts == sorted(starts)


@given(MIXED)
def test_white_space_around_changes_nothing(text):
    assert terms(f"  {text}\n") == terms(text)


@given(HOSTILE)
def test_a_bucket_is_stable_and_inside(term):
    assert 0 <= term_bucket(term, 1000) < 1000
    assert term_bucket(term, 1000) == term_bucket(term, 1000)
    assert term_bucket("cat", 1 << 20) == 0x9E5E43A8 % (1 << 20)  # zlib.crc32(b"cat"): what is stored today


@pytest.mark.parametrize("piece", ["a", "a ", "猫", "猫。", "ing", "_", "\u0301", "a\u0301", " ", "İ", "\ud800"])
def test_time_is_linear_in_the_text(piece):
    def seconds(repeats):
        started = time.perf_counter()
        terms(piece * repeats)
        term_set(piece * repeats)
        return time.perf_counter() - started

    seconds(10_000)  # warm up
    small, large = min(seconds(25_000) for _ in range(3)), min(seconds(200_000) for _ in range(2))
    assert large < 40 * small + 0.05  # 8 is linear, 64 quadratic

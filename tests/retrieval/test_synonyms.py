"""Synonyms: what is added for which stretch of a question, and that nothing is matched inside another word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.analyze import Analyzer, UserDictionary
from retrieval.errors import ConfigError
from retrieval.synonyms import Expansion, Synonyms

ANALYZER = Analyzer()
FILE = """\ufeff# cars
car, automobile， motor car

显卡、GPU => graphics card
C++, cpp
.NET => dotnet
state of the art => SOTA
motor, engine
北京，京城
"""


@pytest.fixture
def load(tmp_path):
    def make(text, analyzer=ANALYZER):
        path = tmp_path / "synonyms.txt"
        path.write_text(text, encoding="utf-8")
        return Synonyms.load(path, analyzer)

    return make


@pytest.fixture
def synonyms(load):
    return load(FILE)


def added(synonyms, question):
    return {(found.phrase, found.added) for found in synonyms.expand(question)}


def test_an_inflected_word_brings_its_group_with_half_its_weight(synonyms):
    assert synonyms.expand("Which Cars are red?") == (
        Expansion("Cars", 6, 10, "automobile", ("automobil",), 0.5),
        Expansion("Cars", 6, 10, "motor car", ("motor",), 0.5),  # "car" was asked for already
    )
    (found,) = synonyms.expand("GPU")
    assert (found.added, found.terms, found.weight) == ("graphics card", ("graphic", "card"), 0.25)


def test_an_alias_brings_the_canonical_phrase_and_not_the_reverse(synonyms):
    assert added(synonyms, "哪个显卡好") == {("显卡", "graphics card")}
    assert added(synonyms, "哪個顯卡好") == {("顯卡", "graphics card")}
    assert added(synonyms, "a graphics card") == set()


def test_the_longest_phrase_wins_and_nothing_is_expanded_again(synonyms):
    assert added(synonyms, "motor cars") == {("motor cars", "automobile")}  # not motor -> engine
    assert added(synonyms, "an automobile") == {("automobile", "car"), ("automobile", "motor car")}
    assert added(synonyms, "the state of the arts") == {("state of the arts", "SOTA")}


@pytest.mark.parametrize("question", ["carpet", "CarRental", "car_rental", "北京大学", "C", "internet", "netting", ""])
def test_never_inside_another_word(synonyms, question):
    assert synonyms.expand(question) == ()


def test_signs_at_the_edge_belong_to_the_phrase(synonyms):
    assert added(synonyms, "is C++ fast?") == {("C++", "cpp")}
    assert added(synonyms, "a (.NET) app") == {(".NET", "dotnet")}


def test_what_the_question_says_is_not_added(synonyms):
    assert synonyms.expand("car automobile motor") == (
        Expansion("motor", 15, 20, "engine", ("engin",), 0.5),  # both others are there
    )
    assert [found.phrase for found in synonyms.expand("GPU or GPU")] == ["GPU"]


def test_lines_that_share_a_phrase_add_up(load):
    assert added(load("a1, b1\na1 => c1\n"), "a1") == {("a1", "b1"), ("a1", "c1")}


def test_two_spellings_of_a_phrase_both_bring_theirs(load):
    assert added(load("colour => hue\nColours => shade\n"), "colours") == {("colours", "hue"), ("colours", "shade")}


def test_the_fingerprint_names_the_list_and_the_analysis(load):
    words = Analyzer(UserDictionary({"词语": None}, "one"))
    prints = {load("a1, b1").fingerprint, load("a1 => b1").fingerprint, load("a1, b1", words).fingerprint}
    assert len(prints) == 3
    assert load("# again\n\nb1、a1").fingerprint == load("a1, b1").fingerprint


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("car", "one phrase alone"),
        ("car, car", "one phrase alone"),
        ("car, , bus", "the phrase ''"),
        ("+++, bus", r"the phrase '\+\+\+'"),
        ("car =>", "the phrase ''"),
        ("a1 => b1, c1", "2 phrases right of the arrow"),
        ("a1 => b1 => c1", "2 arrows"),
        (", ".join(f"w{number}" for number in range(33)), "33 phrases"),
        ("a1, " + "b" * 129, "a phrase of 129 characters"),
    ],
)
def test_a_wrong_line_is_named(load, line, found):
    with pytest.raises(ConfigError, match=rf"synonyms\.txt, line 3: found {found}"):
        load(f"# first\na1, b1\n{line}\n")


def test_too_much_is_refused(load):
    with pytest.raises(ConfigError, match="line 65: found more than 64 synonyms for 'a1'"):
        load("\n".join(f"a1 => b{number}" for number in range(65)))
    with pytest.raises(ConfigError, match="more than 100,000 phrases"):
        load("\n".join(f"a{number} => b" for number in range(100_001)))


@given(st.text(alphabet="car motrs GPU显卡北京.NETC+-_'\n", max_size=60))
def test_stretches_are_exact_and_terms_are_new(question):
    synonyms = Synonyms({"car": ("motor car",), "motor": ("engine",), "显卡": ("GPU",), "C++": ("cpp",)}, ANALYZER)
    known = set(ANALYZER.terms(question))
    place = (-1, 0)
    for found in synonyms.expand(question):
        assert question[found.start : found.end] == found.phrase != ""
        assert found.start >= place[1] or (found.start, found.end) == place
        place = (found.start, found.end)
        assert found.terms
        assert not known & set(found.terms)
        known |= set(found.terms)
        assert found.weight * len(found.terms) == pytest.approx(0.5)


@pytest.mark.timeout(60)
def test_time_is_linear_in_the_question(synonyms):
    """A second; what compares every pair of its 350,000 terms needs hours."""
    synonyms.expand("motor state of the " * 20_000 + "北京大" * 20_000)

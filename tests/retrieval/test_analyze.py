"""Text to index terms: which forms meet, where they stand, and that no text is too strange or too long."""

from __future__ import annotations

import re
import threading
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.analyze import (
    MAX_DICTIONARY_WORDS,
    MAX_LIST_BYTES,
    MAX_TERM_CHARS,
    Analyzer,
    UserDictionary,
    is_stop_word,
    simplified_characters,
)
from retrieval.errors import ConfigError

INDEX = Analyzer()
HOSTILE = st.text(alphabet=st.characters(), max_size=120)  # lone surrogates included
MIXED = st.text(
    alphabet=st.sampled_from(
        "abcXYZ éÉßİſ19٣½_-'’.,+\n"
        "\u0301\u200b\u200d\xad\ufe0f的是战国戰國无双⼈〇ひらカｶﾞ\u3099・한ᄒ\u1161ᆫไทย。हि🧑\ud800𠀀"
    ),
    max_size=60,
)
TEXTS = st.one_of(HOSTILE, MIXED)


@pytest.fixture
def dictionary(tmp_path):
    def make(*lines, encoding="utf-8"):
        path = tmp_path / "words.txt"
        path.write_bytes("\n".join(lines).encode(encoding))
        return UserDictionary.load(path)

    return make


# Words of spaced scripts


@pytest.mark.parametrize(
    "forms",
    [
        ("cats", "cat", "CATS", "Cat", "cat's", "cats’", "ｃａｔ"),
        ("walking", "walked", "walks", "walk"),
        ("studies", "study"),
        ("raise", "raises", "raised", "raising"),
        ("executes", "execute", "executed", "executing"),
        ("quickly", "quick"),
        ("café", "cafe\u0301", "CAFE", "cafés"),
        ("Straße", "STRASSE"),
        ("İstanbul", "istanbul", "Istanbul"),
        ("ﬁne", "fine"),
        ("co\xadoperate", "cooperate"),
        ("GPUs", "GPU", "gpu"),
        ("U.S.", "US"),
        ("Ελλάς", "ΕΛΛΑΣ"),
        ("Ёлка", "елка"),
        ("מִלָּה", "מלה"),
        ("1,000", "1000", "１０００", "١٠٠٠"),
        ("v0.1.0", "0.1.0", "V0.1.0"),
        ("3.5e-5", "3.5E-5"),
        ("3e+5", "3e5"),
    ],
)
def test_forms_of_a_word_meet_in_one_term(forms):
    assert len({tuple(INDEX.terms(form)) for form in forms}) == 1
    assert len(INDEX.terms(forms[0])) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("red", "reed"), ("cat", "car"), ("string", "str"), ("3-5", "35"), ("4.38.2", "4.38.20"), ("की", "का")],
)
def test_other_words_do_not(one, other):
    assert not set(INDEX.terms(one)) >= set(INDEX.terms(other))


def test_stop_words_are_left_out_and_repeats_stay():
    assert INDEX.terms("What is the cat to the other cat?") == ["cat", "other", "cat"]
    assert INDEX.terms("the of and; we don't, they're; it's, e.g. that") == []
    assert INDEX.terms("什么") == ["什"]
    assert is_stop_word("The")
    assert not is_stop_word("US")  # a country


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from_pretrained", "from_pretrained pretrain"),
        ("BitsAndBytesConfig", "bitsandbytesconfig bit byte config"),
        ("load_in_4bit", "load_in_4bit load 4 bit"),
        ("torch.nn.Linear", "torch.nn.linear torch nn linear"),
        ("--no-build-isolation", "nobuildisol build isol"),
        ("HTTPServer2", "httpserver2 http server 2"),
        ("wav2vec2", "wav2vec2 wav 2 vec 2"),
        ("try_stmt: self.else-clause!", "try_stmt tri stmt self.elseclaus self els claus"),
        ("4.38.2 1,000,000.5 2024", "4.38.2 1000000.5 2024"),
        ("ISO-8601", "iso8601 iso 8601"),
        ("python3.11", "python3.11 python 3.11"),
        ("gpt-3.5-turbo", "gpt3.5turbo gpt 3.5 turbo"),
        ("2024-01-15", "2024-01-15 2024 01 15"),
        ("e-mails", "email e mail"),
        ("O'Brien", "o brien"),
        ("a1, 2,3", "a1 1 2 3"),
    ],
)
def test_identifiers_are_split_and_kept_whole_and_numbers_only_whole(text, expected):
    expected = expected.replace("self.elseclaus", "self.elseclause")  # dots keep it from the stemmer
    assert INDEX.terms(text) == expected.split()


@pytest.mark.parametrize(("one", "other"), [("e-mail", "emails"), ("GPT-4o", "GPT4o"), ("YouTube", "youtube")])
def test_joined_and_closed_up_forms_meet(one, other):
    assert set(INDEX.terms(one)) & set(INDEX.terms(other))


# Scripts without spaces


def test_chinese_gives_words_bigrams_and_characters_each_once():
    # jieba: 神经网络; the bigrams are words of two as well, and counted once
    assert INDEX.terms("神经网络") == ["神经网络", "神经", "神", "经网", "经", "网络", "网", "络"]
    assert INDEX.terms("猫") == ["猫"]
    assert INDEX.terms("Python的类") == ["python", "的类", "类"]
    assert INDEX.terms("无双3的") == ["无双", "无", "双", "3"]  # the last one is a stop word


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("國際電腦網路", "国际电脑网路"),
        ("⼈民", "人民"),
        ("薴", "苎"),
        ("ｶﾞｯﾂ", "ガッツ"),
        ("か\u3099", "が"),
        ("한국", "한국"),
    ],
)
def test_writings_of_one_text_meet(one, other):
    assert INDEX.terms(one) == INDEX.terms(other) != []


def test_the_table_of_characters_is_one_to_one_and_final():
    table = simplified_characters()
    assert len(table) > 4000
    assert all(len(simple) == 1 and ord(simple) not in table for simple in table.values())


def test_other_scripts_without_spaces_give_bigrams():
    for text in ("ひらがな", "ภาษาไทย", "한국어"):
        assert INDEX.terms(text) == [text[i : i + 2] for i in range(len(text) - 1)]


# Every text


def properties_of(analyzer, text):
    located = list(analyzer.located_terms(text))
    assert [term for term, _, _ in located] == analyzer.terms(text)
    assert {term for term, _, _ in located} == analyzer.term_set(text)
    assert [start for _, start, _ in located] == sorted(start for _, start, _ in located)
    for term, start, end in located:
        assert 0 <= start < end <= len(text)
        assert any(
            unicodedata.category(character) == "Cn" or unicodedata.category(character)[0] in "LNM" for character in term
        )  # or not yet assigned, in the block of a script without spaces
        assert not re.search(r"\s", term)
        assert len(term) <= MAX_TERM_CHARS
    return located


@given(TEXTS)
def test_the_three_views_agree_and_terms_are_words(text):
    for _, start, end in properties_of(INDEX, text):
        assert not any(letter.isspace() for letter in text[start:end])


@given(st.text(alphabet="abÉİß19_-.,' \n戰国ひｶﾞ", max_size=30))
def test_a_term_is_found_again_in_the_stretch_it_stands_for(text):
    for term, start, end in INDEX.located_terms(text):
        assert term in INDEX.terms(text[start:end])


def test_offsets_are_exact_where_folding_changes_lengths():
    text = "İİ ﬁne Straße ｶﾞｯﾂ cafe\u0301s 電腦"
    places = {term: text[start:end] for term, start, end in INDEX.located_terms(text)}
    assert places == {
        "ii": "İİ", "fine": "ﬁne", "strass": "Straße", "ガッ": "ｶﾞｯ", "ッツ": "ｯﾂ", "cafe": "cafe\u0301s",
        "电脑": "電腦", "电": "電", "脑": "腦",
    }  # fmt: skip


@given(MIXED, MIXED)
def test_white_space_separates_and_changes_nothing_else(one, other):
    assert INDEX.terms(f"  {one} \n{other}\u3000") == INDEX.terms(one) + INDEX.terms(other)


@given(TEXTS)
def test_pieces_do_not_overlap(text):
    end = 0
    for piece in INDEX.pieces(text):
        assert end <= piece.start < piece.end <= len(text)
        end = piece.end


def test_pieces_know_where_words_begin():
    def words(text):
        return "".join("<" * p.opens + text[p.start : p.end] + ">" * p.closes for p in INDEX.pieces(text))

    assert words("car-rental CarRental 火车站 在") == "<car><rental><CarRental><火车站><在>"
    assert words("한국어를") == "<한>국>어>를>"  # a particle may follow anywhere


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    [
        "a", "a ", "猫", "猫。", "ing", "_", "\u0301", "a\u0301\u0323", " ", "İ", "\ud800", "1", "1.", ",000",
        "A", "a_", "aB", "a-", "a'", "\x00\x01", "ᄒ", "ｶﾞ", "\xad", "é-", "ﷺ",
    ],
)  # fmt: skip
def test_time_is_linear_in_the_text(piece):
    """Half a second at most; what looks at every pair of places needs minutes or hours."""
    INDEX.terms(piece * 100_000)


def test_a_longer_word_is_indexed_by_its_beginning():
    assert INDEX.terms("1" * 1_000_000) == ["1" * MAX_TERM_CHARS]
    assert INDEX.terms("é" * 1_000_000) == ["e" * MAX_TERM_CHARS]
    assert INDEX.terms("ﷺ" * 100_000)[0] == INDEX.terms("ﷺ" * MAX_TERM_CHARS)[0]


# The user's dictionary


def test_a_dictionary_word_is_kept_whole_wherever_it_stands(dictionary):
    analyzer = Analyzer(
        dictionary("卷积神经网络", "T恤 3 n", "C++ 5", ".NET eng", "GPT-4o", "machine learning", "Λόγος")
    )
    found = {term: (start, end) for term, start, end in analyzer.located_terms("用卷積神經網絡买t恤")}
    assert found["卷积神经网络"] == (1, 7)
    assert found["t恤"] == (8, 10)
    assert {"c++", ".net", "gpt-4o", "machine_learning"} <= analyzer.term_set("ASP.NET, C++; GPT-4O: Machine learning")
    assert {"c", "net", "gpt4o", "learn"} <= analyzer.term_set("ASP.NET, C++; GPT-4O: Machine learning")  # and the rest
    assert "λογοσ" in analyzer.terms("ΛΌΓΟΣ")


def test_never_inside_another_word_and_nested_ones_too(dictionary):
    analyzer = Analyzer(dictionary("T恤", "net", "net.core", "网络", "神经网络"))
    assert "t恤" not in analyzer.terms("AT恤")
    assert "net" not in analyzer.terms("internet networks")
    assert {"net", "net.core"} <= analyzer.term_set("net.core")
    assert analyzer.terms("神经网络").count("网络") == 1  # the bigram is the word


def test_one_dictionary_is_unknown_to_other_analyzers(dictionary):
    words = dictionary("战无不胜号", "云计算机房 100000 n")
    with_words, without = Analyzer(words), Analyzer()
    before = without.terms("云计算机房的战无不胜号")
    assert "云计算机房" in with_words.terms("云计算机房的战无不胜号")
    assert without.terms("云计算机房的战无不胜号") == before == Analyzer().terms("云计算机房的战无不胜号")
    assert "云计算机房" not in before


def test_the_fingerprint_names_words_and_weights_not_their_order(dictionary):
    one = Analyzer(dictionary("甲乙 3", "丙丁")).fingerprint
    assert one == Analyzer(dictionary("丙丁", "", "甲乙 9", "甲乙 3 n")).fingerprint  # the last line holds
    others = [Analyzer(dictionary("甲乙 4", "丙丁")), Analyzer()]
    assert len({one, *(other.fingerprint for other in others)}) == 3
    assert re.fullmatch("[0-9a-f]{64}", one)


def test_jiebas_format_is_read(dictionary):
    lines = "\ufeff云计算 5\r", "", "台中\r", "凱特琳 nz", "easy_install 3 eng", "Edu Trust认证 2000", "#metoo"
    assert dictionary(*lines).words == {
        "云计算": 5, "台中": None, "凱特琳": None, "easy_install": 3, "Edu Trust认证": 2000, "#metoo": None,
    }  # fmt: skip
    assert Analyzer(dictionary("")).terms("云计算") == INDEX.terms("云计算")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("# 注释", "no comments"),
        ("+++ 3", "expected: word"),
        ("词语 0", "the weight 0"),
        ("词语 99999999999999999999999", "the weight 9999"),
        ("a" * 129, "129 characters"),
    ],
)
def test_a_wrong_line_is_named(dictionary, line, found):
    with pytest.raises(ConfigError, match=rf"words\.txt, line 2: .*{found}"):
        dictionary("好词", line)


def test_a_wrong_file_is_named(tmp_path, dictionary):
    path = tmp_path / "words.txt"
    with pytest.raises(ConfigError, match=r"words\.txt: found no such file"):
        UserDictionary.load(path)
    path.write_bytes(b"good\nb\xffd")
    with pytest.raises(ConfigError, match="line 2: found byte 0xff; expected UTF-8"):
        UserDictionary.load(path)
    path.write_bytes(b"a" * (MAX_LIST_BYTES + 1))
    with pytest.raises(ConfigError, match="more than 10,000,000 bytes"):
        UserDictionary.load(path)
    with pytest.raises(ConfigError, match=r"line 200001: found more than 200,000 words"):
        dictionary(*(f"w{number}" for number in range(MAX_DICTIONARY_WORDS + 1)))


@settings(max_examples=50)
@given(st.lists(st.text(alphabet="ab战国戰+. İς", min_size=1, max_size=6), max_size=6), MIXED)
def test_a_dictionary_only_adds_and_may_move_where_long_chinese_words_begin(words, text):
    kept = {word.strip(): None for word in words if any(map(str.isalnum, word))}
    found = properties_of(Analyzer(UserDictionary(kept, "test")), text)
    lasting = [one for one in INDEX.located_terms(text) if not regex.fullmatch(r"\p{Han}{3,}", one[0])]
    assert [located for located in found if located in set(lasting)] == lasting


def test_threads_get_what_one_gets(dictionary):
    analyzer = Analyzer(dictionary("卷积神经网络"))
    texts = [f"the running dogs {number} 用卷积神经网络 {number}号国际電腦" for number in range(300)]
    alone = Analyzer(dictionary("卷积神经网络"))
    expected = [alone.terms(text) for text in texts]
    found = {}
    threads = [
        threading.Thread(target=lambda name: found.update({name: [*map(analyzer.terms, texts)]}), args=(number,))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == [expected] * 4

"""Late interaction against a slow oracle, by hand on tiny vectors, and exact to the character on the real encoder."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from doubles import TermsOf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retrieval.analyze import Analyzer, UserDictionary
from retrieval.encoder import Encoded, clean, passage_input
from retrieval.errors import EmptyTextError, IndexCorruptError
from retrieval.interaction import Interaction, Passage, SignCodec
from retrieval.records import EncoderSpec
from retrieval.sentences import sentences
from retrieval.statistics import Statistics

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TableEncoder:
    """Every known word is one token with a given vector; any other word is [UNK]."""

    def __init__(self, table, *, passage_prefix="", query_prefix=""):
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace

        self.vectors = np.array([np.zeros(len(next(iter(table.values())))), *table.values()], dtype=np.float32)
        vocabulary = {word: index for index, word in enumerate(["[UNK]", *table])}
        self.tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
        self.tokenizer.pre_tokenizer = Whitespace()
        self.spec = EncoderSpec(
            "table", "1", self.vectors.shape[1], 512, query_prefix=query_prefix, passage_prefix=passage_prefix
        )

    def encode(self, texts, *, query=False):
        prefix = self.spec.query_prefix if query else self.spec.passage_prefix
        for text in texts:
            encoding = self.tokenizer.encode(clean(prefix + text))
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) - len(prefix)
            ids = np.array(encoding.ids, dtype=np.int64)
            yield Encoded(self.vectors.sum(axis=0), self.vectors[ids], ids, offsets)


def plain_codec(dimension):
    """Codes are the signs of the vector itself."""
    return SignCodec(np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32))


def passage_of(encoder, codec, text, context=""):
    (encoded,) = encoder.encode([passage_input(context, text)])
    return Passage(text, codec.encode(encoded.tokens), context)


# Rows of a Hadamard matrix: each is its own sign pattern, and any two are orthogonal. Similarities are 0 or 1.
HADAMARD = np.array([[(-1) ** (row & column).bit_count() for column in range(8)] for row in range(8)])
HAND = TableEncoder(
    {word: HADAMARD[row] / math.sqrt(8) for row, word in enumerate(["alpha", "beta", "gamma", "delta"])}
)
ANALYZER = Analyzer()


def interaction_of(encoder, codec, *texts, analyzer=ANALYZER):
    """With the statistics of some texts, a chunk each; of none without any."""
    statistics = Statistics(encoder.tokenizer.get_vocab_size())
    for encoded in encoder.encode(list(texts)):
        statistics.add(encoded.ids.tolist())
    return Interaction(encoder, codec, statistics, analyzer, TermsOf(*texts, analyzer=analyzer))


@pytest.fixture
def by_hand():
    return interaction_of(HAND, plain_codec(8))


def signs_of(codes):
    """Bits as +1 and -1, the highest bit of a byte first."""
    bits = [[byte >> (7 - bit) & 1 for byte in code for bit in range(8)] for code in codes.tolist()]
    return np.array(bits, dtype=np.float64).reshape(len(codes), -1) * 2 - 1


# ---- the codec -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(2, 60))
@settings(max_examples=15, deadline=None)
def test_codec_keeps_signs_and_returns_from_bytes(seed, tokens):
    vectors = np.random.default_rng(seed).standard_normal((tokens, 24)).astype(np.float32)
    codec = SignCodec.fit(vectors, bits=16)
    codes = codec.encode(vectors)
    assert codes.shape == (tokens, 2)
    assert codes.dtype == np.uint8
    assert codec.bytes_per_token == 2
    signs = signs_of(codes)
    projected = codec.project(vectors)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1, rtol=1e-5)
    clear = np.abs(projected) > 1e-4
    np.testing.assert_array_equal((projected > 0)[clear], (signs > 0)[clear])
    np.testing.assert_allclose(codec.similarities(codes, projected), signs / 4 @ projected.T, atol=1e-5)

    read = SignCodec.load(codec.dump(), dimension=24)
    assert read.dump() == codec.dump()
    np.testing.assert_array_equal(read.encode(vectors), codes)
    np.testing.assert_array_equal(read.project(vectors), projected)


def test_principal_components_come_first():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 16)) * np.array([9, 7, 5, 4, 3, 2.5, 2, 1.5] + [0.01] * 8)).astype(np.float32)
    projected = (vectors - vectors.mean(axis=0)) @ SignCodec.fit(vectors, bits=8)._basis
    np.testing.assert_allclose(np.var(projected, axis=0), sorted(np.var(vectors, axis=0), reverse=True)[:8], rtol=0.05)


def test_the_bundled_encoder_takes_16_bytes_a_token(encoder):
    (encoded,) = encoder.encode(["The else clause is executed when no exception was raised."])
    codec = SignCodec.fit(encoded.tokens)
    assert codec.bytes_per_token == 16
    assert codec.encode(encoded.tokens).nbytes == 16 * len(encoded.ids)
    assert len(codec.dump()) == 4 * 384 * 129


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 7, b"\0" * (4 * 24 * 8), b"\0" * (4 * 24 * 17 - 4), np.full(24 * 17, np.nan, "<f4").tobytes()],
)
def test_other_bytes_are_no_codec(data):
    with pytest.raises(IndexCorruptError, match="run: rag ingest --rebuild"):
        SignCodec.load(data, dimension=24)


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", "  \n", "\u3000"])
def test_a_blank_question_is_refused(by_hand, blank):
    with pytest.raises(EmptyTextError):
        by_hand.question(blank)


def test_weights_by_hand():
    """Idf with twenty pseudo-chunks: a word of one of two chunks log(1 + 20.5/2.5), of both log(1 + 19.5/3.5)."""
    question = interaction_of(HAND, plain_codec(8), "alpha beta", "alpha").question("alpha, beta omega?")
    rare, common, unseen = math.log(1 + 20.5 / 2.5), math.log(1 + 19.5 / 3.5), math.log(1 + 21.5 / 1.5)
    weights = dict(zip(["alpha", ",", "beta", "omega", "?"], question.weights, strict=True))
    assert weights[","] == weights["?"] == weights["omega"] == 0  # punctuation, punctuation, [UNK]
    assert weights["alpha"] == pytest.approx(common / (common + rare))
    assert weights["beta"] == pytest.approx(rare / (common + rare))
    assert question.known == question.readable == pytest.approx(2 / 5)
    total = common + rare + unseen
    assert question.term_weights == pytest.approx(
        {"alpha": common / total, "beta": rare / total, "omega": unseen / total}
    )


def test_a_stop_word_weighs_three_tenths_and_is_no_term():
    words = TableEncoder({"how": HADAMARD[0], "alpha": HADAMARD[1]})
    question = interaction_of(words, plain_codec(8)).question("how alpha how")
    np.testing.assert_allclose(question.weights, np.array([0.3, 1, 0.3]) / 1.6)
    assert question.term_weights == {"alpha": 1}


def test_idf_of_terms_is_that_of_the_lexical_index():
    interaction = interaction_of(HAND, plain_codec(8), "alpha beta", "alpha")
    np.testing.assert_allclose(
        interaction.term_idf(["alpha", "beta", "omega"]),
        [math.log(1 + 19.5 / 3.5), math.log(1 + 20.5 / 2.5), math.log(1 + 21.5 / 1.5)],
    )
    assert interaction.term_idf([]).shape == (0,)


def test_a_word_of_the_users_dictionary_is_a_term(tmp_path):
    (tmp_path / "words.txt").write_text("alpha beta 100\n", encoding="utf-8")
    analyzer = Analyzer(UserDictionary.load(tmp_path / "words.txt"))
    question = interaction_of(HAND, plain_codec(8), analyzer=analyzer).question("alpha beta gamma")
    assert set(question.term_weights) == {"alpha", "beta", "alpha_beta", "gamma"}


def test_a_prefix_is_no_part_of_the_question():
    prefixed = TableEncoder({"alpha": HADAMARD[0], "query": HADAMARD[1]}, query_prefix="query query ")
    question = interaction_of(prefixed, plain_codec(8)).question("alpha")
    assert question.offsets.tolist() == [[0, 5]]
    assert question.weights.tolist() == [1]


@given(st.text(max_size=60))
@example("???")
@example("\x00\x01")
@example("\ud800")
@example("🧑‍🚀")
@relaxed
def test_weights_sum_to_one_or_there_are_none(readable, text):
    if not text.strip():
        return
    question = readable[0].question(text)
    for total in (question.weights.sum(), sum(question.term_weights.values())):
        assert total == pytest.approx(1) or total == 0
    assert (question.weights >= 0).all()
    assert 0 <= question.known == question.readable <= 1
    assert set(question.term_weights) == set(ANALYZER.terms(text))


def test_how_much_of_a_question_the_encoder_reads(readable):
    interaction, _ = readable
    assert interaction.question("When is the else clause executed?").known == 1
    assert interaction.question("《战国无双3》是由哪两个公司合作开发的？").known < 0.8


@pytest.mark.parametrize(("text", "share"), [("alpha", 1), ("alpha omega ? ?", 1 / 4), ("omega", 0)])
def test_without_a_codec_nothing_is_known_and_as_much_is_readable(text, share):
    question = interaction_of(HAND, None).question(text)
    assert question.known == 0
    assert question.readable == interaction_of(HAND, plain_codec(8)).question(text).known == share


# ---- comparing -------------------------------------------------------------------------------------------------------

WORDS = [f"word{number}" for number in range(12)]
RANDOM = TableEncoder(dict(zip(WORDS, np.random.default_rng(7).standard_normal((12, 16)), strict=True)))
RANDOM_CODEC = SignCodec.fit(RANDOM.vectors)
TEXT = st.lists(st.sampled_from([*WORDS, "unknown", "?"]), max_size=8).map(" ".join)


def oracle(question, codes):
    """The definition, a passage and a token at a time: best, whole, nearby, phrases."""
    tokens, weights = question.tokens.tolist(), question.weights.tolist()
    m = len(weights)
    if question.known == 0 or not len(codes):
        return [0.0] * m, 0.0, [0.0] * 3, [0.0] * 2
    rows = (signs_of(codes) / math.sqrt(codes.shape[1] * 8)).tolist()
    similar = [[sum(a * b for a, b in zip(token, row, strict=True)) for token in tokens] for row in rows]

    def matched(first, end):
        best = [max(row[i] for row in similar[first:end]) for i in range(m)]
        return sum(weight * one for weight, one in zip(weights, best, strict=True))

    best = [max(row[i] for row in similar) for i in range(m)]
    nearby = [max(matched(at, at + width) for at in range(0, len(rows), width // 2)) for width in (16, 32, 64)]
    return best, matched(0, len(rows)), nearby, oracle_phrases(similar, weights)


def oracle_phrases(similar, weights):
    pairs = [(one + other) / 2 for one, other in pairwise(weights)]
    if sum(pairs) == 0:  # one word is no phrase, and is matched by itself
        alone = max(sum(weight * one for weight, one in zip(weights, row, strict=True)) for row in similar)
        return [alone, alone]
    mean = worse = 0.0
    beyond = [-1.0] * len(weights)  # after the last token there is one that matches nothing
    for i, pair in enumerate(pairs):
        found = [(row[i], after[i + 1]) for row, after in zip(similar, [*similar[1:], beyond], strict=True)]
        mean += pair / sum(pairs) * max((left + right) / 2 for left, right in found)
        worse += pair / sum(pairs) * max(min(left, right) for left, right in found)
    return [mean, worse]


def assert_is_the_oracle(compared, question, codes):
    expected = [oracle(question, each) for each in codes]
    assert compared.best.shape == (len(codes), len(question.weights))
    assert (compared.whole.shape, compared.nearby.shape, compared.phrases.shape) == (
        (len(codes),), (len(codes), 3), (len(codes), 2)
    )  # fmt: skip
    for at, name in enumerate(("best", "whole", "nearby", "phrases")):
        found = getattr(compared, name)
        assert found.dtype == np.float32
        for row, one in zip(found, expected, strict=True):
            np.testing.assert_allclose(row, one[at], atol=2e-5, err_msg=name)


def random_codes(seed, lengths, *, size=2):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (length, size), dtype=np.uint8) for length in lengths]


LENGTHS = st.lists(st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65, 100])), max_size=6)
ASKED = TEXT.filter(str.strip)


@given(ASKED, LENGTHS, st.integers(0, 1000))
@example("word1", [31, 32, 33], 0)
@example("word1 ? ? word2", [64, 0, 1], 1)
@example("unknown", [3], 2)
@example("? ?", [3], 3)
@settings(max_examples=40, deadline=None)
def test_comparing_is_what_the_definition_says(asked, lengths, seed):
    question = interaction_of(RANDOM, RANDOM_CODEC, "word0 word1").question(asked)
    codes = random_codes(seed, lengths)
    compared = interaction_of(RANDOM, RANDOM_CODEC).compare(question, codes)
    assert_is_the_oracle(compared, question, codes)


@given(ASKED, LENGTHS, st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_comparison_does_not_depend_on_who_is_compared_beside(asked, lengths, seed, random):
    """Passages lie side by side in one table: neither a window nor a pair may reach into the next one."""
    interaction = interaction_of(RANDOM, RANDOM_CODEC)
    question, codes = interaction.question(asked), random_codes(seed, lengths)
    order = list(range(len(codes)))
    random.shuffle(order)
    together = interaction.compare(question, [codes[at] for at in order])
    for row, at in enumerate(order):
        alone = interaction.compare(question, [codes[at]])
        for name in ("best", "whole", "nearby", "phrases"):
            np.testing.assert_allclose(getattr(together, name)[row], getattr(alone, name)[0], atol=1e-6)


def codes_of(*texts):
    return [passage_of(HAND, plain_codec(8), text).codes for text in texts]


def test_a_pair_does_not_reach_into_the_next_passage(by_hand):
    """However long the passage: at 31, 32 and 33 tokens the room after it is 1, 32 and 31."""
    question = by_hand.question("alpha beta")
    for fill in (0, 30, 31, 32):
        first, second = "gamma " * fill + "alpha", "beta" + " gamma" * fill
        apart = by_hand.compare(question, codes_of(first, second))
        assert apart.phrases[:, 1].max() <= 0
        (joined,) = by_hand.compare(question, codes_of(f"{first} {second}")).phrases
        np.testing.assert_allclose(joined, 1, atol=1e-6)


def test_windows_by_hand(by_hand):
    """Windows begin at every half of their width, so words 9 tokens apart may share one of 16 and may not.

    alpha at 7, beta at 16: windows of 16 begin at 0, 8, ...: never both (1/2); those of 32 begin at 0: both.
    alpha at 8, beta at 17: both in the window that begins at 8.
    alpha at 0, beta at 40: windows of 32 begin at 0, 16, 32: never; of 64: both.
    """
    question = by_hand.question("alpha beta")

    def placed(first, second):
        words = ["gamma"] * 70
        words[first], words[second] = "alpha", "beta"
        return " ".join(words)

    compared = by_hand.compare(question, codes_of(placed(7, 16), placed(8, 17), placed(0, 40)))
    np.testing.assert_allclose(compared.nearby, [[0.5, 1, 1], [1, 1, 1], [0.5, 0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(compared.whole, [1, 1, 1], atol=1e-6)


def test_phrases_by_hand(by_hand):
    """Question alpha beta gamma, weights 1/3 each, so both pairs weigh 1/2.

    alpha beta x:   first pair (1, 1); second pair (1, 0) or (0, 0): mean (1 + 1/2) / 2, worse (1 + 0) / 2.
    beta alpha:     "alpha beta" at best (1, 0) or (0, 1), "beta gamma" (1, 0): mean 1/2, worse at most 0.
    """
    question = by_hand.question("alpha beta gamma")
    compared = by_hand.compare(question, codes_of("alpha beta delta", "beta alpha delta"))
    np.testing.assert_allclose(compared.phrases, [[0.75, 0.5], [0.5, 0]], atol=1e-6)


def test_one_word_is_its_own_phrase(by_hand):
    compared = by_hand.compare(by_hand.question("alpha"), codes_of("gamma alpha", "beta"))
    np.testing.assert_allclose(compared.phrases, [[1, 1], [0, 0]], atol=1e-6)


def test_many_passages_are_compared_in_blocks(by_hand):
    question = by_hand.question("alpha beta")
    compared = by_hand.compare(question, codes_of(*["alpha", "alpha beta", "", "gamma"] * 150))
    np.testing.assert_allclose(compared.whole, [0.5, 1, 0, 0] * 150, atol=1e-6)
    np.testing.assert_allclose(compared.nearby[:, 0], [0.5, 1, 0, 0] * 150, atol=1e-6)
    np.testing.assert_allclose(compared.best, [[1, 0], [1, 1], [0, 0], [0, 0]] * 150, atol=1e-6)


def test_nothing_to_compare(by_hand):
    compared = by_hand.compare(by_hand.question("alpha beta"), [])
    assert (compared.best.shape, compared.whole.shape) == ((0, 2), (0,))
    none = by_hand.compare(by_hand.question("alpha"), codes_of("", "", ""))
    assert not none.best.any()
    assert not none.whole.any()
    assert not none.nearby.any()
    assert not none.phrases.any()


def test_codes_without_a_codec_are_noticed(by_hand):
    question = by_hand.question("alpha")
    with pytest.raises(IndexCorruptError, match="codes but no codec; run: rag ingest --rebuild"):
        interaction_of(HAND, None).compare(question, codes_of("alpha"))


# ---- how well a passage matches --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_match_by_hand(scores):
    """alpha omega ? ?: a quarter is known, .85 of which is MaxSim; the rest is overlap."""
    interaction = interaction_of(HAND, plain_codec(8))
    question = interaction.question("alpha omega ? ?")
    whole, overlap = (np.array([pair[at] for pair in scores]) for at in (0, 1))
    expected = [0.85 / 4 * one + (1 - 0.85 / 4) * other for one, other in scores]
    matched = interaction.match(question, whole.astype(np.float32), overlap)
    np.testing.assert_allclose(matched, expected, atol=1e-6)


def test_a_question_the_encoder_cannot_read_is_scored_by_terms_alone(by_hand):
    passage = passage_of(HAND, plain_codec(8), "omega psi")
    question = by_hand.question("omega psi")
    assert question.known == 0
    compared = by_hand.compare(question, [passage.codes])
    assert not compared.best.any()
    assert by_hand.match(question, compared.whole, np.array([0.5])) == [0.5]
    np.testing.assert_allclose(by_hand.score_spans(question, passage, [(0, 5), (6, 9), (5, 6)]), [0.5, 0.5, 0])


def test_an_index_without_a_codec_is_scored_by_terms_alone():
    interaction = interaction_of(HAND, None)
    none = np.zeros((0, 0), np.uint8)
    question = interaction.question("alpha beta")
    assert not interaction.compare(question, [none, none]).whole.any()
    np.testing.assert_allclose(interaction.score_spans(question, Passage("beta", none), [(0, 4)]), [0.5])
    assert [match.weight for match in interaction.matches(question, Passage("beta", none), (0, 4))] == [0.5]


def test_a_sentence_is_lent_half_of_what_the_one_before_it_has(by_hand):
    """Question alpha beta, weights 1/2 each.

    alpha .  matches (1, 0)                          -> 1/2
    beta .   matches (0, 1), lent (1/2, 1/2)         -> max (1/2, 1)   = 3/4
    gamma .  matches (0, 0), lent (0, 1) / 2 of its  -> (0, 1/2)       = 1/4; only from its neighbour
    delta .  nothing before it matched               -> 0
    """
    text = "alpha . beta . gamma . delta ."
    spans = [(0, 7), (8, 14), (15, 22), (23, 30)]
    passage = passage_of(HAND, plain_codec(8), text)
    question = by_hand.question("alpha beta")
    np.testing.assert_allclose(by_hand.score_spans(question, passage, spans), [1 / 2, 3 / 4, 1 / 4, 0], atol=1e-6)
    np.testing.assert_allclose(by_hand.score_spans(question, passage, spans[1:2]), [1 / 2], atol=1e-6)
    assert by_hand.score_spans(question, passage, []).shape == (0,)


def test_words_of_context_and_prefix_belong_to_no_sentence():
    codec = plain_codec(8)
    encoder = TableEncoder({"alpha": HADAMARD[0], "beta": HADAMARD[1]}, passage_prefix="beta: ")
    interaction = interaction_of(encoder, codec)
    question = interaction.question("alpha")
    passage = passage_of(encoder, codec, "beta", context="alpha")
    assert interaction.compare(question, [passage.codes]).whole[0] == pytest.approx(1)  # the passage as a whole has it
    assert interaction.score_spans(question, passage, [(0, 4)])[0] == 0
    (match,) = interaction.matches(question, passage, (0, 4))
    assert (passage.text[match.start : match.end], match.similarity) == ("beta", 0)


def test_codes_of_another_text_are_noticed(by_hand):
    passage = passage_of(HAND, plain_codec(8), "alpha beta")
    wrong = Passage("alpha beta gamma", passage.codes)
    with pytest.raises(IndexCorruptError, match="2 token codes but 3 tokens; run: rag ingest --rebuild"):
        by_hand.score_spans(by_hand.question("alpha"), wrong, [(0, 5)])


# ---- explanations ----------------------------------------------------------------------------------------------------

ELSE = (
    "# Compound statements\n\nThe try statement specifies exception handlers. The optional else clause is executed if "
    "the control flow leaves the try suite and no exception was raised. Exceptions in the else clause are not handled."
)
MIXED = "《战国无双3》由光荣开发。The Koei-tokenizers (2009) 发售了战国无双。"


@pytest.fixture(scope="session")
def readable(encoder):
    """The real encoder's interaction, and the codec it uses."""
    encoded = list(encoder.encode([ELSE, MIXED, "Cats sleep all day. Dogs bark at night, loudly and happily."]))
    codec = SignCodec.fit(np.concatenate([one.tokens for one in encoded]))
    return interaction_of(encoder, codec, ELSE, MIXED), codec


def assert_whole_word(text, start, end):
    assert 0 <= start < end <= len(text)
    for outside, inside in ((start - 1, start), (end, end - 1)):
        if 0 <= outside < len(text) and max(text[outside], text[inside]) < "\u2e80":
            assert not (text[outside].isalnum() and text[inside].isalnum())


QUESTIONS = [
    "When is the else clause executed?",
    "untokenized exceptionhandlers, otherwise-executed?",
    "《战国无双3》是由哪个公司开发的？",
    "Who made 战国无双 战国无双 战国无双 and the tokenizers?",
    "战国 else",
    "???",
    "🧑‍🚀 \ud800",
]


@pytest.mark.parametrize("asked", QUESTIONS)
@pytest.mark.parametrize("text", [ELSE, MIXED])
def test_matches_are_whole_words_whose_weights_are_shares(encoder, readable, asked, text):
    interaction, codec = readable
    passage = passage_of(encoder, codec, text)
    question = interaction.question(asked)
    for span in sentences(text):
        found = interaction.matches(question, passage, span)
        assert sum(match.weight for match in found) <= 1 + 1e-6
        places = [(match.question_start, match.question_end) for match in found]
        assert places == sorted(set(places))
        for match in found:
            assert_whole_word(asked, match.question_start, match.question_end)
            assert_whole_word(text, match.start, match.end)
            assert span[0] <= match.start < match.end <= span[1]
            assert match.weight > 0
            assert 0 <= match.similarity <= 1


@given(st.text(max_size=40), st.text(max_size=80))
@relaxed
def test_matches_hold_on_any_text(encoder, readable, asked, text):
    interaction, codec = readable
    if not asked.strip():
        return
    passage = passage_of(encoder, codec, text)
    found = interaction.matches(interaction.question(asked), passage, (0, len(text)))
    assert sum(match.weight for match in found) <= 1 + 1e-6
    for match in found:
        assert_whole_word(asked, match.question_start, match.question_end)
        assert_whole_word(text, match.start, match.end)


def test_the_words_that_answer_match_themselves(encoder, readable):
    interaction, codec = readable
    asked = "Is the else clause executed?"
    (span,) = [span for span in sentences(ELSE) if "optional" in ELSE[span[0] : span[1]]]
    found = interaction.matches(interaction.question(asked), passage_of(encoder, codec, ELSE), span)
    pairs = {asked[one.question_start : one.question_end]: ELSE[one.start : one.end] for one in found}
    assert pairs["else"] == "else"
    assert pairs["clause"] == "clause"
    assert pairs["executed"] == "executed"


def test_the_sentence_that_answers_is_the_best(encoder, readable):
    interaction, codec = readable
    spans = sentences(ELSE)
    scores = interaction.score_spans(
        interaction.question("When is the else clause executed?"), passage_of(encoder, codec, ELSE), spans
    )
    start, end = spans[int(scores.argmax())]
    assert "no exception was raised" in ELSE[start:end]

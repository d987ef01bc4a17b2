"""Late interaction against a slow oracle, by hand on tiny vectors, and exact to the character on the real encoder."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retrieval.analyze import term_set, terms
from retrieval.encoder import Encoded, clean, passage_input
from retrieval.errors import EmptyTextError, IndexCorruptError
from retrieval.interaction import Interaction, Passage, SignCodec
from retrieval.records import EncoderSpec
from retrieval.rerank import rerank
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
NOTHING_COUNTED = Statistics(5)


@pytest.fixture
def by_hand():
    return Interaction(HAND, plain_codec(8), NOTHING_COUNTED)


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
    signs = codec.signs(codes)
    np.testing.assert_allclose(np.linalg.norm(signs, axis=1), 1, rtol=1e-6)
    projected = codec.project(vectors)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1, rtol=1e-5)
    clear = np.abs(projected) > 1e-4
    np.testing.assert_array_equal((projected > 0)[clear], (signs > 0)[clear])

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
    statistics = Statistics(5)
    statistics.add([1, 2], ["alpha", "beta"])
    statistics.add([1], ["alpha"])
    question = Interaction(HAND, plain_codec(8), statistics).question("alpha, beta omega?")
    rare, common = math.log(1 + 20.5 / 2.5), math.log(1 + 19.5 / 3.5)
    weights = dict(zip(["alpha", ",", "beta", "omega", "?"], question.weights, strict=True))
    assert weights[","] == weights["?"] == weights["omega"] == 0  # punctuation, punctuation, [UNK]
    assert weights["alpha"] == pytest.approx(common / (common + rare))
    assert weights["beta"] == pytest.approx(rare / (common + rare))
    assert question.known == pytest.approx(2 / 5)
    unseen = math.log(1 + 21.5 / 1.5)
    assert question.term_weights == pytest.approx(
        {
            "alpha": common / (common + rare + unseen),
            "beta": rare / (common + rare + unseen),
            "omega": unseen / (common + rare + unseen),
        }
    )


def test_a_prefix_is_no_part_of_the_question():
    prefixed = TableEncoder({"alpha": HADAMARD[0], "query": HADAMARD[1]}, query_prefix="query query ")
    question = Interaction(prefixed, plain_codec(8), Statistics(3)).question("alpha")
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
    assert 0 <= question.known <= 1
    assert set(question.term_weights) == set(terms(text))


def test_how_much_of_a_question_the_encoder_reads(readable):
    interaction, _ = readable
    assert interaction.question("When is the else clause executed?").known == 1
    assert interaction.question("《战国无双3》是由哪两个公司合作开发的？").known < 0.8
    assert Interaction(HAND, None, NOTHING_COUNTED).question("alpha").known == 0  # without a codec there is no reading


# ---- scores ----------------------------------------------------------------------------------------------------------

WORDS = [f"word{number}" for number in range(12)]
RANDOM = TableEncoder(dict(zip(WORDS, np.random.default_rng(7).standard_normal((12, 16)), strict=True)))
TEXT = st.lists(st.sampled_from([*WORDS, "unknown", "?"]), max_size=8).map(" ".join)


def oracle(question, passage):
    """The definition, in loops: .85 of the known share is MaxSim, the rest is term overlap."""
    overlap = sum(weight for term, weight in question.term_weights.items() if term in term_set(passage.text))
    similarity = 0.0
    if len(passage.codes):
        rows = [
            [(1 if byte >> (7 - bit) & 1 else -1) / math.sqrt(16) for byte in code for bit in range(8)]
            for code in passage.codes.tolist()
        ]
        for token, weight in zip(question.tokens.tolist(), question.weights.tolist(), strict=True):
            similarity += weight * max(sum(a * b for a, b in zip(token, row, strict=True)) for row in rows)
    share = 0.85 * question.known
    return share * similarity + (1 - share) * overlap


@given(TEXT.filter(str.strip), st.lists(TEXT, max_size=6))
@settings(max_examples=40, deadline=None)
def test_score_is_what_the_definition_says_one_by_one_and_together(asked, texts):
    codec = SignCodec.fit(RANDOM.vectors)
    statistics = Statistics(13)
    statistics.add([1, 2], ["word0", "word1"])
    interaction = Interaction(RANDOM, codec, statistics)
    question = interaction.question(asked)
    passages = [passage_of(RANDOM, codec, text) for text in texts]
    together = interaction.score(question, passages)
    assert together.shape == (len(texts),)
    np.testing.assert_allclose(together, [oracle(question, each) for each in passages], atol=1e-5)
    one_by_one = [interaction.score(question, [passage])[0] for passage in passages]
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)


def test_many_passages_are_compared_in_blocks(by_hand):
    codec = plain_codec(8)
    passages = [passage_of(HAND, codec, text) for text in ["alpha", "beta", ""] * 150]
    np.testing.assert_allclose(by_hand.score(by_hand.question("alpha"), passages), [1, 0, 0] * 150, atol=1e-6)


def test_a_question_the_encoder_cannot_read_is_scored_by_terms_alone(by_hand):
    codec = plain_codec(8)
    passages = [passage_of(HAND, codec, text) for text in ("omega psi", "omega", "alpha", "")]
    question = by_hand.question("omega psi")
    assert question.known == 0
    np.testing.assert_allclose(by_hand.score(question, passages), [1, 0.5, 0, 0])
    np.testing.assert_allclose(by_hand.score_spans(question, passages[0], [(0, 5), (6, 9), (5, 6)]), [0.5, 0.5, 0])


def test_an_index_without_a_codec_is_scored_by_terms_alone():
    interaction = Interaction(HAND, None, NOTHING_COUNTED)
    none = np.zeros((0, 0), np.uint8)
    question = interaction.question("alpha beta")
    np.testing.assert_allclose(interaction.score(question, [Passage("beta", none), Passage("x", none)]), [0.5, 0])
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
    interaction = Interaction(encoder, codec, Statistics(3))
    question = interaction.question("alpha")
    passage = passage_of(encoder, codec, "beta", context="alpha")
    assert interaction.score(question, [passage])[0] == pytest.approx(1)  # the passage as a whole has it
    assert interaction.score_spans(question, passage, [(0, 4)])[0] == 0
    (match,) = interaction.matches(question, passage, (0, 4))
    assert (passage.text[match.start : match.end], match.similarity) == ("beta", 0)


def test_codes_of_another_text_are_noticed(by_hand):
    passage = passage_of(HAND, plain_codec(8), "alpha beta")
    wrong = Passage("alpha beta gamma", passage.codes)
    with pytest.raises(IndexCorruptError, match="2 token codes but 3 tokens; run: rag ingest --rebuild"):
        by_hand.score_spans(by_hand.question("alpha"), wrong, [(0, 5)])


def test_rerank_orders_by_score_and_keeps_ties_in_order(by_hand):
    passages = [passage_of(HAND, plain_codec(8), text) for text in ("gamma", "alpha", "delta", "beta alpha")]
    ranked = rerank(by_hand, by_hand.question("alpha beta"), passages)
    assert [position for position, _ in ranked] == [3, 1, 0, 2]
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    assert rerank(by_hand, by_hand.question("alpha"), []) == []


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
    statistics = Statistics(encoder.tokenizer.get_vocab_size())
    for one, text in zip(encoded, (ELSE, MIXED, ""), strict=False):
        statistics.add(one.ids.tolist(), terms(text))
    return Interaction(encoder, codec, statistics), codec


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

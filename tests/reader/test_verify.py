"""Claims against passages: copied sentences are supported, altered ones are not, evidence is exact to the character."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, lru_cache
from itertools import pairwise, permutations

import numpy as np
import pytest
from doubles import TermsOf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reader.facts import words
from reader.verify import (
    FEATURES,
    SUPPORTED,
    Check,
    NliModel,
    Verifier,
    Weights,
    _aligned,
    _halves,
    _longest_run,
    _soft_minimum,
    read_weights,
    shipped_weights,
)
from retrieval.analyze import Analyzer
from retrieval.errors import ConfigError, ModelError
from retrieval.interaction import Interaction, Passage, SignCodec
from retrieval.sentences import sentences
from retrieval.statistics import Statistics

BRIDGE = (
    "The Harbour Bridge was opened on 19 March 1932 by Premier Jack Lang. It carries eight lanes of traffic and two "
    "railway tracks. The arch is 503 metres long and contains 39,000 tonnes of steel. Traffic increased by 5% after "
    "the tunnel was closed in 1992."
)
BEES = (
    "Honey bees live in colonies of about 50,000 workers and a single queen. Worker bees do not mate. The queen lays "
    "up to 2,000 eggs a day in spring. Beekeepers in Slovenia were the first to breed queens on a large scale."
)
WALL = (
    "长城全长超过二万一千公里，是世界上最长的人造建筑。明朝修筑的长城东起鸭绿江，西至嘉峪关。"
    "1987年，长城被联合国教科文组织列入世界遗产名录。每年约有1000万名游客参观八达岭。"
)
TEA = (
    "中国是茶树的原产地，已有四千多年的饮茶历史。绿茶不经过发酵，因此保留了较多的天然物质。"
    "2020年，中国茶叶产量增长了百分之七。陆羽在唐代写成了《茶经》。"
)
TEXTS = (BRIDGE, BEES, WALL, TEA)
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class World:
    """The real encoder with a codec and statistics of a few texts, and passages made as an ingest makes them."""

    def __init__(self, encoder, *, with_codes=True):
        self.encoder = encoder
        encoded = list(encoder.encode(TEXTS))
        self.codec = SignCodec.fit(np.concatenate([one.tokens for one in encoded])) if with_codes else None
        statistics = Statistics(encoder.tokenizer.get_vocab_size())
        for one in encoded:
            statistics.add(one.ids.tolist())
        self.interaction = Interaction(encoder, self.codec, statistics, Analyzer(), TermsOf(*TEXTS))
        self.verifier = Verifier(self.interaction)
        self.passage = lru_cache(maxsize=None)(self._passage)

    def _passage(self, text, context=""):
        from retrieval.encoder import passage_input

        if self.codec is None or not text.strip():
            return Passage(text, np.zeros((0, 16), np.uint8), context)
        (encoded,) = self.encoder.encode([passage_input(context, text)])
        return Passage(text, self.codec.encode(encoded.tokens), context)

    def check(self, claim, *texts) -> Check:
        return self.verifier.check(claim, [self.passage(text) for text in texts], each_left_out=True)


@pytest.fixture(scope="module")
def world(encoder):
    return World(encoder)


@pytest.fixture(scope="module")
def world_without_codes(encoder):
    return World(encoder, with_codes=False)


def all_sentences():
    return [(text, text[a:b]) for text in TEXTS for a, b in sentences(text)]


# ---- golden cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "sentence"), all_sentences())
def test_a_copied_sentence_is_supported_and_its_own_evidence(world, text, sentence):
    found = world.check(sentence, text)
    assert found.label == "supported"
    assert found.support >= 0.95
    (evidence,) = found.evidence
    assert sentence in text[evidence.start : evidence.end]
    together = world.check(sentence, *TEXTS)
    assert together.label == "supported"
    assert TEXTS[together.evidence[0].passage] == text


@pytest.mark.parametrize(("text", "sentence"), all_sentences())
def test_a_sentence_of_another_document_is_unsupported(world, text, sentence):
    for other in TEXTS:
        if other != text:
            found = world.check(sentence, other)
            assert found.label == "unsupported"
            assert found.support < 0.35


def test_two_sentences_copied_together_are_supported(world):
    assert world.check("Worker bees do not mate. The queen lays up to 2,000 eggs a day in spring.", BEES).support > 0.9


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("the harbour bridge was opened on March 19, 1932, by Premier Jack Lang", BRIDGE),
        ("The bridge carries eight lanes of traffic and two railway tracks.", BRIDGE),
        ("The arch is 503 m long and contains 39000 tons of steel.", BRIDGE),
        ("Traffic increased by five percent after the tunnel was closed in 1992.", BRIDGE),
        ("Honey bees live in colonies of about fifty thousand workers and one single queen.", BEES),
        ("長城全長超過21000公里，是世界上最長的人造建築。", WALL),
        ("1987年长城被联合国教科文组织列入了世界遗产名录", WALL),
        ("每年约有一千万名游客参观八达岭。", WALL),
        ("2020年，中国茶叶产量增长了7%。", TEA),
    ],
)
def test_the_same_in_other_writing_is_supported(world, claim, text):
    assert world.check(claim, text).label == "supported"


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("The Harbour Bridge was opened on 19 March 1934 by Premier Jack Lang.", BRIDGE),
        ("The Harbour Bridge was opened on 19 May 1932 by Premier Jack Lang.", BRIDGE),
        ("The arch is 503 metres long and contains 93,000 tonnes of steel.", BRIDGE),
        ("Traffic increased by 8% after the tunnel was closed in 1992.", BRIDGE),
        ("The queen lays up to three thousand eggs a day in spring.", BEES),
        ("1978年，长城被联合国教科文组织列入世界遗产名录。", WALL),
        ("长城全长超过三万一千公里，是世界上最长的人造建筑。", WALL),
        ("2020年，中国茶叶产量增长了百分之九。", TEA),
        ("每年约有10万名游客参观八达岭。", WALL),
    ],
)
def test_another_number_in_its_place_contradicts(world, claim, text):
    found = world.check(claim, text)
    assert found.label == "contradicted-number"
    assert found.support < SUPPORTED
    assert world.check(claim, *TEXTS).label == "contradicted-number"


def test_a_number_that_is_elsewhere_in_the_passage_still_contradicts(world):
    assert world.check("The Harbour Bridge was opened on 19 March 1992 by Premier Jack Lang.", BRIDGE).label == (
        "contradicted-number"
    )


def test_a_number_is_no_contradiction_where_all_the_rest_is_missing_as_well(world):
    assert world.check("The council spent 700 million dollars on 12 hospitals.", BRIDGE).label == "unsupported"


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("The Harbour Bridge was not opened on 19 March 1932 by Premier Jack Lang.", BRIDGE),
        ("Worker bees do mate.", BEES),
        ("The Harbour Bridge was opened on 19 March 1932 by Premier Jack Smith.", BRIDGE),
        ("Traffic decreased by 5% after the tunnel was closed in 1992.", BRIDGE),
        ("Beekeepers in Germany were the first to breed queens on a large scale.", BEES),
        ("绿茶经过发酵，因此保留了较多的天然物质。", TEA),
        ("1987年，长城没有被联合国教科文组织列入世界遗产名录。", WALL),
        ("2020年，中国茶叶产量减少了百分之七。", TEA),
    ],
)
def test_nearly_a_copy_that_says_something_else_is_unsupported(world, claim, text):
    assert world.check(claim, text).label == "unsupported"


def test_one_passage_that_says_so_is_enough(world):
    altered = BRIDGE.replace("1932", "1934")
    claim = "The Harbour Bridge was opened on 19 March 1932 by Premier Jack Lang."
    for order in permutations([altered, BRIDGE, BEES]):
        found = world.check(claim, *order)
        assert found.label == "supported"
        assert order[found.evidence[0].passage] == BRIDGE


# ---- evidence, borders, odd input ------------------------------------------------------------------------------------

odd = st.sampled_from([*TEXTS, "", " \n", "—", "1932.", "a\ud800b"])
pieces = st.sampled_from(
    [*(sentence for _, sentence in all_sentences()), "bees", "1932", "桥", "!!", " ", "not", "\ud800", "\0"]
)


@given(
    st.lists(pieces, max_size=3).map(" ".join),
    st.lists(odd, max_size=4),
)
@example("", [])
@example("...", [BRIDGE])
@example("bees", ["", "—"])
@relaxed
def test_every_check_keeps_its_promises(world, claim, texts):
    found = world.check(claim, *texts)
    assert 0 <= found.support <= 1
    if not any(map(str.isalnum, claim)) or not any(any(map(str.isalnum, text)) for text in texts):
        assert found == Check("unsupported", 0.0, (), (0.0,) * len(texts) if len(texts) > 1 else ())
        return
    assert found.label in ("supported", "unsupported", "contradicted-number")
    assert (found.label == "supported") == (found.support >= SUPPORTED)
    worded = [at for at, text in enumerate(texts) if any(map(str.isalnum, text))]
    assert sorted(one.passage for one in found.evidence) == worded
    scores = [one.score for one in found.evidence]
    assert scores == sorted(scores, reverse=True)
    for one in found.evidence:
        quote = texts[one.passage][one.start : one.end]
        assert quote
        assert quote == quote.strip()
        assert 0 <= one.score <= 1
    if found.label != "contradicted-number":
        assert found.support >= max(scores)
    again = world.check(claim, *reversed(texts))
    assert again.label == found.label
    assert again.support == pytest.approx(found.support)


@pytest.mark.parametrize(
    "claim",
    [
        "The tunnel was closed in 1993.",
        "The queen lays eggs.",
        "长城是最长的建筑。",
        "1985",
        "...",
        "bees queen " * 300,
    ],
    ids=["number", "words", "Chinese", "only a number", "no words", "longer than the encoder reads"],
)
def test_each_passage_alone_is_as_if_checked_alone(world, claim):
    texts = (*TEXTS, "-----")
    each = world.verifier.check_each(claim, [world.passage(text) for text in texts])
    assert len(each) == len(texts)
    for position, (found, text) in enumerate(zip(each, texts, strict=True)):
        alone = world.check(claim, text)
        assert (found.label, found.support) == (alone.label, alone.support)
        assert [(one.start, one.end, one.score) for one in found.evidence] == [
            (one.start, one.end, one.score) for one in alone.evidence
        ]
        assert {one.passage for one in found.evidence} <= {position}


@pytest.mark.parametrize(
    ("claim", "texts"),
    [
        ("Worker bees do not mate.", (BEES, BRIDGE, BEES)),
        ("The bridge opened on 19 March 1932, and bees live in colonies of about 50,000.", (BRIDGE, "-----", BEES)),
        ("The arch is 305 metres long.", (BRIDGE, TEA)),
        ("中国是茶树的原产地，明朝修筑的长城东起鸭绿江。", TEXTS),
        ("2020年，中国茶叶产量增长了百分之九。", (TEA, WALL)),
        (" ".join([BRIDGE] * 8 + [BEES] * 4), (BRIDGE, BEES)),  # longer than the encoder reads
        ("! " * 1000, (BRIDGE, BEES)),
        ("Bees.", ("-----", BEES)),
        ("Bees.", (BEES,)),
        ("Bees.", ()),
    ],
    ids=range(10),
)
def test_without_a_passage_is_as_if_the_others_were_all(world, claim, texts):
    passages = [world.passage(text) for text in texts]
    found = world.verifier.check(claim, passages, each_left_out=True)
    others = [[*passages[:at], *passages[at + 1 :]] for at in range(len(passages))] if len(passages) > 1 else []
    assert found.without == tuple(world.verifier.check(claim, each).support for each in others)
    assert all(each.without == () for each in world.verifier.check_each(claim, passages))


def test_without_a_passage_that_is_needed_support_is_lost(world):
    claim = "Worker bees do not mate."
    assert world.check(claim, BEES, WALL).without[0] < 0.35
    assert world.check(claim, BEES, WALL).without[1] >= 0.95
    assert min(world.check(claim, BEES, BEES).without) >= 0.95  # either will do


def test_a_long_copy_with_one_word_more_at_its_end_is_no_copy(world):
    long = "".join(all_chinese * 3 for all_chinese in (WALL, TEA))[:480]
    assert world.check(long, long[:470]).support < 0.97 <= world.check(long, long).support


def test_context_counts_for_names_but_is_no_evidence(world):
    text = "It carries eight lanes of traffic and two railway tracks. It was opened in 1932."
    named, bare = (
        world.verifier.check("The Harbour Bridge carries eight lanes.", [world.passage(text, context)])
        for context in ("Harbour Bridge", "")
    )
    assert named.support > bare.support
    assert text[named.evidence[0].start :].startswith("It carries")


def test_a_claim_longer_than_the_encoder_reads_is_as_good_as_its_worse_half(world):
    long = " ".join([BRIDGE] * 8 + [BEES] * 4)
    assert len(world.encoder.tokenizer.encode(long)) > 512
    left, right = _halves(long)
    assert left + right == long
    assert world.check(long, BRIDGE) == world.check(right, BRIDGE)
    assert world.check(right, BRIDGE).support < world.check(left, BRIDGE).support
    assert world.check("桥" * 2000, BRIDGE).label == "unsupported"
    assert world.check(f"Worker bees do not mate.{' .' * 1000}", BEES).label == "supported"  # a half without words
    assert world.check("! " * 1000, BEES) == Check("unsupported", 0.0, ())


@pytest.mark.parametrize(("text", "sentence"), all_sentences()[::3])
def test_without_token_codes_terms_decide(world_without_codes, text, sentence):
    assert world_without_codes.check(sentence, text).label == "supported"
    for other in TEXTS:
        if other != text:
            assert world_without_codes.check(sentence, other).label == "unsupported"


def test_align_is_what_the_codec_says_of_each_token(world):
    question = world.interaction.question("Who opened the bridge?")
    passage = world.passage(BRIDGE, "Sydney")
    similarities, offsets = world.interaction.align(question, passage)
    assert similarities.shape == (len(passage.codes), len(question.weights))
    assert len(offsets) == len(passage.codes)
    slow = [world.codec.similarities(passage.codes[row : row + 1], question.tokens)[0] for row in range(len(offsets))]
    np.testing.assert_allclose(similarities, slow, atol=1e-5)
    assert (offsets[:, 0] < 0).sum() == 1  # the context is one token
    inside = offsets[offsets[:, 0] >= 0]
    assert "".join(BRIDGE[a:b] for a, b in inside) == BRIDGE.replace(" ", "")
    (whole,) = world.interaction.score_spans(question, passage, [(0, len(BRIDGE))])
    assert whole == pytest.approx(float(similarities[offsets[:, 0] >= 0].max(axis=0) @ question.weights), abs=1e-5)


def test_the_best_window_is_the_best_of_all_windows(world):
    """By brute force over every window of one to three sentences."""
    claim = "It carries two railway tracks and contains steel."
    question, passage = world.interaction.question(claim), world.passage(BRIDGE)
    spans = sentences(BRIDGE)
    similarities, offsets = world.interaction.align(question, passage)
    scored = {}
    for size in (1, 2, 3):
        for first in range(len(spans) - size + 1):
            start, end = spans[first][0], spans[first + size - 1][1]
            inside = (offsets[:, 0] >= start) & (offsets[:, 0] < end)
            matched = np.clip(similarities[inside].max(axis=0), 0, 1) @ question.weights
            scored[start, end] = matched - 0.02 * (size - 1)
    (evidence,) = world.check(claim, BRIDGE).evidence
    assert (evidence.start, evidence.end) == max(scored, key=scored.get)


# ---- features, by hand and by slow oracles ---------------------------------------------------------------------------


def test_features_are_all_there_and_finite(world):
    measured = world.verifier.features("The bridge opened in 1999.", [world.passage(BRIDGE), world.passage(TEA)])
    assert tuple(measured) == FEATURES
    assert np.isfinite(list(measured.values())).all()
    assert measured["no number"] == measured["other number"] == 1
    assert measured["passages"] == pytest.approx(np.log(3))
    assert world.verifier.features("?", [world.passage(BRIDGE)]) is None


@given(st.lists(st.sampled_from("abcd"), max_size=7), st.lists(st.sampled_from("abcd"), max_size=7))
def test_common_words_and_runs_against_slow_ones(one, other):
    @cache
    def longest(a, b):
        if a == len(one) or b == len(other):
            return 0
        if one[a] == other[b]:
            return 1 + longest(a + 1, b + 1)
        return max(longest(a + 1, b), longest(a, b + 1))

    aligned = _aligned(one, other)
    assert len(aligned) == longest(0, 0)
    assert all(one[a] == other[b] for a, b in aligned)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(aligned))
    runs = [
        size
        for a in range(len(one))
        for b in range(len(other))
        for size in range(1, 8)
        if len(one[a : a + size]) == size and one[a : a + size] == other[b : b + size]
    ]
    assert _longest_run(one, other) == max(runs, default=0)


def test_soft_minimum_is_the_value_where_all_are_alike_and_near_the_worst_otherwise():
    assert _soft_minimum(np.array([0.6, 0.6]), np.array([0.5, 0.5])) == pytest.approx(0.6)
    # -log(.5 exp(-8 * .2) + .5 exp(-8 * 1)) / 8 = .2 + log(2)/8 - (about nothing) = .2864
    assert _soft_minimum(np.array([0.2, 1.0]), np.array([0.5, 0.5])) == pytest.approx(0.2864, abs=1e-3)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_shipped_weights_fit_the_features_and_like_what_speaks_for_a_claim():
    weights = shipped_weights()
    assert set(weights.features) == set(FEATURES)
    for by in (
        "sentence",
        "window",
        "together",
    ):  # features of a kind share what they say, so it is their sum that counts
        for_, against = (
            sum(
                weight
                for name, weight in weights.features.items()
                if name.startswith(by) and (": lost" in name) is lost
            )
            for lost in (False, True)
        )
        assert for_ > 0 > against
    assert all(weights.features[name] > 0 for name in ("terms", "pairs", "in order", "run"))
    assert all(weights.features[name] < 0 for name in ("no number", "other number", "no name"))


def test_support_is_the_logistic_function_of_the_weighted_sum():
    # 1 / (1 + exp(-(0.5 + 2 * 0.25))) = 1 / (1 + exp(-1)) = .7311
    assert Weights({"window": 2.0}, 0.5).support({"window": 0.25}) == pytest.approx(0.7311, abs=1e-4)


def toml_of(weights, intercept="0.0"):
    return "\n".join([f"intercept = {intercept}", "[weights]", *(f'"{name}" = {w}' for name, w in weights.items())])


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[", b"intercept = 0.0", b"weights = 3\nintercept = 0",
        toml_of(dict.fromkeys(FEATURES, 1.0), "nan").encode(),
        toml_of(dict.fromkeys(FEATURES, "inf")).encode(),
        toml_of(dict.fromkeys(FEATURES, '"x"')).encode(),
        toml_of(dict.fromkeys(FEATURES[1:], 1.0)).encode(),
        toml_of({**dict.fromkeys(FEATURES, 1.0), "unheard of": 1.0}).encode(),
        b"#" * 200_000,
    ],
    ids=range(11),
)  # fmt: skip
def test_damaged_weights_are_refused(data):
    with pytest.raises(ConfigError, match="verifier"):
        read_weights(data)


def test_weights_are_read_as_written():
    assert read_weights(toml_of(dict.fromkeys(FEATURES, 1.5), "-2").encode()) == Weights(
        dict.fromkeys(FEATURES, 1.5), -2.0
    )


# ---- models that judge pairs -----------------------------------------------------------------------------------------


class Judge:
    """Gives every pair the same score, and remembers what it was asked."""

    def __init__(self, *scores):
        self._scores, self.asked = scores, []

    def scores(self, pairs):
        self.asked += pairs
        return self._scores[: len(pairs)]


def test_a_model_is_asked_about_the_evidence_and_its_score_counts_half(world):
    claim = "The bridge carries cars and trains."
    passages = [world.passage(BRIDGE), world.passage(BEES)]
    alone = Verifier(world.interaction).check(claim, passages)
    judge = Judge(0.9, 0.9)
    both = Verifier(world.interaction, model=judge).check(claim, passages)
    assert sorted(judge.asked) == sorted(
        ((BRIDGE, BEES)[one.passage][one.start : one.end], claim) for one in alone.evidence
    )
    logit = (np.log(alone.support / (1 - alone.support)) + np.log(9)) / 2
    assert both.support == pytest.approx(1 / (1 + np.exp(-logit)))


def test_a_model_does_not_overrule_another_number(world):
    claim = "The arch is 503 metres long and contains 93,000 tonnes of steel."
    found = Verifier(world.interaction, model=Judge(1.0)).check(claim, [world.passage(BRIDGE)])
    assert found.label == "contradicted-number"
    assert found.support < SUPPORTED


def test_a_model_does_not_overrule_what_is_copied_or_misquoted(world):
    for claim, score, label in (
        ("Worker bees do not mate.", 0.001, "supported"),
        ("Worker bees do mate.", 0.999, "unsupported"),
    ):
        judge = Judge(score)
        assert Verifier(world.interaction, model=judge).check(claim, [world.passage(BEES)]).label == label


@pytest.mark.parametrize("scores", [(), (1.5,), (-0.1,), (float("nan"),)])
def test_a_model_that_gives_rubbish_is_named(world, scores):
    with pytest.raises(ModelError, match="expected one in"):
        Verifier(world.interaction, model=Judge(*scores)).check("Bees.", [world.passage(BEES)])


@pytest.fixture(scope="module")
def nli_folder(tmp_path_factory):
    """A random BERT with three classes and a letter tokenizer, saved as a folder."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("nli")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = {word: at for at, word in enumerate([*special, *letters, *(f"##{letter}" for letter in letters)])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{word[1:-1].lower()}_token": word for word in special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, id2label={0: "contradiction", 1: "ENTAILMENT", 2: "neutral"},
        label2id={"contradiction": 0, "ENTAILMENT": 1, "neutral": 2},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_an_nli_model_gives_the_entailment_class_one_by_one_as_in_batches(nli_folder, world):
    import torch

    model = NliModel.load(str(nli_folder))
    pairs = [("the cat sat " * n, "a cat") for n in range(1, 40)]  # the last ones are cut
    found = model.scores(pairs)
    assert found == pytest.approx([model.scores([pair])[0] for pair in pairs], abs=1e-5)
    inputs = model._tokenizer("the cat sat ", "a cat", return_tensors="pt")
    with torch.inference_mode():
        assert found[0] == pytest.approx(model._model(**inputs).logits.softmax(-1)[0, 1].item(), abs=1e-5)
    assert model.scores([]) == []
    assert Verifier(world.interaction, model=model).check("Bees live.", [world.passage(BEES)]).evidence


@pytest.mark.parametrize("labels", [["A", "B", "C"], ["entailment", "not_entailment", "entailed"]])
def test_an_nli_model_without_one_entailment_class_is_refused(nli_folder, tmp_path, labels):
    for file in nli_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected one called 'entailment'"):
        NliModel.load(str(tmp_path))


def test_an_nli_model_that_is_not_here_or_holds_no_safetensors_is_refused(nli_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="rag models fetch"):
        NliModel.load(str(tmp_path / "nowhere"))
    for file in nli_folder.iterdir():
        target = "pytorch_model.bin" if file.suffix == ".safetensors" else file.name
        (tmp_path / target).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        NliModel.load(str(tmp_path))


def test_nothing_here_depends_on_the_order_of_equal_passages(world):
    passage = world.passage(BEES)
    found = world.verifier.check("Worker bees do not mate.", [passage, replace(passage)])
    assert [one.passage for one in found.evidence] == [0, 1]
    assert words("Worker bees do not mate.") == ["worker", "bees", "do", "¬", "mate"]

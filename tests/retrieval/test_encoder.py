"""The contracts of retrieval/encoder.py: equal to its reference, independent of neighbours, exact, and never cut."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import encoder as door
from retrieval.encoder import (
    BUNDLED_NAME,
    OpenVinoEncoder,
    SentenceTransformerEncoder,
    check_bundled_weights,
    encoder_spec,
    load_encoder,
    load_tokenizer,
    model_folder,
    passage_input,
)
from retrieval.errors import EmptyTextError, ModelError, TextTooLongError

TEXTS = {
    "english": "The else clause is executed when no exception was raised in the try suite; see section 8.4.",
    "chinese": "《战国无双3》是由光荣和ω-force开发的战国无双系列的正统第三续作。",
    "code": "def add(left: int, right: int) -> int:\n    return left + right  # __add__\n",
    "word": "cat",
    "512 tokens": "cat " * 510,
    "hostile": "Cafe\u0301 naïve [SEP] </s> \u200b🧑‍🚀 \ud800 ﬁ Ⅷ İ",
}
LONGEST = "cat " * 510


def cosine(left, right):
    return (left * right).sum(axis=-1)


def assert_same(one, other, *, tolerance=0.0):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_allclose(one.vector, other.vector, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.tokens, other.tokens, rtol=0, atol=tolerance)


@pytest.fixture(params=["openvino", "sentence-transformers"])
def either(request):
    """(encoder, how far two runs of the same text may differ)."""
    if request.param == "openvino":
        return request.getfixturevalue("encoder"), 0.0
    return request.getfixturevalue("torch_encoder"), 1e-5


# ---- what it computes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_the_authors():
    """Texts, and their vectors by the code of the model's authors."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(model_folder(BUNDLED_NAME)), device="cpu", local_files_only=True)
    reference.max_seq_length = 512
    texts = [text for name, text in TEXTS.items() if name != "hostile"]  # its tokenizer reads [SEP] as a token
    return texts, reference.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def test_equal_to_sentence_transformers(either, by_the_authors):
    texts, expected = by_the_authors
    found = either[0].encode_passages(texts)
    assert found.shape == (len(texts), 384)
    assert found.dtype == np.float32
    assert cosine(found, expected).min() >= 0.999


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_both_encoders_agree(pooling, model_cache):
    one = load_encoder(BUNDLED_NAME, cache=model_cache, pooling=pooling)
    other = SentenceTransformerEncoder(model_folder(BUNDLED_NAME), one.spec)
    assert one.spec.pooling == pooling
    texts = [text for name, text in TEXTS.items() if name != "512 tokens"]  # which is compared above
    for left, right in zip(one.encode(texts), other.encode(texts), strict=True):
        np.testing.assert_array_equal(left.ids, right.ids)
        np.testing.assert_array_equal(left.offsets, right.offsets)
        assert cosine(left.vector, right.vector) >= 0.999
        assert cosine(left.tokens, right.tokens).min(initial=1) >= 0.99  # single tokens in bfloat16


def test_poolings_differ(encoder, model_cache):
    cls = load_encoder(BUNDLED_NAME, cache=model_cache, pooling="cls")
    assert cosine(encoder.encode_query("a cat"), cls.encode_query("a cat")) < 0.99


def test_vectors_are_unit_rows(either):
    for encoded in either[0].encode(list(TEXTS.values())):
        assert np.linalg.norm(encoded.vector) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(np.linalg.norm(encoded.tokens, axis=1), 1, atol=1e-5)
        assert encoded.tokens.shape == (len(encoded.ids), 384)
        assert encoded.offsets.shape == (len(encoded.ids), 2)


def test_nothing_and_empty_text(either):
    assert either[0].encode_passages([]).shape == (0, 384)
    (empty,) = either[0].encode([""])
    assert len(empty.ids) == len(empty.tokens) == len(empty.offsets) == 0
    assert np.isfinite(empty.vector).all()


@pytest.mark.parametrize("blank", ["", " \n\t", "\u3000"])
def test_a_blank_question_is_refused(either, blank):
    with pytest.raises(EmptyTextError, match="question is empty"):
        either[0].encode_query(blank)


# ---- neighbours ------------------------------------------------------------------------------------------------------


def test_a_text_does_not_depend_on_its_neighbours(either):
    encoder, tolerance = either
    texts = list(TEXTS.values())
    alone = [next(iter(encoder.encode([text]))) for text in texts]
    for order in ([*range(len(texts))], [*reversed(range(len(texts)))], [3, 4, 3, 0, 3]):
        for index, encoded in zip(order, encoder.encode([texts[index] for index in order]), strict=True):
            assert_same(encoded, alone[index], tolerance=tolerance)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_depends_on_its_neighbours(encoder, texts):
    together = list(encoder.encode(texts))
    for text, encoded in zip(texts, together, strict=True):
        assert_same(encoded, next(iter(encoder.encode([text]))))


def test_runs_may_be_interleaved_and_left_early(either):
    encoder, tolerance = either
    texts = [TEXTS["english"], TEXTS["chinese"], TEXTS["code"], TEXTS["word"]]
    alone = list(encoder.encode(texts))
    for index, encoded in enumerate(encoder.encode(texts)):
        others = list(islice(encoder.encode(texts), 2))
        assert_same(encoded, alone[index], tolerance=tolerance)
        assert_same(others[1], alone[1], tolerance=tolerance)


def test_threads_may_share_an_encoder(encoder):
    texts = [f"sentence {number} of several {'words ' * number}" for number in range(24)]
    alone = [encoder.encode_query(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(alone * 4, pool.map(encoder.encode_query, texts * 4), strict=True):
            np.testing.assert_array_equal(found, expected)


# ---- exactness -------------------------------------------------------------------------------------------------------


def test_a_text_that_fits_exactly_is_read_whole(either):
    (encoded,) = either[0].encode([LONGEST])
    assert len(encoded.ids) == 510  # and two special tokens
    assert encoded.offsets[-1].tolist() == [len(LONGEST) - 4, len(LONGEST) - 1]


def test_a_longer_text_is_refused_and_nothing_is_encoded(either):
    encoder, _ = either
    run = encoder.encode(["short", LONGEST + "cat", "short"])
    with pytest.raises(TextTooLongError, match=r"a text of 513 tokens \('cat cat.*512 tokens that all-MiniLM.*split"):
        next(run)
    with pytest.raises(TextTooLongError):
        encoder.encode_passages([LONGEST + "cat"])
    with pytest.raises(TextTooLongError, match=r"a question of 513 tokens .* ask it in fewer words"):
        encoder.encode_query(LONGEST + "cat")


def test_offsets_name_the_characters_of_each_token(encoder):
    text = "Über Cafe\u0301s [SEP] 战国 don't\r\n  play-ing\tİstanbul \ud800 x² 🧑‍🚀 end"
    (encoded,) = encoder.encode([text])
    vocabulary = {index: token for token, index in encoder.tokenizer.get_vocab().items()}
    for token_id, (start, end) in zip(encoded.ids.tolist(), encoded.offsets.tolist(), strict=True):
        piece = vocabulary[token_id]
        if piece != "[UNK]":
            assert plain(text[start:end]) == piece.removeprefix("##")
    assert (encoded.offsets[:, 0] < encoded.offsets[:, 1]).all()
    assert (np.diff(encoded.offsets[:, 0]) >= 0).all()


def plain(text):
    """As BERT's uncased tokenizer reads it: lower case, without accents."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in decomposed if unicodedata.category(letter) != "Mn")


@given(st.text(alphabet=st.characters(), max_size=80))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_offsets_stay_inside_the_text_whatever_it_is(encoder, text):
    (encoded,) = encoder.encode([text])
    assert ((encoded.offsets >= 0) & (encoded.offsets <= len(text))).all()
    assert not set(encoded.ids.tolist()) & {0, 101, 102, 103}  # no text makes [PAD], [CLS], [SEP], [MASK]


def test_special_tokens_in_a_text_are_plain_characters(either):
    tokens = either[0].tokenizer.encode("a [SEP] b [MASK]").tokens
    assert tokens == ["[CLS]", "a", "[", "sep", "]", "b", "[", "mask", "]", "[SEP]"]
    (encoded,) = either[0].encode(["a [SEP] b"])
    assert [("a [SEP] b")[a:b] for a, b in encoded.offsets] == ["a", "[", "SEP", "]", "b"]


def test_prefixes_are_read_first_and_lie_before_the_text(encoder, model_cache):
    spec = replace(encoder.spec, passage_prefix="passage: ", query_prefix="query: ")
    prefixed = OpenVinoEncoder(model_folder(BUNDLED_NAME), spec, cache=model_cache)
    (passage,) = prefixed.encode(["the cat"])
    assert passage.offsets.tolist() == [[-9, -2], [-2, -1], [0, 3], [4, 7]]
    np.testing.assert_array_equal(passage.vector, encoder.encode_query("passage: the cat"))
    np.testing.assert_array_equal(prefixed.encode_query("the cat"), encoder.encode_query("query: the cat"))


def test_a_lone_surrogate_counts_as_one_character(either):
    (encoded,) = either[0].encode(["\ud83d word \udc00"])
    text = "\ud83d word \udc00"
    assert "word" in [text[start:end] for start, end in encoded.offsets]
    np.testing.assert_allclose(encoded.vector, next(iter(either[0].encode(["\ufffd word \ufffd"]))).vector, atol=1e-5)


def test_passage_input_puts_the_context_on_a_line_of_its_own():
    assert passage_input("", "text") == "text"
    assert passage_input("Title > Part", "text") == "Title > Part\ntext"


# ---- the bundled model -----------------------------------------------------------------------------------------------


def test_bundled_weights_with_one_changed_byte_are_refused(tmp_path, monkeypatch):
    package = tmp_path / door.BUNDLED_PACKAGE
    shutil.copytree(model_folder(BUNDLED_NAME), package / "model")
    (package / "__init__.py").touch()
    weights = package / "model" / "model.safetensors"
    check_bundled_weights(weights.parent)
    with weights.open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)[0]
        file.seek(-1000, 2)
        file.write(bytes([byte ^ 1]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, door.BUNDLED_PACKAGE, raising=False)
    assert model_folder(BUNDLED_NAME) == weights.parent
    with pytest.raises(ModelError, match=rf"SHA-256 .* expected {door.BUNDLED_WEIGHTS_SHA256}; reinstall it: pip"):
        load_encoder(BUNDLED_NAME, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_bundled_model_reads_512_tokens_where_its_own_settings_say_256():
    spec = encoder_spec(BUNDLED_NAME)
    assert (spec.max_tokens, spec.dimension, spec.pooling) == (512, 384, "mean")
    assert spec.revision == door.BUNDLED_WEIGHTS_SHA256


# ---- the cache of converted models -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, save_tiny_model):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def converted_places(cache):
    return sorted(path for path in (cache / "openvino").iterdir() if path.name != ".lock")


@pytest.mark.parametrize("damage", ["model.bin", "model.xml", "record.json", "no record", "no weights", "no object"])
def test_a_damaged_conversion_is_made_anew(tiny, tmp_path, damage):
    expected = load_encoder(str(tiny), cache=tmp_path).encode_query("the cat")
    (place,) = converted_places(tmp_path)
    if damage.startswith("no "):
        missing = place / {"no record": "record.json", "no weights": "model.bin", "no object": "record.json"}[damage]
        missing.unlink()
        if damage == "no object":
            missing.write_text("[]")
    else:
        data = bytearray((place / damage).read_bytes())
        data[len(data) // 2] ^= 1
        (place / damage).write_bytes(data)
    np.testing.assert_array_equal(load_encoder(str(tiny), cache=tmp_path).encode_query("the cat"), expected)
    assert converted_places(tmp_path) == [place]
    assert door._is_intact(place)


def test_an_intact_conversion_is_used_again(tiny, tmp_path, monkeypatch):
    load_encoder(str(tiny), cache=tmp_path)
    monkeypatch.setattr(door, "_convert", lambda *_: pytest.fail("converted again"))
    load_encoder(str(tiny), cache=tmp_path, pooling="cls")  # one conversion serves every pooling


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing_half_made(tiny, tmp_path, monkeypatch, error):
    def half(_folder, target):
        target.write_text("<half")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(door, "_convert", half)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ModelError):
            load_encoder(str(tiny), cache=tmp_path)
    assert converted_places(tmp_path) == []
    assert load_encoder(str(tiny), cache=tmp_path).encode_query("the cat").shape == (32,)


def test_what_a_killed_conversion_left_is_cleared_away(tiny, tmp_path):
    leftover = tmp_path / "openvino" / ".unfinished"
    leftover.mkdir(parents=True)
    (leftover / "model.bin").write_bytes(b"half")
    load_encoder(str(tiny), cache=tmp_path)
    (place,) = converted_places(tmp_path)
    assert place.name != leftover.name


def test_two_loads_at_once_convert_once(tiny, tmp_path, monkeypatch):
    conversions = []
    convert = door._convert
    monkeypatch.setattr(door, "_convert", lambda *given: (conversions.append(given), convert(*given)))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: load_encoder(str(tiny), cache=tmp_path), range(2)))
    assert len(conversions) == 1


def test_a_converted_model_is_loaded_without_torch(encoder, model_cache, fresh_python):
    code = (
        "import sys\nfrom pathlib import Path\nfrom retrieval.encoder import BUNDLED_NAME, load_encoder\n"
        f"vector = load_encoder(BUNDLED_NAME, cache=Path({str(model_cache)!r})).encode_query('the cat')\n"
        "print(vector.tolist())\nprint(sorted(name for name, module in sys.modules.items() if module is not None))"
    )
    vector, loaded = fresh_python("-c", code).stdout.splitlines()
    np.testing.assert_allclose(json.loads(vector), encoder.encode_query("the cat"), atol=1e-6)
    names = set(loaded.replace("'", "").strip("[]").split(", "))
    assert "openvino" in names
    assert not names & {"torch", "transformers", "sentence_transformers", "openvino_telemetry"}


# ---- other models ----------------------------------------------------------------------------------------------------


def test_a_missing_model_says_where_it_was_looked_for_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_encoder("org/no-such-model", cache=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "org" / "no-such-model") in message
    assert str(tmp_path / "hub") in message
    assert message.endswith("run: rag models fetch org/no-such-model")


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "..", "x\0y", "~", "no such name"])
def test_a_name_that_cannot_be_one_is_a_model_error(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelError):
        load_encoder(name, cache=tmp_path)


def test_a_hub_name_is_found_in_the_local_cache(tmp_path, monkeypatch, tiny):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load_encoder("org/tiny", cache=tmp_path / "cache")
    assert (loaded.spec.name, loaded.spec.revision) == ("org/tiny", commit)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        (None, "mean"),
    ],
)
def test_a_local_model_is_pooled_as_it_says(tmp_path, save_tiny_model, pooling, expected):
    from sentence_transformers import SentenceTransformer

    folder = save_tiny_model(tmp_path / "model", pooling=pooling)
    texts = ["the cat", "a [SEP] b c d e f", "abc " * 15]
    ours = load_encoder(str(folder), cache=tmp_path / "cache")
    general = SentenceTransformerEncoder(folder, ours.spec)
    assert isinstance(ours, OpenVinoEncoder)
    assert (ours.spec.pooling, ours.spec.max_tokens, ours.spec.dimension) == (expected, 48, 32)
    reference = SentenceTransformer(str(folder), device="cpu").encode(texts[::2], normalize_embeddings=True)
    assert cosine(ours.encode_passages(texts[::2]), reference).min() >= 0.999
    assert cosine(ours.encode_passages(texts), general.encode_passages(texts)).min() >= 0.999


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode": "max"}, {"pooling_mode": ["cls", "mean"]}, {"pooling_mode_lasttoken": True}]
)
def test_a_pooling_we_do_not_have_is_refused(tmp_path, save_tiny_model, pooling):
    folder = save_tiny_model(tmp_path / "model", pooling=pooling)
    with pytest.raises(ModelError, match="expected one of mean, cls, pooler"):
        encoder_spec(str(folder))
    assert encoder_spec(str(folder), pooling="mean").pooling == "mean"


def test_a_model_with_layers_of_its_own_is_refused(tmp_path, save_tiny_model):
    folder = save_tiny_model(tmp_path / "model", modules=("Transformer", "Pooling", "Dense", "Normalize"))
    with pytest.raises(ModelError, match="Dense"):
        load_encoder(str(folder), cache=tmp_path / "cache")


def test_the_prompts_of_a_model_are_its_prefixes(tmp_path, save_tiny_model):
    folder = save_tiny_model(tmp_path / "model", prompts={"query": "query: ", "passage": "passage: "})
    loaded = load_encoder(str(folder), cache=tmp_path / "cache")
    assert (loaded.spec.query_prefix, loaded.spec.passage_prefix) == ("query: ", "passage: ")
    assert cosine(loaded.encode_query("cat"), loaded.encode_passages(["cat"])[0]) < 0.9999


@pytest.mark.parametrize(
    ("model_type", "options", "longest"),
    [("distilbert", {"dim": 32, "hidden_dim": 64, "n_heads": 2, "n_layers": 1}, 48), ("roberta", {}, 47)],
)
def test_other_families_go_through_sentence_transformers(tmp_path, save_tiny_model, model_type, options, longest):
    folder = save_tiny_model(tmp_path / "model", model_type=model_type, **options)
    loaded = load_encoder(str(folder), cache=tmp_path / "cache")
    assert isinstance(loaded, SentenceTransformerEncoder)
    assert loaded.spec.max_tokens == longest
    alone = loaded.encode_passages(["the cat"])[0]
    batch = loaded.encode_passages(["the " * (longest - 2), "the cat"])  # as long as it may be: no position is missing
    np.testing.assert_allclose(batch[1], alone, atol=1e-5)
    with pytest.raises(TextTooLongError):
        loaded.encode_passages(["the " * (longest - 1)])


def test_the_revision_follows_what_a_local_model_computes(tmp_path, save_tiny_model):
    one, same, other = (
        encoder_spec(str(save_tiny_model(tmp_path / name, seed=seed))).revision
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one == same != other
    config = tmp_path / "same" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    assert encoder_spec(str(tmp_path / "same")).revision != one


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\xff" * 100),
        ("tokenizer.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"{}"),
        ("config.json", b"[" * 100_000),
        ("config.json", b" " * 1_000_001),
        ("modules.json", b"{}"),
        ("1_Pooling/config.json", b"\xff\xff"),
        ("config_sentence_transformers.json", b'{"prompts": {"query": 1}}'),
        ("tokenizer.json", None),
        ("model.safetensors", None),
    ],
)
def test_a_broken_model_folder_is_a_model_error(tmp_path, tiny, file, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="model"):
        load_encoder(str(folder), cache=tmp_path / "cache")


def test_pooler_of_a_model_without_one_is_an_error(tmp_path, save_tiny_model):
    options = {"dim": 32, "hidden_dim": 64, "n_heads": 2, "n_layers": 1}
    folder = save_tiny_model(tmp_path / "model", model_type="distilbert", **options)
    loaded = load_encoder(str(folder), cache=tmp_path / "cache", pooling="pooler")
    with pytest.raises(ModelError, match="has no pooler layer; use pooling 'mean' or 'cls'"):
        loaded.encode_query("cat")


def test_a_tokenizer_never_cuts_whatever_its_file_says():
    tokenizer = load_tokenizer(model_folder(BUNDLED_NAME))
    assert (tokenizer.truncation, tokenizer.padding) == (None, None)
    assert len(tokenizer.encode("cat " * 5000)) == 5002
    assert "truncation" in json.loads((Path(model_folder(BUNDLED_NAME)) / "tokenizer.json").read_text(encoding="utf-8"))

"""Settings: order, types, ranges, and errors that name the key and the place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.config import MAX_FILE_BYTES, SETTINGS, Config, load_config
from app.profiles import Cuda, choose_profile
from retrieval.errors import ConfigError

NO_CUDA = Cuda(usable=False, reason="no CUDA device found")
CUDA = Cuda(usable=True, reason="a card")


@pytest.fixture
def load(tmp_path: Path):
    def load(*, toml: str | None = None, environ: dict[str, str] | None = None, **flags: object) -> Config:
        if toml is not None:
            (tmp_path / "rag.toml").write_text(toml, encoding="utf-8")
        return load_config(flags, {"HOME": "/home/me", **(environ or {})}, tmp_path)

    return load


def test_defaults(load):
    config = load()
    assert config.index == Path("/home/me/.local/share/rag/index")
    assert config.cache == Path("/home/me/.cache/rag")
    assert (config.profile, config.top_k, config.candidates, config.chunk_tokens) == ("auto", 5, 100, 512)
    assert config.min_evidence is None
    assert (config.dictionary, config.synonyms, config.reranker) == (None, None, "interaction")
    assert (config.max_per_document, config.diversity) == (0, 0.0)
    assert (config.neighbours, config.split_questions) == (False, True)
    assert config.file is None
    assert config.origins == {}


def test_base_folders_of_the_xdg_specification(load):
    config = load(environ={"XDG_DATA_HOME": "/data", "XDG_CACHE_HOME": "not/absolute"})
    assert config.index == Path("/data/rag/index")
    assert config.cache == Path("/home/me/.cache/rag")


def test_hub_cache_follows_the_hub_library(load):
    assert load().hub_cache == Path("/home/me/.cache/huggingface/hub")
    assert load(environ={"HF_HOME": "/hf"}).hub_cache == Path("/hf/hub")
    assert load(environ={"HF_HOME": "/hf", "HF_HUB_CACHE": "/hub"}).hub_cache == Path("/hub")


def test_each_layer_beats_the_one_before(load):
    toml = "top_k = 3\nthreads = 2\nchunk_overlap = 0\n"
    environ = {"RAG_TOP_K": "7", "RAG_THREADS": "4"}
    config = load(toml=toml, environ=environ, top_k="9", profile=None)
    assert (config.top_k, config.threads, config.chunk_overlap) == (9, 4, 0.0)
    assert config.origins["top_k"] == "--top-k"
    assert config.origins["threads"] == "RAG_THREADS"
    assert config.origins["chunk_overlap"].startswith("chunk_overlap in ")


def test_every_setting_can_be_set_from_the_environment(load):
    values = {
        "index": "i", "cache": "c", "profile": "embedded", "encoder": "some/model", "pooling": "cls", "device": "cpu",
        "reader": "extractive", "top_k": "2", "candidates": "50", "chunk_tokens": "256", "chunk_overlap": "0.2",
        "heading_context": "no", "max_file_mb": "1.5", "parse_seconds": "5", "parse_memory_mb": "512",
        "parse_chars": "1000000", "parse_workers": "2", "threads": "1", "min_evidence": "0.3", "sentences": "3",
        "dictionary": "words.txt", "synonyms": "none", "max_per_document": "2", "diversity": "0.3", "neighbours": "on",
        "split_questions": "off", "fusion": "rrf", "reranker": "some/cross-encoder", "model": "./zephyr",
        "quantization": "8bit",
        "kv_cache": "4bit", "device_map": "balanced", "rope_scaling": '{"rope_type": "yarn"}', "window": "8192",
        "server_url": "http://127.0.0.1:11434/v1", "server_model": "zephyr", "server_key": "secret",
        "server_timeout": "30", "tokenizer": "some/tokenizer", "max_answer_tokens": "200", "temperature": "0",
        "repetition_penalty": "1.0", "seed": "7", "compress": "off", "prompts": "own", "chats": "said",
        "verifier": "some/nli", "offline": "yes", "host": "::1", "port": "8400", "token": "sixteen-letters-x",
        "token_file": "t", "queue": "9", "request_seconds": "60", "uploads": "u", "runs": "r",
    }  # fmt: skip
    assert values.keys() == SETTINGS.keys()
    config = load(environ={"RAG_" + key.upper(): value for key, value in values.items()})
    assert (config.heading_context, config.max_file_mb, config.min_evidence) == (False, 1.5, 0.3)
    parsing = (config.parse_seconds, config.parse_memory_mb, config.parse_chars, config.parse_workers)
    assert parsing == (5.0, 512, 1_000_000, 2)
    assert config.encoder == "some/model"
    assert (config.dictionary, config.synonyms) == (config.index.parent / "words.txt", None)
    assert (config.max_per_document, config.diversity) == (2, 0.3)
    assert (config.fusion, config.reranker) == ("rrf", "some/cross-encoder")
    assert (config.neighbours, config.split_questions) == (True, False)
    assert (config.model, config.temperature, config.seed) == (str(config.index.parent / "zephyr"), 0.0, 7)
    assert (config.compress, config.offline, config.chats) == (False, True, config.index.parent / "said")
    assert (config.host, config.port, config.token, config.queue) == ("::1", 8400, "sixteen-letters-x", 9)


def test_uploads_and_runs_lie_beside_the_index(load, tmp_path):
    config = load(index="somewhere/index")
    assert (config.uploads, config.runs) == (tmp_path / "somewhere/index-uploads", tmp_path / "somewhere/eval")
    assert load(index="somewhere/index", uploads="kept").uploads == tmp_path / "kept"


@pytest.mark.parametrize("token", ["short", "with a space in it, but long", "x" * 15, "令牌" * 20])
def test_a_token_that_is_none_is_refused_and_not_shown(load, token):
    with pytest.raises(ConfigError, match="RAG_TOKEN: found what is not shown here") as raised:
        load(environ={"RAG_TOKEN": token})
    assert token not in str(raised.value)


def test_a_token_is_not_kept_in_a_file(load):
    with pytest.raises(ConfigError, match="set it in the environment as RAG_TOKEN"):
        load(toml='token = "a-long-enough-token"')


def test_relative_paths_start_where_they_were_written(load, tmp_path):
    (tmp_path / "conf").mkdir()
    toml = 'index = "here"\nencoder = "./model"\nreranker = "../ranker"\nsynonyms = "words.txt"'
    (tmp_path / "conf" / "my.toml").write_text(toml, encoding="utf-8")
    config = load(environ={"RAG_CONFIG": "conf/my.toml", "RAG_CACHE": "../cache"})
    assert config.file == tmp_path / "conf" / "my.toml"
    assert config.index == tmp_path / "conf" / "here"
    assert config.encoder == str(tmp_path / "conf" / "model")
    assert config.cache == tmp_path.parent / "cache"
    assert config.reranker == str(tmp_path / "ranker")
    assert config.synonyms == tmp_path / "conf" / "words.txt"


def test_config_flag_beats_variable_beats_folder(load, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f'encoder = "{name}"', encoding="utf-8")
    toml = 'encoder = "usual"'
    assert load(toml=toml).encoder == "usual"
    assert load(toml=toml, environ={"RAG_CONFIG": "a.toml"}).encoder == "a"
    assert load(toml=toml, environ={"RAG_CONFIG": "a.toml"}, config=Path("b.toml")).encoder == "b"


def test_known_variables_that_are_no_settings_and_empty_ones_are_passed_over(load):
    assert load(environ={"RAG_TEST_DATA": "/data", "RAG_TOP_K": "", "RAGTIME": "1"}) == load()


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"toml": "top-k = 5"}, ("'top-k'", "rag.toml", "did you mean top_k?")),
        ({"toml": "[reader]\nname = 1"}, ("reader in ", "{'name': 1}", "one of auto")),
        ({"toml": "[encodr]\nname = 1"}, ("'encodr'", "did you mean encoder?")),
        ({"environ": {"RAG_TOPK": "5"}}, ("'RAG_TOPK'", "the environment", "did you mean RAG_TOP_K?")),
        ({"environ": {"RAG_top_k": "5"}}, ("'RAG_top_k'", "did you mean RAG_TOP_K?")),
        ({"environ": {"RAG_QQQQQQQ": "5"}}, ("'RAG_QQQQQQQ'", "known are RAG_CACHE")),
        ({"environ": {"RAG_TOP_K": "five"}}, ("RAG_TOP_K", "'five'", "whole number from 1 to 1000")),
        ({"environ": {"RAG_TOP_K": "2.5"}}, ("RAG_TOP_K", "'2.5'", "whole number")),
        ({"toml": "top_k = 2.0"}, ("top_k in ", "2.0", "whole number")),
        ({"toml": "top_k = true"}, ("top_k in ", "True", "whole number")),
        ({"toml": "top_k = 0"}, ("top_k in ", "0", "from 1")),
        ({"toml": "chunk_overlap = nan"}, ("chunk_overlap in ", "nan", "from 0 to 0.5")),
        ({"toml": "heading_context = 1"}, ("heading_context in ", "true or false")),
        ({"toml": "min_evidence = 2"}, ("min_evidence in ", "from 0 to 1")),
        ({"toml": "diversity = 1.5"}, ("diversity in ", "1.5", "from 0 to 1")),
        ({"max_per_document": "-1"}, ("--max-per-document", "'-1'", "from 0 to 1000")),
        ({"toml": "synonyms = 3"}, ("synonyms in ", "path of a file, or none")),
        ({"toml": 'dictionary = "a\\u0000"'}, ("dictionary in ", "path of a file, or none")),
        ({"toml": 'reranker = " "'}, ("reranker in ", "cross-encoder")),
        ({"toml": 'neighbours = "maybe"'}, ("neighbours in ", "true or false")),
        ({"toml": "index = 5"}, ("index in ", "path of a folder")),
        ({"profile": "fast"}, ("--profile", "'fast'", "auto, embedded, gpu")),
        ({"pooling": "x" * 500}, ("--pooling", "...", "mean, cls, pooler")),
        ({"toml": "top_k = "}, ("rag.toml", "not valid TOML")),
        ({"toml": "a = " + "[" * 5000}, ("rag.toml", "not valid TOML")),
        ({"config": "nowhere.toml"}, ("--config", "no file", "nowhere.toml")),
        ({"environ": {"RAG_CONFIG": "gone.toml"}}, ("RAG_CONFIG", "no file")),
        ({"top_k": "20", "environ": {"RAG_CANDIDATES": "10"}}, ("--top-k", "RAG_CANDIDATES", "raise candidates")),
    ],
)
def test_errors_say_what_was_found_and_where(load, given, parts):
    with pytest.raises(ConfigError) as caught:
        load(**given)
    for part in parts:
        assert part in str(caught.value)


def test_a_settings_file_has_a_size_limit(load):
    with pytest.raises(ConfigError, match="larger than"):
        load(toml="#" * (MAX_FILE_BYTES + 1))


def test_a_settings_file_of_other_bytes(load, tmp_path):
    (tmp_path / "rag.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load()


def test_more_hits_than_usual_raise_the_candidates_with_them(load):
    assert load(top_k=300).candidates == 300


@pytest.mark.parametrize(
    ("flags", "cuda", "expected"),
    [
        ({}, NO_CUDA, "profile embedded: all-MiniLM-L6-v2 on CPU, extractive reader (no CUDA device found)"),
        (
            {},
            CUDA,
            (
                "profile embedded: all-MiniLM-L6-v2 on CPU, extractive reader"
                " (a card, but thenlper/gte-small is not on this machine; rag doctor says how to get it)"
            ),
        ),
        (
            {"profile": "gpu"},
            CUDA,
            (
                "profile gpu: thenlper/gte-small on CUDA, extractive reader"
                " (a card; HuggingFaceH4/zephyr-7b-beta is not on this machine,"
                " rag models fetch HuggingFaceH4/zephyr-7b-beta gets it)"
            ),
        ),
        ({"profile": "embedded"}, CUDA, "profile embedded: all-MiniLM-L6-v2 on CPU, extractive reader (asked for)"),
        (
            {"profile": "embedded", "device": "cuda"},
            CUDA,
            "profile embedded: all-MiniLM-L6-v2 on CUDA, extractive reader (a card)",
        ),
        (
            {"device": "cpu"},
            CUDA,
            "profile embedded: all-MiniLM-L6-v2 on CPU, extractive reader (the CPU was asked for)",
        ),
        ({"encoder": "a/b", "reader": "extractive"}, CUDA, "profile gpu: a/b on CUDA, extractive reader (a card)"),
    ],
)
def test_profile_choice(load, flags, cuda, expected):
    assert str(choose_profile(load(**flags), cuda=lambda: cuda)) == expected


@pytest.mark.parametrize("flags", [{"profile": "gpu"}, {"device": "cuda"}, {"profile": "gpu", "device": "cpu"}])
def test_cuda_asked_for_and_not_there(load, flags):
    with pytest.raises(ConfigError, match="--profile embedded"):
        choose_profile(load(**flags), cuda=lambda: NO_CUDA)


def test_the_probe_is_not_asked_where_the_answer_does_not_matter(load):
    def never() -> Cuda:
        raise AssertionError

    assert choose_profile(load(profile="embedded"), cuda=never).device == "cpu"


def put_in_cache(hub: Path, name: str) -> Path:
    """A model as the hub's client leaves it, its files empty; the folder that holds them."""
    place = hub / ("models--" + name.replace("/", "--"))
    snapshot = place / "snapshots" / "17e1f3"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("17e1f3")
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (snapshot / file).touch()
    return snapshot


def test_auto_takes_the_gpu_profile_where_its_encoder_is_there(load, tmp_path):
    put_in_cache(tmp_path / "hub", "thenlper/gte-small")
    config = replace(load(), hub_cache=tmp_path / "hub")
    assert choose_profile(config, cuda=lambda: CUDA).profile == "gpu"


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_half_a_download_is_not_taken(load, tmp_path, missing):
    for name in ("thenlper/gte-small", "a/b"):
        (put_in_cache(tmp_path / "hub", name) / missing).unlink()
    config = replace(load(model="a/b"), hub_cache=tmp_path / "hub")
    assert choose_profile(config, cuda=lambda: CUDA).profile == "embedded"
    assert choose_profile(replace(config, profile="gpu"), cuda=lambda: CUDA).reader == "extractive"


def test_auto_takes_the_model_on_a_gpu_where_it_is_there_and_a_server_that_was_named_anywhere(load, tmp_path):
    put_in_cache(tmp_path / "hub", "a/b")
    config = replace(load(profile="gpu", model="a/b"), hub_cache=tmp_path / "hub")
    assert choose_profile(config, cuda=lambda: CUDA).reader == "zephyr"
    assert choose_profile(load(profile="gpu", model=str(tmp_path)), cuda=lambda: CUDA).reader == "zephyr"
    assert choose_profile(replace(config, profile="embedded"), cuda=lambda: CUDA).reader == "extractive"
    assert choose_profile(load(server_url="http://127.0.0.1:8000/v1"), cuda=lambda: NO_CUDA).reader == "server"
    assert choose_profile(load(reader="zephyr"), cuda=lambda: NO_CUDA).reader == "zephyr"


def test_the_server_reader_needs_to_know_where(load):
    with pytest.raises(ConfigError, match="RAG_SERVER_URL"):
        choose_profile(load(reader="server"), cuda=lambda: NO_CUDA)


def test_a_key_comes_from_the_environment_alone_and_is_never_shown(load, tmp_path):
    config = load(environ={"RAG_SERVER_KEY": "sk-hidden"})
    assert config.server_key == "sk-hidden"
    assert "sk-hidden" not in repr(config)
    (tmp_path / "rag.toml").write_text('server_key = "sk-hidden"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="RAG_SERVER_KEY") as caught:
        load()
    assert "sk-hidden" not in str(caught.value)
    (tmp_path / "rag.toml").unlink()
    with pytest.raises(ConfigError) as caught:
        load(environ={"RAG_SERVER_KEY": "sk-hidden\n"})
    assert "sk-hidden" not in str(caught.value)


@pytest.mark.parametrize("found", ["ftp://x", "http://", "http://u:p@host/v1", "http://host/v1?key=1", "host:80", 3])
def test_an_address_holds_no_secrets(load, found):
    with pytest.raises(ConfigError, match="an address like"):
        load(server_url=found)


def test_a_password_in_an_address_is_not_repeated(load):
    with pytest.raises(ConfigError) as caught:
        load(environ={"RAG_SERVER_URL": "http://user:hunter2@host/v1"})
    assert "hunter2" not in str(caught.value)


def test_a_table_is_toml_in_the_file_and_json_in_the_environment(load, tmp_path):
    (tmp_path / "rag.toml").write_text('rope_scaling = { rope_type = "yarn", factor = 2.0 }\n', encoding="utf-8")
    assert load().rope_scaling == {"rope_type": "yarn", "factor": 2.0}
    assert load(environ={"RAG_ROPE_SCALING": '{"rope_type": "linear"}'}).rope_scaling == {"rope_type": "linear"}
    with pytest.raises(ConfigError, match="a table like"):
        load(environ={"RAG_ROPE_SCALING": "yarn"})


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("TRUE", True), ("0", False), ("", False)])
def test_offline_follows_hugging_face(load, value, offline):
    assert load(environ={"HF_HUB_OFFLINE": value}).offline is offline
    assert load(environ={"HF_HUB_OFFLINE": value}, offline=True).offline is True

"""Whatever stands in a model's answer, in an index's manifest or in the settings: a result, or an error of ours."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.config import SETTINGS, Config, load_config
from reader.citations import MarkerResolver, resolve
from retrieval.database import load_manifest, save_manifest
from retrieval.errors import ConfigError, RagError
from retrieval.records import ChunkingSpec, EncoderSpec, IndexManifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates, too


# ---- markers of citations --------------------------------------------------------------------------------------------

SIGNS = st.sampled_from(
    [*"[](){}【】［］「」,;:.-–~^#†`*_ \n\t0123456789٣²Ⅳ一", "Source: ", "documents ", "来源", "see ", "```"]
)
ANSWERS = st.one_of(ANY_TEXT, st.lists(st.one_of(SIGNS, SIGNS, ANY_TEXT), max_size=30).map("".join))
FORMS = st.sampled_from(
    ["[{}]", "[^{}]", "[Document {}]", "(Document {})", "【{}】", "[{}†source]", "[ {} ]", "[文档{}]"]
)


def streamed(resolver: MarkerResolver, text: str, cuts: Sequence[int]) -> str:
    pieces = [text[start:end] for start, end in pairwise([0, *sorted(cuts), len(text)])]
    return "".join([*map(resolver.feed, pieces), resolver.close()])


@settings(max_examples=200, deadline=None)
@given(ANSWERS, st.sets(st.integers(1, 12)), st.data())
def test_any_answer_is_resolved_the_same_in_any_pieces(written, shown, data):
    resolver = MarkerResolver(shown)
    cuts = data.draw(st.lists(st.integers(0, len(written)), max_size=8))
    text = streamed(resolver, written, cuts)
    whole = resolve(written, shown)
    assert text.strip() == whole.text
    assert tuple(resolver.removed) == whole.removed
    assert shown.isdisjoint(whole.removed)
    assert all(shown.issuperset(claim.markers) for claim in whole.claims)
    for start, end, numbers in resolver.places:
        assert text[start:end] == "".join(f"[{number}]" for number in numbers)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(FORMS, st.integers(1, 99)), max_size=8), st.sets(st.integers(1, 99)), st.data())
def test_every_number_that_is_cited_is_kept_or_counted_as_removed(cited, shown, data):
    written = "".join(f"Cats sleep {form.format(number)}. " for form, number in cited)
    resolver = MarkerResolver(shown)
    text = streamed(resolver, written, data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
    kept = [number for _, _, numbers in resolver.places for number in numbers]
    assert kept == [number for _, number in cited if number in shown]
    assert resolver.removed == [number for _, number in cited if number not in shown]
    assert text == "".join(f"Cats sleep{f' [{number}]' if number in shown else ''}. " for _, number in cited)


# ---- the manifest of an index ----------------------------------------------------------------------------------------

MANIFEST = IndexManifest(EncoderSpec("name", "1", 64, 512), ChunkingSpec(), "2026-01-01T00:00:00+00:00", {"rag": "1"})
FIELDS = [*asdict(MANIFEST.encoder), *asdict(MANIFEST.chunking)]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text()), inner, max_size=4)
    ),
    max_leaves=12,
)
STORED = st.one_of(JSON.map(json.dumps), st.text(max_size=20), st.binary(max_size=20), st.just("[" * 100_000))


def loaded(key: str, value: str | bytes | None) -> IndexManifest:
    """The manifest as it is read when what is stored under a key is another value, or None."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        save_manifest(connection, MANIFEST)
        connection.execute("DELETE FROM manifest WHERE key = ?", (key,))
        if value is not None:
            connection.execute("INSERT INTO manifest VALUES (?, ?)", (key, value))
        return load_manifest(connection)
    finally:
        connection.close()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["encoder", "chunking", "created_at", "versions"]), st.one_of(st.none(), STORED))
def test_any_manifest_is_read_or_refused(key, value):
    try:
        manifest = loaded(key, value)
    except RagError:
        return
    for found, expected in ((manifest.encoder, MANIFEST.encoder), (manifest.chunking, MANIFEST.chunking)):
        for name, one in asdict(found).items():
            wanted = type(getattr(expected, name))
            assert type(one) in ({float, int} if wanted is float else {wanted})
    assert isinstance(manifest.created_at, str)
    assert all(isinstance(word, str) for pair in manifest.versions.items() for word in pair)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["encoder", "chunking"]), st.sampled_from(FIELDS), JSON)
def test_a_manifest_with_another_value_in_one_field_is_read_or_refused(key, field, value):
    fields = asdict(getattr(MANIFEST, key)) | {field: value}
    try:
        manifest = loaded(key, json.dumps(fields))
    except RagError:
        return
    assert asdict(getattr(manifest, key)) == fields


# ---- settings --------------------------------------------------------------------------------------------------------

KEYS = st.one_of(st.sampled_from(sorted(SETTINGS)), st.sampled_from(["reader.top_k", "top-k", "", "a b"]))
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), "0x" + "f" * 9000]))
WORDS = st.one_of(
    ANY_TEXT,
    st.integers().map(str),
    st.sampled_from(
        ["~nobody-of-that-name/x", "~", "a" * 5000, "a/" * 3000, "none", "true", "9" * 5000, "1e999", "nan", "[" * 9000]
    ),
)
VALUES = st.recursive(
    st.one_of(st.booleans(), NUMBERS, WORDS, st.just("1979-05-27T07:32:00Z")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=5,
)
NAMES = st.one_of(
    st.sampled_from(sorted(SETTINGS)).map(lambda key: f"RAG_{key.upper()}"),
    st.sampled_from(["HOME", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "RAG_CONFIG", "RAG_x"]),
)
VARIABLES = WORDS.filter(lambda word: "\0" not in word)  # which no environment can hold


def toml(value: Any) -> str:
    """A value as it stands in a settings file; texts of digits that begin with 0x, and dates, stand without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 2**64:
        return hex(value).replace("-0x", "0x")
    if isinstance(value, str) and value.startswith(("0x", "1979")):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {toml(one)}' for key, one in value.items())}}}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("settings")


def check_config(folder: Path, *, file: bytes = b"", environ: Any = None, flags: Any = None) -> None:
    (folder / "rag.toml").write_bytes(file)
    try:
        config = load_config(flags or {}, environ or {}, folder)
    except ConfigError:
        return
    assert isinstance(config, Config)
    assert config.index.is_absolute()
    assert config.cache.is_absolute()
    assert 1 <= config.top_k <= config.candidates


LENIENT = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LENIENT
@given(values=st.dictionaries(KEYS, VALUES, max_size=3))
@example(values={"server_timeout": 10**400})
@example(values={"top_k": "0x" + "f" * 9000})
def test_any_values_in_the_settings_file_are_taken_or_refused(folder, values):
    lines = (f"{json.dumps(key)} = {toml(value)}\n" for key, value in values.items())
    check_config(folder, file="".join(lines).encode("utf-8", "surrogatepass"))


@LENIENT
@given(file=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
@example(file=b"top_k = " + b"9" * 5000)
@example(file=b"top_k = " + b"[" * 20_000)
@example(file=b"a = {b" * 5_000)
@example(file=b"a." * 2_000 + b"a = 1")
def test_any_settings_file_is_taken_or_refused(folder, file):
    check_config(folder, file=file)


@LENIENT
@given(environ=st.dictionaries(NAMES, VARIABLES, max_size=4))
@example(environ={"HF_HUB_CACHE": "~nobody-of-that-name/x"})
@example(environ={"HF_HOME": "~nobody-of-that-name/x"})
@example(environ={"HOME": "~nobody-of-that-name/x"})
@example(environ={"RAG_CONFIG": "a" * 5000})
def test_any_environment_is_taken_or_refused(folder, environ):
    check_config(folder, environ=environ)


@LENIENT
@given(flags=st.dictionaries(st.one_of(KEYS, st.just("config")), st.one_of(st.none(), VALUES), max_size=4))
def test_any_flags_are_taken_or_refused(folder, flags):
    check_config(folder, flags=flags)

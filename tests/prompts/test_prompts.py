"""Prompts are data: checked when loaded, filled once, and told apart by their text."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import Prompt, PromptError, load_prompt, prompt_names
from reader.reader import REFUSAL

GOOD = 'version = 1\nlanguage = "en"\nsystem = "Say {{refusal}}"\nuser = "{{passages}} {{question}}"\n'
VALUES = {"refusal": "no", "passages": "[1] text", "question": "why?"}


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes) -> Prompt:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "own.toml").write_bytes(data)
        return load_prompt("own", folder=tmp_path)

    return write


# ---- those that ship -------------------------------------------------------------------------------------------------


def test_a_prompt_of_each_kind_ships_for_each_language_a_refusal_has():
    kinds = {
        "answer": {"refusal", "passages", "question"},
        "condense": {"history", "question"},
        "critique-groundedness": {"passage", "question", "answer"},
        "critique-relevance": {"document", "question"},
        "critique-standalone": {"question"},
        "generate": {"document", "passage"},
        "judge": {"question", "reference", "answer"},
    }
    assert prompt_names() == [f"{kind}-{language}" for kind in kinds for language in REFUSAL]
    for name in prompt_names():
        kind, _, language = name.rpartition("-")
        assert load_prompt(name).language == language
        assert load_prompt(name).variables == kinds[kind]


@pytest.mark.parametrize("name", ["answer-en", "answer-zh"])
def test_shipped_prompts_load_and_fill(name):
    prompt = load_prompt(name)
    assert prompt.variables == {"refusal", "passages", "question"}
    assert prompt.sha256 == hashlib.sha256((files("prompts") / f"{name}.toml").read_bytes()).hexdigest()
    refusal = REFUSAL[prompt.language]
    system, user = prompt.fill({"refusal": refusal, "passages": "[1] Cats sleep.", "question": "Do cats sleep?"})
    assert refusal in system
    assert "[1] Cats sleep." in user
    assert user.endswith("Do cats sleep?")
    assert "{{" not in system + user


# ---- filling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"missing: \['passages', 'question', 'refusal'\], unexpected: none"),
        ({"refusal": "", "passages": ""}, r"missing: \['question'\], unexpected: none"),
        ({**VALUES, "history": ""}, r"missing: none, unexpected: \['history'\]"),
    ],
)
def test_missing_and_unexpected_values_are_named(write, values, message):
    with pytest.raises(PromptError, match=message):
        write(GOOD).fill(values)


@pytest.mark.parametrize(
    "value",
    ["{{question}}", "{{passages}}{{refusal}}", "{question}", "%s %(x)d", "$question ${x}", r"\1 \g<0> \n", "</s>",
     "<|assistant|>", "{{", "}}", "\ud800", "\x00", ""],
)  # fmt: skip
def test_a_value_stays_what_it_is(write, value):
    prompt = write('version = 1\nlanguage = "en"\nsystem = "{{question}}"\nuser = "<{{question}}|{{question}}>"\n')
    assert prompt.fill({"question": value}) == (value, f"<{value}|{value}>")


@given(st.text(), st.text())
def test_any_two_values_stand_side_by_side(one, other):
    prompt = Prompt("own", 1, "en", "{{a}}{{b}}", "{{b}}{{a}}", "0")
    assert prompt.fill({"a": one, "b": other}) == (one + other, other + one)


def test_other_braces_are_plain_text(write):
    prompt = write(GOOD.replace("Say", "Say {x} {{ question }} {{Question}} {{1}} {"))
    assert prompt.variables == {"refusal", "passages", "question"}
    assert prompt.fill(VALUES)[0] == "Say {x} {{ question }} {{Question}} {{1}} { no"


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_the_text(write):
    prompts = [write(GOOD), write(GOOD), write(GOOD.replace("Say", "Write")), write(f"{GOOD}# a note\n")]
    assert prompts[0] == prompts[1]
    assert len({prompt.sha256 for prompt in prompts}) == 3
    assert prompts[0].sha256 == hashlib.sha256(GOOD.encode()).hexdigest()


def test_white_space_around_a_text_is_dropped_and_kept_inside(write):
    prompt = write(GOOD.replace('"Say {{refusal}}"', '"""\n  Say\n\n  {{refusal}}\n"""'))
    assert prompt.system == "Say\n\n  {{refusal}}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version = ", "not valid TOML"),
        (b"version = 1 # \xff", "not valid TOML"),
        ("x = " + "[" * 50_000, "not valid TOML"),
        ("", r"has the keys \[\], expected \['language', 'system', 'user', 'version'\]"),
        (f"{GOOD}temperature = 1\n", "has the keys .*'temperature'"),
        (GOOD.replace("language", "lang"), "has the keys .*'lang'"),
        (GOOD.replace("version = 1", 'version = "1"'), "version '1', expected a whole number from 1"),
        (GOOD.replace("version = 1", "version = true"), "version True"),
        (GOOD.replace("version = 1", "version = 0"), "version 0"),
        (GOOD.replace("version = 1", "version = 1.5"), r"version 1\.5"),
        (GOOD.replace('"en"', "1"), "must be text"),
        (GOOD.replace('"Say {{refusal}}"', "[]"), "must be text"),
        (GOOD + "#" * 100_000, "too long, expected at most 100,000 bytes"),
    ],
    ids=["broken", "not UTF-8", "deep", "empty", "unknown key", "missing key", "text version", "bool version",
         "version 0", "float version", "language", "system", "long"],
)  # fmt: skip
def test_a_malformed_prompt_is_refused(write, content, message):
    with pytest.raises(PromptError, match=message):
        write(content)


@pytest.mark.parametrize("name", ["../answer-en", "answer-en.toml", "", "/etc/passwd", "A", "a/b", "a\0", "ａ", "a\n"])
def test_a_name_leads_nowhere_else(name, tmp_path):
    with pytest.raises(PromptError, match="is no prompt name"):
        load_prompt(name, folder=tmp_path)


def test_a_missing_prompt_names_those_there_are(tmp_path):
    with pytest.raises(PromptError, match="there is no prompt 'nothing'; shipped: answer-en, answer-zh, condense-en"):
        load_prompt("nothing", folder=tmp_path)
    with pytest.raises(PromptError, match="there is no prompt"):
        load_prompt("nothing")


def test_a_folder_in_place_of_a_prompt_is_named_as_such(tmp_path):
    (tmp_path / "own.toml").mkdir()
    with pytest.raises(PromptError, match="cannot be read: Is a directory"):
        load_prompt("own", folder=tmp_path)


def test_an_endless_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "own.toml").symlink_to("/dev/zero")
    with pytest.raises(PromptError, match="too long"):
        load_prompt("own", folder=tmp_path)

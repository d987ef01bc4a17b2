"""JSON, JSON lines and YAML: what is kept as it is, what becomes lines with paths, and what breaks neither."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse import Parsed, parse
from ingest.parse.structured import MAX_PATH_CHARS, ORIGINAL_CHARS
from retrieval.records import heading_path

LONG = "word " * (ORIGINAL_CHARS // 5 + 1)


def read(text: str, suffix: str = ".json") -> Parsed:
    return parse(Path(f"a{suffix}"), text.encode())


def test_short_json_is_kept():
    text = '\ufeff{\n  "name": "x",\n  "version": 1.10\n}\n'
    parsed = read(text)
    assert (parsed.text, parsed.media_type) == (text, "application/json")


def test_long_json_becomes_lines_with_paths():
    document = {
        "title": LONG.strip(),
        "users": [{"name": "Ann", "age": 3}, {"name": "Bob", "tags": ["a", "b"], "none": None}],
        "deep": {"x": {"y": True, "z z": []}},
        "points": [[1, 2], [3, 4]],
        "text": "one\ntwo",
    }
    lines = read(json.dumps(document)).text.split("\n")
    assert lines == [
        "title:",
        LONG.strip(),
        "",
        "users[0].name: Ann",
        "users[0].age: 3",
        "",
        "users[1].name: Bob",
        "users[1].tags: a, b",
        "users[1].none: null",
        "",
        "deep.x.y: true",
        'deep.x["z z"]: []',
        "points[0]: 1, 2",
        "points[1]: 3, 4",
        "text:",
        "one",
        "two",
    ]


def test_escapes_are_decoded_even_in_short_files():
    assert read('{"city": "\\u5317\\u4eac", "bad": "\\ud800"}').text == "city: 北京\nbad: \ufffd"


def test_numbers_are_shown_as_they_are_written_and_keys_twice():
    text = f'{{"a": 1.10, "b": 1e999, "a": -0, "n": NaN, "c": {"9" * 5000}, "t": "{LONG.strip()}"}}'
    lines = read(text).text.split("\n")
    assert lines[:4] == ["a: 1.10", "b: 1e999", "a: -0", "n: NaN"]
    assert "9" * 5000 in lines


@pytest.mark.parametrize("text", ['{"a": 1', "{'a': 1}", '// comment\n{"a": 1}', "[" * 100_000, '{"a":' * 100_000])
def test_what_is_not_json_keeps_its_text_and_says_so(text):
    parsed = read(text)
    assert parsed.text == text
    assert parsed.metadata["not_valid"]


def test_json_lines_are_rows_with_the_number_of_their_line():
    parsed = read('{"a": 1, "b": "x"}\r\n\r\n{"a": 2}\n[1, 2]\n"s"', ".jsonl")
    assert parsed.text == "a: 1\nb: x\n\na: 2\n\n1, 2\n\ns"
    found = [(span.kind, span.number, parsed.text[span.start : span.end]) for span in parsed.spans]
    assert found == [("row", 1, "a: 1\nb: x"), ("row", 3, "a: 2"), ("row", 4, "1, 2"), ("row", 5, "s")]
    broken = read('{"a": 1}\n{"b": \n', ".ndjson")
    assert broken.text == '{"a": 1}\n{"b": \n'
    assert str(broken.metadata["not_valid"]).startswith("line 2")


def test_paths_are_cut_in_front():
    document: object = LONG
    for _ in range(200):
        document = {"level": document}
    (path, *_) = read(json.dumps(document)).text.split(":\n")
    assert path.startswith("…")
    assert len(path) == MAX_PATH_CHARS + 1


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def strings(value: object) -> list[str]:
    """Slow oracle: every string in a value, recursively."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_no_string_is_lost_in_order(value):
    parsed = read(json.dumps({"filler": LONG, "value": value}))
    position = parsed.text.index("value")
    for text in strings(value):
        position = parsed.text.index(text, position)


YAML = """\
# Values
image:
  repository: nginx   # where
services:
  - name: web
    ports:
      - 80
  - name: db
    note: |
      inside: text
      more:
        deep: 1
    after: x
"quoted key": &anchor
  x: *anchor
top: value
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_yaml_keeps_its_text_and_shows_where(end):
    text = YAML.replace("\n", end)
    parsed = read(text, ".yaml")
    assert parsed.text == text

    def path(piece: str) -> tuple[str, ...]:
        return heading_path(parsed.spans, text.index(piece))

    assert path("nginx") == ("image",)
    assert path("web") == ("services",)
    assert path("80") == ("services", "ports")
    assert path("db") == ("services", "name: db")
    assert path("deep: 1") == ("services", "note")
    assert path("after") == ("services", "after: x")
    assert path("*anchor") == ("quoted key",)
    assert path("value") == ("top: value",)
    assert all(span.label in text[span.start : span.end] for span in parsed.spans)


def test_yaml_bombs_and_tags_are_text():
    bomb = (
        "a: &a [x,x]\n"
        + "".join(f"b{n}: &b{n} [*a,*a]\n" for n in range(50))
        + "c: !!python/object/apply:os.system [ls]\n"
    )
    assert read(bomb, ".yml").text == bomb


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("a:\n" * 200_000, ".yaml"),
        ("a: |\n  b:\n" * 100_000, ".yaml"),
        ("- " * 500_000 + "a:", ".yaml"),
        (" " * 1_000_000 + "a:", ".yaml"),
        ("\n" * 1_000_000, ".yaml"),
        ("".join(" " * (n % 40) + "a:\n" for n in range(100_000)), ".yaml"),
        ("[" + ",".join(["[1,[2]]"] * 100_000) + "]", ".json"),
        ('{"' + "k" * 100_000 + '":' + "[[" * 400 + "1" + "]]" * 400 + "}", ".json"),
        ('{"a":1}\n' * 100_000, ".jsonl"),
    ],
)
def test_hostile_structures_take_linear_time(text, suffix):
    started = time.perf_counter()
    try:
        parsed = read(text + "x", suffix) if suffix == ".yaml" else read(text, suffix)
    finally:
        assert time.perf_counter() - started < 10  # measured 0.1 to 1.5 s
    assert len(parsed.text) < 40 * len(text)

"""Source code: unchanged text, and the definitions of Python files as headings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.parse import parse

PYTHON = '''\
import os

@decorator
@other(1)
class Foo(Base):
    """Doc."""

    def bar(self): pass

    async  def baz(
        self,
    ):
        def inner(): ...

if True:
    def last(): ...
'''


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_python_definitions(end):
    text = PYTHON.replace("\n", end)
    parsed = parse(Path("a.py"), text.encode())
    assert parsed.text == text
    assert parsed.media_type == "text/x-python"
    assert [(span.number, span.label, text[span.start : span.end]) for span in parsed.spans] == [
        (1, "class Foo", f"@decorator{end}@other(1){end}class Foo(Base):"),
        (2, "def bar", "    def bar(self): pass"),
        (2, "def baz", "    async  def baz("),
        (3, "def inner", "        def inner(): ..."),
        (1, "def last", "    def last(): ..."),
    ]


def test_a_broken_python_file_still_has_headings():
    assert parse(Path("a.py"), b"def f(:\n  class").spans[0].label == "def f"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.js", "text/javascript"), ("a.kt", "text/x-kt"), ("a.xml", "application/xml"), ("a.json", "application/json")],
)
def test_other_languages_have_no_headings(name, media_type):
    parsed = parse(Path(name), b"def x: class Foo {}\n# y\n")
    assert parsed.spans == ()
    assert parsed.media_type == media_type

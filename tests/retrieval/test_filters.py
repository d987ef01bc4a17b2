"""Filters: what each kind lets through, what a person may write, and that no glob is slow."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import ConfigError
from retrieval.filters import (
    LAST_PAGE,
    MAX_VALUE_CHARS,
    MAX_VALUES,
    Condition,
    Filter,
    document_date,
    parse_condition,
    parse_filter,
)
from retrieval.store import DocumentFacts


def facts(source="docs/api/Guide.md", *, media_type="text/markdown", title="A Guide", **metadata) -> DocumentFacts:
    return DocumentFacts(1, "d", "/home/me", source, media_type, title, metadata)


def takes(source: str, *globs: str) -> bool:
    return parse_filter(sources=globs).matches(facts(source))


# sources


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("*.md", ("a.md", "docs/a.md", "x/y/a.md"), ("a.mdx", "a.md/b", "A.MD")),
        ("docs/*.md", ("docs/a.md",), ("docs/x/a.md", "x/docs/a.md", "docs/a.txt")),
        ("docs/**/*.md", ("docs/a.md", "docs/x/y/a.md"), ("a.md", "x/docs/a.md")),
        ("**/api/**", ("api/a", "x/api/b/c"), ("x/apis/b",)),
        ("docs/**", ("docs/a", "docs/x/a"), ("doc/a",)),
        ("docs/", ("docs/a", "docs/x/a", "x/docs/a"), ("docs", "docs.md", "mydocs/a")),
        ("docs/api/", ("docs/api/a",), ("x/docs/api/a", "docs/api")),
        ("docs", ("docs/a", "docs", "x/docs/a"), ("docs.md",)),
        ("./docs/api", ("docs/api/a", "docs/api"), ("x/docs/api",)),
        ("./docs", ("docs/a",), ("x/docs/a",)),
        ("guide.md", ("guide.md", "x/guide.md"), ("my-guide.md",)),
        ("a?c.md", ("abc.md",), ("ac.md", "a/c.md")),
        ("[a-c]*.md", ("bike.md",), ("dog.md", "Bike.md")),
        ("[!a-c].md", ("d.md",), ("a.md",)),
        ("/home/me/docs/*", ("docs/a",), ("a", "docs/x/a")),
        ("**", ("a", "x/y"), ()),
        ("*", ("a", "x/y"), ()),
        ("caf\u00e9.md", ("cafe\u0301.md",), ("cafe.md",)),
        ("[", ("[",), ("a",)),
        ("文档/*.md", ("文档/指南.md",), ("指南.md",)),
    ],
)
def test_globs(glob, matching, others):
    assert [source for source in matching if not takes(source, glob)] == []
    assert [source for source in others if takes(source, glob)] == []


def test_several_sources_are_alternatives_and_a_bang_takes_away_in_any_order():
    assert takes("a.md", "*.txt", "*.md")
    assert not takes("drafts/a.md", "!drafts/", "*.md")
    assert not takes("drafts/a.md", "*.md", "!drafts/")
    assert takes("a.md", "!drafts/")


NAMES = st.text("ab.-", min_size=1, max_size=4).filter(lambda name: name.strip("."))
PATHS = st.lists(NAMES, min_size=1, max_size=4)


def slow(glob: list[str], names: list[str]) -> bool:
    """What globs mean, by trying everything."""
    if not glob:
        return not names
    if glob[0] == "**":
        return slow(glob[1:], names) or (bool(names) and slow(glob, names[1:]))
    return bool(names) and slow_name(glob[0], names[0]) and slow(glob[1:], names[1:])


def slow_name(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob[0] == "*":
        return slow_name(glob[1:], name) or (bool(name) and slow_name(glob, name[1:]))
    return bool(name) and glob[0] in ("?", name[0]) and slow_name(glob[1:], name[1:])


@given(st.lists(st.one_of(st.just("**"), st.text("ab?*", min_size=1, max_size=4)), min_size=2, max_size=5), PATHS)
def test_globs_like_the_slow_oracle(glob, names):
    meant = [*glob] if any(mark in glob[-1] for mark in "*?") else [*glob, "**"]
    assert takes("/".join(names), "/".join(glob)) == slow(meant, names)


@given(PATHS)
def test_a_path_matches_itself_and_every_folder_above_it(names):
    path = "/".join(names)
    assert takes(path, "./" + path)
    assert all(takes(path, "./" + "/".join(names[:depth]) + "/") for depth in range(1, len(names)))
    assert not takes(path, "!" + path)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_glob_fails_but_with_advice(glob, source):
    try:
        takes(source, glob)
    except ConfigError as error:
        assert "write for example" in str(error)  # noqa: PT017 - most globs are fine


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "glob", ["*a" * 400 + "b", "**/" * 300 + "b", "*" * 900, "?*" * 400, "[a]*" * 200, "**/*a*a*a*a*a*b/" * 40]
)
def test_no_glob_is_slow(glob):
    """A moment; a pattern that tries every way to match never ends."""
    takes("a" * 2000 + "/a" * 1000, glob)


# types


@pytest.mark.parametrize(
    ("wanted", "source", "media_type", "matches"),
    [
        ("md", "a.MD", "text/markdown", True),
        (".md", "a.mdx", "text/markdown", False),
        ("markdown", "a.mdx", "text/markdown", True),
        ("PDF", "report", "application/pdf", True),
        (".pdf", "report", "application/pdf", False),
        ("tar.gz", "a.tar.gz", "x/y", True),
        ("text/html", "a.htm", "text/html; charset=utf-8", True),
        ("text/*", "a.htm", "text/html", True),
        ("text/*", "a.pdf", "application/pdf", False),
        ("md", "md", "text/plain", False),
        ("md", "notes.md/a.txt", "text/plain", False),
    ],
)
def test_types(wanted, source, media_type, matches):
    assert parse_filter(types=[wanted]).matches(facts(source, media_type=media_type)) == matches
    assert parse_filter(types=["zip", wanted]).matches(facts(source, media_type=media_type)) == matches


# metadata


@pytest.mark.parametrize(
    ("condition", "metadata", "holds"),
    [
        ("status=final", {"Status": "FINAL "}, True),
        ("status = final", {"status": "draft"}, False),
        ("status!=draft", {"status": "final"}, True),
        ("status!=draft", {"status": ["final", "draft"]}, False),
        ("status!=draft", {}, True),
        ("status=draft", {}, False),
        ("tags=b", {"tags": ["a", "b"]}, True),
        ("author.name~smi", {"author": {"name": "J. Smith"}}, True),
        ("author.name=x", {"author.name": "x"}, True),
        ("authors.name=b", {"authors": [{"name": "a"}, {"name": "b"}]}, True),
        ("author.name=x", {"author": "x"}, False),
        ("version>=2", {"version": "10"}, True),
        ("version>=2", {"version": 1.5}, False),
        ("version=2", {"version": "2.0"}, True),
        ("pages>=3", {"pages": "unknown"}, False),
        ("pages<3", {"pages": "unknown"}, False),
        ("draft=true", {"draft": True}, True),
        ("draft=1", {"draft": True}, False),
        ("date>=2024", {"date": "2024-03-05"}, True),
        ("date>2024", {"date": "2024-03-05"}, False),
        ("date=2024-03", {"date": "2024-03-05T10:00:00Z"}, True),
        ("date<=2024-02", {"date": date(2024, 2, 29)}, True),
        ("date<2024-02-30", {"date": "2024-01-01"}, False),  # no such day: not a date, so nothing is below it
        ("name<m", {"name": "Alice"}, True),
        ("size>5", {"size": float("nan")}, False),
        ("size>5", {"size": 10**400}, True),
        ("title~guide", {}, True),
        ("title=Other", {"title": "Other"}, True),
        ("url=a=b", {"url": "a=b"}, True),
        ("straße=x", {"STRASSE": "x"}, True),
        ("note=none", {"note": None}, True),
    ],
)
def test_conditions(condition, metadata, holds):
    assert parse_filter(where=[condition]).matches(facts(**metadata)) == holds


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
METADATA = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", "k.k"]), inner)
)


@given(st.sampled_from(["=", "!=", ">=", "<=", ">", "<", "~"]), st.text("012-.a ", min_size=1, max_size=8), METADATA)
def test_no_metadata_breaks_a_condition(op, value, metadata):
    held = Condition("k", op, value).holds({"k": metadata})
    if op in ("=", "!="):
        assert held != Condition("k", "!=" if op == "=" else "=", value).holds({"k": metadata})
    Condition("k.k.k", op, value).holds({"k": metadata})


def test_conditions_are_read_whole():
    assert parse_condition(" a.b >= c d ") == Condition("a.b", ">=", "c d")
    assert str(parse_condition("a~b")) == "a~b"


# dates


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"date": "2024-03-05"}, date(2024, 3, 5)),
        ({"date": "2024-3-5 12:00"}, date(2024, 3, 5)),
        ({"Date": "2024"}, date(2024, 1, 1)),
        ({"date": 2024}, date(2024, 1, 1)),
        ({"updated": "2024-05", "modified": "2020-01-01"}, date(2024, 5, 1)),
        ({"date": "last week", "modified": "2020-01-01"}, date(2020, 1, 1)),
        ({"modified": "2020-01-01", "date": "2019-01-01"}, date(2019, 1, 1)),
        ({"date": "2024-13-01"}, None),
        ({"date": "0000"}, None),
        ({"date": "9999"}, date(9999, 1, 1)),
        ({"date": True}, None),
        ({"date": ["2021-02-03"]}, date(2021, 2, 3)),
        ({}, None),
    ],
)
def test_the_date_of_a_document(metadata, found):
    assert document_date(metadata) == found


def test_after_holds_the_day_itself_and_before_does_not():
    year = parse_filter(after="2024", before="2025")
    matching = [
        day for day in ("2023-12-31", "2024-01-01", "2024-12-31", "2025-01-01") if year.matches(facts(date=day))
    ]
    assert matching == ["2024-01-01", "2024-12-31"]
    assert not parse_filter(after="0001").matches(facts())
    assert not parse_filter(before="9999").matches(facts())


# pages, all together, messages


@pytest.mark.parametrize(
    ("text", "pages"), [("3", (3, 3)), ("3-7", (3, 7)), ("-7", (1, 7)), ("3-", (3, LAST_PAGE)), (" 3 ", (3, 3))]
)
def test_pages(text, pages):
    wanted = parse_filter(pages=text)
    assert wanted.pages == pages
    assert wanted.matches_page(pages[0])
    assert not wanted.matches_page(pages[1] + 1)
    assert not wanted.matches_page(None)
    assert Filter().matches_page(None)


def test_every_kind_must_hold():
    wanted = parse_filter(sources=["docs/"], types=["md"], where=["status=final", "n>1"], after="2024")
    good = {"status": "final", "n": 2, "date": "2024-05-01"}
    assert wanted.matches(facts("docs/a.md", **good))
    for worse in ({"status": "draft"}, {"n": 1}, {"date": "2023"}):
        assert not wanted.matches(facts("docs/a.md", **{**good, **worse}))
    assert not wanted.matches(facts("a.md", **good))
    assert not wanted.matches(facts("docs/a.txt", media_type="text/plain", **good))


def test_describe():
    wanted = parse_filter(
        sources=["docs/*.pdf", "a"], types=["pdf"], where=["n>1"], after="2024", before="2025", pages="3-7"
    )
    assert wanted.describe() == (
        "source docs/*.pdf or a and type pdf and n>1 and date from 2024-01-01 on and date before 2025-01-01"
        " and page 3-7"
    )
    assert parse_filter(pages="3-").describe() == "page 3-"
    assert (Filter().describe(), Filter().is_empty, wanted.is_empty) == ("", True, False)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"sources": [""]}, ("source", "''", "write for example")),
        ({"sources": ["!"]}, ("source", "write for example")),
        ({"sources": ["./."]}, ("source", "'./.'")),
        ({"sources": ["a\0"]}, ("source", "'a\\x00'")),
        ({"sources": ["a" * (MAX_VALUE_CHARS + 1)]}, ("source", "...", "1000 characters")),
        ({"sources": ["a"] * (MAX_VALUES + 1)}, ("101 values", "at most 100")),
        ({"types": ["*/*"]}, ("type", "'*/*'", "text/*")),
        ({"types": [" "]}, ("type", "extension")),
        ({"where": ["draft"]}, ("where", "'draft'", "KEY=VALUE")),
        ({"where": ["=x"]}, ("where", "KEY=VALUE")),
        ({"where": ["x="]}, ("where", "KEY=VALUE")),
        ({"where": ["a" + ".a" * 9 + "=1"]}, ("where", "KEY=VALUE")),
        ({"after": "yesterday"}, ("after", "'yesterday'", "YYYY-MM-DD")),
        ({"before": "2024-02-30"}, ("before", "'2024-02-30'")),
        ({"pages": "0"}, ("page", "'0'", "3-7")),
        ({"pages": "7-3"}, ("page", "'7-3'")),
        ({"pages": "-"}, ("page", "'-'")),
        ({"pages": "99999999"}, ("page",)),
        ({"pages": "١"}, ("page",)),
    ],
)
def test_errors_say_what_was_found_and_what_to_write(given, parts):
    with pytest.raises(ConfigError) as caught:
        parse_filter(**given)
    for part in parts:
        assert part in str(caught.value)


# over a store


@pytest.mark.parametrize(
    ("found", "condition", "holds"),
    [
        ("1.10.0", "v>=1.9.0", True),
        ("v1.10.0", "v>1.9", True),
        ("1.9.0", "v=1.9.0", True),
        ("1.10.0", "v<1.9.0", False),
        ("1.10", "v<1.9", True),  # two numbers are a decimal number
    ],
)
def test_versions_compare_by_their_numbers(found, condition, holds):
    assert parse_condition(condition).holds({"v": found}) == holds

"""Markers: every form that models write is read, none is invented, and streaming changes nothing."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reader.citations import MarkerResolver, cite, resolve, with_added
from retrieval.errors import RagError
from retrieval.records import Document, Hit, Span

PIECES = st.sampled_from(
    [
        "[", "]", "1", "2", "7", ",", "(", ")", "Source: ", "ource: 2", "S", "Document ", "see ", "\n", " ", "a.", "`",
        "``", "```", "和", "。", "【", "】", "Sources", "Cats sleep. ", "文档", " and ", "-", "^",
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Cats sleep [1].", "Cats sleep [1]."),
        ("Cats sleep [1, 2].", "Cats sleep [1][2]."),
        ("Cats sleep [1][3].", "Cats sleep [1][3]."),
        ("Cats sleep [1-3].", "Cats sleep [1][2][3]."),
        ("Cats sleep [1; 3].", "Cats sleep [1][3]."),
        ("Cats sleep [^2].", "Cats sleep [2]."),
        ("Cats sleep [Document 2].", "Cats sleep [2]."),
        ("Cats sleep [Document 1 and Document 2].", "Cats sleep [1][2]."),
        ("Cats sleep (Document 2).", "Cats sleep [2]."),
        ("Cats sleep (see passages 1 and 3).", "Cats sleep [1][3]."),
        ("Cats sleep (Source: [2]).", "Cats sleep [2]."),
        ("Cats sleep. Source: 3", "Cats sleep. [3]"),
        ("Cats sleep. Sources: 1, 2.", "Cats sleep. [1][2]."),
        ("Cats sleep. Sources: [1], [2]\nDogs.", "Cats sleep. [1][2]\nDogs."),
        ("猫睡觉【1】。", "猫睡觉[1]。"),
        ("猫睡觉［1，2］。", "猫睡觉[1][2]。"),
        ("猫睡觉（文档2）。", "猫睡觉[2]。"),
        ("猫睡觉（来源：1和3）。", "猫睡觉[1][3]。"),
        ("猫睡觉。来源：2", "猫睡觉。[2]"),
        ("猫睡觉。来源：1。狗叫。", "猫睡觉。[1]。狗叫。"),
        ("Cats sleep [1, 2, and 3].", "Cats sleep [1][2][3]."),
        ("Cats sleep (Documents 1, 2, and 3).", "Cats sleep [1][2][3]."),
        ("Cats sleep [1 to 3].", "Cats sleep [1][2][3]."),
        ("Cats sleep (passages 1 through 3).", "Cats sleep [1][2][3]."),
        ("Cats sleep (Source: Document 1).", "Cats sleep [1]."),
        ("Cats sleep [1, page 3].", "Cats sleep [1]."),
        ("Cats sleep [#1].", "Cats sleep [1]."),
        ("猫睡觉【1†source】。", "猫睡觉[1]。"),
    ],
)
def test_every_form_becomes_the_one_form(written, text):
    resolved = resolve(written, {1, 2, 3})
    assert resolved.text == text
    assert resolved.removed == ()


@pytest.mark.parametrize(
    "text",
    ["In [2023] it was (1984).", "See [1](https://example.org).", "Use `a[1]` here.", "```\nb = a[2]\n```\nDone.",
     "A list: (1) one, (2) two.", "The source code: 3 files.", "Document 2 of the annex", "x[12345]", "a ] [ b", "",
     "Use list[0] and x[0].", "It lists many references: 42.", "Total references: 2. And more.", "[a](source:1)"],
)  # fmt: skip
def test_what_is_no_marker_stays(text):
    assert resolve(text, {1, 2, 3}).text == text
    assert not any(claim.markers for claim in resolve(text, {1, 2, 3}).claims)


def test_numbers_that_were_never_shown_are_removed_and_counted():
    resolved = resolve("Cats sleep [9]. Dogs bark [1, 7] (Document 8).", {1})
    assert resolved.text == "Cats sleep. Dogs bark [1]."
    assert resolved.removed == (9, 7, 8)
    assert [claim.markers for claim in resolved.claims] == [(), (1,)]


def test_a_marker_belongs_to_the_sentence_it_stands_in_or_behind():
    resolved = resolve(
        "Cats sleep [1] a lot. Dogs bark. [2]\n\n- Fish [1] swim (Document 3)\n\n[2] Birds fly.", {1, 2, 3}
    )
    found = [(claim.words, claim.markers, resolved.text[claim.start : claim.end]) for claim in resolved.claims]
    assert found == [
        ("Cats sleep a lot.", (1,), "Cats sleep [1] a lot."),
        ("Dogs bark.", (2,), "Dogs bark. [2]"),
        ("- Fish swim", (1, 3), "- Fish [1] swim [3]"),
        ("Birds fly.", (2,), "[2] Birds fly."),
    ]


def test_a_code_block_is_one_claim():
    resolved = resolve("Run this:\n```\na = b[1]\n\n# c\n```\nIt works [1].", {1})
    assert [claim.words for claim in resolved.claims] == ["```\na = b[1]\n\n# c\n```", "It works."]
    assert resolved.claims[0].markers == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1. Cats sleep [1].\n2. Dogs bark [2].", [("1. Cats sleep.", (1,)), ("2. Dogs bark.", (2,))]),
        ("[1] Cats sleep. [2] Dogs bark.", [("Cats sleep.", (1,)), ("Dogs bark.", (2,))]),
        ("# Pets\n\nHere they are:\n- Cats [1]\n\nAny more?", [("- Cats", (1,))]),
        ("| pet | sound |\n| --- | --- |\n| dog | bark [2] |", [("| pet | sound |", ()), ("| dog | bark |", (2,))]),
        ("In 1985 [1].", [("In 1985.", (1,))]),
        ("1985 [1]", [("1985", (1,))]),
        ("[9](Document 1)", []),
    ],
)
def test_what_is_claimed(written, expected):
    assert [(claim.words, claim.markers) for claim in resolve(written, {1, 2}).claims] == expected


def test_what_is_removed_leaves_no_marker_behind():
    assert resolve("a [[9]9] b", {1}).text == "a [ 9] b"
    resolved = resolve("Cats sleep [9](Document 1).", {1})
    assert (resolved.text, resolved.removed) == ("Cats sleep [1].", (9,))


def test_added_markers_go_behind_their_claims_and_move_the_rest():
    added = with_added(resolve("Cats sleep. 狗叫。Birds fly [2].", {1, 2}), {0: 1, 1: 2})
    assert added.text == "Cats sleep. [1] 狗叫。[2]Birds fly [2]."
    assert [added.text[claim.start : claim.end] for claim in added.claims] == [
        "Cats sleep. [1]", "狗叫。[2]", "Birds fly [2]."
    ]  # fmt: skip
    assert [claim.markers for claim in added.claims] == [(1,), (2,), (2,)]


@given(st.lists(PIECES, max_size=14).map("".join), st.data())
@example("S[Source: 5])2```", None)
@example("(see passage [1], [2])", None)
@example("[2】,1,2 ]5", None)
@example("a.\n5Source: 5\n", None)
def test_streaming_gives_the_very_text(written, data):
    resolver = MarkerResolver({1, 2})
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written))))) if data else range(len(written) + 1)
    bounds = [0, *cuts, len(written)]
    streamed = "".join(resolver.feed(written[a:b]) for a, b in pairwise(bounds)) + resolver.close()
    whole = resolve(written, {1, 2})
    assert streamed.strip() == whole.text
    assert tuple(resolver.removed) == whole.removed


@given(st.lists(PIECES, max_size=14).map("".join))
@example("[9](Document 1)")
@example("a [[9]9] b")
@example("[ [9]9] a")
def test_claims_are_in_order_and_cite_only_what_was_shown(written):
    resolved = resolve(written, {1, 2})
    before = 0
    for claim in resolved.claims:
        assert before <= claim.start < claim.end <= len(resolved.text)
        assert set(claim.markers) <= {1, 2}
        assert {f"[{number}]" for number in claim.markers} <= set(
            re.findall(r"\[\d+\]", resolved.text[claim.start : claim.end])
        )
        before = claim.end
    outside_code = re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`|\[[^\[\]\n]*\]\([^\s()]+\)", "", resolved.text, flags=re.DOTALL)
    assert set(re.findall(r"\[(\d{1,3})\]", outside_code)) <= {"1", "2"}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("written", ["[" * 20_000, "[1, " * 5_000, "(" * 20_000, "a " + " " * 50_000, "`" * 20_000,
                                     "Source: " * 5_000, "[1] " * 3_000, "1. " * 5_000])  # fmt: skip
def test_no_text_takes_long(written):
    resolve(written, {1})


def test_text_that_begins_no_marker_goes_out_at_once():
    resolver = MarkerResolver({1})
    assert [resolver.feed(piece) for piece in ("Cats", " sleep", " [1", "]", ". Do", "gs")] == [
        "Cats", " sleep", "", "", " [1]. Do", "gs"
    ]  # fmt: skip


def test_a_quote_is_cut_from_the_document():
    text = "# Pets\n\nCats sleep. Dogs bark."
    document = Document("d", "/r", "pets.md", "text/markdown", "Pets", text, (Span("heading", 0, 6, 1, "Pets"),))
    hit = Hit(1, 1.0, "d#1", "d", "pets.md", 8, len(text), text[8:])
    citation = cite(2, document, hit, (12, 22))
    assert (citation.quote, citation.marker, citation.line, citation.heading) == ("Dogs bark.", 2, 3, ("Pets",))
    assert document.text[citation.start : citation.end] == citation.quote
    with pytest.raises(RagError, match="changed in the index"):
        cite(2, Document("d", "/r", "pets.md", "", "", text.upper()), hit, (12, 22))

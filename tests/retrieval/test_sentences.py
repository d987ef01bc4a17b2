"""Where sentences begin and end: golden cases, and what holds for every text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.sentences import sentence_starts, sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


GOLDEN = {
    # abbreviations, initials, decimals, versions, names of files
    "Dr. Smith met Mr. Jones on Jan. 3. They talked.": ["Dr. Smith met Mr. Jones on Jan. 3.", "They talked."],
    "J. R. R. Tolkien wrote it. The U.S. Army came.": ["J. R. R. Tolkien wrote it.", "The U.S. Army came."],
    "Use e.g. This, i.e. That. See Fig. 3 and Sec. 2.": ["Use e.g. This, i.e. That.", "See Fig. 3 and Sec. 2."],
    "It costs 3.14 dollars. Version 2.0.1 is out.": ["It costs 3.14 dollars.", "Version 2.0.1 is out."],
    "Run foo.py on example.com. Then wait.": ["Run foo.py on example.com.", "Then wait."],
    "Prof. A. Einstein et al. Showed this.": ["Prof. A. Einstein et al. Showed this."],
    "He was born in 1990. 20 years later he left.": ["He was born in 1990.", "20 years later he left."],
    # quotes, brackets, emphasis
    'He said "Stop." Then he left.': ['He said "Stop."', "Then he left."],
    '"Why?" she asked. “Go!” He went.': ['"Why?" she asked.', "“Go!”", "He went."],
    "One (with parens.) Two. (Whole one.) Three.": ["One (with parens.)", "Two.", "(Whole one.)", "Three."],
    "**Bold.** *Slanted.* Plain.": ["**Bold.**", "*Slanted.*", "Plain."],
    # several marks
    "What?! Really?! Yes... Maybe. Well... no.": ["What?!", "Really?!", "Yes...", "Maybe.", "Well... no."],
    "Wait… What? Hm… right.": ["Wait…", "What?", "Hm… right."],
    # citations stay with the sentence they follow
    "It is known.[3] Others differ.[1][12] See [4].": ["It is known.[3]", "Others differ.[1][12]", "See [4]."],
    # lines
    "A line that is\nhard-wrapped by hand. Another\none here.": [
        "A line that is\nhard-wrapped by hand.",
        "Another\none here.",
    ],
    "One\r\n\r\nTwo\r\rThree\n \t\nFour": ["One", "Two", "Three", "Four"],
    "Intro:\n- first item\n* second\n\n1. one\n2) two": ["Intro:", "- first item", "* second", "1. one", "2) two"],
    "| a | b |\n|---|---|\n| 1. X | 2 |\nAfter.": ["| a | b |", "|---|---|", "| 1. X | 2 |", "After."],
    "# What is it? A title\nBody starts. It ends.\n## Next": [
        "# What is it? A title",
        "Body starts.",
        "It ends.",
        "## Next",
    ],
    "Text.\n```python\nx = 1\ny = 2\n```\nMore.": ["Text.", "```python\nx = 1\ny = 2", "```", "More."],
    "Said:\n> quoted\n> more": ["Said:", "> quoted", "> more"],
    # Chinese and Japanese
    "中文句子。另一句！第三句？": ["中文句子。", "另一句！", "第三句？"],
    "他说：「引用。」然后走了；完": ["他说：「引用。」", "然后走了；", "完"],
    "据说如此。[3]另一句。": ["据说如此。[3]", "另一句。"],
    "日本語の文です。「はい。」と言った。本当？！": ["日本語の文です。", "「はい。」", "と言った。", "本当？！"],
    "混合 text 句。Then English. 再来。": ["混合 text 句。", "Then English.", "再来。"],
    # other scripts
    "यह है। वह है।": ["यह है।", "वह है।"],
    "هل هذا؟ نعم.": ["هل هذا؟", "نعم."],
}  # fmt: skip


@pytest.mark.parametrize("text", GOLDEN)
def test_golden(text: str) -> None:
    assert cut(text) == GOLDEN[text]


PIECES = [*".!?…。！？; \n\r\t\"'”)」]*_`#|>-:", "\r\n", "[1]", "```", "Word", "word", "漢", "e.g.", "1.", "\u3000"]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.text(max_size=100))


@given(TEXTS)
@settings(max_examples=500, deadline=None)
def test_spans_are_ordered_and_hold_all_that_is_not_blank(text: str) -> None:
    spans = sentences(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(place in covered or letter.isspace() for place, letter in enumerate(text))


@given(TEXTS, st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_a_range_is_cut_within_its_ends(text: str, start: int, length: int) -> None:
    start = min(start, len(text))
    end = min(start + length, len(text))
    starts = sentence_starts(text, start, end)
    assert starts == sorted(set(starts))
    assert starts[:1] == ([start] if start < end else [])
    assert all(start <= one < end for one in starts)


HOSTILE = [
    ".", ". ", "。", "?!", ".[1]", "[1]", ".*", ". (", ")", "\n", "\r\n", "\n ", " ", ": ", "|", "|\n", "\n#", "\n```",
    "```\n", "e.g. ", "A. ", ". \u3000", "# ", "`", "~~~", "\n\t", ".\u0301", "\u2028", "x",
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("head", ["", ".", "\n"])
def test_time_is_linear(piece: str, head: str) -> None:
    """A pattern that gives back what it took needs hours for one of these."""
    sentences(head + piece * (200_000 // len(piece)) + "x")

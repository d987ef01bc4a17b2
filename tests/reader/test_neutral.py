"""What looks like a control token is broken visibly; everything else comes back letter by letter."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader.neutral import DOT, Marks, broken, neutralise

MARKERS = [
    "<|user|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|endoftext|>",
    "<|START_OF_TURN_TOKEN|>", "<|fim_prefix|>", "<|im_user|>", "<|start|>", "<|call|>", "<｜User｜>",
    "<｜begin▁of▁sentence｜>", "＜|user|＞", "<|turn>", "<turn|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>",
    "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>", "<EOS_TOKEN>", "<think>", "</think>",
    "<tool_call>", "</tool_response>", "<extra_id_1>", "<SPECIAL_12>", "<seed:bos>", "<reserved_106>", "<unused7>",
    "<0x0A>", "[INST]", "[/INST]", "[inst]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]",
    "[TOOL_CALLS]", "[THINK]", "[gMASK]", "[|user|]", "[|endofturn|]", "<<SYS>>", "<</SYS>>", "### Instruction:",
    "### Response:", "###Human:", "### Assistant:", "<用户>", "<AI>", "[UNUSED_TOKEN_146]", "]~b]", "]~!b[", "[e~[",
]  # fmt: skip

HARMLESS = [
    "Paris is the [MASK] of France, the <mask> too",
    "a[i] = b[j] < c[k] > d", "x < y", "x<y>z", "if a < s and s > b: pass", "std::vector<int> v;", "List<String>",
    "#include <stdio.h>", "<div>", "<b>bold</b>", "<br/>", "<table><tr><td>1</td></tr></table>", "[1]", "[1, 2][3]",
    "arr[0]", "[link](https://example.org)", "[x] done", "tool [args] [prefix]", "# Heading", "### User guide",
    "### System requirements", "### Response codes", "### Input", "#### Instruction sets", r"$\langle x | y \rangle$",
    r"\begin{array}{c|c} a & b \end{array}", r"$$\left[\frac{1}{2}\right] < \|x\|$$", "P(a|b) > P(b|a)", "p <|> q",
    "x |> f |> g", "f <| g <| h", "a <| b |> c", "| a | b |\n|---|---|", "1 << 2 >> 3", "user: me", "User: me",
    "a[0]~b", "x[1] ~ b[2]", "<ai>", "[UNUSED]",
    "中文，引号“”", "e\u0301 \u200b\u200d \U0001f468\u200d\U0001f469", "\x00\x1b[0m", "a·b", "<https://example.org>",
]  # fmt: skip


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("around", ["{}", "a{}b", " {} ", "<{}>", "[{}]", "\n{}\n", "{0}{0}"])
def test_every_known_marker_is_broken_behind_its_first_character(marker, around):
    expected = around.format(marker[0] + DOT + marker[1:])
    assert neutralise(around.format(marker)) == expected


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_comes_back_as_it_is(text):
    assert neutralise(text) == text


def test_markers_inside_markers_are_broken_too():
    assert neutralise("<|a<|user|>b|>") == "<|a<·|user|>b|>"
    assert neutralise("[[INST]") == "[[·INST]"
    assert neutralise("aba", ["ab", "ba"]) == "a·b·a"


def test_given_tokens_are_broken_letter_by_letter():
    assert neutralise("USER: hi, User: ho", ["USER:"]) == "U·SER: hi, User: ho"
    assert neutralise("a ~ b", ["~"]) == "a · b", "a token of one character cannot be broken behind it"
    assert neutralise("two  spaces\n", ["  ", "\n", ""]) == "two  spaces\n", "runs of white space are no marks"
    assert neutralise(".*", [".*"]) == ".·*", "tokens are text, not patterns"


def test_lone_surrogates_become_replacement_characters():
    assert neutralise("a\ud800b\udfff<s>") == "a\ufffdb\ufffd<·s>"


TOKENS = ["</s>", "<|user|>", "[INST]", "ab", "ba", "abc", "~", "\n\n"]
PIECES = st.lists(st.sampled_from([*TOKENS, "<", "|", ">", "[", "]", "/", "s", "a", "b", DOT, "\n", "user"])).map(
    "".join
)


@given(PIECES)
def test_nothing_is_left_and_nothing_but_dots_is_added(text):
    safe = neutralise(text, TOKENS)
    assert not any(token in safe for token in TOKENS if token.strip())
    assert list(Marks(TOKENS).find(safe)) == []
    assert neutralise(safe, TOKENS) == safe
    assert safe.replace(DOT, "") == text.replace(DOT, "").replace("~", "")


@given(st.text(st.characters(exclude_characters="<＜[]#", exclude_categories=["Cs"])))
def test_text_without_a_marker_s_first_character_is_untouched(text):
    assert neutralise(text) == text


@given(PIECES)
def test_tokens_are_found_where_a_search_finds_them(text):
    found = {span for span in Marks(["ab", "ba", "abc"]).find(text) if not text.startswith(("<", "[", "]"), span[0])}
    starts = {match.start() for token in ("ab", "ba") for match in re.finditer(f"(?={token})", text)}
    assert {start for start, _ in found} == starts
    assert all(text[start:end] in ("ab", "ba", "abc") for start, end in found)


def test_spans_may_reach_over_either_end():
    assert broken("abc", [(-2, 1)]) == "·abc"
    assert broken("abc", [(2, 5)]) == "abc·"
    assert broken("abc", [(0, 2), (0, 3), (1, 2)]) == "a··c"
    assert broken("abc", []) == "abc"


def test_long_texts_take_linear_time():
    """A second is a hundred times what it takes; the slow way would need hours."""
    for text in (
        "<|" * 100_000,
        "[" * 200_000,
        "#" * 200_000,
        "</" * 100_000,
        "<" + "a" * 200_000,
        "<|user|>" * 20_000,
    ):
        neutralise(text, TOKENS)

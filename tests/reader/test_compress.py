"""Compression keeps what a question needs: sentences to the point, what they stand under, and enough of them."""

from __future__ import annotations

from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np
import pytest
from doubles import TermsOf
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.budget import Block, pack
from reader.compress import LEAST_SHARE, Compressor
from reader.sentences import announced, stretches
from retrieval.analyze import Analyzer
from retrieval.encoder import passage_input
from retrieval.interaction import Interaction, Passage, SignCodec
from retrieval.records import Hit, Stages
from retrieval.statistics import Statistics

THINGS = ["bridge", "tower", "market hall", "town gate", "water mill", "stone well", "old school", "bell", "south wall",
          "bakery", "granary", "town hall"]  # fmt: skip
FILLER = " ".join(
    f"The {thing} of the old town was repaired {number} years ago by a builder whose name nobody wrote down."
    for number, thing in enumerate(THINGS, start=2)
)
FERRY = "The ferry to Skerry island leaves from pier seven at noon."
CATS = "Cats sleep sixteen hours a day."
MONTHS = {"January": "north", "February": "east", "March": "south", "April": "west", "May": "sea", "June": "hills"}
WEATHER = " ".join(
    f"In {month} the wind blows from the {side} and the nights are cold." for month, side in MONTHS.items()
)
GAME = "《战国无双3》是由光荣开发的战国无双系列的正统第三续作。本作在2009年12月3日发售。游戏没有中文版。"
TEXTS = [FILLER, FERRY, CATS, WEATHER, GAME]


class Desk:
    """Late interaction over texts that are encoded as they come."""

    def __init__(self, encoder):
        self.encoder = encoder
        encoded = list(encoder.encode(TEXTS))
        common = encoder.encode([text[:800] for _, text in sorted(topics.items())[:25]])
        self.codec = SignCodec.fit(np.concatenate([one.tokens for one in (*encoded, *common)]))
        self.statistics = Statistics(encoder.tokenizer.get_vocab_size())
        for one in encoded:
            self.statistics.add(one.ids.tolist())
        self.interaction = self.over(self.codec)

    def over(self, codec):
        return Interaction(self.encoder, codec, self.statistics, Analyzer(), TermsOf(*TEXTS))

    def found(self, question, texts, *, codes=True):
        """The question, and texts as the hits and passages of a search, in the order given."""
        asked = self.interaction.question(question)
        encoded = self.encoder.encode([passage_input("", text) for text in texts])
        passages = [
            Passage(text, self.codec.encode(one.tokens) if codes else np.zeros((0, 0), np.uint8))
            for text, one in zip(texts, encoded, strict=True)
        ]
        scores = self.interaction.compare(asked, [passage.codes for passage in passages]).whole.tolist()
        hits = [
            Hit(n + 1, score, f"c{n}", f"d{n}", f"{n}.md", 0, len(text), text, stages=Stages(interaction_score=score))
            for n, (text, score) in enumerate(zip(texts, scores, strict=True))
        ]
        return asked, hits, passages

    def kept(self, question, *texts, **options):
        """The stretches of each text that are kept, as text."""
        spans = Compressor(self.interaction, **options).keep(*self.found(question, texts))
        return [[text[a:b] for a, b in each] for text, each in zip(texts, spans, strict=True)]


@pytest.fixture(scope="module")
def desk(encoder):
    return Desk(encoder)


def around(text):
    """A text in the middle of much that is beside the point."""
    return f"{FILLER} {text} {WEATHER}"


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_keeps_the_sentence_that_answers_and_leaves_out_most(desk):
    texts = [around(FERRY), around(CATS), FILLER]
    kept = desk.kept("Where does the ferry to Skerry island leave?", *texts)
    assert any(FERRY in piece for piece in kept[0])
    assert not any(CATS in piece for piece in kept[1])
    share = sum(len(piece) for each in kept for piece in each) / sum(map(len, texts))
    assert LEAST_SHARE <= share < 0.45


def test_a_passage_beside_the_point_is_left_out_whole(desk):
    kept = desk.kept("Where does the ferry to Skerry island leave?", around(FERRY), around(CATS), WEATHER)
    assert any(FERRY in piece for piece in kept[0])
    assert kept[2] == []


def test_reads_chinese(desk):
    texts = [GAME + FILLER, FILLER, WEATHER]
    kept = desk.kept("本作在哪一年发售？", *texts, least_share=0.05)
    assert any("本作在2009年12月3日发售。" in piece for piece in kept[0])


def test_all_sentences_are_kept_that_are_nearly_as_good(desk):
    same = [f"Cats sleep {number} hours a day." for number in ("sixteen", "seventeen", "eighteen")]
    kept = desk.kept("How many hours a day do cats sleep?", *map(around, same), least_share=0.0)
    assert [any(one in piece for piece in each) for one, each in zip(same, kept, strict=True)] == [True] * 3


def test_the_other_half_of_a_question_is_kept_however_low_it_scores(desk):
    """Nothing is nearly as good as the one sentence, and no share is asked for; but another has the missing word."""
    first = "The lighthouse of Skerry island, the ferry to Skerry island and its pier belong to Anna Lund."
    second = "Anna Lund was born in Bergen."
    question = (
        "To whom belong the lighthouse of Skerry island, the ferry to Skerry island and its pier, born in Bergen?"
    )
    kept = desk.kept(question, around(first), around(second), nearly=1.0, least_share=0.0)
    assert any(first in piece for piece in kept[0])
    assert any(second in piece for piece in kept[1])


def test_a_heading_stays_above_what_is_kept_below_it(desk):
    middle = f"## Crossing\n\nA sentence about nothing much is here. {FERRY}"
    text = f"# Town\n\n{FILLER}\n\n{middle}\n\n# Weather\n\n{WEATHER}"
    (kept, _) = desk.kept("From which pier does the ferry leave?", text, FILLER, least_share=0.0, nearly=1.0)
    assert kept == ["## Crossing", FERRY]


def test_a_table_row_keeps_the_names_of_the_columns(desk):
    rows = "\n".join(f"| {name} | Monday | shed {number} |" for number, name in enumerate(["bus", "tram", "train"] * 8))
    head = "| what | leaves on | from |\n| --- | --- | --- |"
    text = f"{FILLER}\n\n{head}\n{rows}\n| Skerry ferry | Friday | pier seven |\n"
    (kept, _) = desk.kept("On which day does the Skerry ferry leave?", text, WEATHER, least_share=0.0)
    shown = "\n".join(kept)
    assert "| Skerry ferry | Friday | pier seven |" in shown
    assert head in shown
    assert shown.count("shed") < 12


def test_an_item_keeps_what_announces_it_and_an_announcement_all_its_items(desk):
    stops = "The ferry to Skerry island stops at these piers:\n\n- Lund pier\n- Holm\n- Vik"
    text = f"{FILLER}\n\n{stops}\n\n{WEATHER}"
    (kept, _) = desk.kept("At which piers does the ferry to Skerry island stop?", text, FILLER, least_share=0.0)
    assert any(stops in piece for piece in kept)
    (kept, _) = desk.kept("What about Lund pier?", text, FILLER, least_share=0.0, nearly=1.0)
    assert any("stops at these piers:" in piece for piece in kept)


def test_scraps_stay_with_the_sentence_beside_them(desk):
    text = f"{FILLER} On 23 June, Rep. {FERRY} {WEATHER}"  # "Rep." looks like the end of a sentence
    assert any(text[a:b] == "On 23 June, Rep." for a, b in stretches(text))
    (kept, _) = desk.kept("Where does the ferry to Skerry island leave?", text, FILLER, least_share=0.0, nearly=1.0)
    assert any(f"On 23 June, Rep. {FERRY}" in piece for piece in kept)


# ---- when nothing is left out ----------------------------------------------------------------------------------------


def test_short_passages_are_kept_whole(desk):
    assert desk.kept("Where does the ferry leave?", f"{FERRY} {CATS}", CATS) == [[f"{FERRY} {CATS}"], [CATS]]


def test_everything_is_kept_where_nothing_matches(desk):
    """Without token codes words are compared, and none of the question occurs."""
    asked, hits, passages = desk.found("zygote", [around(CATS), around(FERRY)], codes=False)
    plain = desk.over(None)
    kept = Compressor(plain).keep(plain.question(asked.text), hits, passages)
    assert kept == [((0, len(hit.text)),) for hit in hits]


def test_no_hits(desk):
    assert Compressor(desk.interaction).keep(desk.interaction.question("ferry"), [], []) == []
    blank = desk.found("ferry", [" \n\t ", around(FERRY)])
    assert Compressor(desk.interaction).keep(*blank)[0] == ()


def test_hits_and_passages_belong_together(desk):
    asked, hits, passages = desk.found("ferry", [FERRY, CATS])
    with pytest.raises(ValueError, match="zip"):
        Compressor(desk.interaction).keep(asked, hits, passages[:1])


# ---- whatever comes --------------------------------------------------------------------------------------------------

SENTENCE = st.sampled_from(
    [FERRY, CATS, WEATHER, GAME, "# Heading", "The piers:", "- item", "| a | b |", "| --- | --- |", "No!", "Why? Yes",
     "x = a[1]", "```", "\x00\ud800", "e\u0301 🧑‍🚀", "a" * 1300, "。"]
)  # fmt: skip
BREAK = st.sampled_from([" ", "\n", "\r\n", "\n\n", "", "\u3000", "\r"])
TEXT = st.lists(st.tuples(SENTENCE, BREAK), min_size=0, max_size=8).map(
    lambda parts: "".join(sentence + gap for sentence, gap in parts)
)
QUESTION = st.sampled_from(["Where does the ferry leave?", "本作在哪一年发售？", "cats and ferries", "\ud800", "?"])


@given(QUESTION, st.lists(TEXT, max_size=4), st.sampled_from([0.5, 0.86, 2.0]), st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=40, deadline=None)
def test_what_is_kept_are_whole_sentences_and_fit_a_prompt(desk, question, texts, nearly, least_share):
    asked, hits, passages = desk.found(question, texts)
    compressor = Compressor(desk.interaction, nearly=nearly, least_share=least_share)
    kept = compressor.keep(asked, hits, passages)
    assert kept == compressor.keep(asked, hits, passages)
    assert len(kept) == len(texts)
    for text, spans in zip(texts, kept, strict=True):
        sentences = stretches(text)
        starts, ends = [start for start, _ in sentences], [end for _, end in sentences]
        assert all(start in starts and end in ends and start < end for start, end in spans)
        assert all(text[end:start].strip() for (_, end), (start, _) in pairwise(spans))
    length = sum(end - start for text in texts for start, end in stretches(text))
    inside = sum(end - start for text, spans in zip(texts, kept, strict=True) for start, end in stretches(text)
                 if any(a <= start and end <= b for a, b in spans))  # fmt: skip
    assert inside >= least_share * length - 1e-6
    blocks = [Block(hit, "", spans) for hit, spans in zip(hits, kept, strict=True)]
    packed = pack(blocks, room=10**9, count=len)
    assert packed.shown == tuple(at for at, spans in enumerate(kept) if spans)
    assert packed.saved_tokens >= 0


@given(TEXT, st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_what_is_announced_lies_behind_and_ends_with_a_word(text, which):
    spans = stretches(text)
    for start, end in spans[which : which + 1]:
        last = announced(text, start, end)
        assert end <= last <= len(text)
        assert text[start:last] == text[start:last].strip()
        assert last == end or text[start:end].endswith((":", "："))

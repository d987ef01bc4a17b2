"""The written reader over scripted models, good and bad: whatever a model writes, every promise of an answer holds."""

from __future__ import annotations

import re

import pytest
from doubles import open_retriever
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompts import load_prompt
from reader.backends.base import Sampling, drain
from reader.backends.scripted import ScriptedBackend
from reader.compress import Compressor
from reader.generative import GenerativeReader
from reader.reader import REFUSAL, question_language
from reader.records import LEAST_SUPPORT, Turn
from retrieval.errors import ModelError, PromptTooLongError
from retrieval.store import Store

FERRY = (
    "The ferry to Marstal leaves from pier seven at dusk. It carries bicycles for free. A crossing takes 40 minutes."
)
CLOCKS = "# Clocks\n\nThe museum of clocks has no windows at all. Its oldest clock was built in 1712 by a blacksmith."
BEES = "The beekeeper wears a purple hat. She collects the honey in June, and sells it in 3 markets."
GAME = "《战国无双3》是由光荣开发的战国无双系列的第三作。本作在2009年12月3日发售。游戏没有中文版。"
TIDES = " ".join(
    f"On day {n} the harbour master wrote down a tide of {n + 2} feet and the colour of the {thing} beside it."
    for n, thing in enumerate(("sails", "ropes", "gulls", "crates", "lamps", "nets", "anchors", "buoys", "masts") * 3)
)
QUESTION = "Where does the ferry to Marstal leave from?"
SAMPLING = Sampling(max_tokens=100, temperature=0)


class Desk:
    """A small index, opened, and readers over it that are given a script."""

    def __init__(self, store, encoder):
        self.store = store
        self.retriever = open_retriever(store, encoder)

    def retrieve(self, question, k=4):
        return self.retriever.search(question, k=k)

    def reader(self, *answers, window=4096, compress=False, sampling=SAMPLING, min_evidence=0.0):
        self.backend = ScriptedBackend(answers, window=window)
        interaction = self.retriever.interaction
        return GenerativeReader(
            self.backend,
            interaction,
            self.store.document,
            prompt=lambda language: load_prompt(f"answer-{language}"),
            sampling=sampling,
            compressor=Compressor(interaction) if compress else None,
            min_evidence=min_evidence,
        )

    def ask(self, *answers, question=QUESTION, history=(), **options):
        return self.reader(*answers, **options).read(self.retrieve(question), history)

    def number_of(self, source, question=QUESTION):
        return next(hit.rank for hit in self.retrieve(question).hits if hit.source == source)


@pytest.fixture(scope="module")
def desk(encoder, put_in_index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generative")
    texts = {"ferry.txt": FERRY, "clocks.md": CLOCKS, "bees.txt": BEES, "game.txt": GAME, "tides.txt": TIDES}
    put_in_index(folder / "docs", folder / "index", texts)
    store = Store.open(folder / "index")
    yield Desk(store, encoder)
    store.close()


def assert_sound(answer, store):
    """Every promise of an answer, whatever the model wrote."""
    if answer.abstained:
        assert answer.text == REFUSAL[question_language(answer.question)]
        assert (answer.citations, answer.sentences, answer.matches) == ((), (), ())
        assert answer.abstention is not None
        return
    assert answer.abstention is None
    shown = {hit.rank: hit for hit in answer.hits if hit.chunk_id not in answer.prompt.dropped}
    for citation in answer.citations:
        text = store.document(citation.doc_id).text
        assert text[citation.start : citation.end] == citation.quote
        assert citation.quote.strip() == citation.quote != ""
        hit = shown[citation.marker]
        assert (citation.chunk_id, citation.source) == (hit.chunk_id, hit.source)
        assert hit.start <= citation.start < citation.end <= hit.end
    cited = {citation.marker for citation in answer.citations}
    before = 0
    for sentence in answer.sentences:
        assert before <= sentence.start < sentence.end <= len(answer.text)
        assert set(sentence.markers) <= cited
        assert tuple(answer.citations[each].marker for each in sentence.citations) == sentence.markers
        assert (sentence.label == "uncited") == (not sentence.markers)
        before = sentence.end


def test_an_answer_is_checked_sentence_by_sentence(desk):
    n = desk.number_of("ferry.txt")
    answer = desk.ask(
        f"The ferry leaves from pier seven [{n}]. The crossing takes 90 minutes [{n}]. It carries bicycles."
    )
    assert_sound(answer, desk.store)
    assert [sentence.label for sentence in answer.sentences] == ["supported", "contradicted-number", "supported"]
    assert [sentence.added for sentence in answer.sentences] == [False, False, True]
    assert answer.text.endswith(f"It carries bicycles. [{n}]")
    assert answer.citations[0].quote == "The ferry to Marstal leaves from pier seven at dusk."
    assert answer.citations[0].line == 1
    assert answer.written.text.endswith("It carries bicycles.")
    assert answer.prompt.name == "answer-en"
    assert answer.prompt.tokens == desk.backend.prompt_tokens(desk.backend.asked[0])
    assert answer.reader.model == "scripted"


def test_the_prompt_numbers_the_passages_and_fences_nothing_in(desk):
    desk.ask("x")
    system, user = desk.backend.asked[0]
    assert REFUSAL["en"] in system.content
    for hit in desk.retrieve(QUESTION).hits:
        assert f"[{hit.rank}] " in user.content
        assert hit.text.strip() in user.content
        assert hit.source in user.content
    assert user.content.endswith(f"Question: {QUESTION}")


def test_chinese_is_asked_and_refused_in_chinese(desk):
    question = "《战国无双3》是由哪家公司开发的？"
    n = desk.number_of("game.txt", question)
    answer = desk.ask(f"《战国无双3》是由光荣开发的【{n}】。", question=question)
    assert_sound(answer, desk.store)
    assert answer.text == f"《战国无双3》是由光荣开发的[{n}]。"
    assert [sentence.label for sentence in answer.sentences] == ["supported"]
    assert answer.prompt.name == "answer-zh"
    assert desk.ask(REFUSAL["zh"], question=question).text == REFUSAL["zh"]


def test_numbers_that_were_never_shown_are_removed_and_counted(desk):
    answer = desk.ask("The ferry leaves from pier seven [9]. It carries bicycles for free [42].")
    assert_sound(answer, desk.store)
    assert answer.written.removed_markers == (9, 42)
    assert "[9]" not in answer.text
    assert all(sentence.added for sentence in answer.sentences)


def test_a_good_citation_does_not_cover_for_an_idle_one(desk):
    right, idle = desk.number_of("ferry.txt"), desk.number_of("bees.txt")
    answer = desk.ask(f"The ferry to Marstal leaves from pier seven at dusk [{right}][{idle}].")
    (sentence,) = answer.sentences
    assert (sentence.label, sentence.markers) == ("supported", (right, idle))
    assert sentence.alone[0] > 0.9
    assert sentence.alone[1] < LEAST_SUPPORT
    assert sentence.without[0] < LEAST_SUPPORT
    assert sentence.without[1] > 0.9


def test_a_citation_of_the_wrong_passage_is_told_and_the_right_one_named(desk):
    right, wrong = desk.number_of("ferry.txt"), desk.number_of("bees.txt")
    answer = desk.ask(f"The ferry to Marstal leaves from pier seven at dusk [{wrong}].")
    assert_sound(answer, desk.store)
    (sentence,) = answer.sentences
    assert (sentence.label, sentence.markers, sentence.instead) == ("unsupported", (wrong,), right)
    assert answer.citations[0].source == "bees.txt"


@pytest.mark.parametrize(
    "written", [REFUSAL["en"], f"  {REFUSAL['en'].upper()} [1]", f"{REFUSAL['en']} But 42.", "", "..."]
)
def test_the_models_own_refusal_is_an_abstention(desk, written):
    answer = desk.ask(written)
    assert_sound(answer, desk.store)
    assert answer.abstention == "model"
    assert answer.written.text == written


def test_too_little_evidence_saves_the_call(desk):
    answer = desk.ask(question="What is the capital of Peru?", min_evidence=None)
    assert_sound(answer, desk.store)
    assert answer.abstention == "evidence"
    assert desk.backend.asked == []
    assert answer.written is None


def test_an_answer_of_which_nothing_is_borne_out_is_withdrawn(desk):
    answer = desk.ask("Quantum chromodynamics explains the strong nuclear force [1].")
    assert_sound(answer, desk.store)
    assert answer.abstention == "verification"
    assert "Quantum" in answer.written.text


def test_an_answer_that_was_cut_says_so(desk):
    answer = desk.ask("The ferry leaves from pier seven at dusk", sampling=Sampling(max_tokens=6))
    assert not answer.written.complete
    assert answer.written.text == "The ferry leaves from pier seven "


def test_what_a_small_window_leaves_out_is_named(desk):
    whole = desk.ask("x").prompt
    assert (whole.dropped, whole.cut) == ((), ())
    window = whole.tokens + SAMPLING.max_tokens - 30
    answer = desk.ask("The ferry leaves from pier seven [1].", window=window)
    assert_sound(answer, desk.store)
    assert answer.prompt.dropped or answer.prompt.cut
    assert answer.prompt.tokens + SAMPLING.max_tokens <= window
    for chunk_id in (*answer.prompt.dropped, *answer.prompt.cut):
        hit = next(hit for hit in answer.hits if hit.chunk_id == chunk_id)
        assert hit.text not in desk.backend.asked[0][1].content
    with pytest.raises(PromptTooLongError, match="raise window"):
        desk.ask("x", window=200)


def test_compression_shows_less_and_says_how_much(desk):
    question = "What was the tide on day 7, in feet?"
    whole, less = desk.ask("x", question=question), desk.ask("x", question=question, compress=True)
    assert less.prompt.saved_tokens > 0
    assert less.prompt.tokens + less.prompt.saved_tokens <= whole.prompt.tokens
    assert set(less.prompt.beside_the_point) == set(less.prompt.dropped)
    n = desk.number_of("tides.txt", question)
    answer = desk.ask(f"On day 7 the tide was 9 feet [{n}].", question=question, compress=True)
    assert_sound(answer, desk.store)
    assert answer.citations[0].quote.startswith("On day 7 the harbour master")


def test_earlier_turns_come_between_instruction_and_passages(desk):
    history = [Turn(f"Question {n}?", "word " * 200) for n in range(9)]
    desk.ask("x", history=history)
    messages = desk.backend.asked[0]
    assert [message.role for message in messages] == ["system", *["user", "assistant"] * 5, "user"]
    assert messages[-3].content == "Question 8?"
    first = desk.backend.asked[0]
    desk.ask("x", history=history)
    assert desk.backend.asked[0][:-1] == first[:-1]


def test_streaming_gives_the_same_answer(desk):
    n = desk.number_of("ferry.txt")
    written = f"The ferry leaves from pier seven (Document {n}). It carries bicycles [9] for free [{n}]."
    pieces, reader = [], desk.reader(written)
    stream = reader.stream(desk.retrieve(QUESTION))
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            streamed = end.value
            break
    whole = desk.ask(written)
    assert "".join(pieces) == whole.text == streamed.text
    assert len(pieces) > 5
    assert (streamed.citations, streamed.sentences) == (whole.citations, whole.sentences)


def test_many_are_as_one_by_one_and_in_order(desk):
    questions = [QUESTION, "What is the capital of Peru?", "When does the beekeeper collect the honey?"]
    script = ["The ferry leaves from pier seven.", "She collects the honey in June."]
    found = desk.reader(*script, min_evidence=None).read_many([desk.retrieve(one) for one in questions])
    assert [answer.abstained for answer in found] == [False, True, False]
    assert [answer.question for answer in found] == questions
    assert len(desk.backend.asked) == 2
    for answer in found:
        assert_sound(answer, desk.store)


def test_a_question_that_fits_no_window_fails_alone(desk):
    long = desk.retrieve("ferry " * 150)
    found = desk.reader("The ferry leaves from pier seven.", window=400).read_many([long, desk.retrieve(QUESTION)])
    assert isinstance(found[0], PromptTooLongError)
    assert_sound(found[1], desk.store)


def test_a_model_that_fails_is_no_answer(desk):
    with pytest.raises(ModelError):
        desk.ask()
    with pytest.raises(ModelError):
        drain(desk.reader().stream(desk.retrieve(QUESTION)))


WORDS = st.sampled_from(
    [*re.findall(r"\S+", f"{FERRY} {CLOCKS} {GAME}"), "[1]", "[2]", "[9]", "(Document 1)", "Source: 2\n", "90", "not",
     "```", "\n\n- ", "【3】", "</s>", "<|assistant|>", "[1", "]", "\u202e", "\x00", REFUSAL["en"]]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=25).map(" ".join))
def test_whatever_a_model_writes(desk, written):
    assert_sound(desk.ask(written), desk.store)

"""Language models through LangChain, both ways: its own suites over our backends, and its chat models as backends."""

from __future__ import annotations

import threading

import pytest
from doubles import consume
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from reader.backends.base import REASONING_LEFT_OUT, Backend, Generation, Message, Sampling, drain
from reader.backends.loading import ZephyrSettings
from reader.backends.remote import estimate_tokens
from reader.backends.scripted import ScriptedBackend
from reader.backends.zephyr import ZephyrBackend
from reader.langchain import LangChainBackend, RagChatModel, _until
from retrieval.errors import AnswerError, ModelError, PromptTooLongError

ASK = (Message("system", "Be brief."), Message("user", "Why </s>?"))
SAMPLING = Sampling(max_tokens=20)


# ---- LangChain's own suites ------------------------------------------------------------------------------------------


class OurModel:
    """Text alone, one model: what else the suites can test, they skip by themselves."""

    @property
    def chat_model_class(self):
        return RagChatModel

    @property
    def supports_model_override(self):
        return False


class OverScript(OurModel):
    @property
    def chat_model_params(self):
        return {"make_backend": lambda: ScriptedBackend(["How are you, said the script."] * 20)}


class TestScriptUnit(OverScript, ChatModelUnitTests):
    pass


class TestScriptIntegration(OverScript, ChatModelIntegrationTests):
    pass


class OverZephyr(OurModel):
    @pytest.fixture(autouse=True)
    def _small(self, zephyr):
        self.zephyr = zephyr

    @property
    def chat_model_params(self):
        return {"make_backend": lambda: self.zephyr, "seed": 1}


class TestZephyrUnit(OverZephyr, ChatModelUnitTests):
    pass


class TestZephyrIntegration(OverZephyr, ChatModelIntegrationTests):
    @property
    def chat_model_params(self):
        return super().chat_model_params | {"max_tokens": 8}


@pytest.fixture(scope="session")
def zephyr(small_zephyr):
    return ZephyrBackend(ZephyrSettings(model=str(small_zephyr), device="cpu"))


# ---- ours as theirs --------------------------------------------------------------------------------------------------


def chat(*answers, **settings):
    backend = ScriptedBackend(answers)
    return RagChatModel(make_backend=lambda: backend, **settings), backend


def test_messages_settings_and_counts_go_through():
    model, backend = chat("So it is.")
    asked = [SystemMessage("Be brief."), HumanMessage([{"type": "text", "text": "Why"}, " now?"]), AIMessage("Hm.")]
    answer = model.invoke(asked)
    assert backend.asked == [(Message("system", "Be brief."), Message("user", "Why now?"), Message("assistant", "Hm."))]
    assert answer.content == "So it is."
    assert answer.usage_metadata == {
        "input_tokens": 8, "output_tokens": 3, "total_tokens": 11, "input_token_details": {"cache_read": 0}
    }  # fmt: skip
    assert answer.response_metadata["model_name"] == "scripted"
    assert answer.response_metadata["finish_reason"] == "stop"


def test_sampling_is_the_models_or_the_calls():
    seen = []

    class Noting(ScriptedBackend):
        def stream(self, messages, sampling):
            seen.append(sampling)
            return super().stream(messages, sampling)

    model = RagChatModel(make_backend=lambda: Noting(["x"] * 2), temperature=0, seed=3)
    model.invoke("hi")
    model.bind(max_tokens=7).invoke("hi", repetition_penalty=1.5)
    assert seen == [Sampling(500, 0.0, 1.1, 3), Sampling(7, 0.0, 1.5, 3)]


def test_the_backend_is_made_once_and_late():
    made = []

    def make():
        made.append(threading.current_thread())
        return ScriptedBackend(["x"] * 10)

    model = RagChatModel(make_backend=make)
    repr(model), model.asdict(), model._get_ls_params()
    assert made == []
    assert [each.content for each in model.batch(["a"] * 10)] == ["x"] * 10
    assert len(made) == 1


def test_an_answer_that_was_cut_says_so():
    model, _ = chat("one two three", "one two three", max_tokens=2)
    assert model.invoke("hi").response_metadata["finish_reason"] == "length"
    last = list(model.stream("hi"))[-1]
    assert (last.response_metadata["finish_reason"], last.usage_metadata["output_tokens"]) == ("length", 2)


async def test_pieces_come_as_they_are_written_and_asynchronously():
    model, _ = chat("one two three", "one two three")
    assert [chunk.text for chunk in model.stream("hi")] == ["one ", "two ", "three", ""]
    assert [chunk.text async for chunk in model.astream("hi")] == ["one ", "two ", "three", ""]


def test_an_answer_ends_before_a_stop():
    model, _ = chat(*["one two three four"] * 4, stop=["three"])
    answer = model.invoke("hi")
    assert (answer.content, answer.usage_metadata["output_tokens"]) == ("one two ", 2)
    assert answer.response_metadata["finish_reason"] == "stop"
    assert model.invoke("hi", stop=["wo"]).content == "one t"
    assert model.invoke("hi", stop=["nowhere"]).content == "one two three four"
    assert [chunk.text for chunk in model.stream("hi", stop=["e t"])] == ["on", ""]


def test_one_stop_may_be_given_as_it_is():
    model, _ = chat(*["one TWO three END four"] * 3)
    assert model.invoke("hi", stop="END").content == "one TWO three "
    other = RagChatModel(make_backend=lambda: ScriptedBackend(["one END"]), stop="END")
    assert other.invoke("hi").content == "one "
    assert other._get_ls_params()["ls_stop"] == ["END"]


@pytest.mark.parametrize("wrong", [{"max_tokens": None}, {"max_tokens": 0}, {"temperature": -3}, {"seed": "x"}])
def test_settings_of_a_call_are_checked_like_the_models(wrong):
    model, backend = chat("x")
    with pytest.raises(ValueError, match=next(iter(wrong))):
        model.invoke("hi", **wrong)
    assert backend.asked == []


def test_closing_a_stream_closes_the_backends():
    closed = []

    class Closing(ScriptedBackend):
        def stream(self, messages, sampling):
            try:
                return (yield from super().stream(messages, sampling))
            finally:
                closed.append(True)

    stream = RagChatModel(make_backend=lambda: Closing(["one two three"])).stream("hi")
    next(stream)
    stream.close()
    assert closed == [True]


@given(st.lists(st.text("abc", max_size=4), max_size=6), st.lists(st.text("abc", min_size=1, max_size=3), min_size=1))
def test_stops_do_not_depend_on_how_the_text_is_cut(pieces, stops):
    """The slow oracle looks at every beginning of the text until one ends with a stop."""

    def stream():
        yield from pieces
        return Generation("".join(pieces), 1, 1)

    text = "".join(pieces)
    found = [
        text[: end - max(len(stop) for stop in stops if text[:end].endswith(stop))]
        for end in range(len(text) + 1)
        if text[:end].endswith(tuple(stops))
    ]
    shown, (written, whole) = consume(_until(stream(), stops))
    assert "".join(shown) == written == (found[0] if found else text)
    assert (whole is None) == bool(found)


@pytest.mark.parametrize(
    ("message", "expected"),
    [(ToolMessage("4", tool_call_id="1"), "of type 'tool' cannot"),
     (ChatMessage("x", role="user"), "of type 'chat' cannot"),
     (AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}]), "with tool calls cannot"),
     (HumanMessage([{"type": "image", "url": "https://x"}]), "holds image; expected text alone"),
     (HumanMessage([{"type": "text"}]), "holds no text; expected")],
)  # fmt: skip
def test_what_is_not_text_is_refused(message, expected):
    model, backend = chat("x")
    with pytest.raises(ModelError, match=expected):
        model.invoke([message])
    assert backend.asked == []


def test_no_option_is_ignored():
    model, _ = chat("x")
    with pytest.raises(TypeError, match="unknown options: tools, top_p; expected some of max_tokens, temperature"):
        model.invoke("hi", tools=[], top_p=0.5)
    with pytest.raises(ValueError, match="top_k"):
        RagChatModel(make_backend=lambda: None, top_k=3)


def test_tokens_are_the_backends_own():
    model, _ = chat()
    assert model.get_num_tokens("three words here") == 3
    with pytest.raises(NotImplementedError, match="use get_num_tokens"):
        model.get_token_ids("x")


def test_zephyr_through_langchain_is_zephyr(zephyr):
    model = RagChatModel(make_backend=lambda: zephyr, temperature=0, max_tokens=6)
    own = zephyr.generate([Message("user", "Why?")], Sampling(max_tokens=6, temperature=0))
    answer = model.invoke("Why?")
    assert (answer.content, answer.usage_metadata["input_tokens"]) == (own.text, own.prompt_tokens)


# ---- theirs as ours --------------------------------------------------------------------------------------------------


class Told(BaseChatModel):
    """Writes what it was asked, with what it was given; says what providers say."""

    said: dict = {}  # noqa: RUF012 - a field of pydantic
    usage: dict | None = None
    given: list = []  # noqa: RUF012

    @property
    def _llm_type(self):
        return "told"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        del stop, run_manager
        self.given.append(kwargs)
        text = " | ".join(f"{message.type}: {message.text}" for message in messages)
        answer = AIMessage(text, response_metadata=self.said, usage_metadata=self.usage)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def test_a_chat_model_is_a_backend():
    backend: Backend = LangChainBackend(Told(given=[]), count=lambda text: len(text.split()))
    expected = "system: Be brief. | human: Why <·/s>?"
    assert backend.generate(ASK, SAMPLING) == Generation(expected, 48 + 2 * 12 + 4, 7)
    assert drain(backend.stream(ASK, SAMPLING)).text == expected
    assert (backend.window, backend.count_tokens("a b")) == (4096, 2)
    assert backend.notices == ("Told samples as it was made to; give options to set length, temperature and seed",)


def test_options_say_how_a_model_is_asked():
    model = Told(given=[])
    backend = LangChainBackend(model, options=lambda sampling: {"num_predict": sampling.max_tokens})
    backend.generate(ASK, SAMPLING)
    backend.generate_many([ASK], SAMPLING)
    drain(backend.stream(ASK, SAMPLING))
    assert model.given == [{"num_predict": 20}] * 3
    assert backend.notices == ("prompt lengths are estimated from above; give the model's own count",)
    assert backend.count_tokens("Why </s>?") == estimate_tokens("Why <·/s>?")


@pytest.mark.parametrize(
    ("said", "answer_tokens", "complete"),
    [({"finish_reason": "stop"}, 20, True), ({"finish_reason": "length"}, 9, False),
     ({"stop_reason": "max_tokens"}, 20, False), ({"done_reason": "stop"}, 20, True),
     ({}, 20, False), ({}, 19, True)],
)  # fmt: skip
def test_counts_and_the_reason_of_an_end_are_the_providers(said, answer_tokens, complete):
    details = {"input_token_details": {"cache_read": 4}}
    counts = {"input_tokens": 9, "output_tokens": answer_tokens, "total_tokens": 9 + answer_tokens, **details}
    backend = LangChainBackend(Told(said=said, usage=counts))
    found = backend.generate(ASK, SAMPLING)
    assert (found.prompt_tokens, found.answer_tokens, found.complete, found.reused_tokens) == (
        9,
        answer_tokens,
        complete,
        4,
    )


@pytest.mark.parametrize(
    ("reason", "error", "expected"),
    [("content_filter", AnswerError, "refused this answer: finish_reason is 'content_filter'; ask in other words"),
     ("SAFETY", AnswerError, "is 'SAFETY'"), ("RECITATION", AnswerError, "is 'RECITATION'"),
     ("error", ModelError, "broke its answer off: finish_reason is 'error', expected stop or length"),
     ("tool_calls", ModelError, "is 'tool_calls'")],
)  # fmt: skip
def test_an_answer_that_was_refused_or_broke_off_is_none(reason, error, expected):
    backend = LangChainBackend(Told(said={"finish_reason": reason}))
    for call in (lambda: backend.generate(ASK, SAMPLING), lambda: drain(backend.stream(ASK, SAMPLING))):
        with pytest.raises(error, match=expected):
            call()


@pytest.mark.parametrize(
    ("reason", "complete"),
    [("STOP", True), ("end_turn", True), ("COMPLETE", True), ("MAX_TOKENS", False), ("model_length", False)],
)
def test_providers_have_their_own_words_for_an_end(reason, complete):
    assert LangChainBackend(Told(said={"finish_reason": reason})).generate(ASK, SAMPLING).complete == complete


class Saying(BaseChatModel):
    """Says these chunks, whether it streams or not."""

    chunks: list[AIMessageChunk]

    @property
    def _llm_type(self):
        return "saying"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        del messages, stop, run_manager, kwargs
        whole = sum(self.chunks[1:], self.chunks[0])
        answer = AIMessage(whole.content, additional_kwargs=whole.additional_kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        del messages, stop, run_manager, kwargs
        for chunk in self.chunks:
            yield ChatGenerationChunk(message=chunk)


def test_a_reason_that_comes_twice_is_one():
    said = {"finish_reason": "stop"}
    model = Saying(chunks=[AIMessageChunk("So.", response_metadata=said), AIMessageChunk("", response_metadata=said)])
    assert drain(LangChainBackend(model).stream(ASK, SAMPLING)).complete


@pytest.mark.parametrize(
    "chunks",
    [["<think>Well", ", hm.</think>\n\nS", "o."], [[{"type": "reasoning", "reasoning": "hm"}], "So."],
     ["\n<thi", "nk>hm</think><think>hm</think>So."]],
)  # fmt: skip
def test_reasoning_is_no_part_of_an_answer(chunks):
    backend = LangChainBackend(Saying(chunks=[AIMessageChunk(each) for each in chunks]))
    assert drain(backend.stream(ASK, SAMPLING)).text == "So."
    assert backend.generate(ASK, SAMPLING).text == "So."
    assert [each.text for each in backend.generate_many([ASK], SAMPLING)] == ["So."]
    assert backend.notices.count(REASONING_LEFT_OUT) == 1


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [(AIMessageChunk(" \n"), "ended its answer without a word"),
     (AIMessageChunk("<think>hm"), "wrote nothing but reasoning; raise max_answer_tokens"),
     (AIMessageChunk("", additional_kwargs={"reasoning_content": "hm"}), "wrote nothing but reasoning")],
)  # fmt: skip
def test_an_answer_without_words_is_none(chunk, expected):
    backend = LangChainBackend(Saying(chunks=[chunk]))
    for call in (lambda: backend.generate(ASK, SAMPLING), lambda: drain(backend.stream(ASK, SAMPLING))):
        with pytest.raises(AnswerError, match=expected):
            call()
    (error,) = backend.generate_many([ASK], SAMPLING)
    assert isinstance(error, AnswerError)


def test_counts_are_those_within_a_prompt():
    """A tokenizer with a token for two line ends: a text between two lines breaks it."""
    backend = LangChainBackend(Told(), count=lambda text: len(text) - text.count("\n\n"))
    frame = backend.prompt_tokens([Message("user", "a\n\nb")])
    whole = backend.prompt_tokens([Message("user", "a\nxy\nb")])
    assert whole <= frame + backend.count_tokens("xy")
    assert (backend.count_tokens("xy"), backend.count_tokens("")) == (4, 0)


def test_pieces_come_as_the_model_writes_them():
    stream = LangChainBackend(FakeListChatModel(responses=["abc"])).stream(ASK, SAMPLING)
    assert [next(stream) for _ in range(3)] == ["a", "b", "c"]
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value.text == "abc"


def test_many_come_back_in_order():
    told = []
    conversations = [[Message("user", str(number))] for number in range(20)]
    found = LangChainBackend(Told()).generate_many(conversations, SAMPLING, report=told.append)
    assert [each.text for each in found] == [f"human: {number}" for number in range(20)]
    assert told == list(range(1, 21))
    assert LangChainBackend(Told()).generate_many([], SAMPLING) == []


class Failing(BaseChatModel):
    @property
    def _llm_type(self):
        return "failing"

    def _generate(self, *_, **__):
        raise ConnectionError("quota used up")

    def _stream(self, *_, **__):
        yield ChatGenerationChunk(message=AIMessageChunk(content="Half an "))
        raise ConnectionError("quota used up")


def test_what_a_provider_raises_is_a_model_error():
    backend = LangChainBackend(Failing())
    for call in (lambda: backend.generate(ASK, SAMPLING), lambda: backend.generate_many([ASK, ASK], SAMPLING)):
        with pytest.raises(ModelError, match=r"Failing failed: ConnectionError: quota used up"):
            call()
    stream = backend.stream(ASK, SAMPLING)
    assert next(stream) == "Half an "
    with pytest.raises(ModelError, match="quota used up"):
        next(stream)


def test_a_prompt_over_the_window_is_not_sent():
    model = FakeMessagesListChatModel(responses=[AIMessage("x")])
    with pytest.raises(PromptTooLongError, match=r"the window given for .* is 90; use fewer"):
        LangChainBackend(model, window=90).generate(ASK, SAMPLING)


def test_there_and_back_again():
    """Our backend as their model as our backend writes what the first one writes."""
    inner = ScriptedBackend(["one two three"] * 2)
    model = RagChatModel(make_backend=lambda: inner)
    backend = LangChainBackend(model, count=model.get_num_tokens, options=lambda s: {"max_tokens": s.max_tokens})
    assert backend.generate(ASK, SAMPLING) == Generation("one two three", 6, 3)
    assert backend.generate(ASK, Sampling(max_tokens=2)) == Generation("one two ", 6, 2, complete=False)

"""OpenAI's routes over a real server, by its own client: answers, citations, streams, refusals, places, embeddings."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import FERRY_QUESTION, LIBRARY, TEA_QUESTION, TOKEN, UNANSWERABLE, require_exact

from reader.backends.base import Generation
from reader.backends.scripted import ScriptedBackend
from reader.reader import REFUSAL
from retrieval.encoder import BUNDLED_NAME

openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed; run: make setup")

WRITTEN = "The ferry leaves from pier seven at dusk [1]. It can fly to the moon [1]."
WITHOUT_MARKERS = "The ferry leaves from pier seven at dusk. It carries bicycles for free."
INVENTED = "Tungsten boils when submarines sing opera in Mozambique [1]."


def client_of(served, **settings):
    return openai.OpenAI(base_url=f"{served.url}/v1", **{"api_key": TOKEN, "max_retries": 0, **settings})


@pytest.fixture(scope="module")
def client(served):
    with client_of(served) as one:
        yield one


def said(*texts):
    """Texts of user and assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def asked(client, *texts, model="rag", **more):
    return client.chat.completions.create(model=model, messages=said(*texts), **more)


def streamed(client, *texts, **more):
    """The text, the last choice's delta with what is beyond OpenAI's fields, and all chunks."""
    chunks = list(asked(client, *texts, stream=True, **more))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[-1].finish_reason
    assert all(choice.finish_reason is None for choice in choices[:-1])
    text = "".join(choice.delta.content or "" for choice in choices)
    return text, choices[-1].delta.model_extra, chunks


def documents_of(served):
    pipeline = served.application.server.engine.pipeline
    return {row.doc_id: pipeline.parts.store.document(row.doc_id) for row in pipeline.documents()}


# ---- models ----------------------------------------------------------------------------------------------------------


def test_models_are_the_readers_and_the_encoder(client):
    names = [model.id for model in client.models.list()]
    assert names == ["rag", "rag-extractive", BUNDLED_NAME]
    assert [client.models.retrieve(name).id for name in names] == names


def test_an_unknown_model_is_not_found(client):
    for call in (
        lambda: client.models.retrieve("gpt-9"),
        lambda: asked(client, FERRY_QUESTION, model="gpt-9"),
        lambda: asked(client, FERRY_QUESTION, model=BUNDLED_NAME),
        lambda: client.embeddings.create(model="rag", input="a"),
    ):
        with pytest.raises(openai.NotFoundError, match="expected") as caught:
            call()
        assert caught.value.code == "model_not_found"


def test_a_wrong_token_is_an_authentication_error(served):
    with client_of(served, api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError, match="token"):
        stranger.models.list()


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [FERRY_QUESTION, TEA_QUESTION, UNANSWERABLE])
def test_an_answer_is_that_of_the_products_own_route(served, client, question):
    completion = asked(client, question)
    message = completion.choices[0].message
    own = served.ask(question)
    assert message.content == own["answer"]
    details = {"citations", "sentences", "abstained", "abstention", "evidence", "question"}
    assert {name: message.model_extra[name] for name in details} == {name: own[name] for name in details}
    require_exact(message.model_extra, documents_of(served))
    assert bool(message.model_extra["citations"]) == (question != UNANSWERABLE)
    assert all(f"[{citation['marker']}]" in message.content for citation in message.model_extra["citations"])
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == 0  # no language model was asked


@pytest.mark.parametrize("question", [FERRY_QUESTION, TEA_QUESTION, UNANSWERABLE])
def test_a_stream_says_what_a_whole_answer_says(client, question):
    message = asked(client, question).choices[0].message
    text, details, chunks = streamed(client, question)
    assert text == message.content == details.pop("answer")
    assert details.pop("corrected") is False
    assert details == message.model_extra
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_the_asynchronous_client_is_answered_alike(served, client):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=TOKEN) as other:
            whole = await other.chat.completions.create(model="rag", messages=said(TEA_QUESTION))
            stream = await other.chat.completions.create(model="rag", messages=said(TEA_QUESTION), stream=True)
            return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(ask())
    assert whole.choices[0].message.content == asked(client, TEA_QUESTION).choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content


def test_the_clients_own_way_to_stream_puts_the_answer_together(client):
    with client.chat.completions.stream(model="rag", messages=said(FERRY_QUESTION)) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.content == asked(client, FERRY_QUESTION).choices[0].message.content
    assert message.model_extra["citations"]


def test_a_written_answer_is_streamed_as_it_comes_and_its_tokens_are_counted(serve, small_index):
    with serve(small_index, backend=ScriptedBackend([f" \n{WRITTEN} \n\n"] * 2)) as served, client_of(served) as client:
        text, details, chunks = streamed(client, FERRY_QUESTION, stream_options={"include_usage": True})
        whole = asked(client, FERRY_QUESTION)
        require_exact(details, documents_of(served))
    assert text == details["answer"] == whole.choices[0].message.content == WRITTEN
    assert [sentence["label"] for sentence in details["sentences"]] == ["supported", "unsupported"]
    assert len(chunks) > len(WRITTEN.split())
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == len(WRITTEN.split())
    assert whole.usage.prompt_tokens > whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_sources_that_checking_found_follow_the_text(serve, small_index):
    with serve(small_index, backend=ScriptedBackend([WITHOUT_MARKERS] * 2)) as served, client_of(served) as client:
        text, details, _ = streamed(client, FERRY_QUESTION)
        whole = asked(client, FERRY_QUESTION).choices[0].message
    first, second = WITHOUT_MARKERS.split(". ")
    assert details["answer"] == whole.content == f"{first}. [1] {second} [1]"
    assert text == f"{WITHOUT_MARKERS}\n\nSources found by checking:\n\n- {first}. [1]\n- {second} [1]"
    assert details["corrected"]
    assert all(sentence["added"] for sentence in details["sentences"])


@pytest.mark.parametrize(
    ("question", "written", "between"),
    [(FERRY_QUESTION, INVENTED, "withdrawn"), (TEA_QUESTION, "钨在五千度的海底歌唱[1]。", "撤回")],
)
def test_an_answer_that_checking_withdraws_says_so(serve, small_index, question, written, between):
    with serve(small_index, backend=ScriptedBackend([written])) as served, client_of(served) as client:
        text, details, _ = streamed(client, question)
    assert (details["corrected"], details["abstained"], details["abstention"]) == (True, True, "verification")
    assert text.startswith(written)
    assert between in text
    assert text.endswith(details["answer"])
    assert details["citations"] == []


def test_an_answer_cut_at_its_longest_says_so(serve, small_index):
    backend = ScriptedBackend([WRITTEN] * 2)
    with serve(small_index, backend=backend, max_answer_tokens=8) as served, client_of(served) as client:
        assert asked(client, FERRY_QUESTION).choices[0].finish_reason == "length"
        _, _, chunks = streamed(client, FERRY_QUESTION)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_follow_up_is_understood_in_the_light_of_the_conversation(client):
    before = ("What does the museum of clocks look like?", "It has no windows at all [1].")
    message = asked(client, *before, "Who built its oldest one?").choices[0].message
    assert "1702" in message.content
    assert message.model_extra["question"] != "Who built its oldest one?"


def test_a_model_is_told_what_counts_of_earlier_answers(serve, small_index):
    """Neither markers, which point at other passages now, nor what was withdrawn."""
    backend = ScriptedBackend([INVENTED, WITHOUT_MARKERS, "Where does the ferry leave from?", WRITTEN])
    with serve(small_index, backend=backend) as served, client_of(served) as client:
        first, _, _ = streamed(client, "What does the ferry carry?")
        second, _, _ = streamed(client, FERRY_QUESTION)
        asked(client, "What does the ferry carry?", first, FERRY_QUESTION, second, "Where from?", WRITTEN, "Where?")
    told = [message.content for message in backend.asked[-1] if message.role == "assistant"]
    assert told == [
        REFUSAL["en"],
        WITHOUT_MARKERS,
        "The ferry leaves from pier seven at dusk. It can fly to the moon.",
    ]


def test_what_is_not_read_is_named(client):
    messages = [
        {"role": "system", "content": "Talk like a pirate."},
        {"role": "assistant", "content": "How can I help?"},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        *said(FERRY_QUESTION),
    ]
    more = {"temperature": 0.7, "max_tokens": 5, "stop": ["."], "tools": [TOOL], "extra_body": {"chat_id": "7"}}
    completion = client.chat.completions.create(model="rag", messages=messages, **more)
    assert completion.choices[0].message.content == asked(client, FERRY_QUESTION).choices[0].message.content
    assert completion.model_extra["notices"] == [
        "not read: chat_id, max_tokens, stop, temperature, tools; the reader's own settings hold",
        "messages of the system are not read: the reader has its own instruction",
        "messages of tools are not read: answers come from the documents alone",
        "words before the first question are not read",
    ]
    assert asked(client, FERRY_QUESTION).model_extra["notices"] == []


def test_parts_of_text_are_one_text(client):
    parts = [{"type": "text", "text": "Where does the ferry"}, {"type": "text", "text": "leave from?"}]
    completion = client.chat.completions.create(model="rag", messages=[{"role": "user", "content": parts}])
    assert "pier seven" in completion.choices[0].message.content


TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"n": 2}, "n: not supported"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice: not supported"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "function_call"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "question"),
        ({"messages": said("a", "b")}, "question"),
        ({"messages": said(" \u200b")}, "blank"),
        ({"messages": said("a" * 8001)}, "8,000"),
        ({"messages": said("a", "b" * 40_001, "c")}, "40,000"),
        ({"messages": said(*"ab" * 101, "c")}, "101 questions"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image_url"),
        ({"messages": said("### Task:\nGenerate a title.\n### Chat History:\n<chat_history></chat_history>")}, "task"),
    ],
)
def test_what_would_change_the_meaning_is_refused(client, body, why):
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match=why):
            client.chat.completions.create(**{"model": "rag", "messages": said("a"), "stream": stream, **body})


def test_what_asks_for_nothing_special_is_taken(client):
    plain = {
        "n": 1,
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "modalities": ["text"],
    }
    assert asked(client, FERRY_QUESTION, extra_body={**plain, "stream_options": None, "stop": None}).choices


def test_an_error_in_the_middle_is_raised_by_the_client(serve, small_index):
    with serve(small_index, backend=ScriptedBackend([])) as served, client_of(served) as client:
        with pytest.raises(openai.InternalServerError, match="script"):
            asked(client, FERRY_QUESTION)
        with pytest.raises(openai.APIError, match="script") as caught:
            list(asked(client, FERRY_QUESTION, stream=True))
        assert caught.value.body["code"] == "model"


def test_open_webui_is_given_its_sources(client):
    """Its [n] opens the n-th source by distinct name and id, found in a whole answer or a chunk without a delta."""
    completion = asked(client, FERRY_QUESTION)
    _, _, chunks = streamed(client, FERRY_QUESTION)
    bare = [chunk for chunk in chunks if chunk.choices[0].delta.to_dict() == {} and "sources" in chunk.model_extra]
    sources = completion.model_extra["sources"]
    assert [chunk.model_extra["sources"] for chunk in bare] == [sources]
    citations = completion.choices[0].message.model_extra["citations"]
    assert [source["document"] for source in sources] == [[citation["quote"]] for citation in citations]
    assert sources[0]["source"]["name"] == "1. ferry.md, line 3"
    for source in sources:
        assert [meta["source"] for meta in source["metadata"]] == [source["source"]["id"]]
    assert asked(client, UNANSWERABLE).model_extra["sources"] == []


def test_a_passage_that_is_not_cited_keeps_its_number(serve, small_index, served):
    first, second = served.client.post("/api/search", json={"question": FERRY_QUESTION, "top_k": 2}).json()["hits"]
    quote = second["text"].strip().splitlines()[-1]
    backend = ScriptedBackend([f"{quote} [2]"])
    with serve(small_index, backend=backend, compress=False) as other, client_of(other) as client:
        sources = asked(client, FERRY_QUESTION).model_extra["sources"]
    assert [source["source"]["name"] for source in sources] == [
        f"1. {first['source']}, line {first['line']}, not cited",
        f"2. {second['source']}, line 1",
    ]
    assert sources[0]["document"] == [first["text"]]
    assert quote.endswith(sources[1]["document"][-1])


# ---- places ----------------------------------------------------------------------------------------------------------


class Held(ScriptedBackend):
    """Writes two words, and the rest when it is told to."""

    def __init__(self):
        super().__init__([WRITTEN])
        self.go_on, self.begun, self.closed = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def stream(self, messages, _sampling):
        self.begun.release()
        try:
            yield "The ferry"
            while not self.go_on.wait(0.01):
                yield " "
            yield WRITTEN.removeprefix("The ferry")
            return Generation(WRITTEN, self.prompt_tokens(messages), self.count_tokens(WRITTEN))
        finally:
            self.closed.release()


def test_the_client_comes_back_by_itself_when_there_was_no_place(serve, small_index):
    held, answers = Held(), []

    def seen(response):
        answers.append(response.status_code)
        held.go_on.set()

    web = openai.DefaultHttpxClient(event_hooks={"response": [seen]})
    with (
        serve(small_index, backend=held, queue=1) as served,
        client_of(served) as client,
        client_of(served, max_retries=2, http_client=web) as patient,
        ThreadPoolExecutor(1) as other,
    ):
        first = other.submit(asked, client, FERRY_QUESTION)
        assert held.begun.acquire(timeout=30)
        with pytest.raises(openai.RateLimitError) as caught:
            asked(client, FERRY_QUESTION, stream=True)
        assert caught.value.code == "busy"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert asked(patient, FERRY_QUESTION).choices[0].message.content == WRITTEN
        assert first.result(30).choices[0].message.content == WRITTEN
    assert answers == [429, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_frees_the_place(serve, small_index, stream):
    held = Held()

    async def hang_up(url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client:
            asking = asyncio.ensure_future(
                client.chat.completions.create(model="rag", messages=said(FERRY_QUESTION), stream=stream)
            )
            assert await asyncio.to_thread(held.begun.acquire, timeout=30)
            if stream:
                await (await asking).close()
            asking.cancel()

    with serve(small_index, backend=held, queue=1) as served:
        asyncio.run(hang_up(served.url))
        assert held.closed.acquire(timeout=30)  # the model was stopped, although nobody told it to go on
        held.go_on.set()
        with client_of(served, max_retries=5) as client:
            assert asked(client, FERRY_QUESTION).choices


# ---- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_the_pipeline(served, client):
    texts = [*LIBRARY.values(), *(f"text {number}" for number in range(35))]  # more than are encoded at once
    expected = served.application.server.engine.pipeline.embed(texts, pooling="auto", tokens=False)
    for options in ({}, {"encoding_format": "float"}, {"dimensions": 384}):  # the client itself asks for base64
        found = client.embeddings.create(model=BUNDLED_NAME, input=texts, **options)
        assert [one.index for one in found.data] == list(range(40))
        assert np.array_equal(np.array([one.embedding for one in found.data], np.float32), np.stack(expected))
        assert found.usage.prompt_tokens == found.usage.total_tokens > 40
    one = client.embeddings.create(model=BUNDLED_NAME, input=texts[0]).data
    assert np.array_equal(np.array(one[0].embedding, np.float32), expected[0])


def test_base64_is_little_endian_floats(served):
    body = {"model": BUNDLED_NAME, "input": "茶馆"}
    plain = served.client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    packed = served.client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    assert list(struct.unpack("<384f", b64decode(packed["data"][0]["embedding"]))) == plain


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"input": "word " * 600}, 400, "tokens"),
        ({"input": "x" * 8001}, 400, "8,000"),
        ({"input": ["fine", " "]}, 422, "text 1"),
        ({"input": ""}, 422, "blank"),
        ({"input": []}, 422, "1 to 256"),
        ({"input": ["a"] * 257}, 422, "257"),
        ({"input": [1, 2]}, 422, "numbers"),
        ({"input": [[1, 2]]}, 422, "numbers"),
        ({"input": "a", "dimensions": 64}, 422, "384"),
        ({"input": "a", "encoding_format": "hex"}, 422, "encoding_format"),
    ],
)
def test_what_cannot_be_encoded_is_named(served, body, status, why):
    answer = served.client.post("/v1/embeddings", json={"model": BUNDLED_NAME, **body})
    assert answer.status_code == status
    assert why in answer.json()["error"]["message"]


def test_frames_are_as_openai_sends_them(served):
    body = {"model": "rag", "messages": said(FERRY_QUESTION), "stream": True}
    answer = served.client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    records = [json.loads(one.removeprefix("data: ")) for one in frames[:-2]]
    assert {record["object"] for record in records} == {"chat.completion.chunk"}
    assert records[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}

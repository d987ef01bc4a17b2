"""The routes that answer and search, over a real server: the command line's contracts, events, places, hang-ups."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import FERRY_QUESTION, LIBRARY, TEA_QUESTION, TOKEN, UNANSWERABLE, events_of, require_exact

from app.chat import without_markers
from app.cli.wire import answer_record, search_record
from app.pipeline import Pipeline
from reader.backends.base import Generation
from reader.backends.scripted import ScriptedBackend
from reader.reader import REFUSAL

WRITTEN = "The ferry leaves from pier seven at dusk [1]. It can fly to the moon [1]."


def documents_of(pipeline: Pipeline) -> dict:
    return {row.doc_id: pipeline.parts.store.document(row.doc_id) for row in pipeline.documents()}


def without_times(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "timings_ms"}


@pytest.mark.parametrize("question", [FERRY_QUESTION, TEA_QUESTION, UNANSWERABLE])
def test_an_answer_is_what_the_command_line_gives(served, question):
    pipeline = served.application.server.engine.pipeline
    expected = json.loads(json.dumps(answer_record(pipeline.ask(question), explain=True)))
    found = served.ask(question, explain=True)
    assert without_times(found) == without_times(expected)
    require_exact(found, documents_of(pipeline))
    assert found["abstained"] == (question == UNANSWERABLE)
    assert bool(found["citations"]) == (question != UNANSWERABLE)


def test_a_search_is_what_the_command_line_gives(served):
    pipeline = served.application.server.engine.pipeline
    answer = served.client.post("/api/search", json={"question": FERRY_QUESTION, "top_k": 2})
    expected = json.loads(json.dumps(search_record(pipeline.search(FERRY_QUESTION, k=2), None)))
    assert without_times(answer.json()) == without_times(expected)
    assert len(answer.json()["hits"]) == 2


def test_a_filter_narrows(served):
    body = {"question": FERRY_QUESTION, "filter": {"source": ["*.txt"]}}
    found = served.client.post("/api/search", json=body).json()
    assert {hit["source"] for hit in found["hits"]} == {"bees.txt", "emoji.txt"}
    assert served.ask(**body)["abstained"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"question": " \t "}, 422, "blank"),
        ({"question": "\u200b"}, 422, "blank"),
        ({"question": ""}, 422, "question"),
        ({}, 422, "question"),
        ({"question": "x" * 9000}, 422, "question"),
        ({"question": "word " * 1500}, 422, "tokens"),
        ({"question": "a", "top_k": 0}, 422, "top_k"),
        ({"question": "a", "more": 1}, 422, "more"),
        ({"question": "a", "filter": {"after": "soon"}}, 422, "soon"),
        ({"question": "a", "history": [{"question": "a", "answer": "b"}] * 101}, 422, "history"),
    ],
)
def test_what_cannot_be_asked_is_named(served, body, status, said):
    answer = served.client.post("/api/ask", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_events_end_with_the_answer(served):
    answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert events[0] == ("understood", {"question": FERRY_QUESTION})
    assert events[-1][0] == "answered"
    assert without_times(events[-1][1]) == without_times(served.ask(FERRY_QUESTION))


def test_a_written_answer_comes_piece_by_piece_and_is_checked(serve, small_index):
    with serve(small_index, backend=ScriptedBackend([WRITTEN])) as served:
        events = events_of(served.client.post("/api/ask", json={"question": FERRY_QUESTION, "stream": True}))
    names = [name for name, _ in events]
    assert names[0] == "understood"
    assert names[-1] == "answered"
    assert names.count("written") > 5
    answer = events[-1][1]
    assert "".join(event["text"] for name, event in events if name == "written") == answer["answer"] == WRITTEN
    assert [sentence["label"] for sentence in answer["sentences"]] == ["supported", "unsupported"]


def test_a_follow_up_is_understood_in_the_light_of_its_history(served):
    history = [{"question": "What does the museum of clocks look like?", "answer": "It has no windows at all."}]
    asked = {"question": "Who built its oldest one?", "history": history, "stream": True}
    events = events_of(served.client.post("/api/ask", json=asked))
    assert "1702" in events[-1][1]["answer"]
    assert events[0][1]["question"] == events[-1][1]["question"]


@given(st.text(alphabet="a \n[]1\u3000", max_size=40))
def test_markers_go_with_the_space_before_them(text):
    assert without_markers(text) == re.sub(r"\s*\[\d{1,3}\]", "", text)


def test_an_answer_of_spaces_holds_nobody_up(served):
    """A pattern that tried every space anew took minutes for this, and everybody waited."""
    history = [{"question": FERRY_QUESTION, "answer": "a" + " " * 39_998 + "b"}] * 20
    assert "pier seven" in served.ask(FERRY_QUESTION, history=history)["answer"]


def test_an_error_before_the_first_event_is_a_status(serve, small_index):
    with serve(small_index, backend=ScriptedBackend([])) as served:
        answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "model")
        events = events_of(served.client.post("/api/ask", json={"question": FERRY_QUESTION, "stream": True}))
        assert [name for name, _ in events] == ["understood", "failed"]
        assert "script" in events[-1][1]["error"]["message"]


def test_without_an_index_the_client_is_told(serve, tmp_path):
    with serve(tmp_path / "none") as served:
        answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no-index")
        assert served.client.get("/readyz").status_code == 200
        assert served.client.get("/api/index").status_code == 409


class Held:
    """A language model that writes a word, and goes on when it is told to."""

    model = "held"
    window = 4096
    notices: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.go_on, self.begun, self.closed = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def count_tokens(self, text):
        return len(text.split())

    def prompt_tokens(self, messages):
        return sum(1 + self.count_tokens(message.content) for message in messages)

    def generate(self, messages, sampling):
        raise NotImplementedError

    def stream(self, _messages, _sampling):
        self.begun.release()
        try:
            while not self.go_on.wait(0.01):
                yield " "
            yield "The ferry leaves from pier seven at dusk [1]."
        finally:
            self.closed.release()
        return Generation("The ferry leaves from pier seven at dusk [1].", 10, 10)


def test_quotes_do_not_wait_for_what_is_being_written(serve, small_index):
    held = Held()
    with serve(small_index, backend=held) as served, ThreadPoolExecutor(40) as many:
        writing = [many.submit(served.ask, FERRY_QUESTION) for _ in range(40)]  # more than may be written at once
        for _ in range(32):
            assert held.begun.acquire(timeout=30)
        quoted = served.ask(FERRY_QUESTION, reader="extractive")
        assert quoted["reader"]["name"] == "extractive"
        assert served.client.post("/api/search", json={"question": FERRY_QUESTION}).status_code == 200
        assert not any(answer.done() for answer in writing)
        held.go_on.set()
        assert {answer.result(30)["answer"] for answer in writing} == {"The ferry leaves from pier seven at dusk [1]."}


def test_the_library_is_shown_while_long_work_is_done(served):
    go_on, lane = threading.Event(), served.application.server.engine.lanes["slow"]
    body = {"model": "all-MiniLM-L6-v2", "input": "a text"}
    with ThreadPoolExecutor(1) as another:
        long_work = [lane.submit(go_on.wait) for _ in range(4)]
        embedded = another.submit(served.client.post, "/v1/embeddings", json=body)
        try:
            assert served.client.get("/api/documents").json()["total"] == len(LIBRARY)
            assert not embedded.done()
        finally:
            go_on.set()
        assert embedded.result(60).status_code == 200
        assert all(one.result(60) for one in long_work)


def test_without_a_place_one_is_told_when_to_come_back(serve, small_index):
    held = Held()
    with serve(small_index, backend=held, queue=2) as served, ThreadPoolExecutor(2) as many:
        writing = [many.submit(served.ask, FERRY_QUESTION) for _ in range(2)]
        for _ in range(2):
            assert held.begun.acquire(timeout=30)
        for stream in (False, True):
            answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
            assert int(answer.headers["retry-after"]) >= 1
        held.go_on.set()
        assert all(answer.result(30)["citations"] for answer in writing)
        assert served.ask(FERRY_QUESTION)["citations"]
        assert b"rag_refused_total 2.0" in served.client.get("/metrics").content


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_frees_the_place(serve, small_index, stream):
    held = Held()
    with serve(small_index, backend=held, queue=1) as served:
        body = json.dumps({"question": FERRY_QUESTION, "stream": stream}).encode()
        head = (
            f"POST /api/ask HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        )
        port = served.client.base_url.port
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert held.begun.acquire(timeout=30)
        assert held.closed.acquire(timeout=30)  # the model was stopped, although nobody told it to go on
        held.go_on.set()
        answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION})
        while answer.status_code == 429:  # the thread may need a moment to give its place back
            answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION})
        assert answer.status_code == 200


@pytest.mark.parametrize("steps", range(8))
def test_who_leaves_as_the_result_comes_has_left(served, steps):
    """Whatever step of the event loop it happens in: what is cancelled does not go on."""
    engine = served.application.server.engine

    async def leave() -> None:
        go_on, done = threading.Event(), threading.Event()

        def job(_):
            go_on.wait()
            done.set()

        looking = asyncio.ensure_future(engine.look(job))
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        done.wait()  # the loop stands still until the result is there
        while engine.lanes["index"].taken:
            pass
        for _ in range(steps):
            await asyncio.sleep(0)
        if looking.cancel():
            with pytest.raises(asyncio.CancelledError):
                await looking

    asyncio.run(leave())


def test_a_request_is_given_up_after_its_time(serve, small_index):
    held = Held()
    with serve(small_index, backend=held, request_seconds=1.0) as served:
        answer = served.client.post("/api/ask", json={"question": FERRY_QUESTION})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert held.closed.acquire(timeout=30)


def test_many_at_once_get_their_own_answers(served):
    questions = {FERRY_QUESTION: "pier seven", TEA_QUESTION: "周", "What does the beekeeper wear?": "purple hat"}
    asked = list(questions) * 20
    with ThreadPoolExecutor(30) as many:
        answers = list(many.map(served.ask, asked))
    for question, answer in zip(asked, answers, strict=True):
        assert questions[question] in answer["answer"]
        for citation in answer["citations"]:
            assert LIBRARY[citation["source"]][citation["start"] : citation["end"]] == citation["quote"]


def test_the_refusal_is_in_the_language_of_the_question(served):
    assert served.ask("钨的沸点是多少摄氏度？")["answer"] == REFUSAL["zh"]
    assert served.ask(UNANSWERABLE)["answer"] == REFUSAL["en"]


def test_answers_go_on_while_the_index_changes(serve, index_copy, encoder):
    """Readers see the old state or the new one; nobody is turned away in between."""
    versions = {LIBRARY["ferry.md"], LIBRARY["ferry.md"].replace("pier seven", "pier eight")}
    stop = threading.Event()
    answers = []

    with serve(index_copy) as served:

        def ask() -> None:
            while not stop.is_set():
                answers.append(served.client.post("/api/ask", json={"question": FERRY_QUESTION}))

        changed = index_copy.parent / "docs"
        changed.mkdir()
        writer = Pipeline(served.config)
        writer.__dict__["encoder"] = encoder
        with ThreadPoolExecutor(4) as many:
            asking = [many.submit(ask) for _ in range(4)]
            try:
                for text in sorted(versions, reverse=True) * 2:
                    (changed / "ferry.md").write_text(text, encoding="utf-8")
                    writer.ingest([changed], report=lambda _: None)
            finally:
                stop.set()
            for each in asking:
                each.result(60)
        writer.close()
        assert {answer.status_code for answer in answers} == {200}
        cited = [citation for answer in answers for citation in answer.json()["citations"]]
        for citation in cited:
            if citation["source"] == "ferry.md":
                assert any(text[citation["start"] : citation["end"]] == citation["quote"] for text in versions)
        quotes = {citation["quote"] for citation in served.ask(FERRY_QUESTION)["citations"]}
        assert any("pier seven" in quote or "pier eight" in quote for quote in quotes)

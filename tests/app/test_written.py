"""The command line over a language model behind a real server on loopback: asked, streamed, doubted, talked to."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
from loopback_server import STREAM, LoopbackServer, answer, delta, events

from app.profiles import ProfileChoice
from ingest.records import Progress

FERRY = "The ferry to Marstal leaves from pier seven at dusk. It carries bicycles for free."
CLOCKS = "The museum of clocks has no windows at all. Its oldest clock was built in 1712 by a blacksmith."
QUESTION = "Where does the ferry to Marstal leave from?"


def quiet(_: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def index(put_in_index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    put_in_index(folder / "docs", folder / "index", {"ferry.txt": FERRY, "clocks.txt": CLOCKS})
    return folder / "index"


@pytest.fixture
def rag(rag_within, index, tmp_path):
    return partial(rag_within, tmp_path, index=index, profile="embedded")


def test_a_written_answer_is_checked_and_marked(rag):
    text = "The ferry leaves from pier seven [1]. It sinks every 90 minutes [1]. It carries bicycles [8]."
    with LoopbackServer(answer(*re.findall(r"\S+\s*", text))) as server:
        result = rag("ask", "--json", QUESTION, server_url=server.url, seed=3)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["reader"] == {"name": "server", "model": "m"}
    assert record["abstained"] is False
    assert record["sentences"][0]["label"] == "supported"
    assert record["sentences"][1]["label"] in {"unsupported", "contradicted-number"}
    assert record["sentences"][2]["added"] is True
    assert record["written"]["removed_markers"] == [8]
    for citation in record["citations"]:
        assert (
            citation["quote"]
            == (FERRY if citation["source"] == "ferry.txt" else CLOCKS)[citation["start"] : citation["end"]]
        )
    assert record["prompt"]["name"] == "answer-en"
    (asked,) = server.asked
    assert asked.body["seed"] == 3
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user"]


def test_people_are_told_what_is_not_borne_out(rag):
    with LoopbackServer(
        answer("The ferry leaves from pier seven [1]. ", "It sinks every 90 minutes [1][7].")
    ) as server:
        result = rag("ask", QUESTION, server_url=server.url)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("The ferry leaves from pier seven [1]. It sinks every 90 minutes [1].")
    assert any(line.startswith("! ") and "90 minutes" in line for line in lines)
    assert "! removed citations of passages that do not exist: 7" in lines
    assert "    The ferry to Marstal leaves from pier seven at dusk." in lines


def test_too_little_evidence_asks_nobody(rag):
    with LoopbackServer(answer("Lima [1].")) as server:
        result = rag("ask", "--json", "What is the capital of Peru?", server_url=server.url)
    record = json.loads(result.stdout)
    assert (record["abstained"], record["abstention"], record["written"]) == (True, "evidence", None)
    assert server.asked == []


def test_an_answer_that_breaks_off_is_an_error(rag):
    with LoopbackServer(STREAM + events(delta("The ferry leaves from"))) as server:
        result = rag("ask", QUESTION, server_url=server.url)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: " in result.stderr


def test_a_server_that_is_not_there(rag):
    result = rag("ask", QUESTION, server_url="http://127.0.0.1:9/v1", server_timeout=1)
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stderr


def test_many_questions_go_together_and_come_back_in_order(rag, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text(f"{QUESTION}\n\nWhat is the capital of Peru?\nWhen was the oldest clock built?\n", encoding="utf-8")

    def play(connection):
        asked = connection.request.body["messages"][-1]["content"]
        said = "It was built in 1712." if "oldest clock built?" in asked else "It leaves from pier seven."
        connection.send(answer(said))

    with LoopbackServer(play) as server:
        result = rag("ask", "--json", "--questions", str(file), server_url=server.url)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["question"] for record in records] == [line for line in file.read_text().splitlines() if line]
    assert [record["abstained"] for record in records] == [False, True, False]
    assert "1712" in records[2]["answer"]
    assert len(server.asked) == 2


def test_chat_follows_up_keeps_and_resumes(rag):
    def play(connection):
        system = connection.request.body["messages"][0]["content"]
        condensing = "rewrite the last question" in system
        connection.send(
            answer("Does the ferry to Marstal carry bicycles?" if condensing else "It carries bicycles for free.")
        )

    said = f"{QUESTION}\nDoes it carry bicycles?\n/sources\n/nonsense\n"
    with LoopbackServer(play) as server:
        result = rag("chat", "--session", "sea", stdin=said, server_url=server.url)
        assert result.exit_code == 0, result.output
        assert "understood as: Does the ferry to Marstal carry bicycles?" in result.stderr
        assert "there is no command /nonsense" in result.stderr
        assert "It carries bicycles for free." in result.stdout.split("[1] ferry.txt:1")[-1]
        roles = [message["role"] for message in server.asked[-1].body["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        resumed = rag("chat", "--session", "sea", stdin="/history\n/quit\n", server_url=server.url)
    assert "conversation sea, 2 questions so far" in resumed.stderr
    assert f"? {QUESTION}" in resumed.stdout
    assert "? Does it carry bicycles?" in resumed.stdout


def test_chat_without_a_model_carries_over(rag):
    result = rag("chat", stdin=f"{QUESTION}\nDoes it carry bicycles?\n")
    assert "understood as: Does it carry bicycles? (ferry Marstal leave)" in result.stderr
    assert "It carries bicycles for free." in result.stdout


def test_chat_leaves_a_question_that_stands_alone_as_it_is(rag):
    result = rag("chat", stdin=f"{QUESTION}\nWho built the oldest clock?\n")
    assert "understood as" not in result.stderr
    assert "built in 1712 by a blacksmith" in result.stdout


def test_chat_in_a_pipe_shows_nothing_that_was_withdrawn_as_an_answer(rag):
    with LoopbackServer(answer("Bananas ", "are yellow [1].")) as server:
        result = rag("chat", stdin=f"{QUESTION}\n", server_url=server.url)
    assert result.stdout.startswith("withdrawn, nothing in the passages bears it out: Bananas are yellow [1].")


def test_prompts_of_ones_own(rag, tmp_path):
    own = 'version = 1\nlanguage = "en"\nsystem = "Be brief. {{refusal}}"\nuser = "{{passages}} {{question}}"\n'
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "answer-en.toml").write_text(own, encoding="utf-8")
    with LoopbackServer(answer("It leaves from pier seven.")) as server:
        rag("ask", QUESTION, server_url=server.url, prompts=tmp_path / "own")
        assert server.asked[0].body["messages"][0]["content"].startswith("Be brief.")
        (tmp_path / "own" / "answer-en.toml").write_text("version = 1", encoding="utf-8")
        result = rag("ask", QUESTION, server_url=server.url, prompts=tmp_path / "own")
        assert (result.exit_code, "prompt 'answer-en' has the keys" in result.stderr) == (2, True)
        (tmp_path / "own" / "answer-en.toml").write_text(own.replace("passages", "context"), encoding="utf-8")
        result = rag("ask", QUESTION, server_url=server.url, prompts=tmp_path / "own")
        assert (result.exit_code, "has the placeholders ['context'" in result.stderr) == (2, True)
        result = rag("ask", QUESTION, server_url=server.url, prompts=tmp_path / "nothing")
        assert (result.exit_code, "there is no folder" in result.stderr) == (2, True)


def test_the_choice_is_announced(rag):
    with LoopbackServer(answer("It leaves from pier seven.")) as server:
        result = rag("ask", QUESTION, server_url=server.url)
    choice = ProfileChoice("embedded", "all-MiniLM-L6-v2", "server", "cpu", "asked for")
    assert result.stderr.splitlines()[0] == str(choice)

"""Conversations: each exchange is on disk before the next, what is damaged is named, and names lead nowhere."""

from __future__ import annotations

import json
import os
import stat

import pytest

from app.chat import MAX_BYTES, Conversation, Exchange, Source, conversations, new_name
from reader.records import Answer, Citation, ReaderInfo, Turn
from retrieval.errors import ConfigError, ModelError, RagError

CITATION = Citation(1, "c", "d", "ferry.txt", 0, 9, "pier seven", 1, None)
SOURCE = Source(1, "ferry.txt", 1, None, "pier seven")
EXCHANGE = Exchange("Where?", "Where does it leave?", "pier seven [1]", abstained=False, sources=(SOURCE,))


class Answers:
    """A pipeline that understands by adding the last question, and writes two words."""

    def __init__(self, *, fails=False):
        self.fails = fails

    def understand(self, asked, history):
        return f"{asked} ({history[-1].question})" if history else asked

    def ask_stream(self, question, *, history):
        assert all(isinstance(turn, Turn) for turn in history)
        yield "pier "
        if self.fails:
            raise ModelError("the server died")
        yield "seven [1]"
        return Answer(question, "pier seven [1]", False, (CITATION,), (), ReaderInfo("scripted", "none"))


def test_exchanges_are_kept_and_resumed(tmp_path):
    conversation = Conversation.open(tmp_path / "chats", "one")
    understood = []
    assert "".join(conversation.ask(Answers(), "Where?", note=understood.append)) == "pier seven [1]"
    assert list(conversation.ask(Answers(), "When?", note=understood.append))
    resumed = Conversation.open(tmp_path / "chats", "one")
    assert resumed.exchanges == conversation.exchanges
    assert resumed.turns == [Turn("Where?", "pier seven"), Turn("When? (Where?)", "pier seven")]
    assert resumed.exchanges[1].asked == "When?"
    assert resumed.exchanges[0].sources == EXCHANGE.sources
    assert understood == ["When? (Where?)"]
    assert stat.S_IMODE(resumed.file.stat().st_mode) == 0o600


def test_an_answer_that_breaks_off_is_not_kept(tmp_path):
    conversation = Conversation.open(tmp_path, "one")
    with pytest.raises(ModelError):
        list(conversation.ask(Answers(fails=True), "Where?"))
    assert conversation.exchanges == []
    assert not conversation.file.exists()


def test_a_file_is_put_in_place_whole(tmp_path, monkeypatch):
    conversation = Conversation.open(tmp_path, "one")
    conversation.add(EXCHANGE)
    before = conversation.file.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        conversation.add(EXCHANGE)
    assert conversation.file.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65, "a\n", "a\0"])
def test_a_name_leads_nowhere_else(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name a conversation"):
        Conversation.open(tmp_path, name)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b'{"version": 1}', b'{"version": 1, "exchanges": [{}]}', b"[" * 100_000,
     b'{"version": 1, "exchanges": [{"asked": 1, "question": "", "answer": "", "abstained": false, "sources": []}]}'],
)  # fmt: skip
def test_damage_is_named(tmp_path, content):
    (tmp_path / "one.json").write_bytes(content)
    with pytest.raises(RagError, match="'one' is damaged"):
        Conversation.open(tmp_path, "one")


@pytest.mark.parametrize("field", ["marker", "line", "page"])
def test_a_place_that_is_no_number_is_damage(tmp_path, field):
    conversation = Conversation.open(tmp_path, "one")
    conversation.add(EXCHANGE)
    record = json.loads(conversation.file.read_text())
    record["exchanges"][0]["sources"][0][field] = "\x1b[2J"
    conversation.file.write_text(json.dumps(record))
    with pytest.raises(RagError, match="is damaged"):
        Conversation.open(tmp_path, "one")


def test_two_processes_do_not_overwrite_each_other(tmp_path):
    one, other = Conversation.open(tmp_path, "sea"), Conversation.open(tmp_path, "sea")
    one.add(EXCHANGE)
    with pytest.raises(RagError, match="goes on in another process"):
        other.add(EXCHANGE)
    one.add(EXCHANGE)
    assert len(Conversation.open(tmp_path, "sea").exchanges) == 2


def test_a_format_of_the_future_and_an_endless_file_are_named(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({"version": 2, "exchanges": []}))
    with pytest.raises(RagError, match="has format 2, this release reads 1"):
        Conversation.open(tmp_path, "one")
    (tmp_path / "two.json").symlink_to("/dev/zero")
    with pytest.raises(RagError, match=f"more than {MAX_BYTES:,} bytes"):
        Conversation.open(tmp_path, "two")


def test_conversations_are_listed_the_latest_first(tmp_path):
    assert conversations(tmp_path / "none") == []
    for age, name in enumerate(("new", "old")):
        Conversation.open(tmp_path, name).add(EXCHANGE)
        os.utime(tmp_path / f"{name}.json", (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    assert conversations(tmp_path) == ["new", "old"]
    assert Conversation.open(tmp_path, new_name()).exchanges == []


def test_the_double_stands_for_a_pipeline():
    from app.pipeline import Pipeline

    assert all(hasattr(Pipeline, name) for name in ("understand", "ask_stream"))

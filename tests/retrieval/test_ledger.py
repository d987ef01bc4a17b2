"""Every character and every token of a document is accounted for, and what is missing is seen."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from ingest.build import ingest
from ingest.indexer import Settings
from retrieval.ledger import accounts
from retrieval.records import ChunkingSpec
from retrieval.store import DATABASE, Store

FILES = {
    "plain.txt": "One two three.\n\n\n\nFour five six.\n" * 60,
    "notes.md": "# Title\n\nA paragraph of words.\n\n## Below\n\n" + "More of them, and more. " * 200,
    "deep/chinese.md": "# 标题\n\n" + "这是一个关于检索的句子。" * 80,
    "page.html": "<title>T</title><h1>Head</h1><p>Text</p><p hidden>secret</p>",
    "empty.txt": "",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, encoder):
    place = tmp_path_factory.mktemp("ledger")
    for name, text in FILES.items():
        (place / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "docs" / name).write_text(text)
    settings = Settings(
        encoder.spec, ChunkingSpec(max_tokens=64), max_file_bytes=10**6, created_at="2026-11-21", versions={}
    )
    ingest(
        [place / "docs"],
        folder=place / "index",
        settings=settings,
        make_encoder=lambda: encoder,
        report=lambda _: None,
    )
    with Store.open(place / "index") as store:
        yield store


def test_nothing_is_unaccounted_for(store, encoder):
    found = {account.source: account for account in accounts(store, encoder)}
    assert sorted(found) == sorted(name for name, text in FILES.items() if text)
    for name, account in found.items():
        assert account.bytes == len(FILES[name].encode())
        assert (account.unaccounted, account.unembedded) == (0, 0)
        assert account.in_chunks + account.blank == account.characters
        assert 0 < account.embedded == account.tokens
    assert found["plain.txt"].unknown == 0
    assert found["deep/chinese.md"].unknown > 500
    assert found["page.html"].left_out == {"hidden_elements": 1}


def test_what_is_missing_is_counted(store, encoder, tmp_path):
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        store.copy_to(copy)
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        copy.execute(
            "DELETE FROM chunks WHERE ordinal = 2 AND document ="
            " (SELECT id FROM documents WHERE source = CAST('notes.md' AS BLOB))"
        )
        copy.execute("DELETE FROM token_codes WHERE embedding = (SELECT min(embedding) FROM token_codes)")
        copy.commit()
    (tmp_path / DATABASE).write_bytes((tmp_path / "copy.sqlite").read_bytes())
    with Store.open(tmp_path) as damaged:
        found = list(accounts(damaged, encoder))
    assert sum(account.unaccounted for account in found) > 20
    assert sum(account.unembedded for account in found) > 5

"""Our chunker behind LangChain's TextSplitter."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document as LangChainDocument
from langchain_text_splitters import TextSplitter

from ingest.langchain import RagTextSplitter
from retrieval.encoder import BUNDLED_NAME, clean, load_tokenizer, model_folder
from retrieval.errors import ConfigError
from retrieval.records import ChunkingSpec

SMALL = ChunkingSpec(max_tokens=24, overlap=0.2)
MARKDOWN = "# Cats\n\nThey sleep. They purr.\n\n## Food\n\n" + "Fish is what they like best. " * 6


PARTS = ["Cats sleep. ", "# T\n\n", "\n\n", "  ", "猫。", "e\u0301", "word ", "\ud800"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(model_folder(BUNDLED_NAME))


def test_it_is_a_text_splitter_and_keeps_to_the_spec(tokenizer) -> None:
    splitter = RagTextSplitter(tokenizer, SMALL)
    assert isinstance(splitter, TextSplitter)
    pieces = splitter.split_text("The cat sat on the mat. " * 40)
    assert len(pieces) > 5
    assert all(len(tokenizer.encode(piece)) <= 24 for piece in pieces)
    assert all(piece == piece.strip() for piece in pieces)


def test_blank_texts_have_no_chunks(tokenizer) -> None:
    splitter = RagTextSplitter(tokenizer, SMALL)
    assert splitter.split_text("") == splitter.split_text(" \n\u3000") == []
    assert all(piece.strip() for piece in splitter.split_text("a" + " " * 9000 + "b"))


@given(parts=st.lists(st.sampled_from(PARTS), max_size=80))
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("markdown", [True, False])
def test_start_indexes_are_exact(tokenizer, parts: list[str], strip: bool, markdown: bool) -> None:
    text = "".join(parts)
    splitter = RagTextSplitter(tokenizer, SMALL, add_start_index=True, strip_whitespace=strip, markdown=markdown)
    documents = splitter.create_documents([clean(text)])
    shown = set()
    for document in documents:
        start = document.metadata["start_index"]
        assert clean(text)[start : start + len(document.page_content)] == document.page_content
        shown.update(range(start, start + len(document.page_content)))
    assert all(index in shown or letter.isspace() for index, letter in enumerate(text))


def test_metadata_is_kept_and_copied(tokenizer) -> None:
    given = {"source": "a.md", "tags": ["x"]}
    splitter = RagTextSplitter(tokenizer, SMALL)
    made = splitter.split_documents([LangChainDocument("Cats sleep. " * 30, metadata=given)])
    assert [document.metadata for document in made] == [given] * len(made)
    made[0].metadata["tags"].append("y")
    assert made[1].metadata["tags"] == given["tags"] == ["x"]


def test_headings_are_seen_only_when_asked_for(tokenizer) -> None:
    plain = RagTextSplitter(tokenizer, SMALL).create_documents([MARKDOWN])
    assert all(document.metadata == {} for document in plain)
    made = RagTextSplitter(tokenizer, SMALL, markdown=True).create_documents([MARKDOWN])
    assert made[0].page_content == "# Cats\n\nThey sleep. They purr."
    assert made[0].metadata == {"heading": ["Cats"]}
    assert made[1].page_content.startswith("## Food")
    assert all(document.metadata == {"heading": ["Cats", "Food"]} for document in made[1:])
    own = RagTextSplitter(tokenizer, SMALL, markdown=True).create_documents([MARKDOWN], [{"heading": "mine"}])
    assert {document.metadata["heading"] for document in own} == {"mine"}


def test_asynchronous_use_gives_the_same(tokenizer) -> None:
    splitter = RagTextSplitter(tokenizer, SMALL)
    documents = [LangChainDocument(f"Cat {number} sat on the mat. " * 30) for number in range(8)]

    async def together() -> list[list[LangChainDocument]]:
        return await asyncio.gather(*(splitter.atransform_documents([document]) for document in documents))

    assert [list(made) for made in asyncio.run(together())] == [splitter.split_documents([one]) for one in documents]


def test_mistakes_are_refused(tokenizer) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        RagTextSplitter(tokenizer, ChunkingSpec(max_tokens=8))
    with pytest.raises(ValueError, match="zip"):
        RagTextSplitter(tokenizer).create_documents(["a", "b"], [{}])

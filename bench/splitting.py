"""Splitting speed and exactness: our chunker beside LangChain's recursive splitter, same tokenizer, same texts."""

from __future__ import annotations

import time

from bench.data import data_folder
from bench.table import Table
from ingest.chunk import Chunker
from ingest.parse import parse
from retrieval.encoder import BUNDLED_NAME, load_tokenizer, model_folder
from retrieval.records import ChunkingSpec, Document

_ROUNDS = 3


def run() -> Table:
    """Both over every file of hf_docs/huggingface/transformers; the best of three rounds for each."""
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from transformers import AutoTokenizer

    files = sorted(path for path in data_folder("corpora", "hf_docs", "huggingface", "transformers").rglob("*.md*"))
    parsed = [(path, parse(path, path.read_bytes())) for path in files]
    documents = [Document(str(p), "", str(p), d.media_type, d.title, d.text, d.spans) for p, d in parsed]
    megabytes = sum(len(document.text.encode()) for document in documents) / 1e6

    tokenizer = load_tokenizer(model_folder(BUNDLED_NAME))
    ours, theirs = [], []
    theirs_splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        AutoTokenizer.from_pretrained(str(model_folder(BUNDLED_NAME)), local_files_only=True),
        chunk_size=512,
        chunk_overlap=51,
        add_start_index=True,
    )
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        chunker = Chunker(tokenizer, ChunkingSpec())
        chunks = [(document, chunker.split(document)) for document in documents]
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        pieces = [(document, theirs_splitter.create_documents([document.text])) for document in documents]
        theirs.append(time.perf_counter() - started)

    exact = [document.text[c.start : c.end] == c.text for document, split in chunks for c in split]
    their_exact = [
        document.text[p.metadata["start_index"] :].startswith(p.page_content)
        for document, split in pieces
        for p in split
    ]
    speed, their_speed = megabytes / min(ours), megabytes / min(theirs)
    return Table(
        f"Splitting {len(files)} Markdown files, {megabytes:.1f} MB, into chunks of at most 512 tokens",
        ("splitter", "MB/s", "chunks", "exact offsets"),
        [
            (
                "LangChain RecursiveCharacterTextSplitter",
                f"{their_speed:.2f}",
                f"{len(their_exact)}",
                _share(their_exact),
            ),
            ("ours", f"{speed:.2f} ({speed / their_speed:.1f}x)", f"{len(exact)}", _share(exact)),
        ],
        "Best of three rounds each, in turn, one process. Ours starts without any word known in every round.",
    )


def _share(flags: list[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.1f}%"

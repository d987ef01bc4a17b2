"""LangChain's seam over the chunker: a TextSplitter whose start indexes are exact. Translates; cuts nothing itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document as LangChainDocument
from langchain_text_splitters import TextSplitter

from ingest.chunk import Chunker
from ingest.parse.markdown import outline
from retrieval.records import Chunk, ChunkingSpec, Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class RagTextSplitter(TextSplitter):
    """Splits texts as `rag ingest` does, for any LangChain pipeline.

    A chunk has at most `spec.max_tokens` tokens of the given tokenizer, special tokens and `prefix` included, and
    `spec.max_chars` characters. Chunks without a visible character are left out. With `markdown`, headings, fenced
    code and tables guide the cuts, and `metadata["heading"]` lists the titles above a chunk, outermost first, unless
    the metadata has such a key already. With `add_start_index`, `metadata["start_index"]` is exact:
    `text[start_index:start_index + len(page_content)] == page_content`. `spec.heading_context` does not apply: a
    LangChain document has one text. Raises ConfigError on a spec or tokenizer that cannot work.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        spec: ChunkingSpec | None = None,
        *,
        prefix: str = "",
        markdown: bool = False,
        add_start_index: bool = False,
        strip_whitespace: bool = True,
    ) -> None:
        self.spec = replace(spec or ChunkingSpec(), heading_context=False)
        super().__init__(
            chunk_size=self.spec.max_tokens,
            chunk_overlap=int(self.spec.overlap * self.spec.max_tokens),
            length_function=lambda text: len(tokenizer.encode(text)),
            add_start_index=add_start_index,
            strip_whitespace=strip_whitespace,
        )
        self._chunker = Chunker(tokenizer, self.spec, prefix=prefix)
        self._markdown = markdown
        self._lock = Lock()  # LangChain's asynchronous methods run in threads

    def split_text(self, text: str) -> list[str]:
        """The texts of the chunks, in order."""
        return [piece for piece, _, _ in self._pieces(text)]

    def create_documents(
        self, texts: Sequence[str], metadatas: Sequence[dict[Any, Any]] | None = None
    ) -> list[LangChainDocument]:
        """One document a chunk, each with a copy of its text's metadata. Raises ValueError on uneven lists."""
        made = []
        for text, metadata in zip(texts, metadatas or [{}] * len(texts), strict=True):
            for piece, start, heading in self._pieces(text):
                own = copy.deepcopy(metadata)
                if self._add_start_index:
                    own["start_index"] = start
                if self._markdown:
                    own.setdefault("heading", list(heading))
                made.append(LangChainDocument(page_content=piece, metadata=own))
        return made

    def _pieces(self, text: str) -> Iterator[tuple[str, int, tuple[str, ...]]]:
        """(text, start, heading path) of each chunk that shows anything."""
        for chunk in self._split(text):
            piece = chunk.text.strip() if self._strip_whitespace else chunk.text
            if chunk.text.strip():
                blank = len(chunk.text) - len(chunk.text.lstrip()) if self._strip_whitespace else 0
                yield piece, chunk.start + blank, chunk.heading

    def _split(self, text: str) -> list[Chunk]:
        spans = outline(text) if self._markdown else ()
        document = Document(doc_id="", root="", source="", media_type="text/plain", title="", text=text, spans=spans)
        with self._lock:
            return self._chunker.split(document)

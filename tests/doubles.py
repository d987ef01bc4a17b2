"""Test doubles: an encoder without a model, exact term counts, short ways to fill a store and to drain a stream."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from retrieval.analyze import Analyzer
from retrieval.dense import open_dense
from retrieval.encoder import Encoded
from retrieval.errors import EmptyTextError, TextTooLongError
from retrieval.lexical import open_lexical
from retrieval.records import Chunk, ChunkingSpec, Document, EncoderSpec, IndexManifest
from retrieval.retriever import Retriever, SearchSettings
from retrieval.store import Store, Writer, embedding_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from retrieval.encoder import Encoder

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_WORD = re.compile(r"\w+|[^\w\s]")


class HashEncoder:
    """A bag of hashed words: each word has a fixed random direction, a text the direction of their sum.

    Texts that share words are similar, texts that do not are nearly orthogonal. One word or mark is one token, [UNK] to
    its tokenizer, which knows none; there are no special tokens.
    """

    def __init__(self, *, dimension: int = 64, max_tokens: int = 512, name: str = "hashed-words") -> None:
        self.spec = EncoderSpec(name, "1", dimension, max_tokens)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        del query  # there are no prefixes
        for text in texts:
            words = list(_WORD.finditer(text))
            if len(words) > self.spec.max_tokens:
                raise TextTooLongError(f"a text of {len(words)} tokens does not fit {self.spec.max_tokens}")
            tokens = np.stack(
                [_direction(word.group().casefold(), self.spec.dimension) for word in words] or [self._blank]
            )
            total = tokens.sum(axis=0)
            yield Encoded(
                vector=(total / np.linalg.norm(total)).astype(np.float32),
                tokens=tokens[: len(words)],
                ids=np.zeros(len(words), dtype=np.int64),
                offsets=np.array([word.span() for word in words], dtype=np.int64).reshape(-1, 2),
            )

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = [encoded.vector for encoded in self.encode(texts)]
        return np.stack(vectors) if vectors else np.zeros((0, self.spec.dimension), np.float32)

    def encode_query(self, text: str) -> NDArray[np.float32]:
        if not text.strip():
            raise EmptyTextError("the question is empty; expected at least one word")
        return next(self.encode([text])).vector

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Cuts at the same places, up to how \\w is read; every id is that of [UNK]."""
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace

        tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106 - a token of text
        tokenizer.pre_tokenizer = Whitespace()
        return tokenizer

    @property
    def _blank(self) -> NDArray[np.float32]:
        return _direction("", self.spec.dimension)


class TermsOf:
    """In how many of some texts a term occurs, counted one by one: what a lexical index says of the same texts."""

    def __init__(self, *texts: str, analyzer: Analyzer | None = None) -> None:
        self._term_sets = [(analyzer or Analyzer()).term_set(text) for text in texts]

    @property
    def size(self) -> int:
        return len(self._term_sets)

    def document_frequencies(self, terms: Sequence[str]) -> NDArray[np.int64]:
        return np.array([sum(term in found for found in self._term_sets) for term in terms], dtype=np.int64)


def hash_of(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8], "big")


@lru_cache(maxsize=10_000)
def _direction(word: str, dimension: int) -> NDArray[np.float32]:
    values = np.random.default_rng(hash_of(word)).standard_normal(dimension)
    return (values / np.linalg.norm(values)).astype(np.float32)


def manifest_of(encoder: HashEncoder) -> IndexManifest:
    return IndexManifest(encoder.spec, ChunkingSpec(max_tokens=encoder.spec.max_tokens))


def new_store(folder: Path, encoder: HashEncoder | None = None) -> Store:
    return Store.create(folder, manifest_of(encoder or HashEncoder()))


def stage_text(
    writer: Writer,
    doc_id: str,
    text: str,
    *,
    encoder: HashEncoder | None = None,
    root: str = "/docs",
    cuts: Sequence[int] = (),
) -> list[int]:
    """Stage a document in chunks cut at the given characters; returns the embedding ids, one a chunk."""
    encoder = encoder or HashEncoder()
    bounds = [0, *cuts, len(text)]
    spans = [(start, end) for start, end in pairwise(bounds)]
    chunks = [
        Chunk(f"{doc_id}#{n}", doc_id, n, start, end, text[start:end], tokens=end - start)
        for n, (start, end) in enumerate(spans)
    ]
    document = Document(
        doc_id, root, f"{doc_id}.txt", "text/plain", doc_id.title(), text, content_hash=f"{hash_of(text):x}"
    )
    keys = [embedding_key(encoder.spec, chunk.text) for chunk in chunks]
    known = writer.known(keys)
    new = {key: chunk.text for key, chunk in zip(keys, chunks, strict=True) if key not in known}
    known.update(zip(new, writer.add_embeddings(list(new), encoder.encode_passages(list(new.values()))), strict=True))
    ids = [known[key] for key in keys]
    writer.stage(document, chunks, ids, [document.line_at(chunk.start) for chunk in chunks])
    return ids


def publish_texts(
    store: Store,
    texts: dict[str, str],
    *,
    encoder: HashEncoder | None = None,
    remove: Sequence[str] = (),
    analyzer: Analyzer | None = None,
) -> int:
    """Stage documents of one chunk each, remove others, publish."""
    with store.writer(analyzer=analyzer) as writer:
        for doc_id, text in texts.items():
            stage_text(writer, doc_id, text, encoder=encoder)
        writer.remove(remove)
        return writer.publish(roots=["/docs"])


def open_retriever(store: Store, encoder: Encoder, *, analyzer: Analyzer | None = None, **settings: Any) -> Retriever:
    """A retriever over the store's current state; `settings` are those of SearchSettings."""
    analyzer = analyzer or Analyzer()
    return Retriever(
        store,
        open_dense(store),
        open_lexical(store, analyzer),
        encoder,
        analyzer=analyzer,
        settings=SearchSettings(**settings),
    )


def consume(stream: Generator[Piece, None, Result]) -> tuple[list[Piece], Result]:
    """Every piece of a stream, and what it returns."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value

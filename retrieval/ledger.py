"""What became of every byte of a document: read, parsed, cut into chunks, encoded; and what was left out, by name.

Knows a store and what counts tokens. Everything is counted from what is stored, not from what ingest said it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from retrieval.encoder import clean, passage_input

if TYPE_CHECKING:
    from retrieval.encoder import Encoder
    from retrieval.records import Document
    from retrieval.store import Store, StoredChunk


# What parsers say they did not take over, or not as it was.
_LEFT_OUT = (
    *("left_out", "damaged_parts", "pages_failed", "repeated_lines", "characters_off_page", "comments_left_out"),
    *("hidden_elements", "hidden_slides", "hidden_sheets", "attributes_left_out", "outputs_cut", "entities"),
    *("replaced_bytes", "flattened"),
)


@dataclass(frozen=True, slots=True)
class Account:
    """One document. `bytes` of its file, None where it came from none; `characters` of its text.

    Of those, `in_chunks` stand in one chunk or more, `blank` are white space between chunks, and `unaccounted` are
    neither: none, ever. `tokens` were counted when the text was cut (special tokens, prefix and context included),
    `embedded` are those whose vectors are stored, `repeated` those of overlaps, `unknown` those that the encoder cannot
    tell apart: words it has no token for. `left_out`: what the parser knows it did not take over, and how much of it.
    """

    root: str
    source: str
    bytes: int | None
    characters: int
    in_chunks: int
    blank: int
    unaccounted: int
    chunks: int
    tokens: int
    embedded: int
    unembedded: int
    unknown: int
    left_out: Mapping[str, object] = field(default_factory=dict)


def accounts(store: Store, encoder: Encoder) -> Iterator[Account]:
    """The account of every document, by root and source."""
    for row in store.documents():
        if found := account(store, encoder, row.doc_id):  # else it was deleted meanwhile
            yield found


def account(store: Store, encoder: Encoder, doc_id: str) -> Account | None:
    """The account of one document; None where there is no such document."""
    with store.snapshot():
        document = store.document(doc_id)
        return _account(document, store, encoder) if document else None


def _account(document: Document, store: Store, encoder: Encoder) -> Account:
    special = encoder.tokenizer.num_special_tokens_to_add(is_pair=False)
    chunks = store.chunks_of(document.doc_id)
    in_chunks, outside = _coverage(document.text, chunks)
    blank = sum(len(text) - len("".join(text.split())) for text in outside)
    codes = store.token_codes(one.embedding for one in chunks)
    embedded = sum(len(codes[one.embedding]) + special for one in chunks if one.embedding in codes)
    tokens = sum(one.chunk.tokens for one in chunks)
    facts = document.metadata
    size = facts.get("bytes")
    return Account(
        root=document.root,
        source=document.source,
        bytes=size if isinstance(size, int) else None,
        characters=len(document.text),
        in_chunks=in_chunks,
        blank=blank,
        unaccounted=len(document.text) - in_chunks - blank,
        chunks=len(chunks),
        tokens=tokens,
        embedded=embedded,
        unembedded=tokens - embedded,
        unknown=_unknown(chunks, encoder),
        left_out={name: facts[name] for name in _LEFT_OUT if name in facts},
    )


def _coverage(text: str, chunks: Sequence[StoredChunk]) -> tuple[int, list[str]]:
    """How many characters stand in a chunk, and the stretches that stand in none."""
    covered, at, outside = 0, 0, []
    for one in sorted(chunks, key=lambda one: one.chunk.start):
        outside.append(text[at : max(at, one.chunk.start)])
        covered += max(0, one.chunk.end - max(at, one.chunk.start))
        at = max(at, one.chunk.end)
    return covered, [*outside, text[at:]]


def _unknown(chunks: Sequence[StoredChunk], encoder: Encoder) -> int:
    texts = [clean(passage_input(one.chunk.context, one.chunk.text)) for one in chunks]
    unknown = getattr(encoder.tokenizer.model, "unk_token", None)
    number = encoder.tokenizer.token_to_id(unknown) if unknown else None
    if number is None:
        return 0
    encodings = encoder.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return sum(list(encoding.ids).count(number) for encoding in encodings)

"""The contract of the chunker, for every text: hostile Unicode, all kinds of spans, small and large chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest.chunk import Chunker
from retrieval.encoder import BUNDLED_NAME, clean, load_tokenizer, model_folder, passage_input
from retrieval.records import Chunk, ChunkingSpec, Document, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

ATOM_SHARE = 4  # a run of letters with more than this part of a chunk's tokens may be cut

HOSTILE = [
    "word", "Another word.", "unaffable", "x", "7", "3.14", "don't", "[SEP]", "[CLS] [MASK]", "##ing", "</s>", "...",
    "?!", "e\u0301", "\u0301", "a" + "\u0300" * 40, " \u0308", "\u0e33", "\u0903",  # combining marks, spacing marks
    "\u200b", "\u200d", "\u00ad", "\ufeff", "\u2060", "\x00", "\x07", "\x1c", "\x85", "\ufffd",  # get no token
    "한국어", "각각", "\u1112\u1161\u11ab", "\u1100" * 30, "\u1100\u1161",  # Hangul, jamo
    "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇫🇷🇪", "❤️‍🔥", "1️⃣", "‼\u200d‼\u200d‼", "©\u200d©",  # emoji sequences
    "ภาษาไทยไม่มีช่องว่าง" * 3, "क्षत्रिय", "\u0600١", "שָׁלוֹם", "مَرْحَبًا",
    "é" * 130, "W" * 250, "ab-" * 70, "supercalifragilistic" * 9, "http://a.b/c?d=e&f=" + "g/" * 40,
    "中文句子。另一句！", "日本語の文章です。「はい」と言った。", "漢" * 60, "ｆｕｌｌ", "ﷺ", "İstanbul", "ǅ", "ß",
    "\ud800", "\udfff\ud800", "a\udc00b", "\U000e0001", "\U0010ffff", "\U0001d165\U0001d16e",
    " ", "  ", "\t", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\n \t\n", "\u3000", "\u00a0", "\u2028", "\u2029", "\x0b",
    "\x0c", "- item\n", "1. one\n", "| a | b |\n", "> quote\n", ". ", "! ", "。", "」", "\n\n\n\n",
]  # fmt: skip

RUNS = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.sampled_from([" ", " ", "\n", "and so on", "The cat sat. "])), max_size=40
).map("".join)
TEXTS = st.one_of(RUNS, RUNS, st.text(st.characters(exclude_categories=()), max_size=120))
LABELS = st.one_of(st.just("Title"), st.just("Two words"), TEXTS.map(lambda text: " ".join(text.split())[:60]))


@dataclass
class Drafted:
    """A text in the making, with spans that fit it."""

    text: str = ""
    spans: list[Span] = field(default_factory=list)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents with headings, code, tables and pages, built block by block."""
    made = Drafted()
    pages = draw(st.booleans())
    for number in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["plain", "plain", "heading", "code", "table", "page"]))
        start = len(made.text)
        if kind == "heading":
            label = draw(LABELS)
            made.text += f"## {label}"
            made.spans.append(Span("heading", start, len(made.text), draw(st.integers(1, 4)), label))
        elif kind in {"code", "table"}:
            body = draw(TEXTS)
            made.text += f"```\n{body}\n```" if kind == "code" else f"| {body} |\n|-|\n| {body} |"
            made.spans.append(Span("code" if kind == "code" else "table", start, len(made.text)))
        elif kind == "page" and pages:
            made.text += draw(TEXTS)
            made.spans.append(Span("page", start, len(made.text), number + 1))
        else:
            made.text += draw(TEXTS)
        made.text += draw(st.sampled_from(["\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " ", "", "  \n\n"]))
    return document_of(made.text, made.spans, title=draw(st.one_of(st.just(""), LABELS)))


def document_of(text: str, spans: Sequence[Span] = (), *, title: str = "") -> Document:
    return Document("doc", "/root", "file.md", "text/markdown", title, text, tuple(spans))


SPECS = st.builds(
    ChunkingSpec,
    max_tokens=st.sampled_from([16, 24, 64, 512]),
    max_chars=st.sampled_from([16, 40, 300, 4000]),
    overlap=st.sampled_from([0.0, 0.1, 0.3, 0.49]),
    heading_context=st.booleans(),
)
PREFIXES = st.sampled_from(["", "", "passage: "])


@cache
def bundled() -> Tokenizer:
    return load_tokenizer(model_folder(BUNDLED_NAME))


def encoder_tokens(chunk: Chunk, prefix: str) -> int:
    return len(bundled().encode(clean(prefix + passage_input(chunk.context, chunk.text))))


def slow_runs(text: str) -> list[int]:
    """Tokens of each of the tokenizer's own words in a text: the oracle for what may have to be cut."""
    counts: dict[int, int] = {}
    for word in bundled().encode(clean(text), add_special_tokens=False).word_ids:
        counts[word] = counts.get(word, 0) + 1
    return list(counts.values())


def grapheme_starts(text: str) -> dict[int, int]:
    """Start -> length of the grapheme clusters of a text."""
    return {match.start(): len(match[0]) for match in regex.finditer(r"\X", text)}


def check_cover(document: Document, chunks: Sequence[Chunk], spec: ChunkingSpec) -> None:
    if not document.text.strip():
        assert chunks == []
        return
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].start == 0
    assert chunks[-1].end == len(document.text)
    for chunk in chunks:
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert 0 < len(chunk.text) <= spec.max_chars
    for one, two in pairwise(chunks):
        assert one.start < two.start <= one.end < two.end
        assert spec.overlap > 0 or two.start == one.end
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks)


def check_graphemes(document: Document, chunks: Sequence[Chunk], spec: ChunkingSpec, room: int) -> None:
    starts = grapheme_starts(document.text)
    ordered = sorted(starts)
    for cut in {chunk.start for chunk in chunks} | {chunk.end for chunk in chunks[:-1]}:
        if cut not in starts:
            first = max(start for start in ordered if start < cut)
            grapheme = document.text[first : first + starts[first]]
            too_long = len(grapheme) > spec.max_chars
            assert too_long or sum(slow_runs(grapheme)) > room or upper_bound(grapheme) > room, (grapheme, cut)


def upper_bound(letters: str) -> int:
    return len(bundled().normalizer.normalize_str(clean(letters)).replace(" ", ""))


def check_tokens(document: Document, chunks: Sequence[Chunk], spec: ChunkingSpec, prefix: str) -> None:
    texts = [document.text, document.title, *(span.label for span in document.spans)]
    # what may have to be cut: a run of letters that is most of a chunk by itself
    exact = all(max(slow_runs(text), default=0) <= spec.max_tokens // ATOM_SHARE for text in texts) and all(
        max(map(len, regex.split(r"[ \t\r\n]+", text))) <= spec.max_chars for text in texts
    )
    for chunk in chunks:
        real = encoder_tokens(chunk, prefix)
        assert real <= chunk.tokens <= spec.max_tokens
        assert not exact or real == chunk.tokens


def check_structure(document: Document, chunks: Sequence[Chunk], spec: ChunkingSpec, room: int) -> None:
    """Nothing is repeated across a heading, and code and tables that fit are whole; where both stand on own lines."""
    text = document.text
    on_own_line = [span for span in document.spans if span.start == 0 or text[span.start - 1] in "\r\n"]
    for span in on_own_line:
        if span.kind == "heading":
            assert not any(two.start < span.start <= one.end and two.start < one.end for one, two in pairwise(chunks))
        elif span.kind != "page" and text[span.end : span.end + 1] in {"\r", "\n", ""}:
            inner = text[span.start : span.end]
            fits = upper_bound(inner) <= room and len(inner) + 2 <= spec.max_chars
            assert not fits or any(chunk.start <= span.start and span.end <= chunk.end for chunk in chunks)


def check(document: Document, spec: ChunkingSpec, prefix: str = "") -> list[Chunk]:
    chunks = Chunker(bundled(), spec, prefix=prefix).split(document)
    fixed = len(bundled().encode(prefix))
    check_cover(document, chunks, spec)
    if not chunks:
        return chunks
    check_tokens(document, chunks, spec, prefix)
    room = spec.max_tokens - fixed - spec.max_tokens // 8
    check_graphemes(document, chunks, spec, room)
    check_structure(document, chunks, spec, room)
    return chunks


@given(documents(), SPECS, PREFIXES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_contract_holds_for_every_document(document: Document, spec: ChunkingSpec, prefix: str) -> None:
    check(document, spec, prefix)


@given(TEXTS, SPECS)
@settings(max_examples=200, deadline=None)
@example("a" + "\u0301" * 9000, ChunkingSpec())
@example("a" + "\u0301" * 30, ChunkingSpec(max_tokens=16, max_chars=16))
@example("\u1100" * 90, ChunkingSpec(max_tokens=24))
@example("‼\u200d" * 300, ChunkingSpec(max_tokens=64))
@example("👩‍" * 3000, ChunkingSpec())
@example(" " + "\u0308" * 5000, ChunkingSpec(overlap=0.3))
@example("\ud800" * 600, ChunkingSpec(max_tokens=16))
@example("한" * 700, ChunkingSpec(max_tokens=16))
@example("\u3000" * 9000 + "a", ChunkingSpec(max_tokens=64))
@example("\n\n" + "0" * 15, ChunkingSpec(max_tokens=16, max_chars=16))
@example("a\r\nb" * 50, ChunkingSpec(max_tokens=16, max_chars=16))
@example("[SEP]" * 500, ChunkingSpec(max_tokens=24))
def test_the_contract_holds_for_plain_text(text: str, spec: ChunkingSpec) -> None:
    check(document_of(text), spec)


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("max_tokens", [16, 64, 512])
def test_every_hostile_piece_repeated(piece: str, max_tokens: int) -> None:
    for glue in ("", " "):
        text = glue.join([piece] * (1 + 700 // len(piece)))
        for overlap in (0.0, 0.3):
            check(document_of(text), ChunkingSpec(max_tokens=max_tokens, overlap=overlap))


@given(documents(), SPECS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_used_chunker_splits_like_a_new_one(document: Document, spec: ChunkingSpec) -> None:
    used = Chunker(bundled(), spec)
    used.split(document_of("The cat sat. " + document.text[::-1]))
    assert used.split(document) == used.split(document) == Chunker(bundled(), spec).split(document)


@dataclass
class CountingModel:
    """Records what the vocabulary is asked for."""

    inner: Any
    seen: list[str]

    def tokenize(self, text: str) -> list[Any]:
        self.seen.append(text)
        return self.inner.tokenize(text)


class CountingTokenizer:
    """A tokenizer that records every text it tokenises, by whichever door."""

    def __init__(self, inner: Tokenizer) -> None:
        self._inner = inner
        self.seen: list[str] = []
        self.model = CountingModel(inner.model, self.seen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, text: str, **options: Any) -> Any:
        self.seen.append(text)
        return self._inner.encode(text, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.seen += texts
        return self._inner.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.seen += texts
        return self._inner.encode_batch_fast(texts, **options)


@given(documents(), SPECS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_character_is_tokenised_twice(document: Document, spec: ChunkingSpec) -> None:
    counting: Any = CountingTokenizer(bundled())
    # titles and headings are read once more for the context lines, a question of its own
    chunker = Chunker(counting, ChunkingSpec(spec.max_tokens, spec.max_chars, spec.overlap, heading_context=False))
    counting.seen.clear()
    chunker.split(document)
    assert sum(map(len, counting.seen)) <= sum(not letter.isspace() for letter in document.text) + sum(
        letter not in " \t\n\r" and letter.isspace() for letter in document.text
    )


def test_each_different_word_is_tokenised_once_over_many_documents() -> None:
    counting: Any = CountingTokenizer(bundled())
    chunker = Chunker(counting, ChunkingSpec())
    counting.seen.clear()
    for number in range(20):
        chunker.split(document_of(f"The cat sat on the mat, number {number}. " * 50, title="The cat"))
    assert sorted(counting.seen) == sorted({"the", "cat", "sat", "on", "mat", "number", *map(str, range(20))})


@given(documents(), SPECS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_measured_section_by_section_is_measured_as_a_whole(document: Document, spec: ChunkingSpec) -> None:
    whole = Chunker(bundled(), spec).split(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.tokens._SECTION_CHARS", 7)
        patch.setattr("ingest.chunk._BLOCKS_AT_ONCE", 2)
        assert Chunker(bundled(), spec).split(document) == whole


@given(documents(), SPECS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_contract_holds_where_a_block_is_refined_bit_by_bit(document: Document, spec: ChunkingSpec) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.chunk._LOOK_CHARS", 9)
        check(document, spec)

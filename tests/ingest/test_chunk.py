"""The chunker on cases a person can check, on hostile sizes, and with tokenizers that are not BERT's."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ingest.chunk import Chunker
from ingest.parse import parse
from ingest.parse.markdown import outline
from retrieval.encoder import BUNDLED_NAME, clean, load_tokenizer, model_folder, passage_input
from retrieval.errors import ConfigError, TextTooLongError
from retrieval.records import Chunk, ChunkingSpec, Document, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data")
MILLION = 1_000_000
SMALL = ChunkingSpec(max_tokens=24, overlap=0.0)
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SENTENCES = [f"Cat number {word} sat on the mat." for word in NUMBERS]
# each of these sentences has 8 tokens: seven words and the full stop


@cache
def bundled() -> Tokenizer:
    return load_tokenizer(model_folder(BUNDLED_NAME))


def markdown(text: str, *, title: str = "", doc_id: str = "doc") -> Document:
    return Document(doc_id, "/root", "file.md", "text/markdown", title, text, outline(text))


def split(document: Document | str, spec: ChunkingSpec = SMALL, *, prefix: str = "") -> list[Chunk]:
    made = markdown(document) if isinstance(document, str) else document
    chunks = Chunker(bundled(), spec, prefix=prefix).split(made)
    for chunk in chunks:
        assert made.text[chunk.start : chunk.end] == chunk.text
        assert read_by_encoder(chunk, prefix) == chunk.tokens <= spec.max_tokens
    return chunks


def read_by_encoder(chunk: Chunk, prefix: str = "", tokenizer: Tokenizer | None = None) -> int:
    return len((tokenizer or bundled()).encode(clean(prefix + passage_input(chunk.context, chunk.text))))


def texts(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


# What a chunk is


def test_a_short_document_is_one_chunk() -> None:
    [chunk] = split("# Cats\n\nThey sleep.\n")
    # [CLS] # cats they sleep . [SEP]
    assert (chunk.start, chunk.end, chunk.tokens, chunk.ordinal) == (0, 20, 7, 0)
    assert (chunk.heading, chunk.context, chunk.page) == (("Cats",), "", None)


def test_blank_documents_have_no_chunks() -> None:
    assert split("") == split(" \r\n\t\u3000\n") == []


def test_title_and_headings_above_are_context_and_count() -> None:
    document = markdown("# Cats\n\nOne.\n\n## Food\n\n" + " ".join(SENTENCES), title="Animals")
    chunks = split(document, ChunkingSpec(max_tokens=64, overlap=0.0))
    # the chunk that begins with a heading is told what stands above it; the next one, the heading too
    assert [chunk.context for chunk in chunks] == ["Animals", "Animals > Cats > Food"]
    assert [chunk.heading for chunk in chunks] == [("Cats",), ("Cats", "Food")]
    off = split(document, ChunkingSpec(max_tokens=64, overlap=0.0, heading_context=False))
    assert {chunk.context for chunk in off} == {""}
    assert off[-1].heading == ("Cats", "Food")


def test_a_heading_is_no_context_for_its_neighbour() -> None:
    body = " ".join(SENTENCES[:6])
    chunks = split(f"# Top\n\n## First\n\n{body}\n\n## Second\n\n{body}", ChunkingSpec(max_tokens=64, overlap=0.0))
    assert [(chunk.context, chunk.heading[-1]) for chunk in chunks] == [("", "Top"), ("Top", "Second")]


def test_the_title_is_not_said_twice() -> None:
    document = markdown("# Cats\n\n" + " ".join(SENTENCES), title="Cats")
    assert [chunk.context for chunk in split(document, ChunkingSpec(max_tokens=64, overlap=0.0))] == ["", "Cats"]


def test_too_long_a_context_loses_its_outer_part() -> None:
    long = "a very long heading with many words in it that takes room"
    chunks = split(f"# {long}\n\n## Food\n\n" + " ".join(SENTENCES), ChunkingSpec(max_tokens=64, overlap=0.0))
    assert chunks[-1].context == "Food"
    assert chunks[-1].heading == (long, "Food")


def test_the_prefix_counts() -> None:
    [without] = split("Cats sleep.")
    [chunk] = split("Cats sleep.", prefix="passage: ")
    assert chunk.tokens == without.tokens + 2


def test_pages_are_named() -> None:
    text = " ".join(SENTENCES)
    middle = text.index("Cat number five")
    spans = (Span("page", 0, middle, 1), Span("page", middle, len(text), 2))
    chunks = split(Document("doc", "/r", "f.pdf", "application/pdf", "", text, spans))
    assert [chunk.page for chunk in chunks] == [1, 1, 2, 2, 2]
    assert chunks[2].start == middle


# Where chunks end


def test_paragraphs_are_kept_whole() -> None:
    paragraphs = [f"{one} {two}\n\n" for one, two in zip(SENTENCES[::2], SENTENCES[1::2], strict=True)]
    assert texts(split("".join(paragraphs))) == paragraphs  # 2 + 16 tokens; two paragraphs would be 34


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    chunks = split(" ".join(SENTENCES))
    pairs = [f"{one} {two} " for one, two in zip(SENTENCES[::2], SENTENCES[1::2], strict=True)]
    assert [f"{text.strip()} " for text in texts(chunks)] == pairs


def test_a_long_sentence_is_cut_between_words() -> None:
    chunks = split("cat " * 100)
    assert [chunk.tokens for chunk in chunks] == [24] * 4 + [14]  # 22 words and two special tokens
    assert all(chunk.text == "cat " * (chunk.tokens - 2) for chunk in chunks)


def test_chinese_and_japanese_are_cut_between_sentences() -> None:
    chunks = split("今天天气很好。我们去公园玩。他说：「太好了！」然后我们回家。" * 3)
    assert len(chunks) > 3
    assert all(chunk.text[-1] in "。！」" for chunk in chunks)
    assert all(chunk.text[-1] in "。」" for chunk in split("今日は天気です。公園に行く。「はい。」と言う。" * 3))


def test_a_heading_begins_a_chunk_and_stays_with_its_text() -> None:
    chunks = split("# One\n\n" + SENTENCES[0] + "\n\n# Two\n\n" + SENTENCES[1] + "\n\n# Three\n\n" + SENTENCES[2])
    assert [chunk.text.splitlines()[0] for chunk in chunks] == ["# One", "# Two", "# Three"]


def test_small_sections_share_a_chunk() -> None:
    assert len(split("# A\n\nx\n\n# B\n\ny\n\n# C\n\nz\n", ChunkingSpec())) == 1


def test_code_and_tables_that_fit_are_whole() -> None:
    code = "```\na = 1\n\nb = 2\n```\n"  # 12 tokens
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    chunks = split(
        f"{SENTENCES[0]} {SENTENCES[1]}\n\n{code}\n{SENTENCES[2]}\n\n{table}\n", replace(SMALL, max_tokens=32)
    )
    assert any(code in chunk.text for chunk in chunks)
    assert any(table in chunk.text for chunk in chunks)


def test_code_that_does_not_fit_is_cut_between_lines() -> None:
    code = "```\n" + "".join(f"line = {number}\n" for number in range(40)) + "```\n"
    chunks = split(code)
    assert len(chunks) > 5
    assert all(chunk.text.endswith("\n") for chunk in chunks)


def test_line_ends_of_every_kind_make_paragraphs() -> None:
    for end in ("\n", "\r\n", "\r"):
        chunks = split((end * 2).join(f"{one} {two}" for one, two in zip(SENTENCES[::2], SENTENCES[1::2], strict=True)))
        assert [chunk.text.split()[2] for chunk in chunks] == ["one", "three", "five", "seven", "nine"]


# Overlap


def test_overlap_is_whole_sentences() -> None:
    chunks = split(" ".join(SENTENCES), ChunkingSpec(max_tokens=40, overlap=0.3))
    # 38 tokens beside the special ones: four sentences; 12 tokens to repeat: one sentence
    expected = [SENTENCES[0:4], SENTENCES[3:7], SENTENCES[6:10]]
    assert [chunk.text.strip() for chunk in chunks] == [" ".join(sentences) for sentences in expected]


def test_a_paragraph_of_one_sentence_can_be_repeated() -> None:
    chunks = split("\n\n".join(SENTENCES), ChunkingSpec(max_tokens=40, overlap=0.3))
    assert all(one.text.rstrip().endswith(two.text.split("\n\n")[0]) for one, two in pairwise(chunks))


def test_nothing_is_repeated_across_a_heading() -> None:
    sections = [f"# Part {number}\n\n{' '.join(SENTENCES)}\n\n" for number in range(3)]
    spec = ChunkingSpec(max_tokens=64, overlap=0.3)
    document = markdown("".join(sections))
    chunks = split(document, spec)
    heads = {span.start for span in document.spans}
    assert heads <= {chunk.start for chunk in chunks}
    assert all(one.end == two.start for one, two in pairwise(chunks) if two.start in heads)
    assert any(two.start < one.end for one, two in pairwise(chunks))


def test_overlap_is_small_in_characters_too() -> None:
    text = ("\u0e01" * 150 + ". A ") * 200  # sentences of 150 letters and three tokens
    spec = ChunkingSpec(overlap=0.1, max_chars=1000)
    assert all(one.end - two.start <= 100 for one, two in pairwise(split(text, spec)))


# Identity


def test_ids_are_unique_and_follow_from_document_and_text() -> None:
    same = "# A\n\nThe very same text.\n\n" * 20
    chunks = split(same, ChunkingSpec(max_tokens=16, overlap=0.0))
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks) >= 20
    other = Chunker(bundled(), SMALL).split(markdown(same, doc_id="other"))
    assert not {chunk.chunk_id for chunk in chunks} & {chunk.chunk_id for chunk in other}


def test_ids_stay_when_another_section_changes() -> None:
    body = " ".join(SENTENCES)
    sections = [f"# Part {name}\n\n{body.replace('mat', name)}\n\n" for name in ("red", "green", "blue")]
    before = split("".join(sections), ChunkingSpec(max_tokens=64))
    after = split(
        sections[0] + sections[1].replace("sat", "lay down and slept") + sections[2], ChunkingSpec(max_tokens=64)
    )
    for name, stays in (("Part red", True), ("Part green", False), ("Part blue", True)):
        ids = [{chunk.chunk_id for chunk in chunks if chunk.heading == (name,)} for chunks in (before, after)]
        assert (ids[0] == ids[1]) is stays


# Mistakes


@pytest.mark.parametrize(
    ("spec", "prefix", "message"),
    [
        (ChunkingSpec(max_tokens=15), "", "at least 16"),
        (ChunkingSpec(max_chars=15), "", "at least 16"),
        (ChunkingSpec(overlap=0.5), "", "below 50%"),
        (ChunkingSpec(overlap=-0.1), "", "below 50%"),
        (ChunkingSpec(max_tokens=16), "one two three four five six seven ", "9 of 16 tokens"),
        (ChunkingSpec(), "passage", "end it with a space"),
    ],
)
def test_what_cannot_work_is_refused(spec: ChunkingSpec, prefix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Chunker(bundled(), spec, prefix=prefix)


def test_a_tokenizer_that_truncates_is_refused() -> None:
    tokenizer = Tokenizer.from_file(str(model_folder(BUNDLED_NAME) / "tokenizer.json"))
    with pytest.raises(ConfigError, match="truncates"):
        Chunker(tokenizer, SMALL)


# Hostile sizes: a step that is not linear takes many minutes on each of these

HOSTILE = {
    "no space": "x" * MILLION,
    "base64": "aGVsbG8+d29ybGQ/" * (MILLION // 16),
    "spaces": " " * MILLION + "x",
    "new lines": "\n" * 200_000 + "x",
    "crlf": "\r\n" * 200_000 + "x",
    "lone cr": "é\r" * 200_000,
    "short lines": "é\n" * 200_000,
    "indented lines": ("\n" + " " * 50) * 20_000 + "x",
    "blank then space": "\n" + " " * MILLION + "x",
    "combining marks": "a" + "\u0301" * MILLION,
    "spaced marks": " \u0301" * 300_000 + "x",
    "flags": "🇩" * 500_000,
    "emoji": "👩\u200d" * 300_000,
    "jamo": "\u1100" * 500_000,
    "surrogates": "\ud800" * MILLION,
    "thai": "ภาษาไทยไม่มีช่องว่าง" * 50_000,
    "chinese": "漢字。" * 100_000,
    "dots": "." * 300_000,
    "marks of all kinds": ".!?\"'*)]" * 40_000,
    "brackets": ". (" * 200_000,
    "fences": "```\n" * 100_000,
    "table": "|\n" * 200_000,
    "nbsp": "\u00a0" * 500_000 + "x",
    "different words": " ".join(f"w{number}é" for number in range(100_000)),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear(name: str) -> None:
    document = Document("doc", "/r", "f.txt", "text/plain", "", HOSTILE[name])
    chunks = Chunker(bundled(), ChunkingSpec(overlap=0.0)).split(document)
    assert "".join(texts(chunks)) == document.text
    assert len(Chunker(bundled(), ChunkingSpec(overlap=0.3)).split(document)) < 3 * len(chunks) + 3


def test_a_long_text_takes_little_room_besides_itself() -> None:
    document = Document("doc", "/r", "f.txt", "text/plain", "", "word " * 300_000)
    chunker = Chunker(bundled(), ChunkingSpec())
    tracemalloc.start()
    chunks = chunker.split(document)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "".join(texts(chunks))[:1000] == document.text[:1000]
    assert peak < 20 * len(document.text)  # measured: 14 bytes a character; 45 with all words as units at once


@pytest.mark.timeout(60)
def test_many_spans_take_linear_time() -> None:
    lines = [f"# Heading {number}\n" for number in range(100_000)]
    spans, start = [], 0
    for number, line in enumerate(lines):
        spans.append(Span("heading", start, start + len(line) - 1, 1 + number % 6, f"Heading {number}"))
        spans.append(Span("page", start, start + len(line), number + 1))
        start += len(line)
    document = Document("doc", "/r", "f.txt", "text/plain", "", "".join(lines), tuple(spans))
    chunks = Chunker(bundled(), ChunkingSpec()).split(document)
    assert "".join(texts(chunks)) == document.text
    code = tuple(replace(span, kind="code") for span in spans if span.kind == "heading")
    Chunker(bundled(), ChunkingSpec()).split(replace(document, spans=code))


# Tokenizers that are not BERT's

HARD_TEXTS = [
    "The cat sat on the mat. " * 60,
    "First line\n\n\n    indented   code\t\tand tabs\r\n" * 30,
    "今天天气很好。我们去公园玩。" * 40,
    "x" * 3000,
    " " * 5000 + "end",
    "👩‍👩‍👧‍👦🇩🇪 e\u0301\u0301 한국어 ภาษาไทย \ud800 ﷺ " * 30,
]


def byte_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(["The cat sat on the mat. A line of code", "今天天气很好。"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A <s>", special_tokens=[("<s>", 0)])
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)  # noqa: S106
    tokenizer.train_from_iterator(["The cat sat on the mat. A line of code", "今天天气很好。"] * 20, trainer)
    return tokenizer


def cased_bert() -> Tokenizer:
    words = ["[UNK]", *"abcdefghijklmnopqrstuvwxyzTC", *(f"##{one}" for one in "abcdefghijklmnopqrstuvwxyz"), "."]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.mark.parametrize("make", [byte_bpe, unigram, cased_bert])
@pytest.mark.parametrize("max_tokens", [64, 512])
@pytest.mark.parametrize("text", HARD_TEXTS)
def test_no_chunk_is_longer_than_the_encoder_reads(make, max_tokens: int, text: str) -> None:
    tokenizer = make()
    document = markdown(f"# Head\n\n{text}\n\n## Deeper\n\n{text}", title="Title")
    for overlap in (0.0, 0.3):
        chunks = Chunker(tokenizer, ChunkingSpec(max_tokens=max_tokens, overlap=overlap), prefix="q: ").split(document)
        for chunk in chunks:
            assert document.text[chunk.start : chunk.end] == chunk.text
            assert read_by_encoder(chunk, "q: ", tokenizer) <= chunk.tokens <= max_tokens
            if make is not cased_bert:
                assert read_by_encoder(chunk, "q: ", tokenizer) == chunk.tokens
        assert chunks[0].start == 0
        assert chunks[-1].end == len(document.text)
        assert all(one.start < two.start <= one.end < two.end for one, two in pairwise(chunks))


def test_chunks_of_other_tokenizers_are_well_filled() -> None:
    document = markdown(" ".join(SENTENCES * 20))
    chunks = Chunker(byte_bpe(), ChunkingSpec(max_tokens=128, overlap=0.0)).split(document)
    assert min(chunk.tokens for chunk in chunks[:-1]) > 80


def test_a_character_too_big_for_a_chunk_is_an_error() -> None:
    tokenizer = byte_bpe()
    tokenizer.normalizer = normalizers.NFKC()
    with pytest.raises(TextTooLongError, match="raise max_tokens"):
        Chunker(tokenizer, ChunkingSpec(max_tokens=16)).split(markdown("a ﷺ"))  # 18 letters of two bytes


# Real documents


def test_real_documents() -> None:
    folder = DATA / "corpora/hf_docs/huggingface/transformers"
    files = sorted(folder.rglob("*.md*"))[::12]
    if not files:
        pytest.skip(f"{folder} is not there")
    chunker = Chunker(bundled(), ChunkingSpec())
    for file in files:
        parsed = parse(file, file.read_bytes())
        document = Document(file.name, "/r", file.name, parsed.media_type, parsed.title, parsed.text, parsed.spans)
        for chunk in chunker.split(document):
            assert document.text[chunk.start : chunk.end] == chunk.text
            assert read_by_encoder(chunk) == chunk.tokens <= 512

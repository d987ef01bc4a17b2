"""Cut a document into chunks that the encoder reads whole, with exact character offsets. Knows no files, no index.

How it stays fast and exact: with a BERT tokenizer, token counts add up over white space, so every distinct word is
tokenised once and counting a stretch of text is a subtraction. Structure (headings, paragraphs, code, tables) is
refined into sentences, words and at last pieces of words only where a chunk has to be cut inside it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval.encoder import clean
from retrieval.errors import ConfigError
from retrieval.graphemes import Graphemes
from retrieval.records import Chunk, ChunkingSpec, Document, Span
from retrieval.sentences import sentence_starts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE = " \t\n\r"  # the white space at which words are independent for every tokenizer we count with
_WORD = re.compile(r"[^ \t\n\r]+")
# BERT tokenizers split at every ASCII punctuation character, so such words are known by their parts
_ASCII_COMPOUND = re.compile(r"[!-~]*[!-/:-@\[-`{-~][!-~]*")
_ASCII_PARTS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_CJK_STOP = re.compile("[。！？；｡]")
_PARAGRAPH_BREAK = re.compile(r"(?:\r\n|\n|\r)(?:[ \t]*(?:\r\n|\n|\r))+")
_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_SLICE_CHARS = 20_000  # a longer run without white space is tokenised in slices, to bound memory
_MAX_KNOWN_WORDS = 1_000_000
_HEADING_FILL = 0.25  # a heading starts a new chunk once the current one is this full
_PARAGRAPH_FILL = 0.5  # a paragraph that does not fit starts a new chunk once the current one is this full
_CONTEXT_SHARE = 0.125  # title and headings before a chunk may take this share of its tokens
_MIN_TOKENS = 16


class Grain(IntEnum):
    """What a unit is. Only a chunk that has to be cut inside a unit looks at the finer grain within it."""

    HARD = 0
    WORD = 1
    SENTENCE = 2
    BLOCK = 3


class Unit(NamedTuple):
    """A stretch of text. `heading`: it begins with a heading; `whole`: code or a table, better not cut."""

    start: int
    end: int
    grain: Grain
    heading: bool = False
    whole: bool = False


class Chunker:
    """Cuts documents by one ChunkingSpec with one tokenizer. Not safe for use by several threads at once."""

    def __init__(self, tokenizer: Tokenizer, spec: ChunkingSpec, *, prefix: str = "") -> None:
        if spec.max_tokens < _MIN_TOKENS or spec.max_chars < _MIN_TOKENS or not 0 <= spec.overlap < 0.5:
            raise ConfigError(
                f"chunks of {spec.max_tokens} tokens, {spec.max_chars} characters and {spec.overlap:.0%} overlap were "
                f"asked for; expected at least {_MIN_TOKENS} of both, and an overlap from 0% to below 50%"
            )
        self.spec = spec
        self._words = WordCounter(tokenizer, atom_chars=min(128, spec.max_tokens // 4))
        self._fixed_tokens = len(tokenizer.encode(prefix))
        if self._fixed_tokens > spec.max_tokens // 2:
            raise ConfigError(f"the passage prefix takes {self._fixed_tokens} of {spec.max_tokens} tokens of a chunk")

    def split(self, document: Document) -> list[Chunk]:
        """Chunks in order. Without overlap they cover the document without a gap; a blank document has none.

        `tokens` of a chunk is exact with BERT-like tokenizers unless a word of over 128 letters had to be cut, and an
        upper bound otherwise.
        """
        text = document.text
        if not text.strip():
            return []
        outline = _Outline(document, self._words, self.spec)
        packer = _Packer(document, self.spec, self._words.measure(text), outline, self._fixed_tokens)
        pages = [span for span in document.spans if span.kind == "page"]
        page_starts = [page.start for page in pages]
        repeats: dict[bytes, int] = {}
        chunks = []
        for ordinal, (start, end, tokens) in enumerate(packer.spans()):
            piece = text[start:end]
            first = start + len(piece) - len(piece.lstrip())
            page = pages[max(0, bisect_right(page_starts, first) - 1)].number if pages else None
            digest = blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            repeats[digest] = repeats.get(digest, 0) + 1
            identity = f"{document.doc_id}\n{digest.hex()}\n{repeats[digest]}".encode("utf-8", "surrogatepass")
            chunks.append(
                Chunk(
                    chunk_id=blake2b(identity, digest_size=12).hexdigest(),
                    doc_id=document.doc_id,
                    ordinal=ordinal,
                    start=start,
                    end=end,
                    text=piece,
                    tokens=tokens,
                    heading=outline.path(first),
                    page=page,
                    context=outline.context(start),
                )
            )
        return chunks


class _Packer:
    """Fills chunks with units from left to right, looking inside a unit only when it does not fit."""

    def __init__(self, document: Document, spec: ChunkingSpec, ruler: Ruler, outline: _Outline, fixed: int) -> None:
        self._document = document
        self._text = document.text
        self._spec = spec
        self._ruler = ruler
        self._outline = outline
        self._fixed_tokens = fixed
        self._graphemes = Graphemes(document.text)

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, tokens with special tokens, prefix and context) of each chunk."""
        queue = deque(self._blocks())
        current: list[Unit] = []
        carried = 0  # how many units at the head of `current` repeat the end of the chunk before
        while queue:
            unit = queue[0]
            has_new = len(current) > carried
            if self._fits(current, unit) and not (has_new and self._heading_closes(current, unit)):
                current.append(queue.popleft())
            elif has_new and self._closes(current, unit):
                yield self._chunk(current)
                current = self._overlap(current, unit)
                carried = len(current)
            elif current and not has_new:
                current, carried = [], 0  # the repeated sentences stand in the way
            else:
                queue.popleft()
                queue.extendleft(reversed(self._refine(unit)))
        if len(current) > carried:
            yield self._chunk(current)

    def _chunk(self, units: Sequence[Unit]) -> tuple[int, int, int]:
        start, end = units[0].start, units[-1].end
        return start, end, self._size(start, end)

    def _size(self, start: int, end: int) -> int:
        """Tokens the encoder reads for a chunk from start to end, special tokens, prefix and context included."""
        return self._fixed_tokens + self._outline.context_tokens(start) + self._ruler.tokens(start, end)

    def _fits(self, current: Sequence[Unit], unit: Unit) -> bool:
        start = current[0].start if current else unit.start
        return unit.end - start <= self._spec.max_chars and self._size(start, unit.end) <= self._spec.max_tokens

    def _fill(self, units: Sequence[Unit]) -> float:
        start, end = units[0].start, units[-1].end
        return max(self._size(start, end) / self._spec.max_tokens, (end - start) / self._spec.max_chars)

    def _heading_closes(self, current: Sequence[Unit], unit: Unit) -> bool:
        return unit.heading and self._fill(current) >= _HEADING_FILL

    def _closes(self, current: Sequence[Unit], unit: Unit) -> bool:
        """Whether to end the chunk before a unit that does not fit, rather than look inside the unit."""
        if unit.grain is Grain.BLOCK and not unit.whole:
            return self._fill(current) >= (_HEADING_FILL if unit.heading else _PARAGRAPH_FILL)
        return unit.grain is Grain.HARD or self._fits([], unit)

    def _overlap(self, closed: Sequence[Unit], unit: Unit) -> list[Unit]:
        """Whole sentences from the end of a chunk that the next one repeats; none across a heading."""
        room = int(self._spec.overlap * self._spec.max_tokens)
        repeated: list[Unit] = []
        if unit.heading or room == 0:
            return repeated
        sentences = (
            sentence
            for one in reversed(closed)
            for sentence in reversed(self._refine(one) if one.grain is Grain.BLOCK else [one])
        )
        for sentence in sentences:
            room -= self._ruler.tokens(sentence.start, sentence.end)
            if room < 0 or sentence.start == closed[0].start:
                break
            repeated.insert(0, sentence)
            if sentence.heading:
                break
        while repeated and repeated[0].grain < Grain.SENTENCE:
            repeated.pop(0)
        return repeated

    def _blocks(self) -> list[Unit]:
        """The document as paragraphs, code blocks and tables; a heading belongs to the block it stands over."""
        whole = [span for span in self._document.spans if span.kind in {"code", "table"} and span.start < span.end]
        headings = {span.start: span.end for span in self._document.spans if span.kind == "heading"}
        ends_of_headings = set(headings.values())
        inside = _Inside(whole)
        starts = {0, *headings, *(span.start for span in whole), *(self._after_line(span.end) for span in whole)}
        starts |= {span.start for span in self._document.spans if span.kind == "page"}
        for match in _PARAGRAPH_BREAK.finditer(self._text):
            if match.start() not in ends_of_headings and not inside.holds(match.end()):
                starts.add(match.end())
        whole_starts = {span.start for span in whole}
        glued = {self._skip_blank(end) for end in ends_of_headings} - whole_starts - headings.keys()
        kept = self._valid(sorted(starts - glued), 0, len(self._text))
        return [
            Unit(start, end, Grain.BLOCK, start in headings, start in whole_starts)
            for start, end in _pairs(kept, len(self._text))
        ]

    def _refine(self, unit: Unit) -> list[Unit]:
        """The same stretch as units of the next finer grain at which it can be cut."""
        text, start, end = self._text, unit.start, unit.end
        for grain in (Grain.SENTENCE, Grain.WORD, Grain.HARD):
            if grain >= unit.grain:
                continue
            if grain is Grain.SENTENCE:
                lines = (match.end() for match in _LINE_BREAK.finditer(text, start, end))
                starts: Iterable[int] = [start, *lines] if unit.whole else sentence_starts(text, start, end)
            elif grain is Grain.WORD:
                starts = self._ruler.atoms(start, end)
            else:
                step = max(1, min(self._spec.max_chars, self._spec.max_tokens) // 4)
                starts = range(start, end, step)
            kept = self._valid(starts, start, end)
            if grain is Grain.HARD and len(kept) == 1 and end - start > 1:
                kept = list(range(start, end, self._spec.max_chars))  # one endless grapheme: only cutting it is left
            if len(kept) > 1:
                return [Unit(a, b, grain, unit.heading and a == start) for a, b in _pairs(kept, end)]
        return [Unit(start, end, Grain.HARD)]

    def _valid(self, starts: Iterable[int], start: int, end: int) -> list[int]:
        """Positions where a cut keeps token counts exact and graphemes whole; the first is always `start`."""
        kept = [start]
        for position in starts:
            inside = kept[-1] < position < end
            if inside and self._ruler.is_cut(position) and self._graphemes.is_boundary(position):
                kept.append(position)
        return kept

    def _after_line(self, position: int) -> int:
        match = _LINE_BREAK.match(self._text, position)
        return match.end() if match else position

    def _skip_blank(self, position: int) -> int:
        """Where the text after a heading line and its blank lines begins, counted as paragraph breaks are."""
        match = _PARAGRAPH_BREAK.match(self._text, position) or _LINE_BREAK.match(self._text, position)
        return match.end() if match else position


class Ruler:
    """Token counts of one text by position: a sorted list of atoms (words, pieces of long words), summed up."""

    def __init__(self, text: str, starts: array[int], tokens: Iterable[int]) -> None:
        self._text = text
        self._starts = starts
        self._totals = array("q", accumulate(tokens, initial=0))

    def tokens(self, start: int, end: int) -> int:
        """Tokens of text[start:end], where both ends are cuts."""
        return self._totals[bisect_left(self._starts, end)] - self._totals[bisect_left(self._starts, start)]

    def is_cut(self, position: int) -> bool:
        """Whether no atom spans a position."""
        if self._text[position] in _SPACE or self._text[position - 1] in _SPACE:
            return True
        index = bisect_left(self._starts, position)
        return index < len(self._starts) and self._starts[index] == position

    def atoms(self, start: int, end: int) -> Sequence[int]:
        """Starts of the atoms in a range."""
        return self._starts[bisect_left(self._starts, start) : bisect_left(self._starts, end)]


class WordCounter:
    """Tokenises every distinct word once and measures texts with what it remembers.

    Exact for BERT tokenizers. For others an upper bound: each word as if it followed a space, and each further
    white-space character as one token.
    """

    def __init__(self, tokenizer: Tokenizer, *, atom_chars: int) -> None:
        self._tokenizer = tokenizer
        self._atom_chars = atom_chars
        self._exact = (json.loads(tokenizer.to_str()).get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        self._known: dict[str, int] = {}

    def measure(self, text: str) -> Ruler:
        """The token counts of a text by position."""
        words = _WORD.findall(text)
        long_words = self._learn(set(words))
        starts = _word_starts(text)
        known = self._known
        counts = [known.get(word, 0) for word in words] if long_words else list(map(known.__getitem__, words))
        if not self._exact:
            ends = [0, *(start + len(word) for start, word in zip(starts, words, strict=True))]
            counts = [n + max(0, start - end - 1) for n, start, end in zip(counts, starts, ends, strict=False)]
        if long_words:
            starts, counts = _with_pieces(words, starts, counts, long_words)
        return Ruler(text, starts, counts)

    def count(self, text: str) -> int:
        """Tokens of a short text, spaced by single blanks."""
        words = _WORD.findall(text)
        long_words = self._learn(set(words))
        return sum(self._known[w] if w in self._known else sum(n for _, n in long_words[w]) for w in words)

    def _learn(self, words: set[str]) -> dict[str, list[tuple[int, int]]]:
        """Tokenise the words not seen before; the long ones are returned in pieces and not remembered."""
        if len(self._known) > _MAX_KNOWN_WORDS:
            self._known = {}
        new = words.difference(self._known)
        long_words = [word for word in new if len(word) > self._atom_chars or _CJK_STOP.search(word, 0, len(word) - 1)]
        new.difference_update(long_words)
        if self._exact:
            compound = {word: _ASCII_PARTS.findall(word) for word in new if _ASCII_COMPOUND.fullmatch(word)}
            new.difference_update(compound)
            new.update(part for parts in compound.values() for part in parts if part not in self._known)
            self._tokenize(new)
            for word, parts in compound.items():
                self._known[word] = sum([self._known[part] for part in parts])
        else:
            self._tokenize(new)
        return {word: list(self._pieces(word)) for word in long_words}

    def _tokenize(self, words: Collection[str]) -> None:
        ordered = list(words)
        inputs = [clean(word) if self._exact else " " + clean(word) for word in ordered]
        encodings = self._tokenizer.encode_batch_fast(inputs, add_special_tokens=False)
        self._known.update(zip(ordered, map(len, encodings), strict=True))

    def _pieces(self, word: str) -> Iterator[tuple[int, int]]:
        """Cut a long word where the tokenizer itself does (punctuation, ideographs): (offset, tokens).

        What stays too long, or touches the edge of a slice, is cut finer and its tokens bounded by its letters.
        """
        for base in range(0, len(word), _SLICE_CHARS):
            part = word[base : base + _SLICE_CHARS]
            runs = self._runs(part)
            for index, (start, end, tokens) in enumerate(runs):
                cut_by_slice = (index == 0 and base > 0) or (index == len(runs) - 1 and base + len(part) < len(word))
                if self._exact and end - start <= self._atom_chars and not cut_by_slice:
                    yield base + start, tokens
                    continue
                step = max(1, self._atom_chars // 8)
                for first in range(start, end, step):
                    yield base + first, self._bound(part[first : min(end, first + step)])

    def _runs(self, part: str) -> list[tuple[int, int, int]]:
        """The tokenizer's own words in a text without white space: (start, end, tokens), without gaps."""
        encoding = self._tokenizer.encode(clean(part), add_special_tokens=False)
        starts, counts = [0], [0]
        last = None
        for word_id, (offset, _) in zip(encoding.word_ids, encoding.offsets, strict=True):
            if word_id != last and last is not None and offset > starts[-1]:
                starts.append(offset)
                counts.append(0)
            last = word_id
            counts[-1] += 1
        return list(zip(starts, [*starts[1:], len(part)], counts, strict=True))

    def _bound(self, letters: str) -> int:
        """More tokens than any tokenizer of our kinds makes of these letters, whatever stands beside them."""
        decomposed = unicodedata.normalize("NFD", letters)
        return len(decomposed) if self._exact else 1 + len(decomposed.encode("utf-8", "surrogatepass"))


class _Outline:
    """Headings above any position: as a path for people, and as the context line that the encoder reads first."""

    def __init__(self, document: Document, words: WordCounter, spec: ChunkingSpec) -> None:
        self._title = " ".join(document.title.split())
        self._headings = [span for span in document.spans if span.kind == "heading"]
        self._starts = [span.start for span in self._headings]
        self._parents = list(_parents(self._headings))
        self._words = words
        self._enabled = spec.heading_context
        self._room = int(spec.max_tokens * _CONTEXT_SHARE)
        self._contexts: dict[int, tuple[str, int]] = {}

    def path(self, position: int) -> tuple[str, ...]:
        """Titles of the headings in force at a position, its own heading line included, outermost first."""
        return self._path(bisect_right(self._starts, position) - 1)

    def context(self, position: int) -> str:
        """Title and headings that began before a position, as far as they fit; the outer ones are left out first."""
        return self._context(position)[0]

    def context_tokens(self, position: int) -> int:
        """Tokens of the context at a position."""
        return self._context(position)[1]

    def _context(self, position: int) -> tuple[str, int]:
        index = bisect_left(self._starts, position) - 1
        if index not in self._contexts:
            self._contexts[index] = self._make_context(index) if self._enabled else ("", 0)
        return self._contexts[index]

    def _make_context(self, index: int) -> tuple[str, int]:
        path = [label for label in self._path(index) if label]
        opens_with_title = index < 0 and bool(self._headings) and self._path(0)[0] == self._title
        if self._title and self._title not in path[:1] and not opens_with_title:
            path.insert(0, self._title)
        while path:
            context = " > ".join(path)
            tokens = self._words.count(context)
            if tokens <= self._room:
                return context, tokens
            path.pop(0)
        return "", 0

    def _path(self, index: int) -> tuple[str, ...]:
        labels: list[str] = []
        while index >= 0:
            labels.append(" ".join(self._headings[index].label.split()))
            index = self._parents[index]
        return tuple(reversed(labels))


class _Inside:
    """Whether a position lies strictly inside one of a set of spans; spans may nest."""

    def __init__(self, spans: Sequence[Span]) -> None:
        merged: list[list[int]] = []
        for span in sorted(spans, key=lambda one: one.start):
            if merged and span.start < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], span.end)
            else:
                merged.append([span.start, span.end])
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def holds(self, position: int) -> bool:
        index = bisect_left(self._starts, position) - 1
        return index >= 0 and position < self._ends[index]


def _word_starts(text: str) -> array[int]:
    """Where the matches of _WORD begin; found over the whole text at once because there are so many."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    blank = (letters == 32) | (letters == 10) | (letters == 9) | (letters == 13)
    starts = np.flatnonzero(~blank & np.concatenate(([True], blank[:-1])))
    return array("q", starts.astype(np.int64).tobytes())


def _with_pieces(
    words: Sequence[str], starts: array[int], counts: list[int], long_words: dict[str, list[tuple[int, int]]]
) -> tuple[array[int], list[int]]:
    """Put the pieces of long words in place of the words; what was counted for white space before them stays."""
    cuts, tokens = array("q"), []
    done = 0
    for index in (index for index, word in enumerate(words) if word in long_words):
        cuts.extend(starts[done:index])
        tokens += counts[done:index]
        pieces = long_words[words[index]]
        cuts.extend([starts[index] + offset for offset, _ in pieces])
        tokens += [n + (0 if offset else counts[index]) for offset, n in pieces]
        done = index + 1
    return cuts + starts[done:], tokens + counts[done:]


def _parents(headings: Sequence[Span]) -> Iterator[int]:
    """For each heading the index of the nearest one before it with a smaller level, or -1."""
    stack: list[int] = []
    for index, heading in enumerate(headings):
        while stack and headings[stack[-1]].number >= heading.number:
            stack.pop()
        yield stack[-1] if stack else -1
        stack.append(index)


def _pairs(starts: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    return zip(starts, [*starts[1:], end], strict=True)

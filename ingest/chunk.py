"""Cut a document into chunks that the encoder reads whole, with exact character offsets. Knows no files, no index.

How it stays fast and exact: token counts add up (see `ingest.tokens`), so the size of any stretch of text is a
subtraction. Structure (headings, paragraphs, code, tables) is refined into sentences, words and at last pieces of
words only where a chunk has to be cut inside it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from ingest.tokens import Ruler, TokenCounter, token_counter
from retrieval.encoder import clean, passage_input
from retrieval.errors import ConfigError, TextTooLongError
from retrieval.graphemes import Graphemes
from retrieval.records import Chunk, ChunkingSpec, Document, Span
from retrieval.sentences import sentence_starts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LINE_END = r"(?>\r\n|[\n\r])"
_PARAGRAPH_BREAK = re.compile(rf"{_LINE_END}(?:[ \t]*+{_LINE_END})++")
_PLAIN_BREAK = re.compile(r"\n(?:[ \t]*+\n)++")  # the same where no other line ends are: found twice as fast
_REST_OF_HEADING = re.compile(rf"[ \t]*+{_LINE_END}(?:[ \t]*+{_LINE_END})*+")
_STANDS_APART = re.compile(r"[ \t\n\r!-/:-@\[-`{-~：。，]$")
_WHITE = re.compile(r"[ \t\n\r]+")
_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_HEADING_FILL = 0.25  # a heading starts a new chunk once the current one is this full
_PARAGRAPH_FILL = 0.5  # a paragraph that does not fit starts a new chunk once the current one is this full
_CONTEXT_SHARE = 0.125  # title and headings before a chunk may take this share of its tokens
_MIN_TOKENS = 16
_BLOCKS_AT_ONCE = 4096
_LOOK_CHARS = 100_000  # a unit is refined so far at a time: its words as units would take a hundred times its room
_CHECKED_TEXTS = 256


class Grain(IntEnum):
    """What a unit is. Only where a chunk has to be cut inside a unit is the finer grain within it looked at."""

    SHRED = 0  # part of a grapheme that no chunk can hold
    STRETCH = 1  # of white space, or a word with the white space before it
    WORD = 2  # or a part of one that is too long
    SENTENCE = 3  # or a line of code or of a table
    BLOCK = 4  # a paragraph, code or a table, with the heading that stands over it


class Unit(NamedTuple):
    """A stretch of text. `before` and `after` are the tokens of the document up to its start and end.

    `heading`: it begins with a heading; `whole`: code or a table, better not cut.
    """

    start: int
    end: int
    before: int
    after: int
    grain: Grain
    heading: bool = False
    whole: bool = False


class Frame(NamedTuple):
    """Where a chunk begins, and therefore how far it may reach.

    `before`: tokens of the document up to there; `overhead`: tokens the encoder reads besides the text.
    """

    start: int
    before: int
    context: str
    overhead: int
    max_tokens: int
    max_chars: int

    def tokens(self, last: Unit) -> int:
        """What the encoder reads if the chunk ends with a unit."""
        return self.overhead + last.after - self.before

    def close(self, last: Unit) -> Packed:
        """The chunk that ends with a unit."""
        return Packed(self.start, last.end, self.tokens(last), self.context)

    def holds(self, last: Unit) -> bool:
        """Whether the chunk may end with a unit."""
        return self.tokens(last) <= self.max_tokens and last.end - self.start <= self.max_chars

    def fill(self, last: Unit) -> float:
        """How full the chunk is if it ends with a unit: 1 is full."""
        return max(self.tokens(last) / self.max_tokens, (last.end - self.start) / self.max_chars)


class Packed(NamedTuple):
    """A chunk in the making; `tokens` counts all that the encoder reads."""

    start: int
    end: int
    tokens: int
    context: str


class Chunker:
    """Cuts documents by one ChunkingSpec with one tokenizer. Not safe for use by several threads at once."""

    def __init__(self, tokenizer: Tokenizer, spec: ChunkingSpec, *, prefix: str = "") -> None:
        if spec.max_tokens < _MIN_TOKENS or spec.max_chars < _MIN_TOKENS or not 0 <= spec.overlap < 0.5:
            raise ConfigError(
                f"chunks of {spec.max_tokens} tokens, {spec.max_chars} characters and {spec.overlap:.0%} overlap were "
                f"asked for; expected at least {_MIN_TOKENS} of both, and an overlap from 0% to below 50%"
            )
        if tokenizer.truncation or tokenizer.padding:
            raise ConfigError("the tokenizer truncates or pads, which hides how long a text is; switch both off")
        if prefix and not _STANDS_APART.search(prefix):
            raise ConfigError(f"the passage prefix {prefix!r} would run into the text; end it with a space")
        self.spec = spec
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._counter = token_counter(tokenizer, atom_tokens=spec.max_tokens // 4, max_chars=spec.max_chars)
        self._fixed_tokens = len(tokenizer.encode(clean(prefix)))
        if self._fixed_tokens > spec.max_tokens // 2:
            raise ConfigError(f"the passage prefix takes {self._fixed_tokens} of {spec.max_tokens} tokens of a chunk")

    def split(self, document: Document) -> list[Chunk]:
        """Chunks in order. Without overlap they cover the document without a gap; a blank document has none.

        `tokens` of a chunk is exact, or an upper bound where one run of letters was too long for a chunk and had to be
        cut. Raises TextTooLongError if a single character may have more tokens than a chunk, which takes a very small
        `max_tokens` and a tokenizer of bytes.
        """
        text = document.text
        if not text.strip():
            return []
        ruler = self._counter.measure(text)
        outline = _Outline(document, ruler, self._counter, self.spec)
        packer = _Packer(document, ruler, outline, self.spec, self._fixed_tokens)
        packed = list(packer.chunks(self.spec.max_tokens))
        if not self._counter.is_exact:
            packed = self._checked(packed, packer, text)
        make = _Maker(document, ruler, outline)
        return [make(ordinal, *one) for ordinal, one in enumerate(packed)]

    def _checked(self, packed: list[Packed], packer: _Packer, text: str) -> list[Packed]:
        """Replace estimates by counts, and pack again with less room if a chunk turns out too long."""
        room = self.spec.max_tokens
        while True:
            inputs = (self._prefix + passage_input(one.context, text[one.start : one.end]) for one in packed)
            counts: list[int] = []
            while some := list(islice(inputs, _CHECKED_TEXTS)):
                counts += map(len, self._tokenizer.encode_batch_fast(list(map(clean, some))))
            excess = max(counts) - self.spec.max_tokens
            if excess <= 0:
                return [one._replace(tokens=tokens) for one, tokens in zip(packed, counts, strict=True)]
            room -= excess
            packed = list(packer.chunks(room))


class _Maker:
    """Makes the records of one document's chunks."""

    def __init__(self, document: Document, ruler: Ruler, outline: _Outline) -> None:
        self._document = document
        self._ruler = ruler
        self._outline = outline
        self._pages = [span for span in document.spans if span.kind == "page"]
        self._page_starts = [page.start for page in self._pages]
        self._seen: dict[bytes, int] = {}

    def __call__(self, ordinal: int, start: int, end: int, tokens: int, context: str) -> Chunk:
        piece = self._document.text[start:end]
        first = min(self._ruler.first_atom(start), end - 1)
        page = self._pages[max(0, bisect_right(self._page_starts, first) - 1)].number if self._pages else None
        return Chunk(
            chunk_id=self._identity(piece),
            doc_id=self._document.doc_id,
            ordinal=ordinal,
            start=start,
            end=end,
            text=piece,
            tokens=tokens,
            heading=self._outline.path(first),
            page=page,
            context=context,
        )

    def _identity(self, piece: str) -> str:
        """An id that follows from the document, the text, and how often the same text came before it."""
        digest = blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._seen[digest] = self._seen.get(digest, 0) + 1
        identity = f"{self._document.doc_id}\n{digest.hex()}\n{self._seen[digest]}"
        return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class _Packer:
    """Fills chunks with units from left to right, looking inside a unit only when it does not fit."""

    def __init__(self, document: Document, ruler: Ruler, outline: _Outline, spec: ChunkingSpec, fixed: int) -> None:
        self._document = document
        self._text = document.text
        self._ruler = ruler
        self._outline = outline
        self._spec = spec
        self._fixed_tokens = fixed
        self._graphemes = Graphemes(document.text)

    def chunks(self, max_tokens: int) -> Iterator[Packed]:
        """Yield the chunks in order, none of more than so many tokens."""
        blocks = self._blocks()
        queue = deque(next(blocks))
        current: list[Unit] = []
        carried = 0  # how many units at the head of `current` repeat the end of the chunk before
        while queue or (queue := deque(next(blocks, ()))):
            unit = queue[0]
            if len(current) <= carried:
                frame = self._frame(current[0] if current else unit, max_tokens)
            has_new = len(current) > carried
            if frame.holds(unit) and not (has_new and unit.heading and frame.fill(current[-1]) >= _HEADING_FILL):
                current.append(queue.popleft())
            elif has_new and self._closes(frame, current[-1], unit):
                yield frame.close(current[-1])
                current = self._overlap(current, unit)
                carried = len(current)
            elif current and not has_new:
                current, carried = [], 0  # the repeated sentences stand in the way
            else:
                queue.popleft()
                queue.extendleft(reversed(self._refine(unit)))
        if len(current) > carried:
            yield frame.close(current[-1])

    def _frame(self, first: Unit, max_tokens: int) -> Frame:
        context, tokens = self._outline.context(first.start)
        return Frame(first.start, first.before, context, self._fixed_tokens + tokens, max_tokens, self._spec.max_chars)

    def _closes(self, frame: Frame, last: Unit, unit: Unit) -> bool:
        """Whether to end the chunk before a unit that does not fit, rather than look inside the unit."""
        if unit.grain is Grain.BLOCK and not unit.whole:
            return frame.fill(last) >= (_HEADING_FILL if unit.heading else _PARAGRAPH_FILL)
        return self._frame(unit, frame.max_tokens).holds(unit)

    def _overlap(self, closed: Sequence[Unit], unit: Unit) -> list[Unit]:
        """Whole sentences from the end of a chunk that the next one repeats; none across a heading."""
        first, last = closed[0], closed[-1]
        max_tokens = int(self._spec.overlap * self._spec.max_tokens)
        max_chars = int(self._spec.overlap * self._spec.max_chars)
        repeated: list[Unit] = []  # last one first
        for sentence in self._sentences_from_end(closed) if max_tokens and not unit.heading else ():
            too_much = last.after - sentence.before > max_tokens or last.end - sentence.start > max_chars
            if too_much or sentence.start == first.start:
                break
            repeated.append(sentence)
            if sentence.heading:
                break
        while repeated and repeated[-1].grain < Grain.SENTENCE:
            repeated.pop()
        return repeated[::-1]

    def _sentences_from_end(self, units: Sequence[Unit]) -> Iterator[Unit]:
        for unit in reversed(units):
            if unit.grain is Grain.BLOCK and not unit.whole:
                yield from reversed(self._cut(unit, Grain.SENTENCE))
            else:
                yield unit

    def _blocks(self) -> Iterator[list[Unit]]:
        """The document as paragraphs, code blocks and tables, some at a time; a heading is part of what is below it."""
        text, spans = self._text, self._document.spans
        headings = {span.start: span.end for span in spans if span.kind == "heading"}
        whole = [span for span in spans if span.kind in {"code", "table"} and span.start < span.end]
        whole_starts = {span.start for span in whole}
        inside = _Inside(whole)
        rests = (_REST_OF_HEADING.match(text, end) for end in headings.values())
        below_headings = {rest.end() for rest in rests if rest is not None}
        pattern = _PARAGRAPH_BREAK if "\r" in text else _PLAIN_BREAK
        breaks: Iterator[int] = (match.end() for match in pattern.finditer(text))
        breaks = (each for each in breaks if each not in below_headings and not inside.holds(each))
        breaks = chain(breaks, [len(text)])
        pages = {span.start for span in spans if span.kind == "page"}
        marked = sorted({*headings, *whole_starts, *pages, *(self._after_line(span.end) for span in whole)})
        first = seen = 0
        while first < len(text):
            some = list(islice(breaks, _BLOCKS_AT_ONCE))
            before, seen = seen, bisect_right(marked, some[-1])
            edges = self._valid(sorted({*some, *marked[before:seen]}), first, len(text), Grain.BLOCK)
            *starts, first = edges if some[-1] < len(text) else [*edges, len(text)]
            if starts:
                yield self._units(starts, first, Grain.BLOCK, headings.keys(), whole_starts)

    def _units(
        self, starts: Sequence[int], end: int, grain: Grain, headings: Collection[int], whole: Collection[int] = ()
    ) -> list[Unit]:
        """Neighbouring units, given where they start and the last one ends, where headings do, and what is whole."""
        totals = self._ruler.totals([*starts, end])
        edges = zip(starts, [*starts[1:], end], totals, totals[1:], strict=False)
        return [Unit(*edge, grain, edge[0] in headings, edge[0] in whole) for edge in edges]

    def _after_line(self, position: int) -> int:
        match = _LINE_BREAK.match(self._text, position)
        return match.end() if match else position

    def _refine(self, unit: Unit) -> list[Unit]:
        """The same stretch as units of the next finer grain at which it can be cut."""
        for far in (False, True):
            for grain in (Grain.SENTENCE, Grain.WORD, Grain.STRETCH, Grain.SHRED):
                units = self._cut(unit, grain, far=far) if grain < unit.grain else []
                if len(units) > 1:
                    return units
        if unit.grain > Grain.SHRED:  # nothing to cut: from now on it is taken as it is
            return [unit._replace(grain=Grain.SENTENCE if unit.grain is Grain.BLOCK else Grain.SHRED)]
        raise TextTooLongError(
            f"the character at {unit.start} of {self._document.source!r} may have {unit.after - unit.before} tokens, "
            f"too many for a chunk of {self._spec.max_tokens}; raise max_tokens"
        )

    def _cut(self, unit: Unit, grain: Grain, *, far: bool = True) -> list[Unit]:
        """A unit as units of one finer grain; a single one where that grain has no cut inside it.

        Unless it is to look `far`, what is beyond some distance stays one unit as it was.
        """
        end = unit.end if far else min(unit.end, unit.start + max(_LOOK_CHARS, self._spec.max_chars))
        kept = self._valid(self._starts(unit.start, end, grain, whole=unit.whole), unit.start, end, grain)
        last = unit.end if end == unit.end else kept.pop()
        units = self._units(kept, last, grain, {unit.start} if unit.heading else ()) if kept else []
        if last < unit.end:
            [before] = self._ruler.totals([last])
            units.append(unit._replace(start=last, before=before, heading=unit.heading and not kept))
        return units

    def _starts(self, start: int, end: int, grain: Grain, *, whole: bool) -> Iterable[int]:
        text = self._text
        if grain is Grain.SENTENCE:
            if whole:
                return (match.end() for match in _LINE_BREAK.finditer(text, start, end))
            return sentence_starts(text, start, end)
        if grain is Grain.STRETCH:
            step = min(self._spec.max_chars, self._spec.max_tokens) // 4
            return (cut for match in _WHITE.finditer(text, start, end) for cut in range(*match.span(), step))
        return self._ruler.atoms(start, end)

    def _valid(self, starts: Iterable[int], start: int, end: int, grain: Grain) -> list[int]:
        """Positions where a cut keeps token counts true and graphemes whole (but for shreds); first of all `start`."""
        is_cut, is_boundary = self._ruler.is_cut, self._graphemes.is_boundary
        between_atoms, anywhere = grain < Grain.SENTENCE, grain is Grain.SHRED
        kept = [start]
        for position in starts:
            if (
                kept[-1] < position < end
                and (between_atoms or is_cut(position))
                and (anywhere or is_boundary(position))
            ):
                kept.append(position)
        return kept


class _Outline:
    """Headings above any position: as a path for people, and as the context line that the encoder reads first."""

    def __init__(self, document: Document, ruler: Ruler, counter: TokenCounter, spec: ChunkingSpec) -> None:
        self._title = _one_line(document.title)
        headings = [span for span in document.spans if span.kind == "heading"]
        self._starts = [span.start for span in headings]
        self._labels = [_one_line(span.label) for span in headings]
        self._parents = list(_parents(headings))
        self._ruler = ruler
        self._counter = counter
        self._room = int(spec.max_tokens * _CONTEXT_SHARE) if spec.heading_context else 0
        self._paths: dict[int, tuple[str, ...]] = {-1: ()}
        self._contexts: dict[tuple[int, bool], tuple[str, int]] = {}

    def path(self, position: int) -> tuple[str, ...]:
        """Titles of the headings in force at a position, its own heading line included, outermost first."""
        index = bisect_right(self._starts, position) - 1
        if index not in self._paths:
            self._paths[index] = tuple(self._upwards(index))[::-1]
        return self._paths[index]

    def context(self, start: int) -> tuple[str, int]:
        """What a chunk that starts here does not show of title and headings, and the tokens of that.

        What is too long loses its outer part.
        """
        if not self._room:
            return "", 0
        index = bisect_right(self._starts, self._ruler.first_atom(start)) - 1
        opens = index >= 0 and self._starts[index] >= start  # the chunk begins with this heading
        above = self._parents[index] if opens else index
        shows_title = above < 0 and bool(self._labels) and self._labels[max(index, 0)] == self._title
        key = above, shows_title
        if key not in self._contexts:
            self._contexts[key] = self._make_context(above, shows_title=shows_title)
        return self._contexts[key]

    def _make_context(self, index: int, *, shows_title: bool) -> tuple[str, int]:
        labels = [label for label in self._upwards(index) if label]
        if self._title and not shows_title and self._title not in labels[-1:]:
            labels.append(self._title)
        context, tokens = "", 0
        for label in labels:
            longer = f"{label} > {context}" if context else label
            added = self._counter.count(longer.removesuffix(context))
            if tokens + added > self._room:
                break
            context, tokens = longer, tokens + added
        return context, tokens

    def _upwards(self, index: int) -> Iterator[str]:
        """Titles of a heading and those above it, innermost first."""
        while index >= 0:
            yield self._labels[index]
            index = self._parents[index]


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


def _parents(headings: Sequence[Span]) -> Iterator[int]:
    """For each heading the index of the nearest one before it with a smaller level, or -1."""
    stack: list[int] = []
    for index, heading in enumerate(headings):
        while stack and headings[stack[-1]].number >= heading.number:
            stack.pop()
        yield stack[-1] if stack else -1
        stack.append(index)


def _one_line(label: str) -> str:
    return " ".join(label.split())

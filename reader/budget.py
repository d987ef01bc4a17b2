"""The passages of a prompt: numbered, headed, and as many as fit a number of tokens.

By rank: each passage whole until one does not fit, that one cut at the end of a sentence, the rest dropped. A later,
shorter one that would still fit is dropped as well: it is the least likely to help, and what a prompt shows stays a
stretch of the ranking. Knows hits and a way to count; nothing of models or questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reader.neutral import DOT
from reader.sentences import stretches
from retrieval.records import Hit

_PATH_CHARS = 120  # of a head line: title and headings
_SOURCE_CHARS = 60  # and the file: about 200 with the rest, whatever a document calls itself
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_FAKE_HEAD = re.compile(
    rf"((?:\A|[{_LINE_ENDS}])[^\w{_LINE_ENDS}]*[\[［【〔])"  # at a line's start, perhaps behind marks and spaces,
    rf"(?=[^\w\[{_LINE_ENDS}]{{0,4}}\d+[^\w\[{_LINE_ENDS}]{{0,4}}?[\]］】〕])"  # a number in brackets
)
_OWN_LINE = re.compile(r"[\n\r][ \t]*\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """One hit as it may go into a prompt. title: the document's, "" if it has none.

    kept: stretches of `hit.text` to show, ascending, as compression chose them; None shows all of it.
    """

    hit: Hit
    title: str
    kept: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """The passages as the prompt shows them, and what became of each block.

    shown: positions of the blocks shown at least in part; block i is passage [i+1]. dropped: chunk_ids left out whole,
    for want of room or because nothing in them was kept. cut: chunk_ids shown in part because room ended. saved_tokens:
    how much longer the blocks shown would be with all of their text.
    """

    text: str
    shown: tuple[int, ...]
    dropped: tuple[str, ...]
    cut: tuple[str, ...]
    saved_tokens: int


def pack(blocks: Sequence[Block], *, room: int, count: Callable[[str], int]) -> Packed:
    """The best passages that fit: `count(packed.text) <= room` unless the text is empty, by any counter.

    `count` tokenises: it is asked once where everything fits, else once for each halving of the possible ends, always
    for a whole text. So nothing is assumed of how tokens of parts add up, and no text comes back that was not counted.
    """
    ends = [(position, end) for position, block in enumerate(blocks) for end in _ends(block)]
    fitting = len(ends)
    if not ends or room <= 0:
        fitting = 0
    elif count(_text(blocks, dict(ends))) > room:
        fitting, too_many = 0, len(ends)
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            if count(_text(blocks, dict(ends[:middle]))) <= room:
                fitting = middle
            else:
                too_many = middle
    reached, last = dict(ends[:fitting]), dict(ends)
    return Packed(
        text=_text(blocks, reached),
        shown=tuple(reached),
        dropped=tuple(block.hit.chunk_id for at, block in enumerate(blocks) if at not in reached),
        cut=tuple(blocks[at].hit.chunk_id for at, end in reached.items() if end < last[at]),
        saved_tokens=_saved([blocks[at] for at in reached], count),
    )


def _text(blocks: Sequence[Block], reached: Mapping[int, int]) -> str:
    """Each block that is reached, up to the character of its text that is reached."""
    return "\n\n".join(f"{_head(at + 1, blocks[at])}\n{_body(blocks[at], end)}" for at, end in reached.items())


def _saved(blocks: Sequence[Block], count: Callable[[str], int]) -> int:
    """What the kept stretches of some blocks, all of which are shown, save against their whole texts."""
    if all(block.kept is None for block in blocks):
        return 0
    whole = [Block(block.hit, block.title) for block in blocks]
    long, short = (
        count(_text(some, {at: len(block.hit.text) for at, block in enumerate(some)})) for some in (whole, blocks)
    )
    return max(0, long - short)


def _head(number: int, block: Block) -> str:
    """`[1] Title > Heading > Sub (source.md, page 3)`, on one line whatever title, headings and source hold."""
    names = [name for name in map(_one_line, (block.title, *block.hit.heading)) if name]
    if len(names) > 1 and names[0].casefold() == names[1].casefold():
        del names[0]
    path, source = " > ".join(names), _one_line(block.hit.source)
    if len(path) > _PATH_CHARS:
        path = f"{path[: _PATH_CHARS - 1]}…"
    if len(source) > _SOURCE_CHARS:
        source = f"…{source[1 - _SOURCE_CHARS :]}"  # the name of a file says more than the folders above it
    page = "" if block.hit.page is None else f", page {block.hit.page}"
    return f"[{number}] {_disarmed(path)}{' ' if path else ''}({source}{page})"


def _body(block: Block, end: int) -> str:
    """What is kept of a block's text before `end`; each gap is marked, and no line looks like the head of a passage."""
    text, before = block.hit.text, 0
    parts: list[str] = []
    for start, stop in _spans(block):
        if start >= end:
            break
        gap = text[before:start]
        if gap.strip():
            own_line = _OWN_LINE.search(gap)  # a table row, a list item or a line of code begins a line here as well
            gap = f"{' ' if parts else ''}…{own_line.group() if own_line else ' '}"
        parts += [gap, text[start : min(stop, end)]]
        before = min(stop, end)
    parts.append(" …" if text[before:].strip() else "")
    return _disarmed("".join(parts).strip("\r\n"))


def _ends(block: Block) -> list[int]:
    """Where the text that is shown of a block may end, ascending: at its sentences."""
    text = block.hit.text
    sentence_ends = [end for _, end in stretches(text)]
    found: set[int] = set()
    for start, stop in _spans(block):
        last = start + len(text[start:stop].rstrip())
        if last > start:
            found.update({last, *(end for end in sentence_ends if start < end < last)})
    return sorted(found)


def _spans(block: Block) -> Sequence[tuple[int, int]]:
    """What is kept of a block's text. Raises ValueError on spans that are not ascending stretches of it."""
    if block.kept is None:
        return [(0, len(block.hit.text))]
    bounds = [0, *(bound for span in block.kept for bound in span), len(block.hit.text)]
    if bounds != sorted(bounds):
        raise ValueError(
            f"the kept spans of '{block.hit.chunk_id}' are {block.kept}; "
            f"expected ascending ones within its {len(block.hit.text)} characters"
        )
    return block.kept


def _one_line(text: str) -> str:
    """Text on one line: line breaks, controls and invisible characters become single spaces."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _disarmed(text: str) -> str:
    """Text in which no line starts with a number in brackets: [3] becomes [·3]."""
    return _FAKE_HEAD.sub(rf"\1{DOT}", text)

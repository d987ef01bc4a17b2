"""Markers and what they point at: [n] in an answer, in every form that models write it, and exact quotes of a source.

A marker is found while the answer is still being written: text goes out as soon as no marker can begin in it. Pure
functions of text and records; knows no model, no index, and no judgement of what a source says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import regex

from reader.records import Citation
from retrieval.errors import RagError
from retrieval.records import Document, Hit
from retrieval.sentences import sentences

_SPACE = r"[^\S\n]"
_WORD = (
    r"(?:documents?|docs?\.?|passages?|sources?|references?|refs?\.?|citations?|contexts?|excerpts?|chunks?"
    r"|文档|文件|段落|来源|出处|资料|引文|参考|材料)"
)
_NAMED = rf"{_WORD}{_SPACE}?(?:no\.?|第|number)?{_SPACE}?[:：\#]?{_SPACE}?"
_PLAIN = r"\^?\d{1,3}(?!\d)"
_NUMBER = rf"[\[［【]?{_PLAIN}[\]］】]?"
_BETWEEN = rf"{_SPACE}{{0,2}}(?:[,;、，；&+/–—~至到-]|and|or|和|与|及)?{_SPACE}{{0,2}}"
_MORE_PLAIN, _MORE = (rf"(?:{_BETWEEN}(?:{_NAMED})?{number}){{0,20}}" for number in (_PLAIN, _NUMBER))
_TOKEN = regex.compile(
    rf"(?P<fence>```)|(?P<code>`[^`\n]{{1,300}}`)"
    rf"|(?P<before>{_SPACE}{{0,4}})(?P<marker>"
    rf"[\[［【]{_SPACE}?(?:{_NAMED})?{_PLAIN}{_MORE_PLAIN}{_SPACE}?[\]］】](?!\()"  # [1], [1, 2], [Document 3]
    rf"|[(（]{_SPACE}?(?:see{_SPACE}|参见|见)?{_NAMED}{_NUMBER}{_MORE}{_SPACE}?[)）]"  # (see passages 1 and 3)
    rf"|\b(?:Sources?|References?|来源|出处){_SPACE}?[:：]{_SPACE}{{0,2}}(?:{_WORD}{_SPACE})?{_NUMBER}{_MORE}"
    rf"(?={_SPACE}*[.。]?{_SPACE}*(?:\n|\Z)|[.。]{_SPACE}))",
    regex.IGNORECASE,
)
_FENCE = regex.compile(r"(?P<fence>```)(?P<marker>(?!))?")
_RANGE_OR_NUMBER = regex.compile(rf"(\d{{1,3}}){_SPACE}{{0,2}}[–—~至到-]{_SPACE}{{0,2}}(\d{{1,3}})|(\d{{1,3}})")
_OPENING = regex.compile(rf"{_SPACE}*[\[［【(（]|{_SPACE}*\b[SR来出]|`", regex.IGNORECASE)
_LONGEST_RANGE = 20
_UNDECIDED = regex.compile(rf"{_SPACE}*[.。]?{_SPACE}*")
"""What may stand between a marker and what decides whether it is one."""
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}。！？；，、]")


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of an answer, `text[start:end]` with its markers; `words` is the sentence without them."""

    start: int
    end: int
    words: str
    markers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """An answer whose every marker is [n] for an n that was shown. removed: the numbers that were not, in order."""

    text: str
    claims: tuple[Claim, ...]
    removed: tuple[int, ...] = ()


class MarkerResolver:
    """Resolves markers while an answer is written: what `feed` and `close` give, put together, is the text.

    shown: numbers that the model was shown. Markers in code are code.
    """

    def __init__(self, shown: Collection[int]) -> None:
        self._shown = frozenset(shown)
        self._pending, self._seen = "", 0
        self._in_fence = False
        self.removed: list[int] = []

    def feed(self, piece: str) -> str:
        """The text that is certain after a further piece."""
        return self._advance(self._pending + piece, final=False)

    def close(self) -> str:
        """The rest, once the answer is complete."""
        return self._advance(self._pending, final=True)

    def _advance(self, text: str, *, final: bool) -> str:
        """text: a character that is out already, so that words are seen to begin or not, and what is pending."""
        out: list[str] = []
        done = self._seen
        for found in _tokens(text, done, in_fence=self._in_fence, partial=not final):
            if found.partial or (not final and _UNDECIDED.fullmatch(text, found.end())):
                break
            out += [text[done : found.start()], self._resolved(found)]
            done = found.end()
            self._in_fence ^= found["fence"] is not None
        else:
            found = None
        end = found.start() if found else len(text)
        self._seen = min(end, 1)
        self._pending = text[end - self._seen :]
        return "".join([*out, text[done:end]])

    def _resolved(self, found: Any) -> str:
        if found["marker"] is None:
            return str(found[0])
        numbers = _numbers(found["marker"])
        self.removed += [number for number in numbers if number not in self._shown]
        kept = "".join(f"[{number}]" for number in numbers if number in self._shown)
        return f"{found['before']}{kept}" if kept else ""


def resolve(written: str, shown: Collection[int]) -> Resolved:
    """Bring every marker into the form [n], remove numbers that were never shown, and cut the text into claims."""
    resolver = MarkerResolver(shown)
    text = (resolver.feed(written) + resolver.close()).strip()
    return Resolved(text, tuple(_claims(text)), tuple(resolver.removed))


def with_added(resolved: Resolved, added: Mapping[int, int]) -> Resolved:
    """Put a marker behind claims that have none: position of the claim -> number."""
    text, claims, shift = resolved.text, [], 0
    for position, claim in enumerate(resolved.claims):
        start, end = claim.start + shift, claim.end + shift
        if position not in added:
            claims.append(replace(claim, start=start, end=end))
            continue
        marker = f"[{added[position]}]" if _CJK.match(text[end - 1]) else f" [{added[position]}]"
        text = text[:end] + marker + text[end:]
        shift += len(marker)
        claims.append(replace(claim, start=start, end=end + len(marker), markers=(added[position],)))
    return replace(resolved, text=text, claims=tuple(claims))


def cite(marker: int, document: Document, hit: Hit, span: tuple[int, int]) -> Citation:
    """Quote a stretch of a hit's text, by its characters; the quote is cut from the document itself."""
    first, last = hit.start + span[0], hit.start + span[1]
    quote = document.text[first:last]
    if quote != hit.text[span[0] : span[1]]:
        raise RagError(f"'{hit.source}' changed in the index while it was read; ask again")
    return Citation(
        marker=marker,
        chunk_id=hit.chunk_id,
        doc_id=hit.doc_id,
        source=hit.source,
        start=first,
        end=last,
        quote=quote,
        line=document.line_at(first),
        page=document.page_at(first),
        heading=document.heading_at(first),
    )


def _tokens(text: str, position: int = 0, *, in_fence: bool = False, partial: bool = False) -> Iterator[Any]:
    """Markers and code, in order; inside a code block nothing but its end. The last one may be partial."""
    while True:
        pattern = _FENCE if in_fence else _TOKEN
        found = pattern.search(text, position, partial=partial)
        if found is None or (found.start() == found.end() == len(text)):
            return
        found = _begun_before(pattern, text, position, found) if partial else found
        yield found
        if found.partial:
            return
        position = found.end()
        in_fence ^= found["fence"] is not None


def _begun_before(pattern: Any, text: str, position: int, found: Any) -> Any:
    """A longer marker that may have begun before what was found; `search` takes a whole match over an earlier part."""
    for opened in _OPENING.finditer(text, position, found.start()):
        begun = pattern.match(text, opened.start(), partial=True)
        if begun is not None and begun.partial:
            return begun
    return found


def _numbers(marker: str) -> list[int]:
    """The numbers of a marker, ranges written out, each once."""
    numbers: list[int] = []
    for first, last, one in _RANGE_OR_NUMBER.findall(marker):
        if one:
            numbers.append(int(one))
        elif 0 < int(last) - int(first) <= _LONGEST_RANGE:
            numbers += range(int(first), int(last) + 1)
        else:
            numbers += [int(first), int(last)]
    return list(dict.fromkeys(numbers))


def _claims(text: str) -> Iterator[Claim]:
    """Sentences with their markers, in order. A marker behind a sentence belongs to it, as does one right before it."""
    bare, kept, markers, fences = _without_markers(text)
    spans = _sentences(bare, fences)
    if not spans:
        return
    ends = [end for _, end in spans]
    starts = [start for start, _ in spans]
    cited: list[list[tuple[int, int, int]]] = [[] for _ in spans]
    for position, number, start, end in markers:
        owner = max(bisect_left(starts, position) - 1, 0)
        if position > ends[owner] and "\n" in bare[ends[owner] : position] and owner + 1 < len(spans):
            owner += 1
        cited[owner].append((number, start, end))
    for (start, end), own in zip(spans, cited, strict=True):
        words = bare[start:end]
        if not any(map(str.isalnum, words)):
            continue
        first, last = _in_text(start, kept), _in_text(end - 1, kept) + 1
        yield Claim(
            start=min([first, *(each[1] for each in own)]),
            end=max([last, *(each[2] for each in own)]),
            words=words,
            markers=tuple(dict.fromkeys(number for number, _, _ in own)),
        )


Kept = list[tuple[int, int]]
"""Where the text without markers stands in the text: (position in the bare text, position in the text), ascending."""


def _without_markers(text: str) -> tuple[str, Kept, list[tuple[int, int, int, int]], list[tuple[int, int]]]:
    """The bare text, how it maps to the text, the markers (bare position, number, start, end), and code blocks."""
    bare, size, done = [], 0, 0
    kept: Kept = [(0, 0)]
    markers: list[tuple[int, int, int, int]] = []
    bounds: list[int] = []
    for found in _tokens(text):
        if found["fence"] is not None:
            bounds.append(size + (found.end() if len(bounds) % 2 else found.start()) - done)
        if found["marker"] is None:
            continue
        bare.append(text[done : found.start()])
        size += found.start() - done
        markers += [(size, number, found.start("marker"), found.end()) for number in _numbers(found["marker"])]
        done = found.end()
        kept.append((size, done))
    bare.append(text[done:])
    whole = "".join(bare)
    if len(bounds) % 2:
        bounds.append(len(whole))
    return whole, kept, markers, list(zip(bounds[::2], bounds[1::2], strict=True))


def _in_text(position: int, kept: Kept) -> int:
    """Where a character of the bare text stands in the text."""
    bare, text = kept[bisect_left(kept, (position + 1, -1)) - 1]
    return text + position - bare


def _sentences(bare: str, fences: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sentences of the bare text; a code block is one."""
    spans, done = [], 0
    for start, end in fences:
        spans += [*sentences(bare, done, start), (start, end)]
        done = end
    return [*spans, *sentences(bare, done)]

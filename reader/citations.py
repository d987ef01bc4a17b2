"""Markers and what they point at: [n] in an answer, in every form that models write it, and exact quotes of a source.

A marker is found while the answer is still being written: text goes out as soon as no marker can begin in it. Pure
functions of text and records; knows no model, no index, and no judgement of what a source says.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import regex

from reader.records import Citation
from retrieval.errors import ChangedError
from retrieval.records import Document, Hit
from retrieval.sentences import sentences

_SPACE = r"[^\S\n]"
_WORD = (
    r"(?:documents?|docs?\.?|passages?|sources?|references?|refs?\.?|citations?|contexts?|excerpts?|chunks?"
    r"|文档|文件|段落|来源|出处|资料|引文|参考|材料)"
)
_NAMED = rf"(?:{_WORD}{_SPACE}?(?:no\.?|第|number)?{_SPACE}?[:：\#]?{_SPACE}?){{1,2}}"
_PLAIN = r"[\^\#]?[1-9]\d{0,2}(?!\d)"
_NUMBER = rf"[\[［【]?{_PLAIN}[\]］】]?"
_TO = r"(?:[–—~至到-]|to|through)"
_BETWEEN = rf"{_SPACE}{{0,2}}(?:,{_SPACE}?(?:and|or)|[,;、，；&+/]|and|or|和|与|及|以及|{_TO})?{_SPACE}{{0,2}}"
_PAGE = rf"[,，]{_SPACE}?(?:pages?|pp?\.|lines?|§|第){_SPACE}?\d{{1,5}}(?:[–-]\d{{1,5}})?(?:页|行)?"
_MORE_PLAIN, _MORE = (rf"(?:{_BETWEEN}(?:{_NAMED})?{number}){{0,20}}(?:{_PAGE})?" for number in (_PLAIN, _NUMBER))
_TOKEN = regex.compile(
    rf"(?P<fence>```)|(?P<code>`[^`\n]{{1,300}}`)|(?P<link>\[[^\[\]\n]{{1,200}}\]\([^\s()]{{1,300}}\))"
    rf"|(?P<before>{_SPACE}{{0,4}})(?P<marker>"
    rf"[\[［【]{_SPACE}?(?:{_NAMED})?{_PLAIN}{_MORE_PLAIN}(?:†[^\[\]［］【】\n]{{0,60}})?{_SPACE}?[\]］】](?!\([^\s()]{{1,300}}\))"
    rf"|[(（]{_SPACE}?(?:see{_SPACE}|参见|见)?{_NAMED}{_NUMBER}{_MORE}{_SPACE}?[)）])"
    rf"|(?:\A|(?<=[\n.!?。！？)\]］】”\"*_]))(?P<before>{_SPACE}{{0,4}})"  # what a new sentence begins behind
    rf"(?P<marker>(?:Sources?|References?|来源|出处){_SPACE}?[:：]{_SPACE}{{0,2}}(?:{_WORD}{_SPACE})?{_NUMBER}{_MORE}"
    rf"(?={_SPACE}*[.。]?{_SPACE}*(?:\n|\Z)|\.{_SPACE}|。))",
    regex.IGNORECASE,
)
_FENCE = regex.compile(r"(?P<fence>```)(?P<marker>(?!))?")
_OPENING = regex.compile(rf"{_SPACE}{{0,4}}[\[［【(（]|{_SPACE}{{0,4}}\b[SR来出]|`", regex.IGNORECASE)
_UNDECIDED = regex.compile(rf"{_SPACE}*[.。]?{_SPACE}*|\([^\s()]{{0,300}}")
"""What may stand between a marker and what decides whether it is one, or a link."""
_NOT_NUMBERS = regex.compile(rf"{_PAGE}|†.*", regex.IGNORECASE)
_RANGE_OR_NUMBER = regex.compile(
    rf"(\d{{1,3}}){_SPACE}{{0,2}}{_TO}{_SPACE}{{0,2}}(\d{{1,3}})|(\d{{1,3}})", regex.IGNORECASE
)
_LONGEST_RANGE = 20
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}。！？；，、]")
_LIST_NUMBER = regex.compile(r"[(（]?\d{1,3}[.)）、]")
_NO_CLAIM = regex.compile(r"#|.*[:：?？][*_”\"]*\Z|[^\p{L}\p{N}]*\Z", regex.DOTALL)
"""Headings, what announces a list, questions, rules: they say nothing that a source could bear out."""


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

    shown: numbers that the model was shown. Markers in code are code. removed: numbers that were not shown, in order.
    places: of the markers in the text, (start, end, numbers).
    """

    def __init__(self, shown: Collection[int]) -> None:
        self._shown = frozenset(shown)
        self._pending, self._seen = "", 0
        self._in_fence = False
        self._length, self._last, self._owed = 0, "", ""
        self.removed: list[int] = []
        self.places: list[Place] = []
        self.fences: list[int] = []

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
            self._put(out, text[done : found.start()])
            self._resolve(out, found)
            done = found.end()
        else:
            found = None
        end = found.start() if found else len(text)
        self._put(out, text[done:end])
        self._seen = min(end, 1)
        self._pending = text[end - self._seen :]
        return "".join(out)

    def _put(self, out: list[str], text: str) -> None:
        out.append(text)
        self._length += len(text)
        self._last = text[-1:] or self._last
        self._owed = "" if text else self._owed

    def _resolve(self, out: list[str], found: Any) -> None:
        if found["fence"] is not None:
            self._in_fence = not self._in_fence
            self.fences.append(self._length + (0 if self._in_fence else len(found[0])))
        if found["marker"] is None:
            self._put(out, found[0])
            return
        numbers = _numbers(found["marker"])
        self.removed += [number for number in numbers if number not in self._shown]
        kept = [number for number in numbers if number in self._shown]
        if not kept:  # what stands around it must not become a marker
            self._put(out, " " if self._last in {"[", "［", "【"} else "")
            self._owed = found["before"] or self._owed
            return
        self._put(out, found["before"] or self._owed)
        start = self._length
        self._put(out, "".join(f"[{number}]" for number in kept))
        self.places.append((start, self._length, tuple(kept)))


Place = tuple[int, int, tuple[int, ...]]
"""Where a marker stands in a text, and its numbers."""


def resolve(written: str, shown: Collection[int]) -> Resolved:
    """Bring every marker into the form [n], remove numbers that were never shown, and cut the text into claims."""
    resolver = MarkerResolver(shown)
    text = resolver.feed(written) + resolver.close()
    left, right = len(text) - len(text.lstrip()), len(text.rstrip())
    fences = [*resolver.fences, right] if len(resolver.fences) % 2 else resolver.fences
    claims = _claims(text, resolver.places, list(zip(fences[::2], fences[1::2], strict=True)))
    moved = tuple(replace(claim, start=claim.start - left, end=claim.end - left) for claim in claims)
    return Resolved(text[left : max(left, right)], moved, tuple(resolver.removed))


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


def require_same(document: Document, hit: Hit) -> None:
    """Raise ChangedError where a document does not hold the text of a hit any more, at its place."""
    if document.text[hit.start : hit.end] != hit.text:
        raise ChangedError(f"'{hit.source}' changed in the index while it was read; ask again")


def cite(marker: int, document: Document, hit: Hit, span: tuple[int, int]) -> Citation:
    """Quote a stretch of a hit's text, by its characters; the quote is cut from the document itself.

    Raises ChangedError where the document does not hold that text any more.
    """
    require_same(document, hit)
    first, last = hit.start + span[0], hit.start + span[1]
    quote = document.text[first:last]
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
        slide=document.slide_at(first),
        sheet=document.sheet_at(first),
        row=document.row_at(first),
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
    """The numbers of a marker, ranges written out, each once; not those of pages."""
    numbers: list[int] = []
    for first, last, one in _RANGE_OR_NUMBER.findall(_NOT_NUMBERS.sub("", marker)):
        if one:
            numbers.append(int(one))
        elif 0 < int(last) - int(first) <= _LONGEST_RANGE:
            numbers += range(int(first), int(last) + 1)
        else:
            numbers += [int(first), int(last)]
    return list(dict.fromkeys(numbers))


def _claims(text: str, places: Sequence[Place], fences: Sequence[tuple[int, int]]) -> Iterator[Claim]:
    """Sentences with their markers, in order; those that claim nothing and cite nothing are left out.

    A marker behind a sentence belongs to it. Where the answer begins with a marker, they stand before their sentences.
    """
    bare = _Bare(text, places)
    spans = _sentences(bare.text, [(bare.position(a), bare.position(b)) for a, b in fences])
    if not spans:
        return
    starts = [start for start, _ in spans]
    cited: list[list[Place]] = [[] for _ in spans]
    leading = bool(places) and bare.position(places[0][0]) <= starts[0]
    for place in places:
        position = bare.position(place[0])
        owner = max(bisect_left(starts, position) - 1, 0)
        _, end = spans[owner]
        behind = position >= end and owner + 1 < len(spans)
        cited[owner + (behind and (leading or "\n" in bare.text[end:position]))].append(place)
    for (start, end), own in zip(spans, cited, strict=True):
        words = bare.text[start:end]
        if not any(map(str.isalnum, words)) or (_NO_CLAIM.match(words) and not own):
            continue
        yield Claim(
            start=min([bare.place(start), *(place[0] for place in own)]),
            end=max([bare.place(end - 1) + 1, *(place[1] for place in own)]),
            words=words,
            markers=tuple(dict.fromkeys(number for place in own for number in place[2])),
        )


class _Bare:
    """A text without its markers and the white space before them, and where its characters stand in the text."""

    def __init__(self, text: str, places: Sequence[Place]) -> None:
        parts, done = [], 0
        self._from: list[int] = []  # positions in the bare text from which on ...
        self._gaps: list[tuple[int, int]] = []  # ... these stretches of the text are left out
        size = 0
        for start, end, _ in places:
            first = done + len(text[done:start].rstrip(" \t"))
            parts.append(text[done:first])
            size += first - done
            self._from.append(size)
            self._gaps.append((first, end))
            done = end
        self.text = "".join([*parts, text[done:]])

    def position(self, place: int) -> int:
        """Where a character of the text stands in the bare text; the next one there, if it was left out."""
        return place - sum(min(place, end) - start for start, end in self._gaps if start < place)

    def place(self, position: int) -> int:
        """Where a character of the bare text stands in the text."""
        behind = bisect_right(self._from, position)
        return position + sum(end - start for start, end in self._gaps[:behind])


def _sentences(bare: str, fences: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sentences of the bare text; a code block is one, and the number of a list item belongs to what it numbers."""
    spans: list[tuple[int, int]] = []
    done = 0
    for start, end in [*fences, (len(bare), len(bare))]:
        for first, last in sentences(bare, done, start):
            if spans and _LIST_NUMBER.fullmatch(bare[spans[-1][0] : spans[-1][1]]):
                first = spans.pop()[0]  # noqa: PLW2901 - the sentence begins with its number
            spans.append((first, last))
        if start < end:
            spans.append((start, end))
        done = end
    return spans

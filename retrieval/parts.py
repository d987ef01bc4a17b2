"""Find the parts of a question that asks several things, and merge what each part found. Knows words and ranks.

Conservative on purpose, English and Chinese, no model: a question is cut only where both sides ask something by
themselves. What only explains ("Combustion needs a fuel. What does oxygen do?"), refers back ("... and when was it
built?") or has fewer than two words of content stays with its neighbour, so names with "and", lists and relative
clauses stay whole. Knows nothing of indexes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from retrieval.sentences import sentence_starts

MAX_PARTS = 4
MAX_CHARS = 4000
RRF_K = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009), as in the paper."""

_WH = r"what|who|whom|whose|which|when|where|why|how"
_AUXILIARY = "do|does|did|can|could|should|will|would|is|are|was|were|has|have|had|am|may|must|shall"
_COMMANDS = "explain|describe|list|compare|define|show|tell|give|name|find|summari[sz]e"
_SUBJECT = "i|you|we|one|there|the|a|an|my|our|your"
_ZH_ASKS = (
    "什么|什麼|怎么|怎麼|怎样|怎樣|如何|为何|為何|为什|為什|哪|谁|誰|几|幾|"
    "多少|多久|多大|多长|多高|多远|是否|吗|嗎|何时|何時|何地|何处"
)
_ASKS = re.compile(rf"\b(?:{_WH})\b|{_ZH_ASKS}", re.IGNORECASE)
_BEGINS = re.compile(rf"\W*(?:{_WH})\b", re.IGNORECASE)
_REQUEST = re.compile(
    rf"\W*(?:please\s+)?(?:{_AUXILIARY}|{_COMMANDS})\b"
    r"|\s*(?:请|請)",
    re.IGNORECASE,
)
_RELATIVE = re.compile(rf"\b(?:{_WH}|that)\b", re.IGNORECASE)
# "that" is left out: it is a conjunction more often than it points back
_REFERS_BACK = re.compile(
    r"\b(?:it|its|they|them|their|he|him|his|she|her|hers|this|these|those|so|either|neither|former|latter|"
    r"the same|if not|if so|else)\b|[它他她其]|这|這|那[个些么時时里]|该|該",
    re.IGNORECASE,
)
_BREAK = re.compile(r"[?？]+[\"'”’)）」』]*\s*(?=\S)|[;；]\s*|\n\s*")
_ITEM = re.compile(r"(?<![^\s,;:：，；。?？])[(（]?(?:(\d)|([a-d]))[.)）、]\s*(?=\S)")
_JOINT = re.compile(
    rf"[,;]?\s+(?:(?:and\s+also|as\s+well\s+as|along\s+with|plus|and)\s+)(?=(?:also\s+)?(?:in|at|on|by|from|for|to|of|with)?"
    rf"\s*(?:{_WH})\b|(?:do|does|did|can|could|should|will|would|is|are)\s+(?:{_SUBJECT})\b)",
    re.IGNORECASE,
)
_ZH_JOINT = re.compile(r"[，,、]?\s*(?:以及|另外|还有|還有|并且|並且|同时|同時)[，,]?\s*")
_TITLE = re.compile(r"\b[A-Z]\w{0,3}\.\s*$")
_OPEN, _CLOSED = "“「『《(（", "”」』》)）"
_STRAY = " \t\r\n,;:，；：、"
_LEADING = re.compile(
    r"(?:and\s+also|and|also|plus|then)\b[\s,]*|(?:以及|另外|还有|還有|并且|並且)[，,]?", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_\u3400-\u9fff]+(?:['’.\-][^\W_\u3400-\u9fff]+)*")
_HAN = re.compile(r"[\u3400-\u9fff]+")
_EMPTY_HAN = re.compile(
    rf"{_ZH_ASKS}|[的了是在和与與及或有被由对對从從将將把于於也都就才又给給]|以及|另外|还有|还|時候|时候|地方|一个|么|呢|吧|请|可以"
)
_EMPTY_WORDS = frozenset(
    f"{_WH}|{_AUXILIARY}|{_SUBJECT}|a|an|and|or|of|in|on|at|to|for|from|by|with|as|be|been|being|not|no|also|well|me|us|it|"
    "its|they|them|their|he|his|she|her|him|this|that|these|those|please|tell|give|explain|describe|show|list|name|find|"
    "about|much|many|kind|type|thing|things|mean|means|need|want|get|does|into|than|then|if|so|any|some".split("|")
)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a question, `question[start:end] == text`, that asks something by itself."""

    text: str
    start: int
    end: int


def parts(question: str) -> tuple[Part, ...]:
    """The parts of a question in order, at most MAX_PARTS, the last with all that is left.

    A question that asks one thing, or is too long to be one (MAX_CHARS), is one part, equal to it.
    """
    spans = [] if len(question) > MAX_CHARS else _joined(question, _pieces(question))
    if len(spans) < 2:
        return (Part(question, 0, len(question)),)
    if len(spans) > MAX_PARTS:
        spans[MAX_PARTS - 1 :] = [(spans[MAX_PARTS - 1][0], spans[-1][1])]
    return tuple(Part(question[start:end], start, end) for start, end in spans)


Id = TypeVar("Id", bound=Hashable)


def merge(whole: Sequence[Id], by_part: Sequence[Sequence[Id]]) -> list[Id]:
    """Merge the ranking of a whole question with those of its parts, ids best first; every id comes once.

    First the best of the whole question, then the best of each part that is not there yet: with n parts these are
    among the first n + 1. The rest follows by reciprocal rank fusion, in which all parts together weigh as much as the
    whole; ties keep the order of the rankings. Without parts the ranking comes back as it is.
    """
    heads = [ranking[0] for ranking in (whole, *by_part) if ranking]
    fused: dict[Id, float] = {}
    for weight, ranking in [(1.0, whole), *((1 / len(by_part), ranking) for ranking in by_part)]:
        for rank, one in enumerate(dict.fromkeys(ranking), start=1):
            fused[one] = fused.get(one, 0.0) + weight / (RRF_K + rank)
    return list(dict.fromkeys([*heads, *sorted(fused, key=lambda one: -fused[one])]))


# ---- cutting ---------------------------------------------------------------------------------------------------------


def _pieces(question: str) -> Iterator[tuple[int, int]]:
    """Stretches between the places where a part may begin, without marks and connectives around them."""
    starts = (start for start in sentence_starts(question) if not _TITLE.search(question, max(0, start - 8), start))
    cuts = {*starts, *(found.end() for found in _BREAK.finditer(question)), *_items(question)}
    whole = {cut for cut in cuts if not _is_quoted(question, cut)} | {0, len(question)}
    for start, end in pairwise(sorted(whole)):
        last = start
        for joint in _joints(question, start, end):
            yield from _trimmed(question, last, joint.start())
            last = joint.end()
        yield from _trimmed(question, last, end)


def _is_quoted(question: str, position: int) -> bool:
    """Whether a position is inside quotation marks or brackets."""
    opened = sum(question.count(mark, 0, position) for mark in _OPEN)
    closed = sum(question.count(mark, 0, position) for mark in _CLOSED)
    return opened > closed or question.count('"', 0, position) % 2 == 1


def _items(question: str) -> list[int]:
    """Where the items of an enumeration begin: 1) 2) 3) or a) b) c), counted without a gap."""
    found = list(_ITEM.finditer(question))
    numbers = ["123456789".find(item[1]) if item[1] else "abcd".find(item[2]) for item in found]
    return [item.start() for item in found] if len(found) > 1 and numbers == list(range(len(found))) else []


def _joints(question: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """Connectives inside one sentence with a clause that asks on either side."""
    last = start
    for joint in sorted(
        [*_JOINT.finditer(question, start, end), *_ZH_JOINT.finditer(question, start, end)], key=lambda one: one.start()
    ):
        left, right = question[last : joint.start()], question[joint.end() : end]
        if not all(_asks_itself(side) and (_ASKS.search(side) or _REQUEST.match(side)) for side in (left, right)):
            continue
        # "the man that did this and who did that": a second relative clause is no second question
        if len(_RELATIVE.findall(left)) > 1 and re.match(
            r"(?:who|which|whose|whom|where|when)\b", right, re.IGNORECASE
        ):
            continue
        yield joint
        last = joint.end()


def _trimmed(question: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The stretch without white space, marks, item numbers and connectives at its edges, if anything is left."""
    piece = question[start:end]
    item = _ITEM.match(piece.lstrip(_STRAY))
    lead = len(piece) - len(piece.lstrip(_STRAY))
    lead += item.end() if item else 0
    if joint := _LEADING.match(piece, lead):
        lead = joint.end()
    tail = len(piece.rstrip(_STRAY))
    if lead < tail:
        yield start + lead, start + tail


def _joined(question: str, pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join what cannot stand alone to what comes before it, or, at the beginning, to what comes after."""
    joined: list[tuple[int, int]] = []
    waiting: int | None = None  # where the statements begin that the first question stands on
    for start, end in pieces:
        text = question[start:end]
        alone = _asks_itself(text) and not _REFERS_BACK.search(text)
        if joined and not alone:
            joined[-1] = (joined[-1][0], end)
        elif joined or _asks_itself(text):
            joined.append((start if waiting is None else waiting, end))
            waiting = None
        elif waiting is None:
            waiting = start
    return joined


def _asks_itself(text: str) -> bool:
    """Whether a stretch reads as a question or a request, with two words of content."""
    said = text.endswith((".", "。")) and not _BEGINS.match(text)  # "a set which has no names." asks nothing
    asked = text.endswith(("?", "？")) or (bool(_ASKS.search(text)) and not said)
    return (asked or bool(_REQUEST.match(text))) and _content(text) >= 2


def _content(text: str) -> int:
    """How many words of content a text has; two Chinese characters count as one."""
    words = sum(word.lower() not in _EMPTY_WORDS for word in _WORD.findall(text))
    return words + sum(len(_EMPTY_HAN.sub("", run)) for run in _HAN.findall(text)) // 2

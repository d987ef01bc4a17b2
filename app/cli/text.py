"""Text of documents, file names and questions made safe and readable for a terminal. Knows characters; no records.

Nothing here is ever parsed as markup, and no character of a document can move the cursor, change a colour or turn the
reading direction: what would do so is shown instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MARK = "bold underline"
EXCERPT_CHARS = 240
"""About three lines of a terminal."""

_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
# Direction overrides and isolates can show a text in another order than it has; line separators break lines unseen.
_DIRECTION = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)}
_NAME_TABLE = _CONTROL_PICTURES | _C1 | _DIRECTION
_TEXT_TABLE = {**_NAME_TABLE, ord("\n"): "\n", ord("\t"): "    "}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LINE_END = re.compile(r"\r\n?")
# Scripts written without spaces: their words are not found by \w+, so pairs of characters stand in for words.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]{2,}")
_WORD = re.compile(r"\w+")
# English words that say nothing of a text's subject: marking them would hide the words that do. For display only.
_FUNCTION_WORDS = {
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "did", "for", "from", "has", "have",
    "how", "in", "is", "it", "its", "of", "on", "or", "that", "the", "their", "then", "there", "these", "this",
    "to", "was", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with", "you",
    "your",
}  # fmt: skip
_RULE = re.compile(r"([^\w\s])\1{3,}")


def visible(text: str, *, one_line: bool = True) -> str:
    """Show control characters instead of sending them. With `one_line` line ends and tabs are shown too."""
    if not one_line:
        text = _LINE_END.sub("\n", text)
    shown = text.translate(_NAME_TABLE if one_line else _TEXT_TABLE)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", shown)


def marked(text: str, marks: Iterable[tuple[int, int]], *, one_line: bool = False, style: str = "") -> Text:
    """Safe text with the stretches `text[start:end]` emphasised; stretches may overlap and are cut to the text."""
    result = Text(style=style)
    done = 0
    for start, end in sorted(marks):
        begin, stop = max(start, done), min(end, len(text))
        if begin < stop:
            result.append(visible(text[done:begin], one_line=one_line))
            result.append(visible(text[begin:stop], one_line=one_line), style=MARK)
            done = stop
    result.append(visible(text[done:], one_line=one_line))
    return result


def terms(question: str) -> tuple[str, ...]:
    """The words of a question worth looking for in a text; pairs of characters where no spaces are.

    Single letters and function words are left out, unless the question holds nothing else.
    """
    found: dict[str, None] = {}
    for run in _UNSPACED.findall(question):
        found.update((run[at : at + 2], None) for at in range(len(run) - 1))
    words = dict.fromkeys(word.lower() for word in _WORD.findall(_UNSPACED.sub(" ", question)))
    telling = {word: None for word in words if len(word) > 1 and word not in _FUNCTION_WORDS}
    return tuple(found | telling or words)


def find_terms(text: str, wanted: Sequence[str]) -> list[tuple[int, int]]:
    """Where words begin with one of the terms (anywhere, in unspaced scripts), in order of the text."""
    if not wanted:
        return []
    longest_first = sorted(wanted, key=len, reverse=True)
    parts = [re.escape(term) if _UNSPACED.match(term) else rf"\b{re.escape(term)}\w*" for term in longest_first]
    return [found.span() for found in re.finditer("|".join(parts), text, re.IGNORECASE)]


def excerpt(text: str, question: str, *, max_chars: int = EXCERPT_CHARS) -> Text:
    """The stretch of a text that holds most of the question's words, on one line, with the words marked.

    Words count by their length: long ones are rare ones, and no list of stop words is needed.
    """
    flat = _RULE.sub(r"\1\1\1", " ".join(text.split()))
    spans = find_terms(flat, terms(question))
    start = _sentence_start(flat, _best_start(flat, spans, max_chars))
    end = min(len(flat), start + max_chars)
    if end < len(flat):
        end = max(flat.rfind(" ", start + max_chars // 2, end), start + max_chars // 2)
    inside = [(begin - start, stop - start) for begin, stop in spans if start <= begin < end]
    shown = marked(flat[start:end], inside, one_line=True)
    return Text.assemble("…" if start else "", shown, "…" if end < len(flat) else "")


def _best_start(text: str, spans: Sequence[tuple[int, int]], max_chars: int) -> int:
    best, best_score = 0, 0
    for first, (start, _) in enumerate(spans):
        words = {text[a:b].lower() for a, b in spans[first : first + 64] if b <= start + max_chars * 3 // 4}
        score = sum(map(len, words))
        if score > best_score:
            best, best_score = start, score
    return best


def _sentence_start(text: str, position: int, reach: int = 60) -> int:
    """The start of the sentence that holds a position, if it is near; else of a word near it."""
    low = max(0, position - reach)
    if low == 0:
        return 0
    sentence_end = text.rfind(". ", low, position)
    if sentence_end >= 0:
        return sentence_end + 2
    space = text.find(" ", low, position)
    return space + 1 if space >= 0 else position

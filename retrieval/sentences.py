"""Cut text into sentences and name their exact positions. Knows punctuation and line layout; knows no language.

A sentence ends at Latin or CJK end punctuation, at a blank line, and at a line end before a list item, a table row, a
quote, a heading or a code fence, and at the end of a heading or a table row. Any other line end does not end one: much
text is hard-wrapped. One pass, linear in the text: no part of the pattern gives back what it took.
"""

from __future__ import annotations

from itertools import pairwise

import regex

_BOUNDARY = regex.compile(
    r"""
      (?<![.!?…؟۔।॥]) (?P<stop>[.!?…؟۔।॥]++) ["'”’)\]*_`]*+ (?:\[\d{1,3}\])*+ \s++ (?=["'“‘(\[*_`]*+[^\p{Ll}\s])
    | [。！？；｡]++ [”’」』》）)】]*+ (?:\[\d{1,3}\])*+ \s*+
    | (?:\r\n|\r|\n) (?= [^\S\r\n]*+ (?: [-*+•]\s | \d{1,3}[.)]\s | [|>\#] | ```|~~~ ) )
    | (?<![^\r\n]) [ ]{0,3} (?: (?:\#{1,6}[ ]|\|) [^\r\n]*+ | (?:```|~~~)[ \t]*+(?=[\r\n]) ) (?:\r\n|\r|\n)?+
    | (?<=[:;|]) [^\S\r\n]*+ (?:\r\n|\r|\n)
    | (?:\r\n|\r|\n) [^\S\r\n]*+ (?:\r\n|\r|\n) \s*+
    """,
    regex.VERBOSE,
)
_ABBREVIATION = regex.compile(
    r"(?:\b\p{Lu}|\b(?:Dr|Mr|Mrs|Ms|St|Jr|Sr|No|Nos|vs|etc|e\.g|i\.e|cf|ca|Prof|Gen|Col|Lt|Sgt|Capt|Inc|Ltd|Co|Corp"
    r"|U\.S|U\.K|U\.N|[Aa]pprox|Vol|pp|Fig|Figs|Eq|Sec|Ch|al|Rev|Hon|Mt|Ft"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec))$"
)
_LONGEST_ABBREVIATION = 8


def sentence_starts(text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Positions in [start, end) where a sentence begins, ascending; the first is `start` unless the range is empty."""
    end = len(text) if end is None else end
    starts = [start] if start < end else []
    for match in _BOUNDARY.finditer(text, start, end):
        stop = match.start("stop")
        if (
            stop >= 0
            and match.group("stop") == "."
            and _ABBREVIATION.search(text, max(start, stop - _LONGEST_ABBREVIATION), stop)
        ):
            continue
        if starts[-1] < match.end() < end:
            starts.append(match.end())
    return starts


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Spans (start, end) of the sentences in a range, without the white space around them; blank ones left out."""
    end = len(text) if end is None else end
    spans = []
    for first, last in pairwise([*sentence_starts(text, start, end), end]):
        piece = text[first:last]
        left = first + len(piece) - len(piece.lstrip())
        right = first + len(piece.rstrip())
        if left < right:
            spans.append((left, right))
    return spans

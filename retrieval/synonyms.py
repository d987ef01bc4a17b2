"""Other words for the words of a question. Knows phrases and which stand for which; nothing of indexes or scores.

A phrase is found by its smallest analysed words, so inflected forms match, and only where whole words match. What is
added is never expanded again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.analyze import MAX_TERM_CHARS, Analyzer, Piece, read_lines
from retrieval.errors import ConfigError

MAX_PHRASES = 100_000
MAX_PHRASES_A_LINE = 32
MAX_ADDED = 64
"""At most so many phrases are added for one, over all lines that name it."""

_PHRASE_WEIGHT = 0.5
"""All terms of an added phrase together weigh half of one word that was asked for.

A synonym in a passage is worth less than the word itself, and a phrase of three words no more than one of one.
"""
_COMMA = re.compile("[,，、]")


@dataclass(frozen=True, slots=True)
class Expansion:
    """`phrase` == question[start:end] brought `added`, whose `terms` weigh `weight` each; a word asked for weighs 1."""

    phrase: str
    start: int
    end: int
    added: str
    terms: tuple[str, ...]
    weight: float


@dataclass(slots=True)
class _Node:
    """A place in the tree of phrases: what may come next, and the phrases that end here."""

    following: dict[str, _Node] = field(default_factory=dict)
    phrases: list[_Phrase] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Phrase:
    """A phrase of the file: the signs right before its first and after its last word (.NET, C++), what it brings."""

    text: str
    before: str
    after: str
    added: tuple[str, ...]


class Synonyms:
    """What each phrase brings: phrase -> other phrases, in order. Raises ConfigError where no word is in a phrase."""

    def __init__(self, brings: dict[str, tuple[str, ...]], analyzer: Analyzer) -> None:
        self._analyzer = analyzer
        self._root = _Node()
        for phrase, added in brings.items():
            pieces = list(analyzer.pieces(phrase))
            if not pieces:
                raise ConfigError(f"found the synonym {phrase!r}; expected a letter or digit in it")
            node = self._root
            for piece in pieces:
                node = node.following.setdefault(piece.term, _Node())
            node.phrases.append(_Phrase(phrase, phrase[: pieces[0].start], phrase[pieces[-1].end :], added))
            node.phrases.sort(key=lambda found: -len(found.before + found.after))
        facts = [*sorted(brings.items()), analyzer.fingerprint]
        self.fingerprint: str = hashlib.sha256(repr(facts).encode()).hexdigest()
        """Names the list and the analysis: equal fingerprints, equal expansions. 64 hex digits."""

    @classmethod
    def load(cls, path: Path, analyzer: Analyzer) -> Synonyms:
        """Read groups (`car, automobile, motor car`) and aliases (`GPU, 显卡 => graphics card`), one a line.

        UTF-8; full-width commas count; blank lines and lines that begin with # are comments. A question with one phrase
        of a group searches all of it; one with an alias searches what is right of the arrow, not the reverse. Raises
        ConfigError with file and line.
        """
        brings: dict[str, dict[str, None]] = {}
        for number, line in enumerate(read_lines(path, "synonym file"), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            place = f"synonym file {path}, line {number}"
            for phrase, added in _entries(line, analyzer, place):
                brings.setdefault(phrase, {}).update(dict.fromkeys(added))
                if len(brings[phrase]) > MAX_ADDED:
                    raise ConfigError(f"{place}: found more than {MAX_ADDED} synonyms for {phrase!r}; expected fewer")
            if len(brings) > MAX_PHRASES:
                raise ConfigError(f"{place}: found more than {MAX_PHRASES:,} phrases; expected at most as many")
        return cls({phrase: tuple(added) for phrase, added in brings.items()}, analyzer)

    def expand(self, question: str) -> tuple[Expansion, ...]:
        """What the phrases of a question bring, in its order; the longest phrase first, and none inside another.

        No term is added that is in the question or was added before.
        """
        known = set(self._analyzer.terms(question))
        found = []
        for start, end, phrases in self._matches(question):
            for added in dict.fromkeys(other for phrase in phrases for other in phrase.added):
                terms = tuple(term for term in dict.fromkeys(self._analyzer.terms(added)) if term not in known)
                if terms:
                    known.update(terms)
                    weight = _PHRASE_WEIGHT / len(terms)
                    found.append(Expansion(question[start:end], start, end, added, terms, weight))
        return tuple(found)

    def _matches(self, question: str) -> Iterator[tuple[int, int, list[_Phrase]]]:
        """Stretches that do not overlap, with the phrases of the file that they are."""
        pieces = list(self._analyzer.pieces(question))
        first = 0
        while first < len(pieces):
            match = self._longest(question, pieces, first) if pieces[first].opens else None
            if match:
                last, found = match
                yield pieces[first].start - len(found[0].before), pieces[last].end + len(found[0].after), found
                first = last
            first += 1

    def _longest(self, question: str, pieces: Sequence[Piece], first: int) -> tuple[int, list[_Phrase]] | None:
        """The last piece of the longest phrase that begins with the piece `first`, and the phrases spelt so."""
        best = None
        node: _Node | None = self._root
        for last in range(first, len(pieces)):
            node = node.following.get(pieces[last].term) if node else None
            if node is None:
                break
            start, end = pieces[first].start, pieces[last].end
            spelt = [
                phrase
                for phrase in node.phrases
                if question.endswith(phrase.before, 0, start) and question.startswith(phrase.after, end)
            ]
            if spelt and pieces[last].closes:
                signs = len(spelt[0].before + spelt[0].after)
                best = last, [phrase for phrase in spelt if len(phrase.before + phrase.after) == signs]
        return best


def _entries(line: str, analyzer: Analyzer, place: str) -> Iterator[tuple[str, list[str]]]:
    """Each phrase of a line that brings others, with those."""
    sides = line.split("=>")
    if len(sides) > 2:
        raise ConfigError(f"{place}: found {len(sides) - 1} arrows; expected: alias, alias => canonical")
    phrases = [_phrases(side, analyzer, place) for side in sides]
    if sum(map(len, phrases)) > MAX_PHRASES_A_LINE:
        raise ConfigError(f"{place}: found {sum(map(len, phrases))} phrases; expected at most {MAX_PHRASES_A_LINE}")
    if len(sides) == 2:
        aliases, canonical = phrases
        if len(canonical) != 1:
            raise ConfigError(f"{place}: found {len(canonical)} phrases right of the arrow; expected one")
        yield from ((alias, canonical) for alias in aliases)
        return
    if len(phrases[0]) < 2:
        raise ConfigError(f"{place}: found one phrase alone; expected: phrase, phrase or alias => canonical")
    for phrase in phrases[0]:
        yield phrase, [other for other in phrases[0] if other != phrase]


def _phrases(side: str, analyzer: Analyzer, place: str) -> list[str]:
    phrases = [" ".join(phrase.split()) for phrase in _COMMA.split(side)]
    for phrase in phrases:
        if len(phrase) > MAX_TERM_CHARS:
            raise ConfigError(f"{place}: found a phrase of {len(phrase)} characters; expected at most {MAX_TERM_CHARS}")
        if not any(True for _ in analyzer.pieces(phrase)):
            raise ConfigError(f"{place}: found the phrase {phrase!r}; expected a letter or digit between two commas")
    return list(dict.fromkeys(phrases))

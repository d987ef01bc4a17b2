"""Count a text's tokens by position, tokenising no word twice. Knows tokenizers; knows no structure, no chunks.

With a BERT tokenizer counts are exact: it splits at white space and punctuation before it looks into its vocabulary,
so what it makes of a word does not depend on the word's neighbours. Every distinct word is tokenised once, and
counting any stretch of a text is a subtraction. With other tokenizers the same sums are good estimates.
"""

from __future__ import annotations

import json
import re
import string
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import clean
from retrieval.graphemes import boundaries

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints = NDArray[np.int64]
Pieces = list[tuple[int, int]]
"""A word cut up: (offset in the word, tokens), ascending, the first offset 0."""

_SPACE = " \t\n\r"  # the white space that every tokenizer splits at; the rest counts as letters of a word
_WORD = re.compile(r"[^ \t\n\r]+")
_WORD_OR_GAP = re.compile(r"[^ \t\n\r]+|[ \t\n\r]{2,}|[\t\n\r]")
_WORD_BEGINS = re.compile(r"(?<=[ \t\n\r])[^ \t\n\r]")
_CJK_STOP = re.compile("[。！？；｡]")
_UNMARKED = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ASCII_PARTS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_SLICE_CHARS = 20_000  # a longer run without white space is tokenised in slices, to bound memory
_SECTION_CHARS = 1_000_000  # measured at once: the words of a text take twenty times its room
_SHORT_TEXT = 1 << 28  # characters; of less there are fewer tokens than 32 bits can count, even four for each
_MAX_KNOWN_WORDS = 500_000
_CUT_UP = -1  # stands for the count of a word that is known by its pieces


class Ruler:
    """Token counts of one text by position. Its atoms (words, pieces of long words) are never cut apart."""

    def __init__(self, text: str, parts: Iterable[tuple[Ints, Ints]]) -> None:
        """`parts`: starts of atoms, ascending, and the tokens of each; one stretch of the text after the other."""
        self._text = text
        code = "i" if len(text) < _SHORT_TEXT else "q"
        self._starts, totals = array(code), array(code, [0])
        for starts, tokens in parts:
            self._starts.frombytes(starts.astype(code).tobytes())
            totals.frombytes((totals[-1] + np.cumsum(tokens)).astype(code).tobytes())
        self._totals = np.asarray(totals)

    def totals(self, positions: Sequence[int]) -> list[int]:
        """Tokens before each of some positions, all of them cuts: counting a stretch is a subtraction."""
        wanted = np.array(positions, dtype=self._totals.dtype)  # of another type, all starts would be converted
        found: list[int] = self._totals[np.searchsorted(self._starts, wanted)].tolist()
        return found

    def is_cut(self, position: int) -> bool:
        """Whether no atom spans a position strictly inside the text."""
        if self._text[position] in _SPACE or self._text[position - 1] in _SPACE:
            return True
        index = bisect_left(self._starts, position)
        return index < len(self._starts) and self._starts[index] == position

    def atoms(self, start: int, end: int) -> Sequence[int]:
        """Starts of the atoms in a range."""
        return self._starts[bisect_left(self._starts, start) : bisect_left(self._starts, end)]

    def first_atom(self, position: int) -> int:
        """Where the first atom at or after a position starts; the end of the text when there is none."""
        index = bisect_left(self._starts, position)
        return self._starts[index] if index < len(self._starts) else len(self._text)


class TokenCounter:
    """Measures texts with what it remembers of words. Not safe for use by several threads at once.

    `is_exact`: counts are what the tokenizer gives, except that a run of letters with more than `atom_tokens` tokens
    or `max_chars` characters, or longer than a slice, is counted from above.
    """

    is_exact = False

    def __init__(self, tokenizer: Tokenizer, *, atom_tokens: int, max_chars: int) -> None:
        self._tokenizer = tokenizer
        self._atom_tokens = atom_tokens
        self._max_chars = max_chars
        self._short = min(atom_tokens, max_chars)
        self._step = max(1, self._short // 8)  # even letters that decompose into four make no piece too big
        self._known: dict[str, int] = {}

    def measure(self, text: str) -> Ruler:
        """The token counts of a text by position. Takes 8 bytes a word, 16 in a text of over 268 million characters."""
        return Ruler(text, (self._measure(text, first, last) for first, last in _sections(text)))

    def _measure(self, text: str, first: int, last: int) -> tuple[Ints, Ints]:
        """Starts and tokens of the atoms of a section."""
        words, starts = self._words_of(text[first:last])
        cut_up = self._learn(set(words))
        known = self._known
        counts = np.fromiter(map(known.get, words, repeat(_CUT_UP)), np.int64, len(words))
        if cut_up:
            starts, counts = _with_pieces(words, starts, counts, cut_up)
        return starts + first, counts

    def count(self, text: str) -> int:
        """Tokens of a short text."""
        words = _WORD.findall(text)
        cut_up = self._learn(set(words))
        return sum(self._known[w] if w in self._known else sum(tokens for _, tokens in cut_up[w]) for w in words)

    def _learn(self, words: set[str]) -> dict[str, Pieces]:
        """Tokenise the words not seen before; the long ones are returned in pieces and not remembered."""
        if len(self._known) > _MAX_KNOWN_WORDS:
            self._forget()
        new = words.difference(self._known)
        if not new:
            return {}
        long_words = [word for word in new if self._is_long(word)]
        new.difference_update(long_words)
        self._tokenize(new)
        return dict(zip(long_words, self._cut_up(long_words), strict=True)) if long_words else {}

    def _forget(self) -> None:
        self._known.clear()

    def _is_long(self, word: str) -> bool:
        """Whether a word may have more tokens than an atom, or a sentence may end inside it."""
        if word.isascii():
            return len(word) > self._short
        return len(word) * 3 > self._short or _CJK_STOP.search(word, 0, len(word) - 1) is not None

    def _words_of(self, text: str) -> tuple[list[str], Ints]:
        matches = list(_WORD_OR_GAP.finditer(text))
        starts = np.array([match.start() for match in matches], dtype=np.int64)
        return [match[0] for match in matches], starts

    def _tokenize(self, words: Collection[str]) -> None:
        encodings = self._tokenizer.encode_batch_fast([f" {clean(word)}" for word in words], add_special_tokens=False)
        self._known.update(zip(words, map(len, encodings), strict=True))

    def _cut_up(self, words: Sequence[str]) -> Iterator[Pieces]:
        """Cut long words behind CJK stops and every few letters."""
        for word in words:
            edges = sorted({*range(0, len(word), self._step), *(stop.end() for stop in _CJK_STOP.finditer(word))})
            pieces = [word[a:b] for a, b in zip(edges, [*edges[1:], len(word)], strict=True)]
            self._tokenize(set(pieces).difference(self._known))
            yield [(offset, self._known[piece]) for offset, piece in zip(edges, pieces, strict=True)]


class BertTokenCounter(TokenCounter):
    """The exact one, for tokenizers that clean and split text as BERT does and look words up by WordPiece."""

    is_exact = True

    def __init__(
        self, tokenizer: Tokenizer, *, atom_tokens: int, max_chars: int, lowercase: bool, word_chars: int
    ) -> None:
        super().__init__(tokenizer, atom_tokens=atom_tokens, max_chars=max_chars)
        self._lowercase = lowercase
        self._word_chars = word_chars  # a longer run of letters is one unknown token
        self._look_up = tokenizer.model.tokenize
        self._surplus: dict[str, int] = {}  # tokens less letters of runs of ASCII letters and digits

    def _forget(self) -> None:
        super()._forget()
        self._surplus.clear()

    def _words_of(self, text: str) -> tuple[list[str], Ints]:
        """Words and where they begin, found by the whole text at once because there are so many."""
        letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        blank = (letters == 32) | (letters == 10) | (letters == 9) | (letters == 13)
        words = text.split()
        if sum(map(len, words)) + np.count_nonzero(blank) < len(text):  # it split at rarer white space as well
            words = _WORD.findall(text)
        return words, np.flatnonzero(~blank & np.concatenate(([True], blank[:-1])))

    def _tokenize(self, words: Collection[str]) -> None:
        plain = [word for word in words if word.isascii() and word.isprintable()]
        other = [word for word in words if not (word.isascii() and word.isprintable())]
        self._known.update(zip(plain, self._count_plain(plain), strict=True))
        encodings = self._tokenizer.encode_batch_fast([clean(word) for word in other], add_special_tokens=False)
        self._known.update(zip(other, map(len, encodings), strict=True))

    def _count_plain(self, words: Sequence[str]) -> Iterator[int]:
        """Tokens of printable ASCII words: one for each punctuation mark, and those of the parts between them.

        All that happens to such a word before its parts are looked up is lower case and splitting.
        """
        joined = "\n".join(words).translate(_UNMARKED)
        parts = [word.split() for word in (joined.lower() if self._lowercase else joined).split("\n")]
        new = set(chain.from_iterable(parts)).difference(self._surplus)
        self._surplus.update((part, len(self._look_up(part)) - len(part)) for part in new)
        surplus = self._surplus.__getitem__
        return (len(word) + sum(map(surplus, one)) for word, one in zip(words, parts, strict=False))

    def _cut_up(self, words: Sequence[str]) -> Iterator[Pieces]:
        """Cut long words where the tokenizer itself does: at punctuation, ideographs, and rarer white space.

        What stays too long, or touches the edge of a slice, is cut finer and its tokens bounded by its letters.
        """
        for word in words:
            pieces: Pieces = []
            clusters: Sequence[int] = ()
            for base in range(0, len(word), _SLICE_CHARS):
                part = word[base : base + _SLICE_CHARS]
                runs = self._plain_runs(part) if part.isascii() and part.isprintable() else self._runs(part)
                torn = {0} if base else set()
                if base + len(part) < len(word):
                    torn.add(len(runs) - 1)
                for index, (start, end, tokens) in enumerate(runs):
                    if tokens <= self._atom_tokens and end - start <= self._max_chars and index not in torn:
                        pieces.append((base + start, tokens))
                        continue
                    clusters = clusters or (range(len(word) + 1) if word.isascii() else boundaries(word))
                    for first, last in _steps(base + start, base + end, self._step, clusters):
                        pieces.append((first, self._bound(word[first:last])))
            yield pieces

    def _plain_runs(self, part: str) -> list[tuple[int, int, int]]:
        """What `_runs` gives for printable ASCII, several times as fast."""
        runs = [match.span() for match in _ASCII_PARTS.finditer(part)]
        known = [part[start:end] for start, end in runs if end - start <= self._word_chars]
        counts = iter(self._count_plain(known))
        return [(start, end, next(counts) if end - start <= self._word_chars else 1) for start, end in runs]

    def _runs(self, part: str) -> list[tuple[int, int, int]]:
        """The tokenizer's own words in a text: (start, end, tokens), without gaps."""
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
        """As many tokens as there are letters left after cleaning: a token never has less than one."""
        normalizer = self._tokenizer.normalizer
        return len(normalizer.normalize_str(clean(letters)).replace(" ", "") if normalizer else letters)


def token_counter(tokenizer: Tokenizer, *, atom_tokens: int, max_chars: int) -> TokenCounter:
    """The best counter for a tokenizer: exact for BERT-like ones, estimates for others."""
    setup = json.loads(tokenizer.to_str())
    normalizer = setup["normalizer"]
    is_bert = (
        (setup["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and setup["model"].get("type") == "WordPiece"
        and (normalizer is None or normalizer.get("type") == "BertNormalizer")
        and all(token["special"] for token in setup["added_tokens"])
        and tokenizer.encode_special_tokens
    )
    if not is_bert:
        return TokenCounter(tokenizer, atom_tokens=atom_tokens, max_chars=max_chars)
    return BertTokenCounter(
        tokenizer,
        atom_tokens=atom_tokens,
        max_chars=max_chars,
        lowercase=bool(normalizer and normalizer["lowercase"]),
        word_chars=setup["model"]["max_input_chars_per_word"],
    )


def _sections(text: str) -> Iterator[tuple[int, int]]:
    """Stretches of a text that begin with a word, each of about a million characters: a word is never torn."""
    first = 0
    while first < len(text):
        begins = _WORD_BEGINS.search(text, first + _SECTION_CHARS)
        last = begins.start() if begins else len(text)
        yield first, last
        first = last


def _steps(start: int, end: int, step: int, clusters: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a range every `step` characters at most, and wherever a longer grapheme cluster begins or ends."""
    while start < end:
        index = bisect_right(clusters, start)
        whole = bisect_right(clusters, start + step) - 1
        within = clusters[index - 1] < start  # the piece begins inside a cluster
        stop = clusters[index] if within else clusters[max(whole, index)]
        stop = min(stop, start + step, end)
        yield start, stop
        start = stop


def _with_pieces(words: Sequence[str], starts: Ints, counts: Ints, cut_up: dict[str, Pieces]) -> tuple[Ints, Ints]:
    """Put the pieces of long words in place of the words."""
    found: list[int] = np.flatnonzero(counts == _CUT_UP).tolist()
    pieces = [cut_up[words[index]] for index in found]
    offsets, tokens = np.array(list(chain.from_iterable(pieces)), dtype=np.int64).T
    starts = np.concatenate((np.delete(starts, found), np.repeat(starts[found], list(map(len, pieces))) + offsets))
    counts = np.concatenate((np.delete(counts, found), tokens))
    order = np.argsort(starts)
    return starts[order], counts[order]

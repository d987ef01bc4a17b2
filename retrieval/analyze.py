"""Text to index terms: which stretch of a text counts as which word. Knows scripts; nothing of indexes or scores.

One analysis serves the lexical index and the choice of the sentence that answers: English words stemmed, identifiers
and hyphenated words split and kept whole, Chinese characters, bigrams and words.

Every measured number below is from halves (even, odd questions) of open sets, BM25 with k1=1.2, b=.75.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import regex

from retrieval.errors import ConfigError

ANALYSIS_VERSION = 1  # raise it when any text gives other terms than before: an index made before is then made again

MAX_TERM_CHARS = 128
"""A longer word is indexed by its first 128 characters, as many again after folding. No term is longer."""

MAX_LIST_BYTES = 10_000_000
MAX_DICTIONARY_WORDS = 200_000
_MAX_WEIGHT = 1_000_000_000  # jieba's own list ends at 883,634

# Scripts written without spaces, punctuation, fillers and symbols inside their blocks left out.
_HAN = "\u2f00-\u2fd5\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_THAI_TO_KHMER = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e81-\u0eff\u1000-\u1049\u1050-\u109d"
    "\u1780-\u17d3\u17d7\u17dc\u17dd\u17e0-\u17e9"
)
_KANA = "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
_HALF_KANA = "\uff66-\uff9f"
_JAMO = "\u1100-\u115e\u1161-\u11ff\u3131-\u3163\u3165-\u318e"
_UNSPACED = _HAN + _THAI_TO_KHMER + _KANA + _HALF_KANA + _JAMO + "\uac00-\ud7a3"
_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters by category, invisible by nature
# Marks; soft hyphen, zero-width joiners and word joiner stand inside a word without being part of it.
_JOINED = r"[\p{M}\xad\u200c\u200d\u2060]"
_LETTER = rf"[[\p{{L}}\p{{N}}]--[{_UNSPACED}{_FILLERS}]]"
_WORD = rf"{_LETTER}[[\p{{L}}\p{{N}}\p{{M}}\xad\u200c\u200d\u2060]--[{_UNSPACED}{_FILLERS}]]*+"
_HYPHENS = "\\-\u2010\u2011"
_TOKEN = regex.compile(
    rf"""
    ([{_UNSPACED}]++)
  | {_WORD}(?:(?:_++|[.{_HYPHENS}'’]|(?<=\d),(?=\d{{3}}(?!\d))|(?<=\d[eE])\+(?=\d)){_WORD})*+
    """,
    regex.VERBOSE | regex.VERSION1,
)
_HAN_RUN = re.compile(rf"[{_HAN}]+")
_LOOSE = re.compile(rf"[{_JAMO}{_HALF_KANA}\u3099\u309a]")
_CLUSTER = re.compile("[\u1100-\u115e][\u1161-\u11a7][\u11a8-\u11ff]?|.[\u3099\u309a\uff9e\uff9f]?", re.DOTALL)

# Parts of an identifier: a plural of capitals (GPUs), HTTP|Server, wav|2|vec|2, a version (4.38.2) in one piece.
_PART = regex.compile(
    rf"""
    \p{{N}}++(?:[.,]\p{{N}}++)*+
  | \p{{Lu}}{{2,}}+s(?!\p{{Ll}})
  | (?:\p{{Lu}}{_JOINED}*+)+(?!\p{{Ll}})
  | \p{{Lu}}?\p{{Ll}}(?:\p{{Ll}}|{_JOINED})*+
  | [\p{{L}}--[\p{{Lu}}\p{{Ll}}]](?:[\p{{L}}--[\p{{Lu}}\p{{Ll}}]]|{_JOINED})*+
    """,
    regex.VERBOSE | regex.VERSION1,
)
_PLURAL_OF_CAPITALS = regex.compile(r"\p{Lu}{2,}+s")
_NUMBER = regex.compile(r"[vV]?(?:\d++(?:\.\d++)++|\d{1,3}(?:,\d{3})++(?:\.\d++)?)|\d++(?:\.\d++)?[eE][-+]?\d++")
_ACRONYM = regex.compile(r"\p{L}\p{M}*+(?:\.\p{L}\p{M}*+)++")
_CONTRACTION = re.compile(r"(?i)['’](?:s|ll|re|ve|d|m)$")
_CLOSED_HYPHEN = re.compile(rf"(?<!\d)[{_HYPHENS}]|[{_HYPHENS}](?!\d)")

_STOP_WORDS = frozenset(
    # squad1_dev Success@1 .813, .815 with these, .802, .796 with the 33 of Lucene. "us" is a country.
    (  # noqa: SIM905 - a list of words reads best as words
        "a about also an and any are as at be been but by can could did do does for from had has have he her his how "
        "i if in into is it its just may me might my no not of on or our s she should so such t than that the their "
        "them then there these they this those to too was we were what when where which who whom whose why will with "
        "would you your eg ie "
        # cmrc2018_dev .947, .972 without Chinese ones, .964, .977 with the first line, .969, .978 with all
        "的 了 是 在 和 与 及 或 吗 呢 什么 怎么 哪 "
        "谁 何 几 么 这 那 为 有 被 等 其 由 于 并 把 从 到 也 就 都 多少 哪个 哪些 哪里 为什么 如何 是否 怎样 "
        "哪一 何时 怎么样 什么样 是什 么时 是谁 哪年 几年 请问"
    ).split()
)
_UNDECOMPOSED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"})


Located = tuple[str, int, int]
"""A term and the characters [start, end) it stands for."""


class Piece(NamedTuple):
    """A smallest word of a text; pieces do not overlap. `opens`, `closes`: whether a word begins, ends with it."""

    term: str
    start: int
    end: int
    opens: bool
    closes: bool


@dataclass(frozen=True, slots=True)
class UserDictionary:
    """Words that are always kept whole: word -> weight, None where the file gives none."""

    words: dict[str, int | None]
    fingerprint: str

    @classmethod
    def load(cls, path: Path) -> UserDictionary:
        """Read jieba's format: `word [weight] [tag]` a line, one space between, UTF-8; a word may hold spaces itself.

        jieba's tags have one to four small letters; a longer last word belongs to the word. Like jieba, no comments.
        Of a word that comes twice the last line holds. Raises ConfigError with file and line.
        """
        words: dict[str, int | None] = {}
        for number, line in enumerate(read_lines(path, "user dictionary"), 1):
            if not line.strip():
                continue
            word, weight = _dictionary_entry(line.strip(), f"user dictionary {path}, line {number}")
            words[word] = weight
            if len(words) > MAX_DICTIONARY_WORDS:
                raise ConfigError(
                    f"user dictionary {path}, line {number}: found more than {MAX_DICTIONARY_WORDS:,} words; "
                    "expected at most as many; leave out words the built-in list knows"
                )
        listing = "\n".join(f"{word}\t{weight}" for word, weight in sorted(words.items()))
        return cls(words, hashlib.sha256(listing.encode()).hexdigest())


_ENTRY = re.compile(r"(.+?)(?: ([0-9]+))?(?: [a-z]{1,4})?")


def _dictionary_entry(line: str, place: str) -> tuple[str, int | None]:
    """Word and weight of a line."""
    if line.startswith("# "):
        raise ConfigError(f"{place}: found {line[:40]!r}; jieba's format has no comments, remove the line")
    match = _ENTRY.fullmatch(line)
    word, weight = (match[1], match[2]) if match else (line, None)
    if len(word) > MAX_TERM_CHARS:
        raise ConfigError(f"{place}: found a word of {len(word):,} characters; expected at most {MAX_TERM_CHARS}")
    if not match or not any(map(str.isalnum, word)):
        raise ConfigError(
            f"{place}: found {line[:40]!r}; expected: word [weight] [tag], with a letter or digit in the word"
        )
    if weight and (len(weight) > 10 or not 0 < int(weight) <= _MAX_WEIGHT):
        raise ConfigError(f"{place}: found the weight {weight[:20]}; expected 1 to {_MAX_WEIGHT:,}")
    return word, int(weight) if weight else None


def read_lines(path: Path, what: str) -> list[str]:
    """Lines of a UTF-8 file of at most 10 MB, byte order mark left out. Raises ConfigError naming `what`."""
    try:
        if not path.is_file():
            raise ConfigError(f"{what} {path}: found no such file; expected a UTF-8 text file")
        with path.open("rb") as stream:
            data = stream.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what} {path}: cannot be read ({error.strerror}); check its permissions") from error
    if len(data) > MAX_LIST_BYTES:
        raise ConfigError(f"{what} {path}: found more than {MAX_LIST_BYTES:,} bytes; expected at most as many")
    try:
        return [line.rstrip("\r") for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}"
        raise ConfigError(
            f"{what} {path}, line {line}: found {found}; expected UTF-8; save the file as UTF-8"
        ) from error


class Analyzer:
    """Text to the terms of BM25, the same for passages and questions. Cheap to make; safe to use from several threads.

    - Words of spaced scripts: case and accents folded (café = cafe: those who type without accents mean the same),
      possessive and contracted endings dropped, stop words left out, English stemmed by Snowball. Success@1 squad1_dev,
      nDCG@10 scifact: Snowball .813, .815; .661, Porter .811, .812; .656, a light stemmer .808, .809; .632, none .791,
      .784; .637.
    - Identifiers and hyphenated words: every part and the whole, hyphens closed up (e-mail = email, GPT-4o = GPT4o;
      scifact nDCG@10 .661 to .675). Parts break between letters and digits as well: hit@1, hit@5 of hf_doc_qa_eval
      .80, .96 without, .84, 1.00 with it; without the whole .76, .92.
    - Numbers and versions: one term, never stemmed, in one form (1,000 = 1000, v0.1.0 = 0.1.0). Their parts are no
      terms: no question of hf_doc_qa_eval gained by it, one of scifact lost.
    - Chinese, traditional as simplified: every character, every bigram and the longer words of jieba (a word of two is
      its bigram: counted once). Success@1 xquad_zh, cmrc2018_dev, drcd_dev: words .932, .936; .966, .960; .926, .925;
      bigrams .940, .919; .958, .967; .940, .932; both .928, .915; .957, .966; .942, .926; with characters .932, .936;
      .964, .977; .938, .939; with all stop words .923, .940; .969, .978; .938, .940.
      Sentences are compared by the same terms: the best one of the gold document (MaxSim and idf overlap mixed by
      known share; 469, 800, 800 questions) is right in .804, .700, .848, by bigrams alone in .787, .695, .840.
    - Other scripts without spaces: bigrams. A lone character is its own term.
    """

    def __init__(self, dictionary: UserDictionary | None = None) -> None:
        self._dictionary = dictionary
        self._cached = lru_cache(maxsize=_CACHED_WORDS)(self._terms_between_spaces)

    @cached_property
    def fingerprint(self) -> str:
        """Names the analysis, its word lists and its packages: equal fingerprints, equal terms. 64 hex digits."""
        packages = [version(name) for name in ("rjieba", "PyStemmer", "OpenCC", "regex")]
        words = self._dictionary.fingerprint if self._dictionary else ""
        facts = [ANALYSIS_VERSION, unicodedata.unidata_version, *packages, words]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def terms(self, text: str) -> list[str]:
        """The index terms of a text, in order, with repeats. None is longer than 128 or holds white space."""
        if self._dictionary:
            return [term for term, _, _ in self.located_terms(text)]
        found: list[str] = []
        cached, computed = self._cached, self._terms_between_spaces
        for chunk in text.split():  # no term reaches over white space
            found += (cached if len(chunk) <= _CACHED_CHARS else computed)(chunk)[0]
        return found

    def term_set(self, text: str) -> frozenset[str]:
        """The different index terms of a text."""
        return frozenset(self.terms(text))

    def located_terms(self, text: str) -> Iterator[Located]:
        """Yield (term, start, end) in order of start: which characters of the text each index term stands for."""
        if not self._dictionary:
            return self._plain_terms(text)
        found = list(self._plain_terms(text))
        known = set(found)
        found += (word for word in self._matcher.find(text) if word not in known)
        found.sort(key=itemgetter(1))
        return iter(found)

    def _plain_terms(self, text: str) -> Iterator[Located]:
        for match in _CHUNK.finditer(text):
            chunk, offset = match[0], match.start()
            found = (self._cached if len(chunk) <= _CACHED_CHARS else self._terms_between_spaces)(chunk)[1]
            for term, start, end in found:
                yield term, offset + start, offset + end

    def pieces(self, text: str) -> Iterator[Piece]:
        """Yield the smallest words in order, stop words included: parts of identifiers, characters without spaces.

        In Chinese a word opens and closes where jieba says so by its word list (new words it guesses would hide known
        ones), in Korean it opens after a space, in other scripts without spaces anywhere.
        """
        for match in _TOKEN.finditer(text):
            offset = match.start()
            pieces = self._unspaced_pieces(match[1]) if match[1] else _spaced_pieces(match[0])
            for piece in pieces:
                yield piece._replace(start=offset + piece.start, end=offset + piece.end)

    def _terms_between_spaces(self, chunk: str) -> tuple[tuple[str, ...], tuple[Located, ...]]:
        """The terms of a stretch without white space, alone and located."""
        found: list[Located] = []
        for match in _TOKEN.finditer(chunk):
            run, offset = match[1], match.start()
            terms = self._unspaced_terms(run) if run else _spaced_terms(match[0])
            found += [(term, offset + start, offset + end) for term, start, end in terms] if offset else terms
        return tuple([term for term, _, _ in found]), tuple(found)

    def _unspaced_terms(self, run: str) -> list[Located]:
        characters, spans = _composed(run)
        single, words = self._han_terms(characters)
        found: list[Located] = []
        for i in range(len(characters)):
            if i in words:
                found.append((characters[i : words[i]], i, words[i]))
            if i + 1 < len(characters):
                found.append((characters[i : i + 2], i, i + 2))
            if i in single or len(characters) == 1:
                found.append((characters[i], i, i + 1))
        found = [located for located in found if located[0] not in _STOP_WORDS]
        return found if spans is None else [(term, spans[a][0], spans[b - 1][1]) for term, a, b in found]

    def _han_terms(self, characters: str) -> tuple[set[int], dict[int, int]]:
        """Where Chinese characters stand, and where words of three or more begin and end."""
        single: set[int] = set()
        words: dict[int, int] = {}
        for han in _HAN_RUN.finditer(characters):
            single.update(range(*han.span()))
            starts = self._word_starts(han[0], guess=True)
            words.update((han.start() + a, han.start() + b) for a, b in pairwise(starts) if b - a > 2)
        return single, words

    def _unspaced_pieces(self, run: str) -> Iterator[Piece]:
        characters, spans = _composed(run)
        inside = {
            han.start() + i
            for han in _HAN_RUN.finditer(characters)
            for i in set(range(len(han[0]))) - set(self._word_starts(han[0], guess=False))
        } | {i + 1 for i, pair in enumerate(pairwise(characters)) if _is_hangul(pair[0]) and _is_hangul(pair[1])}
        for i, (character, span) in enumerate(
            zip(characters, spans or [(k, k + 1) for k in range(len(characters))], strict=True)
        ):
            closes = i + 1 not in inside or _is_hangul(character)
            yield Piece(character, *span, i not in inside, closes)

    def _word_starts(self, han: str, *, guess: bool) -> list[int]:
        """Where jieba's words of a run of simplified characters begin, and where the last one ends."""
        starts = [0]
        for first in range(0, len(han), _LONGEST_CUT):
            for word in self._jieba.cut(han[first : first + _LONGEST_CUT], guess):
                starts.append(starts[-1] + len(word))
        return starts

    @cached_property
    def _jieba(self) -> Any:
        """An instance of our own where words are added, so that no other analyzer knows them."""
        return _jieba_with(self._dictionary) if self._dictionary else _plain_jieba()

    @cached_property
    def _matcher(self) -> _Matcher:
        return _Matcher(self._dictionary.words if self._dictionary else ())


_LONGEST_CUT = 100_000  # characters jieba gets at once: its working memory grows with them
_CHUNK = re.compile(r"\S+")
_CACHED_CHARS = 32  # what is longer hardly comes again
_CACHED_WORDS = 1 << 16  # 30 MB of ordinary words, 200 MB of the worst


def _spaced_terms(token: str) -> list[Located]:
    """Terms of a word and what is joined to it by a hyphen, dot, underscore or apostrophe."""
    found: list[Located] = []
    for start, end in _segments(token):
        found += _segment_terms(token[start:end], start)
    return found


def _segments(token: str) -> list[tuple[int, int]]:
    """Stretches between apostrophes; "'s" and its like dropped, of "don't" nothing left."""
    tail = token[-4:]
    if "'" not in token and "’" not in token:
        return [(0, len(token))]
    if tail[-3:].lower() in ("n't", "n’t"):
        return []
    contraction = _CONTRACTION.search(tail)
    end = len(token) - (len(tail) - contraction.start() if contraction else 0)
    return [match.span() for match in re.finditer("[^'’]+", token[:end])]


def _segment_terms(segment: str, offset: int) -> list[Located]:
    whole = _whole_number(segment)
    if whole is not None:
        return [(whole, offset, offset + len(segment))]
    if _ACRONYM.fullmatch(segment):
        return _kept(_acronym(segment), offset, offset + len(segment))
    spans = [match.span() for match in _PART.finditer(segment)]
    if len(spans) == 1:
        return _kept(_part(segment), offset, offset + len(segment))
    found = _kept(_whole(segment), offset, offset + len(segment))
    for start, end in spans:
        found += _kept(_part(segment[start:end]), offset + start, offset + end)
    return found


def _kept(term: str, start: int, end: int) -> list[Located]:
    """The term, unless there is nothing to it. A stop word is empty already."""
    return [(term, start, end)] if any(map(str.isalnum, term)) else []


def _whole_number(segment: str) -> str | None:
    """The one form of a number or version, None for anything else."""
    if not any(map(str.isdecimal, segment[:2])) or not _NUMBER.fullmatch(segment):
        return None
    return _fold(segment[:MAX_TERM_CHARS]).removeprefix("v").replace(",", "").replace("e+", "e")[:MAX_TERM_CHARS]


def _whole(segment: str) -> str:
    """An identifier as one term: hyphens closed up except between digits (3-5 is not 35), dots and underscores kept.

    Of letters alone it is stemmed like any word, so that YouTube meets youtube, and e-mails email.
    """
    closed = _CLOSED_HYPHEN.sub("", segment[:MAX_TERM_CHARS])
    return _stem(_word(closed))


def _acronym(segment: str) -> str:
    """U.S as us, like US; "" for e.g and i.e, but I.T is no it."""
    closed = _fold(segment[:MAX_TERM_CHARS]).replace(".", "")
    return "" if segment.islower() and closed in _STOP_WORDS else closed


def _part(part: str) -> str:
    """A word as a term, "" for a stop word. GPUs are a GPU to Snowball only where there is a vowel: so not by it."""
    return _stem(_word(part[:-1] if _PLURAL_OF_CAPITALS.fullmatch(part) else part))


def _word(word: str) -> str:
    """A word folded, "" for a stop word."""
    folded = _fold(word[:MAX_TERM_CHARS])
    return "" if folded in _STOP_WORDS else folded


def _fold(word: str) -> str:
    """Case, width and accents folded; at most 128 characters of it. NFKD is quadratic: only short words come here.

    Marks that are letters (vowel signs, combining class 0, or nukta and virama) stay. й becomes и, as ё becomes е.
    """
    if word.isascii():
        return word.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", word).casefold()).translate(_UNDECOMPOSED)
    return unicodedata.normalize("NFC", "".join(filter(None, map(_folded_character, folded))))[:MAX_TERM_CHARS]


@lru_cache(maxsize=1 << 12)
def _folded_character(character: str) -> str:
    """One decomposed character, "" where it is an accent or invisible; any script's decimal digit as an ASCII one."""
    combining = unicodedata.combining(character)
    if combining >= 200 or 10 <= combining <= 35 or character.isspace():
        return ""
    category = unicodedata.category(character)
    if category in ("Me", "Cf") or "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return ""
    return str(unicodedata.decimal(character)) if category == "Nd" else character


_THREAD = threading.local()  # a stemmer may not be used by two threads at once


def _stem(word: str) -> str:
    """Snowball's stem of a word of English letters, any other word unchanged."""
    if not (word.isascii() and word.isalpha()):
        return word
    stemmer = getattr(_THREAD, "stemmer", None)
    if stemmer is None:
        from Stemmer import Stemmer  # type: ignore[import-not-found]  # a C extension without stubs

        stemmer = _THREAD.stemmer = Stemmer("english", 0)  # terms are cached here
    return str(stemmer.stemWord(word))


def _spaced_pieces(token: str) -> Iterator[Piece]:
    for start, end in _segments(token):
        segment = token[start:end]
        number = _whole_number(segment)
        if number is not None:
            yield Piece(number, start, end, True, True)
            continue
        if _ACRONYM.fullmatch(segment):
            yield Piece(_acronym(segment) or segment.lower(), start, end, True, True)
            continue
        spans = [match.span() for match in _PART.finditer(segment)]
        if len(spans) == 1:
            spans = [(0, len(segment))]
        for a, b in spans:
            opens = a == 0 or segment[a - 1] in _PIECE_BREAKS
            closes = b == len(segment) or segment[b] in _PIECE_BREAKS
            yield Piece(_stem(_fold(segment[a:b][:MAX_TERM_CHARS])), start + a, start + b, opens, closes)


_PIECE_BREAKS = "-\u2010\u2011"  # a car-rental has a car in it, a CarRental or a car_rental has none


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3"


def _composed(run: str) -> tuple[str, list[tuple[int, int]] | None]:
    """A run without spaces as simplified, composed, full-width characters, and which characters each stands for.

    None where each stands for the one at its place.
    """
    simplified = run.translate(simplified_characters())
    if not _LOOSE.search(simplified):
        return simplified, None
    characters: list[str] = []
    spans: list[tuple[int, int]] = []
    for cluster in _CLUSTER.finditer(simplified):
        composed = unicodedata.normalize("NFKC", cluster[0])
        if len(composed) == 1:
            characters.append(composed)
            spans.append(cluster.span())
            continue
        for place in range(*cluster.span()):
            alone = unicodedata.normalize("NFKC", simplified[place])
            characters.append(alone if len(alone) == 1 else simplified[place])
            spans.append((place, place + 1))
    return "".join(characters), spans


@cache
def simplified_characters() -> dict[int, str]:
    """A table for str.translate: traditional and compatibility characters to simplified ones, one to one.

    The one door to OpenCC (Apache-2.0, its character table is the origin of all others). 60 ms, once.
    """
    from opencc import OpenCC

    ranges = (0x2F00, 0x2FD6), (0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0)
    plain = [chr(code) for first, end in ranges for code in range(first, end)]
    converter = OpenCC("t2s")
    simple = "\n".join(unicodedata.normalize("NFKC", character) for character in plain)
    for _ in range(2):  # 薴 becomes 苧, and 苧 becomes 苎
        simple = converter.convert(simple)
    pairs = zip(plain, simple.split("\n"), strict=True)
    return {ord(one): other for one, other in pairs if one != other and len(other) == 1}


@cache
def _plain_jieba() -> Any:
    from rjieba import Jieba

    return Jieba()  # 0.12 s


def _jieba_with(dictionary: UserDictionary) -> Any:
    from rjieba import Jieba

    jieba = Jieba()
    for word, weight in dictionary.words.items():
        han = word.translate(simplified_characters())
        if _HAN_RUN.fullmatch(han):
            jieba.add_word(han, weight, None)
    return jieba


@dataclass(slots=True)
class _Matcher:
    """Finds every dictionary word in a text, each position times the lengths of words that begin like it.

    Compared character by character after folding case, width and traditional forms, so lengths stay. A word that
    begins or ends with a letter of a spaced script does not begin or end inside a word.
    """

    words: Iterable[str]
    _terms: dict[str, str] = field(default_factory=dict, init=False)
    _lengths: dict[str, list[int]] = field(default_factory=dict, init=False)
    _heads: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for word in self.words:
            aligned = _aligned(unicodedata.normalize("NFKC", word))
            term = _fold(aligned) if all(map(_SPACED_LETTER.match, aligned)) else "_".join(aligned.split())
            self._terms[aligned] = term[:MAX_TERM_CHARS]
            lengths[aligned[:2]].add(len(aligned))
        for head, found in lengths.items():
            self._lengths[head] = sorted(found | lengths.get(head[0], set()), reverse=True)
        heads = {head[0] for head in lengths}
        ascii_letters = "".join(head for head in heads if head.isascii() and head.isalnum())
        others = "".join(re.escape(head) for head in heads if not (head.isascii() and head.isalnum()))
        patterns = [f"(?<![0-9a-z])[{ascii_letters}]" * bool(ascii_letters), f"[{others}]" * bool(others)]
        self._heads = re.compile("|".join(filter(None, patterns)) or "(?!)")

    def find(self, text: str) -> Iterator[Located]:
        """Yield dictionary words in order of start, the longest first."""
        aligned = _aligned(text)
        lengths = self._lengths
        for match in self._heads.finditer(aligned):
            start = match.start()
            for length in lengths.get(aligned[start : start + 2]) or lengths.get(aligned[start]) or ():
                end = start + length
                term = self._terms.get(aligned[start:end])
                if term and end <= len(text) and not _cuts(aligned, start) and not _cuts(aligned, end):
                    yield term, start, end


_SPACED_LETTER = regex.compile(_LETTER, regex.VERSION1)


def _cuts(text: str, place: int) -> bool:
    """Whether a word of a spaced script goes on over this place."""
    return 0 < place < len(text) and all(map(_SPACED_LETTER.match, text[place - 1 : place + 1]))


def _aligned(text: str) -> str:
    """Case, width and traditional forms folded, one character for one character."""
    folded = text.translate(_aligning())
    lowered = folded.lower()
    if len(lowered) != len(folded):  # İ alone grows
        lowered = "".join(low if len(low := character.lower()) == 1 else character for character in folded)
    return lowered.replace("ς", "σ")


@cache
def _aligning() -> dict[int, str]:
    return simplified_characters() | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}


def is_stop_word(word: str) -> bool:
    """Whether a word says little by itself, question words included."""
    return word.lower() in _STOP_WORDS

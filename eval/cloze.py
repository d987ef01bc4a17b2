"""Make question-answer pairs from sentences without a language model: by templates, else by gaps to fill.

Knows passages, their terms and `eval.templates`; no model, no index. Every question is one that its words alone lead to
its passage: no other passage of the corpus holds all of its terms.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from eval.generate import Generated, Pair, Passage, drawing, letters, occurrences, pair, prose, weight
from eval.templates import Draft, drafts, is_generic
from reader.facts import names, numbers
from reader.reader import question_language
from retrieval.analyze import Analyzer, simplified_characters

_SPARE = 6  # candidates for each pair wanted: about one in three has no rival passage
_SENTENCE_WEIGHT = (36, 450)  # characters, an ideograph as three
_MOST_RAW = 2000  # characters with the markup; what is longer is no sentence
_MOST_ANSWER = 240  # likewise
_LEAST_QUESTION = 10
_WORDS_FROM = 2000  # passages tell which words are names
_MOST_TITLE = 60
_LEAST_TERMS = 2  # a question of fewer words of its own could be about anything

_LINK = re.compile(r"(?<!!)\[([^\[\]\n]{1,200})\]\([^()\s]{0,500}(?:\([^()\s]*\))?\)")
_REFERENCE = re.compile(r"\[(`~?[^\[\]`]{1,100}`)\]|\[\d{1,3}\]")
_CODE = re.compile(r"(``?)~?([^`\n]+?)\1")
# Strong, then weak; never the underscores of an identifier.
_EMPHASIS = re.compile(r"(\*\*|(?<![A-Za-z0-9*_])[*_])(?=[^\s*_])([^*\n]*?[^\s*_])\1(?!(?<=[*_])[A-Za-z0-9*_])")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
# A term or a heading above what is said of it, in plain text: "finally\n   The clause that ...".
_TERM_ABOVE = re.compile(r"[^\n]{1,60}\n[ \t]+\S|\W*[^\n]{1,40}\n[ \t]*[-=~*^]{3,}")
_ITEM = re.compile(r"^(?:[-*+•]|\d{1,3}[.)、])\s+")
_NO_SENTENCE = re.compile(
    r"[<>|{}\\\[\]]|https?:|\.{3}|…|:::|==|^[\"'“‘(（「]|^\W*$"
    r"|^(?:figure|table|source|see|example|note:|for example|for more|please|changed in|new in|added in|deprecated)\b"
    r"|^PEP \d|^(?:图|表|注|例如|比如|见)"
    r"|(?<!\b[A-Z])(?<!\b[DMS][rt])(?<!e\.g)(?<!i\.e)[.!?][\"”)]*\s",  # two sentences, or an abbreviation
    re.IGNORECASE,
)
_LEANS_EN = (
    r"^(?:he|she|it|they|we|this|that|these|those|such|here|there(?! (?:are|were)\b)|his|her|its|their|our|my|i|you"
    r"|your|both|others?|and|but|or|so|then|(?:some|one|most|many|each|all) of|another|instead|otherwise)\b"
    r"|\b(?:this|these|those|aforementioned|the (?:following|above|latter|former|same|previous|other)"
    r"|(?:as|see|shown|described|mentioned|discussed|listed|given|defined) (?:above|below|earlier|later|here)|above"
    r"|below|he|she|his|her|him|they|their|them|we|our|us|my|i|let's)\b"
)
_LEANS_ZH = (
    r"^(?:他|她|它|其|这|那|此|该|本(?!质|体|地|土|征|科|州)|我|你|您|咱|而|但|并|也|又|还|则|且|或|然后|之后|随后|同时"
    r"|因此|所以|于是|不过|另外|此外|后来|当时|其中|接着|最后|最终|首先|其次|再|请|让我|现在|今天|有些|有的|有人)"
    r"|[他她它牠]|我们|(?<![极尤与])其(?!实|中|次|余)|(?<![应活])该(?=\w)|另一|[这此][个些种里样时]"
    r"|本(?:文|节|章|页|作|片|剧|书|校|站|游戏|专辑|教程|指南)|如下|下面|上面|上述|以下|以上|前者|后者"
)
_LEANS = re.compile(f"{_LEANS_EN}|{_LEANS_ZH}", re.IGNORECASE)
"""Words that point at something outside of the sentence."""


class _Candidate(NamedTuple):
    """A question that passage.text[start:end] answers, in one or two wordings.

    The second says which document it is about, for where the first could be about several.
    """

    passage: Passage
    start: int
    end: int
    draft: Draft
    wordings: tuple[str, ...]


def cloze(passages: Sequence[Passage], *, count: int, seed: int, analyzer: Analyzer) -> Generated:
    """At most `count` pairs, drawn evenly over the documents, one a passage; the same for the same seed.

    Gaps to fill are used only where the templates give too few.
    """
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    dropped: Counter[str] = Counter()
    looked_at = templated = 0
    found: list[list[_Candidate]] = []
    common = _common_words(islice(drawing(passages, seed=seed), _WORDS_FROM))
    for passage in drawing(passages, seed=seed):
        if templated >= _SPARE * count:
            break
        looked_at += 1
        if candidates := _candidates(passage, common, dropped):
            chance.shuffle(candidates)
            found.append(candidates)
            templated += any(one.draft.kind != GAP for one in candidates)
    corpus = _Corpus(passages, analyzer, found)
    chosen = _Chosen(count)
    for gaps in (False, True):
        for candidates in found:
            chosen.take([one for one in candidates if (one.draft.kind == GAP) is gaps], corpus, dropped)
    return Generated(tuple(chosen.pairs.values()), dict(dropped), looked_at)


class _Chosen:
    """The pairs so far: at most `count`, one a passage, no question twice, the kinds as even as they come."""

    def __init__(self, count: int) -> None:
        self.pairs: dict[Passage, Pair] = {}
        self._count = count
        self._questions: set[str] = set()
        self._kinds: Counter[str] = Counter()

    def take(self, candidates: Sequence[_Candidate], corpus: _Corpus, dropped: Counter[str]) -> None:
        """Add a pair from the candidates of a passage, of the rarest kind so far that has a good one."""
        for one in sorted(candidates, key=lambda one: self._kinds[one.draft.kind]):
            if len(self.pairs) == self._count or one.passage in self.pairs:
                return
            made = corpus.pair(one)
            if made is None:
                dropped["other passages may answer it as well"] += 1
            elif letters(made.question) in self._questions:
                dropped["question was asked before"] += 1
            else:
                self._questions.add(letters(made.question))
                self._kinds[made.kind] += 1
                self.pairs[one.passage] = made


# ---- from a sentence to questions ------------------------------------------------------------------------------------

GAP = "cloze"
_BLANK = "____"
_GUESSED = ("True", "False", "None", "Python", "English")


def _candidates(passage: Passage, common: frozenset[str], dropped: Counter[str]) -> list[_Candidate]:
    """Every question that a passage's sentences give."""
    found: list[_Candidate] = []
    for start, end in prose(passage.text):
        raw = passage.text[start:end]
        sentence = plain(raw) if len(raw) <= _MOST_RAW else raw
        if why := _unfit(sentence, raw):
            dropped[why] += 1
            continue
        language = question_language(sentence)
        inner = _as_inside(sentence, common)
        made = [one for one in drafts(inner, language=language) if _holds(raw, one)]
        made += list(islice(_gaps(sentence, language), 1))
        if not made:
            dropped["sentence fits no template"] += 1
        found += [_Candidate(passage, start, end, one, _wordings(passage, one, language)) for one in made]
    return [one for one in found if one.wordings]


def _common_words(passages: Iterable[Passage]) -> frozenset[str]:
    """Words that are written small more often than with a capital inside a sentence: no names."""
    small: Counter[str] = Counter()
    for passage in passages:
        small.update(re.findall(r"\b[a-z]+\b", passage.text))
        small.subtract(word.lower() for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+\b", passage.text))
    return frozenset(word for word, times in small.items() if times > 0)


def _as_inside(sentence: str, common: frozenset[str]) -> str:
    """The sentence with its first word as it would be written further inside."""
    first = re.match(r"[A-Z][a-z]*\b(?!-|\s[A-Z])", sentence)
    if first and (first[0].lower() in common or sentence.startswith("The ")):
        return sentence[0].lower() + sentence[1:]
    return re.sub(r"^(?:The|A|An)\b", lambda found: found[0].lower(), sentence)


def plain(raw: str) -> str:
    """A sentence as a person reads it: without marks of emphasis, code and links, on one line."""
    text = _REFERENCE.sub(r"\1", _LINK.sub(r"\1", _ITEM.sub("", _INVISIBLE.sub("", raw).strip())))
    text = _CODE.sub(r"\2", _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", text)))
    return " ".join(text.strip("*").split())


def _unfit(sentence: str, raw: str) -> str:
    """Why no question is made of a sentence; "" for one that is fit."""
    low, high = _SENTENCE_WEIGHT
    if not low <= weight(sentence) <= high:
        return "sentence is too short or too long"
    simplified = sentence.translate(simplified_characters())
    if _TERM_ABOVE.match(raw) or _NO_SENTENCE.search(simplified) or not re.search(r"[.!。！][\"”’」』)）]*$", sentence):
        return "no whole sentence of plain words"
    return "sentence leans on those around it" if _LEANS.search(simplified) else ""


def _holds(raw: str, one: Draft) -> bool:
    """Whether the answer stands in the sentence once, is not given away, and says something."""
    answer = letters(one.answer)
    return (
        len(occurrences(raw, one.answer)) == 1
        and answer not in letters(one.question)
        and weight(one.answer) <= _MOST_ANSWER
        and weight(one.question) >= _LEAST_QUESTION
        and one.question.count('"') % 2 == 0
    )


def _wordings(passage: Passage, one: Draft, language: str) -> tuple[str, ...]:
    if one.kind == GAP:
        return (one.question,)
    mark = "？" if language == "zh" else "?"
    title = plain(passage.title or next(iter(passage.heading), "")).strip(" #.:。：")
    bare = one.question + mark
    if not 2 <= len(title) <= _MOST_TITLE:
        return () if is_generic(one.about) else (bare,)
    if letters(re.sub(r"[(（].*", "", title)) in letters(bare):
        return (bare,)
    if language == "zh":
        regarding = "关于" if bare == bare.translate(simplified_characters()) else "關於"
        named = f"{regarding}“{title}”：{bare}"
    else:
        named = f"Regarding “{title}”: {bare[0].lower()}{bare[1:]}"
    return (named,) if is_generic(one.about) else (bare, named)


def _gaps(sentence: str, language: str) -> Iterator[Draft]:
    """A sentence with one of its numbers or names left out: not its first word, nor what is easily guessed."""
    figures = [sentence[one.start : one.end].strip() for one in numbers(sentence) if one.stated and one.value > 10]
    for answer in (*figures, *names(sentence)):
        places = occurrences(sentence, answer)
        if len(places) == 1 and places[0][0] > 0 and len(letters(answer)) > 1 and answer not in _GUESSED:
            gap = sentence[: places[0][0]] + _BLANK + sentence[places[0][1] :]
            yield Draft(GAP, f"填空：{gap}" if language == "zh" else f"Complete: {gap}", answer, answer)


# ---- from questions to those that have one answer --------------------------------------------------------------------


class _Corpus:
    """Which passages hold all of some terms; of the terms that the candidates have, and no others."""

    def __init__(self, passages: Sequence[Passage], analyzer: Analyzer, found: Sequence[Sequence[_Candidate]]) -> None:
        self._passages, self._analyzer = passages, analyzer
        asked = {term for some in found for one in some for wording in one.wordings for term in analyzer.terms(wording)}
        self._postings: defaultdict[str, set[int]] = defaultdict(set)
        for number, passage in enumerate(passages):
            for term in asked & self._terms_of(passage):
                self._postings[term].add(number)

    def _terms_of(self, passage: Passage) -> frozenset[str]:
        """Those of its text and of what stands above it."""
        return self._analyzer.term_set("\n".join((passage.text, passage.title, *passage.heading)))

    def pair(self, one: _Candidate) -> Pair | None:
        """The pair with the first wording that leads to its passage alone; None where none does."""
        for wording in one.wordings:
            rivals = self._rivals(one, wording)
            if rivals is not None and (not rivals or _defines(one, rivals)):
                return pair(one.passage, wording, one.draft.answer, kind=one.draft.kind, start=one.start, end=one.end)
        return None

    def _rivals(self, one: _Candidate, wording: str) -> list[Passage] | None:
        """Other passages with every term that the wording has from its own; None where these are too few."""
        terms = self._analyzer.term_set(wording) & self._terms_of(one.passage)
        if not terms or (len(terms) < _LEAST_TERMS and one.draft.kind != "definition"):
            return None
        common = set.intersection(*sorted((self._postings[term] for term in terms), key=len))
        others = (self._passages[number] for number in sorted(common))
        return [other for other in others if not _holds_sentence(other, one)]


def _holds_sentence(other: Passage, one: _Candidate) -> bool:
    """Whether a passage is, or overlaps, the one a question was made from, with its sentence."""
    start, end = one.passage.start + one.start, one.passage.start + one.end
    return other.source == one.passage.source and other.start <= start and end <= other.start + len(other.text)


def _defines(one: _Candidate, rivals: Sequence[Passage]) -> bool:
    """Whether a question asks what the thing is that its document is named for, and no rival says so."""
    subject = letters(one.draft.about)
    above = letters(one.passage.title) + "\n" + "\n".join(map(letters, one.passage.heading))
    if one.draft.kind != "definition" or subject not in above:
        return False
    return not any(f"{subject}{be}" in letters(other.text) for other in rivals for be in ("is", "are", "was", "是"))

"""What an answer is worth beside the known ones, by their texts: exact match, F1, containment, recall, right or wrong.

Knows texts and examples; nothing of passages, citations or models. Every value lies in [0, 1].
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import regex

from eval.records import Example
from reader.citations import MarkerResolver
from reader.reader import question_language
from retrieval.analyze import is_stop_word

PHRASE_WORDS, LONG_WORDS = 4, 10
"""A known answer of more words than the first may stand in another order, of more than the second be put otherwise.

Of Chinese, 1.5 characters are a word. Looked at: known answers of 5 to 10 words in squad1_dev, cmrc2018_dev and
drcd_dev. All their words, but not the answer, are in 0.6% of the other pairs of sentences of the right passage; many of
those say the same.
"""

LEAST_RECALL = 0.5
"""Share of a long known answer's words from which on an answer counts as right.

Looked at: in clapnq_dev, what one person wrote has so much of what another wrote in 79% of the pairs; the sentences
people marked as the answer always, the others of that passage in 11%, answers to other questions never. In cmrc2018_dev
and drcd_dev the sentence of the passage most like the question, where it is not the answer, in 6%. Of the product's
answers in clapnq_dev, hf_doc_qa_eval and mtrag_un those from .5 on read as right, those from .35 to .5 as half of it.
"""


def answer_values(text: str | None, abstained: bool, example: Example) -> dict[str, float]:
    """The value of every measure that applies to a question. `text` is None where there is no answer: a failure.

    exact_match, f1, recall: by the known answers. rouge_l: the same, where one of them is long. contained: whether it
    holds one of them, and one of every required group. correct: see `correct`. not_wrong: whether it holds no answer
    that is known to be wrong; an abstention holds none. Failures get 0 in all, abstentions in all but that.

    Where the documents hold no answer, abstaining is 1 and answering 0 in exact_match, f1 and correct (Rajpurkar et
    al., ACL 2018, "Know What You Don't Know", as its script counts).
    """
    said = None if text is None or abstained else without_markers(text)
    unanswerable = dict.fromkeys(("exact_match", "f1", "correct"), float(abstained))
    values = {name: 0.0 if said is None else float(value(said)) for name, value in _measures(example).items()}
    if example.wrong:
        values["not_wrong"] = float(text is not None and (said is None or not _is_wrong(said, example)))
    return {**values, **unanswerable} if example.answerable is False else values


def _measures(example: Example) -> dict[str, Callable[[str], float]]:
    """Of an answer without markers."""
    golds = example.answers if example.answerable is not False else ()
    required = example.required if example.answerable is not False else ()
    measures: dict[str, Callable[[str], float]] = {}
    if golds:
        measures["exact_match"] = lambda said: exact_match(said, golds)
        measures["f1"] = lambda said: f1(said, golds)
        measures["recall"] = lambda said: recall(said, golds)
    if any(map(is_long, golds)):
        measures["rouge_l"] = lambda said: rouge_l(said, golds)
    if golds or required:
        measures["contained"] = lambda said: _holds_what_it_must(said, example)
        measures["correct"] = lambda said: _is_right(said, example)
    return measures


# ---- right and wrong -------------------------------------------------------------------------------------------------


def correct(answer_text: str, example: Example) -> bool:
    """Whether an answer that was given counts as right.

    It does not where the documents hold no answer, and where no answer is known. Where groups are required, it holds
    one spelling of every group. Otherwise one known answer is enough: it stands in it (`contained`), or by `recall`, of
    one longer than PHRASE_WORDS all words do, of one longer than LONG_WORDS LEAST_RECALL of them. What else an answer
    says does not count against it. Markers of citations do not count.
    """
    return example.answerable is not False and _is_right(without_markers(answer_text), example)


def without_markers(text: str) -> str:
    """An answer without [1] and the other forms of citation markers that models write (reader/citations.py)."""
    resolver = MarkerResolver(())  # where no passage was shown, every marker goes
    return resolver.feed(text) + resolver.close()


def _is_right(said: str, example: Example) -> bool:
    if _holds_what_it_must(said, example):
        return True
    return not example.required and any(
        recall(said, [gold]) >= (LEAST_RECALL if is_long(gold) else 1)
        for gold in example.answers
        if _words(gold) > PHRASE_WORDS
    )


def _holds_what_it_must(said: str, example: Example) -> bool:
    if example.required:
        return all(contained(said, group) for group in example.required)
    return contained(said, example.answers)


def _is_wrong(said: str, example: Example) -> bool:
    right = [*example.answers, *(spelling for group in example.required for spelling in group)]
    return any(
        contained(said, [wrong], beside=[gold for gold in right if contained(gold, [wrong])]) for wrong in example.wrong
    )


# ---- containment and recall ------------------------------------------------------------------------------------------


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]"
_NUMBER = r"\d+(?:,\d{3}(?!\d))*(?:\.\d+)*"
_DIGIT, _MAGNITUDE = "零〇一二两兩三四五六七八九", "十百千万萬亿億"
_NUMERAL = rf"[{_DIGIT}]{{0,20}}+[{_MAGNITUDE}][{_DIGIT}{_MAGNITUDE}]*"  # bounded, so that the time is linear
_CHARACTER = regex.compile(rf"[{_UNSPACED}]\p{{M}}*")
_TOKEN = regex.compile(
    rf"{_NUMERAL}|{_CHARACTER.pattern}|{_NUMBER}(?:[{_MAGNITUDE}]+|{_LETTER}*)|{_LETTER}+", regex.VERSION1
)
_BEFORE_UNIT = regex.compile(rf"(?<!{_LETTER}){_NUMBER}(?={_LETTER})(?!\d)", regex.VERSION1)
_ABBREVIATING = regex.compile(rf"(?<=(?<!{_LETTER}){_LETTER})\.(?={_LETTER}(?!{_LETTER}))", regex.VERSION1)
_ARTICLES = ("a", "an", "the")


@lru_cache(maxsize=256)  # a passage is asked for several answers
def tokens(text: str) -> tuple[str, ...]:
    """Words and numbers of a spaced language, single characters of Chinese and its like; marks and case do not count.

    Full and half width are the same, traditional and simplified characters are not. "39,000" is one token, and so are
    "3.5", "10GB", 十三 and 90万; "U.S." is "us"; "GPT-2" and "Ann's" are two.
    """
    # between Chinese words a full-width comma lists numbers; made narrow, it would join 300，500 to one
    folded = unicodedata.normalize("NFKC", text.replace("，", "， ")).casefold()
    return tuple(found.replace(",", "") for found in _TOKEN.findall(_ABBREVIATING.sub("", folded)))


def contained(answer: str, golds: Sequence[str], *, beside: Sequence[str] = ()) -> bool:
    """Whether an answer holds one of the golds, token by token.

    So "art" is not in "start", "90" not in "1990" or 90万, 三人 not in 十三人. An article before a gold may be missing,
    and the space before a unit (10 GB). A gold without a letter or a digit is looked for as it is written. What stands
    in one of `beside` does not count.
    """
    return any(_contains(answer, gold, beside) for gold in golds)


def _contains(answer: str, gold: str, beside: Sequence[str]) -> bool:
    if not tokens(gold):
        return bool(gold.strip()) and gold.strip() in answer
    if _stands_in(tokens(gold), tokens(answer), map(tokens, beside)):
        return True
    apart = _apart(gold)  # a gold of one token must not be found in half of one: 5 is not in 5G
    return len(apart) > 1 and _stands_in(apart, _apart(answer), map(_apart, beside))


def _stands_in(gold: Sequence[str], answer: Sequence[str], beside: Iterable[Sequence[str]]) -> bool:
    """Whether these tokens stand among those in a row."""
    row = _joined(answer)
    for other in filter(None, beside):
        row = row.replace(_joined(other), "\0\0")
    return _joined(gold[1:] if len(gold) > 1 and gold[0] in _ARTICLES else gold) in row


def _joined(found: Sequence[str]) -> str:
    return "".join(["\0", *(f"{token}\0" for token in found)])


def _apart(text: str) -> tuple[str, ...]:
    """Tokens, with numbers apart from the units behind them."""
    return tokens(_BEFORE_UNIT.sub(r"\g<0> ", text))


def recall(answer: str, golds: Sequence[str]) -> float:
    """Share of a gold's tokens that the answer has, each as often as it has it; the best over the golds.

    Token recall as in Adlakha et al., TACL 2024, "Evaluating Correctness and Faithfulness of Instruction-Following
    Models for Question Answering", but of the tokens that carry meaning: stop words count where a gold has no others.
    It does not punish a long answer.
    """
    said = Counter(_apart(answer))
    return max((_recall(said, _apart(gold)) for gold in golds), default=0.0)


def _recall(said: Counter[str], gold: Sequence[str]) -> float:
    # a character of Chinese is no word: 都 means "all", and is half of 首都
    wanted = Counter([token for token in gold if _CHARACTER.match(token) or not is_stop_word(token)] or gold)
    return (wanted & said).total() / max(1, wanted.total())


def is_long(gold: str) -> bool:
    """Whether a known answer has more than LONG_WORDS words."""
    return _words(gold) > LONG_WORDS


def _words(gold: str) -> float:
    spaced = [piece for piece in _CHARACTER.sub(" ", gold).split() if any(map(str.isalnum, piece))]
    return len(spaced) + len(_CHARACTER.findall(gold)) / 1.5


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """ROUGE-L with F1 (Lin, 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"), the best over the golds.

    Over the tokens of the whole texts, without stemming.
    """
    said = tokens(answer)
    return max((_ratio(_common_subsequence(said, gold), said, gold) for gold in map(tokens, golds)), default=0.0)


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence; a row of the usual table is the bits of one number.

    Hyyrö, 2004, "Bit-Parallel LCS-length Computation Revisited".
    """
    places: defaultdict[str, int] = defaultdict(int)
    for at, token in enumerate(one):
        places[token] |= 1 << at
    full = row = (1 << len(one)) - 1
    for token in other:
        matched = row & places[token]
        row = ((row + matched) | (row - matched)) & full
    return len(one) - row.bit_count()


def _ratio(common: int, one: Sequence[str], other: Sequence[str]) -> float:
    """F1: the harmonic mean of what is common in either of two."""
    return 2 * common / (len(one) + len(other)) if common else 0.0


# ---- exact match and F1, as the sets' own scripts count --------------------------------------------------------------


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 where the answer is one of the golds: by CMRC's rules for Chinese golds, else by SQuAD's."""
    return cmrc_exact_match(answer, golds) if is_chinese(golds) else squad_exact_match(answer, golds)


def f1(answer: str, golds: Sequence[str]) -> float:
    """How much of a gold and of the answer is common, the best over the golds: by the same scripts."""
    return cmrc_f1(answer, golds) if is_chinese(golds) else squad_f1(answer, golds)


def is_chinese(golds: Sequence[str]) -> bool:
    """Whether most words of the golds, taken together, are Chinese; numbers say nothing of it."""
    return question_language(re.sub(r"\d", " ", " ".join(golds))) == "zh"


def squad_exact_match(answer: str, golds: Sequence[str]) -> float:
    """As in SQuAD 2.0's evaluation script: case, ASCII punctuation, articles and white space do not count.

    Golds of which nothing is left are left out; without a gold, the right answer is none.
    """
    said = _squad_tokens(answer)
    return float(any(said == gold for gold in _squad_golds(golds)))


def squad_f1(answer: str, golds: Sequence[str]) -> float:
    """As in SQuAD 2.0's evaluation script: of words in any order; where either has none, 1 if both do."""
    said = _squad_tokens(answer)
    return max(
        _ratio((Counter(said) & Counter(gold)).total(), said, gold) if said and gold else float(said == gold)
        for gold in _squad_golds(golds)
    )


_SQUAD_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_tokens(text: str) -> list[str]:
    return _SQUAD_ARTICLES.sub(" ", text.lower().translate(_SQUAD_PUNCTUATION)).split()


def _squad_golds(golds: Sequence[str]) -> list[list[str]]:
    return [found for found in map(_squad_tokens, golds) if found] or [[]]


def cmrc_exact_match(answer: str, golds: Sequence[str]) -> float:
    """As in CMRC 2018's evaluation script: case, its list of marks and white space at the ends do not count."""
    said = _cmrc_bare(answer)
    return float(any(said == _cmrc_bare(gold) for gold in golds))


def cmrc_f1(answer: str, golds: Sequence[str]) -> float:
    """As in CMRC 2018's evaluation script: by the longest common run of segments, the best over the golds.

    Segments are single Chinese characters, and the words between them. For the latter the script asks NLTK; here a word
    is letters and digits, with a point, a comma or an apostrophe within, and any other mark is one of its own. They
    differ where NLTK parts "don't" into two, and a point from the end of an abbreviation.
    """
    said = _cmrc_segments(answer)
    return max((_ratio(_common_run(said, gold), said, gold) for gold in map(_cmrc_segments, golds)), default=0.0)


_CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_SEGMENT = re.compile(
    "[\u4e00-\u9fa5]|[^\\W\u4e00-\u9fa5]+(?:[.,'][^\\W\u4e00-\u9fa5]+)*|[^\\w\\s]"
)  # as far as \u9fa5, like the script


def _cmrc_bare(text: str) -> str:
    return text.lower().strip().translate(_CMRC_MARKS)


def _cmrc_segments(text: str) -> list[str]:
    return _CMRC_SEGMENT.findall(_cmrc_bare(text))


def _common_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest row of segments that stands in both."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, segment in enumerate(one):
        places[segment].append(at)
    longest = 0
    ending: dict[int, int] = {}  # where a common row ends in one of them, and how long it is
    for segment in other:
        ending = {at: ending.get(at - 1, 0) + 1 for at in places.get(segment, ())}
        longest = max(longest, *ending.values()) if ending else longest
    return longest

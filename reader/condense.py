"""A follow-up question, made to be understood alone: by a language model, or by carrying over what it leaves out.

Knows questions and turns; nothing of indexes, and nothing of what becomes of the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from prompts import Prompt
from reader.backends.base import Backend, Message, Sampling
from reader.reader import question_language
from reader.records import Turn
from retrieval.analyze import Analyzer, is_stop_word
from retrieval.errors import AnswerError

TURNS = 4
"""Turns from the end that a question is completed from."""

MAX_CHARS = 500
"""A rewritten question that is longer is no question."""

_ANSWER_CHARS = 600
_REWRITTEN = Sampling(max_tokens=120, temperature=0.0)
_CARRIED = 3  # of mtrag_un's follow-ups, .89 find a right passage first; 4 or more words: .87; the question alone: .83
_FEW = 2
"""A question with no more words of its own than this leans on the one before it."""

_REFERS = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|he|him|his|she|her|hers|this|these|those|former|latter)\b"
    r"|\b(?:is|was|does|did|do|about|of|in|for|with|like)\s+that\b"
    r"|(?<![其吉])[它他她牠祂]|这[个些种里是点样]|那[个些种里样]|(?<![应活])该(?=\w)|其(?![他它实中余次])|此(?!外)|前者|后者|上述",
    re.IGNORECASE,
)
_LEANS = re.compile(
    r"\s*(?:and|but|or|also|then|what about|how about|why not|why so)\b|\s*why\W*\Z"
    r"|\s*(?:那么|还有|另外|怎么样|那.*呢|为什么\W*\Z|为什么会?这样)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\A(?:the\s+)?(?:rewritten\s+|standalone\s+|last\s+)?question(?:\s+by\s+itself)?\s*[:：]\s*"
    r"|\A(?:独立的|改写后的|最后一个)?问题\s*[:：]\s*",
    re.IGNORECASE,
)
_NO_QUESTION = re.compile(r"\[\d{1,3}\]|```|[:：]$")
"""A citation, code, or words that announce a question: the model answered, or talked."""


def condense(backend: Backend, prompt: Callable[[str], Prompt], question: str, history: Sequence[Turn]) -> str | None:
    """The question as the model rewrites it; None where there is no room, or no question of one line came."""
    turns = list(history[-TURNS:])
    while turns:
        said = "\n".join(f"Q: {turn.question}\nA: {turn.answer[:_ANSWER_CHARS]}" for turn in turns)
        system, user = prompt(question_language(question)).fill({"history": said, "question": question})
        messages = [Message("system", system), Message("user", user)]
        if backend.prompt_tokens(messages) + _REWRITTEN.max_tokens <= backend.window:
            break
        turns.pop(0)
    else:
        return None
    try:
        generation = backend.generate(messages, _REWRITTEN)
    except AnswerError:
        return None
    written = _LABEL.sub("", generation.text.strip(), count=1).strip(" \"'“”‘’`")
    if not generation.complete or not written or len(written) > MAX_CHARS or "\n" in written:
        return None
    return None if _NO_QUESTION.search(written) else written


def carry_over(
    question: str,
    history: Sequence[Turn],
    analyzer: Analyzer,
    term_idf: Callable[[Sequence[str]], NDArray[np.float64]],
) -> str:
    """The question with what the one before it was about in brackets, where it refers back or says little.

    term_idf: index terms -> inverse document frequency, float64 (n,).
    """
    own = [found for found in analyzer.located_terms(question) if not is_stop_word(question[found[1] : found[2]])]
    few = len({(start, end) for _, start, end in own}) <= _FEW
    if not history or not any(map(str.isalnum, question)):
        return question
    if not (few or _REFERS.search(question) or _LEANS.match(question)):
        return question
    before = history[-1].question
    if question_language(before) == "zh":
        carried = _subject(before)
    else:
        carried = " ".join(_rarest(before, {term for term, _, _ in own}, analyzer, term_idf))
    return f"{question} ({carried})" if carried else question


def _subject(question: str) -> str:
    """A Chinese question without its mark, or what it carries itself: its words cannot be told from its grammar."""
    asked, _, carried = question.removesuffix(")").rpartition(" (")
    return (carried if asked.endswith(("?", "？")) else question).strip(" ?？。!！")


def _rarest(
    question: str, known: Collection[str], analyzer: Analyzer, term_idf: Callable[[Sequence[str]], NDArray[np.float64]]
) -> list[str]:
    """The rarest words of a question that are not known, in its order."""
    places: dict[tuple[int, int], list[str]] = {}
    for term, start, end in analyzer.located_terms(question):
        if term not in known and not is_stop_word(question[start:end]):
            places.setdefault((start, end), []).append(term)
    spans = [  # a word is found whole and in parts
        one for one in places if not any(other != one and other[0] <= one[0] and one[1] <= other[1] for other in places)
    ]
    weight = {span: float(term_idf(places[span]).max()) for span in spans}
    return [question[a:b] for a, b in sorted(sorted(spans, key=lambda span: -weight[span])[:_CARRIED])]

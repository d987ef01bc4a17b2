"""Read SQuAD's JSON, versions 1.1 and 2.0, and what has its shape: XQuAD, DRCD, CMRC 2018 in both its forms.

Rajpurkar et al., EMNLP 2016 and ACL 2018: data -> paragraphs (context) -> qas (question, id, answers with text and
answer_start, is_impossible). CMRC 2018's own form (Cui et al., EMNLP 2019) is a list of paragraphs with context_text,
context_id, query_text, query_id, and answers that are texts. Every paragraph is a document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from eval.datasets import questions
from eval.datasets.rows import Reading, Row, distinct, kind, shown
from eval.errors import EvalError
from eval.records import Example
from retrieval.records import Document
from retrieval.sentences import sentences

_BEGINNING = re.compile(
    r"""\{ (?: \s* "\w+" \s* : \s* (?: "[^"\\]*" | [\w.+-]+ ) \s* , )*+ \s* "data" \s* : \s* \[ | \[""", re.VERBOSE
)


def is_squad(head: str) -> bool:
    """Whether a file that begins so is one JSON value of these shapes, or at least a list."""
    return _BEGINNING.match(head) is not None


def load(file: Path, name: str, reading: Reading) -> tuple[tuple[Example, ...], tuple[Document, ...]]:
    """The questions and the paragraphs.

    Evidence is the sentence, or the sentences, that the answer stands in. Where answer_start is not where the answer
    stands, as it happens in these files, the occurrence nearest to it counts.
    """
    examples: list[Example] = []
    documents: dict[str, Document] = {}
    numbers: Counter[str] = Counter()
    for title, paragraph in _paragraphs(file, reading):
        text = paragraph.text("context_text" if paragraph.has("context_text") else "context")
        numbers[title] += 1
        source = (
            paragraph.identity("context_id", "id")
            if paragraph.has("context_id", "id")
            else f"{title or 'paragraph'}#{numbers[title]}"
        )
        if source in documents:
            paragraph.fail(f"the id {shown(source)} again", "an id of its own for every paragraph")
        documents[source] = questions.made_document(name, source, title.replace("_", " "), text)
        spans = sentences(text)
        made = (_example(row, reading, source, _Sentences(text, spans)) for row in paragraph.rows("qas"))
        examples += [one for one in made if one is not None]
    return tuple(examples), tuple(documents.values())


class _Sentences:
    """A text and where its sentences stand."""

    def __init__(self, text: str, spans: list[tuple[int, int]]) -> None:
        self._text = text
        self._spans = spans

    def around(self, answer: str, near: int | None) -> str:
        """The sentences that an answer stands in; "" where it does not, or no place is given and it has several."""
        at = _nearest(self._text, answer, near)
        if at is None:
            return ""
        end = at + len(answer)
        touched = [(start, stop) for start, stop in self._spans if start < end and at < stop]
        return self._text[min([at, *(start for start, _ in touched)]) : max([end, *(stop for _, stop in touched)])]


def _nearest(text: str, answer: str, near: int | None) -> int | None:
    if near is not None and text.startswith(answer, max(near, 0)):
        return max(near, 0)
    found = [match.start() for match in re.finditer(re.escape(answer), text)]
    if near is None:
        return found[0] if len(found) == 1 else None
    return min(found, key=lambda at: abs(at - near), default=None)


def _paragraphs(file: Path, reading: Reading) -> Iterator[tuple[str, Row]]:
    """Title and paragraph."""
    value = reading.whole(file)
    if isinstance(value, list):
        whole = Row(str(file), 1, {})
        for at, one in enumerate(value):
            paragraph = whole.part(one, f"[{at}]")
            if not paragraph.has("context_text", "context"):
                expected = "CMRC's context_text and qas; questions are given as JSON lines, an object a line"
                paragraph.fail("no 'context_text'", expected)
            yield paragraph.text_or_none("title"), paragraph
        return
    if not isinstance(value, dict):
        raise EvalError(f"{file}: found {kind(value)}; expected SQuAD's object with 'data'")
    for article in Row(str(file), 1, value).rows("data"):
        for paragraph in article.rows("paragraphs"):
            yield article.text_or_none("title"), paragraph


def _example(row: Row, reading: Reading, source: str, context: _Sentences) -> Example | None:
    question = row.text("query_text" if row.has("query_text") else "question")
    example_id = row.identity("query_id", "id")
    answers = list(_answers(row))
    impossible = row.flag("is_impossible")
    texts = distinct(text for text, _ in answers)
    evidence = distinct(context.around(text, start) for text, start in answers if text)
    if texts and not evidence:
        reading.note("the place of the answer in its paragraph is not known", row)
    if questions.is_blank(row, reading, question):
        return None
    return questions.example(
        Row(row.place, row.number, {"answers": list(texts)}),
        reading,
        example_id=example_id,
        question=question,
        relevant={} if impossible else {source: 1},
        evidence=evidence,
        answerable=not impossible if impossible is not None else (True if texts else None),
    )


def _answers(row: Row) -> Iterator[tuple[str, int | None]]:
    """Text and start of every answer; CMRC's own form gives no start."""
    for at, one in enumerate(row.items("answers")):
        if isinstance(one, str):
            yield one.strip(), None
            continue
        answer = row.part(one, f"answers[{at}]")
        start = answer.fields.get("answer_start")
        if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
            answer.fail(f"{kind(start)} in 'answer_start'", "a whole number")
        yield answer.text("text").strip(), start

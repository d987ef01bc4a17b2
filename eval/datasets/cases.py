"""Read cases: questions that bring the passages to answer from along, some of them wrong, poisoned or injected.

The forms are those of RGB (Chen et al., AAAI 2024), QACC (Liu et al., 2024: passages that disagree), PoisonedRAG (Zou
et al., USENIX Security 2025) and of documents with an instruction planted in them. The passages of all questions of a
file are documents, each text once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.datasets import questions
from eval.datasets.questions import Pool
from eval.datasets.rows import Reading, Row
from eval.records import Example

_UNKNOWN = "unknown"  # the answer, where a planted document holds none


def load_rgb(file: Path, reading: Reading, pool: Pool) -> Iterator[Example]:
    """RGB: query, answers (parts, each a list of spellings), positive, negative, positive_wrong, fakeanswer.

    Counterfactual passages (positive_wrong) say the fake answer: they are documents and not relevant.
    """
    for row in reading.rows(file):
        parts = [[one] if isinstance(one, str) else one for one in row.items("answers")]
        relevant = _add(row, pool, "positive")
        _add(row, pool, "negative")
        _add(row, pool, "positive_wrong")
        alone = parts[0] if len(parts) == 1 else []
        gold = {
            "required": parts,
            "answers": alone,
            "wrong": list(row.texts("fakeanswer")),
            "kind": row.fields.get("kind"),
        }
        yield from _example(row, reading, row.text("query"), gold, relevant=dict.fromkeys(relevant, 1))


def load_qacc(file: Path, reading: Reading, pool: Pool) -> Iterator[Example]:
    """QACC: contexts, answers (each with the numbers of the contexts that give it), correct, conflict.

    The answer that reads as the correct one, or the only one, names the relevant contexts; the others are wrong. Where
    none reads so, the correct one is known and its contexts are not. An id may come again, in the other split and where
    several people were given a question: from the second on it is numbered.
    """
    asked: Counter[str] = Counter()
    for row in reading.rows(file):
        sources = [pool.add(row, text) for text in row.passages("contexts")]
        marked = [_Marked.of(part, len(sources)) for part in row.rows("answers")]
        correct = row.texts("correct")
        right = [one for one in marked if _letters(one.answer) in map(_letters, correct)]
        right = right or (marked if len(marked) == 1 else [])
        if not right:
            reading.note("the correct answer is none of those marked: its contexts are not known", row)
        gold = {
            "answers": [*correct, *(one.answer for one in right)],
            "wrong": [one.answer for one in marked if right and one not in right],
            "kind": "conflict" if row.flag("conflict") else "no conflict",
        }
        relevant = {sources[at]: 1 for one in right for at in one.contexts}
        yield from _example(row, reading, row.text("question"), gold, relevant=relevant, asked=asked)


def load_poisoned(file: Path, reading: Reading, pool: Pool) -> Iterator[Example]:
    """correct, incorrect (what the poison says), poison, context. Nobody marked which contexts answer."""
    for row in reading.rows(file):
        for at, one in enumerate(row.items("context")):
            part = row.part({"text": one} if isinstance(one, str) else one, f"context[{at}]")
            pool.add(row, part.text("text"), part.text_or_none("title"))
        _add(row, pool, "poison")
        if not row.items("context"):
            reading.note("questions that bring no passage but the poison", row)
        wrong = list(row.texts("incorrect"))
        gold = {"answers": list(row.texts("correct")), "wrong": wrong, "kind": row.fields.get("src")}
        yield from _example(row, reading, row.text("question"), gold)


def load_injected(file: Path, reading: Reading, pool: Pool) -> Iterator[Example]:
    """question, context with an instruction planted in it, ideal; canary, which is in an answer that obeyed.

    Where the document does not answer (ideal: unknown) nobody knows whether another one does.
    """
    for row in reading.rows(file):
        source = pool.add(row, row.text("context"))
        ideal = [one for one in row.texts("ideal") if one.lower() != _UNKNOWN]
        if not ideal:
            reading.note("the document of the question does not answer it; whether another does, nobody knows", row)
        gold = {"answers": ideal, "wrong": list(row.texts("canary")), "kind": row.fields.get("kind")}
        yield from _example(row, reading, row.text("question"), gold, relevant={source: 1} if ideal else {})


@dataclass(frozen=True, slots=True)
class _Marked:
    """An answer and the contexts that give it, counted from 0."""

    answer: str
    contexts: tuple[int, ...]

    @classmethod
    def of(cls, row: Row, contexts: int) -> _Marked:
        """Raises EvalError for a context that is not there."""
        numbers = tuple(
            at if isinstance(at, int) and not isinstance(at, bool) and 0 <= at < contexts
            else row.fail(f"{at!r:.20} in 'contexts'", f"numbers from 0 to {contexts - 1}")
            for at in row.items("contexts")
        )  # fmt: skip
        return cls(row.text("answer").strip(), numbers)


def _example(
    row: Row,
    reading: Reading,
    question: str,
    gold: Mapping[str, object],
    *,
    relevant: Mapping[str, int] | None = None,
    asked: Counter[str] | None = None,
) -> Iterator[Example]:
    """None of a blank question. asked: how often each id came so far, where one may come again."""
    example_id = row.identity("_id", "id") if row.has("_id", "id") else f"line-{row.number}"
    if asked is not None:
        asked[example_id] += 1
        if asked[example_id] > 1:
            example_id += f"#{asked[example_id]}"
            reading.note("questions whose id came before; it is numbered", row)
    if not questions.is_blank(row, reading, question):
        yield questions.example(
            Row(row.place, row.number, gold),
            reading,
            example_id=example_id,
            question=question,
            relevant=relevant or None,
            answerable=True if relevant else None,
        )


def _add(row: Row, pool: Pool, name: str) -> list[str]:
    return [pool.add(row, text) for text in row.passages(name)]


def _letters(text: str) -> str:
    """What a person would call the same answer: its letters and digits."""
    return "".join(character for character in text.casefold() if character.isalnum())

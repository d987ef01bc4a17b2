"""Did it get worse: a run against the baseline that somebody is content with. Knows comparisons; no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from eval.compare import ALPHA, Difference, Results, compare, shared, side_by_side
from eval.errors import EvalError
from eval.statistics import familywise

MAIN_MEASURES = (
    "retrieval.success@1",
    "retrieval.recall@5",
    "retrieval.ndcg@10",
    "answer.correct",
    "answer.f1",
    "abstention.accuracy",
    "citations.precision",
    "citations.recall",
)
"""What is checked where nothing is named: of these, all that the baseline has."""


@dataclass(frozen=True, slots=True)
class Check:
    """A measure of the run beside the baseline's, over the n questions it applies to in both.

    p: one-sided, that such a drop comes about by chance; of all checks together.
    """

    measure: str
    baseline: float
    run: float
    difference: float
    low: float
    high: float
    p: float
    n: int
    passed: bool
    why: str


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the run passed, and each check. missing: questions of the baseline that the run was not asked."""

    passed: bool
    checks: tuple[Check, ...]
    missing: int
    notes: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)


def gate(
    run: Results,
    baseline: Results,
    *,
    measures: Sequence[str] | None = None,
    alpha: float = ALPHA,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Gate:
    """Fail where a measure dropped significantly and by more than `tolerance`, or where questions were left out.

    measures: "section.name", those of MAIN_MEASURES that the baseline has where None; then one that no question of the
    run has is a failure. The chance that any check fails without cause is at most alpha
    (all checks together, one-sided). A drop that so few questions cannot show passes: `low` says how far it may reach.
    Raises EvalError where a named measure is in one of them only, or the runs cannot be compared.
    """
    found = compare(baseline, run, names=("the baseline", "the run"), seed=seed)
    known = {one.measure: one for one in found.differences}
    wanted = list(dict.fromkeys(measures or _main_measures(baseline)))
    absent = [name for name in wanted if name not in known] if measures is None else []
    checked = [_known(name, known) for name in wanted if name not in absent]
    before, after, _ = side_by_side(shared(baseline, run), [one.measure for one in checked])
    chances = familywise(before, after, seed=seed, falls=True)
    checks = tuple(
        _check(one, 1.0 if p is None else p, alpha=alpha, tolerance=tolerance)
        for one, p in zip(checked, chances, strict=True)
    )
    complete = found.only_a == 0
    asked = f"the run was asked {found.n} of the baseline's {found.n + found.only_a} questions; run it over all of them"
    lacks = [f"no question has {name} in the run, as in the baseline" for name in absent]
    passed = complete and not absent and all(one.passed for one in checks)
    return Gate(passed, checks, found.only_a, (*found.notes, *([] if complete else [asked]), *lacks))


def _main_measures(baseline: Results) -> list[str]:
    has = {name for one in baseline.judged.values() for name in one.values}
    wanted = [name for name in MAIN_MEASURES if name in has]
    if not wanted:
        raise EvalError(f"the baseline has none of {', '.join(MAIN_MEASURES)}; name what to check: --measure")
    return wanted


def _known(name: str, known: dict[str, Difference]) -> Difference:
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"both have {', '.join(known) or 'none at all'}"
    raise EvalError(f"{name!r} cannot be checked: no question has it in the run and in the baseline; {advice}")


def _check(one: Difference, p: float, *, alpha: float, tolerance: float) -> Check:
    significant, far = p < alpha, -one.difference > tolerance
    seen = f"{one.a:.4f} to {one.b:.4f} ({one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p {p:.3g})"
    if one.difference >= 0:
        why = "no drop"
    elif not significant:
        why = "no significant drop"
    else:
        why = "a significant drop" if far else f"a significant drop within the tolerance of {tolerance:g}"
    return Check(
        measure=one.measure,
        baseline=one.a,
        run=one.b,
        difference=one.difference,
        low=one.low,
        high=one.high,
        p=p,
        n=one.n,
        passed=not (significant and far),
        why=f"{why}: {seen}",
    )

"""Is B better than A: the same questions side by side, measure by measure, and what became of each question.

Knows judged questions and manifests as plain data; no files, and of a measure only that higher is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from eval.errors import EvalError
from eval.folder import MOVING, differences
from eval.lost import ANSWER_MEASURES
from eval.records import Judged, Lost, Stage
from eval.score import matrix, measure_names
from eval.statistics import familywise, paired

ALPHA = 0.05

RIGHT = (*ANSWER_MEASURES, "retrieval.success@5")
"""Measures that say whether a question was got right, from .5 on: of each question the first that both runs have."""

Verdict = Literal["better", "worse", "no difference shown"]


class Results(Protocol):
    """What is compared of a run."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What its numbers depend on."""

    @property
    def judged(self) -> Mapping[str, Judged]:
        """Its questions by their id."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A measure ("section.name") over the n questions that it applies to in both runs.

    a, b: its means there. difference: b - a, from low to high with 95%. p: of the randomisation test; p_adjusted: of
    all measures together, which the verdict goes by. unpaired: questions that it applies to in one run only.
    """

    measure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    n: int
    unpaired: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that one run got right and the other did not, by `measure`; lost: where the other lost it."""

    example_id: str
    question: str
    measure: str
    right_in: Literal["a", "b"]
    lost: Lost | None


@dataclass(frozen=True, slots=True)
class Moved:
    """How many questions A lost at stage a and B at stage b; None: not lost."""

    a: Stage | None
    b: Stage | None
    n: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What the manifests say differently, by its path in them, such as "config.top_k"; None where one says nothing."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A over the n questions that both were asked.

    only_a, only_b: questions of one run alone. reworded: those whose id has another question text in the other run;
    they count as of one run alone as well. flips, differences and moves: of the n questions.
    """

    n: int
    only_a: int
    only_b: int
    reworded: int
    differences: tuple[Difference, ...]
    flips: tuple[Flip, ...]
    moves: tuple[Moved, ...]
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)


def compare(
    a: Results,
    b: Results,
    *,
    names: tuple[str, str] = ("A", "B"),
    other_dataset: bool = False,
    right: Sequence[str] = RIGHT,
    seed: int = 0,
) -> Comparison:
    """Compare two runs over the questions that both were asked, with the same id and the same text.

    names: what messages call the two. other_dataset: the caller agrees to compare runs over datasets that are not the
    same; the gold may differ then. Raises EvalError without that consent, and where no question is shared.
    """
    pairs = shared(a, b)
    reworded = len(a.judged.keys() & b.judged.keys()) - len(pairs)
    only_a, only_b = len(a.judged) - len(pairs), len(b.judged) - len(pairs)
    if not pairs:
        raise EvalError(
            f"the runs share no question: {names[0]} has {only_a}, {names[1]} has {only_b}, and {reworded} have the "
            "same id but another text; compare runs over the same dataset"
        )
    notes = [*_dataset_notes(a.manifest, b.manifest, names, allowed=other_dataset)]
    for name, alone in zip(names, (only_a, only_b), strict=True):
        if alone:
            notes.append(f"{alone} of the questions of {name} are not compared: the other run was not asked them")
    if reworded:
        notes.append(f"{reworded} of these have the same id in both runs but another text")
    differences, unshared = _differences(pairs, names, seed=seed)
    return Comparison(
        n=len(pairs),
        only_a=only_a,
        only_b=only_b,
        reworded=reworded,
        differences=differences,
        flips=tuple(_flips(pairs, right)),
        moves=_moves(pairs),
        settings=settings(a.manifest, b.manifest),
        notes=(*notes, *unshared),
    )


def settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Setting, ...]:
    """What two manifests say differently, but for times and speeds, in the order of their names."""
    return tuple(Setting(*each) for each in differences(a, b, ignored=MOVING))


def _asked(judged: Judged | None) -> str | None:
    return judged.example.question if judged else None


def _dataset_notes(
    a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str], *, allowed: bool
) -> Iterator[str]:
    datasets, hashes = zip(*(_dataset(one) for one in (a, b)), strict=True)
    if not all(hashes):
        yield "a manifest does not say which dataset was asked; the questions are compared by id and text"
    elif hashes[0] != hashes[1]:
        seen = ", ".join(
            f"{name} was asked {dataset} ({sha256[:12]})"
            for name, dataset, sha256 in zip(names, datasets, hashes, strict=True)
        )
        if not allowed:
            raise EvalError(
                f"the runs are over datasets that are not the same: {seen}; what counts as right may differ. Run both "
                "over one, or compare the questions they share: rag eval compare --other-dataset"
            )
        yield f"the datasets are not the same: {seen}; what counts as right may differ"


def _dataset(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """Name and hash of the dataset of a run; blank where its manifest says nothing."""
    said = manifest.get("dataset")
    said = said if isinstance(said, Mapping) else {}
    return str(said.get("name", "")), str(said.get("sha256", ""))


# ---- measures --------------------------------------------------------------------------------------------------------

Pairs = Sequence[tuple[Judged, Judged]]


def _differences(pairs: Pairs, names: tuple[str, str], *, seed: int) -> tuple[tuple[Difference, ...], list[str]]:
    """Every measure that both runs have, tested, and a note on those that only one has."""
    measures = [measure_names(pair[side] for pair in pairs) for side in (0, 1)]
    both = [name for name in measures[0] if name in measures[1]]
    a, b, apart = side_by_side(pairs, both)
    tested = [each for each in enumerate(paired(a, b, seed=seed)) if each[1].n]
    adjusted = familywise(a, b, seed=seed)
    found = tuple(
        Difference(
            measure=both[at],
            a=float(np.nanmean(a[:, at])),
            b=float(np.nanmean(b[:, at])),
            difference=one.difference or 0.0,
            low=one.low or 0.0,
            high=one.high or 0.0,
            p=1.0 if one.p is None else one.p,
            p_adjusted=max(one.p or 0.0, adjusted[at] or 0.0),
            n=one.n,
            unpaired=int(apart[:, at].sum()),
            verdict=_verdict(one.difference or 0.0, max(one.p or 0.0, adjusted[at] or 0.0)),
        )
        for at, one in tested
    )
    compared = {one.measure for one in found}
    alone = ((run, [one for one in mine if one not in compared]) for run, mine in zip(names, measures, strict=True))
    return found, [f"no question has these of {run} in both runs: {', '.join(mine)}" for run, mine in alone if mine]


def side_by_side(
    pairs: Pairs, measures: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Values of either run, (questions, measures), NaN where one does not apply to both, and where that is so."""
    a, b = (matrix([pair[side] for pair in pairs], measures) for side in (0, 1))
    apart = np.isnan(a) != np.isnan(b)
    return np.where(apart, np.nan, a), np.where(apart, np.nan, b), apart


def shared(a: Results, b: Results) -> Pairs:
    """What both made of the questions that both were asked."""
    return [(one, b.judged[key]) for key, one in a.judged.items() if _asked(one) == _asked(b.judged.get(key))]


def _verdict(difference: float, p: float) -> Verdict:
    if p >= ALPHA:
        return "no difference shown"
    return "better" if difference > 0 else "worse"


# ---- questions -------------------------------------------------------------------------------------------------------


def _flips(pairs: Pairs, right: Sequence[str]) -> Iterator[Flip]:
    for a, b in pairs:
        measure = next((name for name in right if name in a.values and name in b.values), None)
        if measure is None:
            continue
        in_a, in_b = (one.values[measure] >= 0.5 for one in (a, b))
        if in_a != in_b:
            example, loser = a.example, b if in_a else a
            yield Flip(example.example_id, example.question, measure, "a" if in_a else "b", loser.lost)


def _moves(pairs: Pairs) -> tuple[Moved, ...]:
    """From every stage to every stage, in the order that data flows; what was not lost comes last."""
    counted = Counter((_stage(a), _stage(b)) for a, b in pairs)
    order = {stage: at for at, stage in enumerate((*get_args(Stage), None))}
    return tuple(Moved(*key, counted[key]) for key in sorted(counted, key=lambda key: (order[key[0]], order[key[1]])))


def _stage(judged: Judged) -> Stage | None:
    return judged.lost.stage if judged.lost else None

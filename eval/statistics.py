"""How sure a number is: bootstrap intervals, randomisation tests one by one and together. Knows arrays, no meanings.

A matrix holds a question a row and a measure a column, higher is better, NaN where a measure does not apply to a
question. Every function gives the same result for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.records import Score

Floats = NDArray[np.float64]

_TAILS = (0.025, 0.975)
_MIN_DRAWS = 100  # a measure that one question in many has is in 63% of all resamples, so it is in one of a hundred
_BLOCK_CELLS = 1 << 21  # numbers drawn at a time: 16 MB in each array
_EXACT_PAIRS = 12  # 4,096 ways to sign their differences: fewer than are drawn otherwise


@dataclass(frozen=True, slots=True)
class Paired:
    """How much higher one system scores than another on the same n questions, its 95% interval, and the p-value.

    p: how often a difference of means at least as far from 0 would come about by chance, were the two systems alike.
    All but n are None where n is 0.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int


def intervals(values: Floats, *, seed: int, draws: int = 10_000) -> tuple[Score, ...]:
    """The mean of each measure with its 95% interval; values: (questions, measures), finite or NaN.

    Of a share (all values are 0 or 1) Wilson's score interval, which few questions do not make narrow: 18 of 18 may be
    82% (JASA 1927; Brown, Cai and DasGupta, Statistical Science 2001). Of everything else that of `bootstrapped`.
    """
    found = bootstrapped(values, seed=seed, draws=draws)
    shares = [np.isin(column[~np.isnan(column)], (0.0, 1.0)).all() for column in values.T]
    return tuple(_wilson(one) if share and one.n else one for one, share in zip(found, shares, strict=True))


def _wilson(share: Score) -> Score:
    p, n, z = share.value or 0.0, share.n, 1.959963984540054  # the 97.5th percentile of the normal distribution
    middle, scale = p + z * z / (2 * n), 1 + z * z / n
    reach = z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    low, high = max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)
    return Score(share.value, min(low, p), max(high, p), n)


def bootstrapped(values: Floats, *, seed: int, draws: int = 10_000) -> tuple[Score, ...]:
    """The mean of each measure with its 95% interval; values: (questions, measures), finite or NaN.

    Percentile bootstrap (Efron, Annals of Statistics 1979): questions are drawn with replacement, as many as there are;
    the interval lies between the 2.5th and the 97.5th percentile of the means. All measures see the same resamples;
    one without any question of a measure is left out for it. Where all values are equal, or n is 1, the interval has
    no width: no resample can show what such questions did not.
    """
    present, origins, above = _prepared(values, draws)
    n = present.sum(axis=0)
    means = np.full((draws, values.shape[1]), np.nan)
    weight = present.astype(np.float64)
    done = 0
    for counts in _resamples(len(values), draws=draws, seed=seed) if len(values) else ():
        with np.errstate(invalid="ignore"):  # 0 / 0: no question of this measure was drawn
            means[done : done + len(counts)] = (counts @ above) / (counts @ weight)
        done += len(counts)
    columns = zip(origins, above.sum(axis=0) / np.maximum(n, 1), means.T, n.tolist(), strict=True)
    return tuple(_score(origin + mean, origin + drawn, count) for origin, mean, drawn, count in columns)


def interval_of(
    statistic: Callable[..., float | None], samples: Sequence[NDArray[np.generic]], *, seed: int, draws: int = 2_000
) -> Score:
    """What is no mean over questions, such as an area under a curve, with its 95% interval by the same bootstrap.

    statistic: called with the arrays of `samples`, each (n,), as drawn; None where it is not defined. A resample for
    which it is not is left out. n is 0 where it is not defined for the questions as they are.
    """
    _check_draws(draws)
    value = statistic(*samples)
    if value is None:
        return Score(None, None, None, 0)
    n = len(samples[0])
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        rows = random.integers(0, n, n)
        again = statistic(*(sample[rows] for sample in samples))
        drawn.append(np.nan if again is None else again)
    return _score(value, np.asarray(drawn), n)


def paired(a: Floats, b: Floats, *, seed: int, draws: int = 10_000) -> tuple[Paired, ...]:
    """How much higher b scores than a, for each measure; a, b: (questions, measures), rows of the same questions.

    A question counts where a measure applies to both. The interval is that of `bootstrapped` over differences. p is of
    the two-sided randomisation test (Fisher 1935; for retrieval: Smucker, Allan and Carterette, CIKM 2007): were a and
    b alike, each difference could as well have the other sign. Where at most 12 questions differ, all signs are tried;
    otherwise `draws` are drawn and the observed one counted among them, so that p is never 0 (Phipson and Smyth 2010).
    """
    if a.shape != b.shape:
        raise ValueError(f"a is {a.shape}, b is {b.shape}; expected the same questions and measures")
    differences = b - a
    means = bootstrapped(differences, seed=seed, draws=draws)
    chances = _chances(np.nan_to_num(differences), draws=draws, seed=seed)
    return tuple(
        Paired(mean.value, mean.low, mean.high, chance if mean.n else None, mean.n)
        for mean, chance in zip(means, chances, strict=True)
    )


def familywise(
    a: Floats, b: Floats, *, seed: int, draws: int = 10_000, falls: bool = False
) -> tuple[float | None, ...]:
    """p-values of all measures together: the chance that any below .05 is a false alarm is 5%; a, b as in `paired`.

    Westfall and Young's step-down procedure (Resampling-Based Multiple Testing, 1993): the same random signs for all
    measures, and a measure's statistic against the largest of its own and those that are less extreme. Measures that
    rise and fall together so count as one, where Bonferroni's and Holm's procedures would punish each for the others.
    The statistic is the sum of differences over the root of their sum of squares, which no signs change. falls: ask
    only whether b is lower (one-sided). None for a measure that applies to no question.
    """
    if a.shape != b.shape:
        raise ValueError(f"a is {a.shape}, b is {b.shape}; expected the same questions and measures")
    _check_draws(draws)
    applies = np.count_nonzero(~np.isnan(b - a), axis=0)
    differences = np.nan_to_num(b - a)
    scaled = differences / np.maximum(np.sqrt((differences**2).sum(axis=0)), 1e-300)
    scaled = -scaled if falls else scaled
    observed = _extremeness(scaled.sum(axis=0), falls=falls)
    order = np.argsort(-observed, kind="stable")
    ordered = scaled[np.ix_(scaled.any(axis=1), order)]
    known = observed[order] - 1e-9  # sums of the same numbers in another order differ by rounding
    exact = len(ordered) <= _EXACT_PAIRS
    reached, tried = np.zeros(len(order)), 0
    for signs in [_all_signs(len(ordered))] if exact else _signs(len(ordered), draws=draws, seed=seed):
        found = _extremeness(signs @ ordered, falls=falls)
        largest = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]
        reached += np.count_nonzero(largest >= known, axis=0)
        tried += len(signs)
    chances = reached / tried if exact else (reached + 1) / (tried + 1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(chances)
    return tuple(float(p) if there else None for p, there in zip(adjusted, applies.tolist(), strict=True))


def _extremeness(sums: Floats, *, falls: bool) -> Floats:
    return sums if falls else np.abs(sums)


def _prepared(values: Floats, draws: int) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Where a value is, the lowest of each measure, and how far above it the others lie, 0 where there is none.

    Distances from the lowest, because sums of them are exactly 0 where all values are equal: no width from rounding.
    """
    _check_draws(draws)
    if values.ndim != 2 or np.isinf(values).any():
        raise ValueError(f"values are {values.shape}; expected (questions, measures), finite or NaN")
    present = ~np.isnan(values)
    lowest = np.min(values, axis=0, initial=np.inf, where=present)
    origins = np.where(present.any(axis=0), lowest, 0.0)
    return present, origins, np.where(present, values - origins, 0.0)


def _check_draws(draws: int) -> None:
    if draws < _MIN_DRAWS:
        raise ValueError(f"found {draws} draws, expected at least {_MIN_DRAWS}")


def _resamples(n: int, *, draws: int, seed: int) -> Iterator[Floats]:
    """How often each question is drawn: blocks (rows, n) of float64 counts, `draws` rows in all."""
    random = np.random.default_rng(seed)
    for rows in _blocks(n, draws):
        cells = random.integers(0, n, (rows, n)) + np.arange(0, rows * n, n)[:, None]
        yield np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _blocks(n: int, draws: int) -> Iterator[int]:
    """How many draws of n numbers to make at a time."""
    most = max(1, _BLOCK_CELLS // n)
    yield from (min(most, draws - start) for start in range(0, draws, most))


def _score(value: float, drawn: Floats, n: int) -> Score:
    if n == 0:
        return Score(None, None, None, 0)
    low, high = np.quantile(drawn[~np.isnan(drawn)], _TAILS)
    return Score(float(value), float(low), float(high), n)


def _chances(differences: Floats, *, draws: int, seed: int) -> list[float]:
    """The p-value of each column's sum under random signs; differences: (questions, measures), 0 where none."""
    # Sums of the same differences in another order may fall short of one another by rounding alone.
    extreme = np.abs(differences.sum(axis=0)) - 1e-12 * np.abs(differences).sum(axis=0)
    differing = np.count_nonzero(differences, axis=0)
    many = differing > _EXACT_PAIRS
    reached = np.zeros(len(differing))
    if many.any():
        rows = differences[:, many].any(axis=1)
        for signs in _signs(int(rows.sum()), draws=draws, seed=seed):
            sums = np.abs(signs @ differences[np.ix_(rows, many)])
            reached[many] += np.count_nonzero(sums >= extreme[many], axis=0)
    chances = (reached + 1) / (draws + 1)
    for column in np.flatnonzero(~many):
        given = differences[:, column]
        sums = np.abs(_all_signs(int(differing[column])) @ given[given != 0])
        chances[column] = np.mean(sums >= extreme[column])
    return [float(chance) for chance in chances]


def _signs(n: int, *, draws: int, seed: int) -> Iterator[Floats]:
    """Random signs: blocks (rows, n) of -1.0 and 1.0, `draws` rows in all."""
    random = np.random.default_rng(seed)
    for rows in _blocks(n, draws):
        bits = np.unpackbits(np.frombuffer(random.bytes((rows * n + 7) // 8), dtype=np.uint8), count=rows * n)
        yield _as_signs(bits.reshape(rows, n))


def _all_signs(n: int) -> Floats:
    """Every way to give n numbers a sign, (2 ** n, n)."""
    return _as_signs((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def _as_signs(bits: NDArray[np.integer]) -> Floats:
    return 2 * bits.astype(np.float64) - 1

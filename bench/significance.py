"""Whether two runs differ by more than chance: exact tests of shares, bootstrap of times.

The intervals are 95 % intervals over photos. What changes from run to run on the same photos (the
clock, other work on the board) is in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .accuracy import wilson

SEED = 0
LEVEL = 0.05
RESAMPLES = 2000
_FEWEST_RESAMPLES = 200
_DRAWS = 20_000_000  # of single times in all resamples together: seconds, not minutes
_BLOCK = 2_000_000  # of them in memory at once

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

FEWEST_PHOTOS = 10
"""Fewer say too little of how photos differ: their bootstrap intervals are far too narrow."""

FEWEST_BEYOND = 5
"""Runs that must lie beyond a percentile for its interval to mean anything."""


@dataclass(frozen=True)
class Difference:
    """A difference of two shares, second less first.

    Attributes:
        value: from -1 to 1.
        low: lower end of the 95 % interval.
        high: upper end.
        p: of McNemar's exact test, two-sided; None where the photos are not the same.
        gained: photos that only the second has; `lost`: that only the first has. None without
            pairs.
    """

    value: float
    low: float
    high: float
    p: float | None = None
    gained: int | None = None
    lost: int | None = None

    @property
    def significant(self) -> bool:
        """By the test where there is one, else by the interval."""
        return self.p < LEVEL if self.p is not None else not self.low <= 0 <= self.high


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided p-value of McNemar's exact test of so many discordant pairs.

    Twice the binomial tail at the smaller count with probability 1/2, at most 1 (McNemar, 1947).
    """
    n = lost + gained
    if n == 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(min(lost, gained) + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(one) for one in logs))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Two answers to each of the same photos; there must be one at least.

    The interval is Newcombe's for pairs, from the two Wilson intervals and their correlation
    ("Improved Confidence Intervals for the Difference Between Binomial Proportions Based on Paired
    Data", 1998, method 10).
    """
    n = len(first)
    both = sum(a and b for a, b in zip(first, second, strict=True))
    lost, gained = sum(first) - both, sum(second) - both
    neither = n - both - lost - gained
    product = sum(first) * (n - sum(first)) * sum(second) * (n - sum(second))
    correlation = 0.0
    if product:
        cross = both * neither - lost * gained
        cross = max(cross - n / 2, 0) if cross > 0 else cross
        correlation = cross / math.sqrt(product)
    low, high = _newcombe(sum(first), n, sum(second), n, correlation)
    return Difference((gained - lost) / n, low, high, mcnemar(lost, gained), gained, lost)


def unpaired_difference(first: int, n: int, second: int, m: int) -> Difference:
    """Shares `first` of `n` and `second` of `m`, of different photos; both must have some.

    The interval is Newcombe's ("Interval Estimation for the Difference Between Independent
    Proportions", 1998, method 10).
    """
    low, high = _newcombe(first, n, second, m, 0.0)
    return Difference(second / m - first / n, low, high)


def _newcombe(first: int, n: int, second: int, m: int, correlation: float) -> tuple[float, float]:
    p, q = first / n, second / m
    (p_low, p_high), (q_low, q_high) = wilson(first, n), wilson(second, m)

    def reach(one: float, other: float) -> float:
        square = one * one - 2 * correlation * one * other + other * other
        return math.sqrt(max(0.0, square))

    value = q - p
    low, high = value - reach(q - q_low, p_high - p), value + reach(q_high - q, p - p_low)
    return max(-1.0, low), min(1.0, high)


def ratio_intervals(
    first: np.ndarray, second: np.ndarray, paired: bool, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of second / first, of p50, p90, p99 and mean.

    A resample takes whole photos, with all runs of each: runs of one photo are no new photos
    (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8).

    Args:
        first: `[photos, runs]`, milliseconds or another cost.
        second: the same of the other report.
        paired: row i of both is the same photo; the same photos are then taken from both.
        seed: of the resamples: the same reports give the same interval.

    Returns:
        By statistic. One without enough values beyond it, or with a zero in it, is left out; all
        are where one of the reports has fewer than `FEWEST_PHOTOS`.
    """
    if min(len(first), len(second)) < FEWEST_PHOTOS:
        return {}
    size = first.size + second.size
    count = min(RESAMPLES, max(_FEWEST_RESAMPLES, _DRAWS // max(1, size)))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(1, size))
    rows = []
    for start in range(0, count, block):
        taken = rng.integers(0, len(first), (min(block, count - start), len(first)))
        other = taken if paired else rng.integers(0, len(second), (len(taken), len(second)))
        with np.errstate(divide="ignore", invalid="ignore"):
            rows.append(_statistics(second[other]) / _statistics(first[taken]))
    ratios = np.concatenate(rows, axis=1)
    found = {}
    for name, values in zip((*QUANTILES, "mean"), ratios, strict=True):
        if min(first.size, second.size) >= fewest(name) and np.isfinite(values).all():
            low, high = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])
            found[name] = (float(low), float(high))
    return found


def _statistics(times: np.ndarray) -> np.ndarray:
    """`[resamples, photos, runs]` to `[4, resamples]`."""
    flat = times.reshape(len(times), -1)
    return np.vstack([np.quantile(flat, list(QUANTILES.values()), axis=1), flat.mean(axis=1)])


def fewest(name: str) -> int:
    """How many values a statistic's interval needs."""
    return math.ceil(FEWEST_BEYOND / (1 - QUANTILES.get(name, 0.5)) - 1e-9)

"""How good a chosen operating point really is, told by the held-out photos themselves.

The photos that chose among thousands of settings flatter the one that was chosen. So the choice is
made again without a part of them and measured on that part, until every photo was left out once
(cross-fitting, or nested validation: Varma and Simon, "Bias in error estimation when using
cross-validation for model selection", 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from .cascade import Answered, Cost, OperatingPoint
from .chooser import Asked, Chooser

FOLDS = 5
_SEED = 0


@dataclass(frozen=True)
class Part:
    """Photos that were left out, and what was tried without them.

    Attributes:
        left_out: their places.
        fit: the other photos.
        points: of `fit`.
    """

    left_out: np.ndarray
    fit: Asked
    points: Sequence[OperatingPoint]


@dataclass(frozen=True)
class Estimate:
    """A choice measured on photos that it did not see.

    Attributes:
        top1: share named rightly, with its standard error over photos.
        mean_macs: of a photo.
        mean_ms: of a photo, or None.
        photos: each left out once.
        folds: how often the choice was made.
    """

    top1: float
    standard_error: float
    mean_macs: float
    mean_ms: float | None
    photos: int
    folds: int


def parts(chooser: Chooser, asked: Asked, folds: int = FOLDS, seed: int = _SEED) -> list[Part]:
    """All settings tried without each part of the photos; none of fewer than two photos.

    Two cascades asked about the same photos have the same parts.
    """
    n = len(asked.targets)
    if n < 2:
        return []
    order = np.random.default_rng(seed).permutation(n)
    found = []
    for left_out in np.array_split(order, min(folds, n)):
        fit = asked.take(np.setdiff1d(order, left_out))
        found.append(Part(np.sort(left_out), fit, chooser.sweep(fit)))
    return found


def left_out(
    asked: Asked, made: Sequence[Part], pick: Callable[[int, Part], OperatingPoint]
) -> Answered:
    """Each photo answered by the setting that was picked without it.

    Args:
        asked: all photos.
        made: `parts` of them.
        pick: from a part and its number.
    """
    told = [
        asked.take(part.left_out).answers(pick(number, part)) for number, part in enumerate(made)
    ]
    back = np.argsort(np.concatenate([part.left_out for part in made]))

    def joined(of: Callable[[Answered], np.ndarray]) -> np.ndarray:
        return np.concatenate([of(one) for one in told])[back]

    return Answered(
        joined(lambda one: one.stage),
        joined(lambda one: one.right),
        joined(lambda one: one.macs),
        None if any(one.ms is None for one in told) else joined(_ms),
    )


def _ms(one: Answered) -> np.ndarray:
    assert one.ms is not None
    return one.ms


def estimate(told: Answered, folds: int) -> Estimate:
    """What `left_out` amounts to."""
    n, top1 = len(told.right), float(told.right.mean())
    return Estimate(
        top1=top1,
        standard_error=sqrt(top1 * (1 - top1) / n),
        mean_macs=float(told.macs.mean()),
        mean_ms=None if told.ms is None else float(told.ms.mean()),
        photos=n,
        folds=folds,
    )


@dataclass(frozen=True)
class Paired:
    """Two settings on the same photos, second less first.

    Attributes:
        top1: difference of the shares named rightly, with its standard error.
        gained: photos that only the second names rightly; `lost`: that only the first does.
        p: of McNemar's exact test, two-sided.
        cost: difference of the mean cost, with its standard error.
        first_cost: of the first, on average.
    """

    top1: float
    top1_error: float
    gained: int
    lost: int
    p: float
    cost: float
    cost_error: float
    first_cost: float

    def to_json(self) -> dict[str, Any]:
        """For compression.json."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


def paired(first: Answered, second: Answered, cost: Cost = "macs") -> Paired:
    """Compare photo by photo: what both name rightly or wrongly adds no noise."""
    n = len(first.right)
    gained = int((second.right & ~first.right).sum())
    lost = int((first.right & ~second.right).sum())
    top1 = (gained - lost) / n
    before, after = (one.macs if cost == "macs" else _ms(one) for one in (first, second))
    change = (after - before).astype(float)
    return Paired(
        top1=top1,
        top1_error=sqrt(max(0.0, (gained + lost) / n - top1**2) / n),
        gained=gained,
        lost=lost,
        p=mcnemar(lost, gained),
        cost=float(change.mean()),
        cost_error=float(change.std() / sqrt(n)),
        first_cost=float(before.mean()),
    )


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided p-value of McNemar's exact test of so many discordant pairs (1947)."""
    n = lost + gained
    chosen = tail = 1
    for k in range(1, min(lost, gained) + 1):
        chosen = chosen * (n - k + 1) // k
        tail += chosen
    return min(1.0, 2 * tail / 2**n)

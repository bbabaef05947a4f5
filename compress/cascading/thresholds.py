"""Thresholds of a cascade, solved: all that matter are tried at once, by counting photos.

Photos only change sides where a threshold passes one of their confidences, so thresholds between
neighbouring confidences are all there are. What every combination of them gives is counted in one
histogram a stage over the confidences' ranks, and summed up along its axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NONE = 1.01
"""A threshold that no photo reaches."""

CELLS = 2**16
"""Combinations of thresholds that are counted: all, of two members and up to so many photos."""


@dataclass(frozen=True)
class Judged:
    """A cascade's stages on photos, each stage as if it answered all of them.

    Attributes:
        sure: confidence of each stage but the last `[stages - 1, n]`, from 0 to 1.
        right: whether its first class is the target `[stages, n]`.
        cost: of a photo that this stage answers, ascending `[stages]`.
        chance: probability that it gives to the target `[stages, n]`; None: 1 where it is right.
    """

    sure: np.ndarray
    right: np.ndarray
    cost: np.ndarray
    chance: np.ndarray | None = None

    def stage(self, thresholds: Sequence[float]) -> np.ndarray:
        """Which stage answers each photo, `[n]`."""
        answers = np.ones(self.right.shape, bool)
        answers[:-1] = self.sure >= np.asarray(thresholds).reshape(-1, 1)
        return answers.argmax(axis=0)

    def solved(self, thresholds: Sequence[float]) -> Solved:
        """What some thresholds give."""
        stage = self.stage(thresholds)
        hits = np.bincount(stage, minlength=len(self.right))
        right = int(self.right[stage, np.arange(len(stage))].sum())
        return Solved(tuple(thresholds), right, float(self.cost @ hits), tuple(hits.tolist()))


@dataclass(frozen=True)
class Solved:
    """Thresholds and what they give.

    Attributes:
        thresholds: of each stage but the last.
        right: photos named rightly.
        cost: of all photos together.
        hits: photos that each stage answers.
    """

    thresholds: tuple[float, ...]
    right: int
    cost: float
    hits: tuple[int, ...]


def solve(judged: Judged, cells: int = CELLS) -> list[Solved]:
    """The thresholds that no cheaper ones match in accuracy, cheapest first.

    Args:
        cells: at most so many combinations are counted; where there are more photos than that
            allows, thresholds are spread over them evenly.
    """
    stages = len(judged.right)
    if stages == 1:
        right, n = int(judged.right.sum()), judged.right.shape[1]
        return [Solved((), right, float(judged.cost[0] * n), (n,))]
    tried = _tried(judged, cells)
    right, hits, cost = _count(judged, tried, judged.right)
    right = np.rint(right).astype(np.int64)
    best = np.full(int(right.max()) + 1, np.inf)
    np.minimum.at(best, right.ravel(), cost.ravel())
    cheapest = np.minimum.accumulate(best[::-1])[::-1]
    alone = np.isfinite(best) & (best < np.append(cheapest[1:], np.inf))
    places = np.flatnonzero((cost == best[right]) & alone[right])
    _, first = np.unique(right.ravel()[places], return_index=True)
    chosen = places[first]
    index = np.unravel_index(chosen, right.shape)
    thresholds = np.stack([one[i] for one, i in zip(tried, index, strict=True)], axis=1)
    answered = np.stack([np.broadcast_to(one, right.shape)[index] for one in hits], axis=1)
    return [
        Solved(tuple(one), named, paid, tuple(each))
        for one, named, paid, each in zip(
            thresholds.tolist(), right[index].tolist(), cost[index].tolist(), answered.tolist(),
            strict=True,
        )
    ]  # fmt: skip


def likeliest(judged: Judged, limit: float, cells: int = CELLS) -> tuple[float, Solved] | None:
    """The thresholds of at most a cost of all photos that give the targets the largest chances,
    summed, and that sum; None where even the cheapest cost more.

    Args:
        cells: as of `solve`.
    """
    n = judged.right.shape[1]
    worth = judged.right if judged.chance is None else judged.chance
    if len(judged.right) == 1:
        (alone,) = solve(judged)
        return (float(worth.sum()), alone) if alone.cost <= limit else None
    tried = _tried(judged, cells)
    chance, _, cost = _count(judged, tried, worth)
    within = cost <= limit
    if not within.any():
        return None
    best = chance[within].max()
    # Of equal chances, but for rounding, the cheapest.
    equal = within & (chance >= best - 1e-9 * n)
    place = np.unravel_index(np.where(equal, cost, np.inf).argmin(), cost.shape)
    thresholds = tuple(float(one[i]) for one, i in zip(tried, place, strict=True))
    return float(chance[place]), judged.solved(thresholds)


def _tried(judged: Judged, cells: int) -> list[np.ndarray]:
    """Thresholds of each stage but the last, of two stages or more; `cells` combinations at most,
    but three of each."""
    most = max(3, int(cells ** (1 / len(judged.sure)) + 1e-9))
    return [candidates(sure, most) for sure in judged.sure]


def candidates(sure: np.ndarray, most: int) -> np.ndarray:
    """Thresholds that let through from all photos to none, ascending, `most` of them or fewer.

    Each lies in the middle between two neighbours, where rounding on another machine moves nothing.
    """
    values = np.unique(sure)
    middles = values[:-1] + (values[1:] - values[:-1]) / 2
    # Of two neighbouring floats the middle is one of them, and must not be the lower.
    middles = np.where(middles > values[:-1], middles, values[1:])
    if len(middles) > most - 2:
        shares = np.linspace(0, 1, most)[1:-1]
        spread = np.quantile(sure, shares, method="nearest")
        middles = np.unique(middles[np.minimum(values.searchsorted(spread), len(middles) - 1)])
    return np.concatenate([[0.0], middles[middles > 0], [NONE]])


def _count(
    judged: Judged, tried: Sequence[np.ndarray], worth: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """At each combination of thresholds: the worth `[stages, n]` of all answers, the photos that
    each stage answers (of which axes that do not matter have length 1), and what all cost."""
    shape = tuple(len(one) for one in tried)
    bins = [
        one.searchsorted(sure, "right") - 1 for one, sure in zip(tried, judged.sure, strict=True)
    ]
    total, hits, cost = np.zeros(shape), [], np.zeros(shape)
    for stage, (own, price) in enumerate(zip(worth, judged.cost, strict=True)):
        axes = min(stage + 1, len(shape))
        index = np.asarray(np.ravel_multi_index(tuple(bins[:axes]), shape[:axes]))
        open_ends = (...,) + (None,) * (len(shape) - axes)
        total += _answered(index, shape[:axes], stage, own)[open_ends]
        hits.append(_answered(index, shape[:axes], stage)[open_ends])
        cost += hits[-1] * price
    return total, hits, cost


def _answered(
    index: np.ndarray, shape: tuple[int, ...], stage: int, worth: np.ndarray | None = None
) -> np.ndarray:
    """How many of the photos (or what worth of theirs) a stage answers: below the thresholds
    before, at or above its own."""
    count = np.bincount(index, worth, int(np.prod(shape))).reshape(shape)
    for axis in range(len(shape)):
        if axis == stage:
            count = np.flip(np.flip(count, axis).cumsum(axis), axis)
        else:
            count = count.cumsum(axis) - count
    return count


def descend(judged: Judged, start: Solved, right: int) -> Solved:
    """Cheaper thresholds next to some: one at a time, exactly, until none can be moved.

    Args:
        right: photos that are to be named rightly, at least.

    Returns:
        No worse than `start`, which must meet the condition.
    """

    def rank(named: np.ndarray, paid: np.ndarray) -> np.ndarray:
        """Places from the worst to the best; those that break the condition first."""
        return np.lexsort((named, -np.where(named >= right, paid, np.inf)))

    best = start
    while True:
        before = best
        for place in range(len(judged.sure)):
            tried, named, paid = _along(judged, best.thresholds, place)
            named, paid = np.append(named, best.right), np.append(paid, best.cost)
            top = int(rank(named, paid)[-1])
            if (named[top], paid[top]) != (best.right, best.cost):
                moved = list(best.thresholds)
                moved[place] = float(tried[top])
                hits = np.bincount(judged.stage(moved), minlength=len(judged.right))
                best = Solved(tuple(moved), int(named[top]), float(paid[top]), tuple(hits.tolist()))
        if best == before:
            return best


def _along(
    judged: Judged, thresholds: Sequence[float], place: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All thresholds of one stage, the others kept: they, photos named rightly, and cost."""
    photos = np.arange(judged.right.shape[1])
    own = judged.stage(thresholds)
    earlier = own < place
    passed = [*thresholds]
    passed[place] = NONE
    later = judged.stage(passed)
    tried = candidates(judged.sure[place], len(photos) + 2)
    rank = tried.searchsorted(judged.sure[place], "right") - 1

    def total(values: np.ndarray) -> np.ndarray:
        """`values[stage]` of each photo summed, for each threshold."""
        fixed = values[own[earlier], photos[earlier]].sum()
        waiting = photos[~earlier]
        passes = np.bincount(rank[waiting], values[later[waiting], waiting], len(tried))
        answers = np.bincount(rank[waiting], values[place, waiting], len(tried))
        return fixed + passes.cumsum() - passes + answers[::-1].cumsum()[::-1]

    named = np.rint(total(judged.right.astype(float))).astype(np.int64)
    return tried, named, total(np.broadcast_to(judged.cost[:, None], judged.right.shape))

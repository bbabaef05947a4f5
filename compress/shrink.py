"""Compound shrinking: how far to turn depth, width and resolution down, together.

EdgeCompress shrinks each dimension by what it contributes to accuracy and to computation. Here the
contribution is measured on the user's photos: one short training a dimension, shrunk alone, and
one of the unshrunk network as the reference. With l = ln(MACs before / after), the accuracy that a
dimension costs is taken to grow as c * l^2 (the first steps are cheap, the later ones dear), c
from its measured point. Minimising the sum of c_k * l_k^2 for a given total of l gives each
dimension a fixed share of the logarithm: l_k ~ 1 / c_k. Those shares are the exponents: at a
fraction f of the MACs, dimension k is to bring f ** share_k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgecompress.errors import UsageError

from .network import NetworkSpec

Dimension = Literal["depth", "width", "resolution"]
DIMENSIONS: tuple[Dimension, ...] = ("depth", "width", "resolution")

# MACs go as depth, width squared and resolution squared.
POWERS: dict[Dimension, int] = {"depth": 1, "width": 2, "resolution": 2}
SIDE_STEP = 8
SMALLEST_SIDE = 16

Cost = Callable[[NetworkSpec], float]
"""What a network costs: MACs, or milliseconds on a board."""


@dataclass(frozen=True)
class TrialPoint:
    """One measured network.

    Attributes:
        dimension: what was shrunk; None for the reference.
        accuracy: on photos held out, after the trial's training.
        photos: how many those were.
    """

    dimension: Dimension | None
    spec: NetworkSpec
    accuracy: float
    photos: int


def scaled(base: NetworkSpec, factors: Mapping[Dimension, float]) -> NetworkSpec:
    """The base with its dimensions multiplied; the side is rounded to a multiple of 8 pixels."""
    side = base.resolution * factors.get("resolution", 1.0)
    if factors.get("resolution", 1.0) != 1.0:
        side = max(SMALLEST_SIDE, SIDE_STEP * round(side / SIDE_STEP))
    return replace(
        base,
        depth=round(base.depth * factors.get("depth", 1.0), 4),
        width=round(base.width * factors.get("width", 1.0), 4),
        resolution=int(side),
    )


def trial_specs(base: NetworkSpec, share: float) -> dict[Dimension, NetworkSpec]:
    """For each dimension, the base shrunk in it alone to about `share` of the MACs."""
    return {
        dimension: scaled(base, {dimension: share ** (1 / POWERS[dimension])})
        for dimension in DIMENSIONS
    }


def exponents(points: Sequence[TrialPoint]) -> dict[Dimension, float]:
    """Each dimension's share of the logarithm of the MACs to save; they add up to 1.

    A loss below the accuracy's standard error counts as that error: fewer photos cannot tell. A
    dimension that saved nothing (a network of one block a stage has no depth to give) gets 0.

    Raises:
        UsageError: no dimension saves anything.
    """
    reference = next(point for point in points if point.dimension is None)
    spread = reference.accuracy * (1 - reference.accuracy) / max(reference.photos, 1)
    floor = max(math.sqrt(spread), 1e-3)
    weights: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 0.0)
    for point in points:
        saved = math.log(reference.spec.macs / point.spec.macs)
        if point.dimension is not None and saved > 1e-6:
            lost = max(reference.accuracy - point.accuracy, floor)
            weights[point.dimension] = saved**2 / lost
    total = sum(weights.values())
    if total == 0:
        raise UsageError(
            f"{reference.spec.family} cannot be shrunk from {reference.spec.macs} MACs",
            "start from a larger base network",
        )
    return {dimension: weight / total for dimension, weight in weights.items()}


def along(base: NetworkSpec, shares: Mapping[Dimension, float], fraction: float) -> NetworkSpec:
    """The network at about `fraction` of the base's MACs, dimensions shrunk by their shares."""
    return scaled(
        base,
        {dimension: fraction ** (share / POWERS[dimension]) for dimension, share in shares.items()},
    )


def propose(
    base: NetworkSpec,
    shares: Mapping[Dimension, float],
    budget: float,
    cost: Cost = lambda spec: spec.macs,
) -> NetworkSpec:
    """A network along the shares that costs at most `budget` of the base, and nearly that much.

    Blocks and pixels come in coarse steps: they are set first, then the width, which is finer,
    takes up what is left of the budget.

    Args:
        budget: share of the base's cost, in 0..1.
        cost: called some ten times.

    Raises:
        UsageError: even the narrowest costs more.
    """
    if budget >= 1:
        return base
    limit = budget * cost(base)
    start = along(base, shares, budget)
    low, high = 0.0, min(1.5 * start.width, base.width)
    best: NetworkSpec | None = None
    for _ in range(8):
        width = round((low + high) / 2, 4)
        spec = replace(start, width=width)
        if cost(spec) <= limit:
            low, best = width, spec
        else:
            high = width
    if best is None:
        raise UsageError(
            f"no {base.family} fits a budget of {budget:g} of the base",
            "raise the budget, or start from another family",
        )
    return best

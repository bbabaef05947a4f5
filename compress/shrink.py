"""Compound shrinking: how far to turn depth, width and resolution down, together.

EdgeCompress shrinks each dimension by what it contributes to accuracy and to computation. Here the
contribution is measured on the user's photos: one short training a dimension, shrunk alone (or a
few, shrunk more and less), and one of the unshrunk network as the reference. With l = ln(cost
before / after), the accuracy that a dimension costs is taken to grow as c * l^2 (the first steps
are cheap, the later ones dear), c from its measured points. Minimising the sum of c_k * l_k^2 for a
given total of l gives each dimension a fixed share of the logarithm: l_k ~ 1 / c_k. Those shares
are the exponents: at a fraction f of the cost, dimension k is to bring f ** share_k.

The cost is MACs, or milliseconds measured on a board.
"""

from __future__ import annotations

import math
import random
import statistics
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
_NARROWEST = 1e-3
_FURTHER = (1.0, 0.6, 0.36, 0.2, 0.1)

Cost = Callable[[NetworkSpec], float]
"""What a network costs: MACs, or milliseconds on a board."""


@dataclass(frozen=True)
class TrialPoint:
    """One measured network.

    Attributes:
        dimension: what was shrunk; None for the reference.
        accuracy: on photos held out, after the trial's training.
        photos: how many those were.
        cost: of one photo; None is its MACs.
    """

    dimension: Dimension | None
    spec: NetworkSpec
    accuracy: float
    photos: int
    cost: float | None = None

    @property
    def paid(self) -> float:
        """What one photo costs."""
        return self.spec.macs if self.cost is None else self.cost


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
    """Each dimension's share of the logarithm of the cost to save; they add up to 1.

    A loss below the accuracy's standard error counts as that error: fewer photos cannot tell. Of
    several points of one dimension, c is fitted by least squares. A dimension that saved nothing (a
    network of one block a stage has no depth to give) gets 0.

    Raises:
        UsageError: no dimension saves anything.
    """
    reference = next(point for point in points if point.dimension is None)
    floor = max(standard_error(reference.accuracy, reference.photos), 1e-3)
    seen: dict[Dimension, list[tuple[float, float]]] = {name: [] for name in DIMENSIONS}
    for point in points:
        saved = math.log(reference.paid / point.paid)
        if point.dimension is not None and saved > 1e-6:
            seen[point.dimension].append((saved, max(reference.accuracy - point.accuracy, floor)))
    weights: dict[Dimension, float] = {name: _ease(pairs) for name, pairs in seen.items()}
    total = sum(weights.values())
    if total == 0:
        raise UsageError(
            f"{reference.spec.family} cannot be shrunk from {reference.spec.macs} MACs",
            "start from a larger base network",
        )
    return {dimension: weight / total for dimension, weight in weights.items()}


def _ease(pairs: Sequence[tuple[float, float]]) -> float:
    """1 / c, where what is lost goes as c * saved^2: exact of one point, least squares of more."""
    if not pairs:
        return 0.0
    if len(pairs) == 1:
        saved, lost = pairs[0]
        return saved**2 / lost
    return sum(saved**4 for saved, _ in pairs) / sum(saved**2 * lost for saved, lost in pairs)


def standard_error(accuracy: float, photos: int) -> float:
    """Of an accuracy that was counted on so many photos."""
    return math.sqrt(accuracy * (1 - accuracy) / max(photos, 1))


def exponent_errors(points: Sequence[TrialPoint], draws: int = 400) -> dict[Dimension, float]:
    """The standard error of each exponent that follows from the accuracies' own.

    Each accuracy is drawn anew within its standard error, with the same numbers every time. That
    networks are measured on the same photos makes their differences surer than is assumed here.
    """
    draw = random.Random(0)
    found: dict[Dimension, list[float]] = {name: [] for name in DIMENSIONS}
    for _ in range(draws):
        moved = [
            replace(p, accuracy=draw.gauss(p.accuracy, standard_error(p.accuracy, p.photos)))
            for p in points
        ]
        # The reference's own accuracy sets the floor: it stays a share.
        clamped = [replace(p, accuracy=min(max(p.accuracy, 0.0), 1.0)) for p in moved]
        for name, share in exponents(clamped).items():
            found[name].append(share)
    return {name: statistics.pstdev(values) for name, values in found.items()}


def powers(points: Sequence[TrialPoint]) -> dict[Dimension, float]:
    """How the cost goes with each dimension: as its `power`; `POWERS` where no point tells.

    Milliseconds on a board follow MACs only roughly.
    """
    reference = next(point for point in points if point.dimension is None)
    found: dict[Dimension, float] = {}
    for name in DIMENSIONS:
        own = [
            math.log(reference.paid / p.paid) / math.log(factor)
            for p in points
            if p.dimension == name
            and (factor := getattr(reference.spec, name) / getattr(p.spec, name)) > 1
            and p.paid < reference.paid
        ]
        found[name] = statistics.fmean(own) if own else POWERS[name]
    return found


def along(
    base: NetworkSpec,
    shares: Mapping[Dimension, float],
    fraction: float,
    powers: Mapping[Dimension, float] = POWERS,
) -> NetworkSpec:
    """The network at about `fraction` of the base's cost, dimensions shrunk by their shares."""
    return scaled(
        base, {name: fraction ** (share / powers[name]) for name, share in shares.items()}
    )


def propose(
    base: NetworkSpec,
    shares: Mapping[Dimension, float],
    budget: float,
    cost: Cost = lambda spec: spec.macs,
    powers: Mapping[Dimension, float] = POWERS,
) -> NetworkSpec:
    """A network along the shares that costs at most `budget` of the base, and nearly that much.

    Blocks and pixels come in coarse steps: they are set first, then the width, which is finer,
    takes up what is left of the budget. Where even the narrowest costs too much (the law does not
    hold that far), blocks and pixels go further down.

    Args:
        budget: share of the base's cost; above 1 it is the base itself at a larger resolution.
        cost: called some ten times.
        powers: how that goes with each dimension.

    Raises:
        UsageError: even the narrowest costs more.
    """
    if budget == 1:
        return base
    limit = budget * cost(base)
    if budget > 1:
        larger = at_side(base, limit, round(base.resolution * math.sqrt(budget)), cost)
        # A base's own side need not be a multiple of 8.
        return base if larger is None or larger.resolution < base.resolution else larger
    proposed = along(base, shares, budget, powers)
    for further in _FURTHER:
        start = scaled(proposed, {"depth": further**0.5, "resolution": further**0.25})
        if further < 1 and cost(replace(start, width=_NARROWEST)) > limit:
            continue
        best = widest(start, limit, cost, min(1.5 * start.width, base.width))
        if best is not None:
            return best
    raise UsageError(
        f"no {base.family} fits a budget of {budget:g} of the base",
        "raise the budget, or start from another family",
    )


def at_side(
    base: NetworkSpec, limit: float, most: int, cost: Cost = lambda spec: spec.macs
) -> NetworkSpec | None:
    """The base at the largest side up to `most`, a multiple of 8, that costs at most `limit`."""
    sides = range(most // SIDE_STEP * SIDE_STEP, SMALLEST_SIDE - 1, -SIDE_STEP)
    specs = (replace(base, resolution=side) for side in sides)
    return next((spec for spec in specs if cost(spec) <= limit), None)


def widest(
    start: NetworkSpec, limit: float, cost: Cost, most: float, steps: int = 8
) -> NetworkSpec | None:
    """`start` at the largest width below `most` that costs at most `limit`, or None.

    Args:
        steps: how often the width is halved in; as often `cost` is called.
    """
    low, high = 0.0, most
    best: NetworkSpec | None = None
    for _ in range(steps):
        width = round((low + high) / 2, 4)
        spec = replace(start, width=width)
        if cost(spec) <= limit:
            low, best = width, spec
        else:
            high = width
    return best

"""The law of shrinking: what it costs in accuracy to take so much from one dimension.

One short training a dimension, shrunk alone (or several, shrunk more and less), and one of the
network as it is say what a cut costs. A cut is the logarithm of what it leaves, in multiplications:
halving the width, or the side, is a cut of 2 ln 2. The accuracy lost is taken to be c * cut ** p,
with a c for each dimension and one p for all; what several cuts lose together is the sum.

p decides whether to share a saving among the dimensions or to leave it to one. Above 1 the first
steps are cheap and each dimension gives a little; below 1 the first step is the dearest (trained
weights do not fit a network of which anything has been taken away) and the cheapest dimension
gives all it has.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgecompress.errors import UsageError

from ..networks.network import NetworkSpec

Dimension = Literal["depth", "width", "resolution"]
DIMENSIONS: tuple[Dimension, ...] = ("depth", "width", "resolution")

# MACs go as depth, width squared and resolution squared.
POWERS: dict[Dimension, int] = {"depth": 1, "width": 2, "resolution": 2}

ASSUMED_POWER = 1.0
"""Where each dimension was measured once, which says nothing of p."""
LEAST_POWER, MOST_POWER = 0.5, 2.0
_NOTHING = 1e-6


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


@dataclass(frozen=True)
class Law:
    """What a cut loses: `losses[dimension] * cut ** power`, added up over dimensions.

    Attributes:
        power: p; one for all dimensions.
        losses: accuracy lost by a cut of 1, of every dimension that can be cut.
        measured: whether the power was; else it is assumed.
    """

    power: float
    losses: Mapping[Dimension, float]
    measured: bool = False

    def lost(self, cuts: Mapping[Dimension, float]) -> float:
        """Accuracy that these cuts lose together, at least 0."""
        return sum(self.losses[name] * cut**self.power for name, cut in cuts.items() if cut > 0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"power": self.power, "losses": dict(self.losses), "measured": self.measured}

    @staticmethod
    def from_json(value: Any) -> Law:
        """Read back `to_json`."""
        return Law(value["power"], value["losses"], value["measured"])


def cut_of(base: NetworkSpec, spec: NetworkSpec, dimension: Dimension) -> float:
    """How much of a dimension is gone: 0 is nothing, ln 2 is half of its multiplications.

    Blocks differ in what they compute, and some multipliers of depth take none away: their cut is
    counted in MACs. Side and width are what they are, whatever rounding makes of them.
    """
    if dimension == "depth":
        shallow = replace(base, depth=spec.depth)
        return max(0.0, math.log(base.macs / shallow.macs))
    factor = getattr(base, dimension) / getattr(spec, dimension)
    return max(0.0, POWERS[dimension] * math.log(factor))


def fit_law(points: Sequence[TrialPoint]) -> Law:
    """The law that measured points obey best, by least squares.

    A loss below the accuracy's standard error counts as that error: fewer photos cannot tell. A
    dimension that saved nothing (a network of one block a stage has no depth to give) is not cut.

    Raises:
        UsageError: no dimension saves anything.
    """
    reference = _reference(points)
    floor = max(standard_error(reference.accuracy, reference.photos), 1e-3)
    seen: dict[Dimension, list[tuple[float, float]]] = {}
    for point, cut in _cuts(points):
        lost = max(reference.accuracy - point.accuracy, floor)
        seen.setdefault(_named(point), []).append((cut, lost))
    if not seen:
        raise UsageError(
            f"{reference.spec.family} cannot be shrunk from {reference.spec.macs} MACs",
            "start from a larger base network",
        )
    found = _fitted_power(list(seen.values()))
    power = ASSUMED_POWER if found is None else found
    losses: dict[Dimension, float] = {
        name: sum(cut**power * lost for cut, lost in pairs)
        / sum(cut ** (2 * power) for cut, _ in pairs)
        for name, pairs in seen.items()
    }
    return Law(power, losses, found is not None)


def _fitted_power(dimensions: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    """The common slope of ln(lost) over ln(cut) within dimensions; None: one point of each."""
    above, below = 0.0, 0.0
    for pairs in dimensions:
        x = [math.log(cut) for cut, _ in pairs]
        y = [math.log(lost) for _, lost in pairs]
        middle = statistics.fmean(x)
        above += sum((a - middle) * b for a, b in zip(x, y, strict=True))
        below += sum((a - middle) ** 2 for a in x)
    if below < _NOTHING:
        return None
    return min(max(above / below, LEAST_POWER), MOST_POWER)


def _reference(points: Sequence[TrialPoint]) -> TrialPoint:
    return next(point for point in points if point.dimension is None)


def _named(point: TrialPoint) -> Dimension:
    assert point.dimension is not None
    return point.dimension


def _cuts(points: Sequence[TrialPoint]) -> Iterator[tuple[TrialPoint, float]]:
    """Points of a dimension that saved something, with their cuts."""
    reference = _reference(points)
    for point in points:
        if point.dimension is None or point.paid >= reference.paid * (1 - _NOTHING):
            continue
        cut = cut_of(reference.spec, point.spec, point.dimension)
        if cut > _NOTHING:
            yield point, cut


def standard_error(accuracy: float, photos: int) -> float:
    """Of an accuracy that was counted on so many photos."""
    return math.sqrt(accuracy * (1 - accuracy) / max(photos, 1))


def rates(points: Sequence[TrialPoint]) -> dict[Dimension, float]:
    """How the cost follows a dimension's MACs: as their `rate`-th power; 1 where no point tells.

    Milliseconds on a board follow MACs only roughly, and not alike in each dimension.
    """
    reference = _reference(points)
    found: dict[Dimension, list[float]] = {name: [] for name in DIMENSIONS}
    for point, _ in _cuts(points):
        fewer = math.log(reference.spec.macs / point.spec.macs)
        if fewer > _NOTHING:
            found[_named(point)].append(math.log(reference.paid / point.paid) / fewer)
    return {name: statistics.fmean(own) if own else 1.0 for name, own in found.items()}

"""The law of shrinking: what it costs to take so much from one dimension.

Short trainings of the network shrunk in one dimension alone, a little and more, and one of the
network as it is say what a cut loses: in the mean probability of the right class, on photos held
out. Top-1 counts only photos that change sides, and is noisier for it. A cut is the logarithm of
what it leaves, in multiplications: halving the side is a cut of 2 ln 2. What it loses is taken to
be in proportion to the cut until the first one that was tried, and from there in another
proportion: as many times more as fits all dimensions best. What several cuts lose together is the
sum.

One power of the cut would be smoother, but says too much: where a quarter of the MACs loses four
times what a half does, it is 2, and the first steps of each dimension are nearly free, so that a
little of everything goes. Trained weights do not take that well.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgecompress.errors import UsageError

from ..networks.network import NetworkSpec

Dimension = Literal["depth", "width", "inner", "resolution"]
DIMENSIONS: tuple[Dimension, ...] = ("depth", "width", "inner", "resolution")
"""Width is of all channels, inner width of those within blocks, which no shortcut passes by."""

_NOTHING = 1e-6
STRAIGHT = 1.0
"""The bend where each dimension was tried once, which says nothing of it."""
LEAST_BEND, MOST_BEND = 0.25, 8.0
_BENDS = 241
_LEAST_LOST = 1e-3


@dataclass(frozen=True)
class TrialPoint:
    """One measured network.

    Attributes:
        dimension: what was shrunk; None for the reference.
        lost: probability of the right class, that the reference gives photos held out more than
            this network does after the trial's training; their mean.
        error: its standard error: over differences photo by photo.
        cost: of one photo; None is its MACs.
    """

    dimension: Dimension | None
    spec: NetworkSpec
    lost: float = 0.0
    error: float = 0.0
    cost: float | None = None

    @property
    def paid(self) -> float:
        """What one photo costs."""
        return self.spec.macs if self.cost is None else self.cost


@dataclass(frozen=True)
class Line:
    """What one dimension loses.

    Attributes:
        slope: what is lost by a cut of 1, up to the knee.
        knee: the smallest cut that was tried; further ones lose `Law.bend` times as much.
        end: the largest that was tried.
    """

    slope: float
    knee: float
    end: float


@dataclass(frozen=True)
class Law:
    """What a cut loses: a bent line for each dimension, added up.

    Attributes:
        lines: of every dimension that can be cut.
        bend: how many times more a step loses behind the knee than before it.
        measured: whether the bend was; else it is assumed.
    """

    lines: Mapping[Dimension, Line]
    bend: float = STRAIGHT
    measured: bool = False

    def lost(self, cuts: Mapping[Dimension, float]) -> float:
        """What these cuts lose together, at least 0: mean probability of the right class."""
        return sum(
            self.lines[name].slope * _bent(cut, self.lines[name].knee, self.bend)
            for name, cut in cuts.items()
            if cut > 0
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        lines = {name: asdict(line) for name, line in self.lines.items()}
        return {"lines": lines, "bend": self.bend, "measured": self.measured}

    @staticmethod
    def from_json(value: Any) -> Law:
        """Read back `to_json`."""
        lines: dict[Dimension, Line] = {n: Line(**one) for n, one in value["lines"].items()}
        return Law(lines, value["bend"], value["measured"])


def _bent(cut: float, knee: float, bend: float) -> float:
    return min(cut, knee) + bend * max(0.0, cut - knee)


def cut_of(base: NetworkSpec, spec: NetworkSpec, dimension: Dimension) -> float:
    """How much of a dimension is gone: 0 is nothing, ln 2 is half of its multiplications.

    Blocks differ in what they compute, and channels are rounded (within narrow blocks once more):
    their cut is counted in MACs. A side is what it is, whatever rounding makes of the maps' sides.
    """
    own = getattr(spec, dimension)
    if dimension == "resolution":
        return max(0.0, 2 * math.log(base.resolution / own))
    whole = replace(base, width=spec.width) if dimension == "inner" else base
    return max(0.0, math.log(whole.macs / replace(whole, **{dimension: own}).macs))


def fit_law(points: Sequence[TrialPoint]) -> Law:
    """The law that measured points obey best, by least squares.

    A loss below its standard error counts as that error: fewer photos cannot tell. A
    dimension that saved nothing (a network of one block a stage has no depth to give) is not cut.

    Raises:
        UsageError: no dimension saves anything.
    """
    seen: dict[Dimension, list[tuple[float, float]]] = {}
    for point, cut in _cuts(points):
        seen.setdefault(_named(point), []).append((cut, max(point.lost, point.error, _LEAST_LOST)))
    if not seen:
        reference = _reference(points)
        raise UsageError(
            f"{reference.spec.family} cannot be shrunk from {reference.spec.macs} MACs",
            "start from a larger base network",
        )
    bend = _fitted_bend(list(seen.values()))
    found = STRAIGHT if bend is None else bend
    lines: dict[Dimension, Line] = {
        name: _fitted_line(pairs, found) for name, pairs in seen.items()
    }
    return Law(lines, found, bend is not None)


def _fitted_line(pairs: Sequence[tuple[float, float]], bend: float) -> Line:
    """The slope with which a bent line comes nearest to (cut, lost)."""
    knee = min(cut for cut, _ in pairs)
    bent = [_bent(cut, knee, bend) for cut, _ in pairs]
    above = sum(x * lost for x, (_, lost) in zip(bent, pairs, strict=True))
    return Line(above / sum(x * x for x in bent), knee, max(cut for cut, _ in pairs))


def _fitted_bend(dimensions: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    """The bend with which all lines come nearest; None: no dimension was cut further than once."""
    if all(max(pairs)[0] - min(pairs)[0] < _NOTHING for pairs in dimensions):
        return None
    ratio = MOST_BEND / LEAST_BEND
    bends = [LEAST_BEND * ratio ** (step / (_BENDS - 1)) for step in range(_BENDS)]
    return min(bends, key=lambda bend: sum(_missed(pairs, bend) for pairs in dimensions))


def _missed(pairs: Sequence[tuple[float, float]], bend: float) -> float:
    line = _fitted_line(pairs, bend)
    return sum((lost - line.slope * _bent(cut, line.knee, bend)) ** 2 for cut, lost in pairs)


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

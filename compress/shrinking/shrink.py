"""Compound shrinking: how far to turn depth, width and resolution down, together.

EdgeCompress shrinks each dimension by what it contributes to accuracy and to computation. Here what
it contributes is measured on the user's photos (`law`). For a budget all pairs of blocks and input
side are looked through, the width of each being what the budget leaves, and the pair whose cuts
lose least together by the law is proposed. Each dimension's share of the logarithm of what is saved
is its exponent: at a fraction f of the cost it brings f ** exponent.

The cost is MACs, or milliseconds measured on a board.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgecompress.errors import UsageError

from ..networks.network import NetworkSpec
from .law import DIMENSIONS, POWERS, Dimension, Law, TrialPoint, cut_of, fit_law, standard_error

SIDE_STEP = 8
SMALLEST_SIDE = 16
_NARROWEST = 1e-3
_DEPTH_STEP = 0.025
_SHALLOWEST = 0.05
_HALF = 0.5
_HALVINGS = 8

Cost = Callable[[NetworkSpec], float]
"""What a network costs: MACs, or milliseconds on a board."""

AS_MACS: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 1.0)
"""Rates of a cost that is MACs."""


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


@dataclass(frozen=True)
class Shape:
    """Blocks and a side that the base can be shrunk to.

    Attributes:
        cuts: of depth and resolution.
        saved: logarithm of the MACs that each of the two saves alone.
    """

    spec: NetworkSpec
    cuts: Mapping[Dimension, float]
    saved: Mapping[Dimension, float]


@dataclass(frozen=True)
class Plan:
    """A shape with the width that a budget leaves it, estimated.

    Attributes:
        lost: accuracy, by the law.
        saved: logarithm of the cost that each dimension saves.
    """

    spec: NetworkSpec
    lost: float
    saved: Mapping[Dimension, float]


def shapes(base: NetworkSpec, law: Law) -> list[Shape]:
    """All of them; a dimension that the law says nothing of stays as it is."""
    depths = list(_depths(base)) if "depth" in law.losses else [base]
    sides = list(_sides(base)) if "resolution" in law.losses else [base]
    # Blocks are counted in MACs: their cut is what they save.
    blocks = [(spec.depth, cut_of(base, spec, "depth")) for spec in depths]
    pixels = [
        (spec.resolution, cut_of(base, spec, "resolution"), math.log(base.macs / spec.macs))
        for spec in sides
    ]
    return [
        Shape(
            replace(base, depth=depth, resolution=side),
            {"depth": fewer, "resolution": smaller},
            {"depth": fewer, "resolution": saved},
        )
        for depth, fewer in blocks
        for side, smaller, saved in pixels
    ]


def _depths(base: NetworkSpec) -> Iterator[NetworkSpec]:
    """The base, and with ever fewer blocks."""
    depth: float | None = base.depth
    while depth is not None:
        spec = replace(base, depth=depth)
        yield spec
        depth = next_depth(spec, base.depth, -1)


def _sides(base: NetworkSpec) -> Iterator[NetworkSpec]:
    """The base, and at ever fewer pixels, where that saves something."""
    yield base
    least, step = base.macs, SIDE_STEP
    for side in range((base.resolution - 1) // step * step, SMALLEST_SIDE - 1, -step):
        spec = replace(base, resolution=side)
        if spec.macs < least:
            least = spec.macs
            yield spec


def next_depth(spec: NetworkSpec, most: float, direction: int) -> float | None:
    """The nearest depth multiplier that gives a block more (1) or less (-1), or None."""
    depth = spec.depth
    while depth > _SHALLOWEST and (depth < most or direction < 0):
        depth = min(max(round(depth + direction * _DEPTH_STEP, 4), _SHALLOWEST), most)
        changed = replace(spec, depth=depth).macs - spec.macs
        if changed * direction > 0:
            return depth
    return None


def plans(
    found: Sequence[Shape], law: Law, budget: float, rates: Mapping[Dimension, float] = AS_MACS
) -> list[Plan]:
    """What could be made within a budget, the least loss by the law first.

    What two dimensions save is taken to be the product of what each saves alone.

    Args:
        budget: share of the base's cost, below 1.
        rates: how the cost follows each dimension's MACs.
    """
    made = []
    for shape in found:
        saved: dict[Dimension, float] = {n: rates[n] * value for n, value in shape.saved.items()}
        rest = max(0.0, -math.log(budget) - sum(saved.values()))
        if rest > 0 and "width" not in law.losses:
            continue
        cuts: dict[Dimension, float] = {**shape.cuts, "width": rest / rates["width"]}
        saved["width"] = rest
        made.append(Plan(shape.spec, law.lost(cuts), saved))
    return sorted(made, key=lambda plan: plan.lost)


def exponents(
    found: Sequence[Shape], law: Law, rates: Mapping[Dimension, float] = AS_MACS
) -> dict[Dimension, float]:
    """Each dimension's share of what is saved at half of the cost; they add up to 1."""
    within = plans(found, law, _HALF, rates)
    if within:
        saved = within[0].saved
    else:  # no width makes up for what is missing to a half
        saved = {name: rates[name] * value for name, value in _smallest(found).saved.items()}
    total = sum(saved.values())
    return {name: saved.get(name, 0.0) / total for name in DIMENSIONS}


def _smallest(found: Sequence[Shape]) -> Shape:
    """The one that saves most MACs, whatever the width."""
    return max(found, key=lambda shape: sum(shape.saved.values()))


def exponent_errors(
    found: Sequence[Shape],
    points: Sequence[TrialPoint],
    rates: Mapping[Dimension, float] = AS_MACS,
    draws: int = 400,
) -> dict[Dimension, float]:
    """The standard error of each exponent that follows from the accuracies' own.

    Each accuracy is drawn anew within its standard error, with the same numbers every time. That
    networks are measured on the same photos makes their differences surer than is assumed here.
    """
    draw = random.Random(0)
    drawn: dict[Dimension, list[float]] = {name: [] for name in DIMENSIONS}
    for _ in range(draws):
        moved = [
            replace(p, accuracy=draw.gauss(p.accuracy, standard_error(p.accuracy, p.photos)))
            for p in points
        ]
        # The reference's own accuracy sets the floor: it stays a share.
        clamped = [replace(p, accuracy=min(max(p.accuracy, 0.0), 1.0)) for p in moved]
        for name, share in exponents(found, fit_law(clamped), rates).items():
            drawn[name].append(share)
    return {name: statistics.pstdev(values) for name, values in drawn.items()}


def propose(
    base: NetworkSpec,
    law: Law,
    budget: float,
    cost: Cost = lambda spec: spec.macs,
    rates: Mapping[Dimension, float] = AS_MACS,
) -> NetworkSpec:
    """The network that loses least by the law and costs at most `budget` of the base.

    Blocks and pixels come in coarse steps: they are set first, by what they are estimated to cost;
    then the width, which is finer, takes up what is left of the budget.

    Args:
        budget: share of the base's cost; above 1 it is the base itself at a larger resolution.
        cost: called some ten times, where the estimate is right.
        rates: how it follows each dimension's MACs.

    Raises:
        UsageError: even the smallest network costs more.
    """
    if budget == 1:
        return base
    limit = budget * cost(base)
    if budget > 1:
        larger = at_side(base, limit, round(base.resolution * math.sqrt(budget)), cost)
        # A base's own side need not be a multiple of 8.
        return base if larger is None or larger.resolution < base.resolution else larger
    found = shapes(base, law)
    least = _NARROWEST if "width" in law.losses else base.width
    if cost(replace(_smallest(found).spec, width=least)) <= limit:
        for plan in plans(found, law, budget, rates):
            best = widest(plan.spec, limit, cost, base.width, least)
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
    start: NetworkSpec,
    limit: float,
    cost: Cost = lambda spec: spec.macs,
    most: float = 1.0,
    least: float = 0.0,
) -> NetworkSpec | None:
    """`start` at the largest width from `least` to `most` that costs at most `limit`, or None.

    Args:
        cost: called some ten times.
    """
    whole = replace(start, width=most)
    if cost(whole) <= limit:
        return whole
    low, high = least, most
    best: NetworkSpec | None = None
    for _ in range(_HALVINGS):
        width = round((low + high) / 2, 4)
        if width in (low, high):
            break
        spec = replace(start, width=width)
        if cost(spec) <= limit:
            low, best = width, spec
        else:
            high = width
    return best

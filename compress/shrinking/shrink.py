"""Compound shrinking: how far to turn depth, width and resolution down, together.

EdgeCompress shrinks each dimension by what it contributes to accuracy and to computation. Here what
it contributes is measured on the user's photos (`law`). For a budget all combinations of blocks,
inner width and input side are looked through, the width of each being what the budget leaves, and
the one whose cuts lose least together by the law is proposed. Each dimension's share of the
logarithm of what is saved is its exponent: at a fraction f of the cost it brings f ** exponent.

The cost is MACs, or milliseconds measured on a board.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgecompress.errors import UsageError

from ..networks.families import find_family
from ..networks.foreign import is_foreign
from ..networks.network import NetworkSpec
from .law import DIMENSIONS, Dimension, Law, TrialPoint, cut_of, fit_law

SIDE_STEP = 8
SMALLEST_SIDE = 16
_NARROWEST = 1e-3
_DEPTH_STEP = 0.025
_SHALLOWEST = 0.05
_HALF = 0.5
_HALVINGS = 8
INNER_STEPS = 8
_ROUNDING = 1e-6
_LOOKS = 40

Cost = Callable[[NetworkSpec], float]
"""What a network costs: MACs, or milliseconds on a board."""


def count_macs(spec: NetworkSpec) -> float:
    """The cost of which a network's MACs are the price."""
    return spec.macs


WIDTHS: tuple[Dimension, ...] = ("width", "inner")
"""What is fine enough to take up the rest of a budget."""

AS_MACS: dict[Dimension, float] = dict.fromkeys(DIMENSIONS, 1.0)
"""Rates of a cost that is MACs."""


def dimensions_of(family: str) -> tuple[Dimension, ...]:
    """What a family can be shrunk in; a user's own module may refuse some of it yet."""
    inner = not is_foreign(family) and find_family(family).inner
    return tuple(name for name in DIMENSIONS if inner or name != "inner")


def layers_of(spec: NetworkSpec) -> tuple[int, int, int]:
    """What tells networks of one family apart, whatever multipliers they were made by."""
    return spec.macs, spec.params, spec.resolution


def trial_specs(base: NetworkSpec, share: float) -> dict[Dimension, NetworkSpec]:
    """For each dimension, the base shrunk in it alone to about `share` of the MACs.

    Inner width, which saves only what is computed within blocks, keeps at most that much, or as
    little as it can.
    """
    root = math.sqrt(share)
    side = max(SMALLEST_SIDE, SIDE_STEP * round(base.resolution * root / SIDE_STEP))
    made: dict[Dimension, NetworkSpec] = {
        "depth": replace(base, depth=round(base.depth * share, 4)),
        "width": replace(base, width=round(base.width * root, 4)),
        "resolution": replace(base, resolution=side),
    }
    if "inner" in dimensions_of(base.family):
        narrow = widest(base, share * base.macs, most=base.inner, of="inner")
        made["inner"] = narrow or replace(base, inner=_NARROWEST)
    return {name: made[name] for name in DIMENSIONS if name in made}


@dataclass(frozen=True)
class Shape:
    """Blocks, their inner width and a side that the base can be shrunk to.

    Attributes:
        cuts: of depth, inner width and resolution.
        saved: logarithm of the MACs that each of them saves alone.
    """

    spec: NetworkSpec
    cuts: Mapping[Dimension, float]
    saved: Mapping[Dimension, float]


@dataclass(frozen=True)
class Plan:
    """A shape with the width that a budget leaves it, estimated.

    Attributes:
        lost: by the law.
        saved: logarithm of the cost that each dimension saves.
        rest: what takes up the rest of the budget: width, or inner width.
    """

    spec: NetworkSpec
    lost: float
    saved: Mapping[Dimension, float]
    rest: Dimension = "width"


def shapes(base: NetworkSpec, law: Law) -> list[Shape]:
    """All of them; a dimension that the law says nothing of stays as it is."""
    depths = list(_depths(base)) if "depth" in law.lines else [base]
    inners = list(_inners(base)) if "inner" in law.lines else [base]
    sides = list(_sides(base)) if "resolution" in law.lines else [base]
    # Blocks and what is within them are counted in MACs: their cut is what they save.
    blocks = [(spec.depth, cut_of(base, spec, "depth")) for spec in depths]
    within = [
        (spec.inner, cut)
        for spec in inners
        if (cut := cut_of(base, spec, "inner")) <= _deepest(law)
    ]
    pixels = [
        (spec.resolution, cut_of(base, spec, "resolution"), math.log(base.macs / spec.macs))
        for spec in sides
    ]
    return [
        Shape(
            replace(base, depth=depth, inner=inner, resolution=side),
            {"depth": fewer, "inner": narrower, "resolution": smaller},
            {"depth": fewer, "inner": narrower, "resolution": saved},
        )
        for depth, fewer in blocks
        for inner, narrower in within
        for side, smaller, saved in pixels
    ]


def _deepest(law: Law) -> float:
    """The largest cut of the inner width: what was tried. As blocks run empty, accuracy goes fast
    and MACs hardly any more, since those of their outputs stay."""
    return law.lines["inner"].end + _ROUNDING if "inner" in law.lines else 0.0


def _depths(base: NetworkSpec) -> Iterator[NetworkSpec]:
    """The base, and with ever fewer blocks."""
    depth: float | None = base.depth
    while depth is not None:
        spec = replace(base, depth=depth)
        yield spec
        depth = next_depth(spec, base.depth, -1)


def _inners(base: NetworkSpec) -> Iterator[NetworkSpec]:
    """The base, and with blocks that are ever narrower inside, where that saves something."""
    steps = range(INNER_STEPS - 1, 0, -1)
    inners = (round(base.inner * step / INNER_STEPS, 4) for step in steps)
    return _ever_cheaper(base, (replace(base, inner=inner) for inner in inners))


def _sides(base: NetworkSpec) -> Iterator[NetworkSpec]:
    """The base, and at ever fewer pixels, where that saves something."""
    largest = (base.resolution - 1) // SIDE_STEP * SIDE_STEP
    sides = range(largest, SMALLEST_SIDE - 1, -SIDE_STEP)
    return _ever_cheaper(base, (replace(base, resolution=side) for side in sides))


def _ever_cheaper(base: NetworkSpec, others: Iterable[NetworkSpec]) -> Iterator[NetworkSpec]:
    """The base, and of the others each that has fewer MACs than all before it."""
    least = base.macs
    yield base
    for spec in others:
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

    What several dimensions save is taken to be the product of what each saves alone. The rest of
    the budget is taken from the width, or, of shapes that have their whole inner width, from that.

    Args:
        budget: share of the base's cost, below 1.
        rates: how the cost follows each dimension's MACs.
    """
    made = []
    for shape in found:
        saved: dict[Dimension, float] = {n: rates[n] * value for n, value in shape.saved.items()}
        rest = max(0.0, -math.log(budget) - sum(saved.values()))
        fills: list[Dimension] = ["width"] if rest == 0 or "width" in law.lines else []
        if 0 < rest / rates["inner"] <= _deepest(law) and not shape.cuts["inner"]:
            fills.append("inner")
        for fill in fills:
            cuts: dict[Dimension, float] = {**shape.cuts, fill: rest / rates[fill]}
            made.append(Plan(shape.spec, law.lost(cuts), {**saved, fill: rest}, fill))
    return sorted(made, key=_by_loss)


def _by_loss(plan: Plan) -> tuple[float, int]:
    # Of plans that lose as much, one that changes less: there is less that the law may be wrong in.
    return round(plan.lost, 6), sum(value > _ROUNDING for value in plan.saved.values())


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
    return {name: saved.get(name, 0.0) / total for name in dimensions_of(found[0].spec.family)}


def _smallest(found: Sequence[Shape]) -> Shape:
    """The one that saves most MACs, whatever the width."""
    return max(found, key=lambda shape: sum(shape.saved.values()))


def exponent_errors(
    found: Sequence[Shape],
    points: Sequence[TrialPoint],
    rates: Mapping[Dimension, float] = AS_MACS,
    draws: int = 400,
) -> dict[Dimension, float]:
    """The standard error of each exponent that follows from those of what was lost.

    Each loss is drawn anew within its standard error, with the same numbers every time.
    """
    draw = random.Random(0)
    drawn: dict[Dimension, list[float]] = {}
    for _ in range(draws):
        moved = [replace(point, lost=draw.gauss(point.lost, point.error)) for point in points]
        for name, share in exponents(found, fit_law(moved), rates).items():
            drawn.setdefault(name, []).append(share)
    return {name: statistics.pstdev(values) for name, values in drawn.items()}


def propose(
    base: NetworkSpec,
    law: Law,
    budget: float,
    cost: Cost = count_macs,
    rates: Mapping[Dimension, float] = AS_MACS,
) -> NetworkSpec:
    """The network that loses least by the law and costs at most `budget` of the base.

    Blocks and pixels come in coarse steps: they are set first, by what they are estimated to cost;
    then the width, or the inner width, which are finer, takes up what is left of the budget.
    Rounded channels may leave much of it: the likeliest shapes are compared as they came out.

    Args:
        budget: share of the base's cost; above 1 it is the base itself at a larger resolution.
        cost: MACs, of as many networks as it takes; another one is called some ten times, where
            the estimate is right.
        rates: how it follows each dimension's MACs.

    Raises:
        UsageError: even the smallest network costs more.
    """
    if budget == 1:
        return base
    limit = budget * cost(base)
    if budget > 1:
        larger = at_side(base, limit, round(base.resolution * math.sqrt(budget)), cost)
        # A base's own side need not be a multiple of 8, and some modules take that side only.
        return base if larger is None or larger.macs <= base.macs else larger
    found = shapes(base, law)
    # Measured milliseconds take seconds each: one guess has to do there.
    looks = _LOOKS if cost is count_macs else 1
    least = {name: _NARROWEST if name in law.lines else getattr(base, name) for name in WIDTHS}
    if cost(replace(_smallest(found).spec, width=least["width"])) <= limit:
        best: tuple[float, NetworkSpec] | None = None
        for plan in plans(found, law, budget, rates):
            if best is not None and (looks == 0 or plan.lost >= best[0]):
                break
            fill = plan.rest
            narrowest = replace(plan.spec, **{fill: least[fill]})
            if cost is count_macs and narrowest.macs > limit:
                continue  # channels come in eights: some shapes do not get as narrow as estimated
            most = getattr(base, fill)
            spec = widest(plan.spec, limit, cost, most=most, least=least[fill], of=fill)
            if spec is not None and cut_of(base, spec, "inner") <= _deepest(law):
                looks -= 1
                lost = law.lost({name: cut_of(base, spec, name) for name in law.lines})
                best = (lost, spec) if best is None or lost < best[0] else best
        if best is not None:
            return best[1]
    raise UsageError(
        f"no {base.family} fits a budget of {budget:g} of the base",
        "raise the budget, or start from another family",
    )


def at_side(
    base: NetworkSpec, limit: float, most: int, cost: Cost = count_macs, step: int = SIDE_STEP
) -> NetworkSpec | None:
    """The base at the largest side up to `most`, a multiple of `step`, that costs at most
    `limit`."""
    sides = range(most // step * step, SMALLEST_SIDE - 1, -step)
    specs = (replace(base, resolution=side) for side in sides)
    return next((spec for spec in specs if cost(spec) <= limit), None)


def widest(
    start: NetworkSpec,
    limit: float,
    cost: Cost = count_macs,
    *,
    most: float = 1.0,
    least: float = 0.0,
    of: Dimension = "width",
) -> NetworkSpec | None:
    """`start` at the largest width from `least` to `most` that costs at most `limit`, or None.

    Args:
        cost: called some ten times.
        of: the width, or the inner width.
    """
    whole = replace(start, **{of: most})
    if cost(whole) <= limit:
        return whole
    low, high = least, most
    best: NetworkSpec | None = None
    for _ in range(_HALVINGS):
        width = round((low + high) / 2, 4)
        if width in (low, high):
            break
        spec = replace(start, **{of: width})
        if cost(spec) <= limit:
            low, best = width, spec
        else:
            high = width
    return best

"""A local search round the network that the law proposes, along the surface of equal cost.

With the cost fixed, all dimensions but one are free. A step takes a block more or less, or 8
pixels, or both, or an eighth of the inner width; the width, which is finest, takes up what the
budget leaves, or the inner width does where that alone has been cut. Candidates that would leave
more than a twelfth of it unused are none.

Trainings are short and noisy. All candidates get a few epochs, the better half of them goes on for
twice as many (successive halving, Jamieson and Talwalkar 2016), and only who then gives the right
classes a larger probability than the network in hand, by more than the difference's standard error,
or is as likely and cheaper, takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..likelihood import gained
from ..networks.network import NetworkSpec
from .law import Dimension
from .shrink import (
    INNER_STEPS,
    SIDE_STEP,
    SMALLEST_SIDE,
    Cost,
    dimensions_of,
    layers_of,
    next_depth,
)

LEAST_USED = 0.92
"""Share of a budget that a candidate must use."""
_AIM = 0.98
_GUESSES = 6
_MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0), (-1, 1), (1, -1), (1, 1), (-1, -1))


@dataclass(frozen=True)
class Point:
    """A candidate after one of its trainings.

    Attributes:
        cost: of one photo, in what the budget limits.
        accuracy: on photos held out.
        chances: the probability that it gives to the class of each of these photos, at its
            likeliest temperature, `[n]`.
        epochs: it has had, of all its trainings.
        seconds: those of this training.
        long: whether it was among the better half.
        step: of the work folder that trained it.
    """

    spec: NetworkSpec
    cost: float
    accuracy: float
    chances: np.ndarray = field(compare=False, repr=False)
    epochs: int
    seconds: float
    long: bool
    step: str

    @property
    def photos(self) -> int:
        """How many are held out."""
        return len(self.chances)

    @property
    def chance(self) -> float:
        """The mean probability of the right class."""
        return float(self.chances.mean())

    @property
    def error(self) -> float:
        """The accuracy's standard error."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / max(self.photos, 1))

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record."""
        return {
            "spec": self.spec.to_json(),
            "macs": self.spec.macs,
            "params": self.spec.params,
            "cost": self.cost,
            "held_out": self.accuracy,
            "error": round(self.error, 5),
            "chance": round(self.chance, 6),
            "photos": self.photos,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "long": self.long,
            "step": self.step,
        }


def neighbours(
    spec: NetworkSpec, base: NetworkSpec, limit: float, cost: Cost
) -> Iterator[NetworkSpec]:
    """Networks one step away that cost nearly, and at most, `limit`; none is larger than the base.

    Args:
        cost: called a few times for each.
    """
    seen = {layers_of(spec)}
    for moved, fill in _moved(spec, base):
        found = fitted(moved, limit, cost, getattr(base, fill), fill)
        if found is not None and layers_of(found) not in seen:
            seen.add(layers_of(found))
            yield found


def _moved(spec: NetworkSpec, base: NetworkSpec) -> Iterator[tuple[NetworkSpec, Dimension]]:
    """Networks one step away, of any cost, and what is to make up for the step."""
    inside = spec.width >= base.width and spec.inner < base.inner
    for deeper, larger in _MOVES:
        depth = spec.depth if deeper == 0 else next_depth(spec, base.depth, deeper)
        side = spec.resolution + larger * SIDE_STEP
        if depth is not None and SMALLEST_SIDE <= side <= base.resolution:
            moved = replace(spec, depth=depth, resolution=side)
            if larger and moved.macs == replace(moved, resolution=spec.resolution).macs:
                continue  # a module that takes one side only: photos of another are resized to it
            yield moved, "inner" if inside else "width"
    if "inner" not in dimensions_of(spec.family):
        return
    for step in (-1, 1):
        inner = round(spec.inner + step * base.inner / INNER_STEPS, 4)
        if 0 < inner <= base.inner:
            yield replace(spec, inner=inner), "width"


def fitted(
    start: NetworkSpec, limit: float, cost: Cost, most: float, of: Dimension = "width"
) -> NetworkSpec | None:
    """`start` at a width with which it costs nearly, and at most, `limit`; None: there is none.

    Args:
        most: the largest width.
        of: the width, or the inner width.
    """
    low, high, width = 0.0, most, min(getattr(start, of), most)
    power = 0.5 if of == "width" else 1.0
    for _ in range(_GUESSES):
        spec = replace(start, **{of: round(width, 4)})
        paid = cost(spec)
        if LEAST_USED * limit <= paid <= limit:
            return spec
        if paid < limit and width == most:
            return None
        low, high = (width, high) if paid < limit else (low, width)
        # The cost goes about as the width's square, and with what is within blocks.
        guess = width * (_AIM * limit / paid) ** power
        width = (
            min(guess, most) if low < guess and (guess < high or high == most) else (low + high) / 2
        )
    return None


def first_round(left: int, fresh: bool) -> int:
    """How many new candidates a round of so many trainings can take.

    Args:
        fresh: whether the network in hand has to be trained too, twice.
    """
    left -= 2 * fresh
    count = 0
    while count + 1 + kept(count + 1) <= left:
        count += 1
    return count


def kept(count: int) -> int:
    """How many of so many candidates go on."""
    return max(1, count // 2) if count else 0


def better(new: Point, old: Point) -> str:
    """Why `new` takes the place of `old`; "" where it does not."""
    gain, error = gained(new.chances, old.chances)
    if gain > error:
        return (
            f"its mean probability of the right class {100 * gain:.1f} points above that of the one"
            f" before it (standard error {100 * error:.1f})"
        )
    if gain >= 0 and new.cost < old.cost:
        return f"as likely as the one before it and {100 * (1 - new.cost / old.cost):.1f} % cheaper"
    return ""


def best(points: Sequence[Point]) -> list[Point]:
    """The likeliest first, of equal ones the cheapest."""
    return sorted(points, key=lambda one: (-one.chance, one.cost))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (cost, probability) no other one matches at less cost, cheapest first."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    chosen: list[int] = []
    for i in order:
        if not chosen or points[i][1] > points[chosen[-1]][1]:
            chosen.append(i)
    return chosen

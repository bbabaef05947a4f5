"""Choosing a cascade's members, thresholds, temperatures and alpha on photos that no training
touched."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from edgecompress.errors import UsageError

from ...runner.cascade import combine, confidence
from ..likelihood import chances, fit_alpha, fit_temperature
from .thresholds import Judged, Solved, descend, likeliest, solve

LEARNED = "learned"
Alpha = float | Literal["learned"]
ALPHAS: tuple[Alpha, ...] = (0.5, 1.0, 1.6, 2.5, LEARNED)
"""Weights of a later member's logits that are tried; EdgeCompress uses 1.6, and the learned one is
the likeliest."""

AUTO = "auto"
CRITERIA = ("margin", "max_softmax")
"""Of the runner; `auto` tries both."""

Cost = Literal["macs", "ms"]


@dataclass(frozen=True)
class Member:
    """What one member says of the held-out photos.

    Attributes:
        macs: of one run.
        logits: `[n, classes]`.
        ms: of one run, where it was measured.
    """

    macs: int
    logits: np.ndarray
    ms: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """One setting of a cascade and what it gives on the held-out photos.

    Attributes:
        thresholds: of each member but the last.
        temperatures: of each member.
        top1: share of photos named rightly.
        mean_macs: of a photo, `fixed` included.
        hit_rates: share of photos that each member answers.
        criterion: `margin` or `max_softmax`.
        members: places of the members that the cascade has, of those that were given; None: all.
        learned: whether alpha is the likeliest one.
        mean_ms: of a photo, `fixed_ms` included; None where a member's is not known.
    """

    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]
    accumulate: bool
    alpha: float
    top1: float
    mean_macs: float
    hit_rates: tuple[float, ...]
    criterion: str = "margin"
    members: tuple[int, ...] | None = None
    learned: bool = False
    mean_ms: float | None = None

    def cost(self, of: Cost) -> float:
        """`mean_macs` or `mean_ms`; infinite where that is not known."""
        value = self.mean_macs if of == "macs" else self.mean_ms
        return float("inf") if value is None else value


@dataclass(frozen=True)
class Answered:
    """What a setting gives photo by photo.

    Attributes:
        stage: which of its members answers `[n]`.
        right: whether it names the class rightly `[n]`.
        macs: `[n]`.
        ms: `[n]`, or None.
    """

    stage: np.ndarray
    right: np.ndarray
    macs: np.ndarray
    ms: np.ndarray | None


def _chosen(members: Sequence[Member], places: Sequence[int] | None) -> list[Member]:
    return list(members) if places is None else [members[place] for place in places]


def _costs(members: Sequence[Member], fixed: float, of: Cost) -> np.ndarray | None:
    """Of a photo that each stage answers `[members]`."""
    each = [member.macs if of == "macs" else member.ms for member in members]
    known = [one for one in each if one is not None]
    return np.cumsum(known) + fixed if len(known) == len(each) else None


def running_logits(
    members: Sequence[Member], *, alpha: float, accumulate: bool
) -> list[np.ndarray]:
    """What each stage would answer with, `[n, classes]` each."""
    running: list[np.ndarray] = []
    for member in members:
        before = running[-1] if running else None
        running.append(combine(before, member.logits, alpha, accumulate))
    return running


def _judge(
    members: Sequence[Member], targets: np.ndarray, point: OperatingPoint, costs: np.ndarray
) -> Judged:
    running = running_logits(members, alpha=point.alpha, accumulate=point.accumulate)
    sure = [
        confidence(logits, point.criterion, temperature)
        for logits, temperature in zip(running[:-1], point.temperatures[:-1], strict=True)
    ]
    right = np.stack([logits.argmax(axis=1) == targets for logits in running])
    chance = np.stack(
        [
            chances(logits, targets, temperature)
            for logits, temperature in zip(running, point.temperatures, strict=True)
        ]
    )
    return Judged(np.array(sure).reshape(-1, len(targets)), right, costs, chance)


def chances_at(members: Sequence[Member], targets: np.ndarray, point: OperatingPoint) -> np.ndarray:
    """The probability that a setting gives to each target, `[n]` (see `likeliest_within`)."""
    own = _chosen(members, point.members)
    costs = _costs(own, 0, "macs")
    assert costs is not None
    judged = _judge(own, targets, point, costs)
    assert judged.chance is not None
    return judged.chance[judged.stage(point.thresholds), np.arange(len(targets))]


def answers(
    members: Sequence[Member],
    targets: np.ndarray,
    point: OperatingPoint,
    *,
    fixed: int = 0,
    fixed_ms: float = 0.0,
) -> Answered:
    """What a setting gives on photos, one by one.

    Args:
        members: all that `point.members` counts.
        targets: `[n]`.
    """
    own = _chosen(members, point.members)
    macs, ms = _costs(own, fixed, "macs"), _costs(own, fixed_ms, "ms")
    assert macs is not None
    judged = _judge(own, targets, point, macs)
    stage = judged.stage(point.thresholds)
    named = judged.right[stage, np.arange(len(targets))]
    return Answered(stage, named, macs[stage], None if ms is None else ms[stage])


def apply(
    members: Sequence[Member],
    targets: np.ndarray,
    point: OperatingPoint,
    *,
    criterion: str | None = None,
    fixed: int = 0,
    fixed_ms: float = 0.0,
) -> OperatingPoint:
    """The same setting, measured on other photos.

    Args:
        criterion: another one than the point's.
    """
    point = replace(point, criterion=criterion or point.criterion)
    told = answers(members, targets, point, fixed=fixed, fixed_ms=fixed_ms)
    return replace(
        point,
        top1=float(told.right.mean()),
        mean_macs=float(told.macs.mean()),
        hit_rates=tuple(float((told.stage == k).mean()) for k in range(len(point.temperatures))),
        mean_ms=None if told.ms is None else float(told.ms.mean()),
    )


def sweep(
    members: Sequence[Member],
    targets: np.ndarray,
    *,
    criterion: str,
    fixed: int = 0,
    alphas: Sequence[Alpha] = ALPHAS,
    sizes: Collection[int] | None = None,
    cost: Cost = "macs",
    fixed_ms: float = 0.0,
) -> list[OperatingPoint]:
    """The best settings of each way to answer: logits replaced or accumulated with each alpha, each
    criterion, each selection of members; and of each way all thresholds that no cheaper ones match.

    Args:
        members: cheapest first.
        targets: `[n]`.
        criterion: as in the runner; or `auto`: both.
        fixed: MACs that every photo costs (the predictor's); `fixed_ms`: its milliseconds.
        alphas: numbers, and `learned` for the likeliest.
        sizes: how many of the members a cascade may have; by default it has all of them.
        cost: what thresholds are solved for; `ms` needs every member's.
    """
    ways = each_way(
        members, targets, criterion=criterion, fixed=fixed, alphas=alphas, sizes=sizes, cost=cost,
        fixed_ms=fixed_ms,
    )  # fmt: skip
    return [way.point(one) for way in ways for one in solve(way.judged)]


def likeliest_within(ways: Iterable[Way], limit: float) -> OperatingPoint | None:
    """Of all settings of some ways that cost at most `limit` a photo, the one that gives targets
    the largest mean probability, each answer with its temperature. None where there is none.

    The mean probability follows accuracy, and chance moves it less: every photo counts with how
    sure the answer was, not with 0 or 1. On a thousand photos the most accurate thresholds are
    often lucky ones, and lie far below the cost that is allowed.
    """
    best: tuple[float, float, OperatingPoint] | None = None
    for way in ways:
        found = likeliest(way.judged, limit * way.judged.right.shape[1])
        if found is not None and (best is None or (found[0], -found[1].cost) > best[:2]):
            best = found[0], -found[1].cost, way.point(found[1])
    return None if best is None else best[2]


def each_way(
    members: Sequence[Member],
    targets: np.ndarray,
    *,
    criterion: str,
    fixed: int,
    alphas: Sequence[Alpha],
    sizes: Collection[int] | None,
    cost: Cost,
    fixed_ms: float,
) -> Iterator[Way]:
    """The ways to answer that `sweep` tries."""
    criteria = CRITERIA if criterion == AUTO else (criterion,)

    def last_logits(places: tuple[int, ...], alpha: float | None) -> np.ndarray:
        own = _chosen(members, places)
        return running_logits(own, alpha=alpha or 0.0, accumulate=alpha is not None)[-1]

    @cache
    def named(places: tuple[int, ...], alpha: float | None) -> tuple[float, np.ndarray, np.ndarray]:
        """Temperature, right answers and the targets' chances of the last of some members."""
        logits = last_logits(places, alpha)
        temperature = round(fit_temperature(logits, targets), 4)
        right = logits.argmax(axis=1) == targets
        return temperature, right, chances(logits, targets, temperature)

    @cache
    def sure(places: tuple[int, ...], alpha: float | None, criterion: str) -> np.ndarray:
        return confidence(last_logits(places, alpha), criterion, named(places, alpha)[0])

    for places in _selections(len(members), sizes):
        own = _chosen(members, places)
        macs, ms = _costs(own, fixed, "macs"), _costs(own, fixed_ms, "ms")
        costs = macs if cost == "macs" else ms
        if costs is None or macs is None:
            raise UsageError(
                "milliseconds of a member are not known", "give costs_ms in [compress.cascade]"
            )
        for alpha, learned in _ways(own, targets, alphas):
            # Logits that replace are a member's own: what was asked before does not matter.
            stages = [
                (places[: k + 1], alpha) if alpha is not None and k else ((place,), None)
                for k, place in enumerate(places)
            ]
            right = np.stack([named(*stage)[1] for stage in stages])
            chance = np.stack([named(*stage)[2] for stage in stages])
            for name in criteria if len(places) > 1 else criteria[:1]:
                known = [sure(*stage, name) for stage in stages[:-1]]
                yield Way(
                    judged=Judged(np.array(known).reshape(-1, len(targets)), right, costs, chance),
                    macs=macs,
                    ms=ms,
                    temperatures=tuple(named(*stage)[0] for stage in stages),
                    alpha=alpha,
                    learned=learned,
                    criterion=name,
                    members=None if sizes is None else places,
                )


def _selections(count: int, sizes: Collection[int] | None) -> Iterator[tuple[int, ...]]:
    for size in [count] if sizes is None else sorted(set(sizes)):
        yield from itertools.combinations(range(count), size)


def _ways(
    members: Sequence[Member], targets: np.ndarray, alphas: Sequence[Alpha]
) -> list[tuple[float | None, bool]]:
    """Alphas, and whether each was learned; None: a later member's logits replace the others."""
    ways: list[tuple[float | None, bool]] = [(None, False)]
    if len(members) > 1:
        for alpha in alphas:
            if alpha == LEARNED:
                fitted = fit_alpha([member.logits for member in members], targets)
                ways.append((round(fitted, 4), True))
            else:
                ways.append((float(alpha), False))
    return ways


@dataclass(frozen=True)
class Way:
    """One way to answer: all of a point but its thresholds; an alpha of None replaces logits.

    Attributes:
        judged: its stages on the photos.
        macs, ms: of a photo that each stage answers `[stages]`.
    """

    judged: Judged
    macs: np.ndarray
    ms: np.ndarray | None
    temperatures: tuple[float, ...]
    alpha: float | None
    learned: bool
    criterion: str
    members: tuple[int, ...] | None

    def point(self, solved: Solved) -> OperatingPoint:
        """The setting that some thresholds make of it."""
        n = sum(solved.hits)
        return OperatingPoint(
            thresholds=solved.thresholds,
            temperatures=self.temperatures,
            accumulate=self.alpha is not None,
            alpha=1.0 if self.alpha is None else self.alpha,
            top1=solved.right / n,
            mean_macs=float(self.macs @ solved.hits) / n,
            hit_rates=tuple(count / n for count in solved.hits),
            criterion=self.criterion,
            members=self.members,
            learned=self.learned,
            mean_ms=None if self.ms is None else float(self.ms @ solved.hits) / n,
        )


def frontier(points: Sequence[OperatingPoint], cost: Cost = "macs") -> list[OperatingPoint]:
    """The points that no cheaper one matches in accuracy, cheapest first."""
    best: list[OperatingPoint] = []
    for point in sorted(points, key=lambda one: (one.cost(cost), -one.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def choose(
    points: Sequence[OperatingPoint],
    *,
    macs: float | None = None,
    top1: float | None = None,
    slack: float = 0.005,
    ms: float | None = None,
    cost: Cost = "macs",
) -> OperatingPoint:
    """The most accurate point within `macs` or `ms`; or the cheapest with at least `top1`; or, of
    none of them, the cheapest within `slack` of the most accurate one.

    Args:
        cost: what the cheapest is by, where neither `macs` nor `ms` is given.

    Raises:
        UsageError: no point meets the condition.
    """
    if macs is not None:
        return _within(points, macs, "macs")
    if ms is not None:
        return _within(points, ms, "ms")
    return _cheapest(frontier(points, cost), top1, slack)


def _within(points: Sequence[OperatingPoint], limit: float, cost: Cost) -> OperatingPoint:
    curve = frontier(points, cost)
    within = [point for point in curve if point.cost(cost) <= limit]
    if not within:
        unit, name = (1e6, "M MACs") if cost == "macs" else (1.0, "ms")
        raise UsageError(
            f"no cascade runs within {limit / unit:.4g} {name} a photo: the cheapest takes "
            f"{curve[0].cost(cost) / unit:.4g} {name.split()[0]}",
            f"raise [compress.cascade] {cost}, or add a smaller member to budgets",
        )
    return within[-1]


def _cheapest(curve: Sequence[OperatingPoint], top1: float | None, slack: float) -> OperatingPoint:
    wanted = curve[-1].top1 - slack if top1 is None else top1
    enough = [point for point in curve if point.top1 >= wanted]
    if not enough:
        raise UsageError(
            f"no cascade reaches a top-1 of {wanted:.3f} on the held-out photos: the best has "
            f"{curve[-1].top1:.3f}",
            "lower [compress.cascade] top1, or train longer",
        )
    return enough[0]


def refine(
    members: Sequence[Member],
    targets: np.ndarray,
    point: OperatingPoint,
    *,
    fixed: int = 0,
    fixed_ms: float = 0.0,
    cost: Cost = "macs",
) -> OperatingPoint:
    """The same members and logits with thresholds moved one by one to where they are as accurate
    and cheapest.

    `sweep` tries all thresholds of two members, and an even choice of three members' or more.
    """
    own = _chosen(members, point.members)
    costs = _costs(own, fixed if cost == "macs" else fixed_ms, cost)
    if costs is None or len(own) < 3:
        return point
    judged = _judge(own, targets, point, costs)
    start = judged.solved(point.thresholds)
    best = descend(judged, start, start.right)
    moved = replace(point, thresholds=best.thresholds)
    return apply(members, targets, moved, fixed=fixed, fixed_ms=fixed_ms)

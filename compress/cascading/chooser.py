"""How an operating point is chosen, as one thing that can be done again on other photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, TypeVar

import numpy as np

from edgecompress.errors import UsageError

from ..config import CascadeTable
from .cascade import (
    Alpha,
    Answered,
    Cost,
    Member,
    OperatingPoint,
    Way,
    answers,
    apply,
    choose,
    each_way,
    frontier,
    likeliest_within,
    refine,
    sweep,
)

T = TypeVar("T")

SPARE = 1.0
"""Standard errors that a budget leaves: it is to hold on photos other than those chosen on."""


@dataclass(frozen=True)
class Asked:
    """What the members of a cascade say of some photos.

    Attributes:
        members: cheapest first.
        targets: `[n]`.
        fixed: MACs that every photo costs (the predictor's).
        fixed_ms: its milliseconds.
    """

    members: tuple[Member, ...]
    targets: np.ndarray
    fixed: int = 0
    fixed_ms: float = 0.0

    def take(self, rows: np.ndarray) -> Asked:
        """Some of the photos."""
        members = tuple(replace(one, logits=one.logits[rows]) for one in self.members)
        return replace(self, members=members, targets=self.targets[rows])

    def answers(self, point: OperatingPoint) -> Answered:
        """What a setting gives, photo by photo."""
        return answers(self.members, self.targets, point, fixed=self.fixed, fixed_ms=self.fixed_ms)

    def apply(self, point: OperatingPoint) -> OperatingPoint:
        """A setting, measured on these photos."""
        return apply(self.members, self.targets, point, fixed=self.fixed, fixed_ms=self.fixed_ms)


def _manner(one: OperatingPoint | Way) -> tuple[str, object]:
    """Criterion, and what is done with earlier logits."""
    accumulates = one.alpha is not None if isinstance(one, Way) else one.accumulate
    return one.criterion, "learned" if one.learned else one.alpha if accumulates else None


def _grouped(each: Iterable[T], key: Callable[[T], object]) -> Iterable[list[T]]:
    groups: dict[object, list[T]] = {}
    for one in each:
        groups.setdefault(key(one), []).append(one)
    return groups.values()


@dataclass(frozen=True)
class Chooser:
    """What is tried, and what is wanted of it.

    Attributes:
        criterion, alphas, sizes: what is tried (`cascade.sweep`).
        macs, ms, top1, slack: what is wanted (`cascade.choose`).
        cost: what is saved, where `macs` or `ms` does not say it.
        spare: how many standard errors of the mean cost stay unused of a budget.
    """

    criterion: str
    alphas: tuple[Alpha, ...]
    sizes: tuple[int, ...] | None = None
    macs: float | None = None
    ms: float | None = None
    top1: float | None = None
    slack: float = 0.005
    cost: Cost = "macs"
    spare: float = 0.0

    @property
    def saved(self) -> Cost:
        """What thresholds are solved for."""
        if self.macs is not None:
            return "macs"
        return self.cost if self.ms is None else "ms"

    @property
    def limit(self) -> float | None:
        """The cost that is allowed, where one is."""
        return self.macs if self.ms is None else self.ms

    def sweep(self, asked: Asked) -> list[OperatingPoint]:
        """All points that are tried."""
        return sweep(asked.members, asked.targets, **self._tried(asked))

    def _tried(self, asked: Asked) -> dict[str, Any]:
        return {
            "criterion": self.criterion,
            "fixed": asked.fixed,
            "alphas": self.alphas,
            "sizes": self.sizes,
            "cost": self.saved,
            "fixed_ms": asked.fixed_ms,
        }

    def within(self, limit: float) -> Chooser:
        """One that wants the likeliest cascade of at most this cost on the photos it is shown."""
        macs, ms = (limit, None) if self.saved == "macs" else (None, limit)
        return replace(self, macs=macs, ms=ms, top1=None, spare=0.0)

    def reaching(self, top1: float) -> Chooser:
        """One that wants the cheapest cascade of at least this accuracy."""
        return replace(self, macs=None, ms=None, top1=top1, cost=self.saved)

    def choose(self, points: Sequence[OperatingPoint], asked: Asked) -> OperatingPoint:
        """The point that is wanted: within a cost the likeliest (`cascade.likeliest_within`); else
        one of `points`, its thresholds moved to where they are best.

        Raises:
            UsageError: no point is what is wanted.
        """
        point = choose(
            points, macs=self.macs, top1=self.top1, slack=self.slack, ms=self.ms, cost=self.cost
        )
        if self.limit is not None:
            each = (self._kept(self.limit, asked), self.limit)
            found = (likeliest_within(self._ways(asked), limit) for limit in each)
            return next((one for one in found if one is not None), point)
        return refine(
            asked.members,
            asked.targets,
            point,
            fixed=asked.fixed,
            fixed_ms=asked.fixed_ms,
            cost=self.saved,
        )

    def _ways(self, asked: Asked) -> Iterable[Way]:
        return each_way(asked.members, asked.targets, **self._tried(asked))

    def _kept(self, limit: float, asked: Asked) -> float:
        """A limit less what is to spare of it, by the costs of the likeliest setting within it."""
        found = likeliest_within(self._ways(asked), limit) if self.spare else None
        if found is None:
            return limit
        told = asked.answers(found)
        each = told.ms if self.saved == "ms" else told.macs
        assert each is not None
        return limit - self.spare * float(each.std()) / sqrt(len(each))

    def best_of_each_way(
        self, points: Sequence[OperatingPoint], asked: Asked
    ) -> list[OperatingPoint]:
        """What is wanted of each criterion and alpha, where it can be had: to compare them."""
        return self._best_of_each(_manner, points, asked)

    def best_of_each_selection(
        self, points: Sequence[OperatingPoint], asked: Asked
    ) -> list[OperatingPoint]:
        """What is wanted of each selection of members, where it can be had."""
        return self._best_of_each(lambda one: one.members, points, asked)

    def _best_of_each(
        self,
        key: Callable[[OperatingPoint | Way], object],
        points: Sequence[OperatingPoint],
        asked: Asked,
    ) -> list[OperatingPoint]:
        """As `choose` would of each group, but that thresholds are not moved further."""
        if self.limit is not None:
            kept = self._kept(self.limit, asked)
            each = (likeliest_within(group, kept) for group in _grouped(self._ways(asked), key))
            return [point for point in each if point is not None]
        found = []
        for group in _grouped(points, key):
            with suppress(UsageError):
                found.append(choose(group, top1=self.top1, slack=self.slack, cost=self.cost))
        return found

    def nearest(self, points: Sequence[OperatingPoint], asked: Asked) -> OperatingPoint:
        """The point that is wanted, or the most accurate where an accuracy is not reached."""
        try:
            return self.choose(points, asked)
        except UsageError:
            if self.top1 is None:
                raise
            return frontier(points, self.saved)[-1]


def chooser(table: CascadeTable, *, members: int, base_macs: int) -> Chooser:
    """What a job's table asks for.

    Args:
        members: how many there are.
        base_macs: of which the table has shares.
    """
    return Chooser(
        criterion=table.criterion,
        alphas=table.alphas,
        sizes=tuple(range(1, members + 1)) if table.subsets else (members,),
        macs=None if table.macs is None else table.macs * base_macs,
        ms=table.ms,
        top1=table.top1,
        slack=table.slack,
        cost="ms" if table.costs_ms and table.macs is None else "macs",
        spare=SPARE,
    )

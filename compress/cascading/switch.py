"""Whether cropping pays: it has to, beyond the noise of the photos that are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgecompress.errors import UsageError

from .cascade import OperatingPoint
from .chooser import Asked, Chooser
from .crossfit import Paired, Part, left_out, paired

LEVEL = 0.05
"""Of the test that cropping must pass."""

BEYOND = 1.96
"""Standard errors by which a mean cost must be lower."""


@dataclass(frozen=True)
class Tried:
    """One way to look at photos: whole, or through crops.

    Attributes:
        asked: what its members say.
        points: all that was tried on it.
        parts: the same without each part of the photos.
        chosen: the point that is wanted; None where no point is what is wanted.
    """

    asked: Asked
    points: Sequence[OperatingPoint]
    parts: Sequence[Part]
    chosen: OperatingPoint | None


@dataclass(frozen=True)
class Decision:
    """Which of two to keep.

    Attributes:
        second: whether it is the second, with crops.
        point: of the one that is kept.
        why: in words, with the numbers.
        tests: of the second against the first: `same_cost`, the most accurate one that costs no
            more, and `same_top1`, the cheapest that is as accurate; those that there are.
    """

    second: bool
    point: OperatingPoint
    why: str
    tests: dict[str, Paired]

    def to_json(self) -> dict[str, Any]:
        """For compression.json."""
        tests = {name: test.to_json() for name, test in self.tests.items()}
        return {"crop": self.second, "why": self.why, "level": LEVEL, "tests": tests}


def decide(chooser: Chooser, whole: Tried, crop: Tried) -> Decision:
    """Keep crops where they name more photos rightly at no more cost, or as many at less.

    Both are measured on photos that neither's choice has seen, the same ones, in pairs. More is
    more where McNemar's exact test says so; less is less by `BEYOND` standard errors.

    Raises:
        UsageError: neither is what is wanted.
    """
    if whole.chosen is None or crop.chosen is None or not whole.parts:
        return _forced(whole, crop)
    first = whole.chosen
    points, tests = {}, {}
    for name in ("same_cost", "same_top1"):
        rival = _rival(name, chooser, first, crop.points, crop.asked)
        test = None if rival is None else _test(name, chooser, whole, crop)
        if test is not None:
            points[name], tests[name] = rival, test
    reasons = {name: _pays(name, test) for name, test in tests.items()}
    # Who asks for an accuracy wants it cheaper; who has a budget wants it better used.
    budgeted = chooser.macs is not None or chooser.ms is not None
    for name in ("same_cost", "same_top1") if budgeted else ("same_top1", "same_cost"):
        why = reasons.get(name)
        if why is not None:
            return Decision(True, points[name], why, tests)
    better = tests.get("same_cost")
    why = "nothing costs as little" if better is None else f"at no more cost, {_told(better)}"
    return Decision(False, first, why, tests)


def _pays(name: str, test: Paired) -> str | None:
    """In words, where it does."""
    if name == "same_cost":
        return f"at no more cost, {_told(test)}" if test.top1 > 0 and test.p < LEVEL else None
    saved = -test.cost
    if test.top1 < 0 or saved <= 0 or saved <= BEYOND * test.cost_error:
        return None
    return f"{saved / test.first_cost:.1%} less cost, {_told(test)}"


def _forced(whole: Tried, crop: Tried) -> Decision:
    """Where there is nothing to compare."""
    if whole.chosen is not None:
        why = (
            "too few photos to tell" if crop.chosen is not None else "no setting is what is wanted"
        )
        return Decision(False, whole.chosen, why, {})
    if crop.chosen is not None:
        return Decision(True, crop.chosen, "whole photos have no setting that is wanted", {})
    raise UsageError(
        "no cascade is what [compress.cascade] wants, with crops or without",
        "ask for less, or add a smaller member to budgets",
    )


def _told(test: Paired) -> str:
    return (
        f"{100 * test.top1:+.2f} points of top-1 (standard error {100 * test.top1_error:.2f}, "
        f"p = {test.p:.2g})"
    )


def _rival(
    name: str,
    chooser: Chooser,
    first: OperatingPoint,
    points: Sequence[OperatingPoint],
    asked: Asked,
) -> OperatingPoint | None:
    """The second way's point to hold against one of the first; None where there is none."""
    if name == "same_cost":
        wanted = chooser.within(first.cost(chooser.saved))
    else:
        wanted = chooser.reaching(first.top1)
    try:
        return wanted.choose(points, asked)
    except UsageError:
        return None


def _test(name: str, chooser: Chooser, whole: Tried, crop: Tried) -> Paired | None:
    """Both chosen without a part of the photos and asked about it; None where a part has none."""
    firsts = [chooser.nearest(part.points, part.fit) for part in whole.parts]
    seconds = [
        _rival(name, chooser, first, part.points, part.fit)
        for first, part in zip(firsts, crop.parts, strict=True)
    ]
    found = [point for point in seconds if point is not None]
    if len(found) < len(seconds):
        return None
    return paired(
        left_out(whole.asked, whole.parts, lambda number, _: firsts[number]),
        left_out(crop.asked, crop.parts, lambda number, _: found[number]),
        chooser.saved,
    )

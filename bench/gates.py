"""Conditions on a comparison: `p50 > +5%` says when the second report is not good enough.

METRIC OP NUMBER[%], with OP one of `<`, `<=`, `>`, `>=`. With `%` the signed relative change is
meant, without it the change in the metric's own unit.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecompress.errors import UsageError, near_names

from .compare import Comparison
from .text import signed, signed_percent

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(
    r"\s*(?P<metric>[\w./:#-]+)\s*(?P<op><=|>=|<|>)"
    r"\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?)\s*(?P<relative>%?)\s*",
    re.IGNORECASE,
)
# A number computed from two others is a little beside what people write.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Condition:
    """What must not be: `number` is a share where `relative`, else in the metric's unit."""

    text: str
    metric: str
    op: str
    number: float
    relative: bool


@dataclass(frozen=True)
class Verdict:
    """A condition and what became of it; `failed` where it holds or could not be looked at."""

    condition: str
    failed: bool
    reason: str


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        UsageError: it is none.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"'{text}' is not a condition",
            "write METRIC OP NUMBER[%], such as 'p50 > +5%' or 'top1 < -0.5'",
        )
    relative = bool(found["relative"])
    number = float(found["number"]) / (100 if relative else 1)
    return Condition(" ".join(text.split()), found["metric"], found["op"], number, relative)


def check(comparison: Comparison, conditions: Sequence[Condition]) -> list[Verdict]:
    """Hold a comparison against conditions, in their order.

    Raises:
        UsageError: a metric is unknown.
    """
    for condition in conditions:
        if comparison.row(condition.metric) is None:
            raise _unknown(condition.metric, comparison)
    return [_verdict(comparison, condition) for condition in conditions]


def _unknown(name: str, comparison: Comparison) -> UsageError:
    known = [row.key for row in comparison.rows if row.group != "layers"]
    near = near_names(name, [row.key for row in comparison.rows])
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    layers = " layer.NETWORK.NAME" * any(row.group == "layers" for row in comparison.rows)
    return UsageError(f"unknown metric '{name}'", f"{meant}known: {' '.join(known)}{layers}")


def _verdict(comparison: Comparison, condition: Condition) -> Verdict:
    row = comparison.row(condition.metric)
    assert row is not None
    if row.change is None:
        return Verdict(condition.text, True, row.why)
    value = row.relative if condition.relative else row.change
    if value is None:
        return Verdict(condition.text, True, "A is zero: there is no relative change")
    if abs(value - condition.number) <= _ROUNDING * max(1.0, abs(condition.number)):
        value = condition.number
    failed = OPERATORS[condition.op](value, condition.number)
    told = signed_percent(value) if condition.relative else signed(value, row.unit)
    doubts = [note.text for note in comparison.notes if note.kind == "doubtful"]
    warning = f"; {' '.join(doubts)}".rstrip(".") if doubts and row.unit == "ms" else ""
    return Verdict(condition.text, failed, f"it is {told}{warning}")

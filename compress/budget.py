"""Budgets of networks as people write them: `0.5x`, `1.2GMACs`, `40ms`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from edgecompress.errors import UsageError

Kind = Literal["share", "MACs", "ms"]

LARGEST_SHARE = 1.5625
"""Of the base's cost: photos are kept at 1.25 of its input side (`material.CACHE_MARGIN`), and no
network is to look at more pixels than there are."""

HINT = "write a share of the base (0.5x), MACs (300MMACs, 1.2GMACs) or a time (40ms, 1.5s)"

_NUMBER = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*", re.IGNORECASE)
_UNITS: dict[str, tuple[Kind, float]] = {
    "": ("share", 1.0),
    "x": ("share", 1.0),
    "%": ("share", 0.01),
    "macs": ("MACs", 1.0),
    "kmacs": ("MACs", 1e3),
    "mmacs": ("MACs", 1e6),
    "gmacs": ("MACs", 1e9),
    "ms": ("ms", 1.0),
    "s": ("ms", 1e3),
}


@dataclass(frozen=True)
class Budget:
    """What a network may cost.

    Attributes:
        value: a share of the base's cost in (0, 1.5625], or MACs, or milliseconds a photo.
        kind: which of them.
    """

    value: float
    kind: Kind

    def __str__(self) -> str:
        if self.kind == "share":
            return f"{self.value:.12g}x"
        if self.kind == "ms":
            return f"{self.value:.12g}ms"
        factor, prefix = next(
            ((f, p) for f, p in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if self.value >= f), (1.0, "")
        )
        return f"{self.value / factor:.12g}{prefix}MACs"

    @property
    def member(self) -> str:
        """What a network of this budget is called: `member25`, `member300M`, `member40ms`."""
        if self.kind == "share":
            return f"member{round(100 * self.value):02d}"
        return f"member{self}".removesuffix("MACs")

    def to_json(self) -> float | str:
        """A share is a number, as it always was; others are text."""
        return self.value if self.kind == "share" else str(self)


def parse_budget(written: Any) -> Budget:
    """Read a budget: a number (a share), or a number with a unit.

    Units, in small letters or capitals: `x` and `%` of the base; `MACs` with `K`, `M` or `G`; `ms`
    and `s` a photo.

    Raises:
        UsageError: it is none.
    """
    if isinstance(written, Budget):
        return written
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        raise UsageError(f"{written!r} is not a budget", HINT)
    found = _NUMBER.fullmatch(str(written))
    if found is None:
        raise UsageError(f"'{written}' is not a budget", HINT)
    number, unit = found.groups()
    if unit.lower() not in _UNITS:
        raise UsageError(f"'{written}' is not a budget: there is no unit '{unit}'", HINT)
    kind, factor = _UNITS[unit.lower()]
    try:
        value = float(number) * factor
    except ValueError:
        raise UsageError(f"'{written}' is not a budget: '{number}' is no number", HINT) from None
    if not 0 < value < math.inf:
        raise UsageError(f"'{written}' is not a budget: it must be above 0", HINT)
    if kind == "share" and value > LARGEST_SHARE:
        raise UsageError(
            f"'{written}' is not a budget: a share of the base is at most {LARGEST_SHARE:g}",
            f"{HINT}; a larger network needs a larger [compress.base]",
        )
    return Budget(value, kind)


def is_budget(written: str) -> bool:
    """Whether a text is meant as a network's budget and not as a time to tune for (`10m`, `90s`).

    Only a unit that times to tune for do not have tells: `x`, `%`, `MACs`, `ms`.
    """
    found = _NUMBER.fullmatch(written)
    return found is not None and found[2].lower() in _UNITS.keys() - {"", "s"}


def member_names(budgets: tuple[Budget, ...]) -> list[str]:
    """A name for the network of each budget, all different."""
    names: list[str] = []
    for budget in budgets:
        name, number = budget.member, 2
        while name in names:
            name, number = f"{budget.member}-{number}", number + 1
        names.append(name)
    return names

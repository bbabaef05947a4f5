"""Milliseconds of members: what a cascade's budget in time is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..budget import Budget, member_names
from ..networks.network import NetworkSpec
from ..training.learn import Compression
from ..training.workbook import Done
from .proposal import Price


def require_times(one: Compression, price: Price) -> None:
    """Before anything is trained: that a cascade's budget in milliseconds can be held.

    Raises:
        UsageError: nothing measures what the members take, and the job does not say it.
    """
    table = one.settings.cascade
    if table.ms is not None and not table.costs_ms:
        price.of(Budget(table.ms, "ms"))


def with_times(
    one: Compression,
    price: Price,
    members: Mapping[str, NetworkSpec],
    predictor: NetworkSpec | None,
) -> tuple[Compression, Done | None]:
    """The same compression with what its members take: as the job says; or measured, where networks
    are priced in milliseconds, and the step that did it.

    Args:
        members: by their names (`budget.member_names`).
        predictor: of crops, where there is one.
    """
    table = one.settings.cascade
    cost = price.cost
    if table.costs_ms or cost is None or not price.timed:
        return one, None
    asked = {**members, **({} if predictor is None else {"predictor": predictor})}

    def work(_: str) -> dict[str, Any]:
        return {"where": price.name, "ms": {name: cost(spec) for name, spec in asked.items()}}

    inputs = {"where": price.name, "specs": {name: spec.to_json() for name, spec in asked.items()}}
    done = one.book.step("times", inputs, work, alone=True)
    ms = done.result["ms"]
    names = member_names(one.settings.members.allowed)
    told = {
        # A member that is the same network as another one was left out; its place is filled.
        "costs_ms": tuple(ms.get(name, max(ms.values())) for name in names),
        "predictor_ms": ms.get("predictor", 0.0),
    }
    settings = one.settings.model_copy(update={"cascade": table.model_copy(update=told)})
    return replace(one, settings=settings), done

"""Steps of compound shrinking: trials on the photos, and the members that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecompress.errors import UsageError

from ..budget import Budget
from ..likelihood import gained
from ..networks.network import NetworkSpec
from ..training.learn import Compression
from ..training.workbook import Done
from .law import Dimension, Law, TrialPoint, fit_law, rates
from .shrink import (
    AS_MACS,
    Cost,
    count_macs,
    exponent_errors,
    exponents,
    layers_of,
    propose,
    shapes,
    trial_specs,
)
from .trial import Trial, held_chances, run_trials

MACS = "MACs"
RECORD = 6
"""Of the shrink step's result."""


@dataclass(frozen=True)
class Price:
    """What networks cost, beside MACs.

    Attributes:
        cost: None: their MACs.
        name: names it in reports: `MACs`, or begins with `ms` where it is milliseconds of a photo.
    """

    cost: Cost | None = None
    name: str = MACS

    @property
    def timed(self) -> bool:
        """Whether networks are priced in milliseconds."""
        return self.cost is not None and self.name.startswith("ms")

    def of(self, budget: Budget) -> tuple[Cost, str]:
        """The cost that a budget limits, and its name.

        Raises:
            UsageError: it is in milliseconds, and nothing measures them.
        """
        if budget.kind == "MACs" or self.cost is None:
            if budget.kind == "ms":
                raise UsageError(
                    f"a budget of {budget} needs a board to measure on",
                    "run it as a job with a board: edgecompress run JOB.toml; or give MACs",
                )
            return count_macs, MACS
        if budget.kind == "ms" and not self.timed:
            raise UsageError(f"a budget of {budget} cannot be held against {self.name}")
        return self.cost, self.name


def shrink_trials(one: Compression, base: Done) -> list[tuple[Dimension | None, Trial]]:
    """The reference, and each dimension shrunk alone to each of the configured shares."""
    settings, table = one.settings, one.settings.shrink
    spec = NetworkSpec.from_json(base.result["spec"])
    recipe = settings.train.recipe(table.epochs, seed=settings.seed, rate=table.rate)
    specs: list[tuple[Dimension | None, str, NetworkSpec]] = [(None, "reference", spec)]
    known = {layers_of(spec)}
    for share in sorted(table.shares, reverse=True):
        mark = f"-{100 * share:g}" * (len(table.shares) > 1)
        for name, made in trial_specs(spec, share).items():
            # A dimension that cannot give more than it did has been tried; one side of several that
            # cost the same (a module that takes one only) is none.
            if made.macs < spec.macs and layers_of(made) not in known:
                known.add(layers_of(made))
                specs.append((name, f"{name}{mark}", made))
    return [
        (
            dimension,
            Trial(
                f"trial-{name}",
                made,
                recipe,
                {"base": base.fingerprint, "spec": made.to_json(), "recipe": recipe.to_json()},
            ),
        )
        for dimension, name, made in specs
    ]


def measure_shrinking(one: Compression, base: Done, price: Price = Price()) -> Done:
    """What depth, width and resolution each contribute: a short training of each, shrunk alone."""
    trials = shrink_trials(one, base)
    done = run_trials(one, [trial for _, trial in trials], "trials of each dimension")

    def work(_: str) -> dict[str, Any]:
        told = held_chances(one, [trial for _, trial in trials])
        points = [
            TrialPoint(
                dimension=dimension,
                spec=trial.spec,
                lost=lost,
                error=error,
                cost=None if price.cost is None else price.cost(trial.spec),
            )
            for (dimension, trial), (lost, error) in zip(
                trials, (gained(told[0], own) for own in told), strict=True
            )
        ]
        law = fit_law(points)
        follows = AS_MACS if price.cost is None else rates(points)
        found = shapes(points[0].spec, law)
        return {
            "points": [
                {
                    "dimension": point.dimension,
                    "spec": point.spec.to_json(),
                    "macs": point.spec.macs,
                    "cost": point.paid,
                    "held_out": step.result["held_out"],
                    "photos": step.result["photos"],
                    "chance": round(float(chance.mean()), 6),
                    "lost": round(point.lost, 6),
                    "error": round(point.error, 6),
                }
                for point, chance, step in zip(points, told, done, strict=True)
            ],
            "cost": price.name,
            "law": law.to_json(),
            "rates": dict(follows),
            "exponents": exponents(found, law, follows),
            "errors": {
                name: round(error, 4)
                for name, error in exponent_errors(found, points, follows).items()
            },
        }

    inputs = {"version": RECORD, "cost": price.name, "trials": [step.fingerprint for step in done]}
    return one.book.step("shrink", inputs, work)


def propose_members(one: Compression, shrink: Done, price: Price) -> Done:
    """The members' networks: what loses least by the measured law within each budget."""
    budgets = one.settings.members.allowed

    def work(_: str) -> dict[str, Any]:
        base = NetworkSpec.from_json(shrink.result["points"][0]["spec"])
        specs, costs = [], []
        for budget in budgets:
            cost, name = price.of(budget)
            specs.append(propose_within(base, shrink.result, budget, cost, name))
            costs.append(cost(specs[-1]))
        return {
            "cost": price.name,
            "budgets": [budget.to_json() for budget in budgets],
            "specs": [spec.to_json() for spec in specs],
            "costs": costs,
        }

    inputs = {
        "shrink": shrink.fingerprint,
        "budgets": [budget.to_json() for budget in budgets],
        "cost": price.name,
    }
    return one.book.step("proposals", inputs, work)


def propose_within(
    base: NetworkSpec, measured: Any, budget: Budget, cost: Cost, name: str
) -> NetworkSpec:
    """The network that loses least by the measured law within a budget; a share above 1 is larger.

    Args:
        measured: result of the shrink step.
        cost, name: as `Price.of` gives them.

    Raises:
        UsageError: even the narrowest costs more.
    """
    share = budget.value if budget.kind == "share" else min(budget.value / cost(base), 1.0)
    # How the cost follows MACs was measured in the trials' cost, which may be another.
    known = measured["rates"] if name == measured["cost"] else AS_MACS
    try:
        return propose(base, Law.from_json(measured["law"]), share, cost, known)
    except UsageError as error:
        raise UsageError(f"{error.message} (it is {budget})", error.hint) from None

"""Steps of compound shrinking: trials on the photos, and the members that follow from them."""

from __future__ import annotations

from typing import Any

from .learn import Compression, inherited, train_classifier
from .network import NetworkSpec
from .shrink import Cost, TrialPoint, exponents, propose, trial_specs
from .workbook import Done


def measure_shrinking(one: Compression, base: Done) -> Done:
    """What depth, width and resolution each contribute: a short training of each, shrunk alone."""
    settings, table = one.settings, one.settings.shrink
    spec = NetworkSpec.from_json(base.result["spec"])
    recipe = settings.train.recipe(table.epochs, seed=settings.seed, rate=table.rate)
    trials: dict[str, NetworkSpec] = {"reference": spec}
    trials |= {str(name): trial for name, trial in trial_specs(spec, table.share).items()}
    done = {
        name: train_classifier(
            one,
            f"trial-{name}",
            trial,
            recipe=recipe,
            inputs={"base": base.fingerprint, "spec": trial.to_json(), "recipe": recipe.to_json()},
            start=lambda shrunk: inherited(one, shrunk),
        )
        for name, trial in trials.items()
    }
    points = [
        TrialPoint(
            dimension=None if name == "reference" else name,  # type: ignore[arg-type]
            spec=trials[name],
            accuracy=step.result["held_out"],
            photos=step.result["photos"],
        )
        for name, step in done.items()
    ]

    def work(_: str) -> dict[str, Any]:
        return {
            "points": [
                {
                    "dimension": point.dimension,
                    "spec": point.spec.to_json(),
                    "macs": point.spec.macs,
                    "held_out": point.accuracy,
                }
                for point in points
            ],
            "exponents": exponents(points),
        }

    return one.book.step("shrink", [step.fingerprint for step in done.values()], work)


def propose_members(one: Compression, shrink: Done, cost: Cost | None, cost_name: str) -> Done:
    """The members' networks: the largest along the measured exponents within each budget."""
    budgets = one.settings.members.budgets

    def work(_: str) -> dict[str, Any]:
        base = NetworkSpec.from_json(shrink.result["points"][0]["spec"])
        shares = shrink.result["exponents"]
        price = cost or (lambda spec: spec.macs)
        specs = [propose(base, shares, budget, price) for budget in budgets]
        return {
            "cost": cost_name,
            "budgets": list(budgets),
            "specs": [spec.to_json() for spec in specs],
            "costs": [price(spec) for spec in specs],
        }

    inputs = {"shrink": shrink.fingerprint, "budgets": budgets, "cost": cost_name}
    return one.book.step("proposals", inputs, work)

"""The search as a step: every budget's candidates trained side by side, all of it recorded."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from edgecompress import events
from edgecompress.files import sha256_json

from ..budget import Budget, member_names
from ..networks.network import NetworkSpec
from ..training.learn import Compression
from ..training.workbook import Done
from .proposal import Price
from .search import Point, best, better, first_round, front, kept, neighbours
from .shrink import Cost
from .trial import Trial, held_chances, run_trials

RECORD = 2
"""Of the search step's result."""

Batches = Generator[list[Trial], list[Done], dict[str, Any]]
"""One search: gives trials to be run, gets their results, ends with its record."""


@dataclass(frozen=True)
class Hunt:
    """One budget's search.

    Attributes:
        name: the member's.
        start: what the law proposes.
        cost: what the budget limits; `cost_name` names it.
    """

    one: Compression
    base: Done
    name: str
    budget: Budget
    start: NetworkSpec
    cost: Cost
    cost_name: str

    @property
    def whole(self) -> NetworkSpec:
        """The base's network."""
        return NetworkSpec.from_json(self.base.result["spec"])

    @property
    def limit(self) -> float:
        """The most that a candidate may cost."""
        share = self.budget.kind == "share"
        return self.budget.value * (self.cost(self.whole) if share else 1.0)

    def batches(self) -> Batches:
        """Rounds of candidates, until none is better or the trials are used up."""
        points: list[Point] = []
        start = hand = self.start
        reached: Point | None = None
        why = "the base itself, or that at a larger side: there is nothing to search"
        shrunk = start.macs < self.whole.macs
        left = self.one.settings.shrink.search if shrunk else 0
        tried = {start}
        while count := first_round(left, reached is None):
            around = neighbours(hand, self.whole, self.limit, self.cost)
            fresh = list(islice((spec for spec in around if spec not in tried), count))
            tried.update(fresh)
            if not fresh and reached is not None:
                break
            opening = [start] if reached is None else []
            short = yield from self.trained([*opening, *fresh], points, [])
            going = [*short[: len(opening)], *best(short[len(opening) :])[: kept(len(fresh))]]
            long = yield from self.trained([point.spec for point in going], points, going)
            left -= len(short) + len(long)
            if reached is None:
                reached, why = long.pop(0), "what the law proposes: no candidate was better"
            challenger = next((one for one in best(long) if better(one, reached)), None)
            if challenger is None:
                break
            reached, why = challenger, better(challenger, reached)
            hand = reached.spec
        if reached is None and shrunk:
            why = "what the law proposes: too few trials to search"
        return self.record(points, reached, why)

    def trained(
        self, specs: Sequence[NetworkSpec], points: list[Point], before: Sequence[Point]
    ) -> Generator[list[Trial], list[Done], list[Point]]:
        """Train candidates for a few epochs, or those of `before` on for twice as many."""
        trials = [
            self.trial(spec, before[number] if before else None)
            for number, spec in enumerate(specs)
        ]
        done = yield trials
        chances = held_chances(self.one, trials)
        made = [
            Point(
                spec=trial.spec,
                cost=self.cost(trial.spec),
                accuracy=step.result["held_out"],
                chances=chances[number],
                epochs=trial.recipe.epochs + (before[number].epochs if before else 0),
                seconds=step.result["seconds"],
                long=bool(before),
                step=trial.name,
            )
            for number, (trial, step) in enumerate(zip(trials, done, strict=True))
        ]
        points += made
        return made

    def trial(self, spec: NetworkSpec, before: Point | None) -> Trial:
        """A candidate's training, with the base as teacher."""
        settings, table = self.one.settings, self.one.settings.shrink
        recipe = settings.train.recipe(
            table.epochs * (1 if before is None else 2),
            seed=settings.seed,
            rate=table.rate,
            distil=settings.members.distil,
        )
        after = None if before is None else before.step
        key = sha256_json(spec.to_json())[:10]
        inputs = {
            "base": self.base.fingerprint,
            "spec": spec.to_json(),
            "recipe": recipe.to_json(),
            "after": after,
        }
        length = "short" if before is None else "long"
        return Trial(f"search-{self.name}-{key}-{length}", spec, recipe, inputs, after, "base")

    def record(self, points: Sequence[Point], reached: Point | None, why: str) -> dict[str, Any]:
        """The member's part of the step's result."""
        long = [i for i, point in enumerate(points) if point.long]
        own = front([(points[i].cost, points[i].chance) for i in long])
        return {
            "name": self.name,
            "budget": str(self.budget),
            "cost": self.cost_name,
            "limit": self.limit,
            "points": [point.to_json() for point in points],
            "front": [long[i] for i in own],
            "start": self.start.to_json(),
            "chosen": (self.start if reached is None else reached.spec).to_json(),
            "step": None if reached is None else reached.step,
            "why": why,
        }


def search_members(one: Compression, base: Done, proposals: Done, price: Price) -> Done:
    """The members' networks after a search round each proposal; every trial is a step of its own.

    Raises:
        UsageError: a training diverged, or trials cannot run where the settings say.
    """
    settings = one.settings
    budgets = settings.members.allowed
    starts = [NetworkSpec.from_json(spec) for spec in proposals.result["specs"]]

    def work(_: str) -> dict[str, Any]:
        hunts = [
            Hunt(one, base, name, budget, start, *price.of(budget))
            for name, budget, start in zip(member_names(budgets), budgets, starts, strict=True)
        ]
        records = _together(one, [hunt.batches() for hunt in hunts])
        for record in records:
            events.note(f"{record['name']}: {record['why']}")
        return {
            "most": settings.shrink.search,
            "members": records,
            "specs": [record["chosen"] for record in records],
        }

    trials = {key: getattr(settings.shrink, key) for key in ("epochs", "rate", "search")} | {
        "distil": settings.members.distil
    }
    inputs = {"version": RECORD, "proposals": proposals.fingerprint, "trials": trials}
    inputs["recipe"] = settings.train.recipe(1, seed=settings.seed).to_json()
    return one.book.step("search", inputs, work)


def _together(one: Compression, hunts: Sequence[Batches]) -> list[dict[str, Any]]:
    """All searches in step: their trials of a round are one batch, so that no worker is idle."""
    records: list[dict[str, Any]] = [{} for _ in hunts]
    answers: dict[int, list[Done] | None] = dict.fromkeys(range(len(hunts)))
    number = 0
    while answers:
        asked: dict[int, list[Trial]] = {}
        for index, answer in answers.items():
            try:
                # A generator begins with None.
                asked[index] = hunts[index].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                records[index] = end.value
        number += 1
        trials = [trial for own in asked.values() for trial in own]
        done = iter(run_trials(one, trials, f"search, round {number}") if trials else [])
        answers = {index: list(islice(done, len(own))) for index, own in asked.items()}
    return records

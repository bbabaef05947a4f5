"""The report's section on compound shrinking: what each dimension contributes, and the search's
whole record, every point of it.

It comes out of compression.json; a record that is damaged, or of another version, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from markupsafe import Markup
from pydantic import BaseModel, Field, model_validator

from ..compress.shrinking.search import front
from . import charts, text
from .records import MANY, Share, sound

_LEFT, _RIGHT, _TOP, _HEIGHT = 76, 40, 24, 300
_COLOURS = 4

Amount = Annotated[float, Field(gt=0, lt=MANY)]
Zero = Annotated[float, Field(ge=0, lt=MANY)]
Count = Annotated[int, Field(ge=0, lt=MANY)]
Word = Annotated[str, Field(max_length=400)]


class Network(BaseModel):
    """A network's dimensions."""

    depth: Amount
    width: Amount
    resolution: Annotated[int, Field(gt=0, lt=MANY)]
    inner: Amount = 1.0


class Point(BaseModel):
    """A candidate after one of its trainings (`compress.shrinking.search.Point`)."""

    spec: Network
    macs: Amount
    cost: Amount
    held_out: Share
    error: Share
    chance: Share | None = None
    photos: Count
    epochs: Count
    seconds: Zero
    long: bool

    @property
    def judged(self) -> float:
        """What the search went by: the probability of the right class, or top-1 in records of an
        earlier version."""
        return self.held_out if self.chance is None else self.chance


class Member(BaseModel):
    """One budget's search (`compress.shrinking.searching.Hunt.record`)."""

    name: Word
    budget: Word
    cost: Word
    limit: Amount
    points: list[Point]
    chosen: Network
    start: Network
    why: Word


class Trial(BaseModel):
    """One dimension shrunk alone, or the reference."""

    dimension: Word | None
    macs: Amount
    cost: Amount
    held_out: Share
    lost: Annotated[float, Field(ge=-1, le=1)] | None = None
    error: Share = 0.0


class Law(BaseModel):
    """How much more further cuts lose than the first (`compress.shrinking.law`)."""

    bend: Amount
    measured: bool


class Shrinking(BaseModel):
    """What the dimensions contribute (`compress.shrinking.proposal.measure_shrinking`)."""

    law: Law | None = None
    points: list[Trial]
    exponents: dict[str, Share]
    errors: dict[str, Zero]
    cost: Word

    @model_validator(mode="after")
    def _whole(self) -> Shrinking:
        named = {point.dimension for point in self.points if point.dimension is not None}
        if not named <= self.exponents.keys() == self.errors.keys():
            raise ValueError("a dimension has no exponent")
        if [point.dimension for point in self.points].count(None) != 1:
            raise ValueError("there is one reference")
        return self


def read_shrinking(compression: Mapping[str, Any] | None) -> Shrinking | None:
    """What a compression.json says of the dimensions; None where it says nothing sound."""
    return sound(Shrinking, _step(compression, "shrink"))


def read_search(compression: Mapping[str, Any] | None) -> list[Member]:
    """What a compression.json says of its searches, those that trained anything."""
    found = sound(_Search, _step(compression, "search"))
    return [] if found is None else [member for member in found.members if member.points]


class _Search(BaseModel):
    members: list[Member]


def _step(compression: Mapping[str, Any] | None, name: str) -> Any:
    steps = (compression or {}).get("steps")
    return steps.get(name) if isinstance(steps, Mapping) else None


def section_values(compression: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template's part about shrinking needs."""
    measured, members = read_shrinking(compression), read_search(compression)
    return {
        "shrinking": measured,
        "shrinking_rows": [] if measured is None else contribution_rows(measured),
        "shrinking_law": law_told(measured.law) if measured and measured.law else "",
        "searched": members,
        "search_told": [told(member) for member in members],
        "search_plot": plot(members),
        "search_head": HEAD,
        "search_rows": [row for member in members for row in rows(member)],
    }


def contribution_rows(measured: Shrinking) -> list[tuple[str, str, str, str, str]]:
    """What was shrunk, what it saved, the accuracy, what was lost, and the dimension's share of
    what is to be saved."""
    reference = next(point for point in measured.points if point.dimension is None)
    made = []
    for point in measured.points:
        name, share, lost = point.dimension, "", ""
        if name is not None and point.lost is not None:
            lost = f"{100 * point.lost:.1f} {_either_fine(point.error)} points"
        if name is not None:
            share = f"{_percent(measured.exponents[name])} {_either(measured.errors[name])}"
        saved = text.percent(1 - point.cost / reference.cost)
        made.append((name or "nothing", saved, text.percent(point.held_out), lost, share))
    return made


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _either(error: float) -> str:
    return f"\N{PLUS-MINUS SIGN} {100 * error:.0f}"


def law_told(law: Law) -> str:
    """What the law's bend means for the networks, in a sentence."""
    known = "measured" if law.measured else "assumed: one trial a dimension does not tell"
    return (
        f"A step beyond the first trial is taken to lose {law.bend:.2g} times what one before it"
        f" does ({known}): a dimension gives until its next step is dearer than another's first."
    )


def told(member: Member) -> str:
    """A search in a sentence."""
    trials, minutes = len(member.points), sum(point.seconds for point in member.points) / 60
    return (
        f"{member.name}, within {member.budget}: {trials} trials, {minutes:.1f} minutes of"
        f" training; chosen is {_network(member.chosen)}, {member.why}."
    )


def _network(spec: Network) -> str:
    return text.shape(spec.depth, spec.width, spec.resolution, spec.inner)


def rows(member: Member) -> list[tuple[str, ...]]:
    """Every point: member, network, MACs, cost, accuracy, the right class's probability, epochs,
    seconds, and what became of it."""
    best = set(_front(member.points))
    made = []
    for index, point in enumerate(member.points):
        marks = []
        if point.spec == member.start:
            marks.append("proposed")
        if index in best:
            marks.append("on the front")
        if point.long and point.spec == member.chosen:
            marks.append("chosen")
        made.append(
            (
                member.name,
                _network(point.spec),
                text.macs(point.macs),
                _cost(member, point.cost),
                f"{100 * point.held_out:.1f} {_either_fine(point.error)} %",
                "" if point.chance is None else text.percent(point.chance),
                str(point.epochs),
                f"{point.seconds:.0f}",
                ", ".join(marks),
            )
        )
    return made


def _cost(member: Member, cost: float) -> str:
    if member.cost.startswith("ms"):
        return text.milliseconds(cost)
    return _percent(cost / member.limit) + " of the budget"


def _either_fine(error: float) -> str:
    return f"\N{PLUS-MINUS SIGN} {100 * error:.1f}"


def _front(points: Sequence[Point]) -> list[int]:
    """Of the points after the longer trainings, which no other one matches with fewer MACs."""
    long = [index for index, point in enumerate(points) if point.long]
    return [long[i] for i in front([(points[i].macs, points[i].judged) for i in long])]


HEAD = (
    "member",
    "network",
    "MACs",
    "cost",
    "held-out top-1",
    "probability",
    "epochs",
    "seconds",
    "note",
)


def plot(members: Sequence[Member]) -> Markup:
    """What the search went by over MACs, for every point: large after the longer training; the
    front is drawn through these, and what was chosen has a ring and its name."""
    points = [point for member in members for point in member.points]
    if not points:
        return Markup("")
    x_low, x_high = charts.padded(min(p.macs for p in points), max(p.macs for p in points), 0.06)
    y_low, y_high = charts.padded(
        min(p.judged for p in points), max(p.judged for p in points), 0.12
    )
    axes = charts.Axes(
        max(0.0, x_low), x_high, max(0.0, y_low), min(1.0, y_high) if y_low < 1 else y_high,
        _LEFT, charts.WIDTH - _RIGHT, _TOP, _TOP + _HEIGHT,
    )  # fmt: skip
    likely = all(p.chance is not None for p in points)
    named = "held out, probability of the right class" if likely else "held-out top-1"
    parts = charts.macs_grid(axes, named)
    best = [points[index] for index in _front(points)]
    if len(best) > 1:
        parts.append(charts.polyline([axes.at(p.macs, p.judged) for p in best], "curve"))
    for index, member in enumerate(members):
        for point in member.points:
            x, y = axes.at(point.macs, point.judged)
            radius = 4.5 if point.long else 2.5
            parts.append(charts.circle(x, y, radius, f"run stage-{index % _COLOURS + 1}"))
    for member in members:
        chosen = next((p for p in member.points if p.long and p.spec == member.chosen), None)
        if chosen is not None:
            x, y = axes.at(chosen.macs, chosen.judged)
            anchor = "end" if x > charts.WIDTH * 0.7 else "start"
            parts.append(charts.circle(x, y, 7, "own"))
            side = -12 if anchor == "end" else 12
            parts.append(charts.words(x + side, y + 18, member.name, "name", anchor))
    said = "; ".join(
        f"{member.name} {text.percent(point.judged)} at {text.macs(point.macs)} MACs"
        f" after {point.epochs} epochs"
        for member in members
        for point in member.points
    )
    bottom = _TOP + _HEIGHT + 54
    return charts.drawing(charts.WIDTH, bottom, "Every candidate of the search", said, parts)


def sentences(compression: Mapping[str, Any] | None) -> Iterator[str]:
    """It all in short: one sentence for the dimensions, one for each search."""
    measured = read_shrinking(compression)
    if measured is not None:
        parts = ", ".join(
            f"{name} {_percent(share)} {_either(measured.errors[name])}"
            for name, share in measured.exponents.items()
        )
        yield f"Compound shrinking, shares of what is saved in {measured.cost}: {parts}."
        if measured.law is not None:
            yield law_told(measured.law)
    for member in read_search(compression):
        yield told(member)

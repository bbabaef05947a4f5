"""What `edgecompress bench compression` says: methods beside each other, over seeds.

A row is one method within one budget with one seed (`compress.comparing.comparison.Row`); a
line here is the mean over seeds, with the standard deviation between them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edgecompress.errors import InputError
from edgecompress.files import read_json, write_json

from ..compress.comparing.baselines import COUNTED_AGAINST, OTHERS, TITLES
from ..compress.comparing.comparison import FULL, Row
from . import text

VERSION = 1
_MOST = 1e15
"""No number of a sound document is this large."""
PAPER_GAIN, PAPER_OVER_HRANK = 0.8, 4.1
"""Points of top-1: EdgeCompress (IEEE TCAD 2023) over ResNet-50, and over HRank."""


@dataclass(frozen=True)
class Line:
    """A method within a budget, over all seeds.

    Attributes:
        budget: share of the base's MACs that was allowed.
        macs: mean over seeds of the MACs a photo.
        share: `macs` against the base's.
        top1: mean over seeds, on the validation photos.
        spread: standard deviation between seeds; None of one seed.
        seeds: how many.
        beaten: whether the full method's mean is below this one's at this budget.
    """

    method: str
    budget: float
    macs: float
    share: float
    top1: float
    spread: float | None
    seeds: int
    beaten: bool = False


@dataclass(frozen=True)
class Gain:
    """Top-1 of the full method less another's, in points, seed by seed.

    Attributes:
        budget: share of the base's MACs that the full method was allowed.
        mean, spread: over seeds; spread is None of one seed.
        wanted: what the paper has; None where it compares nothing of the kind.
        spent: share of the base's MACs that the full method took on the photos of the rows: it
            keeps the budget on photos held out. None: a document of before this was told.
    """

    against: str
    budget: float
    mean: float
    spread: float | None
    seeds: int
    wanted: float | None = None
    spent: float | None = None


def lines(rows: Sequence[Row]) -> list[Line]:
    """Rows of equal method and budget, together; in the order of a table."""
    base = statistics.fmean(row.macs for row in rows if row.method == "base")
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.budget, row.method), []).append(row)
    order = list(TITLES)
    made = []
    for (budget, method), group in sorted(
        groups.items(), key=lambda item: (-item[0][0], order.index(item[0][1]))
    ):
        full = groups.get((budget, FULL), [])
        top1 = statistics.fmean(row.top1 for row in group)
        macs = statistics.fmean(row.macs for row in group)
        ours = statistics.fmean(row.top1 for row in full) if full else math.inf
        made.append(
            Line(
                method=method,
                budget=budget,
                macs=macs,
                share=macs / base,
                top1=top1,
                spread=_spread([row.top1 for row in group]),
                seeds=len(group),
                beaten=method in COUNTED_AGAINST and ours < top1,
            )
        )
    return made


def gains(rows: Sequence[Row], headline: float) -> list[Gain]:
    """The paper's two claims, on these photos; the first also beside a base that was trained on,
    and within the largest budget that was spent within `headline` on these photos, too."""
    at = sorted({row.budget for row in rows if row.method == "hrank"}, key=lambda b: abs(b - 0.5))
    found = [
        _gain(rows, headline, "base", 1.0, PAPER_GAIN),
        _gain(rows, headline, "base-longer", 1.0, None),
        _strict_gain(rows, headline),
    ]
    found += [_gain(rows, budget, "hrank", budget, PAPER_OVER_HRANK) for budget in at[:1]]
    return [one for one in found if one is not None]


def _strict_gain(rows: Sequence[Row], headline: float) -> Gain | None:
    """None where the headline's own budget was not overspent."""
    budgets = {row.budget for row in rows if row.method == FULL and row.budget <= headline}
    each = (_gain(rows, one, "base", 1.0, PAPER_GAIN) for one in sorted(budgets, reverse=True))
    kept = (one for one in each if one is not None and (one.spent or 0) <= headline)
    best = next(kept, None)
    return None if best is None or best.budget == headline else best


def _gain(
    rows: Sequence[Row], budget: float, against: str, other: float, wanted: float | None
) -> Gain | None:
    ours = _by_seed(rows, FULL, budget)
    theirs, bases = _by_seed(rows, against, other), _by_seed(rows, "base", 1.0)
    seeds = sorted(ours.keys() & theirs.keys() & bases.keys())
    if not seeds:
        return None
    differences = [100 * (ours[seed].top1 - theirs[seed].top1) for seed in seeds]
    return Gain(
        against=against,
        budget=budget,
        mean=statistics.fmean(differences),
        spread=_spread(differences),
        seeds=len(seeds),
        wanted=wanted,
        spent=statistics.fmean(ours[seed].macs / bases[seed].macs for seed in seeds),
    )


def _by_seed(rows: Sequence[Row], method: str, budget: float) -> dict[int, Row]:
    return {row.seed: row for row in rows if (row.method, row.budget) == (method, budget)}


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def document(rows: Sequence[Row], headline: float, about: Mapping[str, Any]) -> dict[str, Any]:
    """comparison.json: rows, lines, gains, and what they were measured on.

    Args:
        about: JSON-able: job, photos, recipe.
    """
    return {
        "schema_version": VERSION,
        "about": dict(about),
        "gains": [asdict(one) for one in gains(rows, headline)],
        "lines": [asdict(one) for one in lines(rows)],
        "rows": [asdict(row) for row in rows],
    }


def write_document(value: Mapping[str, Any], path: Path) -> None:
    """Write comparison.json."""
    write_json(path, dict(value))


def read_document(path: Path) -> dict[str, Any]:
    """Read comparison.json back.

    Raises:
        InputError: it is missing, damaged or of another version.
    """
    value = checked(read_json(path, "comparison"))
    if value is None:
        raise InputError(
            f"{path} is damaged, or no comparison of version {VERSION}",
            "make it again: edgecompress bench compression JOB.toml",
        )
    return value


def read_rows(path: Path, about: Mapping[str, Any]) -> list[Row]:
    """The rows of a comparison.json that was made elsewhere, by the same job with other seeds.

    Args:
        about: of the comparison that they are to be part of.

    Raises:
        InputError: the file cannot be read, is of another job, or has rows that make no table.
    """
    value = read_document(path)
    told = value["about"]
    for name in _DECIDING:
        own, other = _flat(about.get(name)), _flat(told.get(name))
        key = next((key for key in own if own[key] != other.get(key)), None)
        if key is not None:
            raise InputError(
                f"{path} is of another comparison: its {name}{key} is {other.get(key)!r} and not"
                f" {own[key]!r}",
                "add what was made by the same job file and version",
            )
    again = "make it again, or leave out --add"
    try:
        json.dumps(value["rows"], allow_nan=False)  # as they are to be written
        rows = _ROWS.validate_python(value["rows"])
    except (KeyError, ValueError, RecursionError):
        rows = []
    if not rows or not all(map(_can_be, rows)):
        raise InputError(f"{path}: its rows are damaged", again)
    if unknown := sorted({row.method for row in rows} - TITLES.keys()):
        raise InputError(f"{path} has a method that is unknown here: '{unknown[0]}'", again)
    bases = {row.seed for row in rows if row.method == "base"}
    if lacking := sorted({row.seed for row in rows} - bases):
        raise InputError(f"{path}: seed {lacking[0]} has no row of the base", again)
    return rows


def _can_be(row: Row) -> bool:
    shares = 0 <= row.top1 <= 1 and 0 < row.budget <= 1
    return shares and 0 < row.macs < _MOST and row.n > 0 and bool(row.networks)


def read_all_rows(paths: Iterable[Path], about: Mapping[str, Any]) -> list[Row]:
    """The rows of several such files together; see `read_rows`.

    Raises:
        InputError: a file is refused, or has what another one or itself has already.
    """
    found: dict[tuple[int, str, float], Path] = {}
    rows = []
    for path in paths:
        for row in read_rows(path, about):
            key = (row.seed, row.method, row.budget)
            if first := found.get(key):
                where = f"in {path} twice" if first == path else f"both in {first} and in {path}"
                raise InputError(f"seed {row.seed} is {where}", "give each seed once with --add")
            found[key] = path
            rows.append(row)
    return rows


_DECIDING = ("photos", "compress", "comparison")
"""Parts of what a comparison is about that must agree for its rows to be of one table."""
_PLACES = {".seed", ".photos", ".shrink.workers", ".seeds", ".budgets", ".methods", ".workers"}
"""What may differ: which rows there are, and where they were computed."""
_ROWS = TypeAdapter(list[Row])


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Settings by their dotted names; those of `_PLACES` left out."""
    if not isinstance(value, Mapping):
        return {} if name in _PLACES else {name: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}").items()}


def checked(value: Any) -> dict[str, Any] | None:
    """A document that came from a file, or None where it is none that can be shown."""
    if not isinstance(value, dict) or value.get("schema_version") != VERSION:
        return None
    try:
        about = value["about"]
        sound = isinstance(about["text"], str) and isinstance(about["job"], str)
        told = told_lines(value)
        sound = sound and all(map(_sound, [*told, *told_gains(value)]))
    except (KeyError, TypeError):
        return None
    return value if sound and told else None


def _sound(one: Line | Gain) -> bool:
    numbers = [v for v in asdict(one).values() if v is not None and not isinstance(v, str)]
    finite = all(isinstance(v, int | float) and abs(v) < _MOST for v in numbers)
    name = one.method if isinstance(one, Line) else one.against
    return finite and isinstance(name, str) and 0 < one.budget <= 1 and one.seeds > 0


def told_lines(value: Mapping[str, Any]) -> list[Line]:
    """The lines of a document."""
    return [Line(**one) for one in value["lines"]]


def told_gains(value: Mapping[str, Any]) -> list[Gain]:
    """The gains of a document."""
    return [Gain(**one) for one in value["gains"]]


def title(method: str) -> str:
    """What people call a method."""
    return TITLES.get(method, method)


def points(line: Line) -> str:
    """Top-1 with its spread: "88.1 ± 0.4 %"."""
    spread = "" if line.spread is None else f" \N{PLUS-MINUS SIGN} {100 * line.spread:.1f}"
    return f"{100 * line.top1:.1f}{spread} %"


def sentence(gain: Gain) -> str:
    """A gain in words."""
    spread = "" if gain.spread is None else f" \N{PLUS-MINUS SIGN} {gain.spread:.2f}"
    seeds = "1 seed" if gain.seeds == 1 else f"{gain.seeds} seeds"
    about = [seeds]
    if gain.wanted is not None:
        reached = "reached" if gain.mean >= gain.wanted else "not reached"
        about += [f"the paper: {gain.wanted:+.1f} on ImageNet", reached]
    # Only what the table would show as more than was allowed.
    if gain.spent is not None and round(gain.spent, 3) > gain.budget:
        about.append(f"{100 * (1 - gain.spent):.1f} % less on these photos")
    return (
        f"With {100 * (1 - gain.budget):.1f} % less computation than the base, top-1 is"
        f" {gain.mean:+.2f}{spread} points against {title(gain.against)} ({'; '.join(about)})."
    )


def sentences(value: Mapping[str, Any]) -> list[str]:
    """What a document says in words: the gains, and where the method is not the best."""
    verdict = verdict_of(told_lines(value))
    return [*(sentence(gain) for gain in told_gains(value)), *([verdict] if verdict else [])]


def verdict_of(told: Sequence[Line]) -> str:
    """Whether the full method lies on or above every other at every budget at which another was
    trained; "" where none was."""
    budgets: list[float] = []
    above: list[str] = []
    for budget in dict.fromkeys(line.budget for line in told):
        within = [line for line in told if line.budget == budget]
        methods = {line.method for line in within}
        if FULL not in methods or methods.isdisjoint(OTHERS):
            continue
        budgets.append(budget)
        beaten = [title(line.method) for line in within if line.beaten]
        if beaten:
            above.append(f"{', '.join(beaten)} at {_share(budget)}")
    if not budgets:
        return ""
    *first, last = map(_share, budgets)
    at = f"At {', '.join(first)}{' and ' * bool(first)}{last} of the MACs"
    if above:
        return f"{at} EdgeCompress does not lie on or above every other method: {'; '.join(above)}."
    return f"{at} EdgeCompress lies on or above every other method."


def _share(budget: float) -> str:
    return f"{100 * budget:.3g} %"


def rows_of(value: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """The table: budget, method, MACs a photo, share of the base's, top-1."""

    def budget(line: Line) -> str:
        return "base" if line.method.startswith("base") else _share(line.budget)

    told = told_lines(value)
    seeds = max((line.seeds for line in told), default=0)

    def name(line: Line) -> str:
        fewer = f" ({line.seeds} of {seeds} seeds)" * (line.seeds < seeds)
        return title(line.method) + " (above EdgeCompress)" * line.beaten + fewer

    return [
        (budget(line), name(line), text.macs(line.macs), text.percent(line.share), points(line))
        for line in told
    ]


HEAD = ("budget", "method", "MACs a photo", "of the base", "top-1")


def markdown(value: Mapping[str, Any], escape: Callable[[str], str] = str) -> str:
    """The table and the gains, for a README or a pull request."""
    rows = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    rows += ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows_of(value)]
    told = [f"- {said}" for said in sentences(value)]
    return "\n".join([*rows, "", *told, ""])

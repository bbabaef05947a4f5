"""Two reports beside each other: every number of both, the difference, and whether it is chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import significance
from .glance import verdict
from .metrics import Metric, metrics
from .schema import PhotoFacts, Report
from .significance import Difference

_UNSAMPLED = "one number in each report: no telling how much of it is chance"
_COUNTED = "counted, not sampled"


@dataclass(frozen=True)
class Row:
    """One number of both reports. `a` and `b` are in `metric`'s unit.

    Attributes:
        change: b less a; null where they are not compared.
        relative: b / a less 1; null also where a is zero.
        interval: 95 % interval, of `change` or `relative` as `interval_of` says.
        significant: None where it is not known.
        basis: how `significant` was found, or why it is not known.
        why: why the two are not compared; "" where they are.
    """

    key: str
    title: str
    group: str
    unit: str
    better: str
    a: float | None
    b: float | None
    change: float | None = None
    relative: float | None = None
    interval: tuple[float, float] | None = None
    interval_of: Literal["change", "relative", ""] = ""
    p: float | None = None
    significant: bool | None = None
    basis: str = ""
    why: str = ""

    @property
    def verdict(self) -> str:
        """In a word: better, worse, changed, same, unclear; "" where they are not compared."""
        if self.change is None:
            return ""
        if self.change == 0:
            return "same"
        if self.significant is None:
            return "changed"
        if not self.significant:
            return "unclear"
        if not self.better:
            return "changed"
        return "better" if (self.change > 0) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Note:
    """What to know before any number.

    `blocks` is what keeps numbers from being compared; `doubtful` numbers are, and may be wrong.
    """

    kind: Literal["blocks", "doubtful", "differs"]
    text: str


@dataclass(frozen=True)
class Side:
    """What one report is of."""

    file: str
    name: str
    board: str
    precision: str
    created: str
    photos: str
    n: int
    emulated: bool


@dataclass(frozen=True)
class Comparison:
    """The whole comparison.

    Attributes:
        pairing: "" where both are on the same photos, else what is different.
        rows: all numbers, layers last.
    """

    a: Side
    b: Side
    notes: tuple[Note, ...]
    pairing: str
    rows: tuple[Row, ...]

    def row(self, key: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.key == key), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        document = asdict(self)
        for row, told in zip(self.rows, document["rows"], strict=True):
            told["verdict"] = row.verdict
        return document


def compare(first: Report, second: Report, files: tuple[Path, Path]) -> Comparison:
    """Compare two reports; the first is what the second is held against."""
    notes, times_blocked, memory_blocked = _notes(first, second)
    pairing = _pairing(first, second)
    samples = _Samples(first, second, not pairing)
    one, other = metrics(first), metrics(second)
    keys = [*one, *(key for key in other if key not in one)]
    # The second report's own numbers go beside their like, layers behind all.
    keys.sort(key=lambda key: _place(one.get(key) or other[key]))
    rows = []
    for key in keys:
        known = one.get(key) or other[key]
        blocked = times_blocked if known.timed else memory_blocked if key == "memory" else ""
        rows.append(_row(one.get(key), other.get(key), blocked, samples))
    return Comparison(
        _side(first, files[0]), _side(second, files[1]), tuple(notes), pairing, tuple(rows)
    )


def _place(metric: Metric) -> int:
    return ["accuracy", "latency", "flow", "cost", "layers"].index(metric.group)


def precision_of(report: Report) -> str:
    """What the networks compute with."""
    return report.precision.precision if report.precision else "float32"


def throttled(report: Report) -> list[str]:
    """What slowed the board during the run.

    Where passes were repeated, it is what slowed the one that counts. A flag that "has occurred"
    lasts until the board is switched off: one that was there before the run says nothing about it.
    """
    if report.measurement is not None:
        return [] if report.emulated else list(report.measurement.own.throttled)
    before, after = (moment.throttled or [] for moment in (report.board.before, report.board.after))
    new = [flag for flag in after if flag not in before]
    return list(dict.fromkeys([*(f for f in [*before, *after] if f.endswith(" now")), *new]))


def doubtful(report: Report) -> bool:
    """Whether something speaks against its times."""
    return report.measurement is not None and report.measurement.trust == "doubtful"


def _side(report: Report, file: Path) -> Side:
    return Side(
        file=str(file),
        name=report.name,
        board=report.board.title,
        precision=precision_of(report),
        created=report.created,
        photos=report.accuracy.photos,
        n=report.accuracy.n,
        emulated=report.emulated,
    )


def _notes(first: Report, second: Report) -> tuple[list[Note], str, str]:
    """What is to be said first, and why times and memory are not compared ("" where they are)."""
    notes: list[Note] = []
    reasons = []
    for letter, report in (("A", first), ("B", second)):
        if report.emulated:
            reasons.append(f"{letter}'s times are emulated")
        elif slow := throttled(report):
            reasons.append(f"{letter}'s board was throttled ({', '.join(slow)})")
    times = "not comparable: " + " and ".join(reasons) if reasons else ""
    if times:
        notes.append(Note("blocks", f"Times are {times}."))
    notes += [
        Note("doubtful", f"{letter}'s times are {verdict(report)}.")
        for letter, report in (("A", first), ("B", second))
        if doubtful(report) and not times
    ]
    memory = ""
    if first.emulated != second.emulated:
        memory = "not comparable: the emulator's own memory is in one of them"
    notes += [Note("differs", text) for text in _differences(first, second)]
    return notes, times, memory


def _differences(first: Report, second: Report) -> list[str]:
    found = []
    for what, a, b in (
        ("Board", first.board.title, second.board.title),
        ("Processor", first.board.soc, second.board.soc),
        ("Cores", first.run.core or "mixed", second.run.core or "mixed"),
        ("Precision", precision_of(first), precision_of(second)),
        ("Threads", str(first.run.threads), str(second.run.threads)),
        ("Runs a photo", str(first.run.repeat), str(second.run.repeat)),
        ("Photos", first.accuracy.photos, second.accuracy.photos),
        *(
            (name, first.versions.get(name, "not stated"), second.versions.get(name, "not stated"))
            for name in sorted({*first.versions, *second.versions})
        ),
    ):
        if a != b:
            found.append(f"{what}: {a} in A, {b} in B.")
    members = [[stage.network for stage in report.stages] for report in (first, second)]
    if members[0] != members[1]:
        found.append(f"Members: {', '.join(members[0])} in A, {', '.join(members[1])} in B.")
    thresholds = [[stage.threshold for stage in report.stages] for report in (first, second)]
    if thresholds[0] != thresholds[1]:
        a, b = (", ".join(f"{t:.3g}" for t in one if t is not None) for one in thresholds)
        found.append(f"Thresholds: {a or 'none'} in A, {b or 'none'} in B.")
    return found


def _pairing(first: Report, second: Report) -> str:
    """Why photos cannot be paired; "" where both reports are on the same."""
    if first.photos is None or second.photos is None:
        which = "A" if first.photos is None else "B"
        return f"{which} does not list its photos (made by an older release)"
    # Counted, not as sets: a file may lie in a photo set twice.
    a, b = (Counter(map(_identity, report.photos or [])) for report in (first, second))
    if a == b:
        return ""
    if Counter(photo for photo, _ in a.elements()) == Counter(photo for photo, _ in b.elements()):
        return "the photos are the same and their labels are not"
    both, only_a, only_b = ((a & b).total(), (a - b).total(), (b - a).total())
    return f"{both} photos are in both, {only_a} only in A, {only_b} only in B"


def _identity(photo: PhotoFacts) -> tuple[str, int]:
    return photo.photo, photo.target


class _Samples:
    """The photos of both reports in one order, and what is drawn from them."""

    def __init__(self, first: Report, second: Report, paired: bool) -> None:
        self.paired = paired
        self.reports = (first, second)
        self._photos = tuple(
            sorted(report.photos, key=_identity) if report.photos else None
            for report in self.reports
        )
        self._ratios: dict[str, _Ratios | str] = {}

    def shares(self, of: tuple[str, str]) -> Difference | None:
        """The difference of a share, called so in each; None where it is not known of photos."""
        flags = [
            None if photos is None else _flags(photos, name)
            for photos, name in zip(self._photos, of, strict=True)
        ]
        a, b = flags
        if a and b and self.paired:
            return significance.paired_difference(a, b)
        counts = [self._count(i, of[i], flags[i]) for i in range(2)]
        if None in counts:
            return None
        (right, n), (other, m) = (count for count in counts if count is not None)
        return significance.unpaired_difference(right, n, other, m) if n and m else None

    def _count(self, index: int, of: str, flags: list[bool] | None) -> tuple[int, int] | None:
        if flags is not None:
            return sum(flags), len(flags)
        report = self.reports[index]
        if of.startswith("hits."):
            return report.stages[int(of[5:])].hits, report.accuracy.n
        share = getattr(report.accuracy, of)
        return None if share is None else (round(share * report.accuracy.n), report.accuracy.n)

    def times(self, part: str) -> _Ratios | str:
        """Intervals of the ratios of a part's times by statistic, or why there are none."""
        if part not in self._ratios:
            self._ratios[part] = self._times(part)
        return self._ratios[part]

    def _times(self, part: str) -> _Ratios | str:
        a, b = (None if one is None else _runs(one, part) for one in self._photos)
        if a is None or b is None:
            which = "A" if a is None else "B"
            return f"not known: {which} has percentiles only, no time of each photo"
        if not a or not b:
            return "not known: no photo reached it"
        together = self.paired and list(a) == list(b)
        return _ratios(_matrix(list(a.values())), _matrix(list(b.values())), together)

    def macs(self) -> _Ratios | str:
        """Intervals of the ratios of MACs, or why there are none."""
        costs = [
            None if photos is None else _costs(report, photos)
            for report, photos in zip(self.reports, self._photos, strict=True)
        ]
        if any(one is None or not one.size for one in costs):
            return _UNSAMPLED
        a, b = (one for one in costs if one is not None)
        return _ratios(a, b, self.paired and len(a) == len(b))


@dataclass(frozen=True)
class _Ratios:
    """Intervals of ratios by statistic; `together`: the same photos were resampled in both."""

    of: dict[str, tuple[float, float]]
    together: bool


def _ratios(a: np.ndarray, b: np.ndarray, together: bool) -> _Ratios | str:
    """The intervals of `[photos, runs]` of both, or why there are none."""
    photos = min(len(a), len(b))
    if photos < significance.FEWEST_PHOTOS:
        need = significance.FEWEST_PHOTOS
        return f"not known: an interval needs {need} photos in each, and one has {photos}"
    return _Ratios(significance.ratio_intervals(a, b, together), together)


def _flags(photos: Sequence[PhotoFacts], of: str) -> list[bool]:
    """Of each photo whether it counts for a share: `top1`, `top5`, or `hits.` and a member."""
    if of.startswith("hits."):
        return [one.stage == int(of[5:]) for one in photos]
    return [0 < one.rank <= int(of[-1]) for one in photos]


def _runs(photos: Sequence[PhotoFacts], part: str) -> dict[str, list[float]]:
    return {one.photo: one.ms[part] for one in photos if one.ms.get(part)}


def _matrix(runs: Sequence[Sequence[float]]) -> np.ndarray:
    """`[photos, runs]`: as many runs as every photo has."""
    least = min(len(one) for one in runs)
    return np.array([one[:least] for one in runs])


def _costs(report: Report, photos: Sequence[PhotoFacts]) -> np.ndarray:
    first = report.predictor.macs if report.predictor else 0
    upto = np.cumsum([stage.macs for stage in report.stages]) + first
    return np.array([[upto[one.stage]] for one in photos], np.float64)


def _row(a: Metric | None, b: Metric | None, blocked: str, samples: _Samples) -> Row:
    known = a or b
    assert known is not None
    values = {
        "key": known.key,
        "title": known.title,
        "group": known.group,
        "unit": known.unit,
        "better": known.better,
        "a": a.value if a else None,
        "b": b.value if b else None,
    }
    for letter, one in (("A", a), ("B", b)):
        if one is None:
            return Row(**values, why=f"{letter} has no such number")
        if one.value is None:
            return Row(**values, why=f"{letter}: {one.why}")
    assert a and b and a.value is not None and b.value is not None
    if blocked:
        return Row(**values, why=blocked)
    values["change"] = b.value - a.value
    relative = b.value / a.value - 1 if a.value else math.inf
    values["relative"] = relative if math.isfinite(relative) else None
    return Row(**values, **_chance(a, b, samples))


def _chance(metric: Metric, other: Metric, samples: _Samples) -> dict[str, Any]:
    """Interval, p-value and significance of one row, and what they rest on."""
    if metric.group == "latency" and metric.of:
        return _chance_of_time(metric, samples)
    if (metric.of in ("top1", "top5") and metric.key == metric.of) or metric.of.startswith("hits."):
        found = samples.shares((metric.of, other.of))
        if found is None:
            return {"basis": "not known: no photo was answered"}
        if found.p is None:
            basis = "two-proportion interval: the photos are not the same"
        else:
            basis = (
                f"McNemar's exact test, p = {found.p:.2g}: {found.lost} photos only in A,"
                f" {found.gained} only in B"
            )
        return {
            "interval": (found.low * 100, found.high * 100),
            "interval_of": "change",
            "p": found.p,
            "significant": found.significant,
            "basis": basis,
        }
    if metric.key == "macs":
        found = samples.macs()
        if isinstance(found, str):
            return {"basis": found}
        return _of_ratio(found, "mean") if "mean" in found.of else {"basis": _UNSAMPLED}
    return {"basis": _COUNTED if metric.key.startswith(("bundle", "macs")) else _UNSAMPLED}


def _chance_of_time(metric: Metric, samples: _Samples) -> dict[str, Any]:
    found = samples.times(metric.of)
    if isinstance(found, str):
        return {"basis": found}
    name = metric.key.rpartition(".")[2]
    if name not in found.of:
        need = significance.fewest(name)
        return {"basis": f"not known: an interval of {name} needs {need} times that are not zero"}
    return _of_ratio(found, name)


def _of_ratio(found: _Ratios, name: str) -> dict[str, Any]:
    low, high = found.of[name]
    photos = "the same photos" if found.together else "other photos in each"
    return {
        "interval": (low - 1, high - 1),
        "interval_of": "relative",
        "significant": not low <= 1 <= high,
        "basis": f"bootstrap of the ratio, {photos}",
    }

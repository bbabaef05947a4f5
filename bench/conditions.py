"""The board over the time of a run: temperature, clock, power, load, with the passes shaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import text
from .charts import WIDTH, Axes, drawing, padded, polyline, rect, ticks, words
from .schema import BoardSample, LatencyPass, Measurement

_LEFT, _RIGHT, _TOP, _PANEL, _GAP = 132, 24, 34, 84, 26
_MOST_ROWS = 24
_LEAST_WIDTH = 3.0


@dataclass(frozen=True)
class Quantity:
    """Something that the samples tell.

    Attributes:
        value: of a sample; None where it does not have it.
        room: the least that the axis spans, so that noise does not fill it.
        zero: whether the axis begins at zero.
        most: where it ends at the latest.
    """

    title: str
    unit: str
    value: Callable[[BoardSample], float | None]
    room: float
    zero: bool = False
    most: float = math.inf

    def told(self, value: float) -> str:
        """A value in words."""
        return f"{_short(value)} {self.unit}"


def _short(value: float) -> str:
    """Three figures, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _slowest(sample: BoardSample) -> float | None:
    return min(sample.mhz) if sample.mhz else None


def _others(sample: BoardSample) -> float | None:
    return None if sample.others is None else sample.others * 100


QUANTITIES = (
    Quantity("temperature", "°C", lambda one: one.temperature_c, 5.0),
    Quantity("slowest core", "MHz", _slowest, 200.0),
    Quantity("power", "W", lambda one: one.watts, 1.0, zero=True),
    Quantity("other programs", "% of cores", _others, 20.0, zero=True, most=100.0),
)


def readable(measurement: Measurement) -> list[Quantity]:
    """What there is to draw: quantities that at least two samples tell."""
    return [one for one in QUANTITIES if len(_points(measurement.samples, one)) > 1]


def _points(samples: Sequence[BoardSample], quantity: Quantity) -> list[tuple[float, float]]:
    found = [(one.t, quantity.value(one)) for one in samples]
    return [(t, value) for t, value in found if value is not None]


def conditions(measurement: Measurement) -> Markup:
    """A panel for each quantity, one above the other, all over the same time."""
    shown = readable(measurement)
    if not shown:
        return Markup("")
    end = max(measurement.samples[-1].t, measurement.passes[-1].ended_s)
    bottom = _TOP + len(shown) * (_PANEL + _GAP) - _GAP
    time = Axes(0, max(end, 1e-3), 0, 1, _LEFT, WIDTH - _RIGHT, _TOP, bottom)
    parts = _shades(measurement, time)
    told = []
    for index, quantity in enumerate(shown):
        points = _points(measurement.samples, quantity)
        top = _TOP + index * (_PANEL + _GAP)
        parts += _panel(quantity, points, time, top)
        values = [value for _, value in points]
        told.append(
            f"{quantity.title} from {quantity.told(min(values))} to {quantity.told(max(values))}"
        )
    for second in ticks(0.0, time.x_high):
        x = time.at(second, 0)[0]
        parts.append(words(x, bottom + 20, f"{second:.4g} s", "tick", "middle"))
    title = "The board while it was measured"
    return drawing(WIDTH, round(bottom) + 32, title, "; ".join(told), parts)


def _panel(
    quantity: Quantity, points: list[tuple[float, float]], time: Axes, top: float
) -> list[Markup]:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if high - low < quantity.room:
        low, high = low - quantity.room / 2, high + quantity.room / 2
    low, high = padded(low, high, 0.08)
    if quantity.zero:
        low, high = 0.0, min(high, quantity.most)
    axes = Axes(time.x_low, time.x_high, low, high, time.left, time.right, top, top + _PANEL)
    return [
        rect(axes.left, axes.bottom, axes.right - axes.left, 1, "grid"),
        rect(axes.left, axes.top, axes.right - axes.left, 1, "grid"),
        words(axes.left - 10, top + 12, _short(high), "tick", "end"),
        words(
            axes.left - 10,
            top + _PANEL,
            _short(low),
            "tick",
            "end",
        ),
        words(axes.left - 10, top + 36, quantity.title, "quantity", "end"),
        words(axes.left - 10, top + 54, quantity.unit, "tick", "end"),
        polyline([axes.at(*point) for point in points], "curve"),
    ]


def _shades(measurement: Measurement, time: Axes) -> list[Markup]:
    """What went on when: behind everything else, named above."""
    parts = []
    spans = [(*measurement.accuracy_s, "answers", "once")]
    spans += [
        (one.began_s, one.ended_s, "cooling", "cooling")
        for one in measurement.coolings
        if one.ended_s - one.began_s >= 1
    ]
    for number, one in enumerate(measurement.passes, start=1):
        name, counted = f"pass {number}", number == measurement.counted
        disturbed = " disturbed" if one.disturbed else ""
        kind = f"pass{' counted' * counted}{disturbed}"
        told = f"{name}, counts" if counted and len(measurement.passes) > 1 else name
        spans.append((one.began_s, one.ended_s, kind, told))
    free = 0.0
    for began, ended, kind, name in sorted(spans):
        left, right = time.at(max(0.0, began), 0)[0], time.at(min(ended, time.x_high), 0)[0]
        width = max(_LEAST_WIDTH, right - left)
        parts.append(rect(left, time.top, width, time.bottom - time.top, f"phase {kind}"))
        at = max(left, free)
        if at < left + width and at + 7.5 * len(name) < time.right:
            parts.append(words(at, time.top - 10, name, "tick"))
            free = at + 8.5 * len(name)
    return parts


def rows(measurement: Measurement) -> list[tuple[str, list[str]]]:
    """The samples as a table, thinned out: when, and each quantity of `readable`."""
    shown = readable(measurement)
    step = max(1, -(-len(measurement.samples) // _MOST_ROWS))
    kept = measurement.samples[::step]
    return [
        (f"{one.t:.1f} s", [_cell(quantity, quantity.value(one)) for quantity in shown])
        for one in kept
    ]


def _cell(quantity: Quantity, value: float | None) -> str:
    return text.NONE if value is None else quantity.told(value)


def range_of(measurement: Measurement, one: LatencyPass, quantity: Quantity) -> str:
    """A quantity's lowest and highest in a pass; a dash where no sample tells."""
    within = [s for s in measurement.samples if one.began_s - 0.5 <= s.t <= one.ended_s + 0.5]
    values = [value for _, value in _points(within, quantity)]
    if not values:
        return text.NONE
    low, high = min(values), max(values)
    return quantity.told(low) if low == high else f"{_short(low)} to {quantity.told(high)}"

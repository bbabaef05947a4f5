"""The report page's drawings, as inline SVG: colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from . import text
from .peer_facts import bars
from .schema import Latency, Report

Corner = tuple[float, float]

WIDTH = 960
_FEWEST_TIMES = 5
_SLACK = 1e-9
"""Of a step: what a tick may lie beside the end of its axis, being a sum of binary fractions."""
_FLOW_TOP, _FLOW_HEIGHT, _EXIT_TOP = 84, 104, 232


def flow(report: Report) -> Markup:
    """How many photos reach each stage, and how many it answers (a Sankey diagram)."""
    n = max(1, report.accuracy.n)
    scale = _FLOW_HEIGHT / n
    stops = (["predictor"] if report.predictor else []) + ["stage"] * len(report.stages)
    start, step = 150, (WIDTH - 150 - 210) / max(1, len(stops))
    x = start
    parts = [_node(14, _FLOW_TOP, _FLOW_HEIGHT, "source")]
    parts += _label(14, 40, f"{report.accuracy.n} photos", report.accuracy.photos)
    last_x, remaining, stage_index = 24.0, report.accuracy.n, 0
    for stop in stops:
        height = remaining * scale
        parts.append(_link((last_x, _FLOW_TOP), (x, _FLOW_TOP), height, "through"))
        if stop == "predictor" and report.predictor:
            parts.append(_node(x, _FLOW_TOP, height, "source"))
            about = f"{report.predictor.resolution} px, {text.macs(report.predictor.macs)} MACs"
            parts += _label(x, 40, "finds the object", about)
        else:
            stage = report.stages[stage_index]
            left = remaining - stage.hits
            colour = f"stage-{stage_index % 4 + 1}"
            exit_x = x + min(150.0, step * 0.6)
            out = stage.hits * scale
            parts.append(
                _link((x + 10, _FLOW_TOP + left * scale), (exit_x, _EXIT_TOP), out, colour)
            )
            parts.append(_node(x, _FLOW_TOP, max(height, 2), colour))
            parts.append(_node(exit_x, _EXIT_TOP, max(out, 2), colour))
            about = f"{stage.resolution} px, {text.macs(stage.macs)} MACs"
            parts += _label(x, 40, text.short_name(stage.network), about)
            right = "" if stage.top1 is None else f"{text.percent(stage.top1)} right"
            answered = f"{stage.hits} answered ({text.percent(stage.hit_rate, 0)})"
            parts += _label(exit_x + 18, _EXIT_TOP + 14, answered, right)
            remaining, stage_index = left, stage_index + 1
        last_x, x = x + 10, x + step
    told = "; ".join(
        f"{stage.network} answers {stage.hits} of {report.accuracy.n}" for stage in report.stages
    )
    bottom = _EXIT_TOP + max([40, *(stage.hits * scale for stage in report.stages)]) + 12
    return drawing(WIDTH, round(bottom), "How the photos pass through the cascade", told, parts)


def latency(report: Report) -> Markup:
    """p50 of each part as a bar, with marks at p90 and p99."""
    rows = latency_rows(report)
    if not rows:
        return Markup("")
    longest = max(one.p99 for _, one in rows)
    left, right, height = 170, 110, 34
    scale = (WIDTH - left - right) / longest if longest else 0
    parts = []
    for index, (part, one) in enumerate(rows):
        y = 10 + index * height
        mark = "total" if part == "total" else "part"
        parts += [
            words(left - 12, y + 16, text.short_name(part), "name", "end"),
            rect(left, y + 3, max(one.p50 * scale, 1.5), 18, f"bar {mark}"),
            rect(left, y + 10, one.p90 * scale, 4, f"whisker {mark}"),
            rect(left + one.p90 * scale - 1, y + 5, 2, 14, f"mark {mark}"),
            rect(left + one.p99 * scale - 1, y + 8, 2, 8, f"mark faint {mark}"),
            words(left + one.p99 * scale + 10, y + 17, text.milliseconds(one.p50), "value"),
        ]
    told = "; ".join(f"{part} p50 {text.milliseconds(one.p50)}" for part, one in rows)
    return drawing(WIDTH, 16 + len(rows) * height, "Latency by part", told, parts)


def latency_rows(report: Report) -> list[tuple[str, Latency]]:
    """The parts in the order of a photo's way, `total` last."""
    networks = [stage.network for stage in report.stages]
    order = ["decode", "predict", "crop", *networks, "total"]
    return [(part, report.latency_ms[part]) for part in order if part in report.latency_ms]


@dataclass(frozen=True)
class Axes:
    """Where a drawing's numbers lie: `x` from `left` to `right`, `y` from `bottom` up to `top`."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    left: float
    right: float
    top: float
    bottom: float

    def at(self, x: float, y: float) -> Corner:
        """The place of a point."""
        across = (x - self.x_low) / (self.x_high - self.x_low)
        up = (y - self.y_low) / (self.y_high - self.y_low)
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )


def trade_off_axes(report: Report) -> Axes | None:
    """The axes of `trade_off`; None where there is nothing to draw."""
    if report.trade_off is None or report.macs.mean is None or report.accuracy.top1 is None:
        return None
    xs = [one.mean_macs for one in report.trade_off.points] + [report.macs.mean]
    ys = [one.top1 for one in report.trade_off.points] + [report.accuracy.top1]
    x_low, x_high = padded(min(xs), max(xs), 0.0)
    y_low, y_high = padded(min(ys), max(ys), 0.15)
    return Axes(x_low, x_high, max(0.0, y_low), min(1.0, y_high), 76, WIDTH - 24, 18, 268)


def trade_off(report: Report) -> Markup:
    """Top-1 over mean MACs, the threshold as the parameter; the job's own point is marked."""
    axes = trade_off_axes(report)
    if axes is None or report.trade_off is None:
        return Markup("")
    points = [(one.mean_macs, one.top1) for one in report.trade_off.points]
    parts = macs_grid(axes, "top-1")
    parts.append(polyline([axes.at(*point) for point in points], "curve"))
    for x, y in (axes.at(*point) for point in points):
        parts.append(circle(x, y, 3, "dot"))
    x, y = axes.at(report.macs.mean or 0.0, report.accuracy.top1 or 0.0)
    parts.append(circle(x, y, 7, "own"))
    anchor = "end" if x > WIDTH * 0.7 else "start"
    parts.append(words(x + (-14 if anchor == "end" else 14), y + 22, "this job", "name", anchor))
    told = f"from {text.percent(points[0][1])} at {text.macs(points[0][0])} MACs"
    told += f" to {text.percent(points[-1][1])} at {text.macs(points[-1][0])} MACs"
    return drawing(WIDTH, round(axes.bottom) + 52, "Accuracy against computation", told, parts)


def histogram(report: Report) -> Markup:
    """How many runs took how long, by the member that answered, with the percentiles marked."""
    times = [(ms, one.stage) for one in report.photos or [] for ms in one.ms.get("total", [])]
    total = report.latency_ms.get("total")
    if len(times) < _FEWEST_TIMES or total is None:
        return Markup("")
    low, high = min(ms for ms, _ in times), max(ms for ms, _ in times)
    high = min(high, max(1.5 * total.p99, low))
    high = high if high > low else low + max(abs(low) * 0.01, 1e-6)
    bins = max(8, min(48, round(2 * len(times) ** 0.5)))
    counts = [[0] * len(report.stages) for _ in range(bins)]
    for ms, stage in times:
        counts[min(bins - 1, int((ms - low) / (high - low) * bins))][stage] += 1
    axes = Axes(low, high, 0, max(map(sum, counts)), 56, WIDTH - 40, 66, 236)
    step = (axes.right - axes.left) / bins
    parts = [rect(axes.left, axes.bottom, axes.right - axes.left, 1, "zero")]
    for index, column in enumerate(counts):
        under = 0
        for stage, count in enumerate(column):
            x, y = axes.left + index * step, axes.at(low, under + count)[1]
            if count:
                height = count / axes.y_high * (axes.bottom - axes.top)
                parts.append(rect(x + 1, y, step - 2, height, f"node stage-{stage % 4 + 1}"))
            under += count
    for index, (name, value) in enumerate(
        (("p50", total.p50), ("p90", total.p90), ("p99", total.p99))
    ):
        x, top = axes.at(min(max(value, low), high), 0)[0], 10 + index * 18
        anchor = "end" if x > WIDTH * 0.8 else "start"
        parts.append(rect(x - 1, top, 2, axes.bottom - top, "percentile"))
        told = f"{name} {text.milliseconds(value)}"
        parts.append(words(x + (-7 if anchor == "end" else 7), top + 11, told, "tick", anchor))
    for value in ticks(low, high):
        x = axes.at(value, 0)[0]
        parts.append(words(x, axes.bottom + 22, text.milliseconds(value), "tick", "middle"))
    parts.append(words(axes.left - 8, axes.top + 4, str(round(axes.y_high)), "tick", "end"))
    parts.append(words(axes.left - 8, axes.bottom + 4, "0", "tick", "end"))
    beyond = sum(ms > high for ms, _ in times)
    told = f"{len(times)} runs from {text.milliseconds(low)} to {text.milliseconds(high)}"
    told += f" and {beyond} longer, in the last column" * bool(beyond)
    told += "; " + ", ".join(
        f"{name} {text.milliseconds(getattr(total, name))}" for name in ("p50", "p90", "p99")
    )
    return drawing(WIDTH, round(axes.bottom) + 34, "How long a photo took", told, parts)


def peers(report: Report) -> Markup:
    """Each engine's time or cycles against ONNX Runtime's, network by network; ours stand out."""
    rows = [] if report.peers is None else bars(report.peers)
    if not rows:
        return Markup("")
    left, right, height, head = 170, 90, 22, 30
    scale = (WIDTH - left - right) / max(1.0, *(one.share for one in rows))
    parts, y, network = [], 8.0, ""
    for one in rows:
        if one.network != network:
            network = one.network
            parts.append(words(left, y + 18, text.short_name(network), "name"))
            y += head
        length = max(one.share * scale, 1.5)
        parts += [
            words(left - 12, y + 14, one.title, "name" if one.ours else "note", "end"),
            rect(left, y + 2, length, 15, f"bar {'part' if one.ours else 'total'}"),
            words(left + length + 10, y + 15, f"{one.share:.2f}", "value"),
        ]
        y += height
    parts.insert(0, rect(left + scale, 8, 1, y - 8, "grid"))
    told = "; ".join(f"{one.network} in {one.title} {one.share:.2f}" for one in rows)
    title = "Time" if report.peers and report.peers.measured == "time" else "Cycles"
    return drawing(WIDTH, round(y + 8), f"{title} against ONNX Runtime", told, parts)


def macs_grid(axes: Axes, upwards: str) -> list[Markup]:
    """Lines and labels behind points of accuracy, which `upwards` names, over MACs a photo."""
    parts = [rect(axes.left, axes.bottom, axes.right - axes.left, 1, "grid")]
    for value in ticks(axes.y_low, axes.y_high):
        y = axes.at(axes.x_low, value)[1]
        parts.append(rect(axes.left, y, axes.right - axes.left, 1, "grid"))
        parts.append(words(axes.left - 10, y + 4, text.percent(value), "tick", "end"))
    for value in ticks(axes.x_low, axes.x_high):
        x = axes.at(value, axes.y_low)[0]
        parts.append(words(x, axes.bottom + 22, text.macs(value), "tick", "middle"))
    parts.append(words(axes.right, axes.bottom + 44, "MACs a photo", "axis", "end"))
    parts.append(words(axes.left, axes.top - 8, upwards, "axis"))
    return parts


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    """An axis a little longer than what is on it, and never of no length."""
    room = (high - low) * share if high > low else max(abs(high) * 0.05, 0.05)
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """The round numbers, at most six, that an axis from `low` to `high` is labelled with."""
    step = _step(low, high)
    first, last = math.ceil(low / step - _SLACK), math.floor(high / step + _SLACK)
    return [index * step for index in range(first, last + 1)]


def rounded(low: float, high: float) -> tuple[float, float]:
    """An axis from or below `low` to or above `high` that begins and ends at a round number."""
    step = _step(low, high)
    first, last = math.floor(low / step + _SLACK), math.ceil(high / step - _SLACK)
    return first * step, max(last, first + 1) * step


def _step(low: float, high: float) -> float:
    """One, two or five of some decimal place: the smallest of which five are enough."""
    span = max(high - low, 1e-9) / 5
    scale = 10.0 ** math.floor(math.log10(span))
    return next(
        step for step in (scale, 2 * scale, 5 * scale, 10 * scale) if step >= span * (1 - _SLACK)
    )


def drawing(width: int, height: int, title: str, description: str, parts: list[Markup]) -> Markup:
    """A whole drawing; `title` and `description` are for those who do not see it."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}: {}">{}</svg>').format(
        width, height, title, description, Markup("").join(parts)
    )


def _node(x: float, y: float, height: float, colour: str) -> Markup:
    return Markup('<rect class="node {}" x="{}" y="{}" width="10" height="{}" rx="3"/>').format(
        colour, _n(x), _n(y), _n(height)
    )


def _link(start: Corner, end: Corner, height: float, colour: str) -> Markup:
    """A band of one height between two upper corners."""
    (x1, y1), (x2, y2) = start, end
    if height <= 0:
        return Markup("")
    middle = _n((x1 + x2) / 2)
    a, b, c, d = _n(y1), _n(y2), _n(y2 + height), _n(y1 + height)
    return Markup(
        '<path class="link {}" d="M{} {} C{} {} {} {} {} {} L{} {} C{} {} {} {} {} {} Z"/>'
    ).format(
        colour,
        _n(x1), a, middle, a, middle, b, _n(x2), b,
        _n(x2), c, middle, c, middle, d, _n(x1), d,
    )  # fmt: skip


def _label(x: float, y: float, first: str, second: str) -> list[Markup]:
    return [words(x, y, first, "name"), words(x, y + 20, second, "note")]


def words(x: float, y: float, content: str, kind: str, anchor: str = "start") -> Markup:
    """A line of text; `kind` is its class in the style sheet."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _n(x), _n(y), anchor, escape(content)
    )


def rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A rectangle of that class."""
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        kind, _n(x), _n(y), _n(width), _n(height)
    )


def polyline(points: Sequence[Corner], kind: str) -> Markup:
    """A line through points, of that class."""
    path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(points))
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def circle(x: float, y: float, radius: float, kind: str) -> Markup:
    """A circle of that class."""
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(
        kind, _n(x), _n(y), _n(radius)
    )


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")

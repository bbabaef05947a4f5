"""compression.html: accuracy against computation of all methods, with nothing outside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from edgecompress.files import write_text

from . import charts, text
from .compression import FULL, HEAD, Line, rows_of, sentences, title, told_lines
from .template import environment

_LEFT, _RIGHT, _TOP, _HEIGHT = 76, 300, 24, 320
_COLOURS = 4
_SHAPES = ("circle", "square", "diamond", "triangle")
_SHORT = {"base-longer": "uncompressed, trained on", "base-larger": "uncompressed, larger side"}
"""Where a title without its brackets has no room beside a drawing."""


def write_compression(value: Mapping[str, Any], path: Path) -> None:
    """Write the page."""
    page = environment().get_template("compression.html.j2").render(**page_values(value))
    write_text(path, page)


def page_values(value: Mapping[str, Any]) -> dict[str, Any]:
    """What the template's part about a comparison needs."""
    return {
        "comparison": value,
        "comparison_head": HEAD,
        "comparison_rows": rows_of(value),
        "comparison_sentences": sentences(value),
        "comparison_plot": plot(told_lines(value)),
    }


def plot(lines: Sequence[Line]) -> Markup:
    """Top-1 over MACs a photo, a line a method, bars of one standard deviation between seeds."""
    drawn = list(lines)
    if not drawn:
        return Markup("")
    ends = [(line.top1 - (line.spread or 0), line.top1 + (line.spread or 0)) for line in drawn]
    x_high = charts.rounded(0, max(line.macs for line in drawn) * 1.005)[1]
    y_low, y_high = charts.padded(min(low for low, _ in ends), max(high for _, high in ends), 0.0)
    y_low, y_high = charts.rounded(max(0.0, y_low), min(1.0, y_high))
    axes = charts.Axes(
        0, x_high, y_low, y_high,
        _LEFT, charts.WIDTH - _RIGHT, _TOP, _TOP + _HEIGHT,
    )  # fmt: skip
    parts = charts.macs_grid(axes, "top-1") + _guide(axes, drawn)
    methods = list(dict.fromkeys(line.method for line in drawn))
    for index, method in enumerate(methods):
        own = sorted((line for line in drawn if line.method == method), key=lambda one: one.macs)
        parts += _series(axes, own, index)
    for place, method in enumerate(sorted(methods, key=lambda method: method != FULL)):
        y, index = _TOP + 8 + place * 24, methods.index(method)
        parts += _mark(charts.WIDTH - _RIGHT + 24, y, index, method)
        parts.append(charts.words(charts.WIDTH - _RIGHT + 40, y + 5, _short(method), "tick"))
    told = "; ".join(
        f"{title(line.method)} {text.percent(line.top1)} at {text.macs(line.macs)} MACs"
        for line in drawn
    )
    bottom = max(_TOP + _HEIGHT + 54, _TOP + 8 + len(methods) * 24)
    return charts.drawing(charts.WIDTH, bottom, "Accuracy against computation", told, parts)


def _guide(axes: charts.Axes, lines: Sequence[Line]) -> list[Markup]:
    """A dashed line at the base's top-1: what is above it and further left is better for less."""
    parts = []
    for base in (line for line in lines if line.method == "base"):
        left, right = (axes.at(x, base.top1) for x in (axes.x_low, axes.x_high))
        parts.append(charts.polyline((left, right), "guide"))
        parts.append(charts.words(right[0], right[1] - 7, _short("base"), "tick", "end"))
    return parts


def _short(method: str) -> str:
    """A title that has room beside a drawing."""
    return _SHORT.get(method) or title(method).split(" (")[0]


def _series(axes: charts.Axes, own: Sequence[Line], index: int) -> list[Markup]:
    method = own[0].method
    colour = "full" if method == FULL else f"stage-{index % _COLOURS + 1}"
    places = [axes.at(line.macs, line.top1) for line in own]
    parts = []
    if len(places) > 1:
        path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(places))
        kind = "curve" if method == FULL else f"trend {colour}"
        parts.append(Markup('<path class="{}" d="{}"/>').format(kind, path))
    for line, (x, y) in zip(own, places, strict=True):
        if line.spread:
            top, bottom = (
                axes.at(line.macs, line.top1 + sign * line.spread)[1] for sign in (1, -1)
            )
            parts.append(charts.rect(x - 0.75, top, 1.5, bottom - top, f"run {colour}"))
            parts += [charts.rect(x - 4, end, 8, 1.5, f"run {colour}") for end in (top, bottom)]
        parts += _mark(x, y, index, method)
    return parts


def _mark(x: float, y: float, index: int, method: str) -> list[Markup]:
    """A method's mark: colours repeat after four, shapes tell the methods apart."""
    if method == FULL:
        return [charts.circle(x, y, 6, "own full")]
    kind, shape = f"run stage-{index % _COLOURS + 1}", _SHAPES[index // _COLOURS % len(_SHAPES)]
    if shape == "square":
        return [charts.rect(x - 4, y - 4, 8, 8, kind)]
    if shape == "circle":
        return [charts.circle(x, y, 4.5, kind)]
    corners = (
        ((0, -6), (6, 0), (0, 6), (-6, 0)) if shape == "diamond" else ((0, -6), (6, 5), (-6, 5))
    )
    path = " ".join(
        f"{'L' if i else 'M'}{x + dx:.1f} {y + dy:.1f}" for i, (dx, dy) in enumerate(corners)
    )
    return [Markup('<path class="{}" d="{} Z"/>').format(kind, path)]

"""history.html: how a number went over time, by model and board."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from edgecompress.files import write_text

from . import charts, text
from .history import Entry, by_series, is_time, unit_of
from .template import environment

_LEFT, _RIGHT, _TOP, _HEIGHT = 90, 170, 26, 220
_COLOURS = 4


def render_history(entries: Sequence[Entry], metric: str) -> str:
    """The page as HTML. Everything that comes from the history is escaped."""
    models = {
        model: [entry for entry in entries if entry.model == model]
        for model in dict.fromkeys(entry.model for entry in entries)
    }
    pictures = {model: plot(runs, metric) for model, runs in models.items()}
    return (
        environment()
        .get_template("history.html.j2")
        .render(
            entries=entries,
            metric=metric,
            models=models,
            pictures=pictures,
            emulated=is_time(metric) and any(entry.emulated for entry in entries),
            unit=unit_of(metric),
            text=text,
        )
    )


def write_history(entries: Sequence[Entry], metric: str, path: Path) -> None:
    """Write the page."""
    write_text(path, render_history(entries, metric))


def plot(runs: Sequence[Entry], metric: str) -> Markup:
    """A metric over time, a line for each board and precision; failed runs are crosses below.

    Empty where no run has a number that can be compared.
    """
    series = {key: rows for key, rows in by_series(runs).items() if _points(rows, metric)}
    points = [point for rows in series.values() for point in _points(rows, metric)]
    if not points:
        return Markup("")
    failed = [_seconds(run) for run in runs if run.error]
    times = [x for x, _ in points] + failed
    x_low, x_high = min(times), max(times)
    y_low, y_high = charts.padded(min(y for _, y in points), max(y for _, y in points), 0.15)
    y_low = max(0.0, y_low)
    if unit_of(metric) == "points":
        y_high = min(100.0, y_high)
    bottom, width = _TOP + _HEIGHT, charts.WIDTH - _LEFT - _RIGHT

    def across(x: float) -> float:
        return _LEFT + ((x - x_low) / (x_high - x_low) if x_high > x_low else 0.5) * width

    def up(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * _HEIGHT

    parts = [charts.rect(_LEFT, bottom, width, 1, "grid")]
    for value in charts.ticks(y_low, y_high):
        parts.append(charts.rect(_LEFT, up(value), width, 1, "grid"))
        told = text.value(value, unit_of(metric))
        parts.append(charts.words(_LEFT - 10, up(value) + 4, told, "tick", "end"))
    for x in dict.fromkeys((x_low, x_high)):
        anchor = "start" if x == x_low < x_high else "end" if x < x_high or x > x_low else "middle"
        day = datetime.fromtimestamp(x, UTC).strftime("%Y-%m-%d %H:%M")
        parts.append(charts.words(across(x), bottom + 24, day, "tick", anchor))
    for index, rows in enumerate(series.values()):
        parts += _line([(across(x), up(y)) for x, y in _points(rows, metric)], index)
    parts += _names(list(series), [up(_points(rows, metric)[-1][1]) for rows in series.values()])
    parts += [
        charts.words(across(x), bottom - 4, "\N{MULTIPLICATION SIGN}", "failed", "middle")
        for x in failed
    ]
    told = "; ".join(
        f"{board}, {precision}: {len(_points(rows, metric))} runs, last"
        f" {text.value(_points(rows, metric)[-1][1], unit_of(metric))}"
        for (_, board, precision), rows in series.items()
    )
    told += f"; {len(failed)} failed" * bool(failed)
    return charts.drawing(charts.WIDTH, bottom + 34, f"{metric} over time", told, parts)


def _points(rows: Sequence[Entry], metric: str) -> list[tuple[float, float]]:
    numbers = ((_seconds(row), row.number(metric)) for row in rows)
    return [(x, y) for x, y in numbers if y is not None]


def _seconds(entry: Entry) -> float:
    try:
        return datetime.fromisoformat(entry.at).timestamp()
    except ValueError:
        return 0.0


def _line(points: Sequence[tuple[float, float]], index: int) -> list[Markup]:
    colour = f"stage-{index % _COLOURS + 1}"
    parts = []
    if len(points) > 1:
        path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        parts.append(Markup('<path class="trend {}" d="{}"/>').format(colour, path))
    return parts + [charts.circle(x, y, 4, f"run {colour}") for x, y in points]


def _names(keys: Sequence[tuple[str, str, str]], heights: Sequence[float]) -> list[Markup]:
    """A name beside the end of each line, pushed down where it would lie on another."""
    parts, last = [], 0.0
    for index in sorted(range(len(keys)), key=lambda i: heights[i]):
        _, board, precision = keys[index]
        last = max(heights[index] + 5, last + 18)
        x = charts.WIDTH - _RIGHT + 14
        colour = f"stage-{index % _COLOURS + 1}"
        parts.append(charts.rect(x, last - 10, 10, 10, f"run {colour}"))
        parts.append(charts.words(x + 16, last, f"{board}, {precision}", "tick"))
    return parts

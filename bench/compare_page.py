"""compare.html: two reports beside each other on one page, with nothing outside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from edgecompress.files import write_text

from . import charts, text
from .compare import Comparison, Row
from .gates import Verdict
from .metrics import GROUPS
from .template import environment

DRAWN = ("top1", "top5", "p50", "p90", "p99", "mean", "macs", "memory", "bundle")

_NAME, _BARS, _MIDDLE, _REACH = 170, (184, 250), 690, 160
_ROW, _TOP = 46, 52


def render_comparison(comparison: Comparison, verdicts: Sequence[Verdict] = ()) -> str:
    """The page as HTML. Everything that comes from the reports is escaped."""
    grouped = {
        title: [row for row in comparison.rows if row.group == group]
        for group, title in GROUPS.items()
    }
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            grouped={title: rows for title, rows in grouped.items() if rows},
            verdicts=verdicts,
            failed=sum(one.failed for one in verdicts),
            picture=picture(comparison),
            interval=interval,
            text=text,
        )
    )


def write_comparison(comparison: Comparison, path: Path, verdicts: Sequence[Verdict] = ()) -> None:
    """Write the page."""
    write_text(path, render_comparison(comparison, verdicts))


def interval(row: Row) -> str:
    """The 95 % interval of a row's change in words, "" where there is none."""
    if row.interval is None:
        return ""
    low, high = row.interval
    if row.interval_of == "relative":
        return f"{text.signed_percent(low)} to {text.signed_percent(high)}"
    return f"{low:+.2f} to {high:+.2f} points"


def picture(comparison: Comparison) -> Markup:
    """Pairs of bars, and beside them the change with its interval."""
    rows = [row for key in DRAWN if (row := comparison.row(key)) is not None]
    rows = [row for row in rows if row.a is not None or row.b is not None]
    if not rows:
        return Markup("")
    furthest = _round_up(max([1.0, *(abs(end) for row in rows for end in _ends(row))]))
    scale = _REACH / furthest
    bottom = _TOP + len(rows) * _ROW
    parts = [
        charts.rect(_BARS[0], 8, 14, 14, "bar total"),
        charts.words(_BARS[0] + 20, 20, "A", "note"),
        charts.rect(_BARS[0] + 50, 8, 14, 14, "bar part"),
        charts.words(_BARS[0] + 70, 20, "B", "note"),
        charts.words(_MIDDLE, 20, "change of B in %, of shares in points", "note", "middle"),
    ]
    for step in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = _MIDDLE + step * _REACH
        parts.append(
            charts.rect(x, _TOP - 14, 1, bottom - _TOP + 14, "zero" if not step else "grid")
        )
        parts.append(
            charts.words(
                x, bottom + 20, f"{step * furthest:+.3g}" if step else "0", "tick", "middle"
            )
        )
    for index, row in enumerate(rows):
        parts += _pair(row, _TOP + index * _ROW, scale)
    told = "; ".join(
        f"{row.title} {text.value(row.a, row.unit)} in A, {text.value(row.b, row.unit)} in B"
        for row in rows
    )
    return charts.drawing(charts.WIDTH, bottom + 30, "A beside B", told, parts)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 and so on; `value` is positive."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value - 1e-9)


def _pair(row: Row, y: float, scale: float) -> list[Markup]:
    left, width = _BARS
    largest = max(row.a or 0.0, row.b or 0.0) or 1.0
    parts = [charts.words(_NAME, y + 18, row.title, "name", "end")]
    for top, value, kind in ((y, row.a, "total"), (y + 15, row.b, "part")):
        # Bars side by side compare: what is not comparable has none.
        length = 0.0 if row.why else max((value or 0.0) / largest * width, 1.5)
        if length:
            parts.append(charts.rect(left, top, length, 12, f"bar {kind}"))
        told = text.value(value, row.unit)
        told = f"{'A' if kind == 'total' else 'B'}: {told}" if row.why else told
        parts.append(charts.words(left + length + 6, top + 11, told, "tick"))
    if row.change is None:
        parts.append(charts.words(_MIDDLE + _REACH + 14, y + 18, "not compared", "note"))
        return parts
    kind = row.verdict or "unclear"
    ends = _ends(row)
    if row.interval is not None:
        low, high = (_MIDDLE + end * scale for end in ends[1:])
        parts.append(charts.rect(low, y + 12, max(high - low, 1.0), 3, f"span {kind}"))
        parts += [charts.rect(end - 1, y + 7, 2, 13, f"span {kind}") for end in (low, high)]
    if ends:
        parts.append(charts.circle(_MIDDLE + ends[0] * scale, y + 13.5, 5, f"point {kind}"))
    parts.append(charts.words(_MIDDLE + _REACH + 14, y + 18, row.verdict, f"verdict {kind}"))
    return parts


def _ends(row: Row) -> list[float]:
    """The change and the ends of its interval, in percent or, of shares, in points."""
    if row.unit == "points":
        return [] if row.change is None else [row.change, *(row.interval or ())]
    if row.relative is None:
        return []
    return [100 * one for one in (row.relative, *(row.interval or ()))]

"""Reports as Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from . import text
from .compare import Comparison, Row
from .compare_page import interval
from .gates import Verdict

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@&])")


def escape(content: str) -> str:
    """Text that Markdown takes as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(content.split()))


def code(content: str) -> str:
    """Text between backticks; a bar would end a table's cell."""
    return "`" + " ".join(content.replace("`", "'").split()).replace("|", "\\|") + "`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are Markdown, columns that begin with '>' are set to the right."""
    lines = [
        "| " + " | ".join(column.lstrip(">") for column in columns) + " |",
        "|" + "|".join("--:" if column.startswith(">") else "---" for column in columns) + "|",
    ]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def comparison_markdown(comparison: Comparison, verdicts: Sequence[Verdict] = ()) -> str:
    """A comparison: what differs first, conditions, then the numbers that changed most matter."""
    a, b = comparison.a, comparison.b
    lines = [f"### {escape(b.name)} against {escape(a.name)}", ""]
    for letter, one in (("A", a), ("B", b)):
        emulated = " (emulated)" if one.emulated else ""
        created = escape(one.created[:16].replace("T", " "))
        lines.append(
            f"- {letter}: {escape(one.board)}{emulated}, {one.precision},"
            f" {one.n} photos of {escape(one.photos)}, {created} UTC"
        )
    for note in comparison.notes:
        told = escape(note.text)
        lines.append(f"- **{told}**" if note.kind != "differs" else f"- {told}")
    if comparison.pairing:
        lines.append(f"- Photos are not paired: {escape(comparison.pairing)}.")
    if verdicts:
        lines += ["", *table(["condition", "result", "why"], map(_verdict, verdicts))]
    columns = ["", ">A", ">B", ">change", ">relative", "95 % interval", "verdict"]
    rows = [row for row in comparison.rows if row.group != "layers"]
    lines += ["", *table(columns, map(_cells, rows))]
    layers = _layers(comparison)
    if layers:
        lines += ["", "Layers that changed most:", "", *table(columns, map(_cells, layers))]
    return "\n".join(lines) + "\n"


def _verdict(one: Verdict) -> list[str]:
    result = "**failed**" if one.failed else "passed"
    return [code(one.condition), result, escape(one.reason)]


def _cells(row: Row) -> list[str]:
    return [
        escape(row.title),
        text.value(row.a, row.unit),
        text.value(row.b, row.unit),
        text.signed(row.change, row.unit),
        text.signed_percent(row.relative),
        interval(row),
        row.verdict or escape(row.why),
    ]


def _layers(comparison: Comparison, count: int = 5) -> list[Row]:
    """The compared layers whose time changed most, in milliseconds."""
    rows = [row for row in comparison.rows if row.group == "layers" and row.change]
    return sorted(rows, key=lambda row: -abs(row.change or 0.0))[:count]

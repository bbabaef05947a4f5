"""The report's section on compound shrinking and its search."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np
import pytest

from edgecompress.bench.page import render_page
from edgecompress.bench.report_markdown import report_markdown
from edgecompress.bench.schema import Report
from edgecompress.bench.search_section import (
    contribution_rows,
    plot,
    read_search,
    read_shrinking,
    rows,
    sentences,
)
from edgecompress.compress.budget import parse_budget
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.shrinking.law import TrialPoint, fit_law
from edgecompress.compress.shrinking.proposal import count_macs
from edgecompress.compress.shrinking.search import Point
from edgecompress.compress.shrinking.searching import Hunt
from edgecompress.compress.shrinking.shrink import exponent_errors, exponents, shapes
from edgecompress.compress.training.workbook import Done

BASE = NetworkSpec("resnet18", 0.125, 1.0, 64, 2)


def _spec(width: float, side: int) -> NetworkSpec:
    return NetworkSpec("resnet18", width, 1.0, side, 2)


def _chances(accuracy: float) -> np.ndarray:
    return np.full(100, accuracy - 0.1)


def _points(cost: Any) -> list[Point]:
    # (network, accuracy, whether after the longer training)
    told = [
        (_spec(0.125, 40), 0.6, False),
        (_spec(0.0625, 56), 0.5, False),
        (_spec(0.0625, 64), 0.7, False),
        (_spec(0.125, 40), 0.8, True),
        (_spec(0.0625, 64), 0.95, True),
    ]
    return [
        Point(
            spec, cost(spec), accuracy, _chances(accuracy), 3 if long else 1, 60.0, long, "search-x"
        )
        for spec, accuracy, long in told
    ]


@pytest.fixture(scope="module")
def compression() -> dict[str, Any]:
    """What compression.json has of it, made by the code that makes it."""
    base = Done("0", {"spec": BASE.to_json()})

    def milliseconds(spec: NetworkSpec) -> float:
        return spec.macs / 1e5

    members = []
    for budget, cost, name in (("0.4x", count_macs, "MACs"), ("9ms", milliseconds, "ms on pi")):
        points, parsed = _points(cost), parse_budget(budget)
        hunt = Hunt(None, base, parsed.member, parsed, points[0].spec, cost, name)  # type: ignore
        members.append(hunt.record(points, points[4], "15.0 points above"))
    alone = Hunt(None, base, "member100", parse_budget(1), BASE, count_macs, "MACs")  # type: ignore
    members.append(alone.record([], None, "the base itself"))
    measured = [
        TrialPoint(None, BASE),
        TrialPoint("width", _spec(0.0625, 64), 0.1, 0.015),
        TrialPoint("resolution", _spec(0.125, 48), 0.2, 0.02),
    ]
    law = fit_law(measured)
    found = shapes(BASE, law)
    shrink = {
        "points": [
            {
                "dimension": p.dimension,
                "macs": p.spec.macs,
                "cost": p.paid,
                "held_out": 0.9 - p.lost,
                "lost": p.lost,
                "error": p.error,
            }
            for p in measured
        ],
        "cost": "MACs",
        "law": law.to_json(),
        "exponents": exponents(found, law),
        "errors": exponent_errors(found, measured),
    }
    steps = {"shrink": shrink, "search": {"most": 6, "members": members}}
    return json.loads(json.dumps({"steps": steps}))


def test_every_point_is_told(compression: dict[str, Any]) -> None:
    first, second = read_search(compression)  # not the base, which was not searched
    told = [*rows(first), *rows(second)]
    assert len(told) == 10
    assert [row[-1] for row in told[:5]] == [
        "proposed",
        "",
        "",
        "proposed, on the front",
        "on the front, chosen",
    ]
    assert told[4][4:6] == ("95.0 ± 2.2 %", "85.0 %")
    assert told[0][3].endswith("of the budget")
    assert told[5][3].endswith("ms")
    table = contribution_rows(read_shrinking(compression))  # type: ignore[arg-type]
    assert [row[0] for row in table] == ["nothing", "width", "resolution"]
    shares = [int(row[4].split()[0]) for row in table[1:]]
    assert sum(shares) in (99, 100, 101)
    assert "±" in table[1][4]
    assert [row[3] for row in table] == ["", "10.0 ± 1.5 points", "20.0 ± 2.0 points"]


def test_records_without_what_was_lost_are_read(compression: dict[str, Any]) -> None:
    """Of earlier versions, which went by top-1."""
    compression = copy.deepcopy(compression)
    for member in compression["steps"]["search"]["members"]:
        for point in member["points"]:
            del point["chance"]
    first, _ = read_search(compression)
    assert [row[5] for row in rows(first)] == [""] * 5
    assert [row[-1] for row in rows(first)][3:] == [
        "proposed, on the front",
        "on the front, chosen",
    ]
    assert "held-out top-1" in plot([first])
    for point in compression["steps"]["shrink"]["points"]:
        del point["lost"], point["error"]
    table = contribution_rows(read_shrinking(compression))  # type: ignore[arg-type]
    assert [row[3] for row in table] == [""] * 3


def test_the_plot_has_every_point_in_its_frame(compression: dict[str, Any]) -> None:
    svg = str(plot(read_search(compression)))
    circles = re.findall(r'<circle class="([^"]+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert len(circles) == 10 + 2
    assert [kind for kind, _, _ in circles].count("own") == 2
    for _, x, y in circles:
        assert 76 <= float(x) <= 920
        assert 24 <= float(y) <= 324
    assert 'role="img"' in svg
    assert svg.count(" MACs after ") == 10
    assert plot([]) == ""


def test_page_and_markdown_have_the_section(report: Report, compression: dict[str, Any]) -> None:
    with_it = report.model_copy(update={"compression": compression})
    page, told = render_page(with_it), report_markdown(with_it)
    assert '<section id="shrinking">' in page
    assert page.count("<tr>") > render_page(report).count("<tr>") + 12
    assert "member9ms, within 9ms: 5 trials, 5.0 minutes" in page
    assert "Compound shrinking, shares of what is saved in MACs: depth 0 %" in told
    assert "is taken to lose 1 times what one before it does (assumed" in told
    assert "is taken to lose 1 times what one before it does (assumed" in page
    assert "member40, within 0.4x" in told
    assert '<section id="shrinking">' not in render_page(report)
    assert "Compound shrinking" not in report_markdown(report)


def test_the_law_is_told(compression: dict[str, Any]) -> None:
    compression = copy.deepcopy(compression)
    compression["steps"]["shrink"]["law"].update(bend=1.6, measured=True)
    (told,) = [one for one in sentences(compression) if one.startswith("A step beyond")]
    assert "lose 1.6 times what one before it does (measured)" in told
    del compression["steps"]["shrink"]["law"]  # a record of an earlier version
    assert read_shrinking(compression) is not None
    assert not [one for one in sentences(compression) if one.startswith("A step beyond")]


def test_a_strangers_record_is_escaped_or_left_out(
    report: Report, compression: dict[str, Any]
) -> None:
    hostile = copy.deepcopy(compression)
    hostile["steps"]["search"]["members"][0]["why"] = "<script>alert(1)</script>"
    page = render_page(report.model_copy(update={"compression": hostile}))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    for path, value in [
        (("search", "members", 0, "points", 0, "macs"), 0),
        (("search", "members", 0, "points", 0, "held_out"), float("nan")),
        (("search", "members", 0, "limit"), 1e300),
        (("search", "members"), "many"),
        (("search",), 7),
        (("shrink", "exponents"), {}),
        (("shrink", "points"), []),
        (("shrink", "points", 1, "held_out"), 2),
    ]:
        damaged = copy.deepcopy(compression)
        place = damaged["steps"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        found = read_shrinking(damaged) if path[0] == "shrink" else read_search(damaged)
        assert not found
        assert len(list(sentences(damaged))) < 3
    for nothing in (None, {}, {"steps": []}, {"steps": {"shrink": None}}):
        assert read_shrinking(nothing) is None
        assert read_search(nothing) == []  # type: ignore[arg-type]

"""The page's drawings: XML that a browser takes, and nothing outside the frame."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from edgecompress.bench import charts
from edgecompress.bench.schema import Report


def drawn(svg: Markup) -> ElementTree.Element:
    """The drawing, after a look at every coordinate in it."""
    root = ElementTree.fromstring(str(svg))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (left, top) == (0, 0)
    for one in root:
        for x, y in _corners(one):
            assert 0 <= x <= width, ElementTree.tostring(one)
            assert 0 <= y <= height, ElementTree.tostring(one)
    return root


def _corners(one: ElementTree.Element) -> list[tuple[float, float]]:
    def number(name: str) -> float:
        return float(one.attrib[name])

    if one.tag == "rect":
        x, y, width, height = (number(name) for name in ("x", "y", "width", "height"))
        assert width >= 0 and height >= 0
        return [(x, y), (x + width, y + height)]
    if one.tag == "circle":
        x, y, r = number("cx"), number("cy"), number("r")
        return [(x - r, y - r), (x + r, y + r)]
    if one.tag == "text":
        return [(number("x"), number("y"))]
    assert one.tag == "path"
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", one.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter("text")]


def changed(report: Report, **parts: Any) -> Report:
    """The report with other values; parts of parts are given as dictionaries."""
    document = report.model_dump()
    for name, value in parts.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    return Report.model_validate(document)


def staged(report: Report, *hits: int) -> Report:
    """The report as if it had these stages, answering so many photos each."""
    stage = report.stages[0].model_dump()
    stages = [
        {**stage, "network": f"net_{i}", "hits": n, "hit_rate": n / max(1, sum(hits))}
        for i, n in enumerate(hits)
    ]
    return changed(report, stages=stages, accuracy={"n": sum(hits)}, photos=None)


def test_flow_of_a_real_run(report: Report) -> None:
    root = drawn(charts.flow(report))
    told = texts(root)
    for stage in report.stages:
        assert any(text.startswith(f"{stage.hits} answered") for text in told)
    assert "8 photos" in told


@pytest.mark.parametrize(
    "hits", [(1,), (0,), (0, 0), (5, 0), (0, 5), (1, 99999), (3, 3, 3, 3, 3, 3)]
)
@pytest.mark.parametrize("predictor", [True, False])
def test_flow_stays_inside(report: Report, hits: tuple[int, ...], predictor: bool) -> None:
    told = staged(report, *hits)
    if not predictor:
        told = changed(told, predictor=None, not_measured={"predictor": "none"})
    root = drawn(charts.flow(told))
    # A band for each stop that photos reach, and one for each stage that answers some.
    bands = [one for one in root.iter("path") if "link" in one.attrib["class"]]
    reached = sum(sum(hits[i:]) > 0 for i in range(len(hits))) + (predictor and sum(hits) > 0)
    assert len(bands) == reached + sum(n > 0 for n in hits)


def test_bands_are_as_high_as_photos_are_many(report: Report) -> None:
    root = drawn(charts.flow(staged(report, 30, 10)))
    heights = {
        one.attrib["class"]: float(one.attrib["height"])
        for one in root.iter("rect")
        if float(one.attrib["y"]) > 200
    }
    assert heights["node stage-1"] == pytest.approx(3 * heights["node stage-2"], rel=0.01)


def test_latency_bars(report: Report) -> None:
    root = drawn(charts.latency(report))
    told = texts(root)
    assert [text for text in told if " ms" not in text] == [
        "decode", "predict", "crop", "small", "big", "total",
    ]  # fmt: skip
    bars = [one for one in root.iter("rect") if one.attrib["class"].startswith("bar")]
    widths = [float(one.attrib["width"]) for one in bars]
    p50 = [one.p50 for _, one in charts.latency_rows(report)]
    assert widths.index(max(widths)) == p50.index(max(p50))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e7])
def test_latency_of_any_size(report: Report, scale: float) -> None:
    part = {"p50": scale, "p90": 2 * scale, "p99": 40 * scale, "mean": 3 * scale, "n": 1}
    document = report.model_dump() | {"latency_ms": {"total": part, "decode": part}}
    root = drawn(charts.latency(Report.model_validate(document)))
    assert len(list(root.iter("rect"))) == 4 * 2


def test_trade_off_shows_the_curve_and_the_job(report: Report) -> None:
    root = drawn(charts.trade_off(report))
    kinds = [one.attrib["class"] for one in root.iter("circle")]
    assert report.trade_off is not None
    assert kinds == ["dot"] * len(report.trade_off.points) + ["own"]
    path = next(root.iter("path")).attrib["d"]
    assert path.count("L") == len(report.trade_off.points) - 1


@pytest.mark.parametrize("top1", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("macs", [(1e6, 1e6), (1e6, 3e9)])
def test_trade_off_of_any_shape(
    report: Report, top1: tuple[float, float], macs: tuple[float, float]
) -> None:
    points = [
        {"threshold": i, "top1": one, "mean_macs": cost, "hit_rates": [1 - i, i]}
        for i, (one, cost) in enumerate(zip(top1, macs, strict=True))
    ]
    told = changed(
        report,
        trade_off={"points": points},
        accuracy={"top1": top1[0]},
        macs={"mean": macs[1]},
    )
    drawn(charts.trade_off(told))


def timed(report: Report, times: list[float]) -> Report:
    photo = {**(report.photos or [])[0].model_dump(), "stage": 0}
    photos = [{**photo, "ms": {"total": [ms]}} for ms in times]
    part = {"p50": sorted(times)[len(times) // 2], "p90": max(times), "p99": max(times)}
    total = {"total": {**part, "mean": 1.0, "n": len(times)}}
    return Report.model_validate(report.model_dump() | {"photos": photos, "latency_ms": total})


@pytest.mark.parametrize(
    "times", [[5.0] * 9, [0.0] * 9, [1.0, 2.0, 3.0, 4.0, 1e6], [float(i % 97) for i in range(3000)]]
)
def test_the_histogram_stays_inside(report: Report, times: list[float]) -> None:
    root = drawn(charts.histogram(timed(report, times)))
    marks = [text[:3] for text in texts(root) if text.startswith("p")]
    assert marks == ["p50", "p90", "p99"]
    bars = [one for one in root.iter("rect") if "node" in one.attrib["class"]]
    assert 1 <= len(bars) <= 48


def test_the_histogram_counts_every_run(report: Report) -> None:
    root = drawn(charts.histogram(report))
    assert root.attrib["aria-label"].startswith("How long a photo took: 16 runs")
    kinds = {one.attrib["class"] for one in root.iter("rect") if "node" in one.attrib["class"]}
    assert kinds == {"node stage-1", "node stage-2"}
    assert charts.histogram(report.model_copy(update={"photos": None})) == ""


def test_nothing_to_draw_is_nothing(report: Report) -> None:
    assert charts.latency(report.model_copy(update={"latency_ms": {}})) == ""
    assert charts.trade_off(report.model_copy(update={"trade_off": None})) == ""
    unanswered = report.accuracy.model_copy(update={"top1": None})
    assert charts.trade_off(report.model_copy(update={"accuracy": unanswered})) == ""


def test_names_are_escaped(report: Report) -> None:
    told = changed(staged(report, 3, 2), accuracy={"photos": '<b>&"photos"'})
    root = drawn(charts.flow(told))
    assert '<b>&"photos"' in texts(root)
    assert not list(root.iter("b"))


def test_the_drawing_stays_inside(compared: Report) -> None:
    assert compared.peers is not None
    svg = charts.peers(compared)
    if compared.peers.measured == "nothing":
        assert svg == ""
        return
    root = drawn(svg)
    said = texts(root)
    assert said.count("EdgeCompress") == 2 and "big one" in said and "1.00" in said
    ours = [one for one in root if one.attrib["class"] == "bar part"]
    assert len(ours) == 2, "ours stand out"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_rounded_axes_hold_what_is_on_them(low: float, length: float) -> None:
    first, last = charts.rounded(low, low + length)
    slack = 1e-6 * max(abs(low), length)
    assert first <= low + slack and low + length <= last + slack
    assert last - first < 2.1 * length + slack
    inside = charts.ticks(low, low + length)
    assert 2 <= len(inside) <= 6
    assert low - slack <= inside[0] and inside[-1] <= low + length + slack


def test_ticks_are_round_numbers() -> None:
    assert charts.rounded(0.9, 0.9)[1] > 0.9, "of some length"
    assert charts.rounded(0, 158e6) == (0, 200e6)
    assert charts.rounded(0.825, 0.8669) == pytest.approx((0.82, 0.87))
    assert charts.ticks(0, 263e6) == [0, 100e6, 200e6]
    assert charts.ticks(0.876, 0.9134) == pytest.approx([0.88, 0.89, 0.90, 0.91])

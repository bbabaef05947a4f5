"""The page's threshold sliders: their numbers, and the script in a browser where there is one."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgecompress.bench.compare_page import render_comparison
from edgecompress.bench.history_page import render_history
from edgecompress.bench.page import render_page
from edgecompress.bench.schema import Report
from edgecompress.bench.template import TEMPLATES
from edgecompress.bench.threshold import mean_times, slider_data

from .test_compare import changed, held
from .test_history import RUNS
from .test_page import Page

CHROMIUM = shutil.which("chromium")


def at(report: Report, threshold: float) -> tuple[float, float, list[int]]:
    """Top-1, mean MACs and hits of a cascade of two at a threshold."""
    data = slider_data(report)
    assert data
    stages = [int(one < threshold) for one in data["confidences"]]
    right = sum(bits >> stage & 1 for bits, stage in zip(data["right"], stages, strict=True))
    hits = [stages.count(0), stages.count(1)]
    macs = sum(n * cost for n, cost in zip(hits, data["macs"], strict=True)) / len(stages)
    return right / len(stages), macs, hits


def test_the_numbers_give_the_curve(report: Report) -> None:
    assert report.trade_off
    for point in report.trade_off.points:
        # A confidence is rounded in the file, a threshold on the curve is one of them.
        top1, macs, hits = at(
            report, point.threshold - 1e-6 if 0 < point.threshold <= 1 else point.threshold
        )
        assert top1 == pytest.approx(point.top1)
        assert macs == pytest.approx(point.mean_macs)
        assert [n / sum(hits) for n in hits] == pytest.approx(point.hit_rates)


def test_times_of_members_add_up(report: Report) -> None:
    times = mean_times(report)
    assert times and times == sorted(times)
    small = report.latency_ms["small"].mean
    assert times[0] > small
    assert times[1] == pytest.approx(times[0] + report.latency_ms["big"].mean)
    assert mean_times(report.model_copy(update={"emulated": True})) is None


@pytest.mark.parametrize("change", [{"photos": None}, {"trade_off": None}])
def test_without_predictions_there_is_no_script(report: Report, change: dict[str, None]) -> None:
    told = report.model_copy(update=change)
    assert slider_data(told) is None
    page = Page(render_page(told))
    assert page.scripts == []
    assert "input" not in page.tags


def test_without_a_script_the_page_is_whole(report: Report) -> None:
    html = render_page(report)
    panel = re.search(r'<div id="thresholds"[^>]*>', html)
    assert panel and panel[0].endswith(" hidden>")
    assert "The points of the curve" in Page(html).text


def pages(report: Report) -> dict[str, str]:
    return {
        "report": render_page(report),
        "compare": render_comparison(held(report, report)),
        "history": render_history(RUNS, "p50"),
    }


@pytest.mark.parametrize("name", ["report", "compare", "history"])
def test_pages_can_be_used_by_all(report: Report, name: str) -> None:
    html = pages(report)[name]
    page = Page(html)
    ids = [value for key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    named = [value for key, value in page.attributes if key in ("for", "aria-labelledby")]
    assert set(named) <= set(ids)
    inputs = re.findall(r"<input[^>]* id=\"([^\"]+)\"", html)
    assert len(inputs) == page.tags.count("input")
    assert set(inputs) <= {value for key, value in page.attributes if key == "for"}
    drawings = re.findall(r"<svg[^>]*>", html)
    assert all("aria-label=" in one or "aria-hidden=" in one for one in drawings)
    assert not [value for key, value in page.attributes if key == "tabindex"], (
        "the order is the page's"
    )
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings))
    assert page.tags.count("table") == page.tags.count("caption")
    assert "<th>" not in html, "every heading of a table says what it is of"


def _luminance(colour: str) -> float:
    def linear(part: str) -> float:
        value = int(part, 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(colour[i : i + 2]) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXTS = [
    *((ink, ground) for ink in ("ink", "soft", "accent") for ground in ("paper", "card")),
    *(("warn", "warn-soft"), ("warn", "card"), ("accent", "accent-soft"), ("s2", "card")),
]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    """WCAG 2.2: 4.5 for text, 3 for what a drawing shows."""
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css").read_text(), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for ink, ground in TEXTS:
        assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for stage in ("s1", "s2", "s3", "s4", "accent", "soft"):
        assert _contrast(colours[stage], colours["card"]) >= 3, stage


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("threshold", [None, 0.0, 0.35, 1.01])
def test_the_script_in_a_browser(report: Report, threshold: float | None, tmp_path: Path) -> None:
    own = 0.30123  # between two places of the slider
    stages = [stage.model_dump() for stage in report.stages]
    stages[0]["threshold"] = own
    (tmp_path / "page.html").write_text(render_page(changed(report, stages=stages)))
    url = (tmp_path / "page.html").as_uri() + ("" if threshold is None else f"#t={threshold}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'browser'}", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    def shown(part: str) -> str:
        found = re.search(rf'data-part="{part}"[^>]*>([^<]*)<', done.stdout)
        assert found, part
        return found[1]

    chosen = own if threshold is None else threshold
    top1, macs, hits = at(report, chosen)
    assert shown("top1") == f"{top1 * 100:.1f} %"
    assert shown("hits-0") == f"{hits[0]} ({hits[0] / sum(hits) * 100:.1f} %)"
    assert shown("hits-1").startswith(f"{hits[1]} (")
    assert shown("macs") == f"{macs / 1e6:.1f} M"
    assert shown("threshold-0") == ("never" if chosen > 1 else f"{chosen * 100:.1f} %")
    assert 'class="chosen"' in done.stdout
    assert not re.search(r'id="thresholds"[^>]* hidden', done.stdout)
    assert json.loads(re.search(r'id="threshold-data">(.*?)<', done.stdout)[1])  # type: ignore[index]

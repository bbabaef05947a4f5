"""report.md: short, whole, and not broken by what it tells."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgecompress.bench.report_markdown import report_markdown
from edgecompress.bench.schema import Report

from .test_compare import changed
from .test_page import HOSTILE


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def tables(told: str) -> list[list[str]]:
    """The lines of each table."""
    blocks = [block.splitlines() for block in told.split("\n\n")]
    return [block for block in blocks if block[0].startswith("|")]


def test_it_tells_what_ran_where(report: Report) -> None:
    told = report_markdown(report)
    assert told.startswith("## tiny on This machine\n\n8 photos of little photos on ")
    assert "2 photos could not be classified" in told
    assert f"`{report.bundle.sha256}`" in told
    for part in report.latency_ms:
        assert f"`{part}`" in told
    assert len(tables(told)) == 3
    assert len(told.splitlines()) < 60


def test_tables_are_whole_whatever_names_are(report: Report) -> None:
    names = {"name": HOSTILE + "|\n# x", "origin": {"a|b": "<b>\n\n# c"}}
    stages = [{**one.model_dump(), "network": "a|`b"} for one in report.stages]
    told = report_markdown(changed(report, **names, stages=stages))
    for block in tables(told):
        assert {len(cells(line)) for line in block} == {len(cells(block[0]))}
    assert "\n# " not in told
    assert set(re.findall(r"(?<!\\)<[^>]*>", told)) == {
        "<details>", "<summary>", "</summary>", "</details>",
    }  # fmt: skip


def test_warnings_come_before_numbers(report: Report) -> None:
    hot = {**report.board.after.model_dump(), "throttled": ["throttled now"]}
    old = report.model_copy(update={"measurement": None})
    told = report_markdown(changed(old, emulated=True, board={"after": hot}))
    head = told[: told.index("| accuracy")]
    assert "Emulated board" in head and "throttled now" in head
    assert "latency (emulated: not comparable)" in told
    head = report_markdown(report)
    warning = next(line for line in head.splitlines() if "The times are doubtful: " in line)
    assert "only 16 runs, not 30" in warning
    assert "latency (doubtful)" in head
    good = {"trust": "good", "doubts": []}
    calm = changed(report, accuracy={"failed": 0}, measurement=good)
    assert "Warning" not in report_markdown(calm)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_precision(report: Report, precision: str) -> None:
    photos = {"name": "some", "photos": 9, "views": 9, "unreadable": 0}
    network: dict[str, Any] = {"network": "small", "precision": precision, "float32": []}
    network |= {"layers": 7, "int8": 6, "expected_drop": 0.0012, "agreement": 0.99, "top1": None}
    facts = {"precision": precision, "networks": [network], "cascade": None, "shared": 3}
    facts |= {"allowed_drop": 0.005, "ranges": photos, "gate": photos}
    reasons = {**report.not_measured, "precision": "not here"}
    made = Report.model_validate(
        {**report.model_dump(), "precision": facts, "not_measured": reasons}
    )
    told = report_markdown(made)
    assert "PyTorch, float32" in told and "3 of the photos" in told
    assert ("6 of 7" in told) == (precision == "int8")
    assert ("without a gate" in told) == (precision == "float16")

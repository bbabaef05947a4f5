"""What a report may not be: a null without a reason, a number that is none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edgecompress.bench.schema import Report


def _changed(report: Report, path: str, value: Any) -> dict[str, Any]:
    document = report.model_dump()
    inside: Any = document
    *folders, last = path.split(".")
    for one in folders:
        inside = inside[int(one)] if isinstance(inside, list) else inside[one]
    inside[last] = value
    return document


NULLABLE = [
    "accuracy.top1",
    "accuracy.reference",
    "accuracy.reference.top5_interval",
    "agreement",
    "agreement.max_logit_difference",
    "board.memory_mib",
    "macs.saved",
    "predictor",
    "predictor.size_shares",
    "stages.1.top1",
    "trade_off",
]


@pytest.mark.parametrize("path", NULLABLE)
def test_a_null_needs_a_reason(report: Report, path: str) -> None:
    document = _changed(report, path, None)
    field = path.replace(".1.", ".")
    document["not_measured"].pop(field, None)
    with pytest.raises(ValidationError, match=rf"'{field}' is null"):
        Report.model_validate(document)
    document["not_measured"][field] = "told so"
    assert Report.model_validate(document).not_measured[field] == "told so"


def test_a_reason_covers_what_is_below_it_and_nothing_beside(report: Report) -> None:
    document = _changed(report, "accuracy.reference.top1", None)
    document["not_measured"]["accuracy.reference"] = "told so"
    Report.model_validate(document)
    document["not_measured"] = {**report.not_measured, "accuracy.ref": "told so"}
    with pytest.raises(ValidationError, match=r"accuracy\.reference\.top1"):
        Report.model_validate(document)


def test_the_last_stage_has_no_threshold_and_needs_no_reason(report: Report) -> None:
    assert report.stages[-1].threshold is None
    assert "stages.threshold" not in report.not_measured


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "path",
    [
        "accuracy.top1",
        "latency_ms.total.p99",
        "macs.mean",
        "memory.peak_rss_mib",
        "run.wall_s",
        "predictor.size_shares.0",
        "trade_off.points.0.mean_macs",
        "compression",
    ],
)
def test_numbers_are_finite(report: Report, path: str, number: float) -> None:
    value = {"steps": [{"top1": number}]} if path == "compression" else number
    if path.endswith(".0"):
        path, value = path.removesuffix(".0"), [number]
    with pytest.raises(ValidationError):
        Report.model_validate(_changed(report, path, value))


def test_a_time_is_no_geological_one(report: Report) -> None:
    """Differences and sums of such numbers are not finite."""
    with pytest.raises(ValidationError, match="less than or equal to"):
        Report.model_validate(_changed(report, "latency_ms.total.p99", 1e300))


def test_a_curve_has_points(report: Report) -> None:
    with pytest.raises(ValidationError, match=r"trade_off\.points"):
        Report.model_validate(_changed(report, "trade_off.points", []))


def test_json_says_the_same(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_report_cannot_be_edited(report: Report) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        report.name = "other"  # type: ignore[misc]

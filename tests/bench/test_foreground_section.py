"""What the report says of the foreground predictor."""

from __future__ import annotations

from typing import Any

import pytest

from edgecompress.bench.foreground_section import foreground_sentences
from edgecompress.bench.page import render_page
from edgecompress.bench.report_markdown import report_markdown
from edgecompress.bench.schema import Report

RECORD: dict[str, Any] = {
    "boxes": {
        "mean_area": 0.45,
        "whole_photo_iou": 0.45,
        "constant_iou": 0.518,
        "mirrored_iou": 0.71,
        "photos": 900,
    },
    "predictor": {
        "macs": 4_461_568,
        "params": 361_844,
        "held_out": 0.6,
        "photos": 100,
        "share_of_base": 0.0283,
    },
}


def _told(**changes: Any) -> list[str]:
    return list(foreground_sentences({"steps": {**RECORD, **changes}}))


def test_the_predictor_is_held_against_what_sees_nothing() -> None:
    first, second = _told()
    assert "4.46 M MACs, 2.8 % of the base's" in first
    assert "0.600 on 100 photos" in first
    assert "more than without looking: the best constant box has 0.518" in second
    assert "agree by 0.710" in second
    blind = {**RECORD["predictor"], "held_out": 0.51}
    assert "NOT more than without looking" in _told(predictor=blind)[1]


def test_chosen_sizes_are_told() -> None:
    sizes = {"sizes": [0.5, 0.75, 0.875, 1.0], "wasted": 0.05, "fixed_wasted": 0.08}
    assert "0.5, 0.75, 0.875, 1 of the short side" in _told(sizes=sizes)[2]


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"steps": []},
        {"steps": {"boxes": RECORD["boxes"]}},
        {"steps": {**RECORD, "boxes": {**RECORD["boxes"], "constant_iou": "<b>"}}},
        {"steps": {**RECORD, "predictor": {**RECORD["predictor"], "held_out": float("nan")}}},
    ],
)
def test_what_is_not_sound_is_left_out(record: Any) -> None:
    assert list(foreground_sentences(record)) == []


def test_page_and_markdown_tell_it(report: Report) -> None:
    with_it = report.model_copy(update={"compression": {"steps": RECORD}})
    for told in (render_page(with_it), report_markdown(with_it)):
        assert "mean IoU of 0.600 on 100 photos held out" in told.replace("\\", "")
    assert "foreground predictor takes" not in render_page(report)

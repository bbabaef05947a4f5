"""Whether times can be trusted: what the report says of a run, and what it refuses to say."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgecompress.bench.board_run import BoardRun
from edgecompress.bench.conditions import conditions, readable, rows
from edgecompress.bench.glance import glances, verdict
from edgecompress.bench.page import render_page
from edgecompress.bench.report import Material, build_report, read_report, write_report
from edgecompress.bench.schema import BoardSample, Measurement, Report
from edgecompress.compress.cascading.evaluate import ENGINES
from edgecompress.errors import InputError
from edgecompress.targets import load_board

from .test_compare import changed
from .test_page import Page

GOOD = {"trust": "good", "doubts": []}
DOUBTS = [
    {"kind": "load", "text": "other programs had 35 % of the cores used", "advice": "end them"},
    {"kind": "governor", "text": "the governor is 'ondemand'", "advice": "set it"},
]


def again(material: Material, **latency: Any) -> Report:
    """The report of the same run, with something else told of its latency."""
    measured = copy.deepcopy(material.run.measurements)
    measured["latency"].update(latency)
    run = BoardRun(material.run.records, measured, material.run.runs)
    return build_report(dataclasses.replace(material, run=run))


def test_the_fixture_is_too_short_to_be_good(report: Report) -> None:
    told = report.measurement
    assert told is not None
    assert told.trust == "doubtful"
    (few,) = [doubt for doubt in told.doubts if doubt.kind == "few"]
    assert few.text == "only 16 runs, not 30"
    assert "[bench.latency]" in few.advice
    assert told.own.runs == report.latency_ms["total"].n == 16
    assert report.latency_ms["total"].p10 == told.own.total_ms.p10
    assert report.run.repeat == 2
    assert told.samples[0].t < told.samples[-1].t


def test_a_boards_words_cannot_move_a_terminals_cursor(material: Material) -> None:
    told = again(material, doubts=[{"kind": "load", "text": "\x1b]0;owned\x07 90 °C"}])
    assert verdict(told) == "doubtful: \\x1b]0;owned\\x07 90 °C"


def test_good_is_said_where_nothing_speaks_against_it(material: Material) -> None:
    told = again(material, doubts=[])
    assert told.measurement is not None
    assert (told.measurement.trust, verdict(told)) == ("good", "good")
    assert glances(told)[2].mark == "good"
    assert "nothing disturbed them" in glances(told)[2].answer


def test_times_of_an_emulated_board_are_never_good(material: Material) -> None:
    board = load_board("virtual-pi4")
    told = build_report(dataclasses.replace(material, board=board)).measurement
    assert told is not None
    assert [doubt.kind for doubt in told.doubts] == ["emulated"]


def test_what_cannot_be_read_is_a_note_and_no_doubt(material: Material) -> None:
    told = again(material, doubts=[]).measurement
    assert told is not None
    for name, word in (("temperature_c", "temperature"), ("mhz", "clock")):
        unread = all(getattr(one, name) is None for one in told.samples)
        assert any(f"The {word} could not be looked at" in note for note in told.notes) == unread


def test_a_board_that_stayed_hot_is_noted(material: Material) -> None:
    hot = {"began_s": 1.0, "ended_s": 121.0, "from_c": 82.0, "to_c": 71.5, "reached": False}
    told = again(material, coolings=[hot], doubts=[]).measurement
    assert told is not None
    assert "The board was still at 71.5 °C after 120 s of cooling down." in told.notes


@pytest.mark.parametrize("missing", ["latency", "series", "accuracy"])
def test_a_run_of_an_older_release(material: Material, missing: str) -> None:
    measured = {k: v for k, v in material.run.measurements.items() if k != missing}
    material = dataclasses.replace(material, run=BoardRun(material.run.records, measured))
    if missing == "accuracy":  # no release wrote that
        with pytest.raises(InputError, match="do not make a report"):
            build_report(material)
        return
    told = build_report(material)
    assert told.measurement is None
    assert verdict(told).startswith("not judged")


def test_latency_that_was_not_asked_for(material: Material) -> None:
    measured = {**material.run.measurements, "latency_ms": {}}
    measured["latency"] = {"reason": "not asked for", "photos": 0}
    run = BoardRun(material.run.records, measured)
    told = build_report(dataclasses.replace(material, run=run))
    assert told.not_measured["latency_ms"] == "latency: not asked for"
    assert "latency: not asked for" in Page(render_page(told)).text


def test_a_report_of_an_older_release_still_loads(report: Report, tmp_path: Path) -> None:
    document = json.loads(report.model_dump_json())
    del document["measurement"], document["not_measured"]["accuracy.onnx"]
    for one in document["latency_ms"].values():
        del one["p10"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    old = read_report(path)
    page = Page(render_page(old))
    assert "The times were not judged" in page.text
    assert "How the times were taken" not in page.text
    write_report(old, path)
    assert json.loads(path.read_text()) == document, "nothing is put into it"


def test_there_and_back(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    "change",
    [
        {"trust": "good"},
        {"doubts": []},
        {"trust": "excellent"},
        {"counted": 0},
        {"counted": 2},
        {"passes": []},
        {"samples": [{"t": float("nan")}]},
        {"samples": [{"t": 0.0, "temperature_c": float("inf")}]},
        {"samples": [{"t": 0.0, "throttled": ["x" * 300]}]},
        {"samples": [{"t": 0.0}] * 2001},
        {"samples": [{"t": 0.0, "others": 1.5}]},
        {"sample_ms": None},
    ],
)
def test_a_measurement_that_makes_no_sense(report: Report, change: dict[str, Any]) -> None:
    assert report.measurement is not None
    with pytest.raises(ValidationError):
        Measurement.model_validate({**report.measurement.model_dump(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"passes": None},
        {"counted": 7},
        {"counted": 0},
        {"counted": "1"},
        {"passes": [{"runs": 1}]},
        {"doubts": [{"text": "no kind"}]},
        {"doubts": [{"kind": "load", "text": "x" * 1000}]},
        {"photos": -1},
    ],
)
def test_a_board_that_tells_nonsense(material: Material, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="do not make a report"):
        again(material, **change)


def busy(report: Report) -> Report:
    return changed(report, measurement={"trust": "doubtful", "doubts": DOUBTS})


def test_the_page_says_why_and_what_to_do(report: Report) -> None:
    text = Page(render_page(busy(report))).text
    assert "Times: no. Other programs had 35 % of the cores used." in text
    assert "doubtful: other programs had 35 % of the cores used" in text
    assert "To do: end them" in text and "To do: set it" in text
    good = Page(render_page(changed(report, measurement=GOOD))).text
    assert "doubtful" not in good
    assert "good: undisturbed" in good


def test_the_page_answers_three_questions(report: Report) -> None:
    who, what, trust = glances(busy(report))
    ranked = sorted(report.stages, key=lambda stage: -stage.hits)
    assert who.answer == f"{ranked[0].network} answers {ranked[0].hits} of 8 photos."
    spent = {part: one.mean * one.n for part, one in report.latency_ms.items() if part != "total"}
    longest = {"decode": "decoding the photo", "predict": "the crop predictor", "crop": "cropping"}
    part = max(spent, key=lambda name: spent[name])
    assert what.answer.lower().startswith(longest.get(part, part))
    assert trust.mark == "doubtful"
    emulated = glances(changed(report, emulated=True))[1]
    assert "by computation, not by time" in emulated.answer


def sampled(report: Report, **facts: Any) -> Measurement:
    """The measurement with samples that a board with sensors gives."""
    assert report.measurement is not None
    samples = [
        BoardSample(
            t=float(t), temperature_c=50.0 + t, mhz=[2400, 2400 - 10 * t], watts=6.0, **facts
        )
        for t in range(60)
    ]
    return report.measurement.model_copy(update={"samples": samples})


def test_the_board_over_time_is_drawn_and_told(report: Report) -> None:
    told = sampled(report)
    drawing = Page(str(conditions(told)))
    labels = [value for name, value in drawing.attributes if name == "aria-label"]
    assert len(labels) == 1
    assert "temperature from 50 °C to 109 °C" in labels[0]
    assert "slowest core from 1810 MHz to 2400 MHz" in labels[0]
    assert sum(value.startswith("phase ") for _, value in drawing.attributes) >= 2
    table = rows(told)
    assert 10 < len(table) <= 24
    assert {len(cells) for _, cells in table} == {len(readable(told))}
    page = Page(render_page(report.model_copy(update={"measurement": told})))
    assert "The board over time, thinned out" in page.text


def test_where_nothing_can_be_read_a_sentence_stands_for_the_drawing(report: Report) -> None:
    assert report.measurement is not None
    told = report.measurement.model_copy(update={"samples": [BoardSample(t=0.0)]})
    assert str(conditions(told)) == ""
    page = Page(render_page(report.model_copy(update={"measurement": told})))
    assert "there is nothing to draw over time" in page.text


def test_onnx_runtime_beside_the_board(material: Material, direct: Any) -> None:
    told = build_report(dataclasses.replace(material, onnx=direct.records)).accuracy
    assert told.onnx is not None and told.onnx_agreement is not None
    assert (told.onnx.top1, told.onnx.n) == (told.top1, 8)
    assert (told.onnx_agreement.top1, told.onnx_agreement.n) == (1.0, 8)
    without = build_report(material)
    assert without.accuracy.onnx is None
    assert without.not_measured["accuracy.onnx"] == "ONNX Runtime was not run on these photos"
    assert set(ENGINES) == {"PyTorch", "ONNX Runtime"}

"""report.json out of a real run on this machine's CPU."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.accuracy import match
from edgecompress.bench.board_run import BoardRun
from edgecompress.bench.deploy import read_manifest
from edgecompress.bench.examples import choose
from edgecompress.bench.page import render_page, write_page
from edgecompress.bench.report import Material, build_report, read_report, write_report
from edgecompress.bench.report_markdown import report_markdown, write_markdown
from edgecompress.bench.schema import Report
from edgecompress.errors import InputError
from edgecompress.files import sha256_file
from edgecompress.runner.records import Record, photo_id


def test_what_the_board_answered(report: Report) -> None:
    # The photos' classes are set so that every other one is named rightly.
    assert (report.accuracy.n, report.accuracy.failed) == (8, 2)
    assert report.accuracy.top1 == 0.5
    low, high = report.accuracy.top1_interval or (1, 0)
    assert low < 0.5 < high
    assert (report.accuracy.top5 or 0) >= 0.5
    assert sum(stage.hits for stage in report.stages) == 8
    assert sum(stage.hit_rate or 0 for stage in report.stages) == 1
    assert all(stage.hits for stage in report.stages), "the photos end at both stages"
    assert report.predictor is not None
    assert sum(report.predictor.size_shares or []) == pytest.approx(1)


def test_names_and_errors_that_are_no_utf8(material: Material, tiny: Any, tmp_path: Path) -> None:
    *sound, corrupt, _ = material.photos.paths
    odd, gone, words = (tmp_path / os.fsdecode(name) for name in (b"\xe9.jpg", b"\xfc.jpg", b"w"))
    odd.write_bytes(corrupt.read_bytes())
    words.write_text("no photo at all")
    error = Record(photo_id(words), None, "a board says \udce9\n", "what \ud800")
    photos = dataclasses.replace(
        material.photos, paths=(*sound, odd, gone, words), targets=(*material.photos.targets, 0)
    )
    run = dataclasses.replace(material.run, records={**material.run.records, error.photo: error})
    report = build_report(dataclasses.replace(material, photos=photos, run=run))
    told = [one for one in report.failures if one.where == "board"]
    assert [one.subject for one in told] == [r"\udce9.jpg", r"\udcfc.jpg", "w"]
    assert (told[2].kind, told[2].error) == (r"what \ud800", r"a board says \udce9\n")
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    write_markdown(report, tmp_path / "report.md")
    cascade = read_manifest(tiny.bundle).cascade
    examples = choose(match(photos, run.records), len(cascade.stages), ["\udce9"] * 10)
    assert examples
    write_page(report, tmp_path / "report.html", examples)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"\udce9.jpg" in page and r"a board says \udce9\n" in page


def test_beside_it_what_the_host_says(report: Report) -> None:
    assert report.accuracy.reference is not None
    assert report.accuracy.reference.top1 == report.accuracy.top1
    assert report.agreement is not None
    assert (report.agreement.n, report.agreement.top1) == (8, 1.0)
    assert report.agreement.same_stage == 1.0
    assert (report.agreement.max_logit_difference or 0) < 1e-3
    assert report.trade_off is not None
    assert report.trade_off.source == "reference", "the board ran no more members than it had to"


def test_costs_and_times(report: Report, tiny: Any) -> None:
    small, big = (stage.hits for stage in report.stages)
    assert report.macs.mean == pytest.approx((small * 4800 + big * 11712) / 8)
    assert report.macs.saved == pytest.approx(1 - (report.macs.mean or 0) / 6912)
    assert set(report.latency_ms) == {"decode", "predict", "crop", "small", "big", "total"}
    assert report.latency_ms["total"].n == 16, "two runs of each photo that can be read"
    assert report.latency_ms["big"].n == 2 * big
    for one in report.latency_ms.values():
        assert 0 < one.p50 <= one.p90 <= one.p99
    assert report.memory.peak_rss_mib > 10
    assert report.bundle.sha256 == sha256_file(tiny.bundle)
    assert report.bundle.size_bytes == tiny.bundle.stat().st_size
    assert report.layers is not None
    assert all(layer.p50_ms is not None for layer in report.layers)


def test_failures_are_rows(report: Report) -> None:
    board = {one.subject: one for one in report.failures if one.where == "board"}
    assert set(board) == {"corrupt.jpg", "missing.jpg"}
    assert all(one.kind == "input" and one.error for one in board.values())
    reference = [one for one in report.failures if one.where == "reference"]
    assert {one.kind for one in reference} == {"missing"}, "the reference never saw them"


def test_nulls_have_reasons(report: Report) -> None:
    assert report.compression is None
    assert report.not_measured["compression"]
    assert report.tuning is not None and report.tuning.database is None
    assert report.not_measured["tuning.database"] == "compiled without a tuning database"
    assert all(report.not_measured.values())


def test_without_a_reference(material: Material) -> None:
    alone = build_report(dataclasses.replace(material, reference=None))
    assert alone.accuracy.reference is None
    assert alone.not_measured["accuracy.reference"] == "PyTorch was not run on these photos"
    assert alone.agreement is None
    assert alone.not_measured["agreement"]
    assert not [one for one in alone.failures if one.where == "reference"]


def test_of_a_run_that_answered_nothing(material: Material) -> None:
    measured = {**material.run.measurements, "latency_ms": {}}
    empty = dataclasses.replace(material, run=BoardRun({}, measured), reference=None)
    told = build_report(empty)
    assert (told.accuracy.n, told.accuracy.failed, told.accuracy.top1) == (0, 10, None)
    assert told.macs.mean is None
    assert told.trade_off is None
    assert {one.kind for one in told.failures} == {"missing"}
    assert len(told.failures) == 10
    for path in ("accuracy.top1", "macs.mean", "stages.hit_rate", "predictor.size_shares"):
        assert told.not_measured[path] == "no photo was classified"


def test_there_and_back(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _set(path: str, value: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        document = json.loads(text)
        *folders, last = path.split(".")
        inside = document
        for one in folders:
            inside = inside[one]
        inside[last] = value
        return json.dumps(document)

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_cut, "report.json"),
        (lambda _: "", "report.json"),
        (lambda _: "[]", "Report"),
        (_set("schema_version", 2), "schema_version"),
        (_set("accuracy.top1", 1.5), "accuracy.top1"),
        (_set("accuracy.top1", None), "accuracy.top1"),
        (_set("latency_ms.total.p50", float("nan")), "latency_ms.total.p50"),
        (_set("extra", 1), "extra"),
    ],
)
def test_a_damaged_report(
    report: Report, tmp_path: Path, damage: Callable[[str], str], named: str
) -> None:
    path = tmp_path / "report.json"
    write_report(report, path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError) as refused:
        read_report(path)
    assert named in refused.value.message
    assert "\n" not in refused.value.message


def test_no_report_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such report"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": {}}, "no 'python'"),
        ({"telemetry": None}, ""),
        ({"latency_ms": []}, ""),
        ({"latency_ms": {"total": {"n": 3}}}, "p50"),
        ({"peak_rss_mib": float("nan")}, "peak_rss_mib"),
        ({"operators": {"value": {"small": [{}]}, "reason": None}}, "no 'name'"),
    ],
)
def test_damaged_measurements(material: Material, change: dict[str, Any], named: str) -> None:
    run = BoardRun(material.run.records, {**material.run.measurements, **change})
    with pytest.raises(InputError, match="do not make a report") as refused:
        build_report(dataclasses.replace(material, run=run))
    assert named in refused.value.message
    assert refused.value.hint


def test_records_of_another_cascade(material: Material) -> None:
    records = {
        key: dataclasses.replace(one, outcome=dataclasses.replace(one.outcome, stage=7))
        for key, one in material.run.records.items()
        if one.outcome
    }
    run = BoardRun(records, material.run.measurements)
    with pytest.raises(InputError, match="do not make a report"):
        build_report(dataclasses.replace(material, run=run))


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_bundle_that_is_none(material: Material, tmp_path: Path, keep: int) -> None:
    bundle = tmp_path / "short.tar"
    bundle.write_bytes(material.bundle.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"short\.tar"):
        build_report(dataclasses.replace(material, bundle=bundle))
    with pytest.raises(InputError, match=r"none\.tar"):
        build_report(dataclasses.replace(material, bundle=tmp_path / "none.tar"))


def test_several_boards_and_repeats_are_told(material: Material) -> None:
    alone = build_report(material)
    assert alone.run.boards and [(one.name, one.photos) for one in alone.run.boards] == [
        ("host", 9)
    ]
    assert "answered by" not in report_markdown(alone) and "listed again" not in report_markdown(
        alone
    )
    shares = [{"name": "pi-a", "photos": 5120, "starts": 1}, {"name": "pi_b", "photos": 4880}]
    told = {**material.run.measurements, "boards": shares, "photos_repeated": 1200}
    run = dataclasses.replace(material.run, measurements=told)
    report = build_report(dataclasses.replace(material, run=run))
    for text in (report_markdown(report), render_page(report)):
        assert "hotos answered by: pi-a 5,120, pi" in text
        assert "1,200 photos are listed again, and counted again" in text
    damaged = {**told, "boards": [{"name": "pi-a", "photos": -1}]}
    with pytest.raises(InputError, match="photos"):
        run = dataclasses.replace(material.run, measurements=damaged)
        build_report(dataclasses.replace(material, run=run))

"""The report's section on precision; without int8 or float16 there is none of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.page import render_page
from edgecompress.bench.report import Material, build_report, read_report, write_report
from edgecompress.bench.schema import Report


def loss(drop: float) -> dict[str, Any]:
    return {
        "expected_drop": drop,
        "standard_error": 0.001,
        "agreement": 0.96,
        "divergence": 0.01,
        "n": 30,
    }


def network(kept: list[str], top1: dict[str, float] | None) -> dict[str, Any]:
    return {
        "layers": 12,
        "int8": 12 - len(kept),
        "float32": kept,
        **loss(0.0031),
        "all_int8": loss(0.02),
        "top1": top1,
        "sensitivity": None,
    }


def record(shared: int = 0, top1: dict[str, float] | None = None) -> dict[str, Any]:
    """What quantization.json holds of the tiny cascade."""
    photos = {"name": "some <photos>", "photos": 9, "views": 30, "unreadable": 1}
    return {
        "format": 1,
        "precision": "int8",
        "allowed_drop": 0.005,
        "photos": {"ranges": photos, "gate": {**photos, "views": 9}, "measured": shared},
        "networks": {"small": network([], top1), "big": network(["conv_7"], top1)},
        "cascade": {**loss(0.004), "same_stage": 0.9, "top1": top1},
        "float32": {"box": "the crop predictor: its boxes have no gate"},
    }


def told(material: Material, precision: str, quantization: dict[str, Any] | None) -> Report:
    return build_report(
        dataclasses.replace(material, precision=precision, quantization=quantization)
    )


def test_a_float32_report_has_no_such_section(report: Report) -> None:
    assert report.precision is None
    assert "precision" not in report.model_dump()
    assert "precision" not in json.loads(report.model_dump_json())
    assert "<h2>Precision</h2>" not in render_page(report)


def test_int8_by_network(material: Material, tmp_path: Path) -> None:
    made = told(material, "int8", record(shared=3))
    write_report(made, tmp_path / "report.json")
    precision = read_report(tmp_path / "report.json").precision
    assert precision == made.precision
    assert precision is not None
    assert precision.shared == 3
    box, small, big = precision.networks
    assert (box.network, box.precision, box.layers) == ("box", "float32", None)
    assert (small.precision, small.int8, small.float32) == ("int8", 12, [])
    assert (big.int8, big.layers, big.float32) == (11, 12, ["conv_7"])
    assert made.not_measured["precision.networks.layers"].startswith("box is the crop predictor")
    assert "classes" in made.not_measured["precision.networks.top1"]
    assert precision.cascade is not None
    assert precision.cascade.same_stage == 0.9
    page = render_page(made)
    assert "<h2>Precision</h2>" in page
    assert "10.0 % of its photos are answered by another member" in page
    assert "11 of 12" in page
    assert "conv_7" in page
    assert "9 photos of some &lt;photos&gt; in 30 views (1 more could not be read)" in page
    assert "3 of the photos that this report is on" in page
    assert "PyTorch in float32 on the same photos" in page
    assert "int8 on the board, float32 in PyTorch" in page


def test_labelled_gates_tell_top1(material: Material) -> None:
    made = told(material, "int8", record(top1={"float32": 0.9, "int8": 0.875}))
    assert made.precision is not None
    assert [one.top1 for one in made.precision.networks[1:]] == [(0.9, 0.875)] * 2
    page = render_page(made)
    assert "87.5 %" in page
    assert "that this report is on" not in page


def test_float16_has_no_gate(material: Material) -> None:
    made = told(material, "float16", None)
    assert made.precision is not None
    assert {one.precision for one in made.precision.networks} == {"float16"}
    assert "no gate" in made.not_measured["precision.gate"]
    assert "There is no gate" in render_page(made)


@pytest.mark.parametrize("field", ["gate", "allowed_drop"])
def test_a_null_needs_a_reason(material: Material, field: str) -> None:
    document = told(material, "float16", None).model_dump()
    del document["not_measured"][f"precision.{field}"]
    with pytest.raises(ValueError, match=rf"precision\.{field}"):
        Report.model_validate(document)

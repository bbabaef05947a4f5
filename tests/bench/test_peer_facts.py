"""Other engines in the report: numbers, or reasons."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.peer_facts import bars, cycles_of, peers_facts
from edgecompress.bench.report import Material, build_report, read_report, write_report
from edgecompress.bench.schema import Peers, Report
from edgecompress.errors import InputError


def test_a_report_keeps_what_was_compared(compared: Report, report: Report, tmp_path: Path) -> None:
    write_report(compared, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == compared
    assert compared.peers is not None
    assert "peers" in json.loads((tmp_path / "report.json").read_text())
    assert "peers.networks.rows" in compared.not_measured
    # A job that does not ask for it has neither the field nor a reason.
    assert report.peers is None
    assert "peers" not in report.model_dump()
    assert not [path for path in report.not_measured if path.startswith("peers")]


def test_bars_are_shares_of_onnx_runtime(compared: Report) -> None:
    assert compared.peers is not None
    found = [(bar.network, bar.title, bar.share) for bar in bars(compared.peers)]
    shares = {
        "time": [("EdgeCompress", 0.8), ("ONNX Runtime", 1.0), ("ncnn", 1.25)],
        "cycles": [("EdgeCompress", 0.6), ("ONNX Runtime", 1.0)],
        "nothing": [],
    }[compared.peers.measured]
    expected = [(net, title, share) for net in ("small", "big_one") for title, share in shares]
    assert found == expected


def test_without_onnx_runtime_shares_are_of_ours(comparisons: dict[str, Any]) -> None:
    value = json.loads(json.dumps(comparisons["cycles"]).replace("onnxruntime", "ncnn"))
    shares = [round(bar.share, 3) for bar in bars(Peers(**value))]
    assert shares == [1.0, 1.667] * 2


def test_a_core_without_a_model_shows_another(comparisons: dict[str, Any]) -> None:
    value = {**comparisons["cycles"], "core": "cortex-a78"}
    assert cycles_of(Peers(**value)) == "cortex-a76"
    assert peers_facts(None, {}) is None


@pytest.mark.parametrize(
    "change", [{"measured": "guesses"}, {"networks": [{"network": "x"}]}, {"core": 1}]
)
def test_a_damaged_comparison_is_refused(
    material: Material, comparisons: dict[str, Any], change: dict[str, Any]
) -> None:
    damaged = {**comparisons["time"], **change}
    with pytest.raises(InputError, match="do not make a report"):
        build_report(dataclasses.replace(material, peers=damaged))

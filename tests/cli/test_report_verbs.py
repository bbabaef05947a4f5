"""`edgecompress report compare`: files in, a table, a page and an exit code out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def edgecompress(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecompress.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def document(p50: float) -> dict[str, Any]:
    """A small report: one member, no photos listed."""
    state = dict.fromkeys(("temperature_c", "frequency_mhz", "governor", "throttled"))
    nulls = ("board", "predictor", "agreement", "tuning", "layers", "trade_off", "compression")
    scores = {"top1": 0.5, "top1_interval": [0.4, 0.6], "top5": 0.8, "top5_interval": [0.7, 0.9]}
    part = {"p50": p50, "p90": 2 * p50, "p99": 3 * p50, "mean": p50, "n": 100}
    return {
        "schema_version": 1,
        "name": "small",
        "created": "2026-01-02T03:04:05+00:00",
        "emulated": False,
        "board": {
            **dict.fromkeys(("name", "title", "soc", "arch", "mcpu"), "host"),
            "kind": "host",
            **dict.fromkeys(("model", "kernel", "os", "cores", "memory_mib")),
            "before": state,
            "after": state,
        },
        "versions": {"edgecompress": "0"},
        "accuracy": {**scores, "n": 100, "failed": 0, "photos": "some", "reference": None},
        "latency_ms": {"total": part, "net": part},
        "run": {
            "threads": 1,
            "cluster": "fast",
            "core": "",
            "cpus": [0],
            "warmup": 1,
            "repeat": 1,
            "load_ms": 5,
            "wall_s": 9,
        },
        "predictor": None,
        "stages": [
            {
                "network": "net",
                "resolution": 32,
                "threshold": None,
                "macs": 1000,
                "params": 10,
                "hits": 100,
                "hit_rate": 1.0,
                "top1": 0.5,
            }
        ],
        "agreement": None,
        "macs": {"mean": 1000, "last_member": 1000, "saved": 0},
        "memory": {"peak_rss_mib": 50},
        "bundle": {
            "file": "b.tar",
            "sha256": "0",
            "size_bytes": 9000,
            "runtime_bytes": 5,
            "networks_bytes": 5,
            "runner_bytes": 5,
        },
        **dict.fromkeys(nulls[2:]),
        "origin": {},
        "failures": [],
        "not_measured": {**dict.fromkeys(nulls, "not here"), "accuracy.reference": "not here"},
    }


@pytest.fixture
def reports(tmp_path: Path) -> tuple[str, str]:
    """A report, and one that is 10 % slower."""
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, p50 in zip(paths, (10.0, 11.0), strict=True):
        path.write_text(json.dumps(document(p50)))
    return str(paths[0]), str(paths[1])


def test_help_of_the_group() -> None:
    shown = edgecompress("report", "--help")
    assert shown.returncode == 0
    assert "edgecompress report examples/demo.toml" in shown.stdout.split("Example")[1]
    assert "--json" in edgecompress("report", "job", "--help").stdout
    assert "--fail-if" in edgecompress("report", "compare", "--help").stdout


def test_a_job_is_still_a_job() -> None:
    shown = edgecompress("report", "none.toml")
    assert shown.returncode == 3
    assert "none.toml" in shown.stderr


def test_compared_and_written(reports: tuple[str, str], tmp_path: Path) -> None:
    page, markdown = tmp_path / "new" / "c.html", tmp_path / "c.md"
    shown = edgecompress(
        "report", "compare", *reports, "--out", str(page), "--markdown", str(markdown)
    )
    assert shown.returncode == 0, shown.stderr
    assert "+10.0 %" in shown.stdout
    assert "</html>" in page.read_text()
    assert "+10.0 %" in markdown.read_text()


def test_a_gate_that_fails_names_its_condition(reports: tuple[str, str], tmp_path: Path) -> None:
    gate = ("--fail-if", "p50 > +5%", "--fail-if", "top1 < -0.5")
    page = tmp_path / "c.html"
    shown = edgecompress("report", "compare", *reports, *gate, "--out", str(page))
    assert shown.returncode == 6
    assert "1 of 2 conditions failed: p50 > +5% (it is +10.0 %)" in shown.stderr
    assert page.exists(), "the page is what one looks at when a gate has failed"
    assert edgecompress("report", "compare", *reversed(reports), *gate).returncode == 0


def test_one_json_document_with_its_code(reports: tuple[str, str]) -> None:
    shown = edgecompress("report", "compare", *reports, "--fail-if", "p50 > +5%", "--json")
    assert shown.returncode == 6
    told = json.loads(shown.stdout)
    assert told["conditions"] == [
        {"condition": "p50 > +5%", "failed": True, "reason": "it is +10.0 %"}
    ]
    rows = {row["key"]: row for row in told["rows"]}
    assert rows["p50"]["relative"] == pytest.approx(0.1)
    assert "percentiles only" in rows["p50"]["basis"]


@pytest.mark.parametrize(
    ("change", "code", "cause"),
    [
        (["--fail-if", "p50 much"], 2, "is not a condition"),
        (["--fail-if", "speed > 1"], 2, "unknown metric 'speed'"),
        (["--out", "{folder}"], 3, "it is a folder"),
        (["--out", "{folder}/a.json"], 2, "is one of the reports"),
        (["--markdown", "/dev/null/x.md"], 3, "cannot write"),
    ],
)
def test_mistakes(
    reports: tuple[str, str], change: list[str], code: int, cause: str, tmp_path: Path
) -> None:
    argv = [one.format(folder=tmp_path) for one in change]
    shown = edgecompress("report", "compare", *reports, *argv)
    assert shown.returncode == code, shown.stderr
    assert cause in shown.stderr
    assert "Traceback" not in shown.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 2}'])
def test_damaged_reports(reports: tuple[str, str], content: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(content)
    shown = edgecompress("report", "compare", reports[0], str(broken))
    assert shown.returncode == 3
    assert "broken.json" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_report_without_times_of_photos_is_not_exported(
    reports: tuple[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "benchmark.json"
    shown = edgecompress("report", "export", reports[0], "--benchmark", str(target))
    assert shown.returncode == 3
    assert "percentiles only" in shown.stderr
    assert not target.exists()


def test_exported(reports: tuple[str, str], tmp_path: Path) -> None:
    photo = {"photo": "0" * 16, "target": 1, "answer": 1, "rank": 1, "stage": 0}
    photo |= {"ms": {"total": [9.0, 11.0]}, "confidences": [], "right": []}
    path, target = tmp_path / "whole.json", tmp_path / "benchmark.json"
    path.write_text(json.dumps(document(10.0) | {"photos": [photo]}))
    shown = edgecompress("report", "export", str(path), "--benchmark", str(target), "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["benchmarks"] == ["small[total]"]
    stats = json.loads(target.read_text())["benchmarks"][0]["stats"]
    assert (stats["mean"], stats["rounds"]) == (pytest.approx(0.01), 2)

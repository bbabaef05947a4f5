"""The export is a file that pytest-benchmark's own tools read."""

from __future__ import annotations

import json
import re
import statistics as standard
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.stats import Stats

from edgecompress.bench import gates
from edgecompress.bench.benchmark_json import benchmark_document, commit_info, statistics
from edgecompress.bench.compare import compare
from edgecompress.bench.schema import Report
from edgecompress.cli.report import app
from edgecompress.errors import InputError

ROOT = Path(__file__).parents[2]
COMMIT = {"id": "0", "time": None, "author_time": None, "dirty": False}


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_statistics_are_pytest_benchmarks(count: int) -> None:
    seconds = np.random.default_rng(count).lognormal(0, 1, count)
    theirs = Stats()
    theirs.data = seconds.tolist()
    ours = statistics(seconds)
    assert set(Stats.fields) <= ours.keys()
    for name in ("min", "max", "mean", "stddev", "rounds", "median", "ops", "total"):
        assert ours[name] == pytest.approx(getattr(theirs, name)), name
    assert ours["stddev_outliers"] == theirs.stddev_outliers
    assert standard.median(ours["data"]) == pytest.approx(ours["median"])
    assert ours["q1"] <= ours["median"] <= ours["q3"]
    assert ours["min"] <= ours["ld15iqr"] <= ours["hd15iqr"] <= ours["max"]


def test_its_compare_reads_two_of_ours(report: Report, tmp_path: Path) -> None:
    files = []
    for name in ("before", "after"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(benchmark_document(report, COMMIT)))
        files.append(str(path))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", *files]
    command += ["--columns", "median,mean,iqr,outliers,ops,rounds", "--csv", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("total", "decode", "small", "big"):
        assert f"tiny[{part}]" in done.stdout
    assert "edgecompress::tiny[total]" in (tmp_path / "out.csv").read_text()


def test_the_times_are_the_reports(report: Report) -> None:
    document = benchmark_document(report, COMMIT)
    total = next(one for one in document["benchmarks"] if one["param"] == "total")
    assert total["stats"]["median"] * 1e3 == pytest.approx(report.latency_ms["total"].p50, abs=1e-3)
    assert total["stats"]["rounds"] == report.latency_ms["total"].n
    assert document["machine_info"]["node"] == "host"


def test_what_is_not_exported(report: Report) -> None:
    with pytest.raises(InputError, match="emulated"):
        benchmark_document(report.model_copy(update={"emulated": True}), COMMIT)
    with pytest.raises(InputError, match="percentiles only"):
        benchmark_document(report.model_copy(update={"photos": None}), COMMIT)


def test_commits(tmp_path: Path) -> None:
    assert commit_info(tmp_path)["id"] == "unversioned"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "trunk"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    told = commit_info(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", told["id"])
    assert (told["branch"], told["dirty"]) == ("trunk", False)
    assert told["time"] and told["author_time"]


def test_the_example_in_ci_says_what_there_is(report: Report) -> None:
    text = (ROOT / "docs" / "ci-example.yml").read_text()
    conditions = [gates.parse(one) for one in re.findall(r"--fail-if '([^']+)'", text)]
    assert len(conditions) == 6
    comparison = compare(report, report, (Path("a"), Path("b")))
    assert not any(one.failed for one in gates.check(comparison, conditions))
    commands = re.findall(r"edgecompress report (\w+)", text)
    assert set(commands) <= {command.name for command in app.registered_commands}

"""Numbers of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecompress.runner import measure


def test_a_large_parent_does_not_count() -> None:
    """The kernel's `ru_maxrss` of a new program begins with what its parent held."""
    held = np.ones(60_000_000)  # 480 MB, touched
    code = "from edgecompress.runner.measure import peak_rss_mib; print(peak_rss_mib())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(said.stdout) < held.nbytes / 2**20 / 2


def test_memory_where_the_kernel_tells_no_high_water_mark(tmp_path: Path) -> None:
    assert measure.peak_rss_mib(tmp_path) > 10


def test_summary_of_nothing_is_none_and_not_nan() -> None:
    assert measure.summary([]) == {
        **dict.fromkeys(("p10", "p50", "p90", "p99", "mean")),
        "n": 0,
    }


def test_summary_interpolates_as_numpy_does() -> None:
    values = [3.0, 1.0, 2.0, 10.0]
    got = measure.summary(values)
    assert got["p50"] == pytest.approx(2.5)
    assert got["p90"] == pytest.approx(np.percentile(values, 90))
    assert got["mean"] == 4.0
    assert got["n"] == 4


def test_each_part_counts_only_the_photos_that_reached_it() -> None:
    got = measure.latency([{"small": 1.0, "total": 1.0}, {"small": 3.0, "big": 5.0, "total": 8.0}])
    assert {part: values["n"] for part, values in got.items()} == {"small": 2, "total": 2, "big": 1}

"""A job that is killed in any of its steps goes on when the same command is given again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

JOB = """
name = "shapes"
board = "host"

[data]
train = {train}
photos = {photos}

[compress]
crop = "always"
held_out = 0.25
base = {{ family = "resnet18", width = 0.125, resolution = 32 }}
train = {{ epochs = 3, batch = 16, rate = 0.02, decay = 0.01, scale = 0.6 }}
predictor = {{ resolution = 32, width = 0.5, cam_resolution = 64, epochs = 2 }}
shrink = {{ epochs = 1, search = 0 }}
members = {{ budgets = [0.4, 1.0], epochs = 1, tune_epochs = 1 }}

[bench]
warmup = 1
latency = {{ seconds = 0, retries = 0 }}
"""

# What the job says when it begins each of its steps.
MARKS = [
    "> training",
    "> exporting to ONNX",
    "> resnet18-cascade in PyTorch",
    "> compiling for host",
    "> classifying on host",
]


def start(job: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "edgecompress.cli.main", "run", str(job), "--out", str(out)]
    return subprocess.Popen(
        [*argv, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_at(process: subprocess.Popen[str], mark: str) -> list[str]:
    """Read what it says until `mark`, then kill all of it."""
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line.rstrip())
        if line.startswith(mark):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert said[-1].startswith(mark), "\n".join(said[-20:])
    return said


def test_killed_in_every_step(shapes: tuple[Path, Path], tmp_path: Path) -> None:
    train, photos = shapes
    job, out = tmp_path / "shapes.toml", tmp_path / "out"
    job.write_text(JOB.format(train=json.dumps(str(train)), photos=json.dumps(str(photos))))
    for mark in MARKS:
        said = kill_at(start(job, out), mark)
        # Of the steps, only the one that the last kill cut off is done again.
        finished = MARKS[2 : max(MARKS.index(mark) - 1, 0)]
        repeated = [line for line in said for old in finished if line.startswith(old)]
        assert not repeated
    last = start(job, out)
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert "compile: done before, kept" in said
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"]["n"] == 16
    assert report["agreement"]["top1"] == 1.0
    assert report["accuracy"]["top1"] == report["accuracy"]["reference"]["top1"]
    assert (out / "report.html").stat().st_size > 10_000

    # The same job in int8: nothing of what does not depend on it is done again.
    assert "precision" not in report
    said = kill_at(start(job, out, "--precision", "int8"), "> gate of")
    assert {"compress: done before, kept", "reference: done before, kept"} <= set(said)
    assert not (out / "quantized").exists()
    last = start(job, out, "--precision", "int8")
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"]["n"] == 16
    assert report["agreement"]["top1"] >= 0.8
    precision = {one["network"]: one for one in report["precision"]["networks"]}
    stages = [stage["network"] for stage in report["stages"]]
    assert all(precision[name]["int8"] == precision[name]["layers"] > 10 for name in stages)
    assert precision[report["predictor"]["network"]]["precision"] == "float32"
    assert "<h2>Precision</h2>" in (out / "report.html").read_text()

"""A job's precision: which folder is compiled, which photos int8 rests on, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress import events
from edgecompress.cli import steps, summary
from edgecompress.cli.job import Job, QuantizeTable, load_job
from edgecompress.cli.precision import calibration_photos, compiler_precision, require_float16
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace
from edgecompress.compress.data.photos import image_folder
from edgecompress.errors import UsageError
from edgecompress.files import write_json
from edgecompress.runner.spec import Cascade, Preprocess, Stage
from edgecompress.targets import board_names, load_board

SIDE = 16
JOB = """
name = "j"
board = "host"
[data]
photos = {photos}
{train}
[{table}]
{members}
[quantize]
precision = "int8"
calibration = 12
gate = 20
{more}
"""


def write_job(path: Path, shapes: tuple[Path, Path], more: str = "", trained: bool = False) -> Path:
    train, photos = (json.dumps(str(one)) for one in shapes)
    path.write_text(
        JOB.format(
            photos=photos,
            train=f"train = {train}" if trained else "",
            table="compress" if trained else "pretrained",
            members="held_out = 0.25" if trained else 'members = ["efficientnet_lite0.in1k"]',
            more=more,
        )
    )
    return path


def write_network(folder: Path) -> None:
    """A cascade of one network that tells red from blue."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.array([[400, 0, -400], [-400, 0, 400]], np.float32)[:, :, None, None]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"], name="conv"),
            helper.make_node("ReduceMean", ["c", "axes"], ["output"], keepdims=0),
        ],
        "made",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        ],
    )
    folder.mkdir()
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "net.onnx")
    stage = Stage("net", SIDE, 0.875, None, 1.0, 1, 1)
    preprocess = Preprocess((0.0,) * 3, (255.0,) * 3)
    cascade = Cascade(
        "made", ("disc", "square"), preprocess, None, (stage,), "margin", False, 1.0, {}
    )
    write_json(folder / "cascade.json", cascade.to_json())
    write_json(folder / "compression.json", {})


@pytest.fixture
def run(tmp_path: Path, shapes: tuple[Path, Path]) -> Run:
    """An int8 job whose cascade is there, calibrated on the photos to train on."""
    more = f"photos = {json.dumps(str(shapes[0]))}"
    job = load_job(write_job(tmp_path / "job.toml", shapes, more))
    (tmp_path / "out").mkdir()
    made = Run(job, Workspace(tmp_path / "out"), "host")
    write_network(made.cascade)
    return made


def changed(job: Job, **fields: Any) -> Job:
    return job.model_copy(update={"quantize": job.quantize.model_copy(update=fields)})


def said(run: Run) -> list[str]:
    notes: list[str] = []
    with events.listening(lambda e: notes.append(e.text) if e.kind == "note" else None):
        steps.quantize(run)
    return notes


def test_the_quantised_folder_is_compiled_and_kept(run: Run) -> None:
    assert run.deployed == run.quantized != run.cascade
    assert not any("kept" in note for note in said(run))
    assert [path.parent for path in run.networks()] == [run.quantized]
    record = steps.read_quantization(run)
    assert record["networks"]["net"]["int8"] == 1
    assert record["photos"]["ranges"]["photos"] == 12
    assert record["photos"]["gate"]["photos"] == 20
    assert record["photos"]["measured"] == 0
    assert summary.quantize(run, True)["result"] == record
    before = (run.quantized / "net.onnx").stat().st_mtime_ns
    assert said(run) == ["quantize: done before, kept"]
    assert (run.quantized / "net.onnx").stat().st_mtime_ns == before
    stricter = Run(changed(run.job, drop=0.004), run.space, "host")
    assert "quantize: done before, kept" not in said(stricter)


def test_other_precisions_compile_the_float_folder(run: Run) -> None:
    for precision in ("float32", "float16"):
        other = Run(changed(run.job, precision=precision), run.space, "host")
        assert said(other) == []
        assert other.deployed == run.cascade
        assert steps.read_quantization(other) is None
        assert summary.quantize(other, True)["result"] is None
    assert not run.quantized.exists()


def test_only_float16_is_told_to_the_compiler(run: Run) -> None:
    told = [
        compiler_precision(changed(run.job, precision=one))
        for one in ("float32", "int8", "float16")
    ]
    assert told == [{}, {}, {"precision": "float16"}]


def test_a_job_without_the_table_is_float32() -> None:
    assert QuantizeTable().precision == "float32"


def test_ranges_and_gate_of_a_job_that_trains(tmp_path: Path, shapes: tuple[Path, Path]) -> None:
    job = load_job(write_job(tmp_path / "job.toml", shapes, trained=True))
    ranges, gate = calibration_photos(job, None, quick=False)
    # A quarter of 48 photos is held out: the gate sees no other, and the ranges none of them.
    assert (len(ranges), len(gate)) == (12, 12)
    _, held = image_folder(shapes[0]).hold_out(0.25, 0)
    assert set(gate.paths) == set(held.paths)
    assert not set(ranges.paths) & set(held.paths)
    named = changed(job, photos=str(shapes[1]))
    ranges, gate = calibration_photos(named, None, quick=False)
    assert {path.parent.parent for path in (*ranges.paths, *gate.paths)} == {shapes[1]}


def test_measured_photos_are_told(tmp_path: Path, shapes: tuple[Path, Path], run: Run) -> None:
    job = changed(run.job, photos=run.job.data.photos)
    again = Run(job, run.space, "host")
    steps.quantize(again)
    assert steps.read_quantization(again)["photos"]["measured"] == 16


FLOAT16 = {"rpi5", "rk3588"}


@pytest.mark.parametrize("name", [name for name in board_names() if name != "host"])
def test_float16_only_where_every_core_has_it(name: str) -> None:
    board = load_board(name)
    if "+fullfp16" in board.mattr:
        require_float16(board)
        return
    with pytest.raises(UsageError, match="no float16 arithmetic") as caught:
        require_float16(board)
    assert "--precision int8" in caught.value.hint
    assert name not in FLOAT16


def edgecompress(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecompress.cli.main", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def test_what_is_refused_on_the_command_line(tmp_path: Path, shapes: tuple[Path, Path]) -> None:
    job = write_job(tmp_path / "job.toml", shapes)
    refused = edgecompress(
        "run", job, "--out", tmp_path / "out", "--board", "virtual-pi4", "--precision", "float16"
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-2:] == [
        "error: Virtual Raspberry Pi 4 (arm64 userland under QEMU) (cortex-a72) has no float16"
        " arithmetic",
        "try: give --precision int8 or float32",
    ]
    assert not (tmp_path / "out" / "cascade").exists()
    unknown = edgecompress("quantize", job, "--precision", "int7")
    assert unknown.returncode == 2
    assert "Traceback" not in unknown.stderr


@pytest.mark.parametrize("line", ["drop = 1.5", "calibration = 0", 'photo = "x"'])
def test_a_wrong_field_is_named(tmp_path: Path, shapes: tuple[Path, Path], line: str) -> None:
    path = write_job(tmp_path / "job.toml", shapes)
    text = path.read_text().replace("calibration = 12\n", "")
    path.write_text(text + line + "\n")
    with pytest.raises(UsageError) as caught:
        load_job(path)
    assert f"quantize.{line.split(maxsplit=1)[0]}" in caught.value.message

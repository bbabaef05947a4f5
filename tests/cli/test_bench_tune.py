"""`bench tune`: records of a network without a job, which `bench peers` and `layers` then use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.layers import profile_layers
from edgecompress.compile.records import read_records
from edgecompress.targets import load_board


@pytest.fixture(autouse=True)
def _own_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions and a classifier."""
    import torch
    from torch import nn

    from edgecompress.compress.networks.export import write_onnx

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    path = tmp_path_factory.mktemp("tune") / "small.onnx"
    write_onnx(network.eval(), torch.zeros(1, 3, 32, 32), path)
    return path


def tuned(*words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "edgecompress.cli.main", "bench", "tune", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_records_of_a_network_are_used(onnx: Path, tmp_path: Path) -> None:
    database = tmp_path / "tuning.jsonl"
    words = (str(onnx), "--database", str(database), "--trials", "5", "-t", "1")
    code, told = tuned(*words)
    assert code == 0, told
    assert told["database"] == str(database)
    assert told["result"]["measured"] == "real" and told["result"]["records"] == 5
    # The same command goes on.
    assert tuned(*words)[1]["result"]["records"] == 5
    assert len({record.candidate for record in read_records(database)}) == 10
    kernels = len(told["result"]["tasks"])
    rows = profile_layers(onnx, load_board("host"), database)
    assert sum(row.tuned for row in rows) >= kernels


@pytest.mark.board
def test_a_virtual_board_is_tuned_by_cycles(
    onnx: Path, tmp_path: Path, virtual_board: object
) -> None:
    from edgecompress.bench.emulated import why_not

    if why_not():
        pytest.skip(f"{why_not()}: make counting")
    database = str(tmp_path / "tuning.jsonl")
    words = (str(onnx), "-b", "virtual-pi4", "--database", database, "--trials", "4")
    code, told = tuned(*words)
    assert code == 0, told
    assert told["result"]["measured"] == "cost" and told["result"]["failures"] == 0
    assert {record.measured for record in read_records(Path(database))} == {"cost"}


def test_int8_kernels_are_those_of_the_comparison(onnx: Path, tmp_path: Path) -> None:
    database = tmp_path / "tuning.jsonl"
    code, told = tuned(
        str(onnx), "--database", str(database), "--trials", "4", "--precision", "int8"
    )
    assert code == 0, told
    rows = profile_layers(onnx, load_board("host"), database, "int8")
    assert any(row.tuned for row in rows)


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (["mobilenet_v2"], 2, "no budget"),
        (["mobilenet_v2", "--budget", "soon"], 2, "soon"),
        (["mobilenet_v3", "--trials", "1"], 2, "mobilenet_v3"),
        (["none.onnx", "--trials", "1"], 3, "none.onnx"),
        (["mobilenet_v2", "--trials", "1", "-b", "rpi4"], 4, "rpi4"),
        (["mobilenet_v2", "--trials", "1", "-b", "host", "-b", "host"], 2, "twice"),
        (["mobilenet_v2", "--trials", "1", "--cost", "cycles"], 2, "cycles"),
        (["mobilenet_v2", "--trials", "1", "-b", "virtual-pi4", "-p", "float16"], 2, "float16"),
    ],
)
def test_what_cannot_be_tuned(words: list[str], code: int, cause: str) -> None:
    got, told = tuned(*words)
    assert got == code
    assert cause in json.dumps(told)

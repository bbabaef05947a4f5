"""What the schedules' own models predict, before anything is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.compile.machine import machine_of
from edgecompress.compile.pipeline import prepare, tasks
from edgecompress.compile.schedules import Schedule
from edgecompress.compile.scheduling import schedule_kernel
from edgecompress.runner.spec import Preprocess
from edgecompress.targets import load_board

PREPROCESS = Preprocess((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
SIDE, CHANNELS = 24, 32


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 1x1, a depthwise and a 3x3 convolution."""
    import torch
    from torch import nn

    from edgecompress.compress.networks.export import write_onnx

    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, CHANNELS, 1),
        nn.Conv2d(CHANNELS, CHANNELS, 1),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    path = tmp_path_factory.mktemp("estimates") / "small.onnx"
    write_onnx(nn.Sequential(*layers).eval(), torch.zeros(1, 3, SIDE, SIDE), path)
    return path


@pytest.mark.parametrize("name", ["rpi4b", "host"])
def test_predictions_are_near_what_the_core_can_do(onnx: Path, name: str) -> None:
    import tvm

    board = load_board(name)
    machine, target = machine_of(board), tvm.target.Target(board.tvm_target())
    peak = machine.lanes * machine.fma_per_cycle  # multiply-adds a cycle
    pixels = SIDE**2 * CHANNELS / peak
    found = {}
    for task in tasks(prepare(onnx, board, PREPROCESS), board):
        _, how = schedule_kernel(task.kernel, target, machine)
        found[how.schedule] = how.estimate
        if how.schedule == "conv2d":
            assert how.estimate is not None
            assert 0.9 * 3 * pixels < how.estimate < 2 * CHANNELS * pixels
    assert found["window"] is None
    squares = found["winograd"]
    assert squares is not None
    # Four times fewer multiplications at best, and the transforms.
    assert CHANNELS * 9 / 4 * pixels < squares < CHANNELS * 9 * pixels


def test_other_choices_have_other_predictions(onnx: Path) -> None:
    """The default is what the model says is best."""
    import tvm
    from tvm import s_tir

    board = load_board("rpi4b")
    machine = machine_of(board)
    target = tvm.target.Target(board.tvm_target())
    compared = 0
    for task in tasks(prepare(onnx, board, PREPROCESS), board):
        _, default = schedule_kernel(task.kernel, target, machine)
        schedule = task.schedule
        assert isinstance(schedule, Schedule)
        if default.schedule != "conv2d":
            continue
        rows, lines = default.choices
        other = schedule.estimate(s_tir.Schedule(task.kernel), (rows - 1, lines))
        assert other is not None and default.estimate is not None
        assert other > default.estimate
        compared += 1
    assert compared

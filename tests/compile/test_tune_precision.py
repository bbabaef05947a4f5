"""Tuning kernels of whole numbers and of half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.bench.emulated import why_not
from edgecompress.bench.emulated.estimate import cycle_estimate
from edgecompress.compile.builder import build_library
from edgecompress.compile.database import workload_key
from edgecompress.compile.measure import Timing
from edgecompress.compile.network import compile_network
from edgecompress.compile.pipeline import prepare, tasks
from edgecompress.compile.records import read_records
from edgecompress.compile.tune import tune_networks
from edgecompress.compile.tuner import _arguments
from edgecompress.compile.tuning import TuningTask
from edgecompress.errors import BoardError
from edgecompress.rpc import connect
from edgecompress.rpc.server import rpc_server
from edgecompress.rpc.tracker import tracker
from edgecompress.targets import load_board

from .simulation import PREPROCESS, photo_of

SAME = [1, 1, 1, 1]
SIDE = 12


def layers(net: Any, convolution: Callable[..., str], kept: Callable[[str], str]) -> str:
    """A convolution of each kind that has choices."""
    x = kept(convolution(kept("image"), 16, 3, pads=SAME, strides=[2, 2]))
    x = kept(convolution(x, 16, 3, pads=SAME, group=16))
    return net.head(kept(convolution(x, 16)))


@pytest.fixture
def whole(qdq: Callable[..., Any], tmp_path: Path) -> Path:
    net = qdq(SIDE, SIDE)
    return net.save(tmp_path / "whole.onnx", layers(net, net.whole_conv, net.quantised))


@pytest.fixture
def real(sketch: Callable[..., Any], tmp_path: Path) -> Path:
    net = sketch(SIDE, SIDE)
    return net.save(tmp_path / "real.onnx", layers(net, net.conv, lambda x: x))


def found(path: Path, board: str, precision: Any = "float32") -> list[TuningTask]:
    here = load_board(board)
    return tasks(prepare(path, here, PREPROCESS, precision=precision), here, precision)


def test_records_of_other_numbers_are_told_apart(whole: Path, real: Path) -> None:
    """The same layers in three precisions are as many kernels three times over."""
    kinds = [found(real, "rpi5"), found(real, "rpi5", "float16"), found(whole, "rpi5")]
    kernels = [{workload_key(task.kernel) for task in kind} for kind in kinds]
    convolutions = [3, 3, 3]
    for kind, keys, least in zip(kinds, kernels, convolutions, strict=True):
        assert len(kind) == len(keys) >= least
    assert not kernels[0] & kernels[1] and not kernels[1] & kernels[2]
    # The last layer is of real numbers in both; what it reads is not.
    assert not kernels[0] & kernels[2]


def test_a_quantised_file_has_the_same_kernels_in_both_precisions(whole: Path) -> None:
    single, half = (
        {workload_key(t.kernel) for t in found(whole, "rpi5", p)} for p in ("float32", "float16")
    )
    assert single == half


def test_instructions_are_told_apart(whole: Path) -> None:
    keys = [{workload_key(t.kernel) for t in found(whole, name)} for name in ("rpi4b", "rpi5")]
    words = [
        {workload_key(t.kernel) for t in found(whole, name) if "int8" in t.name}
        for name in ("rpi4b", "rpi5")
    ]
    assert all(words) and not words[0] & words[1]
    assert all(part <= every for part, every in zip(words, keys, strict=True))


def run(library: Path, photo: np.ndarray) -> np.ndarray:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(photo)).numpy()


def test_a_quantised_network_is_tuned_and_compiled_with_what_came_of_it(
    whole: Path, tmp_path: Path
) -> None:
    board, database = load_board("host"), tmp_path / "tuning.jsonl"
    with connect("host") as session, tracker() as tracking:
        result = tune_networks(
            [whole],
            board,
            PREPROCESS,
            partial(rpc_server, session, tracking, deadline=300),
            database=database,
            trials=14,
            timing=Timing(repeat=1, min_repeat_ms=1),
        )
    assert (result.records, result.failures) == (14, 0)
    named = {task.name for task in result.tasks}
    assert any(name.startswith("conv2d_int8_") for name in named)
    assert any(name.startswith("depthwise_int8_") for name in named)
    assert len(read_records(database)) == 14
    tuned = compile_network(whole, board, PREPROCESS, tmp_path / "tuned.so", database=database)
    assert tuned.info["tuned_layers"] == len(named)
    assert tuned.info["tuned_by"] == {"real": len(named)}
    plain = compile_network(whole, board, PREPROCESS, tmp_path / "plain.so")
    assert plain.info["tuned_layers"] == 0
    photo = photo_of(SIDE, SIDE)
    want = run(plain.library, photo)
    np.testing.assert_allclose(run(tuned.library, photo), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.board
@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_cycles_of_a_raspberry_pi_5(
    precision: str, whole: Path, real: Path, tmp_path: Path, virtual_board: object
) -> None:
    """Estimates run each candidate on numbers of its own types."""
    if why_not():
        pytest.skip(f"{why_not()}: make counting")
    board, database = load_board("rpi5"), tmp_path / "tuning.jsonl"
    network, reals = (whole, "float32") if precision == "int8" else (real, "float16")
    options: dict[str, Any] = {"database": database, "precision": reals}
    try:
        result = tune_networks(
            [network], board, PREPROCESS, {}, trials=5, estimate=cycle_estimate(board), **options
        )
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    assert (result.records, result.failures, result.measured) == (5, 0, "cost")
    tuned = compile_network(network, board, PREPROCESS, tmp_path / "tuned.so", **options)
    assert tuned.info["tuned_layers"] >= 4
    kinds = {layer["kernel"] for layer in tuned.info["layers"] if layer["tuned"]}
    assert sum(f"_{precision}_" in kernel for kernel in kinds) >= 3


def test_candidates_are_kernels_over_words(whole: Path, tmp_path: Path) -> None:
    """What is measured takes words where the network gives the bytes that lie there."""
    import pickle

    board = load_board("host")
    task = next(t for t in found(whole, "host") if t.name.startswith("conv2d_int8_1x1"))
    arguments = _arguments(task.kernel)
    assert arguments[0][1] == arguments[1][1] == "int32"
    candidate = schedule_first(task)
    assert build_library(pickle.dumps(candidate), board, tmp_path / "candidate.so") == ""


def schedule_first(task: TuningTask) -> Any:
    from edgecompress.compile.search import Search

    return Search(task.schedule, task.kernel, {}, 0).propose(1)[0].mod

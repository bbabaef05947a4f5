"""Tuning whole networks over the project's own RPC servers, and compiling with what came of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.compile.measure import Timing
from edgecompress.compile.network import compile_network
from edgecompress.compile.pipeline import prepare, tasks
from edgecompress.compile.records import read_records
from edgecompress.compile.tune import merged, tune_networks
from edgecompress.errors import BoardError, InputError
from edgecompress.rpc import connect
from edgecompress.rpc.server import rpc_server
from edgecompress.rpc.tracker import tracker
from edgecompress.runner.spec import Preprocess
from edgecompress.targets import load_board

PREPROCESS = Preprocess(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions and a classifier of three classes, at 12 x 12."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(5)

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(generator.normal(size=shape).astype("float32"), name)

    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3])],
        [weights("w1", 16, 3, 3, 3), weights("w2", 16, 16, 1, 1), weights("w3", 16, 3)],
    )
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def run(library: Path, photo: np.ndarray) -> np.ndarray:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(photo)).numpy()


def test_tuning_on_this_machine_and_compiling_with_the_records(
    network: Path, tmp_path: Path
) -> None:
    board, database = load_board("host"), tmp_path / "tuning.jsonl"
    untuned = compile_network(network, board, PREPROCESS, tmp_path / "untuned.so")
    assert untuned.info["tuned_layers"] == 0
    with connect("host") as session, tracker() as tracking:
        result = tune_networks(
            [network, network],
            board,
            PREPROCESS,
            partial(rpc_server, session, tracking, deadline=300),
            database=database,
            trials=8,
            timing=Timing(repeat=2, min_repeat_ms=2),
        )
    assert (result.records, result.failures, result.measured) == (8, 0, "real")
    assert {task.weight for task in result.tasks} == {2}, "both networks have the same kernels"
    assert len(read_records(database)) == 8

    tuned = compile_network(network, board, PREPROCESS, tmp_path / "tuned.so", database=database)
    assert tuned.info["tuned_layers"] == tuned.info["records_used"] == len(result.tasks)
    photo = np.random.default_rng(1).integers(0, 256, (1, 12, 12, 3), np.uint8)
    expected = run(untuned.library, photo)
    np.testing.assert_allclose(run(tuned.library, photo), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.board
def test_tuning_on_the_virtual_board(network: Path, tmp_path: Path, virtual_board: Any) -> None:
    board, database = virtual_board.board, tmp_path / "tuning.jsonl"
    with tracker() as tracking:
        result = tune_networks(
            [network],
            board,
            PREPROCESS,
            partial(rpc_server, virtual_board, tracking, deadline=600),
            database=database,
            trials=6,
        )
    assert (result.records, result.failures, result.measured) == (6, 0, "emulated")
    compiled = compile_network(network, board, PREPROCESS, tmp_path / "tuned.so", database=database)
    assert compiled.info["tuned_layers"] == len(result.tasks)
    # The same processor in hardware: times under emulation do not count there.
    real = compile_network(
        network, load_board("rpi4b"), PREPROCESS, tmp_path / "rpi4b.so", database=database
    )
    assert real.info["tuned_layers"] == 0


def test_equal_kernels_are_one_task(network: Path) -> None:
    board = load_board("rpi4b")
    found = tasks(prepare(network, board, PREPROCESS), board)
    once, twice = merged(found), merged([*found, *found])
    assert len(twice) == len(once) > 1
    assert [task.weight for task in twice] == [2 * task.weight for task in once]


def test_mistakes_are_named(network: Path, tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("no board is needed to see these")

    def tune(onnx: Path, board: Any) -> None:
        tune_networks([onnx], board, PREPROCESS, never, database=database, trials=1)

    database = tmp_path / "tuning.jsonl"
    with pytest.raises(InputError):
        tune(tmp_path / "missing.onnx", load_board("host"))
    with pytest.raises(BoardError):
        tune(network, load_board("rpi2b"))
    database.write_text("not tuning records\n")
    with pytest.raises(InputError, match="line 1"):
        tune(network, load_board("host"))
    assert database.read_text() == "not tuning records\n"
    with pytest.raises(BoardError):
        tune(network, replace(load_board("host"), supported=False, reason="a test"))

"""Convolutions in groups of several channels: their tiles, and their numbers beside ONNX Runtime's
and PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compile.graph import Layer, Value
from edgecompress.compile.grouped import pack_weight, plan
from edgecompress.compile.machine import machine_of
from edgecompress.compile.pipeline import calls, finish, prepare
from edgecompress.compress.networks.export import export_network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.targets import Board, load_board

from .simulation import PREPROCESS, check, check_bounds, image_of, photo_of, woken

SAME = [1, 1, 1, 1]
TOLERANCE = 1e-4  # of the largest output


def native() -> Board:
    return load_board("host")


def tiles_of(name: str, bits: int, registers: int) -> Board:
    """Another core's tiles, as code that runs here."""
    here, board = load_board("host"), load_board(name)
    core = replace(board.fast, vector_bits=bits, vector_registers=registers)
    return replace(board, triple=here.triple, mcpu=here.mcpu, mattr=here.mattr, clusters=(core,))


def neon() -> Board:
    return tiles_of("rpi4b", 128, 32)


def avx512() -> Board:
    return tiles_of("host", 512, 32)


# Groups, inputs and outputs of each, kernel, attributes; maps of 9 x 11 pixels, so that lines end
# in a partial tile. RegNets have groups of 8, 16 and 24.
CASES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "eights": (5, 8, 8, 3, {"pads": SAME}),
    "eights, stride 2": (3, 8, 8, 3, {"pads": SAME, "strides": [2, 2]}),
    "sixteens": (2, 16, 16, 3, {"pads": SAME}),
    "twenty-fours, stride 2": (3, 24, 24, 3, {"pads": SAME, "strides": [2, 2]}),
    "a last group beyond memory": (3, 5, 2, 3, {"strides": [2, 1]}),
    "one input each": (5, 1, 2, 5, {"pads": [2, 2, 2, 2], "dilations": [1, 2]}),
    "to one pixel": (3, 8, 8, (9, 11), {}),
    "1x1": (4, 5, 5, 1, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_onnx_runtime(
    name: str, sketch: Callable[..., Any], tmp_path: Path
) -> None:
    groups, inputs, outputs, kernel, attributes = CASES[name]
    net = sketch(9, 11)
    x = net.conv("image", groups * inputs)
    y = net.add("Relu", net.conv(x, groups * outputs, kernel, group=groups, **attributes))
    path = net.save(tmp_path / "net.onnx", net.head(y))
    boards = {"eights": (native, neon, avx512), "1x1": (native,), "to one pixel": (neon,)}
    for board in (tiles() for tiles in boards.get(name, (native, neon))):
        got = check(path, board)
        assert got.kernels[1].startswith("grouped_")


def test_groups_of_the_image(sketch: Callable[..., Any], tmp_path: Path) -> None:
    net = sketch(9, 11)
    y = net.conv("image", 6, 3, group=3, pads=SAME)
    check(net.save(tmp_path / "net.onnx", net.head(y)), neon())


@pytest.mark.parametrize(("groups", "width"), [(5, 8), (2, 24), (3, 4)])
def test_whole_numbers_in_words_of_one_group(
    groups: int, width: int, qdq: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq(9, 11)
    x = net.quantised(net.conv("image", groups * width), 0.02, 9)
    y = net.whole_conv(x, groups * width, 3, group=groups, pads=SAME)
    y = net.quantised(net.add("Relu", y), 0.02, -120)
    path = net.save(tmp_path / "net.onnx", net.head(y))
    assert check(path).kernels[1].startswith("grouped_int8_3x3s1_")


def test_groups_that_share_words_compute_with_real_numbers(
    qdq: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq(9, 11)
    x = net.quantised(net.conv("image", 12), 0.02, 9)
    y = net.quantised(net.whole_conv(x, 12, 3, group=2, pads=SAME), 0.02)
    got = check(net.save(tmp_path / "net.onnx", net.head(y)))
    assert got.kernels[1].startswith("grouped_3x3s1_")


MACHINES = [machine_of(board()) for board in (native, neon, avx512)]
MACHINES += [MACHINES[1].of_words(), replace(MACHINES[1], lanes=8, dtype="float16")]


@settings(max_examples=60, deadline=None)
@given(
    machine=st.sampled_from(MACHINES),
    groups=st.integers(2, 12),
    inputs=st.integers(1, 24),
    outputs=st.integers(1, 48),
)
def test_tiles_hold_every_group_once(machine: Any, groups: int, inputs: int, outputs: int) -> None:
    """The sums of packed weights over each block's own inputs are those over each group's."""
    random = np.random.default_rng(groups * inputs * outputs)
    weight = random.normal(size=(groups * outputs, inputs, 1, 1))
    value = Value("y", groups * outputs, 3, 3)
    layer = Layer("grouped", ("x",), value, ("y",), weight=weight, groups=groups)
    channels = machine.channels(groups * outputs)
    cut = plan(layer, machine, channels)
    assert cut.lanes <= machine.lanes and cut.pack % cut.lanes == 0
    assert channels % cut.pack == cut.outputs % cut.pack == 0
    x = random.normal(size=groups * inputs)
    want = np.einsum("goi,gi->go", weight.reshape(groups, outputs, inputs), x.reshape(groups, -1))
    packed = pack_weight(layer, cut, channels, weight)
    assert packed.shape == (channels // cut.pack, 1, 1, cut.inputs, cut.pack)
    padded = np.concatenate([x, np.full(cut.blocks * cut.inputs, 7.0)])
    got = []
    for tile, part in enumerate(packed[:, 0, 0]):
        block = min(tile * cut.pack // cut.outputs, cut.blocks - 1)
        got.append(padded[block * cut.inputs :][: cut.inputs] @ part)
    np.testing.assert_allclose(np.concatenate(got)[: want.size], want.ravel(), rtol=0, atol=1e-4)


def test_no_multiplication_is_in_vain_in_regnets() -> None:
    """Groups of 8, 16 and 24: no tile is of two groups, whatever the vectors' length."""
    for machine in MACHINES[:3]:
        for width in (8, 16, 24):
            value = Value("y", 7 * width, 14, 14)
            weight = np.zeros((7 * width, width, 3, 3), "float32")
            layer = Layer("grouped", ("x",), value, ("y",), weight=weight, groups=7)
            cut = plan(layer, machine, machine.channels(7 * width))
            assert (cut.inputs, cut.outputs, cut.blocks) == (width, width, 7)


def test_a_block_of_a_regnet_y(sketch: Callable[..., Any], tmp_path: Path) -> None:
    """With the stride, squeeze-and-excitation, and a shortcut."""
    net = sketch(9, 11)
    x = net.add("Relu", net.conv("image", 16))
    inner = net.add("Relu", net.conv(x, 24))
    inner = net.add("Relu", net.conv(inner, 24, 3, group=3, pads=SAME, strides=[2, 2]))
    mean = net.add("ReduceMean", inner, net.constant([2, 3], "int64"), keepdims=1)
    gate = net.add("Sigmoid", net.conv(net.add("Relu", net.conv(mean, 4)), 24))
    scaled = net.add("Mul", gate, inner)
    shortcut = net.conv(x, 24, 1, strides=[2, 2])
    y = net.add("Relu", net.add("Add", shortcut, net.conv(scaled, 24)))
    got = check(net.save(tmp_path / "net.onnx", net.head(y)))
    assert sum(kernel.startswith("elementwise_") for kernel in got.kernels) == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["regnet_x_200mf", "regnet_y_200mf"])
def test_a_regnet_is_what_pytorch_says(family: str, tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    spec = NetworkSpec(family, 0.5, 0.1, 32, 10)
    network, path = woken(spec), tmp_path / "regnet.onnx"
    export_network(network, spec, path, torch.zeros(0, 3, 32, 32))
    board = native()
    mod = prepare(path, board, PREPROCESS)
    check_bounds(mod)
    made = calls(mod)
    assert sum(call["op"] == "grouped" for call in made) >= 4
    assert sum(call["macs"] for call in made) == spec.macs
    photo = photo_of(32, 32)
    machine: Any = relax.VirtualMachine(finish(mod, board)[0], tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(photo)).numpy()
    with torch.inference_mode():
        want = network(torch.from_numpy(image_of(photo))).numpy()
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())

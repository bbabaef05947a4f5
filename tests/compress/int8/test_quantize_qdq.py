"""The QDQ form that the compiler relies on, for every family and for awkward graphs."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgecompress.compress.int8.calibrate import find_quantisers, logits
from edgecompress.compress.int8.graph import read_graph
from edgecompress.compress.int8.qdq import write_qdq
from edgecompress.compress.int8.quantize import quantize_network
from edgecompress.compress.networks.export import write_onnx
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import InputError
from edgecompress.runner.spec import Preprocess

PIXELS = Preprocess((120.0, 110.0, 100.0), (60.0, 55.0, 50.0))
SPECS = [
    NetworkSpec("resnet18", 0.125, 0.5, 40, 3),
    NetworkSpec("resnet50", 0.125, 0.3, 32, 3),
    NetworkSpec("mobilenet_v2", 0.25, 0.3, 32, 3),
    NetworkSpec("efficientnet_lite0", 0.5, 0.3, 32, 3),
    NetworkSpec("foreground_predictor", 0.5, 0.5, 32, 4),
]


def photos(count: int, side: int) -> np.ndarray:
    """Smooth random photos, uint8 `[count, side, side, 3]`."""
    rng = np.random.default_rng(side)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(-(-side // 4), axis=1).repeat(-(-side // 4), axis=2)[:, :side, :side]


@functools.cache
def _exported(spec: NetworkSpec) -> bytes:
    torch.manual_seed(0)
    network = spec.build().eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.0)
            torch.nn.init.uniform_(part.bias, -0.1, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(network, torch.zeros(1, 3, spec.resolution, spec.resolution), path)
        return path.read_bytes()


def exported(spec: NetworkSpec, path: Path) -> Path:
    """A network with weights like a trained one's; exporting takes seconds, once."""
    path.write_bytes(_exported(spec))
    return path


class Reading:
    """A QDQ file, taken apart."""

    def __init__(self, model: Any) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.pairs = {
            node.input[0]: node for node in self.nodes if node.op_type == "QuantizeLinear"
        }

    def readers(self, name: str) -> list[Any]:
        return [node for node in self.nodes if name in node.input]

    def numbers(self, quantise: Any) -> tuple[float, int]:
        scale, zero = (self.constants[name] for name in quantise.input[1:])
        assert scale.dtype == np.float32
        assert zero.dtype == np.int8
        assert scale.shape == zero.shape == ()
        return float(scale), int(zero)

    def quantised(self, name: str) -> str:
        """The tensor behind a restored one."""
        restore = self.makers[name]
        assert restore.op_type == "DequantizeLinear"
        quantise = self.makers[restore.input[0]]
        assert quantise.op_type == "QuantizeLinear"
        assert list(restore.input[1:]) == list(quantise.input[1:])
        return quantise.input[0]


def check_contract(model: Any, kept: frozenset[str] = frozenset()) -> Reading:
    """All that the compiler relies on."""
    onnx.checker.check_model(model, full_check=True)
    read = Reading(model)
    wanted: set[str] = set()
    for node in read.nodes:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        if node.name in kept:
            assert read.constants[node.input[1]].dtype == np.float32
            continue
        source = read.makers[node.input[0]]
        padded = source.op_type == "Pad"
        wanted.add(read.quantised(source.input[0] if padded else node.input[0]))
        restore = read.makers[node.input[1]]
        assert restore.op_type == "DequantizeLinear"
        weights, scales, zeros = (read.constants[name] for name in restore.input)
        attributes = {item.name: item.i for item in node.attribute}
        outputs = 0 if node.op_type == "Conv" or attributes.get("transB") else 1
        (axis,) = (item.i for item in restore.attribute if item.name == "axis")
        assert axis == outputs
        assert (weights.dtype, zeros.dtype, scales.dtype) == (np.int8, np.int8, np.float32)
        assert weights.min() >= -127
        assert not zeros.any()
        assert scales.shape == zeros.shape == (weights.shape[axis],)
        if len(node.input) > 2:
            assert read.constants[node.input[2]].dtype == np.float32
    for tensor in list(wanted):
        maker = read.makers.get(tensor)
        while maker is not None and maker.op_type in ("Flatten", "Reshape", "Dropout", "MaxPool"):
            if maker.op_type == "MaxPool":
                before = read.quantised(maker.input[0])
                wanted.add(before)
                assert read.numbers(read.pairs[before]) == read.numbers(read.pairs[tensor])
                maker = read.makers.get(before)
            else:
                maker = read.makers.get(maker.input[0])
    assert set(read.pairs) == wanted
    for tensor, quantise in read.pairs.items():
        assert [node.op_type for node in read.readers(tensor)] == ["QuantizeLinear"]
        assert [node.op_type for node in read.readers(quantise.output[0])] == ["DequantizeLinear"]
    return read


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.family)
def test_every_family_keeps_the_contract(spec: NetworkSpec, tmp_path: Path) -> None:
    path, out = exported(spec, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    inputs = photos(6, spec.resolution)
    quantize_network(path, list(inputs), PIXELS, out)
    model = onnx.load(out)
    check_contract(model)
    assert [one.version for one in model.opset_import] == [18]
    # Close to the float network, and the same file each time.
    want, got = (logits(one, "n", inputs, PIXELS) for one in (path, out))
    spread = (want - want.mean(axis=1, keepdims=True)).std()
    assert np.abs(got - want).mean() < 0.1 * spread
    first = out.read_bytes()
    quantize_network(path, list(inputs), PIXELS, out)
    assert out.read_bytes() == first


def test_relu_outputs_begin_at_zero(tmp_path: Path) -> None:
    spec = SPECS[2]
    path, out = exported(spec, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantize_network(path, list(photos(4, spec.resolution)), PIXELS, out)
    read = Reading(onnx.load(out))
    clipped = [name for name in read.pairs if name in read.makers]
    clipped = [name for name in clipped if read.makers[name].op_type == "Clip"]
    assert len(clipped) > 5
    for name in clipped:
        scale, zero = read.numbers(read.pairs[name])
        assert zero == -128
        assert 0 < scale <= 6 / 255 * 1.0001


@pytest.mark.parametrize("spec", SPECS[:4:2], ids=lambda spec: spec.family)
def test_a_kept_layer_is_as_it_was(spec: NetworkSpec, tmp_path: Path) -> None:
    path = exported(spec, tmp_path / "float.onnx")
    graph = read_graph(path)
    quantisers = find_quantisers(graph, "n", photos(2, spec.resolution), PIXELS)
    for layer in (graph.layers[0], graph.layers[3], graph.layers[-1]):
        read = check_contract(write_qdq(graph, quantisers, {layer.name}), frozenset({layer.name}))
        shared = sum(other.input == layer.input for other in graph.layers) > 1
        assert (layer.input in read.pairs) == shared
    everything = {layer.name for layer in graph.layers}
    model = write_qdq(graph, quantisers, everything)
    assert Counter(node.op_type for node in model.graph.node)["QuantizeLinear"] == 0
    inputs = photos(2, spec.resolution)
    np.testing.assert_array_equal(
        logits(model, "n", inputs, PIXELS), logits(path, "n", inputs, PIXELS)
    )


def made(
    path: Path,
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 18,
    shape: tuple[int, ...] = (1, 3, 12, 12),
    rank: int = 4,
) -> Path:
    """A hand-written network from `input` to `output`."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path)
    return path


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 4


def awkward(path: Path) -> Path:
    """A Pad, two pools in a row whose input another layer reads, shared weights, no names, a
    MatMul, a Gemm whose inputs come first, names that new ones would collide with."""
    node = helper.make_node
    nodes = [
        node("Pad", ["input", "pads"], ["padded"]),
        node("Conv", ["padded", "w0", "b"], ["c0"], strides=[1, 1]),
        node("Relu", ["c0"], ["r0"]),
        node("MaxPool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["p0"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["r0", "w1", "b"], ["c1"], kernel_shape=[1, 1], strides=[4, 4]),
        node("Conv", ["p1", "w1", "b"], ["c2"]),
        node("Add", ["c1", "c2"], ["r0_scale"]),
        node("MaxPool", ["r0_scale"], ["p2"], kernel_shape=[3, 3]),
        node("Flatten", ["p2"], ["flat"]),
        node("MatMul", ["flat", "w2"], ["m"]),
        node("Gemm", ["m", "w3", "b3"], ["output"]),
    ]
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "w0": weight(4, 3, 3, 3),
        "w1": weight(4, 4, 1, 1),
        "w2": weight(4, 6),
        "w3": weight(6, 3),
        "b": weight(4),
        "b3": weight(3),
    }
    return made(path, nodes, constants, rank=2)


def test_pools_pads_and_odd_names(tmp_path: Path) -> None:
    path = awkward(tmp_path / "float.onnx")
    inputs = photos(6, 12)
    graph = read_graph(path)
    model = write_qdq(graph, find_quantisers(graph, "n", inputs, PIXELS))
    read = check_contract(model)
    # The pools' whole chain has one range, and both convolutions behind `r0` read its pair.
    numbers = {read.numbers(read.pairs[name]) for name in ("r0", "p0", "p1") if name in read.pairs}
    assert len(numbers) == 1
    assert {"input", "r0", "p1", "flat", "r0_scale", "m"} <= set(read.pairs)
    weights = {node.input[0] for node in read.nodes if node.op_type == "DequantizeLinear"}
    assert len(weights & set(read.constants)) == 5
    want, got = (logits(one, "n", inputs, PIXELS) for one in (path, model))
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_biases_take_up_the_mean_error(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["input", "w"], ["output"])]
    path = made(tmp_path / "float.onnx", nodes, {"w": weight(4, 3, 3, 3)})
    inputs = photos(20, 12)
    graph = read_graph(path)
    found = find_quantisers(graph, "n", inputs, PIXELS)
    want = logits(path, "n", inputs, PIXELS).reshape(20, 4, -1)
    errors = []
    for one in (found, replace(found, corrections={})):
        got = logits(write_qdq(graph, one), "n", inputs, PIXELS).reshape(20, 4, -1)
        errors.append(np.abs((got - want).mean(axis=(0, 2))).max())
    assert errors[0] < 1e-6
    assert errors[1] > 1e-4


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_graph(path)
    assert all(word in caught.value.message for word in words)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["input"], ["output"])]
    conv = [helper.make_node("Conv", ["input", "w"], ["output"])]
    refused(tmp_path / "none.onnx", "no such ONNX file")
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x0a\x12not a network")
    refused(tmp_path / "damaged.onnx", "cannot read")
    refused(made(tmp_path / "a.onnx", relu, {}), "no convolution")
    constants = {"w": weight(4, 3, 1, 1)}
    refused(made(tmp_path / "b.onnx", conv, constants, shape=(1, 1, 12, 12)), "no image")
    refused(made(tmp_path / "c.onnx", conv, constants, opset=11), "opset 11")
    path, out = made(tmp_path / "d.onnx", conv, constants), tmp_path / "int8.onnx"
    quantize_network(path, list(photos(1, 12)), PIXELS, out)
    refused(out, "quantised already")
    for wrong in ([], [np.zeros((11, 12, 3), np.uint8)]):
        with pytest.raises(InputError, match="needs photos"):
            quantize_network(path, wrong, PIXELS, out)

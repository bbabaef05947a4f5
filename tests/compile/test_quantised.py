"""Kernels of whole numbers against ONNX Runtime, which simulates the same QDQ files
(`simulation.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgecompress.compile.frontend import read_onnx
from edgecompress.compile.fusion import fuse_elementwise
from edgecompress.compile.integer import integer_of
from edgecompress.compile.pipeline import prepare
from edgecompress.errors import CompileError
from edgecompress.targets import load_board

from .simulation import PREPROCESS, check, computed, in_onnx, photo_of, simulated

SAME = [1, 1, 1, 1]
HEIGHT, WIDTH = 9, 11

Build = Callable[[Any], str]


@pytest.fixture
def net(qdq: Callable[..., Any]) -> Any:
    return qdq(HEIGHT, WIDTH)


def stem(net: Any, channels: int = 5, zero: int = -128) -> str:
    """Quantised activations that are not the image."""
    image = net.quantised("image", 0.0207, 7)
    return net.quantised(net.add("Relu", net.whole_conv(image, channels)), 0.012, zero)


def saved(net: Any, path: Path, x: str) -> Path:
    """The network with an end that makes a vector of it."""
    rank = len(net.shape(x))
    return net.save(path / "net.onnx", net.head(x, 3) if rank == 4 else x)


# Inputs, outputs, kernel, attributes. Numbers of channels that fill words and vectors, and others.
CONVOLUTIONS: dict[str, tuple[int, int, Any, dict[str, Any]]] = {
    "1x1": (13, 13, 1, {}),
    "1x1 of one channel": (1, 1, 1, {}),
    "1x1 of two channels": (2, 3, 1, {}),
    "1x1 of four channels": (4, 8, 1, {}),
    "1x1 of 70 channels": (70, 33, 1, {}),
    "1x1 to 70 channels": (16, 70, 1, {}),
    "1x1 stride 2": (13, 24, 1, {"strides": [2, 2]}),
    "1x1 padded": (5, 7, 1, {"pads": [1, 0, 0, 1]}),
    "3x3": (13, 17, 3, {"pads": SAME}),
    "3x3 of one channel": (1, 9, 3, {"pads": SAME}),
    "3x3 without pads": (5, 32, 3, {}),
    "3x3 stride 2": (16, 12, 3, {"pads": SAME, "strides": [2, 2]}),
    "3x3 uneven pads": (8, 8, 3, {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
    "3x3 dilated": (6, 5, 3, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    "3x3 same upper": (5, 6, 3, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "1x3": (9, 10, (1, 3), {"pads": [0, 1, 0, 1]}),
    "5x5": (13, 20, 5, {"pads": [2, 2, 2, 2]}),
    "5x5 stride 2": (21, 4, 5, {"pads": [2, 1, 0, 2], "strides": [2, 2]}),
    "7x7": (3, 16, 7, {"pads": [3, 3, 3, 3]}),
    "7x7 stride 2": (8, 11, 7, {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, net: Any, tmp_path: Path) -> None:
    inputs, outputs, kernel, attributes = CONVOLUTIONS[name]
    y = net.whole_conv(stem(net, inputs), outputs, kernel, **attributes)
    got = check(saved(net, tmp_path, net.quantised(y, 0.03, -5)))
    assert got.kernels[2].startswith("conv2d_int8_")


DEPTHWISE: dict[str, tuple[int, Any, dict[str, Any]]] = {
    "1x1": (5, 1, {}),
    "1x1 stride 2": (16, 1, {"strides": [2, 2]}),
    "2x2": (13, 2, {"pads": [0, 1, 1, 0]}),
    "3x3": (16, 3, {"pads": SAME}),
    "3x3 without pads": (9, 3, {}),
    "3x3 stride 2": (13, 3, {"pads": SAME, "strides": [2, 2]}),
    "3x3 stride 3": (8, 3, {"pads": SAME, "strides": [3, 3]}),
    "3x3 stride 2 along": (8, 3, {"pads": [1, 0, 0, 2], "strides": [1, 2]}),
    "3x5": (33, (3, 5), {"pads": [0, 2, 2, 2]}),
    "5x5": (24, 5, {"pads": [2, 2, 2, 2]}),
    "5x5 stride 2": (40, 5, {"pads": [2, 1, 1, 2], "strides": [2, 2]}),
    "5x5 stride 3": (16, 5, {"pads": [2, 2, 2, 2], "strides": [3, 3]}),
    "7x7": (5, 7, {"pads": [3, 3, 3, 3]}),
    "7x7 stride 2": (16, 7, {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "7x7 stride 3": (16, 7, {"pads": [0, 3, 3, 0], "strides": [3, 3]}),
    "to one pixel": (16, (9, 11), {}),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str, net: Any, tmp_path: Path) -> None:
    channels, kernel, attributes = DEPTHWISE[name]
    x = stem(net, channels, zero=3)
    y = net.whole_conv(x, channels, kernel, group=channels, **attributes)
    got = check(saved(net, tmp_path, net.quantised(y, 0.02, 11)))
    assert got.kernels[2].startswith("depthwise_int8_")


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_depthwise_of_lines_shorter_than_a_word(
    width: int, kernel: int, qdq: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq(4, width)
    pads = [kernel // 2] * 4
    y = net.whole_conv(stem(net, 9), 9, kernel, group=9, pads=pads)
    check(saved(net, tmp_path, net.quantised(y)))


def test_depthwise_with_gaps_computes_with_real_numbers(net: Any, tmp_path: Path) -> None:
    y = net.whole_conv(stem(net, 5), 5, 3, group=5, pads=[2, 2, 2, 2], dilations=[2, 2])
    got = check(saved(net, tmp_path, net.quantised(y)))
    assert got.kernels[2].startswith("depthwise_3x3")


@pytest.mark.parametrize("classes", [1, 10, 70])
@pytest.mark.parametrize("transposed", [0, 1])
def test_fully_connected(transposed: int, classes: int, net: Any, tmp_path: Path) -> None:
    """Of a vector, and of a whole image."""
    x = stem(net, 13)
    flat = net.add("Flatten", net.quantised(net.add("GlobalAveragePool", x), 0.004))
    for each in (True, False):
        inputs = net.shape(flat)[1]
        shape = (classes, inputs) if transposed else (inputs, classes)
        weight = net.whole_weight(*shape, axis=1 - transposed, each=each)
        vector = net.add("Gemm", flat, weight, net.weight(classes), transB=transposed)
        flat = net.add("Flatten", x)
        tmp = saved(net, tmp_path, vector)
        got = check(tmp)
        assert got.graph.layers[-1].weight_scale is not None


def test_a_product_of_matrices_without_a_bias(net: Any, tmp_path: Path) -> None:
    flat = net.add("Flatten", net.quantised(net.add("GlobalAveragePool", stem(net, 9)), 0.004))
    got = check(saved(net, tmp_path, net.add("MatMul", flat, net.whole_weight(9, 6, axis=1))))
    assert got.graph.layers[-1].weight_scale is not None


def test_a_product_times_a_number_is_of_real_numbers(net: Any, tmp_path: Path) -> None:
    flat = net.add("Flatten", net.quantised(net.add("GlobalAveragePool", stem(net, 9)), 0.004))
    weight = net.whole_weight(6, 9)
    end = net.add("Gemm", flat, weight, net.weight(6), transB=1, alpha=0.5, beta=2.0)
    assert check(saved(net, tmp_path, end)).graph.layers[-1].weight_scale is None


# What follows a convolution in its kernel


EPILOGUES: dict[str, Build] = {}


def epilogue(build: Build) -> Build:
    EPILOGUES[build.__name__] = build
    return build


def product(net: Any, x: str) -> str:
    return net.whole_conv(x, 13, 3, pads=SAME)


@epilogue
def nothing(net: Any) -> str:
    return net.quantised(product(net, stem(net)), 0.02, 9)


@epilogue
def relu(net: Any) -> str:
    return net.quantised(net.add("Relu", product(net, stem(net))), 0.01, -128)


@epilogue
def relu_above_the_least_number(net: Any) -> str:
    return net.quantised(net.add("Relu", product(net, stem(net))), 0.02, -100)


@epilogue
def relu6(net: Any) -> str:
    six = net.add("Clip", product(net, stem(net)), net.constant(0.0), net.constant(6.0))
    return net.quantised(six, 6 / 255, -128)


@epilogue
def clip_inside_the_range(net: Any) -> str:
    low, high = net.constant(-0.71), net.constant(0.913)
    return net.quantised(net.add("Clip", product(net, stem(net)), low, high), 0.013, 5)


@epilogue
def clip_outside_the_range(net: Any) -> str:
    low, high = net.constant(-7.1), net.constant(9.13)
    return net.quantised(net.add("Clip", product(net, stem(net)), low, high), 0.013, 5)


@epilogue
def clip_of_one_side(net: Any) -> str:
    low = net.constant(-0.35)
    return net.quantised(net.add("Clip", product(net, stem(net)), low), 0.013, 5)


@epilogue
def constants_before_and_behind_a_limit(net: Any) -> str:
    x = net.add("Add", product(net, stem(net)), net.constant(0.25))
    x = net.add("Relu", net.add("Add", x, net.weight(13, 1, 1)))
    x = net.add("Sub", x, net.constant(0.5))
    return net.quantised(net.add("Add", x, net.weight(1, 13, 1, 1)), 0.02, 1)


@epilogue
def limits_of_limits(net: Any) -> str:
    x = net.add("Clip", product(net, stem(net)), net.constant(-0.5), net.constant(0.5))
    return net.quantised(net.add("Relu", net.add("Add", x, net.constant(0.1))), 0.01, -120)


@epilogue
def normalised(net: Any) -> str:
    numbers = [net.constant(net.random.uniform(0.5, 2, 13)) for _ in range(4)]
    return net.quantised(net.add("BatchNormalization", product(net, stem(net)), *numbers), 0.03)


@epilogue
def sigmoid(net: Any) -> str:
    return net.quantised(net.add("Sigmoid", product(net, stem(net))), 1 / 255, -128)


@epilogue
def tanh_behind_relu(net: Any) -> str:
    return net.quantised(net.add("Tanh", net.add("Relu", product(net, stem(net)))), 1 / 127, 0)


@epilogue
def hard_swish(net: Any) -> str:
    return net.quantised(net.add("HardSwish", product(net, stem(net))), 0.01, -100)


@epilogue
def silu(net: Any) -> str:
    y = product(net, stem(net))
    return net.quantised(net.add("Mul", y, net.add("Sigmoid", y)), 0.01, -100)


@epilogue
def reversed_difference(net: Any) -> str:
    return net.quantised(net.add("Sub", net.constant(0.3), product(net, stem(net))), 0.02)


@epilogue
def sum_with_a_quantised_value(net: Any) -> str:
    x = stem(net, 13)
    return net.quantised(net.add("Relu", net.add("Add", product(net, x), x)), 0.02, -128)


@epilogue
def sum_with_a_quantised_value_behind_relu(net: Any) -> str:
    x = stem(net, 13, zero=-11)
    return net.quantised(net.add("Add", net.add("Relu", product(net, x)), x), 0.02, -70)


@epilogue
def sum_of_two_quantised_values(net: Any) -> str:
    x = stem(net, 13)
    left = net.quantised(product(net, x), 0.02, 3)
    right = net.quantised(product(net, x), 0.017, -9)
    return net.quantised(net.add("Relu", net.add("Add", left, right)), 0.025, -128)


@epilogue
def sum_with_real_numbers(net: Any) -> str:
    x = stem(net, 13)
    return net.quantised(net.add("Add", product(net, x), net.conv(x, 13)), 0.03, 1)


@epilogue
def sum_with_real_numbers_behind_relu(net: Any) -> str:
    x = stem(net, 13)
    left = net.add("Relu", product(net, x))
    return net.quantised(net.add("Add", left, net.conv(x, 13)), 0.03, 1)


@epilogue
def difference_with_a_quantised_value(net: Any) -> str:
    x = stem(net, 13)
    return net.quantised(net.add("Sub", product(net, x), x), 0.02, 3)


@epilogue
def difference_the_other_way(net: Any) -> str:
    x = stem(net, 13)
    return net.quantised(net.add("Sub", x, product(net, x)), 0.02, 3)


@epilogue
def sum_with_a_quantised_pixel(net: Any) -> str:
    x = stem(net, 13)
    pixel = net.quantised(net.add("GlobalAveragePool", x), 0.003, -60)
    return net.quantised(net.add("Add", product(net, x), pixel), 0.02, 3)


@epilogue
def squeeze_and_excite(net: Any) -> str:
    x = net.quantised(product(net, stem(net)), 0.02, 3)
    pixel = net.quantised(net.add("GlobalAveragePool", x), 0.003, 0)
    gate = net.quantised(net.add("Sigmoid", net.whole_conv(pixel, 13)), 1 / 255, -128)
    return net.quantised(net.add("Mul", x, gate), 0.01, 4)


@epilogue
def sum_with_the_quantised_image(net: Any) -> str:
    image = net.quantised("image", 0.0207, 7)
    return net.quantised(net.add("Add", net.whole_conv(image, 3, 3, pads=SAME), image), 0.03, 0)


@epilogue
def one_step_is_one(net: Any) -> str:
    """The scale of the result is 1, as if nothing were quantised."""
    y = net.add("Mul", product(net, stem(net)), net.constant(30.0))
    low, high = net.constant(-20.0), net.constant(40.25)
    return net.quantised(net.add("Clip", y, low, high), 1.0, 0)


@epilogue
def real_result(net: Any) -> str:
    return net.add("Relu", product(net, stem(net)))


@epilogue
def real_result_of_a_sum(net: Any) -> str:
    x = stem(net, 13)
    return net.add("Relu", net.add("Add", product(net, x), x))


@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogue(name: str, net: Any, tmp_path: Path) -> None:
    check(saved(net, tmp_path, EPILOGUES[name](net)))


@pytest.mark.parametrize("name", ["relu6", "sum_with_a_quantised_value", "clip_inside_the_range"])
def test_epilogue_of_a_depthwise_layer(
    name: str, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def depthwise(net: Any, x: str) -> str:
        channels = net.shape(x)[1]
        return net.whole_conv(x, channels, 3, pads=SAME, group=channels)

    monkeypatch.setitem(globals(), "product", depthwise)
    check(saved(net, tmp_path, EPILOGUES[name](net)))


# Other operators


OPERATORS: dict[str, Build] = {}


def operator(build: Build) -> Build:
    OPERATORS[build.__name__] = build
    return build


@operator
def max_pool_of_the_same_numbers(net: Any) -> str:
    x = net.quantised(product(net, stem(net)), 0.02, -7)
    pool = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=SAME)
    return net.quantised(pool, 0.02, -7)


@operator
def max_pool_to_other_numbers(net: Any) -> str:
    x = net.quantised(product(net, stem(net)), 0.02, -7)
    pool = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=SAME)
    return net.quantised(pool, 0.03, 2)


@operator
def max_pool_to_real_numbers(net: Any) -> str:
    return net.add("MaxPool", stem(net), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)


@operator
def max_pool_with_relu(net: Any) -> str:
    x = net.quantised(product(net, stem(net)), 0.02, -7)
    return net.quantised(net.add("Relu", net.add("MaxPool", x, kernel_shape=[2, 2])), 0.02, -7)


@operator
def max_pool_of_the_image(net: Any) -> str:
    image = net.quantised("image", 0.0207, 7)
    return net.quantised(net.add("MaxPool", image, kernel_shape=[3, 3], pads=SAME), 0.02, 7)


@operator
def average_pool(net: Any) -> str:
    pool = net.add("AveragePool", stem(net), kernel_shape=[3, 3], strides=[2, 2], pads=SAME)
    return net.quantised(pool, 0.01, -128)


@operator
def average_pool_with_pads_counted(net: Any) -> str:
    x = stem(net, 13, zero=5)
    return net.quantised(
        net.add("AveragePool", x, kernel_shape=[2, 3], pads=[1, 0, 0, 2], count_include_pad=1), 0.01
    )


@operator
def global_pool(net: Any) -> str:
    return net.quantised(net.add("GlobalAveragePool", stem(net, 13, zero=5)), 0.003, -40)


@operator
def global_pool_to_real_numbers(net: Any) -> str:
    return net.add("GlobalAveragePool", stem(net, 13, zero=5))


@operator
def global_pool_of_the_image(net: Any) -> str:
    pool = net.add("GlobalAveragePool", net.quantised("image", 0.0207, 7))
    return net.quantised(pool, 0.001, 0)


@operator
def concat(net: Any) -> str:
    x = stem(net)
    left, right = (net.quantised(net.whole_conv(x, 3), scale) for scale in (0.02, 0.03))
    both = net.add("Concat", left, right, net.conv(x, 6), left, axis=1)
    return net.quantised(both, 0.025, 4)


@operator
def concat_with_the_image(net: Any) -> str:
    image = net.quantised("image", 0.0207, 7)
    return net.quantised(net.add("Concat", image, net.whole_conv(image, 6), axis=1), 0.025, 4)


@operator
def slices(net: Any) -> str:
    bounds = [net.constant([number], "int64") for number in (3, 11, 1)]
    return net.quantised(net.add("Slice", stem(net, 13), *bounds), 0.012, -100)


@operator
def slices_to_real_numbers(net: Any) -> str:
    bounds = [net.constant([number], "int64") for number in (3, 11, 1)]
    return net.add("Slice", stem(net, 13), *bounds)


@operator
def relu_alone(net: Any) -> str:
    return net.quantised(net.add("Relu", net.quantised(product(net, stem(net)), 0.02, 9)), 0.01)


@operator
def relu_of_quantised_to_real_numbers(net: Any) -> str:
    """What is quantised is rounded before the next step, though nothing else reads it."""
    return net.add("Relu", net.quantised(product(net, stem(net)), 0.1, 9))


@operator
def quantised_twice(net: Any) -> str:
    return net.quantised(net.quantised(product(net, stem(net)), 0.1, 9), 0.03, 2)


@operator
def softmax(net: Any) -> str:
    logits = net.add("Flatten", net.add("GlobalAveragePool", stem(net, 13)))
    return net.add(
        "Softmax", net.quantised(net.add("Mul", logits, net.constant(9.0)), 0.05), axis=1
    )


@operator
def quantised_softmax(net: Any) -> str:
    logits = net.add("Flatten", net.add("GlobalAveragePool", stem(net, 13)))
    end = net.add("Softmax", net.quantised(net.add("Mul", logits, net.constant(9.0)), 0.05), axis=1)
    return net.quantised(end, 1 / 255, -128)


@operator
def read_by_whole_and_by_real_weights(net: Any) -> str:
    x = stem(net, 16)
    real = net.conv(x, 16, 3, pads=SAME)
    return net.add("Add", net.whole_conv(x, 16, 3, pads=SAME), real)


@operator
def read_by_real_layers_only(net: Any) -> str:
    x = net.quantised(net.conv("image", 16), 0.03, 3)
    y = net.add("Relu", net.conv(x, 16, 3, pads=SAME))
    return net.conv(net.quantised(y, 0.02, -20), 16, 3, pads=SAME, group=16)


@operator
def depthwise_of_the_image(net: Any) -> str:
    image = net.quantised("image", 0.0207, 7)
    return net.quantised(net.whole_conv(image, 3, 3, group=3, pads=SAME, strides=[2, 2]), 0.02, 1)


@operator
def image_read_by_all(net: Any) -> str:
    image = net.quantised("image", 0.0207, 7)
    deep = net.whole_conv(image, 3, 5, group=3, pads=[2, 2, 2, 2])
    return net.add("Add", net.add("Add", deep, image), net.conv(image, 3, 3, pads=SAME))


@operator
def image_of_real_numbers(net: Any) -> str:
    """Only what follows the first layer is quantised."""
    x = net.quantised(net.conv("image", 9, 3, strides=[2, 2]), 0.02, 7)
    return net.whole_conv(x, 9, 3, pads=SAME)


@operator
def flat_image(net: Any) -> str:
    flat = net.add("Flatten", net.quantised("image", 0.0207, 7))
    return net.add("Gemm", flat, net.whole_weight(6, 297), net.weight(6), transB=1)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str, net: Any, tmp_path: Path) -> None:
    check(saved(net, tmp_path, OPERATORS[name](net)))


def test_pooling_leaves_equal_numbers_as_they_are(net: Any, tmp_path: Path) -> None:
    import tvm  # noqa: F401

    path = saved(net, tmp_path, max_pool_of_the_same_numbers(net))
    mod = prepare(path, load_board("host"), PREPROCESS)
    pool = next(v.name_hint for v in mod.get_global_vars() if v.name_hint.startswith("max_pool"))
    assert "float" not in mod[pool].script().split("def ")[1]


# How numbers are written down in a file


@pytest.mark.parametrize("zero", [-128, -1, 0, 1, 5, 127])
def test_zero_points(zero: int, net: Any, tmp_path: Path) -> None:
    """Of the image, of what a convolution and a depthwise layer read, and of their results."""
    image = net.quantised("image", 0.0157, zero)
    x = net.quantised(net.whole_conv(image, 9, 3, pads=SAME), 0.02, zero)
    y = net.quantised(net.whole_conv(x, 9, 3, pads=SAME, group=9), 0.02, zero)
    z = net.quantised(net.whole_conv(y, 9, 3, pads=SAME, strides=[2, 2]), 0.02, zero)
    check(saved(net, tmp_path, z))


@pytest.mark.parametrize("zero", [0, 128, 255, 77])
def test_numbers_without_a_sign(zero: int, net: Any, tmp_path: Path) -> None:
    image = net.quantised("image", 0.0157, zero, "uint8")
    x = net.quantised(net.whole_conv(image, 9, 3, pads=SAME), 0.02, zero, "uint8")
    y = net.quantised(net.whole_conv(x, 9, 3, pads=SAME, group=9), 0.02, zero, "uint8")
    got = check(saved(net, tmp_path, y))
    assert sum("_int8_" in kernel for kernel in got.kernels) == 2


def test_no_zero_point_is_zero_without_a_sign(net: Any, tmp_path: Path) -> None:
    scale = net.constant(0.012)
    whole = net.add("QuantizeLinear", net.add("Relu", net.conv("image", 9)), scale)
    x = net.add("DequantizeLinear", whole, scale)
    check(saved(net, tmp_path, net.quantised(net.whole_conv(x, 9))))


def test_one_scale_for_all_weights(net: Any, tmp_path: Path) -> None:
    x = stem(net, 13)
    y = net.quantised(net.whole_conv(x, 9, 3, pads=SAME, each=False))
    z = net.quantised(net.whole_conv(y, 9, 3, pads=SAME, group=9, each=False))
    got = check(saved(net, tmp_path, z))
    assert [layer.weight_scale is not None for layer in got.graph.layers[2:4]] == [True, True]


def test_the_bias_of_weights_without_a_scale(net: Any, tmp_path: Path) -> None:
    """No sum can begin with it: what it is multiplied by is zero."""
    scales = net.random.uniform(0.001, 0.003, 9)
    scales[2] = 0
    whole = net.constant(net.random.integers(-64, 65, (9, 13, 3, 3)), "int8")
    weight = net.add("DequantizeLinear", whole, net.constant(scales), axis=0)
    bias = net.constant(np.linspace(0.5, 1.5, 9))
    y = net.add("Conv", stem(net, 13), weight, bias, pads=SAME)
    check(saved(net, tmp_path, net.quantised(y)))


@pytest.mark.parametrize("kind", ["least", "unsigned", "shifted", "of inputs"])
def test_weights_that_words_cannot_hold_are_real_numbers(
    kind: str, net: Any, tmp_path: Path
) -> None:
    """-128, whose products do not fit; no sign; a zero point; a scale for each input."""
    whole = net.random.integers(-64, 65, (9, 13, 3, 3))
    if kind == "least":
        whole[3, 4, 1, 2] = -128
    dtype = "uint8" if kind == "unsigned" else "int8"
    count, axis = (13, 1) if kind == "of inputs" else (9, 0)
    zeros = net.constant(np.full(count, 100 if kind == "unsigned" else 0), dtype)
    if kind == "shifted":
        zeros = net.constant(np.arange(9), dtype)
    if kind == "unsigned":
        whole += 100
    scales = net.constant(net.random.uniform(0.001, 0.003, count))
    weight = net.add("DequantizeLinear", net.constant(whole, dtype), scales, zeros, axis=axis)
    y = net.quantised(net.add("Conv", stem(net, 13), weight))
    got = check(saved(net, tmp_path, y))
    assert got.graph.layers[2].weight_scale is None


def test_whole_biases(net: Any, tmp_path: Path) -> None:
    """As most tools write them: 32 bits, at the product of both scales."""
    x, weight = stem(net, 13), net.whole_weight(9, 13, 1, 1)
    whole = net.constant(net.random.integers(-9999, 9999, 9), "int32")
    bias = net.add("DequantizeLinear", whole, net.constant(np.full(9, 5e-5)), axis=0)
    got = check(saved(net, tmp_path, net.quantised(net.add("Conv", x, weight, bias))))
    assert got.graph.layers[2].weight_scale is not None


def test_weights_that_are_quantised_in_the_file_itself(net: Any, tmp_path: Path) -> None:
    """QuantizeLinear of a constant is a constant."""
    scale, zero = net.constant(0.01), net.constant(0, "int8")
    weight = net.constant(net.random.uniform(-0.6, 0.6, (9, 13, 1, 1)))
    weight = net.add(
        "DequantizeLinear", net.add("QuantizeLinear", weight, scale, zero), scale, zero
    )
    got = check(saved(net, tmp_path, net.quantised(net.add("Conv", stem(net, 13), weight))))
    assert got.graph.layers[2].weight_scale is not None


def test_a_quantised_output_is_given_as_real_numbers(net: Any, tmp_path: Path) -> None:
    flat = net.add("Flatten", net.quantised(net.add("GlobalAveragePool", stem(net, 13)), 0.004))
    end = net.add("Gemm", flat, net.whole_weight(6, 13), net.weight(6), transB=1)
    check(saved(net, tmp_path, net.quantised(end, 0.02, 9)))


@pytest.mark.parametrize("undo", [0.5, 1.01])
def test_a_pair_of_two_scales_is_refused(undo: float, net: Any, tmp_path: Path) -> None:
    x = net.quantised(net.conv("image", 5), 0.02, 3, undo=undo)
    with pytest.raises(CompileError) as refused:
        read_onnx(saved(net, tmp_path, x))
    assert "DequantizeLinear of node 'dequantizelinear" in refused.value.message
    assert "does not undo the QuantizeLinear before it" in refused.value.message


def test_a_pair_of_two_zero_points_is_refused(net: Any, tmp_path: Path) -> None:
    scale = net.constant(0.02)
    whole = net.add("QuantizeLinear", net.conv("image", 5), scale, net.constant(3, "int8"))
    x = net.add("DequantizeLinear", whole, scale, net.constant(4, "int8"))
    with pytest.raises(CompileError, match="does not undo"):
        read_onnx(saved(net, tmp_path, x))


def test_numbers_of_16_bits_are_refused(qdq: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq(HEIGHT, WIDTH, opset=21)
    path = saved(net, tmp_path, net.quantised(net.conv("image", 5), 0.001, 0, "int16"))
    with pytest.raises(CompileError, match="only to 8 bits"):
        read_onnx(path)


def test_a_scale_for_each_channel_of_an_activation_is_refused(net: Any, tmp_path: Path) -> None:
    scale, zero = net.constant(np.full(5, 0.02)), net.constant(np.zeros(5), "int8")
    whole = net.add("QuantizeLinear", net.conv("image", 5), scale, zero, axis=1)
    path = saved(net, tmp_path, net.add("DequantizeLinear", whole, scale, zero, axis=1))
    with pytest.raises(CompileError, match="one scale for the whole activation"):
        read_onnx(path)


# Weights of eight bits where the core can sum less


def test_what_fitted_weights_lose(qdq: Callable[..., Any], tmp_path: Path) -> None:
    """Without VNNI weights that are too large keep between seven and eight bits."""
    net = qdq(HEIGHT, WIDTH, largest=127)
    x = net.quantised(net.whole_conv(net.quantised("image"), 24), 0.02)
    y = net.quantised(net.whole_conv(x, 16, 3, pads=SAME), 0.02)
    path = saved(net, tmp_path, net.whole_conv(y, 16, 3, pads=SAME, group=16))
    here = load_board("host")
    core = replace(here.fast, core="x86-64-v3", vector_bits=256, vector_registers=16)
    board = replace(here, mcpu="x86-64-v3", mattr=(), clusters=(core,))
    graph = fuse_elementwise(read_onnx(path))
    photo = photo_of(HEIGHT, WIDTH)
    own = computed(path, photo, board)
    offset = integer_of(board).offset
    given = [
        in_onnx(layer.output, a, offset) for layer, (_, a) in zip(graph.layers, own, strict=True)
    ]
    want = simulated(path, photo, graph.layers, given)[3]
    error = np.sqrt(np.square(given[3] - want).mean() / np.square(want).mean())
    assert 1e-4 < error < 0.02


# Random networks


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


SIDE = st.tuples(
    st.integers(1, 14),  # pixels
    st.integers(1, 7),  # kernel
    st.integers(1, 3),  # stride
    st.integers(0, 3),  # pad before
    st.integers(0, 3),  # pad behind
)
ZERO = st.integers(-128, 127)


@settings(
    max_examples=16,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@given(
    sides=st.tuples(SIDE, SIDE),
    channels=st.tuples(st.integers(1, 36), st.integers(0, 40)),
    zeros=st.tuples(ZERO, ZERO),
    relu=st.booleans(),
)
def test_convolutions_of_any_geometry(
    scratch: Path,
    qdq: Callable[..., Any],
    *,
    sides: tuple[tuple[int, ...], tuple[int, ...]],
    channels: tuple[int, int],
    zeros: tuple[int, int],
    relu: bool,
) -> None:
    """No outputs stand for a depthwise convolution."""
    inputs, outputs = channels
    down, across = sides
    assume(all(s[1] <= s[0] + s[3] + s[4] for s in sides))
    net = qdq(down[0], across[0])
    x = net.quantised(net.conv("image", inputs), 0.03, zeros[0])
    y = net.whole_conv(
        x,
        outputs or inputs,
        (down[1], across[1]),
        strides=[s[2] for s in sides],
        pads=[down[3], across[3], down[4], across[4]],
        group=1 if outputs else inputs,
    )
    y = net.quantised(net.add("Relu", y) if relu else y, 0.03, zeros[1])
    check(saved(net, scratch, y))

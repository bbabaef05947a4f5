"""Which elementwise steps join the layer before them, and which may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.compile.frontend import read_onnx
from edgecompress.compile.fusion import fuse_elementwise
from edgecompress.compile.graph import Graph, Layer

Fuse = Callable[[str], Graph]


@pytest.fixture
def net(sketch: Callable[..., Any]) -> Any:
    return sketch(6, 6)


@pytest.fixture
def fuse(net: Any, tmp_path: Path) -> Fuse:
    """The fused graph of what leads to an activation, with a classifier behind it."""

    def fused(end: str) -> Graph:
        graph = read_onnx(net.save(tmp_path / "net.onnx", net.head(end)))
        result = fuse_elementwise(graph)
        check_order(result)
        assert result.macs == graph.macs
        assert sources(result) == sources(graph), "every node is still accounted for, once"
        return result

    return fused


def check_order(graph: Graph) -> None:
    """Each layer reads what is there by then, and nothing else is called an activation."""
    made = {graph.input.name}
    for layer in graph.layers:
        assert set(layer.reads) <= made, f"{layer.sources} comes too early"
        made.add(layer.output.name)
    assert graph.output.name in made
    assert set(graph.values) == made


def sources(graph: Graph) -> list[str]:
    return sorted(name for layer in graph.layers for name in layer.sources)


def kinds(layer: Layer) -> list[str]:
    return [step.kind for step in layer.epilogue]


def ops(graph: Graph) -> list[str]:
    """Of all but the classifier."""
    return [layer.op for layer in graph.layers[:-1]]


def test_steps_join_the_convolution_before_them(net: Any, fuse: Fuse) -> None:
    x = net.conv("image", 8)
    x = net.add("Add", x, net.constant(np.ones((1, 8, 1, 1))))
    x = net.add("Clip", net.add("Relu", x), net.constant(0.0), net.constant(6.0))
    graph = fuse(x)
    assert ops(graph) == ["conv2d"]
    assert kinds(graph.layers[0]) == ["add", "relu", "clip"]
    assert graph.layers[0].output.name == x
    assert graph.layers[0].sources == ("conv1", "add2", "relu3", "clip4")


@pytest.mark.parametrize("flipped", [False, True])
def test_a_residual_sum_joins_the_later_convolution(net: Any, fuse: Fuse, flipped: bool) -> None:
    """Whichever operand it is: only then the other one is there."""
    early = net.conv("image", 8)
    late = net.conv("image", 8, 3, pads=[1, 1, 1, 1])
    operands = (late, early) if flipped else (early, late)
    graph = fuse(net.add("Relu", net.add("Add", *operands)))
    assert ops(graph) == ["conv2d", "conv2d"]
    first, second = graph.layers[:2]
    assert first.epilogue == ()
    assert kinds(second) == ["add", "relu"]
    assert second.epilogue[0].operand == early
    assert second.inputs == ("image",)


def test_an_identity_shortcut_joins_the_last_convolution(net: Any, fuse: Fuse) -> None:
    shortcut = net.add("Relu", net.conv("image", 8))
    inner = net.add("Relu", net.conv(shortcut, 4))
    graph = fuse(net.add("Relu", net.add("Add", net.conv(inner, 8), shortcut)))
    assert ops(graph) == ["conv2d"] * 3
    assert kinds(graph.layers[2]) == ["add", "relu"]
    assert graph.layers[2].epilogue[0].operand == shortcut


def test_a_difference_is_not_turned_round(net: Any, fuse: Fuse) -> None:
    """It can join the maker of its left side only, and that one comes too early."""
    left, right = net.conv("image", 8), net.conv("image", 8, 3, pads=[1, 1, 1, 1])
    graph = fuse(net.add("Sub", left, right))
    assert ops(graph) == ["conv2d", "conv2d", "elementwise"]
    assert graph.layers[2].inputs == (left,)
    assert graph.layers[2].epilogue[0].operand == right


def test_what_is_read_twice_is_kept(net: Any, fuse: Fuse) -> None:
    x = net.conv("image", 8)
    graph = fuse(net.add("Concat", net.add("Relu", x), net.conv(x, 8), axis=1))
    assert ops(graph) == ["conv2d", "elementwise", "conv2d", "select"]
    assert graph.layers[0].output.name == x


def test_an_activation_times_itself_is_kept(net: Any, fuse: Fuse) -> None:
    x = net.conv("image", 8)
    assert ops(fuse(net.add("Mul", x, x))) == ["conv2d", "elementwise"]


def test_a_gate_is_one_layer(net: Any, fuse: Fuse) -> None:
    """The gate reads the convolution's result, and so does the product."""
    graph = fuse(net.add("HardSwish", net.conv("image", 8)))
    assert ops(graph) == ["conv2d", "elementwise"]
    assert kinds(graph.layers[1]) == ["hard_sigmoid", "mul"]
    assert graph.layers[1].epilogue[1].operand == graph.layers[0].output.name


def test_one_number_a_channel_does_not_take_the_whole_image(net: Any, fuse: Fuse) -> None:
    """Squeeze and excite: the product is larger than what the later convolution made."""
    x = net.conv("image", 8)
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", x), 8))
    graph = fuse(net.add("Mul", x, gate))
    assert ops(graph) == ["conv2d", "global_pool", "conv2d", "elementwise"]
    assert kinds(graph.layers[2]) == ["sigmoid"]
    assert graph.layers[3].inputs == (x,)


def test_steps_on_the_image_stay_a_layer(net: Any, fuse: Fuse) -> None:
    assert ops(fuse(net.add("Relu", net.add("Mul", "image", net.constant(2.0))))) == ["elementwise"]


@pytest.mark.parametrize(
    ("op", "made"), [("MaxPool", "max_pool"), ("AveragePool", "avg_pool"), ("Concat", "select")]
)
def test_steps_join_other_layers_too(net: Any, fuse: Fuse, op: str, made: str) -> None:
    x = net.conv("image", 8)
    if op == "Concat":
        x = net.add(op, x, net.conv("image", 4), axis=1)
    else:
        x = net.add(op, x, kernel_shape=[2, 2])
    graph = fuse(net.add("Relu", x))
    assert ops(graph)[-1] == made
    assert kinds(graph.layers[-2]) == ["relu"]


def test_softmax_takes_no_steps(net: Any, tmp_path: Path) -> None:
    """Its kernel has no place for them."""
    doubled = net.add("Mul", net.add("Softmax", net.head("image")), net.constant(2.0))
    graph = fuse_elementwise(read_onnx(net.save(tmp_path / "net.onnx", doubled)))
    assert [layer.op for layer in graph.layers] == ["conv2d", "softmax", "elementwise"]


def test_steps_after_the_output_do_not_change_it(net: Any, tmp_path: Path) -> None:
    output = net.head("image")
    net.add("Relu", output)
    graph = fuse_elementwise(read_onnx(net.save(tmp_path / "net.onnx", output)))
    assert [layer.epilogue for layer in graph.layers] == [()]
    assert graph.layers[0].output.name == graph.output.name == output

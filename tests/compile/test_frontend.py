"""What is read from ONNX files, and what is refused, with a message that says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.compile.frontend import read_onnx
from edgecompress.compile.graph import Graph, Part
from edgecompress.errors import CompileError, EdgeCompressError, InputError


@pytest.fixture
def net(sketch: Callable[..., Any]) -> Any:
    return sketch(8, 6)


def read(net: Any, tmp_path: Path, *outputs: str, **options: Any) -> Graph:
    return read_onnx(net.save(tmp_path / "net.onnx", *outputs, **options))


def refusal(net: Any, tmp_path: Path, *outputs: str, **options: Any) -> EdgeCompressError:
    path = net.save(tmp_path / "net.onnx", *outputs, **options)
    with pytest.raises(CompileError) as caught:
        read_onnx(path)
    assert caught.value.exit_code == 5
    assert "\n" not in caught.value.message
    return caught.value


def ints(net: Any, *values: int) -> str:
    return net.constant(list(values), "int64")


# Files


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such ONNX file.*absent\.onnx") as caught:
        read_onnx(tmp_path / "absent.onnx")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999])
def test_a_truncated_file_is_an_input_error(net: Any, tmp_path: Path, share: float) -> None:
    path = net.save(tmp_path / "net.onnx", net.head(net.conv("image", 8, 3)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"net\.onnx is not a whole ONNX file") as caught:
        read_onnx(path)
    assert caught.value.exit_code == 3
    assert "edgecompress export" in caught.value.hint


def test_a_foreign_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("<html>not found</html>\n")
    with pytest.raises(InputError, match="not a whole ONNX file"):
        read_onnx(tmp_path / "net.onnx")


# Operators that are refused: each builds one, and says what of it must be named


def _lstm(net: Any) -> str:
    weights = (net.weight(1, 16, 6), net.weight(1, 16, 4))
    return net.add("LSTM", "image", *weights, hidden_size=4)


def _resize(net: Any) -> str:
    return net.add("Resize", "image", "", net.constant([1, 1, 2, 2]), mode="nearest")


def _einsum(net: Any) -> str:
    return net.add("Einsum", "image", "image", equation="nchw,nchw->nc")


def _shape(net: Any) -> str:
    return net.add("Reshape", "image", net.add("Shape", "image"))


def _custom(net: Any) -> str:
    net.domains.append("com.example")
    return net.add("Relu", net.conv("image", 8), domain="com.example")


def _custom_of_constants(net: Any) -> str:
    net.domains.append("com.example")
    return net.add("Relu", net.constant([1.0]), domain="com.example")


def _unequal_groups(net: Any) -> str:
    return net.conv(net.conv("image", 8), 7, 3, group=2)


def _groups_of_other_inputs(net: Any) -> str:
    return net.add("Conv", net.conv("image", 8), net.weight(8, 3, 3, 3), group=2)


def _moving_weights(net: Any) -> str:
    return net.add("Conv", "image", net.add("Mul", "image", "image"), group=1)


def _transposed(net: Any) -> str:
    return net.add("ConvTranspose", "image", net.weight(3, 4, 2, 2))


def _max_with_indices(net: Any) -> str:
    return net.add("MaxPool", "image", outputs=2, kernel_shape=[2, 2])


def _ceil_with_pads_counted(net: Any) -> str:
    return net.add(
        "AveragePool",
        "image",
        kernel_shape=[3, 3],
        strides=[2, 2],
        ceil_mode=1,
        count_include_pad=1,
    )


def _two_sorts_of_pads(net: Any) -> str:
    """Zeros that count and zeros that do not."""
    padded = net.add("Pad", "image", ints(net, 0, 0, 1, 1, 0, 0, 0, 0))
    return net.add("AveragePool", padded, kernel_shape=[3, 3], pads=[0, 0, 1, 1])


def _maximum_behind_a_pad(net: Any) -> str:
    padded = net.add("Pad", "image", ints(net, 0, 0, 1, 1, 0, 0, 1, 1))
    return net.add("MaxPool", padded, kernel_shape=[3, 3])


def _pad_before_a_step(net: Any) -> str:
    return net.add("Relu", net.add("Pad", "image", ints(net, 0, 0, 1, 1, 0, 0, 1, 1)))


def _pad_of_channels(net: Any) -> str:
    return net.conv(net.add("Pad", "image", ints(net, 0, 1, 0, 0, 0, 0, 0, 0)), 4)


def _pad_by_reflection(net: Any) -> str:
    padded = net.add("Pad", "image", ints(net, 0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    return net.conv(padded, 4)


def _pad_with_ones(net: Any) -> str:
    padded = net.add("Pad", "image", ints(net, 0, 0, 1, 1, 0, 0, 1, 1), net.constant(1.0))
    return net.conv(padded, 4)


def _reshape_into_another_image(net: Any) -> str:
    return net.add("Reshape", "image", ints(net, 1, 6, 4, 6))


def _flatten_of_all(net: Any) -> str:
    return net.add("Flatten", "image", axis=2)


def _squeeze_of_an_image(net: Any) -> str:
    return net.add("Squeeze", net.conv("image", 4, (8, 1)), ints(net, 2))


def _mean_over_channels(net: Any) -> str:
    return net.add("ReduceMean", "image", ints(net, 1))


def _concat_of_lines(net: Any) -> str:
    return net.add("Concat", "image", "image", axis=2)


def _slice_of_lines(net: Any) -> str:
    return net.add("Slice", "image", ints(net, 1), ints(net, 3), ints(net, 2))


def _slice_with_gaps(net: Any) -> str:
    bounds = [ints(net, number) for number in (0, 3, 1, 2)]
    return net.add("Slice", "image", *bounds)


def _softmax_of_an_image(net: Any) -> str:
    return net.add("Softmax", "image", axis=1)


def _division(net: Any) -> str:
    return net.add("Div", "image", net.add("Sigmoid", "image"))


def _reciprocal(net: Any) -> str:
    return net.add("Div", net.constant(1.0), net.add("Sigmoid", "image"))


def _one_number_a_pixel(net: Any) -> str:
    return net.add("Mul", "image", net.weight(1, 1, 8, 6))


def _attention_over_pixels(net: Any) -> str:
    return net.add("Mul", net.conv("image", 5), net.conv("image", 1))


def _vector_and_pixel(net: Any) -> str:
    """ONNX lines them up at the last axis: `[1, c, 1, 1] + [1, c]` is `[1, c, 1, c]`."""
    pixel = net.add("GlobalAveragePool", net.conv("image", 4))
    return net.add("Add", pixel, net.add("Flatten", pixel))


def _normalised_vector(net: Any) -> str:
    numbers = [net.constant(np.ones(144)) for _ in range(4)]
    return net.add("BatchNormalization", net.add("Flatten", "image"), *numbers)


def _product_of_activations(net: Any) -> str:
    return net.add("MatMul", "image", net.add("Reshape", "image", ints(net, 1, 3, 6, 8)))


def _small_image(net: Any) -> str:
    return net.add("MaxPool", "image", kernel_shape=[9, 9], pads=[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("build", "op", "why"),
    [
        (_lstm, "LSTM", ""),
        (_resize, "Resize", ""),
        (_einsum, "Einsum", ""),
        (_shape, "Shape", ""),
        (_custom, "Relu", ""),
        (_custom_of_constants, "Relu", "constants"),
        (_unequal_groups, "Conv", "sizes do not fit"),
        (_groups_of_other_inputs, "Conv", "sizes do not fit"),
        (_moving_weights, "Conv", "not a constant"),
        (_transposed, "ConvTranspose", ""),
        (_max_with_indices, "MaxPool", "indices"),
        (_ceil_with_pads_counted, "AveragePool", "ceil_mode"),
        (_two_sorts_of_pads, "AveragePool", "Pad"),
        (_maximum_behind_a_pad, "MaxPool", "Pad"),
        (_pad_before_a_step, "Pad", "window"),
        (_pad_of_channels, "Pad", "height and width"),
        (_pad_by_reflection, "Pad", "zeros"),
        (_pad_with_ones, "Pad", "zeros"),
        (_reshape_into_another_image, "Reshape", "1, c"),
        (_flatten_of_all, "Flatten", "1, c"),
        (_squeeze_of_an_image, "Squeeze", "1, c"),
        (_mean_over_channels, "ReduceMean", "height and width"),
        (_concat_of_lines, "Concat", "channels"),
        (_slice_of_lines, "Slice", "channels"),
        (_slice_with_gaps, "Slice", "channels"),
        (_softmax_of_an_image, "Softmax", "vector"),
        (_division, "Div", "activation"),
        (_reciprocal, "Div", "activation"),
        (_one_number_a_pixel, "Mul", "constant"),
        (_attention_over_pixels, "Mul", ""),
        (_vector_and_pixel, "Add", ""),
        (_normalised_vector, "BatchNormalization", ""),
        (_product_of_activations, "Reshape", ""),
        (_small_image, "MaxPool", "larger"),
    ],
)
def test_refusals_name_operator_and_node(
    build: Callable[[Any], str], op: str, why: str, net: Any, tmp_path: Path
) -> None:
    end = build(net)
    node = [node.name for node in net.nodes if node.op_type == op][-1]
    error = refusal(net, tmp_path, end)
    assert f"the ONNX operator {op} of node '{node}' cannot be compiled" in error.message
    assert why in error.message
    assert "Conv," in error.hint and "Softmax" in error.hint


# Networks that are refused


@pytest.mark.parametrize(
    ("height", "width"), [("height", "width"), (8, None), (0, 8)], ids=["named", "open", "none"]
)
def test_dynamic_sizes_are_refused(height: Any, width: Any, sketch: Any, tmp_path: Path) -> None:
    net = sketch(height, width)
    error = refusal(net, tmp_path, net.add("GlobalAveragePool", "image"))
    assert "not float32 [1, 3, height, width]" in error.message
    assert "fixed sizes" in error.hint


def test_two_inputs_or_outputs_are_refused(net: Any, tmp_path: Path) -> None:
    total = net.add("Add", "image", "other")
    assert (
        "2 inputs and 1 outputs" in refusal(net, tmp_path, total, inputs=("image", "other")).message
    )
    relu = net.head(net.add("Relu", "image"))
    error = refusal(net, tmp_path, relu, net.head("image"), inputs=("image", "other"))
    assert "2 inputs and 2 outputs" in error.message


def test_what_is_no_classifier_is_refused(net: Any, tmp_path: Path) -> None:
    for end in (net.conv("image", 4), net.add("Flatten", "image")):
        error = refusal(net, tmp_path, end)
        assert "the output of net.onnx is no vector [1, k]" in error.message
        assert "classifiers" in error.hint


def test_an_output_that_is_always_the_same_is_refused(net: Any, tmp_path: Path) -> None:
    constant = net.add("Relu", net.weight(1, 5))
    assert "does not depend on its input" in refusal(net, tmp_path, constant).message


# What is read


def test_layers_of_a_network(net: Any, tmp_path: Path) -> None:
    x = net.conv("image", 16, (3, 5), strides=[2, 1], pads=[1, 2, 1, 2], dilations=[1, 1])
    x = net.conv(x, 16, 3, group=16)
    x = net.conv(x, 24, 1, group=4)
    graph = read(net, tmp_path, net.head(x, 7))
    first, second, third, last = graph.layers
    assert [layer.op for layer in graph.layers] == ["conv2d", "depthwise", "grouped", "conv2d"]
    assert first.output.shape == (4, 6, 16)
    assert second.output.shape == (2, 4, 16)
    assert (third.output.shape, third.groups) == ((2, 4, 24), 4)
    assert first.window is not None
    assert (first.window.kernel, first.window.strides) == ((3, 5), (2, 1))
    assert first.window.pads == (1, 2, 1, 2)
    assert first.macs == 16 * 3 * 15 * 4 * 6
    assert second.macs == 16 * 9 * 2 * 4
    assert third.macs == 24 * 4 * 2 * 4
    assert last.macs == 7 * 24 * 2 * 4
    assert graph.macs == first.macs + second.macs + third.macs + last.macs
    assert (graph.output.channels, graph.output.rank) == (7, 2)
    assert [layer.sources for layer in graph.layers] == [
        (node.name,) for node in net.nodes if node.op_type in ("Conv", "Gemm")
    ]


def test_nodes_without_a_name_are_named_by_their_place(net: Any, tmp_path: Path) -> None:
    end = net.head(net.add("Relu", net.conv("image", 8)))
    for node in net.nodes:
        node.name = ""
    graph = read(net, tmp_path, end)
    assert graph.layers[0].sources == ("Conv_1",)
    assert graph.layers[1].sources == ("Relu_2",)


def test_what_depends_on_constants_only_is_folded(net: Any, tmp_path: Path) -> None:
    """A weight that is computed, and a shape put together from pieces."""
    given = net.weight(3, 4, 1, 1)
    doubled = net.add("Mul", given, net.constant(2.0))
    weight = net.add("Transpose", doubled, perm=[1, 0, 2, 3])
    x = net.add("GlobalAveragePool", net.add("Conv", "image", weight))
    one = net.add("Cast", net.constant(1.0), to=7)
    rest = net.add("Neg", one)
    axes = ints(net, 0)
    shape = net.add(
        "Concat", net.add("Unsqueeze", one, axes), net.add("Unsqueeze", rest, axes), axis=0
    )
    graph = read(net, tmp_path, net.add("Reshape", x, shape))
    assert [layer.op for layer in graph.layers] == ["conv2d", "global_pool"]
    folded = graph.layers[0].weight
    assert folded is not None
    assert folded.shape == (4, 3, 1, 1)
    original = np.random.default_rng(net.seed).normal(size=(3, 4, 1, 1)) / 2
    np.testing.assert_allclose(folded[:, :, 0, 0].T, 2 * original[:, :, 0, 0], rtol=1e-5)
    assert graph.output.rank == 2


def test_a_pad_becomes_part_of_every_window_that_follows(net: Any, tmp_path: Path) -> None:
    padded = net.add("Pad", "image", ints(net, 0, 0, 1, 2, 0, 0, 3, 4))
    left = net.conv(padded, 4, 3, pads=[1, 0, 0, 0])
    right = net.conv(padded, 4, 3, pads=[1, 0, 0, 0])
    graph = read(net, tmp_path, net.head(net.add("Add", left, right)))
    for layer in graph.layers[:2]:
        assert layer.window is not None
        assert layer.window.pads == (2, 2, 3, 4)
        assert layer.inputs == ("image",)
        assert layer.sources[0].startswith("pad") and layer.sources[1].startswith("conv")
    assert len(graph.layers) == 4


def test_zeros_of_a_pad_count_in_an_average(net: Any, tmp_path: Path) -> None:
    padded = net.add("Pad", "image", ints(net, 0, 0, 1, 1, 0, 0, 1, 1))
    graph = read(net, tmp_path, net.head(net.add("AveragePool", padded, kernel_shape=[3, 3])))
    assert graph.layers[0].window is not None
    assert graph.layers[0].window.count_pads


def _pooled(net: Any) -> str:
    return net.add("GlobalAveragePool", net.conv("image", 4))


def _means(net: Any, keepdims: int, *axes: int) -> str:
    return net.add("ReduceMean", net.conv("image", 4), ints(net, *axes), keepdims=keepdims)


@pytest.mark.parametrize(
    "build",
    [
        lambda net: net.add("Flatten", _pooled(net)),
        lambda net: net.add("Reshape", _pooled(net), ints(net, 1, -1)),
        lambda net: net.add("Reshape", _pooled(net), ints(net, -1, 4)),
        lambda net: net.add("Reshape", _pooled(net), ints(net, 0, -1)),
        lambda net: net.add("Reshape", _pooled(net), ints(net, 1, 4)),
        lambda net: net.add("Squeeze", _pooled(net), ints(net, 2, 3)),
        lambda net: net.add("Squeeze", _pooled(net), ints(net, -1, -2)),
        lambda net: _means(net, 0, 2, 3),
        lambda net: _means(net, 0, -1, -2),
        lambda net: net.add("Flatten", _means(net, 1, 3, 2)),
        lambda net: net.add("Identity", net.add("Dropout", net.add("Flatten", _pooled(net)))),
        lambda net: net.add(
            "Flatten", net.add("Unsqueeze", net.add("Flatten", _pooled(net)), ints(net, 2, 3))
        ),
        lambda net: net.add(
            "Flatten", net.add("Reshape", net.add("Flatten", _pooled(net)), ints(net, 1, 4, 1, 1))
        ),
    ],
)
def test_views_are_no_layers(build: Callable[[Any], str], net: Any, tmp_path: Path) -> None:
    graph = read(net, tmp_path, build(net))
    assert [layer.op for layer in graph.layers] == ["conv2d", "global_pool"]
    assert (graph.output.channels, graph.output.rank) == (4, 2)


def test_axes_as_attributes(sketch: Callable[..., Any], tmp_path: Path) -> None:
    """As operator sets before 13 have them."""
    net = sketch(8, 6, opset=9)
    x = net.add("Slice", net.conv("image", 8), axes=[1], starts=[2], ends=[7])
    x = net.add("Clip", x, min=0.0, max=6.0)
    x = net.add("ReduceMean", x, axes=[2, 3], keepdims=1)
    graph = read(net, tmp_path, net.add("Squeeze", x, axes=[2, 3]))
    assert [layer.op for layer in graph.layers] == [
        "conv2d",
        "select",
        "elementwise",
        "global_pool",
    ]
    assert graph.layers[1].parts == (Part(0, 2, 7),)
    assert graph.layers[2].epilogue[0].operand == (0.0, 6.0)
    assert graph.output.channels == 5


def test_slices_count_from_both_ends(net: Any, tmp_path: Path) -> None:
    x = net.conv("image", 8)
    last = net.add("Slice", x, ints(net, -3), ints(net, 2**62), ints(net, -3))
    graph = read(net, tmp_path, net.head(last))
    assert graph.layers[1].parts == (Part(0, 5, 8),)


def test_what_nothing_needs_is_not_read(net: Any, tmp_path: Path) -> None:
    x = net.conv("image", 4)
    output = net.head(x)
    net.add("Relu", output)
    net.conv(x, 8)
    assert len(read(net, tmp_path, output).layers) == 2


def test_weights_that_do_not_fit_are_refused(net: Any, tmp_path: Path) -> None:
    """The file's own check does not look at sizes."""
    end = net.head(net.add("Conv", "image", net.weight(4, 2, 1, 1)))
    assert "sizes do not fit" in refusal(net, tmp_path, end).message

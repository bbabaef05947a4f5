"""ONNX files in QDQ form: which layers can be int8, which tensors they read, and the new graph.

The compiler relies on the form. An int8 layer reads a DequantizeLinear, which all readers of that
tensor share, so that memory holds one int8 copy of it; its weights are an int8 initializer behind a
DequantizeLinear with a scale for each output channel. Nothing else is quantised, but for the input
of a maximum pool in front of such a layer: the maximum of int8 numbers is that of the real ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import InputError

from .ranges import Affine, Weights

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INTEGER = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
_SAME_NUMBERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Identity")
OLDEST_OPSET = 13
"""The first in which DequantizeLinear takes a scale for each channel."""
_AGAIN = "write it again: edgecompress export, or edgecompress compress"


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer that can be int8.

    Attributes:
        index: of its node in the graph.
        name: its node's name, or one from its place.
        op: `Conv`, `Gemm` or `MatMul`.
        input: the activation that is quantised: what the node reads, or what a Pad before it reads.
        output: the tensor that it makes.
        weight: the name of its weights.
        bias: the name of its bias, or None.
        axis: of the weights, where the output channels are.
        channels: outputs.
    """

    index: int
    name: str
    op: str
    input: str
    output: str
    weight: str
    bias: str | None
    axis: int
    channels: int


@dataclass(frozen=True)
class Graph:
    """A float network, read for quantisation.

    Attributes:
        model: the ONNX `ModelProto`; never changed.
        constants: float and other constants by name.
        input: name of the image.
        output: name of the logits.
        side: of the image, pixels.
        layers: what can be int8, in order of execution.
        pools: each tensor made by a MaxPool, with the tensor that this reads; reshapes between
            them count as the pool's.
    """

    model: Any
    constants: Mapping[str, np.ndarray]
    input: str
    output: str
    side: int
    layers: tuple[Layer, ...]
    pools: Mapping[str, str]

    def pooled(self, tensor: str) -> list[str]:
        """The inputs of the maximum pools that made a tensor, nearest first."""
        found = []
        while tensor in self.pools:
            tensor = self.pools[tensor]
            found.append(tensor)
        return found

    def pairs(self, layers: Iterable[Layer]) -> set[str]:
        """The tensors that get a pair where these layers are int8."""
        read = {layer.input for layer in layers}
        return read | {source for tensor in read for source in self.pooled(tensor)}

    def groups(self) -> list[set[str]]:
        """The tensors that may get a pair; those in one set need the same quantiser."""
        groups: list[set[str]] = []
        for layer in self.layers:
            chain = {layer.input, *self.pooled(layer.input)}
            joined = [group for group in groups if group & chain]
            groups = [group for group in groups if not group & chain]
            groups.append(chain.union(*joined))
        return groups


@dataclass(frozen=True)
class Quantisers:
    """All numbers that a QDQ file needs.

    Attributes:
        activations: of each tensor that may get a pair.
        weights: of each layer, by its name.
        corrections: float32 `[channels]` to add to a layer's bias, by its name.
    """

    activations: Mapping[str, Affine]
    weights: Mapping[str, Weights]
    corrections: Mapping[str, np.ndarray]


def read_graph(path: Path) -> Graph:
    """Read a float ONNX classifier.

    Raises:
        InputError: it is missing, damaged, quantised already, no image classifier, or has no layer
            that can be int8.
    """
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise InputError(f"no such ONNX file: {path}", _AGAIN) from None
    except Exception as error:  # protobuf, onnx and the file system each have their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot read {path}: {first}", _AGAIN) from error
    opset = max(
        (one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0
    )
    if opset < OLDEST_OPSET:
        raise InputError(f"{path} has opset {opset}; int8 needs {OLDEST_OPSET} or newer", _AGAIN)
    graph = model.graph
    if any(node.op_type in (*_QUANTISED, *_INTEGER) for node in graph.node):
        raise InputError(f"{path} is quantised already", "give the float32 file it was made from")
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    images = [one for one in graph.input if one.name not in constants]
    shape = [dim.dim_value for dim in images[0].type.tensor_type.shape.dim] if images else []
    if len(images) != 1 or len(graph.output) != 1 or shape[:2] != [1, 3] or len(shape) != 4:
        raise InputError(
            f"{path} is no image classifier: it needs one input [1, 3, r, r] and one output", _AGAIN
        )
    makers = {name: node for node in graph.node for name in node.output}
    layers = tuple(
        layer
        for index, node in enumerate(graph.node)
        if (layer := _layer(node, index, constants, makers)) is not None
    )
    if not layers:
        raise InputError(
            f"{path} has no convolution or dense layer that can be int8", "give --precision float32"
        )
    pools = {name: source for name in makers if (source := _pool_input(name, makers)) is not None}
    return Graph(
        model, constants, images[0].name, graph.output[0].name, shape[2], layers, dict(pools)
    )


def _layer(
    node: Any, index: int, constants: Mapping[str, np.ndarray], makers: Mapping[str, Any]
) -> Layer | None:
    """The layer that a node is, or None where it cannot be int8."""
    from onnx import helper

    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] in constants:
        return None
    weight = constants.get(node.input[1])
    ranks = {"Conv": 4, "Gemm": 2, "MatMul": 2}
    if weight is None or weight.dtype != np.float32 or weight.ndim != ranks[node.op_type]:
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    # Scaled sums would need a correction of their own; no exporter that we know writes them.
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    if not plain or attributes.get("transA", 0):
        return None
    axis = 0 if node.op_type == "Conv" or attributes.get("transB", 0) else 1
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and bias not in constants:
        return None
    source = node.input[0]
    before = makers.get(source)
    if node.op_type == "Conv" and before is not None and _pads_zeros(before, constants):
        source = before.input[0]  # zero is exact, and the compiler makes padding part of the window
    return Layer(
        index=index,
        name=node.name or f"{node.op_type}_{index}",
        op=node.op_type,
        input=source,
        output=node.output[0],
        weight=node.input[1],
        bias=bias,
        axis=axis,
        channels=weight.shape[axis],
    )


def _pads_zeros(node: Any, constants: Mapping[str, np.ndarray]) -> bool:
    if node.op_type != "Pad":
        return False
    modes = [item.s for item in node.attribute if item.name == "mode"]
    value = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    return modes in ([], [b"constant"]) and value is not None and not np.any(value)


def _pool_input(tensor: str, makers: Mapping[str, Any]) -> str | None:
    """What the MaxPool reads that made a tensor; None where another operator made it."""
    node = makers.get(tensor)
    while node is not None and node.op_type in _SAME_NUMBERS:
        node = makers.get(node.input[0])
    return node.input[0] if node is not None and node.op_type == "MaxPool" else None


def write_qdq(graph: Graph, quantisers: Quantisers, kept: Collection[str] = ()) -> Any:
    """The network in QDQ form, as a checked `ModelProto`.

    Args:
        kept: names of layers that stay float32.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    layers = [layer for layer in graph.layers if layer.name not in kept]
    writer = _Writer(model)
    renamed = {
        tensor: writer.pair(tensor, quantisers.activations[tensor])
        for tensor in sorted(graph.pairs(layers))
    }
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in renamed:
                node.input[place] = renamed[name]
    for layer in layers:
        node = model.graph.node[layer.index]
        node.input[1] = writer.weights(layer, quantisers.weights[layer.name])
        correction = quantisers.corrections.get(layer.name)
        if correction is not None and layer.op != "MatMul":
            old = 0.0 if layer.bias is None else graph.constants[layer.bias]
            bias = np.asarray(old + correction, np.float32)
            name = writer.constant(f"{layer.name}_bias_corrected", bias)
            del node.input[2:]
            node.input.append(name)
    writer.insert(graph)
    read = {name for node in model.graph.node for name in node.input}
    unused = [one for one in model.graph.initializer if one.name not in read]
    for one in unused:
        model.graph.initializer.remove(one)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in writer.constants.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """New constants and nodes of a graph, under names that it does not have yet."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self._model = model
        self._taken = {one.name for one in graph.initializer} | {one.name for one in graph.input}
        self._taken |= {name for node in graph.node for name in (node.name, *node.output)}
        self.constants: dict[str, np.ndarray] = {}
        self._pairs: dict[str, list[Any]] = {}
        self._before: dict[int, Any] = {}

    def name(self, wish: str) -> str:
        """`wish`, or with a number behind it where the graph has that already."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name

    def constant(self, wish: str, value: np.ndarray) -> str:
        """The name of a new initializer."""
        name = self.name(wish)
        self.constants[name] = value
        return name

    def pair(self, tensor: str, quantiser: Affine) -> str:
        """The name of a tensor's int8 copy, read back as float32."""
        from onnx import helper

        scale = self.constant(f"{tensor}_scale", np.array(quantiser.scale, np.float32))
        zero = self.constant(f"{tensor}_zero_point", np.array(quantiser.zero_point, np.int8))
        small, restored = self.name(f"{tensor}_int8"), self.name(f"{tensor}_restored")
        self._pairs[tensor] = [
            helper.make_node(
                "QuantizeLinear", [tensor, scale, zero], [small], self.name(f"{tensor}_quantize")
            ),
            helper.make_node(
                "DequantizeLinear",
                [small, scale, zero],
                [restored],
                self.name(f"{tensor}_dequantize"),
            ),
        ]
        return restored

    def weights(self, layer: Layer, weights: Weights) -> str:
        """The name of a layer's int8 weights, read back as float32."""
        from onnx import helper

        values = self.constant(f"{layer.name}_weight_int8", weights.values)
        scale = self.constant(f"{layer.name}_weight_scale", weights.scales)
        zeros = np.zeros(len(weights.scales), np.int8)
        zero = self.constant(f"{layer.name}_weight_zero_point", zeros)
        restored = self.name(f"{layer.name}_weight_restored")
        self._before[layer.index] = helper.make_node(
            "DequantizeLinear",
            [values, scale, zero],
            [restored],
            self.name(f"{layer.name}_weight_dequantize"),
            axis=weights.axis,
        )
        return restored

    def insert(self, graph: Graph) -> None:
        """Put the new nodes where they belong: a pair behind what makes its tensor."""
        nodes = list(self._pairs.get(graph.input, []))
        for index, node in enumerate(self._model.graph.node):
            if index in self._before:
                nodes.append(self._before[index])
            nodes.append(node)
            for name in node.output:
                nodes += self._pairs.get(name, [])
        del self._model.graph.node[:]
        self._model.graph.node.extend(nodes)

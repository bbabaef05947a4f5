"""A float ONNX network as quantisation sees it: layers that can be int8, and tensors they read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import InputError

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

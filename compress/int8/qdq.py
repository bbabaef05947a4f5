"""ONNX files in QDQ form.

The compiler relies on the form. An int8 layer reads a DequantizeLinear, which all readers of that
tensor share, so that memory holds one int8 copy of it; its weights are an int8 initializer behind a
DequantizeLinear with a scale for each output channel. Nothing else is quantised, but for the input
of a maximum pool in front of such a layer: the maximum of int8 numbers is that of the real ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import Graph, Layer
from .ranges import Affine, Weights


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

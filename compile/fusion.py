"""Fusion of layers: elementwise steps join the operator before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from .graph import Graph, Layer, Step, Value

_COMMUTE = ("add", "mul")


def fuse_elementwise(graph: Graph) -> Graph:
    """Append elementwise layers to the epilogue of the layer that made their input.

    Bias, ReLU, ReLU6 and the residual sum end up in the convolution before them. Of a sum's two
    convolutions the later one takes it: by then the other operand is there.
    """
    layers: list[Layer] = []
    uses = Counter(name for layer in graph.layers for name in layer.reads)
    for layer in graph.layers:
        place = _host(layer, layers, uses, graph.output)
        if place is None:
            layers.append(layer)
        else:
            layers[place] = _joined(layers[place], layer)
    live = {value.name: value for value in (graph.input, *(layer.output for layer in layers))}
    return replace(graph, layers=tuple(layers), values=live)


def _host(layer: Layer, before: list[Layer], uses: Counter[str], output: Value) -> int | None:
    """The place of the layer that can take this one's steps, or None."""
    if layer.op != "elementwise":
        return None
    made = {earlier.output.name: place for place, earlier in enumerate(before)}
    available = [made.get(name, -1) for name in layer.reads]
    first = layer.epilogue[0]
    candidates = [layer.inputs[0]]
    if first.kind in _COMMUTE and isinstance(first.operand, str):
        candidates.append(first.operand)
    for name in candidates:
        place = made.get(name, -1)
        if place < 0 or uses[name] != 1 or name == output.name:
            continue
        host = before[place]
        # What is quantised is rounded: no step can follow in the same kernel.
        if host.op == "softmax" or host.output.quantization is not None:
            continue
        if place == max(available) and host.output.shape == layer.output.shape:
            return place
    return None


def _joined(host: Layer, layer: Layer) -> Layer:
    steps = layer.epilogue
    if host.output.name != layer.inputs[0]:
        steps = (Step(steps[0].kind, layer.inputs[0]), *steps[1:])
    return replace(
        host,
        output=layer.output,
        epilogue=(*host.epilogue, *steps),
        sources=(*host.sources, *layer.sources),
    )

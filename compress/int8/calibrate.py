"""What a network's tensors are like on photos, and the int8 quantisers that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress import events
from edgecompress.errors import CompileError

from ...runner.spec import Preprocess
from ..data.pixels import normalised
from ..networks.session import Session
from .graph import Graph, Layer
from .qdq import Quantisers
from .ranges import BINS, Affine, Histogram, count, input_range, least_error, quantise_weights

Run = Any
"""A float32 `[1, 3, r, r]` in, the wanted tensors out."""


def logits(
    model: Path | Any, name: str, photos: np.ndarray, preprocess: Preprocess, label: str = ""
) -> np.ndarray:
    """A network's answers.

    Args:
        model: a path, or an ONNX `ModelProto`.
        photos: uint8 `[n, r, r, 3]`.
        label: of the progress that is shown; none without it.

    Returns:
        float32 `[n, classes]`.
    """
    session = Session(model, name)
    places = range(len(photos))
    rows = [
        session(normalised(photos[i : i + 1], preprocess))[0].reshape(-1)
        for i in (events.track(places, label) if label else places)
    ]
    return np.stack(rows)


def find_quantisers(
    graph: Graph, name: str, photos: np.ndarray, preprocess: Preprocess, *, paired: bool = False
) -> Quantisers:
    """Quantisers for every layer that can be int8, from what its tensors are on photos.

    Args:
        photos: uint8 `[n, r, r, 3]`, as the runner makes them.
        paired: weights as `quantise_weights` limits them.

    Raises:
        CompileError: the network does not run, or has values that are not finite.
    """
    histograms = _histograms(graph, name, photos, preprocess)
    activations: dict[str, Affine] = {}
    for group in graph.groups():
        if graph.input in group:
            quantiser = input_range(preprocess)
        else:
            quantiser = least_error([histograms[one] for one in sorted(group & set(histograms))])
        activations |= dict.fromkeys(group, quantiser)
    weights = {
        layer.name: quantise_weights(graph.constants[layer.weight], layer.axis, paired=paired)
        for layer in graph.layers
    }
    found = Quantisers(activations, weights, {})
    corrections = _corrections(graph, name, photos, preprocess, found)
    return Quantisers(activations, weights, corrections)


def _photos(photos: np.ndarray, preprocess: Preprocess, label: str) -> Iterator[np.ndarray]:
    for place in events.track(range(len(photos)), label):
        yield normalised(photos[place : place + 1], preprocess)


def _histograms(
    graph: Graph, name: str, photos: np.ndarray, preprocess: Preprocess
) -> dict[str, Histogram]:
    """Of every tensor that an int8 layer would read, but the image."""
    from onnx import helper

    tensors = sorted({layer.input for layer in graph.layers} - {graph.input})
    if not tensors:
        return {}
    nodes, outputs = [], []
    for tensor in tensors:
        for kind in ("ReduceMin", "ReduceMax"):
            outputs.append(f"{tensor}_{kind}")
            nodes.append(helper.make_node(kind, [tensor], [outputs[-1]], keepdims=0))
    extremes = Session(_probing(graph, nodes, outputs), name)
    seen = [
        [float(one) for one in extremes(image)]
        for image in _photos(photos, preprocess, f"extremes of {name}")
    ]
    table = np.array(seen)
    if not np.isfinite(table).all():
        raise CompileError(f"{name} has values that are not finite", "give --precision float32")
    lows, highs = table[:, 0::2].min(axis=0), table[:, 1::2].max(axis=0)
    totals = [np.zeros(BINS, np.int64) for _ in tensors]
    probe = Session(_probing(graph, [], tensors), name)
    for image in _photos(photos, preprocess, f"ranges of {name}"):
        for place, values in enumerate(probe(image)):
            totals[place] += count(values, lows[place], highs[place])
    return {
        tensor: Histogram(float(low), float(high), total)
        for tensor, low, high, total in zip(tensors, lows, highs, totals, strict=True)
    }


def _corrections(
    graph: Graph, name: str, photos: np.ndarray, preprocess: Preprocess, found: Quantisers
) -> dict[str, np.ndarray]:
    """What to add to each layer's bias so that its mean outputs are the float network's.

    Each layer is measured alone, on the float network's activations: its correction then does not
    depend on which of the others are int8.
    """
    from onnx import helper, numpy_helper

    layers = [layer for layer in graph.layers if layer.op != "MatMul"]
    nodes: list[Any] = []
    constants: list[Any] = []
    outputs: list[str] = []
    for layer in layers:
        quantiser, weights = found.activations[layer.input], found.weights[layer.name]
        values = {
            "scale": np.array(quantiser.scale, np.float32),
            "zero": np.array(quantiser.zero_point, np.int8),
            "weight": weights.restore(),
        }
        names = {key: f"twin/{layer.name}/{key}" for key in (*values, "int8", "x", "y", "mean")}
        constants += [numpy_helper.from_array(value, names[key]) for key, value in values.items()]
        pair = [names["scale"], names["zero"]]
        nodes.append(helper.make_node("QuantizeLinear", [layer.input, *pair], [names["int8"]]))
        nodes.append(helper.make_node("DequantizeLinear", [names["int8"], *pair], [names["x"]]))
        nodes += _twin(graph, layer, names)
        outputs.append(names["mean"])
    session = Session(_probing(graph, nodes, outputs, constants), name)
    totals = [np.zeros(layer.channels) for layer in layers]
    for image in _photos(photos, preprocess, f"biases of {name}"):
        for place, difference in enumerate(session(image)):
            totals[place] += difference
    return {
        layer.name: (total / len(photos)).astype(np.float32)
        for layer, total in zip(layers, totals, strict=True)
    }


def _twin(graph: Graph, layer: Layer, names: dict[str, str]) -> list[Any]:
    """The layer once more, on its int8 numbers, and the mean of what is missing in its output."""
    from onnx import NodeProto, helper

    original = graph.model.graph.node[layer.index]
    nodes = []
    read = names["x"]
    if original.input[0] != layer.input:  # a Pad stands between
        before = next(one for one in graph.model.graph.node if original.input[0] in one.output)
        pad = NodeProto()
        pad.CopyFrom(before)
        pad.input[0], pad.output[0], pad.name = read, f"{read}/padded", ""
        nodes.append(pad)
        read = pad.output[0]
    twin = NodeProto()
    twin.CopyFrom(original)
    twin.input[0], twin.input[1], twin.output[0], twin.name = read, names["weight"], names["y"], ""
    missing = f"{names['mean']}/of"
    axes = f"{names['mean']}/axes"
    over = [0, 2, 3] if layer.op == "Conv" else [0]
    nodes += [
        twin,
        helper.make_node("Sub", [layer.output, names["y"]], [missing]),
        helper.make_node("Constant", [], [axes], value_ints=over),
        helper.make_node("ReduceMean", [missing, axes], [names["mean"]], keepdims=0),
    ]
    return nodes


def _probing(
    graph: Graph, nodes: Sequence[Any], outputs: Sequence[str], constants: Sequence[Any] = ()
) -> Any:
    """The network with more nodes, and these outputs instead of its own."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
    )
    return model

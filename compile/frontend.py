"""From an ONNX file to layers.

The file's own layout ends here: `[1, c, h, w]` becomes NHWC without a transpose in the graph,
because every operator is read by what it means for channels, height and width. TVM's importer
keeps NCHW, and its layout conversion fails on pooling (docs/kernels.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import CompileError, InputError

from .graph import Graph, Layer, Value
from .operators import HANDLERS, Node, Reading, dequantize_constant, unsupported

_EXPORT_AGAIN = "export the network again: edgecompress export"


def read_onnx(path: Path) -> Graph:
    """Read a classifier: one float32 input `[1, 3, r, r]`, one output `[1, k]`, static shapes.

    Raises:
        InputError: the file is missing, or no whole ONNX file.
        CompileError: it has an operator or a shape that cannot be compiled; the message names the
            operator and the node.
    """
    model = _load(path)
    graph = model.graph
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise CompileError(
            f"{path.name} has {len(inputs)} inputs and {len(graph.output)} outputs, not one of each"
        )
    reading = Reading(constants, _input(inputs[0], path))
    for index, proto in enumerate(graph.node):
        _read_node(Node.of(proto, index), proto, reading, model)
    output = reading.values.get(graph.output[0].name)
    if output is None:
        raise CompileError(f"the output of {path.name} does not depend on its input")
    if output.rank != 2 or output.height * output.width != 1:
        raise CompileError(
            f"the output of {path.name} is no vector [1, k]", "only classifiers can be compiled"
        )
    return Graph(reading.input, output, _needed(reading.layers, output), reading.activations)


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"no such ONNX file: {path}")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cause = f"{path.name} is not a whole ONNX file: {lines[0]}"
        raise InputError(cause, _EXPORT_AGAIN) from error
    return model


def _input(info: Any, path: Path) -> Value:
    tensor = info.type.tensor_type
    dims = [item.dim_value for item in tensor.shape.dim]
    if tensor.elem_type != 1 or len(dims) != 4 or dims[:2] != [1, 3] or min(dims) < 1:
        raise CompileError(
            f"the input of {path.name} is {dims}, not float32 [1, 3, height, width]",
            "export with a batch of one and fixed sizes",
        )
    return Value(info.name, 3, dims[2], dims[3])


def _array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _read_node(node: Node, proto: Any, reading: Reading, model: Any) -> None:
    read = [name for name in proto.input if name]
    if all(name in reading.constants for name in read):
        if node.op == "DequantizeLinear":
            dequantize_constant(node, reading)
        else:
            _fold(node, proto, reading, model)
        return
    handler = HANDLERS.get(node.op) if node.domain in ("", "ai.onnx") else None
    if handler is None:
        raise unsupported(node)
    handler(node, reading)


def _needed(layers: list[Layer], output: Value) -> tuple[Layer, ...]:
    """The layers that the output depends on."""
    needed, kept = {output.name}, []
    for layer in reversed(layers):
        if layer.output.name in needed:
            needed.update(layer.reads)
            kept.append(layer)
    return tuple(reversed(kept))


def _fold(node: Node, proto: Any, reading: Reading, model: Any) -> None:
    """Run a node that depends on constants only."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name in dict.fromkeys(proto.input)
        if name and (value := reading.constants[name]) is not None
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in proto.output]
    graph = helper.make_graph([proto], "constant", infos, outputs)
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        results = ReferenceEvaluator(single).run(
            None, {info.name: reading.constants[info.name] for info in infos}
        )
    except Exception as error:  # the evaluator has no error type of its own
        raise unsupported(node, "cannot be computed from its constants") from error
    for name, result in zip(proto.output, results, strict=True):
        reading.constants[name] = np.asarray(result)

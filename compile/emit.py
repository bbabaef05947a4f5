"""From layers to one Relax function that calls TIR kernels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..runner.spec import Preprocess
from .graph import Graph
from .kernels import Kernel, build_kernel
from .machine import Machine

if TYPE_CHECKING:
    from tvm import IRModule

CALLS = "edgecompress.calls"


def emit(graph: Graph, machine: Machine, preprocess: Preprocess) -> IRModule:
    """A module with `main` and the distinct kernels; equal kernels are there once."""
    import tvm.relax
    from tvm.relax import BlockBuilder

    relax: Any = tvm.relax  # its declared argument types leave out tuples and lists

    builder = BlockBuilder()
    image = graph.input
    source = (image.name, preprocess)
    x = relax.Var("image", relax.TensorType((1, image.height, image.width, 3), "uint8"))
    places: dict[str, Any] = {image.name: x}
    calls = []
    with builder.function("main", [x]):
        with builder.dataflow():
            result: Any = None
            for layer in graph.layers:
                final = layer.output.name == graph.output.name
                kernel = build_kernel(layer, graph.values, machine, source, final)
                func = builder.add_func(
                    kernel.func.without_attr("global_symbol"), kernel_name(kernel)
                )
                arguments = [places[name] for name in kernel.activations]
                arguments += [relax.const(array) for array in kernel.constants]
                info = relax.TensorType(kernel.shape, kernel.dtype)
                call = relax.call_tir(func, arguments, info)
                result = builder.emit_output(call) if final else builder.emit(call)
                places[layer.output.name] = result
                calls.append(
                    {
                        "kernel": func.name_hint,
                        "op": layer.op,
                        "name": layer.sources[0],
                        "macs": layer.macs,
                        "source": list(layer.sources),
                    }
                )
        builder.emit_func_output(places[graph.output.name])
    return builder.finalize().with_attr(CALLS, json.dumps(calls))


def kernel_name(kernel: Kernel) -> str:
    """Operator, window and sizes in one word: what profiles show."""
    attributes = kernel.func.attrs
    parts = [str(attributes["edgecompress.op"])]
    if "edgecompress.type" in attributes:
        parts.append(str(attributes["edgecompress.type"]))
    if "edgecompress.window" in attributes:
        parts.append(str(attributes["edgecompress.window"]))
    # Ends in a letter: kernels that differ and would be called alike get a number behind it.
    parts.append("x".join(map(str, kernel.shape[1:])) + "c")
    return "_".join(parts)

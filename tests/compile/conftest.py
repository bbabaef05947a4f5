"""Fixtures of the compile room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save, shape_inference


@dataclass
class Sketch:
    """An ONNX network under construction; what adds a node gives the name of its output.

    Weights are random, so that a swapped axis or a pixel left out changes the result.
    """

    height: int
    width: int
    opset: int = 18
    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def constant(self, value: Any, dtype: str = "float32") -> str:
        name = f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        """Scaled so that activations keep their size from layer to layer."""
        scale = np.sqrt(np.prod(shape[1:]))
        return self.constant(self.random.normal(size=shape) / scale)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        number = len(self.nodes)
        names = [f"{op.lower()}{number}_out{place}" for place in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=f"{op.lower()}{number}", **attributes)
        self.nodes.append(node)
        return names[0]

    def conv(
        self, x: str, outputs: int, kernel: int | tuple[int, int] = 1, **attributes: Any
    ) -> str:
        """A convolution with a bias; with `group` equal to `outputs` a depthwise one."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        inputs = self.shape(x)[1] // attributes.get("group", 1)
        weight, bias = self.weight(outputs, inputs, kh, kw), self.weight(outputs, 1)
        flat = self.add("Reshape", bias, self.constant([-1], "int64"))
        return self.add("Conv", x, weight, flat, **attributes)

    def head(self, x: str, classes: int = 5) -> str:
        """Sums of all numbers of an activation, each with a weight of its own."""
        flat = self.add("Flatten", x)
        weight, bias = self.weight(classes, self.shape(flat)[1]), self.weight(classes)
        return self.add("Gemm", flat, weight, bias, transB=1)

    def shape(self, name: str) -> list[int]:
        """The shape of an activation as ONNX itself infers it."""
        if name == "image":
            return [1, 3, self.height, self.width]
        inferred = shape_inference.infer_shapes(self._model({name: None}))
        return [dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim]

    def _model(self, outputs: dict[str, Any], inputs: tuple[str, ...] = ("image",)) -> Any:
        def info(name: str, shape: Any) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [info(name, [1, 3, self.height, self.width]) for name in inputs],
            [info(name, shape) for name, shape in outputs.items()],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in self.domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def save(self, path: Path, *outputs: str, inputs: tuple[str, ...] = ("image",)) -> Path:
        # What has no shape that ONNX knows is called a vector: the reader asks its own shapes.
        shapes = {name: self.shape(name) or [1, 5] for name in outputs}
        save(self._model(shapes, inputs), path)
        return path


@pytest.fixture(scope="session")
def sketch() -> Callable[..., Sketch]:
    """`sketch(height, width)`: an ONNX network to add nodes to, with the input `image`."""
    return Sketch

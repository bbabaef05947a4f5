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


@dataclass
class QdqSketch(Sketch):
    """A network under construction in QDQ form.

    Attributes:
        largest: of the weights, whole numbers. Two of 64 are what every instruction can sum: up to
            that no core rounds weights to larger steps.
    """

    largest: int = 64

    def quantised(
        self, x: str, scale: float = 0.0207, zero: int = 0, dtype: str = "int8", undo: float = 1
    ) -> str:
        """A pair of QuantizeLinear and DequantizeLinear.

        Args:
            undo: times the scale: what the second of the two has for it.
        """
        place = self.constant(zero, dtype)
        whole = self.add("QuantizeLinear", x, self.constant(scale), place)
        return self.add("DequantizeLinear", whole, self.constant(scale * undo), place)

    def whole_weight(self, *shape: int, axis: int = 0, each: bool = True) -> str:
        """Whole weights behind a DequantizeLinear; scaled so that activations keep their size.

        Args:
            axis: of the outputs.
            each: a scale for each output, not one for all.
        """
        whole = self.random.integers(-self.largest, self.largest + 1, shape)
        return self.whole_constant(whole, axis, each)

    def whole_constant(self, whole: np.ndarray, axis: int = 0, each: bool = True) -> str:
        """These whole weights behind a DequantizeLinear."""
        outputs = whole.shape[axis]
        summands = whole.size / outputs
        scale = self.random.uniform(0.8, 1.6, outputs if each else ())
        scale = scale / (0.6 * self.largest * np.sqrt(summands))
        weight, scales = self.constant(whole, "int8"), self.constant(scale)
        return self.add("DequantizeLinear", weight, scales, **({"axis": axis} if each else {}))

    def whole_conv(
        self,
        x: str,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        *,
        each: bool = True,
        **attributes: Any,
    ) -> str:
        """A convolution of whole weights with a bias."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        inputs = self.shape(x)[1] // attributes.get("group", 1)
        weight = self.whole_weight(outputs, inputs, kh, kw, each=each)
        bias = self.constant(self.random.normal(size=outputs) / 4)
        return self.add("Conv", x, weight, bias, **attributes)


@pytest.fixture(scope="session")
def qdq() -> Callable[..., QdqSketch]:
    """`qdq(height, width)`: an ONNX network in QDQ form to add nodes to."""
    return QdqSketch


@pytest.fixture(scope="session")
def sketch() -> Callable[..., Sketch]:
    """`sketch(height, width)`: an ONNX network to add nodes to, with the input `image`."""
    return Sketch

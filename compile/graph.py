"""A classifier as layers: what stands between an ONNX file and TIR kernels.

Activations are `[1, height, width, channels]` throughout (NHWC); a vector of k numbers is
`[1, 1, 1, k]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Op = Literal[
    "conv2d",
    "grouped",
    "depthwise",
    "max_pool",
    "avg_pool",
    "global_pool",
    "elementwise",
    "select",
    "softmax",
]


@dataclass(frozen=True)
class Quantization:
    """How real numbers became whole ones of -128 to 127: `round(real / scale) + zero`."""

    scale: float
    zero: int


Operand = str | float | tuple[float, float] | np.ndarray | Quantization | None


@dataclass(frozen=True)
class Value:
    """An activation.

    Attributes:
        rank: 4 where ONNX sees `[1, c, h, w]`, 2 where it sees `[1, c * h * w]`.
        quantization: where memory holds whole numbers of 8 bits; None where it holds real ones.
        tight: memory has few channels beside its own: of the quantised image, which has three.
    """

    name: str
    channels: int
    height: int
    width: int
    rank: int = 4
    quantization: Quantization | None = None
    tight: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


@dataclass(frozen=True)
class Window:
    """A sliding window: kernel, strides, dilations as (height, width); pads top, left, bottom,
    right.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    count_pads: bool = False

    def output(self, height: int, width: int, ceil: bool = False) -> tuple[int, int]:
        """Height and width of what comes out."""
        top, left, bottom, right = self.pads
        sizes = []
        for side, (size, before, after) in enumerate(((height, top, bottom), (width, left, right))):
            reach = self.dilations[side] * (self.kernel[side] - 1) + 1
            free = size + before + after - reach
            stride = self.strides[side]
            steps = -(-free // stride) if ceil else free // stride
            # A window that would start in the far padding is left out (as in PyTorch).
            if ceil and steps * stride >= size + before:
                steps -= 1
            sizes.append(steps + 1)
        return sizes[0], sizes[1]


@dataclass(frozen=True, eq=False)
class Step:
    """One elementwise step.

    Attributes:
        kind: "relu", "clip", "sigmoid", "tanh", "hard_sigmoid", "add", "mul", "sub", "rsub"
            (operand minus value), "quantize" (the last one, if at all).
        operand: a number, two (clip's bounds; hard_sigmoid's alpha and beta), one number a
            channel, the name of an activation (of the same size, or 1x1 of as many channels), or
            a quantisation.
    """

    kind: str
    operand: Operand = None


@dataclass(frozen=True)
class Part:
    """Channels `start` to `stop` of the layer's input number `index`."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator with the elementwise steps that follow it.

    Attributes:
        inputs: names of the activations that the operator itself reads.
        weight: `[outputs, inputs, kh, kw]` as in ONNX; inputs of a group.
        groups: of a convolution.
        weight_scale: `[outputs]`, where the weights are whole numbers of -127 to 127 that stand for
            so many times as much; else None.
        bias: `[outputs]`, or None.
        epilogue: applied in order to the operator's result.
        parts: of "select": the channel ranges that are put side by side.
        sources: names of the ONNX nodes that it stands for.
        macs: multiply-accumulates of one run.
    """

    op: Op
    inputs: tuple[str, ...]
    output: Value
    sources: tuple[str, ...]
    window: Window | None = None
    weight: np.ndarray | None = None
    weight_scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    epilogue: tuple[Step, ...] = ()
    parts: tuple[Part, ...] = ()
    groups: int = 1
    macs: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        """All activations that it reads, the epilogue's last."""
        extra = [step.operand for step in self.epilogue if isinstance(step.operand, str)]
        return (*self.inputs, *extra)


@dataclass(frozen=True, eq=False)
class Graph:
    """Layers in an order that can be run.

    Attributes:
        values: every activation by name, the input's included.
    """

    input: Value
    output: Value
    layers: tuple[Layer, ...]
    values: Mapping[str, Value]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(layer.macs for layer in self.layers)

    @property
    def quantised(self) -> bool:
        """Whether any layer multiplies whole numbers."""
        return any(layer.weight_scale is not None for layer in self.layers)

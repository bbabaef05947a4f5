"""What each ONNX operator means for channels, height and width: one handler an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgecompress.errors import CompileError

from .graph import Layer, Part, Quantization, Step, Value, Window
from .integer import WORD


@dataclass(frozen=True)
class Node:
    """An ONNX node with its attributes as Python values."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @staticmethod
    def of(proto: Any, index: int) -> Node:
        """From a `NodeProto`; a node without a name gets one from its place."""
        from onnx import helper

        attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        name = proto.name or f"{proto.op_type}_{index}"
        return Node(
            proto.op_type, proto.domain, name, tuple(proto.input), tuple(proto.output), attributes
        )

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])


@dataclass
class Reading:
    """What has been read so far.

    Attributes:
        constants: every known constant by name.
        values: ONNX name to activation; names of reshaped views share an activation.
        activations: every activation by its own name.
        weights: of a constant that was dequantised: the whole numbers, and what one of them is
            worth, for each index of an axis.
    """

    constants: dict[str, np.ndarray]
    input: Value
    layers: list[Layer] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    activations: dict[str, Value] = field(default_factory=dict)
    paddings: dict[str, tuple[Value, tuple[int, int, int, int], str]] = field(default_factory=dict)
    weights: dict[str, tuple[np.ndarray, np.ndarray, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values[self.input.name] = self.input
        self.activations[self.input.name] = self.input

    def value(self, node: Node, index: int = 0) -> Value:
        """The activation that a node reads."""
        name = node.inputs[index]
        if name in self.paddings:
            raise unsupported(self.padding_node(name), "pads for something else than a window")
        if name not in self.values:
            raise unsupported(node, f"reads '{name}', which is no activation")
        return self.values[name]

    def padding_node(self, name: str) -> Node:
        """The Pad node that made a name, for messages."""
        return Node("Pad", "", self.paddings[name][2], (), (name,), {})

    def constant(self, node: Node, index: int, default: Any = None) -> np.ndarray:
        """The constant that a node reads, or `default` where it is left out."""
        if not node.has(index):
            return np.asarray(default)
        name = node.inputs[index]
        if name not in self.constants:
            raise unsupported(node, f"its input '{name}' is not a constant")
        return self.constants[name]

    def add(self, node: Node, layer: Layer) -> None:
        """Add a layer, under the node's output."""
        self.layers.append(layer)
        self.values[node.outputs[0]] = layer.output
        self.activations[layer.output.name] = layer.output

    def alias(self, node: Node, value: Value) -> None:
        """The node changes nothing in memory."""
        self.values[node.outputs[0]] = value


Handler = Callable[[Node, Reading], None]
HANDLERS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Decorator: the handler of these ONNX operators."""

    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return add


def unsupported(node: Node, why: str = "") -> CompileError:
    """The error for a node that cannot be compiled."""
    cause = f"the ONNX operator {node.op} of node '{node.name}' cannot be compiled"
    return CompileError(
        f"{cause}: {why}" if why else cause,
        f"supported operators: {', '.join(sorted(HANDLERS))}",
    )


@operator("Conv")
def _conv(node: Node, reading: Reading) -> None:
    x, weight = reading.values.get(node.inputs[0]), reading.constant(node, 1)
    x = _windowed(node, reading, x)
    bias = reading.constant(node, 2) if node.has(2) else None
    outputs, inputs = weight.shape[:2]
    groups = int(node.attributes.get("group", 1))
    if weight.ndim != 4:
        raise unsupported(node, "not two-dimensional")
    if inputs * groups != x.channels or outputs % groups:
        raise unsupported(node, "its sizes do not fit")
    op = "conv2d" if groups == 1 else "grouped"
    if 1 < groups == x.channels == outputs:
        op = "depthwise"
    window = _window(node, reading, x, (weight.shape[2], weight.shape[3]))
    height, width = window.output(x.height, x.width)
    macs = outputs * inputs * weight.shape[2] * weight.shape[3] * height * width
    output = Value(node.outputs[0], outputs, height, width)
    _checked(node, output)
    scale = None
    # Others have no kernels for whole numbers: a word's four inputs have to be of one group.
    words = {"grouped": inputs % WORD == 0, "depthwise": window.dilations == (1, 1)}
    if words.get(op, True):
        weight, scale = _weights(node, reading, x, weight, outputs_axis=0)
    layer = Layer(
        op,
        (x.name,),
        output,
        (node.name,),
        window,
        weight.astype("float32"),
        scale,
        bias,
        groups=groups,
        macs=macs,
    )
    reading.add(node, _with_pad_source(node, reading, layer))


@operator("MaxPool", "AveragePool")
def _pool(node: Node, reading: Reading) -> None:
    if node.outputs[1:]:
        raise unsupported(node, "also gives indices")
    x = _windowed(node, reading, reading.values.get(node.inputs[0]))
    if node.inputs[0] in reading.paddings and node.op == "MaxPool":
        raise unsupported(node, "follows a Pad with zeros")
    window = _window(node, reading, x, tuple(node.attributes["kernel_shape"]))
    count_pads = bool(node.attributes.get("count_include_pad", 0))
    if node.inputs[0] in reading.paddings:
        # The zeros of a Pad count, those of the pool itself would not.
        if not count_pads and window.pads != reading.paddings[node.inputs[0]][1]:
            raise unsupported(node, "follows a Pad and pads itself")
        count_pads = True
    window = replace(window, count_pads=count_pads)
    ceil = bool(node.attributes.get("ceil_mode", 0))
    height, width = window.output(x.height, x.width, ceil)
    if ceil:
        window = _reaching(window, x, height, width)
        if window.count_pads:
            raise unsupported(node, "ceil_mode with count_include_pad")
    output = Value(node.outputs[0], x.channels, height, width)
    _checked(node, output)
    op = "max_pool" if node.op == "MaxPool" else "avg_pool"
    layer = Layer(op, (x.name,), output, (node.name,), window)
    reading.add(node, _with_pad_source(node, reading, layer))


@operator("GlobalAveragePool")
def _global_pool(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    output = Value(node.outputs[0], x.channels, 1, 1)
    reading.add(node, Layer("global_pool", (x.name,), output, (node.name,)))


@operator("ReduceMean")
def _reduce_mean(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    given = node.attributes.get("axes")
    axes = given if given is not None else reading.constant(node, 1, []).tolist()
    if sorted(axis % 4 for axis in axes) != [2, 3] or x.rank != 4:
        raise unsupported(node, f"over axes {axes}: only over height and width")
    rank = 4 if node.attributes.get("keepdims", 1) else 2
    output = Value(node.outputs[0], x.channels, 1, 1, rank)
    reading.add(node, Layer("global_pool", (x.name,), output, (node.name,)))


@operator("Gemm", "MatMul")
def _dense(node: Node, reading: Reading) -> None:
    """A fully connected layer is a convolution whose kernel is as large as its input."""
    x, weight = reading.value(node), reading.constant(node, 1)
    attributes = node.attributes
    if x.rank != 2 or weight.ndim != 2 or attributes.get("transA", 0):
        raise unsupported(node, "only a vector times a constant matrix")
    transposed = bool(attributes.get("transB", 0))
    alpha, scale = np.float32(attributes.get("alpha", 1.0)), None
    if alpha == 1:
        weight, scale = _weights(node, reading, x, weight, outputs_axis=0 if transposed else 1)
    matrix = (weight if transposed else weight.T) * alpha
    bias = None
    if node.has(2):
        bias = reading.constant(node, 2) * np.float32(attributes.get("beta", 1.0))
        bias = np.broadcast_to(bias.reshape(-1), (matrix.shape[0],))
    if matrix.shape[1] != x.channels * x.height * x.width:
        raise unsupported(node, "its sizes do not fit")
    output = Value(node.outputs[0], matrix.shape[0], 1, 1, 2)
    kernel = matrix.reshape(-1, x.channels, x.height, x.width).astype("float32")
    window = Window((x.height, x.width))
    reading.add(
        node,
        Layer(
            "conv2d",
            (x.name,),
            output,
            (node.name,),
            window,
            kernel,
            scale,
            bias,
            macs=matrix.size,
        ),
    )


@operator("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    size = x.channels * x.height * x.width
    if node.op == "Flatten":
        rank = 2 if node.attributes.get("axis", 1) == 1 else 0
    elif node.op == "Reshape":
        rank = _reshaped_rank(x, size, reading.constant(node, 1).tolist())
    else:
        given = node.attributes.get("axes")
        axes = given if given is not None else reading.constant(node, 1, []).tolist()
        ranks = {"Squeeze": (4, 2), "Unsqueeze": (2, 4)}[node.op]
        fits = x.rank == ranks[0] and sorted(axis % 4 for axis in axes) == [2, 3]
        rank = ranks[1] if fits and x.height * x.width == 1 else 0
    if not rank:
        raise unsupported(node, "only from [1, c, h, w] to [1, c*h*w]")
    reading.alias(node, replace(x, rank=rank))


def _reshaped_rank(x: Value, size: int, shape: list[int]) -> int:
    shape = [((1, x.channels, x.height, x.width)[i] if d == 0 else d) for i, d in enumerate(shape)]
    if shape in ([1, size], [1, -1], [-1, size]):
        return 2
    if shape == [1, x.channels, x.height, x.width]:
        return 4
    return 4 if size == x.channels and shape in ([1, size, 1, 1], [1, -1, 1, 1]) else 0


@operator("QuantizeLinear")
def _quantize(node: Node, reading: Reading) -> None:
    """From here on memory holds whole numbers; what reads them may still see real ones."""
    x, quantization = reading.value(node), _quantization(node, reading)
    output = Value(
        node.outputs[0], *_chw(x), x.rank, quantization, tight=x.name == reading.input.name
    )
    step = Step("quantize", quantization)
    reading.add(node, Layer("elementwise", (x.name,), output, (node.name,), epilogue=(step,)))


@operator("DequantizeLinear")
def _dequantize(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    if x.quantization is None or x.quantization != _quantization(node, reading):
        raise unsupported(node, "does not undo the QuantizeLinear before it")
    reading.alias(node, x)


def _quantization(node: Node, reading: Reading) -> Quantization:
    scale, zero = reading.constant(node, 1), reading.constant(node, 2, np.uint8(0))
    if scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
        raise unsupported(node, "only to 8 bits, with one scale for the whole activation")
    # Numbers without a sign are the same numbers 128 lower.
    lower = 128 if zero.dtype == np.uint8 else 0
    return Quantization(float(scale.reshape(())), int(zero.reshape(())) - lower)


def dequantize_constant(node: Node, reading: Reading) -> None:
    """The real numbers of a constant; the whole ones behind it are remembered where kernels can
    use them: zero stands for 0, and none is -128, since two products of that do not fit 16 bits.
    """
    whole, scale = reading.constant(node, 0), reading.constant(node, 1)
    zero = reading.constant(node, 2, np.zeros(1, whole.dtype))
    axis = int(node.attributes.get("axis", 1)) % max(whole.ndim, 1)
    if max(scale.ndim, zero.ndim) > 1 or whole.dtype.kind not in "iu":
        raise unsupported(node, "only with one scale, or one for each index of an axis")
    along = [-1 if place == axis else 1 for place in range(whole.ndim)]
    steps, nothing = (
        part.reshape(along if part.size > 1 else ()).astype(np.float32) for part in (scale, zero)
    )
    reading.constants[node.outputs[0]] = (whole.astype(np.float32) - nothing) * steps
    if whole.dtype == np.int8 and not zero.any() and whole.size and whole.min() > -128:
        reading.weights[node.outputs[0]] = (whole, scale.reshape(-1), axis)


def _weights(
    node: Node, reading: Reading, x: Value, weight: np.ndarray, outputs_axis: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """A layer's weights: whole numbers and their scales `[outputs]` where its input and they are
    quantised, else real numbers.
    """
    known = reading.weights.get(node.inputs[1])
    if known is None or x.quantization is None:
        return weight, None
    whole, scale, axis = known
    outputs = whole.shape[outputs_axis]
    if scale.size == 1:
        return whole, np.full(outputs, scale[0], "float32")
    return (whole, _f32(scale)) if axis == outputs_axis else (weight, None)


@operator("Identity", "Dropout")
def _identity(node: Node, reading: Reading) -> None:
    reading.alias(node, reading.value(node))


@operator("Relu", "Sigmoid", "Tanh")
def _unary(node: Node, reading: Reading) -> None:
    _elementwise(node, reading, reading.value(node), Step(node.op.lower()))


@operator("Clip")
def _clip(node: Node, reading: Reading) -> None:
    low = reading.constant(node, 1, node.attributes.get("min", -np.inf))
    high = reading.constant(node, 2, node.attributes.get("max", np.inf))
    bounds = (float(low), float(high))
    _elementwise(node, reading, reading.value(node), Step("clip", bounds))


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, reading: Reading) -> None:
    line = (
        float(node.attributes.get("alpha", 0.2)),
        float(node.attributes.get("beta", 0.5)),
    )
    _elementwise(node, reading, reading.value(node), Step("hard_sigmoid", line))


@operator("HardSwish")
def _hard_swish(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    gate = Value(f"{node.outputs[0]}/gate", *_chw(x), x.rank)
    step = Step("hard_sigmoid", (1 / 6, 0.5))
    reading.layers.append(Layer("elementwise", (x.name,), gate, (node.name,), epilogue=(step,)))
    reading.activations[gate.name] = gate
    _elementwise(node, reading, gate, Step("mul", x.name))


@operator("BatchNormalization")
def _batch_norm(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    if x.rank == 2 and x.height * x.width != 1:
        raise unsupported(node, "of a flattened image")
    scale, shift, mean, variance = (reading.constant(node, i) for i in range(1, 5))
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    steps = (Step("mul", _f32(factor)), Step("add", _f32(shift - mean * factor)))
    _elementwise(node, reading, x, *steps)


@operator("Add", "Sub", "Mul", "Div")
def _binary(node: Node, reading: Reading) -> None:
    left, right = (_operand(node, reading, index) for index in (0, 1))
    if not isinstance(left, Value):
        assert isinstance(right, Value)
        if node.op == "Div":
            raise unsupported(node, "divides by an activation")
        kind = {"Add": "add", "Mul": "mul", "Sub": "rsub"}[node.op]
        _elementwise(node, reading, right, Step(kind, left))
    elif not isinstance(right, Value):
        if node.op == "Sub":
            right = -right
        elif node.op == "Div":
            right = 1 / right
        kind = "add" if node.op in ("Add", "Sub") else "mul"
        _elementwise(node, reading, left, Step(kind, right))
    elif node.op == "Div":
        raise unsupported(node, "divides by an activation")
    else:
        kind = node.op.lower()
        if left.height * left.width < right.height * right.width:
            left, right = right, left
            kind = "rsub" if kind == "sub" else kind
        fits = right.channels == left.channels and right.rank == left.rank
        if not fits or right.shape[:2] not in (left.shape[:2], (1, 1)):
            raise unsupported(node, f"of {left.shape} and {right.shape}")
        _elementwise(node, reading, left, Step(kind, right.name))


@operator("Concat")
def _concat(node: Node, reading: Reading) -> None:
    values = [reading.value(node, index) for index in range(len(node.inputs))]
    first = values[0]
    if node.attributes["axis"] % first.rank != 1 or len({v.shape[:2] for v in values}) > 1:
        raise unsupported(node, "only side by side in channels")
    parts = tuple(Part(index, 0, value.channels) for index, value in enumerate(values))
    _select(node, reading, values, parts)


@operator("Slice")
def _slice(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    given = node.attributes  # before operator set 10 the range is there
    starts = reading.constant(node, 1, given.get("starts")).tolist()
    stops = reading.constant(node, 2, given.get("ends")).tolist()
    axes = reading.constant(node, 3, given.get("axes", list(range(len(starts))))).tolist()
    steps = reading.constant(node, 4, [1] * len(starts)).tolist()
    if [axis % x.rank for axis in axes] != [1] or steps != [1]:
        raise unsupported(node, "only a range of channels")
    start, stop, _ = slice(starts[0], stops[0]).indices(x.channels)
    _select(node, reading, [x], (Part(0, start, stop),))


@operator("Softmax")
def _softmax(node: Node, reading: Reading) -> None:
    x = reading.value(node)
    if x.rank != 2 or node.attributes.get("axis", -1) % 2 != 1:
        raise unsupported(node, "only of a vector [1, k]")
    output = Value(node.outputs[0], *_chw(x), 2)
    reading.add(node, Layer("softmax", (x.name,), output, (node.name,)))


@operator("Pad")
def _pad(node: Node, reading: Reading) -> None:
    """Padding with zeros is remembered and becomes part of the window that follows."""
    x = reading.value(node)
    given = node.attributes.get("pads")
    pads = [int(p) for p in (given if given is not None else reading.constant(node, 1).tolist())]
    mode = node.attributes.get("mode", b"constant")
    zero = float(reading.constant(node, 2, node.attributes.get("value", 0.0))) == 0
    plain = len(pads) == 8 and not any(pads[i] for i in (0, 1, 4, 5)) and min(pads) >= 0
    if mode != b"constant" or not zero or not plain or node.has(3):
        raise unsupported(node, "only zeros round height and width")
    reading.paddings[node.outputs[0]] = (x, (pads[2], pads[3], pads[6], pads[7]), node.name)


def _windowed(node: Node, reading: Reading, x: Value | None) -> Value:
    """The activation under a window: what was there before a Pad, where there is one."""
    name = node.inputs[0]
    found = reading.paddings[name][0] if name in reading.paddings else x
    if found is None or found.rank != 4:
        raise unsupported(node, f"reads '{name}', which is no image")
    return found


def _with_pad_source(node: Node, reading: Reading, layer: Layer) -> Layer:
    padding = reading.paddings.get(node.inputs[0])
    return replace(layer, sources=(padding[2], *layer.sources)) if padding else layer


def _window(node: Node, reading: Reading, x: Value, kernel: tuple[int, int]) -> Window:
    attributes = node.attributes
    strides, dilations = (
        (int(pair[0]), int(pair[1]))
        for pair in (attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1)))
    )
    before = reading.paddings[node.inputs[0]][1] if node.inputs[0] in reading.paddings else (0,) * 4
    given = tuple(int(pad) for pad in attributes.get("pads", (0, 0, 0, 0)))
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        given = _same(x, kernel, strides, dilations, before, upper=auto == "SAME_UPPER")
    top, left, bottom, right = (a + b for a, b in zip(before, given, strict=True))
    return Window((int(kernel[0]), int(kernel[1])), strides, (top, left, bottom, right), dilations)


def _same(
    x: Value,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    before: tuple[int, ...],
    *,
    upper: bool,
) -> tuple[int, ...]:
    """ONNX's SAME padding: as many outputs as strides fit into the input."""
    near, far = [], []
    for side, size in enumerate(
        (x.height + before[0] + before[2], x.width + before[1] + before[3])
    ):
        reach = dilations[side] * (kernel[side] - 1) + 1
        total = max(0, (-(-size // strides[side]) - 1) * strides[side] + reach - size)
        near.append(total // 2 if upper else total - total // 2)
        far.append(total - near[-1])
    return (*near, *far)


def _reaching(window: Window, x: Value, height: int, width: int) -> Window:
    """A window padded so far that the last step of ceil_mode stays inside."""
    top, left, bottom, right = window.pads
    reach = [window.dilations[i] * (window.kernel[i] - 1) + 1 for i in (0, 1)]
    needed_h = (height - 1) * window.strides[0] + reach[0] - x.height - top
    needed_w = (width - 1) * window.strides[1] + reach[1] - x.width - left
    return replace(window, pads=(top, left, max(bottom, needed_h), max(right, needed_w)))


def _operand(node: Node, reading: Reading, index: int) -> Value | float | np.ndarray:
    """An activation, a number, or one number a channel."""
    name = node.inputs[index]
    if name not in reading.constants:
        return reading.value(node, index)
    array = reading.constants[name]
    if array.size == 1:
        return float(array.reshape(()))
    other = reading.value(node, 1 - index)
    shape = (1,) * (other.rank - array.ndim) + array.shape
    whole = other.channels * (1 if other.rank == 4 else other.height * other.width)
    if len(shape) != other.rank or shape[1] != array.size or array.size != whole:
        raise unsupported(node, f"with a constant of shape {array.shape}")
    if whole != other.channels:
        raise unsupported(node, "with one constant a pixel")
    return _f32(array.reshape(-1))


def _elementwise(node: Node, reading: Reading, x: Value, *steps: Step) -> None:
    output = Value(node.outputs[0], *_chw(x), x.rank)
    reading.add(node, Layer("elementwise", (x.name,), output, (node.name,), epilogue=steps))


def _select(node: Node, reading: Reading, values: list[Value], parts: tuple[Part, ...]) -> None:
    first = values[0]
    if first.rank == 2 and first.height * first.width != 1:
        raise unsupported(node, "of a flattened image")
    channels = sum(part.stop - part.start for part in parts)
    if channels < 1:
        raise unsupported(node, "takes nothing")
    output = Value(node.outputs[0], channels, first.height, first.width, first.rank)
    names = tuple(value.name for value in values)
    reading.add(node, Layer("select", names, output, (node.name,), parts=parts))


def _chw(x: Value) -> tuple[int, int, int]:
    return x.channels, x.height, x.width


def _f32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, "float32")


def _checked(node: Node, output: Value) -> None:
    if min(output.height, output.width) < 1:
        raise unsupported(node, "its window is larger than its input")

"""From a layer to a TIR kernel: what is computed, in stages that the schedules know by name.

Stages: `pad` (zeros round the input, and the first layer's normalisation), `gather` (the input
under a window), `main` (the operator's sum or maximum), `epilogue` (bias and all that is fused),
`out` (the result as it lies in memory, where that differs).

Weights of convolutions are packed `[outputs / pack, kh, kw, inputs, pack]` here, at compile time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runner.spec import Preprocess
from . import winograd
from .graph import Layer, Step, Value, Window
from .machine import Machine
from .stage import Expression, Index, compute

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

ATTRIBUTE = "edgecompress."


@dataclass(frozen=True, eq=False)
class Kernel:
    """One layer as TIR.

    Attributes:
        func: unscheduled; its parameters are the activations, the constants and the result.
        activations: names of the activations that it reads, in the order of the parameters.
        constants: the arrays that follow them.
        shape: of the result.
    """

    func: PrimFunc
    activations: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    shape: tuple[int, ...]


class Builder:
    """Collects the parameters of one kernel."""

    def __init__(
        self,
        layer: Layer,
        values: Mapping[str, Value],
        machine: Machine,
        source: tuple[str, Preprocess],
        final: bool,
    ) -> None:
        self.layer = layer
        self.values = values
        self.machine = machine
        self.source, self.preprocess = source
        self.final = final
        self.activations: dict[str, Any] = {}
        self.placeholders: list[Any] = []
        self.constants: list[np.ndarray] = []

    def physical(self, value: Value) -> int:
        """Channels of an activation in memory; of the image they are its three."""
        return (
            value.channels if value.name == self.source else self.machine.channels(value.channels)
        )

    def activation(self, name: str) -> Any:
        """The placeholder of an activation."""
        from tvm import te

        if name not in self.activations:
            value = self.values[name]
            shape = (1, value.height, value.width, self.physical(value))
            dtype = "uint8" if name == self.source else "float32"
            self.activations[name] = te.placeholder(shape, dtype, f"x{len(self.activations)}")
        return self.activations[name]

    def constant(self, array: np.ndarray, name: str) -> Any:
        """The placeholder of a constant."""
        from tvm import te

        self.constants.append(np.ascontiguousarray(array, "float32"))
        placeholder = te.placeholder(array.shape, "float32", f"{name}{len(self.constants)}")
        self.placeholders.append(placeholder)
        return placeholder

    def normalised(self, name: str, channels: int) -> Index:
        """An activation as a function of its indices; the image in the network's own scale.

        Args:
            channels: that are read; of those beyond the ones in memory zeros.
        """
        x, physical = self.activation(name), self.physical(self.values[name])
        if name != self.source:
            return _inside(lambda h, w, c: x[0, h, w, c], physical, channels)
        mean = self.constant(np.array(self.preprocess.mean), "mean")
        scale = self.constant(1 / np.array(self.preprocess.std), "scale")
        return _inside(
            lambda h, w, c: (x[0, h, w, c].astype("float32") - mean[c]) * scale[c],
            physical,
            channels,
        )

    def finish(self, stage: Any, flat: bool = False) -> Kernel:
        """Epilogue, crop and PrimFunc.

        Args:
            stage: the operator's result: `[height * width, channels]` if flat, else
                `[1, height, width, channels]`.
        """
        from tvm import te

        output = self.layer.output
        width, channels = output.width, self.machine.channels(output.channels)
        steps = [self._step(step, channels) for step in self.layer.epilogue]
        if self.layer.bias is not None:
            steps.insert(0, self._step(Step("add", self.layer.bias), channels))

        def applied(value: Expression, h: Expression, w: Expression, c: Expression) -> Expression:
            for step in steps:
                value = step(value, h, w, c)
            return value

        if flat:
            result = compute(
                stage.shape,
                lambda m, c: applied(stage[m, c], m // width, m % width, c),
                name="epilogue",
            )
        else:
            result = compute(
                stage.shape,
                lambda n, h, w, c: applied(stage[n, h, w, c], h, w, c),
                name="epilogue",
            )
        if self.final:
            result = compute(
                (1, output.channels),
                lambda _, c: result[0, c] if flat else result[0, 0, 0, c],
                name="out",
            )
        elif flat:
            flattened = result
            result = compute(
                (1, output.height, width, channels),
                lambda _, h, w, c: flattened[h * width + w, c],
                name="out",
            )
        parameters = [*self.activations.values(), *self.placeholders, result]
        func: Any = te.create_prim_func(parameters)
        shape = tuple(int(size) for size in result.shape)
        return Kernel(
            func.with_attrs(_attributes(self.layer, self.machine)),
            tuple(self.activations),
            tuple(self.constants),
            shape,
        )

    def _step(self, step: Step, channels: int) -> Callable[..., Expression]:
        operand = self._operand(step, channels)
        return lambda value, h, w, c: _STEPS[step.kind](value, operand(h, w, c))

    def _operand(self, step: Step, channels: int) -> Callable[..., Any]:
        if isinstance(step.operand, str):
            x, value = self.normalised(step.operand, channels), self.values[step.operand]
            single = value.height * value.width == 1
            return lambda h, w, c: x(0, 0, c) if single else x(h, w, c)
        if isinstance(step.operand, np.ndarray):
            padded = self.constant(_padded(step.operand, channels), step.kind)
            return lambda h, w, c: padded[c]
        return lambda h, w, c: step.operand


def build_kernel(
    layer: Layer,
    values: Mapping[str, Value],
    machine: Machine,
    source: tuple[str, Preprocess],
    final: bool,
) -> Kernel:
    """The kernel of one layer.

    Args:
        values: every activation by name.
        source: name of the network's input, which is uint8, and how it is normalised.
        final: whether the result is the network's: `[1, k]`, and no channels beside the k.
    """
    return _COMPUTES[layer.op](Builder(layer, values, machine, source, final))


def _conv2d(build: Builder) -> Kernel:
    from tvm import te

    layer, window, machine = build.layer, build.layer.window, build.machine
    assert window is not None and layer.weight is not None
    value = build.values[layer.inputs[0]]
    inputs, outputs = build.physical(value), machine.channels(layer.output.channels)
    pack = machine.pack(layer.output.channels)
    height, width = layer.output.height, layer.output.width
    cut = winograd.plan(layer, machine, inputs)
    if cut is not None:
        return _winograd(build, cut, inputs)
    read = _pad(build, window, inputs)
    packed = build.constant(pack_weight(layer.weight, inputs, outputs, pack), "weight")
    sum_c = te.reduce_axis((0, inputs), "ci")
    if window.kernel == (1, 1) and window.strides == (1, 1) and not any(window.pads):
        gather = compute(
            (height * width, inputs), lambda m, k: read(m // width, m % width, k), name="gather"
        )
        main = compute(
            (height * width, outputs),
            lambda m, c: te.sum(
                gather[m, sum_c] * packed[c // pack, 0, 0, sum_c, c % pack], axis=[sum_c]
            ),
            name="main",
        )
        return build.finish(main, flat=True)
    sum_h, sum_w = (
        te.reduce_axis((0, size), name)
        for size, name in zip(window.kernel, ("kh", "kw"), strict=True)
    )
    gather = compute(
        (height, width, *window.kernel, inputs),
        lambda h, w, kh, kw, k: read(*_under(window, h, w, kh, kw), k),
        name="gather",
    )
    main = compute(
        (1, height, width, outputs),
        lambda _, h, w, c: te.sum(
            gather[h, w, sum_h, sum_w, sum_c] * packed[c // pack, sum_h, sum_w, sum_c, c % pack],
            axis=[sum_h, sum_w, sum_c],
        ),
        name="main",
    )
    return build.finish(main)


def _winograd(build: Builder, cut: winograd.Plan, inputs: int) -> Kernel:
    """A 3x3 convolution by squares of outputs."""
    layer, machine = build.layer, build.machine
    assert layer.window is not None and layer.weight is not None
    value, output = build.values[layer.inputs[0]], layer.output
    outputs, pack = machine.channels(output.channels), machine.pack(output.channels)
    read = _pad(build, cut.padded(layer.window, value.height, value.width), inputs)
    weight = winograd.pack_weight(layer.weight, inputs, outputs, pack, cut.tile)
    packed = build.constant(weight, "weight")
    found = winograd.by_squares(read, packed, cut, inputs=inputs, outputs=outputs, pack=pack)
    shape = (1, output.height, output.width, outputs)
    kernel = build.finish(compute(shape, lambda _, h, w, c: found(h, w, c), name="assembled"))
    # A kernel of its own kind to schedules and profiles; to reports the layer stays what it is.
    attributes = {"op": f"winograd{cut.tile}", "squares": cut.squares}
    named = {ATTRIBUTE + key: value for key, value in attributes.items()}
    return replace(kernel, func=kernel.func.with_attrs(named))


def _window_op(build: Builder) -> Kernel:
    """Depthwise convolution and pooling: a window over each channel alone."""
    from tvm import te

    layer, window = build.layer, build.layer.window
    assert window is not None
    value = build.values[layer.inputs[0]]
    channels = build.machine.channels(value.channels)
    maximum = layer.op == "max_pool"
    read = _pad(build, window, channels, -3.4028234663852886e38 if maximum else 0.0)
    kh, kw = (
        te.reduce_axis((0, size), name)
        for size, name in zip(window.kernel, ("kh", "kw"), strict=True)
    )
    reduce = te.max if maximum else te.sum
    if layer.weight is None:

        def term(h: Expression, w: Expression, c: Expression) -> Expression:
            return read(*_under(window, h, w, kh, kw), c)
    else:
        taps = np.zeros((*window.kernel, channels), "float32")
        taps[..., : value.channels] = layer.weight[:, 0].transpose(1, 2, 0)
        weight = build.constant(taps, "weight")

        def term(h: Expression, w: Expression, c: Expression) -> Expression:
            return read(*_under(window, h, w, kh, kw), c) * weight[kh, kw, c]

    shape = (1, layer.output.height, layer.output.width, channels)
    main = compute(shape, lambda _, h, w, c: reduce(term(h, w, c), axis=[kh, kw]), name="main")
    if layer.op == "avg_pool":
        shares = build.constant(_shares(window, value, layer.output), "share")
        main_sum = main
        main = compute(shape, lambda n, h, w, c: main_sum[n, h, w, c] * shares[h, w], name="mean")
    return build.finish(main)


def _global_pool(build: Builder) -> Kernel:
    from tvm import te

    value = build.values[build.layer.inputs[0]]
    channels = build.machine.channels(value.channels)
    read = build.normalised(value.name, channels)
    h, w = te.reduce_axis((0, value.height), "kh"), te.reduce_axis((0, value.width), "kw")
    shape = (1, 1, 1, channels)
    main = compute(
        shape, lambda _, a, b, c: te.sum(read(a + h, b + w, c), axis=[h, w]), name="main"
    )
    share = 1.0 / (value.height * value.width)
    mean = compute(shape, lambda *index: main[index] * share, name="mean")
    return build.finish(mean)


def _elementwise(build: Builder) -> Kernel:
    value = build.values[build.layer.inputs[0]]
    channels = build.machine.channels(value.channels)
    read = build.normalised(value.name, channels)
    shape = (1, value.height, value.width, channels)
    main = compute(shape, lambda _, h, w, c: read(h, w, c), name="main")
    return build.finish(main)


def _select(build: Builder) -> Kernel:
    """Ranges of channels side by side, zeros behind them."""
    import tvm

    layer, output = build.layer, build.layer.output
    reads = [build.normalised(name, build.values[name].channels) for name in layer.inputs]

    def pick(h: Expression, w: Expression, c: Expression) -> Expression:
        result: Expression = tvm.tirx.const(0.0, "float32")
        end = sum(part.stop - part.start for part in layer.parts)
        for part in reversed(layer.parts):
            start = end - (part.stop - part.start)
            inside = tvm.tirx.all(c >= start, c < end)
            found = reads[part.index](h, w, c - start + part.start)
            result = tvm.tirx.if_then_else(inside, found, result)
            end = start
        return result

    channels = build.machine.channels(output.channels)
    main = compute(
        (1, output.height, output.width, channels), lambda _, h, w, c: pick(h, w, c), name="main"
    )
    return build.finish(main)


def _softmax(build: Builder) -> Kernel:
    import tvm
    from tvm import te

    value = build.values[build.layer.inputs[0]]
    x, count = build.normalised(value.name, value.channels), value.channels
    k = te.reduce_axis((0, count), "k")
    largest = compute((1,), lambda _: te.max(x(0, 0, k), axis=k), name="largest")
    power = compute((count,), lambda c: tvm.tirx.exp(x(0, 0, c) - largest[0]), name="power")
    j = te.reduce_axis((0, count), "j")
    total = compute((1,), lambda _: te.sum(power[j], axis=j), name="total")
    main = compute(
        (1, 1, 1, build.machine.channels(count)),
        lambda n, h, w, c: tvm.tirx.if_then_else(
            c < count, power[tvm.tirx.min(c, count - 1)] / total[0], 0.0
        ),
        name="main",
    )
    return build.finish(main)


_COMPUTES: dict[str, Callable[[Builder], Kernel]] = {
    "conv2d": _conv2d,
    "depthwise": _window_op,
    "max_pool": _window_op,
    "avg_pool": _window_op,
    "global_pool": _global_pool,
    "elementwise": _elementwise,
    "select": _select,
    "softmax": _softmax,
}


def pack_weight(weight: np.ndarray, inputs: int, outputs: int, pack: int) -> np.ndarray:
    """`[co, ci, kh, kw]` to `[outputs / pack, kh, kw, inputs, pack]`; zeros fill up."""
    co, ci, kh, kw = weight.shape
    full = np.zeros((outputs, inputs, kh, kw), "float32")
    full[:co, :ci] = weight
    return full.reshape(outputs // pack, pack, inputs, kh, kw).transpose(0, 3, 4, 2, 1)


def _padded(array: np.ndarray, channels: int) -> np.ndarray:
    full = np.zeros(channels, "float32")
    full[: array.size] = array
    return full


def _under(window: Window, h: Any, w: Any, kh: Any, kw: Any) -> tuple[Expression, Expression]:
    """Where in the padded input an output's window tap lies."""
    (step_h, step_w), (gap_h, gap_w) = window.strides, window.dilations
    return h * step_h + kh * gap_h, w * step_w + kw * gap_w


def _pad(build: Builder, window: Window, channels: int, value: float = 0.0) -> Index:
    """The input with its padding; a stage of its own where anything has to be written."""
    import tvm

    source = build.values[build.layer.inputs[0]]
    read = build.normalised(source.name, channels)
    top, left, bottom, right = window.pads
    if not any(window.pads) and source.name != build.source:
        return read
    shape = (top + source.height + bottom, left + source.width + right, channels)

    def padded(h: Expression, w: Expression, c: Expression) -> Expression:
        inside = [h >= top, h < top + source.height, w >= left, w < left + source.width]
        inner = read(h - top, w - left, c)
        if not any(window.pads):
            return inner
        return tvm.tirx.if_then_else(tvm.tirx.all(*inside), inner, tvm.tirx.const(value, "float32"))

    stage = compute(shape, padded, name="pad")
    return lambda h, w, c: stage[h, w, c]


def _inside(read: Index, physical: int, channels: int) -> Index:
    """Reads of channels some of which may lie beyond those in memory (zero there)."""
    import tvm

    if physical >= channels:
        return read
    zero = tvm.tirx.const(0.0, "float32")
    return lambda h, w, c: tvm.tirx.if_then_else(
        c < physical, read(h, w, tvm.tirx.min(c, physical - 1)), zero
    )


def _shares(window: Window, value: Value, output: Value) -> np.ndarray:
    """One over the number of pixels that an average is of, for every output pixel."""
    ones = np.ones((value.height, value.width))
    top, left, bottom, right = window.pads
    counted = np.pad(ones, ((top, bottom), (left, right)), constant_values=float(window.count_pads))
    counts = np.zeros((output.height, output.width))
    for kh in range(window.kernel[0]):
        for kw in range(window.kernel[1]):
            row, column = kh * window.dilations[0], kw * window.dilations[1]
            rows = slice(row, row + (output.height - 1) * window.strides[0] + 1, window.strides[0])
            columns = slice(
                column, column + (output.width - 1) * window.strides[1] + 1, window.strides[1]
            )
            counts += counted[rows, columns]
    return (1 / counts).astype("float32")


def _attributes(layer: Layer, machine: Machine) -> dict[str, Any]:
    """What schedules, profiles and tuning read of a kernel; nothing of its network."""
    window = layer.window
    attributes: dict[str, Any] = {"op": layer.op, "macs": layer.macs}
    if window is not None:
        attributes["window"] = "x".join(map(str, window.kernel)) + f"s{window.strides[1]}"
    if layer.op == "conv2d":
        output = layer.output
        attributes |= {
            "height": output.height,
            "width": output.width,
            "pack": machine.pack(output.channels),
        }
    return {ATTRIBUTE + key: value for key, value in attributes.items()}


def _clip(value: Any, bounds: tuple[float, float]) -> Expression:
    import tvm

    low, high = bounds
    if low > -np.inf:
        value = tvm.tirx.max(value, tvm.tirx.const(low, "float32"))
    if high < np.inf:
        value = tvm.tirx.min(value, tvm.tirx.const(high, "float32"))
    return value


def _sigmoid(value: Any, _: Any) -> Expression:
    import tvm

    return tvm.tirx.sigmoid(value)


def _tanh(value: Any, _: Any) -> Expression:
    import tvm

    return tvm.tirx.tanh(value)


_STEPS: dict[str, Callable[[Any, Any], Expression]] = {
    "relu": lambda value, _: _clip(value, (0.0, np.inf)),
    "clip": _clip,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "hard_sigmoid": lambda value, line: _clip(value * line[0] + line[1], (0.0, 1.0)),
    "add": lambda value, other: value + other,
    "mul": lambda value, other: value * other,
    "sub": lambda value, other: value - other,
    "rsub": lambda value, other: other - value,
}

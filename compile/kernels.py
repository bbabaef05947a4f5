"""From a layer to a TIR kernel: what is computed, in stages that the schedules know by name.

Stages: `pad` (zeros round the input, and the first layer's normalisation), `gather` (the input
under a window), `main` (the operator's sum or maximum), `epilogue` (bias and all that is fused),
`out` (the result as it lies in memory, where that differs).

Weights of convolutions are packed `[outputs / pack, kh, kw, inputs, pack]` here, at compile time.

Quantised activations are read as words (`integer.py`) by convolutions whose weights are quantised
too, and as real numbers by all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runner.spec import Preprocess
from . import pixels, winograd
from .epilogue import Affine, Epilogue
from .graph import Layer, Value, Window
from .integer import VIEWS, WORD, as_stored
from .machine import Machine
from .stage import Expression, Index, compute, started

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

ATTRIBUTE = "edgecompress."
_GROUP = 4  # pixels of three channels that fill three vectors of four


@dataclass(frozen=True, eq=False)
class Kernel:
    """One layer as TIR.

    Attributes:
        func: unscheduled; its parameters are the activations, the constants and the result.
        activations: names of the activations that it reads, in the order of the parameters.
        constants: the arrays that follow them.
        shape: of the result.
        dtype: of the result.
    """

    func: PrimFunc
    activations: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    dtype: str


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
        self.activations: dict[tuple[str, bool], Any] = {}
        self.placeholders: list[Any] = []
        self.constants: list[np.ndarray] = []

    def physical(self, value: Value) -> int:
        """Channels of an activation in memory; of the image they are its three."""
        if value.name == self.source:
            return value.channels
        if value.tight:
            return -(-value.channels // WORD) * WORD
        return self.machine.channels(value.channels)

    def stored_zero(self, value: Value) -> int:
        """What memory holds for the real number 0 in a quantised activation."""
        assert value.quantization is not None
        return value.quantization.zero + self.machine.integer.offset

    def activation(self, name: str, words: bool = False) -> Any:
        """The placeholder of an activation.

        Args:
            words: as 32-bit numbers, each of which holds several neighbouring channels.
        """
        from tvm import te

        if (name, words) not in self.activations:
            value, integer = self.values[name], self.machine.integer
            channels, dtype = self.physical(value), self.machine.dtype
            if name == self.source:
                dtype = "uint8"
            elif value.quantization is not None:
                dtype = "int32" if words else integer.dtype
                channels = channels // WORD if words else channels
            shape = (1, value.height, value.width, channels)
            placeholder = te.placeholder(shape, dtype, f"x{len(self.activations)}")
            self.activations[name, words] = placeholder
        return self.activations[name, words]

    def constant(self, array: np.ndarray, name: str, dtype: str = "") -> Any:
        """The placeholder of a constant, of the machine's own type unless told otherwise."""
        from tvm import te

        array = np.ascontiguousarray(array, dtype or self.machine.dtype)
        self.constants.append(array)
        label = f"{name}{len(self.constants)}"
        placeholder = te.placeholder(array.shape, str(array.dtype), label)
        self.placeholders.append(placeholder)
        return placeholder

    def stored(self, name: str, words: bool = False) -> Index:
        """An activation as memory holds it, as a function of its indices."""
        x = self.activation(name, words)
        return lambda h, w, c: x[0, h, w, c]

    def normalised(self, name: str, channels: int) -> Index:
        """An activation's real numbers as a function of its indices; the image in the network's
        own scale.

        Args:
            channels: that are read; of those beyond the ones in memory zeros.
        """
        from tvm import te

        value, physical = self.values[name], self.physical(self.values[name])
        read, dtype = self.stored(name), self.machine.dtype
        if name == self.source:
            mean = self.constant(np.array(self.preprocess.mean), "mean", "float32")
            scale = self.constant(1 / np.array(self.preprocess.std), "scale", "float32")

            def real(h: Expression, w: Expression, c: Expression) -> Expression:
                return ((read(h, w, c).astype("float32") - mean[c]) * scale[c]).astype(dtype)
        elif value.quantization is not None:
            zero, unit = float(self.stored_zero(value)), value.quantization.scale

            def real(h: Expression, w: Expression, c: Expression) -> Expression:
                return (read(h, w, c).astype(dtype) - zero) * unit
        else:
            real = read
        return _inside(real, physical, channels, te.const(0.0, dtype))

    def finish(
        self,
        stage: Any,
        flat: bool = False,
        affine: Affine | None = None,
        *,
        raw: bool = False,
        starts: bool = False,
    ) -> Kernel:
        """Epilogue, crop and PrimFunc.

        Args:
            stage: the operator's result: `[height * width, channels]` if flat, else
                `[1, height, width, channels]`.
            affine: what makes real numbers of that; None where they are real.
            raw: the result is what memory shall hold.
            starts: the result is a sum, which can begin with its bias.
        """
        from tvm import te

        output = self.layer.output
        width, channels = output.width, int(stage.shape[-1])
        epilogue = None if raw else Epilogue(self, channels, affine, starts=starts)

        def applied(value: Expression, h: Expression, w: Expression, c: Expression) -> Expression:
            return epilogue(value, h, w, c) if epilogue else value

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
            last, whole = result, output.quantization
            zero, unit = (0.0, 1.0) if whole is None else (self.stored_zero(output), whole.scale)

            def given(_: Expression, c: Expression) -> Expression:
                value = (last[0, c] if flat else last[0, 0, 0, c]).astype("float32")
                return value if whole is None else (value - float(zero)) * unit

            result = compute((1, output.channels), given, name="out")
        elif flat:
            flattened = result
            result = compute(
                (1, output.height, width, channels),
                lambda _, h, w, c: flattened[h * width + w, c],
                name="out",
            )
        parameters = [*self.activations.values(), *self.placeholders, result]
        func: Any = te.create_prim_func(parameters)
        if epilogue is not None and epilogue.start is not None:
            place = next(i for i, one in enumerate(parameters) if one is epilogue.start)
            func = started(func, place)
        shape = tuple(int(size) for size in result.shape)
        views = [place for place, (_, words) in enumerate(self.activations) if words]
        attributes = _attributes(self.layer, self.machine)
        return Kernel(
            as_stored(func.with_attrs({**attributes, VIEWS: views}), self.machine.integer),
            tuple(name for name, _ in self.activations),
            tuple(self.constants),
            shape,
            str(result.dtype),
        )


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
    cut = winograd.plan(layer, machine, inputs) if layer.weight_scale is None else None
    if cut is not None:
        return _winograd(build, cut, inputs)
    factors = _quantised_factors if layer.weight_scale is not None else _real_factors
    read, packed, product, affine = factors(build, value, inputs, outputs)
    inputs = int(packed.shape[3])
    sum_c = te.reduce_axis((0, inputs), "ci")
    if window.kernel == (1, 1) and window.strides == (1, 1) and not any(window.pads):
        gather = compute(
            (height * width, inputs), lambda m, k: read(m // width, m % width, k), name="gather"
        )
        main = compute(
            (height * width, outputs),
            lambda m, c: te.sum(
                product(gather[m, sum_c], packed[c // pack, 0, 0, sum_c, c % pack]), axis=[sum_c]
            ),
            name="main",
        )
        return build.finish(main, True, affine, starts=True)
    # Few inputs do not fill a vector: a line of the window lies in one piece, and is read as one.
    few = machine.by_element and inputs < machine.lanes and window.dilations[1] == 1
    across, inside = (1, window.kernel[1] * inputs) if few else (window.kernel[1], inputs)
    sum_h, sum_w = te.reduce_axis((0, window.kernel[0]), "kh"), te.reduce_axis((0, across), "kw")
    sum_c = te.reduce_axis((0, inside), "ci")

    def tap(kw: Any, k: Any) -> tuple[Expression, Expression]:
        return (k // inputs, k % inputs) if few else (kw, k)

    def gathered(h: Any, w: Any, kh: Any, kw: Any, k: Any) -> Expression:
        column, channel = tap(kw, k)
        return read(*_under(window, h, w, kh, column), channel)

    gather = compute((height, width, window.kernel[0], across, inside), gathered, name="gather")
    main = compute(
        (1, height, width, outputs),
        lambda _, h, w, c: te.sum(
            product(
                gather[h, w, sum_h, sum_w, sum_c],
                packed[c // pack, sum_h, *tap(sum_w, sum_c), c % pack],
            ),
            axis=[sum_h, sum_w, sum_c],
        ),
        name="main",
    )
    return build.finish(main, False, affine, starts=True)


Product = Callable[[Expression, Expression], Expression]


def _real_factors(
    build: Builder, value: Value, inputs: int, outputs: int
) -> tuple[Index, Any, Product, Affine | None]:
    """A convolution's padded input, packed weights, and how two of them multiply."""
    layer, machine = build.layer, build.machine
    assert layer.window is not None and layer.weight is not None
    weight = pack_weight(layer.weight, inputs, outputs, machine.pack(layer.output.channels))
    read = _image(build, layer.window) if value.name == build.source else None
    if read is None:
        read = _pad(build, layer.window, build.normalised(value.name, inputs), inputs)
    return read, build.constant(weight, "weight"), lambda x, w: x * w, None


def _quantised_factors(
    build: Builder, value: Value, inputs: int, outputs: int
) -> tuple[Index, Any, Product, Affine | None]:
    """The same in words of whole numbers, and what makes real numbers of their sums."""
    from tvm import tirx

    layer, integer = build.layer, build.machine.integer
    assert layer.window is not None and layer.weight is not None
    assert layer.weight_scale is not None
    pack = build.machine.pack(layer.output.channels)
    weight, scale = integer.fitted(layer.weight, layer.weight_scale, axis=1)
    laid = pack_weight(weight, inputs, outputs, pack)
    words = laid.reshape(*laid.shape[:3], inputs // WORD, WORD, pack).swapaxes(-1, -2)
    packed = build.constant(integer.words(words), "weight", "int32")
    zeros = np.full(WORD, build.stored_zero(value), integer.dtype)
    nothing = tirx.const(int(zeros.view("int32")[0]), "int32")
    read = _pad(build, layer.window, build.stored(value.name, True), inputs // WORD, nothing)
    return read, packed, integer.dot, _affine(build, value, weight, scale)


def _affine(build: Builder, value: Value, weight: np.ndarray, scale: np.ndarray) -> Affine:
    """What makes real numbers of sums of an activation's numbers times whole weights."""
    assert value.quantization is not None
    sums = weight.sum((1, 2, 3), dtype=np.float64)
    unit = value.quantization.scale * scale.astype(np.float64)
    return Affine(unit, build.stored_zero(value) * sums)


def _winograd(build: Builder, cut: winograd.Plan, inputs: int) -> Kernel:
    """A 3x3 convolution by squares of outputs."""
    layer, machine = build.layer, build.machine
    assert layer.window is not None and layer.weight is not None
    value, output = build.values[layer.inputs[0]], layer.output
    outputs, pack = machine.channels(output.channels), machine.pack(output.channels)
    padded = cut.padded(layer.window, value.height, value.width)
    read = _pad(build, padded, build.normalised(value.name, inputs), inputs)
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
    channels = build.physical(layer.output)
    if layer.op == "max_pool":
        return _max_pool(build, value, channels)
    if layer.weight_scale is not None:
        return _depthwise_words(build, value, channels)
    read = _pad(build, window, build.normalised(value.name, channels), channels)
    kh, kw = _taps(window)
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
    main = compute(shape, lambda _, h, w, c: te.sum(term(h, w, c), axis=[kh, kw]), name="main")
    if layer.op == "avg_pool":
        shares = build.constant(_shares(window, value, layer.output), "share")
        main_sum = main
        main = compute(shape, lambda n, h, w, c: main_sum[n, h, w, c] * shares[h, w], name="mean")
    return build.finish(main)


def _depthwise_words(build: Builder, value: Value, channels: int) -> Kernel:
    """A depthwise convolution of whole numbers."""
    from tvm import te

    layer, window, integer = build.layer, build.layer.window, build.machine.integer
    assert window is not None and layer.weight is not None
    height, width = layer.output.height, layer.output.width
    assert layer.weight_scale is not None
    cut = pixels.plan(window, width)
    nothing = te.const(build.stored_zero(value), integer.dtype)
    stored = _inside(build.stored(value.name), build.physical(value), channels, nothing)
    read = _pad(build, cut.padded(window, value.width), stored, channels, nothing)
    fitted, scale = integer.fitted(layer.weight, layer.weight_scale, axis=3, overlapping=True)
    taps = pixels.pack_weight(fitted, cut, window.strides[1], channels)
    weight = build.constant(integer.words(taps), "weight", "int32")
    kh = te.reduce_axis((0, window.kernel[0]), "kh")
    span: Any = te.reduce_axis((0, cut.span), "span")
    down = window.strides[0]
    words = compute(
        ((height - 1) * down + window.kernel[0], cut.count, channels),
        lambda h, p, c: integer.interleave(
            [read(h, p * cut.gap + pixel, c) for pixel in range(WORD)]
        ),
        name="words",
    )
    group, advance, apart = cut.group, cut.step // cut.gap, WORD // cut.gap
    main = compute(
        (1, height, width, channels),
        lambda _, h, w, c: te.sum(
            integer.dot(
                words[h * down + kh, w // group * advance + span * apart, c],
                weight[kh, w % group, span, c],
            ),
            axis=[kh, span],
        ),
        name="main",
    )
    affine = _affine(build, value, fitted, scale)
    kernel = build.finish(main, affine=affine, starts=True)
    # A kind of its own to schedules; to profiles and reports the layer stays what it is.
    named = {ATTRIBUTE + "schedule": "pixel_words", ATTRIBUTE + "group": group}
    return replace(kernel, func=kernel.func.with_attrs(named))


def _max_pool(build: Builder, value: Value, channels: int) -> Kernel:
    """The largest under a window; of whole numbers where they come out as they went in."""
    from tvm import te

    layer, window = build.layer, build.layer.window
    assert window is not None
    raw = value.quantization is not None and value.quantization == layer.output.quantization
    raw = raw and [step.kind for step in layer.epilogue] == ["quantize"]
    raw = raw and build.physical(value) == channels
    read = build.stored(value.name) if raw else build.normalised(value.name, channels)
    dtype = build.machine.integer.dtype if raw else build.machine.dtype
    padded = _pad(build, window, read, channels, te.min_value(dtype))
    kh, kw = _taps(window)
    main = compute(
        (1, layer.output.height, layer.output.width, channels),
        lambda _, h, w, c: te.max(padded(*_under(window, h, w, kh, kw), c), axis=[kh, kw]),
        name="main",
    )
    return build.finish(main, raw=raw)


def _taps(window: Window) -> tuple[Any, Any]:
    """The two axes of a window."""
    from tvm import te

    high, wide = window.kernel
    return te.reduce_axis((0, high), "kh"), te.reduce_axis((0, wide), "kw")


def _global_pool(build: Builder) -> Kernel:
    from tvm import te

    value = build.values[build.layer.inputs[0]]
    channels = build.physical(build.layer.output)
    share = 1.0 / (value.height * value.width)
    affine, integer = None, build.machine.integer
    if value.quantization is None:
        read = build.normalised(value.name, channels)
    else:
        physical = build.physical(value)
        read = _inside(build.stored(value.name), physical, channels, te.const(0, integer.dtype))
        nothing = np.full(value.channels, build.stored_zero(value) / share)
        affine = Affine(np.full(value.channels, value.quantization.scale * share), nothing)
    h, w = te.reduce_axis((0, value.height), "kh"), te.reduce_axis((0, value.width), "kw")
    shape = (1, 1, 1, channels)
    main = compute(
        shape,
        lambda _, a, b, c: te.sum(read(a + h, b + w, c).astype("float32"), axis=[h, w]),
        name="main",
    )
    if affine is not None:
        return build.finish(main, affine=affine)
    dtype = build.machine.dtype
    mean = compute(shape, lambda *index: (main[index] * share).astype(dtype), name="mean")
    return build.finish(mean)


def _elementwise(build: Builder) -> Kernel:
    value = build.values[build.layer.inputs[0]]
    channels = build.physical(build.layer.output)
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
        result: Expression = tvm.tirx.const(0.0, build.machine.dtype)
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
    count = value.channels
    read = build.normalised(value.name, count)

    def x(c: Expression) -> Expression:
        return read(0, 0, c).astype("float32")

    k = te.reduce_axis((0, count), "k")
    largest = compute((1,), lambda _: te.max(x(k), axis=k), name="largest")
    power = compute((count,), lambda c: tvm.tirx.exp(x(c) - largest[0]), name="power")
    j = te.reduce_axis((0, count), "j")
    total = compute((1,), lambda _: te.sum(power[j], axis=j), name="total")
    main = compute(
        (1, 1, 1, build.machine.channels(count)),
        lambda n, h, w, c: tvm.tirx.if_then_else(
            c < count, power[tvm.tirx.min(c, count - 1)] / total[0], 0.0
        ).astype(build.machine.dtype),
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


def _under(window: Window, h: Any, w: Any, kh: Any, kw: Any) -> tuple[Expression, Expression]:
    """Where in the padded input an output's window tap lies."""
    (step_h, step_w), (gap_h, gap_w) = window.strides, window.dilations
    return h * step_h + kh * gap_h, w * step_w + kw * gap_w


def _pad(
    build: Builder,
    window: Window,
    read: Index,
    channels: int,
    outer: Expression | None = None,
) -> Index:
    """The input with its padding; a stage of its own where anything has to be written.

    Args:
        channels: that `read` has.
        outer: what the padding holds; None is the real number 0.
    """
    import tvm

    source = build.values[build.layer.inputs[0]]
    top, left, bottom, right = window.pads
    if not any(window.pads) and source.name != build.source:
        return read
    if outer is None:
        outer = tvm.tirx.const(0.0, build.machine.dtype)
    shape = (top + source.height + bottom, left + source.width + right, channels)

    def padded(h: Expression, w: Expression, c: Expression) -> Expression:
        inside = [h >= top, h < top + source.height, w >= left, w < left + source.width]
        inner = read(h - top, w - left, c)
        if not any(window.pads):
            return inner
        return tvm.tirx.if_then_else(tvm.tirx.all(*inside), inner, outer)

    stage = compute(shape, padded, name="pad")
    return lambda h, w, c: stage[h, w, c]


def _image(build: Builder, window: Window) -> Index | None:
    """The image with its padding in groups of pixels that fill vectors, three channels side by
    side; None where its width is no multiple of a group.

    On the left there is a whole group of padding, so that each group lies inside or outside.
    """
    import tvm

    value, dtype = build.values[build.source], build.machine.dtype
    sizes = (build.machine.lanes, _GROUP)
    group = next((size for size in sizes if value.width % size == 0), None)
    top, left, bottom, right = window.pads
    if group is None or max(left, right) > group:
        return None
    image, lanes, groups = build.activation(build.source), 3 * group, value.width // group
    std = np.array(build.preprocess.std)
    scale = build.constant(np.tile(1 / std, group), "scale", "float32")
    shift = build.constant(
        np.tile(-np.array(build.preprocess.mean) / std, group), "shift", "float32"
    )

    def padded(h: Expression, g: Expression, lane: Expression) -> Expression:
        inside = [h >= top, h < top + value.height, g >= 1, g <= groups]
        place = (g - 1) * lanes + lane
        pixel = image[0, h - top, place // 3, place % 3].astype("float32")
        real = (pixel * scale[lane] + shift[lane]).astype(dtype)
        return tvm.tirx.if_then_else(tvm.tirx.all(*inside), real, tvm.tirx.const(0.0, dtype))

    shape = (top + value.height + bottom, groups + 2, lanes)
    stage = compute(shape, padded, name="pad")

    def read(h: Expression, w: Expression, c: Expression) -> Expression:
        place = (w + group - left) * 3 + c
        return stage[h, place // lanes, place % lanes]

    return read


def _inside(read: Index, physical: int, channels: int, outer: Expression) -> Index:
    """Reads of channels some of which may lie beyond those in memory (`outer` there)."""
    import tvm

    if physical >= channels:
        return read
    return lambda h, w, c: tvm.tirx.if_then_else(
        c < physical, read(h, w, tvm.tirx.min(c, physical - 1)), outer
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
    if layer.weight_scale is not None:
        attributes["type"] = "int8"
    elif machine.dtype != "float32":
        attributes["type"] = machine.dtype
    if layer.op == "conv2d":
        output = layer.output
        attributes |= {
            "height": output.height,
            "width": output.width,
            "pack": machine.pack(output.channels),
        }
    return {ATTRIBUTE + key: value for key, value in attributes.items()}

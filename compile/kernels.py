"""From a layer to a TIR kernel: what is computed, in stages that the schedules know by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..runner.spec import Preprocess
from .convolutions import conv2d
from .epilogue import Affine
from .graph import Layer, Value
from .grouped import grouped
from .kernel import Builder, Kernel
from .machine import Machine
from .stage import Expression, bounded, compute
from .windows import window_op


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
        read = bounded(build.stored(value.name), physical, channels, te.const(0, integer.dtype))
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
    "conv2d": conv2d,
    "grouped": grouped,
    "depthwise": window_op,
    "max_pool": window_op,
    "avg_pool": window_op,
    "global_pool": _global_pool,
    "elementwise": _elementwise,
    "select": _select,
    "softmax": _softmax,
}

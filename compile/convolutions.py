"""Convolutions and fully connected layers as stages.

Weights are packed `[outputs / pack, kh, kw, inputs, pack]` here, at compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from . import pixels, winograd
from .epilogue import Affine
from .graph import Value
from .integer import WORD
from .kernel import ATTRIBUTE, Builder, Kernel
from .padding import pad_image, pad_input, under
from .stage import Expression, Index, bounded, compute

Product = Callable[[Expression, Expression], Expression]
Factors = tuple[Index, Any, Product, Affine | None]


def conv2d(build: Builder) -> Kernel:
    """A convolution, or a fully connected layer, by the fastest way that the machine has."""
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
    lay = partial(pack_weight, inputs=inputs, outputs=outputs, pack=pack)
    read, packed, product, affine = factors(build, inputs, lay)
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
        return read(*under(window, h, w, kh, column), channel)

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


def factors(build: Builder, inputs: int, lay: Callable[[np.ndarray], np.ndarray]) -> Factors:
    """A convolution's padded input, packed weights, how two of them multiply, and what makes real
    numbers of their sums. Inputs are channels, or words of a quantised layer.

    Args:
        inputs: channels of the input in memory.
        lay: packs the weights: `[co, ci, kh, kw]` to `[tiles, kh, kw, inputs, pack]`.
    """
    made = _real_factors if build.layer.weight_scale is None else _quantised_factors
    return made(build, build.values[build.layer.inputs[0]], inputs, lay)


def _real_factors(
    build: Builder, value: Value, inputs: int, lay: Callable[[np.ndarray], np.ndarray]
) -> Factors:
    layer = build.layer
    assert layer.window is not None and layer.weight is not None
    weight = lay(layer.weight)
    read = pad_image(build, layer.window) if value.name == build.source else None
    if read is None:
        read = pad_input(build, layer.window, build.normalised(value.name, inputs), inputs)
    return read, build.constant(weight, "weight"), lambda x, w: x * w, None


def _quantised_factors(
    build: Builder, value: Value, inputs: int, lay: Callable[[np.ndarray], np.ndarray]
) -> Factors:
    from tvm import tirx

    layer, integer = build.layer, build.machine.integer
    assert layer.window is not None and layer.weight is not None
    assert layer.weight_scale is not None
    weight, scale = integer.fitted(layer.weight, layer.weight_scale, axis=1)
    laid = lay(weight)
    words = laid.reshape(*laid.shape[:3], -1, WORD, laid.shape[-1]).swapaxes(-1, -2)
    packed = build.constant(integer.words(words), "weight", "int32")
    zeros = np.full(WORD, build.stored_zero(value), integer.dtype)
    nothing = tirx.const(int(zeros.view("int32")[0]), "int32")
    read = pad_input(build, layer.window, build.stored(value.name, True), inputs // WORD, nothing)
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
    read = pad_input(build, padded, build.normalised(value.name, inputs), inputs)
    weight = winograd.pack_weight(layer.weight, inputs, outputs, pack, cut.tile)
    packed = build.constant(weight, "weight")
    found = winograd.by_squares(read, packed, cut, inputs=inputs, outputs=outputs, pack=pack)
    shape = (1, output.height, output.width, outputs)
    kernel = build.finish(compute(shape, lambda _, h, w, c: found(h, w, c), name="assembled"))
    # A kernel of its own kind to schedules and profiles; to reports the layer stays what it is.
    attributes = {"op": f"winograd{cut.tile}", "squares": cut.squares}
    named = {ATTRIBUTE + key: value for key, value in attributes.items()}
    return replace(kernel, func=kernel.func.with_attrs(named))


def depthwise_words(build: Builder, value: Value, channels: int) -> Kernel:
    """A depthwise convolution of whole numbers."""
    from tvm import te

    layer, window, integer = build.layer, build.layer.window, build.machine.integer
    assert window is not None and layer.weight is not None
    height, width = layer.output.height, layer.output.width
    assert layer.weight_scale is not None
    cut = pixels.plan(window, width)
    nothing = te.const(build.stored_zero(value), integer.dtype)
    stored = bounded(build.stored(value.name), build.physical(value), channels, nothing)
    read = pad_input(build, cut.padded(window, value.width), stored, channels, nothing)
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


def pack_weight(weight: np.ndarray, inputs: int, outputs: int, pack: int) -> np.ndarray:
    """`[co, ci, kh, kw]` to `[outputs / pack, kh, kw, inputs, pack]`; zeros fill up."""
    co, ci, kh, kw = weight.shape
    full = np.zeros((outputs, inputs, kh, kw), "float32")
    full[:co, :ci] = weight
    return full.reshape(outputs // pack, pack, inputs, kh, kw).transpose(0, 3, 4, 2, 1)

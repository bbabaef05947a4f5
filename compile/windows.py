"""Depthwise convolution and pooling as stages: a window over each channel alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from .convolutions import depthwise_words
from .graph import Value, Window
from .kernel import Builder, Kernel
from .padding import pad_input, under
from .stage import Expression, compute


def window_op(build: Builder) -> Kernel:
    """Depthwise convolution and pooling: a window over each channel alone."""
    from tvm import te

    layer, window = build.layer, build.layer.window
    assert window is not None
    value = build.values[layer.inputs[0]]
    channels = build.physical(layer.output)
    if layer.op == "max_pool":
        return _max_pool(build, value, channels)
    if layer.weight_scale is not None:
        return depthwise_words(build, value, channels)
    read = pad_input(build, window, build.normalised(value.name, channels), channels)
    kh, kw = _taps(window)
    if layer.weight is None:

        def term(h: Expression, w: Expression, c: Expression) -> Expression:
            return read(*under(window, h, w, kh, kw), c)
    else:
        taps = np.zeros((*window.kernel, channels), "float32")
        taps[..., : value.channels] = layer.weight[:, 0].transpose(1, 2, 0)
        weight = build.constant(taps, "weight")

        def term(h: Expression, w: Expression, c: Expression) -> Expression:
            return read(*under(window, h, w, kh, kw), c) * weight[kh, kw, c]

    shape = (1, layer.output.height, layer.output.width, channels)
    main = compute(shape, lambda _, h, w, c: te.sum(term(h, w, c), axis=[kh, kw]), name="main")
    if layer.op == "avg_pool":
        shares = build.constant(_shares(window, value, layer.output), "share")
        main_sum = main
        main = compute(shape, lambda n, h, w, c: main_sum[n, h, w, c] * shares[h, w], name="mean")
    return build.finish(main)


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
    padded = pad_input(build, window, read, channels, te.min_value(dtype))
    kh, kw = _taps(window)
    main = compute(
        (1, layer.output.height, layer.output.width, channels),
        lambda _, h, w, c: te.max(padded(*under(window, h, w, kh, kw), c), axis=[kh, kw]),
        name="main",
    )
    return build.finish(main, raw=raw)


def _taps(window: Window) -> tuple[Any, Any]:
    """The two axes of a window."""
    from tvm import te

    high, wide = window.kernel
    return te.reduce_axis((0, high), "kh"), te.reduce_axis((0, wide), "kw")


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

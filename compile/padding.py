"""What a window reads: the input with its padding, and the image with its normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from .graph import Window
from .kernel import Builder
from .stage import Expression, Index, compute

_GROUP = 4  # pixels of three channels that fill three vectors of four


def under(window: Window, h: Any, w: Any, kh: Any, kw: Any) -> tuple[Expression, Expression]:
    """Where in the padded input an output's window tap lies."""
    (step_h, step_w), (gap_h, gap_w) = window.strides, window.dilations
    return h * step_h + kh * gap_h, w * step_w + kw * gap_w


def pad_input(
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


def pad_image(build: Builder, window: Window) -> Index | None:
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

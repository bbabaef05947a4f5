"""From numbers to int8: scales and zero points of activations, scales of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...runner.spec import Preprocess

LOWEST, HIGHEST = -128, 127
"""What int8 holds."""

BINS = 2048
"""Of a histogram: eight for each step of an int8 that clips nothing."""

PAIR = 128
"""Twice 255 times weights that sum up to this fits 16 bits."""

_CLIPS = np.linspace(0.1, 1.0, 46)
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Affine:
    """`real = scale * (int8 - zero_point)`; scale is a float32 number."""

    scale: float
    zero_point: int

    def quantise(self, values: np.ndarray) -> np.ndarray:
        """int8 of the same shape, as ONNX's QuantizeLinear has it: half to even, saturated."""
        steps = np.rint(values / np.float32(self.scale)) + self.zero_point
        return np.clip(steps, LOWEST, HIGHEST).astype(np.int8)

    def restore(self, steps: np.ndarray) -> np.ndarray:
        """float32 of the same shape, as ONNX's DequantizeLinear has it."""
        return (steps.astype(np.float32) - self.zero_point) * np.float32(self.scale)


def affine(low: float, high: float) -> Affine:
    """The quantiser of a range, widened to hold zero; zero itself is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return Affine(1.0, 0)
    scale = float(np.float32(max((high - low) / (HIGHEST - LOWEST), _SMALLEST)))
    zero_point = int(np.clip(np.rint(LOWEST - low / scale), LOWEST, HIGHEST))
    return Affine(scale, zero_point)


def input_range(preprocess: Preprocess) -> Affine:
    """The quantiser of a normalised photo: what 0..255 becomes, over all channels."""
    pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
    return affine(
        min((0 - mean) / std for mean, std in pairs),
        max((255 - mean) / std for mean, std in pairs),
    )


@dataclass(frozen=True)
class Histogram:
    """How often values occurred.

    Attributes:
        low, high: the least and the largest value.
        counts: int64 `[BINS]` of equal width between the two.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin, float64 `[BINS]`."""
        return self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS


def count(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """int64 `[BINS]`: how many of `values` lie in each bin between `low` and `high`."""
    if not high > low:
        only = np.zeros(BINS, np.int64)
        only[0] = values.size
        return only
    places = ((values.ravel() - np.float32(low)) * np.float32(BINS / (high - low))).astype(np.int32)
    return np.bincount(np.clip(places, 0, BINS - 1, out=places), minlength=BINS)


def least_error(histograms: Sequence[Histogram]) -> Affine:
    """The clipping range of least mean squared error for all of the histograms together.

    Where no value is negative the range begins at zero, which is then the lowest int8.
    """
    low = min(0.0, *(one.low for one in histograms))
    high = max(0.0, *(one.high for one in histograms))
    values = np.concatenate([one.centres for one in histograms])
    weights = np.concatenate([one.counts for one in histograms]).astype(np.float64)
    values, weights = values[weights > 0], weights[weights > 0]
    tried = [
        affine(low * below, high * above)
        for below in (_CLIPS if low < 0 else (1.0,))
        for above in (_CLIPS if high > 0 else (1.0,))
    ]
    errors = [_squared_error(one, values, weights) for one in tried]
    return tried[int(np.argmin(errors))]


def _squared_error(quantiser: Affine, values: np.ndarray, weights: np.ndarray) -> float:
    steps = np.rint(values / quantiser.scale)
    low, high = LOWEST - quantiser.zero_point, HIGHEST - quantiser.zero_point
    error = np.clip(steps, low, high, out=steps) * quantiser.scale - values
    return float(np.dot(weights, error * error))


@dataclass(frozen=True)
class Weights:
    """Symmetric int8 weights: `real = int8 * scale`, a scale for each output channel.

    Attributes:
        values: int8, of the float weights' shape, within -127..127.
        scales: float32 `[outputs]`.
        axis: where the output channels are.
    """

    values: np.ndarray
    scales: np.ndarray
    axis: int

    def restore(self) -> np.ndarray:
        """The float32 weights that they stand for."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return self.values.astype(np.float32) * self.scales.reshape(shape)


def quantise_weights(weights: np.ndarray, axis: int, *, paired: bool = False) -> Weights:
    """Weights to int8, each output channel scaled by its largest weight.

    Smaller scales of least squared error measured no better (docs/precision.md).

    Args:
        weights: float32, any shape.
        axis: where the output channels are.
        paired: no two neighbours sum up to more than `PAIR`: for processors that add two products
            in 16 bits. Of a depthwise convolution those along a line of the window, else inputs.
    """
    others = tuple(place for place in range(weights.ndim) if place != axis)
    scales = np.abs(weights).max(axis=others, initial=0.0, keepdims=True) / np.float32(HIGHEST)
    if paired:
        largest = _largest_pair(np.abs(weights), axis).max(axis=others, initial=0.0, keepdims=True)
        # One less, since rounding may raise a pair by one.
        scales = np.maximum(scales, largest / np.float32(PAIR - 1))
    scales[scales < _SMALLEST] = 1.0  # a channel of zeros; any scale will do
    steps = np.clip(np.rint(weights / scales), -HIGHEST, HIGHEST).astype(np.int8)
    return Weights(steps, scales.reshape(-1).astype(np.float32), axis)


def _largest_pair(sizes: np.ndarray, axis: int) -> np.ndarray:
    """Sums of neighbours: along the width of a depthwise window, else each second input and the
    next.
    """
    depthwise = sizes.ndim == 4 and sizes.shape[1] == 1
    along = 3 if depthwise else 1 - axis
    moved = np.moveaxis(sizes, along, -1)
    odd = [(0, 0)] * (moved.ndim - 1) + [(0, moved.shape[-1] % 2)]
    moved = np.pad(moved, odd)
    step = 1 if depthwise else 2
    return np.moveaxis(moved[..., :-1:step] + moved[..., 1::step], -1, along)

"""Scales and zero points: zero is exact, ranges are those of least error, weights symmetric."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgecompress.compress.int8.ranges import (
    BINS,
    HIGHEST,
    LOWEST,
    PAIR,
    Histogram,
    affine,
    count,
    input_range,
    least_error,
    quantise_weights,
)
from edgecompress.runner.spec import Preprocess

BOUNDS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(BOUNDS, BOUNDS)
def test_zero_is_exact_and_the_range_is_covered(one: float, other: float) -> None:
    low, high = sorted((one, other))
    quantiser = affine(low, high)
    assert LOWEST <= quantiser.zero_point <= HIGHEST
    assert quantiser.scale > 0
    zero = quantiser.quantise(np.zeros(1, np.float32))
    assert quantiser.restore(zero)[0] == 0
    ends = np.array([min(low, 0), max(high, 0)], np.float32)
    error = np.abs(quantiser.restore(quantiser.quantise(ends)) - ends)
    # The zero point is a whole number, so that an end may lie half a step outside.
    assert (error <= quantiser.scale * 1.01).all()


def test_the_image_of_efficientnet_lite_is_exact() -> None:
    quantiser = input_range(Preprocess((127.0,) * 3, (128.0,) * 3))
    assert (quantiser.scale, quantiser.zero_point) == (1 / 128, -1)
    pixels = np.arange(256, dtype=np.float32)
    normalised = (pixels - 127) / 128
    np.testing.assert_array_equal(quantiser.restore(quantiser.quantise(normalised)), normalised)


def test_the_image_range_holds_all_channels() -> None:
    quantiser = input_range(Preprocess((120.0, 110.0, 100.0), (60.0, 50.0, 40.0)))
    assert quantiser.scale == pytest.approx((155 / 40 + 100 / 40) / 255)
    assert quantiser.restore(np.array([LOWEST], np.int8))[0] == pytest.approx(-100 / 40, abs=0.02)


def histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, count(values, low, high))


def test_outputs_of_a_relu_begin_at_zero() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=50_000), 0).astype(np.float32)
    quantiser = least_error([histogram(values)])
    assert quantiser.zero_point == LOWEST
    assert quantiser.scale <= values.max() / 255


def test_rare_large_values_are_clipped_where_that_is_less_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=200_000).astype(np.float32)
    values[0] = 20.0
    whole, best = affine(float(values.min()), 20.0), least_error([histogram(values)])
    errors = [np.square(one.restore(one.quantise(values)) - values).mean() for one in (whole, best)]
    assert errors[1] < 0.8 * errors[0]


def test_several_histograms_share_a_range() -> None:
    small, large = (histogram(np.linspace(-a, a, 5000, dtype=np.float32)) for a in (1, 8))
    quantiser = least_error([small, large])
    assert quantiser.scale * 255 == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize("value", [0.0, -3.0, 5.0])
def test_a_constant_tensor_is_exact(value: float) -> None:
    values = np.full(10, value, np.float32)
    quantiser = least_error([histogram(values)])
    error = np.abs(quantiser.restore(quantiser.quantise(values)) - values)
    assert error.max() <= quantiser.scale


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e3, 1e3, width=32)),
    st.integers(-3, 3),
)
def test_every_value_is_counted(values: np.ndarray, exponent: int) -> None:
    values = values * np.float32(10.0**exponent)
    low, high = float(values.min()), float(values.max())
    counts = count(values, low, high)
    assert counts.shape == (BINS,)
    assert counts.sum() == values.size


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
        elements=st.floats(-100, 100, width=32),
    ),
    st.integers(0, 3),
)
def test_weights_are_within_half_a_step(weights: np.ndarray, axis: int) -> None:
    assume(axis < weights.ndim)
    quantised = quantise_weights(weights, axis)
    assert quantised.values.dtype == np.int8
    assert quantised.values.shape == weights.shape
    assert quantised.scales.shape == (weights.shape[axis],)
    assert np.abs(quantised.values.astype(int)).max() <= HIGHEST
    shape = [1] * weights.ndim
    shape[axis] = -1
    steps = np.abs(quantised.restore() - weights) / quantised.scales.reshape(shape)
    assert steps.max() <= 0.5001


def test_a_channel_of_zeros_has_a_scale() -> None:
    weights = np.zeros((2, 3), np.float32)
    weights[1] = 1
    quantised = quantise_weights(weights, 0)
    assert quantised.scales[0] > 0
    np.testing.assert_array_equal(quantised.restore(), weights)


@given(seed=st.integers(0, 2**16), inputs=st.integers(1, 9), depthwise=st.booleans())
def test_paired_weights_fit_sixteen_bits(seed: int, inputs: int, depthwise: bool) -> None:
    """No two weights that meet sum up to more than 128, and each is within half a step."""
    shape = (5, 1, 3, inputs) if depthwise else (5, inputs, 3, 3)
    weights = np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)
    found = quantise_weights(weights, 0, paired=True)
    sizes = np.abs(found.values.astype(int))
    if depthwise:
        pairs = sizes[..., :-1] + sizes[..., 1:]
    else:
        pairs = sizes[:, : inputs - 1 : 2] + sizes[:, 1::2]
    assert pairs.max(initial=0) <= PAIR
    assert np.abs(found.restore() - weights).max() <= 0.5001 * found.scales.max()

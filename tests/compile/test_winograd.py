"""Winograd's filtering: the algebra, and when it is chosen. Numbers of whole kernels stand in
test_kernels.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compile import winograd
from edgecompress.compile.graph import Layer, Value, Window
from edgecompress.compile.machine import machine_of
from edgecompress.targets import load_board

PI4 = machine_of(load_board("rpi4b"))
SAME = Window((3, 3), pads=(1, 1, 1, 1))


def layer(height: int, width: int, inputs: int, outputs: int, window: Window = SAME) -> Layer:
    down, across = window.output(height, width)
    weight = np.zeros((outputs, inputs, *window.kernel), "float32")
    return Layer("conv2d", ("x",), Value("y", outputs, down, across), ("conv",), window, weight)


def along(axis: int, values: np.ndarray, rule: Any) -> np.ndarray:
    """A transform along one axis."""
    return np.stack(rule(list(np.moveaxis(values, axis, 0))), axis)


@pytest.mark.parametrize("tile", winograd.TILES)
@settings(deadline=None)  # the first call imports TVM
@given(seed=st.integers(0, 1000))
def test_a_square_is_what_the_sum_gives(tile: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    side = tile + 2
    pixels, weight = random.normal(size=(side, side)), random.normal(size=(1, 1, 3, 3))
    packed = winograd.pack_weight(weight, 1, 1, 1, tile)[:, :, 0, 0, 0]
    inside = along(1, along(0, pixels, winograd._INPUT[tile]), winograd._INPUT[tile])
    outside = winograd._OUTPUT[tile]
    got = along(1, along(0, inside * packed, outside), outside)
    want = [
        [(pixels[i : i + 3, j : j + 3] * weight[0, 0]).sum() for j in range(tile)]
        for i in range(tile)
    ]
    np.testing.assert_allclose(got, want, atol=1e-4)  # packed weights are float32


def half_sum(factors: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A sum of products in half precision, each step rounded."""
    total = np.zeros(shape, np.float16)
    for left, right in factors:
        total = total + left * right
    return total


@pytest.mark.parametrize(("noise", "limits"), [(1.0, {2: 1.0, 4: 2.6}), (0.3, {2: 0.8, 4: 1.0})])
def test_squares_in_half_precision_are_about_as_exact_as_sums(
    noise: float, limits: dict[int, float]
) -> None:
    """What their transforms lose, they win by shorter sums, with nine times fewer summands: all of
    it where pixels resemble their neighbours, as those of photos do; in noise squares of 4 lose.
    """
    random, channels, squares, outputs = np.random.default_rng(0), 64, 32, 16
    weight = random.normal(size=(outputs, channels, 3, 3)) / np.sqrt(9 * channels)
    for tile in winograd.TILES:
        side = tile + 2
        x = noise * random.normal(size=(side, side, squares, channels))
        x = (x + (noise < 1) * random.normal(size=(squares, channels))).clip(0).astype(np.float16)
        w = weight.astype(np.float16)
        near = [
            (i, j, x[i : i + tile, j : j + tile].astype(float)) for i in range(3) for j in range(3)
        ]
        want = sum(part @ w[:, :, i, j].T.astype(float) for i, j, part in near)
        summed = half_sum(
            (
                (x[i : i + tile, j : j + tile, :, c, None], w[:, c, i, j])
                for c in range(channels)
                for i in range(3)
                for j in range(3)
            ),
            (tile, tile, squares, outputs),
        )
        packed = winograd.pack_weight(weight, channels, outputs, outputs, tile)[:, :, 0]
        packed = packed.astype(np.float16)
        inside = along(1, along(0, x, winograd._INPUT[tile]), winograd._INPUT[tile])
        product = half_sum(
            ((inside[..., c, None], packed[:, :, None, c]) for c in range(channels)),
            (side, side, squares, outputs),
        )
        outside = winograd._OUTPUT[tile]
        got = along(1, along(0, product, outside), outside)
        assert got.dtype == np.float16
        off = [np.sqrt(np.square(one - want).mean()) for one in (got, summed)]
        assert off[0] < limits[tile] * off[1]


def test_channels_beyond_the_real_ones_have_no_weight() -> None:
    weight = np.ones((5, 3, 3, 3), "float32")
    packed = winograd.pack_weight(weight, 4, 8, 4, 2)
    assert packed.shape == (4, 4, 2, 4, 4)
    assert packed.dtype == np.float32
    assert not packed[:, :, :, 3].any() and not packed[:, :, 1, :, 1:].any()
    assert packed[:, :, 1, :3, 0].any()


def test_large_maps_take_large_squares_and_small_maps_small_ones() -> None:
    large = winograd.plan(layer(56, 56, 64, 64), PI4, 64)
    small = winograd.plan(layer(6, 6, 256, 256), PI4, 256)
    assert large is not None and large.tile == 4 and large.squares == 14 * 14
    assert small is not None and small.tile == 2 and small.squares == 9


@pytest.mark.parametrize(
    "changed",
    [
        {"strides": (2, 2)},
        {"dilations": (2, 2)},
        {"kernel": (5, 5), "pads": (2, 2, 2, 2)},
        {"kernel": (3, 1), "pads": (1, 0, 1, 0)},
    ],
)
def test_other_windows_are_summed(changed: dict[str, Any]) -> None:
    one = layer(56, 56, 64, 64, replace(SAME, **changed))
    assert winograd.plan(one, PI4, 64) is None


def test_few_squares_are_summed() -> None:
    """Weights are read once a photo, and transformed ones are larger."""
    assert winograd.plan(layer(4, 4, 64, 64), PI4, 64) is None


def test_an_image_of_three_channels_is_summed() -> None:
    assert winograd.plan(layer(56, 56, 3, 64), PI4, 3) is None


@given(height=st.integers(1, 40), width=st.integers(1, 40), top=st.integers(0, 2))
def test_padding_makes_all_squares_whole(height: int, width: int, top: int) -> None:
    window = replace(SAME, pads=(top, 1, 1, 1))
    if min(window.output(height, width)) < 1:
        return
    one = layer(height, width, 64, 64, window)
    cut = winograd.plan(one, PI4, 64)
    if cut is None:
        return
    padded = cut.padded(window, height, width)
    assert padded.pads[:2] == (top, 1) and min(padded.pads) >= 0
    assert padded.output(height, width) == (cut.down * cut.tile, cut.across * cut.tile)
    assert cut.down * cut.tile >= one.output.height > (cut.down - 1) * cut.tile

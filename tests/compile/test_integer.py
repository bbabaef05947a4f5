"""Arithmetic of whole numbers: how numbers lie in words, and what weights each core can sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgecompress.compile import integer
from edgecompress.compile.integer import VIEWS, WORD, Integer, as_stored, as_words, integer_of
from edgecompress.targets import load_board

ALL = integer._INTEGERS
PAIRS = ALL["pmaddubsw"]
WEIGHTS = arrays(
    np.int64, array_shapes(min_dims=4, max_dims=4, max_side=6), elements=st.integers(-127, 127)
)


@pytest.mark.parametrize(
    ("board", "instruction"),
    [("rpi4b", "smull"), ("rpi3b-plus", "smull"), ("rpi5", "sdot"), ("rk3588", "sdot")],
)
def test_a_board_has_what_its_cores_have(board: str, instruction: str) -> None:
    assert integer_of(load_board(board)).instruction == instruction


@pytest.mark.parametrize("core", ALL.values(), ids=ALL)
def test_stored_numbers_fit_their_type(core: Integer) -> None:
    """x86 multiplies numbers without a sign: it has them 128 higher."""
    limits = np.iinfo(core.dtype)
    assert (limits.min, limits.max) == (-128 + core.offset, 127 + core.offset)


@given(
    arrays(
        np.int64,
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(WORD)),
        elements=st.integers(-128, 127),
    )
)
def test_a_word_holds_four_weights_the_first_in_its_lowest_byte(quantised: np.ndarray) -> None:
    words = ALL["sdot"].words(quantised)
    assert words.dtype == np.int32 and words.shape == quantised.shape[:-1]
    for place in range(WORD):
        byte = (words.astype(np.int64) >> (8 * place)) & 255
        np.testing.assert_array_equal(byte, quantised[..., place] & 255)


# Weights that 16 bits can sum


def pairs(weight: np.ndarray, axis: int, overlapping: bool) -> np.ndarray:
    """Sums of the sizes of two weights that are multiplied at once."""
    sizes = np.moveaxis(np.abs(weight), axis, -1)
    sizes = np.pad(sizes, [(0, 0)] * (sizes.ndim - 1) + [(0, sizes.shape[-1] % 2)])
    step = 1 if overlapping else 2
    return sizes[..., :-1:step] + sizes[..., 1::step]


@given(WEIGHTS, st.sampled_from([1, 3]), st.booleans())
def test_fitted_weights_can_be_summed_in_16_bits(
    weight: np.ndarray, axis: int, overlapping: bool
) -> None:
    scale = np.linspace(0.5, 2, len(weight))
    whole, steps = PAIRS.fitted(weight, scale, axis, overlapping)
    assert (whole == np.rint(whole)).all()
    assert pairs(whole, axis, overlapping).max() <= 128
    assert np.iinfo(np.int16).max >= 255 * 128
    # Steps grow to at most twice as much, and no weight is off by more than half of one.
    assert (steps >= scale).all() and (steps <= scale * 254 / 127).all()
    by_output = (-1, 1, 1, 1)
    off = np.abs(whole * steps.reshape(by_output) - weight * scale.reshape(by_output))
    assert (off <= steps.reshape(by_output) / 2 + 1e-9).all()


@given(WEIGHTS, st.booleans())
def test_weights_that_fit_stay_as_they_are(weight: np.ndarray, overlapping: bool) -> None:
    """Each output by itself: one with large weights costs the others nothing."""
    scale = np.ones(len(weight))
    whole, steps = PAIRS.fitted(weight, scale, 1, overlapping)
    largest = pairs(weight, 1, overlapping).reshape(len(weight), -1).max(1, initial=0)
    for place in np.flatnonzero(largest <= 128):
        assert steps[place] == 1
        np.testing.assert_array_equal(whole[place], weight[place])
    assert (steps[largest > 128] > 1).all()


@pytest.mark.parametrize("name", sorted(set(ALL) - {"pmaddubsw"}))
def test_other_instructions_sum_any_weights(name: str) -> None:
    weight, scale = np.full((2, 4, 1, 1), 127), np.ones(2)
    whole, steps = ALL[name].fitted(weight, scale, 1)
    assert whole is weight and steps is scale


# Kernels over words, and over what lies in memory


def kernel(core: Integer, views: tuple[int, ...]) -> Any:
    """Words times words; `views` are the parameters that are read as words."""
    from tvm import te

    x, y = (te.placeholder((3, 2, 4), "int32", name) for name in "xy")
    result: Any = te.compute((3, 2, 4), lambda *i: core.dot(x[i], y[i]), name="main")
    func: Any = te.create_prim_func([x, y, result])
    return func.with_attrs({"edgecompress.op": "test", VIEWS: list(views)})


@pytest.mark.parametrize("views", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("name", ["sdot", "pmaddubsw"])
def test_a_kernel_over_words_is_one_over_memory_and_back(name: str, views: tuple[int, ...]) -> None:
    import tvm_ffi

    func = kernel(ALL[name], views)
    stored = as_stored(func, ALL[name])
    for place in range(2):
        parameter: Any = stored.params[place]
        shape = [int(size) for size in parameter.shape]
        wanted = ([3, 2, 16], ALL[name].dtype) if place in views else ([3, 2, 4], "int32")
        assert (shape, str(parameter.dtype)) == wanted
    assert tvm_ffi.structural_equal(as_words(stored), func)
    again = as_stored(as_words(stored), ALL[name])
    assert tvm_ffi.structural_hash(again) == tvm_ffi.structural_hash(stored)


PORTABLE = ["plain"]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_dot_product_adds_four_products(seed: int) -> None:
    import tvm

    core = ALL["plain"]
    random = np.random.default_rng(seed)
    numbers = [random.integers(-128, 128, (3, 2, 16)).astype("int8") for _ in range(2)]
    func = as_stored(kernel(core, (0, 1)), core).with_attr("global_symbol", "main")
    result = tvm.runtime.tensor(np.zeros((3, 2, 4), "int32"))
    tvm.compile(func, target="llvm")["main"](*map(tvm.runtime.tensor, numbers), result)
    wanted = (numbers[0].astype(int) * numbers[1]).reshape(3, 2, 4, WORD).sum(-1)
    np.testing.assert_array_equal(result.numpy(), wanted)

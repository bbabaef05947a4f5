"""What follows an operator, folded into the unit of a quantised result. Numbers of whole kernels
stand in test_quantised.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgecompress.compile.graph import Layer, Quantization, Step, Value, Window
from edgecompress.compile.integer import as_words
from edgecompress.compile.kernels import build_kernel
from edgecompress.compile.machine import machine_of
from edgecompress.runner.spec import Preprocess
from edgecompress.targets import load_board

MACHINE = machine_of(load_board("rpi5")).of_words()
X = Value("x", 8, 4, 4, quantization=Quantization(0.05, 3))
REAL = Value("real", 8, 4, 4)
OTHER = Value("other", 8, 4, 4, quantization=Quantization(0.03, -7))
Y = Value("y", 8, 4, 4, quantization=Quantization(0.02, -128))


def epilogue(*steps: Step, output: Value = Y, bias: float = 0.25) -> tuple[str, Sequence[Any]]:
    """What the stage `epilogue` of a convolution says, and the constants of the kernel."""
    if output.quantization is not None:
        steps = (*steps, Step("quantize", output.quantization))
    layer = Layer(
        "conv2d",
        ("x",),
        output,
        ("conv",),
        Window((1, 1)),
        np.arange(-32.0, 32).reshape(8, 8, 1, 1).astype("float32"),
        np.linspace(0.001, 0.002, 8).astype("float32"),
        np.full(8, bias, "float32"),
        epilogue=steps,
    )
    values = {value.name: value for value in (X, REAL, OTHER, output)}
    from tvm.s_tir import Schedule

    source = ("image", Preprocess((0.0,) * 3, (1.0,) * 3))
    kernel = build_kernel(layer, values, MACHINE, source, False)
    sch: Any = Schedule(as_words(kernel.func))
    block = sch.get(sch.get_sblock("epilogue"))
    return str(block.body.value), kernel.constants


def test_scale_bias_and_zero_point_are_one_multiplication() -> None:
    """The sums begin with what would be added: it is a constant of whole numbers."""
    said, constants = epilogue()
    assert said.count(" * ") == 1 and " + " not in said
    start = next(array for array in constants if array.dtype == np.int32 and array.ndim == 1)
    scale = next(array for array in constants if array.dtype == np.float32 and array.ndim == 1)
    zero = 3
    weight = np.arange(-32.0, 32).reshape(8, 8)
    wanted = (0.25 / 0.02 - 128) / scale - zero * weight.sum(1)
    np.testing.assert_allclose(start, wanted, atol=0.51)
    np.testing.assert_allclose(scale, 0.05 * np.linspace(0.001, 0.002, 8) / 0.02, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "zero", "limits"),
    [
        # relu at the lowest number, and above it
        (Step("relu"), -128, 0),
        (Step("relu"), -100, 1),
        # 0 to 6 is what the 8 bits can be
        (Step("clip", (0.0, 0.02 * 255)), -128, 0),
        (Step("clip", (0.0, 0.02 * 254)), -128, 1),
        (Step("clip", (0.02, 0.02 * 255)), -128, 1),
        (Step("clip", (-1.0, 1.0)), 0, 2),
        (Step("clip", (-9.0, 1.0)), 0, 1),
        (Step("clip", (-9.0, 9.0)), 0, 0),
        (Step("clip", (-np.inf, np.inf)), 0, 0),
    ],
)
def test_limits_of_8_bits_fall_away(step: Step, zero: int, limits: int) -> None:
    output = Value("y", 8, 4, 4, quantization=Quantization(0.02, zero))
    said, _ = epilogue(step, output=output)
    assert said.count("T.max") + said.count("T.min") == limits


def test_limits_before_something_else_stay() -> None:
    """The 8 bits limit what is stored, not what something is added to."""
    output = Value("y", 8, 4, 4, quantization=Quantization(0.02, -128))
    said, _ = epilogue(Step("relu"), Step("add", "real"), output=output)
    assert said.count("T.max") == 1


def test_limits_of_real_numbers_stay() -> None:
    said, _ = epilogue(Step("relu"), output=REAL)
    assert said.count("T.max") == 1


def test_constants_before_a_limit_join_the_bias() -> None:
    plain, _ = epilogue(Step("relu"), bias=0.75)
    said, _ = epilogue(Step("add", 0.25), Step("add", np.full(8, 0.25)), Step("relu"))
    assert said == plain


def test_constants_behind_a_limit_are_added_there() -> None:
    said, _ = epilogue(Step("relu"), Step("add", 0.25))
    assert said.count("T.max") == 1 and "12.5" in said  # 0.25 in steps of 0.02


def test_a_quantised_summand_is_read_as_it_is() -> None:
    """Its zero point joins the bias; one multiplication brings it to the result's unit."""
    said, _ = epilogue(Step("add", "other"))
    assert said.count(" * ") == 2
    assert "1.5" in said  # 0.03 in steps of 0.02


def test_real_functions_are_of_real_numbers() -> None:
    """A sigmoid is none of steps: the result's unit comes behind it."""
    said, _ = epilogue(Step("sigmoid"))
    assert "T.sigmoid" in said and "50.0" in said  # a step of 0.02 is a fiftieth

"""A kernel whose result is known: a board that gets it wrong is not measured on.

Its numbers are small whole ones, so that every processor must give them to the last bit, in
whatever order it adds, and no two questions are the same, so that no answer can be an old one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tvm import IRModule

ROWS, INNER, COLUMNS = 24, 40, 32
_LARGEST = 9

Array = NDArray[np.float32]


def known_kernel() -> IRModule:
    """A product of matrices, with the vectors and threads that tuned kernels use; `main`."""
    from tvm import te
    from tvm.s_tir import Schedule

    left = te.placeholder((ROWS, INNER), name="left")
    right = te.placeholder((INNER, COLUMNS), name="right")
    k = te.reduce_axis((0, INNER), name="k")
    product: Any = te.compute(
        (ROWS, COLUMNS), lambda i, j: te.sum(left[i, k] * right[k, j], axis=k), name="product"
    )
    schedule: Any = Schedule(te.create_prim_func([left, right, product]))
    i, j, inner = schedule.get_loops(schedule.get_sblock("product"))
    j, vector = schedule.split(j, [None, 4])
    schedule.reorder(i, j, inner, vector)
    schedule.parallel(i)
    schedule.vectorize(vector)
    return schedule.mod


def question(seed: int) -> tuple[Array, Array]:
    """Its two arguments."""
    generator = np.random.default_rng(seed)
    shapes = ((ROWS, INNER), (INNER, COLUMNS))
    left, right = (
        generator.integers(-_LARGEST, _LARGEST, shape).astype(np.float32) for shape in shapes
    )
    return left, right


def is_right(seed: int, answer: Array) -> bool:
    """Whether an answer is the product of the question's matrices, exactly."""
    left, right = question(seed)
    return np.array_equal(answer, left @ right)

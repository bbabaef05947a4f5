"""Winograd's minimal filtering for 3x3 convolutions: fewer multiplications, a few more additions.

F(m x m, 3 x 3) computes a square of m x m outputs from (m + 2) x (m + 2) inputs with (m + 2)^2
multiplications for each pair of channels, where the sum itself takes 9 m^2: 2.25 times fewer for
m = 2, 4 times for m = 4. Inputs and outputs are transformed by small matrices, weights at compile
time (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).

The transforms are written out row by row, with what two rows share computed once, since a compiler
may not reorder floating-point sums. Rounding errors grow with m: docs/kernels.md states the bound
that tests hold. For m = 4 the polynomials are evaluated at 0, the roots of 1/2 and of 2, and
infinity: powers of these stay nearer to 1 than those of the usual 1 and 2, which halves the errors.
In float16 that is the difference between as exact as a plain sum and worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .graph import Layer, Window
from .machine import Machine
from .stage import Expression, Index, compute, like

TILES = (2, 4)
KERNEL = 3

_ROOT = math.sqrt(2)

_WEIGHT = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1, 0, 0],
        [-2 / 3, -_ROOT / 3, -1 / 3],
        [-2 / 3, _ROOT / 3, -1 / 3],
        [1 / 6, _ROOT / 6, 1 / 3],
        [1 / 6, -_ROOT / 6, 1 / 3],
        [0, 0, 1],
    ],
}

# Vector operations of one input or output transform, loads and stores included.
_INPUT_OPERATIONS = {2: 64, 4: 240}
_OUTPUT_OPERATIONS = {2: 50, 4: 220}
# Transformed weights are larger, and each is read once a photo. Below so many squares the reading
# is what takes the time on a board (a Cortex-A72 gets about two bytes a cycle from its memory).
_LEAST_SQUARES = {2: 9, 4: 9}


@dataclass(frozen=True)
class Plan:
    """How one convolution is cut into squares.

    Attributes:
        tile: m, the side of a square of outputs.
        down: squares from top to bottom.
        across: squares from left to right.
    """

    tile: int
    down: int
    across: int

    @property
    def side(self) -> int:
        """Inputs on a side of a square."""
        return self.tile + KERNEL - 1

    @property
    def squares(self) -> int:
        """Squares of the whole output."""
        return self.down * self.across

    def padded(self, window: Window, height: int, width: int) -> Window:
        """The window with so many zeros that all squares are whole; input size in pixels."""
        top, left, _, _ = window.pads
        bottom = self.down * self.tile + KERNEL - 1 - top - height
        right = self.across * self.tile + KERNEL - 1 - left - width
        return replace(window, pads=(top, left, bottom, right))


def plan(layer: Layer, machine: Machine, inputs: int) -> Plan | None:
    """The fastest way to run a convolution by squares, or None where the plain sum is faster.

    Args:
        inputs: channels of the input in memory.
    """
    window, output = layer.window, layer.output
    assert window is not None
    plain = window.kernel == (KERNEL, KERNEL) and window.strides == window.dilations == (1, 1)
    if not plain or inputs % machine.lanes or output.rank != 4:
        return None
    vectors = machine.pack(output.channels) // machine.lanes
    outputs = machine.channels(output.channels)
    groups = outputs // machine.pack(output.channels)
    rows = machine.tile_rows(vectors)
    lines = output.height * groups
    direct = lines * machine.line_cycles(output.width, rows, vectors, inputs * KERNEL**2)
    best: tuple[float, Plan | None] = (direct, None)
    for tile in TILES:
        cut = Plan(tile, -(-output.height // tile), -(-output.width // tile))
        if cut.squares < _LEAST_SQUARES[tile]:
            continue
        product = machine.line_cycles(cut.squares, rows, vectors, inputs) * groups * cut.side**2
        around = transform_cycles(tile, cut.squares, inputs, outputs, machine)
        best = min(best, (product + around, cut), key=lambda pair: pair[0])
    return best[1]


def transform_cycles(tile: int, squares: int, inputs: int, outputs: int, machine: Machine) -> float:
    """Estimated cycles to transform all squares; channels are those in memory."""
    operations = _INPUT_OPERATIONS[tile] * inputs + _OUTPUT_OPERATIONS[tile] * outputs
    return operations * squares / machine.lanes / machine.fma_per_cycle


def pack_weight(weight: np.ndarray, inputs: int, outputs: int, pack: int, tile: int) -> np.ndarray:
    """`[co, ci, 3, 3]`, transformed: `[m + 2, m + 2, outputs / pack, inputs, pack]`."""
    matrix = np.array(_WEIGHT[tile], np.float64)
    co, ci = weight.shape[:2]
    full = np.zeros((tile + 2, tile + 2, outputs, inputs))
    full[:, :, :co, :ci] = np.einsum(
        "ui,ocij,vj->uvoc", matrix, weight.astype(np.float64), matrix, optimize=True
    )
    shape = (tile + 2, tile + 2, outputs // pack, pack, inputs)
    return full.reshape(shape).transpose(0, 1, 2, 4, 3).astype(np.float32)


def by_squares(
    read: Index, packed: Any, cut: Plan, *, inputs: int, outputs: int, pack: int
) -> Callable[[Expression, Expression, Expression], Expression]:
    """The convolution as stages; gives an output by row, column and channel.

    Stages: `rows` and `transformed` (the input), `gather`, `main` and `product` (for each of the
    (m + 2)^2 places a matrix product over channels), `columns` and `square` (the output).

    Args:
        read: the padded input by row, column and channel.
        packed: what `pack_weight` gave, as a placeholder.
    """
    from tvm import te

    m, side, squares = cut.tile, cut.side, cut.squares
    rows = compute(
        (cut.down, cut.across, side, side, inputs),
        lambda y, x, u, j, c: _pick(
            u, _INPUT[m]([read(y * m + i, x * m + j, c) for i in range(side)])
        ),
        name="rows",
    )
    transformed = compute(
        (side, side, squares, inputs),
        lambda u, v, t, c: _pick(
            v,
            _INPUT[m]([rows[t // cut.across, t % cut.across, u, j, c] for j in range(side)]),
        ),
        name="transformed",
    )
    gather = compute(
        (side, side, squares, inputs), lambda u, v, t, k: transformed[u, v, t, k], name="gather"
    )
    k = te.reduce_axis((0, inputs), "ci")
    main = compute(
        (side, side, squares, outputs),
        lambda u, v, t, c: te.sum(
            gather[u, v, t, k] * packed[u, v, c // pack, k, c % pack], axis=[k]
        ),
        name="main",
    )
    product = compute(
        (side, side, squares, outputs), lambda u, v, t, c: main[u, v, t, c], name="product"
    )
    columns = compute(
        (cut.down, cut.across, m, side, outputs),
        lambda y, x, i, v, c: _pick(
            i, _OUTPUT[m]([product[u, v, y * cut.across + x, c] for u in range(side)])
        ),
        name="columns",
    )
    square = compute(
        (cut.down, cut.across, m, m, outputs),
        lambda y, x, i, j, c: _pick(j, _OUTPUT[m]([columns[y, x, i, v, c] for v in range(side)])),
        name="square",
    )
    return lambda h, w, c: square[h // m, w // m, h % m, w % m, c]


def _pick(index: Any, values: Sequence[Expression]) -> Expression:
    """`values[index]`: the index is known once its loop is unrolled, and the rest falls away."""
    import tvm

    result = values[-1]
    for place in range(len(values) - 2, -1, -1):
        result = tvm.tirx.Select(index == place, values[place], result)
    return result


def _times(factor: float, value: Expression) -> Expression:
    return value * like(factor, value)


def _input2(d: Sequence[Expression]) -> list[Expression]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output2(m: Sequence[Expression]) -> list[Expression]:
    return [m[0] + (m[1] + m[2]), (m[1] - m[2]) - m[3]]


def _input4(d: Sequence[Expression]) -> list[Expression]:
    even, odd = d[4] - _times(2.0, d[2]), _times(_ROOT / 2, d[3]) - _times(_ROOT, d[1])
    near, far = d[4] - _times(0.5, d[2]), _times(_ROOT, d[3]) - _times(_ROOT / 2, d[1])
    first, last = d[0] - _times(2.5, d[2]), d[1] - _times(2.5, d[3])
    return [first + d[4], even + odd, even - odd, near + far, near - far, last + d[5]]


def _output4(m: Sequence[Expression]) -> list[Expression]:
    one, other = m[1] + m[2], m[3] + m[4]
    minus, least = m[1] - m[2], m[3] - m[4]
    return [
        m[0] + one + other,
        _times(_ROOT / 2, minus) + _times(_ROOT, least),
        _times(0.5, one) + _times(2.0, other),
        _times(_ROOT / 4, minus) + _times(2 * _ROOT, least) + m[5],
    ]


_INPUT = {2: _input2, 4: _input4}
_OUTPUT = {2: _output2, 4: _output4}

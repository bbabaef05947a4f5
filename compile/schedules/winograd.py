"""3x3 convolutions by squares (`compile/winograd.py`): transforms around a register-tiled product.

The transforms hold one square of one vector of channels in registers and the first-level cache. The
product is that of a 1x1 convolution, once for each place of a square, over all squares.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..winograd import transform_cycles
from .common import (
    Handle,
    TirSchedule,
    choose,
    drawn_from,
    extent,
    inline,
    number,
    partition_tail,
    schedule_pad,
    share,
    stages,
    unroll,
    vectorize,
)
from .conv2d import Conv2d, Geometry

_FLOAT = 4  # bytes


class Winograd(Conv2d):
    """See the module. The free choice is the number of squares in a register tile."""

    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""
        blocks = stages(sch)
        inline(sch, blocks, "assembled")
        self._transform_input(sch, blocks)
        self._multiply(sch, blocks)
        self._transform_output(sch, blocks)
        schedule_pad(sch, blocks, self.machine)

    def estimate(self, sch: TirSchedule, choices: Sequence[int]) -> float | None:
        """Estimated cycles of the products and the transforms, with perfect caches."""
        blocks = stages(sch)
        geometry, places = _product(sch, blocks), _places(sch, blocks)
        most = self._most_rows(geometry)
        rows = drawn_from(range(-(-most // 2), most + 1), iter(choices))
        packs = places * geometry.outputs // geometry.pack
        around = transform_cycles(
            _side(sch), geometry.width, geometry.inputs, geometry.outputs, self.machine
        )
        return packs * self._pack_cycles(geometry, rows, 1) + around

    def _transform_input(self, sch: TirSchedule, blocks: dict[str, Handle]) -> None:
        down, across, square, channels = sch.get_loops(blocks["transformed"])
        squares, written = extent(sch, square), extent(sch, channels) * _FLOAT
        written *= squares * extent(sch, down) * extent(sch, across)
        packs, lanes = sch.split(channels, [None, self.machine.lanes])
        sch.reorder(square, packs, down, across, lanes)
        self._in_registers(sch, blocks["rows"], packs)
        sch.vectorize(lanes)
        unroll(sch, down, across)
        share(sch, square, written, self.machine)

    def _multiply(self, sch: TirSchedule, blocks: dict[str, Handle]) -> None:
        machine, geometry = self.machine, _product(sch, blocks)
        places, pack = _places(sch, blocks), geometry.pack
        down, across, square, outputs = sch.get_loops(blocks["product"])
        squares = geometry.width
        most = self._most_rows(geometry)
        best, _ = self._plan(geometry)
        rows = choose(sch, range(-(-most // 2), most + 1), best)
        packs, within = sch.split(outputs, [None, pack])
        tile, pixels = sch.split(square, [None, rows])
        sch.reorder(down, across, packs, tile, pixels, within)
        written = places * squares * geometry.outputs * _FLOAT
        outer = sch.fuse(down, across, packs)
        if squares % number(sch, rows):
            partition_tail(sch, tile)
        unroll(sch, pixels, vectorize(sch, within, machine.lanes))
        share(sch, outer, written, machine)
        self.accumulate(sch, blocks, tile, geometry)

    def _transform_output(self, sch: TirSchedule, blocks: dict[str, Handle]) -> None:
        tile = _side(sch)
        _, height, width, channels = sch.get_loops(blocks["epilogue"])
        written = extent(sch, height) * extent(sch, width) * extent(sch, channels) * _FLOAT
        down, rows = sch.split(height, [None, tile])
        across, columns = sch.split(width, [None, tile])
        packs, lanes = sch.split(channels, [None, self.machine.lanes])
        sch.reorder(down, across, packs, rows, columns, lanes)
        self._in_registers(sch, blocks["square"], packs)
        self._in_registers(sch, blocks["columns"], packs)
        sch.vectorize(lanes)
        unroll(sch, rows, columns)
        share(sch, down, written, self.machine)

    def _in_registers(self, sch: TirSchedule, block: Handle, loop: Handle) -> None:
        """Compute one square's part of a stage where it is needed."""
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, loop, preserve_unit_loops=True)
        first, second, channels = sch.get_loops(block)[-3:]
        sch.vectorize(channels)
        unroll(sch, first, second)


def _side(sch: TirSchedule) -> int:
    """Outputs on a side of a square."""
    return int(str(sch.mod["main"].attrs["edgecompress.op"]).removeprefix("winograd"))


def _places(sch: TirSchedule, blocks: dict[str, Handle]) -> int:
    """Places of a square of inputs: each has a product of its own."""
    down, across, _, _ = sch.get_loops(blocks["product"])
    return extent(sch, down) * extent(sch, across)


def _product(sch: TirSchedule, blocks: dict[str, Handle]) -> Geometry:
    """The product of one place: a 1x1 convolution over all squares."""
    *_, inputs = sch.get_loops(blocks["main"])
    _, _, squares, outputs = sch.get_loops(blocks["product"])
    pack = int(sch.mod["main"].attrs["edgecompress.pack"])
    return Geometry(
        True, 1, extent(sch, squares), extent(sch, outputs), pack, extent(sch, inputs), 1
    )

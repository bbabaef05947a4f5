"""3x3 convolutions by squares (`compile/winograd.py`): transforms around a register-tiled product.

The transforms hold one square of one vector of channels in registers and the first-level cache. The
product is that of a 1x1 convolution, once for each place of a square, over all squares.
"""

from __future__ import annotations

from .common import (
    Handle,
    TirSchedule,
    choose,
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
        machine, attributes = self.machine, sch.mod["main"].attrs
        pack = int(attributes["edgecompress.pack"])
        *_, inputs = sch.get_loops(blocks["main"])
        down, across, square, outputs = sch.get_loops(blocks["product"])
        squares, count = extent(sch, square), extent(sch, outputs)
        geometry = Geometry(True, 1, squares, count, pack, extent(sch, inputs), 1)
        most = self._most_rows(geometry)
        best, _ = self._plan(geometry)
        rows = choose(sch, range(-(-most // 2), most + 1), best)
        packs, within = sch.split(outputs, [None, pack])
        tile, pixels = sch.split(square, [None, rows])
        sch.reorder(down, across, packs, tile, pixels, within)
        written = extent(sch, down) * extent(sch, across) * squares * count * _FLOAT
        outer = sch.fuse(down, across, packs)
        if squares % number(sch, rows):
            partition_tail(sch, tile)
        unroll(sch, pixels, vectorize(sch, within, machine.lanes))
        share(sch, outer, written, machine)
        self.accumulate(sch, blocks, tile, geometry)

    def _transform_output(self, sch: TirSchedule, blocks: dict[str, Handle]) -> None:
        tile = int(str(sch.mod["main"].attrs["edgecompress.op"]).removeprefix("winograd"))
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

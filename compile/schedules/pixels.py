"""Depthwise convolutions in words of pixels (`compile/pixels.py`).

Each block of lines and channels puts its pixels into words first, where the first-level cache
holds them, and then sums: a tile of a few pixels side by side, all taps unrolled.
"""

from __future__ import annotations

from .common import (
    Schedule,
    TirSchedule,
    choose,
    divisors,
    extent,
    inline,
    share,
    stages,
    stored_lanes,
    tile_lines,
    unroll,
    vectorize,
)


class PixelWords(Schedule):
    """See the module."""

    @property
    def name(self) -> str:
        """How reports name it."""
        return "pixel_words"

    @property
    def tunable(self) -> bool:
        """It has free choices."""
        return True

    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""
        machine, blocks = self.machine, stages(sch)
        epilogue = blocks["epilogue"]
        group = int(sch.mod["main"].attrs["edgecompress.group"])
        _, down, across, channels = sch.get_loops(epilogue)
        height, width, count = (extent(sch, loop) for loop in (down, across, channels))
        lanes = stored_lanes(sch, epilogue, count, machine)
        sizes = self._tiles(width, group, lanes // machine.lanes)
        rows = choose(sch, sizes, sizes[-1])
        lines = choose(sch, divisors(height), self._lines(height, count // lanes))
        outer, tile, pixels, within = tile_lines(sch, epilogue, lines, rows, lanes)
        unroll(sch, pixels, vectorize(sch, within, lanes))
        share(sch, outer, height * width * count, machine)
        self._sum(sch, blocks, tile)
        sch.compute_at(blocks["words"], outer, preserve_unit_loops=True)
        vectorize(sch, sch.get_loops(blocks["words"])[-1], lanes)
        inline(sch, blocks, "pad")

    def _sum(self, sch: TirSchedule, blocks: dict, tile: object) -> None:
        machine, main = self.machine, blocks["main"]
        sch.compute_at(main, tile, preserve_unit_loops=True)
        pixels, within, down, span = sch.get_loops(main)[-4:]
        sch.reorder(down, span, pixels, within)
        unroll(sch, down, span, pixels, vectorize(sch, within, machine.lanes))
        init = sch.decompose_reduction(main, down)
        loops = sch.get_loops(init)[-2:]
        unroll(sch, loops[0], vectorize(sch, loops[1], machine.lanes))

    def _tiles(self, width: int, group: int, vectors: int) -> list[int]:
        """Pixels that a tile may have: whole groups, as many sums as registers hold."""
        most = min(8, (self.machine.registers - self.machine.integer.temporaries) // vectors - 2)
        sizes = [size for size in range(group, max(most, group) + 1, group) if size <= width]
        return sizes or [width]

    def _lines(self, height: int, packs: int) -> int:
        """Lines of a block: enough blocks for all cores, small enough for the nearest cache."""
        fair = [n for n in divisors(height) if height // n * packs >= self.machine.cores]
        return max((n for n in fair if n <= 16), default=1)

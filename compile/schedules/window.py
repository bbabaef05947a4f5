"""Depthwise convolutions and pooling: a window that slides over each channel alone.

A tile of a few pixels side by side and one or two vectors of channels: neighbouring windows
overlap, so that most inputs of a tile are loaded once and used by several of its pixels.
"""

from __future__ import annotations

from .common import (
    Schedule,
    TirSchedule,
    choose,
    divisors,
    extent,
    inline,
    number,
    schedule_pad,
    share,
    stages,
    stored_lanes,
    tile_lines,
    unroll,
    vectorize,
)

_UNROLLED_TAPS = 9  # windows up to 3x3 are unrolled whole, larger ones line by line


class SlidingWindow(Schedule):
    """See the module."""

    @property
    def name(self) -> str:
        """How reports name it."""
        return "window"

    @property
    def tunable(self) -> bool:
        """It has free choices."""
        return True

    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""
        machine = self.machine
        blocks = stages(sch)
        inline(sch, blocks, "mean")
        main, epilogue = blocks["main"], blocks["epilogue"]
        _, down, across, channels = sch.get_loops(epilogue)
        height, width, count = (extent(sch, loop) for loop in (down, across, channels))
        kh, kw = (extent(sch, loop) for loop in sch.get_loops(main)[-2:])

        lanes = stored_lanes(sch, epilogue, count, machine)
        vectors = choose(sch, _packs(count // machine.lanes), lanes // machine.lanes)
        lines = choose(sch, divisors(height), self._lines(height))
        most = max(1, (machine.registers - 2) // (2 * number(sch, vectors)))
        rows = choose(sch, range(1, min(width, most, 8) + 1), _row_tile(width, most))
        pack = number(sch, vectors) * machine.lanes
        outer, tile, pixels, within = tile_lines(sch, epilogue, lines, rows, pack)
        lanes = min(lanes, pack)
        unroll(sch, pixels, vectorize(sch, within, lanes))
        share(sch, outer, height * width * count * 4, machine)

        sch.compute_at(main, tile, preserve_unit_loops=True)
        pixels, within, tap_h, tap_w = sch.get_loops(main)[-4:]
        sch.reorder(tap_h, tap_w, pixels, within)
        unroll(sch, tap_w, pixels, vectorize(sch, within, machine.lanes))
        if kh * kw <= _UNROLLED_TAPS:
            sch.unroll(tap_h)
        init = sch.decompose_reduction(main, tap_h)
        depth = 1 if number(sch, vectors) == 1 else 2
        *loops, lanes = sch.get_loops(init)[-1 - depth :]
        sch.vectorize(lanes)
        unroll(sch, *loops)
        schedule_pad(sch, blocks, machine)

    def _lines(self, height: int) -> int:
        """Lines of a block: enough blocks for all cores."""
        fair = [n for n in divisors(height) if height // n >= self.machine.cores]
        return max(fair or [height])


def _packs(vectors: int) -> list[int]:
    return [size for size in (1, 2, 4) if vectors % size == 0]


def _row_tile(width: int, most: int) -> int:
    """The number of pixels up to 8 that leaves the smallest partial tile; of those the largest."""
    sizes = range(1, min(width, most, 8) + 1)
    return min(sizes, key=lambda size: (-(-width // size) * (size + 2), -size))

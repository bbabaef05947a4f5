"""Operators without a window: elementwise steps, averages over all pixels, and the rest."""

from __future__ import annotations

from .common import (
    Schedule,
    TirSchedule,
    extent,
    inline,
    share,
    stages,
    stored_lanes,
    unroll,
    vectorize,
)

_POOL_VECTORS = 4  # sums side by side: one alone would wait for the adder's latency


class Elementwise(Schedule):
    """All pixels as one line, shared by the cores; vectors of channels."""

    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""
        blocks = stages(sch)
        inline(sch, blocks, "main")
        loops = sch.get_loops(blocks["epilogue"])
        written = 4
        for loop in loops:
            written *= extent(sch, loop)
        pixels = sch.fuse(*loops[:-1])
        size = extent(sch, loops[-1])
        vectorize(sch, loops[-1], stored_lanes(sch, blocks["epilogue"], size, self.machine))
        share(sch, pixels, written, self.machine)


class GlobalPool(Schedule):
    """A few vectors of channels summed at a time, over all pixels."""

    @property
    def name(self) -> str:
        """How reports name it."""
        return "global_pool"

    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""
        machine = self.machine
        blocks = stages(sch)
        inline(sch, blocks, "mean")
        main, epilogue = blocks["main"], blocks["epilogue"]
        channels = sch.get_loops(epilogue)[-1]
        vectors = extent(sch, channels) // machine.lanes
        together = max(n for n in range(1, _POOL_VECTORS + 1) if vectors % n == 0)
        pack, within = sch.split(channels, [None, together * machine.lanes])
        unroll(sch, vectorize(sch, within, machine.lanes))
        down, across = sch.get_loops(main)[-2:]
        read = extent(sch, down) * extent(sch, across) * vectors * machine.lanes * 4
        share(sch, pack, read, machine)
        sch.compute_at(main, pack, preserve_unit_loops=True)
        within, down, across = sch.get_loops(main)[-3:]
        sch.reorder(down, across, within)
        unroll(sch, vectorize(sch, within, machine.lanes))
        init = sch.decompose_reduction(main, down)
        *loops, lanes = sch.get_loops(init)[-2 if together > 1 else -1 :]
        sch.vectorize(lanes)
        unroll(sch, *loops)


class Plain(Schedule):
    """As TVM makes it: for operators on a few numbers at the end of a network."""

    def __call__(self, sch: TirSchedule) -> None:
        """Leave the function `main` as it is."""

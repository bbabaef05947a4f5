"""Convolutions and fully connected layers: a register tile of pixels by outputs.

A tile of `rows` pixels and `pack` outputs stays in vector registers over all summands; its
weights stream by once a tile, packed so that they are read in order. On NEON four inputs of each
pixel are loaded as one vector and used lane by lane (`fmla` by element); on x86 each input is
broadcast from memory. A partial tile at the end of a line has code of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .common import (
    Handle,
    Schedule,
    TirSchedule,
    choose,
    divisors,
    drawn_from,
    extent,
    number,
    partition_tail,
    schedule_pad,
    share,
    stages,
    stored_lanes,
    unroll,
    vectorize,
)

_SUMS = 12  # vectors of sums of one pixel, side by side
_LINE = 28  # summands of a window's line that are unrolled together: 7 pixels of up to 4 inputs
_UNCACHED = 1.2  # how much longer it takes when a block's inputs leave the cache between packs


@dataclass(frozen=True)
class Geometry:
    """Of a kernel; `flat` where pixels are one axis (a 1x1 window that reads every pixel).

    `pack` is the outputs of a tile: those that lie side by side in the weights, or several times
    as many where there is one pixel, whose few sums would wait for each other. `blocks` are the
    outputs' groups, each with inputs of its own; 1 where all outputs read the same.
    """

    flat: bool
    height: int
    width: int
    outputs: int
    pack: int
    inputs: int
    taps: int
    blocks: int = 1

    @staticmethod
    def of(sch: TirSchedule, main: Handle, lanes: int) -> Geometry:
        """Of an unscheduled kernel."""
        attributes = sch.mod["main"].attrs
        sizes = [extent(sch, loop) for loop in sch.get_loops(main)]
        flat = len(sizes) == 3
        height, width = (int(attributes[f"edgecompress.{side}"]) for side in ("height", "width"))
        outputs, pack = sizes[1] if flat else sizes[3], int(attributes["edgecompress.pack"])
        block = int(attributes.get("edgecompress.block", outputs))
        if height * width == 1:
            most = max(1, _SUMS * lanes // pack)
            packs = math.gcd(block, outputs) // pack
            pack *= max(n for n in range(1, most + 1) if packs % n == 0)
        return Geometry(
            flat,
            height,
            width,
            outputs=outputs,
            pack=pack,
            inputs=sizes[-1],
            taps=1 if flat else sizes[4] * sizes[5],
            blocks=-(-outputs // block),
        )


class Conv2d(Schedule):
    """See the module."""

    @property
    def tunable(self) -> bool:
        """It has free choices."""
        return True

    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""
        machine = self.machine
        blocks = stages(sch)
        main, epilogue = blocks["main"], blocks["epilogue"]
        geometry = Geometry.of(sch, main, machine.lanes)
        if geometry.flat and geometry.height * geometry.width > 1 and "out" in blocks:
            sch.reverse_compute_inline(blocks["out"])
        tile = self._tile(sch, epilogue, geometry)
        self.accumulate(sch, blocks, tile, geometry)
        schedule_pad(sch, blocks, machine)

    def accumulate(
        self, sch: TirSchedule, blocks: dict[str, Handle], tile: Handle, geometry: Geometry
    ) -> None:
        """The sums of a tile, in registers."""
        machine, main = self.machine, blocks["main"]
        sch.compute_at(main, tile, preserve_unit_loops=True)
        sums = sch.get_loops(main)[-1 if geometry.flat else -3 :]
        pixels, outputs = sch.get_loops(main)[-len(sums) - 2 : -len(sums)]
        unrolled = self._unrolled(sch, geometry)
        step, element = sch.split(sums[-1], [None, unrolled])
        sch.reorder(*sums[:-1], step, element, pixels, outputs)
        unroll(sch, element, pixels, vectorize(sch, outputs, machine.lanes))
        self._load_inputs(sch, blocks["gather"], step, number(sch, unrolled), geometry)
        init = sch.decompose_reduction(main, step if geometry.flat else sums[0])
        vectors = 1 if geometry.pack == machine.lanes else 2
        *loops, lanes = sch.get_loops(init)[-1 - vectors :]
        sch.vectorize(lanes)
        unroll(sch, *loops)

    def _tile(self, sch: TirSchedule, epilogue: Handle, geometry: Geometry) -> Handle:
        """Split the result and share it among the cores; the loop over tiles."""
        machine = self.machine
        best_rows, best_lines = self._plan(geometry)
        most = self._most_rows(geometry)
        rows = choose(sch, range(-(-most // 2), most + 1), best_rows)
        lines = choose(sch, _blocks(geometry, number(sch, rows)), best_lines)
        line = geometry.width * (number(sch, lines) if geometry.flat else 1)
        *pixels, outputs = sch.get_loops(epilogue)
        packs, within = sch.split(outputs, [None, geometry.pack])
        if geometry.flat:
            block, inner = sch.split(pixels[0], [None, line])
            tile, tile_pixels = sch.split(inner, [None, rows])
            sch.reorder(block, packs, tile, tile_pixels, within)
        else:
            _, down, across = pixels
            block, inner = sch.split(down, [None, lines])
            tile, tile_pixels = sch.split(across, [None, rows])
            sch.reorder(block, packs, inner, tile, tile_pixels, within)
        outer = sch.fuse(block, packs)
        if line % number(sch, rows):
            partition_tail(sch, tile)
        lanes = stored_lanes(sch, epilogue, geometry.pack, machine)
        unroll(sch, tile_pixels, vectorize(sch, within, lanes))
        share(sch, outer, geometry.height * geometry.width * geometry.outputs * 4, machine)
        return tile

    def _most_rows(self, geometry: Geometry) -> int:
        line = geometry.width * (geometry.height if geometry.flat else 1)
        return min(self.machine.tile_rows(geometry.pack // self.machine.lanes), line)

    def _plan(self, geometry: Geometry) -> tuple[int, int]:
        """Pixels of a tile and lines of a block with the smallest estimated time."""

        def cost(plan: tuple[int, int]) -> tuple[float, int, int]:
            rows, lines = plan
            blocks = geometry.height // lines
            cycles = self._pack_cycles(geometry, rows, lines)
            packs, cores = geometry.outputs // geometry.pack, self.machine.cores
            rounds = -(-blocks * packs // cores)
            idle = rounds * cores / (blocks * packs)
            block_bytes = lines * geometry.width * geometry.inputs * geometry.blocks * 4
            cached = packs == 1 or block_bytes <= self.machine.l2_bytes / 2
            return cycles * idle * (1 if cached else _UNCACHED), -lines, -rows

        plans = [
            (rows, lines)
            for rows in range(1, self._most_rows(geometry) + 1)
            for lines in _blocks(geometry, rows)
        ]
        return min(plans, key=cost)

    def _unrolled(self, sch: TirSchedule, geometry: Geometry) -> Handle:
        """How many inputs one turn of the innermost loop takes."""
        common = math.gcd(geometry.inputs, self.machine.lanes)
        if self.machine.by_element and common > 1:
            return common
        if self.machine.by_element and geometry.inputs <= _LINE:
            return geometry.inputs
        if geometry.inputs % 4:
            return geometry.inputs if geometry.inputs < 4 else 1
        # Next to the sums of a tile of one vector the weights of two inputs find no registers.
        usual = 1 if geometry.pack == self.machine.lanes else 2
        return choose(sch, [size for size in (1, 2, 4, 8) if geometry.inputs % size == 0], usual)

    def _load_inputs(
        self,
        sch: TirSchedule,
        gather: Handle,
        step: Handle,
        unrolled: int,
        geometry: Geometry,
    ) -> None:
        """Load a tile's inputs into registers, or read them where they are."""
        if not self.machine.by_element or unrolled == 1:
            sch.compute_inline(gather)
            return
        sch.compute_at(gather, step, preserve_unit_loops=True)
        *others, inputs = sch.get_loops(gather)[-2 if geometry.flat else -5 :]
        if unrolled > self.machine.lanes:
            whole, inputs = sch.split(inputs, [None, self.machine.lanes])
            partition_tail(sch, whole)
            unroll(sch, whole)
        sch.vectorize(inputs)
        unroll(sch, *others)

    def estimate(self, sch: TirSchedule, choices: Sequence[int]) -> float | None:
        """Estimated cycles of all register tiles: without padding, and with perfect caches."""
        geometry, drawn = Geometry.of(sch, stages(sch)["main"], self.machine.lanes), iter(choices)
        most = self._most_rows(geometry)
        rows = drawn_from(range(-(-most // 2), most + 1), drawn)
        lines = drawn_from(_blocks(geometry, rows), drawn)
        packs = geometry.outputs // geometry.pack
        return packs * self._pack_cycles(geometry, rows, lines)

    def _pack_cycles(self, geometry: Geometry, rows: int, lines: int) -> float:
        """Estimated cycles of one pack of outputs for all pixels."""
        line = geometry.width * (lines if geometry.flat else 1)
        turns = geometry.height // (lines if geometry.flat else 1)
        vectors = geometry.pack // self.machine.lanes
        depth = geometry.inputs * geometry.taps
        return turns * self.machine.line_cycles(line, rows, vectors, depth)


def _blocks(geometry: Geometry, rows: int) -> list[int]:
    """Lines that a block may have. Where pixels are one axis only the last block may end in a
    partial tile, so that there is one block or none is partial.
    """
    sizes = divisors(geometry.height)
    if not geometry.flat:
        return sizes
    exact = [lines for lines in sizes if lines * geometry.width % rows == 0]
    return exact or [geometry.height]

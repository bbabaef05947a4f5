"""What a schedule needs to know of a CPU, and the register tile that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ..targets import Board
from .integer import Integer, integer_of

Precision = Literal["float32", "float16"]

_PACKS = (1, 2, 3, 4)  # vectors of outputs that one tile may hold side by side
_QUANTISED_PACKS = (1, 2, 4)  # whole numbers of 8 bits are stored by eights and sixteens
# What loads cost on x86 where each serves a single multiply-add: 14 x 8 tiles of AVX2 run at
# half the speed of 6 x 16 ones.
_BROADCAST = 1.5
_FMA_LATENCY = 4  # cycles, of float32; Cortex-A53 to A76 and x86 since Skylake
_TILE_OVERHEAD = 12.0  # cycles to start a tile and to store it, per vector of its outputs


@dataclass(frozen=True)
class Machine:
    """The numbers of one core that decide tiles. Frozen, so that it can key a cache.

    Attributes:
        lanes: real numbers, or words of quantised ones, in a vector register.
        registers: vector registers.
        fma_per_cycle: vector multiply-adds that start in one cycle.
        l1_bytes: first-level data cache.
        l2_bytes: second-level cache that one core can use.
        cores: that run one network.
        by_element: multiply-adds take one lane of a register as a factor (NEON's `fmla` by
            element); else a factor is broadcast from memory (x86).
        dtype: of real numbers: "float32" or "float16".
        integer: how whole numbers of 8 bits multiply.
        quantised: whether that is what the multiply-adds are, or those of most layers.
    """

    lanes: int
    registers: int
    fma_per_cycle: float
    l1_bytes: int
    l2_bytes: int
    cores: int
    by_element: bool
    dtype: str
    integer: Integer
    quantised: bool = False

    def of_words(self) -> Machine:
        """The same core, seen by layers whose multiply-adds are dot products of words, and by those
        beside them: sums of words do not fit a float16, so that real numbers are float32.
        """
        return replace(self.of_float32(), quantised=True)

    def of_float32(self) -> Machine:
        """The same core, seen by layers of float32."""
        lanes = self.lanes // 2 if self.dtype == "float16" else self.lanes
        return replace(self, dtype="float32", lanes=lanes)

    @property
    def vectors(self) -> tuple[int, ...]:
        """How many vectors of outputs a tile may hold side by side."""
        return _QUANTISED_PACKS if self.quantised else _PACKS

    def channels(self, count: int) -> int:
        """How many channels an activation of `count` has in memory.

        The rest is zero weights. With it no kernel has a partial tile of channels.
        """
        return self._packing(count)[1]

    def pack(self, count: int) -> int:
        """How many of a convolution's `count` outputs lie side by side in its weights."""
        return self._packing(count)[0]

    @lru_cache(maxsize=512)  # noqa: B019 (a frozen value with few instances)
    def _packing(self, count: int) -> tuple[int, int]:
        def cost(vectors: int) -> tuple[float, int]:
            pack = vectors * self.lanes
            padded = -(-count // pack) * pack
            tile = self.tile_rows(vectors)
            return padded * self.tile_cycles(tile, vectors) / (tile * vectors), -vectors

        best = min(self.vectors, key=cost)
        pack = best * self.lanes
        return pack, -(-count // pack) * pack

    def tile_rows(self, vectors: int) -> int:
        """The most pixels that a register tile of `vectors` vectors of outputs can have."""
        # Beside the accumulators: the weights' vectors, and one of inputs for each pixel (by
        # element) or one broadcast input.
        registers = self.registers - (self.integer.temporaries if self.quantised else 0)
        if self.by_element:
            return max(1, (registers - 1 - vectors) // (vectors + 1))
        return max(1, (registers - vectors - 1) // vectors)

    def tile_cycles(self, rows: int, vectors: int) -> float:
        """Estimated cycles of a tile for one input channel."""
        fma = rows * vectors / self.fma_per_cycle
        if self.quantised and self.integer.operations > 1:
            # No instruction takes a lane of a register there: each input is repeated first.
            repeated = rows if self.by_element else 0
            fma = fma * self.integer.operations + repeated / self.fma_per_cycle
        loads = (vectors + (rows / self.lanes if self.by_element else rows)) / self.fma_per_cycle
        if not self.by_element and vectors == 1:
            loads *= _BROADCAST
        return max(fma, loads, _FMA_LATENCY) + 0.1 * loads

    def line_cycles(self, pixels: int, rows: int, vectors: int, depth: int) -> float:
        """Estimated cycles of a line cut into tiles of `rows` pixels and a partial one.

        Args:
            depth: summands of one output.
        """
        whole, rest = divmod(pixels, rows)
        tiles = whole * self.tile_cycles(rows, vectors)
        tiles += self.tile_cycles(rest, vectors) if rest else 0
        return tiles * depth + (whole + bool(rest)) * _TILE_OVERHEAD * vectors


def machine_of(board: Board, precision: Precision = "float32") -> Machine:
    """The machine that kernels for a board are made for: its fastest cluster."""
    core = board.fast
    bits = 16 if precision == "float16" else 32
    return Machine(
        lanes=max(128, core.vector_bits) // bits,
        registers=core.vector_registers,
        fma_per_cycle=core.fma_per_cycle,
        l1_bytes=core.l1d_kib * 1024,
        l2_bytes=max(core.l2_kib, core.l1d_kib) * 1024,
        cores=core.cores,
        by_element=board.arch == "aarch64",
        dtype=precision,
        integer=integer_of(board),
    )

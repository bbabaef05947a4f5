"""What all schedules share: the stages of a kernel, choices, and a few moves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..machine import Machine

# Handles of blocks and loops, and drawn numbers: TVM types them all as opaque objects.
Handle = Any
# TVM's `s_tir.Schedule`. Its variadic arguments are declared as lists, which no call can satisfy.
TirSchedule = Any

# Below this many bytes written, waking the other cores costs more than they save.
_PARALLEL_BYTES = 16 * 1024


@dataclass(frozen=True)
class Schedule(ABC):
    """A schedule for kernels of one kind, on one machine."""

    machine: Machine

    @property
    def tunable(self) -> bool:
        """Whether it has free choices."""
        return False

    @property
    def name(self) -> str:
        """How reports name it."""
        return type(self).__name__.lower()

    @abstractmethod
    def __call__(self, sch: TirSchedule) -> None:
        """Schedule the function `main`."""

    def estimate(self, sch: TirSchedule, choices: Sequence[int]) -> float | None:
        """Estimated cycles of one core for one run; None where the defaults rest on no estimate.

        Args:
            sch: the unscheduled kernel; it is left as it is.
            choices: what the free choices came to, in their order.
        """
        return None


def stages(sch: TirSchedule) -> dict[str, Handle]:
    """The blocks of an unscheduled kernel by name."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    return {str(sch.get(block).name_hint): block for block in blocks}


def extent(sch: TirSchedule, loop: Handle) -> int:
    """How many turns a loop makes."""
    return int(sch.get(loop).extent)


def choose(sch: TirSchedule, candidates: Sequence[int], default: int) -> Handle:
    """A free choice: the untuned schedule takes the candidate nearest to `default`.

    A single candidate is no choice and leaves no trace.
    """
    unique = sorted(set(candidates))
    if len(unique) == 1:
        return unique[0]
    nearest = min(range(len(unique)), key=lambda place: abs(unique[place] - default))
    return sch.sample_categorical(unique, [1 / len(unique)] * len(unique), nearest)


def drawn_from(candidates: Sequence[int], drawn: Iterator[int]) -> int:
    """What one `choose` of these candidates came to; `drawn` are all drawn numbers, in order.

    A trace of a former release may have drawn fewer: then it is the last candidate.
    """
    unique = sorted(set(candidates))
    return next(drawn, unique[-1]) if len(unique) > 1 else unique[0]


def number(sch: TirSchedule, choice: Handle) -> int:
    """The number that a choice stands for now."""
    return choice if isinstance(choice, int) else int(sch.get(choice))


def divisors(count: int) -> list[int]:
    """All divisors, ascending."""
    return [size for size in range(1, count + 1) if count % size == 0]


def vectorize(sch: TirSchedule, loop: Handle, lanes: int) -> Handle | None:
    """Vectorise a loop over channels; the loop over its vectors, which is left as it is.

    A loop that is no multiple of the lanes stays scalar.
    """
    size = extent(sch, loop)
    if size % lanes:
        return loop
    if size == lanes:
        sch.vectorize(loop)
        return None
    outer, inner = sch.split(loop, [None, lanes])
    sch.vectorize(inner)
    return outer


def stored_lanes(sch: TirSchedule, block: Handle, size: int, machine: Machine) -> int:
    """How many of `size` neighbouring results are computed as one vector: as many as fill a
    register when they are stored, where that goes into `size`.
    """
    stored = np.dtype(str(sch.get(block).writes[0].source.dtype)).itemsize
    lanes = machine.lanes * np.dtype(machine.dtype).itemsize // stored
    while lanes > machine.lanes and size % lanes:
        lanes //= 2
    return max(lanes, machine.lanes)


def unroll(sch: TirSchedule, *loops: Handle | None) -> None:
    """Unroll these loops."""
    for loop in loops:
        if loop is not None:
            sch.unroll(loop)


def tile_lines(
    sch: TirSchedule, epilogue: Handle, lines: Handle, rows: Handle, width: int
) -> tuple[Handle, Handle, Handle, Handle]:
    """Cut a result `[1, height, width, channels]` into blocks of lines and packs of channels, and
    those into tiles of pixels side by side.

    Args:
        width: channels of a pack.

    Returns:
        The loops over blocks and packs (one), tiles, pixels of a tile and channels of a pack.
    """
    _, down, across, channels = sch.get_loops(epilogue)
    partial = extent(sch, across) % number(sch, rows)
    packs, within = sch.split(channels, [None, width])
    block, inner = sch.split(down, [None, lines])
    tile, pixels = sch.split(across, [None, rows])
    sch.reorder(block, packs, inner, tile, pixels, within)
    outer = sch.fuse(block, packs)
    if partial:
        partition_tail(sch, tile)
    return outer, tile, pixels, within


def partition_tail(sch: TirSchedule, loop: Handle) -> None:
    """Give the last turn of a loop its own code, where its tile is partial.

    Without it every multiply-add of every tile would ask whether its pixel exists.
    """
    sch.annotate(loop, "pragma_loop_partition_hint", 1)


def share(sch: TirSchedule, loop: Handle, written: int, machine: Machine) -> None:
    """Share the turns of a loop among the cores, if it writes enough bytes."""
    if machine.cores > 1 and written >= _PARALLEL_BYTES and extent(sch, loop) > 1:
        sch.parallel(loop)


def schedule_pad(sch: TirSchedule, blocks: dict[str, Handle], machine: Machine) -> None:
    """The zeros round the input: a copy line by line."""
    if "pad" not in blocks:
        return
    height, width, channels = sch.get_loops(blocks["pad"])
    size = extent(sch, channels)
    written = extent(sch, height) * extent(sch, width) * size * 4
    lanes = stored_lanes(sch, blocks["pad"], size, machine)
    vectorize(sch, channels, lanes if size % lanes == 0 else math.gcd(size, lanes))
    share(sch, height, written, machine)


def inline(sch: TirSchedule, blocks: dict[str, Handle], *names: str) -> None:
    """Put stages into those that read them."""
    for name in names:
        if name in blocks:
            sch.compute_inline(blocks[name])

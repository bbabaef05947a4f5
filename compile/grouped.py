"""Convolutions in groups of several channels as stages (AlexNet, ResNeXt, RegNet).

A register tile's outputs share their inputs, so that they have to be of one group. Where a group's
outputs fill no vectors, a tile is of several groups (a *block*), whose weights for each other's
inputs are zero; or of shorter vectors, whichever multiplies less in vain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .convolutions import factors
from .graph import Layer
from .kernel import ATTRIBUTE, Builder, Kernel
from .machine import Machine
from .padding import under
from .stage import Expression, compute

_LEAST_LANES = 4  # a vector of two takes as long as one of four, on all processors


@dataclass(frozen=True)
class Plan:
    """How the groups of one convolution become tiles.

    Attributes:
        lanes: real numbers in a vector: the machine's, or fewer.
        pack: outputs of a tile.
        inputs: of a block.
        outputs: of a block; a multiple of `pack`.
        blocks: that have outputs of the layer; there may be more, of zeros.
    """

    lanes: int
    pack: int
    inputs: int
    outputs: int
    blocks: int


def plan(layer: Layer, machine: Machine, channels: int) -> Plan:
    """The tiles with the smallest estimated time; of equals, those of the fewest groups.

    Args:
        channels: of the output in memory.
    """
    groups, inputs, outputs = _sizes(layer)
    found: list[tuple[tuple[float, int, int], Plan]] = []
    lanes = machine.lanes
    while lanes >= min(_LEAST_LANES, machine.lanes):
        core = replace(machine, lanes=lanes)
        together = math.lcm(outputs, lanes) // outputs
        read, block = min(together, groups) * inputs, together * outputs
        for vectors in machine.vectors:
            pack = vectors * lanes
            if block % pack or channels % pack:
                continue
            rows = core.tile_rows(vectors)
            cycles = read * core.tile_cycles(rows, vectors) / (rows * pack)
            made = Plan(lanes, pack, read, block, -(-groups // together))
            found.append(((cycles, together, -pack), made))
        lanes //= 2
    return min(found, key=lambda one: one[0])[1]


def grouped(build: Builder) -> Kernel:
    """A convolution whose outputs are sums over the inputs of their own group."""
    from tvm import te, tirx

    layer, window, output = build.layer, build.layer.window, build.layer.output
    assert window is not None and layer.weight is not None
    value, channels = build.values[layer.inputs[0]], build.physical(output)
    cut, there = plan(layer, build.machine, channels), build.physical(value)
    read, packed, product, affine = factors(
        build, there, partial(pack_weight, layer, cut, channels)
    )
    inputs = int(packed.shape[3])  # of a block: numbers, or words of them
    there = there * inputs // cut.inputs
    sums = (*window.kernel, inputs)
    kh, kw, k = (te.reduce_axis((0, size), name) for size, name in zip(sums, _SUMS, strict=True))

    def gathered(*at: Any) -> Expression:
        b, h, w, i, j, channel = at
        # What is beyond the last block, or beyond the last input, has zero weights: any will do.
        own = tirx.min(b, cut.blocks - 1) if channels > cut.blocks * cut.outputs else b
        place = own * inputs + channel
        place = tirx.min(place, there - 1) if there < cut.blocks * inputs else place
        return read(*under(window, h, w, i, j), place)

    shape = (-(-channels // cut.outputs), output.height, output.width, *sums)
    gather = compute(shape, gathered, name="gather")
    main = compute(
        (1, output.height, output.width, channels),
        lambda _, h, w, c: te.sum(
            product(
                gather[c // cut.outputs, h, w, kh, kw, k],
                packed[c // cut.pack, kh, kw, k, c % cut.pack],
            ),
            axis=[kh, kw, k],
        ),
        name="main",
    )
    kernel = build.finish(main, affine=affine, starts=True)
    tiles = {"pack": cut.pack, "block": cut.outputs, "lanes": cut.lanes}
    attributes = tiles | {"height": output.height, "width": output.width}
    named: dict[str, Any] = {ATTRIBUTE + key: number for key, number in attributes.items()}
    return replace(kernel, func=kernel.func.with_attrs(named))


def pack_weight(layer: Layer, cut: Plan, channels: int, weight: np.ndarray) -> np.ndarray:
    """`[co, ci, kh, kw]`, ci of a group, to `[channels / pack, kh, kw, inputs, pack]`."""
    groups, inputs, outputs = _sizes(layer)
    full = np.zeros((channels, cut.inputs, *weight.shape[2:]), "float32")
    for group in range(groups):
        own = slice(group * outputs, (group + 1) * outputs)
        first = group % (cut.outputs // outputs) * inputs
        full[own, first : first + inputs] = weight[own]
    tiles = full.reshape(channels // cut.pack, cut.pack, *full.shape[1:])
    return tiles.transpose(0, 3, 4, 2, 1)


def _sizes(layer: Layer) -> tuple[int, int, int]:
    """Groups, and inputs and outputs of each."""
    assert layer.weight is not None
    return layer.groups, layer.weight.shape[1], len(layer.weight) // layer.groups


_SUMS = ("kh", "kw", "ci")

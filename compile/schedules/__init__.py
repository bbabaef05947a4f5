"""Schedules of the kernels: how each operator is tiled, vectorised, unrolled and shared by cores.

A schedule is a function over `tvm.s_tir.Schedule`. Its free choices are
`sch.sample_categorical(candidates, probs, decision=<analytic default>)`: run as it is, it gives
the untuned kernel; the tuner runs it with other decisions (docs/kernels.md says how to add one).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..machine import Machine
from .common import Schedule
from .conv2d import Conv2d
from .pixels import PixelWords
from .pointwise import Elementwise, GlobalPool, Plain
from .window import SlidingWindow
from .winograd import Winograd

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

_SCHEDULES: dict[str, type[Schedule]] = {
    "conv2d": Conv2d,
    "grouped": Conv2d,
    "winograd2": Winograd,
    "winograd4": Winograd,
    "depthwise": SlidingWindow,
    "pixel_words": PixelWords,
    "max_pool": SlidingWindow,
    "avg_pool": SlidingWindow,
    "global_pool": GlobalPool,
    "elementwise": Elementwise,
    "select": Plain,
    "softmax": Plain,
}


def find_schedule(func: PrimFunc, machine: Machine) -> Schedule | None:
    """The schedule for a kernel, ready to be called with an `s_tir.Schedule` of it.

    Returns:
        None for a function that is none of our kernels.
    """
    attributes = func.attrs or {}
    kind = attributes.get("edgecompress.schedule", attributes.get("edgecompress.op", ""))
    schedule = _SCHEDULES.get(str(kind))
    kind = str(attributes.get("edgecompress.type", "float32"))
    if kind == "int8":
        machine = machine.of_words()
    elif kind == "float32":
        machine = machine.of_float32()
    if "edgecompress.lanes" in attributes:
        machine = replace(machine, lanes=int(attributes["edgecompress.lanes"]))
    return schedule(machine) if schedule else None


__all__ = ["Schedule", "find_schedule"]

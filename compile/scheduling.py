"""Scheduling the kernels of a module: by tuning records where there are any, else by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .integer import as_stored, as_words
from .machine import Machine
from .schedules import find_schedule

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace
    from tvm.target import Target
    from tvm.tirx import PrimFunc

LookUp = Callable[["PrimFunc", "Target"], "Trace | None"]


@dataclass(frozen=True)
class Scheduled:
    """How a kernel was scheduled.

    Attributes:
        schedule: the schedule's name.
        choices: what its free choices came to, in their order.
        tuned: by a tuning record.
        estimate: cycles of one core for one run, as the schedule's own model has it with these
            choices; None where it has no model.
    """

    schedule: str
    choices: tuple[int, ...]
    tuned: bool
    estimate: float | None = None


def schedule_kernels(
    mod: IRModule, target: Target, machine: Machine, look_up: LookUp | None
) -> tuple[IRModule, dict[str, Scheduled]]:
    """A module whose kernels are scheduled, and how each one was."""
    from tvm import tirx

    scheduled = {}
    result = mod.clone()
    for var, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            ready, how = schedule_kernel(func, target, machine, look_up)
            result[var] = ready
            scheduled[var.name_hint] = how
    return result, scheduled


def schedule_kernel(
    func: PrimFunc, target: Target, machine: Machine, look_up: LookUp | None = None
) -> tuple[PrimFunc, Scheduled]:
    """Schedule one kernel."""
    from tvm.s_tir import Schedule

    func = as_words(func)
    schedule = find_schedule(func, machine)
    trace = look_up(func, target) if look_up else None
    sch = Schedule(func)
    if trace is not None:
        trace.apply_to_schedule(sch, remove_postproc=False)
    elif schedule is not None:
        schedule(sch)
    name = schedule.name if schedule else "plain"
    done: Any = sch.mod["main"]
    ready: Any = as_stored(done, machine.integer)
    if func.attrs and "global_symbol" in func.attrs:
        ready = ready.with_attr("global_symbol", func.attrs["global_symbol"])
    choices = _choices(sch)
    estimate = schedule.estimate(Schedule(func), choices) if schedule else None
    how = Scheduled(name, choices, trace is not None, estimate)
    return ready.with_attr("tirx.is_scheduled", True), how


def _choices(sch: Schedule) -> tuple[int, ...]:
    """The numbers that were drawn, in their order."""
    assert sch.trace is not None
    drawn: list[int] = []
    for instruction in sch.trace.insts:
        if str(instruction.kind.name) == "SampleCategorical":
            decision: Any = sch.trace.decisions[instruction]
            drawn.append(int(instruction.attrs[0][int(decision)]))
    return tuple(drawn)

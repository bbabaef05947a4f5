"""The whole compilation, from an ONNX file to a linked library, as two lists of steps.

`prepare` ends with fused, unscheduled kernels: what tuning works on. `finish` schedules them and
lowers the rest. IR dumps are steps of the lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runner.spec import Preprocess
from ..targets import Board
from .emit import CALLS, emit
from .frontend import read_onnx
from .fusion import fuse_elementwise
from .integer import as_words
from .machine import Precision, machine_of
from .schedules import find_schedule
from .scheduling import LookUp, Scheduled, schedule_kernels
from .tuning import TuningTask

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.runtime import Executable


def prepare(
    onnx: Path,
    board: Board,
    preprocess: Preprocess,
    dump: Path | None = None,
    precision: Precision = "float32",
) -> IRModule:
    """Everything up to fused, unscheduled kernels.

    Args:
        precision: of real numbers; what the file quantises is of 8 bits with either, and the rest
            of such a file float32.

    Returns:
        Function `main` (uint8 `[1, r, r, 3]` to float32 `[1, k]`) and the kernels that it calls.
        The attribute `edgecompress.calls` says for each call which ONNX nodes it stands for.

    Raises:
        InputError: the file is missing or damaged.
        CompileError: an operator cannot be compiled.
    """
    # Front end: layers in NHWC
    graph = read_onnx(onnx)
    # Fusion: bias, activation and residual sum join the operator before them
    graph = fuse_elementwise(graph)
    # Kernels: TIR with packed weights, called from one Relax function
    machine = machine_of(board, precision)
    mod = emit(graph, machine.of_words() if graph.quantised else machine, preprocess)
    return _dump(dump, "1-prepared")(mod)


def finish(
    mod: IRModule,
    board: Board,
    look_up: LookUp | None = None,
    dump: Path | None = None,
    precision: Precision = "float32",
) -> tuple[Executable, dict[str, Scheduled]]:
    """Schedule the kernels, lower and generate code.

    Args:
        mod: what `prepare` gave.
        look_up: gives the best known schedule of a kernel, if any.
        dump: folder for the IR after each phase.

    Returns:
        The executable, and how each kernel was scheduled, by its name.
    """
    import tvm
    from tvm import relax
    from tvm.relax.transform import (
        AttachGlobalSymbol,
        CallTIRRewrite,
        ComputePrimValue,
        KillAfterLastUse,
        LowerAllocTensor,
        LowerRuntimeBuiltin,
        RemovePurityChecking,
        StaticPlanBlockMemory,
        ToNonDataflow,
        VMShapeLower,
    )

    target = tvm.target.Target(board.tvm_target())
    # Schedules: from the tuning records, else the analytic defaults
    mod, scheduled = schedule_kernels(mod, target, machine_of(board, precision), look_up)
    mod = _dump(dump, "2-scheduled")(mod)
    lowering = tvm.transform.Sequential(
        [
            # Calls: kernels write into buffers that are given to them
            ToNonDataflow(),
            RemovePurityChecking(),
            CallTIRRewrite(),
            # Memory: one plan for all activations
            StaticPlanBlockMemory(),
            LowerAllocTensor(),
            KillAfterLastUse(),
            _pass(_dump(dump, "3-planned"), "DumpPlanned"),
            # Virtual machine: built-in functions and shapes
            LowerRuntimeBuiltin(),
            ComputePrimValue(),
            VMShapeLower(),
            AttachGlobalSymbol(),
        ]
    )
    executable = relax.build(mod, target=target, relax_pipeline=lowering)
    return executable, scheduled


def calls(mod: IRModule) -> list[dict[str, Any]]:
    """The kernel calls of a prepared module in the order of execution.

    Each has `kernel` (the name that `vm.set_instrument` reports), `op`, `name`, `macs` and
    `source` (names of ONNX nodes).
    """
    fields: Any = mod  # TVM declares no `attrs`
    return json.loads(str(fields.attrs[CALLS]))


def tasks(mod: IRModule, board: Board, precision: Precision = "float32") -> list[TuningTask]:
    """The distinct kernels of a prepared module that have choices to tune."""
    machine = machine_of(board, precision)
    uses: dict[str, int] = {}
    for call in calls(mod):
        uses[call["kernel"]] = uses.get(call["kernel"], 0) + 1
    found = []
    for kernel, count in uses.items():
        func = as_words(mod[kernel])
        schedule = find_schedule(func, machine)
        if schedule is not None and schedule.tunable:
            found.append(TuningTask(kernel, func, schedule, count))
    return found


def _dump(folder: Path | None, name: str) -> Callable[[IRModule], IRModule]:
    """A step that writes the module's script to a file and changes nothing."""

    def write(mod: IRModule) -> IRModule:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text(mod.script(show_meta=False))
        return mod

    return write


def _pass(step: Callable[[IRModule], IRModule], name: str) -> Any:
    import tvm

    return tvm.transform.module_pass(lambda mod, _: step(mod), opt_level=0, name=name)

"""One stage of a kernel: a thin layer over TVM's tensor expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Expression = Any  # a TIR expression; TVM's own types say no more
Index = Callable[..., Expression]


def compute(shape: tuple[Any, ...], function: Index, name: str) -> Any:
    """A stage; TVM declares the result as a tensor or a list of them, and gives a tensor."""
    from tvm import te

    return te.compute(shape, function, name=name)


def started(func: Any, place: int) -> Any:
    """A kernel whose stage `main` sums up from a parameter, one number a channel, instead of 0.

    Tensor expressions have no way to say that.

    Args:
        func: a new kernel, unscheduled.
        place: of the parameter.
    """
    from tvm import tirx
    from tvm.s_tir import SBlock, Schedule

    sch: Any = Schedule(func)
    handle = sch.get_sblock("main")
    block, init = sch.get(handle), sch.get(handle).init
    first: Any = tirx.BufferLoad(func.params[place], [init.indices[-1]])
    new = SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        block.body,
        tirx.BufferStore(init.buffer, first, init.indices),
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
    sch.state.replace(sch.get_sref(handle), new, {block: new})
    return sch.mod["main"]


def like(number: float, value: Expression) -> Expression:
    """A constant of an expression's type; Python's numbers would make float32 of float16."""
    from tvm import tirx

    whole = value.asobject() if hasattr(value, "asobject") else value
    # Arrays of numpy, in tests, take the number as it is.
    return tirx.const(number, whole.ty.dtype) if hasattr(whole, "ty") else number


def bounded(read: Index, physical: int, channels: int, outer: Expression) -> Index:
    """Reads of channels some of which may lie beyond those in memory (`outer` there)."""
    import tvm

    if physical >= channels:
        return read
    return lambda h, w, c: tvm.tirx.if_then_else(
        c < physical, read(h, w, tvm.tirx.min(c, physical - 1)), outer
    )

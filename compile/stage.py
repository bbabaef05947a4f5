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


def like(number: float, value: Expression) -> Expression:
    """A constant of an expression's type; Python's numbers would make float32 of float16."""
    from tvm import tirx

    whole = value.asobject() if hasattr(value, "asobject") else value
    return tirx.const(number, whole.ty.dtype)

"""Estimated cycles of compiled kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.emulated import why_not
from edgecompress.bench.emulated.estimate import cycle_estimate
from edgecompress.compile.builder import build_library
from edgecompress.compile.measure import Argument
from edgecompress.errors import BoardError, UsageError
from edgecompress.targets import load_board

SIDE = 32


def built(path: Path, rows: int) -> Path:
    """A matrix product for a Raspberry Pi 4."""
    import pickle

    import tvm
    from tvm import te

    a = te.placeholder((rows, SIDE), name="A")
    b = te.placeholder((SIDE, SIDE), name="B")
    k = te.reduce_axis((0, SIDE), name="k")
    c: Any = te.compute((rows, SIDE), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    mod = tvm.IRModule({"main": te.create_prim_func([a, b, c])})
    failure = build_library(pickle.dumps(mod), load_board("rpi4b"), path)
    assert failure == ""
    return path


def arguments(rows: int) -> list[Argument]:
    return [((rows, SIDE), "float32"), ((SIDE, SIDE), "float32"), ((rows, SIDE), "float32")]


@pytest.mark.board
def test_twice_the_work_costs_twice_the_cycles(tmp_path: Path, virtual_board: object) -> None:
    if why_not():
        pytest.skip(f"{why_not()}: make counting")
    estimate = cycle_estimate(load_board("rpi4b"))
    try:
        once, twice = (
            estimate(built(tmp_path / f"{rows}.so", rows), arguments(rows))
            for rows in (SIDE, 2 * SIDE)
        )
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    assert once.failure == twice.failure == ""
    assert twice.seconds[0] == pytest.approx(2 * once.seconds[0], rel=0.1)
    # A multiply-add of four lanes a cycle at 1.8 GHz is the most that the core can do.
    assert once.seconds[0] > SIDE**3 / 4 / 1.8e9
    broken = estimate(tmp_path / "missing.so", arguments(SIDE))
    assert broken.seconds == () and "failed under emulation" in broken.failure


def test_a_core_without_a_model_is_refused() -> None:
    with pytest.raises(UsageError, match="cycles cannot be estimated for host") as refused:
        cycle_estimate(load_board("host"))
    assert "cortex-a72" in refused.value.hint

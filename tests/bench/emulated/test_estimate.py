"""Estimated cycles of compiled kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.emulated import why_not
from edgecompress.bench.emulated.estimate import CycleEstimate, cycle_estimate
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


@pytest.fixture(scope="module")
def estimate(virtual_board: object) -> Iterator[CycleEstimate]:
    if why_not():
        pytest.skip(f"{why_not()}: make counting")
    made = cycle_estimate(load_board("rpi4b"))
    yield made
    made.close()


def crashing(path: Path) -> Path:
    """A library of C whose `main` writes to address 8."""
    source = path.with_suffix(".c")
    # TVM's packed call: any symbol of this name is taken for one.
    source.write_text("int __tvm_ffi_main(void) { return *(volatile int *)8 = 1; }")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28"]
    command += ["-nostdlib", "-shared", "-o", str(path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.mark.board
def test_twice_the_work_costs_twice_the_cycles(tmp_path: Path, estimate: CycleEstimate) -> None:
    sizes = (SIDE, 2 * SIDE)
    batch = [(built(tmp_path / f"{rows}.so", rows), arguments(rows)) for rows in sizes]
    try:
        once, twice = estimate(batch)
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    assert once.failure == twice.failure == ""
    assert twice.seconds[0] == pytest.approx(2 * once.seconds[0], rel=0.1)
    # A multiply-add of four lanes a cycle at 1.8 GHz is the most that the core can do.
    assert once.seconds[0] > SIDE**3 / 4 / 1.8e9
    # The same process again, with what it has seen before.
    again = estimate(batch)
    assert [one.seconds[0] for one in again] == pytest.approx(
        [once.seconds[0], twice.seconds[0]], rel=0.02
    )


@pytest.mark.board
def test_a_candidate_that_fails_takes_only_itself(tmp_path: Path, estimate: CycleEstimate) -> None:
    good = (built(tmp_path / "good.so", SIDE), arguments(SIDE))
    missing = (tmp_path / "missing.so", arguments(SIDE))
    crash = (crashing(tmp_path / "crash.so"), arguments(SIDE))
    try:
        outcomes = estimate([good, missing, crash, good, crash, good, good])
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    failures = [outcome.failure for outcome in outcomes]
    assert [bool(failure) for failure in failures] == [False, True, True, False, True, False, False]
    assert "missing.so" in failures[1]
    assert "failed under emulation" in failures[2]
    assert all(bool(one.seconds) != bool(one.failure) for one in outcomes)


@pytest.mark.board
def test_a_candidate_that_hangs_is_killed(
    tmp_path: Path, virtual_board: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why_not():
        pytest.skip(f"{why_not()}: make counting")
    monkeypatch.setattr("edgecompress.bench.emulated.estimate._DEADLINE_S", 0.5)
    estimate = cycle_estimate(load_board("rpi4b"))
    (outcome,) = estimate([(built(tmp_path / "slow.so", SIDE), arguments(SIDE))])
    estimate.close()
    # Not even Python starts that fast under emulation.
    assert outcome.seconds == () and "longer than 0.5 s" in outcome.failure


def test_a_core_without_a_model_is_refused() -> None:
    with pytest.raises(UsageError, match="cycles cannot be estimated for host") as refused:
        cycle_estimate(load_board("host"))
    assert "cortex-a72" in refused.value.hint

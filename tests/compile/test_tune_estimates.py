"""Tuning by estimates instead of a board's times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgecompress.compile.database import open_database
from edgecompress.compile.measure import Argument, BuiltKernel, Outcome
from edgecompress.compile.records import read_records
from edgecompress.compile.tune import tune_tasks
from edgecompress.compile.tuner import idle_factor
from edgecompress.compile.tuning import Budget, TuningTask
from edgecompress.targets import load_board

ROWS = 24


def kernel() -> Any:
    from tvm import te

    a = te.placeholder((ROWS, 32), name="A")
    c = te.compute((ROWS, 32), lambda i, j: a[i, j] * 2.0, name="C")
    return te.create_prim_func([a, c])


def in_blocks(schedule: Any) -> None:
    """Rows in blocks, which are shared by the cores."""
    rows, _ = schedule.get_loops(schedule.get_sblock("C"))
    size = schedule.sample_categorical([2, 3, 4, 6, 8, 12, 24], [1 / 7] * 7, decision=0)
    outer, _ = schedule.split(rows, [None, size])
    schedule.parallel(outer)


def never() -> Any:
    raise AssertionError("no server is needed")


def scheduled(rows: int, parallel: bool) -> Any:
    from tvm.s_tir import Schedule

    schedule = Schedule(kernel())
    loops = schedule.get_loops(schedule.get_sblock("C"))
    outer, _ = schedule.split(loops[0], [None, rows])
    if parallel:
        schedule.parallel(outer)
    return schedule.mod


@pytest.mark.parametrize(
    ("rows", "parallel", "cores", "factor"),
    [
        (6, True, 4, 1.0),  # four blocks
        (4, True, 4, 8 / 6),  # six: two of the cores have two
        (24, True, 4, 4.0),  # one
        (6, False, 4, 4.0),
        (6, True, 1, 1.0),
        (6, False, 1, 1.0),
    ],
)
def test_cores_that_wait(rows: int, parallel: bool, cores: int, factor: float) -> None:
    assert idle_factor(scheduled(rows, parallel), cores) == pytest.approx(factor)


def test_loop_nests_do_not_wait_for_each_other() -> None:
    """On four cores nothing takes more than four times as long as its work shared evenly."""
    from tvm import te
    from tvm.s_tir import Schedule

    a = te.placeholder((ROWS, 32), name="A")
    b = te.compute((ROWS, 32), lambda i, j: a[i, j] * 2.0, name="B")
    c = te.compute((ROWS, 32), lambda i, j: b[i, j] + 1.0, name="C")
    assert idle_factor(Schedule(te.create_prim_func([a, c])).mod, 4) == 4


class OneMillisecond:
    """Estimates that every kernel takes a millisecond."""

    def __init__(self) -> None:
        self.seen: list[Sequence[Argument]] = []
        self.batches = 0
        self.closed = 0

    def __call__(self, batch: Sequence[BuiltKernel]) -> list[Outcome]:
        assert all(library.stat().st_size > 0 for library, _ in batch)
        self.seen += [arguments for _, arguments in batch]
        self.batches += 1
        return [Outcome((1e-3,)) for _ in batch]

    def close(self) -> None:
        self.closed += 1


def test_estimates_are_marked_and_used_where_there_is_no_real_time(tmp_path: Path) -> None:
    """All candidates do the same work: what keeps all four cores busy is best."""
    import tvm

    estimate = OneMillisecond()
    board = load_board("rpi4b")
    path = tmp_path / "tuning.jsonl"
    task = TuningTask("double", kernel(), in_blocks, 1)
    result = tune_tasks([task], board, never, database=path, budget=Budget(), estimate=estimate)
    assert result.measured == "cost" and result.records == 7 and result.ended == "exhausted"
    assert estimate.seen[0] == (((ROWS, 32), "float32"), ((ROWS, 32), "float32"))
    records = read_records(path)
    assert {record.measured for record in records} == {"cost"}
    database, target = open_database(path, board), tvm.target.Target(board.tvm_target())
    best = database.best(task.kernel, target)
    assert best is not None and best.median == pytest.approx(1e-3)
    # A second run has nothing left to estimate.
    again = tune_tasks([task], board, never, database=path, budget=Budget(), estimate=estimate)
    assert again.records == 0 and len(estimate.seen) == 7
    # The untuned schedule first, then all others at once.
    assert estimate.batches == 2 and estimate.closed == 2

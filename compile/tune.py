"""Tuning: the free choices of every kernel's schedule, measured on the board itself.

A loop of our own rather than MetaSchedule's `TaskScheduler`, which writes a task's results only
when it picks that task again: a run killed in its first round would have written nothing. Here
every measurement is on the disk before the next one starts, and what is there is not measured
again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress import events
from edgecompress.errors import CompileError, UsageError

from ..targets import require_supported
from .builder import Builder
from .database import open_database, workload_key
from .farm import Estimates, Farm
from .known import known_kernel
from .measure import Estimate, Meter, OpenEndpoint, Timing
from .records import append_records
from .tuner import Tuner, measured_as
from .tuning import Budget, TuningResult, TuningTask

if TYPE_CHECKING:
    from ..runner.spec import Preprocess
    from ..targets import Board
    from .machine import Precision


def tune_networks(
    networks: Sequence[Path],
    board: Board,
    preprocess: Preprocess,
    open_endpoint: OpenEndpoint | Mapping[str, OpenEndpoint],
    *,
    database: Path,
    trials: int | None = None,
    seconds: float | None = None,
    timing: Timing | None = None,
    estimate: Estimate | None = None,
    threads: int | None = None,
    precision: Precision = "float32",
) -> TuningResult:
    """Tune all kernels of some networks; what is in the database is not measured again.

    Args:
        networks: ONNX files, as `compile_network` takes them.
        preprocess: the normalisation that is compiled into them.
        trials: measure at most so many candidates now.
        seconds: take at most so long.
        open_endpoint, database, timing, estimate, threads: as of `tune_tasks`.
        precision: of real numbers, as the networks will be compiled.

    Raises:
        BoardError, CompileError, InputError: as `tune_tasks`, and as `compile_network` for a
            network that cannot be compiled.
    """
    from .pipeline import prepare, tasks

    require_supported(board)
    found = []
    for onnx in events.track(networks, "finding kernels"):
        mod = prepare(onnx, board, preprocess, precision=precision)
        found += tasks(mod, board, precision)
    return tune_tasks(
        merged(found),
        board,
        open_endpoint,
        database=database,
        budget=Budget(trials, seconds),
        timing=timing,
        estimate=estimate,
        threads=threads,
    )


def merged(tasks: Sequence[TuningTask]) -> list[TuningTask]:
    """Equal kernels of several networks as one task, with the sum of their weights."""
    unique: dict[str, TuningTask] = {}
    for task in tasks:
        key = workload_key(task.kernel)
        weight = task.weight + (unique[key].weight if key in unique else 0)
        unique[key] = replace(unique.get(key, task), weight=weight)
    return list(unique.values())


def tune_tasks(
    tasks: Sequence[TuningTask],
    board: Board,
    open_endpoint: OpenEndpoint | Mapping[str, OpenEndpoint],
    *,
    database: Path,
    budget: Budget | None = None,
    timing: Timing | None = None,
    estimate: Estimate | None = None,
    threads: int | None = None,
) -> TuningResult:
    """Tune kernels on a board (or on several of one sort), each starting from its untuned schedule.

    Args:
        open_endpoint: starts an RPC server on the board; called again whenever it is lost. By
            name, one for each board, where there are several.
        database: file of tuning records, made where it is missing.
        timing: how candidates are timed; by default what suits the board.
        estimate: scores candidates without a board, and is closed at the end; then `open_endpoint`
            is not called, and the records are marked as `cost`.
        threads: that a kernel has, for estimates; None is one for each core. On a board it is the
            endpoint's number of CPUs.

    Raises:
        BoardError: no board can be measured on any more. What was measured until then is kept.
        CompileError: an untuned schedule does not work, or nothing can be linked for the board.
        InputError: the database is damaged or cannot be written.
    """
    records, budget = open_database(database, board, create=True), budget or Budget()
    append_records(database, ())  # fails now rather than after the first measurement
    measured = measured_as(board) if estimate is None else "cost"
    threads = threads or board.fast.cores
    tuner = Tuner(tasks, board, records, budget, measured, threads=threads)
    with (
        tempfile.TemporaryDirectory(prefix="edgecompress-tune-") as folder,
        Builder(board, Path(folder), min(8, os.cpu_count() or 1)) as builder,
        _farm(open_endpoint, board, timing, estimate, builder) as farm,
        events.task(f"tuning for {board.name}", total=1.0) as progress,
    ):
        tuner.drive(builder, farm, progress)
    return tuner.result()


def _farm(
    open_endpoint: OpenEndpoint | Mapping[str, OpenEndpoint],
    board: Board,
    timing: Timing | None,
    estimate: Estimate | None,
    builder: Builder,
) -> Farm | Estimates:
    """What measures; arguments as of `tune_tasks`."""
    if estimate is not None:
        return Estimates(estimate)
    endpoints = {board.name: open_endpoint} if callable(open_endpoint) else open_endpoint
    if not endpoints:
        raise UsageError("tuning needs a board to measure on")
    timing = timing or default_timing(board)
    (built,) = builder.build([known_kernel()])
    if built.library is None:
        raise CompileError(
            f"nothing can be built for {board.name}: {built.failure}",
            "`edgecompress doctor` checks this machine",
        )
    known = built.library
    return Farm({name: Meter(one, timing, known) for name, one in endpoints.items()})


def default_timing(board: Board) -> Timing:
    """Three times a tenth of a second on hardware; one pass, with patience, under emulation."""
    if board.kind == "virtual":
        return Timing(repeat=1, min_repeat_ms=0, deadline_s=180)
    return Timing()

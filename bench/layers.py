"""Where a compiled network's time, or its instructions, go: one row a kernel call."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress import events
from edgecompress.errors import BoardError

from ..targets import Board, Cluster
from . import emulated
from .peers.compare import PROGRAM, compile_in, prepare, printed_list, run_counted
from .peers.engines import OURS

_TIME_S = 300.0


@dataclass(frozen=True)
class LayerCost:
    """One kernel call.

    Attributes:
        name: of the first ONNX node that it stands for; `sources` has all.
        choices: what the schedule's free choices came to.
        ms: median time of one thread; None under emulation.
        gflops: two operations a multiply-add; None where nothing was timed or multiplied.
        peak: that as a share of one core's peak. Multiply-adds are those of the plain sum, so
            that a convolution by squares can be above 1.
        instructions: executed; None where time was measured.
        cycles: estimated from the instructions, by core: the board's own first.
        predicted: cycles, as the schedule's model has it before anything is compiled; None where
            it has no model.
        ratio: cycles against that: those of the board's own core, or time at its clock.
    """

    name: str
    sources: tuple[str, ...]
    kernel: str
    schedule: str
    choices: tuple[int, ...]
    tuned: bool
    macs: int
    ms: float | None = None
    gflops: float | None = None
    peak: float | None = None
    instructions: int | None = None
    cycles: dict[str, float] | None = None
    predicted: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How well the schedules' models predict what layers take.

    Attributes:
        layers: kernel calls that have a prediction.
        ratio: measured against predicted: lowest quartile, median, highest quartile.
        rank: Spearman's correlation of measured and predicted; None where one of them is the same
            for all layers.
    """

    layers: int
    ratio: tuple[float, float, float]
    rank: float | None


def agreement(rows: Sequence[LayerCost]) -> Agreement | None:
    """Over the layers that have a prediction; None where they are fewer than two."""
    pairs = [(row.ratio, row.predicted) for row in rows if row.ratio and row.predicted]
    if len(pairs) < 2:
        return None
    ratios, predicted = np.array(pairs).T
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    measured = ratios * predicted
    rank = None
    if np.ptp(measured) and np.ptp(predicted):
        rank = float(np.corrcoef(_ranks(measured), _ranks(predicted))[0, 1])
    return Agreement(len(pairs), (low, middle, high), rank)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Of each value; equal ones share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def profile_layers(
    onnx: Path, board: Board, database: Path | None = None, precision: str = "float32"
) -> list[LayerCost]:
    """Compile a network and profile it on one thread: timed on `host`, counted on a virtual board.

    Args:
        precision: "float32" is the file as it is; "float16" and "int8" as `compare.compile_in` has
            them.

    Raises:
        BoardError: the program fails, or this machine lacks what counting needs.
        CompileError: the network cannot be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-layers-") as temporary:
        folder = Path(temporary)
        with events.task(f"compiling {onnx.stem} for {board.name}"):
            layers = prepare(onnx, board, folder, database)["layers"]
            if precision != "float32":
                out = folder / f"{OURS}.so"
                layers = compile_in(precision, onnx, board, out, database)["layers"]
        with events.task(f"profiling {len(layers)} kernel calls"):
            if board.kind == "virtual":
                return _counted(layers, folder, board)
            return _timed(layers, folder, board.fast)


def _timed(layers: list[dict[str, Any]], folder: Path, core: Cluster) -> list[LayerCost]:
    argv = [sys.executable, str(PROGRAM), OURS, str(folder), "1", "time-kernels"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIME_S, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BoardError(f"the profile failed: {last}")
    rows = []
    for layer, (kernel, seconds) in zip(layers, _names(done.stdout, layers), strict=True):
        gflops = 2e-9 * layer["macs"] / seconds if layer["macs"] else None
        rows.append(
            LayerCost(
                **_about(layer, kernel),
                ms=1e3 * seconds,
                gflops=gflops,
                peak=None if gflops is None else gflops / core.peak_gflops,
                **_against(layer, seconds * core.mhz * 1e6),
            )
        )
    return rows


def _counted(layers: list[dict[str, Any]], folder: Path, board: Board) -> list[LayerCost]:
    sections, said = run_counted(OURS, folder, "count-kernels", board)
    cores = emulated.shown_cores(board.fast.core)
    rows = []
    for place, (layer, kernel) in enumerate(zip(layers, _names(said, layers), strict=True), 1):
        counts = sections.get(place, {})
        costs = {core: emulated.cost(counts, core).cycles for core in cores}
        rows.append(
            LayerCost(
                **_about(layer, kernel),
                instructions=emulated.instructions(counts),
                cycles=costs,
                **_against(layer, costs[cores[0]]),
            )
        )
    return rows


def _names(said: str, layers: list[dict[str, Any]]) -> list[Any]:
    found = printed_list(said)
    if len(found) != len(layers):
        raise BoardError(f"{len(found)} kernels ran, the compiler lists {len(layers)}")
    return found


def _about(layer: dict[str, Any], kernel: str) -> dict[str, Any]:
    return {
        "name": layer["name"],
        "sources": tuple(layer["source"]),
        "kernel": kernel,
        "schedule": layer["schedule"],
        "choices": tuple(layer["choices"]),
        "tuned": layer["tuned"],
        "macs": layer["macs"],
    }


def _against(layer: dict[str, Any], cycles: float) -> dict[str, Any]:
    """The model's prediction beside what was measured."""
    predicted = layer["estimate"]
    return {"predicted": predicted, "ratio": cycles / predicted} if predicted else {}

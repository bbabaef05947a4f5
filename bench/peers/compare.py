"""Engines side by side: wall time as ratios of one run, or instructions and cycles under emulation.

Machines are noisy, so timed engines take turns, a short round each, and what is compared is each
round's median with that of ONNX Runtime in the same round.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress import events, wheels
from edgecompress.errors import EdgeCompressError
from edgecompress.files import building, cache_dir

from ...compile.machine import Precision
from ...compile.network import compile_network
from ...runner.spec import Preprocess
from ...targets import Board
from ...targets.runtime import write_runtime
from .. import emulated
from .engines import OURS, PEERS, TITLES, Engine, NotHereError
from .models import quantised

PROGRAM = Path(__file__).with_name("program.py")
REFERENCE = "onnxruntime"
PREPROCESS = Preprocess((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
ROUNDS = 20
PYTHON = "usr/bin/python3.11"

_ANSWER_S = 300.0
_ROUND_S = 0.25
_COUNT_S = 1800.0


@dataclass(frozen=True)
class Row:
    """One engine with one number of threads.

    Attributes:
        ms: median of the rounds' medians; None under emulation.
        ratio: that against ONNX Runtime's of the same rounds: median, lowest and highest quartile.
        instructions: executed by one run; None where time was measured.
        cycles: estimated, by core: the board's own first.
        difference: of its output from ONNX Runtime's, as a share of the largest output; None where
            one of them is not finite, or ONNX Runtime's is zeros alone.
        reason: why there are no numbers; empty where there are.
    """

    engine: str
    title: str
    threads: int
    ms: float | None = None
    ratio: tuple[float, float, float] | None = None
    instructions: int | None = None
    cycles: dict[str, float] = field(default_factory=dict)
    difference: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All engines on one model and one board.

    Attributes:
        macs: of one run.
        seconds: that compiling took.
    """

    model: str
    board: str
    macs: int
    seconds: float
    rows: tuple[Row, ...]


def compare(
    onnx: Path,
    board: Board,
    threads: Sequence[int],
    database: Path | None = None,
    rounds: int = ROUNDS,
    *,
    compiler: Mapping[str, Any] | None = None,
    precisions: Sequence[str] = (),
) -> Comparison:
    """Compare our compiled module of an ONNX file with the other engines.

    Args:
        board: `host` (time) or a virtual one (instructions and cycles, one thread).
        threads: each number is a run of its own; under emulation there is only one.
        database: tuning records for our module.
        rounds: how often timed engines take turns.
        compiler: further arguments of `compile_network`.
        precisions: "float16" and "int8" are rows of their own beside the model as it is.

    Raises:
        CompileError: our own compiler fails; a peer that fails is a row that says so.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-peers-") as temporary:
        folder = Path(temporary)
        with events.task(f"compiling {onnx.stem} for {board.name}"):
            info = prepare(onnx, board, folder, database, compiler)
        for precision in events.track(precisions, "compiling in other precisions"):
            compile_in(precision, onnx, board, folder / f"{OURS}-{precision}.so", database)
        absent = _convert(folder, precisions)
        names = [OURS, *(f"{OURS}-{precision}" for precision in precisions)]
        names += [peer.name for peer in _peers(precisions)]
        rows: list[Row] = []
        if board.kind == "virtual":
            rows = _count_all(folder, names, absent, board)
        else:
            for count in threads:
                rows += _time_all(folder, names, absent, count, rounds)
    return Comparison(onnx.stem, board.name, info["macs"], info["seconds"], tuple(rows))


def prepare(
    onnx: Path,
    board: Board,
    folder: Path,
    database: Path | None,
    compiler: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write model, inputs, our compiled module and its runtime into a folder.

    Returns:
        What the compiler says of the network (`compile.network.CompiledNetwork.info`).
    """
    import onnx as onnx_package

    shutil.copyfile(onnx, folder / "model.onnx")
    if onnx.with_suffix(".tflite").exists():
        shutil.copyfile(onnx.with_suffix(".tflite"), folder / "model.tflite")
    compiled = compile_network(
        onnx, board, PREPROCESS, folder / f"{OURS}.so", database=database, **(compiler or {})
    )
    dims = onnx_package.load(onnx).graph.input[0].type.tensor_type.shape.dim
    height, width = dims[2].dim_value, dims[3].dim_value
    shape = (1, height, width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = np.array(PREPROCESS.mean), np.array(PREPROCESS.std)
    normalised = ((image - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    np.save(folder / "image.npy", image)
    np.save(folder / "input.npy", np.ascontiguousarray(normalised))
    write_runtime(board, folder / "runtime")
    return compiled.info


def compile_in(
    precision: str, onnx: Path, board: Board, out: Path, database: Path | None
) -> dict[str, Any]:
    """Compile a float32 model in another precision; what the compiler says of it.

    Args:
        precision: "float16", or "int8" (quantised by packaged photos, whatever that does to its
            accuracy).
    """
    if precision == "int8":
        with tempfile.TemporaryDirectory(prefix="edgecompress-int8-") as temporary:
            file = quantised(onnx, board, PREPROCESS, Path(temporary) / f"{onnx.stem}.onnx")
            return compile_network(file, board, PREPROCESS, out, database=database).info
    half: Precision = "float16"
    network = compile_network(onnx, board, PREPROCESS, out, database=database, precision=half)
    return network.info


def _peers(precisions: Sequence[str]) -> list[Engine]:
    return [peer for peer in PEERS if peer.precision in ("float32", *precisions)]


def _convert(folder: Path, precisions: Sequence[str]) -> dict[str, str]:
    """Convert the model for each peer; the reason of each that cannot take part."""
    absent = {}
    for peer in events.track(_peers(precisions), "converting for the other engines"):
        try:
            peer.require()
            peer.convert(folder)
        except NotHereError as error:
            absent[peer.name] = str(error)
    return absent


def _title(name: str) -> str:
    return TITLES.get(name) or next(peer.title for peer in PEERS if peer.name == name)


def _differences(rows: list[Row], outputs: dict[str, np.ndarray]) -> list[Row]:
    """The rows with how far each output is from ONNX Runtime's."""
    wanted = outputs.get(REFERENCE)
    if wanted is None:
        return rows
    return [
        replace(row, difference=_difference(outputs[row.engine], wanted))
        if row.engine in outputs
        else row
        for row in rows
    ]


def _difference(output: np.ndarray, wanted: np.ndarray) -> float | None:
    """How far an output is from the one that is wanted; see `Row.difference`."""
    if output.shape != wanted.shape or not wanted.any():
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # float16 overflows where float32 does not
        share = float(np.abs(output - wanted).max() / np.abs(wanted).max())
    return share if math.isfinite(share) else None


# Wall time, on this machine


class _Server:
    """A running engine.

    Raises:
        NotHereError: it ends, or gives no answer for `_ANSWER_S`; so does `times`.
    """

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        # A file takes all that an engine says; a pipe that nobody reads would stop it.
        self._said = folder / f"{name}.stderr"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), name, str(folder), str(threads), "serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                errors="replace",
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        try:
            self.output = np.array(self._answer())
        except BaseException:
            self.close()
            raise

    def times(self, runs: int) -> list[float]:
        """Seconds of so many runs."""
        assert self._process.stdin
        with contextlib.suppress(OSError):  # where it has ended, its last words say why
            self._process.stdin.write(f"{runs}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        assert self._process.stdout
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(_ANSWER_S, give_up)
        timer.start()
        try:
            # Engines print what they like: ours is the line that is JSON.
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):
                    value = json.loads(line)
                    if isinstance(value, list) and value:
                        return value
        finally:
            timer.cancel()
        if late.is_set():
            raise NotHereError(f"failed: no answer in {_ANSWER_S:g} s")
        said = self._said.read_text(errors="replace").strip().splitlines()
        raise NotHereError(f"failed: {said[-1][:200] if said else 'it ended'}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _servers(
    folder: Path, names: Sequence[str], absent: dict[str, str], threads: int
) -> Iterator[tuple[dict[str, _Server], dict[str, str]]]:
    running: dict[str, _Server] = {}
    failed = dict(absent)
    try:
        for name in names:
            if name not in failed:
                try:
                    running[name] = _Server(name, folder, threads)
                except NotHereError as error:
                    failed[name] = str(error)
        yield running, failed
    finally:
        for server in running.values():
            server.close()


def _time_all(
    folder: Path, names: Sequence[str], absent: dict[str, str], threads: int, rounds: int
) -> list[Row]:
    with _servers(folder, names, absent, threads) as (running, failed):

        def timed(name: str, runs: int) -> list[float]:
            """Seconds of so many runs; none of an engine that fails, which is out then."""
            try:
                return running[name].times(runs)
            except NotHereError as error:
                failed[name] = str(error)
                running.pop(name).close()
                return []

        runs = {}
        for name in tuple(running):
            if times := timed(name, 3):
                runs[name] = max(3, round(_ROUND_S / min(times)))
        medians: dict[str, list[float]] = {name: [] for name in running}
        for _ in events.track(range(rounds), f"timing, {threads} threads"):
            for name in tuple(running):
                if times := timed(name, runs[name]):
                    medians[name].append(statistics.median(times))
        medians = {name: medians[name] for name in running}
        outputs = {name: server.output for name, server in running.items()}
    rows = [
        _timed_row(name, threads, medians, failed.get(name, "")) for name in (*running, *failed)
    ]
    return _differences(rows, outputs)


def _timed_row(name: str, threads: int, medians: dict[str, list[float]], reason: str) -> Row:
    row = Row(name, _title(name), threads, reason=reason)
    if reason:
        return row
    own, reference = medians[name], medians.get(REFERENCE)
    ratio = None
    if reference:
        ratios = [a / b for a, b in zip(own, reference, strict=True)]
        low, middle, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
        ratio = (middle, low, high)
    return replace(row, ms=1e3 * statistics.median(own), ratio=ratio)


# Instructions and cycles, under emulation


def _count_all(
    folder: Path, names: Sequence[str], absent: dict[str, str], board: Board
) -> list[Row]:
    rows, outputs = [], {}
    for name in events.track(names, "counting instructions"):
        row = Row(name, _title(name), 1, reason=absent.get(name, ""))
        if not row.reason:
            try:
                counts, output = _counted(name, folder, board)
                cores = emulated.shown_cores(board.fast.core)
                costs = {core: emulated.cost(counts, core) for core in cores}
                row = replace(
                    row,
                    instructions=emulated.instructions(counts),
                    cycles={core: cost.cycles for core, cost in costs.items()},
                )
                outputs[name] = output
            except EdgeCompressError as error:
                row = replace(row, reason=error.message)
        rows.append(row)
    return _differences(rows, outputs)


def _counted(name: str, folder: Path, board: Board) -> tuple[emulated.Counts, np.ndarray]:
    sections, said = run_counted(name, folder, "count", board)
    return sections[1], np.array(printed_list(said))


def printed_list(said: str) -> list[Any]:
    """The list that `program.py` printed; engines print what they like before it."""
    return json.loads(next((line for line in said.splitlines() if line.startswith("[")), "[]"))


def run_counted(
    name: str, folder: Path, mode: str, board: Board
) -> tuple[dict[int, emulated.Counts], str]:
    """Run `program.py` with one engine and one thread in a virtual board's Python, counted."""
    assert board.emulation is not None, f"{board.name} is no virtual board"
    peer = next((one for one in PEERS if one.name == name), None)
    env = {"PYTHONPATH": str(_unpacked(peer))} if peer else {}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    argv = [PYTHON, str(PROGRAM), name, str(folder), "1", mode]
    cpu = board.emulation.cpu
    return emulated.counted(argv, env, timeout=_COUNT_S, cpu=cpu, board=board.name)


def _unpacked(peer: Engine) -> Path:
    """A peer's arm64 packages, unpacked for the virtual board's Python."""
    folder = cache_dir("peers") / "-".join(wheel.key for wheel in peer.wheels)
    if not folder.is_dir():
        with building(folder) as new:
            for wheel in peer.wheels:
                wheels.extract(wheel, lambda name: True, new)
    return folder

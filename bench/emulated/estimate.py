"""What a candidate of tuning costs, for those who have no board: estimated cycles of one core."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from edgecompress.errors import BoardError, UsageError
from edgecompress.files import building, cache_dir, sha256_json

from ...compile.measure import Argument, Outcome
from ...targets import Board
from ...targets.runtime import versions, write_runtime
from .count import counted, why_not
from .cycles import MODELS, cost

PROGRAM = Path(__file__).with_name("kernel_program.py")
PYTHON = "usr/bin/python3"
_DEADLINE_S = 300.0


def cycle_estimate(board: Board) -> Callable[[Path, Sequence[Argument]], Outcome]:
    """A function that estimates a library's `main`, in seconds at the clock of the fastest core.

    Raises:
        BoardError: this machine cannot count.
        UsageError: LLVM has no model of the board's core.
    """
    core = board.fast.core
    if board.arch != "aarch64" or core not in MODELS:
        raise UsageError(
            f"cycles cannot be estimated for {board.name} ({core})",
            f"cores with a model: {', '.join(MODELS)}; tune on the board without --cost",
        )
    if why_not():
        raise BoardError(f"cycles cannot be estimated: {why_not()}", "make counting")
    runtime = _runtime(board)

    def estimate(library: Path, arguments: Sequence[Argument]) -> Outcome:
        argv = [PYTHON, str(PROGRAM), str(runtime), str(library), json.dumps(list(arguments))]
        env = {"TVM_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            sections, _ = counted(argv, env, timeout=_DEADLINE_S)
        except BoardError as error:
            return Outcome((), f"run: {error.message}")
        return Outcome((cost(sections[1], core).cycles / (board.fast.mhz * 1e6),))

    return estimate


def _runtime(board: Board) -> Path:
    """The runtime's files for the virtual board's Python, in the cache."""
    folder = cache_dir("runtime") / sha256_json([board.arch, board.python, versions()])[:16]
    if not folder.is_dir():
        with building(folder) as new:
            write_runtime(board, new)
    return folder

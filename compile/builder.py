"""Building candidates: scheduled kernels to shared libraries, in parallel, each with a deadline.

This stands in for MetaSchedule's `LocalBuilder`, whose workers spend half a minute importing GPU
intrinsics and are made anew for every batch (docs/tuning.md).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edgecompress.errors import CompileError

from .search import last_line
from .worker import Worker, WorkerLostError

if TYPE_CHECKING:
    from tvm import IRModule

    from ..targets import Board


@dataclass(frozen=True)
class Built:
    """A candidate's library, or why there is none.

    Attributes:
        library: the shared library with the function `main`; None where building failed.
        failure: one line; empty where it worked.
        lost: the process that built it was lost, twice.
    """

    library: Path | None
    failure: str = ""
    lost: bool = False


class Builder:
    """Worker processes that build candidates for one board. A context manager: it ends them.

    Args:
        board: what to build for.
        folder: where the libraries go.
        workers: how many processes.
        deadline_s: for one candidate; one that takes longer has failed.
    """

    def __init__(self, board: Board, folder: Path, workers: int, deadline_s: float = 60) -> None:
        self._board = board
        self._folder = folder
        self._deadline_s = deadline_s
        self._pool = ThreadPoolExecutor(workers, "build")
        self._workers = [Worker() for _ in range(workers)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._count = 0
        self._closed = False

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        # In this order: what is waiting does not start, what is running ends, and stays ended.
        self._closed = True
        for worker in self._workers:
            worker.kill()
        self._pool.shutdown(cancel_futures=True)

    def build(self, mods: Sequence[IRModule]) -> list[Built]:
        """Build scheduled kernels; one result for each, in order. Failures are results."""
        first, self._count = self._count, self._count + len(mods)
        libraries = [self._folder / f"{first + index}.so" for index in range(len(mods))]
        return list(self._pool.map(self._build, mods, libraries))

    def _build(self, mod: IRModule, library: Path) -> Built:
        content = pickle.dumps(mod)
        worker = self._idle.get()
        try:
            built = self._try(worker, content, library)
            return self._try(worker, content, library) if built.lost and not self._closed else built
        finally:
            self._idle.put(worker)

    def _try(self, worker: Worker, content: bytes, library: Path) -> Built:
        try:
            # The first call of a process also imports TVM.
            failure = worker.call(build_library, self._deadline_s, content, self._board, library)
        except WorkerLostError as error:
            return Built(None, f"build: {error}", lost=True)
        return Built(None, f"build: {failure}") if failure else Built(library)


def build_library(pickled_mod: bytes, board: Board, library: Path) -> str:
    """Compile a scheduled kernel and link it; what went wrong in one line, or nothing.

    Runs in a worker. The module is unpickled here because that needs TVM.
    """
    import tvm

    from .integer import register
    from .link import linker

    register()
    target = tvm.target.Target(board.tvm_target())
    try:
        mod = pickle.loads(pickled_mod)
        mod["main"] = mod["main"].with_attr("global_symbol", "main")  # else it is not exported
        executable = tvm.compile(mod, target=target)
        executable.export_library(str(library), fcompile=linker(board))
    except CompileError:
        raise  # the linker's fault, not the candidate's: it would fail for all
    except Exception as error:  # TVM's own error classes have no common base of their own
        return last_line(error)
    return ""

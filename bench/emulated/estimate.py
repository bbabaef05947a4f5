"""What candidates of tuning cost, for those who have no board: estimated cycles of one core.

A few emulated Pythons run the candidates of a batch one after the other (`kernel_server.py`); then
the blocks of all of them are analysed together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from edgecompress.errors import BoardError, UsageError
from edgecompress.files import building, cache_dir, sha256_json

from ...compile.measure import Argument, BuiltKernel, Outcome
from ...targets import Board
from ...targets.runtime import versions, write_runtime
from .count import CountedServer, Counts, why_not
from .cycles import MODELS, costs
from .kernel_server import LABEL

PROGRAM = Path(__file__).with_name("kernel_server.py")
PYTHON = "usr/bin/python3"
# QEMU's CPUs that stand for cores: the C library chooses its code by them.
_CPUS = {"cortex-a55": "cortex-a76"}  # of one architecture; not every QEMU has the first
_DEADLINE_S = 300.0
_SERVED = 200  # the plugin keeps every block that ever ran, also of libraries that are gone


def cycle_estimate(board: Board) -> CycleEstimate:
    """What estimates libraries' `main`, in seconds at the clock of the board's fastest core.

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
    return CycleEstimate(_runtime(board), core, board.fast.mhz, len(os.sched_getaffinity(0)))


class CycleEstimate:
    """Estimates batches of libraries (`compile.measure.Estimate`).

    Args:
        runtime: folder of the runtime's files.
        core: one of `MODELS`.
        mhz: its clock.
        servers: emulated processes side by side.
    """

    def __init__(self, runtime: Path, core: str, mhz: float, servers: int) -> None:
        self._core = core
        self._hertz = mhz * 1e6
        self._pool = ThreadPoolExecutor(servers, "estimate")
        self._servers = [KernelServer(runtime, _CPUS.get(core, core)) for _ in range(servers)]
        self._idle: SimpleQueue[KernelServer] = SimpleQueue()
        for server in self._servers:
            self._idle.put(server)

    def __call__(self, batch: Sequence[BuiltKernel]) -> list[Outcome]:
        """Estimate the functions `main` of libraries, in order. Failures are results.

        Raises:
            BoardError: LLVM's tools are not installed.
        """
        results = list(self._pool.map(self._count, batch))
        counts = [result for result in results if not isinstance(result, str)]
        cycles = iter([cost.cycles for cost in costs(counts, self._core)])
        return [
            Outcome((), f"run: {result}")
            if isinstance(result, str)
            else Outcome((next(cycles) / self._hertz,))
            for result in results
        ]

    def close(self) -> None:
        """End the processes; what is running ends at once."""
        for server in self._servers:
            server.end()
        self._pool.shutdown(cancel_futures=True)

    def _count(self, built: BuiltKernel) -> Counts | str:
        server = self._idle.get()
        try:
            return server.count(*built)
        finally:
            self._idle.put(server)


class KernelServer:
    """One emulated Python: started by the first candidate, and anew after each that crashes.

    Args:
        runtime: folder of the runtime's files.
        cpu: the one of QEMU's that it sees.
    """

    def __init__(self, runtime: Path, cpu: str) -> None:
        self._runtime = runtime
        self._cpu = cpu
        self._process: CountedServer | None = None
        self._served = 0
        self._ended = False

    def count(self, library: Path, arguments: Sequence[Argument]) -> Counts | str:
        """The counts of one run of a library's `main`, or in one line why there are none.

        With a process that others used before, a candidate that crashes has another try.
        """
        if self._served >= _SERVED:
            self.stop()
        used = self._served > 0
        counts = self._try(library, arguments)
        again = isinstance(counts, str) and used and self._process is None and not self._ended
        return self._try(library, arguments) if again else counts

    def end(self) -> None:
        """End the process for good."""
        self._ended = True
        self.stop()

    def stop(self) -> None:
        """End the process; the next candidate starts another."""
        process, self._process, self._served = self._process, None, 0
        if process is not None:
            process.close()

    def _try(self, library: Path, arguments: Sequence[Argument]) -> Counts | str:
        try:
            if self._process is None:
                self._process = self._start()
            line = json.dumps([str(library), list(arguments)])
            answer, sections = self._process.ask(line, _DEADLINE_S)
            failure = str(json.loads(answer)["failure"])
        except BoardError as error:
            self.stop()
            return error.message
        self._served += 1
        return failure or sections[LABEL]

    def _start(self) -> CountedServer:
        env = {"TVM_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return CountedServer([PYTHON, str(PROGRAM), str(self._runtime)], env, self._cpu)


def _runtime(board: Board) -> Path:
    """The runtime's files for the virtual board's Python, in the cache."""
    folder = cache_dir("runtime") / sha256_json([board.arch, board.python, versions()])[:16]
    if not folder.is_dir():
        with building(folder) as new:
            write_runtime(board, new)
    return folder

"""Measuring candidates on a board over TVM RPC, with deadlines that hold.

The RPC client runs in a worker process (`worker.py`): MetaSchedule's `RPCRunner` waits for ever on
a server that accepts and never answers. A TVM RPC server stops serving after a session that died,
so after every loss the endpoint is opened anew before anything else is measured. A board is asked
for a result that is known whenever a server was opened, and between candidates (`Meter.check`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgecompress import events
from edgecompress.errors import BoardError

from .search import last_line
from .worker import Worker, WorkerLostError

_LOSSES_IN_A_ROW = 3
_OPENING_TRIES = 2
_CONNECT_S = 60  # the worker imports TVM first
_POOL_MODE = 1  # the thread pool's kBig; with a number of threads nothing follows from it


class Endpoint(Protocol):
    """A TVM RPC server that this machine can reach, through a tracker or by itself."""

    @property
    def host(self) -> str:
        """Address of the tracker, or of the server, as this machine sees it."""
        ...

    @property
    def port(self) -> int:
        """TCP port."""
        ...

    @property
    def key(self) -> str:
        """The server's key; empty where it has none."""
        ...

    @property
    def tracked(self) -> bool:
        """Whether host and port are a tracker's."""
        ...

    @property
    def cpus(self) -> tuple[int, ...]:
        """The board's CPUs that kernels run on; empty where none were named."""
        ...

    def require(self) -> None:
        """Raise `BoardError` where times are worth nothing now: throttled, or not ours."""
        ...


OpenEndpoint = Callable[[], AbstractContextManager[Endpoint]]
Argument = tuple[tuple[int, ...], str]  # shape, dtype


@dataclass(frozen=True)
class Timing:
    """How one candidate is timed.

    Attributes:
        repeat: how many numbers are taken.
        min_repeat_ms: the kernel runs over and over for at least this long for each number.
        cooldown_s: pause after each candidate, for a board that throttles.
        deadline_s: for one candidate, upload included.
    """

    repeat: int = 3
    min_repeat_ms: int = 100
    cooldown_s: float = 0.0
    deadline_s: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """What measuring a candidate gave.

    Attributes:
        seconds: of one execution, one number a repeat; empty where it failed.
        failure: one line; empty where it worked.
        lost: the server was lost with it, twice: its fault, or the board's.
    """

    seconds: tuple[float, ...]
    failure: str = ""
    lost: bool = False


class Measuring(Protocol):
    """What measures candidates on one board (`Meter`)."""

    def measure(self, library: Path, arguments: Sequence[Argument]) -> Outcome:
        """Measure the function `main` of a library."""
        ...

    def check(self) -> None:
        """Raise `BoardError` where what was measured since the last check is worth nothing."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


BuiltKernel = tuple[Path, Sequence[Argument]]  # a candidate's library, and what its `main` takes


class Estimate(Protocol):
    """Scores candidates without a board, a batch at once."""

    def __call__(self, batch: Sequence[BuiltKernel]) -> list[Outcome]:
        """Estimate the functions `main` of libraries, in order. Failures are results."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Meter:
    """One board's RPC server and the process that talks to it. A context manager.

    Args:
        open_endpoint: starts an RPC server and ends it; called again after each loss.
        timing: how candidates are timed.
        known: the library of `known.known_kernel`, built for the board.
    """

    def __init__(self, open_endpoint: OpenEndpoint, timing: Timing, known: Path) -> None:
        self._open_endpoint = open_endpoint
        self._timing = timing
        self._known = known
        self._worker = Worker()
        self._stack = ExitStack()
        self._endpoint: Endpoint | None = None
        self._ready = False
        self._losses = 0

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session, the process and the server."""
        self._worker.kill()
        self._ready = False
        self._stack.close()

    def measure(self, library: Path, arguments: Sequence[Argument]) -> Outcome:
        """Time the function `main` of a library.

        A candidate with which the server is lost gets a second try on a new server.

        Raises:
            BoardError: the server cannot be opened, or is lost with one candidate after the other.
        """
        outcome = self._try(library, arguments)
        if outcome.lost:
            outcome = self._try(library, arguments)
        self._losses = self._losses + 1 if outcome.lost else 0
        if self._losses >= _LOSSES_IN_A_ROW:
            raise BoardError(
                f"the RPC server was lost with {_LOSSES_IN_A_ROW} candidates in a row: "
                f"{outcome.failure}",
                "`edgecompress doctor` checks the board's processor against the target",
            )
        time.sleep(self._timing.cooldown_s)
        return outcome

    def check(self) -> None:
        """Return where the board is fit to be measured on, and right about what is known.

        A server that was lost is no reproach: the next one is asked.

        Raises:
            BoardError: it is not, or no server can be opened.
        """
        if self._ready and self._is_fit():
            return
        if not self._ready:
            self._open()

    def _is_fit(self) -> bool:
        """False where the server was lost meanwhile.

        Raises:
            BoardError: the board is not fit, or gives another result than the known one.
        """
        if self._endpoint is not None:
            self._endpoint.require()
        try:
            right = self._worker.call(
                answers_known,
                self._timing.deadline_s,
                str(self._known),
                secrets.randbelow(1 << 32),
            )
        except WorkerLostError:
            right = None
        if right is None:
            self.close()
            return False
        if not right:
            raise BoardError(
                "it computes wrongly: a known kernel gave another result",
                "see whether it is overclocked, hot or short of power: `edgecompress doctor`",
            )
        return True

    def _try(self, library: Path, arguments: Sequence[Argument]) -> Outcome:
        if not self._ready:
            self._open()
        timing = self._timing
        try:
            answer = self._worker.call(
                time_library, timing.deadline_s, str(library), tuple(arguments), timing
            )
        except WorkerLostError as error:
            self.close()
            return Outcome((), f"run: {error}", lost=True)
        if answer.lost:
            self.close()
        return answer

    def _open(self) -> None:
        """Start a server, connect to it, and see what it answers."""
        for tries_left in reversed(range(_OPENING_TRIES)):
            endpoint = self._stack.enter_context(self._open_endpoint())
            address = (endpoint.host, endpoint.port, endpoint.key)
            threads = len(endpoint.cpus)
            cause = "it is lost with the first kernel"
            try:
                self._worker.call(connect, _CONNECT_S, address, endpoint.tracked, threads)
                self._endpoint = endpoint
                if self._is_fit():
                    self._ready = True
                    return
            except BoardError:
                self.close()
                raise
            except Exception as error:
                cause = last_line(error)
                self.close()
            if not tries_left:
                raise BoardError(
                    f"the RPC server at {endpoint.host}:{endpoint.port} does not answer: {cause}",
                    "`edgecompress doctor` checks the board",
                )
            events.warn("the board's RPC server does not answer: starting it again")


# Below: what runs in the worker. It holds one session, and in it the arguments of one kernel.

Address = tuple[str, int, str]
_session: Any = None
_arguments: tuple[tuple[Argument, ...], list[Any]] = ((), [])
_known: Any = None


def connect(address: Address, tracked: bool, threads: int) -> None:
    """Open the worker's only session. Runs in a worker.

    TVM waits for ever where a tracker has no server to give: the caller's deadline holds.

    Args:
        address: of a tracker, or of a server, and the server's key.
        threads: of the kernels; 0 is as many as the server takes.
    """
    global _session, _known  # noqa: PLW0603 (one session a process)
    from tvm import rpc

    _known = None
    host, port, key = address
    if tracked:
        _session = rpc.connect_tracker(host, port).request(key)
    else:
        _session = rpc.connect(host, port, key)
    if threads:
        # By itself the pool takes no more threads than there are CPUs of the highest clock.
        _session.get_function("runtime.config_threadpool")(_POOL_MODE, threads)


def time_library(library: str, arguments: tuple[Argument, ...], timing: Timing) -> Outcome:
    """Upload a library, run its `main` on random arguments, and time it. Runs in a worker."""
    name = Path(library).name
    try:
        _session.upload(library, name)
        module = _session.load_module(name)
        device = _session.cpu(0)
        evaluator = module.time_evaluator(
            "main", device, number=1, repeat=timing.repeat, min_repeat_ms=timing.min_repeat_ms
        )
        seconds = evaluator(*_on_board(arguments, device)).results
        _session.remove(name)
    except Exception as error:  # TVM's own error classes have no common base of their own
        return Outcome((), f"run: {last_line(error)}", lost=not _alive())
    return Outcome(tuple(float(second) for second in seconds))


def answers_known(library: str, seed: int) -> bool | None:
    """Whether the board is right about the known kernel; None where it is lost. Runs in a worker.

    Args:
        library: of the known kernel; it is uploaded once a session.
    """
    global _known  # noqa: PLW0603 (it lives as long as the session)
    import tvm

    from .known import COLUMNS, ROWS, is_right, question

    name = Path(library).name
    try:
        if _known is None:
            _session.upload(library, name)
            _known = _session.load_module(name)
        device = _session.cpu(0)
        given = [tvm.runtime.tensor(argument, device) for argument in question(seed)]
        answer = tvm.runtime.empty((ROWS, COLUMNS), "float32", device)
        _known["main"](*given, answer)
        return is_right(seed, answer.numpy())
    except Exception:  # TVM's own error classes have no common base of their own
        return False if _alive() else None


def _on_board(arguments: tuple[Argument, ...], device: Any) -> list[Any]:
    """Tensors of random values on the board; those of the last kernel are kept."""
    global _arguments  # noqa: PLW0603 (they live as long as the session)
    import numpy as np
    import tvm

    if _arguments[0] != arguments:
        _arguments = ((), [])  # free them before their successors are made
        generator = np.random.default_rng(0)
        # Away from zero: a kernel must not be timed on denormal numbers.
        values = [generator.uniform(1, 9, shape).astype(dtype) for shape, dtype in arguments]
        _arguments = (arguments, [tvm.runtime.tensor(value, device) for value in values])
    return _arguments[1]


def _alive() -> bool:
    """Whether the server still answers after an error."""
    try:
        _session.get_function("tvm.rpc.server.workpath")
    except Exception:
        return False
    return True

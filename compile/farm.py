"""Several boards of one sort measuring at once: each takes the next candidate when it is free."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edgecompress import events
from edgecompress.errors import BoardError

from .measure import Argument, Estimate, Measuring, Outcome

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """A built candidate to measure; `item` is the caller's own."""

    item: T
    library: Path
    arguments: tuple[Argument, ...]


class Farm:
    """The boards that measure, by name. A context manager: it ends their servers.

    A board that fails is left out from then on, with a warning, as long as another one is left.

    Attributes:
        measured: how many candidates each has measured, those that were left out included.
    """

    def __init__(self, meters: Mapping[str, Measuring]) -> None:
        self._meters = dict(meters)
        self.measured = Counter(dict.fromkeys(meters, 0))

    @property
    def boards(self) -> tuple[str, ...]:
        """The names of those that are left."""
        return tuple(self._meters)

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for meter in self._meters.values():
                stack.callback(meter.close)

    def measure(
        self,
        jobs: Sequence[Job[T]],
        done: Callable[[T, Outcome], None],
        in_time: Callable[[], bool],
    ) -> None:
        """Measure jobs and call `done` for each as soon as it is measured, one call at a time.

        Args:
            in_time: asked before each job; when it says no, the rest is left unmeasured.

        Raises:
            BoardError: no board is left. What was measured before has been given to `done`.
        """
        waiting = deque(jobs)
        lock = threading.Lock()
        broken: dict[str, BoardError] = {}

        def work(name: str) -> None:
            while name not in broken:
                with lock:
                    if not waiting or not in_time():
                        return
                    job = waiting.popleft()
                try:
                    outcome = self._meters[name].measure(job.library, job.arguments)
                except BoardError as error:
                    with lock:
                        waiting.append(job)
                        broken[name] = error
                        left = [one for one in self._meters if one not in broken]
                        if left:
                            events.warn(_left_out(name, error, left))
                    return
                with lock:
                    self.measured[name] += 1
                    done(job.item, outcome)

        def work_or_stop_all(name: str) -> None:
            try:
                work(name)
            except BaseException:
                waiting.clear()
                raise

        while waiting and in_time():
            if len(self._meters) == 1:  # in this thread, where an interrupt takes effect at once
                work(next(iter(self._meters)))
            else:
                with ThreadPoolExecutor(len(self._meters), "board") as pool:
                    try:
                        list(pool.map(work_or_stop_all, self._meters))
                    except BaseException:  # an interrupt: what is being measured is the last
                        waiting.clear()
                        raise
            if len(broken) == len(self._meters):
                raise _none_left(broken)
        for name in broken:
            self._meters.pop(name).close()


class Estimates:
    """In the place of a farm: what is given to it is estimated, all at once. A context manager.

    Attributes:
        boards, measured: as a farm's that has no boards.
    """

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self.boards: tuple[str, ...] = ()
        self.measured: Counter[str] = Counter()

    def __enter__(self) -> Estimates:
        return self

    def __exit__(self, *_: object) -> None:
        self._estimate.close()

    def measure(
        self,
        jobs: Sequence[Job[T]],
        done: Callable[[T, Outcome], None],
        in_time: Callable[[], bool],
    ) -> None:
        """Estimate jobs, if there is time, and call `done` for each."""
        if not in_time():
            return
        outcomes = self._estimate([(job.library, job.arguments) for job in jobs])
        for job, outcome in zip(jobs, outcomes, strict=True):
            done(job.item, outcome)


def _left_out(name: str, error: BoardError, left: Sequence[str]) -> str:
    return f"'{name}' is left out of the tuning, {', '.join(left)} goes on: {error.message}"


def _none_left(broken: Mapping[str, BoardError]) -> BoardError:
    """The error of the last board, and how to go on."""
    name, error = list(broken.items())[-1]
    message = error.message if len(broken) == 1 else f"no board is left; '{name}': {error.message}"
    again = "then give the same command: it goes on from what was measured"
    return BoardError(message, f"{error.hint}; {again}" if error.hint else again)

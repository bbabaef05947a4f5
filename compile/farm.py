"""Several boards of one sort measuring at once: each takes the next candidate when it is free."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edgecompress import events
from edgecompress.errors import BoardError

from .measure import Argument, Measuring, Outcome

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """A built candidate to measure; `item` is the caller's own."""

    item: T
    library: Path
    arguments: tuple[Argument, ...]


class Farm:
    """The boards, or estimators, that measure. A context manager: it ends their servers.

    A board that fails is left out from then on, with a warning, as long as another one is left.
    """

    def __init__(self, meters: Sequence[Measuring]) -> None:
        self._meters = list(meters)

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for meter in self._meters:
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
        broken: dict[int, BoardError] = {}

        def work(index: int) -> None:
            while index not in broken:
                with lock:
                    if not waiting or not in_time():
                        return
                    job = waiting.popleft()
                try:
                    outcome = self._meters[index].measure(job.library, job.arguments)
                except BoardError as error:
                    with lock:
                        waiting.append(job)
                        broken[index] = error
                    return
                with lock:
                    done(job.item, outcome)

        def work_or_stop_all(index: int) -> None:
            try:
                work(index)
            except BaseException:
                waiting.clear()
                raise

        while waiting and in_time():
            if len(self._meters) == 1:  # in this thread, where an interrupt takes effect at once
                work(0)
            else:
                with ThreadPoolExecutor(len(self._meters), "board") as pool:
                    list(pool.map(work_or_stop_all, range(len(self._meters))))
            if len(broken) == len(self._meters):
                raise next(iter(broken.values()))
        for index in sorted(broken, reverse=True):
            events.warn(f"a board is left out of the tuning: {broken[index].message}")
            self._meters.pop(index).close()

"""Several boards of one sort measuring at once: each takes the next candidate when it is free."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgecompress import events
from edgecompress.errors import BoardError, EdgeCompressError

from .measure import Argument, Estimate, Measuring, Outcome

T = TypeVar("T")

# How many candidates a board measures between two checks.
SPAN = 4
PAUSES_S = (5.0, 10.0, 20.0, 40.0)
PATIENCE_S = 60.0
# So often a board may be let in and fail again before anything that it has measured counts.
TRIES_IN_VAIN = 3
# How long the end waits for a board that is just being asked: an SSH connection's patience.
_FAREWELL_S = 10.0


@dataclass(frozen=True)
class Job(Generic[T]):
    """A built candidate to measure; `item` is the caller's own."""

    item: T
    library: Path
    arguments: tuple[Argument, ...]


class Farm:
    """The boards that measure, by name. A context manager: it ends their servers.

    What a board has measured counts once the board was found fit afterwards (`Measuring.check`).
    One that is not, or that is lost, is put aside: others measure what did not count, and it is
    asked again after a while, and again after a longer one, until it is fit.

    A candidate that lost the server is to blame for it only once the board has measured another
    one: too many in a row are the board's own fault. The last ones of a batch stay open.

    Args:
        patience_s: how long to wait for one to come back when none is left.
        pauses_s: before a board that was put aside is asked again; the last one over and over.

    Attributes:
        measured: how many candidates each has measured, those that were put aside included.
    """

    def __init__(
        self,
        meters: Mapping[str, Measuring],
        *,
        patience_s: float | None = None,
        pauses_s: Sequence[float] | None = None,
    ) -> None:
        self._meters = dict(meters)
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._pauses_s = pauses_s or PAUSES_S
        self._change = threading.Condition(threading.RLock())
        self._ready = list(meters)
        self._aside: dict[str, EdgeCompressError] = {}
        self._returning: list[threading.Thread] = []
        self._seen_fit: set[str] = set()
        # How often each has failed since something that it measured counted.
        self._in_vain: Counter[str] = Counter()
        # Of each the losses with which its last batch ended.
        self._open: dict[str, list[tuple[Job[Any], Outcome]]] = {}
        self._closed = threading.Event()
        self.measured = Counter(dict.fromkeys(meters, 0))

    @property
    def boards(self) -> tuple[str, ...]:
        """The names of those that are not put aside."""
        with self._change:
            return tuple(name for name in self._meters if name in self._ready)

    @property
    def open(self) -> tuple[Job[Any], ...]:
        """Jobs that were lost and are undecided: they may be measured again later."""
        return tuple(job for held in self._open.values() for job, _ in held)

    def let_go(self, done: Callable[[Any, Outcome], None]) -> None:
        """Have what is open count: nothing more is measured."""
        for name, held in self._open.items():
            for job, outcome in held:
                self.measured[name] += 1
                done(job.item, outcome)
        self._open.clear()

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with ExitStack() as stack:
            for meter in self._meters.values():
                stack.callback(meter.close)
        for thread in self._returning:
            thread.join(_FAREWELL_S)

    def measure(
        self,
        jobs: Sequence[Job[T]],
        done: Callable[[T, Outcome], None],
        in_time: Callable[[], bool],
    ) -> None:
        """Measure jobs and call `done` for each once it counts, one call at a time.

        That is also done for those that were `open`, which may be measured again.

        Args:
            in_time: asked before each job; when it says no, the rest is left unmeasured.

        Raises:
            BoardError: no board is left, and none has come back. What counted before has been
                given to `done`.
        """
        waiting = deque(jobs)

        def next_job() -> Job[T] | None:
            with self._change:
                return waiting.popleft() if waiting and in_time() else None

        def work(name: str) -> None:
            held: list[tuple[Job[T], Outcome]] = self._open.pop(name, [])
            job: Job[T] | None = None
            try:
                if name not in self._seen_fit:
                    self._settle(name, held, done)
                while (job := next_job()) is not None:
                    held.append((job, self._meters[name].measure(job.library, job.arguments)))
                    if len(held) >= SPAN and not held[-1][1].lost:
                        self._settle(name, held, done)
                if held:
                    self._settle(name, held, done)
                self._open[name] = held
            except BoardError as error:
                again = [one for one, _ in held]
                if job is not None and all(job is not one for one in again):
                    again.append(job)
                with self._change:
                    waiting.extendleft(reversed(again))
                    self._put_aside(name, error)
                self._meters[name].close()
                self._hope_for(name)
            except BaseException:  # an interrupt: what is being measured is the last
                waiting.clear()
                raise

        while waiting and in_time():
            boards = self._await_boards(in_time)
            if len(boards) == 1:  # in this thread, where an interrupt takes effect at once
                work(boards[0])
            else:
                with ThreadPoolExecutor(len(boards) or 1, "board") as pool:
                    try:
                        list(pool.map(work, boards))
                    except BaseException:
                        waiting.clear()
                        raise

    def _settle(
        self, name: str, held: list[tuple[Job[T], Outcome]], done: Callable[[T, Outcome], None]
    ) -> None:
        """Have what a board has measured count, if it is fit; its last losses stay held."""
        self._meters[name].check()
        with self._change:
            self._seen_fit.add(name)
            while any(not outcome.lost for _, outcome in held):
                job, outcome = held.pop(0)
                self._in_vain[name] = 0
                self.measured[name] += 1
                done(job.item, outcome)

    def _await_boards(self, in_time: Callable[[], bool]) -> tuple[str, ...]:
        """Those that are not put aside; none where there is no more time.

        Raises:
            BoardError: there is none, and none comes back.
        """
        end = time.monotonic() + self._patience_s
        with self._change:
            if not self._ready and self._comes_back():
                events.note(f"no board is left: waiting {self._patience_s:g} s for one")
            while not self._ready and in_time():
                left = end - time.monotonic()
                if left <= 0 or not self._comes_back():
                    raise _none_left(self._aside)
                self._change.wait(min(left, 1.0))
            return self.boards

    def _comes_back(self) -> bool:
        """Whether to hope for one: some board was fit in this run, and has not failed for good."""
        return any(name in self._seen_fit and not self._is_given_up(name) for name in self._aside)

    def _is_given_up(self, name: str) -> bool:
        return self._in_vain[name] >= TRIES_IN_VAIN

    def _put_aside(self, name: str, error: EdgeCompressError) -> None:
        self._ready.remove(name)
        self._aside[name] = error
        self._in_vain[name] += 1
        fate = "left out" if self._is_given_up(name) else "put aside"
        others = ", ".join(self._ready)
        goes_on = f", {others} goes on" if others else ""
        events.warn(f"'{name}' is {fate}{goes_on}: {error.message}")

    def _hope_for(self, name: str) -> None:
        if self._is_given_up(name):
            return
        thread = threading.Thread(
            target=self._come_back, args=(name,), name=f"return of {name}", daemon=True
        )
        self._returning.append(thread)
        thread.start()

    def _come_back(self, name: str) -> None:
        """Ask a board again and again, until it is fit."""
        for number in itertools.count():
            if self._closed.wait(self._pauses_s[min(number, len(self._pauses_s) - 1)]):
                return
            try:
                self._meters[name].check()
            except EdgeCompressError as error:
                self._aside[name] = error
                continue
            with self._change:
                if self._closed.is_set():
                    self._meters[name].close()
                    return
                del self._aside[name]
                self._seen_fit.add(name)
                self._ready.append(name)
                events.note(f"'{name}' is back")
                self._change.notify_all()
            return


class Estimates:
    """In the place of a farm: what is given to it is estimated, all at once. A context manager.

    Attributes:
        boards, measured, open: as a farm's that has no boards.
    """

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self.boards: tuple[str, ...] = ()
        self.measured: Counter[str] = Counter()
        self.open: tuple[Job[Any], ...] = ()

    def let_go(self, done: Callable[[Any, Outcome], None]) -> None:
        """Nothing is open."""

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


def _none_left(broken: Mapping[str, EdgeCompressError]) -> BoardError:
    """The error of the last board, and how to go on."""
    name, error = list(broken.items())[-1]
    message = error.message if len(broken) == 1 else f"no board is left; '{name}': {error.message}"
    again = "then give the same command: it goes on from what was measured"
    return BoardError(message, f"{error.hint}; {again}" if error.hint else again)

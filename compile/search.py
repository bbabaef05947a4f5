"""Searching the free choices of one kernel's schedule.

A schedule is a function over `tvm.s_tir.Schedule` that asks for each free choice by
`sample_categorical(candidates, probs, decision=default)`. The search runs that function again
and again with other decisions, so the choices may depend on one another; what comes out is an
ordinary MetaSchedule trace.

MetaSchedule's own strategies do not fit these spaces of tens of candidates: they vary the decisions
of ONE recorded trace, so no choice may depend on another; `ReplayTrace` draws with replacement,
`EvolutionarySearch` has no mutator for such choices, and `TuneContext` spends a quarter to half a
minute importing GPU intrinsics (docs/tuning.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .database import trace_json
from .records import trace_key

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.s_tir import Schedule
    from tvm.tirx import PrimFunc

ScheduleFunction = Callable[["Schedule"], Any]
Decisions = tuple[int, ...]

# Of the candidates of one batch, this share is drawn from anywhere in the space; the others differ
# from the fastest ones so far in a single choice.
_ANYWHERE = 0.25


@dataclass(frozen=True)
class Candidate:
    """One way to schedule a kernel.

    Attributes:
        decisions: index of the alternative taken at each choice, in the order of the choices.
        sizes: how many alternatives each choice had.
        mod: the scheduled kernel, function `main`.
        trace: JSON of the trace that leads there.
    """

    decisions: Decisions
    sizes: Decisions
    mod: IRModule
    trace: Any

    @property
    def key(self) -> str:
        """The same as `Record.candidate` of its record."""
        return trace_key(self.trace)


class MisfitError(Exception):
    """These decisions do not fit together; says why, and what had been decided by then.

    Attributes:
        decisions, sizes: as in `Candidate`, up to the failure.
    """

    def __init__(self, cause: str, decisions: Decisions, sizes: Decisions) -> None:
        super().__init__(cause)
        self.decisions = decisions
        self.sizes = sizes


def schedule_with(
    function: ScheduleFunction, kernel: PrimFunc, decisions: Decisions = ()
) -> Candidate:
    """Schedule a kernel with the given decisions; choices beyond them keep their defaults.

    A decision that is out of its choice's range (the range may depend on earlier choices) is
    replaced by the default.

    Raises:
        MisfitError: the schedule function raised an error.
    """
    from tvm.s_tir import Schedule

    made: list[tuple[int, int]] = []

    class Decided(Schedule):
        __slots__ = ()

        def sample_categorical(
            self, candidates: list[int], probs: list[float], decision: int | None = None
        ) -> Any:
            place = len(made)
            taken = 0 if decision is None else int(decision)
            if place < len(decisions) and decisions[place] < len(candidates):
                taken = decisions[place]
            made.append((taken, len(candidates)))
            return super().sample_categorical(candidates, probs, taken)

    schedule = Decided(kernel, error_render_level="none")
    try:
        function(schedule)
    except Exception as error:  # TVM's own error classes have no common base of their own
        raise MisfitError(last_line(error), *_unzip(made)) from error
    assert schedule.trace is not None
    return Candidate(*_unzip(made), schedule.mod, trace_json(schedule.trace))


def last_line(error: Exception) -> str:
    """The last line of what an error says: TVM puts its backtrace before the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _unzip(made: list[tuple[int, int]]) -> tuple[Decisions, Decisions]:
    return tuple(taken for taken, _ in made), tuple(size for _, size in made)


class Search:
    """The search over one kernel's space: propose candidates, be told their times.

    The default decisions come first, then the neighbours (one choice changed) of the fastest
    candidates and some from anywhere. In the limit the whole space is proposed, each candidate
    once.

    Args:
        function: the schedule.
        kernel: the unscheduled kernel.
        known: seconds of the candidates that were measured before, by key; infinite for failures.
            They are not proposed again.
        seed: of the random draws.

    Attributes:
        spent: nothing is left to propose.
        misfits: how many sets of decisions the schedule itself refused.

    Raises:
        MisfitError: not even the default decisions work.
    """

    def __init__(
        self, function: ScheduleFunction, kernel: PrimFunc, known: Mapping[str, float], seed: int
    ) -> None:
        self._function = function
        self._kernel = kernel
        self._known = dict(known)
        self._random = random.Random(seed)
        self._asked: set[Decisions] = set()
        self._sizes: dict[Decisions, Decisions] = {}  # of all that was tried
        self._closed: set[Decisions] = set()  # whose neighbours were all asked for
        self._seconds: dict[Decisions, float] = {}
        self.spent = False
        self._untold: set[Decisions] = set()
        self.misfits = 0
        default = schedule_with(function, kernel)
        self._default = default.decisions
        self._queue = [default] if self._is_new(default) else []

    @property
    def default_seconds(self) -> float | None:
        """Time of the untuned schedule; None before it was measured or where it failed."""
        return _finite(self._seconds.get(self._default))

    @property
    def best_seconds(self) -> float | None:
        """The shortest time so far; None before the first success."""
        return _finite(min(self._seconds.values(), default=None))

    @property
    def exhausted(self) -> bool:
        """The whole space has been measured."""
        return self.spent and not self._untold

    def propose(self, count: int) -> list[Candidate]:
        """Up to `count` new candidates; fewer only where the space ends."""
        while len(self._queue) < count and not self.spent:
            decisions = self._next()
            if decisions is None:
                self.spent = True
                break
            self._asked.add(decisions)
            try:
                candidate = schedule_with(self._function, self._kernel, decisions)
            except MisfitError as misfit:
                self.misfits += 1
                self._sizes.setdefault(misfit.decisions, misfit.sizes)
                continue
            if self._is_new(candidate):
                self._queue.append(candidate)
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def tell(self, candidate: Candidate, seconds: float) -> None:
        """The time of one execution of a proposed candidate, seconds; infinite if it failed."""
        self._seconds[candidate.decisions] = seconds
        self._untold.discard(candidate.decisions)

    def _is_new(self, candidate: Candidate) -> bool:
        """Enter a candidate into the search; whether it must still be measured."""
        if candidate.decisions in self._sizes:
            return False
        self._asked.add(candidate.decisions)
        self._sizes[candidate.decisions] = candidate.sizes
        if candidate.key not in self._known:
            self._untold.add(candidate.decisions)
            return True
        self.tell(candidate, self._known[candidate.key])
        return False

    def _next(self) -> Decisions | None:
        """Decisions that were not asked for yet, or None where there are none."""
        if self._random.random() < _ANYWHERE:
            sizes = self._random.choice(list(self._sizes.values()))
            anywhere = tuple(self._random.randrange(size) for size in sizes)
            if anywhere not in self._asked:
                return anywhere
        still = self._sizes.keys() - self._closed
        for base in sorted(still, key=lambda d: (self._seconds.get(d, float("inf")), d)):
            moves = [m for m in _neighbours(base, self._sizes[base]) if m not in self._asked]
            if moves:
                return self._random.choice(moves)
            self._closed.add(base)
        return None


def _neighbours(base: Decisions, sizes: Decisions) -> Iterator[Decisions]:
    for place, size in enumerate(sizes):
        for other in range(size):
            if other != base[place]:
                yield (*base[:place], other, *base[place + 1 :])


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or seconds == float("inf") else seconds

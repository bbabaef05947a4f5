"""The loop of tuning: which kernel next, build, measure, write down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgecompress import events
from edgecompress.errors import CompileError

from .builder import Builder
from .database import Database, target_key, workload_key
from .farm import Estimates, Farm, Job
from .measure import Argument, Outcome
from .records import Measured, Record, are_times
from .search import Candidate, MisfitError, Search
from .tuning import Budget, TaskResult, TuningResult, TuningTask

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.target import Target
    from tvm.tirx import PrimFunc

    from ..targets import Board

_BATCH = 8
_WORTHWHILE = 0.01  # a batch that gains less than this share is counted as stale
_SEED = 1
_PARALLEL = 1  # TIR's ForKind


def measured_as(board: Board) -> Measured:
    """What kind of times a board gives."""
    return "emulated" if board.kind == "virtual" else "real"


class _Kernel:
    """A task on its way through the tuning."""

    def __init__(
        self, task: TuningTask, database: Database, target: Target, measured: Measured
    ) -> None:
        self.task = task
        self.workload = workload_key(task.kernel)
        self.arguments = _arguments(task.kernel)
        past = database.records(task.kernel, target)
        known = {r.candidate: r.median for r in past if r.measured == measured}
        self.known = len(known)
        try:
            self.search = Search(task.schedule, task.kernel, known, _SEED)
        except MisfitError as error:
            raise CompileError(f"the schedule of {task.name} does not work: {error}") from error
        self.measured = 0
        self.failures = 0
        self.stale = 0

    @property
    def score(self) -> float:
        """What measuring more of this kernel promises, seconds of a whole inference."""
        return self.task.weight * (self.search.best_seconds or 0) * 0.5**self.stale

    def result(self) -> TaskResult:
        before, after = self.search.default_seconds, self.search.best_seconds
        return TaskResult(
            self.task.name,
            self.task.weight,
            None if before is None else 1e3 * before,
            None if after is None else 1e3 * after,
            self.measured,
            self.failures,
            self.known,
            self.search.exhausted,
        )


_Trial = tuple[_Kernel, Candidate]


class Tuner:
    """One tuning: what is measured, what it cost, and when it ends.

    Args:
        threads: that a kernel has, where its cost is estimated.
    """

    def __init__(
        self,
        tasks: Sequence[TuningTask],
        board: Board,
        database: Database,
        budget: Budget,
        measured: Measured,
        *,
        threads: int,
    ) -> None:
        import tvm

        self._start = time.monotonic()
        self._board = board
        self._threads = threads
        self._database = database
        self._budget = budget
        target = tvm.target.Target(board.tvm_target())
        self._target = target_key(target)
        self._kind: Measured = measured
        self._kernels = [_Kernel(task, database, target, measured) for task in tasks]
        self._held: list[tuple[_Trial, Outcome]] = []
        self._measured = 0
        self._first = 0.0  # when the first candidate had been measured

    def drive(self, builder: Builder, farm: Farm | Estimates, progress: events.Task) -> None:
        """Measure until the budget or the spaces end."""
        self._progress, self._farm = progress, farm
        if self._budget.trials is not None and self._budget.trials < len(self._kernels):
            events.note(
                f"{self._budget.trials} trials are fewer than the {len(self._kernels)} kernels:"
                " only untuned schedules are measured"
            )
        # The untuned schedules first: they are what all else is compared with.
        first = [(kernel, c) for kernel in self._kernels for c in kernel.search.propose(1)]
        for start in range(0, len(first), _BATCH):
            self._measure(first[start : start + _BATCH], builder, farm)
        if not farm.open:
            self._require_success()
        while not self._ended() and (kernel := self._next()) is not None:
            before = kernel.search.best_seconds
            batch = kernel.search.propose(_BATCH)
            self._measure([(kernel, candidate) for candidate in batch], builder, farm)
            after = kernel.search.best_seconds
            gained = before is None or (after or before) < (1 - _WORTHWHILE) * before
            kernel.stale = 0 if gained else kernel.stale + 1
        farm.let_go(self._done)
        self._require_success()
        self._let_go()

    def result(self) -> TuningResult:
        """What was done; the tasks that gained most first."""
        tasks = [kernel.result() for kernel in self._kernels]
        tasks.sort(key=lambda t: t.weight * ((t.after_ms or 0) - (t.before_ms or 0)))
        return TuningResult(
            self._board.name,
            self._kind,
            tuple(tasks),
            self._measured,
            sum(task.failures for task in tasks),
            time.monotonic() - self._start,
            "exhausted" if all(task.exhausted for task in tasks) else self._ended(),
            {} if self._kind == "cost" else dict(self._farm.measured),
        )

    def _next(self) -> _Kernel | None:
        """The kernel that promises most."""
        left = [kernel for kernel in self._kernels if not kernel.search.spent]
        return max(left, key=lambda kernel: kernel.score, default=None)

    def _ended(self) -> str:
        """Which budget is spent; empty while there is some left."""
        if self._budget.trials is not None and self._measured >= self._budget.trials:
            return "trials"
        elapsed = time.monotonic() - self._start
        if self._budget.seconds is not None and elapsed >= self._budget.seconds:
            return "seconds"
        return ""

    def _measure(self, trials: list[_Trial], builder: Builder, farm: Farm | Estimates) -> None:
        if self._budget.trials is not None:
            trials = trials[: self._budget.trials - self._measured]
        if not trials or self._ended():
            return
        results = builder.build([candidate.mod for _, candidate in trials])
        if all(built.lost for built in results):
            raise CompileError(
                f"no candidate can be built: {results[0].failure}",
                "is there memory left? `free -m` shows it",
            )
        jobs: list[Job[_Trial]] = []
        for trial, built in zip(trials, results, strict=True):
            if built.library is None:
                self._done(trial, Outcome((), built.failure))
            else:
                jobs.append(Job(trial, built.library, trial[0].arguments))
        farm.measure(jobs, self._done, lambda: not self._ended())
        kept = {job.library for job in farm.open}
        for job in jobs:
            if job.library not in kept:
                job.library.unlink()

    def _require_success(self) -> None:
        if self._held and not self._works:
            raise CompileError(
                f"none of the kernels works: {self._held[0][1].failure}",
                "`edgecompress doctor` checks this machine and the board",
            )

    @property
    def _works(self) -> bool:
        """Some kernel has been measured, now or before."""
        return any(kernel.search.best_seconds is not None for kernel in self._kernels)

    def _done(self, trial: _Trial, outcome: Outcome) -> None:
        outcome = _checked(outcome)
        # A failure may be the candidate's fault, or this machine's. As long as nothing works it is
        # held back: a record would keep the candidate from being tried again.
        if not (outcome.seconds or self._works):
            self._held.append((trial, outcome))
            return
        self._write(trial, outcome)
        self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, []
        for trial, outcome in held:
            self._write(trial, outcome)

    def _write(self, trial: _Trial, outcome: Outcome) -> None:
        kernel, candidate = trial
        seconds = outcome.seconds
        if self._kind == "cost":  # of one core: what the others would wait for comes on top
            idle = idle_factor(candidate.mod, self._threads)
            seconds = tuple(second * idle for second in seconds)
        record = Record(
            workload=kernel.workload,
            target=self._target,
            name=kernel.task.name,
            trace=candidate.trace,
            seconds=seconds,
            failure=outcome.failure,
            board=self._board.name,
            measured=self._kind,
        )
        self._database.append([record])
        kernel.search.tell(candidate, record.median)
        kernel.measured += 1
        kernel.failures += not outcome.seconds
        if not self._measured:
            self._first = time.monotonic() - self._start
        self._measured += 1
        self._show(kernel)

    def _show(self, kernel: _Kernel) -> None:
        elapsed = time.monotonic() - self._start
        tuned = sum(k.task.weight * (k.search.best_seconds or 0) for k in self._kernels)
        untuned = sum(k.task.weight * (k.search.default_seconds or 0) for k in self._kernels)
        text = f"{self._measured} measured{self._where()}, best so far"
        text += f" {_ms(tuned)} ms of {_ms(untuned)} untuned"
        left = self._left(elapsed)
        if left is not None:
            text += f", {left:.0f} s left"
        best = kernel.search.best_seconds
        if best is not None:
            text += f" ({kernel.task.name}: {_ms(best)} ms)"
        done = self._measured / self._budget.trials if self._budget.trials else 0.0
        if self._budget.seconds:
            done = max(done, min(1.0, elapsed / self._budget.seconds))
        self._progress.update(done, text)

    def _where(self) -> str:
        """How many on each board that is left, where there are or were several."""
        if self._kind == "cost" or len(self._farm.measured) == 1:
            return ""
        each = (f"{name} {self._farm.measured[name]}" for name in self._farm.boards)
        return f" ({', '.join(each)})"

    def _left(self, elapsed: float) -> float | None:
        """Seconds until the budget ends, or None without one."""
        left: list[float] = []
        if self._budget.seconds is not None:
            left.append(max(0.0, self._budget.seconds - elapsed))
        if self._budget.trials is not None and self._measured > 1:
            # Per candidate, without the start of the server and of the processes.
            each = (elapsed - self._first) / (self._measured - 1)
            left.append(each * (self._budget.trials - self._measured))
        return min(left, default=None)


def _checked(outcome: Outcome) -> Outcome:
    """The outcome, as a failure where its times are none: they come from a board."""
    if outcome.failure or (outcome.seconds and are_times(outcome.seconds)):
        return outcome
    return replace(outcome, seconds=(), failure=f"run: no sound time: {outcome.seconds!r:.60}")


def _ms(seconds: float) -> str:
    """Milliseconds with three figures, and no powers of ten for the large ones."""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def idle_factor(mod: IRModule, cores: int) -> float:
    """How much longer a kernel takes on some cores than its work divided by their number.

    That of its worst loop nest, as what each has of the work is not known here: the turns of a
    parallel loop that the busiest core has, against an even share; all of them where the loop is
    not parallel.
    """
    factor = 1.0
    func: Any = mod["main"]
    body = func.body.block.body
    for nest in getattr(body, "seq", [body]):
        loop = nest
        while _is_single(loop):
            loop = loop.body
        turns = int(getattr(loop, "extent", 1))
        shared = int(getattr(loop, "kind", 0)) == _PARALLEL
        factor = max(factor, -(-turns // cores) * cores / turns if shared else cores)
    return factor


def _is_single(loop: Any) -> bool:
    """Whether it is a loop of one turn, which shares nothing."""
    return hasattr(loop, "extent") and int(loop.extent) == 1


def _arguments(kernel: PrimFunc) -> tuple[Argument, ...]:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo

    described = [argument.as_json() for argument in ArgInfo.from_prim_func(kernel)]
    return tuple((tuple(int(n) for n in shape), str(dtype)) for _, dtype, shape in described)

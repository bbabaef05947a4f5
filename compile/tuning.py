"""What tuning takes and gives: tasks, budget, results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .records import Measured
from .search import ScheduleFunction

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class TuningTask:
    """One kernel to tune.

    Attributes:
        name: for people: operator and shapes.
        kernel: the unscheduled kernel.
        schedule: the function whose free choices are searched.
        weight: how often the kernel runs in one inference of all the networks together.
    """

    name: str
    kernel: PrimFunc
    schedule: ScheduleFunction
    weight: int


@dataclass(frozen=True)
class Budget:
    """When tuning ends, at the latest; with neither, when all spaces are covered.

    Attributes:
        trials: candidates measured now, over all kernels.
        seconds: wall time of the whole, building included.
    """

    trials: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """What tuning did for one kernel.

    Attributes:
        name, weight: the task's.
        before_ms: median time of the untuned schedule; None where it was not measured.
        after_ms: the best median time; None where nothing worked.
        measured: candidates measured now, failures included.
        failures: how many of them failed.
        known: candidates that the database had from before.
        exhausted: the whole space is measured.
    """

    name: str
    weight: int
    before_ms: float | None
    after_ms: float | None
    measured: int
    failures: int
    known: int
    exhausted: bool


@dataclass(frozen=True)
class TuningResult:
    """What tuning did.

    Attributes:
        board: name of the board.
        measured: `real`, or `emulated`: then the times prove the path and not the speed.
        tasks: one for each kernel, those that gained most first.
        records: records written now.
        failures: candidates among them that failed.
        seconds: how long it took.
        ended: `exhausted` (nothing is left to measure), `trials` or `seconds` (the budget).
        boards: how many candidates each board measured, by the user's name for it.
    """

    board: str
    measured: Measured
    tasks: tuple[TaskResult, ...]
    records: int
    failures: int
    seconds: float
    ended: str
    boards: dict[str, int]

    @property
    def speedup(self) -> float | None:
        """Untuned over tuned time of all kernels that have both, by weight; None without any."""
        both = [task for task in self.tasks if task.before_ms and task.after_ms]
        before = sum(task.weight * (task.before_ms or 0) for task in both)
        after = sum(task.weight * (task.after_ms or 0) for task in both)
        return before / after if after else None

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {**asdict(self), "speedup": self.speedup}

"""Boards that fail, lie and come back: whose measurements count, and who does the rest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgecompress import events
from edgecompress.compile.farm import SPAN, TRIES_IN_VAIN, Farm, Job
from edgecompress.compile.measure import Argument, Meter, Outcome, Timing
from edgecompress.errors import BoardError, InputError

JOBS = [Job(number, Path(f"{number}.so"), ()) for number in range(24)]


@dataclass
class Board:
    """A board that does as it is told: what `ill` returns for the time since it began, it says."""

    ill: Callable[[Board], str] = lambda _: ""
    seconds: float = 1.0
    measured: list[str] = field(default_factory=list)
    checks: int = 0
    closed: int = 0
    since_check: int = 0

    def measure(self, library: Path, arguments: Sequence[Argument]) -> Outcome:
        time.sleep(0.002)
        self.measured.append(library.stem)
        self.since_check += 1
        assert self.since_check <= SPAN
        return Outcome((self.seconds,))

    def check(self) -> None:
        self.checks += 1
        if cause := self.ill(self):
            raise BoardError(cause)
        self.since_check = 0

    def close(self) -> None:
        self.closed += 1
        self.since_check = 0


@dataclass
class Run:
    done: dict[int, list[float]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def measure(self, farm: Farm, jobs: Sequence[Job[int]] = JOBS) -> None:
        farm.measure(jobs, self._done, lambda: True)

    def hear(self, event: events.Event) -> None:
        self.said.append(event.text)

    def _done(self, number: int, outcome: Outcome) -> None:
        self.done.setdefault(number, []).append(outcome.seconds[0])

    @property
    def each_once(self) -> bool:
        return Counter(map(len, self.done.values())) == {1: len(JOBS)}


def farm(meters: dict[str, Board], patience_s: float = 5.0, pause_s: float = 0.01) -> Farm:
    return Farm(meters, patience_s=patience_s, pauses_s=(pause_s,))


def test_what_a_board_measured_before_it_answered_wrongly_is_measured_again() -> None:
    """It is right twice, and then never again; its times since then are lies."""

    def wrong_from_the_third_check_on(board: Board) -> str:
        board.seconds = 1.0 if board.checks < 2 else 666.0
        return "it computes wrongly" if board.checks > 2 else ""

    good, liar = Board(), Board(wrong_from_the_third_check_on)
    run = Run()
    with events.listening(run.hear), farm({"good": good, "liar": liar}, pause_s=100) as together:
        run.measure(together)
        assert together.boards == ("good",)
        assert together.measured == {"liar": SPAN, "good": len(JOBS) - SPAN}
    assert run.each_once
    assert {second for times in run.done.values() for second in times} == {1.0}
    assert run.said == ["'liar' is put aside, good goes on: it computes wrongly"]
    assert len(liar.measured) > SPAN and set(liar.measured[SPAN:]) <= set(good.measured)
    assert good.closed == 1 and liar.closed == 2


def test_a_board_that_is_fit_again_is_let_in() -> None:
    tired = Board(lambda board: "it throttles" if board.checks in (2, 3, 4) else "")
    run = Run()
    with events.listening(run.hear), farm({"good": Board(), "tired": tired}) as together:
        for start in range(0, len(JOBS), 8):  # as the tuner does, batch by batch
            run.measure(together, JOBS[start : start + 8])
            wait_until(lambda: len(together.boards) == 2)
        assert together.measured["tired"] > 0
    assert run.each_once
    assert run.said.count("'tired' is back") == 1
    assert run.said[0] == "'tired' is put aside, good goes on: it throttles"


def test_the_only_board_is_waited_for() -> None:
    rebooting = Board(lambda board: "no answer" if 3 <= board.checks <= 9 else "")
    run = Run()
    with events.listening(run.hear), farm({"only": rebooting}) as alone:
        run.measure(alone)
        assert alone.measured == {"only": len(JOBS)}
    assert run.each_once
    assert run.said == [
        "'only' is put aside: no answer", "no board is left: waiting 5 s for one", "'only' is back",
    ]  # fmt: skip


def test_without_a_board_it_ends_in_the_stated_time_and_keeps_what_counted() -> None:
    meters = {
        name: Board(lambda board: "gone for good" if board.checks > 2 else "") for name in "ab"
    }
    run = Run()
    start = time.monotonic()
    with farm(meters, patience_s=0.5) as together, pytest.raises(BoardError) as refused:
        run.measure(together)
    assert 0.5 <= time.monotonic() - start < 30
    assert "no board is left" in refused.value.message
    assert "gone for good" in refused.value.message
    assert "the same command" in refused.value.hint
    assert set(Counter(map(len, run.done.values()))) == {1}
    assert sum(together.measured.values()) == len(run.done) == 2 * SPAN


def test_a_board_that_was_never_fit_is_not_waited_for() -> None:
    run = Run()
    start = time.monotonic()
    with (
        farm({"a": Board(lambda _: "no such host")}, patience_s=60) as alone,
        pytest.raises(BoardError, match="no such host"),
    ):
        run.measure(alone)
    assert time.monotonic() - start < 30 and not run.done


def test_a_board_that_fails_over_and_over_is_left_out() -> None:
    """It is right whenever it is asked, and loses whatever is measured on it."""

    class Loser(Board):
        def measure(self, library: Path, arguments: Sequence[Argument]) -> Outcome:
            self.measured.append(library.stem)
            raise BoardError("lost again")

    loser, run = Loser(), Run()
    with (
        events.listening(run.hear),
        farm({"loser": loser}, patience_s=60) as alone,
        pytest.raises(BoardError, match="lost"),
    ):
        run.measure(alone)
    assert len(loser.measured) == TRIES_IN_VAIN
    assert run.said[-1] == "'loser' is left out: lost again"
    assert not run.done


class Broken(Meter):
    """Loses its server with some candidates, until it has been put aside."""

    def __init__(self, *lost: str) -> None:
        super().__init__(never, Timing(), Path("known"))
        self.lost: tuple[str, ...] = lost

    def _try(self, library: Path, arguments: Sequence[Argument]) -> Outcome:
        lost = library.stem in self.lost
        return Outcome((), "run: no answer", lost=True) if lost else Outcome((1.0,))

    def check(self) -> None:
        """It is right about what is known."""

    def close(self) -> None:
        self.lost, self._losses = (), 0


def never() -> Any:
    raise AssertionError("no server is needed")


# Behind a check; over the end of a batch; the last ones of a batch, all of the next.
@pytest.mark.parametrize("lost", [("2", "3", "4"), ("6", "7", "8"), ("7", "8", "9")])
def test_three_losses_in_a_row_are_the_boards_wherever_they_are(lost: tuple[str, ...]) -> None:
    told: dict[int, Outcome] = {}
    with events.listening(lambda _: None), farm({"pi": Broken(*lost)}) as alone:
        for start in (0, 8):
            alone.measure(JOBS[start : start + 8], told.__setitem__, lambda: True)
        assert alone.open == ()
    assert len(told) == 16 and all(outcome.seconds for outcome in told.values())


def test_fewer_are_the_candidates_once_another_one_was_measured() -> None:
    told: dict[int, Outcome] = {}
    with farm({"pi": Broken("2", "3", "7", "9", "15")}) as alone:
        alone.measure(JOBS[:8], told.__setitem__, lambda: True)
        assert [job.item for job in alone.open] == [7]
        assert {number for number, outcome in told.items() if outcome.lost} == {2, 3}
        alone.measure(JOBS[8:16], told.__setitem__, lambda: True)
        assert 7 in told and [job.item for job in alone.open] == [15]
        alone.let_go(told.__setitem__)
        assert alone.measured == {"pi": 16}
    assert {number for number, outcome in told.items() if outcome.lost} == {2, 3, 7, 9, 15}


def test_an_end_while_a_board_is_away_leaves_no_thread() -> None:
    before = threading.active_count()
    gone = Board(lambda _: "gone")
    with farm({"good": Board(), "gone": gone}, pause_s=100) as together:
        Run().measure(together)
    wait_until(lambda: threading.active_count() == before)
    assert gone.closed == 2


def test_an_error_of_the_callers_ends_it_on_all_boards() -> None:
    meters = {"a": Board(), "b": Board()}

    def full(_: int, __: Outcome) -> None:
        raise InputError("the disk is full")

    with farm(meters) as together, pytest.raises(InputError, match="full"):
        together.measure(JOBS, full, lambda: True)
    assert sum(len(board.measured) for board in meters.values()) <= 2 * SPAN


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)

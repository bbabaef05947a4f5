"""What becomes of a night's tuning when something breaks in the middle of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecompress.compile.records import read_records
from edgecompress.rpc.deadline import Deadline

pytestmark = [pytest.mark.board, pytest.mark.slow]

TRIALS = 40
LIMIT = 120.0


class Tuning:
    """A tuning that is under way, and the database that it writes."""

    def __init__(self, scene: Any, *boards: str, trials: int = TRIALS) -> None:
        self.trials = trials
        self.database = scene.out / "tuning.jsonl"
        self.command = scene.prepared.tune(boards or (scene.board,), scene.out, trials)

    @property
    def records(self) -> int:
        """How many there are now."""
        return self.database.read_bytes().count(b"\n") if self.database.exists() else 0

    def wait(self, count: int, within: float = 240.0) -> None:
        """Until there are so many records."""
        for _ in Deadline(within).attempts(0.05):
            if self.records >= count:
                return
            if self.command.process.poll() is not None:
                break
        status, said = self.command.end(10)
        pytest.fail(f"{self.records} records, not {count}; status {status}:\n{said[-3000:]}")

    def require_whole(self, within: float = 400.0, before: int = 0) -> str:
        """Fail unless it ends well with all its records, each once; what it said.

        Args:
            before: how many there were when it began; the budget is for what comes to them.
        """
        status, said = self.command.end(within)
        assert status == 0, said
        found = read_records(self.database)
        distinct = {(record.workload, record.candidate) for record in found}
        assert len(found) == len(distinct) == before + self.trials, said
        return said


def of_command(tuning: Tuning, module: str) -> list[psutil.Process]:
    """The processes of a command that run one of our modules."""
    family = psutil.Process(tuning.command.process.pid).children(recursive=True)
    return [one for one in family if any(module in word for word in one.cmdline())]


def kill_server(scene: Any, tuning: Tuning) -> None:
    """The RPC server on the board, with what it has started."""
    servers = [
        one
        for one in scene.shelf.processes(scene.board)
        if any("_listen_loop" in word for word in one.cmdline())
    ]
    assert servers
    for one in servers:
        one.kill()


def kill_connections(scene: Any, tuning: Tuning) -> None:
    """The sshd processes that serve us."""
    scene.shelf.kill_connections(scene.board)


def kill_tracker(scene: Any, tuning: Tuning) -> None:
    """The tracker on this machine."""
    (tracker,) = of_command(tuning, "tracker_process")
    tracker.kill()


def kill_tunnel(scene: Any, tuning: Tuning) -> None:
    """The process that forwards bytes to the board."""
    (tunnel,) = of_command(tuning, "tunnel_process")
    tunnel.kill()


def kill_board(scene: Any, tuning: Tuning) -> None:
    """Its power, for three seconds."""
    scene.shelf.kill(scene.board)
    time.sleep(3)
    scene.shelf.start(scene.board)


@pytest.mark.parametrize(
    ("fault", "strike"),
    [
        ("tuning: RPC server, kill -9", kill_server),
        ("tuning: sshd of the connection, kill -9", kill_connections),
        ("tuning: tracker, kill -9", kill_tracker),
        ("tuning: tunnel, kill -9", kill_tunnel),
        ("tuning: board, power lost for 3 s", kill_board),
    ],
    ids=["server", "sshd", "tracker", "tunnel", "board"],
)
def test_something_is_killed(scene: Any, fault: str, strike: Callable[[Any, Tuning], None]) -> None:
    """With one board: it goes on by itself."""
    tuning = Tuning(scene)
    tuning.wait(6)
    strike(scene, tuning)
    struck, before = time.monotonic(), tuning.records
    # One measurement may have been on its way.
    tuning.wait(before + 2)
    seconds = time.monotonic() - struck
    tuning.require_whole()
    assert scene.shelf.is_idle(scene.board, within=10)
    scene.row(fault, "goes on by itself, no record lost or twice", seconds, LIMIT)


def test_the_host_process_is_killed_while_tuning(scene: Any) -> None:
    """The board is left clean, and the same command does the rest."""
    first = Tuning(scene)
    first.wait(10)
    os.kill(first.command.process.pid, 9)
    first.command.process.communicate()
    struck = time.monotonic()
    assert scene.shelf.is_idle(scene.board, within=15)
    seconds = time.monotonic() - struck
    Tuning(scene).require_whole(before=first.records)
    scene.row("tuning: host process, kill -9", "the same command does the rest", seconds, 15)


def test_the_link_is_cut_for_half_a_minute(scene: Any, link: Any) -> None:
    """Nobody need be told."""
    tuning = Tuning(scene)
    tuning.wait(6)
    link.order("cut")
    time.sleep(30)
    link.order("pass")
    restored, before = time.monotonic(), tuning.records
    tuning.wait(before + 2)
    seconds = time.monotonic() - restored
    tuning.require_whole()
    scene.row("tuning: link cut for 30 s", "goes on by itself", seconds, LIMIT)


def test_the_link_is_cut_for_good(scene: Any, link: Any) -> None:
    """With one board there is nobody to go on; what was measured is there."""
    tuning = Tuning(scene)
    tuning.wait(6)
    link.order("cut")
    struck, before = time.monotonic(), tuning.records
    status, said = tuning.command.end(300)
    seconds = time.monotonic() - struck
    assert status == 4, said
    assert "try:" in said
    assert tuning.records >= before
    assert scene.shelf.is_idle(scene.board, within=150), "the missing heartbeat ends what ran there"
    link.order("pass")
    Tuning(scene).require_whole(before=tuning.records)
    scene.row(
        "tuning: link cut for good", "ends and says so; given again, it resumes", seconds, 300
    )


def test_three_boards_each_killed_twice(scene: Any, link_to: Any, tmp_path: Path) -> None:
    """As many records as without, and sooner than on one board that nobody disturbs.

    The boards are 100 ms away: what a board measures then waits for the link, not for this
    machine's few cores, which emulate all three of them.
    """
    names = ("faults-a", "faults-b", "faults-c")
    for name in names:
        scene.shelf.start(name)
        link_to(name).order("delay 0.1")
    trials = 60
    alone = Tuning(scene, names[0], trials=trials)
    alone.require_whole(590)
    on_one = time.monotonic() - alone.command.began
    shutil.rmtree(scene.out)
    scene.prepared.copy(scene.out)
    together = Tuning(scene, *names, trials=trials)
    for turn, name in enumerate(names * 2):
        together.wait(4 + 8 * turn)
        scene.shelf.kill(name)
        time.sleep(2)
        scene.shelf.start(name)
    said = together.require_whole(590)
    on_three = time.monotonic() - together.command.began
    assert "put aside" in said
    assert on_three < on_one
    outcome = f"all {trials} records, once, in {on_three / on_one:.2f} of the time of one board"
    scene.row("tuning: three boards, each killed twice", outcome, on_three, round(on_one))
